"""Canonical files: written whole or not at all, and never read before their hash is checked.

A canonical file is an ``.npz`` of plain arrays. Two hashes describe it: that of the file, which is
fast to check, and that of the arrays (`content_sha256`), which stays the same when another version
of zlib packs the same data into other bytes. Equal arrays are the same data set, so the second one
decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from mtlbook.datasets.registry import DEFAULT, Entry, cache_dir, is_read_only

#: What numpy raises for a file that is not, or no longer, an npz of plain arrays.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)

_checked: dict[str, list] = {}  # path -> stamp of the file when it was last found right


class DataError(RuntimeError):
    """A data file is missing or is not what it should be; the message says how to mend it.

    Attributes
    ----------
    state : "missing" | "corrupt"
    expected, found : str or None
        The hashes, or in place of ``found`` the reason why there is none; of a folder, in words.
    """

    def __init__(
        self,
        path: Path,
        state: str,
        expected: str | None,
        found: str | None,
        mend: str,
        *,
        kind: str = "sha256 ",
    ):
        self.state, self.expected, self.found = state, expected, found
        super().__init__(
            f"{path} is {state}: expected {kind}{expected or 'unknown'}, found {found}; {mend}"
        )


def content_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the arrays in the order of their names: name, dtype, shape and C-order bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file, by name; all of them, or those with the given names."""
    # numpy leaves a file open that it could not read, if it was the one to open it
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in (archive.files if names is None else names)}


def locate(entry: Entry) -> Path:
    """Where the file of an entry is, or is to be written.

    In the cache folder; what is made from another set goes to the default folder where the cache
    folder is one to leave alone.
    """
    path = cache_dir() / entry.file
    if entry.made_from and not path.is_file() and path.parent.is_dir():
        if is_read_only(path.parent):
            return Path(DEFAULT).expanduser() / entry.file
    return path


def verified(entry: Entry, *, again: bool = False) -> Path:
    """Path of the entry's file, once its hash is right.

    Parameters
    ----------
    entry : Entry
        Of a data set that has a file.
    again : bool
        Hash the file even if it was found right before and has the same size and time since.

    Raises
    ------
    DataError
        The file is missing, or neither its hash nor that of its arrays is the expected one.
    """
    path = locate(entry)
    mend = _mend(entry)
    if not path.is_file():
        raise DataError(path, "missing", known_sha256(entry, path), "no such file", mend)
    stamp = _stamp(entry, path)
    if not again and (_checked.get(str(path)) == stamp or _notes().get(entry.file) == stamp):
        _checked[str(path)] = stamp
        return path
    found = file_sha256(path)
    if entry.sha256 is None or found != entry.sha256:
        _verify_content(entry, path, found, mend)
    _checked[str(path)] = stamp
    _note(entry.file, stamp)
    return path


def publish(entry: Entry, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write the canonical file of an entry: complete, verified, and in one step.

    The bytes depend on the arrays alone (numpy gives every member of the archive the same date).
    Where the registry knows no hash, that of the arrays is recorded beside the file.

    Raises
    ------
    DataError
        The arrays are not the expected ones; nothing was written.
    """
    path, found = locate(entry), content_sha256(arrays)
    if entry.content_sha256 not in (None, found):
        raise DataError(
            path,
            "missing",
            entry.content_sha256,
            f"{found} in the download, and wrote nothing",
            "the source has changed, or a library reads it differently",
        )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".publish-") as scratch:
        complete = Path(scratch) / entry.file
        with complete.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        if entry.content_sha256 is None:
            record = Path(scratch) / "record"
            record.write_text(found + "\n", encoding="ascii")
            os.replace(record, _record(path))
        os.replace(complete, path)
    return path


def _verify_content(entry: Entry, path: Path, found: str, mend: str) -> None:
    """Raise unless the arrays of the file have the expected hash."""
    expected = known_sha256(entry, path)
    try:
        content = content_sha256(read(path))
    except UNREADABLE as error:
        size = path.stat().st_size
        what = "truncated" if entry.size and size < entry.size else "unreadable"
        reason = f"{found} ({what}: {size} bytes, {type(error).__name__}: {error})"
        raise DataError(path, "corrupt", expected, reason, mend) from error
    if content != (entry.content_sha256 or expected):
        raise DataError(path, "corrupt", expected, found if entry.sha256 else content, mend)


def _record(path: Path) -> Path:
    """Beside the file: the hash of the arrays of a first conversion, where no hash was known."""
    return path.with_name(path.name + ".content_sha256")


def known_sha256(entry: Entry, path: Path) -> str | None:
    """The hash to name in a message: the registry's, or the one recorded beside the file."""
    if entry.sha256 is None and _record(path).is_file():
        return _record(path).read_text(encoding="ascii").strip()
    return entry.sha256


def _mend(entry: Entry) -> str:
    """What to do about a wrong file."""
    if entry.fetcher == "none":
        return f"no step fetches it yet: put {entry.file} there, made from: {entry.source}"
    return f"to mend it, run: mtlbook data fetch {entry.name}"


def _stamp(entry: Entry, path: Path) -> list:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, known_sha256(entry, path)]


def _notes() -> dict[str, list]:
    """What earlier processes found right: file name -> stamp. Lost or broken notes cost a hash."""
    try:
        return json.loads((cache_dir() / ".verified.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _note(file: str, stamp: list) -> None:
    """Remember a right file for later processes, if the folder can be written to."""
    if is_read_only(cache_dir()):
        return
    handle, scratch = tempfile.mkstemp(dir=cache_dir(), prefix=".verified-")
    with open(handle, "w", encoding="utf-8") as notes:
        json.dump({**_notes(), file: stamp}, notes)
    os.replace(scratch, cache_dir() / ".verified.json")
