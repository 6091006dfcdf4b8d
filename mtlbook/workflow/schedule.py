"""How long runs will take, by what earlier ones took: the longest begin first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from mtlbook.workflow.catalogue import Run


def expected_seconds(root: Path, runs: Sequence[Run]) -> dict[str, float]:
    """Seconds that each run is expected to take, by its name.

    As an earlier one in the runs folder took, finished or set aside; else as that of the committed
    result did; else the mean of its experiment's runs, or of all. Only an order hangs on it, and
    what `within` leaves out.
    """
    committed = {name: _committed(root, name) for name in {run.experiment for run in runs}}
    known = [seconds for of in committed.values() for seconds in of.values()]
    found = {}
    for run in runs:
        of = committed[run.experiment]
        typical = mean(of.values()) if of else mean(known) if known else 1.0
        found[run.name] = _earlier(run) or of.get(run.id) or typical
    return found


def priorities(root: Path, runs: Sequence[Run]) -> dict[str, int]:
    """What has most work behind it has the highest priority, by the name of the run.

    That is its own time, and that of the longest run which waits for it.
    """
    seconds = expected_seconds(root, runs)
    behind: dict[str, float] = {}

    def path(run: Run) -> float:
        """Of tunings the tables wait, and of those nobody: no chain is long."""
        if run.name not in behind:
            behind[run.name] = 0.0  # in a circle nobody is first
            waiting = [path(other) for other in runs if run.experiment in other.uses]
            behind[run.name] = seconds[run.name] + max(waiting, default=0.0)
        return behind[run.name]

    return {run.name: round(path(run)) for run in runs}


def within(
    root: Path, runs: Sequence[Run], seconds: float
) -> tuple[list[Run], dict[str, tuple[int, float]]]:
    """Runs of the experiments whose unfinished runs take no longer than that together.

    Returns
    -------
    kept : list of Run
    long : dict of str to (int, float)
        Of each experiment that is left out the number of its unfinished runs, and their seconds.
    """
    expected = expected_seconds(root, runs)
    left: dict[str, list[float]] = {}
    for run in runs:
        if not run.skip and not run.result.exists():
            left.setdefault(run.experiment, []).append(expected[run.name])
    long = {name: (len(of), sum(of)) for name, of in left.items() if sum(of) > seconds}
    return [run for run in runs if run.experiment not in long], long


def cpu_seconds(run: Run) -> float | None:
    """CPU seconds of the kernel of a finished run; None where its result does not say."""
    return _provenance(run.result).get("cpu_seconds")


def alone(about: Mapping[str, Any]) -> float | None:
    """Seconds that a run needs of a core of its own, by its provenance; None where it says nothing.

    Of wall clock, or on a CPU of CPU time where that is less: what else the machine did meanwhile
    does not count, and neither do idle threads of a library.
    """
    known = [about.get("wall_seconds")]
    if about.get("device", "cpu") == "cpu":
        known.append(about.get("cpu_seconds"))
    return min(filter(None, known), default=None)


def committed_runs(root: Path, experiment: str) -> dict[str, Mapping[str, Any]]:
    """What the committed result says of each of its runs."""
    entries = _provenance(root / "data" / "results" / f"{experiment}.json").get("runs", [])
    return {
        run: {"device": entry.get("device", "cpu"), **about}
        for entry in entries
        for run, about in entry.get("of", {}).items()
    }


def _earlier(run: Run) -> float | None:
    """Of the result that is there, or was set aside."""
    for path in (run.result, run.waiting, run.result.with_name(run.result.name + ".stale")):
        if seconds := alone(_provenance(path)):
            return seconds
    return None


def _committed(root: Path, experiment: str) -> dict[str, float]:
    of = {run: alone(about) for run, about in committed_runs(root, experiment).items()}
    return {run: seconds for run, seconds in of.items() if seconds}


def _provenance(path: Path) -> dict[str, Any]:
    """Without the checks of a result, which a guess need not pass."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["provenance"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
