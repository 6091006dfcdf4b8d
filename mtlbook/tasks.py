"""Tasks, sets of tasks, and splits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

LOSSES = ("cross_entropy", "mse", "bce")


@dataclass(frozen=True)
class Task:
    """One task: inputs, targets and the loss that joins them.

    Parameters
    ----------
    name : str
    inputs : Tensor, shape ``(n, ...)``
    targets : Tensor
        ``(n,)`` int64 for ``"cross_entropy"``; ``(n, k)`` floating for ``"mse"`` and ``"bce"``.
    loss : "cross_entropy" | "mse" | "bce"
    classes : int, optional
        Number of classes, for ``"cross_entropy"``.
    groups : Tensor, shape ``(n,)``, optional
        Where a sample comes from (the drawer of an image, the font of a glyph).
    """

    name: str
    inputs: Tensor
    targets: Tensor
    loss: Literal["cross_entropy", "mse", "bce"] = "cross_entropy"
    classes: int | None = None
    groups: Tensor | None = None

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss: expected one of {LOSSES}, got {self.loss!r}")
        if len(self.inputs) != len(self.targets):
            raise ValueError(
                f"targets: expected one for each of {len(self.inputs)} inputs of task "
                f"{self.name!r}, got {len(self.targets)}"
            )
        if self.loss != "cross_entropy" and self.targets.ndim != 2:
            raise ValueError(
                f"targets: expected shape (n, k) with loss {self.loss!r}, got "
                f"{tuple(self.targets.shape)}"
            )
        if (self.classes is None) == (self.loss == "cross_entropy"):
            raise ValueError(
                f"classes: expected a number with loss 'cross_entropy' and None with any other, "
                f"got {self.classes} with {self.loss!r}"
            )

        if self.targets.device.type == "cpu" and len(self):  # elsewhere a look would be a wait
            self._check_targets()

    def _check_targets(self) -> None:
        y = self.targets
        if self.loss == "cross_entropy":
            expected = f"whole numbers of 0 to {self.classes - 1}, shape (n,)"
            right = y.ndim == 1 and not y.is_floating_point()
            right = right and 0 <= int(y.min()) and int(y.max()) < self.classes
        elif self.loss == "bce":
            expected, right = "numbers of 0 to 1", bool(((y >= 0) & (y <= 1)).all())
        else:
            expected, right = "finite numbers", bool(y.isfinite().all())
        if not right:
            raise ValueError(
                f"targets: expected {expected} with loss {self.loss!r} of task {self.name!r}, got "
                f"{y.dtype} of {y.min().item():g} to {y.max().item():g}, shape {tuple(y.shape)}"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def outputs(self) -> int:
        """Width of the head that the task needs."""
        return self.classes if self.classes is not None else self.targets.shape[1]

    def select(self, indices: Tensor, *, inputs: Tensor | None = None) -> Task:
        """The samples at ``indices``; their inputs need not be copied where they are given."""
        groups = None if self.groups is None else self.groups[indices]
        inputs = self.inputs[indices] if inputs is None else inputs
        return replace(self, inputs=inputs, targets=self.targets[indices], groups=groups)


@dataclass(frozen=True)
class TaskSet(Sequence):
    """T tasks, with what an auditor must know of their data.

    Parameters
    ----------
    name : str
    tasks : sequence of Task
    tier : "embedded" | "fetched" | "gated"
    stand_in_for : str, optional
        The data that the paper used, where this is not it.
    licence : str
    sha256 : str
        Of the source file, or of the arrays' bytes for data that are generated or come with pip.
    """

    name: str
    tasks: tuple[Task, ...]
    tier: Literal["embedded", "fetched", "gated"] = "embedded"
    stand_in_for: str | None = None
    licence: str = ""
    sha256: str = ""

    def __post_init__(self):
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks:
            raise ValueError(f"tasks: expected at least one in task set {self.name!r}, got none")

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, task: int) -> Task:
        return self.tasks[task]

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def samples(self) -> int:
        """Samples of all tasks together."""
        return sum(len(task) for task in self.tasks)

    @property
    def outputs(self) -> list[int]:
        """Width of each task's head."""
        return [task.outputs for task in self.tasks]

    @property
    def shared_inputs(self) -> bool:
        """Whether all tasks look at the very same samples: one tensor, several targets."""
        return len(self) > 1 and all(task.inputs is self.tasks[0].inputs for task in self.tasks)

    def select(self, indices: Sequence[Tensor]) -> TaskSet:
        """Of each task the samples at its own indices.

        Inputs that tasks share stay shared where the tasks get the same indices.
        """
        if len(indices) != len(self):
            raise ValueError(
                f"indices: expected one tensor for each of {len(self)} tasks, got {len(indices)}"
            )
        shared = self.shared_inputs and all(torch.equal(i, indices[0]) for i in indices)
        inputs = self.tasks[0].inputs[indices[0]] if shared else None
        tasks = (t.select(i, inputs=inputs) for t, i in zip(self.tasks, indices, strict=True))
        return replace(self, tasks=tuple(tasks))

    def fingerprint(self) -> list[float]:
        r"""Eleven numbers that tell whether the loaded tensors are those of another time or place.

        Returns
        -------
        list of float
            Tasks, samples, and of inputs, targets and groups each the logarithm of their length as
            one vector and two projections on it; compared by
            :func:`mtlbook.ledger.currency.fingerprints_agree`.

        Notes
        -----
        The projections are :math:`z = \sum_{nm} x_{nm} e^{i (n^2 + \sqrt 2 m^2)} / \|x\|` over
        samples n of all tasks in their order and entries m, real and imaginary part: no random
        numbers, but phases that look like some. Tasks that share their inputs have
        the fingerprint of tasks with copies of them.
        """
        groups = [task.groups for task in self if task.groups is not None]
        parts = [task.inputs for task in self], [task.targets for task in self], groups
        return [float(len(self)), float(self.samples), *(x for p in parts for x in _project(p))]

    def subset(self, tasks: Sequence[int]) -> TaskSet:
        """Some of the tasks."""
        return replace(self, tasks=tuple(self.tasks[t] for t in tasks))

    def map_inputs(self, function: Callable[[Tensor], Tensor]) -> TaskSet:
        """Every task with its inputs transformed; shared inputs once, and they stay shared."""
        shared = function(self.tasks[0].inputs) if self.shared_inputs else None
        return replace(
            self,
            tasks=tuple(
                replace(t, inputs=function(t.inputs) if shared is None else shared)
                for t in self.tasks
            ),
        )

    def to(self, device: torch.device | str) -> TaskSet:
        """On a device."""
        moved = self.map_inputs(lambda inputs: inputs.to(device))
        return replace(
            moved, tasks=tuple(replace(t, targets=t.targets.to(device)) for t in moved.tasks)
        )


