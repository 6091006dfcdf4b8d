"""Data sets in three tiers: embedded, fetched and gated.

``load(name)`` gives a `mtlbook.tasks.TaskSet`. Nothing is downloaded unless `fetch` is called, and
no file is read before its hash is right. Files live in ``$MTLBOOK_DATA`` (default
``~/.cache/mtlbook``); ``data/datasets.yaml`` says what they are. A new data set is an entry there
and a function in `LOADERS` (and, if it is fetched, in `FETCHERS`) of ``steps.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mtlbook.datasets import cache, download, prints, workplace
from mtlbook.datasets.cache import DataError
from mtlbook.datasets.registry import Entry, cache_dir, entries, entry, is_read_only
from mtlbook.datasets.steps import FETCHERS, LOADERS, later

if TYPE_CHECKING:
    from mtlbook.tasks import TaskSet

__all__ = [
    "DataError",
    "available",
    "cache_dir",
    "distance",
    "fetch",
    "how_to_get",
    "identity",
    "info",
    "load",
    "names",
    "published_splits",
    "status",
    "table",
    "verify",
]

Status = Literal["embedded", "cached", "makeable", "missing", "corrupt"]


def __getattr__(name: str) -> Any:
    if name == "published_splits":
        return import_module(f"{__name__}.office").published_splits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def names() -> list[str]:
    """The names of all data sets, in the order of ``data/datasets.yaml``."""
    return list(entries())


def info(name: str) -> dict[str, Any]:
    """What ``data/datasets.yaml`` says about a data set: title, tier, source, hashes, ..."""
    return asdict(entry(name))


def load(name: str, **options: Any) -> TaskSet:
    """Load a data set.

    Parameters
    ----------
    name : str
        One of `names`.
    **options
        Those of the loader:

        - ``omniglot_28``: ``alphabets``, a list of names; ``omniglot_105``: also ``size`` in pixels
        - ``mnist``, ``usps_16``, ``cifar10_12k``: ``split``, ``"train"``, ``"test"`` or ``"all"``
        - ``cifar_mtl``: ``size`` in pixels
        - ``office_caltech10``, ``pacs``: ``domains``, a list of names, ``size`` in pixels; their
          features (``_efflite0``, ``_caffenet``, ``_googlenet``): ``domains``;
          ``office_caltech10_surf800``: ``domains``, ``normalise``, ``"l2"``, ``"zscore"`` or
          ``"none"``
        - ``office_home``, ``imageclef_da``: ``domains``, ``size``; their ``_efflite0``: ``domains``
        - ``celeba``: ``split``, ``size``, ``limit``; ``coco``: also ``categories``
        - ``school``: ``constant``
        - ``glyphs``: ``alphabets``, ``drawers``, ``size``, ``seed``
        - ``digit_domains``: ``domains``, a list of names

    Returns
    -------
    TaskSet
        Images have shape ``(N, channels, height, width)`` and values in [0, 1], ink (or white)
        being 1; features have shape ``(N, width)``. Its ``sha256`` is that of the file, or for an
        embedded set that of its arrays.

    Raises
    ------
    ValueError
        Unknown name or option value, or a data set that has no loader yet.
    DataError
        The file is missing, truncated or corrupt.
    ImportError
        An optional package is missing; the message names the extra that brings it.

    Examples
    --------
    >>> load("digits")[0].inputs.shape
    torch.Size([1797, 1, 8, 8])
    """
    source = entry(name)
    if name not in LOADERS:
        raise ValueError(
            f"name: expected a data set with a loader ({', '.join(LOADERS)}); got {name!r}, which "
            "is listed and verified only"
        )
    if source.file is None:
        tasks = LOADERS[name](**options)
        sha256 = _embedded_sha256(tasks)
    else:
        path = fetch(name) if status(name) == "makeable" else _verified(source)
        tasks = LOADERS[name](path, **options)
        sha256 = _sha256(source, path)
    from mtlbook.tasks import TaskSet

    return TaskSet(
        name=name,
        tasks=tuple(tasks),
        tier=source.tier,
        stand_in_for=source.stand_in_for,
        licence=source.licence,
        sha256=sha256,
    )


def status(name: str) -> Status:
    """Whether a data set is there.

    Returns
    -------
    "embedded" | "cached" | "makeable" | "missing" | "corrupt"
        "cached": there, and right. "makeable": `load` will make it, from a set that is there.
    """
    source = entry(name)
    if source.file is None:
        return "embedded"
    try:
        _verified(source)
    except DataError as error:
        if error.state == "missing" and source.made_from and status(source.made_from) == "cached":
            return "makeable" if later("efficientnet.installed")() else "missing"
        return error.state
    return "cached"


def identity(name: str) -> str:
    """What identifies the content of a data set that is there: its hash, or that it is embedded."""
    source = entry(name)
    state = status(name)
    if state != "cached":
        return state
    return str(_sha256(source, _verified(source)))


def distance(name: str) -> float:
    """How far the fingerprint of a set that is there is from that of our own copy.

    A task's fingerprint is a few random projections of what libraries may make differently; the
    largest difference over all tasks is returned. 0.0 for a set that is what it is to the last bit.
    """
    source = entry(name)
    if identity(name) == (source.sha256 or source.content_sha256) or name not in prints.known():
        return 0.0
    return max(prints.distance(name, cache.read(_verified(source))).values())


def available(name: str) -> bool:
    """Whether `load` would work now, without a network."""
    return name in LOADERS and status(name) in ("embedded", "cached", "makeable")


def fetch(name: str, *, then: Collection[str] = ()) -> Path:
    """Download a data set, or make it from another one, and put it in the cache when it is right.

    All of it happens in a scratch folder; the file appears under its name in one step, or not at
    all. A right file that is there already is left alone, a corrupt one replaced. What was finished
    before a kill is not downloaded or computed again.

    Parameters
    ----------
    name : str
        A data set of the fetched tier, or one that is made from a gated one.
    then : collection of str
        Data sets that will be fetched next: downloads that they share are kept for them.

    Returns
    -------
    Path
        The verified file.

    Raises
    ------
    ValueError
        There is nothing to fetch, or no step that does it.
    DataError
        The download failed, or what came is not the expected data; nothing was written.
    """
    source = entry(name)
    if name not in FETCHERS:
        why = "comes with a package" if source.file is None else f"is had by hand: {source.source}"
        raise ValueError(
            f"name: expected a data set that can be fetched ({', '.join(FETCHERS)}); got {name!r}, "
            f"which {why}"
        )
    path = cache.locate(source)
    if status(name) == "cached":
        if workplace.is_left(path.parent, name) and not is_read_only(path.parent):
            with workplace.of(path.parent, name) as scratch:
                _tidy_up(source, scratch, workplace.store(path.parent), then)
        return path
    if source.made_from in FETCHERS:
        fetch(source.made_from)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_read_only(path.parent):
            raise PermissionError(f"{path.parent} is read-only")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder, in the place of the file")
        with workplace.of(path.parent, name) as scratch:
            store = workplace.store(path.parent)
            if status(name) == "cached":  # by another process, while this one waited
                _tidy_up(source, scratch, store, then)
            else:
                _fetch(source, scratch, store, then)
    except DataError:
        raise
    except (*cache.UNREADABLE, RuntimeError) as error:  # the network, the folder, other data
        raise DataError(
            path,
            status(name),
            source.sha256 or source.content_sha256,
            f"nothing ({type(error).__name__}: {error})",
            "a network (or MTLBOOK_MIRROR) and a folder that can be written to (MTLBOOK_DATA) are "
            f"needed; then run: mtlbook data fetch {name}",
        ) from error
    return path


def _fetch(source: Entry, scratch: Path, store: Path, then: Collection[str]) -> None:
    """Download, convert and publish; forget what is no longer needed, or of no use."""
    download.into(scratch, source.downloads, store)
    try:
        cache.publish(source, FETCHERS[source.name](scratch))
    except (DataError, *cache.UNREADABLE) as error:
        if getattr(error, "errno", None) is None:  # not the system's: a full disk wrongs nothing
            workplace.finished(scratch)  # they led to nothing right
            unknown = [file for file in source.downloads if file.hash is file.holds is None]
            download.forget(unknown, store)
        raise
    _tidy_up(source, scratch, store, then)


def _tidy_up(source: Entry, scratch: Path, store: Path, then: Collection[str]) -> None:
    """Remove what led to a set that is there now, and downloads that no set to come needs."""
    workplace.finished(scratch)
    later = {file.url for name in then for file in entry(name).downloads}
    download.forget([file for file in source.downloads if file.url not in later], store)


def verify(which: str | Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Hash data sets again, whatever was found before.

    Parameters
    ----------
    which : str or iterable of str, optional
        Names; default all.

    Returns
    -------
    list of dict
        A row a data set: ``name``; ``state`` (see `status`); ``ok`` (True, False, or None where
        the file is not there); ``expected`` and ``found`` (sha256 or None; of the file, or of the
        arrays of an embedded set; right arrays that another zlib has packed count as found);
        ``why`` (empty, or what is wrong and how to mend it).
    """
    chosen = names() if which is None else [which] if isinstance(which, str) else list(which)
    return [_verify(name) for name in chosen]


