"""The least rates hold for each stream of an HTTP/2 connection, and leave the others alone."""

from __future__ import annotations

import time
from collections.abc import Callable

from hyperframe.frame import SettingsFrame, WindowUpdateFrame

from tests.support.backends import Backend
from tests.support.frames import FrameClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for


def test_a_stream_that_moves_too_little_ends_alone(new_system: Callable[..., System], backend: Backend) -> None:
    system = new_system(workers=1, proxy__http2_cleartext="yes", proxy__min_request_rate="10k", proxy__min_response_rate="10k",
                        proxy__min_rate_window="2s")
    system.client().route("app.test", backend.url)
    with FrameClient(system.proxy_port, None, "app.test", {SettingsFrame.INITIAL_WINDOW_SIZE: 2000}, credit=False) as client:
        began = time.monotonic()
        silent = client.ask("/", "POST", end=False)
        writes = client.ask("/?writes", "POST", [("content-length", "100000")], end=False)
        reads, quick = client.ask("/bytes/100000?reads"), client.ask("/bytes/1000000?quick")

        def over(stream: int) -> bool:
            return stream in client.got and client.got[stream].over

        while not all(map(over, (silent, writes, reads))):
            assert time.monotonic() - began < patience(8), client.got
            try:
                client.frame(0.05)
            except TimeoutError:
                if not over(reads):
                    client.send(WindowUpdateFrame(reads, window_increment=50))
                if writes not in client.got:
                    client.data(writes, b"x" * 50)
                if not over(quick):
                    client.send(WindowUpdateFrame(quick, window_increment=8000), WindowUpdateFrame(0, window_increment=8000))
        assert [(client.got[stream].status, client.got[stream].header("x-proxyd-reason")) for stream in (silent, writes)] == [
            (408, "request_too_slow")] * 2
        assert client.got[reads].reset == 8
        assert client.got[quick].reset < 0, "it is quick enough"
        client.send(WindowUpdateFrame(quick, window_increment=1_000_000), WindowUpdateFrame(0, window_increment=1_000_000))
        assert len(client.answer(quick).body) == 1_000_000
    wait_for(lambda: "reason=reading_too_slow" in system.access_log())
