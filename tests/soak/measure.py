"""What a process takes, how much of it grows with the requests, and whether that is too much."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from proxyd.store.sql.retained import RETAINED
from tests.support.system import System

MIB = 1 << 20
#: Requests to which a growth is related.
PER = 100_000


@dataclass(frozen=True, slots=True)
class Memory:
    """A process at one time: bytes of its own (USS), and with its share of what it shares (PSS)."""

    requests: int
    own: int
    share: int


def memory_of(pid: int, requests: int) -> Memory:
    """Measure a process. Raises psutil.Error."""
    found = psutil.Process(pid).memory_full_info()
    return Memory(requests, found.uss, found.pss)


def slope(points: Sequence[Memory]) -> float:
    """Growth of the own memory in bytes for PER requests, as a line through the points (least squares) says; 0 for fewer than three."""
    count = len(points)
    if count < 3:
        return 0.0
    middle = sum(point.requests for point in points) / count
    level = sum(point.own for point in points) / count
    spread = sum((point.requests - middle) ** 2 for point in points)
    return PER * sum((point.requests - middle) * (point.own - level) for point in points) / spread if spread else 0.0


def later_half(points: Sequence[Memory]) -> Sequence[Memory]:
    """The points of the second half of the requests: what comes before is warming up."""
    half = points[-1].requests / 2 if points else 0
    return [point for point in points if point.requests >= half]


def too_much(points: Sequence[Memory], bound: float) -> bool:
    """Whether a process grows by more than `bound` bytes for PER requests, in the second half."""
    return slope(later_half(points)) > bound


def tables(system: System) -> dict[str, int]:
    """Rows of each table that retention prunes."""
    names = sorted({kept.model._meta.table_name for kept in RETAINED})
    return {name: int(system.sql(f"SELECT COUNT(*) FROM {name}")[0][0]) for name in names}


def is_pruned(name: str) -> bool:
    """Whether rows of this table go within minutes, if the settings say so. Sums by the hour and by the day stay until that is over, and
    with them the endpoints that they are of; those of a service stay as long as it has routes."""
    return not (name.endswith(("_hours", "_days")) or name.startswith("service") or name == "endpoints")


def unbounded(rows: Sequence[tuple[float, dict[str, int]]], after: float, least: int = 200) -> Iterable[str]:
    """Tables that go on growing when the first rows have been pruned: `rows` by seconds, `after` seconds until they must be level."""
    settled = [found for at, found in rows if at >= after]
    if len(settled) < 4:
        return
    half = len(settled) // 2
    for name in filter(is_pruned, settled[0]):
        before, now = max(found[name] for found in settled[:half]), max(found[name] for found in settled[half:])
        if now > least and now > before * 1.5:
            yield f"{name} went on growing, from {before} to {now} rows"


def files(folder: Path) -> dict[str, int]:
    """Bytes of each file of the folder."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
