"""What a comparison says: gains with intervals that keep their word, and which arm to take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mtlbook.comparison.arms import CANDIDATES
from mtlbook.ledger.results import Result
from mtlbook.ledger.statistics import Interval, holm, mean_interval, p_value_of

FEWEST = 5  # repeats, below which nothing is said
MARGIN = 1.0  # points: a difference that nobody would act on


@dataclass(frozen=True)
class Row:
    """One arm.

    Attributes
    ----------
    arm, title : str
    mean : Interval
        Of its score, over the repeats.
    gain : Interval or None
        Over single-task learning, paired, for other samples of the same tasks.
    here : Interval or None
        The same for these samples alone: narrower, and says nothing of others.
    p : float
        Of no gain, with Holm's correction for all arms.
    verdict : "helps" | "hurts" | "equal" | "undecided" | "reference" | "failed"
    worst : float
        The least of the tasks' mean gains.
    loss : float
    seconds : float
        A training.
    settings : dict
    needed : float or None
        How many times the samples would decide, were the gain what it looks like.
    """

    arm: str
    title: str
    mean: Interval
    gain: Interval | None
    here: Interval | None
    p: float
    verdict: str
    worst: float
    loss: float
    seconds: float
    settings: dict
    needed: float | None
    per_task: list[float]


@dataclass(frozen=True)
class Judgement:
    """All arms, the advised one, and why."""

    rows: list[Row]
    failed: dict[str, int]
    advised: str
    reason: str
    margin: float
    ratio: float


def judge(result: Result, *, margin: float = MARGIN) -> Judgement:
    """Judge a finished comparison.

    The rule, which no result has changed: an arm helps (hurts) if the interval of its gain over
    single-task learning lies above (below) 0, is equal if it lies within the margin, and else it is
    undecided. Advised is the simplest arm whose mean is within the margin of the best mean.

    Repeats in which single-task learning diverged have nothing to be compared with, and are left
    out.

    Raises
    ------
    ValueError
        If there are fewer than five repeats of single-task learning.
    """
    base = result.values("stl", "score")
    if len(base) < FEWEST:
        lost = len(result.values("stl", "failed"))
        why = f"; it diverged in {lost} others: are there extreme inputs?" if lost else ""
        raise ValueError(f"repeats: expected at least {FEWEST} of 'stl', got {len(base)}{why}")
    ratio = result.data["test"] / result.data["train"]
    tried = {record["arm"] for record in result.records if record["metric"] in ("score", "failed")}
    names = [arm for arm in CANDIDATES if arm in tried]
    whole = [arm for arm in names if base.keys() <= result.values(arm, "score").keys()]
    failed = {arm: len(result.values(arm, "failed")) for arm in names}
    failed = {arm: n for arm, n in failed.items() if n and (arm not in whole or arm == "stl")}
    others = [arm for arm in whole if arm != "stl"]
    gains = {arm: resampled_interval(_pairs(result, arm, "stl"), ratio) for arm in others}
    adjusted = holm([p_value_of(gain) for gain in gains.values()])
    p_values = dict(zip(gains, adjusted, strict=True))
    rows = [_row(result, arm, gains.get(arm), margin, p_values.get(arm, 1.0)) for arm in whole]
    advised, reason = _advise(rows, margin)
    guess = result.settings.get("guess", -math.inf)
    if max(row.mean.mean for row in rows) <= guess:
        reason += f"; but no arm scores more than a guess without any inputs ({guess:.2f}) would"
    return Judgement(rows, failed, advised, reason, margin, ratio)


def _pairs(result: Result, arm: str, other: str) -> np.ndarray:
    a, b = result.values(arm, "score"), result.values(other, "score")
    return np.array([a[r] - b[r] for r in sorted(a.keys() & b.keys())])


def _row(result: Result, arm: str, gain: Interval | None, margin: float, p: float) -> Row:
    base = result.values("stl", "score")
    scores = {r: score for r, score in result.values(arm, "score").items() if r in base}
    losses, seconds = result.values(arm, "loss"), result.values(arm, "seconds")
    here = needed = None
    verdict, worst = "reference", 0.0
    per_task = np.array([_per_task(result, arm, r) for r in sorted(scores)])
    if gain is not None:
        here = mean_interval(_pairs(result, arm, "stl"))
        verdict = verdict_of(gain, margin)
        alone = np.array([_per_task(result, "stl", r) for r in sorted(scores)])
        worst = float((per_task - alone).mean(0).min())
        # (not where the half width holds the luck of searches, which more samples need not change)
        anew = result.parameters.get("anew")
        if verdict == "undecided" and abs(gain.mean) > 1e-9 and not anew:
            # the half width falls with the root of the number of samples, the splits' shares kept
            needed = ((gain.high - gain.mean) / abs(gain.mean)) ** 2
    return Row(
        arm=arm,
        title=CANDIDATES[arm].title,
        mean=mean_interval(list(scores.values())),
        gain=gain,
        here=here,
        p=p,
        verdict=verdict,
        worst=worst,
        loss=float(np.mean(list(losses.values()))),
        seconds=float(np.median(list(seconds.values()))) if seconds else float("nan"),
        settings=chosen(result, arm),
        needed=needed,
        per_task=per_task.mean(0).round(3).tolist(),
    )


def chosen(result: Result, arm: str) -> dict:
    """The settings that validation chose; of several searches those that it liked best."""
    places = result.settings["chosen"]
    searches = [key for key in places if key.partition("/")[0] == arm]
    if len(searches) == 1:
        best = searches[0]
    else:
        liked = result.settings["validation"]

        def mean(key: str) -> float:
            suffix = key.removeprefix(arm)
            return liked[f"{arm}@{places[key]:g}{suffix}"]

        best = max(searches, key=mean)
    return result.settings["configurations"][best][int(places[best])]


def verdict_of(gain: Interval, margin: float) -> str:
    """ "helps", "hurts", "equal" or "undecided"."""
    if gain.low > 0:
        return "helps"
    if gain.high < 0:
        return "hurts"
    return "equal" if -margin <= gain.low and gain.high <= margin else "undecided"


def _per_task(result: Result, arm: str, repeat: int) -> list[float]:
    return next(
        r["per_task"]
        for r in result.records
        if r["arm"] == arm and r["metric"] == "score" and r["repeat"] == repeat
    )


def _advise(rows: list[Row], margin: float) -> tuple[str, str]:
    """The simplest arm whose mean is as good as the best one's, and how sure that is."""
    best = max(row.mean.mean for row in rows)
    row = next(row for row in rows if row.mean.mean >= best - margin)  # simple ones come first
    if row.arm == "stl":
        return row.arm, f"no arm has a mean that is more than {margin:g} above its own"
    gain = f"{row.gain.mean:+.2f}, interval {row.gain.low:+.2f} to {row.gain.high:+.2f}"
    gain = gain.replace("-", "−")
    why = "it has the best mean, or is simpler than the one that has and as good within the margin"
    sure = {
        "helps": "its gain over single-task learning is beyond doubt",
        "equal": "its gain over single-task learning is within the margin",
    }.get(row.verdict, "whether it gains over single-task learning is undecided, not certain")
    return row.arm, f"{why}; {sure} ({gain})"


