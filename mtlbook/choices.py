"""Which algorithm computes a quantity at which shape: one measured rule for each."""

from __future__ import annotations


def dense_covariance(dimension: int, rank: int) -> bool:
    """Whether a covariance of so many features and samples is kept as a matrix."""
    return 5 * rank > 2 * dimension
