"""Every method that learns by steps, on made-up tasks of the shapes of its paper.

A setting is a set of tasks and the bare networks that learn them apart; a case is a method in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mtlbook.backbones import TaskHeads, convnet, kernel_networks, mlp
from mtlbook.methods import (
    DMTLTF,
    DRN,
    MRN,
    MTAL,
    PLE,
    SRDML,
    STL,
    TNRDMTL,
    Balanced,
    CrossStitch,
    FixedRelation,
    HardSharing,
    Method,
    MMoE,
    Pooled,
    SharedTrunk,
)
from mtlbook.tasks import Task, TaskSet
from mtlbook.tensors import Ragged
from mtlbook.training import Batches, TaskLoss, sgd, step

TRUNK = ("conv1", "conv2", "conv3", "fc1")
SIZES = ("small", "middle", "paper")  # a rehearsal, a comparison with the CPU, the papers' own


@dataclass(frozen=True)
class Setting:
    """Tasks of a paper's shapes, and the networks without any method.

    Attributes
    ----------
    words : str
        What the page says of its size "paper".
    tasks : callable
        From a size to tasks with as many samples as a step reads.
    bare : callable
        From a size to the networks: a module from T inputs to T outputs.
    """

    words: str
    tasks: Callable[[str], TaskSet]
    bare: Callable[[str], nn.Module]


@dataclass(frozen=True)
class Case:
    """A method in a setting; ``make`` builds it from a size."""

    setting: str
    make: Callable[[str], Method]


def classification(shapes: Sequence[Sequence[int]], samples: int, classes: int) -> TaskSet:
    """Noise with class numbers, one task for each shape of an input."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % classes
    return TaskSet(
        "made up",
        [
            Task(str(t), torch.randn(samples, *shape, generator=generator), y, classes=classes)
            for t, shape in enumerate(shapes)
        ],
    )


# TNRDMTL: one alphabet of Omniglot a task


def omniglot_tasks(size: str, tasks: int | None = None) -> TaskSet:
    side, classes, samples, number = (12, 3, 2, 4) if size == "small" else (28, 32, 8, 50)
    return classification([(1, side, side)] * (tasks or number), samples, classes)


def omniglot(size: str, tasks: int | None = None, shared: Sequence[str] | bool = ()):
    made = omniglot_tasks(size, tasks)
    options = {"channels": (2, 3, 4), "hidden": 6} if size == "small" else {}
    return convnet(made[0].inputs.shape[1:], made.outputs, seed=0, shared=shared, **options)


# MRN: four domains on AlexNet's fc6

#: Features, classes, samples of a task, units of fc7.
OFFICE = {"small": (12, 3, 6, 5), "middle": (512, 31, 64, 32), "paper": (4096, 31, 64, 256)}


def office_tasks(size: str) -> TaskSet:
    features, classes, samples, _ = OFFICE[size]
    return classification([(features,)] * 4, samples, classes)


def office(size: str, shared: Sequence[str] | bool = ()):
    features, classes, _, hidden = OFFICE[size]
    return mlp(
        features,
        [classes] * 4,
        seed=0,
        hidden=(hidden,),
        activation=nn.ReLU,
        names=("fc7", "fc8"),
        shared=shared,
        std=0.02,
    )


# SRDML: ten questions on the same images

#: Side and number of the images, tasks, length of the trunk's flattened map.
CIFAR = {"small": (16, 4, 4, 64), "middle": (32, 8, 10, 256), "paper": (64, 100, 10, 2048)}


def cifar_tasks(size: str) -> TaskSet:
    side, samples, tasks, _ = CIFAR[size]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(samples, 3, side, side, generator=generator)
    targets = torch.rand(tasks, samples, 1, generator=generator).round()
    return TaskSet("made up", [Task(str(t), images, y, loss="bce") for t, y in enumerate(targets)])


