"""The tables and the chart of docs/performance.md, between two marks, so that the prose around them stays."""

from __future__ import annotations

import os
import platform
import statistics
from pathlib import Path

from benchmark.load import Measure

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "performance.png"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LABELS = {
    "direct": "backend, directly",
    "hello": "gunicorn gevent hello (ceiling)",
    "proxyd": "**proxyd**",
    "full": "**proxyd**, health + circuit + rate limit + log",
    "naive": "gevent + requests",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "caddy": "Caddy",
    "proxy.py": "proxy.py",
}


def _rate(measures: list[Measure]) -> float:
    return statistics.median(measure.rate for measure in measures)


def scenario_table(name: str, result: dict[str, list[Measure]], ceiling: float | None) -> str:
    """One scenario as a Markdown table: medians, spread, and ratios to the ceiling and to nginx."""
    lines = [
        f"### {name}",
        "",
        "| | requests/s | spread | p50 ms | p99 ms | CPU µs/request | RSS MiB | to the ceiling | to nginx | failed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    against = _rate(result["nginx"]) if "nginx" in result else None
    for target, measures in result.items():
        rates = [measure.rate for measure in measures]
        rate = _rate(measures)
        spread = (max(rates) - min(rates)) / rate * 100
        lines.append(
            f"| {LABELS[target]} | {rate:,.0f} | {spread:.0f} % | {statistics.median(m.p50 for m in measures):.2f} "
            f"| {statistics.median(m.p99 for m in measures):.2f} | {statistics.median(m.cpu for m in measures):.0f} "
            f"| {max(m.resident for m in measures):.0f} | {f'{rate / ceiling:.2f}' if ceiling else '–'} "
            f"| {f'{rate / against:.2f}' if against else '–'} | {sum(m.failed for m in measures)} |"
        )
    return "\n".join(lines)


def markdown(results: dict[str, dict[str, list[Measure]]], tables: list[str], rounds: int, seconds: float) -> str:
    """Everything that was measured, as Markdown."""
    first = next(iter(results.values()))
    ceiling = _rate(first["hello"]) if first.get("hello") else None
    parts = [
        f"Measured on {platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}: the server on one core, "
        f"load and backend on the other; {rounds} rounds of {seconds:g} s, alternating. Compare rows, not machines."
    ]
    for index, (name, result) in enumerate(results.items()):
        parts.append(scenario_table(name, result, ceiling if index == 0 else None))
    return "\n\n".join([*parts, *tables]) + "\n"


def write(results: dict[str, dict[str, list[Measure]]], tables: list[str], rounds: int, seconds: float) -> None:
    """Put the measured part and the chart into docs/."""
    put(BEGIN, END, f"![Requests a second](performance.png)\n\n{markdown(results, tables, rounds, seconds)}\n")
    _chart(results)


def put(begin: str, end: str, text: str) -> None:
    """Put a text between two marks of docs/performance.md, in the place of what is there."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def _chart(results: dict[str, dict[str, list[Measure]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = len(results)
    figure, axes = pyplot.subplots((count + 1) // 2, 2 if count > 1 else 1, figsize=(11, 2.6 * ((count + 1) // 2)), squeeze=False)
    for axis, (name, result) in zip(axes.flat, results.items(), strict=False):
        shown = [target for target in result if target != "direct"]
        rates = [_rate(result[target]) for target in shown]
        colours = ["#2b6cb0" if target in ("proxyd", "full") else "#a0aec0" for target in shown]
        bars = axis.barh(
            [LABELS[target].replace("*", "").replace(", health + circuit + rate limit + log", ", all on") for target in shown],
            rates,
            color=colours,
        )
        axis.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(name, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.set_xlim(0, max(rates) * 1.18)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in list(axes.flat)[count:]:
        axis.set_visible(False)
    figure.suptitle("Requests a second through one core")
    figure.tight_layout()
    figure.savefig(CHART, dpi=110)
