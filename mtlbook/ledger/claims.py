"""Claims: what a paper prints, and the rule that will judge it.

One YAML file a paper in ``data/claims``; it is committed before the results it judges.
"""

from __future__ import annotations

import csv
import os
import re
from datetime import date
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mtlbook.documents import read_yaml
from mtlbook.ledger.rules import (
    CurveRule,
    DifferenceRule,
    Printed,
    Rule,
    ValueRule,
    printed_margin,
)


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
        The first one with results decides; the later ones are stand-ins.
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
    experiments: tuple[str, ...] = Field(min_length=1)
    rule: Rule
    comparable: str | None = None
    calibrated: str | None = None
    single_run: bool = False
    constants: dict[str, float] = Field(default_factory=dict)
    placebo: tuple[str, ...] = ()
    headline: bool = False
    revised: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Claim:
        if (self.asked_by == "us") != (self.known is None):
            raise ValueError("known: expected for a claim of the paper, and only there")
        if self.printed is not None and self.known in (None, "memory"):
            raise ValueError("printed: a number from memory or of our own is not a printed one")
        if isinstance(self.rule, ValueRule) and self.printed is None:
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
    def marked_statement(self) -> str:
        """The statement, marked where it must not pass for the paper's."""
        if self.known == "memory":
            return f"[reported from memory, not verified; not the paper's words] {self.statement}"
        if self.asked_by == "us":
            return f"[our control] {self.statement}"
        return self.statement

    def resolve_printed(self, folder: Path) -> Printed:
        """Return printed number, margin and points; `folder` holds the CSV files of curves."""
        margin = 0.0
        if self.printed_std is not None:
            a, b = self.printed_std
            margin = printed_margin((float(a), float(b)), self.printed_n)
        points = {}
        if isinstance(self.rule, CurveRule):
            of = self.rule.points
            points = printed_points(folder / of.file, of.quantity, of.method)
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


class Revision(BaseModel):
    """Why claims of a file were changed, or first asked, after the runs that they judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    day: date  # not `on`, which is "true" in YAML
    why: str = Field(min_length=1)


class Claims(BaseModel):
    """The claims of one paper.

    ``revised`` is for a change of many claims at once; each such change adds an entry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str = Field(pattern=r"^[a-z0-9]+$")
    title: str
    source: str
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


def load(path: str | os.PathLike) -> Claims:
    """Read and validate one claims file.

    Raises
    ------
    ClaimError
        If the file is not YAML or not valid; the message names the fields.
    """
    path = Path(path)
    try:
        return Claims.model_validate(read_yaml(path))
    except yaml.YAMLError as error:
        raise ClaimError(f"{path}: not YAML ({error})") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'])) or 'file'}: {re.sub('^Value error, ', '', e['msg'])}"
            for e in error.errors()
        ]
        raise ClaimError(f"{path}: " + "; ".join(lines)) from error


def load_all(folder: str | os.PathLike) -> list[Claims]:
    """Read every claims file of a folder, in the order of their names."""
    return [load(path) for path in sorted(Path(folder).glob("*.yaml"))]


def printed_points(path: str | os.PathLike, quantity: str, method: str) -> dict[int, float]:
    """Return one curve of a CSV file in ``data/claims/printed``: iteration to digitised value."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise ClaimError(f"{path}: cannot be read ({error})") from error
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
