"""From what the sources of Office-Caltech10 and PACS serve to the arrays of their canonical files.

Pictures, histograms and lists are read from archives of repositories, whose files have the hashes
in ``data/manifests``. Re-encoded pictures and features depend on libraries, so they are checked by
fingerprint (`mtlbook.datasets.prints`).
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from mtlbook.datasets import archive, efficientnet, office, workplace
from mtlbook.datasets.cache import read, verified
from mtlbook.datasets.registry import entry, require

SIDE = 128  # pixels of the re-encoded pictures of Office-Caltech10
QUALITY = 92  # of their JPEG
CROP = 0.875  # of the shorter side: what TensorFlow's evaluation of EfficientNet looks at
DOMAINS = ("amazon", "caltech10", "dslr", "webcam")  # as the repository calls them
LISTED = {"caltech10": "c"}  # as the released lists do, where they call them otherwise


def fetch_office(scratch: Path) -> dict[str, np.ndarray]:
    """Pictures at 128 px, SURF histograms and the released lists as row numbers."""
    Image = require("PIL.Image", "reproduce")
    encoded = []
    for _, content in _pictures(scratch / "office.zip", "office_caltech10.csv"):
        file = io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            small.save(file, "JPEG", quality=QUALITY)
        encoded.append(file.getvalue())
    labels = _labels("office_caltech10.csv")
    return {
        **_blob(encoded),
        **labels,
        "surf800": _histograms(scratch / "office.zip"),
        **_released(scratch / "mtlearn.zip", labels["paths"].tolist(), labels["label"].tolist()),
    }


def make_office_efflite0(scratch: Path) -> dict[str, np.ndarray]:
    """Features of the pictures at their original size: the middle of each, resized to 224 px."""
    pictures = _pictures(scratch / "office.zip", "office_caltech10.csv")
    labels = _labels("office_caltech10.csv")

    def features(rows: range) -> np.ndarray:
        pixels = np.stack([_middle(contents[row]) for row in rows])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return efficientnet.features(images).numpy().astype(np.float16)

    contents = [content for _, content in pictures]
    feat = workplace.in_parts(scratch, len(contents), features)
    return {"feat": feat, **{key: labels[key] for key in ("label", "domain", "domains", "classes")}}


def fetch_pacs(scratch: Path) -> dict[str, np.ndarray]:
    """The pictures of PACS as they are served, one after the other."""
    contents = [content for _, content in _pictures(scratch / "pacs.zip", "pacs.csv")]
    return {**_blob(contents), **_labels("pacs.csv")}


def make_pacs_efflite0(scratch: Path) -> dict[str, np.ndarray]:
    """Features of the pictures of ``pacs``, which the network's own step resizes to 224 px."""
    arrays = read(verified(entry("pacs")))

    def features(rows: range) -> np.ndarray:
        pixels = np.stack([office.decode(arrays, row) for row in rows])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return efficientnet.features(images).numpy().astype(np.float16)

    feat = workplace.in_parts(scratch, len(arrays["label"]), features)
    return {"feat": feat, **_labels("pacs.csv")}


def fetch_caffenet(scratch: Path) -> dict[str, np.ndarray]:
    """CaffeNet's 4,096 numbers a picture of Office-Caltech10, as published."""
    return _published(scratch, "CaffeNet4096")


def fetch_googlenet(scratch: Path) -> dict[str, np.ndarray]:
    """GoogLeNet's 1,024 numbers a picture of Office-Caltech10, as published."""
    return _published(scratch, "GoogleNet1024")


def _published(scratch: Path, network: str) -> dict[str, np.ndarray]:
    """The files ``<network>/<domain>.mat``: ``fts`` and ``labels`` from 1, a row a picture."""
    loadmat = require("scipy.io", "reproduce").loadmat
    parts = [loadmat(scratch / network / f"{domain}.mat") for domain in DOMAINS]
    labels = [part["labels"].ravel().astype(np.uint8) - 1 for part in parts]
    return {
        "feat": np.concatenate([part["fts"] for part in parts]).astype(np.float32),
        "label": np.concatenate(labels),
        "domain": np.repeat(np.arange(len(parts)), [len(of) for of in labels]).astype(np.uint8),
        "domains": np.array(DOMAINS),
        "classes": _labels("office_caltech10.csv")["classes"],
    }


def _pictures(path: Path, manifest: str) -> Iterable[tuple[archive.Original, bytes]]:
    return archive.read(path, [f for f in archive.manifest(manifest) if not _is_table(f)])


def _is_table(file: archive.Original) -> bool:
    return file.path.endswith(".mat")


def _labels(manifest: str) -> dict[str, np.ndarray]:
    """Of the paths ``<top>/<domain>/<class>/<picture>`` in their order: names and numbers."""
    paths = [file.path for file in archive.manifest(manifest) if not _is_table(file)]
    parts = [path.split("/") for path in paths]
    domains, classes = (sorted({part[level] for part in parts}) for level in (1, 2))
    return {
        "label": np.array([classes.index(part[2]) for part in parts], dtype=np.uint8),
        "domain": np.array([domains.index(part[1]) for part in parts], dtype=np.uint8),
        "domains": np.array(domains),
        "classes": np.array(classes),
        "paths": np.array(paths),
    }


def _blob(files: list[bytes]) -> dict[str, np.ndarray]:
    return {
        "jpeg": np.frombuffer(b"".join(files), dtype=np.uint8),
        "jpeg_offsets": np.cumsum([0, *map(len, files)], dtype=np.int64),
    }


def _histograms(path: Path) -> np.ndarray:
    loadmat = require("scipy.io", "reproduce").loadmat
    files = [file for file in archive.manifest("office_caltech10.csv") if _is_table(file)]
    return np.concatenate([loadmat(io.BytesIO(c))["fts"] for _, c in archive.read(path, files)])


def _released(path: Path, pictures: list[str], labels: list[int]) -> dict[str, np.ndarray]:
    """The lists of MRN's code as row numbers; they name a picture by domain, label and number."""
    row = {}
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        _, domain, _, name = picture.split("/")
        row[domain, label, name.removesuffix(".jpg")[-4:]] = number
    lists = {
        file.path: content for file, content in archive.read(path, archive.manifest("mtlearn.csv"))
    }
    arrays = {}
    for domain in DOMAINS:
        for percent in office.PERCENT:
            for part in ("train", "test"):
                name = f"data/office/{LISTED.get(domain, domain)}/{part}_{percent}.txt"
                lines = [line.split() for line in lists[name].decode("ascii").splitlines()]
                arrays[f"mrn_{part}{percent}_{domain}"] = np.array(
                    [row[domain, int(label), of.removesuffix(".jpg")[-4:]] for of, label in lines],
                    dtype=np.int32,
                )
    return arrays


def _middle(content: bytes) -> np.ndarray:
    """The middle square of a picture, resized to the side that the weights expect."""
    Image = require("PIL.Image", "reproduce")
    with Image.open(io.BytesIO(content)) as image:
        image = image.convert("RGB")
        side = int(CROP * min(image.size))
        left, top = ((length - side) // 2 for length in image.size)
        image = image.crop((left, top, left + side, top + side))
        return np.asarray(image.resize((efficientnet.SIDE,) * 2, Image.Resampling.BICUBIC))
