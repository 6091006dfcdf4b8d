"""MRN's comparison with linear heads on given features: the main protocol of the book.

The paper's task-specific layers are AlexNet's fc7, which is pre-trained, and fc8; the authors' code
learns heads alone. :mod:`mtlbook.experiments.mrn` puts a *random* fc7 in between. Here nothing is
random but the start of a linear model, and every arm may choose what it has to choose, its step
size among it, with as many trials as any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from mtlbook.experiments import mrn
from mtlbook.experiments import mrn_splits as splits
from mtlbook.methods import (
    DMTLTF,
    DRN,
    MRN,
    MTFL,
    MTRL,
    RMTL,
    STL,
    FixedRelation,
    Method,
    Pooled,
)
from mtlbook.study import Add, Arm, Outcome, Parts, Study, Trial, configurations
from mtlbook.tasks import TaskSet
from mtlbook.training import evaluate

TRIALS = 12  # settings of every arm, each on every tuning split


@dataclass(frozen=True)
class Protocol(splits.Protocol):
    """What :class:`mtlbook.experiments.mrn_splits.Protocol` says, and what an arm may choose.

    Attributes
    ----------
    features : int
        Length of the inputs, which are given in a basis of the training inputs' span.
    weight : float
        In front of the prior, or of a shallow model's penalty.
    max_updates : int
        Of the covariances; later they stay as they are.
    task, classes, feature : float
        Shrinkage of the three covariances.
    tolerance : float
        What the factors of DMTL-TF may lose of their start.
    steady : float
        The largest part of ``2 (1 + momentum) / lr`` that the curvature of a learned prior may
        reach: above 1 gradient steps grow without bound. 0 sets no bound.
    """

    hidden: int = 0
    features: int = 0
    weight: float = 0.0
    max_updates: int = 30
    task: float = 0.1
    classes: float = 0.5
    feature: float = 0.9
    tolerance: float = 0.3
    steady: float = 0.0


def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The parts of ``mtlbook.experiments.mrn.split``, in the span of the training inputs."""
    return splits.in_span(mrn.split(tasks, repeat, protocol))


def stl(trial: Trial) -> STL:
    """Single-task learning."""
    return STL(mrn.network(trial), layers=("fc8",))


def pooled(trial: Trial) -> Pooled:
    """One model for all tasks."""
    return Pooled(mrn.network(trial, True), tasks=len(trial.train))


def fixed(trial: Trial) -> FixedRelation:
    """A prior that says how alike all tasks are, by a number that is chosen as any other."""
    p = trial.protocol
    return FixedRelation(mrn.network(trial), weight=p.weight, rho=p.rho)


def prior(trial: Trial, learn: Sequence[str]) -> MRN:
    """MRN with some of its covariances."""
    p = trial.protocol
    eps = {"task": p.task, "class": p.classes, "feature": p.feature}
    return MRN(
        mrn.network(trial),
        learn=learn,
        weight=p.weight,
        update_every=p.update_every,
        max_updates=p.max_updates,
        eps=eps,
        features=p.features,
        curvature=p.steady * 2 * (1 + p.momentum) / p.lr or None,
    )


def oracle(trial: Trial) -> MRN:
    """The relation of :func:`mtlbook.experiments.mrn_splits.with_codings`: two equal groups.

    Within a group it is the fixed relation, and between the groups nothing.
    """
    p, half = trial.protocol, len(trial.train) // 2
    method = MRN(mrn.network(trial), learn=("task",), weight=p.weight, max_updates=0)
    group = (1 - p.rho) * torch.eye(half) + p.rho
    for name in method.layers:
        method.set_covariance(name, "task", torch.block_diag(group, group))
    return method


def released(trial: Trial) -> MRN:
    """The authors' switches."""
    p = trial.protocol
    every = p.update_every
    return MRN(mrn.network(trial), as_released=True, weight=p.weight, update_every=every)


def drn(trial: Trial) -> DRN:
    """A matrix normal model after DRN, in the trace-one form."""
    p = trial.protocol
    return DRN(mrn.network(trial), form="trace-one", weight=p.weight, update_every=p.update_every)


def dmtl_tf(trial: Trial) -> DMTLTF:
    """Factors of trained single-task models."""
    return DMTLTF(trial.start.network, tolerance=trial.protocol.tolerance)


