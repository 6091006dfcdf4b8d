"""What is computed from sources that are there, kept for later processes: always the same arrays.

Rendering alphabets, reading MNIST from text and running a frozen network take seconds, and every
run of an experiment begins with them. An entry is named by everything that shapes it (the bytes of
its sources, the code, versions, the kind of processor), so that it is never out of date; it carries
the hash of its arrays, so that one which was damaged is noticed and made again. The folder
``derived`` of the data cache may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlbook.datasets.cache import UNREADABLE, content_sha256, file_sha256, read
from mtlbook.datasets.registry import cache_dir, default_dir, is_read_only

SCRATCH = ".making-"  # how the folders begin in which entries are written
ABANDONED = 3600.0  # seconds after which nobody writes in one any more
_HASH = "content_sha256"  # the member of an entry that holds the hash of the others


def derived(
    name: str,
    make: Callable[[], Mapping[str, np.ndarray]],
    *,
    files: Iterable[str | os.PathLike],
    packages: Iterable[str],
    **given: Any,
) -> dict[str, np.ndarray]:
    """The arrays that ``make`` returns, from the cache where they are there and right.

    Parameters
    ----------
    name : str
        Of the entry, part of its file name.
    make : callable
        Without arguments; returns arrays by name, the same ones whenever the rest is the same.
    files : iterable of path
        Code and sources: whatever is read, besides packages.
    packages : iterable of str
        Distributions whose version shapes the result, besides NumPy and torch.
    **given
        Whatever else does; values that JSON can hold.
    """
    try:
        versions = {p: importlib.metadata.version(p) for p in ("numpy", "torch", *packages)}
    except importlib.metadata.PackageNotFoundError:
        return dict(make())  # which says what is missing, and how to get it
    of = {
        "files": [_file_sha256(*_stamp(Path(file))) for file in (__file__, *files)],
        "versions": versions,
        "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability()],
        "given": given,
    }
    key = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    try:
        path = _folder() / f"{name}-{key[:20]}.npz"
    except RuntimeError:  # no home, and no other folder: time is lost only
        return dict(make())
    if path.is_file() and (found := _verified(path)) is not None:
        return found
    arrays = dict(make())
    _keep(path, arrays)
    return arrays


def _folder() -> Path:
    """Beside the canonical files, or in the default folder where those are to be left alone."""
    chosen = cache_dir()
    if chosen.is_dir() and is_read_only(chosen):
        chosen = default_dir()
    return chosen / "derived"


def _verified(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an entry; None, and a warning, if it is not what was written."""
    try:
        arrays = read(path)
        if str(arrays.pop(_HASH)) == content_sha256(arrays):
            return arrays
    except UNREADABLE:
        pass
    warnings.warn(f"{path}: not what was written, so it is made again", stacklevel=4)
    return None


def _keep(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an entry, complete or not at all; where nothing can be written, time is lost only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{SCRATCH}*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=SCRATCH) as scratch:
            complete = Path(scratch) / path.name
            with complete.open("wb") as file:  # not compressed: reading is what it is for
                np.savez(file, **arrays, **{_HASH: np.array(content_sha256(arrays))})
                file.flush()
                os.fsync(file.fileno())
            os.replace(complete, path)
    except OSError:
        pass


def _stamp(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


@cache
def _file_sha256(path: Path, size: int, time: int) -> str:
    """Of a file that has not changed in this process since it was hashed."""
    return file_sha256(path)