def _project(tensors: Sequence[Tensor]) -> list[float]:
    """Log length, and the real and imaginary part of z, of T tensors as one vector."""
    read = {id(x): x for x in tensors}  # what tasks share is read once
    rows = {key: _project_samples(x) for key, x in read.items()}
    samples = torch.cat([rows[id(x)] for x in tensors]) if tensors else torch.zeros(0, 3)
    length = math.sqrt(float(samples[:, 2].sum()))
    if length == 0:
        return [0.0, 0.0, 0.0]
    z = (_phases(len(samples), 1.0) * torch.view_as_complex(samples[:, :2].contiguous())).sum()
    return [math.log(length), float(z.real) / length, float(z.imag) / length]


def _project_samples(x: Tensor) -> Tensor:
    """Of each sample the two projections and the squared length, shape ``(n, 3)`` in float64."""
    x = x.detach().flatten(1) if x.ndim > 1 else x.detach()[:, None]
    phases = torch.view_as_real(_phases(x.shape[1], math.sqrt(2)))
    rows = []
    for part in x.split(max(1, 2**18 // max(1, x.shape[1]))):  # bounds the memory in float64
        part = part.to("cpu", torch.float64)
        rows.append(torch.cat([part @ phases, part.square().sum(1, keepdim=True)], 1))
    return torch.cat(rows)


def _phases(count: int, frequency: float) -> Tensor:
    """``exp(i frequency k^2)`` for k = 1 .. count."""
    squares = torch.arange(1, count + 1, dtype=torch.float64).square()
    return torch.polar(torch.ones_like(squares), frequency * squares)


def split_per_class(
    taskset: TaskSet, counts: Mapping[str, int], *, seed: int, rest: str = "test"
) -> dict[str, TaskSet]:
    """Random disjoint parts with a fixed number of samples of every class of every task.

    Parameters
    ----------
    taskset : TaskSet
        Of classification tasks.
    counts : mapping of part name to samples per class
        Taken in this order from one random order of each class.
    seed : int
    rest : str
        Name of the part that gets everything else.

    Examples
    --------
    >>> task = Task("a", torch.zeros(10, 1), torch.arange(10) % 2, classes=2)
    >>> parts = split_per_class(TaskSet("s", [task]), {"train": 2}, seed=0)
    >>> [(name, len(part[0])) for name, part in parts.items()]
    [('train', 4), ('test', 6)]
    """
    if rest in counts:
        raise ValueError(f"rest: expected a name not in counts {list(counts)}, got {rest!r}")
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[list[Tensor]]] = {name: [] for name in (*counts, rest)}
    need = sum(counts.values())
    for task in taskset:
        taken: dict[str, list[Tensor]] = {name: [] for name in parts}
        for c in range(task.outputs):
            of_class = (task.targets == c).nonzero().flatten()
            if len(of_class) < need:
                raise ValueError(
                    f"counts: expected at most {len(of_class)} samples of class {c} of task "
                    f"{task.name!r}, got {need}"
                )
            order = of_class[torch.randperm(len(of_class), generator=generator)]
            start = 0
            for name, count in counts.items():
                taken[name].append(order[start : start + count])
                start += count
            taken[rest].append(order[start:])
        for name in parts:
            parts[name].append(torch.cat(taken[name]))
    return {name: taskset.select(indices) for name, indices in parts.items()}
