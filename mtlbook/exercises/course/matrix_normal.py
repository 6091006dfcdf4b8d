"""Exercises of the chapter on the matrix normal distribution."""

from functools import partial

import torch

from mtlbook.exercises.model import (
    DERIVE,
    WARM_UP,
    Exercise,
    Failed,
    Mistake,
    close,
    covariance,
    describe,
    randn,
    shaped,
)
from mtlbook.priors import mode_covariance, quadratic_form

exercise = partial(Exercise, chapter="foundations/matrix-normal")

# --------------------------------------------------------------------------------------- density


def of_noise(f):
    """With F and Omega the identity it is d T independent normal numbers

    Every one of them brings its own -ln(2 pi) / 2.
    """
    x = randn(4, 3)
    expected = -0.5 * (x.square().sum() + 12 * torch.tensor(2 * torch.pi).double().log())
    close(f(x, torch.zeros_like(x), torch.eye(4).double(), torch.eye(3).double()), expected)


def of_the_dense_normal(f):
    """It is that of one long normal vector with covariance F (x) Omega

    Scale F by c: by how much does the logarithm of the volume change, with T columns of d entries?
    """
    x, loc, a, b = randn(4, 3), randn(4, 3, seed=1), covariance(4), 2 * covariance(3, 1)
    s, v = torch.kron(a, b), (x - loc).reshape(-1)
    logs = s.logdet() + 12 * torch.tensor(2 * torch.pi).double().log()
    close(f(x, loc, a, b), -0.5 * (v @ torch.linalg.solve(s, v) + logs))


def _density(of_f, of_omega, constant=1.0):
    def answer(x, loc, f, omega):
        d, tasks = x.shape
        q = quadratic_form(x - loc, [f, omega])
        logs = of_f(d, tasks) * f.logdet() + of_omega(d, tasks) * omega.logdet()
        return -0.5 * (q + logs + constant * d * tasks * torch.tensor(2 * torch.pi).log())

    return answer


# ------------------------------------------------------------------------------- conditional mean


def of_two_tasks(f):
    """Of two tasks it is a multiple of the known one

    For two normal numbers: covariance over the variance of the one that is known.
    """
    w, omega = randn(5, 1), torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    close(f(w, omega), w[:, 0] / 4, "the expected weights of task 2")


def minimises(f):
    """The penalty's gradient in the last task vanishes

    Set the last column of W P to zero, P the inverse of Omega. Which tasks enter, and how do they
    know of each other?
    """
    w, omega = randn(5, 3), covariance(4)
    last = f(w, omega)
    shaped(last, (5,), "the expected weights", w)
    gradient = (torch.cat([w, last[:, None]], 1) @ omega.inverse())[:, -1]
    close(gradient, torch.zeros(5).double(), "the last column of W P", atol=1e-9)


# ---------------------------------------------------------------------------------- find the bug


def passes_the_old_test(f):
    """For W = I and F = I the value is the trace of the precision

    The colleague's own test. It must go on to pass.
    """
    eye, omega = torch.eye(4).double(), covariance(4)
    close(f(eye, eye, omega), omega.inverse().trace(), "the penalty")


def of_any_matrix(f):
    """For a W with more features than tasks it is tr(F^-1 W Omega^-1 W^T)

    In which order does `reshape` read a matrix, and which Kronecker product belongs to that order?
    """
    w, a, b = randn(5, 3), covariance(5), covariance(3, 1)
    close(f(w, a, b), quadratic_form(w, [a, b]), "the penalty")


def _colleague(w, f, omega):
    v = w.mT.reshape(-1)
    return v @ torch.kron(f, omega).inverse() @ v


# ---------------------------------------------------------------------------------- the cosine


def is_a_cosine(f):
    """With F = I it is the cosine of the tasks' weights

    The update has the entries <w_t, w_t'> / d. What does dividing by the deviations leave?
    """
    w = randn(8, 3)
    unit = w / w.norm(dim=0)
    close(f(w, torch.eye(8).double()), unit.mT @ unit, "the correlations")


def is_whitened(f):
    """With another F it is the cosine in the inner product of F^-1

    Weights along a direction of large variance count for less.
    """
    w, a = randn(8, 3), covariance(8)
    omega = mode_covariance(w, [a, None], 1, eps=0.0)
    s = omega.diagonal().sqrt()
    close(f(w, a), omega / (s[:, None] * s), "the correlations")


def _correlation(of):
    def answer(w, f):
        omega = w.mT @ of(f) @ w
        s = omega.diagonal().sqrt()
        return omega / (s[:, None] * s)

    return answer


# ------------------------------------------------------------------------------- after an update


def is_the_update(f):
    """Omega is the exact update from W and F

    For n = 1 and no epsilon: a mean over the d rows, each weighed by F.
    """
    w, a = randn(6, 4), covariance(6)
    close(_two(f(w, a))[0], mode_covariance(w, [a, None], 1, eps=0.0), "Omega")


