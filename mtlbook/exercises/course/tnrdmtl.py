"""Exercises of the chapter on TNRDMTL."""

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
)
from mtlbook.norms import alignment, tensor_trace_norms, trace_norm

exercise = partial(Exercise, chapter="methods/tnrdmtl")

# ----------------------------------------------------------------------------------- equal tasks


def of_one_network(f):
    """Of one task every term is the length of w

    A matrix of rank one has one singular value.
    """
    u, v = randn(7), randn(4, seed=1)
    close(f(u, v, 1), (u.norm() * v.norm()).expand(3), "the three terms")


def of_copies(f):
    """Of nine copies every term is three times that

    The stack is the outer product of three vectors. How long is the third?
    """
    u, v = randn(7), randn(4, seed=1)
    stack = torch.outer(u, v)[..., None].expand(7, 4, 9)
    close(f(u, v, 9), tensor_trace_norms(stack, "tucker"), "the three terms")


# ---------------------------------------------------------------------------------- find the bug


def has_the_tasks_last(f):
    """It is gamma times the TT norm of the stack with the tasks on the last axis

    On which axis does `torch.stack` put what it stacks?
    """
    weights = [randn(3, 2, 4, 5, seed=t) for t in range(6)]
    expected = 0.3 * tensor_trace_norms(torch.stack(weights, -1), "tt").sum()
    close(f(weights, 0.3), expected, "the penalty")


# ------------------------------------------------------------------------------------------- NaN


def is_the_norm(f):
    """The value is the trace norm

    The sum of the singular values. What is given has it right.
    """
    x = randn(5, 3)
    close(f(x), trace_norm(x), "the value")


def at_a_tie(f):
    """At the identity, where all singular values are equal, the gradient is finite

    The derivative of a singular vector has 1 / (sigma_i^2 - sigma_j^2); that of a value has not.
    """
    gradient = f.gradient(torch.eye(3).double())[1]
    require(gradient.isfinite().all(), "finite numbers", f"{gradient.flatten()[:4].tolist()}, ...")
    close(gradient, torch.eye(3).double(), "the gradient at the identity")


def at_zero(f):
    """At zero the gradient is finite

    The slope of a root at zero is infinite, and zero times infinity is NaN.
    """
    gradient = f.gradient(torch.zeros(4, 3).double())[1]
    require(gradient.isfinite().all(), "finite numbers", f"{gradient.flatten()[:4].tolist()}, ...")


def is_minimal(f):
    """At zero, and at a matrix of rank two, it is the sub-gradient of least norm

    Singular vectors of zeros are arbitrary, and a step along them leads away. If the sub-gradient
    is known, what is left that has to be differentiated?
    """
    close(f.gradient(torch.zeros(4, 3).double())[1], torch.zeros(4, 3).double(), "at zero")
    x = randn(5, 2) @ randn(2, 4, seed=1)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    close(f.gradient(x)[1], u[:, :2] @ vh[:2], "at rank two", atol=1e-6)


def _by_vectors(x):
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return torch.trace(u.mT @ x @ vh.mT)


def _by_gram(x):
    return torch.linalg.eigvalsh(x.mT @ x).sqrt().sum()


# ------------------------------------------------------------------------------- one component


def as_many_as_components(f):
    """There is a weight for each component

    Tucker has a term for each axis, TT for each cut between two axes.
    """
    counts = [len(f(kind, 5, 0.1)) for kind in ("tucker", "tt")]
    require(counts == [5, 4], "5 and 4 weights for five axes", f"{counts[0]} and {counts[1]}")


def only_laf_is_left(f):
    """The weighted sum is LAF

    Which of the terms of Tucker and of TT is LAF? The others must vanish.
    """
    w = randn(3, 4, 5)
    expected = 0.1 * tensor_trace_norms(w, "laf").sum()
    for kind in ("tucker", "tt"):
        gammas = torch.as_tensor(f(kind, 3, 0.1), dtype=torch.float64)
        close((gammas * tensor_trace_norms(w, kind)).sum(), expected, f"the {kind} penalty")


def _weights(tt, place):
    def answer(kind, axes, gamma):
        count = axes if kind == "tucker" else axes - tt
        return [gamma if place(i, count) else 0.0 for i in range(count)]

    return answer


# ------------------------------------------------------------------------------------ two steps


def above_the_threshold(f):
    """Singular values above eta gamma fall by it, in both steps

    Both steps keep the singular vectors and move each value by itself.
    """
    s = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    close(f(s, 0.5), (s - 0.5, s - 0.5), "the singular values after the proximal, after the other")


def below_the_threshold(f):
    """Below it one step ends at zero, and the other goes past it

    A singular value is not negative: where the step would make it so, what do the vectors do?
    """
    x = torch.diag(torch.tensor([2.0, 0.4, 0.1], dtype=torch.float64))
    u, s, vh = torch.linalg.svd(x)
    after = (x - 0.5 * u @ vh).diagonal().abs()
    close(f(s, 0.5), ((s - 0.5).clamp(min=0), after), "the singular values after each step")


# ------------------------------------------------------------------------------------- alignment


def of_a_single_task(f):
    """A single task is aligned with itself, whatever its size

    How many pairs has it?
    """
    close(f(1, 100), 1.0, "the alignment")


