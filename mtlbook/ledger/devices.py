"""``data/gpu/``: what ``make gpu`` has measured on a device, as tables of the book.

A file holds the device, the day and the versions, and sections of rows: one for each method or law.
What failed on the device stands in it with its traceback, what its budget of time cut off by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from mtlbook.ledger.files import read_json
from mtlbook.ledger.numbers import MINUS, number
from mtlbook.ledger.report import code, escape, markdown_table

SCHEMA = 1
FOLDER = "data/gpu"
#: What a row of a section holds.
ROWS: dict[str, tuple[str, ...]] = {
    "methods": ("setting", "bare_ms", "ms", "ratio", "peak", "bare_peak", "waits", "update_every"),
    "agreement": ("float32", "float64"),
    "growth": ("tasks", "ms", "kernels"),
    "laws": ("size", "theory", "sizes", "ms", "cpu_ms", "time", "cpu_time", "time_theory"),
    "determinism": ("equal", "loss", "weights"),
    "table": ("metric", "repeats", "cpu", "device", "difference"),
    "compiled": ("eager", "compiled", "ratio"),
}
FACTS = {"device": str, "day": str, "torch": str, "quick": bool, "settings": dict, "sections": dict}
Measured = Mapping[str, Any]


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a file of ``data/gpu``.

    Raises
    ------
    ValueError
        If it is not what ``benchmarks/gpu.py`` writes, or a rehearsal; with the file's name, what
        was expected and what came.
    """
    path = Path(path)

    def refuse(expected: str, got: Any) -> ValueError:
        return ValueError(f"{path.name}: expected {expected}, got {got}; write it with: make gpu")

    try:
        found = read_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise refuse("JSON with finite numbers", error) from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        schema = found.get("schema") if isinstance(found, dict) else type(found).__name__
        raise refuse(f"measurements of schema {SCHEMA}", schema)
    for name, kind in FACTS.items():
        if not isinstance(found.get(name), kind):
            raise refuse(f"a {kind.__name__} under {name!r}", repr(found.get(name)))
    if found["quick"]:
        raise refuse("a measurement", "a rehearsal (--quick)")
    for name, section in found["sections"].items():
        if name not in ROWS:
            raise refuse(f"sections among {list(ROWS)}", repr(name))
        parts = {"rows": dict, "errors": dict, "left_out": list}
        if not isinstance(section, dict) or any(
            not isinstance(section.get(part), kind) for part, kind in parts.items()
        ):
            raise refuse(f"rows, errors and left_out in section {name!r}", str(section)[:100])
        for label, row in section["rows"].items():
            missing = [key for key in ROWS[name] if not isinstance(row, dict) or key not in row]
            if missing:
                raise refuse(f"{missing} in row {label!r} of section {name!r}", str(row)[:100])
    return found


def measured(repository: Path) -> list[dict[str, Any]]:
    """The files of ``data/gpu``, the latest day first."""
    found = [load(path) for path in sorted((repository / FOLDER).glob("*.json"))]
    return sorted(found, key=lambda each: each["day"], reverse=True)


def rows(found: Measured, section: str) -> dict[str, dict[str, Any]]:
    """Rows of a section by their names; none where it was not measured."""
    return found["sections"].get(section, {}).get("rows", {})


def about(found: Measured) -> str:
    """Where and when; how the tests went, and what was not reached in the time."""
    versions = f"torch {found['torch']}"
    if found.get("driver"):
        versions += f", driver {found['driver']}"
    lines = [
        f"Measured on **{escape(found['device'])}** on {escape(found['day'])} with "
        f"{escape(versions)}, beside {found.get('cpu_threads', '?')} CPU threads."
    ]
    if tests := found.get("tests"):
        lines.append(
            f"Of the tests that need a device {tests['passed']} passed and "
            f"{tests['failed'] + tests['error']} failed."
        )
    late = [label for section in found["sections"].values() for label in section["left_out"]]
    if late:
        lines.append(f"Not reached in the time: {escape(', '.join(late))}.")
    return " ".join(lines)


