"""Intervals for means over repeats.

All functions are pure, take arrays whose axis 0 runs over repeats (the unit of replication: one
random split with its seed), and are deterministic: the resampling has a fixed seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval, and the number of repeats behind it."""

    mean: float
    low: float
    high: float
    n: int

    def __neg__(self) -> Interval:
        return Interval(-self.mean, -self.high, -self.low, self.n)


def bootstrap_mean(
    values: ArrayLike, *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean over repeats.

    Parameters
    ----------
    values : array_like, shape (n,)
        One value a repeat: axis 0 runs over repeats. At least two.
    resamples : int
        Number of bootstrap samples.
    confidence : float
        Probability in (0, 1); 0.95 takes the 2.5 % and 97.5 % quantiles of the resampled means.
    seed : int
        Seed of the resampling, so that equal values have equal intervals.

    Returns
    -------
    Interval
        ``(mean, low, high, n)`` in the unit of `values`.

    Raises
    ------
    ValueError
        If `values` is not one-dimensional, not finite or has fewer than two entries.

    Notes
    -----
    The interval needs no assumption on the distribution, but with few repeats it is too narrow
    (for n = 3 it is the range of the values), so n always stands beside it.

    References
    ----------
    B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Examples
    --------
    >>> bootstrap_mean([2.0, 2.0, 2.0])
    Interval(mean=2.0, low=2.0, high=2.0, n=3)
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"values: expected shape (n,), got {values.shape}")
    if len(values) < 2:
        raise ValueError(f"values: expected at least 2 repeats for an interval, got {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError("values: expected finite numbers")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number in (0, 1), got {confidence}")
    means = resampled_means(values, resamples=resamples, seed=seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    # Taken relative to one of the values, as in `resampled_means`: equal values have an exact mean.
    mean = values[0] + (values - values[0]).mean()
    return Interval(float(mean), float(low), float(high), len(values))


def paired_bootstrap(
    differences: ArrayLike, *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a mean paired difference.

    Both arms of a repeat share split and seed, so repeats, not single values, are resampled.

    Parameters
    ----------
    differences : array_like, shape (n,)
        Arm minus reference, one a repeat: axis 0 runs over repeats. At least two.
    resamples, confidence, seed
        As in `bootstrap_mean`.

    Returns
    -------
    Interval
        Swapping the arms negates mean, low and high and exchanges the ends.

    Raises
    ------
    ValueError
        As `bootstrap_mean`.
    """
    return bootstrap_mean(differences, resamples=resamples, confidence=confidence, seed=seed)


def resampled_means(values: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """Means over repeats of samples drawn with replacement.

    Parameters
    ----------
    values : array_like, shape (n, ...)
        Axis 0 runs over repeats; the other axes (for example iterations) stay together.
    resamples : int
        Number of samples.
    seed : int
        Seed of the resampling.

    Returns
    -------
    ndarray, shape (resamples, ...)

    Raises
    ------
    ValueError
        If `resamples` is not positive.
    """
    values = np.asarray(values, dtype=np.float64)
    if resamples < 1:
        raise ValueError(f"resamples: expected a positive number, got {resamples}")
    n = len(values)
    chosen = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    # As counts, a sample costs one row of a matrix product instead of a copy of `values`.
    counts = np.apply_along_axis(np.bincount, 1, chosen, minlength=n)
    return values[0] + np.tensordot(counts, values - values[0], axes=1) / n


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of two sequences of shape (n,); ties share their mean rank.

    Raises
    ------
    ValueError
        If the shapes differ or n < 2.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(f"x, y: expected equal shapes (n,) with n >= 2, got {x.shape}, {y.shape}")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0  # a constant sequence orders nothing
    from scipy.stats import spearmanr  # of the extras; what imports this module need not have it

    return float(spearmanr(x, y).statistic)
