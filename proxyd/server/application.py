"""The WSGI application, and the runtime of a worker process: `gunicorn -c gunicorn.conf.py proxyd.wsgi:app`.

Our worker class makes exchanges itself, and takes the runtime alone. Any other WSGI server calls `app` with an environ, from which
`WsgiClient` makes an exchange.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from proxyd.http1 import ProtocolError
from proxyd.proxy.client.wsgi import WsgiClient
from proxyd.proxy.core.exchange import Exchange
from proxyd.proxy.handler import handle

if TYPE_CHECKING:
    from proxyd.proxy.runtime import Runtime

_runtime: Runtime | None = None


def runtime() -> Runtime:
    """The runtime of this worker process. The first call makes and starts it. Raises SettingsError, StoreError."""
    global _runtime
    if _runtime is None:
        from proxyd.config.settings import load
        from proxyd.proxy.runtime import Runtime
        from proxyd.server.gunicorn_conf import settings_of_arbiter

        _runtime = Runtime(settings_of_arbiter() or load())
        _runtime.start()
    return _runtime


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Proxy one request (PEP 3333)."""
    current = runtime()
    client = WsgiClient(environ, start_response, current)
    try:
        head = client.read_head()
        unread = None
    except ProtocolError as error:
        # For a request that can't be read, the client has an empty head.
        head, unread = client.head, error
    client.exchange = exchange = Exchange(client, head, time.monotonic(), unread)
    handle(current, exchange)
    return client.result()
