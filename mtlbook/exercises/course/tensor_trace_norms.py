"""Exercises of the chapter on tensor trace norms."""

from functools import partial

import torch

from mtlbook.exercises.model import DERIVE, WARM_UP, Exercise, Mistake, close, randn
from mtlbook.norms import tensor_trace_norms, uncoupled_norm, uncoupled_norms
from mtlbook.tensors import unfold

exercise = partial(Exercise, chapter="foundations/tensor-trace-norms")


def equal_tasks(f):
    """Nine equal tasks cost three times the length of one

    All rows of W_(N) are one row: how many of its singular values are not zero?
    """
    w = randn(3, 4, 2)
    close(f(w[..., None].expand(3, 4, 2, 9)), 3 * w.norm(), "LAF")


def orthogonal_tasks(f):
    """Tasks that are orthogonal cost the sum of their lengths

    Then the lengths of the rows of W_(N) are its singular values.
    """
    w = torch.linalg.qr(randn(24, 5))[0] * torch.tensor([5.0, 4, 3, 2, 1], dtype=torch.float64)
    close(f(w.reshape(2, 3, 4, 5)), 15.0, "LAF")


def _sum_of_singular_values(matrix):
    return torch.linalg.svdvals(matrix).sum()


def alone(f):
    """Of a single task it is the Tucker norm, term by term

    How many axes has the stack of one task, and how many terms has its Tucker norm?
    """
    w = randn(4, 5, 6, 1)
    close(f(w), tensor_trace_norms(w, "tucker"), "the terms")


def adds_up(f):
    """Of several tasks it is the sum over the tasks, term by term

    Each task goes into a stack of its own; nothing of one task meets another.
    """
    w = randn(4, 5, 6, 3)
    close(f(w), uncoupled_norms(w, "tucker"), "the terms")


EXERCISES = (
    exercise(
        "ex-tensor-laf",
        "LAF in two lines",
        WARM_UP,
        signature="laf(w)",
        shapes="w (d_1, ..., d_N-1, T), tasks last -> a number, the trace norm of W_(N)",
        checks=(equal_tasks, orthogonal_tasks),
        mistakes=(
            Mistake(
                "The rows are those of the first axis. LAF flattens the *last* one, the tasks.",
                lambda w: _sum_of_singular_values(unfold(w, 0)),
            ),
            Mistake(
                "`reshape(T, -1)` cuts the entries into T pieces as they lie in memory, where the "
                "task runs fastest: the pieces are no tasks. Move the axis first.",
                lambda w: _sum_of_singular_values(w.reshape(w.shape[-1], -1)),
            ),
            Mistake(
                "The sum of the tasks' lengths is the control, which knows nothing of relations.",
                uncoupled_norm,
            ),
            Mistake(
                "The length of the whole stack equals the trace norm for one direction only, as "
                "of equal tasks.",
                lambda w: w.norm(),
            ),
        ),
    ),
    exercise("ex-tensor-permute", "Hidden units have no order", DERIVE),
    exercise(
        "ex-tensor-one-task",
        "A single task",
        DERIVE,
        signature="fair_control(w)",
        shapes="w (d_1, ..., d_N-1, T) -> N terms: the sum over tasks of the Tucker terms of each "
        "task alone",
        checks=(alone, adds_up),
        mistakes=(
            Mistake(
                "A slice `w[..., t]` has lost its task axis, and the term of that axis with it: "
                "keep it, `w[..., t:t + 1]`.",
                lambda w: sum(tensor_trace_norms(t, "tucker") for t in w.unbind(-1)),
            ),
            Mistake(
                "This is the Tucker norm of the whole stack, what the control is to be compared "
                "with.",
                lambda w: tensor_trace_norms(w, "tucker"),
            ),
            Mistake(
                "A mean over the tasks is T times too weak to be compared with the norm of all.",
                lambda w: uncoupled_norms(w, "tucker") / w.shape[-1],
            ),
        ),
    ),
)
