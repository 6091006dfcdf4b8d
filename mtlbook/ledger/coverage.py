"""Whether every printed number is in a claim, or has a stated reason why it is in none."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtlbook.documents import read_yaml
from mtlbook.ledger import tables
from mtlbook.ledger.claims import Claim, ClaimError, load_all, rows_in
from mtlbook.ledger.rules import CurveRule

# What may become of a printed number, the first that holds.
STATES = ("judged", "not comparable", "not attempted", "reason stated", "open")


@dataclass
class Number:
    """What covers one printed number.

    Attributes
    ----------
    place : str
        ``<file>:<line>:<column>``.
    text : str
        The number as it is printed.
    claims : list of str
        Ids of the claims that it is in.
    reasons : list of str
        Why it is in none.
    """

    place: str
    text: str
    claims: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def file(self) -> str:
        return self.place.partition(":")[0]

    def state(self, verdicts: Mapping[str, str]) -> str:
        """One of `STATES`, by the verdicts on the claims."""
        found = {verdicts[claim] for claim in self.claims}
        if found - {"not comparable", "not attempted"}:
            return "judged"
        unjudged = next((state for state in STATES if state in found), None)
        return unjudged or ("reason stated" if self.reasons else "open")


def numbers(folder: str | os.PathLike) -> list[Number]:
    """Every number, and every mark, of the CSV files in ``printed``, with what covers it.

    Parameters
    ----------
    folder : path
        Holds the claims, ``tables`` and ``printed``.

    Raises
    ------
    ClaimError
        If a file of claims is not valid, or a table names a claim that there is not.
    """
    folder = Path(folder)
    rows_of = rows_in(folder / "printed")
    found = {
        number.place: number
        for path in sorted((folder / "printed").glob("*.csv"))
        for number in _of_file(path.name, rows_of(path.name))
    }
    claims = {claim.id: claim for of_paper in load_all(folder) for claim in of_paper.claims}
    for claim in claims.values():
        for place in _of_curve(claim, rows_of):
            found[place].claims.append(claim.id)
    for path in sorted((folder / "tables").glob("*.yaml")):
        for cell in tables.cells(read_yaml(path), rows_of):
            if unknown := [id_ for id_ in cell.claims if id_ not in claims]:
                raise ClaimError(f"{path}: judged_by: there is no claim {', '.join(unknown)}")
            number = found[cell.place]
            number.claims += [id_ for id_ in cell.claims if id_ not in number.claims]
            number.reasons += [cell.reason] if cell.reason else []
    return list(found.values())


def counts(of: Sequence[Number], rows: Sequence[Mapping[str, Any]]) -> dict[str, Counter]:
    """By file, how many numbers are in which of the `STATES`.

    Parameters
    ----------
    of : sequence of Number
    rows : sequence of dict
        The verdicts, as ``mtlbook.ledger.audit.audit`` returns them.
    """
    verdicts = {row["claim"]: row["verdict"] for row in rows}
    found: dict[str, Counter] = defaultdict(Counter)
    for number in of:
        found[number.file][number.state(verdicts)] += 1
    return dict(found)


def table(of: Sequence[Number], rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of text, the head first and the sums last: a file, its numbers, how many are where."""
    by_file = counts(of, rows)
    lines = [["printed", "numbers", *STATES]]
    sums = sum(by_file.values(), Counter())
    for name, count in [*by_file.items(), ("all", sums)]:
        lines.append([name, *map(str, (count.total(), *(count[state] for state in STATES)))])
    return lines


def _of_file(file: str, rows: Sequence[tables.Row]) -> Iterator[Number]:
    for line, row in enumerate(rows, start=2):
        for column, text in row.items():
            if column not in tables.PLACES and text:
                yield Number(tables.place(file, line, column), text)


def _of_curve(claim: Claim, rows_of: tables.Rows) -> Iterator[str]:
    if isinstance(claim.rule, CurveRule):
        of = claim.rule.points
        wanted = {"quantity": of.quantity, "method": of.method}
        for line, _ in tables.selected(rows_of(of.file), wanted):
            yield tables.place(of.file, line, "digitised")
