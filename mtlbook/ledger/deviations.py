"""Where paper, released code and this book differ, and what a difference is worth.

``data/deviations.yaml`` says in words what each of the three does and how that is known. A number
is never typed there: an effect names a claim, or two arms of committed results, and is computed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mtlbook.documents import read_yaml
from mtlbook.ledger import repository
from mtlbook.ledger.audit import audit, load_results
from mtlbook.ledger.pairs import MINIMUM_REPEATS, Pair
from mtlbook.ledger.report import code, escape, interval, markdown_table
from mtlbook.ledger.results import Result

# How it is known what a paper says.
KNOWN = {
    "printed": "printed",
    "shown": "shown in a figure",
    "derived": "derived from what is printed",
    "poster": "on the authors' poster",
    "silent": "the paper does not say",
    "unseen": "the text could not be had",
    "memory": "from memory, not verified; not the paper's words",
}


class DeviationError(ValueError):
    """A file of deviations that is not valid, or an effect that cannot be computed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Paper(_Part):
    """What the paper says, and how that is known; nothing where it is silent or unseen."""

    known: Literal["printed", "shown", "derived", "poster", "silent", "unseen", "memory"]
    says: str | None = None
    where: str | None = None

    @model_validator(mode="after")
    def _said(self) -> Paper:
        if (self.known in ("silent", "unseen")) == (self.says is not None):
            raise ValueError("says: expected a text, none where the paper is silent or unseen")
        if (self.known in ("printed", "shown", "poster")) != (self.where is not None):
            raise ValueError("where: expected for what is printed, shown or on a poster")
        return self


class Switch(_Part):
    """An argument of something in the package; ``value`` is the other side of the difference."""

    of: str = Field(pattern=r"^mtlbook(\.\w+)+$")
    argument: str
    value: str | None = None

    @property
    def text(self) -> str:
        """The switch as code."""
        value = "…" if self.value is None else self.value
        return f"{'.'.join(self.of.split('.')[-2:])}({self.argument}={value})"


class Effect(_Part):
    """A measured difference: a claim's, or arm minus reference, paired over repeats.

    Attributes
    ----------
    claim : str or None
    experiment, arm, metric : str or None
    reference : str or None
        By default `arm`.
    reference_experiment, reference_metric : str or None
        By default those of the arm.
    what : str
        What is taken from what, in words.
    unit : str
    """

    what: str
    unit: str = ""
    claim: str | None = None
    experiment: str | None = None
    arm: str | None = None
    metric: str | None = None
    reference: str | None = None
    reference_experiment: str | None = None
    reference_metric: str | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Effect:
        own = (self.experiment, self.arm, self.metric)
        other = (self.reference, self.reference_experiment, self.reference_metric)
        if self.claim is not None:
            if any((*own, *other)):
                raise ValueError("claim: expected alone, with its words and unit")
        elif not all(own) or not any(other):
            raise ValueError(
                "expected a claim, or experiment, arm, metric and what to compare with"
            )
        return self


