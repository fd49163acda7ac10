"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
import websocket

from tests.support.waiting import patience

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class NavigatedError(Exception):
    """The page that was asked has given way to another one."""


class Browser:
    """One page of a fresh browser; `problems` collects errors of its console and violations of its policy. `options`: more of the
    command line's."""

    def __init__(self, width: int = 1280, height: int = 900, dark: bool = False, options: Sequence[str] = ()) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={self._profile.name}", *options, "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = self._port()
        target = next(item for item in requests.get(f"http://127.0.0.1:{port}/json", timeout=5).json() if item["type"] == "page")
        self._socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=20)
        self._number = 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self._scripts: list[str] = []
        self.show_as(width, height, dark)

    def show_as(self, width: int, height: int = 900, dark: bool = False) -> None:
        """A window of that size; below 600 pixels it is a phone."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def forget(self) -> None:
        """Be as a fresh browser is: no cookies, no scripts of tests, no problems seen, a usual window, and no page that asks a server that
        has ended."""
        self.open("about:blank")
        self.until("document.URL === 'about:blank'")
        self.call("Network.clearBrowserCookies")
        for script in self._scripts:
            self.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
        self._scripts.clear()
        self.problems.clear()
        self.show_as(1280)

    def _port(self) -> int:
        chosen = Path(self._profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + patience(20)
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, IndexError, ValueError):
                return int(chosen.read_text().splitlines()[0])
            time.sleep(0.02)
        raise TimeoutError("chromium did not start")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv())
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.problems.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.problems.append(str(message["params"]["exceptionDetails"]))
            if message.get("id") == self._number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise NavigatedError
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)["result"].get("value")

    def until(self, expression: str, seconds: float = 10) -> None:
        deadline = time.monotonic() + patience(seconds)
        while not self._holds(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def _holds(self, expression: str) -> Any:
        """Whether it is true; not yet, where the page goes while it is asked."""
        try:
            return self.evaluate(expression)
        except NavigatedError:
            return False

    def before_each_page(self, script: str) -> None:
        """Run a script in every page before its own."""
        self._scripts.append(self.call("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"])

    def press(self, key: str, code: int = 0, times: int = 1) -> None:
        """Press a key that is no letter."""
        text = {"Enter": "\r"}.get(key, "")
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def enter(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def tab_to(self, expression: str, most: int = 60) -> None:
        """Press Tab until what has the focus fits: `here` in the expression."""
        for _ in range(most):
            self.press("Tab", 9)
            if self.evaluate(f"((here) => {expression})(document.activeElement)"):
                return
        raise AssertionError(f"no Tab leads to {expression}")

    def screenshot(self, path: str) -> None:
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        self._socket.close()
        self._process.terminate()
        self._process.wait(10)
        self._profile.cleanup()
