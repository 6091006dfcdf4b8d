"""The audit: claims and results in, verdicts out; and whether committed verdicts still follow."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtlbook.ledger.claims import Claim, ClaimError, Claims, load_all
from mtlbook.ledger.currency import stale
from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.results import Result, ResultError
from mtlbook.ledger.rules import Judgement, Printed, PrintRule
from mtlbook.ledger.verdicts import correct, judge, over_images, two_way

# What a committed verdict fixes; the rest of a row can be computed from it and the results.
COMMITTED = "claim rule asked_by verdict ours low high n p holm tier experiment".split()


def audit(
    claims_folder: str | os.PathLike,
    results: Mapping[str, Result],
    known: Mapping[str, Result] | None = None,
) -> list[dict]:
    """Judge every claim by the results.

    Parameters
    ----------
    claims_folder : path
        Holds ``<paper>.yaml`` and the folder ``printed``.
    results : mapping of str to Result
        By experiment, as `load_results` reads them.
    known : mapping of str to Result, optional
        The results that others may have taken choices from; by default `results`.

    Returns
    -------
    list of dict
        One object per claim: ``claim``, ``paper``, ``label`` (its name on pages), ``where``,
        ``statement``, ``known``, ``asked_by``, ``printed``, ``unit``, ``ours``, ``low``, ``high``
        (95 % interval), ``n`` (repeats),
        ``p`` (two-sided, of 0), ``group`` and ``holm`` (p, adjusted for all tests of the group),
        ``two_way`` (ends of the interval over repeats and tasks, where tasks are stored), ``data``,
        ``rule``, ``verdict``, ``why``, ``tier``, ``stand_in``, ``experiment``, ``result_file``,
        ``kind`` (what it counts as, see `Claim.kind`), ``cells`` (printed numbers that it covers),
        ``headline``, ``revised`` (why the claim was changed after the run, as the manifest beside
        the claims has it; None where it was not), ``stale`` (reasons why the result is not current;
        None where nothing was measured).

    Raises
    ------
    ClaimError
        If a file of claims is not valid, or a claim cannot be judged by what there is.
    """
    claims_folder, known = Path(claims_folder), results if known is None else known
    reasons = {name: stale(result, known) for name, result in results.items()}
    revised = _revised(claims_folder.parent / "manifest.json")
    rows = []
    for of_paper in load_all(claims_folder):
        for claim in of_paper.claims:
            try:
                printed = claim.resolve_printed(claims_folder / "printed")
                row = _row(of_paper, claim, printed, results, reasons)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                by = f" by {claim.rule.file}" if isinstance(claim.rule, PrintRule) else ""
                raise ClaimError(f"claim {claim.id} cannot be judged{by}: {error}") from error
            rows.append(row | {"revised": revised.get(claim.id)})
    correct(rows)
    return rows


def counterparts(
    claims_folder: str | os.PathLike,
    rows: Sequence[Mapping[str, Any]],
    committed: Mapping[str, Result],
) -> dict[str, dict]:
    """By claim the committed row of the very experiment that a row of one's own was judged on.

    A claim may be judged on one of several experiments, by the first that has results. What stands
    beside a value is the committed one of the same experiment, never that of another; a claim is
    missing where nothing is committed of it.
    """
    claims_folder = Path(claims_folder)
    experiments = {row["claim"]: row["experiment"] for row in rows if row["n"]}
    found = []
    for of_paper in load_all(claims_folder):
        for claim in of_paper.claims:
            name = experiments.get(claim.id)
            if name in committed:
                printed = claim.resolve_printed(claims_folder / "printed")
                reasons = {name: stale(committed[name], committed)}
                found.append(_row(of_paper, claim, printed, {name: committed[name]}, reasons))
    correct(found)
    return {row["claim"]: row for row in found if row["n"]}


def load_results(folder: str | os.PathLike) -> dict[str, Result]:
    """Read ``<experiment>.json`` of a folder; a file of another experiment is an error."""
    results = {}
    for path in sorted(Path(folder).glob("*.json")):
        result = Result.load(path)
        if result.experiment != path.stem:
            raise ResultError(f"{path}: expected experiment {path.stem}, got {result.experiment}")
        results[path.stem] = result
    return results


def write_verdicts(rows: Sequence[dict], path: str | os.PathLike) -> None:
    """Write the verdicts that are committed."""
    write_atomically(path, to_json(rows))


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is committed of the verdicts, one line per claim."""
    lines = [json.dumps({k: row[k] for k in COMMITTED}, ensure_ascii=False) for row in rows]
    return "[\n " + ",\n ".join(lines) + "\n]\n"


