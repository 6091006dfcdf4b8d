"""The experiments of TNRDMTL (arXiv 1606.04038v1, section 3), and the ones it lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from mtlbook.backbones import convnet, mlp
from mtlbook.layers import TaskNetwork
from mtlbook.ledger.results import Result
from mtlbook.methods import STL, TNRDMTL, HardSharing, Method, NetworkMethod
from mtlbook.methods.tnrdmtl import layer_alignment
from mtlbook.norms import uncoupled_norm
from mtlbook.study import Add, Arm, Outcome, Parts, Study, Trial
from mtlbook.tasks import Task, TaskSet, split_per_class
from mtlbook.training import evaluate

VALIDATION_SEED = 2016  # of the drawings that are set aside for validation, once and for all


@dataclass(frozen=True)
class Protocol:
    """What the paper does, and what it leaves open and we chose.

    Attributes
    ----------
    train : int
        Drawings of a character to train on: 2 of 20, the paper's 10 %.
    validation : int
        Drawings of a character that no repeat trains or tests on (ours: the paper does not say
        how its settings were chosen, and 2 of 20 keep the choice clean); 16 are left for the test.
    steps, batch_size, lr, momentum, optimizer
        Not stated in the paper. ``lr`` was chosen for STL on validation data.
    gamma, reduction
        The paper's 0.01, summed over layers and components as in its text.
    """

    train: int = 2
    validation: int = 2
    steps: int = 400
    batch_size: int | None = 8
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    gamma: float = 0.01
    reduction: str = "sum"
    axis_order: str = "tensorflow"
    padding: str = "same"


def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The training, validation and test parts of one repeat.

    The validation drawings are the same in all repeats and drawn first, so that no repeat tests on
    a drawing that a strength was chosen with.
    """
    first = split_per_class(
        tasks, {"validation": protocol.validation}, seed=VALIDATION_SEED, rest="rest"
    )
    rest = split_per_class(first["rest"], {"train": protocol.train}, seed=repeat)
    return {"train": rest["train"], "validation": first["validation"], "test": rest["test"]}


# The arms. What may be tuned is one number an arm, five values of it for each: the same budget.


def network(trial: Trial, shared: Sequence[str] | bool = ()) -> TaskNetwork:
    """The paper's network; layers of one shape start alike in all arms of a repeat."""
    return convnet(
        trial.train[0].inputs.shape[1:],
        trial.train.outputs,
        seed=trial.repeat,
        padding=trial.protocol.padding,
        shared=shared,
    )


def stl(trial: Trial) -> STL:
    """Single-task learning."""
    return STL(network(trial))


def weight_decay(trial: Trial) -> STL:
    """Single-task learning with weight decay: shrinkage without sharing."""
    return STL(network(trial), weight_decay=trial.value)


def hard_sharing(trial: Trial) -> HardSharing:
    """One trunk for all tasks."""
    return HardSharing(network(trial, TRUNK))


def norm(trial: Trial, kind: str, averaged: bool = False) -> TNRDMTL:
    """A trace norm (or its control without coupling), at the arm's number or the paper's gamma.

    ``averaged``: another reading of the objective: losses are averaged over tasks, norms over
    components and layers, as in the authors' demonstration and first code. In units of ours gamma
    is T times as large, and divided by the number of norms.
    """
    protocol = trial.protocol
    gamma = protocol.gamma if trial.value is None else trial.value
    return TNRDMTL(
        network(trial),
        kind=kind,
        gamma=gamma * len(trial.train) if averaged else gamma,
        reduction="mean" if averaged else protocol.reduction,
        axis_order=protocol.axis_order,
        init="random" if trial.start is None else "stl",
        stl=trial.start,
    )


def proximal(trial: Trial) -> TNRDMTL:
    """LAF by its proximal map in place of the sub-gradient."""
    step_size = trial.protocol.lr / (1 - trial.protocol.momentum)
    return TNRDMTL(network(trial), gamma=trial.value, proximal=True, step_size=step_size)


TRUNK = ("conv1", "conv2", "conv3", "fc1")
KINDS = ("laf", "tucker", "tt")
LARGE, SMALL = (0.003, 0.01, 0.03, 0.1, 0.3), (0.001, 0.003, 0.01, 0.03, 0.1)

