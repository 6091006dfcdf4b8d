"""Sets that the user must obtain: folders of images as their sources hand them out.

A folder stands in the cache folder under the name in ``data/datasets.yaml``, is checked for what is
known of it, and is read as it is. Nothing in it is changed.

Office-Home and ImageCLEF-DA are domains with the same classes, a task each. CelebA and COCO are
questions about the same images, with one tensor of inputs for all tasks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mtlbook.datasets import efficientnet, workplace
from mtlbook.datasets.cache import DataError, file_sha256
from mtlbook.datasets.registry import Entry, cache_dir, entry, one_of, require
from mtlbook.datasets.split_audit import read_list
from mtlbook.tasks import Task

Listing = dict[str, list[tuple[str, int]]]  # domain -> (path in the folder, label) of every image
IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
CLEF = MappingProxyType({"caltech256": "c", "imagenet": "i", "voc2012": "p", "bing": "b"})
CELEBA = ("train", "valid", "test")
COCO = ("train", "val")


def verified(source: Entry) -> Path:
    """The folder of a gated set, once it is complete as far as is known.

    Raises
    ------
    DataError
        The folder, or something in it, is missing; the message says what to obtain and where to
        put it.
    """
    folder = cache_dir() / source.file
    if not folder.is_dir():
        raise _error(source, "missing", "a folder", "no such folder")
    CHECKS[source.name](source, folder)
    return folder


def sha256(source: Entry, folder: Path) -> str:
    """Of the list of images with their sizes and labels, or of the file of labels."""
    if source.name in LISTINGS:
        digest = hashlib.sha256()
        for domain, images in LISTINGS[source.name](source, folder).items():
            for path, label in images:
                size = (folder / path).stat().st_size
                digest.update(f"{domain}|{path}|{label}|{size}\n".encode())
        return digest.hexdigest()
    labels = [folder / "list_attr_celeba.txt"] if source.name == "celeba" else _annotations(folder)
    return hashlib.sha256("".join(map(file_sha256, labels)).encode()).hexdigest()


# ---------------------------------------------------------------- a task a domain


def load_domains(
    folder: Path, *, domains: Sequence[str] | None = None, size: int = 224
) -> list[Task]:
    """Office-Home or ImageCLEF-DA; inputs of shape ``(N, 3, size, size)`` in [0, 1].

    Parameters
    ----------
    folder : Path
    domains : sequence of str, optional
        Names of the domains to take, in this order; default all four.
    size : int
        Side in pixels; the images are resized by a bicubic filter, their proportions not kept. At
        224 px the 15,588 images of Office-Home are 9.4 GB; the features of
        ``office_home_efflite0`` are 80 MB.
    """
    (source,) = (s for s in map(entry, LISTINGS) if s.file == folder.name)
    listing = LISTINGS[source.name](source, folder)
    tasks = []
    for name in listing if domains is None else domains:
        images = listing[one_of("domains", name, list(listing))]
        tasks.append(
            Task(
                name=name,
                inputs=_pictures(source, [folder / path for path, _ in images], size),
                targets=torch.tensor([label for _, label in images]),
                loss="cross_entropy",
                classes=source.classes,
            )
        )
    return tasks


def list_rows(name: str, task: str, path: Path) -> Tensor:
    """Row numbers within a task of the images in a list of lines "path label", for `Task.select`.

    Parameters
    ----------
    name : str
        ``office_home`` or ``imageclef_da``; the rows of their features are the same.
    task : str
        A domain; what a line has before the last folder of that name is not looked at.
    path : Path
        Such as ``data/office-home/Art/train_5.txt`` of the code of MRN.

    Raises
    ------
    DataError
        The images are not there.
    ValueError
        A line names an image that the task does not have, or another label for it.
    """
    source = entry(one_of("name", name, list(LISTINGS)))
    listing = LISTINGS[name](source, verified(source))
    images = listing[one_of("task", task, list(listing))]
    rows = {(image.partition("/")[2], label): row for row, (image, label) in enumerate(images)}
    items = read_list(path, task)
    if unknown := [item for item in items if item not in rows]:
        image, label = unknown[0]
        raise ValueError(f"{path}: expected images of {task} in {name}, got {image!r} as {label}")
    return torch.tensor([rows[item] for item in items])


def make_efflite0(name: str, scratch: Path) -> dict[str, np.ndarray]:
    """Features of all images of a set of domains, as the arrays of ``office_caltech10_efflite0``.

    The images are read and resized to 224 px a few at a time.
    """
    source = entry(name)
    folder = verified(source)
    listing = LISTINGS[name](source, folder)
    rows = [(domain, *image) for domain, images in enumerate(listing.values()) for image in images]
    paths = [folder / path for _, path, _ in rows]

    def features(rows: range) -> np.ndarray:
        images = _pictures(source, paths[rows.start : rows.stop], efficientnet.SIDE)
        return efficientnet.features(images).numpy().astype(np.float16)

    return {
        "feat": workplace.in_parts(scratch, len(paths), features, size=64),
        "label": np.array([label for _, _, label in rows], dtype=np.uint8),
        "domain": np.array([domain for domain, _, _ in rows], dtype=np.uint8),
        "domains": np.array(list(listing)),
        "classes": np.arange(source.classes),
        "paths": np.array([path for _, path, _ in rows]),
    }


def office_home(source: Entry, folder: Path) -> Listing:
    """The tree ``<domain>/<class>/<image>``; an underscore may be a space."""
    listing: Listing = {}
    for domain in source.counts:
        place = next((p for p in _spellings(folder / domain) if p.is_dir()), None)
        if place is None:
            raise _error(source, "corrupt", f"a folder {domain}", "no such folder")
        classes = sorted(path.name for path in place.iterdir() if path.is_dir())
        if len(classes) != source.classes:
            expected = f"{source.classes} folders of classes in {place.name}"
            raise _error(source, "corrupt", expected, str(len(classes)))
        listing[domain] = [
            (path.relative_to(folder).as_posix(), label)
            for label, name in enumerate(classes)
            for path in sorted((place / name).iterdir())
            if path.suffix.lower() in IMAGES
        ]
    return listing


def imageclef_da(source: Entry, folder: Path) -> Listing:
    """The lists ``<d>List.txt`` of lines "path label", d being b, c, i or p.

    A path is taken in the folder itself or in that of its domain, ``<d>/``.
    """
    listing: Listing = {}
    for domain in source.counts:
        letter = CLEF[domain]
        path = folder / f"{letter}List.txt"
        if not path.is_file():
            raise _error(source, "corrupt", f"a list {path.name}", "no such file")
        listing[domain] = []
        for name, label in read_list(path):
            places = (name, f"{letter}/{name}")
            found = next((place for place in places if (folder / place).is_file()), None)
            if found is None:
                raise _error(source, "corrupt", f"the image {name} of {path.name}", "no such file")
            listing[domain].append((found, label))
        labels = {label for _, label in listing[domain]}
        if labels != set(range(source.classes)):
            expected = f"labels 0 to {source.classes - 1} in {path.name}"
            raise _error(source, "corrupt", expected, f"{sorted(labels)}")
    return listing


# ---------------------------------------------------------------- questions about the same images


def load_celeba(
    folder: Path,
    *,
    split: Literal["train", "valid", "test", "all"] = "all",
    size: int = 64,
    limit: int | None = None,
) -> list[Task]:
    """Forty attributes of a face, a yes-or-no task each; inputs ``(N, 3, size, size)``.

    ``groups`` is 0, 1 or 2 for the train, valid and test part.

    Parameters
    ----------
    folder : Path
        In the layout of `torchvision.datasets.CelebA`, which checks the lists' MD5.
    split : "train" | "valid" | "test" | "all"
    size : int
        Side in pixels, of the square of 178 px in the middle of the aligned images.
    limit : int, optional
        The first images of each part only; all 202,599 are 10 GB at 64 px.
    """
    parts = CELEBA if one_of("split", split, (*CELEBA, "all")) == "all" else (split,)
    CelebA = require("torchvision.datasets", "reproduce").CelebA
    paths, answers, groups = [], [], []
    for part in parts:
        found = CelebA(folder.parent, split=part, target_type="attr")
        names = [name for name in found.attr_names if name]  # the header ends in a space
        chosen = range(len(found))[: _limit(limit)]
        paths += [folder / "img_align_celeba" / found.filename[index] for index in chosen]
        answers.append(found.attr[: len(chosen)])
        groups += [CELEBA.index(part)] * len(chosen)
    inputs = _pictures(entry("celeba"), paths, size, centre=True)
    return _questions(names, inputs, torch.cat(answers), torch.tensor(groups))


def load_coco(
    folder: Path,
    *,
    split: Literal["train", "val", "all"] = "val",
    categories: Sequence[str] | None = None,
    size: int = 64,
    limit: int | None = None,
) -> list[Task]:
    """Is there a ... in the image? A yes-or-no task a category; inputs ``(N, 3, size, size)``.

    The answer is yes where an image has at least one annotated object of the category, crowds
    included. Images without any object are kept: they answer no to everything. ``groups`` is 0 for
    the train and 1 for the val part.

    Parameters
    ----------
    folder : Path
        ``annotations/instances_<split>2017.json`` and the images in ``<split>2017/``.
    split : "train" | "val" | "all"
    categories : sequence of str, optional
        Names, such as ``["cat", "dog"]``; default all 80, in the order of their ids.
    size : int
        Side in pixels; resized with no regard to proportions, so that nothing is cut off.
    limit : int, optional
        The first images of each part only, in the order of their ids.
    """
    parts = COCO if one_of("split", split, (*COCO, "all")) == "all" else (split,)
    source = entry("coco")
    paths, answers, groups = [], [], []
    for part in parts:
        file = _annotation(folder, part)
        if not file.is_file():
            raise _error(source, "corrupt", f"annotations/{file.name}", "no such file")
        annotations = json.loads(file.read_text(encoding="utf-8"))
        ids = {c["name"]: c["id"] for c in sorted(annotations["categories"], key=lambda c: c["id"])}
        names = list(ids) if categories is None else list(categories)
        column = {ids[one_of("categories", name, list(ids))]: k for k, name in enumerate(names)}
        images = sorted(annotations["images"], key=lambda image: image["id"])[: _limit(limit)]
        row = {image["id"]: n for n, image in enumerate(images)}
        present = torch.zeros(len(images), len(names))
        for thing in annotations["annotations"]:
            if thing["image_id"] in row and thing["category_id"] in column:
                present[row[thing["image_id"]], column[thing["category_id"]]] = 1
        paths += [folder / f"{part}2017" / image["file_name"] for image in images]
        answers.append(present)
        groups += [COCO.index(part)] * len(images)
    inputs = _pictures(source, paths, size)
    return _questions(names, inputs, torch.cat(answers), torch.tensor(groups))


def _questions(names: Sequence[str], inputs: Tensor, answers: Tensor, groups: Tensor) -> list[Task]:
    """Column k of the answers ``(N, K)`` is task k; all have the same inputs."""
    return [
        Task(name=name, inputs=inputs, targets=answers[:, [k]].float(), loss="bce", groups=groups)
        for k, name in enumerate(names)
    ]


# ---------------------------------------------------------------- checks


def _check_counts(source: Entry, folder: Path) -> None:
    for domain, images in LISTINGS[source.name](source, folder).items():
        if source.counts[domain] not in (None, len(images)):
            expected = f"{source.counts[domain]} images in {domain}"
            raise _error(source, "corrupt", expected, str(len(images)))


def _check_celeba(source: Entry, folder: Path) -> None:
    CelebA = require("torchvision.datasets", "reproduce").CelebA
    lists = [name for _, _, name in CelebA.file_list if name.endswith(".txt")]
    for name in (*lists, "img_align_celeba"):
        if not (folder / name).exists():
            raise _error(source, "missing", name, "nothing of that name")
    try:
        CelebA(folder.parent, split="test")
    except RuntimeError as error:
        expected = f"lists with the MD5 that torchvision knows ({', '.join(lists)})"
        raise _error(source, "corrupt", expected, "others") from error


def _check_coco(source: Entry, folder: Path) -> None:
    if not _annotations(folder):
        expected = "annotations/instances_val2017.json or instances_train2017.json"
        raise _error(source, "missing", expected, "neither")
    for part in COCO:
        if _annotation(folder, part).is_file() and not (folder / f"{part}2017").is_dir():
            raise _error(source, "corrupt", f"a folder {part}2017", "no such folder")


#: name -> function that lists the images of a set of domains.
LISTINGS: MappingProxyType[str, Callable[[Entry, Path], Listing]] = MappingProxyType(
    {"office_home": office_home, "imageclef_da": imageclef_da}
)
#: name -> function that raises a `DataError` unless the folder is complete as far as is known.
CHECKS: MappingProxyType[str, Callable[[Entry, Path], None]] = MappingProxyType(
    {**dict.fromkeys(LISTINGS, _check_counts), "celeba": _check_celeba, "coco": _check_coco}
)


def _error(source: Entry, state: str, expected: str, found: str) -> DataError:
    """Says what to obtain and where to put it."""
    folder = cache_dir() / source.file
    mend = f"obtain it and put it in {folder}: {source.source}"
    return DataError(folder, state, expected, found, mend, kind="")


def _annotation(folder: Path, part: str) -> Path:
    return folder / "annotations" / f"instances_{part}2017.json"


def _annotations(folder: Path) -> list[Path]:
    return [path for part in COCO if (path := _annotation(folder, part)).is_file()]


def _spellings(path: Path) -> tuple[Path, Path]:
    return path, path.with_name(path.name.replace("_", " "))


def _limit(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected a positive number of images, got {limit}")
    return limit


def _pictures(source: Entry, paths: Sequence[Path], size: int, *, centre: bool = False) -> Tensor:
    """Images as ``(N, 3, size, size)`` in [0, 1], squeezed or their central square."""
    if size < 1:
        raise ValueError(f"size: expected a positive number of pixels, got {size}")
    Image = require("PIL.Image", "reproduce")
    pixels = np.empty((len(paths), size, size, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                width, height = image.size
                side = min(width, height)
                left, top = (width - side) // 2, (height - side) // 2
                pixels[row] = image.convert("RGB").resize(
                    (size, size),
                    Image.Resampling.BICUBIC,
                    box=(left, top, left + side, top + side) if centre else None,
                )
        except OSError as error:
            raise _error(source, "corrupt", f"an image {path}", f"{error}") from error
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