def failures(found: Measured) -> str:
    """What failed on the device, by the last line of its traceback."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, section in found["sections"].items():
        for label, text in section["errors"].items():
            rows.setdefault((name, text.strip().splitlines()[-1]), []).append(label)
    lines = [[name, escape(", ".join(of)), escape(text)] for (name, text), of in rows.items()]
    return markdown_table([["section", "rows", "error"], *lines]) if lines else "Nothing failed."


def steps(found: Measured) -> str:
    """Of every method a step: its time, against the bare networks, its kernels and its memory."""
    head = ["method", "ms", "times bare", "TF32", "bfloat16", "kernels", "busy", "MB", "update"]
    tables = []
    for setting, words in found["settings"].items():
        own = {k: r for k, r in rows(found, "methods").items() if r["setting"] == setting}
        if not own:
            continue
        first = next(iter(own.values()))
        bare = median(row["bare_ms"] for row in own.values())
        lines = [head]
        bare_row = [_number(first.get("bare_kernels")), "", _megabytes(first["bare_peak"]), ""]
        lines.append(["*bare networks*", _number(bare), "1", "", "", *bare_row])
        for name, row in own.items():
            busy = row.get("kernel_ms")
            each = [row["ratio"].get(kind) for kind in ("float32", "TF32", "bfloat16")]
            lines.append(
                [
                    escape(name),
                    _number(row["ms"].get("float32")),
                    *map(_number, each),
                    _number(row.get("kernels")),
                    "-" if busy is None else f"{100 * busy / row['ms']['float32']:.0f} %",
                    _megabytes(row["peak"]),
                    _update(row),
                ]
            )
        tables.append(f"**{escape(words)}**\n\n{markdown_table(lines)}")
    return "\n\n".join(tables)


def _update(row: Mapping[str, Any]) -> str:
    if row["update_every"] == 1:
        return ""
    return f"{_number(row['update_ms'])} ms in {row['update_every']}"


def steps_in_words(found: Measured) -> str:
    """The dearest step, how many cost little, and how busy the device is."""
    own = {name: row for name, row in rows(found, "methods").items() if "float32" in row["ratio"]}
    if not own:
        return ""
    cost = {name: row.get("amortised", row["ratio"]["float32"]) for name, row in own.items()}
    dearest, cheap = max(cost, key=cost.__getitem__), sum(value < 1.5 for value in cost.values())
    text = (
        f"Updates counted, {cheap} of {len(cost)} rows stay below one and a half times their bare "
        f"networks; the dearest is {escape(dearest)}, {_number(cost[dearest])} times."
    )
    busy = {k: r["kernel_ms"] / r["ms"]["float32"] for k, r in own.items() if r.get("kernel_ms")}
    if busy:
        least, most = min(busy, key=busy.__getitem__), max(busy, key=busy.__getitem__)
        text += (
            f" Kernels run for {100 * min(busy[least], 1):.0f} % of the step of {escape(least)}, "
            f"and for {100 * min(busy[most], 1):.0f} % of that of {escape(most)}."
        )
    return text


def waits(found: Measured) -> str:
    """Which methods make the host wait for the device, how often in a step, and where."""
    lines = [["method", "waits in a step", "seen by the driver", "in an update", "where"]]
    for name, row in rows(found, "methods").items():
        places = {**row["waits"], **row.get("update_waits", {})}
        if places:
            here, update = (sum(row.get(key, {}).values()) for key in ("waits", "update_waits"))
            counts = [str(here), _number(row.get("driver_waits")), str(update)]
            lines.append([escape(name), *counts, ", ".join(map(code, places))])
    if len(lines) == 1:
        return "No method makes the host wait for the device."
    return markdown_table(lines)


def agreement(found: Measured) -> str:
    """Of every method how far the device is from the CPU, and from itself."""
    again, lines = rows(found, "determinism"), []
    for name, row in rows(found, "agreement").items():
        own = again.get(name)
        twice = "-" if own is None else "equal" if own["equal"] else _number(own["weights"])
        each = [row[kind]["weights"] for kind in ("float32", "float64")]
        lines.append([escape(name), *map(_number, each), twice])
    head = ["method", "float32", "float64", "the device twice"]
    return markdown_table([head, *lines])


def agreement_in_words(found: Measured) -> str:
    """The largest differences from the CPU, and of the device from itself."""
    apart, again = rows(found, "agreement"), rows(found, "determinism")
    lines = []
    for kind in ("float64", "float32") if apart else ():
        worst = max(apart, key=lambda name: apart[name][kind]["weights"])
        value = _number(apart[worst][kind]["weights"])
        lines.append(f"In {kind} the largest difference is {value} ({escape(worst)}).")
    if again:
        equal = sum(row["equal"] for row in again.values())
        largest = max(row["weights"] for row in again.values())
        lines.append(
            f"Run twice, {equal} of {len(again)} rows are equal to the last bit; of the others the "
            f"largest difference is {_number(largest)}."
        )
    return " ".join(lines)


def growth_in_words(found: Measured) -> str:
    """By how much kernels and time of a step grow from the fewest tasks to the most."""
    lines = []
    for name, row in rows(found, "growth").items():
        first, last = row["tasks"][0], row["tasks"][-1]
        text = f"time grows {row['ms'][-1] / row['ms'][0]:.1f} times"
        if None not in row["kernels"]:
            text += (
                f", the number of its kernels {row['kernels'][-1] / row['kernels'][0]:.1f} times"
            )
        lines.append(f"- {escape(name)}: from {first} to {last} tasks the step's {text}.")
    return "\n".join(lines)


def laws(found: Measured) -> str:
    """Exponents of time and memory against one size, beside those of the leading term."""
    lines = [["cost of", "grows with", "operations", "theory", "device", "CPU", "memory"]]
    for name, row in rows(found, "laws").items():
        sizes = f"{row['size']} = {row['sizes'][0]:,} … {row['sizes'][-1]:,}"
        each = [row["time_theory"], row["time"], row["cpu_time"], row.get("memory")]
        what = name.rpartition(", ")[0]
        lines.append([escape(what), escape(sizes), f"${row['theory']}$", *map(_exponent, each)])
    return markdown_table(lines)


def table(found: Measured) -> str:
    """Arms of a table, trained on the CPU and on the device: means over the repeats."""
    lines = [["arm", "measure", "repeats", "CPU", "device", "largest difference of a repeat"]]
    for name, row in rows(found, "table").items():
        means = [f"{sum(row[place]) / len(row[place]):.4f}" for place in ("cpu", "device")]
        difference = _number(row["difference"])
        lines.append([escape(name), row["metric"], str(len(row["repeats"])), *means, difference])
    return markdown_table(lines)


def compiled(found: Measured) -> str:
    """Steps of one compiled graph against eager ones."""
    lines = [["method", "eager ms", "compiled ms", "ratio", "kernels", "compiled"]]
    for name, row in rows(found, "compiled").items():
        keys = ("eager", "compiled", "ratio", "kernels", "compiled_kernels")
        lines.append([escape(name), *(_number(row.get(key)) for key in keys)])
    return markdown_table(lines)


def _number(value: float | None) -> str:
    """Three significant digits, powers of ten where there would be zeros alone."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"${digits} \\cdot 10^{{{int(power)}}}$"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", MINUS)


def _exponent(value: float | None) -> str:
    return number(value, "0.0")


def _megabytes(value: int | None) -> str:
    return "-" if value is None else _number(value / 2**20)
