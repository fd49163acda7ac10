"""Most stories once: the beginning of what `scripts/deploys --times 50` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploys.__main__ import running, tell_all
from tests.deploys.programs import missing
from tests.deploys.stories import STORIES


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(missing() != "", reason=f"this machine lacks {missing()}")
def test_flask_node_and_a_grpc_server_are_deployed_in_every_way_and_no_request_fails(tmp_path: Path) -> None:
    with running(tmp_path) as services:
        for name, kind, requests, _, failures, _ in tell_all(services, [name for name in STORIES if name != "kill_all"]):
            assert requests and not failures, (name, kind, failures)
