"""CIFAR-MTL of SRDML (Bai and Zhao, KDD 2022): ten one-vs-all tasks, all methods of the table."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mtlbook.backbones import Flatten, TaskHeads
from mtlbook.experiments.cifar_mtl import (
    METRICS,
    Protocol,
    feature_maps,
    inputs_of,
    scores,
    split,
)
from mtlbook.layers import TaskNetwork
from mtlbook.methods import (
    L21,
    MRN,
    PLE,
    RMTL,
    SRDML,
    STL,
    Balanced,
    Lasso,
    Method,
    MMoE,
    SharedTrunk,
)
from mtlbook.study import Add, Arm, Outcome, Parts, Study, Trial
from mtlbook.tasks import TaskSet
from mtlbook.tensors import Ragged
from mtlbook.training import predict

__all__ = ["ARMS", "METRICS", "TABLE", "Protocol", "feature_maps", "inputs_of", "scores"]


# Arms


class TrunkNetwork(TaskNetwork):
    """One trunk or T of any kind under T heads: what STL and MRN need.

    Parameters
    ----------
    trunks : sequence of nn.Module
        One, or T.
    heads : TaskHeads
        With one hidden layer; its layers become ``hidden`` and ``head``.
    """

    def __init__(self, trunks: Sequence[nn.Module], heads: TaskHeads):
        hidden, activation, head = heads.layers
        named = [("flatten", Flatten()), ("hidden", hidden), ("activation", activation)]
        super().__init__(named, head)
        self.trunks = nn.ModuleList(trunks)

    def features(self, inputs: Sequence[Tensor]) -> Ragged:
        tasks = len(inputs)
        if len(self.trunks) == 1 and all(x is inputs[0] for x in inputs):
            maps = self.trunks[0](inputs[0])
            maps = maps.expand(tasks, *maps.shape)
        else:
            trunks = [self.trunks[t % len(self.trunks)] for t in range(tasks)]
            maps = torch.stack([trunk(x) for trunk, x in zip(trunks, inputs, strict=True)])
        return Ragged(self.trunk(maps))


def network(trial: Trial) -> tuple[nn.Module, TaskHeads]:
    """Trunk and heads with their initial weights, the same for all arms of a repeat."""
    protocol, inputs, seed = trial.protocol, trial.train[0].inputs, trial.repeat
    c = protocol.channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if protocol.trunk == "efficientnet":
            trunk = nn.Sequential(nn.Conv2d(inputs.shape[1], c, 3, padding=1), nn.ReLU())
        elif protocol.trunk == "small":
            trunk = nn.Sequential(
                nn.Conv2d(inputs.shape[1], c // 2, 5, padding=2),
                nn.MaxPool2d(2),
                nn.ReLU(),
                nn.Conv2d(c // 2, c, 3, padding=1),
                nn.MaxPool2d(2),
                nn.ReLU(),
            )
        elif protocol.trunk == "vgg16":
            from torchvision.models import vgg16

            trunk = vgg16(weights="IMAGENET1K_V1").features
        else:
            raise ValueError(
                f"trunk: expected 'efficientnet', 'small' or 'vgg16', got {protocol.trunk!r}"
            )
    with torch.no_grad():
        width = trunk(inputs[:1].cpu()).numel()
    return trunk, TaskHeads(width, trial.train.outputs, hidden=(protocol.hidden,), seed=seed)


def stl(trial: Trial) -> STL:
    """A trunk for each task, all of which start alike."""
    trunk, heads = network(trial)
    return STL(TrunkNetwork([copy.deepcopy(trunk) for _ in trial.train], heads))


def shared(trial: Trial) -> SharedTrunk:
    """Hard sharing."""
    return go_on(SharedTrunk(*network(trial)), trial)


def srdml(trial: Trial, weight: float | None = None, **options: Any) -> SRDML:
    """The method, with the arm's number for lambda, or for the step of omega at a given lambda."""
    options["seed"] = trial.repeat
    if weight is None:
        options["weight"] = trial.value
    else:
        options |= {"weight": weight} | ({"omega_step": trial.value} if trial.value else {})
    return go_on(SRDML(*network(trial), **options), trial)


def go_on(method: Method, trial: Trial) -> Method:
    """With the weights of the arm to start from; what is not of trunk or heads is omega's."""
    if trial.start is not None:
        method.load_state_dict(trial.start.state_dict(), strict=False)
    return method


