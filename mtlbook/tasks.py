"""Tasks, sets of tasks, and splits."""

from __future__ import annotations

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

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def outputs(self) -> int:
        """Width of the head that the task needs."""
        return self.classes if self.classes is not None else self.targets.shape[1]

    def select(self, indices: Tensor) -> Task:
        """The samples at ``indices``."""
        groups = None if self.groups is None else self.groups[indices]
        return replace(
            self, inputs=self.inputs[indices], targets=self.targets[indices], groups=groups
        )


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

    def fingerprint(self) -> list[float]:
        """Six numbers that tell these samples from others, whatever library loaded them.

        Projections of inputs, targets and groups, in float64, on cosines of the indices of task,
        sample and feature, over the root of the number of terms; the last ones count. No random
        generator is involved, and nothing depends on the device.
        """
        sums, counts = [0.0, 0.0, 0.0, 0.0], [0, 0]
        rows: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for t, task in enumerate(self.tasks):
            n, x = len(task), task.inputs
            for k in range(2):
                u = torch.cos(torch.arange(n, dtype=torch.float64) * (0.7 + k) + 1.3 * t)
                if not (self.shared_inputs and t):
                    rows.setdefault(k, []).append((u, x))
                sums[2] += (k + 1) * float(_project(task.targets, u))
                if task.groups is not None:
                    sums[3] += (k + 1) * float(_project(task.groups, u))
            counts[0] += n
            counts[1] += 0 if self.shared_inputs and t else x.numel()
        for k, pairs in rows.items():
            sums[k] = sum(float(_project(x, u)) for u, x in pairs)
        scales = [counts[1], counts[1], counts[0], counts[0]]
        return [s / max(1, c) ** 0.5 for s, c in zip(sums, scales, strict=True)] + [
            float(c) for c in counts
        ]

    def select(self, indices: Sequence[Tensor]) -> TaskSet:
        """Of each task the samples at its own indices.

        Inputs that tasks share stay shared where the tasks get the same indices.
        """
        if len(indices) != len(self):
            raise ValueError(
                f"indices: expected one tensor for each of {len(self)} tasks, got {len(indices)}"
            )
        tasks = tuple(t.select(i) for t, i in zip(self.tasks, indices, strict=True))
        if self.shared_inputs and all(torch.equal(i, indices[0]) for i in indices):
            tasks = tuple(replace(task, inputs=tasks[0].inputs) for task in tasks)
        return replace(self, tasks=tasks)

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


def _project(x: Tensor, u: Tensor) -> Tensor:
    """Samples ``(n, ...)`` on weights of samples ``(n,)`` and of features: a scalar."""
    x = x.detach().cpu().flatten(1) if x.ndim > 1 else x.detach().cpu()[:, None]
    v = torch.cos(torch.arange(x.shape[1], dtype=torch.float64) * 0.9 + 0.4)
    return sum((a @ (b.double() @ v) for a, b in zip(u.split(1024), x.split(1024), strict=True)),
               torch.zeros((), dtype=torch.float64))  # fmt: skip


def split_per_class(
    taskset: TaskSet, counts: Mapping[str, int], *, seed: int, rest: str = "test"
) -> dict[str, TaskSet]:
    """Random disjoint parts with a fixed number of samples of every class of every task.

    Parameters
    ----------
    taskset : TaskSet
        Of classification tasks.
    counts : mapping of part name to samples a class
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
