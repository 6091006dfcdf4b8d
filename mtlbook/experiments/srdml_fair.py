"""CIFAR-MTL with as much to choose for every arm, and test images drawn anew in every repeat.

In :mod:`mtlbook.experiments.srdml` all repeats share 2,000 test images, lambda is chosen among
positive values alone, and only hard sharing may choose its step size. Here every arm of the second
stage, and every row of the paper's table, chooses its step size and its own numbers, with as many
trials as any other; lambda may be 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from mtlbook.experiments import cifar_mtl, srdml
from mtlbook.experiments.cifar_mtl import METRICS, scores
from mtlbook.ledger import images
from mtlbook.methods import L21, PLE, RMTL, SRDML, Lasso, Method, MMoE
from mtlbook.study import Add, Arm, Outcome, Parts, Study, Trial, configurations
from mtlbook.tasks import TaskSet
from mtlbook.training import predict

TRIALS = 8  # settings of every arm, each on every tuning split


@dataclass(frozen=True)
class Protocol(cifar_mtl.Protocol):
    """What :class:`mtlbook.experiments.cifar_mtl.Protocol` says, and what an arm may choose.

    Attributes
    ----------
    test : int
        Images of a class to test on.
    weight : float
        Lambda.
    omega_step : float
        Step of omega, where it is not the script's.
    """

    test: int = 500
    weight: float = 0.0
    omega_step: float = 0.0


def numbered(tasks: TaskSet) -> TaskSet:
    """The tasks with the number of every image in ``groups``, in place of the test batch."""
    rows = torch.arange(len(tasks[0]))
    return replace(tasks, tasks=tuple(replace(task, groups=rows) for task in tasks))


def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The parts of one repeat, balanced over the classes, from all images there are.

    Validation images are the same in all repeats, and no repeat trains or tests on them; what is
    trained and what is tested on is drawn anew from the others.
    """
    labels = torch.cat([task.targets for task in tasks], 1).argmax(1)
    fixed = torch.Generator().manual_seed(cifar_mtl.VALIDATION_SEED)
    drawn = torch.Generator().manual_seed(repeat)
    sizes = [protocol.validation, protocol.train, protocol.test]
    rows: dict[str, list] = {"validation": [], "train": [], "test": []}
    for label in range(len(tasks)):
        of_class = (labels == label).nonzero().flatten()
        if len(of_class) < sum(sizes):
            raise ValueError(
                f"train, validation, test: expected at most {len(of_class)} images of class "
                f"{label} together, got {sum(sizes)}"
            )
        order = of_class[torch.randperm(len(of_class), generator=fixed)]
        rest = order[protocol.validation :]
        order = torch.cat(
            [order[: protocol.validation], rest[torch.randperm(len(rest), generator=drawn)]]
        )
        for found, part in zip(rows.values(), order[: sum(sizes)].split(sizes), strict=True):
            found.append(part)
    return cifar_mtl.selected(tasks, rows, protocol)


def regularised(trial: Trial, **options: Any) -> Method:
    """SRDML at the lambda, and where ``options`` leave it open at the step of omega, of a trial."""
    p = trial.protocol
    if not options.get("as_released"):
        options = {"reduction": "sum", "omega_step": p.omega_step} | options
    method = SRDML(*srdml.network(trial), weight=p.weight, seed=trial.repeat, **options)
    return srdml.go_on(method, trial)


STEP = {"lr": (0.0001, 0.01)}
WEIGHT = {"weight": [0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]}
SCRIPT_STEP = 0.001
LAMBDAS = (1e-3, 1e-1)  # the last is the script's


def _arm(build: Any, *, start: str | None = "hard-sharing", **ranges: Any) -> Arm:
    return Arm(build, configurations=configurations(TRIALS, **ranges), start=start)


