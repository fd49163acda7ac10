from __future__ import annotations

from typing import Any

from proxyd.config.sections import AdminSettings
from proxyd.config.settings import Settings
from proxyd.net.exposure import exposed


def test_beyond_loopback_the_admin_http_needs_a_viewer_token_or_the_word_that_it_is_protected() -> None:
    def told(**more: Any) -> list[str]:
        settings = Settings(admin=AdminSettings(bind="0.0.0.0:8282", **more))
        return [reason for section, reason in exposed(settings) if section == "admin"]

    assert "set viewer_token_file" in told()[0] and told(token_file="/x") != []
    assert told(viewer_token_file="/x") == told(allow_unprotected=True) == told(enabled=False) == []