def resampled_interval(values: ArrayLike, ratio: float, *, confidence: float = 0.95) -> Interval:
    """Interval of a mean over random splits of *one* sample, which share most of their data.

    Repeats on overlapping parts are not independent: ``mean_interval`` answers for this sample, and
    is too narrow for the population that it was drawn from.

    Parameters
    ----------
    values : array_like, shape (n, ...)
        One value a split; of paired differences, the difference.
    ratio : float
        Test samples over training samples, not negative.
    confidence : float
        As in :func:`mtlbook.ledger.statistics.mean_interval`.

    Returns
    -------
    Interval
        Mean plus and minus ``t * s * sqrt(1 / n + ratio)``: more splits do not make it narrower
        than ``ratio`` lets them.

    Raises
    ------
    ValueError
        As :func:`mtlbook.ledger.statistics.mean_interval`, or if the ratio is negative.

    References
    ----------
    C. Nadeau, Y. Bengio, Inference for the generalization error, Machine Learning 52, 2003.

    Examples
    --------
    >>> from mtlbook.ledger.statistics import mean_interval
    >>> plain, honest = mean_interval([1.0, 2.0, 3.0]), resampled_interval([1.0, 2.0, 3.0], 0.5)
    >>> round((honest.high - honest.low) / (plain.high - plain.low), 3)  # sqrt(1 + 3 / 2)
    1.581
    """
    if not ratio >= 0:
        raise ValueError(f"ratio: expected a number >= 0, got {ratio}")
    mean, low, high, n = mean_interval(values, confidence=confidence)
    wider = math.sqrt(1 + n * ratio)
    return Interval(mean, mean - (mean - low) * wider, mean + (high - mean) * wider, n)
