"""The arms of a comparison, what they may choose, and which tasks they can be applied to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from mtlbook.arms import Arm, Trial, configurations
from mtlbook.backbones import TaskHeads, convnet, mlp
from mtlbook.layers import TaskNetwork
from mtlbook.methods import (
    DMTLTF,
    DRN,
    MRN,
    MTFL,
    MTRL,
    RMTL,
    SRDML,
    STL,
    TNRDMTL,
    Balanced,
    FixedRelation,
    HardSharing,
    Method,
    MMoE,
    Pooled,
    SharedTrunk,
)
from mtlbook.tasks import TaskSet

NETWORKS = ("linear", "mlp", "convnet")


@dataclass(frozen=True)
class Protocol:
    """What all arms have in common, and what an arm may choose.

    Attributes
    ----------
    network : "linear" | "mlp" | "convnet"
        Heads alone; one hidden layer; three convolutions and a hidden layer.
    trunk : "own" | "shared"
        Whether methods that relate the tasks' weights relate those of all layers, or of the heads
        on layers in common.
    hidden : int
        Width of the hidden layer.
    steps, batch_size, momentum
        Of the optimiser, SGD.
    update_every : int
        Steps between two updates of what a method learns beside its weights.
    train, validation : float
        Shares of the samples of each task; the rest is tested on.
    lr, decay, weight, rho, task, classes, feature, max_updates, gamma, tolerance, omega_step
        Numbers of the arms, each chosen on validation data where an arm has it.
    """

    network: str = "mlp"
    trunk: str = "own"
    hidden: int = 64
    steps: int = 300
    batch_size: int | None = 24
    momentum: float = 0.9
    update_every: int = 10
    train: float = 0.5
    validation: float = 0.2
    lr: float = 0.02
    decay: float = 0.0
    weight: float = 0.1
    rho: float = 0.9
    task: float = 0.1
    classes: float = 0.5
    feature: float = 0.9
    max_updates: int = 30
    gamma: float = 0.01
    tolerance: float = 0.3
    omega_step: float = 1.0


def network(trial: Trial, shared: Sequence[str] | bool = ()) -> TaskNetwork:
    """The network of a trial; every task starts at the same weights, each layer by its own seed."""
    p, tasks = trial.protocol, trial.train
    shape = tasks[0].inputs.shape[1:]
    if p.network == "convnet":
        made = convnet(
            shape, tasks.outputs, seed=trial.repeat, hidden=p.hidden, shared=shared, std=1.0
        )
    else:
        made = mlp(
            shape.numel(),
            tasks.outputs,
            seed=trial.repeat,
            hidden=() if p.network == "linear" else (p.hidden,),
            activation=nn.ReLU,
            shared=shared,
            std=1.0,
        )
    with torch.no_grad():
        for layer in made.task_layers.values():
            w = layer.weight
            fan_in = w.shape[1] if w.ndim == 3 else w[0, 0].numel()
            gain = 0.1 if layer is made.head else math.sqrt(2)  # a head that says little at first
            w.copy_((w[:1] * gain / math.sqrt(fan_in)).expand_as(w))
            if layer is made.head and layer.widths is not None:
                for own, width in zip(w, layer.widths, strict=True):
                    own[:, width:] = 0
    return made


def stl(trial: Trial) -> STL:
    own = network(trial)
    return STL(own, layers=own.separate if len(set(trial.train.outputs)) == 1 else None)


def pooled(trial: Trial) -> Pooled:
    return Pooled(network(trial, True), tasks=len(trial.train))


def hard_sharing(trial: Trial) -> HardSharing:
    return HardSharing(network(trial, network(trial).shareable))


def coupled(trial: Trial) -> TaskNetwork:
    """The network of a method that relates the tasks' weights: all of them, or the heads alone."""
    own = network(trial)
    return own if trial.protocol.trunk == "own" else network(trial, own.shareable)


def _layers(own: TaskNetwork) -> Sequence[str]:
    """The layers with a copy per task that stack: the heads, too, where they are alike."""
    alike = len(set(own.head.widths or ())) <= 1
    return own.separate if alike else own.shareable


def fixed(trial: Trial) -> FixedRelation:
    own, p = coupled(trial), trial.protocol
    return FixedRelation(own, _layers(own), weight=p.weight, rho=p.rho)


def prior(trial: Trial, learn: Sequence[str]) -> MRN:
    own, p = coupled(trial), trial.protocol
    return MRN(
        own,
        _layers(own),
        learn=learn,
        weight=p.weight,
        update_every=p.update_every,
        max_updates=p.max_updates,
        eps={"task": p.task, "class": p.classes, "feature": p.feature},
    )


