"""``data/manifest.json``: what every claim, printed file, result and verdict was when written.

``mtlbook audit --write`` writes it, whole and canonical; ``mtlbook audit --strict`` computes it
anew and compares. It holds digests of contents, not of bytes: a comment in a file of claims changes
none; of the other files in ``data/`` (what pages quote beside results) it has digests of the text.
Beside them stand the rows of the verdicts, which claims were revised after their run, and
which findings were accepted, and why.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtlbook.ledger import contents
from mtlbook.ledger.contents import Reader, digest, same
from mtlbook.ledger.findings import Finding
from mtlbook.ledger.history import NOW
from mtlbook.ledger.report import code, escape

SCHEMA = 1
COMMAND = "mtlbook audit --write"
WRITE = f"if this is meant, write it with: {COMMAND}"


def build(
    reader: Reader,
    rows: Sequence[Mapping[str, Any]],
    revised: Mapping[str, str],
    accepted: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The manifest of the present files.

    Parameters
    ----------
    reader : Reader
    rows : sequence of dict
        As `audit` returns them.
    revised : mapping of str to str
        Claims that were revised after their run, and why.
    accepted : sequence of dict
        Findings that were accepted: ``why``, and ``findings``, a mapping of name to state.
    """
    now = reader.versions.commits[NOW]
    papers, printed, results, files = {}, {}, {}, {}
    for path in sorted(now.files):
        content = reader.parse(now, path)
        if path.startswith(contents.PRINTED):
            printed[path] = digest(content)
        elif path.startswith(contents.CLAIMS) and isinstance(content, dict):
            papers[path] = digest({k: v for k, v in content.items() if k != "claims" and v})
        elif path.startswith(contents.RESULTS) and isinstance(content, dict):
            results[path] = _result(reader, content)
        elif contents.is_other(path):
            text = reader.versions.read(now.files[path]).replace(b"\r\n", b"\n")
            files[path] = digest(text.decode(errors="surrogateescape"))
    datasets = reader.parse(now, contents.DATASETS) or []
    return {
        "schema": SCHEMA,
        "papers": papers,
        "claims": {id_: digest(claim.content) for id_, claim in reader.claims(now).items()},
        "printed": printed,
        "datasets": {str(entry["name"]): digest(entry) for entry in datasets},
        "results": results,
        "files": files,
        "verdicts": {row["claim"]: dict(row) for row in rows},
        "revised": dict(revised),
        "accepted": list(accepted),
    }


