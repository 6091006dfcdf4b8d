"""Small made-up data in the layout of each real set, read by the real loaders.

All values come from one fixed formula (cosines of squares), not from a random generator, and images
are stored losslessly, so that the same tensors are loaded with all versions of all libraries.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from mtlbook import datasets
from mtlbook.datasets import cache, efficientnet, gated, registry
from mtlbook.tasks import TaskSet

#: Embedded sets, and what of them is loaded: little of those that are rendered.
EMBEDDED = {
    "digits": {},
    "mnist5k": {},
    "mnist_one_vs_all": {},
    "glyphs": {"alphabets": ["Hebrew", "Box drawing"], "drawers": 3},
    "digit_domains": {"domains": ["mnist", "digits", "transformed"]},
}


def task_sets(folder: Path) -> dict[str, TaskSet]:
    """Every set that has a loader, and once more with the options that change its inputs.

    Parameters
    ----------
    folder : Path
        Empty; becomes the cache folder that holds the made-up files.

    Returns
    -------
    dict
        Name, with options such as ``"omniglot_105 size=35"`` -> what the loader gives.
    """
    with made_up_cache(folder):
        loaded = {name: datasets.load(name, **options) for name, options in EMBEDDED.items()}
        for name, options in [(name, {}) for name in FILES] + OPTIONS:
            label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
            loaded[label] = datasets.load(name, **options)
    return loaded


def features() -> list[float]:
    """Sixteen of EfficientNet-Lite0's numbers for two made-up images, bytes and floats."""
    pixels = torch.from_numpy(byte_values(2, 3, 40, 40))
    with torch.random.fork_rng(devices=[]):  # building a network draws weights that are replaced
        rows = [
            efficientnet.features(pixels, size=64),
            efficientnet.features(pixels.float() / 255, size=40),
        ]
    return torch.cat([row[:, ::320].flatten() for row in rows]).tolist()


def waves(*shape: int) -> np.ndarray:
    """Values in [-1, 1] that look like noise: ``cos(k^2 + k)`` at flat index k, in float64."""
    index = np.arange(np.prod(shape), dtype=np.float64)
    return np.cos(index * index + index).reshape(shape)


def byte_values(*shape: int) -> np.ndarray:
    """Bytes from `waves`; rounding leaves no value near the edge of another one by chance."""
    return np.floor(127.5 * (waves(*shape) + 1)).astype(np.uint8)


@contextmanager
def made_up_cache(folder: Path) -> Iterator[None]:
    """A cache folder of made-up sets, and a registry that expects just these."""
    from torchvision.datasets import CelebA

    known = dict(registry.entries())
    for name, arrays in FILES.items():
        entry = known[name]
        if callable(arrays):
            arrays(folder / entry.file)
            known[name] = replace(entry, **COUNTS.get(name, {}))
        else:
            np.savez(folder / entry.file, **arrays)
            content = cache.content_sha256(arrays)
            known[name] = replace(entry, sha256=None, content_sha256=content)
    tables = sorted((folder / "celeba").glob("*.txt"))
    lists = [(None, md5(path.read_bytes()).hexdigest(), path.name) for path in tables]
    with (
        mock.patch.dict(os.environ, MTLBOOK_DATA=str(folder)),
        mock.patch.dict(registry.entries(), known),
        mock.patch.object(cache, "_checked", {}),
        mock.patch.object(CelebA, "file_list", lists),
    ):
        yield


# ---------------------------------------------------------------- files of arrays


