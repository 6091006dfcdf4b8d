"""Finished runs, merged: for verdicts, for the tables that use them, to be committed."""

from __future__ import annotations

import graphlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from mtlbook.ledger import repository
from mtlbook.ledger.audit import load_results
from mtlbook.ledger.merging import merge, mixtures, record
from mtlbook.ledger.results import Result, ResultError
from mtlbook.workflow.catalogue import Run, WorkflowError, expand
from mtlbook.workflow.execution import is_current


def read_runs(folder: Path) -> dict[str, Result]:
    """The results ``<run>.json`` of a folder, in natural order: repeat=10 follows repeat=9.

    Raises
    ------
    ResultError
        If a file is not valid, was edited, or is a link that leads elsewhere.
    """
    runs = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: _natural(path.stem)):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ResultError(f"{path}: expected a file of this folder, got a link to another")
        runs[path.stem] = Result.load(path)
    return runs


def collect(
    folder: str | os.PathLike, *, only: Sequence[str] = (), allow_mixed: bool = False
) -> dict[str, Result]:
    """Merge the finished runs of the experiments in ``runs/<profile>``.

    Raises
    ------
    WorkflowError
        If there are none, or none of an experiment of `only`.
    ResultError
        As `merge`, or if a file is not valid.
    """
    folder = Path(folder)
    merged = {}
    for name in only or sorted(path.name for path in folder.glob("*") if path.is_dir()):
        if runs := read_runs(folder / name):
            merged[name] = merge(runs, profile=folder.name, allow_mixed=allow_mixed)
    absent = [name for name in only if name not in merged]
    if absent or not merged:
        raise WorkflowError(
            f"{folder}: no finished runs of {', '.join(absent) or 'any experiment'}"
        )
    return merged


def mixed(runs: Sequence[Run]) -> list[str]:
    """A sentence an experiment whose finished runs were made on several versions of something."""
    of: dict[str, list[Result]] = {}
    for run in runs:
        if run.result.exists():
            of.setdefault(run.experiment, []).append(Result.load(run.result))
    return [
        f"mixed: the runs of {name} have several versions of {', '.join(found)}; a verdict on all "
        "of them together does not count"
        for name, results in of.items()
        if (found := mixtures(results))
    ]


def recorded(
    root: Path,
    folder: Path,
    *,
    only: Sequence[str] = (),
    force: bool = False,
    allow_mixed: bool = False,
) -> dict[str, Result]:
    """What `mtlbook record` commits: exactly the listed runs of each experiment of a profile.

    Parameters
    ----------
    root : Path
    folder : Path
        ``runs/<profile>`` of this repository.
    only, force, allow_mixed
        As in :func:`mtlbook.ledger.merging.record`.
    """
    if folder.resolve().parent != repository.runs(root).resolve():
        raise WorkflowError(
            f"--from: expected a folder of {repository.runs(root)}, got {folder.resolve()}"
        )
    found = {}
    known = load_results(root / "data" / "results")
    names = only or sorted(path.name for path in folder.glob("*") if path.is_dir())
    if not names:
        raise WorkflowError(f"{folder}: no finished runs of any experiment")
    of: dict[str, list[Run]] = {name: [] for name in names}
    for run in expand(root / repository.EXPERIMENTS, folder.name, list(of)):
        of[run.experiment].append(run)
    uses = {name: {used for run in runs for used in run.uses} for name, runs in of.items()}
    for name in filter(of.get, graphlib.TopologicalSorter(uses).static_order()):
        expected = {run.id: run.parameters for run in of[name]}
        runs = read_runs(folder / name)
        if not runs:
            raise WorkflowError(f"{folder}: no finished runs of {name}")
        options = {"force": force, "allow_mixed": allow_mixed}
        # a tuning that is recorded now counts for the tables that come after it
        found[name] = record(runs, expected, profile=folder.name, known=known, **options)
        if old := [run.id for run in of[name] if not is_current(run)]:
            raise ResultError(
                f"{name}: parameters, notebook, data or tuning changed since {', '.join(old)}"
            )
        known[name] = found[name]
    return found


def _natural(text: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]