ARMS: dict[str, Arm] = {
    "stl": Arm(stl, (0.01, 0.02, 0.035, 0.05, 0.07), number="lr"),
    **{kind: Arm(partial(norm, kind=kind)) for kind in KINDS},
    # 50 losses on one trunk ask for smaller steps
    "hard-sharing": Arm(hard_sharing, (0.0005, 0.001, 0.002, 0.005, 0.01), number="lr"),
    "laf-tuned": Arm(partial(norm, kind="laf"), LARGE),
    "tucker-tuned": Arm(partial(norm, kind="tucker"), SMALL),
    "tt-tuned": Arm(partial(norm, kind="tt"), SMALL),
    "uncoupled-tuned": Arm(partial(norm, kind="uncoupled"), LARGE),
    "weight-decay-tuned": Arm(weight_decay, (0.0003, 0.001, 0.003, 0.01, 0.03)),
    "proximal-tuned": Arm(proximal, LARGE),
}
PAPER_ARMS = ("stl", *KINDS)
AVERAGED_ARMS: dict[str, Arm] = {
    f"{kind}-averaged": Arm(partial(norm, kind=kind, averaged=True))
    for kind in (*KINDS, "uncoupled")
}
#: Optimisers that the paper may have used for figure 1, under STL.
OPTIMISERS: dict[str, Arm] = {
    f"{optimizer}-{lr:g}-batch-{batch}": Arm(
        stl, protocol={"optimizer": optimizer, "lr": lr, "batch_size": batch}
    )
    for optimizer, steps in (("adam", (0.0005, 0.001)), ("sgd", (0.02, 0.03)))
    for lr in steps
    for batch in (16, 32)
}
#: The ambiguities of the paper: each changes one thing of one arm.
VARIANTS: dict[str, Arm] = {
    **{f"{kind}-mean-norms": replace(ARMS[kind], protocol={"reduction": "mean"}) for kind in KINDS},
    "tt-torch-order": replace(ARMS["tt"], protocol={"axis_order": "torch"}),
    "laf-stl-start": replace(ARMS["laf"], start="stl"),
    # as many steps as the start at STL has in all
    "stl-800-steps": Arm(stl, number="lr", like="stl", protocol={"steps": 800}),
    "stl-52px": Arm(stl, number="lr", like="stl", protocol={"padding": "valid"}),
    "laf-52px": replace(ARMS["laf"], protocol={"padding": "valid"}),
}


def training(trial: Trial) -> dict[str, Any]:
    """The optimiser, for all arms the same but for a tuned step size."""
    protocol = trial.protocol
    optimizer = partial(torch.optim.SGD, lr=protocol.lr, momentum=protocol.momentum)
    if protocol.optimizer == "adam":
        optimizer = partial(torch.optim.Adam, lr=protocol.lr)
    return {"steps": protocol.steps, "batch_size": protocol.batch_size, "optimizer": optimizer}


# What is measured


def layer_lengths(method: NetworkMethod) -> dict[str, float]:
    """Sum of the tasks' Frobenius norms of every layer with a copy for each task."""
    return {
        name: float(uncoupled_norm(layer.stack().detach()))
        for name, layer in method.regularised.items()
    }


def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
    """Accuracy and losses, and how the layers have changed.

    Records, besides ``accuracy_percent`` (with every task's) and cross-entropies, for each layer
    ``l`` with a copy for each task: ``alignment/l`` (sharing, free of shrinkage), ``length/l``
    (final over initial sum of the tasks' Frobenius norms: shrinkage alone) and, for the arms with
    a norm, ``sharing_strength/l`` (both at once).
    """
    method = outcome.method
    test, train = evaluate(method, parts["test"]), evaluate(method, parts["train"])
    add(metric=test.metric, value=test.mean, per_task=[round(x, 3) for x in test.per_task])
    add(metric="train_cross_entropy", value=train.mean_loss)
    add(metric="test_cross_entropy", value=test.mean_loss)
    before = layer_lengths(outcome.untrained())
    for name, length in layer_lengths(method).items():
        add(metric=f"length/{name}", value=length / before[name])
    for name, value in layer_alignment(method).items():
        add(metric=f"alignment/{name}", value=value)
    if isinstance(method, TNRDMTL):
        for name, value in method.sharing_strength().items():
            add(metric=f"sharing_strength/{name}", value=value)


#: Table 1 and its controls.
TABLE1 = Study("tnrdmtl", ARMS, Protocol(), split, training, measure)


def measure_accuracy(add: Add, outcome: Outcome, parts: Parts) -> None:
    """Test accuracy alone."""
    test = evaluate(outcome.method, parts["test"])
    add(metric=test.metric, value=test.mean)


#: Where the paper can be read in two ways; compare with Table 1.
AMBIGUITIES = replace(TABLE1, arms={**ARMS, **VARIANTS}, measure=measure_accuracy)


# Figure 1: training cross-entropy (of the whole training part) and norm against the iteration


