"""Archives of repositories: which files they must hold, and reading these without unpacking.

An archive that a host packs anew has other bytes every time; the files in it have not. Their list,
``path,bytes,sha256`` a line, stands in ``data/manifests``. Nothing is written below a name that an
archive gives, and no more of a file is read than its list says it has.
"""

from __future__ import annotations

import csv
import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mtlbook.datasets.registry import data_file

#: What zipfile raises for a file that is none, or one that is damaged.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


@dataclass(frozen=True)
class Original:
    """A file as its source has it."""

    path: str
    bytes: int
    sha256: str


def manifest(name: str) -> list[Original]:
    """The files of ``data/manifests/<name>``, in its order."""
    with data_file(f"manifests/{name}").open(newline="", encoding="utf-8") as file:
        return [Original(r["path"], int(r["bytes"]), r["sha256"]) for r in csv.DictReader(file)]


def check(path: Path, name: str) -> None:
    """Raise a ``ValueError`` unless the archive holds all files of a manifest, unchanged."""
    for file, content in read(path, manifest(name)):
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise ValueError(f"{file.path}: expected sha256 {file.sha256}, found {found}")


def read(path: Path, files: Iterable[Original]) -> Iterator[tuple[Original, bytes]]:
    """Files of a zip archive, whose single top folder is left out of their names.

    Raises
    ------
    ValueError
        The archive is damaged, has names that lead out of it, or lacks a file or has one of another
        size.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            inside = {_inside(info.filename): info for info in packed.infolist()}
            for file in files:
                if file.path not in inside:
                    raise ValueError(f"expected the file {file.path} in the archive, found none")
                info = inside[file.path]
                if info.file_size != file.bytes:
                    found = f"expected {file.bytes} bytes, found {info.file_size}"
                    raise ValueError(f"{file.path} in the archive: {found}")
                with packed.open(info) as content:
                    yield file, content.read(file.bytes)
    except DAMAGED as error:
        raise ValueError(
            f"expected a zip archive, found {error or type(error).__name__}"
        ) from error


def _inside(name: str) -> str:
    """A name in an archive without its top folder."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name:
        raise ValueError(f"expected names inside the archive, found {name!r}")
    return "/".join(parts.parts[1:])
