"""What a rule gives: a verdict, the number it rests on, and why; and what a paper prints.

A rule has two faces: `text` says it in a sentence, `judge` applies it to measured values. Both are
pure; the kinds of rules are in `rules` and `print_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

# Of a paper's claim.
Verdict = Literal[
    "reproduced",
    "direction",
    "refuted at the printed size",
    "opposite",
    "undecided",
    "calibrated on it",
    "not comparable",
    "not attempted",
]
# To a question of our own.
Answer = Literal["yes", "no", "equal within a margin", "undecided", "not attempted"]


@dataclass(frozen=True)
class Printed:
    """What the paper prints.

    Attributes
    ----------
    text : str or None
        The printed number with its decimals.
    margin : float
        Half-width of its 95 % interval, where a spread is printed; else 0.
    single_run : bool
        It comes from one run, or is printed without a spread: nothing says that it is a mean.
    points : mapping of int to float
        A printed curve: iteration to value.
    table : sequence of mapping
        Rows of a printed table, as its CSV file has them; of those a rule is about.
    marks : sequence of mapping
        What is bold or underlined in it, likewise.
    """

    text: str | None = None
    margin: float = 0.0
    single_run: bool = False
    points: Mapping[int, float] = field(default_factory=dict)
    table: Sequence[Mapping[str, str]] = ()
    marks: Sequence[Mapping[str, str]] = ()

    @property
    def value(self) -> float | None:
        return None if self.text is None else float(self.text)


@dataclass(frozen=True)
class Judgement:
    """A verdict, the number it rests on with its 95 % interval, and a sentence that says why.

    `p` is that of the number against 0, of the least certain one where several have to hold.
    """

    verdict: Verdict | Answer
    why: str
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    p: float | None = None


class BaseRule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
