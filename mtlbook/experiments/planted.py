"""Planted relations: what is there for MRN to find, when does it pay, and is it found?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtlbook.experiments.mrn import ARMS, CHUNK, TABLE1, WEIGHTS, Protocol, known
from mtlbook.ledger.results import Result
from mtlbook.methods import MRN, FixedRelation
from mtlbook.priors import flip_flop
from mtlbook.relations import Relation
from mtlbook.study import Add, Arm, Outcome, Parts, Study
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate


@dataclass(frozen=True)
class Plant:
    """Linear regressions whose weights are drawn from a tensor normal with known covariances.

    ``W ~ TN(0, I, I / features, S)`` of shape (outputs, features, T), ``x ~ N(0, I)``,
    ``y = W_t x + noise``.

    Attributes
    ----------
    relation : "uniform" | "groups" | "signs" | "none"
        Correlations of the tasks, T = 6. All alike (0.9); two groups of three that know nothing of
        each other; two groups that are each other's opposite (-0.9); nobody related.
    samples : int
        Of each task, to train on.
    noise : float
        Standard deviation; a noise-free target has 1.
    features, outputs : int
    """

    relation: str = "groups"
    samples: int = 20
    noise: float = 0.5
    features: int = 30
    outputs: int = 5

    def correlation(self) -> Tensor:
        """The tasks' correlations, shape ``(6, 6)``."""
        within, across = {
            "uniform": (0.9, 0.9),
            "groups": (0.9, 0.0),
            "signs": (0.9, -0.9),
            "none": (0.0, 0.0),
        }[self.relation]
        group = torch.arange(6) // 3
        matrix = torch.where(group[:, None] == group, within, across)
        return matrix.fill_diagonal_(1.0)

    def parts(self, repeat: int) -> dict[str, TaskSet]:
        """Training, validation (100 per task) and test samples (500 per task) of one repeat."""
        generator = torch.Generator().manual_seed(repeat)
        normal = partial(torch.randn, generator=generator)
        root = torch.linalg.cholesky(self.correlation())
        tasks = len(root)
        shape = (self.outputs, self.features, tasks)
        weights = normal(shape) @ root.mT / math.sqrt(self.features)
        counts = {"train": self.samples, "validation": 100, "test": 500}
        parts = {}
        for name, count in counts.items():
            made = []
            for t in range(tasks):
                x = normal(count, self.features)
                y = x @ weights[..., t].mT + self.noise * normal(count, self.outputs)
                made.append(Task(f"task {t}", x, y, loss="mse"))
            parts[name] = TaskSet(f"planted: {self.relation}", made, licence="generated")
        return parts


PLANTS: dict[str, Plant] = {
    **{relation: Plant(relation) for relation in ("uniform", "groups", "signs", "none")},
    **{f"samples={n}": Plant("signs", samples=n) for n in (10, 40)},
    **{f"noise={noise:g}": Plant("signs", noise=noise) for noise in (0.1, 2.0)},
    "features=100": Plant("signs", features=100),
}
#: Full batches and one layer: convex for every arm but those that learn a relation.
PROTOCOL = Protocol(hidden=0, steps=200, batch_size=None, lr=0.1)
PLANT_ARMS = ("stl", "pooled", "fixed", "known", "mrn-t", "mrn", "drn", "mtrl")


def planted(name: str, **changes: Any) -> Study:
    """How well every arm predicts, and how well it finds the relation of a plant.

    Records ``rmse/<plant>`` on test samples and, for arms that learn a relation, ``error/<plant>``,
    the mean absolute error of its correlations. Numbers are chosen on a problem of their own.
    """
    plant = PLANTS[name]
    truth = plant.correlation()
    of_truth = Arm(partial(known, covariance=truth), WEIGHTS)  # the arm "known"

    def split(tasks: None, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
        return plant.parts(repeat)

    def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
        method = outcome.method
        add(metric="rmse", value=evaluate(method, parts["test"], chunk=CHUNK).mean)
        fixed = isinstance(method, FixedRelation) or (
            isinstance(method, MRN) and method.switches.max_updates == 0
        )
        relation = method.relation()
        if relation is not None and not fixed:
            add(metric="error", value=relation_error(relation.matrix, truth))

    return replace(
        TABLE1,
        arms={name: ARMS.get(name, of_truth) for name in PLANT_ARMS},
        protocol=replace(PROTOCOL, **changes),
        split=split,
        measure=measure,
        watch=None,
        tuning_splits=(1000,),
        suffix=f"/{name}",
    )


def relation_error(found: Tensor, truth: Tensor) -> float:
    """Mean absolute error of the correlations of all pairs of tasks."""
    of_found, of_truth = (
        Relation(matrix.double(), "covariance").normalised().off_diagonal()
        for matrix in (found, truth)
    )
    return float((of_found - of_truth).abs().mean())


#: Shapes (features, classes, tasks) of the tensors whose covariances are to be found.
SHAPES = ((30, 5, 6), (100, 5, 6), (30, 20, 6), (30, 5, 20))


def recover(
    result: Result,
    *,
    samples: Iterable[int] = (1, 2, 5, 20),
    sweeps: Iterable[int] = (1, 4, 16),
    repeats: Iterable[int],
) -> None:
    """The task covariance, found in the weights themselves: no data, no training.

    Tensors are drawn from a tensor normal: autoregressive correlations (0.9, 0.5) of features and
    classes, two groups of opposite tasks. Arms: ``flip-flop``, all three covariances in turn;
    ``task-only``, the other two taken for identities (MRN_t, DRN). Records
    ``error/<features>x<classes>x<tasks>/samples=n/sweeps=k``.
    """
    for repeat in repeats:
        generator = torch.Generator().manual_seed(repeat)
        for shape in SHAPES:
            group = torch.arange(shape[2]) % 2
            truth = torch.where(group[:, None] == group, 0.8, -0.8).fill_diagonal_(1.0).double()
            covariances = [_autoregressive(shape[0], 0.9), _autoregressive(shape[1], 0.5), truth]
            roots = [torch.linalg.cholesky(c) for c in covariances]
            for n in samples:
                noise = torch.randn((n, *shape), generator=generator, dtype=torch.float64)
                drawn = torch.einsum("ai,bj,ct,nijt->nabc", *roots, noise)
                for modes, arm in ((None, "flip-flop"), ((2,), "task-only")):
                    for k in sweeps:
                        found = flip_flop(
                            drawn, [None] * 3, eps=1e-6, relative=True, sweeps=k, modes=modes,
                            scale="trace",
                        )  # fmt: skip
                        result.add(
                            arm=arm,
                            repeat=repeat,
                            seed=repeat,
                            metric=f"error/{'x'.join(map(str, shape))}/samples={n}/sweeps={k}",
                            value=relation_error(found[2], truth),
                        )


def _autoregressive(size: int, correlation: float) -> Tensor:
    """Correlations that fall with the distance, shape ``(size, size)``."""
    position = torch.arange(size, dtype=torch.float64)
    return correlation ** (position[:, None] - position).abs()
