"""Exercises of the chapter on SRDML."""

from functools import partial

import torch

from mtlbook.exercises.model import DERIVE, PROJECT, Exercise, Mistake, close, randn

exercise = partial(Exercise, chapter="methods/srdml")

# ---------------------------------------------------------------------------------- find the bug


def of_one_sample(f):
    """Of one sample it is half the squared error

    What is given has that right.
    """
    outputs, targets = randn(1, 1), randn(1, seed=1)
    close(f(outputs, targets), 0.5 * (outputs[0, 0] - targets[0]) ** 2, "the loss")


def of_ten_samples(f):
    """Of ten samples it compares each prediction with its own target

    Print the shape of the difference.
    """
    outputs, targets = randn(10, 1), randn(10, seed=1)
    close(f(outputs, targets), (outputs[:, 0] - targets).square().sum() / 20, "the loss")


# ------------------------------------------------------------------------- the gradient of c


def of_equal_distances(f):
    """Where all distances are equal, no pair gains

    The weights are shares: only what is closer than the mean can win.
    """
    c, d = 1 + randn(6).abs(), torch.full((6,), 2.0, dtype=torch.float64)
    close(f(c, d, 3.0), torch.zeros(6).double(), "the derivative")


def is_the_derivative(f):
    """It is the derivative of sum omega d in c

    A quotient: differentiate numerator and denominator.
    """
    c, d = 1 + randn(6).abs(), randn(6, seed=1).abs()
    at = c.clone().requires_grad_()
    (expected,) = torch.autograd.grad((3.0 * at / at.sum() * d).sum(), at)
    close(f(c, d, 3.0), expected, "the derivative")


def _of_c(scale, beta=True):
    def answer(c, d, bound):
        mean = (c * d).sum() / c.sum()
        return (bound if beta else 1.0) * (d - mean) / scale(c)

    return answer


# ------------------------------------------------------------------------------------- Laplacian

_GRAPH = randn(5, 5).abs()
_GRAPH = torch.triu(_GRAPH, 1) + torch.triu(_GRAPH, 1).mT


def kills_constants(f):
    """Equal columns cost nothing: the rows of L sum to zero

    The diagonal holds what the row has elsewhere.
    """
    close(f(_GRAPH).sum(1), torch.zeros(5).double(), "the sums of the rows")


def is_the_quadratic_form(f):
    """tr(W Lambda W^T) is the weighted sum of squared distances

    Expand the squares, and collect what stands before <w_i, w_j>.
    """
    w = randn(7, 5, seed=2)
    distances = (w[:, :, None] - w[:, None, :]).square().sum(0)
    expected = 0.5 * (_GRAPH * distances).sum()
    close(torch.trace(w @ f(_GRAPH) @ w.mT), expected, "tr(W L W^T)")


EXERCISES = (
    exercise(
        "ex-srdml-bug",
        "Find the bug",
        DERIVE,
        signature="loss(outputs, targets)",
        shapes="outputs (m, 1), targets (m,) -> a number",
        checks=(of_one_sample, of_ten_samples),
        mistakes=(
            Mistake(
                "A half is missing.",
                lambda o, y: (o[:, 0] - y).square().mean(),
            ),
            Mistake(
                "This does what the given code does: (m, 1) minus (m,) has m times m entries.",
                lambda o, y: ((o - y) ** 2).sum() / (2 * len(y)),
            ),
            Mistake(
                "The entries are right and their number is not: the loss is a mean over samples.",
                lambda o, y: (o[:, 0] - y).square().sum() / 2,
            ),
        ),
    ),
    exercise(
        "ex-srdml-simplex",
        "Who gains, who loses",
        DERIVE,
        signature="slope_of_coupling(c, d, beta)",
        shapes="c and d (P,), the numbers and the distances of P pairs; beta a number -> (P,), the "
        "derivative in c of the sum of omega d, omega = beta c / sum c",
        checks=(of_equal_distances, is_the_derivative),
        mistakes=(
            Mistake(
                "The denominator depends on c, too.",
                lambda c, d, beta: beta * d / c.sum(),
            ),
            Mistake("A factor is missing: one over the sum of c.", _of_c(lambda c: 1.0)),
            Mistake("A factor is missing: beta.", _of_c(torch.sum, beta=False)),
        ),
    ),
    exercise("ex-srdml-corner", "The corner", PROJECT),
    exercise(
        "ex-srdml-laplacian",
        "A graph and its Laplacian",
        DERIVE,
        signature="laplacian(omega)",
        shapes="omega (T, T), symmetric, zero on the diagonal -> (T, T)",
        checks=(kills_constants, is_the_quadratic_form),
        mistakes=(
            Mistake(
                "The weights enter with a minus: equal tasks must cost nothing.",
                lambda omega: torch.diag(omega.sum(1)) + omega,
            ),
            Mistake("Everything has the wrong sign.", lambda omega: omega - omega.sum(1).diag()),
            Mistake(
                "Divided by the degrees it is another Laplacian, in which tasks with many "
                "neighbours count no more than others.",
                lambda omega: torch.eye(len(omega)).double() - omega / omega.sum(1, keepdim=True),
            ),
        ),
    ),
    exercise("ex-srdml-zero", "Nothing added, nothing changed", PROJECT),
    exercise("ex-srdml-trunk", "The trunk's silence", DERIVE),
)