def trunk(size: str) -> nn.Module:
    """The convolutions of VGG16, below its size one or two."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if size == "paper":
            from torchvision.models import vgg

            return vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4))


def heads(size: str) -> TaskHeads:
    _, _, tasks, width = CIFAR[size]
    return TaskHeads(width, [1] * tasks, hidden=(128,), seed=0)


class TrunkAndHeads(nn.Module):
    """The networks of :class:`SharedTrunk` and nothing else."""

    def __init__(self, size: str):
        super().__init__()
        self.trunk, self.heads = trunk(size), heads(size)

    def forward(self, inputs: Sequence[Tensor]) -> Ragged:
        features = self.trunk(inputs[0])
        return Ragged(self.heads(features.expand(len(inputs), *features.shape)))


def on_trunk(method: Callable[..., Method], **options) -> Callable[[str], Method]:
    return lambda size: method(trunk(size), heads(size), **options)


def experts(method: Callable[..., Method]) -> Callable[[str], Method]:
    def make(size: str) -> Method:
        _, _, tasks, width = CIFAR[size]
        return method(trunk(size), width, [1] * tasks, hidden=(128,), seed=0)

    return make


def balanced(kind: str) -> Callable[[str], Method]:
    return lambda size: Balanced(SharedTrunk(trunk(size), heads(size)), kind)


# MTAL: tasks that agree in nothing


def unlike_tasks(size: str, tasks: int = 2) -> TaskSet:
    """Images of USPS's and of notMNIST's size, in turn."""
    sides, samples = ((8, 12), 4) if size == "small" else ((16, 28), 32)
    return classification([(1, sides[t % 2], sides[t % 2]) for t in range(tasks)], samples, 10)


def unlike(size: str, tasks: int = 2):
    """Kernels of different tasks start alike, so that there is something to share."""
    made = unlike_tasks(size, tasks)
    shapes = [task.inputs.shape[1:] for task in made]
    channels = (3, 4, 4) if size == "small" else (8, 16, 16)
    return kernel_networks(shapes, made.outputs, seed=0, channels=channels, common=0.5)


SETTINGS = {
    "omniglot": Setting(
        "50 convolutional networks on images of 28 x 28, 32 classes; of each task 8 in a step",
        omniglot_tasks,
        omniglot,
    ),
    "office": Setting(
        "fc7 (4,096 to 256) and fc8 (31 classes) of 4 domains; of each domain 64 samples in a step",
        office_tasks,
        office,
    ),
    "cifar": Setting(
        "VGG16's convolutions on 100 images of 64 x 64; 10 binary heads with 128 hidden units",
        cifar_tasks,
        TrunkAndHeads,
    ),
    "unlike": Setting(
        "two networks of 8, 16, 16 filters on images of 16 x 16 and 28 x 28; of each 32 in a step",
        unlike_tasks,
        unlike,
    ),
}


def norm(**options) -> Case:
    return Case("omniglot", lambda size: TNRDMTL(omniglot(size), gamma=0.01, **options))


def prior(method: Callable[..., Method], **options) -> Case:
    return Case("office", lambda size: method(office(size), **options))


def saliency(**options) -> Case:
    return Case("cifar", on_trunk(SRDML, weight=1e-3, **options))


def kernels(rho: float = 0.3, **options) -> Case:
    return Case("unlike", lambda size: MTAL(unlike(size), rho, **options))


CASES: dict[str, Case] = {
    "STL": Case("omniglot", lambda size: STL(omniglot(size))),
    "TNRDMTL, LAF": norm(),
    "TNRDMTL, Tucker": norm(kind="tucker"),
    "TNRDMTL, TT": norm(kind="tt"),
    "TNRDMTL, uncoupled": norm(kind="uncoupled"),
    "TNRDMTL, proximal": norm(proximal=True, step_size=0.01),
    "HardSharing": Case("omniglot", lambda size: HardSharing(omniglot(size, shared=TRUNK))),
    "DMTLTF": Case("omniglot", lambda size: DMTLTF(omniglot(size))),
    "Pooled": Case("office", lambda size: Pooled(office(size, True), tasks=4)),
    "MRN": prior(MRN),
    "MRN, proximal": prior(MRN, proximal=0.1),
    "MRN_t": prior(MRN, learn=("task",)),
    "MRN, as released": prior(MRN, as_released=True),
    "DRN": prior(DRN),
    "DRN, full": prior(DRN, feature_covariance="full"),
    "FixedRelation": prior(FixedRelation),
    "SharedTrunk": Case("cifar", on_trunk(SharedTrunk)),
    "SRDML": saliency(),
    "SRDML, cosine": saliency(distance="cosine"),
    "SRDML, projected": saliency(omega="projected"),
    "SRDML, as released": saliency(as_released=True),
    "MMoE": Case("cifar", experts(MMoE)),
    "PLE": Case("cifar", experts(PLE)),
    "Balanced, MGDA": Case("cifar", balanced("mgda")),
    "Balanced, MGDA-UB": Case("cifar", balanced("mgda-ub")),
    "Balanced, PCGrad": Case("cifar", balanced("pcgrad")),
    "CrossStitch": Case("unlike", lambda size: CrossStitch(unlike(size))),
    "MTAL": kernels(),
    "MTAL, cross-task": kernels(pairs="cross-task"),
    "MTAL, learned": kernels(weights="learned"),
    "MTAL, slices": kernels(0.9, unit="slice"),
    "MTAL, slices, every 10th": kernels(0.9, unit="slice", update_every=10),
}


class Steps:
    """Steps of a method, or of bare networks, on one batch that lies on the device.

    Parameters
    ----------
    module : Method or nn.Module
    tasks : TaskSet
        All of whose samples are the batch.
    device : torch.device
    dtype : torch.dtype
    lr : float
        Small where a step is repeated hundreds of times: noise cannot be learned, and must not
        diverge.
    """

    def __init__(
        self,
        module: nn.Module,
        tasks: TaskSet,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        lr: float = 1e-5,
    ):
        def cast(x: Tensor) -> Tensor:
            return x.to(dtype) if x.is_floating_point() else x

        cast_tasks = [replace(task, targets=cast(task.targets)) for task in tasks]
        tasks = replace(tasks, tasks=tuple(cast_tasks)).map_inputs(cast)
        self.module = module.to(device, dtype).train()
        batches = Batches(tasks, batch_size=None, steps=1, seed=0, device=device)
        self.inputs, self.targets = batches[0]
        self.loss = TaskLoss(tasks, device)
        self.optimizer = sgd(self.module.parameters(), lr=lr)

    def step(self) -> Tensor:
        """Gradient step, and the method's own where every step has one; losses ``(T,)``."""
        losses, _ = step(self.module, self.loss, self.optimizer, self.inputs, self.targets)
        if self.module.update_every == 1:
            self.module.update()
        return losses

    def bare(self) -> Tensor:
        """Forward, backward, optimiser: what every network has to do."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.loss(self.module(self.inputs), self.targets)
        losses.sum().backward()
        self.optimizer.step()
        return losses.detach()
