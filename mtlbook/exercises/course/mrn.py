"""Exercises of the chapter on MRN."""

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
    shaped,
)
from mtlbook.priors import apply_precisions, proximal_step
from mtlbook.tensors import mode_product

exercise = partial(Exercise, chapter="methods/mrn")

# -------------------------------------------------------------------------- partial correlations


def of_two_tasks(f):
    """Of two tasks it is their correlation, whatever their variances

    Nothing else is there to be given.
    """
    omega = torch.tensor([[4.0, 1.2], [1.2, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    close(f(omega), expected, "the partial correlations")


def may_change_sign(f):
    """Two tasks that correlate by 0.5 repel each other, given a third

    Of three tasks: r_13 r_23 against r_12. The inverse covariance knows it.
    """
    r = torch.tensor([[1, 0.5, 0.8], [0.5, 1, 0.8], [0.8, 0.8, 1]], dtype=torch.float64)
    close(f(r)[0, 1], (0.5 - 0.64) / 0.36, "the partial correlation of tasks 1 and 2")


def _partial(p, sign=-1.0):
    s = p.diagonal().sqrt()
    r = sign * p / (s[:, None] * s)
    return r.fill_diagonal_(1.0)


# ------------------------------------------------------------------------------ uniform relation


def without_relation(f):
    """With rho = 0 it is the squared length of the weights

    Mean and spread are orthogonal parts of it: how often does the mean come?
    """
    w = randn(4, 6)
    close(f(w, 0.0), w.square().sum(), "Q")


def with_relation(f):
    """With rho it is that of the prior, by the dense inverse

    The vector of ones has the eigenvalue 1 + (T - 1) rho, all that is orthogonal to it 1 - rho.
    """
    w = randn(4, 6)
    for rho in (-0.2, 0.7):
        omega = ((1 - rho) * torch.eye(4) + rho).double()
        close(f(w, rho), torch.trace(w.mT @ torch.linalg.solve(omega, w)), f"Q for rho = {rho}")


def _uniform(of_mean, of_spread):
    def answer(w, rho):
        mean, tasks = w.mean(0), len(w)
        spread = (w - mean).square().sum()
        return of_mean(tasks, rho) * mean.square().sum() + of_spread(tasks, rho) * spread

    return answer


# ------------------------------------------------------------------------------------- proximal


def of_weight_decay(f):
    """With identities all weights are divided by 1 + c

    A gradient step would multiply them by 1 - c.
    """
    w = randn(2, 3, 4)
    close(f(w, [torch.eye(d).double() for d in w.shape], 3.0), w / 4, "X")


def solves(f):
    """X + c times the precisions applied to X is W

    In the eigenvectors of all covariances the equation falls apart into one for each coordinate.
    """
    w, parts = randn(2, 3, 4), [covariance(2), covariance(3, 1), covariance(4, 2)]
    x = f(w, parts, 0.7)
    shaped(x, w.shape, "X", w)
    close(x + 0.7 * apply_precisions(x, parts), w, "X + c P X")


def _in_eigenvectors(factor):
    def answer(w, covariances, c):
        values = [torch.linalg.eigh(s) for s in covariances]
        for mode, (_, q) in enumerate(values):
            w = mode_product(w, q.mT, mode)
        w = w * factor(torch.einsum("i,j,k->ijk", *(s for s, _ in values)), c)
        for mode, (_, q) in enumerate(values):
            w = mode_product(w, q, mode)
        return w

    return answer


EXERCISES = (
    exercise(
        "ex-mrn-partial",
        "A positive correlation that repels",
        DERIVE,
        signature="partial_correlations(omega)",
        shapes="omega (T, T), a covariance -> (T, T), ones on the diagonal",
        checks=(of_two_tasks, may_change_sign),
        mistakes=(
            Mistake(
                "The sign: a negative entry of the precision attracts.",
                lambda omega: _partial(omega.inverse(), 1.0),
            ),
            Mistake(
                "A precision is no correlation yet: divide by the roots of its diagonal.",
                lambda omega: (-omega.inverse()).fill_diagonal_(1.0),
            ),
            Mistake(
                "These are the correlations without anything given.",
                lambda omega: _partial(omega, 1.0),
            ),
        ),
    ),
    exercise(
        "ex-mrn-uniform",
        "What a uniform relation does",
        DERIVE,
        signature="uniform_penalty(w, rho)",
        shapes="w (T, d), rho a number -> Q, from the mean of the tasks and the spread about it",
        checks=(without_relation, with_relation),
        mistakes=(
            Mistake(
                "The mean stands for T tasks.",
                _uniform(lambda t, r: 1 / (1 + (t - 1) * r), lambda t, r: 1 / (1 - r)),
            ),
            Mistake(
                "The two eigenvalues are exchanged: with rho near 1 the *spread* must cost much.",
                _uniform(lambda t, r: t / (1 - r), lambda t, r: 1 / (1 + (t - 1) * r)),
            ),
            Mistake(
                "A precision is the inverse of a covariance: divide by the eigenvalues.",
                _uniform(lambda t, r: t * (1 + (t - 1) * r), lambda t, r: 1 - r),
            ),
        ),
    ),
    exercise("ex-mrn-literal", "The literal method", PROJECT),
    exercise(
        "ex-mrn-proximal",
        "The proximal prior",
        DERIVE,
        signature="proximal(w, covariances, c)",
        shapes="w (d_1, d_2, d_3), covariances a list of (d_k, d_k), c a number -> X like w",
        checks=(of_weight_decay, solves),
        mistakes=(
            Mistake(
                "That is a gradient step. The proximal step solves for the *new* weights.",
                lambda w, covariances, c: w - c * apply_precisions(w, covariances),
            ),
            Mistake(
                "The prior is one product of three covariances, not three priors one after the "
                "other.",
                lambda w, covariances, c: proximal_step(
                    proximal_step(w, [covariances[0], None, None], c),
                    [None, *covariances[1:]],
                    c,
                ),
            ),
            Mistake(
                "Eigenvalues of covariances multiply c where they should divide it: a direction of "
                "small variance is shrunk more.",
                _in_eigenvectors(lambda s, c: 1 / (1 + c * s)),
            ),
        ),
    ),
    exercise("ex-mrn-sample", "Sample from the prior", PROJECT),
)