def mrn(trial: Trial) -> MRN:
    """The prior on both layers of the heads."""
    trunk, heads = network(trial)
    return MRN(TrunkNetwork([trunk], heads), ("hidden", "head"), weight=trial.value)


def experts(trial: Trial, method: type[Method], **options: int) -> Method:
    """Mixtures of experts on the trunk."""
    trunk, heads = network(trial)
    width, hidden = heads.layers[0].weight.shape[1], trial.protocol.hidden
    outputs, seed = trial.train.outputs, trial.repeat
    return method(trunk, width, outputs, width=hidden, seed=seed, **options)


def balanced(trial: Trial, kind: str) -> Balanced:
    """Hard sharing whose tasks' gradients are weighed or projected."""
    return Balanced(SharedTrunk(*network(trial)), kind, seed=trial.repeat)


def shallow(trial: Trial, model: type[Method]) -> Method:
    """A linear model of the table on the spatial means of the inputs, standardised.

    The table does not say which inputs its shallow rows had; these see what the other arms see,
    without its place in the image.
    """
    x = _pooled(trial.train[0].inputs)
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    strengths = {"gamma": trial.value} | ({"beta": trial.value} if model is RMTL else {})
    return model(
        **strengths,
        loss="logistic",
        features=lambda inputs: (_pooled(inputs) - mean) / std,
        max_iterations=200,
        warn=False,
    )


def _pooled(inputs: Tensor) -> Tensor:
    """Inputs ``(n, C, H, W)``: means over space, or the pixels themselves of one channel."""
    return inputs.mean((2, 3)) if inputs.shape[1] > 3 else inputs.flatten(1)


# One number an arm, five values of it for each: the same budget for all. Arms of the first stage
# alone (``hard-sharing``) have nothing to tune: the step size is the scripts'.
STEP_SIZES = (0.0003, 0.0006, 0.001, 0.002, 0.004)
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03)
LAMBDAS = (0.0001, 0.0003, 0.001, 0.01, 0.1)
RELEASED_WEIGHT = 0.1  # lambda of the script, on the sum over a batch
FAST_WEIGHT = 0.001  # lambda of ``srdml-fast``, whose number is the step of omega
PAPER_ARMS = (
    "stl",
    "hard-sharing",
    "lasso",
    "l21",
    "rmtl",
    "mrn",
    "mmoe",
    "ple",
    "mgda",
    "pcgrad",
    "srdml",
    "srdml-pcgrad",
)
second_stage = partial(Arm, start="hard-sharing")
#: The table's rows, then the controls that it lacks.
ARMS: dict[str, Arm] = {
    "stl": Arm(stl, STEP_SIZES, number="lr"),
    "hard-sharing": Arm(shared, protocol={"extra_epochs": 0}),
    "lasso": Arm(partial(shallow, model=Lasso), STRENGTHS),
    "l21": Arm(partial(shallow, model=L21), STRENGTHS),
    "rmtl": Arm(partial(shallow, model=RMTL), STRENGTHS),
    "mrn": Arm(mrn, (0.0001, 0.0003, 0.001, 0.003, 0.01)),
    "mmoe": Arm(partial(experts, method=MMoE, experts=4), STEP_SIZES, number="lr"),
    "ple": Arm(partial(experts, method=PLE, levels=1), STEP_SIZES, number="lr"),
    "mgda": Arm(partial(balanced, kind="mgda-ub"), STEP_SIZES, number="lr"),
    "pcgrad": Arm(partial(balanced, kind="pcgrad"), STEP_SIZES, number="lr"),
    "srdml": second_stage(partial(srdml, as_released=True), LAMBDAS),
    "srdml-pcgrad": second_stage(partial(srdml, as_released=True, balancing="pcgrad"), LAMBDAS),
    "hard-sharing-longer": second_stage(shared, STEP_SIZES, number="lr"),
    "hard-sharing-decay": second_stage(shared, (0.003, 0.01, 0.03, 0.1, 0.3), number="decay"),
    "srdml-uniform": second_stage(partial(srdml, reduction="sum", omega_step=0.0), LAMBDAS),
    "srdml-fast": second_stage(
        partial(srdml, weight=FAST_WEIGHT, reduction="sum"), (0.1, 1.0, 10.0, 100.0, 1000.0)
    ),
    "srdml-released": second_stage(partial(srdml, weight=RELEASED_WEIGHT, as_released=True)),
}
VEHICLES = ("airplane", "automobile", "ship", "truck")  # of CIFAR-10; the others are animals


