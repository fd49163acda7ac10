"""Shell completion, made from the parser itself, so that it can't be behind it."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The text that a shell is to read (`eval "$(proxyctl completion bash)"`)."""
    commands = _commands(parser)
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands, _options(parser))


def _commands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, list[str]]]:
    """Each command's help and what may follow it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {name: (helps.get(name, ""), _words(sub)) for name, sub in action.choices.items()}
    return {}


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]


def _words(parser: argparse.ArgumentParser) -> list[str]:
    words = _options(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                words += [name, *_words(sub)]
        elif not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
    return list(dict.fromkeys(words))


def _bash(commands: dict[str, tuple[str, list[str]]], top: list[str]) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(words)}" ;;' for name, (_, words) in commands.items())
    return f"""_proxyctl() {{
  local word command="" words="{' '.join([*commands, *top])}"
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in {'|'.join(commands)}) command="$word"; break ;; esac
  done
  case "$command" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _proxyctl proxyctl"""


def _zsh(commands: dict[str, tuple[str, list[str]]], top: list[str]) -> str:
    described = "\n".join(f"    '{name}:{_quoted(help)}'" for name, (help, _) in commands.items())
    cases = "\n".join(f"    {name}) compadd -- {' '.join(words)} ;;" for name, (_, words) in commands.items())
    return f"""#compdef proxyctl
_proxyctl() {{
  local -a commands=(
{described}
  )
  local word command=""
  for word in "${{words[@]:1:$((CURRENT-2))}}"; do
    (( ${{commands[(I)$word:*]}} )) && command="$word" && break
  done
  case "$command" in
    "") _describe command commands; compadd -- {' '.join(top)} ;;
{cases}
  esac
}}
compdef _proxyctl proxyctl"""


def _fish(commands: dict[str, tuple[str, list[str]]], top: list[str]) -> str:
    lines = ["complete -c proxyctl -f"]
    for name, (help, words) in commands.items():
        lines.append(f"complete -c proxyctl -n __fish_use_subcommand -a {name} -d '{_quoted(help)}'")
        for word in words:
            given = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c proxyctl -n '__fish_seen_subcommand_from {name}' {given}")
    lines += [f"complete -c proxyctl -l {word[2:]}" for word in top]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return text.replace("'", "").replace(":", "")
