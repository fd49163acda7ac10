from __future__ import annotations

from pathlib import Path

from proxyd.config.sections import AdminSettings
from proxyd.config.settings import Settings
from proxyd.ctl.main import _admin_token
from proxyd.ctl.parser import build


def test_who_may_only_look_uses_the_viewer_token_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "viewer").write_text("the token of viewers\n")
    known = Settings(admin=AdminSettings(token_file=str(tmp_path / "none"), viewer_token_file=str(tmp_path / "viewer")))
    options = build().parse_args(["routes"])
    assert _admin_token(options, known) == "the token of viewers"
    (tmp_path / "none").write_text("that of operators\n")
    assert _admin_token(options, known) == "that of operators"
    options.admin = "192.0.2.1:8282"
    assert _admin_token(options, known) == "", "it is sent to nobody else"
