"""Many arms on many problems: gains, who wins, average ranks, regret."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtlbook.ledger.results import Result
from mtlbook.ledger.statistics import Interval, mean_interval, two_way_interval

Scores = Mapping[str, np.ndarray]  # of each arm its score in every repeat, paired


def scores_of(result: Result, problem: str, metric: str = "score") -> dict[str, np.ndarray]:
    """The arms of one problem, each with a number per repeat, in the order of the repeats.

    Raises
    ------
    ValueError
        If the arms do not have the same repeats, or there is none.
    """
    name = f"{metric}/{problem}"
    arms = dict.fromkeys(record["arm"] for record in result.records if record["metric"] == name)
    found = {arm: result.values(arm, name) for arm in arms}
    repeats = {tuple(sorted(values)) for values in found.values()}
    if len(repeats) != 1:
        raise ValueError(
            f"{problem}: expected the same repeats of every arm, got {len(repeats)} different sets"
        )
    (repeats,) = repeats
    return {arm: np.array([values[r] for r in repeats]) for arm, values in found.items()}


def gains(scores: Scores, reference: str = "stl") -> dict[str, Interval]:
    """Of every other arm the mean of its paired gains over the reference, with its interval."""
    base = scores[reference]
    return {arm: mean_interval(own - base) for arm, own in scores.items() if arm != reference}


def over_draws(
    draws: Sequence[Scores], arm: str, reference: str = "stl"
) -> tuple[Interval, np.ndarray]:
    """An arm's mean gain over repeats and draws of settings, or whole replications of a problem.

    Parameters
    ----------
    draws : sequence of Scores
        Of each draw, with the same number of repeats.
    arm, reference : str

    Returns
    -------
    Interval
        Both repeats and draws are taken for random.
    array, shape ``(draws,)``
        The mean gain in each.
    """
    of = np.stack([scores[arm] - scores[reference] for scores in draws], 1)
    return two_way_interval(of), of.mean(0)


@dataclass(frozen=True)
class Advice:
    """What to take on one problem.

    Attributes
    ----------
    best : str
        The arm of the highest mean.
    equal : list of str
        Arms, the best one among them, that fall behind it by less than the margin, for certain:
        the upper end of the 95 % interval of the paired difference lies below it.
    cheapest : str
        Of these the one that costs least.
    """

    best: str
    equal: list[str]
    cheapest: str


def advise(scores: Scores, costs: Mapping[str, float], *, margin: float = 1.0) -> Advice:
    """The best arm, and the cheapest of those that are as good within a margin.

    The best of many is partly lucky, so an arm that is as good may be missed: `equal` is never too
    long by more than chance lets one arm be.
    """
    best = max(scores, key=lambda arm: scores[arm].mean())
    equal = [
        arm
        for arm, own in scores.items()
        if arm == best or mean_interval(scores[best] - own).high < margin
    ]
    return Advice(best, equal, min(equal, key=costs.__getitem__))


def average_ranks(problems: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean over problems of each arm's rank, 1 for the best; ties share their ranks.

    Parameters
    ----------
    problems : iterable of mapping of arm to score
        All with the same arms.
    """
    from scipy.stats import rankdata

    problems = list(problems)
    arms = list(problems[0])
    if any(set(of) != set(arms) for of in problems):
        raise ValueError(f"problems: expected the arms {arms} in all, got others in some")
    ranks = np.mean([rankdata([-of[arm] for arm in arms]) for of in problems], axis=0)
    return dict(zip(arms, ranks.tolist(), strict=True))


def critical_difference(arms: int, problems: int, *, confidence: float = 0.95) -> float:
    r"""Difference of two average ranks that chance alone gives too rarely (Nemenyi's test).

    :math:`q \sqrt{k (k + 1) / 6 N}` for k arms and N problems, with q the quantile of the
    studentised range of k values and infinitely many degrees of freedom, over :math:`\sqrt 2`.

    References
    ----------
    J. Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006,
    section 3.2.2.

    Examples
    --------
    >>> round(critical_difference(4, 14), 3)  # the example of that paper
    1.254
    """
    from scipy.stats import studentized_range

    if arms < 2 or problems < 1:
        raise ValueError(f"expected two arms and a problem at least, got {arms} and {problems}")
    q = studentized_range.ppf(confidence, arms, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(arms * (arms + 1) / (6 * problems)))


def regret(problems: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Of each arm, by how much it falls behind the best one on each problem."""
    best = [max(of.values()) for of in problems]
    return {
        arm: [top - of[arm] for top, of in zip(best, problems, strict=True)] for arm in problems[0]
    }
