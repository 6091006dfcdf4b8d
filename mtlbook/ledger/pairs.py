"""Two arms compared, repeat by repeat."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mtlbook.ledger.statistics import (
    NOISE,
    Interval,
    detectable,
    mean_interval,
    p_value,
    p_value_of,
    repeats_needed,
    standard_error,
    two_way_interval,
)

# ``values(arm, metric, step)`` -> {repeat: value}; the signature of `Result.values`.
Values = Callable[[str, str, int | None], Mapping[int, float]]

# Below, no interval is drawn and no verdict reached.
MINIMUM_REPEATS = 5


@dataclass(frozen=True)
class Pair:
    """Arm minus reference, one difference for each repeat of both.

    ``wide`` is the interval over repeats and what is crossed with them: images that repeats share,
    where those were kept, or draws of the settings that both arms chose from.
    """

    differences: tuple[float, ...]
    wide: Interval | None = None
    crossed_with: str = "images"
    repeats: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: Values, arm: tuple[str, str], reference: tuple[str, str]) -> Pair:
        """Compare two pairs of arm and metric; two numbers that differ by rounding are equal."""
        a, b = values(*arm, None), values(*reference, None)
        differences, repeats = [], sorted(set(a) & set(b))
        for repeat in repeats:
            difference = a[repeat] - b[repeat]
            noise = NOISE * max(abs(a[repeat]), abs(b[repeat]))
            differences.append(0.0 if abs(difference) <= noise else difference)
        return cls(tuple(differences), repeats=tuple(repeats))

    @classmethod
    def over_draws(cls, draws: Sequence[Pair]) -> Pair:
        """One comparison of several draws with the same repeats: the means over draws.

        What the interval rests on, and counts as its ``n``, is the smaller number of the two.
        """
        sets = {pair.repeats for pair in draws}
        if len(sets) > 1:
            raise ValueError(f"draws: expected the same repeats of all, got {sorted(sets)}")
        of = np.array([pair.differences for pair in draws]).T
        wide = two_way_interval(of)._replace(n=min(of.shape))
        return cls(tuple(of.mean(axis=1).tolist()), wide, "draws", draws[0].repeats)

    def at(self, repeats: Collection[int]) -> Pair:
        """The same at some of its repeats."""
        kept = [(d, r) for d, r in zip(self.differences, self.repeats, strict=True) if r in repeats]
        differences, repeats = zip(*kept, strict=True) if kept else ((), ())
        return replace(self, differences=differences, repeats=repeats)

    @property
    def n(self) -> int:
        """Number of repeats."""
        return len(self.differences)

    @cached_property
    def interval(self) -> Interval:
        """The 95 % interval of the mean."""
        return self.wide or mean_interval(self.differences)

    @property
    def p(self) -> float:
        """Of the test that the mean is 0."""
        return p_value_of(self.wide) if self.wide else p_value(self.differences)

    def lies(self, sign: int) -> bool:
        """Whether the interval lies above 0 (sign 1) or below (-1)."""
        return self.interval.low > 0 if sign > 0 else self.interval.high < 0

    def power(self, effect: float | None = None) -> str:
        """Say what these repeats could have found, and how many would find `effect`.

        Without a printed effect, the observed one. "Find" is a power of 80 %.
        """
        if np.ptp(self.differences) == 0:
            return f"the same in all {self.n} repeats"
        sd, n = float(np.std(self.differences, ddof=1)), self.interval.n
        sampled = "repeats"
        if self.wide:
            sd = standard_error(self.wide) * n**0.5
            # images would have to become more at the same rate; draws with as many repeats each
            sampled = (
                "repeats with images of their own" if self.crossed_with == "images" else "draws"
            )
        which = "observed" if effect is None else "printed"
        needed = repeats_needed(sd, self.interval.mean if effect is None else effect)
        many = "no number of repeats" if needed is None else max(needed, MINIMUM_REPEATS)
        return (
            f"{n} {sampled} find an effect of {detectable(sd, n):.2g} four times of "
            f"five, {many} would find the {which} one"
        )
