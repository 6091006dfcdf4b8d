"""Office-Caltech10: ten classes of objects in four domains, of which every domain is a task.

The canonical file holds the pictures as JPEG at 128 px, the SURF histograms that Gong et al. (2012)
published with them, and the split lists that the code of MRN was released with.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mtlbook.datasets import cache
from mtlbook.datasets.registry import entry, one_of, require
from mtlbook.tasks import Task

#: The percentages of training images that lists were released for.
PERCENT = (5, 10, 20)


def load_features(path: Path, *, domains: Sequence[str] | None = None) -> list[Task]:
    """Features of a network trained on ImageNet; inputs of shape ``(N, width)``, not scaled.

    Parameters
    ----------
    path : Path
        The canonical file.
    domains : sequence of str, optional
        Those to take, in this order: of Office-Caltech10 ``amazon``, ``caltech10``, ``dslr`` and
        ``webcam``; of PACS ``art_painting``, ``cartoon``, ``photo`` and ``sketch``.
    """
    arrays = cache.read(path)
    return _tasks(arrays, domains, lambda rows: torch.from_numpy(arrays["feat"][rows]).float())


def load_surf800(
    path: Path,
    *,
    domains: Sequence[str] | None = None,
    normalise: Literal["l2", "zscore", "none"] = "l2",
) -> list[Task]:
    """Histograms of 800 visual words; inputs of shape ``(N, 800)``.

    Parameters
    ----------
    path, domains
        As in `load_features`.
    normalise : "l2" | "zscore" | "none"
        ``"l2"``, the default, gives every histogram the Euclidean norm 1 and looks at nothing else.
        ``"zscore"`` is what Gong et al. (2012) do: histograms of sum 1, then every word to mean 0
        and variance 1 over the domain. That looks at the inputs, not the labels, of the later test
        samples. ``"none"``: the counts as published.
    """
    one_of("normalise", normalise, ("l2", "zscore", "none"))
    arrays = cache.read(path)

    def histograms(rows: np.ndarray) -> Tensor:
        counts = torch.from_numpy(arrays["surf800"][rows]).float()
        if normalise == "none":
            return counts
        if normalise == "l2":
            return normalize(counts)
        parts = normalize(counts, p=1)
        centred = parts - parts.mean(0)
        # a word that a domain never shows stays at 0
        return centred / parts.std(0, correction=0).clamp_min(torch.finfo(parts.dtype).tiny)

    return _tasks(arrays, domains, histograms)


def load_images(
    path: Path, *, domains: Sequence[str] | None = None, size: int | None = None
) -> list[Task]:
    """The pictures; inputs of shape ``(N, 3, size, size)`` in [0, 1].

    Parameters
    ----------
    path, domains
        As in `load_features`.
    size : int, optional
        Side in pixels, by Pillow's bicubic filter; default as they are in the file: 128 for
        Office-Caltech10, 227 for PACS.
    """
    if size is not None and size < 1:
        raise ValueError(f"size: expected a positive number of pixels, got {size}")
    arrays = cache.read(path)

    def pictures(rows: np.ndarray) -> Tensor:
        pixels = np.stack([decode(arrays, row, size) for row in rows])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)

    return _tasks(arrays, domains, pictures)


def published_splits(percent: Literal[5, 10, 20]) -> dict[str, tuple[Tensor, Tensor]]:
    """The split lists that were released with MRN, as they are: repeated rows stay repeated.

    What is wrong with them is found by `mtlbook.datasets.split_audit`.

    Parameters
    ----------
    percent : 5 | 10 | 20
        The percentage of training images in the lists' names.

    Returns
    -------
    dict
        Task name -> (training rows, test rows): int64 row numbers within the task, for
        `Task.select` of all three Office-Caltech10 sets.

    Raises
    ------
    ValueError
        Another percentage.
    DataError
        The canonical file is missing or corrupt.
    """
    if percent not in PERCENT:
        raise ValueError(f"percent: expected one of {PERCENT}, got {percent!r}")
    path = cache.verified(entry("office_caltech10"))
    domains = cache.read(path, ("domain", "domains"))
    splits = {}
    for index, name in enumerate(domains["domains"].tolist()):
        first = np.flatnonzero(domains["domain"] == index)[0]  # rows of a domain are contiguous
        lists = cache.read(path, [f"mrn_{part}{percent}_{name}" for part in ("train", "test")])
        train, test = (rows - first for rows in lists.values())
        splits[name] = (torch.from_numpy(train).long(), torch.from_numpy(test).long())
    return splits


def decode(arrays: Mapping[str, np.ndarray], row: int, size: int | None = None) -> np.ndarray:
    """One picture of the canonical arrays as bytes ``(size, size, 3)``."""
    Image = require("PIL.Image", "reproduce")
    start, stop = arrays["jpeg_offsets"][row : row + 2]
    with Image.open(io.BytesIO(arrays["jpeg"][start:stop].tobytes())) as image:
        image = image.convert("RGB")
        if size is not None and image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(image)


def feature_tasks(arrays: Mapping[str, np.ndarray]) -> Iterator[Task]:
    """A task a domain of the arrays of a file of features, one after the other."""
    for name in arrays["domains"].tolist():
        yield from _tasks(
            arrays, [name], lambda rows: torch.from_numpy(arrays["feat"][rows]).float()
        )


def picture_tasks(arrays: Mapping[str, np.ndarray]) -> Iterator[Task]:
    """A task a domain of the arrays of a file of pictures; inputs are bytes, as floats."""

    def pixels(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack([decode(arrays, row) for row in rows])).float()

    for name in arrays["domains"].tolist():
        yield from _tasks(arrays, [name], pixels)


def _tasks(
    arrays: Mapping[str, np.ndarray],
    domains: Sequence[str] | None,
    inputs: Callable[[np.ndarray], Tensor],
) -> list[Task]:
    """One task per domain; ``inputs`` maps row numbers to inputs."""
    known = arrays["domains"].tolist()
    tasks = []
    for name in known if domains is None else domains:
        rows = np.flatnonzero(arrays["domain"] == known.index(one_of("domains", name, known)))
        tasks.append(
            Task(
                name=name,
                inputs=inputs(rows),
                targets=torch.from_numpy(arrays["label"][rows]).long(),
                loss="cross_entropy",
                classes=len(arrays["classes"]),
            )
        )
    return tasks
