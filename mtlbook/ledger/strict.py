"""The strict audit: whether anything was changed that must not be, or without saying so.

Do the files agree with each other (`consistency`), with what was written last (`manifest`), and
with their history (`past`)? The first two questions need no git.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtlbook.ledger import audit, consistency, contents, manifest, past, report
from mtlbook.ledger.claims import ClaimError, load, load_tables
from mtlbook.ledger.contents import Reader
from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.findings import Finding
from mtlbook.ledger.history import NOW, History, HistoryError, Versions
from mtlbook.ledger.results import Result, ResultError


@dataclass
class Strict:
    """What a strict audit comes to.

    Attributes
    ----------
    findings : list of Finding
        What is wrong, without what was accepted.
    accepted : dict of str to list of Finding
        By the reason why it was accepted.
    revised : dict of str to str
        Claims that were changed, or first asked, after the run that they judge; and why.
    rows : list of dict
        The verdicts, as `mtlbook.ledger.audit.audit` returns them; empty if a file is not valid.
    no_history : str or None
        Why the history could not be looked at.
    """

    findings: list[Finding] = field(default_factory=list)
    accepted: dict[str, list[Finding]] = field(default_factory=dict)
    revised: dict[str, str] = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    no_history: str | None = None


def check(root: str | os.PathLike) -> Strict:
    """Look at claims, results, printed values, verdicts, and how they came about.

    Parameters
    ----------
    root : path
        Of the repository.
    """
    root = Path(root)
    with _opened(root) as (reader, no_history):
        found = _look(root, reader, no_history)
        if found.rows:
            committed = _committed(reader)
            revised, entries = found.revised, manifest.acceptances(found.accepted)
            if no_history and isinstance(committed, Mapping):  # only git knows which ones
                revised = committed.get("revised") or {}
                entries = committed.get("accepted") or []
            expected = manifest.build(reader, found.rows, revised, entries)
            found.findings += manifest.differences(reader, committed, expected)
            found.findings += _derived(root, reader, found.rows)
        return found


def write(root: str | os.PathLike, accept: str | None = None) -> Strict:
    """Write verdicts, the results in ``README.md``, and the manifest.

    Parameters
    ----------
    root : path
        Of the repository.
    accept : str, optional
        Why the findings that remain are accepted, all of them as they are now. What was accepted
        before and is found no more leaves the manifest.

    Returns
    -------
    Strict
        What a strict audit would still find.

    Raises
    ------
    ValueError
        If a file is not valid.
    """
    root = Path(root)
    with _opened(root) as (reader, no_history):
        found = _look(root, reader, no_history)
        if not found.rows:
            raise ValueError("; ".join(map(str, found.findings)) or "data/claims: no claims")
        if accept and found.findings:
            found.accepted.setdefault(accept, []).extend(f for f in found.findings if f.state)
            found.findings = [finding for finding in found.findings if not finding.state]
        entries = manifest.acceptances(found.accepted)
        if no_history and isinstance(before := _committed(reader), Mapping):
            found.revised, entries = before.get("revised") or {}, before.get("accepted") or []
        for row in found.rows:
            row["revised"] = found.revised.get(row["claim"])
        audit.write_verdicts(found.rows, root / contents.VERDICTS)
        page = root / "README.md"
        if page.is_file():
            write_atomically(page, report.readme(found.rows, page.read_text(encoding="utf-8")))
        built = manifest.build(reader, found.rows, found.revised, entries)
        write_atomically(root / contents.MANIFEST, manifest.to_json(built))
    return found


@contextlib.contextmanager
def _opened(root: Path) -> Iterator[tuple[Reader, str | None]]:
    try:
        history = History(root, contents.FOLDERS)
    except HistoryError as error:
        yield Reader(Versions(root, contents.FOLDERS)), str(error)
        return
    with history:
        yield Reader(history), None


def _look(root: Path, reader: Reader, no_history: str | None) -> Strict:
    found = Strict(no_history=no_history)
    found.findings, results = _load(root, reader)
    if found.findings:
        return found
    findings = list(consistency.check(reader, results))
    if any(finding.kind == "file" for finding in findings):
        found.findings = findings
        return found
    try:
        found.rows = audit.audit(root / contents.CLAIMS, results)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        found.findings = [*findings, Finding("judge", contents.CLAIMS, _below(root, error))]
        return found
    if not no_history:
        of_past, found.revised = past.check(reader, found.rows)
        findings += of_past
    committed = _committed(reader)
    whys = manifest.whys(committed) if isinstance(committed, Mapping) else {}
    for finding in findings:
        why = whys.get((finding.name, finding.state))
        if why is None:
            found.findings.append(finding)
        else:
            found.accepted.setdefault(why, []).append(finding)
    return found


def _load(root: Path, reader: Reader) -> tuple[list[Finding], dict[str, Result]]:
    """The results, and what is wrong with any file of claims, experiments, data sets, results."""
    findings, results = [], {}
    now = reader.versions.now
    for path in sorted(now):
        try:
            if path.startswith(contents.CLAIMS) and path.endswith(".yaml"):
                (load_tables if path.startswith(contents.TABLES) else load)(root / path)
            elif path.startswith(contents.RESULTS) and path.endswith(".json"):
                if not contents.lies_in(path, contents.RESULTS):
                    findings.append(Finding("file", path, f"expected in {contents.RESULTS} itself"))
                    continue
                result = Result.load(root / path)
                results[Path(path).stem] = result
                if result.experiment != Path(path).stem:
                    message = f"expected experiment {Path(path).stem}, got {result.experiment}"
                    findings.append(Finding("result", path, message))
            if twice := contents.repeated(path, reader.versions.read(now[path])):
                message = f"expected every name once, found twice: {', '.join(twice)}"
                findings.append(Finding("text", path, message))
            if problem := contents.problem(reader, path):
                findings.append(Finding("file", path, problem))
        except (ClaimError, ResultError) as error:
            findings.append(Finding("file", path, _below(root, error).removeprefix(f"{path}: ")))
    return findings, results


def _derived(root: Path, reader: Reader, rows: list[dict]) -> Iterator[Finding]:
    """What has to follow from the rows: ``verdicts.json`` and the results in ``README.md``."""
    committed = reader.parse(reader.versions.commits[NOW], contents.VERDICTS)
    messages = list(consistency.verdicts(committed, rows, audit.COMMITTED))
    if not messages:
        text = reader.versions.read(reader.versions.now[contents.VERDICTS])
        if text.replace(b"\r\n", b"\n").decode() != audit.to_json(committed):
            messages = [f"expected the text that {manifest.COMMAND} writes, found another"]
    for message in messages:
        yield Finding("verdict", contents.VERDICTS, message)
    page = root / "README.md"
    if page.is_file():
        text = page.read_text(encoding="utf-8")
        try:
            same = report.readme(rows, text) == text
        except ValueError as error:
            yield Finding("page", page.name, str(error))
            return
        if not same:
            yield Finding(
                "page", page.name, f"expected the results of the verdicts; {manifest.WRITE}"
            )


def _committed(reader: Reader) -> Any:
    return reader.parse(reader.versions.commits[NOW], contents.MANIFEST)


def _below(root: Path, error: Exception) -> str:
    """A message without the folder that the repository lies in."""
    return str(error).replace(f"{root}{os.sep}", "")