def mismatches(rows: Sequence[dict], path: str | os.PathLike) -> list[str]:
    """Say for which claims the committed verdict does not follow from rule and results.

    Returns
    -------
    list of str
        One sentence per claim, beginning with its id; empty if all verdicts follow.

    Raises
    ------
    ResultError
        If the file of verdicts is missing or not valid.
    """
    try:
        committed = {c["claim"]: c for c in json.loads(Path(path).read_text(encoding="utf-8"))}
    except OSError as error:
        raise ResultError(
            f"{path}: no committed verdicts; write them with: mtlbook audit --write"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ResultError(f"{path}: not a list of verdicts ({error!r})") from error
    found = []
    for row in rows:
        old = committed.pop(row["claim"], None)
        if old is None:
            found.append(f"{row['claim']}: no committed verdict, now {row['verdict']!r}")
            continue
        for key in ("verdict", "rule", "asked_by", "experiment", "tier", "n"):
            if old.get(key) != row[key]:
                found.append(f"{row['claim']}: committed {key} {old.get(key)!r}, now {row[key]!r}")
                break
        else:
            if not _same_number(old.get("ours"), row["ours"]):
                found.append(
                    f"{row['claim']}: committed value {old.get('ours')}, now {row['ours']}"
                )
    found += [f"{claim}: committed verdict of a claim that is gone" for claim in committed]
    return found


def _row(
    of_paper: Claims, claim: Claim, printed: Printed, results: dict, reasons: dict
) -> dict[str, Any]:
    judgement, result, wide = Judgement("not attempted", "no result yet"), None, None
    experiment = claim.experiments[0] if claim.experiments else ""
    if isinstance(claim.rule, PrintRule):
        judgement = claim.rule.judge(None, printed)
    for name in claim.experiments:
        if name in results:
            of_images = over_images(claim.rule, results[name])
            found = judge(claim, printed, results[name], of_images)
            if found.n > 0 or result is None:
                judgement, experiment, result, wide = found, name, results[name], of_images
            if found.n > 0:
                break
    stand_in = result.data.get("stand_in_for") if result else None
    crossed = two_way(claim, result, wide) if result else None
    return {
        "claim": claim.id,
        "paper": of_paper.paper,
        "label": of_paper.label,
        "where": claim.where,
        "statement": claim.marked_statement,
        "known": claim.known,
        "asked_by": claim.asked_by,
        "printed": claim.printed,
        "unit": claim.unit,
        "ours": judgement.ours,
        "low": judgement.low,
        "high": judgement.high,
        "n": judgement.n,
        "p": judgement.p,
        "two_way": crossed and [crossed.low, crossed.high],
        "rule": claim.rule.text(printed),
        "verdict": judgement.verdict,
        "why": judgement.why,
        "data": result.data.get("name") if result else None,
        "tier": result.data.get("tier", "none") if result else "none",
        "stand_in": f"{result.data.get('name')} for {stand_in}" if stand_in else None,
        "experiment": experiment,
        "result_file": f"{experiment}.json" if result else None,
        "kind": claim.kind,
        "cells": list(claim.cells),
        "headline": claim.headline,
        "stale": reasons[experiment] if result else None,
    }


def _revised(path: Path) -> Mapping[str, str]:
    """Which claims were revised after their run, and why; `mtlbook audit --write` asks git."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = content.get("revised") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def _same_number(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
