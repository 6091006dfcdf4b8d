"""The experiments of MRN (arXiv 1506.02117v4, section 5), and the comparisons they lack.

The tasks are the domains of one problem. Their inputs are features of a frozen backbone; on top of
them every deep arm has an fc7 and an fc8 for each task, as MRN has on AlexNet's fc6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from mtlbook.backbones import mlp
from mtlbook.experiments.mrn_splits import (
    PERCENTS,
    Protocol,
    parts_of,
    parts_of_lists,
    standardise,
    with_harmful_task,
)
from mtlbook.layers import TaskNetwork
from mtlbook.methods import (
    DMTLTF,
    DRN,
    MRN,
    MTFL,
    MTRL,
    RMTL,
    STL,
    FixedRelation,
    HardSharing,
    Method,
    Pooled,
)
from mtlbook.study import Add, Arm, Outcome, Parts, Study, Trial, validation_score
from mtlbook.tasks import TaskSet
from mtlbook.training import evaluate

__all__ = ["ARMS", "PERCENTS", "TABLE1", "Protocol", "parts_of", "with_harmful_task"]

CHUNK = 2048  # samples at a time where they are only read


def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """:func:`parts_of`, standardised; the tasks must have the same classes."""
    if len(set(tasks.outputs)) != 1:
        raise ValueError(f"tasks: expected the same classes in all, got {tasks.outputs} of them")
    return standardise(parts_of(tasks, repeat, protocol))


# The arms. The one number of an arm, five values of it for each: the same budget for all. For a
# prior and for weight decay it is the weight in front of it, on all weights; with identities for
# covariances, a prior *is* weight decay.


def build_network(
    train: TaskSet, seed: int, hidden: int, shared: Sequence[str] | bool = ()
) -> TaskNetwork:
    """fc7 and fc8 on given features, ``hidden = 0``: fc8 alone.

    Every task's fc7 starts at the same weights, as in the paper, where they are AlexNet's; ours are
    random (He et al. 2015). fc8 starts at 0.01 N(0, 1), as in the released code.
    """
    features = train[0].inputs.shape[1]
    widths, names = ((hidden,), ("fc7", "fc8")) if hidden else ((), ("fc8",))
    network = mlp(
        features,
        train.outputs,
        seed=seed,
        hidden=widths,
        activation=nn.ReLU,
        shared=shared,
        std=1.0,
        names=names,
    )
    with torch.no_grad():
        if hidden:
            w = network.task_layers["fc7"].weight
            w.copy_((w[:1] * math.sqrt(2 / features)).expand_as(w))
        network.head.weight.mul_(0.01)
    return network


def network(trial: Trial, shared: Sequence[str] | bool = ()) -> TaskNetwork:
    """:func:`build_network` for a trial."""
    return build_network(trial.train, trial.repeat, trial.protocol.hidden, shared)


def stl(trial: Trial) -> STL:
    """Single-task learning; weights decay in the optimiser."""
    own = network(trial)
    return STL(own, layers=tuple(own.task_layers))


def shallow(trial: Trial, model: type[Method], **options: Any) -> Method:
    """A linear model on the features, divided by their length so that one grid fits all sets."""
    length = math.sqrt(trial.train[0].inputs.shape[1])
    rough = {"max_iterations": 300, "tolerance": 1e-3, "warn": False}
    return model(features=lambda x: x / length, **options, **rough)


def mtfl(trial: Trial) -> MTFL:
    """Features in common."""
    return shallow(trial, MTFL, gamma=trial.value)


def rmtl(trial: Trial) -> RMTL:
    """A few directions in common, and tasks that stand apart."""
    return shallow(trial, RMTL, gamma=trial.value, beta=trial.value)


def mtrl(trial: Trial) -> MTRL:
    """A learned covariance of the tasks."""
    return shallow(trial, MTRL, lambda1=0.0, lambda2=trial.value, rounds=3)


def mrn(trial: Trial, **switches: Any) -> MRN:
    """The prior, at the arm's weight."""
    options = {"update_every": trial.protocol.update_every} | switches
    return MRN(network(trial), weight=trial.value, **options)