def how_to_get(name: str) -> str:
    """What to do to have a data set: a command, and for a gated one before it what to put where."""
    source = entry(name)
    command = f"mtlbook data fetch {name}"
    if source.file is None:
        return "nothing to do, it comes with a package"
    if source.tier == "fetched":
        return command
    folder = source if source.is_folder else entry(source.made_from)
    command = f"mtlbook data verify {name}" if source.is_folder else command
    return (
        f"{command} (first put into {cache_dir() / folder.file}: {' '.join(folder.source.split())})"
    )


def table() -> list[dict[str, Any]]:
    """The data sets as rows for a listing.

    Returns
    -------
    list of dict
        Keys ``name``, ``title``, ``tier``, ``licence``, ``size`` (bytes or None), ``sha256`` (the
        first 12 digits, or None), ``state`` (see `status`), ``stand_in_for`` (or None), ``note``
        (such as "no loader yet"), ``get`` (see `how_to_get`) and ``download`` (bytes, at most).
    """
    return [
        {
            "name": source.name,
            "title": source.title,
            "tier": source.tier,
            "licence": source.licence,
            "size": source.size,
            "sha256": (source.sha256 or source.content_sha256 or "")[:12] or None,
            "state": status(source.name),
            "stand_in_for": source.stand_in_for,
            "note": source.note,
            "get": how_to_get(source.name),
            "download": _download(source),
        }
        for source in entries().values()
    ]


