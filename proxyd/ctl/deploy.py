"""`proxyctl deploy`: replace a running service by any command (systemctl, docker, ...) while its requests wait, or go to its replicas."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from typing import Any

from proxyd.ctl.adminhttp import Admin, CannotConnect, Refused, segment
from proxyd.ctl.screen import Screen, printable
from proxyd.ctl.show import OK

#: Seconds between two looks. Workers write their counts twice a second, so that 0 must have stood for longer to be believed.
_LOOK, _NONE_FOR = 0.2, 1.2
#: Seconds that a hold outlasts the waits for its service: it is released before, but the command may have been killed.
_MARGIN = 10.0
_TEST_TIMEOUT = 35.0
#: Beginnings of backends that somebody must serve.
_SERVED = ("http://", "https://", "ws://", "wss://", "h2c://", "unix:")


class Deploy:
    """One deploy of a service, or of one of its instances. Raises Refused and CannotConnect."""

    def __init__(self, admin: Admin, screen: Screen, options: argparse.Namespace) -> None:
        self._admin = admin
        self._screen = screen
        self._options = options
        self._service, _, self._instance = options.service.partition("/")
        self._steps: list[str] = []
        self._drained = ""

    def run(self) -> int:
        """Take the traffic away, run the command, wait for the service, and give the traffic back. The command's exit code if it failed."""
        routes = self._routes()
        if not routes:
            raise Refused(f'no route of a service "{self._options.service}"; proxyctl routes lists them')
        try:
            self._take_away(routes)
            self._await_idle()
            code = self._command()
            missing = "" if code else self._await_ready()
        finally:
            self._give_back()
        if code:
            self._say(f"{self._options.command[0]} failed with exit code {code}; the traffic flows as before")
        elif missing:
            raise Refused(f"{missing} after {self._options.start_timeout:g}s; the traffic flows again all the same")
        else:
            self._say("done, the traffic flows")
        if self._screen.as_json:
            self._screen.json({"service": self._options.service, "code": code, "steps": self._steps})
        return code

    def _routes(self) -> list[dict[str, Any]]:
        return [one for one in self._admin.all("routes")
                if one.get("service") == self._service and self._instance in ("", one.get("instance"))]

    def _has_replicas(self, routes: list[dict[str, Any]]) -> bool:
        """Whether another instance takes the requests of each of the routes."""
        if not self._instance:
            return False
        others = {(domain, one["path"]) for one in self._admin.all("routes") if one.get("service") == self._service
                  and one.get("instance") != self._instance and one["enabled"] and not one["drain"]["active"]
                  and not one["maintenance"]["active"] and not one["hold"]["active"] for domain in one["domains"]}
        return all((domain, one["path"]) in others for one in routes for domain in one["domains"])

    def _take_away(self, routes: list[dict[str, Any]]) -> None:
        if self._has_replicas(routes):
            self._drained = str(routes[0]["session_id"])
            self._admin.act("POST", f"sessions/{segment(self._drained)}/drain", {"seconds": self._options.drain})
            self._say(f"the other instances take its requests, within {self._options.drain:g}s")
            time.sleep(self._options.drain)
            return
        longest = self._options.stop_timeout + self._options.command_timeout + self._options.start_timeout + _MARGIN
        for one in routes:
            self._admin.act("POST", f"routes/{segment(one['route_id'])}/hold", {"seconds": longest})
        self._say(f"the requests of {len(routes)} route{'s'[:len(routes) != 1]} wait")

    def _await_idle(self) -> None:
        """Wait until no request has been under way for a moment, or for as long as a stop may take."""
        deadline, since = time.monotonic() + self._options.stop_timeout, None
        while (now := time.monotonic()) < deadline:
            busy = sum(one["stats"]["in_flight"] for one in self._routes())
            since = None if busy else since or now
            if since is not None and now - since >= _NONE_FOR:
                return
            time.sleep(_LOOK)
        self._say(f"requests are still under way after {self._options.stop_timeout:g}s")

    def _command(self) -> int:
        command = self._options.command
        self._say(f"running {' '.join(command)}")
        try:
            # Standard output is the JSON's, where that is asked for.
            done = subprocess.run(command, check=False, timeout=self._options.command_timeout,
                                  stdout=sys.stderr if self._screen.as_json else None)
        except OSError as error:
            raise Refused(f"can't run {command[0]}: {error.strerror}; nothing has changed") from None
        except subprocess.TimeoutExpired:
            raise Refused(f"{command[0]} has not ended after {self._options.command_timeout:g}s, and was killed") from None
        return 128 - done.returncode if done.returncode < 0 else done.returncode

    def _await_ready(self) -> str:
        """Wait until the service has routes, and each one's backend answers. Returns what is missing when the time is over."""
        deadline, missing = time.monotonic() + self._options.start_timeout, ""
        while True:
            try:
                missing = self._missing(self._routes())
            except CannotConnect as error:
                missing = str(error)
            if not missing or time.monotonic() >= deadline:
                return missing
            time.sleep(_LOOK)

    def _missing(self, routes: list[dict[str, Any]]) -> str:
        if not routes:
            return f"{self._options.service} has not registered"
        served = {(domain, one["path"]) for one in routes if one["enabled"] for domain in one["domains"]}
        for one in routes:
            if not one["enabled"] and all((domain, one["path"]) in served for domain in one["domains"]):
                # Left behind by an instance whose place another one has taken: a new container has another host name.
                continue
            if not one["enabled"]:
                return f"{self._options.service} has not registered again"
            if (one["health"] or {}).get("status") == "down":
                return f"the health check finds {one['backend']} down"
            if not one["backend"].startswith(_SERVED):
                continue
            if unwell := self._unwell(one["backend"], one["options"]):
                return unwell
        return ""

    def _unwell(self, backend: str, options: dict[str, Any]) -> str:
        """What is wrong with a backend, "" if it answers (at the path of its health check, if it has one)."""
        path = options.get("health_check_path") or ""
        url = backend.rstrip("/") + path if path.startswith("/") else backend
        with contextlib.suppress(Refused):  # what can't be tried from there is as good as it looks
            found = self._admin.act("POST", "test", {"url": url}, timeout=_TEST_TIMEOUT)
            if not found["reachable"] and options.get("http2") and url.startswith("http://"):
                # A server of gRPC, say, speaks HTTP/2 alone, and gives no answer to HTTP/1.1.
                found = self._admin.act("POST", "test", {"url": "h2c" + url.removeprefix("http")}, timeout=_TEST_TIMEOUT)
            if not found["reachable"]:
                return f"{url} does not answer ({found.get('error', 'unknown')})"
            if path.startswith("/") and found.get("status_code", 200) >= 400:
                return f"{url} answers {found['status_code']}"
        return ""

    def _give_back(self) -> None:
        with contextlib.suppress(Refused):
            if self._drained:
                # The session of a service that has registered anew is another one, which does not drain.
                self._admin.act("DELETE", f"sessions/{segment(self._drained)}/drain")
                return
        for one in self._routes():
            if one["hold"]["active"]:
                with contextlib.suppress(Refused):
                    self._admin.act("DELETE", f"routes/{segment(one['route_id'])}/hold")

    def _say(self, message: str) -> None:
        self._steps.append(message)
        if not self._screen.as_json:
            self._screen.line(f"{printable(self._options.service)}: {printable(message)}")


def deploy(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Deploy. OK, or the exit code of the command that failed."""
    code = Deploy(admin, screen, options).run()
    return code or OK
