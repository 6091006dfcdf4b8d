"""A run of every committed result, made again and compared: over time, every one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtlbook.ledger import repository
from mtlbook.ledger.merging import compare_runs
from mtlbook.ledger.results import Result
from mtlbook.workflow.catalogue import PROFILES, Run, expand, load_experiments
from mtlbook.workflow.execution import RunError, execute_run


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
    """

    name: str
    compared: int = 0
    largest: float = 0.0
    differences: Sequence[str] = ()
    skip: str | None = None


def rerun_random(
    root: Path, results: Mapping[str, Result], *, seed: int, only: Sequence[str] = ()
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
    """
    for name, result in results.items():
        if only and name not in only:
            continue
        recorded = sorted(run for entry in result.provenance.get("runs", ()) for run in entry["of"])
        random.Random(name).shuffle(recorded)
        # n seeds in a row pick each of n runs once
        chosen = recorded[seed % len(recorded)] if recorded else ""
        run = _listed(root, name, result, chosen)
        if run is None:
            yield Repetition(name, differences=["no profile lists the runs that it was made of"])
        elif run.skip:
            yield Repetition(run.name, skip=run.skip)
        else:
            yield _repeat(root, run, result)


def _repeat(root: Path, run: Run, committed: Result) -> Repetition:
    here = replace(run, profile="rerun", folder=repository.runs(root) / "rerun" / run.experiment)
    try:
        execute_run(here, root)
    except RunError as error:
        return Repetition(run.name, differences=[str(error)])
    fresh = Result.load(here.result)
    differences, largest = compare_runs(committed, fresh)
    return Repetition(run.name, len(fresh.records), largest, differences)


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
