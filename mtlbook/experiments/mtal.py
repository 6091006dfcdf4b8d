"""The experiments of MTAL (arXiv 2101.12431): a reconstruction on data of our own choice.

Of the paper abstract, setting and notation are known: no data set, network, threshold or number.
So nothing here repeats a printed protocol. The abstract's claims are put to the test on *twofold
heterogeneous* task sets, tasks that differ in their images and in their labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from mtlbook import datasets
from mtlbook.backbones import TaskConvnets, kernel_networks
from mtlbook.experiments.mtal_likeness import COSINES, effective_rank, likeness
from mtlbook.ledger.results import Result
from mtlbook.methods import MTAL, STL, TNRDMTL, CrossStitch, HardSharing
from mtlbook.study import Add, Arm, Outcome, Parts, Study, Trial
from mtlbook.tasks import TaskSet, split_per_class
from mtlbook.training import evaluate

__all__ = ["ARMS", "COSINES", "TABLE", "effective_rank", "likeness"]

VALIDATION_SEED = 2021  # of the images that are set aside for validation, once and for all
#: Said of every result, so that every verdict says it: there is nothing printed to compare with.
UNKNOWN = "the paper's task sets, which are not known: no printed number could be obtained"

#: The task sets. A name is a data set, or a data set and one alphabet of it.
TASK_SETS: dict[str, tuple[str, ...]] = {
    "all": (
        "mnist5k",
        "usps_16",
        "cifar10_12k",
        "notmnist",
        "omniglot_28: Blackfoot_(Canadian_Aboriginal_Syllabics)",
        "omniglot_28: Tifinagh",
    ),
    "digits": ("mnist5k", "usps_16"),  # the nearest pair: the same ten digits at two sizes
    "letters": ("usps_16", "notmnist"),
    "strokes": ("usps_16", "omniglot_28: Tifinagh"),
    "embedded": ("digits", "mnist5k", "glyphs: Greek small"),
}


@dataclass(frozen=True)
class Protocol:
    """What all arms of a comparison have in common; all of it is our choice.

    Attributes
    ----------
    train : int
        Images of a class to train on, at most half of what there is: 10 of Omniglot's 20.
    validation : int
        Images of a class that no repeat trains or tests on, at most a fifth of what there is.
    test : int
        Images of a class to test on, at most what is left.
    steps, batch_size, lr, momentum
        Of stochastic gradient descent; ``lr`` is tuned for STL and kept by all arms but those
        whose step size is tuned too.
    channels : tuple of int
        Filters of the convolutions, 3 x 3, of every network.
    init : str
        A key of ``COMMON``: how alike the tasks start.
    own_lr : float, optional
        In place of ``lr``, where the step size is the arm's own number; pretraining keeps ``lr``.
    speed : float
        Factor on the step size. Two kernels that start alike and are mixed with equal weights move
        half as far in a step as one kernel that two tasks share, T of them a T-th as far.
    """

    train: int = 30
    validation: int = 50
    test: int = 100
    steps: int = 200
    batch_size: int = 32
    lr: float = 0.035
    momentum: float = 0.9
    channels: tuple[int, ...] = (8, 16, 16)
    init: str = "independent"
    own_lr: float | None = None
    speed: float = 1.0


def assemble(names: Sequence[str]) -> TaskSet:
    """One task of each name: tasks whose images differ in size, channels and classes.

    Parameters
    ----------
    names : sequence of str
        Names of data sets of one task, or ``"data set: alphabet"``.

    Returns
    -------
    TaskSet
        Its tier is the least accessible of the parts; its hash that of the parts' hashes.
    """
    parts = []
    for name in names:
        source, _, alphabet = name.partition(": ")
        parts.append(datasets.load(source, **({"alphabets": [alphabet]} if alphabet else {})))
    tiers = ("embedded", "fetched", "gated")
    hashes = "\n".join(part.sha256 for part in parts)
    return TaskSet(
        name=" + ".join(names),
        tasks=[task for part in parts for task in part],
        tier=max((part.tier for part in parts), key=tiers.index),
        stand_in_for=UNKNOWN,
        licence="; ".join(dict.fromkeys(part.licence for part in parts)),
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
    )


def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The training, validation and test parts of one repeat, the same number of every class.

    The validation images are the same in all repeats and drawn first, so that no repeat tests on
    an image that anything was chosen with.
    """
    parts: dict[str, list] = {"train": [], "validation": [], "test": []}
    for task in tasks:
        alone = replace(tasks, tasks=(task,))
        least = int(task.targets.bincount(minlength=task.outputs).min())
        validation = min(protocol.validation, least // 5)
        train = min(protocol.train, least // 2)
        test = min(protocol.test, least - validation - train)
        first = split_per_class(
            alone, {"validation": validation}, seed=VALIDATION_SEED, rest="rest"
        )
        counts = {"train": train, "test": test}
        rest = split_per_class(first["rest"], counts, seed=repeat, rest="unused")
        for name, part in (first | rest).items():
            if name in parts:
                parts[name].extend(part)
    return {name: replace(tasks, tasks=tuple(part)) for name, part in parts.items()}


# The networks before training

#: How alike the tasks start: the cosine of their kernels of one number, where shapes agree.
COMMON = {"independent": 0.0, "half-common": 0.5, "common": 1.0, "pretrained": 0.0}
PRETRAINED_ON = ("glyphs: Hebrew",)  # embedded, and no task of any set


def start(
    tasks: TaskSet, repeat: int, protocol: Protocol, shared: Collection[str] = ()
) -> TaskConvnets:
    """The networks of one repeat before training.

    Layers that tasks share start as the first task's own does, so that all arms start alike.
    """
    build = partial(
        kernel_networks,
        [task.inputs.shape[1:] for task in tasks],
        tasks.outputs,
        seed=repeat,
        channels=protocol.channels,
    )
    own = build(common=COMMON[protocol.init])
    if protocol.init == "pretrained":
        for name, kernels in pretrained(repeat, protocol).items():
            fits = [kernels if k.shape == kernels.shape else k for k in own.kernels(name)]
            own.set_kernels(name, fits)
    if not shared:
        return own
    networks = build(shared=shared)
    for name in networks.convolutions:
        kernels = own.kernels(name)
        networks.set_kernels(name, kernels[:1] if name in shared else kernels)
    return networks


@cache
def pretrained(repeat: int, protocol: Protocol) -> dict[str, Tensor]:
    """The kernels of a network trained on rendered letters: a start in common."""
    plain = replace(protocol, init="independent", own_lr=None, speed=1.0)
    study = replace(TABLE, protocol=plain, arms={"stl": Arm(stl)})
    parts = study.split(assemble(PRETRAINED_ON), repeat, plain)
    networks = study.train("stl", parts, repeat, device="cpu").method.network
    return {name: networks.kernels(name)[0].detach() for name in networks.convolutions}


# The arms. A tuned one has one number and five values of it: the same budget for all.


def networks(trial: Trial, shared: Collection[str] = ()) -> TaskConvnets:
    """:func:`start` for a trial."""
    return start(trial.train, trial.repeat, trial.protocol, shared)


def stl(trial: Trial) -> STL:
    """Single-task learning."""
    return STL(networks(trial))


def weight_decay(trial: Trial) -> STL:
    """Single-task learning with weight decay."""
    return STL(networks(trial), weight_decay=trial.value)


def laf(trial: Trial) -> TNRDMTL:
    """TNRDMTL's norm, where shapes agree."""
    return TNRDMTL(networks(trial), kind="laf", gamma=trial.value)


def cross_stitch(trial: Trial) -> CrossStitch:
    """Its number: the start of the weight of one's own activations."""
    return CrossStitch(networks(trial), own=trial.value)


def hard_sharing(trial: Trial, first: bool = False) -> HardSharing:
    """The upper convolutions shared; with ``first`` every one whose shapes agree: one trunk."""
    layers = [name for name in networks(trial).shareable if first or name != "conv1"]
    return HardSharing(networks(trial, layers))


def mtal(trial: Trial, warmup: float = 0, **switches: Any) -> MTAL:
    """The method; its number is rho, ``warmup`` a part of the steps."""
    steps = int(warmup * trial.protocol.steps)
    return MTAL(networks(trial), trial.value, warmup=steps, **switches)


def random_pairs(trial: Trial, pairs: str = "all", **switches: Any) -> MTAL:
    """MTAL's control: as many pairs, of as high a weight, but strangers."""
    return mtal(trial, pairs="random", like=pairs, seed=trial.repeat, **switches)


CONTROL = "random-pairs"
STEP_SIZES = (0.005, 0.01, 0.02, 0.035, 0.05)  # T losses on the upper layers
ARMS: dict[str, Arm] = {
    "stl": Arm(stl, (0.01, 0.02, 0.035, 0.05, 0.07), number="own_lr"),
    "weight-decay": Arm(weight_decay, (0.0003, 0.001, 0.003, 0.01, 0.03)),
    "laf": Arm(laf, (0.0003, 0.001, 0.003, 0.01, 0.03)),
    "hard-sharing": Arm(hard_sharing, STEP_SIZES, number="own_lr"),
    "cross-stitch": Arm(cross_stitch, (0.5, 0.7, 0.8, 0.9, 0.95)),
    "mtal": Arm(mtal, (0.2, 0.3, 0.5, 0.7, 0.9)),
    CONTROL: Arm(random_pairs, like="mtal"),
    "one-trunk": Arm(partial(hard_sharing, first=True), number="own_lr", like="hard-sharing"),
}
REGIME_ARMS = ("stl", "hard-sharing", "one-trunk", "mtal", CONTROL)


def sharing(rho: float, speed: float = 1.0, **switches: Any) -> dict[str, Arm]:
    """MTAL and its control at a threshold, a factor on the step size, and switches."""
    return {
        name: Arm(partial(build, **switches), value=rho, protocol={"speed": speed})
        for name, build in (("mtal", mtal), (CONTROL, random_pairs))
    }


def arms_at(
    names: Iterable[str],
    values: Mapping[str, float],
    suffix: str = "",
    rows: Mapping[str, Arm] | None = None,
) -> dict[str, Arm]:
    """Arms by ``name + suffix``, each at its chosen value; ``rows`` take the place of the table's.

    STL without a value keeps the step size of the protocol.
    """
    rows = ARMS | dict(rows or {})
    found = {}
    for name in names:
        row = rows[name]
        value = values.get(name, values.get(row.like)) if row.value is None else row.value
        found[name + suffix] = replace(row, value=value, grid=(), like=None)
    return found


def training(trial: Trial) -> dict[str, Any]:
    """Stochastic gradient descent, for all arms the same but for the step size."""
    p = trial.protocol
    lr = p.speed * (p.lr if p.own_lr is None else p.own_lr)
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=p.momentum)
    return {"steps": p.steps, "batch_size": p.batch_size, "optimizer": optimizer}


# What is measured


def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
    """Accuracies, cross-entropies, and how alike the kernels are (in full for STL)."""
    method = outcome.method
    test, seen = evaluate(method, parts["test"]), evaluate(method, parts["train"])
    add(metric=test.metric, value=test.mean, per_task=[round(x, 3) for x in test.per_task])
    add(metric="validation_percent", value=evaluate(method, parts["validation"]).mean)
    add(metric="train_cross_entropy", value=seen.mean_loss)
    add(metric="test_cross_entropy", value=test.mean_loss)
    for metric, value in likeness(method).items():
        if outcome.trial.arm.build is stl or not metric.startswith(("within", "across")):
            add(metric=metric, value=value)


TABLE = Study("mtal", ARMS, Protocol(), split, training, measure, tuning_splits=(1000, 1001))


def tune(
    result: Result, tasks: TaskSet, *, study: Study, arms: Iterable[str], device: str = "auto"
) -> dict[str, float]:
    """STL's step size first; the arms without one of their own keep it."""
    chosen = study.tune(result, tasks, arms=["stl"], device=device)
    rest = [arm for arm in arms if arm != "stl"]
    if rest:
        chosen |= study.at(lr=chosen["stl"]).tune(result, tasks, arms=rest, device=device)
    return chosen


def compare(
    result: Result,
    tasks: TaskSet,
    *,
    study: Study,
    arms: Mapping[str, Arm],
    repeats: Iterable[int],
    suffix: str = "",
    device: str = "auto",
) -> None:
    """Compare arms with the networks as they start, an arm named ``"untrained" + suffix``."""
    study, repeats = replace(study, arms=dict(arms)), list(repeats)
    before_training(result, tasks, study=study, repeats=repeats, suffix=suffix)
    study.compare(result, tasks, arms=arms, repeats=repeats, values={}, device=device)


def before_training(
    result: Result, tasks: TaskSet, *, study: Study, repeats: Iterable[int], suffix: str = ""
) -> None:
    """How alike the kernels are with which repeats start, of an arm ``"untrained" + suffix``."""
    for repeat in repeats:
        parts = study.split(tasks, repeat, study.protocol)
        untrained = STL(start(parts["train"], repeat, study.protocol))
        for metric, value in likeness(untrained).items():
            result.add(arm=f"untrained{suffix}", repeat=repeat, metric=metric, value=value)


# The switches of the reconstruction: what changes against the default, and rho.
DEFAULT_RHO = 0.5
RHOS = (0.2, 0.3, 0.5, 0.7, 0.9)


def variants() -> dict[str, Arm]:
    """The arms of the comparison: STL, MTAL and its control at every rho, and one switch each."""
    switched: dict[str, dict[str, Any]] = {
        "cross-task pairs": {"pairs": "cross-task"},
        "mutual-best pairs": {"pairs": "mutual-best"},
        "slices": {"unit": "slice"},
        "learned weights": {"weights": "learned"},
        "Pearson": {"similarity": "pearson"},
        "Gaussian": {"similarity": "gaussian"},
        "warm-up": {"warmup": 0.5},
    }
    return {
        "stl": Arm(stl),
        **{f"mtal, rho {rho:g}": sharing(rho)["mtal"] for rho in RHOS},
        **{f"{CONTROL}, rho {rho:g}": sharing(rho)[CONTROL] for rho in (0.3, 0.5)},
        **{name: sharing(DEFAULT_RHO, **of)["mtal"] for name, of in switched.items()},
        "slices, rho 0.8": sharing(0.8, unit="slice")["mtal"],
        "twice the step size": sharing(DEFAULT_RHO, speed=2)["mtal"],
    }
