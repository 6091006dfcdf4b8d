"""Result files: what one run measured, with everything needed to judge it or to repeat it.

A `Result` is a list of records (one number each) with the parameters, the data set and the
provenance of the run. One run writes one JSON file; `mtlbook.ledger.merging` joins the runs of an
experiment into the file that is committed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from mtlbook.ledger.files import read_json, write_atomically
from mtlbook.ledger.provenance import code_hashes, describe_process
from mtlbook.numerics import NUMERICS

SCHEMA = 1
_REQUIRED = {"experiment": str, "parameters": dict, "records": list, "data": dict}
_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_HEAD = json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=1)
_OPTIONAL = {"curves": dict, "settings": dict, "numerics": dict, "uses": dict, "provenance": dict}


class ResultError(ValueError):
    """A result file that is truncated, foreign or inconsistent; the message names the file."""


@dataclass
class Result:
    """What one run measured.

    Attributes
    ----------
    experiment : str
        Identifier in ``notebooks/experiments.yaml``.
    parameters : dict
        The notebook's parameters.
    records : list of dict
        One number each: ``{"arm", "repeat", "metric", "value"}`` and optionally ``"seed"``,
        ``"per_task"`` (list of floats) and ``"step"`` (an iteration, for curves).
    data : dict
        ``name``, ``tier``, ``stand_in_for``, ``licence``, ``sha256``, ``tasks``, sizes of splits.
    curves, settings : dict
        Small optional extras; `settings` holds what was chosen on validation data and every
        deviation from the paper.
    numerics : dict of str to int
        The study and its version (``mtlbook.numerics``) under which the run was made.
    uses : dict of str to str
        The experiments whose results it takes choices from, with their content hashes.
    provenance : dict
        Stamped by `save`: versions, code hash, platform, device, time, memory.
    """

    experiment: str
    parameters: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    numerics: dict[str, int] = field(default_factory=dict)
    uses: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    device: str = field(default="cpu", repr=False)
    _started: tuple[datetime, float] | None = field(default=None, repr=False, compare=False)
    _found: tuple[list, dict] = field(default=([], {}), init=False, repr=False, compare=False)

    @classmethod
    def begin(
        cls,
        experiment: str,
        parameters: Mapping[str, Any],
        data: Any = None,
        *,
        study: str | None = None,
        uses: Mapping[str, Result] | None = None,
        splits: Mapping[str, Any] | None = None,
        device: Any = "cpu",
        settings: Mapping[str, Any] | None = None,
    ) -> Result:
        """Start an empty result and its clock.

        Parameters
        ----------
        experiment : str
            Identifier in ``notebooks/experiments.yaml``.
        parameters : mapping
            The notebook's parameters; values that JSON can hold.
        data : TaskSet or mapping, optional
            The data set; of a `TaskSet` name, tier, licence, hash and fingerprint are kept.
        study : str, optional
            A key of ``mtlbook.numerics.NUMERICS``, whose version is kept, and that of the loaders.
        uses : mapping of experiment to Result, optional
            The results whose choices the run takes over.
        splits : mapping of str to TaskSet, optional
            Their numbers of examples, summed over tasks, are kept in ``data``.
        device : str or torch.device, default "cpu"
            Where the run computes.
        settings : mapping, optional
            First entries of ``settings``.

        Raises
        ------
        ValueError
            If the study is not known, or ``parameters`` lacks one that the workflow has set
            (``MTLBOOK_PARAMETERS``): better now than after the run.
        """
        if study is not None and study not in NUMERICS:
            raise ValueError(f"study: expected one of {tuple(NUMERICS)}, got {study!r}")
        expected = json.loads(os.environ.get("MTLBOOK_PARAMETERS", "[]"))
        if missing := [name for name in expected if name not in parameters]:
            raise ValueError(f"parameters: expected all of {expected}, got none named {missing}")
        described = describe_data(data)
        code_hashes()  # pins the hashes of what is loaded now, should a file change meanwhile
        for name, split in (splits or {}).items():
            described[name] = sum(len(task) for task in split)
        return cls(
            experiment=experiment,
            parameters=dict(parameters),
            data=described,
            settings=dict(settings or {}),
            numerics={name: NUMERICS[name] for name in ((study, "datasets") if study else ())},
            uses={name: used.content_sha256() for name, used in (uses or {}).items()},
            device=str(device),
            _started=(datetime.now(UTC), time.perf_counter()),
        )

    def add(
        self,
        *,
        arm: str,
        metric: str,
        value: float,
        repeat: int = 0,
        seed: int | None = None,
        per_task: Iterable[float] | None = None,
        step: int | None = None,
    ) -> None:
        """Add one number.

        Parameters
        ----------
        arm : str
            What was compared, for example ``"laf"``.
        metric : str
            Name with unit where there is one, for example ``"accuracy_percent"``.
        value : float
            A finite number.
        repeat : int
            Index of the repeat; arms are paired over it.
        seed : int, optional
            Seed of the repeat.
        per_task : iterable of float, optional
            One value per task.
        step : int, optional
            Iteration at which a curve was read.

        Raises
        ------
        ValueError
            If `value` or an entry of `per_task` is not a finite number.
        """
        record: dict[str, Any] = {"arm": str(arm), "repeat": int(repeat), "metric": str(metric)}
        if seed is not None:
            record["seed"] = int(seed)
        if step is not None:
            record["step"] = int(step)
        record["value"] = _finite(value, f"value of {arm} {metric} in repeat {repeat}")
        if per_task is not None:
            record["per_task"] = [
                _finite(x, f"per_task[{t}] of {arm} {metric} in repeat {repeat}")
                for t, x in enumerate(per_task)
            ]
        self.records.append(record)

    def values(self, arm: str, metric: str, step: int | None = None) -> dict[int, float]:
        """Return ``{repeat: value}`` of one arm and metric (at one step for a curve).

        A metric that ends with a number in brackets, ``accuracy_percent[3]``, is that of one task,
        counted from 0.
        """
        name, task = _of_task(metric)
        records = self._by_name().get((arm, name, step), ())
        if task is None:
            return {r["repeat"]: r["value"] for r in records}
        return {
            r["repeat"]: r["per_task"][task] for r in records if task < len(r.get("per_task", ()))
        }

    def per_task(self, arm: str, metric: str) -> dict[int, list[float]]:
        """Return ``{repeat: one value per task}`` of one arm and metric, where they are stored."""
        records = self._by_name().get((arm, metric, None), ())
        return {r["repeat"]: r["per_task"] for r in records if "per_task" in r}

    def _by_name(self) -> dict[tuple, list[dict]]:
        """Records by arm, metric and step: an audit asks some thousand times for a few of them."""
        if self._found[0] != self.records:  # quick while they are the same objects
            groups: dict[tuple, list[dict]] = {}
            for r in self.records:
                groups.setdefault((r["arm"], r["metric"], r.get("step")), []).append(r)
            self._found = (list(self.records), groups)
        return self._found[1]

    def save(self, path: str | os.PathLike) -> Path:
        """Stamp the provenance and write the file so that it exists complete or not at all."""
        path = Path(path)
        if self._started is not None:
            self.provenance = {**self.provenance, **describe_process(self._started, self.device)}
        self.provenance["content_sha256"] = self.content_sha256()
        if path.parent != Path():
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.to_json())
        return path

    def content_sha256(self) -> str:
        """The hash of what was measured: all but the provenance."""
        # by way of JSON, whose keys are text: sorted alike before and after the file
        return _sha256(json.loads(self._json(self._measured())))

    def _measured(self) -> list[Any]:
        return [
            self.experiment,
            self.parameters,
            self.data,
            self.settings,
            self.curves,
            self.numerics,
            self.uses,
            self.records,
        ]

    def _json(self, content: Any, encoder: json.JSONEncoder = _LINE) -> str:
        try:
            return encoder.encode(content)
        except (TypeError, ValueError) as error:
            raise ResultError(
                f"result of {self.experiment} cannot be written as JSON: {error}"
            ) from error

    def to_json(self) -> str:
        """Return the file's text: one line a record, so that a change of one number is one line."""
        head = {
            "schema": SCHEMA,
            "experiment": self.experiment,
            "parameters": self.parameters,
            "data": self.data,
            "settings": self.settings,
            "curves": self.curves,
            "numerics": self.numerics,
            "uses": self.uses,
            "provenance": self.provenance,
        }
        text = self._json(head, _HEAD)
        lines = [self._json(r) for r in self.records]
        records = "[]" if not lines else "[\n  " + ",\n  ".join(lines) + "\n ]"
        return f'{text[:-2]},\n "records": {records}\n}}\n'

    @classmethod
    def load(cls, path: str | os.PathLike) -> Result:
        """Read a result file.

        Raises
        ------
        ResultError
            If the file is truncated, not a result, of another schema, or edited after it was
            written.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            content = read_json(text, huge=True)
        except ValueError as error:  # also of text that is not UTF-8
            raise ResultError(f"{path}: truncated or not JSON ({error})") from error
        problem = _problem(content)
        if problem:
            raise ResultError(f"{path}: not a result file of schema {SCHEMA}: {problem}")
        result = cls(
            **{name: content[name] for name in (*_REQUIRED, *_OPTIONAL) if name in content}
        )
        try:
            _LINE.encode(result.provenance)
            found = _sha256(result._measured())
        except ValueError:  # which number is infinite?
            try:
                read_json(text)
            except ValueError as error:
                raise ResultError(f"{path}: {error}") from error
            raise
        if result.provenance.get("content_sha256") not in (None, found):
            raise ResultError(f"{path}: the content is not what was written: somebody edited it")
        return result


def describe_data(data: Any) -> dict[str, Any]:
    """Return the entries of a result file that describe a `TaskSet` (or copy a mapping)."""
    if data is None:
        return {}
    if isinstance(data, Mapping):
        return dict(data)
    return {
        "name": data.name,
        "tier": data.tier,
        "stand_in_for": data.stand_in_for,
        "licence": data.licence,
        "sha256": data.sha256,
        "fingerprint": data.fingerprint(),
        "tasks": len(data),
        "examples": sum(len(task) for task in data),
    }


@cache
def _of_task(metric: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(.+)\[(\d+)\]", metric)
    return (found[1], int(found[2])) if found else (metric, None)


def _sha256(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _finite(value: float, name: str) -> float:
    """A Python number; of NumPy's and torch's the scalars count."""
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    if not _is_number(number):
        raise ValueError(f"{name}: expected a number, got {value!r}")
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}; did the run diverge?")
    return float(number)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _problem(content: Any) -> str | None:
    """Say what is wrong with the content of a result file, or None."""
    if not isinstance(content, dict):
        return f"expected an object, got {type(content).__name__}"
    if content.get("schema") != SCHEMA:
        return f"expected schema {SCHEMA}, got {content.get('schema')!r}"
    for name, kind in {**_REQUIRED, **_OPTIONAL}.items():
        if name not in content and name in _OPTIONAL:
            continue
        if not isinstance(content.get(name), kind):
            return f"{name}: expected {kind.__name__}, got {type(content.get(name)).__name__}"
    kinds = {"arm": {str}, "metric": {str}, "repeat": {int}, "value": {int, float}}
    for i, record in enumerate(content["records"]):
        if not isinstance(record, dict):
            return f"records[{i}]: expected an object, got {type(record).__name__}"
        for name, of in kinds.items():
            if type(record.get(name)) not in of:  # of JSON; a bool is no number
                return f"records[{i}].{name}: missing or of the wrong type"
        if "per_task" not in record:
            continue
        per_task = record["per_task"]
        if not isinstance(per_task, list) or not {int, float}.issuperset(map(type, per_task)):
            return f"records[{i}].per_task: expected a list of numbers"
    return None
