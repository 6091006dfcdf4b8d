"""The list of data sets in ``data/datasets.yaml``, and the folder that holds their files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

from mtlbook.documents import read_yaml

PACKAGE = Path(__file__).resolve().parents[1]
DEFAULT = "~/.cache/mtlbook"  # the folder of the fetched files, where MTLBOOK_DATA names none
#: Where our lists may stand: inside an installed package, or beside the package in a checkout.
PLACES = (PACKAGE / "_data", PACKAGE.parent / "data")


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that a source serves, and the place below the scratch folder where it is expected."""

    url: str
    path: str
    hash: str | None = None  # algorithm:digest, such as md5:0f..., or git: what git names it
    holds: str | None = None  # of an archive: the list in data/manifests of its files
    size: int | None = None  # bytes, at most

    @property
    def known_to_pooch(self) -> str | None:
        """The hash, if pooch can compute it."""
        return None if (self.hash or "git:").startswith("git:") else self.hash


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set as ``data/datasets.yaml`` describes it; the fields are explained there."""

    name: str
    title: str
    tier: Literal["embedded", "fetched", "gated"]
    source: str
    licence: str
    file: str | None
    size: int | None
    sha256: str | None
    content_sha256: str | None
    stand_in_for: str | None
    citation: str | None
    loader: Literal["none"] | None = None
    fetcher: Literal["none"] | None = None
    made_from: str | None = None
    unpacked: int | None = None
    counts: dict[str, int | None] | None = None
    classes: int | None = None
    downloads: tuple[Download, ...] = ()

    def __post_init__(self):
        files = (f if isinstance(f, Download) else Download(**f) for f in self.downloads)
        object.__setattr__(self, "downloads", tuple(files))

    @property
    def is_folder(self) -> bool:
        """Whether ``file`` is a folder that the user fills, and not a canonical file."""
        return self.tier == "gated" and self.made_from is None

    @property
    def note(self) -> str:
        """What cannot be done with this set, in words; empty where everything can."""
        steps = {"loader": "no loader yet", "fetcher": "to be obtained by hand"}
        return ", ".join(text for step, text in steps.items() if getattr(self, step) == "none")


@cache
def entries() -> dict[str, Entry]:
    """All data sets by name, in the order of the file."""
    require("yaml", "reproduce")
    rows = read_yaml(data_file("datasets.yaml"))
    return {row["name"]: Entry(**row) for row in rows}


def data_file(name: str) -> Path:
    """One of our own lists on data sets, such as ``datasets.yaml``."""
    for folder in PLACES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no {name} in {' or '.join(map(str, PLACES))}")


def entry(name: str) -> Entry:
    """The entry of one data set; a ``ValueError`` lists the names where there is none."""
    return entries()[one_of("name", name, list(entries()))]


def cache_dir() -> Path:
    """The folder of the fetched files: ``$MTLBOOK_DATA``, or ``~/.cache/mtlbook``."""
    chosen = os.environ.get("MTLBOOK_DATA")
    return Path(chosen).expanduser() if chosen else default_dir()


def default_dir() -> Path:
    """The folder of the fetched files where none is named.

    Raises
    ------
    RuntimeError
        Nobody's home: the user has none.
    """
    try:
        return Path(DEFAULT).expanduser()
    except RuntimeError as error:
        raise RuntimeError(
            f"{DEFAULT}: expected a home ({error}); name the folder of the data in MTLBOOK_DATA"
        ) from error


def is_read_only(folder: Path) -> bool:
    """Whether a folder is marked as one to leave alone.

    By its mode bits too, because the permissions of a privileged user would let it write anyway.
    """
    return not (folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK))


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra of the package brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is needed here and is not installed: pip install 'mtlbook[{extra}]'"
        ) from error


def one_of(argument: str, value: str, known: Sequence[str]) -> str:
    """``value``, or a ``ValueError`` that names the argument and what it may be."""
    if value not in known:
        raise ValueError(f"{argument}: expected one of {', '.join(known)}; got {value!r}")
    return value
