"""The report on one paper: [Re] or [not Re], what was tested, what came out, how to repeat it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mtlbook.ledger.page import document, verdict
from mtlbook.ledger.report import GROUPS, KNOWN, last_column

HELD, FELL = ("reproduced", "direction"), ("refuted at the printed size", "opposite")
RULE = (
    "[Re] stands where more of the paper's decided claims hold (reproduced, or the direction) than "
    "fall (refuted at the printed size, or opposite). Otherwise the title says [not Re]: we have "
    "not reproduced the paper, which does not show that the paper is wrong. Claims that are "
    "undecided, calibrated on the print, not comparable or not attempted count on neither side."
)


def of_paper(chains: Mapping[str, Any], paper: str) -> list[Mapping[str, Any]]:
    """Return the claims of one paper.

    Raises
    ------
    ValueError
        If there are none.
    """
    rows = [row for row in chains["claims"] if row["paper"] == paper]
    if not rows:
        known = ", ".join(chains["papers"]) or "none yet"
        raise ValueError(f"paper: expected one with claims ({known}), got {paper!r}")
    return rows


def counts(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Return how many claims of the paper hold, fall, and are left open."""
    verdicts = [row["verdict"] for row in rows if row["kind"] == "paper"]
    held, fell = (sum(word in words for word in verdicts) for words in (HELD, FELL))
    return held, fell, len(verdicts) - held - fell


def title(chains: Mapping[str, Any], paper: str) -> str:
    """Return the title of the report, by `RULE`."""
    held, fell, _ = counts(of_paper(chains, paper))
    return f"[{'Re' if held > fell else 'not Re'}] {chains['papers'][paper]['title']}"


def outcome(chains: Mapping[str, Any], paper: str) -> str:
    """Return what came out, in a sentence or two."""
    rows = of_paper(chains, paper)
    held, fell, left = counts(rows)
    counted = {group: _counted(rows, group) for group in GROUPS}
    theirs = counted.pop("paper")
    first = (
        f"Of the paper's {held + fell + left} claims {held} hold, {fell} fall and {left} are left "
        f"open ({theirs})."
        if theirs
        else "No claim of the paper was at hand to be tested."
    )
    more = (f" {GROUPS[g][0].capitalize()}: {text}." for g, text in counted.items() if text)
    return first + "".join(more)


def _counted(rows: Sequence[Mapping[str, Any]], group: str) -> str:
    found = Counter(row["verdict"] for row in rows if row["kind"] == group)
    return ", ".join(f"{found[word]} {word}" for word in GROUPS[group][1] if found[word])


def report(chains: Mapping[str, Any], paper: str) -> str:
    """Return the report on one paper as an HTML page that loads nothing.

    Parameters
    ----------
    chains : dict
        As `mtlbook.ledger.chain.chains` returns it.
    paper : str
        Its identifier, such as ``"tnrdmtl"``.
    """
    rows, head = of_paper(chains, paper), title(chains, paper)
    used = dict.fromkeys(row["experiment"] for row in rows if row["experiment"])
    experiments = {name: chains["experiments"][name] for name in used}
    measured = {name: of for name, of in experiments.items() if of.get("runs")}
    sections = [
        ("What came out", f"<p>{escape(outcome(chains, paper))}</p><p>{escape(RULE)}</p>"),
        ("What was tested", _tested(measured)),
        *((GROUPS[group][0].capitalize(), _verdicts(rows, group)) for group in GROUPS),
        ("Rules that were revised after the run", _revised(rows)),
        ("What was not attempted, and why", _missing(rows, experiments, chains["datasets"])),
        ("Data", _data(measured, chains["datasets"])),
        ("How to repeat it", _repeat(paper, measured)),
    ]
    body = "\n".join(
        f"<section><h2>{escape(name)}</h2>\n{text}</section>" for name, text in sections if text
    )
    source = escape(chains["papers"][paper]["source"])
    return document(
        head,
        f"<header><h1>{escape(head)}</h1><p>{source}</p></header>\n<main>\n{body}\n</main>",
    )


