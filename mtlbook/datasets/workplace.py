"""Where sets are fetched and made: one folder in the cache, ``.fetch``, one process at a time.

What is finished in it survives a kill: downloads, and parts of what takes long to compute. When a
set is complete its things are removed, and the folder with the last of them.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from mtlbook.datasets.registry import require

KEPT = 7 * 24 * 3600.0  # seconds that unfinished things of other sets are kept
SCRATCH = (".fetch-*", ".publish-*", ".verified-*")  # in the cache; without an owner under our lock
UNNAMED = re.compile(r"tmp[a-z0-9_]{8}")  # what pooch writes before a file has its name
PARTS = "parts"


def store(cache: Path) -> Path:
    """The folder of downloads that are not finished, or not used yet."""
    return cache / ".fetch" / "downloads"


@contextmanager
def of(cache: Path, name: str) -> Iterator[Path]:
    """A scratch folder for one set, that no other process uses meanwhile.

    Of an earlier, killed attempt it holds the finished parts, and nothing else.
    """
    with _lock(cache):
        _tidy(cache)
        scratch = cache / ".fetch" / name
        for path in scratch.glob("*"):
            if path.name != PARTS:
                _remove(path)
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
        finally:  # after a kill the next attempt does it
            for path in scratch.iterdir():
                if path.name != PARTS:
                    _remove(path)
            _prune(cache / ".fetch")


def is_left(cache: Path, name: str) -> bool:
    """Whether somebody works at a set, or was killed when it was complete but for tidying up."""
    return (cache / ".fetch" / name).exists()


def finished(scratch: Path) -> None:
    """Remove the parts of a set that is complete, or whose parts are of no use."""
    _remove(scratch / PARTS)


def in_parts(
    scratch: Path, count: int, make: Callable[[range], np.ndarray], *, size: int = 256
) -> np.ndarray:
    """``make(rows)`` for all rows, some at a time; parts that are there are not made again.

    Parameters
    ----------
    scratch : Path
        Of the set, as `of` gives it.
    count : int
        Rows.
    make : callable
        Range of row numbers -> array of as many rows.
    size : int
        Rows of a part.
    """
    folder = scratch / PARTS
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    starts = range(0, count, size)
    for start in require("tqdm", "reproduce").tqdm(
        starts, desc=scratch.name, leave=False, disable=not sys.stderr.isatty()
    ):
        path = folder / f"{start:08d}-of-{count}-by-{size}.npy"
        if not path.is_file():
            made = folder / "unfinished.npy"
            np.save(made, make(range(start, min(start + size, count))))
            os.replace(made, path)
        parts.append(np.load(path, allow_pickle=False))
    return np.concatenate(parts)


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, however that ends.

    Its file is removed by who holds it. Who waits for a file that is gone tries again (filelock
    sees to that), so nobody holds a lock that others cannot see.
    """
    filelock = require("filelock", "reproduce")
    path = cache / ".fetch.lock"
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"waiting for another process that fetches into {cache}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open; there filelock does it
            path.unlink()
        lock.release()


def _tidy(cache: Path) -> None:
    """Remove what killed processes left and nobody will go on with."""
    for pattern in SCRATCH:
        for path in cache.glob(pattern):
            _remove(path)
    old = time.time() - KEPT
    for path in (cache / ".fetch").rglob("*"):
        if path.is_file() and (UNNAMED.fullmatch(path.name) or path.stat().st_mtime < old):
            path.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Remove a folder and those in it, as far as they hold no file."""
    for path in sorted([folder, *folder.rglob("*")], reverse=True):  # what is inside comes first
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
