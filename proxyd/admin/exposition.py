"""Metrics as text, in Prometheus' format or in OpenMetrics'.

prometheus_client chooses the format and writes numbers. A series costs 10 µs with all of it, since it makes an object of each and goes
through the name of each label, and 3 µs here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

from proxyd.admin.families import COUNTER, FAMILIES, HISTOGRAM

_OPENMETRICS = "application/openmetrics-text"
#: Most numbers are 0 or 1.
_number = lru_cache(maxsize=1024)(floatToGoString)


class Told:
    """A declared metric with its series. Raises KeyError for a name that is not in the table of metrics."""

    def __init__(self, name: str) -> None:
        self.family = FAMILIES[name]
        self._lines: list[str] = []
        names, labels = self.family.samples, self.family.labels
        self._form = _form(names[-1], labels)
        if self.family.kind == HISTOGRAM:
            self._bucket, self._sum = _form(names[0], (*labels, "le")), _form(names[1], labels)

    def add(self, labels: Sequence[str], value: float) -> None:
        """A series. `labels`: values of the declared ones."""
        self._lines.append(self._form.format(*map(_escaped, labels), _number(value)))

    def add_histogram(self, labels: Sequence[str], below: Iterable[tuple[str, int]], total: float) -> None:
        """The series of a histogram. `below`: each upper bound, `+Inf` last, and how many numbers are within it; `total`: their sum."""
        count = 0
        for bound, count in below:
            self._lines.append(self._bucket.format(*map(_escaped, labels), bound, _number(count)))
        self.add(labels, count)
        self._lines.append(self._sum.format(*map(_escaped, labels), _number(total)))

    def text(self, openmetrics: bool) -> str:
        """All of it."""
        name, kind, said, _ = self.family
        said = said.replace("\\", r"\\").replace("\n", r"\n")
        if openmetrics:
            said = said.replace('"', r"\"")
            name = name.removesuffix("_total") if kind == COUNTER else name
        return f"# HELP {name} {said}\n# TYPE {name} {kind}\n{''.join(self._lines)}"


def exposition(told: Iterable[Told], accept: str) -> tuple[bytes, str]:
    """The metrics and their content type, in the format that the Accept field asks for."""
    # No name here has anything that some schemes escape; the others, which write all names anew, are not spoken.
    content_type = re.sub("escaping=(dots|values)$", "escaping=underscores", choose_encoder(accept)[1])
    openmetrics = content_type.startswith(_OPENMETRICS)
    parts = [one.text(openmetrics).encode() for one in told]
    return b"".join([*parts, b"# EOF\n"] if openmetrics else parts), content_type


def _form(name: str, labels: Sequence[str]) -> str:
    """The format of a series' line: the values of the labels, and the number behind them. The labels are sorted by their names."""
    places = sorted((label, place) for place, label in enumerate(labels))
    inside = ",".join([f'{label}="{{{place}}}"' for label, place in places])
    return f"{name}{f'{{{{{inside}}}}}' if inside else ''} {{{len(labels)}}}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
