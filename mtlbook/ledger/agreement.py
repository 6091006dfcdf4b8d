"""Own runs held against the committed ones, number by number.

A run is the same where experiment, name and parameters are: only then are its numbers expected to
come out again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtlbook.ledger.merging import compare_runs
from mtlbook.ledger.results import Result

TOLERANCE = 0.02  # relative, of every number: other processors round otherwise


@dataclass(frozen=True)
class Agreement:
    """How finished runs compare with the committed ones.

    Attributes
    ----------
    same : sequence of str
        Runs that agree in every number, within `TOLERANCE`.
    differing : mapping of str to list of str
        The others of the same parameters, with a sentence for each number that differs.
    elsewhere : sequence of str
        Runs that no committed result holds under these parameters: another profile's.
    whole : frozenset of str
        Experiments of which every committed run was made again: verdicts can be compared.
    """

    same: Sequence[str] = ()
    differing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    elsewhere: Sequence[str] = ()
    whole: frozenset[str] = frozenset()


def agreement(
    own: Mapping[str, Mapping[str, Result]], committed: Mapping[str, Result]
) -> Agreement:
    """Compare finished runs, by experiment and run, with the committed results by experiment."""
    same, differing, elsewhere, whole = [], {}, [], set()
    for experiment, runs in own.items():
        result = committed.get(experiment)
        entries = result.provenance.get("runs", []) if result else []
        known = {run: about for entry in entries for run, about in entry.get("of", {}).items()}
        met = set()
        for run, fresh in runs.items():
            name = f"{experiment} {run}"
            if run not in known or not _as_recorded(fresh, known[run], result):
                elsewhere.append(name)
                continue
            met.add(run)
            found, _ = compare_runs(result, fresh, tolerance=TOLERANCE)
            if found:
                differing[name] = [*_likely_reasons(fresh, result), *found]
            else:
                same.append(name)
        if known and met == set(known) == set(runs):
            whole.add(experiment)
    return Agreement(same, differing, elsewhere, frozenset(whole))


def _likely_reasons(fresh: Result, committed: Result) -> Iterator[str]:
    """Pictures that are made here depend on libraries, and rounding on the processor."""
    now, then = _sha256(fresh), _sha256(committed)
    if now and then and now != then:
        yield f"its data ({now[:8]}…) are not those of the committed run ({then[:8]}…)"
    now, then = instructions(fresh), instructions(committed)
    if now != then:
        yield (
            f"other kernels round otherwise, and training amplifies it: instructions {now} here, "
            f"{then} there"
        )


def _sha256(result: Result) -> str | None:
    return (result.data or {}).get("sha256")


def instructions(result: Result) -> str:
    """The instruction sets that the kernels of its runs used; older ones did not record theirs."""
    runs = result.provenance.get("runs", [result.provenance])
    names = {run.get("platform", {}).get("instructions", "not recorded") for run in runs}
    return " and ".join(sorted(names))


def _as_recorded(fresh: Result, of_run: Mapping[str, Any], committed: Result) -> bool:
    """Whether a run has the parameters of the committed one.

    A parameter that is recorded on one side only is no difference: notebooks gain some. Old results
    hold those of all runs together, with a list where they differ, and some of them not all, so
    that one which chose the data shows in the data alone.
    """
    recorded = of_run.get("parameters")
    if recorded is not None:
        both = fresh.parameters.keys() & recorded
        return all(fresh.parameters[name] == recorded[name] for name in both)
    together = committed.parameters
    if fresh.parameters.keys() - together and _sha256(fresh) != _sha256(committed):
        return False
    return all(
        value == together[name] or (isinstance(together[name], list) and value in together[name])
        for name, value in fresh.parameters.items()
        if name in together
    )
