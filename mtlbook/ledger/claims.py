"""Claims: what a paper prints, and the rule that will judge it.

One YAML file a paper in ``data/claims``; it is committed before the results it judges.
"""

from __future__ import annotations

import csv
import os
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mtlbook.documents import read_yaml
from mtlbook.ledger import tables
from mtlbook.ledger.rules import (
    CurveRule,
    DifferenceRule,
    Printed,
    PrintRule,
    Rule,
    SpreadRule,
    ValueRule,
    printed_margin,
)
from mtlbook.ledger.tables import Revision


class ClaimError(ValueError):
    """A claims file that is not valid; the message names file, claim and field."""


class Claim(BaseModel):
    """One statement with its source and its rule.

    Attributes
    ----------
    id : str
        ``<paper>.<what>``, unique.
    where : str
        Table, figure or section.
    statement : str
        The statement in our own words.
    known : {"printed", "digitised", "derived", "memory"} or None
        How the statement is known: printed in the source, read off a figure, computed from printed
        numbers, or remembered without the source at hand (never shown as the paper's). None for a
        question of our own.
    asked_by : {"paper", "us"}
        Ours: a comparison the paper did not make.
    printed : str or None
        The printed number with its decimals.
    printed_std : pair of str or None
        Printed standard deviations of arm and reference, over `printed_n` repeats.
    unit : str
    experiments : tuple of str
        The first one with results decides; the later ones are stand-ins. None for a rule on what
        is printed alone.
    rule : Rule
    comparable : str or None
        Why no size of ours can be held against the printed one: another backbone, other data. A
        unit that names the paper's own ("paper: AlexNet") says it, too.
    calibrated : str or None
        What was chosen so that the printed number comes out: no evidence then.
    single_run : bool
        The printed number is of one run. So is counted every one that is printed without a spread.
    constants : mapping of str to float
        By metric, what a method without the idea gives by construction: a placebo.
    placebo : tuple of str
        Of a difference, arms without the idea: one that passes the rule in the place of the claim's
        own voids it.
    headline : bool
        Shown on the first page of the project, with few others of its paper.
    cells : tuple of str
        Where the printed number stands, ``<file>:<line>:<column>``, of a claim that a table of
        claims made (`tables`).
    revised : str or None
        Why what is judged was changed, or first asked, after the run; rows show it. A text covers
        the changes made before it or with it, none made later (``mtlbook audit --strict``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9]+(\.[a-z0-9-]+)+$")
    where: str
    statement: str
    known: Literal["printed", "digitised", "derived", "memory"] | None = None
    asked_by: Literal["paper", "us"] = "paper"
    printed: str | None = Field(default=None, pattern=r"^[+-]?\d+(\.\d+)?$")
    printed_std: tuple[str, str] | None = None
    printed_n: int | None = Field(default=None, gt=1)
    unit: str = ""
    experiments: tuple[str, ...] = ()
    rule: Rule
    comparable: str | None = None
    calibrated: str | None = None
    single_run: bool = False
    constants: dict[str, float] = Field(default_factory=dict)
    placebo: tuple[str, ...] = ()
    headline: bool = False
    cells: tuple[str, ...] = ()
    revised: str | None = Field(default=None, pattern=r"\w")

    @model_validator(mode="after")
    def _consistent(self) -> Claim:
        if (self.asked_by == "us") != (self.known is None):
            raise ValueError("known: expected for a claim of the paper, and only there")
        if self.printed is not None and self.known in (None, "memory"):
            raise ValueError("printed: a number from memory or of our own is not a printed one")
        if isinstance(self.rule, PrintRule) == bool(self.experiments):
            raise ValueError("experiments: expected at least one, none for a rule on the print")
        if isinstance(self.rule, PrintRule) and self.asked_by != "us":
            raise ValueError("asked_by: whether printed numbers agree is asked by us")
        if isinstance(self.rule, ValueRule | SpreadRule) and self.printed is None:
            raise ValueError("printed: expected a number, for the rule compares with it")
        if (self.printed_std is None) != (self.printed_n is None):
            raise ValueError("printed_std, printed_n: expected both or none")
        if self.single_run and (self.printed is None or self.printed_std is not None):
            raise ValueError("single_run: expected a printed number without a spread")
        if getattr(self.rule, "margin", None) and self.asked_by == "paper" and not self.printed:
            raise ValueError("margin: expected a printed number for it to lie around")
        if self.asked_by == "us" and (self.calibrated or self.comparable):
            raise ValueError("calibrated, comparable: expected for a claim of the paper only")
        if self.placebo and not isinstance(self.rule, DifferenceRule):
            raise ValueError("placebo: expected for a difference only; others find their own")
        return self

    @property
    def kind(self) -> Literal["paper", "cell", "us"]:
        """What it counts as: a paper's claim, one number of a printed table, a question of ours."""
        return "cell" if self.cells else self.asked_by

    @property
    def marked_statement(self) -> str:
        """The statement, marked where it must not pass for the paper's."""
        if self.known == "memory":
            return f"[reported from memory, not verified; not the paper's words] {self.statement}"
        if self.asked_by == "us":
            return f"[our control] {self.statement}"
        return self.statement

    def resolve_printed(self, folder: Path) -> Printed:
        """Return what is printed; `folder` holds the CSV files of curves and tables."""
        margin = 0.0
        if self.printed_std is not None:
            a, b = self.printed_std
            margin = printed_margin((float(a), float(b)), self.printed_n)
        points = {}
        if isinstance(self.rule, CurveRule):
            of = self.rule.points
            points = printed_points(folder / of.file, of.quantity, of.method)
        if isinstance(self.rule, PrintRule):
            table = tables.selected(printed_rows(folder / self.rule.file), self.rule.rows)
            marks = printed_rows(folder / self.rule.marks) if self.rule.marks else []
            return Printed(table=[row for _, row in table], marks=marks)
        single = self.single_run or (
            self.printed_std is None and not isinstance(self.rule, ValueRule)
        )
        return Printed(self.printed, margin, single, points)

    def incomparable(self, stand_in_for: str | None = None) -> str | None:
        """Return why sizes cannot be compared with the paper's, None where they can."""
        other = re.search(r"\(paper: (.+)\)", self.unit)
        if stand_in_for is not None:
            return f"on a stand-in for {stand_in_for}"
        if self.comparable is None and other is not None and self.asked_by == "paper":
            return f"on another backbone than the paper's {other[1]}"
        return self.comparable