def training(trial: Trial) -> dict[str, Any]:
    """The scripts' two stages: Adam, and a larger batch in the second.

    What has no second stage is trained for as long as the two take together.
    """
    p, second = trial.protocol, trial.arm.start is not None
    batch = p.second_batch if second else p.batch_size
    epochs = p.extra_epochs if second else p.epochs + p.extra_epochs
    optimizer = partial(torch.optim.Adam, lr=p.lr, eps=1e-7)
    if p.decay:
        optimizer = partial(torch.optim.AdamW, lr=p.lr, eps=1e-7, weight_decay=p.decay)
    return {
        "steps": epochs * epoch(trial),
        "batch_size": batch,
        "optimizer": optimizer,
        "seed": trial.repeat + (10_000 if second else 0),  # another order in the second stage
    }


def epoch(trial: Trial) -> int:
    """Steps of an epoch."""
    second = trial.arm.start is not None
    batch = trial.protocol.second_batch if second else trial.protocol.batch_size
    return max(1, len(trial.train[0]) // batch)


# What is measured


def means(method: Method, part: TaskSet) -> dict[str, float]:
    """:func:`scores` of a method, means over the tasks."""
    found = scores(predict(method, part, chunk=250), part)
    return {metric: sum(values) / len(values) for metric, values in found.items()}


def score(method: Method, part: TaskSet) -> Sequence[float]:
    """What is read on validation images; the accuracy decides."""
    return list(means(method, part).values())


def watch(trial: Trial, parts: Parts) -> dict[str, Any]:
    """The test scores after every epoch, of which the script reports the best."""
    steps, every = training(trial)["steps"], epoch(trial)
    return {
        "probe": lambda method: means(method, parts["test"]),
        "probe_at": range(every, steps + 1, every),
    }


def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
    """Scores at the end of training, with every task's, and the relation of an arm that has one.

    ``best/...`` is the best over the epochs *on the test images*, metric by metric, as the script
    reports it. Nothing is selected by it; it is there to be compared.
    """
    found = scores(predict(outcome.method, parts["test"], chunk=250), parts["test"])
    for metric, of_tasks in found.items():
        mean = sum(of_tasks) / len(of_tasks)
        add(metric=metric, value=mean, per_task=[round(x, 3) for x in of_tasks])
        best = max([mean, *(seen[metric] for seen in outcome.history.probes)])
        add(metric=f"best/{metric}", value=best)
    if outcome.name in ("mrn", "srdml", "srdml-fast"):
        measure_relation(add, outcome.method, parts["test"].names)


def measure_relation(add: Add, method: Method, names: Sequence[str]) -> None:
    """The learned relation and, of omega on CIFAR-10, how it orders the pairs."""
    matrix = method.relation().matrix.cpu()
    add.curve("relation", [[round(float(x), 5) for x in row] for row in matrix])
    if not isinstance(method, SRDML) or not set(VEHICLES) <= set(names):
        return
    vehicle = torch.tensor([name in VEHICLES for name in names])
    i, j = torch.triu_indices(*matrix.shape, 1)
    omega, alike = matrix[i, j] * len(i), vehicle[i] == vehicle[j]
    for kind, pairs in (("alike", alike), ("unlike", ~alike)):
        add(metric="omega", value=float(omega[pairs].mean()), of=kind)


TABLE = Study(
    name="srdml",
    arms=ARMS,
    protocol=Protocol(),
    split=split,
    training=training,
    measure=measure,
    score=score,
    metrics=tuple(f"validation/{metric}" for metric in METRICS),
    watch=watch,
)


def study(parameters: Mapping[str, Any]) -> Study:
    """The table under a protocol whose fields are parameters of a notebook.

    With the scripts' trunk go the scripts' heads, of 128 hidden units.
    """
    fields = vars(Protocol()).keys() & parameters.keys()
    heads = {"hidden": 128} if parameters.get("trunk") == "vgg16" else {}
    return TABLE.at(**heads | {name: parameters[name] for name in fields})
