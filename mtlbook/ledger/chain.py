"""The line from a printed number to a verdict, with all of its links, as plain values.

What the ledger page opens in a row, and what reports and exports are made of: the print, the rule
and its commit, the experiment, every value, the interval, the provenance, and the command that
repeats it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtlbook.documents import read_yaml
from mtlbook.ledger import contents, numbers, repository
from mtlbook.ledger.audit import audit, load_results
from mtlbook.ledger.claims import Claim, load_all
from mtlbook.ledger.currency import stale
from mtlbook.ledger.history import NOW, History, HistoryError
from mtlbook.ledger.pairs import MINIMUM_REPEATS, Pair, Values
from mtlbook.ledger.report import kind
from mtlbook.ledger.results import Result
from mtlbook.ledger.rules import (
    BoundRule,
    CurveRule,
    DifferenceRule,
    OrderRule,
    Printed,
    ValueRule,
)
from mtlbook.ledger.statistics import mean_interval

# Digits that a value keeps: more than any page shows, fewer than the file has.
DIGITS = 6


def chains(
    root: Path,
    results: Mapping[str, Result] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return all that is known of the claims of a repository.

    Parameters
    ----------
    root : Path
    results : mapping of str to Result, optional
        By default those that are committed.
    rows : sequence of dict, optional
        The verdicts, where `audit` has judged these results already.

    Returns
    -------
    dict
        ``papers`` (id to title, source and label, of those with claims), ``experiments`` (name to
        what it is and how it was run), ``datasets`` (name to title, tier, source and licence, of
        those they need), ``claims`` (a list, in the order of the files: the row of the audit,
        its numbers as people read them, ``series``, ``commit``, ``command``), and ``no_history``
        (why rules have no commit; None where they have). Values that JSON can hold.
    """
    folder = root / "data" / "claims"
    results = load_results(root / "data" / "results") if results is None else results
    files = load_all(folder)
    claims = {claim.id: claim for of_paper in files for claim in of_paper.claims}
    commits, no_history = rule_commits(root)
    listed = read_yaml(root / repository.EXPERIMENTS)["experiments"]
    rows = audit(folder, results) if rows is None else rows
    used = dict.fromkeys(row["experiment"] for row in rows if row["experiment"])
    papers = {row["paper"] for row in rows}
    experiments = {
        name: _experiment(listed.get(name) or {}, results.get(name), results) for name in used
    }
    return {
        "papers": {
            f.paper: {"title": f.title, "source": f.source, "label": f.label}
            for f in files
            if f.paper in papers
        },
        "experiments": experiments,
        "datasets": _datasets(root, {x for of in experiments.values() for x in of["needs"]}),
        "claims": [
            _chain(
                row,
                claims[row["claim"]],
                claims[row["claim"]].resolve_printed(folder / "printed"),
                results.get(row["experiment"]),
            )
            | {
                "commit": commits.get(row["claim"]),
                "command": _command(row, listed.get(row["experiment"]), results),
            }
            for row in rows
        ],
        "no_history": no_history,
    }


def _chain(row: Mapping[str, Any], claim: Claim, of: Printed, result: Result | None) -> dict:
    found = series(claim.rule, result.values, of) if result else {}
    return {
        **row,
        "kind": kind(row),
        "statement": row["statement"].removeprefix("[our control] "),
        "printed_text": numbers.printed(row),
        "spread": _spread(claim, of),
        "margin": of.margin,
        "ours_text": numbers.mean(row),
        "interval_text": numbers.interval(row),
        "two_way_text": numbers.two_way(row),
        "decimals": numbers.decimals(row),
        "difference": numbers.is_difference(row),
        "series": [
            _one(name, values, row if len(found) == 1 else None)
            for name, values in found.items()
            if values
        ],
    }


