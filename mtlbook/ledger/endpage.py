"""The page at the end of `mtlbook reproduce`: in a terminal, and the same as HTML.

:func:`blocks` says everything once, as sentences and tables; :func:`terminal` and :func:`html` only
lay it out. A cell may have a short form, which a terminal shows and explains below the table, and a
detail, for which HTML alone has room.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from mtlbook.ledger.agreement import TOLERANCE
from mtlbook.ledger.report import ANSWERS, VERDICTS
from mtlbook.ledger.summary import NOT_RUN, Headline, Paper, Summary

SHORT = {
    "reproduced": "rep",
    "direction": "dir",
    "refuted at the printed size": "ref",
    "opposite": "opp",
    "undecided": "und",
    "calibrated on it": "cal",
    "not comparable": "n/c",
    NOT_RUN: "-",
    "equal within a margin": "eq",
}
#: Of our questions, which have these words in common with claims.
OPEN = {"undecided": "question undecided", NOT_RUN: "question not run"}
#: What a verdict is called beside a value, where there is little room.
BRIEF = {
    "refuted at the printed size": "refuted",
    "calibrated on it": "calibrated",
    "not comparable": "no size",
    "equal within a margin": "equal",
}


@dataclass(frozen=True)
class Cell:
    """What a table says in one place; code where it is an identifier."""

    text: str
    short: str | None = None
    detail: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table; ``left`` are the columns of words, the others are numbers."""

    title: str
    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    left: Sequence[int]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Sentences:
    """A title and sentences, in which ```commands``` stand between backticks."""

    title: str
    lines: Sequence[str]


Block = Table | Sentences


def blocks(summary: Summary) -> list[Block]:
    """Everything that the page says, in order; empty parts are left out."""
    asked = f"{summary.finished} of {summary.asked} runs finished"
    parts: list[Block] = [Sentences(f"Your runs, profile {summary.profile}: {asked}", [])]
    if summary.papers:
        parts.append(_papers(summary.papers))
    if summary.headlines:
        parts.append(_headlines(summary.headlines))
    found = [
        Sentences("Your runs and the committed ones", list(_agreement(summary))),
        Sentences("Failed", [f"{name}" for name in summary.failed]),
        Sentences("Skipped, the data are not here", list(_missing(summary))),
        Sentences("More", [f"`{path}`: {what}" for path, what in summary.files.items()]),
    ]
    return parts + [part for part in found if part.lines]


def _papers(papers: Sequence[Paper]) -> Table:
    head, columns = [Cell("paper")], []
    for asked_by, verdicts in (("paper", VERDICTS), ("us", ANSWERS)):
        for verdict in (*verdicts, NOT_RUN):
            if any(paper.counts[asked_by][verdict] for paper in papers):
                columns.append((asked_by, verdict))
                text = OPEN.get(verdict, verdict) if asked_by == "us" else verdict
                head.append(Cell(text, SHORT.get(verdict, verdict)))
    head += [
        Cell("as committed", "same"),
        Cell("other than committed", "new"),
        Cell("on runs of other settings", "oth"),
    ]
    rows = [
        [
            Cell(paper.paper.upper()),
            *(Cell(str(paper.counts[who][verdict])) for who, verdict in columns),
            *(Cell(str(len(of))) for of in (paper.same, paper.changed, paper.elsewhere)),
        ]
        for paper in papers
    ]
    return Table(
        "Verdicts on your runs: claims of the papers, then our questions", head, rows, (0,)
    )


def _headlines(headlines: Sequence[Headline]) -> Table:
    head = [Cell("claim"), Cell("paper"), Cell("committed", "ours"), Cell("yours [95 % interval]")]
    rows = [
        [
            Cell(line.claim, detail=line.statement, code=True),
            Cell(line.paper.replace("no claim", "-")),
            Cell(line.committed or "-"),
            Cell(line.yours or "-"),
            Cell(_verdict(line)),
        ]
        for line in headlines
    ]
    notes = []
    if any(line.verdict is None and line.before for line in headlines):
        notes.append("(in brackets): the committed verdict, not run here.")
    if any(line.verdict and not line.same_runs for line in headlines):
        notes.append("*: on runs of other settings than the committed ones, or on fewer.")
    return Table("Headline claims", [*head, Cell("verdict")], rows, (0, 3, 4), notes)


