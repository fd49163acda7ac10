"""What a service goes through with proxyd.client, told line by line to whoever started it: `reached STEP`, then it waits for a
line. Run by test_client.py with plain threads and under gevent's monkey patching, by the same words."""

from __future__ import annotations

import sys
import time


def main(address: str, backend: str) -> None:
    """All of it. The other side cuts the cable, kills the master, and looks at the traffic."""
    from proxyd.client import Client, ClientError, Event

    def reached(step: str) -> None:
        print("reached", step, flush=True)
        sys.stdin.readline()

    told: list[str] = []

    def note(event: Event) -> None:
        told.append(event.type)
        if event.type == "maintenance_changed":
            # A callback may ask, too.
            told.append(f"asked:{client.maint_status()['in_maintenance'] != []}")

    with Client(address, service="story", instance="s1", timeout=40, ping_interval=1.0).connect(wait=10) as client:
        for kind in ("reconnected", "reregistered", "maintenance_changed"):
            client.subscribe(kind, note)
        route = client.route_add("story.test", "/", backend)
        client.headers_set("ALL", "X-Story", "told")
        client.options_set(route, "timeout", "7s")
        client.apply()
        client.options_set(route, "timeout", "9s")
        reached("applied")

        client.ping()
        while not told:
            # Callbacks run beside the commands.
            time.sleep(0.01)
        print("told", told, "route", client.current_route_id(route) == route, client.diff()["options"], flush=True)
        reached("survived the master")

        # Asked while the connection is down: it waits for the next one.
        timeout = client.route_status(route)["upstream_timeout_seconds"]
        print("status", timeout, "moved", client.current_route_id(route) != route, flush=True)
        while "reregistered" not in told:
            time.sleep(0.01)
        print("told", told, client.diff()["options"], flush=True)
        client.apply()
        print("applied", client.route_status(route)["upstream_timeout_seconds"], flush=True)
        client.maint_enter("ALL")
        client.maint_exit("ALL")
        while told.count("maintenance_changed") < 2 or not told[-1].startswith("asked"):
            time.sleep(0.01)
        print("maintenance", told[-4:], flush=True)
        try:
            client.route_add("story.test", "no-path", backend)
        except ClientError as error:
            print("refused", error, flush=True)
        reached("replayed")
    print("left", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "gevent":
        from gevent import monkey

        monkey.patch_all()
    main(*sys.argv[2:])
