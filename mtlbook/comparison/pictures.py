"""A folder of images, ``<task>/<class>/<image>``, as arrays."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
LAYOUT = "<task>/<class>/<image>"


def files_of(path: Path, notes: list[str]) -> list[tuple[str, str, Path]]:
    """Task, class and file of every image, sorted by task, class and name.

    Raises
    ------
    ValueError
        If there are images at another depth only, or deeper as well.
    """
    every = list(_walk(path))
    found = sorted(p for p in every if p.suffix.lower() in IMAGES)
    depth = {p: len(p.relative_to(path).parts) for p in found}
    right = [p for p in found if depth[p] == 3]
    if deep := next((p for p in found if depth[p] > 3), None):
        raise ValueError(
            f"{path.name}: expected images as {LAYOUT}, got {deep.relative_to(path).as_posix()}; "
            "compare the folder that holds the tasks, or take out the level between"
        )
    if not right:
        such = f" such as {found[0].relative_to(path).as_posix()}" if found else ""
        raise ValueError(
            f"{path.name}: expected images as {LAYOUT} ({', '.join(IMAGES)}), got {len(found)} "
            f"images{such}, none at that depth"
        )
    if stray := len(found) - len(right):
        notes.append(f"{stray} images that are in no folder of a class were left out")
    if other := sorted(p.name for p in every if p.suffix.lower() not in IMAGES):
        such = _legible(other[0])
        notes.append(f"{len(other)} files with other endings were left out, such as {such}")
    made = [(_legible(p.parent.parent.name), _legible(p.parent.name), p) for p in right]
    full = {(of_task, of_class) for of_task, of_class, _ in made}
    folders = {tuple(map(_legible, p.parts[-2:])) for p in path.glob("*/*") if p.is_dir()}
    empty = sorted("/".join(x) for x in folders - full if not any(y.startswith(".") for y in x))
    if empty:
        notes.append(f"folders without an image: {', '.join(empty[:6])}")
    return sorted(made, key=lambda of: (of[0], of[1], str(of[2])))


def _walk(path: Path) -> Iterator[Path]:
    """All files that are not hidden, behind links too; all folders must be readable."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: expected a folder to read, got: {error.strerror}")

    for folder, folders, files in os.walk(path, followlinks=True, onerror=refuse):
        above = {os.path.realpath(p) for p in (Path(folder), *Path(folder).parents)}
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(Path(folder, name)) not in above
        ]
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def _legible(name: str) -> str:
    """A folder's name, accents in one spelling, bytes that are no UTF-8 spelt out."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode(errors="backslashreplace"))


def read_folder(
    path: Path, images: str, size: int, tell: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Inputs, classes and tasks of all images, and notes on how they were made.

    Parameters
    ----------
    path : Path
    images, size
        As in :func:`mtlbook.comparison.read`.
    tell : callable
        Is told how many have been read.
    """
    notes: list[str] = []
    files = files_of(path, notes)
    from mtlbook.datasets import efficientnet

    use = images
    if images == "auto":
        use = "features" if efficientnet.installed() and find_spec("torchvision") else "pixels"
    made: list[Tensor] = []
    done = 0
    for batch in _pictures([p for *_, p in files], 224 if use == "features" else size):
        made.append(efficientnet.features(batch) if use == "features" else batch.float() / 255)
        done += len(batch)
        tell(f"{done} of {len(files)} images read")
    if use == "features":
        notes.append(
            "inputs: 1280 features of EfficientNet-Lite0, trained on ImageNet "
            "(mtlbook.datasets.efficientnet.features)"
        )
    else:
        notes.append(f"inputs: pixels, {size} x {size}, in colour, 0 to 1")
    y, of_task = np.array([c for _, c, _ in files]), np.array([t for t, _, _ in files])
    return torch.cat(made).numpy(), y, of_task, notes


def _pictures(paths: Sequence[Path], size: int, chunk: int = 64) -> Iterator[Tensor]:
    """Bytes ``(B, 3, size, size)``, some files at a time."""
    from PIL import Image, UnidentifiedImageError

    for start in range(0, len(paths), chunk):
        pixels = []
        for path in paths[start : start + chunk]:
            try:
                with Image.open(path) as image:
                    small = _in_colour(image).resize((size, size), Image.Resampling.BILINEAR)
            except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
                raise ValueError(f"{path}: expected an image, got: {error}") from error
            pixels.append(np.asarray(small).transpose(2, 0, 1))
        yield torch.from_numpy(np.stack(pixels))


def _in_colour(image: Any) -> Any:
    """As a viewer shows it: upright, on white where it is transparent, 16 bits as 8."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise OSError("floating-point pixels; save them as 8 or 16 bits")
    if image.mode.startswith("I"):  # convert() would cut off what is above 255
        values = np.asarray(image).clip(0, 65535)
        image = Image.fromarray((values // (257 if values.max() > 255 else 1)).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
