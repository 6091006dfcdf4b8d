"""Whole printed tables: one entry covers many printed numbers, each becomes a claim of its own.

``data/claims/tables/<paper>.yaml`` lists entries. Each names a CSV file of printed numbers, one of
its columns and some of its rows, and then one of three things: a `claim` with gaps, filled for
every row; the claims that these numbers are `judged_by`, whose text stands elsewhere; or the
`reason` why nothing is held against them. What is expanded here is plain, as it stands in a file of
claims, so that old versions expand, too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Row = Mapping[str, str]
# Rows of a CSV file by its name.
Rows = Callable[[str], Sequence[Row]]

# Columns that say where a number stands; every other column holds what is printed there.
PLACES = frozenset(
    "paper table figure dataset method train_percent test_percent task task_i task_j task_a task_b "
    "metric quantity iteration source reprinted_by".split()
)
_COMPARISONS = {
    "less": lambda a, b: float(a) < float(b),
    "more": lambda a, b: float(a) > float(b),
    "same": lambda a, b: a == b,
}


class Revision(BaseModel):
    """Why claims of a file were changed, or first asked, after the runs that they judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    day: date  # not `on`, which is "true" in YAML
    why: str = Field(pattern=r"\w")


class Entry(BaseModel):
    """Some of the numbers of a printed table.

    Attributes
    ----------
    file, column : str
        Of ``data/claims/printed``.
    rows : dict
        What a row has to be to count: by column a word, several words, or a comparison with another
        column, ``{less: task_j}``.
    minus, taken_from : dict
        Where the row differs that is taken off, or that this one is taken from: the printed number
        is the difference, and the sign of the rule its sign.
    signed : bool
        The printed number is a difference already.
    tie : str or None
        The reason that stands for differences of 0, which claim no sign.
    words : dict
        By gap, by column: our word for the printed one.
    claim : dict or None
        A claim with gaps: columns of the row, `words`, and ``{side}`` ("higher", "lower"),
        ``{size}`` and ``{number}``, the printed one.
    judged_by : tuple of str
        Ids of claims, with gaps.
    reason : str or None
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    column: str
    rows: dict[str, str | list[str] | dict[Literal["less", "more", "same"], str]] = Field(
        default_factory=dict
    )
    minus: dict[str, str] = Field(default_factory=dict)
    taken_from: dict[str, str] = Field(default_factory=dict)
    signed: bool = False
    tie: str | None = None
    words: dict[str, dict[str, dict[str, str]]] = Field(default_factory=dict)
    claim: dict[str, Any] | None = None
    judged_by: tuple[str, ...] = ()
    reason: str | None = Field(default=None, min_length=20)

    @model_validator(mode="after")
    def _one_way(self) -> Entry:
        if sum(map(bool, (self.claim, self.judged_by, self.reason))) != 1:
            raise ValueError("expected one of claim, judged_by and reason")
        if (self.minus or self.taken_from or self.signed or self.tie) and not self.claim:
            raise ValueError("minus, taken_from, signed, tie: expected with a claim")
        return self


class Tables(BaseModel):
    """One file of tables.

    Attributes
    ----------
    paper : str
    revised : tuple of Revision
        As in a file of claims.
    claims : tuple of dict
        Claims in full.
    tables : tuple of Entry
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str = Field(pattern=r"^[a-z0-9]+$")
    revised: tuple[Revision, ...] = ()
    claims: tuple[dict[str, Any], ...] = ()
    tables: tuple[Entry, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Cell:
    """A printed number of an entry: where it stands, and what covers it."""

    place: str
    claims: tuple[str, ...] = ()
    reason: str | None = None


def place(file: str, line: int, column: str) -> str:
    """Name a cell by the line of its file, counted as an editor does, the head being line 1."""
    return f"{file}:{line}:{column}"


def expand(content: Any, rows_of: Rows) -> Iterator[dict[str, Any]]:
    """The claims of a file of tables, as a file of claims would hold them.

    Parameters
    ----------
    content : object
        What the YAML file holds; what is not as it has to be gives no claims.
    rows_of : callable
    """
    for entry in _entries(content):
        if isinstance(template := entry.get("claim"), Mapping):
            number = _number(entry, rows_of)
            for line, row in _selected(entry, rows_of):
                printed, cells = number(line, row)
                if printed is not None:
                    yield _filled(template, _gaps(entry, row, printed), printed, cells)


def cells(content: Any, rows_of: Rows) -> Iterator[Cell]:
    """Every printed number that a file of tables covers, once for each way."""
    for entry in _entries(content):
        number = _number(entry, rows_of)
        for line, row in _selected(entry, rows_of):
            own = place(entry["file"], line, entry["column"])
            if "claim" in entry:
                printed, cells = number(line, row)
                if printed is None:
                    yield Cell(own, reason=entry.get("tie"))
                else:
                    id_ = _id(entry["claim"]["id"].format_map(_gaps(entry, row, printed)))
                    yield from (Cell(cell, (id_,)) for cell in cells)
            elif "judged_by" in entry:
                gaps = _gaps(entry, row, row[entry["column"]])
                ids = tuple(_id(name.format_map(gaps)) for name in entry["judged_by"])
                yield Cell(own, ids)
            else:
                yield Cell(own, reason=entry.get("reason"))


def _entries(content: Any) -> Iterator[Mapping[str, Any]]:
    tables = content.get("tables") if isinstance(content, Mapping) else None
    yield from (entry for entry in tables or () if isinstance(entry, Mapping))


def selected(rows: Sequence[Row], wanted: Mapping[str, Any]) -> Iterator[tuple[int, Row]]:
    """The rows that are as wanted, each with the line of the file that it stands in."""
    for line, row in enumerate(rows, start=2):
        if all(_fits(row, column, of) for column, of in wanted.items()):
            yield line, row


def _selected(entry: Mapping[str, Any], rows_of: Rows) -> Iterator[tuple[int, Row]]:
    return selected(rows_of(entry["file"]), entry.get("rows") or {})


def _fits(row: Row, column: str, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return all(_COMPARISONS[how](row[column], row[of]) for how, of in wanted.items())
    return row[column] in (wanted if isinstance(wanted, list) else [wanted])


def _number(
    entry: Mapping[str, Any], rows_of: Rows
) -> Callable[[int, Row], tuple[str | None, tuple[str, ...]]]:
    """Gives a row's printed number, None for a difference of 0; and the cells it comes from."""
    file, column = entry["file"], entry["column"]
    differs = entry.get("minus") or entry.get("taken_from")

    def number(line: int, row: Row) -> tuple[str | None, tuple[str, ...]]:
        own = place(file, line, column)
        if entry.get("signed"):
            return f"{Decimal(row[column]):+}", (own,)
        if not differs:
            return row[column], (own,)
        wanted = {key: value for key, value in row.items() if key in PLACES} | dict(differs)
        found = others(tuple(wanted)).get(tuple(wanted.values()), [])
        if len(found) != 1:
            raise ValueError(f"{own}: expected one row with {differs}, found {len(found)}")
        ((at, other),) = found
        difference = Decimal(row[column]) - Decimal(other[column])
        if not entry.get("minus"):
            difference = -difference
        return f"{difference:+}" if difference else None, (own, place(file, at, column))

    @cache
    def others(columns: tuple[str, ...]) -> dict[tuple, list[tuple[int, Row]]]:
        """The rows by what they have in some columns; all rows of a file have the same columns."""
        found = defaultdict(list)
        for at, other in enumerate(rows_of(file), start=2):
            if other.keys() >= set(columns):
                found[tuple(other[key] for key in columns)].append((at, other))
        return found

    return number


class _Gaps(dict):
    def __missing__(self, gap: str) -> str:
        raise ValueError(f"{{{gap}}}: expected a column of the file, or one of {', '.join(self)}")


def _gaps(entry: Mapping[str, Any], row: Row, printed: str) -> _Gaps:
    gaps = _Gaps(row, number=printed, size=printed.lstrip("+-"))
    gaps["side"] = "lower" if printed.startswith("-") else "higher"
    for gap, by_column in (entry.get("words") or {}).items():
        ((column, words),) = by_column.items()
        if row[column] not in words:
            raise ValueError(f"{entry['file']}: words: {gap}: no word for {column} {row[column]!r}")
        gaps[gap] = words[row[column]]
    return gaps


def _filled(
    template: Mapping[str, Any],
    gaps: Mapping[str, str],
    printed: str,
    cells: tuple[str, ...],
) -> dict[str, Any]:
    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return value.format_map(gaps)
        if isinstance(value, Mapping):
            return {key: fill(of) for key, of in value.items()}
        return [fill(of) for of in value] if isinstance(value, list) else value

    claim = fill(template)
    claim |= {"id": _id(claim["id"]), "printed": printed, "cells": list(cells)}
    if claim["rule"]["kind"] == "difference":
        claim["rule"] = {**claim["rule"], "sign": -1 if printed.startswith("-") else 1}
    return claim


def _id(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