def _train_loss(method: Method, parts: Parts) -> float:
    return evaluate(method, parts["train"]).mean_loss


def watch_loss(trial: Trial, parts: Parts) -> dict[str, Any]:
    """The training cross-entropy every 25 steps."""

    def probe(method: Method) -> dict[str, float]:
        return {"train_cross_entropy": _train_loss(method, parts)}

    return {"probe": probe, "probe_at": range(0, trial.protocol.steps + 1, 25)}


def measure_curves(add: Add, outcome: Outcome, parts: Parts) -> None:
    """What was watched, step by step."""
    for seen in outcome.history.probes:
        for metric in seen.keys() - {"step"}:
            add(metric=metric, value=seen[metric], step=seen["step"])


def watch_norm(trial: Trial, parts: Parts) -> dict[str, Any]:
    """The cross-entropy and the mean over layers of the mean over components of the arm's norm.

    LAF for STL, which the figure does not show.
    """

    def probe(method: Method) -> dict[str, float]:
        meter = method if isinstance(method, TNRDMTL) else TNRDMTL(method.network)
        loss = _train_loss(method, parts)
        return {"train_cross_entropy": loss, "norm": float(meter.mean_norm().detach())}

    return {"probe": probe, "probe_at": (0, 5, *range(25, trial.protocol.steps + 1, 25))}


def measure_figure1(add: Add, outcome: Outcome, parts: Parts) -> None:
    """The curves, and the test at the end."""
    measure(add, outcome, parts)
    add(metric="initial_norm", value=outcome.history.probes[0]["norm"])
    measure_curves(add, outcome, parts)


#: STL takes the protocol's step size, the optimiser's that is nearest to the printed curve.
FIGURE1 = replace(
    TABLE1,
    arms={**ARMS, "stl": Arm(stl), **AVERAGED_ARMS},
    watch=watch_norm,
    measure=measure_figure1,
)
#: STL under every optimiser, on the tuning split: which one is near the curve that is printed?
CALIBRATION = replace(
    TABLE1, arms=OPTIMISERS, watch=watch_loss, measure=measure_curves, tuning_splits=()
)


def nearest(calibration: Result, printed: Mapping[int, float]) -> str:
    """The optimiser whose curve has the least median relative deviation from the printed one."""
    deviations: dict[str, list[float]] = {}
    for record in calibration.records:
        if record["step"] in printed:
            target = printed[record["step"]]
            deviation = abs(record["value"] - target) / target
            deviations.setdefault(record["arm"], []).append(deviation)
    return min(deviations, key=lambda arm: median(deviations[arm]))


# The authors' demonstration: STL against LAF, training loss every 100 full-batch steps


def demo_tasks(seed: int, *, samples: int = 100, features: int = 20) -> TaskSet:
    """Three noise-free linear regressions of one X, with 3, 2 and 5 outputs.

    ``X ~ N(0, 1)``, ``Y_t = X A_t``, ``A_t ~ N(0, 1)``.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator)
    tasks = [
        Task(f"{k} outputs", x, x @ torch.randn(features, k, generator=generator), loss="mse")
        for k in (3, 2, 5)
    ]
    return TaskSet("tnrdmtl-demo", tasks, licence="generated")


def _demo(trial: Trial, method: Callable[..., Method]) -> Method:
    """An MLP 20-10-k with sigmoid units, truncated normal weights of deviation 1."""
    tasks = trial.train
    return method(mlp(tasks[0].inputs.shape[1], tasks.outputs, seed=trial.repeat))


def _measure_demo(add: Add, outcome: Outcome, parts: Parts) -> None:
    """The loss is the *mean* over tasks plus 0.001 times the LAF norm of the first layer.

    Ours sums over tasks, so gamma is three times 0.001, and the loss is divided by three.
    """
    history, steps = outcome.history, outcome.trial.protocol.steps
    total = (history.loss.sum(1) + history.penalty) / history.loss.shape[1]
    for step in range(0, steps, 100):
        add(metric="train_loss", value=float(total[step]), step=step)
    add(metric="train_loss", value=float(total[(steps - 1) // 100 * 100]))


DEMO = Study(
    name="tnrdmtl",
    arms={
        "stl": Arm(partial(_demo, method=STL)),
        "laf": Arm(partial(_demo, method=partial(TNRDMTL, gamma=0.001 * 3))),
    },
    protocol=Protocol(steps=1000, batch_size=None, optimizer="adam", lr=0.01),
    split=lambda tasks, repeat, protocol: {"train": demo_tasks(repeat)},
    training=training,
    measure=_measure_demo,
)
