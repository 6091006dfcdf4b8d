"""Which algorithm computes a quantity at which shape: one measured rule for each.

``benchmarks/recorded.py`` measures both sides of every rule on a CPU and writes what it finds to
``data/benchmarks.json``; tests hold the rules against that file. Heads of linear layers and ReLU
have their saliency in closed form at any shape, which is no choice.
"""

from __future__ import annotations


def dense_covariance(dimension: int, rank: int) -> bool:
    """Whether a covariance of so many features and columns is best kept with a dense inverse.

    A product with low rank takes two thin products. Above two fifths of the dimension one square
    product is as fast, and a Cholesky factorisation faster than the eigenvectors of a Gram matrix.
    """
    return 5 * rank > 2 * dimension


def transposed_svd(rows: int, columns: int) -> bool:
    """Whether a singular value decomposition is that of the transpose: LAPACK likes many rows."""
    return rows < columns


def gram_decomposition(bits: int) -> bool:
    """Whether a trace norm is that of the smaller Gram matrix, in float64, and not of an SVD.

    It squares the condition number: right for single precision, not for double.
    """
    return bits < 64


def split_symmetric(rows: int) -> bool:
    """Whether a product with its own transpose leaves out one of four blocks."""
    return rows >= 128
