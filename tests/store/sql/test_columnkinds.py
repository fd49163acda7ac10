"""The kinds of columns: those that PostgreSQL gives views, and instants wherever they are. That of every view is held against a server in
tests/cli/test_export.py."""

from __future__ import annotations

import re
from datetime import datetime

from proxyd.docs.database import sample
from proxyd.store.sql.columnkinds import INSTANTS, Kind, kinds_of
from proxyd.store.sql.migrations import TABLES
from proxyd.store.sql.views import VIEWS

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NUMBERS: dict[Kind, tuple[type, ...]] = {Kind.TRUTH: (int,), Kind.WHOLE: (int,), Kind.REAL: (int, float)}


def test_every_value_of_the_sample_is_of_the_kind_of_its_column() -> None:
    seen = set()
    with sample() as connection:
        for name in (*(model._meta.table_name for model in TABLES), *VIEWS):
            cursor = connection.execute(f"SELECT * FROM {name}")
            columns = [item[0] for item in cursor.description]
            seen.update(columns)
            kinds = kinds_of(name, columns)
            for row in cursor:
                for column, kind, value in zip(columns, kinds, row, strict=True):
                    if value is not None:
                        assert isinstance(value, NUMBERS.get(kind, (str,))), (name, column, value)
                        assert (kind is Kind.INSTANT) is bool(INSTANT.fullmatch(str(value))), (name, column, value)
    assert seen >= INSTANTS


def test_beside_every_instant_of_a_view_are_its_unix_seconds() -> None:
    """Those of v_now are what others are compared with: seconds are reckoned from `now_epoch`."""
    with sample() as connection:
        for name in VIEWS.keys() - {"v_now"}:
            cursor = connection.execute(f"SELECT * FROM {name}")
            columns = [item[0] for item in cursor.description]
            instants = [column for column, kind in zip(columns, kinds_of(name, columns), strict=True) if kind is Kind.INSTANT]
            assert {f"{column}_epoch" for column in instants} <= set(columns), name
            for row in cursor:
                told = dict(zip(columns, row, strict=True))
                for column in instants:
                    text, seconds = told[column], told[f"{column}_epoch"]
                    whole = None if text is None else int(datetime.fromisoformat(text[:19] + "+00:00").timestamp())
                    assert seconds == whole, (name, column, text)
