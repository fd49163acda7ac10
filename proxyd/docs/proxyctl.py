"""docs/proxyctl.md: every command of proxyctl with its options, from the argument parser, and an example of each."""

from __future__ import annotations

import argparse
from functools import partial

from proxyd.ctl.parser import EPILOG, grammar
from proxyd.docs.markdown import fenced, generated

_HEAD = """# proxyctl

`proxyctl` shows and steers a running proxyd. It asks the admin HTTP (`run` and `send` ask the registry), so it works on another host
too: name both with `--admin` and `--registry`. Looking needs no token, or that of viewers where
`[admin] viewer_token_file` is set; what changes something needs the admin token.
"""
_WIDTH = 120

#: One line to type for each command, and for each action of `maint`.
EXAMPLES = {
    "status": "proxyctl status && echo all is well",
    "routes": "proxyctl routes shop.example.com",
    "route": "proxyctl route r12",
    "health": "proxyctl health",
    "circuits": "proxyctl circuits --json | jq '.[] | select(.state == \"open\")'",
    "hosts": "proxyctl hosts",
    "host": "proxyctl host drain web1",
    "host drain": "proxyctl host drain web1 --timeout 2m",
    "host undrain": "proxyctl host undrain web1",
    "certs": "proxyctl certs && echo all is well",
    "certs list": "proxyctl certs list --json",
    "certs renew": "proxyctl certs renew app.example.com",
    "certs revoke": "proxyctl certs revoke app.example.com --reason keyCompromise",
    "certs import": "proxyctl certs import /etc/ssl/app.example.com.pem",
    "certs remove": "proxyctl certs remove app.example.com",
    "ca": "proxyctl ca",
    "sessions": "proxyctl sessions",
    "stats": "proxyctl stats r12",
    "errors": "proxyctl errors shop --since 1d",
    "drain": "proxyctl drain shop/shop-1 --over 30s",
    "hold": "proxyctl hold shop --for 30s",
    "deploy": "proxyctl deploy shop -- systemctl restart shop\nproxyctl deploy shop/green -- docker compose up -d green",
    "rollout": "proxyctl rollout shop --to v2 --steps 5,25,50,100 --every 2m",
    "maint": "proxyctl maint status",
    "maint enter": "proxyctl maint enter shop.example.com --page https://status.example.com/",
    "maint exit": "proxyctl maint exit ALL",
    "maint status": "proxyctl maint status",
    "alerts": "proxyctl alerts --test",
    "export": "proxyctl export --output proxyd.json",
    "import": "proxyctl import proxyd.json --dry-run",
    "doctor": "proxyctl doctor && echo sound",
    "tail": "proxyctl tail shop.example.com --failed",
    "add": "proxyctl add shop.example.com http://127.0.0.1:3000 --option health_check_path=/health",
    "remove": "proxyctl remove shop.example.com",
    "reset": "proxyctl reset r12",
    "test": "proxyctl test http://10.0.0.5:8080/health",
    "send": "proxyctl send PING",
    "passwd": "proxyctl passwd /etc/proxyd/staff.users ann",
    "sql": "proxyctl sql 'SELECT what, why, since FROM v_unwell'",
    "why": "proxyctl why https://shop.example.com/cart --client 203.0.113.7",
    "events": "proxyctl events --type circuit_state_changed --last 50",
    "top": "proxyctl top --every 1s",
    "run": "proxyctl run --domain shop.example.com --port 5000 --health /health -- python shop.py",
    "completion": 'eval "$(proxyctl completion bash)"',
}


def text() -> str:
    """The document."""
    whole, commands = grammar(common=False)
    codes, _, colours = EPILOG.partition("exit codes:\n")[2].partition("\n\n")
    parts = [generated("the argument parser (proxyd/ctl/parser.py)"), _HEAD,
             "\nThe options below, except `-h` and `--version`, may stand before the command or after it:\n\n",
             fenced(_help(whole), "text"), "\nExit codes:\n\n", fenced(codes, "text"), f"\n{colours[0].upper()}{colours[1:]}\n"]
    # An action like `maint enter` follows its command.
    order = list(commands)
    parts += (f"\n##{'#' * name.count(' ')} {name}\n\n{fenced(EXAMPLES[name], 'sh')}\n{fenced(_help(commands[name]), 'text')}"
              for name in sorted(commands, key=lambda name: order.index(name.split()[0])))
    return "".join(parts)


def _help(parser: argparse.ArgumentParser) -> str:
    """The help as a wide terminal shows it, whatever terminal this runs on."""
    parser.epilog = None
    parser.formatter_class = partial(argparse.HelpFormatter, width=_WIDTH)
    return parser.format_help()
