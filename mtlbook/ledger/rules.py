"""Rules: how a claim is judged, one class a kind.

A rule has two faces: `text` says it in a sentence, `judge` applies it to measured values. Both are
pure; repeats are the unit of replication, and arms are paired over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mtlbook.ledger.statistics import (
    Interval,
    bootstrap_mean,
    paired_bootstrap,
    resampled_means,
    spearman,
)

Verdict = Literal["reproduced", "direction", "not reproduced", "not attempted"]

# ``values(arm, metric, step)`` -> {repeat: value}; the signature of `Result.values`.
Values = Callable[[str, str, int | None], Mapping[int, float]]

MINIMUM_REPEATS = 3


@dataclass(frozen=True)
class Printed:
    """What the paper prints.

    Attributes
    ----------
    text : str or None
        The printed number with its decimals.
    margin : float
        Half-width of its 95 % interval, where a spread is printed; else 0.
    points : mapping of int to float
        A printed curve: iteration to value.
    """

    text: str | None = None
    margin: float = 0.0
    points: Mapping[int, float] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        return None if self.text is None else float(self.text)


@dataclass(frozen=True)
class Judgement:
    """A verdict, the number it rests on with its 95 % interval, and a sentence that says why."""

    verdict: Verdict
    why: str
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ValueRule(_Rule):
    """The mean over repeats lies within a tolerance of the printed number."""

    kind: Literal["value"]
    arm: str
    metric: str
    tolerance: float = Field(gt=0)
    relative: bool = False

    def text(self, printed: Printed) -> str:
        allowed = f"{100 * self.tolerance:g} %" if self.relative else f"{self.tolerance:g}"
        return f"The mean of {self.metric} of {self.arm} lies within {allowed} of {printed.text}."

    def judge(self, values: Values, printed: Printed) -> Judgement:
        measured = list(values(self.arm, self.metric, None).values())
        if len(measured) < MINIMUM_REPEATS:
            return _too_few(len(measured))
        ours = bootstrap_mean(measured)
        distance = abs(ours.mean - printed.value)
        allowed = self.tolerance * (abs(printed.value) if self.relative else 1)
        inside = distance <= allowed
        why = (
            f"the mean is {distance:.3g} from the printed number, "
            f"{'within' if inside else 'outside'} the tolerance of {allowed:.3g}"
        )
        return _judgement("reproduced" if inside else "not reproduced", why, ours)


class DifferenceRule(_Rule):
    """One arm beats another, by the printed margin where one is printed."""

    kind: Literal["difference"]
    arm: str
    reference: str
    metric: str
    sign: Literal[1, -1] = 1
    margin: float | None = Field(default=None, gt=0)  # within it two arms are called equal

    def text(self, printed: Printed) -> str:
        side = "above" if self.sign > 0 else "below"
        sentence = (
            f"{self.metric} of {self.arm} minus {self.reference}, paired over repeats: the 95 % "
            f"interval lies {side} 0"
        )
        if printed.value is not None:
            sentence += f" and overlaps {printed.text}"
            sentence += f" ± {printed.margin:.2g}" if printed.margin else ""
        return sentence + "."

    def judge(self, values: Values, printed: Printed) -> Judgement:
        ours, n = _paired(values, (self.arm, self.metric), (self.reference, self.metric))
        if ours is None:
            return _too_few(n)
        if ours.low <= 0 <= ours.high:
            return _judgement("not reproduced", "a tie: the interval contains 0", ours)
        side = "above" if ours.low > 0 else "below"
        if not _on_side(ours, self.sign):
            return _judgement("not reproduced", f"the interval lies {side} 0: the opposite", ours)
        if printed.value is None:
            return _judgement("reproduced", f"the interval lies {side} 0", ours)
        overlaps = (
            ours.low <= printed.value + printed.margin
            and ours.high >= printed.value - printed.margin
        )
        why = (
            f"the interval lies {side} 0 and {'overlaps' if overlaps else 'misses'} the printed "
            "difference"
        )
        return _judgement("reproduced" if overlaps else "direction", why, ours)


class OrderRule(_Rule):
    """Arms in one metric (or metrics of one arm) come in the claimed order, largest first."""

    kind: Literal["order"]
    arms: tuple[str, ...] | None = None
    metric: str | None = None
    arm: str | None = None
    metrics: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> OrderRule:
        arms = self.arms is not None and self.metric is not None
        metrics = self.arm is not None and self.metrics is not None
        given = sum(x is not None for x in (self.arms, self.metric, self.arm, self.metrics))
        if given != 2 or not (arms or metrics):
            raise ValueError("order: expected either arms and metric, or arm and metrics")
        if len(self._items) < 2:
            raise ValueError("order: expected at least two entries")
        return self

    @property
    def _items(self) -> list[tuple[str, str]]:
        if self.arms is not None:
            return [(arm, self.metric) for arm in self.arms]
        return [(self.arm, metric) for metric in self.metrics]

    @property
    def _names(self) -> list[str]:
        return list(self.arms if self.arms is not None else self.metrics)

    def text(self, printed: Printed) -> str:
        of = self.metric if self.arms is not None else self.arm
        return (
            f"{of}: {' > '.join(self._names)}; the 95 % interval of every adjacent paired "
            "difference lies above 0."
        )

    def judge(self, values: Values, printed: Printed) -> Judgement:
        pairs = [_paired(values, a, b) for a, b in pairwise(self._items)]
        if any(ours is None for ours, _ in pairs):
            return _too_few(min(n for _, n in pairs))
        steps = list(zip(pairwise(self._names), (ours for ours, _ in pairs), strict=True))
        (first, second), smallest = min(steps, key=lambda step: step[1].mean)
        where = f"the smallest step is {first} over {second}"
        if all(ours.low > 0 for ours, _ in pairs):
            return _judgement(
                "reproduced", f"every adjacent interval lies above 0; {where}", smallest
            )
        if smallest.mean > 0:
            return _judgement(
                "direction",
                f"the means come in this order, not every adjacent interval lies above 0; {where}",
                smallest,
            )
        return _judgement("not reproduced", f"the means come in another order; {where}", smallest)


class BoundRule(_Rule):
    """One arm is the highest (sign 1) or the lowest (sign -1) of all named."""

    kind: Literal["bound"]
    arm: str
    metric: str
    references: tuple[str, ...] = Field(min_length=1)
    sign: Literal[1, -1]

    def text(self, printed: Printed) -> str:
        side = "above" if self.sign > 0 else "below"
        return (
            f"{self.metric} of {self.arm} minus each of {', '.join(self.references)}, paired over "
            f"repeats: every 95 % interval lies {side} 0."
        )

    def judge(self, values: Values, printed: Printed) -> Judgement:
        arm = (self.arm, self.metric)
        pairs = {name: _paired(values, arm, (name, self.metric)) for name in self.references}
        if any(ours is None for ours, _ in pairs.values()):
            return _too_few(min(n for _, n in pairs.values()))
        differences = {name: ours for name, (ours, _) in pairs.items()}
        name, nearest = min(differences.items(), key=lambda pair: self.sign * pair[1].mean)
        where = f"the closest is {name}"
        if all(_on_side(ours, self.sign) for ours in differences.values()):
            return _judgement(
                "reproduced", f"every interval lies on that side of 0; {where}", nearest
            )
        if self.sign * nearest.mean > 0:
            why = f"every mean lies on that side of 0, not every interval; {where}"
            return _judgement("direction", why, nearest)
        return _judgement("not reproduced", f"not of every arm the mean; {where}", nearest)


class Points(_Rule):
    """Where a printed curve stands: rows of a CSV file beside the claims."""

    file: str
    quantity: str
    method: str


class CurveRule(_Rule):
    """A curve of means follows the printed points; what is reported is the median deviation."""

    kind: Literal["curve"]
    arm: str
    metric: str
    points: Points
    tolerance: float = Field(gt=0)

    def text(self, printed: Printed) -> str:
        return (
            f"{self.metric} of {self.arm} at the {len(printed.points)} digitised iterations: the "
            f"median relative deviation of the mean over repeats is at most "
            f"{100 * self.tolerance:g} % (direction: rank correlation at least 0.9)."
        )

    def judge(self, values: Values, printed: Printed) -> Judgement:
        measured = {step: values(self.arm, self.metric, step) for step in printed.points}
        missing = [str(step) for step, of_step in measured.items() if not of_step]
        if missing:
            return Judgement("not attempted", f"nothing measured at step {', '.join(missing)}")
        repeats = sorted(set.intersection(*(set(of_step) for of_step in measured.values())))
        if len(repeats) < MINIMUM_REPEATS:
            return _too_few(len(repeats))
        curves = np.array([[of_step[r] for of_step in measured.values()] for r in repeats])
        target = np.array(list(printed.points.values()))

        def deviation(curve: np.ndarray) -> np.ndarray:
            return np.median(np.abs(curve - target) / np.abs(target), axis=-1)

        mean = curves.mean(axis=0)
        low, high = np.quantile(deviation(resampled_means(curves)), [0.025, 0.975])
        ours = Interval(float(deviation(mean)), float(low), float(high), len(repeats))
        correlation = spearman(mean, target)
        why = f"median deviation {100 * ours.mean:.1f} %, rank correlation {correlation:.2f}"
        if ours.mean <= self.tolerance:
            return _judgement("reproduced", why, ours)
        return _judgement("direction" if correlation >= 0.9 else "not reproduced", why, ours)


Rule = Annotated[
    ValueRule | DifferenceRule | OrderRule | BoundRule | CurveRule, Field(discriminator="kind")
]


def printed_margin(stds: tuple[float, float], n: int) -> float:
    """Half-width of the 95 % interval of a difference of two printed means over n repeats each."""
    return 1.96 * math.sqrt((stds[0] ** 2 + stds[1] ** 2) / n)


def _paired(
    values: Values, arm: tuple[str, str], reference: tuple[str, str]
) -> tuple[Interval | None, int]:
    """Interval of arm minus reference over the repeats of both, None where they are too few."""
    a, b = values(*arm, None), values(*reference, None)
    repeats = sorted(set(a) & set(b))
    if len(repeats) < MINIMUM_REPEATS:
        return None, len(repeats)
    return paired_bootstrap([a[r] - b[r] for r in repeats]), len(repeats)


def _on_side(ours: Interval, sign: int) -> bool:
    return ours.low > 0 if sign > 0 else ours.high < 0


def _too_few(n: int) -> Judgement:
    return Judgement("not attempted", f"needs {MINIMUM_REPEATS} repeats of every arm, has {n}", n=n)


def _judgement(verdict: Verdict, why: str, ours: Interval) -> Judgement:
    return Judgement(verdict, why, ours.mean, ours.low, ours.high, ours.n)
