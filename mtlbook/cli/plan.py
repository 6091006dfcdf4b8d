"""`mtlbook reproduce --dry-run`: what would be run, and what it would take."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtlbook.workflow.plan import Plan

HOW = (
    "Measured: seconds and peak memory of the committed runs, on two CPU cores, one thread each. "
    "Estimated: operations and bytes of one step of every arm, counted on tensors without content "
    "(torch.utils.flop_counter), times its steps, settings and repeats, at the speed that is "
    "named; memory is that of weights, gradients, optimiser, activations and inputs. Loading "
    "data, the convex models and whatever is no product of matrices are not in it: take an "
    "estimate for an order of magnitude. Hours are of all runs, one after the other."
)


def text(plans: Sequence[Plan], profile: str, width: int | None = None) -> str:
    """All plans, a paragraph each, and their sum."""
    from mtlbook.workflow.plan import MEASURED

    width = max(40, min(width or shutil.get_terminal_size((80, 24)).columns, 100))
    lines = [line for plan in plans for line in [*_paragraph(plan, profile, width), ""]]
    total = f"{len(plans)} experiments, {sum(plan.runs for plan in plans)} runs"
    for word, of in (
        ("measured", [plan for plan in plans if plan.basis == MEASURED]),
        ("estimated", [plan for plan in plans if plan.basis.startswith("estimated")]),
    ):
        if of:
            hours = duration(sum(plan.seconds for plan in of))
            total += f"; {word}: {len(of)} experiments, {hours}"
    missing = {name for plan in plans for name, state in plan.data.items() if state != "here"}
    if missing:
        total += f"; without data: {', '.join(sorted(missing))}"
    return "\n".join([*lines, *textwrap.wrap(f"{total}.", width), "", *textwrap.wrap(HOW, width)])


def _paragraph(plan: Plan, profile: str, width: int) -> list[str]:
    told = f"{plan.runs} runs" + f", {plan.finished} finished" * bool(plan.finished)
    if plan.seconds is not None:
        told += f"; {duration(plan.seconds)}"
    if plan.memory is not None:
        told += f", {plan.memory / 1e9:.1f} GB"
    parts = [f"{told} ({plan.basis})"]
    if profile != "laptop":
        parts.append(f"differs from laptop: {plan.differs}")
    parts += [f"data: {name}: {state}" for name, state in plan.data.items()]
    lines = textwrap.wrap(f"{plan.experiment}: {plan.title}", width, subsequent_indent="    ")
    for part in parts:
        lines += textwrap.wrap(
            part,
            width,
            initial_indent="    ",
            subsequent_indent="      ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    return lines


def duration(seconds: float) -> str:
    """In the unit in which it is a small number."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