def shallow(trial: Trial, model: Callable[..., Method], **weights: float) -> Method:
    """A convex model, on inputs divided by their length."""
    length = math.sqrt(trial.protocol.features)
    rough = {"max_iterations": 300, "tolerance": 1e-3, "warn": False}
    given = {name: factor * trial.protocol.weight for name, factor in weights.items()}
    return model(features=lambda x: x / length, **given, **rough)


STEP = {"lr": (0.003, 0.05)}
DECAY = {"decay": (1e-3, 10.0)}
WEIGHT = {"weight": (0.01, 3.0)}
STRONG = {"weight": (0.1, 30.0)}  # in its own span a learned feature covariance is large
TASK = {"task": (0.01, 0.5), "max_updates": [1, 3, 10, 30]}
CLASS = {"classes": (0.1, 0.9)}
RHO = {"rho": [0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995]}
FEATURE = {"feature": (0.3, 0.99)}
SHALLOW = {"weight": (1e-5, 0.3)}


def _arm(build: Callable[..., Method], *ranges: dict[str, Any], **options: Any) -> Arm:
    drawn = configurations(TRIALS, **{name: of for each in ranges for name, of in each.items()})
    return Arm(build, configurations=drawn, **options)


ARMS: dict[str, Arm] = {
    "stl": _arm(stl, STEP, DECAY),
    "pooled": _arm(pooled, STEP, DECAY),
    "fixed": _arm(fixed, STEP, WEIGHT, RHO),
    "mtfl": _arm(partial(shallow, model=MTFL, gamma=1.0), SHALLOW),
    "rmtl": _arm(partial(shallow, model=RMTL, gamma=1.0, beta=1.0), SHALLOW),
    "mtrl": _arm(
        partial(shallow, model=partial(MTRL, lambda1=0.0, rounds=3), lambda2=1.0), SHALLOW
    ),
    "dmtl-tf": _arm(dmtl_tf, STEP, {"tolerance": (0.05, 0.9)}, start="stl-start"),
    "mrn-t": _arm(partial(prior, learn=("task",)), STEP, WEIGHT, TASK),
    "mrn-ct": _arm(partial(prior, learn=("class", "task")), STEP, WEIGHT, TASK, CLASS),
    "mrn-ft": _arm(partial(prior, learn=("feature", "task")), STEP, STRONG, TASK, FEATURE),
    "mrn": _arm(
        partial(prior, learn=("feature", "class", "task")), STEP, STRONG, TASK, CLASS, FEATURE
    ),
    "mrn-released": _arm(released, STEP, WEIGHT),
    "drn": _arm(drn, STEP, WEIGHT),
}
START = {"stl-start": Arm(stl, number="decay", value=0.1)}  # where DMTL-TF starts
ORACLE = {"oracle": _arm(oracle, STEP, WEIGHT, RHO)}  # where there is a relation to know
GROUPS: dict[str, Sequence[str]] = {
    "all": tuple(ARMS),
    "baselines": ("stl", "pooled", "fixed", "mtfl", "rmtl", "mtrl", "dmtl-tf"),
    "learned": ("mrn-t", "mrn-ct", "mrn-ft", "mrn", "mrn-released", "drn"),
    "few": ("stl", "pooled", "fixed", "mrn-t", "mrn"),
    "codings": ("stl", "pooled", "fixed", "mrn-t", "mrn", "oracle"),
}


def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
    """What ``mtlbook.experiments.mrn.measure`` records, and ``test_loss``, the log loss.

    Where it is bounded, ``stiffness`` is the curvature of a learned prior, before the bound, as a
    part of what gradient steps bear.
    """
    mrn.measure(add, outcome, parts)
    p, method = outcome.trial.protocol, outcome.method
    if isinstance(method, MRN) and method.switches.curvature:
        most = 2 * (1 + p.momentum) / p.lr
        add(metric="stiffness", value=float(method.stiffness("fc8")) / most)
    loss = evaluate(outcome.method, parts["test"], chunk=mrn.CHUNK).mean_loss
    add(metric="test_loss", value=loss)


STUDY = Study(
    name="mrn_linear",
    arms={**ARMS, **START, **ORACLE},
    protocol=Protocol(),
    split=split,
    training=mrn.training,
    measure=measure,
    score=mrn.score,
    tuning_splits=(1000, 1001, 1002, 1003),
)


def table1(tasks: TaskSet, percent: int, steps: int, steady: float = 0.0) -> Study:
    """Table 1 at one percentage, with which the names of its metrics end."""
    features = tasks[0].inputs[0].numel()
    study = STUDY.at(percent=percent, steps=steps, features=features, steady=steady)
    return replace(study, suffix=f"/{percent}")
