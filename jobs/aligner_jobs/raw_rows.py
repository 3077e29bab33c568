"""Rows as files hold them, before anything is made of them, and those that cannot be used."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One object of a file and where it stood: ``file:line``, or ``file, row N``."""

    where: str
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used, why, and where it stood. Holds nothing of its content."""

    where: str
    reason: str


class RowProblem(Exception):
    """A row cannot be used; the only argument is the reason's name."""
