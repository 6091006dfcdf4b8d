"""Exercises of the chapter on optimisation."""

from functools import partial

import torch

from mtlbook.exercises.model import (
    DERIVE,
    PROJECT,
    WARM_UP,
    Exercise,
    Mistake,
    close,
    randn,
    require,
    shaped,
)
from mtlbook.norms import singular_value_threshold, trace_norm

exercise = partial(Exercise, chapter="foundations/optimisation")

# ---------------------------------------------------------------------------- the largest gamma


def one_task(f):
    """Of one task it is the length of A^T y / n, A its inputs

    Which gradient decides whether zero is a minimiser, and what is it at zero?
    """
    x, y = randn(1, 8, 3), randn(1, 8, seed=1)
    close(f(x, y), (x[0].mT @ y[0] / 8).norm(), "the largest strength")


def both_sides(f):
    """A proximal step from zero stays there just above it, and leaves just below it

    The sub-gradients of the trace norm at zero are a ball. In which norm?
    """
    x, y = randn(6, 8, 10), randn(6, 8, seed=1)
    gradient = -torch.einsum("tnd,tn->dt", x, y) / 8
    gamma = float(f(x, y))
    above, below = (singular_value_threshold(-gradient, gamma * c) for c in (1.001, 0.999))
    require(not above.any(), "zero, 0.1 % above the strength", f"a step of {above.norm():.3g}")
    require(below.any(), "a step, 0.1 % below the strength", "zero: the strength is too large")


def _of_gradient(norm, mean=True):
    def answer(inputs, targets):
        gradient = torch.einsum("tnd,tn->dt", inputs, targets)
        return norm(gradient / inputs.shape[1] if mean else gradient)

    return answer


# ---------------------------------------------------------------------------- norm plus square


def without_the_square(f):
    """With lambda = 0 it is singular value thresholding

    No singular value becomes negative.
    """
    y = 0.5 * randn(6, 4)
    close(f(y, 1.0, 0.0), singular_value_threshold(y, 1.0), "X")


def is_stationary(f):
    """(1 + lambda) X - Y is minus tau times a sub-gradient at X

    Write the derivative of all three terms, and look at one singular value: with s that of Y and
    x that of X, s - x - lambda x = tau.
    """
    y, tau, lam = randn(6, 4), 0.5, 2.0
    x = f(y, tau, lam)
    shaped(x, y.shape, "X", y)
    g = (y - (1 + lam) * x) / tau
    size = torch.linalg.matrix_norm(g, 2)
    expected = "(Y - (1 + lambda) X) / tau of spectral norm at most 1"
    require(size < 1 + 1e-6, expected, f"{size:.4f}")
    close((g * x).sum(), trace_norm(x), "its inner product with X, the trace norm of X")


def _raw(y, tau, lam):
    u, s, vh = torch.linalg.svd(y, full_matrices=False)
    return (u * (s - tau) / (1 + lam)) @ vh


# --------------------------------------------------------------------------------------- hovering


def never_rests(f):
    """From 0.01 the next value is that of the recursion

    The sub-gradient of |w| is the sign of w; the loss adds w - a.
    """
    close(f(0.01, 0.2, 1.0, 0.1, 1), [0.9 * 0.01 + 0.1 * (0.2 - 1)], "the path of one step")


def stays_in_its_interval(f):
    """After 500 steps it moves in the interval of the text, and touches neither rest nor zero

    Each step starts from what the last one gave. What is the sign of a negative number?
    """
    path = f(0.7, 0.2, 1.0, 0.1, 600)
    require(len(path) == 600, "600 values", f"{len(path)}")
    late = torch.tensor(path[500:])
    low, high = float(late.min()), float(late.max())
    require(
        -0.1 * 0.8 - 1e-9 <= low < 0 < high <= 0.1 * 1.2 + 1e-9,
        "values on both sides of zero, from -0.08 to 0.12",
        f"from {low:.3f} to {high:.3f}",
    )


def _path(step):
    def answer(w, a, gamma, eta, steps):
        path = []
        for _ in range(steps):
            w = step(w, a, gamma, eta, path)
            path.append(w)
        return path

    return answer


def _sign(w):
    return (w > 0) - (w < 0)


EXERCISES = (
    exercise(
        "ex-optimisation-hover",
        "Watch it hover",
        WARM_UP,
        signature="hover(w, a, gamma, eta, steps)",
        shapes="numbers; steps an integer -> list of the steps values after w",
        checks=(never_rests, stays_in_its_interval),
        mistakes=(
            Mistake(
                "That is the proximal step, which stops at zero. A sub-gradient step goes past it.",
                _path(
                    lambda w, a, gamma, eta, _: (
                        _sign(w + eta * (a - w)) * max(abs(w + eta * (a - w)) - eta * gamma, 0.0)
                    )
                ),
            ),
            Mistake(
                "The sub-gradient of |w| is the sign of w, not w: that would be weight decay.",
                _path(lambda w, a, gamma, eta, _: w - eta * (w - a + gamma * w)),
            ),
            Mistake(
                "The sign is that of the current value; yours keeps that of the first.",
                _path(lambda w, a, gamma, eta, _: w - eta * (w - a + gamma)),
            ),
        ),
    ),
    exercise(
        "ex-optimisation-largest",
        "The largest useful strength",
        DERIVE,
        signature="largest_strength(inputs, targets)",
        shapes="inputs (T, n, d), targets (T, n) -> the least gamma for which W = 0 is a minimiser",
        checks=(one_task, both_sides),
        mistakes=(
            Mistake(
                "The loss of this chapter is a mean over the n samples of a task.",
                _of_gradient(partial(torch.linalg.matrix_norm, ord=2), mean=False),
            ),
            Mistake(
                "The Frobenius norm of the gradient is too large: the sub-gradients at zero are "
                "the ball of the norm that is *dual* to the trace norm.",
                _of_gradient(torch.linalg.matrix_norm),
            ),
            Mistake(
                "The trace norm of the gradient is too large: the ball of the sub-gradients is "
                "that of the dual norm.",
                _of_gradient(partial(torch.linalg.matrix_norm, ord="nuc")),
            ),
        ),
    ),
    exercise("ex-optimisation-control", "The proximal map of the control", DERIVE),
    exercise(
        "ex-optimisation-elastic",
        "Norm and weight decay in one step",
        DERIVE,
        signature="elastic_threshold(y, tau, lam)",
        shapes="y (d, T), two numbers -> argmin of |X - Y|^2 / 2 + tau |X|_* + lambda |X|^2 / 2",
        checks=(without_the_square, is_stationary),
        mistakes=(
            Mistake(
                "A singular value below tau becomes negative. It must stop at zero.",
                _raw,
            ),
            Mistake(
                "First the threshold, then the division: dividing first, the threshold would have "
                "to be divided as well.",
                lambda y, tau, lam: singular_value_threshold(y / (1 + lam), tau),
            ),
            Mistake(
                "The square costs something, too: nothing here depends on lambda.",
                lambda y, tau, lam: singular_value_threshold(y, tau),
            ),
        ),
    ),
    exercise("ex-optimisation-decay", "Shrinking steps", PROJECT),
)
