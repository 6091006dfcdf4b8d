"""The verdicts as a table for the terminal, as JSON, and as a page of the book."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from mtlbook.ledger import repository
from mtlbook.ledger.audit import audit, load_results
from mtlbook.ledger.currency import stale
from mtlbook.ledger.results import Result
from mtlbook.ledger.rules import Answer, Verdict

WIDTH = 110
VERDICTS = get_args(Verdict)
ANSWERS = get_args(Answer)
# Claims of the papers and questions of our own never stand in one table, nor in one count.
GROUPS = {"paper": ("claims of the papers", VERDICTS), "us": ("questions of our own", ANSWERS)}

_KNOWN = {
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
        below them what decided. First the papers' claims, then our questions; the last lines count.
    """
    blocks = [_block([r for r in rows if r["asked_by"] == who], who, committed) for who in GROUPS]
    return "\n\n".join([*filter(None, blocks), summary(rows)])


def _block(
    rows: Sequence[Mapping[str, Any]], asked_by: str, committed: Mapping[str, Mapping] | None
) -> str:
    if not rows:
        return ""
    head = ["claim", "paper", "ours [95 % interval]", "n", "tier"]
    head.append("verdict" if asked_by == "paper" else "answer")
    if committed is not None:
        head[2:3] = ["ours, committed", "your run [95 % interval]"]
    body = []
    for row in rows:
        name = row["claim"].removeprefix(f"{row['paper']}.")
        cells = [name, printed(row), interval(row), str(row["n"]), row["tier"], row["verdict"]]
        if committed is not None:
            before = committed.get(row["claim"])
            cells.insert(2, number(before["ours"], before["printed"]) if before else "-")
        body.append(cells)
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
    return "\n".join([GROUPS[asked_by][0].capitalize(), "", *lines])


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Count the verdicts: those of the papers' claims, then the answers to our questions."""
    lines = []
    for asked_by, (title, verdicts) in GROUPS.items():
        counts = Counter(row["verdict"] for row in rows if row["asked_by"] == asked_by)
        parts = [f"{counts[verdict]} {verdict}" for verdict in verdicts if counts[verdict]]
        if parts:
            lines.append(f"{counts.total()} {title}: " + ", ".join(parts))
    return "; ".join(lines)


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a JSON list."""
    return json.dumps(list(rows), indent=1)  # in ASCII, which any reader's terminal has


def markdown(paper: str | None = None, rows: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Return the verdicts of one paper, or of all, as a Markdown table, one row a claim.

    Parameters
    ----------
    paper : str, optional
        Identifier such as ``"tnrdmtl"``.
    rows : sequence of dict, optional
        As `audit` returns them; by default the committed claims judged by the committed results.

    Returns
    -------
    str
        MyST. A target ``(claim-<id>)=`` a claim stands above the table, and each row has an anchor
        ``#row-<id>``.

    Raises
    ------
    ValueError
        If no claim belongs to `paper`.
    """
    if rows is None:
        data = repository.root() / "data"
        rows = audit(data / "claims", load_results(data / "results"))
    known = ", ".join(sorted({row["paper"] for row in rows}))
    rows = [row for row in rows if paper in (None, row["paper"])]
    if not rows:
        raise ValueError(f"paper: expected one of {known or '(none)'}, got {paper!r}")
    lines = [*(f"(claim-{row['claim']})=" for row in rows), ""]
    for asked_by, (title, _) in GROUPS.items():
        of_group = [row for row in rows if row["asked_by"] == asked_by]
        if not of_group:
            continue
        last = "Verdict" if asked_by == "paper" else "Answer"
        lines += [
            f"**{title.capitalize()}**",
            "",
            f"| Claim | Paper | Ours [95 % interval] | n | Tier | {last} | Experiment |",
            "|---|---|---|---|---|---|---|",
            *map(_markdown_row, of_group),
            "",
        ]
    return "\n".join([*lines, summary(rows), ""])