def drn(trial: Trial) -> DRN:
    own, p = coupled(trial), trial.protocol
    every = p.update_every
    return DRN(own, _layers(own), form="trace-one", weight=p.weight, update_every=every)


def trace_norm(trial: Trial, kind: str) -> TNRDMTL:
    own = coupled(trial)
    return TNRDMTL(own, kind=kind, gamma=trial.protocol.gamma, layers=_layers(own))


def dmtl_tf(trial: Trial) -> DMTLTF:
    own = trial.start.network
    return DMTLTF(own, _layers(own), tolerance=trial.protocol.tolerance)


def trunk(trial: Trial) -> nn.Sequential:
    """The hidden layer, for methods with one trunk of any kind."""
    features = trial.train[0].inputs[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(trial.repeat)
        return nn.Sequential(nn.Flatten(), nn.Linear(features, trial.protocol.hidden), nn.ReLU())


def heads(trial: Trial) -> TaskHeads:
    return TaskHeads(trial.protocol.hidden, trial.train.outputs, hidden=(16,), seed=trial.repeat)


def saliency(trial: Trial) -> SRDML:
    p = trial.protocol
    scalar = "max" if max(trial.train.outputs) > 1 else None
    weight, step = p.weight, p.omega_step
    return SRDML(trunk(trial), heads(trial), weight=weight, omega_step=step, scalar=scalar)


def balanced(trial: Trial, kind: str) -> Balanced:
    return Balanced(SharedTrunk(trunk(trial), heads(trial)), kind, seed=trial.repeat)


def experts(trial: Trial) -> MMoE:
    width = trial.protocol.hidden
    return MMoE(trunk(trial), width, trial.train.outputs, seed=trial.repeat)


def shallow(trial: Trial, model: Callable[..., Method], **weights: float) -> Method:
    length = math.sqrt(trial.train[0].inputs[0].numel())
    rough = {"max_iterations": 300, "tolerance": 1e-3, "warn": False}
    given = {name: factor * trial.protocol.weight for name, factor in weights.items()}
    return model(features=partial(_scaled, length=length), **given, **rough)


def _scaled(x: Tensor, length: float) -> Tensor:
    return x.flatten(1) / length


@dataclass(frozen=True)
class Candidate:
    """An arm with what a reader must know of it.

    Attributes
    ----------
    title : str
    build : callable
        From a trial to the method.
    ranges : mapping
        Of the fields of the protocol that it chooses, as :func:`mtlbook.arms.configurations` takes.
    needs : sequence of str
        Keys of ``NEEDS``.
    start : str, optional
        As in :class:`mtlbook.arms.Arm`.
    """

    title: str
    build: Callable[[Trial], Method]
    ranges: Mapping[str, Any]
    needs: Sequence[str] = ()
    start: str | None = None


STEP = {"lr": (0.003, 0.1)}
DECAY = {"decay": (1e-4, 1.0)}
WEIGHT = {"weight": (1e-3, 3.0)}
TASK = {"task": (0.01, 0.5), "max_updates": [1, 3, 10, 30]}
GAMMA = {"gamma": (3e-4, 3.0)}  # with more nothing is left of the weights of planted problems
RHO = {"rho": [0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99]}

#: From the simplest to the most costly: of arms that cannot be told apart, the first is advised.
CANDIDATES: dict[str, Candidate] = {
    "stl": Candidate("single-task learning", stl, STEP | DECAY),
    "pooled": Candidate("one model for all tasks", pooled, STEP | DECAY, ["outputs"]),
    "hard-sharing": Candidate("one trunk, a head each", hard_sharing, STEP | DECAY, ["trunk"]),
    "fixed": Candidate(
        "all tasks alike, how much is chosen", fixed, STEP | WEIGHT | RHO, ["stack"]
    ),
    "mtfl": Candidate(
        "linear: features in common",
        partial(shallow, model=MTFL, gamma=1.0),
        {"weight": (1e-5, 0.3)},
        ["vectors"],
    ),
    "rmtl": Candidate(
        "linear: low rank and outlying tasks",
        partial(shallow, model=RMTL, gamma=1.0, beta=1.0),
        {"weight": (1e-5, 0.3)},
        ["vectors"],
    ),
    "mtrl": Candidate(
        "linear: a learned relation",
        partial(shallow, model=partial(MTRL, lambda1=0.0, rounds=3), lambda2=1.0),
        {"weight": (1e-5, 0.3)},
        ["vectors"],
    ),
    "mrn-t": Candidate(
        "a learned relation of the tasks (MRN_t)",
        partial(prior, learn=("task",)),
        STEP | WEIGHT | TASK,
        ["stack"],
    ),
    "drn": Candidate("a learned relation, our model after DRN", drn, STEP | WEIGHT, ["stack"]),
    "mrn": Candidate(
        "relations of tasks, classes and features (MRN)",
        partial(prior, learn=("feature", "class", "task")),
        STEP | {"weight": (0.01, 30.0)} | TASK | {"classes": (0.1, 0.9), "feature": (0.3, 0.99)},
        ["stack"],
    ),
    "uncoupled": Candidate(
        "the trace norm's control: no coupling",
        partial(trace_norm, kind="uncoupled"),
        STEP | GAMMA,
        ["stack"],
    ),
    "laf": Candidate(
        "trace norm of the last axis (TNRDMTL)",
        partial(trace_norm, kind="laf"),
        STEP | GAMMA,
        ["stack"],
    ),
    "tucker": Candidate(
        "Tucker trace norm (TNRDMTL)", partial(trace_norm, kind="tucker"), STEP | GAMMA, ["stack"]
    ),
    "tt": Candidate(
        "tensor-train trace norm (TNRDMTL)",
        partial(trace_norm, kind="tt"),
        STEP | GAMMA,
        ["stack"],
    ),
    "dmtl-tf": Candidate(
        "factors of single-task weights (DMTL-TF)",
        dmtl_tf,
        STEP | {"tolerance": (0.05, 0.9)},
        ["stack"],
        "stl-start",
    ),
    "srdml": Candidate(
        "tasks with similar saliency (SRDML)",
        saliency,
        STEP | WEIGHT | {"omega_step": (0.1, 100.0)},
        ["mlp"],
    ),
    "mmoe": Candidate("mixture of experts (MMoE)", experts, STEP | DECAY, ["mlp", "inputs"]),
    "pcgrad": Candidate(
        "one trunk, conflicting gradients projected",
        partial(balanced, kind="pcgrad"),
        STEP | DECAY,
        ["mlp", "torchjd"],
    ),
    "mgda": Candidate(
        "one trunk, the gradient of least norm",
        partial(balanced, kind="mgda"),
        STEP | DECAY,
        ["mlp", "torchjd"],
    ),
}
START = {"stl-start": Arm(stl, number="decay", value=0.01)}  # where DMTL-TF starts

#: What an arm may need, whether tasks and network give it, and what to say where they do not.
NEEDS: dict[str, tuple[Callable[[TaskSet, str], bool], str]] = {
    "outputs": (
        lambda tasks, network: len(set(tasks.outputs)) == 1,
        "the tasks have different outputs",
    ),
    "stack": (
        lambda tasks, network: len(set(tasks.outputs)) == 1 or network != "linear",
        "heads of different width do not stack, and a linear model has no other layer",
    ),
    "trunk": (
        lambda tasks, network: network != "linear",
        "a linear model has no trunk (network mlp has)",
    ),
    "mlp": (lambda tasks, network: network == "mlp", "it is tried on the network mlp alone"),
    "vectors": (
        lambda tasks, network: network != "convnet" and len(set(tasks.outputs)) == 1,
        "a linear model of several tasks wants vectors and equal outputs",
    ),
    "inputs": (
        lambda tasks, network: tasks.shared_inputs,
        "its experts want all tasks to look at the same samples",
    ),
    "torchjd": (
        lambda tasks, network: find_spec("torchjd") is not None,
        "it needs torchjd: pip install torchjd",
    ),
}


@dataclass(frozen=True)
class Choice:
    """Which arms take part, and why the others do not."""

    arms: dict[str, Arm]
    left_out: dict[str, str] = field(default_factory=dict)


def choose(tasks: TaskSet, network: str, trials: int, only: Iterable[str] | None = None) -> Choice:
    """The arms that these tasks admit, single-task learning always among them.

    Parameters
    ----------
    tasks : TaskSet
    network : str
    trials : int
        Settings of every arm, drawn at random: the same number for all.
    only : iterable of str, optional
        Names of ``CANDIDATES``; by default all.
    """
    names = list(CANDIDATES if only is None else dict.fromkeys(["stl", *only]))
    arms: dict[str, Arm] = {}
    left_out: dict[str, str] = {}
    for name in names:
        candidate = CANDIDATES[name]
        missing = [NEEDS[n][1] for n in candidate.needs if not NEEDS[n][0](tasks, network)]
        if missing:
            left_out[name] = missing[0]
            continue
        drawn = configurations(trials, **candidate.ranges)
        arms[name] = Arm(candidate.build, configurations=drawn, start=candidate.start)
    if only is not None and (refused := {n: w for n, w in left_out.items() if n in set(only)}):
        why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(f"arms: expected some that these tasks and the network admit, got {why}")
    return Choice(arms, left_out)
