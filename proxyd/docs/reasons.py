"""docs/reasons.md: the reason codes, from their table."""

from __future__ import annotations

from collections.abc import Sequence

from proxyd.base.reasons import GROUPS, Reason
from proxyd.docs.markdown import code, generated, table

_HEAD = """# Reasons

Where the proxy refuses a request, or fails to serve it, it says why in one code. The code is in the answer's `X-Proxyd-Reason`
field and its body (problem+json, or a small page for browsers), as `reason=` in the access log, and as a label of the metric
`proxyd_refusals_total`. An answer that comes from a backend has no such code, whatever its status.

```sh
curl -si -H 'Host: nowhere.test' http://127.0.0.1:8000/ | grep -i '^x-proxyd-reason'   # unknown_host
sqlite3 -readonly var/proxyd.db "SELECT reason, requests FROM refusals ORDER BY requests DESC"
```

The status is the one that answers a client's request. Where a backend's answer breaks a rule of HTTP, the client gets 502 with the
code of that rule. Where part of an answer has gone out already, there can be no other status: the client's connection is cut, so
that it cannot take the part for the whole, and the code is in the log. In the log, 499 means that the client left, 444 that the
proxy closed the connection without an answer, and 101 that a WebSocket ended.
"""


def text(groups: Sequence[tuple[str, Sequence[Reason]]] = GROUPS) -> str:
    """The document."""
    parts = [generated("the table of reasons (proxyd/base/reasons.py)"), _HEAD]
    for title, reasons in groups:
        parts.append(f"\n## {title}\n\n")
        parts.append(table(("Code", "Status", "What happened, and what to do"),
                           ((code(reason.code), str(reason.status), reason.sentence) for reason in reasons)))
    return "".join(parts)
