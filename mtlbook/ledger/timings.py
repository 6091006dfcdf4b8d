"""``data/benchmarks.json``: what ``benchmarks/recorded.py`` has measured on one core of a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlbook.ledger.files import read_json
from mtlbook.ledger.numbers import number
from mtlbook.ledger.report import escape, markdown_table

FILE = "data/benchmarks.json"
SECTIONS = {"ratios": dict, "choices": list, "laws": dict}
#: What the README says of a ratio, the other way's time over ours.
README = {
    "srdml step, loop over samples and tasks": "SRDML, twelve linear tasks: a step with a loop "
    "over samples and tasks, as the released code has it, takes {} times as long as ours.",
    "mrn update 1280-256-10": "MRN, 1280 to 256 to 10, four tasks: an update of all covariances "
    "by dense Cholesky factorisations takes {} times as long as ours.",
    "mrn step 64-10": "**A loss.** MRN, 64 to 10, four tasks: a step whose prior is differentiated "
    "by hand takes {} of our time. There the products are small, and our bookkeeping is not.",
}


def recorded(repository: Path) -> dict[str, Any]:
    """What the file holds.

    Raises
    ------
    ValueError
        If it is not what ``benchmarks/recorded.py`` writes.
    """
    path = Path(repository) / FILE
    try:
        found = read_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{FILE}: expected JSON with finite numbers, got {error}") from error
    for name, kind in SECTIONS.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise ValueError(
                f"{FILE}: expected a {kind.__name__} under {name!r}, got {str(found)[:60]}; "
                "write it with: python benchmarks/recorded.py"
            )
    return found


def readme(found: Mapping[str, Any]) -> str:
    """The README's lines."""
    lines = [
        f"- {text.format(number(found['ratios'][name]['ratio'], '0.00'))}"
        for name, text in README.items()
    ]
    return "\n".join(lines)


def laws(found: Mapping[str, Any]) -> str:
    """Exponents of CPU time against one size, beside those of the leading term."""
    lines = [["cost of", "grows with", "operations", "theory", "measured", "last size, ms"]]
    for name, row in found["laws"].items():
        sizes = f"{row['size']} = {row['sizes'][0]:,} … {row['sizes'][-1]:,}"
        what, exponents = name.rpartition(", ")[0], (row["exponent_theory"], row["exponent"])
        numbers = [number(exponents[0], "0.0"), number(exponents[1], "0.00")]
        last = f"{row['ms'][-1]:,.0f}"
        lines.append([escape(what), escape(sizes), f"${row['theory']}$", *numbers, last])
    return markdown_table(lines)
