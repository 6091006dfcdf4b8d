"""Mini-batches of T tasks, as one padded tensor wherever shapes allow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlbook.tasks import Task, TaskSet
from mtlbook.tensors import Ragged


class Batches:
    """Mini-batches of T tasks: every task goes through its own samples in its own random order.

    Parameters
    ----------
    tasks : TaskSet
    batch_size : int, optional
        Samples of each task a step; None: all of them.
    steps, seed : int
    device : torch.device

    Notes
    -----
    The orders of all steps are drawn beforehand on the CPU, so that they are the same on every
    device. Tasks of one input shape are one padded tensor, and a batch is one gather; tasks of
    different shapes give a plain list. Tasks that share their inputs go through them in one common
    order, and the batch is one tensor, T times in a list: a method may look once.
    """

    def __init__(
        self,
        tasks: TaskSet,
        *,
        batch_size: int | None,
        steps: int,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.inputs = inputs_together(tasks.to(device))
        self.shared = tasks.shared_inputs
        self.targets = together([padded_targets(task, tasks).to(device) for task in tasks])
        self.orders = None
        if batch_size is not None:
            generator = torch.Generator().manual_seed(seed)
            orders = [
                _endless_order(len(task), steps * batch_size, generator).view(steps, batch_size)
                for task in (tasks[:1] if self.shared else tasks)
            ]
            orders = torch.stack(orders, 1).to(device)
            self.orders = orders.expand(-1, len(tasks), -1)  # (steps, T, B)

    def __getitem__(self, step: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        if self.orders is None:
            return self.inputs, self.targets
        order = self.orders[step]
        targets = _take(self.targets, order)
        if self.shared:
            return [self.inputs[0][order[0]]] * len(self.inputs), targets
        return _take(self.inputs, order), targets


def together(tensors: list[Tensor]) -> Ragged | list[Tensor]:
    """One padded tensor where the shapes of a sample agree, else the list itself."""
    return Ragged.stack(tensors) if len({x.shape[1:] for x in tensors}) == 1 else tensors


def inputs_together(tasks: TaskSet) -> Sequence[Tensor]:
    """:func:`together` of the inputs; if tasks share them, one tensor, T times in a list."""
    if tasks.shared_inputs:
        return [tasks[0].inputs] * len(tasks)
    return together([task.inputs for task in tasks])


def padded_targets(task: Task, tasks: TaskSet) -> Tensor:
    """Targets of a regression task padded to the widest of the set; class numbers as they are."""
    if task.targets.ndim == 1:
        return task.targets
    return F.pad(task.targets, (0, max(tasks.outputs) - task.targets.shape[1]))


def _endless_order(n: int, length: int, generator: torch.Generator) -> Tensor:
    rounds = -(-length // n)
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(rounds)])[:length]


def _take(samples: Ragged | list[Tensor], order: Tensor) -> Sequence[Tensor]:
    if isinstance(samples, Ragged):
        tasks = torch.arange(len(samples), device=order.device)[:, None]
        return Ragged(samples.padded[tasks, order])
    return [x[i] for x, i in zip(samples, order, strict=True)]
