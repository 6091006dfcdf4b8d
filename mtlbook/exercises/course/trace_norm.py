"""Exercises of the chapter on the trace norm."""

from functools import partial

import torch

from mtlbook.exercises.model import (
    DERIVE,
    WARM_UP,
    Exercise,
    Failed,
    Mistake,
    close,
    describe,
    randn,
    require,
    shaped,
)
from mtlbook.norms import trace_norm

exercise = partial(Exercise, chapter="foundations/trace-norm")


def _svd(x):
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return u, s, vh.mT


# --------------------------------------------------------------------------------------- factors


def multiply_to_x(f):
    """A_1 A_2^T is X

    Start from X = U diag(s) V^T and share the factor in the middle between the two sides.
    """
    x = randn(6, 4)
    a, b = _two(f(x))
    close(a @ b.mT, x, "A_1 A_2^T")


def cost_the_norm(f):
    """Half the sum of the squared lengths is the trace norm

    Where does the proof need the two factors to be equally long, column by column?
    """
    x = randn(6, 4)
    a, b = _two(f(x))
    close(0.5 * (a.square().sum() + b.square().sum()), trace_norm(x), "(|A_1|^2 + |A_2|^2) / 2")


def _two(came):
    if not isinstance(came, tuple) or len(came) != 2:
        raise Failed("two matrices, A_1 and A_2", describe(came))
    a, b = came
    require(
        a.ndim == b.ndim == 2 and len(a) == 6 and len(b) == 4 and a.shape[1] == b.shape[1],
        "A_1 (6, k) and A_2 (4, k) for X (6, 4)",
        f"{tuple(a.shape)} and {tuple(b.shape)}",
    )
    return came


# --------------------------------------------------------------------------- feature covariances


def is_a_covariance(f):
    """F is symmetric and positive definite, one row for each row of X

    On which side of X does F stand in the second form?
    """
    x = randn(4, 9)
    d = f(x)
    shaped(d, (4, 4), "F", x)
    close(d, d.mT, "F against its transpose")
    require(torch.linalg.eigvalsh(d).min() > 0, "positive eigenvalues", "one that is not")


def attains(f):
    """The second form attains the trace norm

    Insert X = U diag(s) V^T and F = U diag(e) U^T: for which e is s^2 / e + e least?
    """
    x = randn(4, 9)
    d = f(x)
    value = 0.5 * (torch.trace(x.mT @ torch.linalg.solve(d, x)) + torch.trace(d))
    close(value, trace_norm(x), "(tr(X^T F^-1 X) + tr F) / 2")


def _root(matrix):
    values, q = torch.linalg.eigh(matrix)
    return (q * values.clamp(min=0).sqrt()) @ q.mT


# ------------------------------------------------------------------------------- a sub-gradient


def in_the_ball(f):
    """The spectral norm of G is at most 1

    The first of the two conditions for a sub-gradient of any norm. What may stand beside
    u_1 v_1^T without adding to its length in any direction?
    """
    x = _RANK_ONE
    g = f(x)
    shaped(g, x.shape, "G", x)
    size = torch.linalg.matrix_norm(g, 2)
    require(size < 1 + 1e-9, "a spectral norm of at most 1", f"{size:.4f}")


def touches(f):
    """The inner product of G and X is the trace norm of X

    The second condition. Which part of G meets X at all?
    """
    x = _RANK_ONE
    close((f(x) * x).sum(), trace_norm(x), "<G, X>")


def is_another(f):
    """G is not u_1 v_1^T

    That one is the sub-gradient of least norm. The theorem of the sub-differential has more.
    """
    u, _, v = _svd(_RANK_ONE)
    distance = float((f(_RANK_ONE) - u[:, :1] @ v[:, :1].mT).norm())
    require(distance > 0.01, "a G at some distance from u_1 v_1^T", f"distance {distance:.1e}")


_RANK_ONE = randn(6, 1) @ randn(1, 4, seed=1)


def _first(x, scale=1.0):
    u, _, v = _svd(x)
    return scale * u[:, :1] @ v[:, :1].mT


EXERCISES = (
    exercise(
        "ex-trace-norm-factors",
        "Two factors of one norm",
        WARM_UP,
        signature="balanced_factors(x)",
        shapes="x (d, T) -> (A_1 (d, k), A_2 (T, k)) with A_1 A_2^T = X and k = min(d, T)",
        checks=(multiply_to_x, cost_the_norm),
        mistakes=(
            Mistake(
                "The middle factor stands on both sides: A_1 A_2^T has the squares of the singular "
                "values.",
                lambda x: (_svd(x)[0] * _svd(x)[1], _svd(x)[2] * _svd(x)[1]),
            ),
            Mistake(
                "The product is right and the cost is too high: one factor is long and the other "
                "is not. By Cauchy and Schwarz the two must share the singular values equally.",
                lambda x: (_svd(x)[0] * _svd(x)[1], _svd(x)[2]),
            ),
        ),
    ),
    exercise(
        "ex-trace-norm-covariance",
        "A covariance of features",
        DERIVE,
        signature="best_covariance(x)",
        shapes="x (d, T) of full row rank -> F (d, d)",
        checks=(is_a_covariance, attains),
        mistakes=(
            Mistake("That is a covariance of columns.", lambda x: _root(x.mT @ x)),
            Mistake(
                "A Cholesky factor is a root, but not the symmetric one.",
                lambda x: torch.linalg.cholesky(x @ x.mT),
            ),
            Mistake(
                "X X^T grows with the square of X, and the norm with X: a root is missing.",
                lambda x: x @ x.mT,
            ),
            Mistake(
                "Divided by its trace, F answers another question, with tr F = 1 as a constraint; "
                "here the trace is a term of the cost.",
                lambda x: _root(x @ x.mT) / torch.trace(_root(x @ x.mT)),
            ),
        ),
    ),
    exercise(
        "ex-trace-norm-another",
        "Another sub-gradient",
        DERIVE,
        signature="another_subgradient(x)",
        shapes="x (d, T) of rank one, d and T above 1 -> G (d, T)",
        checks=(in_the_ball, touches, is_another),
        mistakes=(
            Mistake(
                "Twice the sub-gradient is none: G must not be longer than 1 in any direction.",
                lambda x: _first(x, 2.0),
            ),
            Mistake(
                "A shorter multiple of u_1 v_1^T misses the second condition: along X the slope of "
                "the norm is 1, no less. Add something orthogonal instead.",
                lambda x: _first(x, 0.5),
            ),
            Mistake(
                "This is the sub-gradient of least norm, which the package uses; another is asked "
                "for.",
                _first,
            ),
        ),
    ),
)
