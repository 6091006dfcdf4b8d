"""One domain whose labels are partly wrong: :mod:`mtlbook.experiments.mrn_linear`, with noise.

The first domain (Amazon) is as alike the others as ever; what it says of its classes is wrong for
a share of its images. The images that are tested have their true labels, in all domains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mtlbook.experiments import mrn_linear
from mtlbook.experiments.mrn import CHUNK
from mtlbook.experiments.mrn_splits import VALIDATION_SEED
from mtlbook.study import Add, Outcome, Parts, Study
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate

SHARES = (0, 20, 40, 60)  # of the first task's labels, in percent


@dataclass(frozen=True)
class Protocol(mrn_linear.Protocol):
    """What :class:`mtlbook.experiments.mrn_linear.Protocol` says, and how much is wrong.

    Attributes
    ----------
    flipped : int
        Percentage of the first task's labels, in training and validation parts, that are wrong.
    """

    flipped: int = 0


def flip(task: Task, percent: float, seed: int) -> Task:
    """The task, with so many of its labels moved to another class, all others equally likely."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(task), generator=generator)[: round(percent / 100 * len(task))]
    moves = torch.randint(1, task.classes, (len(wrong),), generator=generator)
    targets = task.targets.clone()
    targets[wrong] = (targets[wrong] + moves) % task.classes
    return replace(task, targets=targets)


def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The parts of :func:`mtlbook.experiments.mrn_linear.split`; numbers are chosen as blindly."""
    parts = mrn_linear.split(tasks, repeat, protocol)
    for name, seed in (("train", repeat), ("validation", VALIDATION_SEED)):
        first, *others = parts[name]
        flipped = flip(first, protocol.flipped, seed)
        parts[name] = replace(parts[name], tasks=(flipped, *others))
    return parts


def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
    """What ``mrn_linear.measure`` records; ``noisy_percent`` (first task), ``honest_percent``."""
    mrn_linear.measure(add, outcome, parts)
    noisy, *honest = evaluate(outcome.method, parts["test"], chunk=CHUNK).per_task
    add(metric="noisy_percent", value=noisy)
    add(metric="honest_percent", value=sum(honest) / len(honest))


def study(tasks: TaskSet, percent: int, steps: int, flipped: int, splits: int = 4) -> Study:
    """``mrn_linear.table1`` on the first of its tuning splits; metrics end with the share."""
    protocol = Protocol(
        percent=percent, steps=steps, features=tasks[0].inputs[0].numel(), flipped=flipped
    )
    return replace(
        mrn_linear.STUDY,
        protocol=protocol,
        split=split,
        measure=measure,
        tuning_splits=mrn_linear.STUDY.tuning_splits[:splits],
        suffix=f"/flipped-{flipped}",
    )