def _table(caption: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _tested(measured: Mapping[str, Mapping]) -> str:
    if not measured:
        return "<p>Nothing has been run yet.</p>"
    lines = [
        (
            f"<code>{escape(name)}</code>",
            escape(of["title"] or ""),
            escape(", ".join(data["name"] for data in of["data"]) or "made by the notebook"),
            f"{of['runs']}, {of['minutes']} min",
            f'<span class="nowrap">{escape(" to ".join(of["days"]))}</span>',
        )
        for name, of in measured.items()
    ]
    return _table("Experiments", ("experiment", "what it is", "data", "runs, time", "day"), lines)


def _verdicts(rows: Sequence[Mapping[str, Any]], group: str) -> str:
    """A table for each table or figure of the paper, and each family of our questions."""
    of = [row for row in rows if row["kind"] == group]
    heads = ("claim", "paper", "ours [95 % interval]", "n", last_column(group), "why")
    return "".join(
        _table(name, heads, [_line(row) for row in of if row["group"] == name])
        for name in dict.fromkeys(row["group"] for row in of)
    )


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    unit = f'<br><span class="quiet">{escape(row["unit"])}</span>' if row["unit"] else ""
    known = "" if row["known"] is None else f'<br><span class="quiet">{KNOWN[row["known"]]}</span>'
    return (
        f"{escape(row['statement'])}<br><code>{escape(row['claim'])}</code>",
        f"{escape(row['printed_text'])}{known}",
        f'<span class="number">{escape(row["interval_text"])}</span>{unit}',
        str(row["n"]),
        verdict(row),
        escape(row["why"]),
    )


def _revised(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why, and of which claims."""
    claims: dict[str, list[str]] = {}
    for row in rows:
        if row["revised"]:
            claims.setdefault(row["revised"], []).append(f"<code>{escape(row['claim'])}</code>")
    items = (f"<li>{escape(why)} Claims: {', '.join(of)}.</li>" for why, of in claims.items())
    return f"<ul>{''.join(items)}</ul>" if claims else ""


def _missing(
    rows: Sequence[Mapping[str, Any]],
    experiments: Mapping[str, Mapping],
    datasets: Mapping[str, Mapping],
) -> str:
    missing = [row for row in rows if row["verdict"] == "not attempted"]
    if not missing:
        return "<p>Every claim in the ledger was attempted.</p>"
    items = []
    for name in dict.fromkeys(row["experiment"] for row in missing):
        of, claims = experiments[name], [r for r in missing if r["experiment"] == name]
        if not of["profiles"]:
            why = "no such experiment is written"
        elif of.get("runs"):
            why = "; ".join(dict.fromkeys(row["why"] for row in claims))
        else:
            needs = [
                f"{data} ({datasets.get(data, {}).get('tier') or 'made by the notebook'})"
                for data in of["needs"]
            ]
            why = f"it has not been run; it needs {', '.join(needs) or 'no data'}, profile "
            why += " or ".join(of["profiles"])
        listed = ", ".join(f"<code>{escape(row['claim'])}</code>" for row in claims)
        items.append(f"<li><code>{escape(name)}</code>: {escape(why)}. Claims: {listed}.</li>")
    return f"<ul>{''.join(items)}</ul>"


def _data(measured: Mapping[str, Mapping], datasets: Mapping[str, Mapping]) -> str:
    hashes: dict[str, set[str]] = {}
    for of in measured.values():
        for data in of["data"]:
            hashes.setdefault(data["name"], set()).add(data["sha256"] or "made by the notebook")
    lines = []
    for name, found in hashes.items():
        listed = ", ".join(f"<code>{escape(one)}</code>" for one in sorted(found))
        lines.append(f"<dt>{escape(name)}</dt><dd>sha256 {listed}</dd>")
    text = " ".join(hashes)
    for name, of in datasets.items():
        if re.search(rf"\b{re.escape(name)}\b", text):
            about = (of["title"], of["tier"], f"licence: {of['licence']}", of["source"])
            told = ". ".join(" ".join(str(part or "?").split()).rstrip(".") for part in about)
            lines.append(f"<dt>{escape(name)}: what it is</dt><dd>{escape(told)}.</dd>")
    return f'<dl class="facts">{"".join(lines)}</dl>'


def _repeat(paper: str, measured: Mapping[str, Mapping]) -> str:
    lines = ["make .venv", "mtlbook data fetch --all"]
    for profile in dict.fromkeys(of["profile"] for of in measured.values()):
        names = [name for name, of in measured.items() if of["profile"] == profile]
        lines.append(f"mtlbook reproduce --profile {profile} --only {' '.join(names)}")
    lines += ["mtlbook audit --strict", f"mtlbook export report --paper {paper} -o {paper}"]
    versions = dict.fromkeys(v for of in measured.values() for v in of["versions"])
    commits = dict.fromkeys(c for of in measured.values() for c in of["commits"])
    commands = "".join(f'<li><code class="command">{escape(line)}</code></li>' for line in lines)
    return (
        f"<p>In a checkout of the repository:</p><ol>{commands}</ol>"
        "<p>One claim alone: <code>mtlbook rerun CLAIM</code>. The runs were made with "
        f"{escape('; '.join(versions) or 'no versions recorded')}, at commit "
        f"{escape('; '.join(commits) or 'not recorded')}.</p>"
    )
