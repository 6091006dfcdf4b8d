"""Canonical files: written whole or not at all, and never read before their hash is checked.

A canonical file is an ``.npz`` of plain arrays. Two hashes describe it: that of the file, which is
fast to check, and that of the arrays (`content_sha256`), which stays the same when another version
of zlib packs the same data into other bytes. Equal arrays are the same data set, so the second one
decides.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mtlbook.datasets import prints
from mtlbook.datasets.registry import Entry, cache_dir, default_dir, is_read_only

#: What numpy raises for a file that is not, or no longer, an npz of plain arrays.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)

ROOM = 2**20  # bytes that an npz may have besides those of its arrays

_checked: dict[str, dict] = {}  # path -> stamp of the file when last found right, what it is


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


def read(
    path: Path, names: Iterable[str] | None = None, *, most: int | None = None
) -> dict[str, np.ndarray]:
    """The arrays of an npz file, by name; all of them, or those with the given names.

    Raises
    ------
    ValueError
        It is no npz file, or its arrays would take more than ``most`` bytes; they are not read.
    """
    # numpy leaves a file open that it could not read, if it was the one to open it
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("expected an npz file, found something else")
        try:
            _check_claims(file, most)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in (names or archive.files)}
        except UNREADABLE:
            raise
        except Exception as error:  # encrypted, nested too deeply, packed in other ways, ...
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"expected plain arrays, found {reason}") from error


def _check_claims(file: BinaryIO, most: int | None) -> None:
    """Compare what the headers of the arrays claim with what the archive holds, before reading."""
    total = 0
    with zipfile.ZipFile(file) as archive:
        # what is packed gives at most 1,032 times its bytes: a bound also where nothing is known
        most = min(most or math.inf, 1032 * os.fstat(file.fileno()).st_size)
        for info in archive.infolist():
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                header = np.lib.format.read_array_header_1_0
                if version != (1, 0):
                    header = np.lib.format.read_array_header_2_0
                shape, _, dtype = header(member)
            claimed = math.prod(shape) * dtype.itemsize
            total += claimed
            if claimed > info.file_size:
                found = f"{info.filename} claims {claimed} bytes, and has {info.file_size}"
                raise ValueError(f"expected an array with its bytes, found that {found}")
    file.seek(0)
    if total > most:
        raise ValueError(f"expected arrays of at most {most} bytes, found {total}")


def locate(entry: Entry) -> Path:
    """Where the file of an entry is, or is to be written.

    In the cache folder; what is made from another set goes to the default folder where the cache
    folder is one to leave alone.
    """
    path = cache_dir() / entry.file
    if entry.made_from and not path.is_file() and path.parent.is_dir():
        if is_read_only(path.parent):
            return default_dir() / entry.file
    return path


def verified(entry: Entry, *, again: bool = False) -> Path:
    """Path of the entry's file, once it is what it should be.

    It is if its hash or that of its arrays is the expected one, or, for what libraries may make
    differently, if it has the fingerprint (`mtlbook.datasets.prints`).

    Parameters
    ----------
    entry : Entry
        Of a data set that has a file.
    again : bool
        Hash the file even if it was found right before and nothing has touched it since.

    Raises
    ------
    DataError
        The file is missing, or not the expected one.
    """
    path = locate(entry)
    mend = f"to mend it, run: mtlbook data fetch {entry.name}"
    if not path.is_file():
        raise DataError(path, "missing", _expected(entry, path), "no such file", mend)
    stamp = _stamp(entry, path)
    for known in (_checked.get(str(path)), _notes().get(entry.file)):
        if not again and _is_note(known) and known["stamp"] == stamp:
            _checked[str(path)] = known
            return path
    _checked.pop(str(path), None)
    if entry.unpacked and stamp[0] > entry.unpacked + ROOM:  # not even worth a hash
        reason = f"a file of {stamp[0]} bytes, which has at most {entry.unpacked}"
        raise DataError(path, "corrupt", _expected(entry, path), reason, mend)
    try:
        sha256 = found = file_sha256(path)
    except OSError as error:
        reason = f"nothing that can be read ({error})"
        raise DataError(path, "corrupt", _expected(entry, path), reason, mend) from error
    if entry.sha256 is None or found != entry.sha256:
        sha256 = _verify_content(entry, path, found, mend)
    _checked[str(path)] = {"stamp": stamp, "sha256": sha256}
    _note(entry.file, _checked[str(path)])
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
        why = prints.differs(entry, arrays)
        if why is not None:
            raise DataError(
                path,
                "missing",
                entry.content_sha256,
                f"{found} in what was made of the download ({why}), and wrote nothing",
                "the source has changed, or a library reads it differently",
            )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".publish-") as scratch:
        complete = Path(scratch) / entry.file
        with complete.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        if entry.content_sha256 != found:
            record = Path(scratch) / "record"
            record.write_text(found + "\n", encoding="ascii")
            os.replace(record, _record(path))
        else:
            _record(path).unlink(missing_ok=True)
        os.replace(complete, path)
    return path


def _verify_content(entry: Entry, path: Path, found: str, mend: str) -> str:
    """What identifies the arrays of the file; raise unless they are the expected ones."""
    expected = _expected(entry, path)
    try:
        arrays = read(path, most=entry.unpacked)
        content = content_sha256(arrays)
    except UNREADABLE as error:
        size = path.stat().st_size
        what = "truncated" if entry.size and size < entry.size else "unreadable"
        reason = f"{found} ({what}: {size} bytes, {type(error).__name__}: {error})"
        raise DataError(path, "corrupt", expected, reason, mend) from error
    if content == entry.content_sha256:
        return entry.sha256 or content
    recorded = _recorded(path)
    if recorded not in (None, content):
        raise DataError(path, "corrupt", recorded, content, mend)
    if entry.content_sha256 is None and recorded == content:
        return content
    if (why := prints.differs(entry, arrays)) is not None:
        found = found if entry.sha256 else content
        raise DataError(path, "corrupt", expected, f"{found} ({why})", mend)
    return content


def _text(path: Path) -> str:
    """What a file holds; of what is no file, such as a pipe, the end would never come."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.read_text(encoding="utf-8")