class Deviation(_Part):
    """One difference.

    Attributes
    ----------
    id : str
        ``<method>.<what>``.
    what : str
        What differs.
    paper : Paper
    released : str or None
        What the released code does, None where there is none or it says nothing.
    ours : str
    switch : Switch or None
    effects : tuple of Effect
    unmeasured : str or None
        Why nothing was measured.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9]*\.[a-z0-9-]+$")
    what: str
    paper: Paper
    released: str | None = None
    ours: str
    switch: Switch | None = None
    effects: tuple[Effect, ...] = ()
    unmeasured: str | None = None

    @model_validator(mode="after")
    def _measured_or_not(self) -> Deviation:
        if bool(self.effects) == (self.unmeasured is not None):
            raise ValueError("expected effects, or unmeasured: the reason why there are none")
        return self


class _File(_Part):
    deviations: tuple[Deviation, ...]

    @model_validator(mode="after")
    def _once(self) -> _File:
        ids = [deviation.id for deviation in self.deviations]
        if repeated := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(f"ids given twice: {', '.join(repeated)}")
        return self


def load(path: str | os.PathLike) -> tuple[Deviation, ...]:
    """Read and validate a file of deviations.

    Raises
    ------
    DeviationError
        The message names entries and fields.
    """
    path = Path(path)
    try:
        return _File.model_validate(read_yaml(path)).deviations
    except (OSError, yaml.YAMLError) as error:
        raise DeviationError(f"{path}: cannot be read as YAML ({error})") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'])) or 'file'}: {re.sub('^Value error, ', '', e['msg'])}"
            for e in error.errors()
        ]
        raise DeviationError(f"{path}: " + "; ".join(lines)) from error


def measured(
    effect: Effect, results: Mapping[str, Result], rows: Mapping[str, Mapping[str, Any]]
) -> str:
    """The effect as text: mean, interval and repeats, or that nothing was measured yet.

    Parameters
    ----------
    effect : Effect
    results : mapping of experiment to Result
    rows : mapping of claim to dict
        The verdicts, as ``mtlbook.ledger.audit.audit`` returns them.

    Raises
    ------
    DeviationError
        If there is no such claim, or results have no such arm or metric.
    """
    unit = f" {effect.unit}" if effect.unit else ""
    if effect.claim is not None:
        if effect.claim not in rows:
            raise DeviationError(f"effects: there is no claim {effect.claim}")
        row = rows[effect.claim]
        numbers = f"{interval(row)}{unit}, n = {row['n']}" if row["n"] else "not run yet"
        return f"{numbers}: {row['verdict']} ({effect.claim})"
    names = effect.experiment, effect.reference_experiment or effect.experiment
    if missing := sorted({name for name in names if name not in results}):
        return f"not run yet ({', '.join(missing)})"
    arms = effect.arm, effect.reference or effect.arm
    metrics = effect.metric, effect.reference_metric or effect.metric
    of = [results[n].values(a, m) for n, a, m in zip(names, arms, metrics, strict=True)]
    pair = Pair.of(lambda side, _, __: of[side], (0, ""), (1, ""))
    if not pair.n:
        sides = "; ".join(map(": ".join, zip(names, arms, metrics, strict=True)))
        raise DeviationError(f"effects: no repeat has both of {sides}")
    row = {"ours": sum(pair.differences) / pair.n, "low": None, "high": None}
    row |= {"printed": "+0.00", "rule": "paired", "unit": unit}  # what a number is written by
    if enough := pair.n >= MINIMUM_REPEATS:
        row |= {"low": pair.interval.low, "high": pair.interval.high}
    few = "" if enough else ", too few for an interval"
    where = " against ".join(dict.fromkeys(names))
    return f"{interval(row)}{unit}, n = {pair.n}{few} ({where})"


def markdown(method: str, root: str | os.PathLike | None = None) -> str:
    """The differences of one method as a Markdown table.

    Parameters
    ----------
    method : str
        Such as ``"mrn"``.
    root : path, optional
        Of the repository, by default this one.

    Raises
    ------
    DeviationError
        If the file is not valid, an effect cannot be computed, or there is no such method.
    """
    data = (repository.root() if root is None else Path(root)) / "data"
    found = [d for d in load(data / "deviations.yaml") if d.id.startswith(f"{method}.")]
    if not found:
        raise DeviationError(f"method: expected one of data/deviations.yaml, got {method!r}")
    results = load_results(data / "results")
    rows = {row["claim"]: row for row in audit(data / "claims", results)}
    lines = [["difference", "the paper", "the released code", "here", "measured effect"]]
    lines += [_line(deviation, results, rows) for deviation in found]
    return markdown_table(lines)


def _line(
    deviation: Deviation, results: Mapping[str, Result], rows: Mapping[str, Any]
) -> Sequence[str]:
    paper = deviation.paper
    how = KNOWN[paper.known] + (f", {paper.where}" if paper.where else "")
    says = f"*{escape(how)}*"
    if paper.says:  # a mark of what is not the paper's comes first
        parts = [says, escape(paper.says)]
        says = "<br>".join(parts if paper.known == "memory" else reversed(parts))
    ours = escape(deviation.ours)
    if deviation.switch is not None:
        ours += f"<br>switch: {code(deviation.switch.text)}"
    effects = [
        f"{escape(effect.what)}: {escape(measured(effect, results, rows))}"
        for effect in deviation.effects
    ] or [f"not measured: {escape(deviation.unmeasured or '')}"]
    released = escape(deviation.released) if deviation.released else "no word, or no code"
    return [escape(deviation.what), says, released, ours, "<br>".join(effects)]
