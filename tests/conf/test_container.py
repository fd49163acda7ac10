"""The recipe of the image, the compose file and the Debian package say what proxyd understands."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from proxyd.config.settings import load
from tests.support.waiting import free_port, patience, wait_for

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


def test_the_image_runs_as_process_1_is_found_healthy_and_stops_on_term(tmp_path: Path) -> None:
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("this user may make no process 1")
    commands = [json.loads(found) for found in re.findall(r"CMD (\[.*\])$", RECIPE, re.MULTILINE)]
    healthy, serve = ([sys.executable, "-m", {"proxyd": "proxyd", "proxyctl": "proxyd.ctl.main"}[name], *words]
                      for name, *words in commands)
    (tmp_path / "sites").mkdir()
    places = {"/var/lib/proxyd": str(tmp_path), "/etc/proxyd/sites-enabled": f"{tmp_path}/sites", ":8000": f":{free_port()}",
              ":8181": f":{free_port()}", ":8282": f":{free_port()}", "0.0.0.0": "127.0.0.1"}
    settings = environment()
    for old, new in places.items():
        assert old in " ".join(settings.values()), old
        settings = {key: value.replace(old, new) for key, value in settings.items()}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PROXYD_")}
    with (tmp_path / "said").open("w") as said, subprocess.Popen(
            [*inside, *serve], env={**kept, **settings, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, stdout=said, stderr=said) as run:
        try:
            wait_for(lambda: subprocess.run(healthy, env={**kept, **settings, "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
                                            capture_output=True).returncode == 0, 30, "the health check of the image")
            (first,) = psutil.Process(run.pid).children()
            assert len(first.children()) >= 2, "the master and a worker"
            first.terminate()
            assert run.wait(patience(40)) == 0, (tmp_path / "said").read_text()
        finally:
            run.kill()


def test_what_is_built_from_is_no_more_than_the_image_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert {".git", ".venv*", "**/__pycache__"} <= set(ignored)
    assert not {"proxyd", "conf", "setup.py", "README.md", "constraints.txt", "MANIFEST.in", "*"} & set(ignored)


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