def of_random_tasks(f):
    """Of 50 random tasks it is near what is drawn

    Count ordered pairs, T (T - 1); the expected squared cosine is 1 / d.
    """
    for d in (400, 2000):
        drawn = sum(float(alignment(randn(d, 50, seed=seed))) for seed in range(4)) / 4
        close(f(50, d), drawn, f"the alignment for D = {d}", rtol=0.002)


EXERCISES = (
    exercise(
        "ex-tnrdmtl-equal",
        "Equal tasks",
        WARM_UP,
        signature="tucker_of_copies(u, v, tasks)",
        shapes="u (m,), v (n,), a number of tasks: each has the weights u v^T -> (3,), the terms "
        "of the Tucker norm",
        checks=(of_one_network, of_copies),
        mistakes=(
            Mistake(
                "Lengths add up squared; yours grows with T, not with its root.",
                lambda u, v, t: (t * u.norm() * v.norm()).expand(3),
            ),
            Mistake(
                "The tasks' copies are missing: there is a third factor, a vector of ones.",
                lambda u, v, t: (u.norm() * v.norm()).expand(3),
            ),
            Mistake(
                "The length of an outer product is a product of lengths.",
                lambda u, v, t: (t**0.5 * (u.norm() + v.norm())).expand(3),
            ),
        ),
    ),
    exercise(
        "ex-tnrdmtl-bug",
        "Find the bug",
        DERIVE,
        signature="penalty(weights, gamma)",
        shapes="weights, a list of T tensors (kh, kw, in, out); gamma, a number -> a number",
        checks=(has_the_tasks_last,),
        mistakes=(
            Mistake(
                "This does what the given code does: the tasks are the first axis of its stack.",
                lambda weights, gamma: gamma * tensor_trace_norms(torch.stack(weights), "tt").sum(),
            ),
            Mistake(
                "That is LAF alone, the term that comes out right either way.",
                lambda weights, gamma: (
                    gamma * tensor_trace_norms(torch.stack(weights, -1), "laf").sum()
                ),
            ),
        ),
    ),
    exercise(
        "ex-tnrdmtl-components",
        "One weight per component",
        DERIVE,
        signature="weights_for_laf(kind, axes, gamma)",
        shapes="kind 'tucker' or 'tt', the number N of axes of the stack, gamma -> list of gamma_i",
        checks=(as_many_as_components, only_laf_is_left),
        mistakes=(
            Mistake(
                "TT has one term less than there are axes.", _weights(0, lambda i, n: i == n - 1)
            ),
            Mistake(
                "The first component is W_(1): rows of the *first* axis. LAF is about the last.",
                _weights(1, lambda i, n: i == 0),
            ),
            Mistake("All components count here.", _weights(1, lambda i, n: True)),
        ),
    ),
    exercise("ex-tnrdmtl-zero", "The check that every implementation owes", PROJECT),
    exercise(
        "ex-tnrdmtl-nan",
        "Find the bug: NaN",
        DERIVE,
        signature="norm(x)",
        shapes="x (m, n) -> a number that can be differentiated",
        checks=(is_the_norm, at_a_tie, at_zero, is_minimal),
        mistakes=(
            Mistake(
                "The root of the sum of squares is the Frobenius norm.",
                lambda x: torch.linalg.vector_norm(x),
            ),
            Mistake("This is still differentiated through singular vectors.", _by_vectors),
            Mistake("The root of an eigenvalue is differentiated at zero.", _by_gram),
            Mistake(
                "Finite everywhere, and a sub-gradient everywhere; but where singular values are "
                "zero it has singular vectors that the routine chose.",
                lambda x: torch.linalg.svdvals(x).sum(),
            ),
        ),
    ),
    exercise(
        "ex-tnrdmtl-proximal",
        "The proximal variant",
        PROJECT,
        signature="after_one_step(s, tau)",
        shapes="s (n,), positive singular values; tau = eta gamma -> (n,) after the proximal step "
        "and (n,) after the sub-gradient step, in the order of s",
        checks=(above_the_threshold, below_the_threshold),
        mistakes=(
            Mistake(
                "That is weight decay, which keeps all ratios.",
                lambda s, tau: ((1 - tau) * s, (1 - tau) * s),
            ),
            Mistake(
                "The sub-gradient step does not know where zero is: it does not stop there.",
                lambda s, tau: ((s - tau).clamp(min=0), (s - tau).clamp(min=0)),
            ),
            Mistake(
                "A singular value is never negative: the sign goes into a vector.",
                lambda s, tau: ((s - tau).clamp(min=0), s - tau),
            ),
        ),
    ),
    exercise(
        "ex-tnrdmtl-random",
        "How alike is alike?",
        DERIVE,
        signature="random_alignment(tasks, d)",
        shapes="T tasks with d random weights each -> a number, the alignment to second order",
        checks=(of_a_single_task, of_random_tasks),
        mistakes=(
            Mistake("There are T - 1 others, not T.", lambda t, d: 1 - t / (8 * d)),
            Mistake(
                "The second order has an eighth: of the root, and of counting pairs.",
                lambda t, d: 1 - (t - 1) / (2 * d),
            ),
            Mistake(
                "That is the alignment of orthogonal tasks. Random ones are orthogonal on average "
                "only.",
                lambda t, d: 1.0,
            ),
        ),
    ),
)