def _result(reader: Reader, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a result holds, and what it was made with: experiment, notebook, tunings."""
    now = reader.versions.commits[NOW]
    experiment = str(content.get("experiment"))
    entry = reader.experiment(now, experiment)
    return {
        "records": digest(content.get("records")),
        "provenance": digest(content.get("provenance")),
        "rest": digest({k: v for k, v in content.items() if k not in ("records", "provenance")}),
        "experiment": digest(entry),
        "notebook": reader.notebook(now, (entry or {}).get("notebook")),
        "uses": {
            used: digest(reader.result(now, used)) for used in sorted(content.get("uses") or ())
        },
    }


def to_json(manifest: Mapping[str, Any]) -> str:
    """The file's text: keys sorted, so that equal manifests are equal files."""
    return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"


def acceptances(accepted: Mapping[str, Sequence[Finding]]) -> list[dict[str, Any]]:
    """The entries ``accepted`` of findings by the reason why they are accepted."""
    entries = []
    for why, findings in accepted.items():
        states: dict[str, list[str]] = {}
        for finding in findings:
            known = states.setdefault(finding.name, [])
            if finding.state not in known:
                known.append(finding.state)
        entries.append({"why": why, "findings": {k: sorted(v) for k, v in states.items()}})
    return sorted(entries, key=lambda entry: entry["why"])


def whys(committed: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Why a finding was accepted, by its name and state."""
    entries = committed.get("accepted")
    return {
        (name, state): str(entry["why"])
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, Mapping) and re.search(r"\w", str(entry.get("why") or ""))
        for name, states in (entry.get("findings") or {}).items()
        for state in states
    }


def differences(reader: Reader, committed: Any, found: Mapping[str, Any]) -> Iterator[Finding]:
    """Whatever is not as the committed manifest has it.

    Parameters
    ----------
    reader : Reader
    committed : object
        What the file holds.
    found : mapping
        What `build` makes of the present files.
    """
    here = contents.MANIFEST
    if not isinstance(committed, Mapping) or committed.get("schema") != SCHEMA:
        message = f"expected a manifest of schema {SCHEMA}, found none; write it with: {COMMAND}"
        yield Finding("manifest", here, message)
        return
    blob = reader.versions.now[here]
    if reader.versions.read(blob).replace(b"\r\n", b"\n") != to_json(committed).encode():
        yield Finding("manifest", here, f"expected the text that {COMMAND} writes, found another")
    if set(committed) != set(found):
        parts = ", ".join(sorted(set(committed) ^ set(found)))
        yield Finding("manifest", here, f"parts missing or unknown: {parts}; {WRITE}")
        return
    claims = reader.claims(reader.versions.commits[NOW])
    subjects = {
        "papers": str,
        "claims": lambda key: f"{claims[key].path if key in claims else here}: claim {key}",
        "printed": str,
        "datasets": lambda key: f"{contents.DATASETS}: data set {key}",
        "results": str,
        "files": str,
        "verdicts": lambda key: f"{here}: verdict of claim {key}",
        "revised": lambda key: f"{here}: revised claim {key}",
    }
    for part, subject in subjects.items():
        before = committed[part] if isinstance(committed[part], Mapping) else {}
        for key in sorted({*before, *found[part]}):
            for message in _compare(before.get(key), found[part].get(key)):
                yield Finding("manifest", subject(key), f"{message}; {WRITE}")
    for part in ("revised", "accepted"):
        if type(committed[part]) is not type(found[part]):
            yield Finding("manifest", here, f"{part}: expected another kind of content; {WRITE}")
    known, now = whys(committed), whys(found)
    for name, state in known.keys() - now.keys():
        message = f"accepted {name} ({state[:12]}…): expected what is found now; {WRITE}"
        yield Finding("manifest", here, message)


def exceptions(path: str | os.PathLike) -> str:
    """Markdown: what was revised after its run, and what was accepted, with the reasons.

    Parameters
    ----------
    path : path
        Of the manifest.
    """
    committed = json.loads(Path(path).read_text(encoding="utf-8"))
    lines, revised = [], committed["revised"]
    for why in dict.fromkeys(revised.values()):
        claims = [claim for claim in revised if revised[claim] == why]
        lines.append(f"- Revised after the run: {escape(why)} {folded(claims)}")
    for entry in committed["accepted"]:
        names = [name.partition(": ") for name in entry["findings"]]
        kinds = dict.fromkeys(kind for kind, _, _ in names)
        files = dict.fromkeys(code(subject.rpartition("/")[2]) for _, _, subject in names)
        lines.append(
            f"- Accepted ({', '.join(kinds)}): {escape(entry['why'])} ({', '.join(files)})"
        )
    return "\n".join(lines) or "Nothing was revised or accepted."


def folded(claims: Sequence[str]) -> str:
    """Markdown: the ids of claims, several of them behind their number."""
    ids = ", ".join(f"<code>{html.escape(claim)}</code>" for claim in claims)
    if len(claims) < 4:
        return f"({ids})"
    return f'<details class="ids"><summary>{len(claims)} claims</summary>{ids}</details>'


def _compare(before: Any, now: Any) -> Iterator[str]:
    if before is None:
        yield f"expected an entry in {contents.MANIFEST}, found none"
    elif now is None:
        yield f"in {contents.MANIFEST}, and gone"
    elif isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            if not same(before.get(key), now.get(key)):
                yield (
                    f"{key}: expected {_short(before.get(key))} as in {contents.MANIFEST}, found "
                    f"{_short(now.get(key))}"
                )
    elif not same(before, now):
        yield f"content: expected {_short(before)} as in {contents.MANIFEST}, found {_short(now)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text[:12] + "…"
    return repr(text) if isinstance(value, str) else text
