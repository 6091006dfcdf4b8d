"""From a rule's judgement to a verdict: who asked, on what, and what a placebo gets.

A rule compares numbers. Whether they may be compared at all is decided here, for every claim in
the same way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mtlbook.ledger import images
from mtlbook.ledger.claims import Claim
from mtlbook.ledger.pairs import MINIMUM_REPEATS
from mtlbook.ledger.placebo import passing
from mtlbook.ledger.results import Result
from mtlbook.ledger.rules import (
    CurveRule,
    DifferenceRule,
    Judgement,
    Printed,
    Rule,
    SpreadRule,
    ValueRule,
)
from mtlbook.ledger.statistics import Interval, holm, two_way_interval

_ANSWERS = {"reproduced": "yes", "direction": "yes", "opposite": "no"}
_OF_SIGN = ("direction", "opposite", "yes", "no")
LEVEL = 0.05


def judge(
    claim: Claim, printed: Printed, result: Result, wide: Interval | None = None
) -> Judgement:
    """Judge a claim by one result.

    Parameters
    ----------
    claim : Claim
    printed : Printed
        What the paper prints, as `claim.resolve_printed` returns it.
    result : Result
    wide : Interval, optional
        `over_images` of the claim's rule, where it is known already.

    Returns
    -------
    Judgement
        In this order: nothing measured is *not attempted*; what was chosen to hit the number is
        *calibrated on it*; on another backbone or other data a size is *not comparable* and a
        difference is judged by its sign alone; what a placebo passes, too, is *undecided*. A
        question of our own is answered by yes, no, *equal within a margin* or *undecided*. Where
        repeats share test images and those were kept, the interval is that over both.
    """
    incomparable = claim.incomparable(result.data.get("stand_in_for"))
    rule = claim.rule
    if incomparable is not None and isinstance(rule, DifferenceRule) and claim.asked_by == "paper":
        # the sign is left: neither the printed size nor the margin around it means anything here
        rule, printed = rule.model_copy(update={"margin": None}), Printed()
    wide = wide or over_images(rule, result)
    judgement = rule.judge(result.values, printed, *([wide] if wide else []))
    if judgement.n == 0:
        return judgement
    if claim.asked_by == "us":
        why = judgement.why if incomparable is None else f"{incomparable}: {judgement.why}"
        verdict = _ANSWERS.get(judgement.verdict, judgement.verdict)
        return replace(judgement, verdict=verdict, why=why)
    if claim.calibrated is not None:
        return replace(judgement, verdict="calibrated on it", why=claim.calibrated)
    if incomparable is not None and _is_size(claim):
        return replace(judgement, verdict="not comparable", why=f"{incomparable}: no size")
    if incomparable is not None:
        judgement = replace(judgement, why=f"{incomparable}, the sign alone: {judgement.why}")
    if judgement.verdict in ("reproduced", "direction"):
        void = passing(claim, printed, result)
        if void:
            why = f"not decisive, this rule is passed by {', '.join(void)}, too: {judgement.why}"
            return replace(judgement, verdict="undecided", why=why)
    return judgement


def over_images(rule: Rule, result: Result) -> Interval | None:
    """Interval of a difference over repeats *and* images, where those of every repeat are kept."""
    if not isinstance(rule, DifferenceRule) or rule.metric != images.METRIC or rule.draws:
        return None
    found = images.differences(result, rule.arm, rule.reference)
    return None if found is None or len(found) < MINIMUM_REPEATS else two_way_interval(found)


def two_way(claim: Claim, result: Result, wide: Interval | None = None) -> Interval | None:
    """Interval of a difference over repeats *and* tasks, where the scores of tasks are stored.

    The interval of a verdict is conditional on the tasks (domains, alphabets) that were measured;
    this one takes them for a sample, too, and is shown beside it. None where images are kept: they
    are the sample then, and the interval of the verdict is over both: `wide`, if it is known.
    """
    rule = claim.rule
    if not isinstance(rule, DifferenceRule) or rule.draws or wide or over_images(rule, result):
        return None
    of_arms = []
    for name in (rule.arm, rule.reference):
        means, scores = result.values(name, rule.metric), result.per_task(name, rule.metric)
        for repeat, mean in means.items():
            of_tasks = scores.get(repeat)
            if not of_tasks or not math.isclose(np.mean(of_tasks), mean, rel_tol=1e-6):
                return None
        of_arms.append(scores)
    repeats = sorted(set.intersection(*map(set, of_arms)))
    if len(repeats) < MINIMUM_REPEATS or len(of_arms[0][repeats[0]]) < 2:
        return None
    arm, reference = (np.array([of[r] for r in repeats]) for of in of_arms)
    return two_way_interval(arm - reference)


def correct(rows: Sequence[dict]) -> None:
    """Add to each row ``group`` and ``holm``, its p adjusted for all tests of its group.

    A group is a table or figure of a paper, the single numbers of one, or a family of our own
    questions on it. A verdict stays as it is; `why` names what the correction does not let survive.
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        row["group"], row["holm"] = group_of(row), None
        if row["p"] is not None:
            groups.setdefault((row["paper"], row["group"]), []).append(row)
    for (_, name), of_group in groups.items():
        for row, adjusted in zip(of_group, holm([r["p"] for r in of_group]), strict=True):
            row["holm"] = adjusted
            if row["p"] <= LEVEL < adjusted and row["verdict"] in _OF_SIGN:
                row["why"] += (
                    f"; does not survive Holm's correction for the {len(of_group)} tests of {name} "
                    f"(p {row['p']:.2g} becomes {adjusted:.2g})"
                )


def group_of(row: dict) -> str:
    """Return the table or figure of a claim, for our own questions the family in its id.

    The single numbers of a table are many, and not what a paper argues from: a group of their own.
    """
    if row["asked_by"] == "us":
        return f"our questions: {row['claim'].split('.')[1]}"
    table = re.split(r"[,;(]", row["where"])[0].strip()
    return f"{table}, number by number" if row["kind"] == "cell" else table


def _is_size(claim: Claim) -> bool:
    return isinstance(claim.rule, ValueRule | CurveRule | SpreadRule)
