"""Classes of which there are very many objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

Made = TypeVar("Made")


@dataclass_transform(eq_default=False, frozen_default=True)
def value(cls: type[Made]) -> type[Made]:
    """As `dataclass(frozen=True, slots=True, eq=False)`, but it is the type checker alone that lets nobody change an object. What Python
    does for it costs many times what making an object costs: a worker that starts makes some for each route."""
    return dataclass(slots=True, eq=False)(cls)
