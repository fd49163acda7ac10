"""The recipe of the image, the compose file and the Debian package say what proxyd understands."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proxyd.config.settings import load

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "conf" / "container"
RECIPE = (HERE / "Containerfile").read_text(encoding="utf-8")


def environment() -> dict[str, str]:
    """What the image sets of proxyd's settings."""
    return dict(re.findall(r"\b(PROXYD_[A-Z_]+)=(\S+)", RECIPE))


def test_the_settings_of_the_image_are_settings() -> None:
    settings = load(None, environment())
    assert len(environment()) == 7 and settings.database.url == "sqlite:////var/lib/proxyd/proxyd.db"
    assert settings.proxy.bind == "0.0.0.0:8000" and settings.admin.bind.startswith("127.0.0.1:")


def test_what_the_image_is_made_of_is_there() -> None:
    extras = re.search(r"'/src\[([a-z,]+)\]'", RECIPE)
    assert extras is not None
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert all(f'"{extra}": [' in setup for extra in extras[1].split(","))
    assert (ROOT / "constraints.txt").exists() and "USER proxyd" in RECIPE
    assert set(re.findall(r'CMD \["(\w+)"', RECIPE)) == {"proxyd", "proxyctl"}


def test_the_compose_file_is_sound_and_its_settings_are_settings() -> None:
    if importlib.util.find_spec("yaml") is None:
        pytest.skip("no PyYAML here (scripts/site installs it)")
    yaml: Any = importlib.import_module("yaml")
    found: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text(encoding="utf-8"))
    services = found["services"]
    assert services.keys() == {"proxy", "database", "redis"}
    proxy = services["proxy"]
    settings = load(None, {**environment(), **{key: value for key, value in proxy["environment"].items() if key.startswith("PROXYD_")}})
    assert settings.registry.tokens_file and settings.database.url.startswith("postgresql://")
    assert settings.ratelimit.storage.startswith("redis://redis:")
    assert (HERE / proxy["build"]["context"] / proxy["build"]["dockerfile"]).resolve() == HERE / "Containerfile"
    for service in services.values():
        assert set(service.get("secrets", ())) <= found["secrets"].keys()
        assert {volume.partition(":")[0] for volume in service.get("volumes", ()) if not volume.startswith(".")} <= found["volumes"].keys()
        assert set(service.get("depends_on", ())) <= services.keys()


def test_the_scripts_of_the_debian_package_are_sound() -> None:
    text = (ROOT / "scripts" / "deb").read_text(encoding="utf-8")
    parts = re.findall(r"<<'(POSTINST|PRERM|POSTRM)'\n(.*?)\n\1\n", text, re.DOTALL)
    assert [name for name, _ in parts] == ["POSTINST", "PRERM", "POSTRM"]
    for script in (text, *(part for _, part in parts)):
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    assert shutil.which("bash")
