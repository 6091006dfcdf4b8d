"""The verdicts as a table for the terminal, as JSON, and in the README."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from mtlbook.ledger.currency import stale
from mtlbook.ledger.numbers import MINUS, interval, mean, printed
from mtlbook.ledger.results import Result
from mtlbook.ledger.rules import Answer, Verdict

WIDTH = 110
VERDICTS = get_args(Verdict)
ANSWERS = get_args(Answer)
# By kind. Claims of the papers, single numbers of their tables and questions of our own
# never stand in one table, nor in one count.
GROUPS = {
    "paper": ("claims of the papers", VERDICTS),
    "cell": ("single printed numbers", VERDICTS),
    "us": ("questions of our own", ANSWERS),
}


def kind(row: Mapping[str, Any]) -> str:
    """The key in `GROUPS` of a verdict."""
    return row.get("kind") or row["asked_by"]


def last_column(group: str) -> str:
    """What a verdict of a group is called."""
    return "answer" if group == "us" else "verdict"


KNOWN = {
    "printed": "printed",
    "digitised": "digitised",
    "derived": "derived",
    "memory": "from memory",
    None: "our control",
}


def table(rows: Sequence[Mapping[str, Any]], committed: Mapping[str, Mapping] | None = None) -> str:
    """Lay out verdicts as aligned text of at most 110 columns.

    Parameters
    ----------
    rows : sequence of dict
        As `audit` returns them.
    committed : mapping of str to dict, optional
        Rows of the committed results by claim; their values then stand beside these.

    Returns
    -------
    str
        A block a claim: id, the paper's value, ours with its interval, repeats, tier and verdict;
        below them what decided. First the papers' claims, then single printed numbers, then our
        questions; the last lines count.
    """
    blocks = [_block([r for r in rows if r["kind"] == kind], kind, committed) for kind in GROUPS]
    return "\n\n".join([*filter(None, blocks), summary(rows)])


def _block(
    rows: Sequence[Mapping[str, Any]], kind: str, committed: Mapping[str, Mapping] | None
) -> str:
    if not rows:
        return ""
    head = ["claim", "paper", "ours [95 % interval]", "n", "tier"]
    head.append("answer" if kind == "us" else "verdict")
    if committed is not None:
        head[2:3] = ["ours, committed", "your run [95 % interval]"]
    body = []
    for row in rows:
        name = row["claim"].removeprefix(f"{row['paper']}.")
        cells = [name, printed(row), interval(row), str(row["n"]), row["tier"], row["verdict"]]
        if committed is not None:
            before = committed.get(row["claim"])
            cells.insert(2, mean(before) if before else "-")
        body.append([cell.replace(MINUS, "-") for cell in cells])  # a terminal may not have it
    widths = [max(len(line[c]) for line in [head, *body]) for c in range(len(head))]
    # The first column gives way: ids are the only cells that can be long.
    widths[0] = min(widths[0], max(12, WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    lines = [_align([head[0], *head[1:]], widths), _align(["-" * w for w in widths], widths)]
    for row, cells in zip(rows, body, strict=True):
        name, *more = textwrap.wrap(cells[0], widths[0], break_on_hyphens=True) or [""]
        lines.append(_align([name, *cells[1:]], widths))
        lines += more
        notes = row["why"] + (f"; stand-in: {row['stand_in']}" if row["stand_in"] else "")
        if row.get("stale"):
            notes += f"; not current: {', '.join(row['stale'])}"
        lines += textwrap.wrap(notes, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([GROUPS[kind][0].capitalize(), "", *lines])


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Count the verdicts: the papers' claims, single printed numbers, answers to our questions."""
    lines = []
    for kind, (title, verdicts) in GROUPS.items():
        counts = Counter(row["verdict"] for row in rows if row["kind"] == kind)
        parts = [f"{counts[verdict]} {verdict}" for verdict in verdicts if counts[verdict]]
        if parts:
            lines.append(f"{counts.total()} {title}: " + ", ".join(parts))
    return "; ".join(lines)


def text_table(lines: Sequence[Sequence[str]]) -> str:
    """Lay out a table for the terminal; its first row is the head."""
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    return "\n".join(_align(line, widths) for line in lines)


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table, its first row the head, as Markdown; cells are Markdown already."""
    head, *body = map(_table_row, lines)
    return "\n".join([head, "|---" * len(lines[0]) + "|", *body])


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a JSON list, in ASCII: a terminal or a pipe may have any encoding."""
    return json.dumps(list(rows), indent=1)


