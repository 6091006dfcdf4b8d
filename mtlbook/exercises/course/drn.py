"""Exercises of the chapter on DRN."""

from functools import partial

import torch

from mtlbook.exercises.model import (
    DERIVE,
    PROJECT,
    Exercise,
    Mistake,
    close,
    covariance,
    randn,
    require,
    shaped,
)
from mtlbook.norms import trace_norm

exercise = partial(Exercise, chapter="methods/drn")

# ---------------------------------------------------------------------------- the best relation


def has_trace_one(f):
    """Omega is symmetric, with trace one

    The constraint of the problem; without it Omega would grow for ever.
    """
    w = randn(20, 4)
    omega = f(w)
    shaped(omega, (4, 4), "Omega", w)
    close(omega, omega.mT, "Omega against its transpose")
    close(omega.trace(), 1.0, "the trace")


def is_the_least(f):
    """tr(W Omega^-1 W^T) is the squared trace norm of W

    By Cauchy and Schwarz no Omega of trace one gives less. In the eigenvectors of W^T W it is a
    problem of numbers: which e_i with sum 1 make the sum of s_i^2 / e_i least?
    """
    w = randn(20, 4)
    value = torch.trace(w @ torch.linalg.solve(f(w), w.mT))
    close(value, trace_norm(w) ** 2, "the quadratic term")


def _root(matrix):
    values, q = torch.linalg.eigh(matrix)
    return (q * values.clamp(min=0).sqrt()) @ q.mT


# --------------------------------------------------------------------------------- who is coupled


def by_weight_decay(f):
    """Weight decay couples no two tasks, and neither do layers that each task has for itself

    Every gradient is different from zero there. Does that of one task depend on another's weights?
    """
    weights, boxes = randn(4, 3), randn(4, 3, 3, seed=1)
    for objective in (lambda w: w.square().sum(), lambda w: _own_boxes(boxes, w)):
        came = f(objective, weights)
        shaped(came, (4, 4), "who is coupled")
        apart = came.bool() & ~torch.eye(4, dtype=torch.bool)
        require(not apart.any(), "no pair of different tasks", f"{int(apart.sum())} of them")


def by_a_prior(f):
    """A matrix normal prior couples the tasks that its precision couples

    The mixed second derivative, of w_s and of w_t. With a prior it is an entry of the precision.
    """
    omega = torch.block_diag(covariance(2), covariance(3))
    weights = randn(5, 3)
    came = f(lambda w: torch.trace(w.mT @ torch.linalg.solve(omega, w)), weights)
    shaped(came, (5, 5), "who is coupled")
    expected = omega.inverse().abs() > 1e-9
    wrong = int((came.bool() != expected).sum())
    require(wrong == 0, "pairs inside the two groups, and each task with itself", f"{wrong} others")


def _own_boxes(boxes, w):
    return torch.tanh(torch.einsum("tij,tj->ti", boxes, w)).square().sum()


def _moved(objective, weights):
    """Differentiated once only: whoever has a gradient."""
    at = weights.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(at), at)
    heard = gradient.abs().sum(1) > 1e-9
    return heard[:, None] & heard


EXERCISES = (
    exercise("ex-drn-mrn-t", "MRN_t is the matrix normal model", PROJECT),
    exercise("ex-drn-order", "The order decides", DERIVE),
    exercise("ex-drn-diagonal", "Where does the diagonal help?", PROJECT),
    exercise(
        "ex-drn-relation",
        "The relation with trace one",
        DERIVE,
        signature="best_relation(w)",
        shapes="w (d, T) of full column rank -> Omega (T, T) with trace one that makes "
        "tr(W Omega^-1 W^T) least",
        checks=(has_trace_one, is_the_least),
        mistakes=(
            Mistake("The trace is not one yet.", lambda w: _root(w.mT @ w)),
            Mistake(
                "That is the normal update. It squares the singular values; with the trace fixed "
                "the answer has a root.",
                lambda w: w.mT @ w / (w.mT @ w).trace(),
            ),
            Mistake(
                "All tasks alike is the start, not the best relation.",
                lambda w: torch.eye(w.shape[1], dtype=w.dtype) / w.shape[1],
            ),
        ),
    ),
    exercise(
        "ex-drn-boxes",
        "Find the prior",
        DERIVE,
        signature="coupled(objective, weights)",
        shapes="objective, a function of the weights (T, d) to a number; weights (T, d) -> (T, T) "
        "of truth values: does what task s learns depend on w_t?",
        checks=(by_weight_decay, by_a_prior),
        mistakes=(
            Mistake(
                "A gradient says that a task is trained, not that it hears of others: "
                "differentiate the gradient once more.",
                _moved,
            ),
            Mistake(
                "This says of nobody that he is coupled, whatever the objective is.",
                lambda objective, weights: torch.eye(len(weights), dtype=torch.bool),
            ),
        ),
    ),
)