def _download(source: Entry) -> int:
    """Bytes that are downloaded for a set, at most: its own, or those of what it is made from."""
    if source.made_from and not source.downloads and status(source.made_from) != "cached":
        return _download(entry(source.made_from))
    return sum(file.size or 0 for file in source.downloads)


def _verify(name: str) -> dict[str, Any]:
    source = entry(name)
    row = {"name": name, "state": "embedded", "ok": True, "expected": source.content_sha256}
    if source.file is None:
        found = load(name).sha256
        ok = source.content_sha256 in (None, found)
        why = "" if ok else "the package that brings it has other data in this version"
        return {**row, "ok": ok, "found": found, "why": why}
    try:
        path = _verified(source, again=True)
    except DataError as error:
        ok = None if error.state == "missing" else False
        return {
            **row,
            "state": error.state,
            "ok": ok,
            "expected": error.expected,
            "found": error.found,
            "why": str(error),
        }
    sha256 = _sha256(source, path)
    return {**row, "state": "cached", "expected": sha256, "found": sha256, "why": ""}


def _verified(source: Entry, *, again: bool = False) -> Path:
    """The file or folder of a data set, once it is what it should be."""
    try:
        if source.is_folder:
            return later("gated.verified")(source)
        return cache.verified(source, again=again)
    except cache.UNREADABLE as error:  # whatever is wrong with one, others are not stopped by it
        path, mend = cache_dir() / source.file, f"look at it; then: {how_to_get(source.name)}"
        reason = f"nothing that can be read ({type(error).__name__}: {error})"
        raise DataError(path, "corrupt", source.sha256, reason, mend) from error


def _sha256(source: Entry, path: Path) -> str | None:
    """The hash of a data set whose file or folder was found right."""
    return (
        later("gated.sha256")(source, path)
        if source.is_folder
        else cache.known_sha256(source, path)
    )


def _embedded_sha256(tasks) -> str:
    """Of the inputs and targets of all tasks, in their order."""
    arrays = {}
    for index, task in enumerate(tasks):
        arrays[f"{index:03d} {task.name} inputs"] = task.inputs.numpy()
        arrays[f"{index:03d} {task.name} targets"] = task.targets.numpy()
    return cache.content_sha256(arrays)
