"""Exercises of the chapter on MRN in which a bug is to be found."""

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
    require,
)
from mtlbook.tensors import mode_product

exercise = partial(Exercise, chapter="methods/mrn")

# ------------------------------------------------------------------------------------- threshold


def inverts(f):
    """Of a covariance that can be inverted it is the inverse

    What is given has that right, as long as all eigenvalues are above 0.1.
    """
    m = covariance(4) + torch.eye(4).double()
    close(f(m), m.inverse(), "the precision")


def knows_no_unit(f):
    """A covariance of small weights has a large precision

    Multiply all weights by 0.01: the covariance is 10,000 times smaller. Against what can an
    eigenvalue be called small?
    """
    m = covariance(4) + torch.eye(4).double()
    close(f(1e-4 * m), 1e4 * m.inverse(), "the precision of 0.0001 M")


def drops_what_is_nothing(f):
    """Where an eigenvalue is zero up to rounding, so is the precision

    A generalised inverse leaves out what it cannot invert.
    """
    x = randn(4, 2)
    m = 1e-4 * x @ x.mT
    close(f(m), torch.linalg.pinv(m, hermitian=True, rtol=1e-10), "the precision of rank 2")


def _eigenvalues(g):
    def answer(m):
        s, q = torch.linalg.eigh(m)
        return (q * g(s)) @ q.mT

    return answer


# ------------------------------------------------------------------------------------- tensordot


def _by_tensordot(w, precisions):
    v = w
    for mode, p in enumerate(precisions):
        v = torch.tensordot(v, p, dims=([mode], [0]))
    return (v * w).sum()


def of_identities(f):
    """With identities it is the squared length of W

    Where does `tensordot` put the axis that is left of its second argument?
    """
    w = randn(3, 3, 3)
    close(f(w, [torch.eye(3).double()] * 3), w.square().sum(), "Q")


def of_precisions(f):
    """With precisions of different sizes it is the sum over all pairs of entries

    Every precision acts on the axis of its own number.
    """
    w, parts = randn(2, 3, 4), [covariance(2), covariance(3, 1), covariance(4, 2)]
    dense = torch.kron(torch.kron(parts[0], parts[1]), parts[2])
    close(f(w, parts), w.reshape(-1) @ dense @ w.reshape(-1), "Q")


def _all_on_the_first(w, precisions):
    for p in precisions:
        w = mode_product(w, p, 0) if len(p) == len(w) else w
    return w.square().sum()


# ------------------------------------------------------------------------------ a free precision


def pulls_the_weights(f):
    """Its gradient in the weights is W P

    What is given has that right.
    """
    w, p = randn(6, 3), covariance(3)
    close(f.gradient(w, p)[1], w @ p, "the gradient")


def is_least_at_the_update(f):
    """In P it is least where P is the inverse of W^T W / d

    As it stands, which P makes it least for given weights? The density has a second term.
    """
    w = randn(6, 3)
    slope = f.gradient(w, (w.mT @ w / 6).inverse(), of=1)[1]
    close(slope, torch.zeros(3, 3).double(), "the derivative in P", atol=1e-6)


def forbids_what_is_no_precision(f):
    """Where P is not positive definite it is infinite

    There is no such normal distribution. Mind two negative eigenvalues: their determinant is
    positive.
    """
    for bad in ([-1.0, 1.0], [-1.0, -1.0]):
        with torch.no_grad():
            came = f(randn(6, 2), torch.diag(torch.tensor(bad, dtype=torch.float64)))
        if float(came) != float("inf"):
            raise Failed(f"infinity for the eigenvalues {bad}", describe(came))


def _free(log):
    def answer(w, p):
        return 0.5 * (torch.einsum("ds,st,dt->", w, p, w) - log(w, p))

    return answer


# ---------------------------------------------------------------------------------- impostors


def _trainings(digits):
    """What the runs leave: one method is another under its name, one differs a little."""

    def train(name, seed):
        own = {"mrn-copy": 0.0, "hard-sharing": 0.0, "near": digits, "mrn": 1.0}[name]
        return randn(5, seed=seed) + own * torch.arange(5).double()

    return train