def mrn_once(trial: Trial) -> MRN:
    """The relation of networks that have been trained without one: an update after the end."""
    return mrn(trial, learn=("task",), update_every=trial.protocol.steps)


def drn(trial: Trial) -> DRN:
    """A matrix normal model after DRN, in the trace-one form."""
    every = trial.protocol.update_every
    return DRN(network(trial), form="trace-one", weight=trial.value, update_every=every)


def known(trial: Trial, covariance: Tensor) -> MRN:
    """MRN_t that is given the task covariance and never learns: the best that there is to learn."""
    method = mrn(trial, learn=("task",), max_updates=0)
    for name in method.layers:
        method.set_covariance(name, "task", covariance)
    return method


WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
PAPER_ARMS = ("stl", "mtfl", "rmtl", "mtrl", "dmtl-tf", "mrn-8", "mrn-t", "mrn")
CONTROLS = ("pooled", "fixed", "hard-sharing")
ARMS: dict[str, Arm] = {
    "stl": Arm(stl, WEIGHTS, number="decay"),
    "mtfl": Arm(mtfl, STRENGTHS),
    "rmtl": Arm(rmtl, STRENGTHS),
    "mtrl": Arm(mtrl, (0.0001, 0.0003, 0.001, 0.003, 0.01)),
    # its number: the part of the start that the factors may lose
    "dmtl-tf": Arm(
        lambda trial: DMTLTF(trial.start.network, tolerance=trial.value),
        (0.1, 0.2, 0.3, 0.5, 0.7),
        start="stl-start",
    ),
    "mrn-8": Arm(partial(mrn, layers=("fc8",)), WEIGHTS),
    "mrn-t": Arm(partial(mrn, learn=("task",)), WEIGHTS),
    "mrn": Arm(mrn, WEIGHTS),
    "pooled": Arm(
        lambda trial: Pooled(network(trial, True), tasks=len(trial.train)), WEIGHTS, number="decay"
    ),
    "fixed": Arm(
        lambda trial: FixedRelation(network(trial), weight=trial.value, rho=trial.protocol.rho),
        WEIGHTS,
    ),
    "hard-sharing": Arm(
        lambda trial: HardSharing(network(trial, ("fc7",))), WEIGHTS, number="decay"
    ),
    "drn": Arm(drn, WEIGHTS),
    # the released code learns heads on a frozen network: ours, on the features themselves
    "mrn-released": Arm(partial(mrn, as_released=True), WEIGHTS, protocol={"hidden": 0}),
    "mrn-once": Arm(mrn_once, WEIGHTS),
}
START = {"stl-start": Arm(stl, number="decay", value=0.1)}  # where DMTL-TF starts
#: Names of groups of arms, about equal in time: a run of a notebook is one of them.
GROUPS: dict[str, Sequence[str]] = {
    "all": tuple(ARMS),
    "baselines": ("stl", "mtfl", "rmtl", "mtrl", "dmtl-tf", "pooled", "fixed", "hard-sharing"),
    "partial": ("mrn-8", "mrn-t", "drn", "mrn-released", "mrn-once"),
    "full": ("mrn",),
    "few": ("stl", "mrn-t", "mrn", "pooled", "fixed", "hard-sharing"),
}


def optimiser(
    parameters: Iterable[Tensor], *, lr: float, momentum: float, decay: float
) -> torch.optim.Optimizer:
    """SGD with momentum; weights decay, biases (two axes, not three) do not."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim == 2]},
    ]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=lr, momentum=momentum)


def training(trial: Trial) -> dict[str, Any]:
    """The released code's optimiser."""
    p = trial.protocol
    optimizer = partial(optimiser, lr=p.lr, momentum=p.momentum, decay=p.decay)
    return {"steps": p.steps, "batch_size": p.batch_size, "optimizer": optimizer}


