"""What workers and kernels inherit: nothing that hangs on a working folder or a user's habits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from mtlbook.ledger import repository

# Paths that may be given relative to the folder in which the user calls.
FOLDERS = ("MTLBOOK_DATA", "MTLBOOK_MIRROR", "MTLBOOK_ROOT", "MTLBOOK_RUNS")


@contextlib.contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables (None: remove), which kernels inherit; restore the old ones."""

    def put(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    before = {name: os.environ.get(name) for name in values}
    put(values)
    try:
        yield
    finally:
        put(before)


def absolute(environment: Mapping[str, str]) -> dict[str, str]:
    """The folders that an environment names, for processes that work in another folder."""
    named = {name: environment[name] for name in FOLDERS if environment.get(name)}
    return {
        name: value if "://" in value else str(Path(value).expanduser().absolute())
        for name, value in named.items()
    }


def of_worker(root: Path) -> dict[str, str]:
    """What Snakemake and its jobs are told."""
    found = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **absolute(os.environ),
        "MTLBOOK_ROOT": str(root),
        "MTLBOOK_RUNS": str(repository.runs(root)),
        # as if they were called in the repository
        "PYTHONPATH": os.pathsep.join(filter(None, dict.fromkeys(found))),
        **({} if _has_cache() else {"XDG_CACHE_HOME": str(repository.runs(root) / ".cache")}),
    }


def of_kernel(scratch: Path) -> dict[str, str | None]:
    """What a kernel is told; None where it must not hear of it.

    Its files go to a scratch folder, so that no home is needed; no start-up file of the user runs
    in it, and figures are drawn by the backend that it chooses itself.
    """
    return {
        **absolute(os.environ),
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "jupyter"),
        "MPLBACKEND": None,
        "PYTHONSTARTUP": None,
    }


def _has_cache() -> bool:
    """Whether there is a home with a folder for caches, without which Snakemake does not start."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)
