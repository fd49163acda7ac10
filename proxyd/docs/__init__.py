"""Generated documents: each is made from the declarations that the program itself runs by, so that none can drift.

May import: every room but cli. Begin with `NAMES` below, the table of the documents.
"""

from __future__ import annotations

from collections.abc import Callable

NAMES = ("configuration", "protocol", "proxyd.ini", "database", "reasons", "metrics", "api", "proxyctl",
         "grafana-sqlite", "grafana-postgresql")


def document(name: str) -> str:
    """The text of a document, by name (one of NAMES). Raises KeyError for another name."""
    return _makers()[name]()


def _makers() -> dict[str, Callable[[], str]]:
    # Late, so that a document about settings does not load the database's driver.
    from proxyd.docs import api, configuration, database, grafana, ini, metrics, protocol, proxyctl, reasons

    return {"configuration": configuration.text, "protocol": protocol.text, "proxyd.ini": ini.text, "database": database.text,
            "reasons": reasons.text, "metrics": metrics.text, "api": api.text, "proxyctl": proxyctl.text,
            "grafana-sqlite": lambda: grafana.text("sqlite"), "grafana-postgresql": lambda: grafana.text("postgresql")}
