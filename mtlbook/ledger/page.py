"""The ledger as one HTML page: all claims, from a file, without a server or a network.

The tables are in the page and can be read without JavaScript. With it, ``assets/ledger.js`` filters
and sorts them and opens a claim's chain, from one JSON that is in the page, too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mtlbook.ledger.matrices import Matrix, arrange
from mtlbook.ledger.report import GROUPS, KNOWN, last_column

ASSETS = Path(__file__).resolve().parent / "assets"
_ASKED = {"paper": "the paper", "us": "us"}
TIERS = ("embedded", "fetched", "gated", "none")

#: A verdict or an answer -> how it is marked; the others are marked as open.
MARKS = {
    "reproduced": "held",
    "direction": "sign",
    "yes": "sign",
    "equal within a margin": "equal",
    "refuted at the printed size": "against",
    "opposite": "against",
    "no": "against",
    "calibrated on it": "aside",
    "not comparable": "aside",
    "not attempted": "aside",
}

_HEADS = (
    ("ours", "ours [95 % interval]"),
    ("printed", "paper"),
    ("n", "n"),
    ("verdict", "verdict"),
    ("claim", "claim"),
    ("tier", "data"),
)


def page(chains: Mapping[str, Any], *, book: str | None = None) -> str:
    """Return the ledger page.

    Parameters
    ----------
    chains : dict
        As `mtlbook.ledger.chain.chains` returns it.
    book : str, optional
        The address of the page of the book that explains the words, where there is a book.

    Returns
    -------
    str
        A complete HTML document.
    """
    claims = chains["claims"]
    explained = (
        f'<p><a href="{escape(book)}">What the words mean, and what an interval says</a>.</p>'
        if book
        else ""
    )
    body = f"""\
<header>
<div class="top"><h1>Ledger of claims</h1><button class="theme" type="button" hidden></button></div>
<p>What the papers print, what we measured, and what follows by a rule that was written down
before. Choose, search, sort; open a row for the whole line from the print to the
command that repeats it. Keys: <kbd>/</kbd> search, <kbd>↑</kbd> <kbd>↓</kbd> from row to row,
<kbd>Enter</kbd> opens, <kbd>Esc</kbd> closes.</p>
{explained}
</header>
<main>
<h2>By paper</h2>
<div class="papers">{"".join(_bars(claims, chains["papers"]))}</div>
{_form(claims)}
<p role="status" aria-live="polite"></p>
{"".join(_table(claims, group) for group in GROUPS)}
<section id="matrices"><h2>Matrices</h2>
{"".join(map(_matrix, arrange(claims)[0]))}
</section>
</main>
<script type="application/json" id="ledger-data">{_json(_data(chains))}</script>
<script>
{(ASSETS / "ledger.js").read_text(encoding="utf-8")}</script>"""
    return document("Ledger of claims", body)


def document(title: str, body: str) -> str:
    """Return a complete HTML page that loads nothing."""
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{(ASSETS / "ledger.css").read_text(encoding="utf-8")}</style>
</head>
<body>
{body}
</body>
</html>
"""


def verdict(row: Mapping[str, Any]) -> str:
    """Return a verdict with its mark, as HTML."""
    mark = MARKS.get(row["verdict"], "")
    stand_in = " (stand-in)" if row["stand_in"] else ""
    return f'<span class="verdict {mark}">{escape(row["verdict"])}</span>{stand_in}'


def _data(chains: Mapping[str, Any]) -> dict[str, Any]:
    words = dict.fromkeys(word for _, words in GROUPS.values() for word in words)
    known = {name or "us": text for name, text in KNOWN.items()}
    groups = {group: title for group, (title, _) in GROUPS.items()}
    return {**chains, "words": list(words), "known": known, "groups": groups}


