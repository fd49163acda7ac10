"""The worker class and gunicorn's, which it is made from."""

from __future__ import annotations

from gunicorn.workers.ggevent import GeventWorker

from proxyd.server.worker import ProxydWorker


def test_every_method_that_the_worker_overrides_is_one_of_gunicorns() -> None:
    own = {name for name, value in vars(ProxydWorker).items() if callable(value) and not name.startswith("_")}
    assert own == {"init_process", "init_signals", "patch", "run", "handle", "handle_quit", "handle_usr1"}
    assert [name for name in sorted(own) if not callable(getattr(GeventWorker, name, None))] == []
