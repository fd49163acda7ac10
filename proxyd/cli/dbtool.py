"""`proxyd db check|vacuum|stats|export|report`: is the database sound, give space back, what lies in it. Works while everything runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

import peewee

from proxyd.base.text import format_size
from proxyd.cli import export, report
from proxyd.cli.vacuum import vacuum_file, vacuum_server
from proxyd.config.settings import Settings
from proxyd.store.sql import walreaders
from proxyd.store.sql.database import Store, StoreBusy, StoreEmpty, StoreError, database
from proxyd.store.sql.migrations import NEWEST, TABLES, current_version
from proxyd.store.sql.models import Route, Session
from proxyd.store.sql.observed import EventRow, Worker
from proxyd.store.sql.query import is_sqlite
from proxyd.store.sql.rescue import is_corrupt

_MOST_SHOWN = 20
#: From so many bytes on, vacuum says who keeps the log: it has some kilobytes at all times.
_LOG_TOLD = 1 << 20


def run(settings: Settings, action: str, options: argparse.Namespace | None = None) -> int:
    """Do one action and print what came out; exit status: 0 sound or done, 1 unsound or failed, with what to do. `options` are those
    of export and report."""
    actions: dict[str, Callable[[Store], int]] = {"check": _check, "vacuum": _vacuum, "stats": _stats,
                                                  "export": lambda store: _export(store, options or argparse.Namespace()),
                                                  "report": lambda store: _report(store, options or argparse.Namespace())}
    try:
        store = Store(settings.database.url, settings.database.busy_timeout)
        if store.path is not None and not os.path.exists(store.path):
            raise StoreError(f"there is no database {store.path}; the master makes it when it starts, or: proxyd migrate")
    except StoreError as error:
        return _failed(error)
    try:
        store.open()
        return actions[action](store)
    except StoreBusy:
        return _failed(f"the database {store.name} is busy: something writes without pause; nothing was changed, try again")
    except StoreEmpty:
        return _failed(f"the database {store.name} has no tables yet; the master makes them when it starts, or: proxyd migrate")
    except StoreError as error:
        return _unsound(store.path) if store.path is not None and is_corrupt(store.path) else _failed(error)
    finally:
        store.close()


def _failed(message: object) -> int:
    print(f"proxyd db: {message}", file=sys.stderr)
    return 1


def _unsound(path: str) -> int:
    return _failed(f"the database {path} is not sound. Stop the master, then: scripts/restore BACKUP (the newest one in "
                   "var/backups). Without a backup, move the file away: the master starts with an empty one, site files are "
                   "read, and services register again")


def size_of(path: str) -> int:
    """Bytes of an SQLite database, its write-ahead log included."""
    return sum(os.path.getsize(path + suffix) for suffix in ("", "-wal") if os.path.exists(path + suffix))


# check

def _check(store: Store) -> int:
    print(f"database   {store.name}")
    if store.path is not None:
        faults = store.read(_faults)
        if faults:
            for fault in faults[:_MOST_SHOWN]:
                print(f"  {fault}")
            if len(faults) > _MOST_SHOWN:
                print(f"  and {len(faults) - _MOST_SHOWN} more")
            return _unsound(store.path)
        print("integrity  ok\nforeign keys ok")
    version = store.read(current_version)
    if version != NEWEST:
        print(f"schema     {version}, this proxyd knows {NEWEST}")
        return _failed("run: proxyd migrate (the master does it when it starts)" if version < NEWEST else
                       "the database is of a newer proxyd: install that one, or restore a backup made before the upgrade")
    print(f"schema     {version}, the newest")
    for name, value in store.read(_summary):
        print(f"{name:<10} {value}")
    if store.path is not None:
        print(f"size       {format_size(size_of(store.path))} ({size_of(store.path)} bytes)")
    return 0


def _faults() -> list[str]:
    """What SQLite finds wrong. Runs in the database thread."""
    faults = [str(row[0]) for row in database.execute_sql("PRAGMA integrity_check(100)") if row[0] != "ok"]
    for table, rowid, parent, _ in database.execute_sql("PRAGMA foreign_key_check"):
        faults.append(f"{table}: row {rowid} names a row of {parent} that does not exist")
    return faults


def _summary() -> list[tuple[str, str]]:
    """A few counts. Runs in the database thread."""
    sessions = Session.select().where(Session.state != "ended").count()
    newest = EventRow.select(EventRow.at).order_by(EventRow.id.desc()).limit(1).scalar()
    return [("sessions", str(sessions)), ("routes", str(Route.select().count())), ("workers", str(Worker.select().count())),
            ("last event", newest or "none")]


# vacuum

def _vacuum(store: Store) -> int:
    if store.path is None:
        vacuum_server(store)
        print("vacuumed; the server keeps its files' size for itself (VACUUM FULL, with everything stopped, gives it back)")
        return 0
    before = size_of(store.path)
    vacuum_file(store)
    after = size_of(store.path)
    print(f"before  {before:>14} bytes\nafter   {after:>14} bytes\nfreed   {before - after:>14} bytes")
    kept, readers = walreaders.log_size(store.path), walreaders.readers(store.path)
    if kept > _LOG_TOLD and readers:
        print(f"{kept} bytes are in the log, which a reader that stays open keeps: {readers[0]}; end it, and run this again")
    return 0


# export and report

def _export(store: Store, options: argparse.Namespace) -> int:
    form = options.format or "csv"
    if form not in export.FORMATS or not options.name:
        return _failed(f"usage: proxyd db export TABLE [--format {'|'.join(export.FORMATS)}] [--since AT] [--until AT] [--output FILE]")
    count = export.export(store, export.Wanted(options.name, form, options.since, options.until, options.output))
    if options.output:
        print(f"{count} rows of {options.name} are in {options.output}")
    return 0


def _report(store: Store, options: argparse.Namespace) -> int:
    form = options.format or "text"
    if form not in report.FORMATS or not options.name or not options.month:
        return _failed(f"usage: proxyd db report SERVICE --month 2026-11 [--format {'|'.join(report.FORMATS)}] [--output FILE]")
    text = report.report(store, options.name, options.month, form)
    if not options.output:
        sys.stdout.write(text)
        return 0
    try:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        return _failed(f"can't write {options.output}: {error.strerror}")
    return 0


# stats

def _stats(store: Store) -> int:
    rows = store.read(row_counts)
    found = store.read(sizes)
    head = ("table", "rows", "bytes")
    print(f"{head[0]:<24} {head[1]:>12} {head[2]:>14}")
    for name, count in sorted(rows.items(), key=lambda item: (-found.get(item[0], 0), item[0])):
        print(f"{name:<24} {count:>12} {found.get(name, '-'):>14}")
    print(f"{'all':<24} {sum(rows.values()):>12} {size_of(store.path) if store.path else sum(found.values()):>14}")
    if not found:
        print("bytes of each table are not known: this Python's SQLite was built without dbstat")
    return 0


def row_counts() -> dict[str, int]:
    """Rows by table; a table that this schema version does not have yet is left out. Runs in the database thread."""
    there = set(database.get_tables())
    counts = {model._meta.table_name: model.select().count() for model in TABLES if model._meta.table_name in there}
    if not counts:
        raise StoreEmpty("no tables")
    return counts


def sizes() -> dict[str, int]:
    """Bytes by table, its indexes included; empty where they can't be known. Runs in the database thread."""
    if is_sqlite():
        try:
            return dict(database.execute_sql(
                "SELECT m.tbl_name, SUM(d.pgsize) FROM dbstat d JOIN sqlite_master m ON m.name = d.name GROUP BY m.tbl_name"))
        except peewee.OperationalError:
            return {}
    return dict(database.execute_sql("SELECT relname, pg_total_relation_size(relid) FROM pg_stat_user_tables"))
