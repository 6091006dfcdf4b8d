"""Numbers as people read them: one minus, one way to sign, the decimals of the printed number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtlbook.ledger.statistics import Interval

MINUS = "\N{MINUS SIGN}"


def number(value: float | None, like: str | None = None, *, signed: bool | None = None) -> str:
    """Format a number with the decimals of a printed one (default: two decimals).

    Parameters
    ----------
    value : float or None
        None becomes a hyphen.
    like : str, optional
        The printed number.
    signed : bool, optional
        Whether a number above 0 has its sign; by default where `like` has one.
    """
    if value is None:
        return "-"
    decimals = len(like.partition(".")[2]) if like is not None else 2
    if signed is None:
        signed = like is not None and like.startswith(("+", "-"))
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    if not text.strip("+-0."):  # what rounds to zero lies on no side of it
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def signed(value: float, decimals: int = 2) -> str:
    """Return a number with its sign."""
    return number(value, f"+{0:.{decimals}f}")


def spelt(found: Interval, decimals: int = 2) -> str:
    """Return ``mean [low, high]`` of a difference, all with their signs."""
    mean, low, high = (signed(x, decimals) for x in found[:3])
    return f"{mean} [{low}, {high}]"


def interval(row: Mapping[str, Any]) -> str:
    """Return ``mean [low, high]`` of a verdict, the mean alone where it has no interval.

    Differences have a sign.
    """
    if row["low"] is None:
        return mean(row)
    return f"{mean(row)} [{_of_row(row['low'], row)}, {_of_row(row['high'], row)}]"


def mean(row: Mapping[str, Any]) -> str:
    """Return the mean of a verdict, a hyphen where nothing was measured."""
    return _of_row(row["ours"], row)


def two_way(row: Mapping[str, Any]) -> str | None:
    """Return the interval over repeats and tasks, None where there is none."""
    if row["two_way"] is None:
        return None
    return f"[{', '.join(_of_row(x, row) for x in row['two_way'])}]"


def printed(row: Mapping[str, Any]) -> str:
    """Return the paper's number, or a word where none is printed."""
    if row["printed"] is not None:
        return row["printed"].replace("-", MINUS)
    return {None: "no claim", "digitised": "curve"}.get(row["known"], "text")


def is_difference(row: Mapping[str, Any]) -> bool:
    """Whether a verdict is on arms that were compared: their rules say how they were paired."""
    return "paired" in row["rule"]


def _of_row(value: float | None, row: Mapping[str, Any]) -> str:
    signed = is_difference(row) or (row["printed"] or "").startswith(("+", "-"))
    return number(value, row["printed"] or _like(row), signed=signed)


def decimals(row: Mapping[str, Any]) -> int:
    """Return how many decimals the numbers of a verdict have."""
    return len((row["printed"] or _like(row) or "0.00").partition(".")[2])


def _like(row: Mapping[str, Any]) -> str | None:
    """Where nothing is printed: two decimals, or four for what two would show as zero.

    Points and percentages have two: further ones are below what any of our data can tell apart.
    """
    sizes = [abs(row[key]) for key in ("ours", "low", "high") if row[key] is not None]
    small = max(sizes, default=1) < 0.1
    return "0.0000" if small and not row["unit"].startswith(("points", "%")) else None