# What is measured


def watch(trial: Trial, parts: Parts) -> dict[str, Any]:
    """Validation and test scores some thirty times on the way: the selection audit."""

    def probe(method: Method) -> dict[str, float]:
        seen = ("validation", "test")
        return {name: evaluate(method, parts[name], chunk=CHUNK).mean for name in seen}

    steps = trial.protocol.steps
    every = max(1, steps // 30)
    return {"probe": probe, "probe_at": range(every, steps + 1, every)}


def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
    """Accuracies, what a choice among the iterations would make of them, and the relation.

    ``accuracy_percent`` (with every task's); ``best_percent`` and ``selected_percent``, test
    accuracy at the iteration that is best on the *test* part, and at the one that is best on
    validation data; ``inflation_percent``, best minus last; with a harmful task,
    ``honest_percent`` of the others. Of a learned relation ``correlation/a-b`` of tasks a and b,
    ``least_correlation``, ``no_correlation`` (0) and, where these tasks are there,
    ``next_correlation``, the largest but that of dslr and webcam.
    """
    test, names = evaluate(outcome.method, parts["test"], chunk=CHUNK), parts["test"].names
    add(metric="accuracy_percent", value=test.mean, per_task=[round(x, 3) for x in test.per_task])
    if "harmful" in names:
        of_task = dict(zip(names, test.per_task, strict=True))
        honest = [score for name, score in of_task.items() if name != "harmful"]
        add(metric="honest_percent", value=sum(honest) / len(honest))
    probes = outcome.history.probes
    if probes:
        selected = max(probes, key=lambda seen: seen["validation"])
        best = max(seen["test"] for seen in probes)
        add(metric="best_percent", value=best)
        add(metric="inflation_percent", value=best - test.mean)
        add(metric="selected_percent", value=selected["test"])
    if type(outcome.method) not in (MRN, DRN, MTRL):  # others learn no relation
        return
    matrix = outcome.method.relation().matrix
    pairs = {
        f"correlation/{names[a]}-{names[b]}": float(matrix[a, b])
        for a, b in combinations(range(len(names)), 2)
    }
    for metric, value in pairs.items():
        add(metric=metric, value=value)
    add(metric="least_correlation", value=min(pairs.values()))
    add(metric="no_correlation", value=0.0)
    others = [v for metric, v in pairs.items() if metric != "correlation/dslr-webcam"]
    if len(others) < len(pairs):
        add(metric="next_correlation", value=max(others))


def score(method: Method, part: TaskSet) -> Sequence[float]:
    """Mean validation accuracy, or minus the root mean squared error."""
    return validation_score(method, part, chunk=CHUNK)


TABLE1 = Study(
    name="mrn",
    arms={**ARMS, **START},
    protocol=Protocol(),
    split=split,
    training=training,
    measure=measure,
    score=score,
    watch=watch,
    tuning_splits=(1000, 1001),
)


def table1(percent: int, steps: int) -> Study:
    """Table 1 at one percentage, with which the names of its metrics end."""
    return replace(TABLE1.at(percent=percent, steps=steps), suffix=f"/{percent}")


def on_lists(study: Study, lists: Mapping[str, tuple[Tensor, Tensor]], unique: bool) -> Study:
    """The same on given lists, as they are or without repetitions: ``[unique_]lists_percent``."""

    def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
        return standardise(parts_of_lists(tasks, lists, protocol, unique=unique))

    def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
        test = evaluate(outcome.method, parts["test"], chunk=CHUNK)
        per_task = [round(x, 3) for x in test.per_task]
        name = "unique_lists_percent" if unique else "lists_percent"
        add(metric=name, value=test.mean, per_task=per_task)

    return replace(study, split=split, measure=measure, watch=None)
