"""Rules: how a claim is judged, one class a kind.

A rule has two faces: `text` says it in a sentence, `judge` applies it to measured values. Both are
pure; repeats are the unit of replication, and arms are paired over them. A metric may name one
task, ``accuracy_percent[3]``. Who asked, on which data and with what a placebo does is weighed
afterwards (`mtlbook.ledger.verdicts`). Rules on what is printed alone are in `print_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from mtlbook.ledger.judgement import Answer, BaseRule, Judgement, Printed, Verdict
from mtlbook.ledger.pairs import MINIMUM_REPEATS, Pair, Values
from mtlbook.ledger.print_rules import PrintRule
from mtlbook.ledger.statistics import (
    Interval,
    mean_interval,
    prediction_interval,
    spearman,
    spread_ratio_interval,
)


class ValueRule(BaseRule):
    """The interval of the mean lies within a tolerance of the printed number (equivalence)."""

    kind: Literal["value"]
    arm: str
    metric: str
    tolerance: float = Field(gt=0)
    relative: bool = False

    def text(self, printed: Printed) -> str:
        allowed = f"{100 * self.tolerance:g} %" if self.relative else f"{self.tolerance:g}"
        return (
            f"{self.metric} of {self.arm}: the 95 % interval of the mean lies within {allowed} of "
            f"{printed.text}."
        )

    def judge(self, values: Values, printed: Printed) -> Judgement:
        measured = list(values(self.arm, self.metric, None).values())
        if len(measured) < MINIMUM_REPEATS:
            return _too_few(measured)
        ours, new = mean_interval(measured), prediction_interval(measured)
        allowed = self.tolerance * (abs(printed.value) if self.relative else 1)
        low, high = printed.value - allowed, printed.value + allowed
        if printed.single_run and not new.low <= printed.value <= new.high:
            why = f"a new run lies in [{new.low:.4g}, {new.high:.4g}], the printed one outside"
            return _judgement("refuted at the printed size", why, ours)
        where = f"[{low:.4g}, {high:.4g}], the margin stated before the run"
        if low <= ours.low and ours.high <= high:
            return _judgement("reproduced", f"the interval lies within {where}", ours)
        if ours.high < low or high < ours.low:
            why = f"the interval lies outside {where}"
            return _judgement("refuted at the printed size", why, ours)
        return _judgement("undecided", f"the interval crosses an end of {where}", ours)


class DifferenceRule(BaseRule):
    """One arm beats another; by the printed size, where a margin for it was stated before the run.

    Without a printed number the margin is one around 0: within it, arms are called equal.
    ``draws`` names the metric of the same comparison with other draws of the settings that both
    arms chose from: the interval is over repeats *and* draws then, of which a verdict needs five.
    """

    kind: Literal["difference"]
    arm: str
    reference: str
    metric: str
    sign: Literal[1, -1] = 1
    margin: float | None = Field(default=None, gt=0)
    draws: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _enough_draws(self) -> DifferenceRule:
        of = {self.metric, *self.draws}
        if self.draws and not MINIMUM_REPEATS <= len(of) == 1 + len(self.draws):
            raise ValueError(
                f"draws: expected {MINIMUM_REPEATS - 1} different ones beside metric at least, got "
                f"{list(self.draws)}"
            )
        return self

    def text(self, printed: Printed) -> str:
        side = "above" if self.sign > 0 else "below"
        sentence = (
            f"{self.metric} of {self.arm} minus {self.reference}, paired over repeats: the 95 % "
            f"interval{self._over} lies {side} 0"
        )
        if printed.value is not None and self.margin is not None:
            sentence += f" and within {self.margin:g} of {printed.text}"
        elif printed.value is not None:
            sentence += f"; no margin around {printed.text} was stated"
        elif self.margin is not None:
            sentence += f"; equal where it lies within {self.margin:g} of 0"
        return sentence + "."

    @property
    def _over(self) -> str:
        if not self.draws:
            return ""
        return f" over repeats and {1 + len(self.draws)} draws ({', '.join(self.draws)} beside it)"

    def pairs(self, values: Values) -> list[Pair]:
        """Both arms compared, in every draw, at the repeats that all draws have."""
        found = [
            Pair.of(values, (self.arm, metric), (self.reference, metric))
            for metric in (self.metric, *self.draws)
        ]
        if not self.draws:
            return found
        common = set.intersection(*(set(pair.repeats) for pair in found))
        return [pair.at(common) for pair in found]

    def judge(
        self, values: Values, printed: Printed, over_images: Interval | None = None
    ) -> Judgement:
        """Judge by the interval over repeats, or by the one over repeats and images if given."""
        pairs = self.pairs(values)
        pair = pairs[0]
        if pair.n < MINIMUM_REPEATS:
            return _too_few(pair.differences)
        pair = Pair.over_draws(pairs) if self.draws else replace(pair, wide=over_images)
        ours, p = pair.interval, pair.p
        interval = "the interval"
        if pair.wide:
            interval = f"{interval} over repeats and {pair.crossed_with}"
        around = printed.value or 0.0
        within = self.margin is not None and (
            around - self.margin <= ours.low and ours.high <= around + self.margin
        )
        if printed.value is None and within:
            why = f"{interval} lies within {self.margin:g} of 0"
            return _judgement("equal within a margin", why, ours, p)
        if pair.lies(-self.sign):
            side = "below" if self.sign > 0 else "above"
            return _judgement("opposite", f"{interval} lies {side} 0", ours, p)
        holds = pair.lies(self.sign)
        side = "above" if self.sign > 0 else "below"
        why = f"{interval} lies {side} 0" if holds else f"{interval} contains 0"
        if holds and within:
            why = f"{why} and within {self.margin:g} of {printed.text}, stated before the run"
            return _judgement("reproduced", why, ours, p)
        missed = self._missed(pair, printed)
        if missed:
            return _judgement("refuted at the printed size", f"{why}; {missed}", ours, p)
        if holds:
            return _judgement("direction", why, ours, p)
        return _judgement("undecided", f"{why}; {pair.power(printed.value)}", ours, p)

    @staticmethod
    def _missed(pair: Pair, printed: Printed) -> str | None:
        """Say how the printed number is excluded, None where it is not."""
        if printed.value is None:
            return None
        if printed.single_run:
            low, high = prediction_interval(pair.differences)[1:3]
            what = f"a new run of ours lies in [{low:.3g}, {high:.3g}]"
        else:
            low, high = pair.interval.low, pair.interval.high
            what = "the interval"
        if low <= printed.value + printed.margin and printed.value - printed.margin <= high:
            return None
        margin = f" ± {printed.margin:.2g}" if printed.margin else ""
        return f"{what}{', and' if printed.single_run else ''} excludes {printed.text}{margin}"


class OrderRule(BaseRule):
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
        pairs = [Pair.of(values, a, b) for a, b in pairwise(self._items)]
        names = [f"the step {a} over {b}" for a, b in pairwise(self._names)]
        return _all_on_side(dict(zip(names, pairs, strict=True)), 1)


class BoundRule(BaseRule):
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
        pairs = {f"against {r}": Pair.of(values, arm, (r, self.metric)) for r in self.references}
        return _all_on_side(pairs, self.sign)


class Points(BaseRule):
    """Where a printed curve stands: rows of a CSV file beside the claims."""

    file: str
    quantity: str
    method: str


class CurveRule(BaseRule):
    """A curve of means follows the printed points; what is reported is the median deviation."""

    kind: Literal["curve"]
    arm: str
    metric: str
    points: Points
    tolerance: float = Field(gt=0)

    def text(self, printed: Printed) -> str:
        return (
            f"{self.metric} of {self.arm} at the {len(printed.points)} digitised iterations: the "
            f"95 % interval of the median relative deviation of the mean over repeats lies below "
            f"{100 * self.tolerance:g} %."
        )

    def judge(self, values: Values, printed: Printed) -> Judgement:
        measured = {step: values(self.arm, self.metric, step) for step in printed.points}
        missing = [str(step) for step, of_step in measured.items() if not of_step]
        if missing:
            return Judgement("not attempted", f"nothing measured at step {', '.join(missing)}")
        repeats = sorted(set.intersection(*(set(of_step) for of_step in measured.values())))
        curves = np.array([[of_step[r] for of_step in measured.values()] for r in repeats])
        target = np.array(list(printed.points.values()))

        def deviation(curve: np.ndarray) -> float:
            return float(np.median(np.abs(curve - target) / np.abs(target)))

        mean, n = curves.mean(axis=0), len(repeats)
        if n < MINIMUM_REPEATS:
            return replace(_too_few(repeats), ours=deviation(mean))
        # What is judged is no mean over repeats: the jackknife turns it into one.
        without = [deviation(np.delete(curves, i, axis=0).mean(axis=0)) for i in range(n)]
        spread = mean_interval([n * deviation(mean) - (n - 1) * x for x in without])
        half = spread.high - spread.mean
        centre = deviation(mean)
        ours = Interval(centre, max(0.0, centre - half), centre + half, n)
        # No verdict follows from the order alone: any two curves that fall have a correlation of 1.
        why = (
            f"median deviation {100 * centre:.1f} %, rank correlation {spearman(mean, target):.2f}"
        )
        if ours.high <= self.tolerance:
            return _judgement("reproduced", why, ours)
        refuted = ours.low > self.tolerance
        return _judgement("refuted at the printed size" if refuted else "undecided", why, ours)


class SpreadRule(BaseRule):
    """The spread over repeats is the printed one, up to a factor (equivalence of two deviations).

    Both are estimates, the printed one over `printed_n` repeats; normal values are assumed.
    """

    kind: Literal["spread"]
    arm: str
    metric: str
    printed_n: int = Field(gt=1)
    factor: float = Field(gt=1)

    def text(self, printed: Printed) -> str:
        return (
            f"standard deviation of {self.metric} of {self.arm} over repeats: the 95 % interval of "
            f"its ratio to {printed.text}, printed over {self.printed_n} repeats, lies between "
            f"1/{self.factor:g} and {self.factor:g}."
        )

    def judge(self, values: Values, printed: Printed) -> Judgement:
        measured = list(values(self.arm, self.metric, None).values())
        if len(measured) < MINIMUM_REPEATS:
            return replace(_too_few(measured), ours=None)
        ratio = spread_ratio_interval(measured, printed.value, self.printed_n)
        ours = Interval(*(x * printed.value for x in ratio[:3]), ratio.n)
        why = f"the interval of the ratio is [{ratio.low:.2g}, {ratio.high:.2g}]"
        if 1 / self.factor <= ratio.low and ratio.high <= self.factor:
            return _judgement("reproduced", why, ours)
        if ratio.low > 1 or ratio.high < 1:
            return _judgement("refuted at the printed size", why, ours)
        return _judgement("undecided", why, ours)


Rule = Annotated[
    ValueRule | DifferenceRule | OrderRule | BoundRule | CurveRule | SpreadRule | PrintRule,
    Field(discriminator="kind"),
]


def printed_margin(stds: tuple[float, float], n: int) -> float:
    """Half-width of the 95 % interval of a difference of two printed means over n repeats each."""
    from scipy.special import stdtrit

    # n - 1 degrees of freedom are the fewest that two unequal variances can leave
    return float(stdtrit(n - 1, 0.975)) * math.sqrt((stds[0] ** 2 + stds[1] ** 2) / n)


def _all_on_side(pairs: Mapping[str, Pair], sign: int) -> Judgement:
    """All differences have to hold; the one that does so least is reported."""
    nearest, pair = min(
        pairs.items(), key=lambda item: sign * np.mean(item[1].differences or [0.0])
    )
    fewest = min(pairs.values(), key=lambda of: of.n)
    if fewest.n < MINIMUM_REPEATS:
        return _too_few(fewest.differences)
    side, ours, p = (
        "above" if sign > 0 else "below",
        pair.interval,
        max(x.p for x in pairs.values()),
    )
    contrary = [name for name, of in pairs.items() if of.lies(-sign)]
    if contrary:
        other = "below" if sign > 0 else "above"
        why = f"the interval lies {other} 0: {', '.join(contrary)}"
        return _judgement("opposite", why, ours, pair.p)
    if all(of.lies(sign) for of in pairs.values()):
        return _judgement(
            "direction", f"every interval lies {side} 0; the smallest {nearest}", ours, p
        )
    why = f"not every interval lies {side} 0; the smallest {nearest}: {pair.power()}"
    return _judgement("undecided", why, ours, p)


def _too_few(measured: Sequence[float]) -> Judgement:
    n = len(measured)
    why = f"needs {MINIMUM_REPEATS} repeats of every arm, has {n}"
    if n == 0:
        return Judgement("not attempted", why)
    return Judgement("undecided", why, float(np.mean(measured)), n=n)


def _judgement(
    verdict: Verdict | Answer, why: str, ours: Interval, p: float | None = None
) -> Judgement:
    return Judgement(verdict, why, ours.mean, ours.low, ours.high, ours.n, p)
