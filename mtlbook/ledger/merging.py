"""From the runs of an experiment to the result that is committed, and back again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtlbook.ledger.currency import same_data, stale
from mtlbook.ledger.results import Result, ResultError

# What differs between two runs of the same code on the same machine.
_VOLATILE = (
    "started",
    "wall_seconds",
    "cpu_seconds",
    "peak_memory_mb",
    "peak_device_memory_mb",
    "run",
    "content_sha256",
)


def merge(
    runs: Mapping[str, Result], *, profile: str | None = None, allow_mixed: bool = False
) -> Result:
    """Join the runs of one experiment into the result that is committed.

    Parameters
    ----------
    runs : mapping of str to Result
        Run identifier, for example ``"arm=laf,repeat=0"``, to its result.
    profile : str, optional
        Kept in the provenance.
    allow_mixed : bool
        Accept runs of different code or data; the result then names them in ``"mixed"``.

    Returns
    -------
    Result
        All records; parameters and data with the list of distinct values where runs differ;
        settings with a mapping of run to value where runs differ; curves by run; provenances
        collapsed where equal, with all parameters of each run.

    Raises
    ------
    ResultError
        If the runs belong to different experiments, hold the same number twice, or mix code or
        data.
    """
    if not runs:
        raise ResultError("runs: expected at least one result, got none")
    results = list(runs.values())
    experiments = sorted({r.experiment for r in results})
    if len(experiments) > 1:
        raise ResultError(f"runs: expected one experiment, got {', '.join(experiments)}")
    mixed = mixtures(results)
    if mixed and not allow_mixed:
        raise ResultError(
            f"runs of {experiments[0]} mix versions of {', '.join(mixed)}; run them again with "
            "one, or allow the mixture explicitly (--allow-mixed)"
        )
    seen: dict[tuple, str] = {}
    records = []
    for run, result in runs.items():
        for r in result.records:
            key = _record_key(r)
            if key in seen:
                raise ResultError(
                    f"runs {seen[key]} and {run} of {experiments[0]} both hold arm {key[0]}, "
                    f"repeat {key[1]}, metric {key[2]}, step {key[3]}"
                )
            seen[key] = run
            records.append(r)
    provenance: dict[str, Any] = {"profile": profile} if profile else {}
    if mixed:
        provenance["mixed"] = mixed
    provenance["runs"] = _collapse_provenance(runs)
    return Result(
        experiment=experiments[0],
        parameters=_distinct([r.parameters for r in results]),
        records=records,
        data=_data(results),
        curves={run: r.curves for run, r in runs.items() if r.curves},
        settings=_by_run({run: r.settings for run, r in runs.items()}),
        numerics=results[0].numerics if len({str(r.numerics) for r in results}) == 1 else {},
        uses={name: sha for r in results for name, sha in r.uses.items()},
        provenance=provenance,
    )


def record(
    runs: Mapping[str, Result],
    expected: Mapping[str, Mapping[str, Any]],
    *,
    profile: str,
    known: Mapping[str, Result],
    force: bool = False,
    allow_mixed: bool = False,
) -> Result:
    """The result to commit: exactly the runs that the experiment lists, unedited and current.

    Parameters
    ----------
    runs : mapping of str to Result
        As they were saved; their files carry the hash of what was written.
    expected : mapping of run to parameters
        What the experiment lists in this profile.
    profile : str
    known : mapping of experiment to Result
        What is committed now: the tunings that may have been used, and what would be replaced.
    force : bool
        Replace a committed result of another profile, or one with more records.
    allow_mixed : bool
        As in `merge`.

    Raises
    ------
    ResultError
        If a run is missing, not listed, empty, edited, made with other parameters or no longer
        current, if the committed result would be lost, or as `merge`.
    """
    strangers, missing = sorted(set(runs) - set(expected)), sorted(set(expected) - set(runs))
    if strangers or missing:
        raise ResultError(
            f"runs: expected the {len(expected)} that the experiment lists in profile {profile}, "
            f"got {len(runs)}; missing: {', '.join(missing) or 'none'}; "
            f"not listed: {', '.join(strangers) or 'none'}"
        )
    for run, result in runs.items():
        if not result.records:
            raise ResultError(f"run {run} holds no number")
        other = [
            name for name, value in expected[run].items() if result.parameters.get(name) != value
        ]
        if other:
            raise ResultError(f"run {run}: other parameters than listed: {', '.join(other)}")
        if reasons := stale(result, known):
            raise ResultError(f"run {run} is not current: {'; '.join(reasons)}")
        if result.provenance.get("content_sha256") != result.content_sha256():
            raise ResultError(f"run {run} is not as it was written: somebody edited it")
    merged = merge(runs, profile=profile, allow_mixed=allow_mixed)
    before = known.get(merged.experiment)
    if before is not None and not force:
        was = before.provenance.get("profile")
        if was != profile:
            raise ResultError(
                f"{merged.experiment}: the committed result is of profile {was}, the runs are of "
                f"{profile}; replace it with --force"
            )
        if len(merged.records) < len(before.records):
            raise ResultError(
                f"{merged.experiment}: the committed result has {len(before.records)} records, the "
                f"runs have {len(merged.records)}; replace it with --force"
            )
    return merged


def compare_runs(
    committed: Result, fresh: Result, *, tolerance: float = 0.02
) -> tuple[list[str], float]:
    """How a repeated run differs from the committed result.

    Parameters
    ----------
    committed, fresh : Result
        ``fresh`` holds some of the records of ``committed``.
    tolerance : float
        Largest relative difference. Other processors round otherwise, and training amplifies it:
        a few of a thousand test images may change sides.

    Returns
    -------
    differences : list of str
        A sentence for each number that is missing or differs; one if there was nothing to compare.
    largest : float
        The largest relative difference.
    """
    known = {_record_key(r): r["value"] for r in committed.records}
    differences = []
    largest, compared = 0.0, 0
    for r in fresh.records:
        key, new = _record_key(r), r["value"]
        if key not in known and "@" in r["arm"]:
            continue  # a trial of a tuning, which older results hold in their settings
        if key not in known:
            differences.append(f"{_spell(key)}: not in the committed result")
            continue
        old = known[key]
        compared += 1
        scale = max(abs(old), abs(new))
        difference = abs(new - old) / scale if scale > 1e-6 else 0.0
        largest = max(largest, difference)
        if difference > tolerance:
            differences.append(f"{_spell(key)}: committed {old:g}, measured again {new:g}")
    if not compared and not differences:
        differences.append("no number was measured again")
    return differences, largest


def mixtures(results: Sequence[Result]) -> list[str]:
    """Name what has several versions among runs: data, notebook, numerics, tunings."""
    first, found = results[0], []
    for of_problem in _by_problem(results).values():
        with_print = next((r for r in of_problem if "fingerprint" in r.data), of_problem[0])
        if not all(same_data(with_print.data, r.data) for r in of_problem):
            found = ["data"]
    notebooks = {r.provenance.get("run", {}).get("notebook_sha256") for r in results}
    if len(notebooks) > 1:
        found.append("notebook")
    if any(r.numerics != first.numerics for r in results):
        found.append("numerics")
    versions: dict[str, set[str]] = {}
    for r in results:
        for name, sha in r.uses.items():
            versions.setdefault(name, set()).add(sha)
    return found + [name for name, shas in versions.items() if len(shas) > 1]


def _by_problem(results: Sequence[Result]) -> dict[Any, list[Result]]:
    """The runs by their parameter ``problem``: each makes tasks of its own out of the data."""
    found: dict[Any, list[Result]] = {}
    for result in results:
        found.setdefault(result.parameters.get("problem"), []).append(result)
    return found


def _record_key(record: Mapping[str, Any]) -> tuple:
    """What identifies a number within a result."""
    return record["arm"], record["repeat"], record["metric"], record.get("step")


def _spell(key: tuple) -> str:
    arm, repeat, metric, step = key
    return f"{arm} {metric}, repeat {repeat}" + ("" if step is None else f", step {step}")


def _distinct(dictionaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join dictionaries: the value where all agree, else the list of distinct values."""
    joined = {}
    for name in dict.fromkeys(name for d in dictionaries for name in d):
        values: list[Any] = []
        for d in dictionaries:
            if d.get(name) not in values:
                values.append(d.get(name))
        joined[name] = values[0] if len(values) == 1 else values
    return joined