def finds_it(f):
    """It finds the method that is hard sharing under another name, and not hard sharing itself

    Same seed, same weights: what should never be equal is.
    """
    came = f(_trainings(1.0), ["hard-sharing", "mrn", "mrn-copy"])
    require(list(came) == ["mrn-copy"], "['mrn-copy']", f"{came!r}")


def accuses_nobody_else(f):
    """A method that differs in the ninth digit is another method

    Two programs that do the same, do the same to the last bit; two that do not, may come near.
    """
    came = f(_trainings(1e-9), ["hard-sharing", "near", "mrn"])
    require(list(came) == [], "nobody", f"{came!r}")


def _impostors(same, seeds=(0, 0)):
    def answer(train, names):
        hard = train("hard-sharing", seeds[0])
        return [n for n in names if n != "hard-sharing" and same(train(n, seeds[1]), hard)]

    return answer


EXERCISES = (
    exercise(
        "ex-mrn-threshold",
        "Find the bug: the threshold",
        DERIVE,
        signature="precision(m)",
        shapes="m (T, T), a covariance, maybe singular -> (T, T)",
        checks=(inverts, knows_no_unit, drops_what_is_nothing),
        mistakes=(
            Mistake(
                "Where an eigenvalue is not small, it is to be inverted.",
                _eigenvalues(lambda s: s),
            ),
            Mistake(
                "This does what the given code does: 0.1 is compared with what has units.",
                _eigenvalues(lambda s: torch.where(s > 0.1, 1 / s, s)),
            ),
            Mistake(
                "What is below the limit is left out now, and the limit still has units.",
                _eigenvalues(lambda s: torch.where(s > 0.1, 1 / s, 0.0)),
            ),
            Mistake(
                "Without any limit the rounding error of a zero is inverted.",
                _eigenvalues(lambda s: 1 / s),
            ),
        ),
    ),
    exercise(
        "ex-mrn-tensordot",
        "Find the bug: the norm that permutes axes",
        DERIVE,
        signature="quadratic_form(w, precisions)",
        shapes="w (d_1, d_2, d_3), precisions a list of (d_k, d_k) -> a number",
        checks=(of_identities, of_precisions),
        mistakes=(
            Mistake(
                "This does what the given code does: after the first product the axes stand in "
                "another order, and the second meets the wrong one.",
                _by_tensordot,
            ),
            Mistake("Every precision has an axis of its own.", _all_on_the_first),
        ),
    ),
    exercise(
        "ex-mrn-precision",
        "Find the bug: a precision that learns to be negative",
        DERIVE,
        signature="penalty(w, p)",
        shapes="w (d, T), p (T, T) symmetric, the precision -> a number that can be differentiated",
        checks=(pulls_the_weights, is_least_at_the_update, forbids_what_is_no_precision),
        mistakes=(
            Mistake(
                "The gradient in the weights is twice what it was: keep the half.",
                lambda w, p: 2 * _free(lambda w, p: 0)(w, p),
            ),
            Mistake(
                "This is linear in P: the optimiser makes P smaller, below zero, for ever.",
                _free(lambda w, p: 0),
            ),
            Mistake(
                "The determinant counts once here. The prior has d rows.",
                _free(lambda w, p: p.logdet()),
            ),
            Mistake(
                "The sign of the logarithm is that of the printed eq. 9.",
                _free(lambda w, p: -len(w) * p.logdet()),
            ),
            Mistake(
                "The absolute value of a determinant lets negative precisions through.",
                _free(lambda w, p: len(w) * torch.linalg.slogdet(p).logabsdet),
            ),
        ),
    ),
    exercise(
        "ex-mrn-impostor",
        "Find the impostor",
        WARM_UP,
        signature="impostors(train, names)",
        shapes="train(name, seed) gives the trained weights of a method, a tensor; names, among "
        "them 'hard-sharing' -> list of those that are hard sharing under another name",
        checks=(finds_it, accuses_nobody_else),
        mistakes=(
            Mistake(
                "With two seeds not even hard sharing agrees with itself.",
                _impostors(torch.equal, seeds=(0, 1)),
            ),
            Mistake(
                "Near is not the same: a small weight of a prior gives nearly the same weights.",
                _impostors(torch.allclose),
            ),
            Mistake("Everybody is accused.", lambda train, names: list(names[1:])),
        ),
    ),
)
