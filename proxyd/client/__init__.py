"""The client library: what a Python service uses to register its routes and keep them registered.

    from proxyd.client import Client

    with Client("127.0.0.1:8181", service="shop", instance="shop-1") as client:
        route = client.route_add(["shop.example.com"], "/", "http://127.0.0.1:5000")
        client.health_set(route, "/healthz")
        client.apply()
        serve_until_stopped()

Leaving the block takes the routes out. A lost connection comes back by itself; a registry that has forgotten
the session gets the applied configuration again. Works with plain threads and under gevent's monkey patching.

May import: base, so that a service needs nothing else. Begin with `api`; `link` is the connection, and `memory` what is sent again.
"""

from proxyd.client.api import Client
from proxyd.client.errors import ClientError, ConnectionLost
from proxyd.client.events import Event

__all__ = ["Client", "ClientError", "ConnectionLost", "Event"]
