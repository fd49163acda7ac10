"""The gates that a matched request passes before a member of its pool is chosen. Each has its own file. GATES is their order.

A gate takes the worker's parts, the exchange and its pool. It returns a Refusal, ANSWERED if it has
answered itself, or None to let the request pass. To add a gate,
write it in a file of its own and put it into GATES. May import: proxy.core, proxy.upstream. Begin with `bodysize`, the smallest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxyd.proxy.core.exchange import Exchange
from proxyd.proxy.core.refusal import Refusal
from proxyd.proxy.core.upstreams import Pool
from proxyd.proxy.gates.addresses import HasLists, addresses
from proxyd.proxy.gates.basicauth import HasLogins, basic_auth
from proxyd.proxy.gates.bodysize import HasSettings, body_size
from proxyd.proxy.gates.clientcertificate import client_certificate
from proxyd.proxy.gates.cors import cors, preflight
from proxyd.proxy.gates.forwardauth import HasAuth, forward_auth
from proxyd.proxy.gates.maintenance import HasMaintenance, maintenance
from proxyd.proxy.gates.ownanswer import own_answer
from proxyd.proxy.gates.plugins import plugged
from proxyd.proxy.gates.ratelimit import HasLimiter, rate_limit, user_limit


class GateParts(HasLists, HasSettings, HasMaintenance, HasLimiter, HasLogins, HasAuth, Protocol):
    """What the gates need of a worker."""


Gate = Callable[[GateParts, Exchange, Pool], Refusal | None]

#: They are asked in this order until one refuses. A request refused before the rate limit does not count against it.
GATES: tuple[Gate, ...] = (cors, addresses, preflight, client_certificate, body_size, maintenance, rate_limit, basic_auth, forward_auth,
                            user_limit, plugged, own_answer)
#: Those that only routes with certain options have. They are asked for pools that are `guarded`.
_ASKED_FOR: frozenset[Gate] = frozenset((cors, addresses, preflight, client_certificate, basic_auth, forward_auth, user_limit, plugged,
                                           own_answer))
#: The gates of all other pools, so that a route without such options pays for none of them.
COMMON: tuple[Gate, ...] = tuple(gate for gate in GATES if gate not in _ASKED_FOR)
#: Those of a pool that is neither `maintained` nor `limited`.
PLAIN: tuple[Gate, ...] = tuple(gate for gate in COMMON if gate not in (maintenance, rate_limit))