def readme(rows: Sequence[Mapping[str, Any]], text: str) -> str:
    """Return a README with the verdicts between its ``results:begin`` and ``results:end`` marks.

    First the number of verdicts of every paper, then its headline claims, one line each; and the
    same for single printed numbers, which have no headline, and questions of our own.
    """
    begin, end = "<!-- results:begin", "<!-- results:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"text: expected one {begin!r} and one {end!r}")
    head, rest = text.split(begin)
    lines = [begin + rest[: rest.index("-->") + 3]]
    for kind, (title, verdicts) in GROUPS.items():
        of_group = [row for row in rows if row["kind"] == kind]
        if kind == "cell" and not of_group:
            continue
        used = [v for v in verdicts if any(row["verdict"] == v for row in of_group)]
        lines += [f"**{title.capitalize()}**", ""]
        lines.append(_table_row(["paper", "number", *used]))
        lines.append("|---" * (2 + len(used)) + "|")
        for paper in dict.fromkeys(row["label"] for row in of_group):
            found = Counter(row["verdict"] for row in of_group if row["label"] == paper)
            counts = [found.total(), *(found[verdict] for verdict in used)]
            lines.append(_table_row([paper, *map(str, counts)]))
        lines.append("")
        if kind == "cell":
            continue
        last = "verdict" if kind == "paper" else "answer"
        lines.append(f"| claim | paper | ours [95 % interval] | n | data, unit | {last} |")
        lines.append("|---" * 6 + "|")
        for row in of_group:
            if row["headline"]:
                claim = f"{row['label']}: {row['statement'].removeprefix('[our control] ')}"
                on = ", ".join(filter(None, (row["data"], row["unit"])))
                verdict = row["verdict"] + (" (stand-in)" if row["stand_in"] else "")
                cells = [claim, printed(row), interval(row), str(row["n"]), on, verdict]
                lines.append(_table_row(cells))
        lines.append("")
    return head + "\n".join([*lines[:-1], end]) + rest.split(end)[1]


def escape(text: str) -> str:
    """Return a text such that Markdown (MyST, GitHub's) shows it as it is, in one line.

    HTML, roles, links, emphasis, code and bars come out as text, also in a table; ``$…$`` stays a
    formula, in which nothing but TeX is left.
    """
    parts = re.split(r"(\$(?=\S)[^$]*?(?<=\S)\$(?!\d))", " ".join(text.split()))
    return "".join(_formula(p) if i % 2 else _plain(p) for i, p in enumerate(parts))


def code(text: str) -> str:
    """Return a text as Markdown's code."""
    return "`" + " ".join(text.split()).replace("`", "'") + "`"


def _plain(text: str) -> str:
    """Take their meaning from the characters that have one; ``MRN_t`` and ``[note]`` have none."""
    text = re.sub(r"&(?=#?\w+;)", r"\\&", re.sub(r"[\\`*{}<~^$]", r"\\\g<0>", text))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])|\](?=[\[({:])", r"\\\g<0>", text)
    text = re.sub(r"(?:(?<=[\s\[(])|^)-(?=\d)", MINUS, text)
    return text.replace("|", "&#124;")


def _formula(text: str) -> str:
    signs = {"<": r"\lt ", ">": r"\gt ", "`": "'", r"\|": r"\Vert ", "|": r"\vert "}
    for character, tex in signs.items():
        text = text.replace(character, tex)
    return text


def _table_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def provenance(results: Mapping[str, Result], prefix: str) -> str:
    """Markdown: under which conditions each result whose name begins so was measured.

    Parameters
    ----------
    results : mapping of experiment to Result
        All that are committed: the tunings that a result used are looked up among them.
    prefix : str
    """
    lines = [
        "| result | data (sha256) | version | machine | versions | runs, time | current |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        if not name.startswith(prefix):
            continue
        hashes, names = result.data.get("sha256") or "", result.data.get("name") or ""
        hashes, names = ([x] if isinstance(x, str) else x for x in (hashes, names))
        data = escape(", ".join(map(str, names)))
        data += ", " + ", ".join(f"`{h[:12]}…`" if h else "generated" for h in hashes)
        version = ", ".join(f"{study} {number}" for study, number in result.numerics.items())
        reasons = stale(result, results)
        machines: dict[tuple[str, str], list[Mapping]] = {}
        for of in result.provenance.get("runs", [result.provenance]):
            processor = of.get("device_name") or of.get("platform", {}).get("processor", "?")
            torch = of.get("packages", {}).get("torch", "?")
            key = (f"{processor} ({of.get('device', '?')})", f"torch {torch}, {of.get('python')}")
            machines.setdefault(key, []).extend(of.get("of", {"all": of}).values())
        for (machine, versions), runs in machines.items():
            minutes = sum(run.get("wall_seconds", 0) for run in runs) / 60
            cells = [
                code(name),
                data,
                escape(version),
                escape(machine),
                escape(versions),
                f"{len(runs)}, {minutes:.0f} min",
                escape("; ".join(reasons)) or "yes",
            ]
            lines.append(_table_row(cells))
    return "\n".join(lines) if len(lines) > 2 else "Nothing has been run yet."
