"""A trial of the norms that is fair to their controls, on six of Omniglot's alphabets.

Table 1's experiment compares each norm with one control, the sum of the tasks' Frobenius norms,
which is LAF's; and its choices rest on one split. Here Tucker and TT have controls of their own
(they want low rank inside a task, too), a norm may start at trained networks as the paper allows,
hard sharing may choose larger steps, and every choice rests on four splits. Every ninth
alphabet, so that twenty repeats fit on a laptop; the paper's claims stay with all fifty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from mtlbook.experiments import tnrdmtl
from mtlbook.experiments.tnrdmtl import hard_sharing, network, norm, stl
from mtlbook.methods import STL
from mtlbook.study import Arm, Study, Trial
from mtlbook.tasks import TaskSet

TRIALS = 5  # values of one number of every arm, each on every tuning split


@dataclass(frozen=True)
class Protocol(tnrdmtl.Protocol):
    """What :class:`mtlbook.experiments.tnrdmtl.Protocol` says; more drawings to choose with."""

    validation: int = 4
    steps: int = 150


def again(trial: Trial) -> STL:
    """Single-task learning that goes on, for as many steps as the arms that start at it."""
    method = STL(network(trial))
    method.network.load_state_dict(trial.start.network.state_dict())
    return method


LARGE, SMALL = (0.001, 0.003, 0.01, 0.03, 0.1), (0.0003, 0.001, 0.003, 0.01, 0.03)
ARMS: dict[str, Arm] = {
    "stl": Arm(stl, (0.015, 0.025, 0.04, 0.055, 0.075), number="lr"),
    "laf-tuned": Arm(partial(norm, kind="laf"), LARGE),
    "uncoupled-tuned": Arm(partial(norm, kind="uncoupled"), LARGE),
    "tucker-tuned": Arm(partial(norm, kind="tucker"), SMALL),
    "uncoupled-tucker-tuned": Arm(partial(norm, kind="uncoupled-tucker"), SMALL),
    "tt-tuned": Arm(partial(norm, kind="tt"), SMALL),
    "uncoupled-tt-tuned": Arm(partial(norm, kind="uncoupled-tt"), SMALL),
    "hard-sharing": Arm(hard_sharing, (0.005, 0.01, 0.02, 0.035, 0.06), number="lr"),
}
#: From the trained networks of STL on, the norms at the paper's gamma.
AGAIN: dict[str, Arm] = {
    "stl-again": Arm(again, start="stl"),
    "laf-again": Arm(partial(norm, kind="laf"), start="stl"),
    "uncoupled-again": Arm(partial(norm, kind="uncoupled"), start="stl"),
}
#: Runs of the notebook; all pair with each other, repeat by repeat.
GROUPS: dict[str, Sequence[str]] = {
    "step": ("stl",),
    "laf": ("stl", "laf-tuned", "uncoupled-tuned"),
    "hard-sharing": ("hard-sharing",),
    "tucker": ("tucker-tuned", "uncoupled-tucker-tuned"),
    "tt": ("tt-tuned", "uncoupled-tt-tuned"),
    "again": tuple(AGAIN),
}

STUDY: Study = replace(
    tnrdmtl.TABLE1,
    arms={**ARMS, **AGAIN},
    protocol=Protocol(),
    tuning_splits=(1000, 1001, 1002, 1003),
)


def some(tasks: TaskSet, every: int) -> TaskSet:
    """One task in ``every``, beginning with the first."""
    return tasks.subset(range(0, len(tasks), every))