released = partial(regularised, as_released=True)
ARMS: dict[str, Arm] = {
    "hard-sharing": Arm(srdml.shared, protocol={"extra_epochs": 0}),
    "hard-sharing-longer": _arm(srdml.shared, **STEP),
    "srdml": _arm(released, **STEP, **WEIGHT),
    "srdml-uniform": _arm(regularised, **STEP, **WEIGHT),
    "srdml-fast": _arm(regularised, **STEP, **WEIGHT, omega_step=(1.0, 10_000.0)),
}
#: The second stage at the script's step size: nothing is chosen, lambda alone differs.
LADDER: dict[str, Arm] = {
    f"lambda-{weight:g}": Arm(
        released, start="hard-sharing", number="weight", value=weight, protocol={"lr": SCRIPT_STEP}
    )
    for weight in (0.0, *LAMBDAS)
}


def _at_weight(build: Callable[[Trial], Method]) -> Callable[[Trial], Method]:
    """An arm of the table whose number is one of several settings here, the field ``weight``."""
    return lambda trial: build(replace(trial, value=trial.protocol.weight))


_row = partial(_arm, start=None)  # without a first stage

#: The other rows of the paper's table, with as much to choose; what has no two stages is trained as
#: long as both together. Shallow models have no step size; MMoE, PLE and gradient balancing nothing
#: else.
STRENGTH = (1e-5, 1e-1)
TABLE: dict[str, Arm] = {
    "stl": _row(srdml.stl, **STEP),
    "lasso": _row(_at_weight(partial(srdml.shallow, model=Lasso)), weight=STRENGTH),
    "l21": _row(_at_weight(partial(srdml.shallow, model=L21)), weight=STRENGTH),
    "rmtl": _row(_at_weight(partial(srdml.shallow, model=RMTL)), weight=STRENGTH),
    "mrn": _row(_at_weight(srdml.mrn), **STEP, weight=STRENGTH),
    "mmoe": _row(partial(srdml.experts, method=MMoE, experts=4), **STEP),
    "ple": _row(partial(srdml.experts, method=PLE, levels=1), **STEP),
    "mgda": _row(partial(srdml.balanced, kind="mgda-ub"), **STEP),
    "pcgrad": _row(partial(srdml.balanced, kind="pcgrad"), **STEP),
    "srdml-pcgrad": _arm(partial(released, balancing="pcgrad"), **STEP, **WEIGHT),
}
COSTLY = ("stl", "pcgrad", "srdml-pcgrad")  # take as long as all other rows together
GROUPS: dict[str, tuple[str, ...]] = {
    "all": (*ARMS, *LADDER),
    "table": (
        *("hard-sharing", "hard-sharing-longer", "srdml"),
        *(arm for arm in TABLE if arm not in COSTLY),
    ),
    "costly": COSTLY,
    "few": ("hard-sharing", "hard-sharing-longer", "srdml", "lambda-0.1"),
}


def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
    """Scores at the end of training, who was right on which image, and a learned omega."""
    test = parts["test"]
    outputs = predict(outcome.method, test, chunk=250)
    for metric, of_tasks in scores(outputs, test).items():
        mean = sum(of_tasks) / len(of_tasks)
        add(metric=metric, value=mean, per_task=[round(x, 3) for x in of_tasks])
    right = sum(
        (output.cpu() > 0) == (task.targets > 0.5)
        for output, task in zip(outputs, test, strict=True)
    )
    images.keep(add.result, outcome.name, add.repeat, test[0].groups, right.flatten())
    if outcome.name in ("srdml", "srdml-fast"):
        srdml.measure_relation(add, outcome.method, test.names)


STUDY = Study(
    name="srdml",
    arms={**ARMS, **LADDER, **TABLE},
    protocol=Protocol(),
    split=split,
    training=srdml.training,
    measure=measure,
    score=srdml.score,
    metrics=tuple(f"validation/{metric}" for metric in METRICS),
    tuning_splits=(1000, 1001, 1002, 1003),
)


def study(parameters: Mapping[str, Any]) -> Study:
    """The study under a protocol whose fields are parameters of a notebook, on its first splits."""
    fields = vars(Protocol()).keys() & parameters.keys()
    here = STUDY.at(**{name: parameters[name] for name in fields})
    return replace(here, tuning_splits=STUDY.tuning_splits[: parameters["splits"]])
