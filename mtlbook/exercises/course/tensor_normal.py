"""Exercises of the chapter on the tensor normal distribution."""

from functools import partial

import torch

from mtlbook.exercises.model import (
    DERIVE,
    WARM_UP,
    Exercise,
    Mistake,
    close,
    covariance,
    randn,
)
from mtlbook.priors import log_determinant_term, quadratic_form

exercise = partial(Exercise, chapter="foundations/tensor-normal")

# -------------------------------------------------------------------------------------- the sign


def is_weight_decay(f):
    """With identities it is half the squared length of W

    No logarithm has anything to say there.
    """
    w = randn(2, 3, 4)
    close(f(w, [torch.eye(d).double() for d in w.shape]), 0.5 * w.square().sum(), "the penalty")


def falls_as_the_density_rises(f):
    """Along a covariance that is scaled, it is the negative logarithm of the density

    Ask the density which sign -ln |Sigma_k|^(-D / 2 D_k) has, and how often each determinant comes.
    """
    w = randn(2, 3, 4)
    for c in (0.3, 3.0):
        parts = [c * covariance(2), covariance(3, 1), covariance(4, 2)]
        expected = 0.5 * (quadratic_form(w, parts) + log_determinant_term(w.shape, parts))
        close(f(w, parts), expected, f"the penalty, the first covariance times {c}")


def _penalty(sign, often):
    def answer(w, covariances):
        logs = sum(often(w, s) * s.logdet() for s in covariances)
        return 0.5 * (quadratic_form(w, covariances) + sign * logs)

    return answer


# -------------------------------------------------------------------------------------- damping


def without_a_step(f):
    """With alpha = 0 nothing moves

    A fraction of nothing: the common scale keeps its error.
    """
    close(f(0.0, 3), 1.0, "the factor")


def with_a_step(f):
    """With alpha = 0.6 three modes overshoot, and with alpha = 1 two modes only oscillate

    Apply I - alpha 1 1^T to the vector of ones.
    """
    close(f(0.6, 3), -0.8, "the factor for alpha = 0.6 and three modes")
    close(f(1.0, 2), -1.0, "the factor for alpha = 1 and two modes")


# ---------------------------------------------------------------------------------- information


def of_two(f):
    """Two tasks with one weight each and correlation 0.6

    The covariance of a pair has the determinant 1 - 0.36.
    """
    omega = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    close(f(omega, 1), -0.5 * torch.tensor(0.64).double().log(), "nats")


def is_the_divergence(f):
    """It is the divergence from independent tasks with the same variances

    Multiply a task by ten: what the others tell about it must not change. And each of the weights
    has something to tell.
    """
    omega = covariance(4) * torch.outer(*2 * [torch.tensor([1.0, 2.0, 5.0, 10.0]).double()])
    # ln|S_q| - ln|S_p| of two normals of mean zero; the trace and the dimension cancel
    divergence = 0.5 * (omega.diagonal().log().sum() - omega.logdet())
    close(f(omega, 15), 15 * divergence, "nats")


def _information(weigh, scaled=True):
    def answer(omega, d):
        s = omega.diagonal().sqrt() if scaled else torch.ones(len(omega)).double()
        return weigh(d) * (omega / (s[:, None] * s)).logdet()

    return answer


# --------------------------------------------------------------------------- effective dimension


def of_independent(f):
    """Of d independent features with one variance it is d

    Both traces of the identity are d.
    """
    close(f(3 * torch.eye(7).double()), 7.0, "the effective dimension")


def of_neighbours(f):
    """Two features that correlate count for less than two

    Correlation is off the diagonal: tr(F^2) has the squares of *all* entries of F.
    """
    pair = torch.tensor([[1.0, 0.9], [0.9, 2.0]], dtype=torch.float64)
    close(f(pair), 9 / 6.62, "the effective dimension")


EXERCISES = (
    exercise(
        "ex-tensor-normal-sign",
        "Find the bug: the sign of eq. 9",
        WARM_UP,
        signature="penalty(w, covariances)",
        shapes="w (D_1, ..., D_N), covariances a list of N matrices (D_k, D_k) -> a number",
        checks=(is_weight_decay, falls_as_the_density_rises),
        mistakes=(
            Mistake(
                "The minus of the print is still there. The larger a covariance, the *lower* the "
                "density at zero: it must cost something.",
                _penalty(-1, lambda w, s: w.numel() / len(s)),
            ),
            Mistake(
                "The sign is right; but a covariance of mode k acts on D / D_k fibres, and so "
                "often comes its determinant.",
                _penalty(1, lambda w, s: 1),
            ),
            Mistake(
                "A half is missing before the squared length.",
                lambda w, s: 2 * _penalty(1, lambda w, s: w.numel() / len(s))(w, s),
            ),
        ),
    ),
    exercise(
        "ex-tensor-normal-damping",
        "Half a simultaneous step",
        DERIVE,
        signature="factor_of_scale(alpha, modes)",
        shapes="numbers -> by what one damped simultaneous step multiplies the common ln scale",
        checks=(without_a_step, with_a_step),
        mistakes=(
            Mistake("That is what a step takes away.", lambda alpha, modes: alpha * modes),
            Mistake(
                "Every mode corrects the *whole* error of the scale, not its share.",
                lambda alpha, modes: 1 - alpha,
            ),
            Mistake(
                "The modes move at once, not one after the other.",
                lambda alpha, modes: (1 - alpha) ** modes,
            ),
        ),
    ),
    exercise(
        "ex-tensor-normal-information",
        "How much do the tasks tell each other?",
        DERIVE,
        signature="total_correlation(omega, d)",
        shapes="omega (T, T), d weights of each task, independent -> a number, in nats",
        checks=(of_two, is_the_divergence),
        mistakes=(
            Mistake("The sign: a divergence is not negative.", _information(lambda d: 0.5 * d)),
            Mistake(
                "These are bits.",
                _information(lambda d: -0.5 * d / torch.tensor(2.0).double().log()),
            ),
            Mistake(
                "The determinant of a covariance depends on the variances, and what tasks tell "
                "each other does not: use the correlations.",
                _information(lambda d: -0.5 * d, scaled=False),
            ),
            Mistake("Each of the d weights tells as much.", _information(lambda d: -0.5)),
        ),
    ),
    exercise(
        "ex-tensor-normal-effective",
        "Features that count for fewer",
        DERIVE,
        signature="effective_dimension(f)",
        shapes="f (d, d), a covariance of any scale -> a number",
        checks=(of_independent, of_neighbours),
        mistakes=(
            Mistake(
                "The Frobenius norm is the *root* of tr(F^2); yours changes with the scale of F.",
                lambda f: f.trace() ** 2 / f.norm(),
            ),
            Mistake(
                "The squares of the diagonal alone do not see that features correlate.",
                lambda f: f.trace() ** 2 / f.diagonal().square().sum(),
            ),
            Mistake(
                "The rank counts a direction in full, however little varies along it.",
                lambda f: torch.linalg.matrix_rank(f).double(),
            ),
        ),
    ),
)
