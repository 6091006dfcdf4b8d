"""All exercises, in the order of the book; one module holds those of a chapter."""

from __future__ import annotations

import difflib

from mtlbook.exercises.course import (
    drn,
    heterogeneous_tasks,
    kernel_similarity,
    matrix_normal,
    mrn,
    mrn_bugs,
    mtal,
    optimisation,
    reproduction,
    saliency,
    srdml,
    tensor_normal,
    tensor_trace_norms,
    tensors,
    tnrdmtl,
    trace_norm,
    what_we_got_wrong,
    when_tasks_help,
    yours,
)
from mtlbook.exercises.model import Exercise

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for module in (
        when_tasks_help,
        *(tensors, trace_norm, tensor_trace_norms, optimisation, matrix_normal, tensor_normal),
        *(saliency, heterogeneous_tasks, kernel_similarity),
        *(tnrdmtl, drn, mrn, mrn_bugs, srdml, mtal, reproduction, what_we_got_wrong, yours),
    )
    for exercise in module.EXERCISES
}


def find(name: str) -> Exercise:
    """The exercise of that name.

    Raises
    ------
    ValueError
        If there is none; the message names those that come near.
    """
    if name in EXERCISES:
        return EXERCISES[name]
    near = difflib.get_close_matches(name, EXERCISES, 3, 0.5)
    meant = f"did you mean {', '.join(near)}?" if near else "mtlbook check --list has them all"
    raise ValueError(f"exercise: expected a name of the book, got {name!r}; {meant}")