def _command(row: Mapping, listed: Mapping | None, results: Mapping[str, Result]) -> str | None:
    """What measures a claim again; None where the experiment is not listed."""
    profiles = list((listed or {}).get("profiles") or {})
    if not profiles:
        return None
    result = results.get(row["experiment"])
    profile = result.provenance.get("profile") if result else None
    if profile not in profiles:
        profile = "laptop" if "laptop" in profiles else profiles[-1]
    option = "" if profile == "laptop" else f" --profile {profile}"
    return f"mtlbook rerun {row['claim']}{option}"


def _spread(claim: Claim, of: Printed) -> str | None:
    """What the paper says of the spread of its number."""
    if claim.printed_std is not None:
        stds = " and ".join(claim.printed_std)
        return (
            f"printed standard deviations {stds} over {claim.printed_n} repeats: "
            f"± {of.margin:.2g} as a 95 % interval of the difference"
        )
    if claim.printed is not None and of.single_run:
        return "printed without a spread: counted as one run"
    return None


def _one(name: str, values: Sequence[float], row: Mapping | None) -> dict[str, Any]:
    """A series with its mean and interval: those of the verdict, where it rests on this alone."""
    mean, interval = float(np.mean(values)), None
    if row is not None and row["low"] is not None:
        mean, interval = row["ours"], (row["low"], row["high"])
    elif row is None and len(values) >= MINIMUM_REPEATS:
        interval = mean_interval(values)[1:3]
    return {
        "name": name,
        "values": [_short(x) for x in values],
        "mean": _short(mean),
        "interval": interval and [_short(x) for x in interval],
    }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


@functools.singledispatch
def series(rule: Any, values: Values, printed: Printed) -> dict[str, list[float]]:
    """Return the numbers a rule looks at, one for each repeat, by the name of what they are.

    Parameters
    ----------
    rule : Rule
        Of a kind without numbers for repeats, the answer is empty.
    values : callable
        `Result.values`.
    printed : Printed
    """
    return {}


@series.register
def _(rule: ValueRule, values: Values, printed: Printed) -> dict[str, list[float]]:
    return {rule.arm: list(values(rule.arm, rule.metric, None).values())}


@series.register
def _(rule: DifferenceRule, values: Values, printed: Printed) -> dict[str, list[float]]:
    named, pairs = f"{rule.arm} minus {rule.reference}", rule.pairs(values)
    if not rule.draws or not pairs[0].n:
        return {named: list(pairs[0].differences)}
    return {f"{named}, mean of each draw": [float(np.mean(pair.differences)) for pair in pairs]}


@series.register
def _(rule: OrderRule, values: Values, printed: Printed) -> dict[str, list[float]]:
    items = (
        [(arm, rule.metric) for arm in rule.arms]
        if rule.arms is not None
        else [(rule.arm, metric) for metric in rule.metrics]
    )
    return _differences(values, list(itertools.pairwise(items)))


@series.register
def _(rule: BoundRule, values: Values, printed: Printed) -> dict[str, list[float]]:
    arm = (rule.arm, rule.metric)
    return _differences(values, [(arm, (other, rule.metric)) for other in rule.references])


@series.register
def _(rule: CurveRule, values: Values, printed: Printed) -> dict[str, list[float]]:
    of = {step: values(rule.arm, rule.metric, step) for step in printed.points}
    repeats = sorted(set.intersection(*map(set, of.values())))
    target = np.array(list(printed.points.values()))
    curves = {r: np.array([of_step[r] for of_step in of.values()]) for r in repeats}
    found = [float(np.median(np.abs(c - target) / np.abs(target))) for c in curves.values()]
    return {"median relative deviation of each repeat's own curve": found}


def _differences(values: Values, pairs: Sequence[tuple]) -> dict[str, list[float]]:
    named = {}
    for a, b in pairs:
        metrics = a[0] == b[0]  # one arm in two metrics: these tell them apart
        name = f"{a[metrics]} minus {b[metrics]}"
        named[name] = list(Pair.of(values, a, b).differences)
    return named