def _json(content: Any) -> str:
    """JSON that no HTML parser takes for anything else, wherever a text has what it looks for."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _bars(claims: Sequence[Mapping], papers: Mapping[str, Mapping]) -> Iterator[str]:
    """Two bars for each paper: its claims, and our questions on it, by verdict."""
    for paper, about in papers.items():
        of_paper = [row for row in claims if row["paper"] == paper]
        bars = "".join(_bar(of_paper, paper, group) for group in GROUPS)
        yield (
            f'<div class="paper"><h3>{escape(about["label"])} '
            f'<span class="quiet">{escape(about["title"])}</span></h3>{bars}</div>'
        )


def _bar(rows: Sequence[Mapping], paper: str, group: str) -> str:
    title, words = GROUPS[group]
    counts = Counter(row["verdict"] for row in rows if row["kind"] == group)
    if not counts:
        return ""
    found = [(word, MARKS.get(word, ""), counts[word]) for word in words if counts[word]]
    bar = "".join(f'<span class="{mark}" style="flex:{count}"></span>' for _, mark, count in found)
    parts = "".join(
        f'<a class="part {mark}" href="#paper={paper}&amp;kind={group}&amp;'
        f'verdict={escape(word.replace(" ", "+"))}">{count} {escape(word)}</a>'
        for word, mark, count in found
    )
    return (
        f'<div class="quiet">{counts.total()} {escape(title)}</div>'
        f'<div class="bar" aria-hidden="true">{bar}</div><div class="parts">{parts}</div>'
    )


def _form(claims: Sequence[Mapping]) -> str:
    def select(name: str, label: str, values: Mapping[str, str]) -> str:
        options = "".join(
            f'<option value="{escape(value)}">{escape(text)}</option>'
            for value, text in values.items()
        )
        return f'<label>{label}<select name="{name}">{options}</select></label>'

    def there(key: str, order: Sequence[str] = ()) -> dict[str, str]:
        found = {row[key] for row in claims}
        ordered = [v for v in order if v in found] or sorted(found)
        return {"": "all", **{value: value for value in ordered}}

    words = list(dict.fromkeys(word for _, words in GROUPS.values() for word in words))
    asked = {key: _ASKED.get(key, GROUPS[key][0]) for key in there("kind", list(GROUPS)) if key}
    papers = {value: text.upper() if value else text for value, text in there("paper").items()}
    return (
        '<form id="filter" role="search" autocomplete="off" hidden>'
        + '<label class="search">search<input type="search" name="q" '
        + 'placeholder="words of a claim, a rule, a reason"></label>'
        + select("paper", "paper", papers)
        + select("kind", "asked by", {"": "all", **asked})
        + select("verdict", "verdict", there("verdict", words))
        + select("tier", "data", there("tier", TIERS))
        + select("view", "shown as", {"": "list", "matrices": "matrices"})
        + '<button type="reset">Reset</button></form>'
    )


def _table(claims: Sequence[Mapping], group: str) -> str:
    rows = [row for row in claims if row["kind"] == group]
    if not rows:
        return ""
    title, last = GROUPS[group][0].capitalize(), last_column(group)
    heads = "".join(
        f'<th scope="col" role="columnheader" data-sort="{key}" aria-sort="none">'
        f"{last if key == 'verdict' else text}</th>"
        for key, text in _HEADS
    )
    return (
        f'<section data-kind="{group}"><table class="claims" role="table">'
        f"<caption><h2>{escape(title)}</h2></caption>"
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(map(_row, rows))}</tbody></table></section>'
    )


def _row(row: Mapping[str, Any]) -> str:
    name = escape(row["claim"])
    cells = (
        f'<td role="cell" class="ours number">{_ours(row)}</td>'
        f'<td role="cell" class="number" data-label="paper">{escape(row["printed_text"])}</td>'
        f'<td role="cell" class="number" data-label="n">{row["n"]}</td>'
        f'<td role="cell" class="verdict-cell">{verdict(row)}</td>'
        f'<th role="rowheader" scope="row"><a class="open" href="#{name}"><code>{name}</code></a>'
        f"<div>{escape(row['statement'])}</div></th>"
        f'<td role="cell" data-label="data">{escape(row["tier"])}</td>'
    )
    return f'<tr class="claim" role="row" id="{name}">{cells}</tr>\n'


def _ours(row: Mapping[str, Any]) -> str:
    mean, text = row["ours_text"], row["interval_text"]
    return f"<b>{escape(mean)}</b>{escape(text.removeprefix(mean))}"


def _matrix(matrix: Matrix) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in matrix.columns)
    lines = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(map(_matrix_cell, line))}</tr>'
        for label, line in matrix.lines
    )
    who = GROUPS[matrix.kind][0]
    title = f"{matrix.paper.upper()}, {matrix.family}: {who}".replace(", *", "")
    return (
        f'<div class="scroll" data-matrix="{matrix.kind}" data-paper="{escape(matrix.paper)}">'
        f'<table class="matrix"><caption>{escape(title)}</caption>'
        f'<thead><tr><th scope="col">comparison</th>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>\n"
    )


def _matrix_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "<td></td>"
    paper = f'<br><span class="quiet">paper {escape(row["printed_text"])}</span>'
    return (
        f'<td class="number"><a href="#{escape(row["claim"])}">{verdict(row)}</a><br>{_ours(row)}'
        f"{paper if row['printed'] is not None else ''}</td>"
    )
