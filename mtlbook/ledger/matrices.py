"""Verdicts as matrices: lines are comparisons; columns fractions of labels, measures, norms, sets.

Which claims are one comparison is read off their ids: they differ in the name of the column alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtlbook.ledger.numbers import interval, printed
from mtlbook.ledger.report import GROUPS, escape, kind, last_column

Row = Mapping[str, Any]

#: What columns stand for: a part of an id -> its head, "" where ids of a column have no such part.
#: The first axis that gives a comparison two columns takes it.
AXES: tuple[Mapping[str, str], ...] = (
    {"1": "1 %", "5": "5 %", "10": "10 %", "20": "20 %"},
    {"of0": "0 % wrong", "of20": "20 %", "of40": "40 %", "of60": "60 %"},
    {"accuracy": "accuracy", "auc": "AUC", "precision": "precision", "recall": "recall"},
    {"laf": "LAF", "tucker": "Tucker", "tt": "TT"},
    {"digits": "digits", "letters": "letters", "strokes": "strokes"},
    {"uniform": "all alike", "groups": "two groups", "signs": "opposites", "none": "unrelated"},
    {"rmse": "RMSE", "mae": "MAE"},
    {"": "EfficientNet-Lite0", "surf": "SURF"},
)

#: Words of ids -> names; what is not here is written as the id has it, with spaces.
NAMES = {
    name: name.upper() for name in "drn laf mrn mtal mtfl mtrl ple rmtl srdml stl tt l21".split()
}
NAMES |= {
    "full": "MRN",
    "dmtl-tf": "DMTL-TF",
    "mrn-t": "MRN_t",
    "mrn-8": "MRN_8",
    "t": "MRN_t",
    "ct": "MRN_t + classes",
    "ft": "MRN_t + features",
    "oracle": "known relation",
    "pooled": "one model for all",
    "fixed": "a fixed relation",
    "baselines": "all baselines",
    "own": "the tasks' own norms",
    "cross-entropy": "cross-entropy",
    "lasso": "Lasso",
    "mgda": "MGDA",
    "mmoe": "MMoE",
    "pcgrad": "PCGrad",
    "srdml-pcgrad": "SRDML with PCGrad",
}
#: The same for what is left of an id as a whole.
WHOLE = {
    "as-reported": "SRDML over hard sharing, the best epochs",
    "baselines": "the order of the baselines",
    "cifar-extra-epochs": "hard sharing, longer, over hard sharing",
    "cifar-longer": "SRDML over hard sharing, longer",
    "cifar-same-step": "the same at one step size",
    "gain": "SRDML minus STL",
    "gain-released": "the script as released",
    "gain-script": "the script's settings",
    "highest": "MRN over every other",
    "paper-gamma": "…, the paper's γ, over uncoupled",
}
_NAMES = re.compile(
    rf"(?<![a-z])({'|'.join(sorted(NAMES, key=len, reverse=True))})(?![a-z0-9])|[-.]"
)


@dataclass(frozen=True)
class Matrix:
    """Comparisons that share their columns.

    Attributes
    ----------
    paper, kind, family : str
        What all of its claims have in common (`report.kind`); the family is the second part of
        their ids.
    columns : tuple of str
        Heads.
    lines : tuple of (str, tuple of row or None)
        A comparison with its verdicts, as `mtlbook.ledger.audit.audit` returns them.
    """

    paper: str
    kind: str
    family: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Row | None, ...]], ...]


def arrange(rows: Sequence[Row]) -> tuple[list[Matrix], list[Row]]:
    """Arrange verdicts in matrices.

    Parameters
    ----------
    rows : sequence of dict
        As `mtlbook.ledger.audit.audit` returns them.

    Returns
    -------
    matrices : list of Matrix
    rest : list of dict
        Claims without another one that differs in the column alone.
    """
    found, rest = [], list(rows)
    for axis in AXES:
        comparisons: dict[tuple[str, str], dict[str, Row]] = {}
        for row in rest:
            if (parted := _part(row, axis)) is not None:
                column, stem = parted
                comparisons.setdefault((kind(row), stem), {})[column] = row
        families: dict[tuple[str, str, str], dict[str, dict[str, Row]]] = {}
        for (group, stem), of in comparisons.items():
            if len(of) > 1:
                paper, family, *_ = stem.split(".")
                families.setdefault((paper, group, family), {})[stem] = of
        for key, stems in families.items():
            found.append(_matrix(key, stems, axis))
        taken = {r["claim"] for of in families.values() for s in of.values() for r in s.values()}
        rest = [row for row in rest if row["claim"] not in taken]
    first = {row["claim"]: place for place, row in enumerate(rows)}
    found.sort(key=lambda of: min(first[r["claim"]] for _, line in of.lines for r in line if r))
    return found, rest


def _part(row: Row, axis: Mapping[str, str]) -> tuple[str, str] | None:
    """The column of a claim, and its id without it; None where it has none, or several."""
    parts = re.split(r"([.-])", row["claim"])
    places = [i for i, part in enumerate(parts) if i > 0 and part in axis and part]
    if not places and "" in axis:
        return "", row["claim"]
    if len(places) != 1:
        return None
    column = parts[places[0]]
    if column.isdigit() and not re.search(rf"/{column}(?!\d)", row["rule"]):
        return None  # a number of something else: the metric of a fraction of labels ends with it
    if "" in axis:
        del parts[places[0] : places[0] + 2]
    else:
        parts[places[0]] = "*"
    return column, "".join(parts)


def _matrix(
    key: tuple[str, str, str], stems: Mapping[str, Mapping[str, Row]], axis: Mapping[str, str]
) -> Matrix:
    columns = [c for c in axis if any(c in of for of in stems.values())]
    lines = tuple(
        (_label(stem, of), tuple(of.get(column) for column in columns))
        for stem, of in stems.items()
    )
    return Matrix(*key, tuple(axis[column] for column in columns), lines)


def _label(stem: str, of: Mapping[str, Row]) -> str:
    words = re.sub(r"-?\*-?", "-", ".".join(stem.split(".")[2:])).strip("-.")
    column, row = next(iter(of.items()))
    arms = re.search(r" of (\S+) minus (\S+?),", row["rule"])
    if not words:  # the column says it all: which arms, then
        name = re.compile(rf"\b{column}\b")
        return name.sub("…", f"{arms[1]} minus {arms[2]}") if arms else row["unit"] or "the claim"
    if words in WHOLE:
        return WHOLE[words]
    arm = arms[1] if arms and column not in arms[1].split("-") else "…"  # the column's own
    words = re.sub(r"^surf-", "SURF: ", re.sub(r"^(surf-)?over-", rf"\1{arm}-over-", words))
    return _NAMES.sub(lambda found: NAMES.get(found[0], " "), words)


def markdown(rows: Sequence[Row], page: str) -> str:
    """Return verdicts as Markdown: the matrices, and tables of what is left.

    Parameters
    ----------
    rows : sequence of dict
        As `mtlbook.ledger.audit.audit` returns them.
    page : str
        The address of the ledger page, to which every verdict leads.
    """
    found, rest = arrange(rows)
    lines = []
    for matrix in found:
        family = "" if matrix.family == "*" else escape(matrix.family)
        family = re.sub(r"(table|figure)(\d+)", r"\1 \2", family.replace("surf", "SURF"))
        family = family.removesuffix("-cells")
        lines += ["", f"| {family} | {' | '.join(matrix.columns)} |"]
        lines.append("|---" * (1 + len(matrix.columns)) + "|")
        for label, line in matrix.lines:
            cells = [_cell(row, page) if row else "" for row in line]
            lines.append(f"| {escape(label)} | {' | '.join(cells)} |")
    for group in GROUPS:
        of = [row for row in rest if kind(row) == group]
        head = f"claim | paper | ours [95 % interval] | n | {last_column(group)}"
        lines += ["", f"| {head} |", "|---" * 5 + "|"] if of else []
        lines += [f"| {' | '.join(_cells(row, page))} |" for row in of]
    return "\n".join([*lines, ""])


def _cells(row: Row, page: str) -> list[str]:
    statement = escape(row["statement"].removeprefix("[our control] "))
    return [statement, printed(row), interval(row), str(row["n"]), _link(row, page)]


def _cell(row: Row, page: str) -> str:
    paper = f"<br>paper {printed(row)}" if row["printed"] is not None else ""
    ours = f"<br>{interval(row)}" if row["n"] else ""
    return _link(row, page) + ours + paper


def _link(row: Row, page: str) -> str:
    return f'<a href="{page}#{row["claim"]}">{row["verdict"]}</a>'
