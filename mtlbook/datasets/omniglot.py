"""Omniglot: 50 alphabets, 1,623 characters, 20 drawers each; every alphabet is a task.

Source: Lake, Salakhutdinov and Tenenbaum (2015), Science 350(6266).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mtlbook.datasets.cache import read
from mtlbook.datasets.registry import one_of, require
from mtlbook.tasks import Task

SIDE = 105  # pixels of an original image


def load_28(path: Path, *, alphabets: Sequence[str] | None = None) -> list[Task]:
    """The tasks at 28 px; inputs of shape ``(N, 1, 28, 28)``.

    Parameters
    ----------
    path : Path
        The canonical file.
    alphabets : sequence of str, optional
        Names of the alphabets to take, in this order; default all 50.
    """
    arrays = read(path)
    return _tasks(arrays, alphabets, lambda rows: _unit(arrays["images"][rows]))


def load_105(
    path: Path, *, alphabets: Sequence[str] | None = None, size: int | None = None
) -> list[Task]:
    """The tasks at 105 px, or resized; inputs of shape ``(N, 1, size, size)``.

    Parameters
    ----------
    path : Path
        The canonical file, which holds a bit a pixel.
    alphabets : sequence of str, optional
        Names of the alphabets to take, in this order; default all 50, which are 1.4 GB at 105 px.
    size : int, optional
        Side in pixels; the images are resized with an antialiased bicubic filter, an alphabet at a
        time. Default: as they are.
    """
    if size is not None and size < 1:
        raise ValueError(f"size: expected a positive number of pixels, got {size}")
    arrays = read(path)

    def images(rows: np.ndarray) -> Tensor:
        bits = np.unpackbits(arrays["bits"][rows], axis=1, count=SIDE * SIDE)
        inputs = torch.from_numpy(bits).float().view(-1, 1, SIDE, SIDE)
        if size in (None, SIDE):
            return inputs
        return interpolate(inputs, (size, size), mode="bicubic", antialias=True).clamp_(0, 1)

    return _tasks(arrays, alphabets, images)


def picture_tasks(arrays: Mapping[str, np.ndarray]) -> Iterator[Task]:
    """The tasks of the arrays of the 28 px file, one after the other."""
    for name in arrays["alphabets"].tolist():
        yield from _tasks(arrays, [name], lambda rows: _unit(arrays["images"][rows]))


def fetch_28(scratch: Path) -> dict[str, np.ndarray]:
    """Convert Omniglot's archives in ``scratch`` to the arrays of the 28 px file."""
    from PIL import Image

    def shrink(image: Image.Image) -> np.ndarray:  # ink is black in the source
        return 255 - np.asarray(image.resize((28, 28), Image.Resampling.LANCZOS))

    images, labels = convert(_folders(scratch), shrink)
    return {"images": images, **labels}


def fetch_105(scratch: Path) -> dict[str, np.ndarray]:
    """Convert Omniglot's archives in ``scratch`` to the arrays of the 105 px file."""
    ink, labels = convert(_folders(scratch), lambda image: np.asarray(image) == 0)
    bits = np.packbits(ink.reshape(len(ink), -1), axis=1)  # (N, 1379)
    return {"bits": bits, "shape": np.array(ink.shape, dtype=np.int64), **labels}


def convert(folders: Sequence[Path], picture) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read the trees ``<alphabet>/character<NN>/<id>_<drawer>.png`` in the canonical order.

    Parameters
    ----------
    folders : sequence of Path
        The background images, then the evaluation images.
    picture : callable
        Grey `PIL.Image.Image` -> array.

    Returns
    -------
    images : ndarray, shape ``(N, ...)``
        Background before evaluation; in each by alphabet, character and drawer.
    labels : dict of ndarray
        ``alphabet`` (index into ``alphabets``, which are sorted over both folders), ``character``
        and ``drawer`` (from 1, as in the file names) and ``evaluation``.
    """
    from PIL import Image

    names = sorted(alphabet.name for folder in folders for alphabet in folder.iterdir())
    images, rows = [], []
    for evaluation, folder in enumerate(folders):
        for file in sorted(folder.glob("*/character*/*.png")):
            alphabet, character = file.parts[-3:-1]
            drawer = int(file.stem.rpartition("_")[2])
            number = int(character.removeprefix("character"))
            rows.append((names.index(alphabet), number, drawer, evaluation))
            with Image.open(file) as image:
                images.append(picture(image.convert("L")))
    alphabet, character, drawer, evaluation = np.array(rows, dtype=np.uint8).T
    labels = {
        "alphabet": alphabet,
        "character": character,
        "drawer": drawer,
        "evaluation": evaluation.astype(bool),
        "alphabets": np.array(names),
    }
    return np.stack(images), labels


def _folders(scratch: Path) -> list[Path]:
    """The folders of background and evaluation images, unpacked and checked by torchvision."""
    sets = require("torchvision.datasets", "reproduce")
    folders = []
    for background in (True, False):
        name = f"images_{'background' if background else 'evaluation'}.zip"
        archive = scratch / sets.Omniglot.folder / name
        if archive.is_file():
            sets.utils.extract_archive(str(archive))
        # checks the archive, and downloads nothing; it would not unpack what it finds there
        found = sets.Omniglot(scratch, background=background, download=True)
        folders.append(Path(found.target_folder))
    return folders


def _tasks(arrays: Mapping[str, np.ndarray], alphabets: Sequence[str] | None, images) -> list[Task]:
    """One task per alphabet; ``images`` maps row numbers to inputs."""
    known = arrays["alphabets"].tolist()
    tasks = []
    for name in known if alphabets is None else alphabets:
        index = known.index(one_of("alphabets", name, known))
        rows = np.flatnonzero(arrays["alphabet"] == index)
        targets = torch.from_numpy(arrays["character"][rows]).long() - 1
        tasks.append(
            Task(
                name=name,
                inputs=images(rows),
                targets=targets,
                loss="cross_entropy",
                classes=int(targets.max()) + 1,
                groups=torch.from_numpy(arrays["drawer"][rows]).long() - 1,
            )
        )
    return tasks


def _unit(images: np.ndarray) -> Tensor:
    """``(N, H, W)`` bytes -> ``(N, 1, H, W)`` in [0, 1]."""
    return torch.from_numpy(images).float().div_(255).unsqueeze(1)
