"""What a page at the end of `mtlbook reproduce` says, as data.

:func:`summarise` counts and compares; :mod:`mtlbook.ledger.endpage` shows it, in a terminal and as
HTML.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtlbook.ledger.agreement import Agreement
from mtlbook.ledger.report import interval, kind, printed

NOT_RUN = "not run"


@dataclass(frozen=True)
class Paper:
    """What own runs say of a paper.

    Attributes
    ----------
    paper : str
    counts : mapping of {"paper", "us"} to a Counter
        Verdicts on its claims and answers to our questions; `NOT_RUN` where there is none.
    same, changed : sequence of str
        Claims whose verdict is the committed one of the same runs, or another.
    elsewhere : sequence of str
        Claims judged on runs that are not the committed ones: other settings, fewer repeats.
    """

    paper: str
    counts: Mapping[str, Counter]
    same: Sequence[str]
    changed: Sequence[str]
    elsewhere: Sequence[str]


@dataclass(frozen=True)
class Headline:
    """One of the claims that stand for a paper.

    Attributes
    ----------
    claim, statement : str
    paper : str
        What the paper prints.
    committed, yours : str or None
        The committed value *of the experiment of your runs* (without any, the committed one), and
        yours with its interval.
    before, verdict : str or None
        The verdicts on these values.
    same_runs : bool
        Whether your runs are the committed ones, made again.
    """

    claim: str
    statement: str
    paper: str
    committed: str | None
    yours: str | None
    before: str | None
    verdict: str | None
    same_runs: bool


@dataclass(frozen=True)
class Missing:
    """A data set that is not here: what was skipped for want of it, and how to get it."""

    data: str
    experiments: Sequence[str]
    runs: int
    command: str
    by_hand: bool = False  # its owner hands it out; the command says what to place where


@dataclass(frozen=True)
class Summary:
    """Everything that the page says.

    Attributes
    ----------
    profile : str
    finished, asked : int
        Runs that could be made here.
    papers : sequence of Paper
    headlines : sequence of Headline
    agreement : Agreement
    missing : sequence of Missing
    failed : sequence of str
        Runs that ended with an error, or not at all.
    unsound : sequence of str
        Committed verdicts that do not follow from the committed results.
    verdicts : int
        Number of the committed verdicts.
    files : mapping of str to str
        What there is to read further: a path, and what it holds.
    """

    profile: str
    finished: int
    asked: int
    papers: Sequence[Paper]
    headlines: Sequence[Headline]
    agreement: Agreement
    missing: Sequence[Missing] = ()
    failed: Sequence[str] = ()
    unsound: Sequence[str] = ()
    verdicts: int = 0
    files: Mapping[str, str] = field(default_factory=dict)


def summarise(
    rows: Sequence[Mapping[str, Any]],
    committed: Sequence[Mapping[str, Any]],
    counterparts: Mapping[str, Mapping[str, Any]],
    agreement: Agreement,
    **told: Any,
) -> Summary:
    """Count and compare.

    Parameters
    ----------
    rows : sequence of dict
        All claims judged on own runs, as `audit` returns them.
    committed : sequence of dict
        All claims judged on the committed results.
    counterparts : mapping of claim to dict
        As :func:`mtlbook.ledger.audit.counterparts` returns them.
    agreement : Agreement
    **told
        The other fields of `Summary`.
    """
    before = {row["claim"]: row for row in committed}
    of_paper: dict[str, list] = {}
    for row in rows:
        if kind(row) != "cell":  # single printed numbers are counted apart, in the full listing
            of_paper.setdefault(row["paper"], []).append(row)
    papers = [_paper(name, of, counterparts, agreement) for name, of in of_paper.items()]
    headlines = [
        _headline(row, counterparts.get(row["claim"]), before.get(row["claim"]), agreement)
        for row in rows
        if row["headline"]
    ]
    return Summary(papers=papers, headlines=headlines, agreement=agreement, **told)


def _paper(
    name: str, rows: Sequence[Mapping], counterparts: Mapping[str, Mapping], agreement: Agreement
) -> Paper:
    counts: dict[str, Counter] = {"paper": Counter(), "us": Counter()}
    same, changed, elsewhere = [], [], []
    for row in rows:
        counts[row["asked_by"]][row["verdict"] if row["n"] else NOT_RUN] += 1
        if not row["n"] or not row["experiment"]:  # nothing of this run: the print says it alone
            continue
        other = counterparts.get(row["claim"])
        if other is None or row["experiment"] not in agreement.whole:
            elsewhere.append(row["claim"])
        elif other["verdict"] == row["verdict"]:
            same.append(row["claim"])
        else:
            changed.append(row["claim"])
    return Paper(name, counts, same, changed, elsewhere)


def _headline(
    row: Mapping, other: Mapping | None, committed: Mapping | None, agreement: Agreement
) -> Headline:
    """Beside a value of one's own stands that of the same experiment, or none."""
    ran = bool(row["n"])
    shown = other if ran else committed
    return Headline(
        claim=row["claim"],
        statement=row["statement"],
        paper=printed(row),
        committed=interval(shown).partition(" [")[0] if shown and shown["n"] else None,
        yours=interval(row) if ran else None,
        before=shown["verdict"] if shown and shown["n"] else None,
        verdict=row["verdict"] if ran else None,
        same_runs=ran and other is not None and row["experiment"] in agreement.whole,
    )
