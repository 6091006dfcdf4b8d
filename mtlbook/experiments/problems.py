"""The problems of the study "which method when": planted ones, whose relation is known, and real.

Two axes run through all of them: how much the tasks have to do with each other, and how many labels
there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from mtlbook.comparison.splits import VALIDATION_SEED, standardise
from mtlbook.experiments.mrn_splits import in_span, with_codings, with_harmful_task
from mtlbook.tasks import Task, TaskSet

WITHIN = 0.95  # correlation of two tasks of one group


@dataclass(frozen=True)
class Search:
    """From which settings the arms of a problem choose.

    Attributes
    ----------
    draw : int
        Seed of the settings that are drawn.
    ranges : "first" | "strong" | "norms"
        The ranges that all problems have; those of School's second trial, in whose first the priors
        chose the largest weight; of the norms' second trial, in whose first these did.
    count : int
        How many settings are drawn.
    """

    draw: int = 0
    ranges: str = "first"
    count: int = 10


Problem = TypeVar("Problem", "Teacher", "Real")


def _halves(tasks: int) -> list[int]:
    """Two groups of equal size."""
    return [2 * t // tasks for t in range(tasks)]


@dataclass(frozen=True)
class Teacher:
    r"""Regressions whose tasks have a hidden layer in common, and heads of known correlation.

    :math:`y_t = W_t\, \phi(x)` with :math:`x \sim N(0, I)`, :math:`\phi(x) = \max(V x + b, 0)` for
    one V and b of all tasks, and :math:`W \sim TN(0, I, I, S)` of shape (outputs, width, T). Two
    things can be shared, the features and, where S says so, the heads. A target without noise has
    variance 1.

    Attributes
    ----------
    tasks : int
        T, in two groups of equal size. Correlation within a group: 0.95.
    across : float
        c, -1 to 1: the correlation across the groups is 0.95 c. At 1 all tasks are nearly the same,
        at 0 the groups have only the features in common, at -1 they contradict each other.
    unrelated : bool
        S is the identity instead: T tasks with nothing but the features in common.
    samples : int
        Of each task, to train on.
    features, width, outputs : int
    noise : float
        Standard deviation of what is added to the targets that are trained and validated on.
    series : int
        Repeats of another series are other problems, those that numbers are chosen on among them.
    search : Search
        It changes nothing of the problem.
    """

    tasks: int = 8
    across: float = 0.0
    unrelated: bool = False
    samples: int = 20
    features: int = 10
    width: int = 20
    outputs: int = 2
    noise: float = 0.5
    series: int = 0
    search: Search = Search()

    @property
    def groups(self) -> list[int]:
        """Of each task the number of its group."""
        return _halves(self.tasks)

    def correlation(self) -> Tensor:
        """S, shape ``(T, T)``."""
        if self.unrelated:
            return torch.eye(self.tasks)
        group = torch.tensor(self.groups)
        matrix = torch.where(group[:, None] == group, WITHIN, WITHIN * self.across)
        return matrix.fill_diagonal_(1.0)

    def parts(self, repeat: int, validation: int = 50, test: int = 500) -> dict[str, TaskSet]:
        """Samples of one repeat, which is a problem of its own; test targets are without noise."""
        generator = torch.Generator().manual_seed(repeat + SERIES * self.series)
        normal = partial(torch.randn, generator=generator)
        v, b = normal(self.features, self.width) / math.sqrt(self.features), normal(self.width) / 2

        def phi(x: Tensor) -> Tensor:
            return torch.relu(x @ v + b)

        spread = phi(normal(4096, self.features)).var(0).sum().sqrt()
        root = torch.linalg.cholesky(self.correlation())
        weights = normal(self.outputs, self.width, self.tasks) @ root.mT / spread
        parts = {}
        for name, count in (("train", self.samples), ("validation", validation), ("test", test)):
            made = []
            for t in range(self.tasks):
                x = normal(count, self.features)
                y, noise = phi(x) @ weights[..., t].mT, normal(count, self.outputs)
                y = y if name == "test" else y + self.noise * noise
                made.append(Task(f"task {t}", x, y, loss="mse"))
            parts[name] = TaskSet("planted", made, licence="generated")
        mean = torch.stack([task.targets.mean(0) for task in parts["train"]])
        return {name: _centred(part, mean) for name, part in parts.items()}


def _centred(part: TaskSet, mean: Tensor) -> TaskSet:
    moved = (replace(task, targets=task.targets - m) for task, m in zip(part, mean, strict=True))
    return replace(part, tasks=tuple(moved))


ACROSS = (-1.0, -0.5, 0.0, 0.5, 1.0)
DRAWS = 6  # of the ten settings of every arm, on four problems; on all others there is one
AGAIN = 10  # replications: other settings, and other problems or samples, to tune and to test
SERIES = 1_000_000  # more than any number of a repeat or of a tuning split


def _again(found: Mapping[str, Problem], names: Iterable[str]) -> dict[str, Problem]:
    """Replications of the problems of these names."""
    return {
        f"{of}-again{k}": replace(found[of], series=k, search=Search(DRAWS + k))
        for of in names
        for k in range(1, AGAIN + 1)
    }


def _teachers() -> dict[str, Teacher]:
    ends = (-1.0, 0.0, 1.0)
    axes = [(8, 20, ACROSS), (2, 20, ends), (32, 20, ends), (8, 5, ends), (8, 80, ends)]
    found = {
        f"T{tasks}-n{n}-c{c:+g}": Teacher(tasks, c, samples=n)
        for tasks, n, some in axes
        for c in some
    }
    found["T8-n20-none"] = Teacher(8, unrelated=True)
    norms = Search(ranges="norms", count=20)
    of_norms = [f"T{tasks}-n20-c{c:+g}" for tasks in (8, 32) for c in ends]
    drawn = [f"T8-n20-c{c:+g}" for c in ends]
    return {
        **found,
        **{f"{of}-norms": replace(found[of], search=norms) for of in of_norms},
        **{
            f"{of}-draw{k}": replace(found[of], search=Search(k))
            for of in drawn
            for k in range(1, DRAWS)
        },
        **_again(found, (*drawn, "T8-n20-none")),
    }


#: Relatedness by tasks and labels; the names say T, samples and c, whether it is the second trial
#: of the norms, which draw of settings it is, if not the first, and which replication.
TEACHERS: dict[str, Teacher] = _teachers()


@dataclass(frozen=True)
class Real:
    """Tasks of a data set, and how many labels they are given.

    Attributes
    ----------
    data : str
        A name of :mod:`mtlbook.datasets`.
    labels : int
        Samples of each class, or of each regression task, to train on: at most half of what
        validation leaves.
    change : callable, optional
        What is done to the tasks first.
    groups : callable, optional
        From the number of tasks to the group of each, where it is known who belongs together.
    common : bool
        Whether all targets are of one kind and unit.
    series : int
        Repeats of another series are other samples of the same data, those for validation too.
    search : Search
    """

    data: str
    labels: int
    change: Callable[[TaskSet], TaskSet] | None = None
    groups: Callable[[int], list[int]] | None = None
    common: bool = False
    series: int = 0
    search: Search = Search()

    def made(self, tasks: TaskSet) -> TaskSet:
        """The tasks of this problem, from those of the data set."""
        return tasks if self.change is None else self.change(tasks)

    def parts(self, tasks: TaskSet, repeat: int) -> dict[str, TaskSet]:
        """Parts of one repeat, standardised by what is trained on, inputs in the span of that."""
        return in_span(standardise(self.divided(tasks, repeat), common=self.common))

    def divided(self, tasks: TaskSet, repeat: int) -> dict[str, TaskSet]:
        """Parts of one repeat: a fifth for validation, the same in a series; the rest is tested.

        Tasks that share their inputs get the same samples.
        """
        fixed = torch.Generator().manual_seed(VALIDATION_SEED + SERIES * self.series)
        drawn = torch.Generator().manual_seed(repeat + SERIES * self.series)
        rows: dict[str, list[Tensor]] = {"train": [], "validation": [], "test": []}
        for task in [tasks[0]] if tasks.shared_inputs else tasks:
            for name, of_task in _divide(task, self.labels, fixed, drawn).items():
                rows[name].append(of_task)
        if tasks.shared_inputs:
            rows = {name: of * len(tasks) for name, of in rows.items()}
        return {name: tasks.select(of) for name, of in rows.items()}


def _last_apart(tasks: int) -> list[int]:
    return [int(t == tasks - 1) for t in range(tasks)]


_OFFICE, _PACS = "office_caltech10_efflite0", "pacs_efflite0"
_REAL = {
    **{f"office-{n}": Real(_OFFICE, n) for n in (1, 10)},
    **{f"office-1-draw{k}": Real(_OFFICE, 1, search=Search(k)) for k in range(1, DRAWS)},
    "codings-3": Real(_OFFICE, 3, with_codings, _halves),
    "harmful-3": Real(_OFFICE, 3, with_harmful_task, _last_apart),
    **{f"pacs-{n}": Real(_PACS, n) for n in (3, 30)},
    "school-20": Real("school", 20, common=True),
    **{
        f"school-20-{of}": Real("school", 20, common=True, search=Search(ranges=of, count=count))
        for of, count in (("strong", 10), ("norms", 20))
    },
    "sarcos-20": Real("sarcos", 20),
}
#: Of data sets; the names say data or change, labels, and what those of the teachers say.
REAL: dict[str, Real] = _REAL | _again(_REAL, ("office-1", "codings-3", "harmful-3", "pacs-3"))
TEST = 1000  # samples of a task that are tested, at most
VALIDATION = 200  # and validated


def _divide(
    task: Task, labels: int, fixed: torch.Generator, drawn: torch.Generator
) -> Mapping[str, Tensor]:
    order = torch.randperm(len(task), generator=fixed)
    aside, rest = order.tensor_split([len(order) // 5])
    rest = rest[torch.randperm(len(rest), generator=drawn)]
    classes = task.targets[rest] if task.classes is not None else torch.zeros(len(rest))
    place = torch.zeros(len(rest), dtype=torch.long)  # of a sample in its class
    size = torch.zeros(len(rest), dtype=torch.long)
    for c in classes.unique():
        of_class = classes == c
        place[of_class] = torch.arange(int(of_class.sum()))
        size[of_class] = int(of_class.sum())
    taken = place < torch.clamp(size // 2, min=1, max=labels)
    return {"train": rest[taken], "validation": aside[:VALIDATION], "test": rest[~taken][:TEST]}