def _experiment(listed: Mapping, result: Result | None, results: Mapping[str, Result]) -> dict:
    """What an experiment is, and of one with a result how it was run."""
    profiles, needs = listed.get("profiles") or {}, listed.get("data") or []
    found = {
        "title": listed.get("title"),
        "notebook": listed.get("notebook"),
        "profiles": list(profiles),
        "needs": [needs] if isinstance(needs, str) else list(needs),
        "profile": None,
    }
    if result is None:
        return found
    runs = list(contents.runs_of({"provenance": result.provenance}).values())
    data = result.data
    names, hashes = (
        x if isinstance(x, list) else [x] for x in (data.get("name"), data.get("sha256"))
    )
    machines = {_machine(r) for r in runs}
    versions = {
        ", ".join(f"{k} {v}" for k, v in {"python": r.get("python"), **r["packages"]}.items())
        for r in runs
        if r.get("packages")
    }
    started = sorted(r["started"] for r in runs if r.get("started"))
    return found | {
        "profile": result.provenance.get("profile"),
        "data": [
            {"name": name, "sha256": sha} for name, sha in zip(names, hashes, strict=False) if name
        ],
        "licence": data.get("licence"),
        "tasks": data.get("tasks"),
        "file": f"{contents.RESULTS}{result.experiment}.json",
        "content_sha256": result.provenance.get("content_sha256"),
        "numerics": ", ".join(f"{k} {v}" for k, v in result.numerics.items()),
        "runs": len(runs),
        "minutes": round(sum(r.get("wall_seconds", 0) for r in runs) / 60, 1),
        "days": sorted({day[:10] for day in (started[:1] + started[-1:])}),
        "machines": sorted(machines),
        "versions": sorted(versions),
        "commits": sorted({_made_at(r) for r in runs if r.get("git_commit")}),
        "stale": stale(result, results),
    }


def _datasets(root: Path, names: Collection[str]) -> dict[str, dict[str, str]]:
    """What is said of data sets in the list of them; nothing of one that a notebook makes."""
    path = root / contents.DATASETS
    listed = read_yaml(path) if path.is_file() else []
    keys = ("title", "tier", "source", "licence")
    return {of["name"]: {k: of.get(k) for k in keys} for of in listed if of["name"] in names}


def _machine(run: Mapping[str, Any]) -> str:
    platform = run.get("platform") or {}
    name = run.get("device_name") or platform.get("processor", "?")
    kinds = [k for k in (run.get("device", "?"), platform.get("instructions")) if k]
    return f"{name} ({', '.join(kinds)})"


def _made_at(run: Mapping[str, Any]) -> str:
    """The commit of a run, and whether some file of the checkout had changed since."""
    changed = ", with uncommitted changes" if run.get("git_dirty") else ""
    return f"{run['git_commit'][:10]}{changed}"


def rule_commits(root: Path) -> tuple[dict[str, dict[str, str]], str | None]:
    """Return since which commit each claim is judged as it is now, and why none is known.

    Parameters
    ----------
    root : Path
        Of the repository.

    Returns
    -------
    commits : dict of str to dict
        By claim: ``hash`` and ``day``; empty of a claim that is not committed.
    no_history : str or None
    """
    try:
        history = History(root, contents.FOLDERS)
    except HistoryError as error:
        return {}, str(error)
    with history:
        reader, days, found = contents.Reader(history), history.days(), {}
        order = {name: place for place, name in enumerate(history.commits)}
        for claim, now in reader.claims(history.commits[NOW]).items():
            origins = history.origins(
                lambda commit, claim=claim, now=now: (
                    (then := reader.claims(commit).get(claim)) and then.judged == now.judged
                )
            )
            first = min(origins, key=order.__getitem__)
            found[claim] = {} if first == NOW else {"hash": first, "day": days[first]}
        return found, None