class Claims(BaseModel):
    """The claims of one paper.

    ``mark`` says what of the paper is not the paper's, such as "reconstruction"; it stands in
    brackets after its name. ``revised`` is for a change of many claims at once; each such change
    adds an entry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str = Field(pattern=r"^[a-z0-9]+$")
    title: str
    source: str
    mark: str | None = Field(default=None, min_length=1)
    revised: tuple[Revision, ...] = ()
    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _identifiers(self) -> Claims:
        ids = [claim.id for claim in self.claims]
        repeated = sorted({i for i in ids if ids.count(i) > 1})
        if repeated:
            raise ValueError(f"claims: ids given twice: {', '.join(repeated)}")
        foreign = [i for i in ids if not i.startswith(f"{self.paper}.")]
        if foreign:
            raise ValueError(f"claims: expected ids {self.paper}.…, got {', '.join(foreign)}")
        return self

    @property
    def label(self) -> str:
        """The name of the paper as pages show it: what is not the paper's says so."""
        return self.paper.upper() + (f" ({self.mark})" if self.mark else "")


def load(path: str | os.PathLike) -> Claims:
    """Read and validate one claims file.

    Raises
    ------
    ClaimError
        If the file is not YAML or not valid; the message names the fields.
    """
    return _validated(Claims, path)


