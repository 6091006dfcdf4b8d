"""The report of a comparison: one HTML file that needs nothing else, and the same as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mtlbook.comparison.arms import CANDIDATES
from mtlbook.comparison.judging import Judgement, Row, chosen
from mtlbook.ledger import numbers
from mtlbook.ledger.results import Result
from mtlbook.ledger.statistics import Interval

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --good: #1b7f5c; --bad: #b3401f; }
@media (prefers-color-scheme: dark) { :root { --good: #5fd3a8; --bad: #ff9a76; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .text { text-align: left; } thead th { vertical-align: bottom; }
.helps { color: var(--good); font-weight: 600; } .hurts { color: var(--bad); font-weight: 600; }
.advice { border: 2px solid var(--line); padding: .5rem 1rem; } small { opacity: .8; }
pre { background: var(--soft); padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; } .whole { white-space: nowrap; }
svg text { fill: currentColor; }
.relation td, .relation th { text-align: center; min-width: 3rem; border: 0; }
.relation th:first-child { text-align: right; }
"""
UNITS = {
    "cross_entropy": "accuracy in percent",
    "mse": "explained variance in percent (100 is perfect)",
    "bce": "accuracy in percent",
}
PAIRS = 30  # tasks at most of which the whole matrix is shown


def number(x: float, digits: int = 2) -> str:
    """As the ledger writes numbers."""
    return numbers.number(x, f"0.{'0' * digits}")


def signed(x: float, digits: int = 2) -> str:
    return numbers.number(x, f"0.{'0' * digits}", signed=True)


def span(interval: Interval | None, digits: int = 2) -> str:
    if interval is None:
        return ""
    return f"[{signed(interval.low, digits)}, {signed(interval.high, digits)}]"


def as_text(judgement: Judgement) -> str:
    """The table and the advice, for a terminal."""
    lines = [f"{'arm':<13} {'score':>7} {'gain':>7}  {'95 % interval':<18} verdict"]
    for row in judgement.rows:
        gain = "" if row.gain is None else signed(row.gain.mean)
        lines.append(
            f"{row.arm:<13} {number(row.mean.mean):>7} {gain:>7}  {span(row.gain):<18} "
            f"{_verdict(row)}"
        )
    lines += [f"{arm:<13} diverged in {n} repeats" for arm, n in judgement.failed.items()]
    return "\n".join([*lines, "", f"take: {judgement.advised}; {judgement.reason}"])


def _verdict(row: Row) -> str:
    if row.verdict != "undecided" or row.needed is None:
        return row.verdict
    if row.needed > 1000:
        return "undecided (no number of samples in sight would decide)"
    times = float(f"{max(row.needed, 1.1):.2g}")  # two digits, and no exponent
    return f"undecided (about {times:g} times the samples would decide)"


def as_html(
    result: Result,
    judgement: Judgement,
    notes: Sequence[str],
    found: Sequence[str],
    command: str,
    code: str,
) -> str:
    """The report.

    Parameters
    ----------
    result : Result
    judgement : Judgement
    notes, found : sequence of str
        What was assumed when the data were read, and what the checks found.
    command : str
        That repeats the comparison.
    code : str
        That trains the advised arm.
    """
    data, settings = result.data, result.settings
    repeats = judgement.rows[0].mean.n
    title = f"Which method for {data['name']}?"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{data['tasks']} tasks, {data['examples']} samples; {data['train']} to learn from, "
        f"{data['validation']} to choose numbers with, {data['test']} to test on; {repeats} random "
        f"splits. Score: {UNITS[settings['loss']]}, each task counting the same. A guess without "
        f"any inputs would score {number(settings['guess'])}.</p>",
        f'<p class="advice">Take <strong>{escape(judgement.advised)}</strong> '
        f"({escape(CANDIDATES[judgement.advised].title)}): {escape(judgement.reason)}.</p>",
        "<h2>What helps, and by how much</h2>",
        _picture(judgement.rows),
        _table(judgement),
        _legend(judgement, repeats, result.parameters),
        *_left_out(settings["left_out"]),
        *_relation(result, judgement),
        *_tasks(result, judgement),
        *_list("What was found in the data", found),
        *_list("What was assumed", notes),
        "<h2>Train it</h2>",
        f"<pre><code>{escape(code)}</code></pre>",
        "<h2>Repeat all this</h2>",
        f"<pre><code>{escape(command)}</code></pre>",
        _protocol(result),
    ]
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def _legend(judgement: Judgement, repeats: int, parameters: Mapping[str, Any]) -> str:
    wider = number(math.sqrt(1 + repeats * judgement.ratio), 1)
    search = (
        f"Numbers were chosen once, among one draw of {parameters['trials']} settings for each "
        "arm: the intervals do not hold the luck of that search, which may turn a sign. (With "
        "<code>--anew</code> they do: numbers are then chosen for every split by itself.)"
    )
    if parameters.get("anew"):
        search = (
            "For every split numbers were chosen anew, among other settings and after training on "
            "what it learns from: the intervals hold the luck of the search. Gains are those of "
            "searching so; the settings of the code below, which validation liked best of all "
            "searches, have not been tested by themselves."
        )
    return (
        "<p><small>Gain: over single-task learning, in points, paired over the splits. The "
        "interval is for other samples of these tasks (Nadeau and Bengio 2003): splits of one data "
        f"set share samples, so it is {wider} times as wide as one for these samples alone. "
        f"{search} An arm "
        "helps or hurts if its interval leaves out 0; it is equal if the interval stays within "
        f"±{judgement.margin:g}; else undecided. p has Holm's correction for all arms. Advised is "
        "the simplest arm whose mean is within the same margin of the best mean. It was chosen on "
        "the scores that the table shows, so it looks a little better than it is.</small></p>"
    )