def _data(results: Sequence[Result]) -> dict[str, Any]:
    """Join what the runs say of their data; one fingerprint for those that agree in rounding."""
    parts = []
    for of_problem in _by_problem(results).values():
        joined = _distinct([r.data for r in of_problem])
        first = next((r.data for r in of_problem if "fingerprint" in r.data), {})
        if first and all(same_data(first, r.data) for r in of_problem):
            joined["fingerprint"] = first["fingerprint"]
        parts.append(joined)
    return parts[0] if len(parts) == 1 else _distinct(parts)


def _by_run(dictionaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Join dictionaries: the value where all agree, else a mapping of run to value."""
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for d in dictionaries.values() for name in d):
        values = {run: d[name] for run, d in dictionaries.items() if name in d}
        first = next(iter(values.values()))
        same = len(values) == len(dictionaries) and all(v == first for v in values.values())
        joined[name] = first if same else values
    return joined


def _collapse_provenance(runs: Mapping[str, Result]) -> list[dict[str, Any]]:
    """List the distinct provenances, each with its runs and what those do not share."""
    entries: list[dict[str, Any]] = []
    for run, result in runs.items():
        stable = {k: v for k, v in result.provenance.items() if k not in _VOLATILE}
        of_run = {k: v for k, v in result.provenance.items() if k in _VOLATILE and k != "run"}
        of_run["parameters"] = result.parameters
        notebook = result.provenance.get("run", {})
        stable |= {k: notebook[k] for k in ("notebook", "notebook_sha256") if k in notebook}
        entry = next((e for e in entries if e["stable"] == stable), None)
        if entry is None:
            entry = {"stable": stable, "of": {}}
            entries.append(entry)
        entry["of"][run] = of_run
    return [{**e["stable"], "of": e["of"]} for e in entries]
