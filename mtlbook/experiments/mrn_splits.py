"""What MRN's experiments train on and test on: the protocol, random splits and given lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtlbook.study import Parts
from mtlbook.tasks import TaskSet

VALIDATION_SEED = 2017  # of the part that is set aside for validation, once and for all
PERCENTS = (5, 10, 20)  # of the images of each task, to train on


@dataclass(frozen=True)
class Protocol:
    """What the paper does, and what it leaves open and we chose.

    Attributes
    ----------
    percent : int
        Of the samples of each task, drawn at random, to train on: 5, 10 or 20 in the paper.
    validation : float
        Part of each task that no repeat trains or tests on (ours; the paper cross-validates on
        the training set, which at 5 % is one image per class and task).
    hidden : int
        Outputs of fc7; 4096 in the paper, which starts it at pre-trained weights. 0: fc8 alone.
    steps, batch_size, lr, momentum
        Batch and momentum are the released code's. Step size and number of steps were chosen on
        the tuning splits: from 200 to 300 steps validation accuracy changed little.
    decay : float
        Of all weights; 0 but for the arms whose number it is.
    update_every : int
        Steps between two updates of MRN's covariances: about an epoch, as in the paper.
    rho : float
        Correlation of all tasks in the control whose relation is not learned.
    """

    percent: int = 5
    validation: float = 0.2
    hidden: int = 64
    steps: int = 300
    batch_size: int | None = 24
    lr: float = 0.02
    momentum: float = 0.9
    decay: float = 0.0
    update_every: int = 10
    rho: float = 0.9


def parts_of(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The training, validation and test parts of one repeat: random samples of each task.

    The validation part is the same in all repeats and drawn first, so that no repeat tests on a
    sample that a number was chosen with. Classes are not balanced, as the paper's are not: at 5 %
    a small domain lacks some of them.
    """
    generator = torch.Generator().manual_seed(repeat)
    rows: dict[str, list[Tensor]] = {"train": [], "validation": [], "test": []}
    for validation, rest in _set_aside(tasks, protocol):
        total = len(validation) + len(rest)
        order = rest[torch.randperm(len(rest), generator=generator)]
        count = max(1, round(protocol.percent / 100 * total))
        rows["validation"].append(validation)
        rows["train"].append(order[:count])
        rows["test"].append(order[count:])
    return {name: tasks.select(of) for name, of in rows.items()}


def parts_of_lists(
    tasks: TaskSet,
    lists: Mapping[str, tuple[Tensor, Tensor]],
    protocol: Protocol,
    *,
    unique: bool = False,
) -> dict[str, TaskSet]:
    """The training and test parts of given lists, :func:`mtlbook.datasets.published_splits`.

    Parameters
    ----------
    tasks : TaskSet
    lists : mapping of task name to (training rows, test rows)
    protocol : Protocol
        Its validation samples leave the test part: numbers were chosen with them.
    unique : bool
        Training rows that are listed several times count once.
    """
    train, test = [], []
    for task, (validation, _) in zip(tasks, _set_aside(tasks, protocol), strict=True):
        of_train, of_test = lists[task.name]
        train.append(of_train.unique() if unique else of_train)
        test.append(of_test[~torch.isin(of_test, validation)])
    return {"train": tasks.select(train), "test": tasks.select(test)}


def _set_aside(tasks: TaskSet, protocol: Protocol) -> list[tuple[Tensor, Tensor]]:
    """Of each task the rows for validation, and the others."""
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    orders = [torch.randperm(len(task), generator=generator) for task in tasks]
    return [order.tensor_split([round(protocol.validation * len(order))]) for order in orders]


def with_harmful_task(tasks: TaskSet) -> TaskSet:
    """The tasks and one more: half of the first one's samples, their classes moved on by one.

    It looks like its twin and contradicts it: what a model shares with this task is wrong. The
    first task keeps the other half, so that no sample is in both.
    """
    first = tasks[0]
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(VALIDATION_SEED))
    own, other = order.tensor_split(2)
    twin = first.select(other)
    twin = replace(twin, name="harmful", targets=(twin.targets + 1) % first.classes)
    return replace(
        tasks,
        name=f"{tasks.name}, with a harmful task",
        tasks=(first.select(own), *tasks.tasks[1:], twin),
    )


def with_codings(tasks: TaskSet) -> TaskSet:
    """Twice as many tasks: half of each one's samples with its labels, half with others.

    In the second half of the tasks all classes have moved on by three. What the tasks of one coding
    share is right within it, and wrong for the other; no sample is in two tasks.
    """
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    own, other = [], []
    for task in tasks:
        first, second = torch.randperm(len(task), generator=generator).tensor_split(2)
        twin = task.select(second)
        targets = (twin.targets + 3) % task.classes
        own.append(task.select(first))
        other.append(replace(twin, name=f"{task.name}, recoded", targets=targets))
    return replace(tasks, name=f"{tasks.name}, in two codings", tasks=(*own, *other))


def standardise(parts: Parts) -> dict[str, TaskSet]:
    """Inputs as vectors, centred, of mean square 1, by the training inputs of all tasks."""
    seen = torch.cat([task.inputs.flatten(1) for task in parts["train"]])
    mean = seen.mean(0)
    scale = (seen - mean).square().mean().sqrt()
    return {
        name: part.map_inputs(lambda x: (x.flatten(1) - mean) / scale)
        for name, part in parts.items()
    }


def in_span(parts: Parts) -> dict[str, TaskSet]:
    r"""Inputs as coordinates in an orthonormal basis of the span of all training inputs.

    Weights that start in this span never leave it: a gradient of a loss is a combination of
    training inputs, and neither momentum nor weight decay nor a prior (whose covariance of the
    features is made of the weights) adds another direction. So a linear model that starts there
    learns in ``r`` dimensions exactly what it would learn in all ``d``; parts of inputs outside the
    span meet no weight. Parts are left as they are where there are more samples than features.
    """
    seen = torch.cat([task.inputs for task in parts["train"]]).double()
    if len(seen) >= seen.shape[1]:
        return dict(parts)
    basis = torch.linalg.qr(seen.mT).Q
    return {
        name: part.map_inputs(lambda x: (x.double() @ basis).to(x.dtype))
        for name, part in parts.items()
    }