def _table(judgement: Judgement) -> str:
    head = ("score", "gain", "95 % interval", "p", "worst task", "loss", "seconds")
    rows = []
    for row in judgement.rows:
        cells = [
            f"<td><code>{escape(row.arm)}</code><br><small>{escape(row.title)}</small></td>",
            f'<td class="text {row.verdict}">{escape(_verdict(row))}</td>',
            f"<td>{number(row.mean.mean)}</td>",
            f"<td>{'' if row.gain is None else signed(row.gain.mean)}</td>",
            f'<td class="whole">{span(row.gain)}</td>',
            f"<td>{'' if row.gain is None else number(row.p, 3)}</td>",
            f"<td>{'' if row.gain is None else signed(row.worst)}</td>",
            f"<td>{number(row.loss, 3)}</td>",
            f"<td>{number(row.seconds)}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    for arm, n in judgement.failed.items():
        rows.append(
            f'<tr><td><code>{escape(arm)}</code></td><td class="text" colspan="8">diverged in {n} '
            "repeats</td></tr>"
        )
    cells = '<th scope="col">arm</th><th scope="col" class="text">verdict</th>'
    cells += "".join(f'<th scope="col">{name}</th>' for name in head)
    return (
        f'<div class="wide"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _picture(rows: Sequence[Row]) -> str:
    """Gains as dots with their intervals, all whole."""
    shown = [row for row in rows if row.gain is not None]
    if not shown:
        return ""
    low = min(0.0, *(row.gain.low for row in shown))
    high = max(0.0, *(row.gain.high for row in shown))
    width, left, pitch = 640, 130, 24
    scale = (width - left - 20) / ((high - low) or 1)

    def x(value: float) -> float:
        return round(left + (value - low) * scale, 1)

    height = pitch * len(shown) + 40
    parts = [f'<line x1="{x(0)}" y1="0" x2="{x(0)}" y2="{height - 28}" stroke="currentColor"/>']
    for i, row in enumerate(shown):
        y = pitch * i + 16
        label = f"{row.arm}: {signed(row.gain.mean)} {span(row.gain)}, {row.verdict}"
        colour = {"helps": "var(--good)", "hurts": "var(--bad)"}.get(row.verdict, "currentColor")
        parts.append(
            f'<g stroke="{colour}" fill="{colour}"><title>{escape(label)}</title>'
            f'<line x1="{x(row.gain.low)}" y1="{y}" x2="{x(row.gain.high)}" y2="{y}" '
            f'stroke-width="2"/><circle cx="{x(row.gain.mean)}" cy="{y}" r="4"/></g>'
            f'<text x="{left - 12}" y="{y + 5}" text-anchor="end" font-size="14">'
            f"{escape(row.arm)}</text>"
        )
    for value in sorted({low, 0.0, high}):
        parts.append(
            f'<text x="{x(value)}" y="{height - 8}" text-anchor="middle" font-size="13">'
            f"{signed(value, 1)}</text>"
        )
    return (
        f'<div class="wide"><svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="Gains over single-task learning, in points">{"".join(parts)}</svg></div>'
    )


def _left_out(left_out: dict[str, str]) -> list[str]:
    if not left_out:
        return []
    items = "".join(
        f"<li><code>{escape(arm)}</code>: {escape(why)}</li>" for arm, why in left_out.items()
    )
    return ["<h2>Not tried here</h2>", f"<ul>{items}</ul>"]


def _relation(result: Result, judgement: Judgement) -> list[str]:
    """The relation that the advised arm has learned, or else MRN_t, in the first repeat."""
    for arm in (judgement.advised, "mrn-t", "mtrl", "laf", "stl"):
        curve = result.curves.get(f"relation/{arm}/0")
        if curve is not None:
            break
    else:
        return []
    names, matrix = result.settings["names"], curve["matrix"]
    meaning = escape(curve["meaning"]).replace("-1", "−1")
    head = f"<h2>What {escape(arm)} holds of the tasks</h2><p>{meaning}</p>"
    if len(names) > PAIRS:
        pairs = sorted(
            ((matrix[i][j], names[i], names[j]) for i in range(len(names)) for j in range(i)),
            key=lambda pair: pair[0],
        )
        items = "".join(
            f"<li>{escape(a)} and {escape(b)}: {signed(v)}</li>"
            for v, a, b in [*pairs[:-6:-1], *pairs[:5]]
        )
        return [head, f"<p>The most and the least related pairs.</p><ul>{items}</ul>"]
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for name, line in zip(names, matrix, strict=True):
        cells = "".join(
            f'<td style="background: {_colour(value)}">{signed(value)}</td>' for value in line
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    table = f"<tr><th></th>{columns}</tr>{''.join(rows)}"
    return [head, f'<div class="wide"><table class="relation">{table}</table></div>']


def _colour(value: float) -> str:
    """Blue for related, orange for opposed: safe for the colour-blind, readable on any page."""
    strength = min(1.0, abs(value)) * 0.6
    return f"rgb({'42 120 200' if value >= 0 else '220 120 30'} / {strength:.2f})"


def _tasks(result: Result, judgement: Judgement) -> list[str]:
    rows = {row.arm: row for row in judgement.rows}
    shown = [rows["stl"], *([rows[judgement.advised]] if judgement.advised != "stl" else [])]
    best = max(judgement.rows, key=lambda row: row.mean.mean)
    if best not in shown:
        shown.append(best)
    cells = "".join(f'<th scope="col">{escape(row.arm)}</th>' for row in shown)
    body = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{number(row.per_task[t])}</td>" for row in shown)
        + "</tr>"
        for t, name in enumerate(result.settings["names"])
    )
    table = f"<thead><tr><th>task</th>{cells}</tr></thead><tbody>{body}</tbody>"
    whole = f'<div class="wide"><table>{table}</table></div>'
    if len(result.settings["names"]) > PAIRS:
        whole = f"<details><summary>all tasks</summary>{whole}</details>"
    return ["<h2>Task by task</h2>", whole]


def _list(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    return [f"<h2>{title}</h2>", f"<ul>{''.join(f'<li>{escape(x)}</li>' for x in items)}</ul>"]


def _protocol(result: Result) -> str:
    p, trials = result.parameters["protocol"], result.parameters["trials"]
    names = dict.fromkeys(key.partition("/")[0] for key in result.settings["chosen"])
    settings = {arm: chosen(result, arm) for arm in names}
    table = "".join(
        f"<tr><td><code>{escape(arm)}</code></td><td class='text'>"
        f"{escape(', '.join(f'{name} {value}' for name, value in of.items()))}</td></tr>"
        for arm, of in settings.items()
    )
    made = result.provenance
    trained, title = "the training parts of two further splits", "What was chosen"
    if result.parameters.get("anew"):
        trained = "the training part of each split, anew for each"
        title = "What validation liked best of all searches"
    versions = ", ".join(f"{k} {v}" for k, v in made.get("packages", {}).items())
    return (
        f"<p>Network: {escape(p['network'])}, {p['steps']} steps of SGD with momentum "
        f"{p['momentum']}, batches of {p['batch_size']} per task. Every arm chose among {trials} "
        f"settings, drawn at random, on the validation part, after training on {trained}.</p>"
        f"<details><summary>{title}</summary><div class='wide'><table>"
        f"{table}</table></div></details>"
        f"<p><small>mtlbook {escape(str(made.get('mtlbook', '')))}; {escape(versions)}</small></p>"
    )