def _verdict(line: Headline) -> str:
    before = BRIEF.get(line.before, line.before)
    if line.verdict is None:
        return f"({before})" if before else NOT_RUN
    verdict = BRIEF.get(line.verdict, line.verdict)
    if not line.same_runs:
        return f"{verdict}*"
    return verdict if line.verdict == line.before else f"{verdict}, was {before}"


def _agreement(summary: Summary) -> Iterable[str]:
    of = summary.agreement
    if of.same:
        yield (
            f"{_count(of.same, 'run')} of committed settings: every number agrees within "
            f"{100 * TOLERANCE:g} %."
        )
    for name, found in list(of.differing.items())[:3]:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        yield f"`{name}` differs: {found[0]}{more}."
    if (more := len(of.differing) - 3) > 0:
        yield f"{more} more runs differ."
    if of.elsewhere:
        yield (
            f"{_count(of.elsewhere, 'run')} of settings that are not committed in this form: "
            "nothing to compare."
        )
    changed = [claim for paper in summary.papers for claim in paper.changed]
    if changed:
        named = ", ".join(changed[:6]) + (f" and {len(changed) - 6} more" * (len(changed) > 6))
        yield f"Another verdict than committed: {named}."
    if summary.verdicts and not summary.unsound:
        yield f"All {summary.verdicts} committed verdicts follow from the committed results."
    for line in summary.unsound[:3]:
        yield f"Does not follow from the committed results: {line}."


def _missing(summary: Summary) -> Iterable[str]:
    for one in summary.missing:
        of = f"{_count(one.experiments, 'experiment')}, {one.runs} runs"
        first = ", after what `mtlbook data list` says" if one.by_hand else ""
        yield f"{one.data} ({of}): `{one.command}`{first}"


def _count(of: Sequence, what: str) -> str:
    return f"{len(of)} {what}{'s' * (len(of) != 1)}"


# ---------------------------------------------------------------- in a terminal


def terminal(summary: Summary, width: int = 80) -> str:
    """The page as text of at most ``width`` columns; where a table is wider, a paragraph a row."""
    parts = []
    for block in blocks(summary):
        lines = textwrap.wrap(block.title, width)
        if isinstance(block, Sentences):
            for line in block.lines:
                lines += _wrap(line.replace("`", ""), width, "  ")
        else:
            aligned = _aligned(block, width)
            lines += aligned or _listed(block, width)
            lines += _wrap(
                " ".join([*(_legend(block) if aligned else []), *block.notes]), width, "  "
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _aligned(table: Table, width: int) -> list[str]:
    """The table in columns, of which the first gives way; empty if there is no room."""
    lines = [[cell.short or cell.text for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(table.head))]
    last = len(widths) - 1
    if last in table.left and sum(widths) + last > width:  # words, which go on in the next line
        widths[last] = min(
            widths[last], max(len(word) for row in lines for word in row[last].split())
        )
    room = width - sum(widths[1:]) - len(widths) + 1
    widths[0] = min(widths[0], room)
    if room < 12 and widths[0] < max(len(line[0]) for line in lines):
        return []
    found = []
    for line in lines:
        first = re.sub(r"(?<=[.-])", " ", line[0])  # where an identifier may go on in the next line
        stacks = [_fold(first, widths[0]), *([text] for text in line[1:])]
        if last in table.left:
            stacks[last] = textwrap.wrap(line[last], widths[last]) or [""]
        for row in range(max(map(len, stacks))):
            cells = [stack[row] if row < len(stack) else "" for stack in stacks]
            aligned = [
                cell.ljust(w) if c in table.left else cell.rjust(w)
                for c, (cell, w) in enumerate(zip(cells, widths, strict=True))
            ]
            found.append(" ".join(aligned).rstrip())
    return found


def _legend(table: Table) -> list[str]:
    short = {c.short: c.text for c in reversed(table.head) if c.short not in (None, c.text)}
    told = [f"{each} {text}" for each, text in reversed(short.items())]
    return ["; ".join(told) + "."] if told else []


def _fold(text: str, width: int) -> list[str]:
    """Text with a blank wherever it may be broken, without the blanks, in lines of a width."""
    lines, line = [], ""
    for part in text.split():
        if line and len(line) + len(part) > width:
            lines.append(line)
            line = " " + part
        else:
            line += part
    return [*lines, line]


def _listed(table: Table, width: int) -> list[str]:
    """A paragraph a row, for a narrow terminal; zeros, of which there are many, are left out."""
    lines = []
    for row in table.rows:
        told = [
            f"{head.text} {cell.text}"
            for head, cell in zip(table.head[1:], row[1:], strict=True)
            if cell.text not in ("0", "-")
        ]
        lines += _wrap(f"{row[0].text}: {', '.join(told) or 'nothing'}", width, "  ")
    return lines


def _wrap(text: str, width: int, indent: str) -> list[str]:
    options = {"break_on_hyphens": False, "break_long_words": False}
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=2 * indent, **options
    )


