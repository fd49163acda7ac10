"""Work in native threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_thread(pool: Any, function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function in a thread of a gevent ThreadPool, and return or raise what it does.

    What is raised comes back as a value: gevent prints a traceback for whatever leaves a pool's thread.
    """

    def caught() -> tuple[Any, Exception | None]:
        try:
            return function(*arguments), None
        except Exception as error:
            return None, error

    result: Result
    result, error = pool.apply(caught)
    if error is not None:
        raise error
    return result
