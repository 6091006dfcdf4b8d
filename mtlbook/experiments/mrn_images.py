"""MRN's tables as the paper has them: on images, through AlexNet or VGG16 of torchvision.

The convolutions are fixed (section 5.1), so their maps are computed once; fc6 is fine-tuned for all
tasks, fc7 and fc8 by each task, fc8 from scratch at ten times the step size. What the paper leaves
open is as in :mod:`mtlbook.experiments.mrn_linear`: every arm chooses among as many settings as any
other, on validation data. Nothing of this was run at full size: it needs trained weights, which
torchvision downloads, and a GPU. It is rehearsed with random weights on small folders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlbook import datasets
from mtlbook.backbones import dense_network, load_backbone
from mtlbook.experiments import mrn, mrn_linear
from mtlbook.experiments.mrn_linear import CLASS, FEATURE, RHO, TASK
from mtlbook.experiments.mrn_splits import parts_of
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
from mtlbook.study import Arm, Study, Trial, configurations
from mtlbook.tasks import TaskSet
from mtlbook.training import pick_device

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for torchvision's weights
RATIO = 10.0  # of fc8's step size to that of the layers below (section 5.1)


@dataclass(frozen=True)
class Protocol(mrn_linear.Protocol):
    """What :class:`mtlbook.experiments.mrn_linear.Protocol` says, and the network.

    Attributes
    ----------
    backbone : "alexnet" | "vgg16"
    weights : str
        torchvision's name of them; empty: random ones, for a rehearsal.
    width : int
        Of fc6 and fc7, at random weights, for a rehearsal; 0: the backbone's 4,096.
    """

    backbone: str = "alexnet"
    weights: str = "IMAGENET1K_V1"
    width: int = 0


@cache
def backbone(name: str, weights: str, width: int) -> tuple[nn.Module, list[nn.Linear]]:
    """Convolutions and dense layers, in evaluation mode; random weights are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolutions, dense = load_backbone(name, weights or None, width or None)
    return convolutions.eval().requires_grad_(False), dense


def inputs_of(
    data: str, protocol: Protocol, *, size: int = 224, limit: int = 0, device: str = "auto"
) -> TaskSet:
    """A data set as maps of the fixed convolutions, ``(N, 9216)``, of VGG16 ``(N, 25088)``.

    Parameters
    ----------
    data : str
        A set of images, a task a domain; grey ones become coloured.
    protocol : Protocol
    size : int
        Side of the images in pixels; 224 is what the weights were trained on.
    limit : int
        The first images of each domain only; 0: all.
    device : str
    """
    options = {} if data == "digit_domains" else {"size": size}
    tasks = datasets.load(data, **options)
    convolutions, _ = backbone(protocol.backbone, protocol.weights, protocol.width)
    device = pick_device(device)
    convolutions = convolutions.to(device)
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (MEAN, STD))

    @torch.no_grad()
    def maps(images: Tensor) -> Tensor:
        found = []
        for part in images.split(64):
            x = part.to(device).expand(-1, 3, -1, -1)
            if x.shape[-1] != size:
                x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
            found.append(convolutions((x - mean) / std).cpu())
        return torch.cat(found)

    if limit:
        tasks = tasks.select([torch.arange(min(limit, len(task))) for task in tasks])
    return tasks.map_inputs(maps)


# The arms


def network(trial: Trial, shared: Sequence[str] | bool = ("fc6",)) -> TaskNetwork:
    """fc6, fc7 and fc8; the paper's deep methods have one fc6 for all tasks."""
    p = trial.protocol
    _, dense = backbone(p.backbone, p.weights, p.width)
    return dense_network(dense, trial.train.outputs, seed=trial.repeat, shared=shared)


def stl(trial: Trial) -> STL:
    """Single-task learning: as many networks as tasks."""
    return STL(network(trial, ()))


def pooled(trial: Trial) -> Pooled:
    """One model for all tasks."""
    return Pooled(network(trial, True), tasks=len(trial.train))


def hard_sharing(trial: Trial) -> HardSharing:
    """One trunk."""
    return HardSharing(network(trial, ("fc6", "fc7")))


def fixed(trial: Trial) -> FixedRelation:
    """The same prior on fc7 and fc8 with a relation that nobody learned."""
    p = trial.protocol
    return FixedRelation(network(trial), weight=p.weight, rho=p.rho)


def prior(
    trial: Trial, learn: Sequence[str] = MRN.names, layers: Sequence[str] | None = None
) -> MRN:
    """MRN with some of its covariances, on some of its layers."""
    p = trial.protocol
    eps = {"task": p.task, "class": p.classes, "feature": p.feature}
    updates = {"update_every": p.update_every, "max_updates": p.max_updates}
    return MRN(network(trial), layers, learn=learn, weight=p.weight, eps=eps, **updates)


def drn(trial: Trial) -> DRN:
    """A matrix normal model after DRN, in the trace-one form."""
    p = trial.protocol
    return DRN(network(trial), form="trace-one", weight=p.weight, update_every=p.update_every)


