"""The monitoring files in conf/ name what proxyd really shows."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proxyd.admin.endpoints import ENDPOINTS
from proxyd.admin.families import FAMILIES
from proxyd.config.sections import AdminSettings

CONF = Path(__file__).resolve().parents[2] / "conf"
RULES = CONF / "prometheus" / "alerts.yml"
SCRAPE = CONF / "prometheus" / "prometheus.yml"
DASHBOARD = CONF / "grafana" / "proxyd.json"
#: Labels that Prometheus adds, and the histogram's own.
ADDED = {"instance", "job", "le"}


def shown() -> dict[str, set[str]]:
    """Each sample name that /metrics can show, and its labels."""
    return {name: set(family.labels) for family in FAMILIES.values() for name in family.samples}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def expressions() -> list[str]:
    """Every PromQL expression in the files."""
    found = re.findall(r"^ +expr: (?:\|\n((?: {10}.*\n)+)|(.*)$)", RULES.read_text(), re.MULTILINE)
    rules = [block or line for block, line in found]
    board = dashboard()
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    variables = [item["definition"] for item in board["templating"]["list"] if "definition" in item]
    notes = [item["expr"] for item in board["annotations"]["list"]]
    assert len(rules) == RULES.read_text().count("expr:")
    return rules + panels + variables + notes


@pytest.mark.parametrize("file", [RULES, SCRAPE, DASHBOARD], ids=lambda file: file.name)
def test_every_metric_that_is_named_exists(file: Path) -> None:
    named = set(re.findall(r"\bproxyd_\w+", file.read_text()))
    assert named - set(shown()) == set()


def test_every_label_that_a_selector_names_exists() -> None:
    known = shown()
    selectors = [match for text in expressions() for match in re.findall(r"\b(proxyd_\w+)\{([^}]*)\}", text)]
    assert len(selectors) > 40
    for name, matchers in selectors:
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= known[name] | ADDED, f"{name}{{{matchers}}}"


def test_every_label_that_is_summed_by_or_shown_exists_on_a_metric_of_the_expression() -> None:
    known = shown()
    for text in expressions():
        labels = {name for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", text) for name in re.split(r",\s*", group) if name}
        assert labels <= ADDED.union(*(known[name] for name in re.findall(r"\bproxyd_\w+", text))), text


def test_states_that_are_named_exist() -> None:
    from proxyd.health.thresholds import STATUSES
    from proxyd.store.memory.transitions import STATE_NAMES

    text = " ".join(expressions())
    assert set(re.findall(r'proxyd_circuit_state\{[^}]*state!?="(\w+)"', text)) <= set(STATE_NAMES)
    assert set(re.findall(r'proxyd_health_status\{[^}]*status="(\w+)"', text)) == {"degraded"} <= set(STATUSES)
    assert set(re.findall(r'proxyd_sessions\{[^}]*state="(\w+)"', text)) <= {"connected", "disconnected"}


def test_the_scrape_job_goes_where_the_metrics_are_by_default() -> None:
    text = SCRAPE.read_text()
    assert f'targets: ["{AdminSettings().bind}"]' in text
    path = re.search(r"metrics_path: (\S+)", text)
    assert path is not None and path[1] in {item.path for item in ENDPOINTS}
    assert "job_name: proxyd" in text and 'job="proxyd"' in RULES.read_text()
    assert (SCRAPE.parent / "alerts.yml").exists() and "- alerts.yml" in text


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    alerts = RULES.read_text().split("- alert: ")[1:]
    assert len({text.split()[0] for text in alerts}) == len(alerts) > 10
    for text in alerts:
        assert re.search(r"severity: (page|ticket)\b", text), text
        assert "summary: " in text, text


def test_the_panels_of_the_dashboard_neither_overlap_nor_share_an_id() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert max(x for x, _ in cells) < 24 and not cells & taken, panel["title"]
        taken |= cells


# -- the real programs, where they are here


def output_of(*command: str) -> tuple[int, str]:
    """Exit status and all output; the test is skipped where the program is not there."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=CONF)
    return done.returncode, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_the_scrape_job() -> None:
    code, text = output_of("promtool", "check", "config", "prometheus/prometheus.yml")
    assert code == 0, text
    assert re.search(r"\b\d\d rules found", text), text


def units() -> list[Path]:
    return sorted((CONF / "systemd").glob("proxyd*"))


def recipe() -> str:
    """The unit in docs/deploys.md."""
    text = (CONF.parent / "docs" / "deploys.md").read_text(encoding="utf-8")
    found = re.search(r"```ini\n(\[Unit\]\n.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_systemd_takes_the_units_and_that_of_the_docs(tmp_path: Path) -> None:
    # The programs have to be there to be accepted.
    for name in ("proxyd", "proxyctl"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    texts = {"shop.service": recipe(), **{unit.name: unit.read_text() for unit in units()}}
    for name, text in texts.items():
        (tmp_path / name).write_text(text.replace("/opt/proxyd/bin/", f"{tmp_path}/"))
    code, text = output_of("systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in texts))
    assert (code, text) == (0, "")


def test_systemd_starts_what_it_runs_again_however_often_it_ends() -> None:
    for text in (recipe(), *(unit.read_text() for unit in units() if unit.suffix == ".service")):
        assert "\nRestart=always\n" in text and "\nStartLimitIntervalSec=0\n" in text, text
        assert not re.search(r"^RestartPreventExitStatus=", text, re.MULTILINE), text


def test_the_units_start_what_there_is_and_agree_on_the_directories() -> None:
    parsed = {}
    for unit in units():
        parsed[unit.name] = configparser.ConfigParser(strict=False, interpolation=None)
        parsed[unit.name].optionxform = str  # type: ignore[assignment, method-assign]
        parsed[unit.name].read_string(unit.read_text())
    services = [parsed["proxyd.service"]["Service"], parsed["proxyd-master.service"]["Service"]]
    assert [one["ExecStart"].split()[1] for one in services] == ["serve", "master"]
    for one in services:
        assert one["Type"] == "notify" and one["RuntimeDirectoryPreserve"] == "yes", "one's stop must not take the other's sockets"
        assert (one["StateDirectoryMode"], one["RuntimeDirectoryMode"]) == ("0750", "0750")
    made = re.findall(r"^d (\S+)\s+(\d+) (\w+) (\w+)", (CONF / "tmpfiles.d" / "proxyd.conf").read_text(), re.MULTILINE)
    assert made == [(f"/{place}/proxyd", "0750", "proxyd", "proxyd") for place in ("run", "var/lib", "var/log")]
    assert int(services[0]["TimeoutStopSec"]) > 30, "graceful_timeout, and more"


def test_logrotate_takes_its_file(tmp_path: Path) -> None:
    file = tmp_path / "proxyd"
    text = (CONF / "logrotate.d" / "proxyd").read_text()
    # The user is made by sysusers.d; here there is none.
    file.write_text(text.replace("create 0640 proxyd proxyd", "create 0640 root root").replace("/var/log/proxyd", str(tmp_path)))
    (tmp_path / "access.log").write_text("a line\n")
    code, output = output_of("logrotate", "-d", "-s", str(tmp_path / "state"), str(file))
    assert code == 0 and "error" not in output.lower(), output
