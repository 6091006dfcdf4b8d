"""What has to hold within the committed files, whatever was there before.

A result's numbers are counted once and agree with the tasks' own, its provenance is complete, its
data set is a listed one, its runs are those of the experiment, its choices are the best of what was
tried.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from mtlbook.ledger import contents
from mtlbook.ledger.contents import Reader, combinations, digest, runs_of, same
from mtlbook.ledger.currency import stale
from mtlbook.ledger.findings import Finding
from mtlbook.ledger.history import NOW
from mtlbook.ledger.results import Result

# What every run says of itself.
_OF_RUNS = (
    *("mtlbook", "code", "code_sha256", "python", "packages", "platform", "device", "dtype"),
    *("notebook", "notebook_sha256", "started", "wall_seconds"),
)
_TIERS = ("embedded", "fetched", "gated")


def check(reader: Reader, results: Mapping[str, Result]) -> Iterator[Finding]:
    """Everything that is wrong with the present results, each by itself and all together.

    A finding of the kind ``"file"`` is of a file that cannot be looked at any further.
    """
    now = reader.versions.commits[NOW]
    datasets = {d["name"]: d for d in reader.parse(now, contents.DATASETS) or ()}
    hashes: dict[str, str] = {}
    for name, result in results.items():
        path = f"{contents.RESULTS}{name}.json"
        raw = reader.result(now, name) or {}
        try:
            checks = {
                "records": list(_records(result)),
                "provenance": list(_provenance(result)),
                "data": list(_data(result, datasets, hashes)),
                "currency": stale(result, results),
                "runs": list(_runs(result, raw, reader.experiment(now, name))),
                "choices": list(_choices(result, results)),
                "notebook": list(_notebook(raw, reader)),
                "text": list(_text(result, reader.versions.read(now.files[path]))),
            }
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            yield Finding("file", path, f"expected a result as mtlbook writes it, got one: {error}")
            continue
        state = digest(
            [
                contents.measured(raw),
                setup := contents.setup(reader, now, raw),
                reader.notebook(now, setup["notebook"]),
                [digest(datasets.get(part)) for part in _parts(result) or ()],
                [digest(reader.result(now, used)) for used in sorted(result.uses)],
            ]
        )
        for kind, found in checks.items():
            for message in found:
                yield Finding(kind, path, message, state)


def _text(result: Result, text: bytes) -> Iterator[str]:
    """A file that says more than what is read of it, for example one key twice."""
    if result.to_json().encode() != text.replace(b"\r\n", b"\n"):
        yield "expected the file as mtlbook writes it, found another text of the same content"


def _records(result: Result) -> Iterator[str]:
    keys = ("arm", "metric", "repeat", "step", "of")
    counts = Counter(tuple(record.get(key) for key in keys) for record in result.records)
    for key, count in counts.items():
        if count > 1:
            yield f"{_spell(dict(zip(keys, key, strict=True)))}: expected one record, found {count}"
    for record in result.records:
        per_task = record.get("per_task")
        if per_task is not None:
            mean = sum(per_task) / len(per_task) if per_task else float("nan")
            # the tasks' numbers are rounded to three decimals
            if not abs(mean - record["value"]) <= 5.1e-4 + 1e-5 * abs(record["value"]):
                yield (
                    f"{_spell(record)}: expected the mean of per_task, {mean:g}, as value, found "
                    f"{record['value']:g}"
                )


def _provenance(result: Result) -> Iterator[str]:
    if not result.provenance.get("content_sha256"):
        yield "provenance: expected content_sha256, the hash of what was written, found none"
    if not result.provenance.get("profile"):
        yield "provenance: expected a profile, found none"
    if not result.numerics:
        yield "numerics: expected the version of the study, found none"
    runs = runs_of({"provenance": result.provenance})
    if not runs:
        yield "provenance: expected the runs it was made of, found none"
    for run, of in runs.items():
        if missing := [key for key in _OF_RUNS if of.get(key) in (None, "", {})]:
            yield f"provenance of run {run}: expected {', '.join(missing)}, found none"
        elif hashlib.sha256(json.dumps(of["code"]).encode()).hexdigest() != of["code_sha256"]:
            yield f"provenance of run {run}: code_sha256 is not that of the code it lists"
        else:
            try:
                datetime.fromisoformat(of["started"])
            except (TypeError, ValueError):
                yield f"provenance of run {run}: started: expected a time, got {of['started']!r}"


def _data(result: Result, datasets: Mapping[str, Mapping], hashes: dict[str, str]) -> Iterator[str]:
    """Compare name, tier and hash with ``datasets.yaml``; several sets are hashed together.

    ``hashes`` remembers those of data whose hash depends on the machine: one name, one hash.
    """
    name, found = result.data.get("name"), result.data.get("sha256") or None
    parts = _parts(result)
    if parts is None:
        yield f"data: expected the name of one data set, or problems made of one, got {name!r}"
        return
    name = name if isinstance(name, str) else name[0]
    unknown = [part for part in parts if part not in datasets]
    if unknown:
        if found or len(parts) > 1 or result.data.get("tier") not in (None, "embedded"):
            yield (
                f"data: expected data sets of {contents.DATASETS}, got {', '.join(unknown)}; only "
                "what a notebook generates, without a hash, is none"
            )
        return
    tier = max((datasets[part]["tier"] for part in parts), key=_TIERS.index)
    if result.data.get("tier") != tier:
        yield f"data: expected the tier {tier} of {name}, got {result.data.get('tier')!r}"
    known = [datasets[p].get("sha256") or datasets[p].get("content_sha256") for p in parts]
    if None in known:
        expected = hashes.setdefault(name, found)
        where = "other results"
    else:
        expected = known[0]
        if len(known) > 1:
            expected = hashlib.sha256("\n".join(known).encode()).hexdigest()
        where = contents.DATASETS
    if found is None or found != expected:
        yield f"data: expected the hash {expected} of {name} as in {where}, got {found}"


def _parts(result: Result) -> list[str] | None:
    """The data sets of a result, for example of ``"mnist5k + glyphs: Greek small"``.

    None where there is no name, or where the problems of a result are made of different ones.
    """
    name = result.data.get("name")
    names = [name] if isinstance(name, str) else name or []
    made_of = {
        tuple(re.split(r"[:,]", part)[0].strip() for part in str(one).split(" + ")) for one in names
    }
    return list(made_of.pop()) if len(made_of) == 1 else None


def _runs(result: Result, raw: Mapping, entry: Mapping | None) -> Iterator[str]:
    """Compare the runs and their parameters with what the experiment lists."""
    profile = result.provenance.get("profile")
    chosen = ((entry or {}).get("profiles") or {}).get(profile)
    if not isinstance(chosen, Mapping):
        yield f"runs: {contents.EXPERIMENTS} lists no {result.experiment} in profile {profile}"
        return
    runs, fixed = runs_of(raw), chosen.get("parameters") or {}
    listed = {run: {**fixed, **own} for run, own in combinations(chosen.get("each") or {})}
    if strangers := sorted(set(runs) ^ set(listed)):
        yield (
            f"runs: expected the {len(listed)} of {contents.EXPERIMENTS}, found {len(runs)}; "
            f"only in one of the two: {', '.join(strangers[:4])}"
        )
    for run in runs.keys() & listed.keys():
        own = runs[run].get("parameters")
        for key, value in listed[run].items():
            if own is not None:
                same = own.get(key) == value
            elif key in result.parameters:  # older results hold the distinct values of all runs
                joined = result.parameters[key]
                same = joined == value or (isinstance(joined, list) and value in joined)
            else:
                same = True
            if not same:
                had = own.get(key) if own is not None else joined
                yield f"run {run}: parameter {key}: listed as {value!r}, the result had {had!r}"


def _choices(result: Result, results: Mapping[str, Result]) -> Iterator[str]:
    """What was chosen was tried, by itself or in a tuning it used, and nothing tried was better."""
    own = _tried(result)
    used = [_tried(results[name]) for name in result.uses if name in results]
    chosen = _flat(result.settings.get("chosen"))
    for arm, value in chosen.items():
        for tried in own.get(arm, ()):
            best = max(tried, key=tried.get)
            if value != best:
                yield f"settings: chosen {arm}: expected {best:g}, the best tried, got {value!r}"
        tunings = [tried for found in used for tried in found.get(arm, ())]
        if not own.get(arm) and tunings and not any(value in tried for tried in tunings):
            grid = ", ".join(f"{x:g}" for x in tunings[0])
            yield f"settings: chosen {arm}: expected one of {grid}, which were tried, got {value!r}"


def _tried(result: Result) -> dict[str, list[dict[float, float]]]:
    """Score by value of every arm that was tuned: of its records, and of the stored means."""
    found: dict[str, list[dict[float, float]]] = defaultdict(list)
    records: dict[str, dict[float, list[float]]] = {}
    decides: dict[str, str] = {}  # the first metric
    for record in result.records:
        arm, at, value = record["arm"].partition("@")
        if at and decides.setdefault(arm, record["metric"]) == record["metric"]:
            records.setdefault(arm, {}).setdefault(_number(value), []).append(record["value"])
    for arm, scores in records.items():
        found[arm].append({value: sum(of) / len(of) for value, of in scores.items()})
    means: dict[str, dict[float, float]] = {}
    for trial, score in _flat(result.settings.get("validation")).items():
        arm, at, value = trial.partition("@")
        value, _, suffix = value.partition("/")
        if at and isinstance(score, int | float):
            means.setdefault(f"{arm}/{suffix}" if suffix else arm, {})[_number(value)] = score
    for arm, scores in means.items():
        found[arm].append(scores)
    return found


def _flat(choices: Any) -> dict[str, Any]:
    """Choices by arm, without the runs that a merged result has between."""
    flat: dict[str, Any] = {}
    for name, value in (choices or {}).items() if isinstance(choices, Mapping) else ():
        # a run is named by its parameters; an arm's choice may be a mapping of settings
        flat |= value if isinstance(value, Mapping) and "=" in name else {name: value}
    return flat


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _notebook(raw: Mapping, reader: Reader) -> Iterator[str]:
    """Compare the notebook that the runs executed with the one that is there."""
    now = reader.versions.commits[NOW]
    entry = reader.experiment(now, str(raw.get("experiment"))) or {}
    seen = {(of.get("notebook"), of.get("notebook_sha256")) for of in runs_of(raw).values()}
    for name, recorded in sorted(seen, key=str):
        if name != entry.get("notebook"):
            yield f"notebook: runs of {name}, {contents.EXPERIMENTS} lists {entry.get('notebook')}"
        elif (found := reader.notebook(now, name)) != recorded:
            yield (
                f"notebooks/{name}: the runs executed version {str(recorded)[:12]}…, this is "
                f"{str(found)[:12]}…"
            )


def _spell(record: Mapping[str, Any]) -> str:
    parts = [f"{record['arm']} {record['metric']}, repeat {record['repeat']}"]
    parts += [f"{key} {record[key]}" for key in ("step", "of") if record.get(key) is not None]
    return ", ".join(parts)


def verdicts(
    committed: Any, rows: Sequence[Mapping[str, Any]], fields: Sequence[str]
) -> Iterator[str]:
    """Where ``verdicts.json`` differs in any field from what is computed now."""
    if not isinstance(committed, list) or not all(isinstance(c, Mapping) for c in committed):
        yield "expected a list of verdicts; write it with: mtlbook audit --write"
        return
    ids = [c.get("claim") for c in committed]
    expected = [row["claim"] for row in rows]
    for claim, count in Counter(map(str, ids)).items():
        if count > 1:
            yield f"claim {claim}: expected one verdict, found {count}"
    for claim in sorted(set(map(str, ids)) ^ set(expected)):
        yield f"claim {claim}: " + (
            "no verdict" if claim in expected else "a verdict, but no claim"
        )
    by_claim = {str(c.get("claim")): c for c in committed}
    for row in rows:
        old = by_claim.get(row["claim"])
        for field in sorted({*fields, *(old or ())}) if old else ():
            if field not in old or field not in row or not same(old[field], row[field]):
                yield (
                    f"claim {row['claim']}: {field}: expected {row.get(field)!r} by rule and "
                    f"result, found {old.get(field)!r}"
                )
