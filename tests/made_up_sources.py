"""What the public sources serve, in their layout and made up: small files, a registry for them."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from dataclasses import replace

import numpy as np

from mtlbook.datasets import archive, registry
from tests.made_up_data import byte_values, waves

OFFICE = ("amazon", "caltech10", "dslr", "webcam")
PACS = ("art_painting", "cartoon", "photo", "sketch")


def everything() -> tuple[dict[str, bytes], dict[str, registry.Entry], dict[str, list]]:
    """Address -> bytes; name -> entry that expects just these; name -> manifest."""
    served, known, manifests = {}, {}, {}
    contents = {
        "office.zip": _office(),
        "mtlearn.zip": _lists(),
        "pacs.zip": _pictures("PACS", PACS, ("dog", "house")),
        "school.mat": _school(),
        "sarcos_inv_test.mat": _mat(sarcos_inv_test=waves(12, 28)),
        **_letters(),
        **_mnist(),
        **_usps(),
        "cifar-10-python.tar.gz": _cifar(),
        **{f"omniglot-py/images_{p}.zip": _omniglot(p) for p in ("background", "evaluation")},
        **_networks(),
    }
    for name, entry in registry.entries().items():
        downloads = []
        for file in entry.downloads:
            content = contents[file.path]
            if file.holds:
                manifests[file.holds] = _manifest(content)
                content = _zip(content, top="repository-0123abc/")
            served[file.url] = content
            digest = file.hash and _digest(content, file.hash.partition(":")[0])
            downloads.append(replace(file, hash=digest, size=len(content)))
        if entry.tier == "fetched":
            nothing = dict.fromkeys(("sha256", "content_sha256", "size", "unpacked"))
            known[name] = replace(entry, downloads=tuple(downloads), **nothing)
    return served, known, manifests


def _digest(content: bytes, algorithm: str) -> str:
    if algorithm == "git":
        return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def _manifest(files: dict[str, bytes]) -> list[archive.Original]:
    return [
        archive.Original(path, len(content), hashlib.sha256(content).hexdigest())
        for path, content in files.items()
    ]


def _zip(files: dict[str, bytes], top: str = "") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path, content in files.items():
            file.writestr(top + path, content)
    return packed.getvalue()


def _picture(number: int, format: str = "JPEG", mode: str = "RGB") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    pixels = np.roll(byte_values(21, 17, 3), 7 * number)
    Image.fromarray(pixels).resize((17, 17)).convert(mode).save(file, format=format)
    return file.getvalue()


def _pictures(top: str, domains, classes) -> dict[str, bytes]:
    paths = [
        f"{top}/{domain}/{label}/frame_{n:04d}.jpg"
        for domain in domains
        for label in classes
        for n in (1, 2)
    ]
    return {path: _picture(number) for number, path in enumerate(paths)}


def _mat(**arrays) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()


def _office() -> dict[str, bytes]:
    tables = {
        f"features/surf/{domain}.mat": _mat(fts=byte_values(4, 800) // 30, labels=[[1, 1, 2, 2]])
        for domain in OFFICE
    }
    return _pictures("images", OFFICE, ("mouse", "mug")) | tables


def _lists() -> dict[str, bytes]:
    lines = "/theirs/images/x/mouse_frame_0001.jpg 0\n/theirs/images/x/mug_frame_0002.jpg 1\n"
    return {
        f"data/office/{domain}/{part}_{percent}.txt": lines.encode()
        for domain in ("amazon", "c", "dslr", "webcam")
        for percent in (5, 10, 20)
        for part in ("train", "test")
    }


def _networks() -> dict[str, bytes]:
    return {
        f"{network}/{domain}.mat": _mat(
            fts=waves(4, int(network[-4:])).astype("<f4"), labels=[[1, 1, 2, 2]]
        )
        for network in ("CaffeNet4096", "GoogleNet1024")
        for domain in OFFICE
    }


def _school() -> bytes:
    inputs, scores = np.empty((1, 3), dtype=object), np.empty((1, 3), dtype=object)
    for school in range(3):
        inputs[0, school] = byte_values(4, 28) // 100
        scores[0, school] = byte_values(4, 1) // 4
    return _mat(X=inputs, Y=scores)


def _idx(array: np.ndarray) -> bytes:
    """MNIST's format: a type, the number of axes, their lengths, the bytes."""
    lengths = np.array(array.shape, dtype=">i4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes(), mtime=0)


def _letters() -> dict[str, bytes]:
    return {
        "t10k-images-idx3-ubyte.gz": _idx(byte_values(20, 28, 28)),
        "t10k-labels-idx1-ubyte.gz": _idx((np.arange(20) % 10).astype(np.uint8)),
    }


def _mnist() -> dict[str, bytes]:
    labels = (np.arange(20) % 10).astype(np.uint8)
    made = {}
    for part in ("train", "t10k"):
        made[f"MNIST/raw/{part}-images-idx3-ubyte.gz"] = _idx(byte_values(20, 28, 28))
        made[f"MNIST/raw/{part}-labels-idx1-ubyte.gz"] = _idx(labels)
    return made


def _usps() -> dict[str, bytes]:
    line = " ".join(["{}"] + [f"{k}:{(-1, 1)[k % 2]}" for k in range(1, 257)])
    body = bz2.compress("\n".join(line.format(label) for label in range(1, 11)).encode())
    return {"usps.bz2": body, "usps.t.bz2": body}


def _cifar() -> bytes:
    packed = io.BytesIO()
    batch = {"data": byte_values(20, 3072), "labels": [n % 10 for n in range(20)]}
    meta = {"label_names": [str(n) for n in range(10)]}
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]:
            body = pickle.dumps(meta if name == "batches.meta" else batch)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(body)
            file.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def _omniglot(part: str) -> bytes:
    alphabet = {"background": "Latin", "evaluation": "Angelic"}[part]
    return _zip(
        {
            f"images_{part}/{alphabet}/character{c:02d}/{c:04d}_{d:02d}.png": _picture(
                10 * c + d, "PNG", "L"
            )
            for c in (1, 2)
            for d in (1, 2)
        }
    )