# ---------------------------------------------------------------- as HTML

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .3rem; text-align: right; vertical-align: top; }
th { font-size: .75rem; line-height: 1.2; vertical-align: bottom; }
thead { border-bottom: 1px solid var(--line); }
td { border-bottom: 1px solid var(--soft); }
.word { text-align: left; } small { display: block; opacity: .75; max-width: 30rem; }
code { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } p { margin: .3rem 0; }
@media (max-width: 40rem) {
  thead { display: none; } table, tbody, tr, td { display: block; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td { border: 0; padding: .1rem 1rem .1rem 0; text-align: left; }
  td:not(.word) { display: inline-block; }
  td[data-head]::before { content: attr(data-head) ": "; opacity: .75; }
  td.zero { display: none; }
}
"""


def html(summary: Summary) -> str:
    """The page as one file of HTML: nothing loads from elsewhere; light, dark, wide, narrow."""
    first, *others = blocks(summary)
    title = escape(first.title)
    body = [f"<h1>{title}</h1>"]
    for block in others:
        body.append(f"<h2>{escape(block.title)}</h2>")
        if isinstance(block, Sentences):
            body += [f"<p>{_marked(line)}</p>" for line in block.lines]
        else:
            body += _table(block)
            body += [f"<p>{_marked(note)}</p>" for note in block.notes]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _table(table: Table) -> list[str]:
    def cell(tag: str, c: int, content: Cell) -> str:
        name = f' class="{_kind(table, c, content)}"' if _kind(table, c, content) else ""
        of = f' data-head="{escape(table.head[c].text)}"' if tag == "td" and c else ""
        text = escape(content.text)
        text = f"<code>{text}</code>" if content.code else text
        detail = f"<small>{escape(content.detail)}</small>" if content.detail else ""
        return f"<{tag}{name}{of}>{text}{detail}</{tag}>"

    def line(tag: str, cells: Sequence[Cell]) -> str:
        return "<tr>" + "".join(cell(tag, c, content) for c, content in enumerate(cells)) + "</tr>"

    return [
        '<div class="wide"><table>',
        f"<thead>{line('th', table.head)}</thead>",
        "<tbody>",
        *(line("td", row) for row in table.rows),
        "</tbody></table></div>",
    ]


def _kind(table: Table, column: int, cell: Cell) -> str:
    return "word" if column in table.left else "zero" if cell.text == "0" else ""


def _marked(text: str) -> str:
    """What stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
