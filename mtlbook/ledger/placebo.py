"""What a method without the paper's idea gets by the same rule.

A rule that STL, a control or a constant passes as well tells nothing of the idea: the claim is
void. A difference between two arms carries its own reference; what its reference lacks beside the
idea, such as the method's longer training, is an arm that the claim names (``placebo``).
"""

from __future__ import annotations

import re

import numpy as np

from mtlbook.ledger.claims import Claim
from mtlbook.ledger.pairs import MINIMUM_REPEATS
from mtlbook.ledger.results import Result
from mtlbook.ledger.rules import CurveRule, DifferenceRule, OrderRule, Printed, ValueRule

# Arms without the idea: nothing is shared, or in a way that nobody learned.
_WITHOUT = re.compile(r"(stl|weight-decay|uncoupled|fixed|uniform)\b")
_PASSED = ("reproduced", "direction")


def passing(claim: Claim, printed: Printed, result: Result) -> list[str]:
    """Name the placebos that pass a claim's rule.

    Parameters
    ----------
    claim : Claim
        Its rule is about one arm: of a kind *value* or *curve*, or an order of its metrics; or a
        difference whose placebos it names.
    printed : Printed
    result : Result
        The arms without the idea are looked for here.

    Returns
    -------
    list of str
        Empty for other rules, and where the claim is about an arm without the idea.
    """
    rule = claim.rule
    if isinstance(rule, DifferenceRule):
        swapped = {arm: rule.model_copy(update={"arm": arm}) for arm in claim.placebo}
        judged = {arm: of.judge(result.values, printed) for arm, of in swapped.items()}
        return [arm for arm, found in judged.items() if found.verdict in _PASSED]
    of_one_arm = isinstance(rule, ValueRule | CurveRule) or (
        isinstance(rule, OrderRule) and rule.arm is not None
    )
    if not of_one_arm or _WITHOUT.match(rule.arm):
        return []
    arms = dict.fromkeys(record["arm"] for record in result.records)
    found = [
        arm
        for arm in arms
        if _WITHOUT.match(arm)
        and rule.model_copy(update={"arm": arm}).judge(result.values, printed).verdict in _PASSED
    ]
    constants = _constants(claim, printed)
    if constants is not None and rule.judge(constants, printed).verdict in _PASSED:
        found.append("a constant")
    return found


def _constants(claim: Claim, printed: Printed):
    """Values of a method that always gives the same number, None where no constant is meant."""
    if isinstance(claim.rule, CurveRule):
        fitted = float(np.median(list(printed.points.values())))
        return lambda arm, metric, step: dict.fromkeys(range(MINIMUM_REPEATS), fitted)
    if not claim.constants:
        return None

    def values(arm: str, metric: str, step: int | None) -> dict[int, float]:
        if metric not in claim.constants:
            return {}
        return dict.fromkeys(range(MINIMUM_REPEATS), claim.constants[metric])

    return values
