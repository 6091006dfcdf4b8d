"""CIFAR-MTL: the protocol, its images and their frozen maps, splits, and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlbook import datasets
from mtlbook.datasets import efficientnet
from mtlbook.datasets.cache import content_sha256
from mtlbook.datasets.derived import derived
from mtlbook.tasks import TaskSet

VALIDATION_SEED = 2022  # of the images that are set aside for validation, once and for all
METRICS = ("accuracy_percent", "auc_percent", "precision_percent", "recall_percent")


@dataclass(frozen=True)
class Protocol:
    """What the scripts do, and what we changed to fit a laptop.

    Attributes
    ----------
    trunk : "efficientnet" | "small" | "vgg16"
        ``"vgg16"``: the scripts', on images of 64 px, all of it trained on. ``"efficientnet"``:
        the inputs are maps of a frozen network (:func:`feature_maps`), on which one convolution is
        trained. ``"small"``: two convolutions on grey images, for the stand-in.
    channels, hidden : int
        Of the feature map A, and of each head's hidden layer; the scripts' are 512 and 128.
    train, validation : int
        Images of a class. The scripts train on 2,000 of a class and have no validation.
    test : int
        Images of a class, where the data have no test part of their own.
    epochs, extra_epochs : int
        Of the first and of the second stage; the scripts' are 30 and 30.
    batch_size, second_batch : int
        In the two stages, the scripts'.
    lr : float
        Of Adam, the scripts'.
    decay : float
        Weight decay (of AdamW); 0 but for the arm whose number it is.
    """

    trunk: str = "efficientnet"
    channels: int = 64
    hidden: int = 32
    train: int = 500
    validation: int = 200
    test: int = 200
    epochs: int = 4
    extra_epochs: int = 4
    batch_size: int = 100
    second_batch: int = 200
    lr: float = 1e-3
    decay: float = 0.0


@torch.no_grad()
def feature_maps(tasks: TaskSet, *, size: int = 64, blocks: int = 11, batch: int = 100) -> TaskSet:
    """The images as maps of a frozen EfficientNet-Lite0 with its ImageNet weights.

    The script's images of 64 px (bilinear) through the stem and the first 11 of 16 blocks are maps
    of 112 x 4 x 4, at a sixteenth of the side. They are kept in the data cache.
    """
    network = efficientnet.pretrained()

    def compute(images: Tensor) -> Tensor:
        parts = []
        for part in images.split(batch):
            x = F.interpolate(part, (size, size), mode="bilinear", align_corners=False)
            x = (x * 255 - 127).div_(128).contiguous(memory_format=torch.channels_last)
            x = network.bn0(network.conv_stem(x)).clamp_(0, 6)
            for block in network.blocks[:blocks]:
                x = block(x)
            parts.append(x.contiguous())
        return torch.cat(parts)

    def maps(images: Tensor) -> Tensor:
        made = derived(
            "feature-maps",
            lambda: {"maps": compute(images).numpy()},
            files=[__file__, efficientnet.__file__],
            packages=[],
            images=content_sha256({"images": images.numpy()}),
            network=content_sha256({k: x.numpy() for k, x in network.state_dict().items()}),
            shape=[size, blocks, batch],
            threads=torch.get_num_threads(),  # sums in another order
        )
        return torch.from_numpy(made["maps"])

    return tasks.map_inputs(maps)


def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The training, validation and test images of one repeat, balanced over the classes.

    Validation images, and test images where ``groups`` marks none, are the same in all repeats;
    what a repeat trains on is drawn from the others. Maps of a frozen network are divided by the
    standard deviation of those to train on.
    """
    labels = torch.cat([task.targets for task in tasks], 1).argmax(1)
    groups = tasks[0].groups
    rows: dict[str, list[Tensor]] = {"train": [], "validation": [], "test": []}
    fixed = torch.Generator().manual_seed(VALIDATION_SEED)
    drawn = torch.Generator().manual_seed(repeat)
    for label in range(len(tasks)):
        of_class = (labels == label).nonzero().flatten()
        if groups is None:
            order = of_class[torch.randperm(len(of_class), generator=fixed)]
            test, order = order[: protocol.test], order[protocol.test :]
        else:
            test, order = (of_class[groups[of_class] == g] for g in (1, 0))
            order = order[torch.randperm(len(order), generator=fixed)]
        validation, order = order[: protocol.validation], order[protocol.validation :]
        if len(order) < protocol.train:
            raise ValueError(
                f"train: expected at most {len(order)} images of class {label}, got "
                f"{protocol.train}"
            )
        train = order[torch.randperm(len(order), generator=drawn)[: protocol.train]]
        for name, found in zip(rows, (train, validation, test), strict=True):
            rows[name].append(found)
    return selected(tasks, rows, protocol)


def selected(
    tasks: TaskSet, rows: Mapping[str, Sequence[Tensor]], protocol: Protocol
) -> dict[str, TaskSet]:
    """The parts of these rows, one tensor per class; maps are scaled by those to train on."""
    parts = {name: tasks.select([torch.cat(found)] * len(tasks)) for name, found in rows.items()}
    if protocol.trunk != "efficientnet":
        return parts
    scale = parts["train"][0].inputs.std()
    return {name: part.map_inputs(lambda maps: maps / scale) for name, part in parts.items()}


def scores(outputs: Sequence[Tensor], tasks: TaskSet) -> dict[str, list[float]]:
    """Accuracy, area under the ROC curve, precision and recall of every task, in percent.

    A task is decided at a probability of one half. Precision is 0 where nothing is found. Ties of
    two outputs count half in the area. By scikit-learn, of all tasks at once: there are at least
    two, and as many samples of each.
    """
    from sklearn import config_context, metrics

    output = torch.cat([each.cpu() for each in outputs], 1).numpy()
    truth = torch.cat([task.targets.cpu() for task in tasks], 1).numpy() > 0.5
    if len(tasks) < 2:
        raise ValueError(f"tasks: expected at least two, got {tasks.names}")
    said = output > 0
    # checks of what is given take longer than counting it
    with config_context(skip_parameter_validation=True, assume_finite=True):
        area = metrics.roc_auc_score(truth, output, average=None)
        precision, recall, _, _ = metrics.precision_recall_fscore_support(
            truth, said, average=None, zero_division=0
        )
    values = (truth == said).mean(0), area, precision, recall
    return {
        metric: [100 * float(x) for x in of_tasks]
        for metric, of_tasks in zip(METRICS, values, strict=True)
    }


def inputs_of(data: str, trunk: str) -> TaskSet:
    """What the networks of a trunk look at: the images of a data set, or their maps."""
    images = datasets.load(data, size=64) if trunk == "vgg16" else datasets.load(data)
    return feature_maps(images) if trunk == "efficientnet" else images