def load_tables(path: str | os.PathLike) -> tuple[Claim, ...]:
    """Read a file of tables, ``tables/<paper>.yaml`` beside the claims; return its claims.

    Raises
    ------
    ClaimError
        As `load`, also for an entry that selects no row, or a claim that it makes and that is none.
    """
    path = Path(path)
    content = _validated(tables.Tables, path).model_dump(mode="json", exclude_defaults=True)
    rows_of = rows_in(path.parent.parent / "printed")
    try:
        for entry in content["tables"]:
            if not any(tables.cells({"tables": [entry]}, rows_of)):
                raise ValueError(f"{entry['file']}: no row fits {entry.get('rows')}")
        made = [*content.get("claims", ()), *tables.expand(content, rows_of)]
        return tuple(_claim(content_of, path) for content_of in made)
    except (ArithmeticError, LookupError, ValueError) as error:
        raise ClaimError(f"{path}: {error}".replace(f"{path}: {path}", str(path))) from error


def load_all(folder: str | os.PathLike) -> list[Claims]:
    """Read every claims file of a folder, in the order of their names, with its tables.

    Raises
    ------
    ClaimError
        As `load` and `load_tables`.
    """
    folder = Path(folder)
    papers = [load(path) for path in sorted(folder.glob("*.yaml"))]
    for path in sorted((folder / "tables").glob("*.yaml")):
        if path.stem not in {of_paper.paper for of_paper in papers}:
            raise ClaimError(f"{path}: expected claims of {path.stem} beside it, found no file")
    return [_with_tables(of_paper, folder) for of_paper in papers]


def _with_tables(of_paper: Claims, folder: Path) -> Claims:
    path = folder / "tables" / f"{of_paper.paper}.yaml"
    if not path.is_file():
        return of_paper
    content = of_paper.model_dump() | {"claims": (*of_paper.claims, *load_tables(path))}
    return _validated(Claims, path, content)


def _validated(model: type, path: str | os.PathLike, content: Any = None) -> Any:
    path = Path(path)
    try:
        return model.model_validate(read_yaml(path) if content is None else content)
    except yaml.YAMLError as error:
        raise ClaimError(f"{path}: not YAML ({error})") from error
    except ValidationError as error:
        raise ClaimError(f"{path}: {_mistakes(error)}") from error


def _claim(content: dict[str, Any], path: Path) -> Claim:
    try:
        return Claim.model_validate(content)
    except ValidationError as error:
        raise ClaimError(f"{path}: claim {content['id']}: {_mistakes(error)}") from error


def _mistakes(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'file'}: {re.sub('^Value error, ', '', e['msg'])}"
        for e in error.errors()
    )


def rows_in(folder: Path) -> tables.Rows:
    """Return a reader of the CSV files of a folder, each read once."""
    return cache(lambda name: printed_rows(folder / name))


def printed_rows(path: str | os.PathLike) -> list[dict[str, str]]:
    """Return the rows of a CSV file in ``data/claims/printed``."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise ClaimError(f"{path}: cannot be read ({error})") from error


def printed_points(path: str | os.PathLike, quantity: str, method: str) -> dict[int, float]:
    """Return one curve of a CSV file in ``data/claims/printed``: iteration to digitised value."""
    rows = printed_rows(path)
    needed = {"quantity", "method", "iteration", "digitised"}
    if missing := needed.difference(*rows[:1]):
        raise ClaimError(f"{path}: expected columns {', '.join(sorted(missing))}, found none")
    found = {
        int(row["iteration"]): float(row["digitised"])
        for row in rows
        if (row["quantity"], row["method"]) == (quantity, method)
    }
    if len(found) < 2:
        raise ClaimError(
            f"{path}: expected at least 2 rows of quantity {quantity!r} and method {method!r}, "
            f"got {len(found)}"
        )
    return found