def _omniglot() -> dict[str, np.ndarray]:
    """Two alphabets of two characters by four drawers."""
    rows = np.arange(16)
    return {
        "alphabet": (rows // 8).astype(np.uint8),
        "character": (rows // 4 % 2 + 1).astype(np.uint8),
        "drawer": (rows % 4 + 1).astype(np.uint8),
        "evaluation": rows < 8,
        "alphabets": np.array(["Angelic", "Latin"]),
    }


def _omniglot_105() -> dict[str, np.ndarray]:
    ink = waves(16, 105 * 105) > 0.8
    shape = np.array([16, 105, 105])
    return {"bits": np.packbits(ink, axis=1), "shape": shape, **_omniglot()}


def _split(*shape: int) -> dict[str, np.ndarray]:
    """Twenty images to train on and ten to test on, of ten classes."""
    images, labels = byte_values(30, *shape), (np.arange(30) * 3 % 10).astype(np.uint8)
    return {
        "X_train": images[:20],
        "y_train": labels[:20],
        "X_test": images[20:],
        "y_test": labels[20:],
    }


def _office() -> dict[str, np.ndarray]:
    """Eight images of 16 pixels, four domains of two classes."""
    files = [_png(byte_values(8, 16, 16, 3)[row]) for row in range(8)]
    return {
        "jpeg": np.frombuffer(b"".join(files), dtype=np.uint8),
        "jpeg_offsets": np.cumsum([0, *map(len, files)]),
        "surf800": byte_values(8, 800) // 30,
        **_features(8),
    }


def _features(count: int) -> dict[str, np.ndarray]:
    rows = np.arange(count)
    return {
        "feat": (3 + 3 * waves(count, efficientnet.WIDTH)).astype(np.float16),
        "label": (rows % 2).astype(np.uint8),
        "domain": (rows * 4 // count).astype(np.uint8),
        "domains": np.array(["amazon", "caltech10", "dslr", "webcam"]),
        "classes": np.array(["mug", "mouse"]),
    }


def _cifar_features() -> dict[str, np.ndarray]:
    feat = _features(20)["feat"]
    return {"feat": feat, "label": np.arange(20) % 10, "test": np.arange(20) >= 15}


def _school() -> dict[str, np.ndarray]:
    return {
        "X": byte_values(12, 28) // 100,
        "y": (35 + 30 * waves(12)).astype(np.float32),
        "task": (np.arange(12) // 4).astype(np.int16),
    }


# ---------------------------------------------------------------- folders of images


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _draw(path: Path, number: int) -> None:
    """A picture of its own for every number, lossless: Pillow goes by the bytes, not the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(np.roll(byte_values(21, 17, 3), 7 * number)))


def _office_home(folder: Path) -> None:
    for row in range(16):
        domain = ("Art", "Clipart", "Product", "Real World")[row // 4]
        _draw(folder / domain / ("Bed", "Clock")[row % 2] / f"{row:05d}.jpg", row)


def _imageclef(folder: Path) -> None:
    for index, letter in enumerate(gated.CLEF.values()):
        for label in range(2):
            _draw(folder / letter / f"{label}.jpg", 2 * index + label)
        (folder / f"{letter}List.txt").write_text("0.jpg 0\n1.jpg 1\n")


def _celeba(folder: Path) -> None:
    names = [f"{number:06d}.jpg" for number in range(6)]
    for number, name in enumerate(names):
        _draw(folder / "img_align_celeba" / name, number)
    answers = np.where(waves(6, 3) > 0, 1, -1).tolist()
    columns = {
        "list_eval_partition.txt": ([], [[number // 2] for number in range(6)]),
        "identity_CelebA.txt": ([], [[1]] * 6),
        "list_bbox_celeba.txt": (["6", "image_id x_1 y_1 width height"], [[0, 0, 1, 1]] * 6),
        "list_landmarks_align_celeba.txt": (["6", "lefteye_x lefteye_y"], [[0, 0]] * 6),
        "list_attr_celeba.txt": (["6", "Bald Smiling Young "], answers),
    }
    for file, (head, rows) in columns.items():
        lines = [" ".join(map(str, [n, *row])) for n, row in zip(names, rows, strict=True)]
        (folder / file).write_text("\n".join([*head, *lines]) + "\n")


def _coco(folder: Path) -> None:
    numbers = (9, 4, 6)  # not in the order of the files
    for number in numbers:
        _draw(folder / "val2017" / f"{number}.jpg", number)
    made = {
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in numbers],
        "annotations": [
            {"image_id": image, "category_id": category} for image, category in ((9, 17), (4, 18))
        ],
    }
    path = folder / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(made))


#: Name -> arrays of the canonical file, or a function that fills the folder.
FILES = {
    "omniglot_28": {"images": byte_values(16, 28, 28), **_omniglot()},
    "omniglot_105": _omniglot_105(),
    "mnist": _split(28, 28),
    "usps_16": _split(16, 16),
    "cifar10_12k": _split(32, 32, 3),
    "cifar_mtl": _split(32, 32, 3),
    "cifar_mtl_efflite0": _cifar_features(),
    "notmnist": {"X": byte_values(20, 28, 28), "y": (np.arange(20) % 10).astype(np.uint8)},
    "office_caltech10": _office(),
    "office_caltech10_efflite0": _features(8),
    "office_caltech10_surf800": _office(),
    "office_caltech10_caffenet": _features(8),
    "office_caltech10_googlenet": _features(8),
    "pacs": _office(),
    "pacs_efflite0": _features(8),
    "school": _school(),
    "sarcos": {"X": waves(12, 21).astype(np.float32), "Y": waves(12, 7).astype(np.float32)},
    "office_home": _office_home,
    "office_home_efflite0": _features(8),
    "imageclef_da": _imageclef,
    "imageclef_da_efflite0": _features(8),
    "celeba": _celeba,
    "coco": _coco,
}
#: Of the sets of domains: classes, and images a domain.
COUNTS = {
    "office_home": {
        "classes": 2,
        "counts": dict.fromkeys(("Art", "Clipart", "Product", "Real_World"), 4),
    },
    "imageclef_da": {"classes": 2},
}
#: What is loaded a second time: options that give other inputs.
OPTIONS = [
    ("omniglot_105", {"size": 35}),
    ("usps_16", {"split": "test"}),
    ("cifar_mtl", {"size": 64}),
    ("office_caltech10", {"size": 9}),
    *(("office_caltech10_surf800", {"normalise": how}) for how in ("zscore", "none")),
    ("school", {"constant": True}),
    ("office_home", {"size": 8}),
    ("celeba", {"size": 8}),
    ("coco", {"size": 8}),
]