def costs_as_much_as_it_has_weights(f):
    """The quadratic term is then the number of weights, for any W and F

    Insert the update into the trace, and use that a trace may be turned around.
    """
    for seed in (0, 1):
        w, a = 3.0**seed * randn(6, 4, seed=seed), covariance(6, seed)
        close(_two(f(w, a))[1], 24.0, "the quadratic term")


def _two(came):
    if not isinstance(came, tuple) or len(came) != 2:
        raise Failed("Omega and a number", describe(came))
    return came


def _price(omega, of_f):
    def answer(w, f):
        update = omega(w, f)
        inner = w.mT @ (torch.linalg.solve(f, w) if of_f else w)
        return update, torch.trace(torch.linalg.solve(update, inner))

    return answer


def _updated(w, f):
    return w.mT @ torch.linalg.solve(f, w) / len(w)


EXERCISES = (
    exercise(
        "ex-matrix-normal-density",
        "The density without a Kronecker product",
        WARM_UP,
        signature="log_density(x, loc, f, omega)",
        shapes="x and loc (d, T), f (d, d), omega (T, T) -> a number",
        checks=(of_noise, of_the_dense_normal),
        mistakes=(
            Mistake(
                "The constant is missing: ln(2 pi) / 2 for each of the d T entries.",
                _density(lambda d, t: t, lambda d, t: d, constant=0.0),
            ),
            Mistake(
                "The exponents cross: |F| is raised to half the number of *tasks*, since F acts on "
                "each of the T columns.",
                _density(lambda d, t: d, lambda d, t: t),
            ),
            Mistake(
                "Each determinant comes once in yours. F acts on every column, Omega on every row.",
                _density(lambda d, t: 1, lambda d, t: 1),
            ),
        ),
    ),
    exercise(
        "ex-matrix-normal-conditional",
        "One task from the others",
        DERIVE,
        signature="expected_task(w_rest, omega)",
        shapes="w_rest (d, T - 1), omega (T, T), its last row and column for the task that is "
        "asked for -> (d,)",
        checks=(of_two_tasks, minimises),
        mistakes=(
            Mistake(
                "A covariance has units: it must be divided by a variance.",
                lambda w, omega: w @ omega[:-1, -1],
            ),
            Mistake(
                "Of the precision, the entry between the tasks has the other sign: a negative one "
                "pulls them together.",
                lambda w, omega: w @ omega.inverse()[:-1, -1] / omega.inverse()[-1, -1],
            ),
            Mistake(
                "Each of the known tasks predicts by itself here, and what they have in common is "
                "counted several times: the block of the known tasks must be inverted as a whole.",
                lambda w, omega: w @ (omega[:-1, -1] / omega.diagonal()[:-1]),
            ),
        ),
    ),
    exercise(
        "ex-matrix-normal-bug",
        "Find the bug",
        DERIVE,
        signature="penalty(w, f, omega)",
        shapes="w (d, T), f (d, d), omega (T, T) -> a number",
        checks=(passes_the_old_test, of_any_matrix),
        mistakes=(
            Mistake(
                "This does what the given code does: columns are listed one after the other, and "
                "the Kronecker product is that of rows.",
                _colleague,
            ),
            Mistake(
                "A covariance where its inverse belongs.",
                lambda w, f, omega: w.reshape(-1) @ torch.kron(f, omega) @ w.reshape(-1),
            ),
        ),
    ),
    exercise(
        "ex-matrix-normal-cosine",
        "A learned correlation is a cosine",
        DERIVE,
        signature="first_relation(w, f)",
        shapes="w (d, T), f (d, d) -> (T, T), the correlations after one update of Omega",
        checks=(is_a_cosine, is_whitened),
        mistakes=(
            Mistake(
                "This is the covariance. Divide by the deviations.",
                lambda w, f: w.mT @ torch.linalg.solve(f, w) / len(w),
            ),
            Mistake(
                "F plays no part in yours.", _correlation(lambda f: torch.eye(len(f)).double())
            ),
            Mistake("F stands where its inverse belongs.", _correlation(lambda f: f)),
        ),
    ),
    exercise(
        "ex-matrix-normal-dimension",
        "The penalty after an update",
        DERIVE,
        signature="update_and_price(w, f)",
        shapes="w (d, T), f (d, d) -> (Omega (T, T), updated exactly from w and f; the number "
        "tr(F^-1 W Omega^-1 W^T))",
        checks=(is_the_update, costs_as_much_as_it_has_weights),
        mistakes=(
            Mistake(
                "The update is a mean over the d rows; yours is their sum.",
                _price(lambda w, f: _updated(w, f) * len(w), True),
            ),
            Mistake(
                "F plays no part in your update.",
                _price(lambda w, f: w.mT @ w / len(w), True),
            ),
            Mistake("F is missing in the quadratic term.", _price(_updated, False)),
        ),
    ),
)