def _markdown_row(row: Mapping[str, Any]) -> str:
    claim = f'<span id="row-{row["claim"]}"></span>`{row["claim"]}`<br>'
    claim += f"{escape(row['where'])}: {escape(row['statement'])}"
    if row.get("revised"):
        claim += f"<br>*rule revised after the run: {escape(row['revised'])}*"
    tier = escape(row["tier"])
    if row["stand_in"]:
        tier += f"<br>stand-in: {escape(row['stand_in'])}"
    ours = interval(row)
    if row["two_way"] is not None:
        low, high = (number(x, row["printed"]) for x in row["two_way"])
        ours += f"<br>over tasks, too: [{low}, {high}]"
    cells = [
        claim,
        f"{printed(row)}<br>{_KNOWN[row['known']]}",
        f"{ours}<br>{escape(row['unit'])}",
        str(row["n"]),
        tier,
        f"**{row['verdict']}**<br>{escape(row['why'])}",
        code(row["experiment"]),
    ]
    return _table_row(cells)


def readme(rows: Sequence[Mapping[str, Any]], text: str) -> str:
    """Return a README with the verdicts between its ``results:begin`` and ``results:end`` marks.

    First the number of verdicts of every paper, then its headline claims, one line each; and the
    same for questions of our own.
    """
    begin, end = "<!-- results:begin", "<!-- results:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"text: expected one {begin!r} and one {end!r}")
    head, rest = text.split(begin)
    lines = [begin + rest[: rest.index("-->") + 3]]
    for asked_by, (title, verdicts) in GROUPS.items():
        of_group = [row for row in rows if row["asked_by"] == asked_by]
        used = [v for v in verdicts if any(row["verdict"] == v for row in of_group)]
        lines += [f"**{title.capitalize()}**", ""]
        lines.append(_table_row(["paper", "number", *used]))
        lines.append("|---" * (2 + len(used)) + "|")
        for paper in dict.fromkeys(row["paper"] for row in of_group):
            found = Counter(row["verdict"] for row in of_group if row["paper"] == paper)
            counts = [found.total(), *(found[verdict] for verdict in used)]
            lines.append(_table_row([paper.upper(), *map(str, counts)]))
        last = "verdict" if asked_by == "paper" else "answer"
        lines += ["", f"| claim | paper | ours [95 % interval] | n | data, unit | {last} |"]
        lines.append("|---" * 6 + "|")
        for row in of_group:
            if row["headline"]:
                claim = f"{row['paper'].upper()}: {row['statement'].removeprefix('[our control] ')}"
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
    return text.replace("|", "&#124;")


def _formula(text: str) -> str:
    signs = {"<": r"\lt ", ">": r"\gt ", "`": "'", r"\|": r"\Vert ", "|": r"\vert "}
    for character, tex in signs.items():
        text = text.replace(character, tex)
    return text


def printed(row: Mapping[str, Any]) -> str:
    """Return the paper's number, or a word where none is printed."""
    if row["printed"] is not None:
        return row["printed"]
    return {None: "no claim", "digitised": "curve"}.get(row["known"], "text")


def interval(row: Mapping[str, Any]) -> str:
    """Return ``mean [low, high]`` with the decimals of the printed number.

    The mean alone where repeats are too few for an interval.
    """
    if row["ours"] is None:
        return "-"
    if row["low"] is None:
        return number(row["ours"], row["printed"])
    numbers = [row[key] for key in ("ours", "low", "high")]
    # where nothing is printed: two decimals, or four for what two would show as zero
    small = max(abs(x) for x in numbers if x is not None) < 0.1
    like = row["printed"] or ("0.0000" if small else None)
    mean, low, high = (number(x, like) for x in numbers)
    return f"{mean} [{low}, {high}]"


def number(value: float | None, like: str | None) -> str:
    """Format a number with the decimals and the sign of a printed one (default: two decimals)."""
    if value is None:
        return "-"
    decimals = len(like.partition(".")[2]) if like is not None else 2
    sign = "+" if like is not None and like.startswith(("+", "-")) else ""
    return f"{value:{sign}.{decimals}f}"


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
