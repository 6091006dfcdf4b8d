"""A run of every committed result, made again and compared: over time, every one."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mtlbook.ledger import repository
from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.merging import compare_runs
from mtlbook.ledger.results import Result
from mtlbook.workflow.catalogue import PROFILES, Run, expand, load_experiments
from mtlbook.workflow.execution import RunError, execute_run
from mtlbook.workflow.supervision import MARK, only_driver
from mtlbook.workflow.surroundings import environment

#: Of the provenance of a repeated run, what a report says.
REPORTED = ("started", "git_commit", "python", "packages", "platform", "device")


@dataclass(frozen=True)
class Repetition:
    """A run of a committed result, made again.

    Attributes
    ----------
    name : str
        Of the experiment, and of the run where there is one.
    compared : int
        Records of the repeated run.
    largest : float
        The largest relative difference.
    differences : list of str
        What differs beyond the tolerance, is missing, or went wrong.
    skip : str or None
        Why it could not be made here.
    repeats : int or None
        How many of its repeats were made, where not all.
    rederived : dict of str to float
        The data sets that are not our own copy, but were made here of what the source serves, and
        how far the fingerprint of each is from ours.
    provenance : dict
        Versions, machine and time of the repeated run.
    """

    name: str
    compared: int = 0
    largest: float = 0.0
    differences: Sequence[str] = ()
    skip: str | None = None
    repeats: int | None = None
    rederived: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def rerun_random(
    root: Path,
    results: Mapping[str, Result],
    *,
    seed: int,
    only: Sequence[str] = (),
    where: str = "",
    repeats: int | None = None,
) -> Iterator[Repetition]:
    """Repeat a random run of each result.

    Parameters
    ----------
    root : Path
    results : mapping of experiment to Result
        What is committed.
    seed : int
        Of the choice: the number of the week, say.
    only : sequence of str
        Experiments; by default all.
    where : str
        Values that the run must have, for example ``"percent=5,group=learned"``.
    repeats : int, optional
        Make no more than that of the repeats that a run makes by itself.
    """
    wanted = set(where.split(",")) - {""}
    for name, result in results.items():
        if only and name not in only:
            continue
        every = sorted(run for entry in result.provenance.get("runs", ()) for run in entry["of"])
        recorded = [run for run in every if wanted <= set(run.split(","))]
        if every and not recorded:
            yield Repetition(name, skip=f"none of its runs has {where}")
            continue
        random.Random(name).shuffle(recorded)
        # n seeds in a row pick each of n runs once
        chosen = recorded[seed % len(recorded)] if recorded else ""
        run = _listed(root, name, result, chosen)
        if run is None:
            yield Repetition(name, differences=["no profile lists the runs that it was made of"])
        elif run.skip:
            yield Repetition(run.name, skip=run.skip)
        else:
            yield _repeat(root, run, result, repeats)


def _repeat(root: Path, run: Run, committed: Result, repeats: int | None) -> Repetition:
    folder = repository.runs(root) / "rerun"
    fewer = _fewer(run.parameters.get("repeats"), repeats)
    parameters = run.parameters | ({} if fewer is None else {"repeats": fewer})
    here = replace(run, profile="rerun", folder=folder / run.experiment, parameters=parameters)
    try:
        with only_driver(folder), environment({MARK: str(folder)}):  # its kernel ends with us
            execute_run(here, root)
    except RunError as error:
        return Repetition(run.name, differences=[str(error)])
    fresh = Result.load(here.result)
    differences, largest = compare_runs(committed, fresh)
    return Repetition(
        run.name,
        len(fresh.records),
        largest,
        differences,
        repeats=None if fewer is None else repeats,
        rederived=_rederived(run.data),
        provenance={key: fresh.provenance[key] for key in REPORTED if key in fresh.provenance},
    )


def _fewer(of: Any, repeats: int | None) -> int | list | None:
    """A run's own repeats, a number or a list, cut short; None where there is nothing to cut."""
    if repeats is None or not isinstance(of, int | list):
        return None
    if isinstance(of, list):
        return of[:repeats] if repeats < len(of) else None
    return repeats if repeats < of else None


def _rederived(data: Mapping[str, str]) -> dict[str, float]:
    """Of the data sets of a run, those that are not our own copy: how far they are from it."""
    from mtlbook import datasets

    return {
        name: datasets.distance(name)
        for name, found in data.items()
        if datasets.info(name)["sha256"] not in (None, found)
    }


def write_report(path: Path, repetitions: Sequence[Repetition]) -> None:
    """Put what was found into a JSON file, in place of what it held on the same runs."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    rows = {row["name"]: row for row in known}
    rows |= {row.name: asdict(row) for row in repetitions if row.skip is None}
    write_atomically(path, json.dumps([rows[name] for name in sorted(rows)], indent=1) + "\n")


def _listed(root: Path, name: str, result: Result, run_id: str) -> Run | None:
    """The run in the profile whose runs and parameters are most like the recorded ones."""
    path = root / repository.EXPERIMENTS
    experiment = load_experiments(path).get(name)
    recorded = {run for entry in result.provenance.get("runs", ()) for run in entry["of"]}
    best: tuple[tuple, Run] | None = None
    for profile in PROFILES if experiment else ():
        if profile not in experiment.profiles:
            continue
        runs = {run.id: run for run in expand(path, profile, [name])}
        if run_id not in runs:
            continue
        equal = sum(
            value == result.parameters.get(key) for key, value in runs[run_id].parameters.items()
        )
        merit = (set(runs) == recorded, equal, profile == result.provenance.get("profile"))
        if best is None or merit > best[0]:
            best = merit, runs[run_id]
    return best[1] if best else None
