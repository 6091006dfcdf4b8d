"""What `mtlbook reproduce --dry-run` says: which runs, on which data, how long and how large.

Where the committed result has the same runs, time and memory are those that were measured. Else
they are estimated: operations and bytes are counted (:mod:`mtlbook.experiments.costs`), and turned
into hours by the throughput of a committed experiment of the same notebook, or by an assumed one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlbook.ledger import repository
from mtlbook.workflow.catalogue import Experiment, Profile, Run, expand, load_experiments
from mtlbook.workflow.schedule import alone, committed_runs

MEASURED = "measured, committed runs"


@dataclass(frozen=True)
class Plan:
    """What one experiment asks for.

    Attributes
    ----------
    experiment, title : str
    runs, finished : int
    differs : str
        From the laptop profile.
    data : mapping of str to str
        Each set that it needs: "here", or the command that gets it.
    seconds : float or None
        Of all runs, one after the other.
    memory : float or None
        Bytes, of the largest run.
    basis : str
        How time and memory are known.
    """

    experiment: str
    title: str
    runs: int
    finished: int
    differs: str
    data: Mapping[str, str]
    seconds: float | None
    memory: float | None
    basis: str


def plans(root: Path, runs: Sequence[Run]) -> list[Plan]:
    """A plan for each experiment among the runs, in their order."""
    known = load_experiments(root / repository.EXPERIMENTS)
    of: dict[str, list[Run]] = {}
    for run in runs:
        of.setdefault(run.experiment, []).append(run)
    return [_plan(root, name, known, of_it) for name, of_it in of.items()]


def _plan(root: Path, name: str, known: Mapping[str, Experiment], runs: Sequence[Run]) -> Plan:
    from mtlbook import datasets

    experiment = known[name]
    data = {
        each: datasets.how_to_get(each) if each in runs[0].missing else "here"
        for each in experiment.sets
    }
    measured = _measured(root, runs)
    seconds, memory, basis = measured or _estimated(root, experiment, runs)
    return Plan(
        name,
        experiment.title,
        len(runs),
        sum(run.result.exists() for run in runs),
        differences(name, runs[0].profile, known),
        data,
        seconds,
        memory,
        basis,
    )


def differences(name: str, profile: str, known: Mapping[str, Experiment]) -> str:
    """In words, how a profile of an experiment differs from ``laptop``."""
    here, laptop = known[name].profiles[profile], known[name].profiles.get("laptop")
    if laptop is None and known[name].instead_of:
        return f"not in laptop, where {known[name].instead_of} takes its place"
    if laptop is None:
        chosen = {x for each in known.values() for of in each.profiles.values() for x in _uses(of)}
        return "not in laptop" + ", which takes the committed choices" * (name in chosen)
    told = []
    ours, theirs = _values(here), _values(laptop)
    for each in dict.fromkeys([*ours, *theirs]):
        if ours.get(each) != theirs.get(each):
            told.append(f"{each} {_said(ours.get(each))} (laptop: {_said(theirs.get(each))})")
    return "; ".join(told) or "nothing"


def _uses(profile: Profile) -> list[str]:
    named = profile.parameters.get("tuned_by") or []
    return [named] if isinstance(named, str) else named


def _values(profile: Profile) -> dict[str, Any]:
    each = {name: values if len(values) > 1 else values[0] for name, values in profile.each.items()}
    return profile.parameters | each


def _said(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} of them"
    if value in (None, []):
        return "its own" if value is None else "all"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _measured(root: Path, runs: Sequence[Run]) -> tuple[float, float | None, str] | None:
    """From the committed result, where it holds just these runs."""
    about = committed_runs(root, runs[0].experiment)
    if set(about) != {run.id for run in runs}:
        return None
    for run in runs:
        recorded = about[run.id].get("parameters", {})
        if any(run.parameters[k] != recorded[k] for k in run.parameters.keys() & recorded.keys()):
            return None
    seconds = [alone(of) for of in about.values()]
    peaks = [of["peak_memory_mb"] for of in about.values() if of.get("peak_memory_mb")]
    if None in seconds:
        return None
    return sum(seconds), max(peaks) * 2**20 if peaks else None, MEASURED


def _estimated(
    root: Path, experiment: Experiment, runs: Sequence[Run]
) -> tuple[float | None, float | None, str]:
    unknown = None, None, "not measured in this form"
    if runs[0].profile != "paper":
        return unknown
    from mtlbook.experiments import costs

    if experiment.notebook not in costs.COUNTED:
        return unknown
    count = costs.COUNTED[experiment.notebook]
    found = sum((count(run.parameters) for run in runs), costs.Cost())
    rate, of = costs.GPU, "assumed, a GPU"
    if experiment.notebook in costs.ON_CPU:
        timed = measured_runs(root, experiment.instead_of)
        work = sum(count(run.parameters).operations for run, _ in timed)
        rate = work / sum(seconds for _, seconds in timed)
        of = f"as {experiment.instead_of} on a CPU"
    told = f"{found.operations:.0e} operations of {found.trainings} trainings"
    return found.operations / rate, found.memory, f"estimated: {told} at {rate:.0e} a second, {of}"


def measured_runs(root: Path, experiment: str) -> list[tuple[Run, float]]:
    """The runs of the laptop profile that the committed result holds, with their seconds."""
    about = committed_runs(root, experiment)
    runs = expand(root / repository.EXPERIMENTS, "laptop", [experiment])
    found = [(run, alone(about[run.id])) for run in runs if run.id in about]
    return [(run, seconds) for run, seconds in found if seconds is not None]