def _record(path: Path) -> Path:
    """Beside the file: the hash of its arrays, where the registry's is not that."""
    return path.with_name(path.name + ".content_sha256")


def _recorded(path: Path) -> str | None:
    try:
        return _text(_record(path)).strip()
    except (OSError, ValueError):
        return None


def known_sha256(entry: Entry, path: Path) -> str | None:
    """What identifies a file that was found right: the registry's hash, or that of its arrays."""
    return _checked[str(path)]["sha256"] if str(path) in _checked else _expected(entry, path)


def _expected(entry: Entry, path: Path) -> str | None:
    """The hash to name in a message: the registry's, or the one recorded beside the file."""
    return entry.sha256 or entry.content_sha256 or _recorded(path)


def _stamp(entry: Entry, path: Path) -> list:
    """Changes with the file, even where its size and time are put back, and with what we expect."""
    status = path.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    return [status.st_size, *times, status.st_ino, _expected(entry, path)]


def _is_note(note: Any) -> bool:
    return isinstance(note, dict) and "stamp" in note and isinstance(note.get("sha256"), str)


def _notes() -> dict[str, dict]:
    """What earlier processes found right: file name -> note. Lost or broken notes cost a hash."""
    try:
        notes = json.loads(_text(cache_dir() / ".verified.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _note(file: str, note: dict) -> None:
    """Remember a right file for later processes, if the folder can be written to."""
    try:
        if is_read_only(cache_dir()):
            return
        kept = {name: of for name, of in _notes().items() if _is_note(of)}
        with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".verified-") as scratch:
            notes = Path(scratch) / "notes"
            notes.write_text(json.dumps({**kept, file: note}), encoding="utf-8")
            os.replace(notes, cache_dir() / ".verified.json")
    except OSError:
        pass  # a full disk, or another process that tidied up: the next one hashes again
