"""Rules on what is printed: whether a paper's numbers agree with each other.

Nothing is measured. A check is a question of our own; its answer is yes or no, `ours` the number of
those that do not agree, `n` the number of those looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from mtlbook.ledger.judgement import BaseRule, Judgement, Printed

Rows = Sequence[Mapping[str, str]]
Selection = dict[str, str | list[str]]
# What is found at one place: what is called, whether it agrees, and the numbers.
Found = Iterator[tuple[str, bool, str]]

_TEXTS = {
    "averages": "every printed average is the mean of its printed row, to the last digit",
    "bold": "the number in bold is the best of its column",
    "underlined": "the underlined number is the second best of its column",
    "lead": "the printed number of {method} is {side} than that of each of {over}, {most}",
    "accuracy": (
        "every printed accuracy is what macro precision p and recall r give for tasks that are "
        "alike, 1 - s (1 - r) - s r (1 - p) / p with the share s = {share:g} of positives, to "
        "{tolerance:g} points"
    ),
    "area": (
        "every printed area under the ROC curve is at least (1 + r - f) / 2, the area under the "
        "lines through the printed point; f is the rate of false positives that p, r and {s} give"
    ),
}


class PrintRule(BaseRule):
    """Printed numbers agree.

    `rows` selects those of `file`, a printed table; `marks` says what is bold or underlined in it.
    *lead* compares `method` with each of `over`, at every combination of the other columns; with
    `most` it has to lead in more than half. *accuracy* and *area* know the `share` of positives;
    without one it follows from accuracy, precision and recall.
    """

    kind: Literal["print"]
    check: Literal["averages", "bold", "underlined", "lead", "accuracy", "area"]
    file: str
    rows: Selection = Field(default_factory=dict)
    marks: str | None = None
    method: str | None = None
    over: tuple[str, ...] = ()
    sign: Literal[1, -1] = 1
    most: bool = False
    share: float | None = Field(default=None, gt=0, lt=1)
    tolerance: float = Field(default=0.0, ge=0)

    def text(self, printed: Printed) -> str:
        sentence = _TEXTS[self.check].format(
            method=self.method,
            side="higher" if self.sign > 0 else "lower",
            over=", ".join(self.over),
            most="in more than half of the columns" if self.most else "in every column",
            share=self.share or 0,
            tolerance=self.tolerance,
            s="the accuracy" if self.share is None else f"the share {self.share:g} of positives",
        )
        return f"In {self.file}: {sentence}."

    def judge(self, values: Any, printed: Printed) -> Judgement:
        """Judge the printed rows; `values` of ours play no part."""
        check = getattr(self, f"_{self.check}")
        found = list(check(printed))
        wrong = [f"{where}: {numbers}" for where, agrees, numbers in found if not agrees]
        n, enough = len(found), len(found) / 2 if self.most else 1
        if not found:
            return Judgement("not attempted", "no printed row is selected")
        why = f"{n - len(wrong)} of {n} agree"
        if wrong:
            why += f"; not {'; '.join(wrong)}"
        return Judgement("yes" if len(wrong) < enough else "no", why, float(len(wrong)), n=n)

    def _averages(self, printed: Printed) -> Found:
        rows: dict[tuple, dict[str, float]] = defaultdict(dict)
        for row in printed.table:
            at = row["table"], f"{row['train_percent']} %", row["method"]
            rows[at][row["task"]] = float(row["printed"])
        for at, numbers in rows.items():
            average = numbers.pop("Avg")
            mean = sum(numbers.values()) / len(numbers)
            off = abs(average - mean)
            note = ", which rounding before averaging can explain" if off < 0.1 + 1e-9 else ""
            yield " ".join(at), off < 0.05 + 1e-9, f"{average} printed, {mean:.3f} by row{note}"

    def _bold(self, printed: Printed) -> Found:
        return self._marked(printed, 0, "bold_in_print")

    def _underlined(self, printed: Printed) -> Found:
        return self._marked(printed, 1, "underlined_in_print")

    def _marked(self, printed: Printed, rank: int, column: str) -> Found:
        for mark in printed.marks:
            of = {
                row["method"]: float(row["printed"])
                for row in printed.table
                if row["dataset"] == mark["dataset"] and row["metric"] == mark["metric"]
            }
            right, marked = sorted(of, key=of.get, reverse=True)[rank], mark[column]
            numbers = f"{marked} ({of[marked]}) is marked, {right} has {of[right]}"
            yield f"{mark['dataset']} {mark['metric']}", of[marked] == of[right], numbers

    def _lead(self, printed: Printed) -> Found:
        columns: dict[str, dict[str, float]] = defaultdict(dict)
        for row in printed.table:
            place = [key for key in row if key not in _NO_PLACE and "printed" not in key]
            at = " ".join(row[key] + " %" * key.endswith("percent") for key in place)
            columns[at][row["method"]] = float(row["printed"])
        for at, of in columns.items():
            ahead = [m for m in self.over if self.sign * (of[self.method] - of[m]) <= 0]
            numbers = ", ".join(f"{m} {of[m]}" for m in ahead)
            yield at, not ahead, f"{of[self.method]} against {numbers}"

    def _accuracy(self, printed: Printed) -> Found:
        for at, accuracy, _, precision, recall in _scores(printed.table):
            implied = 100 * (1 - self.share * _errors(precision, recall))
            agrees = abs(100 * accuracy - implied) <= self.tolerance + 1e-9
            yield at, agrees, f"{100 * accuracy:.2f} printed, {implied:.2f} by precision and recall"

    def _area(self, printed: Printed) -> Found:
        for at, accuracy, area, precision, recall in _scores(printed.table):
            share = self.share or (1 - accuracy) / _errors(precision, recall)
            false = share * recall * (1 - precision) / precision / (1 - share)
            least = 50 * (1 + recall - false)
            yield at, 100 * area >= least, f"{100 * area:.2f} printed, at least {least:.2f}"


# Columns that do not tell one column of a printed table from another.
_NO_PLACE = ("paper", "method", "reprinted_by", "dataset", "metric")


def _scores(rows: Rows) -> Iterator[tuple[str, float, float, float, float]]:
    """Place, and accuracy, area, precision and recall as numbers up to 1."""
    of: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        of[f"{row['dataset']} {row['method']}"][row["metric"]] = float(row["printed"]) / 100
    for at, scores in of.items():
        yield at, *(scores[f"{m}_percent"] for m in ("accuracy", "auc", "precision", "recall"))


def _errors(precision: float, recall: float) -> float:
    """Wrong answers for each positive: those missed, and those that are none."""
    return 1 - recall + recall * (1 - precision) / precision
