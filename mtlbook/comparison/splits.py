"""Random parts of tasks that keep together what belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from mtlbook.comparison.checks import sample_keys
from mtlbook.tasks import Task, TaskSet

VALIDATION_SEED = 2026  # of the part that is set aside for validation, once and for all


@dataclass(frozen=True)
class Shares:
    """Of the samples of each task: to learn from, to choose with, and the rest to test on."""

    train: float = 0.5
    validation: float = 0.2

    def __post_init__(self):
        if not (0 < self.train < 1 and 0 < self.validation < 1):
            raise ValueError(f"shares: expected numbers between 0 and 1, got {self}")
        if self.train + self.validation > 0.95:
            raise ValueError(f"shares: expected a rest of at least 5 % to test on, got {self}")


@lru_cache(maxsize=1)  # of a comparison, which divides the same tasks for every arm and repeat
def units_of(tasks: TaskSet) -> list[Tensor]:
    """Of each task the number of each sample's unit: samples of one unit are never divided.

    A unit is a group, with all copies of its samples, and all groups that hold one of these, in all
    tasks: what one task has trained on must not come up in the test of another.
    """
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    known: dict[object, int] = {}
    of_sample: list[list[int]] = []
    for task in tasks:
        groups = [None] * len(task) if task.groups is None else task.groups.tolist()
        rows = []
        for key, group in zip(sample_keys(task.inputs), groups, strict=True):
            own = known.setdefault(key, len(parent))
            if own == len(parent):
                parent.append(own)
            if group is not None:
                other = known.setdefault(("group", group), own)
                parent[root(own)] = root(other)
            rows.append(own)
        of_sample.append(rows)
    numbers: dict[int, int] = {}
    return [
        torch.tensor([numbers.setdefault(root(i), len(numbers)) for i in rows])
        for rows in of_sample
    ]


def parts_of(tasks: TaskSet, repeat: int, shares: Shares) -> dict[str, TaskSet]:
    """The training, validation and test parts of one repeat.

    The validation part is the same in all repeats, so that no repeat tests on a sample that a
    number was chosen with. Classes are divided evenly where samples are units of their own.
    """
    units = units_of(tasks)
    aside = _divide(tasks, units, shares.validation, VALIDATION_SEED)
    left = tasks.select([(~a).nonzero().flatten() for a in aside])
    of_left = [u[~a] for u, a in zip(units, aside, strict=True)]
    share = shares.train / (1 - shares.validation)
    taken = _divide(left, of_left, share, repeat)
    return {
        "train": left.select([t.nonzero().flatten() for t in taken]),
        "validation": tasks.select([a.nonzero().flatten() for a in aside]),
        "test": left.select([(~t).nonzero().flatten() for t in taken]),
    }


def _divide(tasks: TaskSet, units: list[Tensor], share: float, seed: int) -> list[Tensor]:
    """A part of about this share of every task, of whole units, as a mask for each task."""
    counts = torch.cat(units).bincount()
    if not all(bool((counts[u] == 1).all()) for u in units):
        return _divide_units(tasks, units, share, seed)
    generator = torch.Generator().manual_seed(seed)
    return [_divide_samples(task, share, generator) for task in tasks]


def _divide_samples(task: Task, share: float, generator: torch.Generator) -> Tensor:
    """Class by class, in random order; what is left over of all classes is drawn together."""
    strata = task.targets if task.classes is not None else torch.zeros(len(task), dtype=torch.long)
    order = torch.randperm(len(task), generator=generator)
    order = order[strata[order].argsort(stable=True)]
    # evenly spaced along the classes in their order: every class gets its share, up to one sample
    start = float(torch.rand((), generator=generator, dtype=torch.float64))
    places = torch.arange(len(task), dtype=torch.float64)
    chosen = ((places + 1) * share + start).floor() > (places * share + start).floor()
    mask = torch.zeros(len(task), dtype=torch.bool)
    mask[order[chosen]] = True
    return _never_empty(mask, generator)


def _divide_units(tasks: TaskSet, units: list[Tensor], share: float, seed: int) -> list[Tensor]:
    """Whole units in random order, each to the side that is further behind, all tasks counted."""
    generator = torch.Generator().manual_seed(seed)
    number = int(torch.cat(units).max()) + 1
    held = torch.stack([u.bincount(minlength=number) for u in units]).double()  # (T, units)
    held = held / held.sum(1, keepdim=True)
    inside, outside = torch.zeros(len(units)).double(), torch.zeros(len(units)).double()
    chosen = torch.zeros(number, dtype=torch.bool)
    for unit in torch.randperm(number, generator=generator).tolist():
        size = held[:, unit]
        lacks = (size * (share - inside) / share).sum()
        if lacks >= (size * (1 - share - outside) / (1 - share)).sum():
            chosen[unit], inside = True, inside + size
        else:
            outside = outside + size
    masks = [chosen[u] for u in units]
    for t, mask in enumerate(masks):
        if mask.all() or not mask.any():
            raise ValueError(
                "samples: expected enough groups, and enough samples that are no copies, to divide "
                f"every task, got {len(units[t].unique())} of task {tasks.names[t]!r}, all on one "
                "side of a split"
            )
    return masks


def _never_empty(mask: Tensor, generator: torch.Generator) -> Tensor:
    if mask.all() or not mask.any():
        flip = torch.randint(len(mask), (1,), generator=generator)
        mask[flip] = ~mask[flip]
    return mask


@dataclass(frozen=True)
class Scaling:
    """Means and deviations of a training part.

    Attributes
    ----------
    mean, scale : Tensor
        Of the inputs, by feature, of images by channel, over all tasks.
    centres, units : list of Tensor
        Of each task's targets; empty unless they are numbers.
    """

    mean: Tensor
    scale: Tensor
    centres: list[Tensor]
    units: list[Tensor]

    @classmethod
    def of(cls, train: TaskSet, *, common: bool = False) -> Scaling:
        """Of a training part; targets by task, or where they are ``common`` over all tasks."""
        x = torch.cat([task.inputs for task in train])
        axes = [0] if x.ndim == 2 else [0, *range(2, x.ndim)]
        mean, scale = x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)
        mean = torch.where(scale > 0, mean, x.amin(axes, keepdim=True))  # a large mean is rounded
        scale = torch.where(scale > 0, scale, 1)
        if train[0].loss != "mse":
            return cls(mean, scale, [], [])
        seen = (
            [torch.cat([t.targets for t in train])] * len(train)
            if common
            else [task.targets for task in train]
        )
        units = [y.std(0, correction=0) for y in seen]
        units = [torch.where(u > 0, u, 1) for u in units]
        return cls(mean, scale, [y.mean(0) for y in seen], units)

    def inputs(self, x: Tensor) -> Tensor:
        """Inputs in these units."""
        return (x - self.mean) / self.scale

    def outputs(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Each task's predictions, from these units back to its own."""
        if not self.units:
            return list(values)
        own = zip(values, self.units, self.centres, strict=True)
        return [value * unit + centre for value, unit, centre in own]

    def __call__(self, part: TaskSet) -> TaskSet:
        """A part in these units."""
        part = part.map_inputs(self.inputs)
        if not self.units:
            return part
        scaled = zip(part, self.centres, self.units, strict=True)
        tasks = tuple(replace(task, targets=(task.targets - c) / u) for task, c, u in scaled)
        return replace(part, tasks=tasks)


def standardise(parts: dict[str, TaskSet], *, common: bool = False) -> dict[str, TaskSet]:
    """Inputs and targets of regressions in units of their deviation in the training part.

    Inputs by feature (of images: by channel) over all tasks; targets by task, or where they are
    ``common``, of one kind and unit, over all tasks.
    """
    scaling = Scaling.of(parts["train"], common=common)
    return {name: scaling(part) for name, part in parts.items()}
