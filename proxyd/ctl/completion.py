"""Shell completion by argcomplete: the shell asks proxyctl itself, so completion never lags behind the parser.

argcomplete is imported only when a shell asks (it sets _ARGCOMPLETE) or when a user wants the script: no other call pays for it.
"""

from __future__ import annotations

import argparse
import os

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """The text that a shell reads (`eval "$(proxyctl completion bash)"`)."""
    from argcomplete.shell_integration import shellcode

    return shellcode(["proxyctl"], shell=shell)


def answer(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how to go on, and exit; return at once in every other call."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        # Long options alone, as the help shows them, and only once a dash was typed: before that, commands are what one looks for.
        argcomplete.autocomplete(parser, always_complete_options=False)