def dmtl_tf(trial: Trial) -> DMTLTF:
    """Factors of trained networks, fc7 and fc8."""
    return DMTLTF(trial.start.network, ("fc7", "fc8"), tolerance=trial.protocol.tolerance)


def shallow(trial: Trial, model: Callable[..., Method], **weights: float) -> Method:
    """A convex model on the backbone's fc7, which the paper's shallow rows read, too."""
    p = trial.protocol
    _, dense = backbone(p.backbone, p.weights, p.width)

    @torch.no_grad()
    def features(maps: Tensor) -> Tensor:
        for layer in dense:
            maps = F.linear(maps, layer.weight.to(maps), layer.bias.to(maps)).relu()
        return maps / math.sqrt(maps.shape[1])

    given = {name: factor * p.weight for name, factor in weights.items()}
    return model(features=features, **given, max_iterations=300, tolerance=1e-3, warn=False)


STEP = {"lr": (1e-5, 1e-2)}  # the paper's range
DECAY = {"decay": (1e-5, 1e-2)}
# zero is the prior's mean, and fc7 starts at trained weights: weaker than on heads alone
WEIGHT = {"weight": (1e-5, 1e-1)}
SHALLOW = {"weight": (1e-5, 0.3)}


def _arm(build: Callable[..., Method], *ranges: dict[str, Any], **options: Any) -> Arm:
    fields = {name: of for each in ranges for name, of in each.items()}
    return Arm(build, configurations=configurations(mrn_linear.TRIALS, **fields), **options)


ARMS: dict[str, Arm] = {
    "stl": _arm(stl, STEP, DECAY),
    "mtfl": _arm(partial(shallow, model=MTFL, gamma=1.0), SHALLOW),
    "rmtl": _arm(partial(shallow, model=RMTL, gamma=1.0, beta=1.0), SHALLOW),
    "mtrl": _arm(
        partial(shallow, model=partial(MTRL, lambda1=0.0, rounds=3), lambda2=1.0), SHALLOW
    ),
    "dmtl-tf": _arm(dmtl_tf, STEP, {"tolerance": (0.05, 0.9)}, start="shared-start"),
    "mrn-8": _arm(partial(prior, layers=("fc8",)), STEP, WEIGHT, TASK, CLASS, FEATURE),
    "mrn-t": _arm(partial(prior, learn=("task",)), STEP, WEIGHT, TASK),
    "mrn": _arm(prior, STEP, WEIGHT, TASK, CLASS, FEATURE),
    "pooled": _arm(pooled, STEP, DECAY),
    "fixed": _arm(fixed, STEP, WEIGHT, RHO),
    "hard-sharing": _arm(hard_sharing, STEP, DECAY),
    "drn": _arm(drn, STEP, WEIGHT),
}
#: Where DMTL-TF starts: trained networks that share fc6, as its factors do.
START = {"shared-start": Arm(lambda trial: STL(network(trial)), number="lr", value=1e-3)}
GROUPS: dict[str, Sequence[str]] = {
    "all": tuple(ARMS),
    "baselines": ("stl", "mtfl", "rmtl", "mtrl", "dmtl-tf"),
    "controls": ("pooled", "fixed", "hard-sharing"),
    "partial": ("mrn-8", "mrn-t", "drn"),
    "full": ("mrn",),
}


def optimiser(
    parameters: Iterable[Tensor], *, outputs: int, lr: float, momentum: float, decay: float
) -> torch.optim.Optimizer:
    """SGD with momentum, fc8 at ten times the step size; weights decay, biases do not."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for p in parameters:
        if p.requires_grad:
            groups.setdefault((p.shape[-1] == outputs, p.ndim > 2), []).append(p)
    return torch.optim.SGD(
        [
            {"params": of, "lr": lr * (RATIO if head else 1), "weight_decay": decay * weights}
            for (head, weights), of in groups.items()
        ],
        lr=lr,
        momentum=momentum,
    )


def training(trial: Trial) -> dict[str, Any]:
    """As on heads alone, with the two step sizes; fc8 is known by its outputs, the classes."""
    p, outputs = trial.protocol, trial.train.outputs[0]
    rates = {"lr": p.lr, "momentum": p.momentum, "decay": p.decay}
    optimizer = partial(optimiser, outputs=outputs, **rates)
    return {"steps": p.steps, "batch_size": p.batch_size, "optimizer": optimizer}


def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """:func:`mtlbook.experiments.mrn_splits.parts_of`; the tasks must have the same classes."""
    if len(set(tasks.outputs)) != 1:
        raise ValueError(f"tasks: expected the same classes in all, got {tasks.outputs} of them")
    return parts_of(tasks, repeat, protocol)


STUDY = Study(
    name="mrn_images",
    arms={**ARMS, **START},
    protocol=Protocol(),
    split=split,
    training=training,
    measure=mrn_linear.measure,
    score=mrn.score,
    tuning_splits=(1000, 1001),
)


def table(percent: int, **changes: Any) -> Study:
    """One of the paper's tables at one percentage, with which the names of its metrics end."""
    return replace(STUDY.at(percent=percent, **changes), suffix=f"/{percent}")
