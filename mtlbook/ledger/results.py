"""Result files: what one run measured, with everything needed to judge it or to repeat it.

A `Result` is a list of records (one number each) with the parameters, the data set and the
provenance of the run. One run writes one JSON file; `merge` joins the runs of an experiment into
the file that is committed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SCHEMA = 1

# Parts of the package that cannot change a measured number; of data sets a result holds the hash.
_NOT_NUMERICAL = ("plots.py", "cli.py", "workflow.py", "ledger/", "datasets/")

_PACKAGES = ("numpy", "torch", "torchvision", "scipy", "scikit-learn", "mlxtend", "papermill")

# What differs between two runs of the same code on the same machine.
_VOLATILE = ("started", "wall_seconds", "peak_memory_mb", "peak_device_memory_mb", "run")


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
    provenance : dict
        Stamped by `save`: versions, code hash, platform, device, time, memory.
    """

    experiment: str
    parameters: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    device: str = field(default="cpu", repr=False)
    _started: tuple[datetime, float] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def begin(
        cls,
        experiment: str,
        parameters: Mapping[str, Any],
        data: Any = None,
        *,
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
            The data set; of a `TaskSet` the name, tier, licence and hash are kept.
        splits : mapping of str to TaskSet, optional
            Their numbers of examples, summed over tasks, are kept in ``data``.
        device : str or torch.device, default "cpu"
            Where the run computes.
        settings : mapping, optional
            First entries of ``settings``.
        """
        described = describe_data(data)
        code_hashes()  # pins the hashes of what is loaded now, should a file change meanwhile
        for name, split in (splits or {}).items():
            described[name] = sum(len(task) for task in split)
        return cls(
            experiment=experiment,
            parameters=dict(parameters),
            data=described,
            settings=dict(settings or {}),
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
            One value a task.
        step : int, optional
            Iteration at which a curve was read.

        Raises
        ------
        ValueError
            If `value` or an entry of `per_task` is not finite.
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
        """Return ``{repeat: value}`` of one arm and metric (at one step for a curve)."""
        return {
            r["repeat"]: r["value"]
            for r in self.records
            if r["arm"] == arm and r["metric"] == metric and r.get("step") == step
        }

    def save(self, path: str | os.PathLike) -> Path:
        """Stamp the provenance and write the file so that it exists complete or not at all."""
        path = Path(path)
        if self._started is not None:
            self.provenance = {**self.provenance, **_provenance(self._started, self.device)}
        if path.parent != Path():
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.to_json())
        return path

    def to_json(self) -> str:
        """Return the file's text: one line a record, so that a change of one number is one line."""
        head = {
            "schema": SCHEMA,
            "experiment": self.experiment,
            "parameters": self.parameters,
            "data": self.data,
            "settings": self.settings,
            "curves": self.curves,
            "provenance": self.provenance,
        }
        try:
            text = json.dumps(head, indent=1, ensure_ascii=False, allow_nan=False)
            lines = [json.dumps(r, ensure_ascii=False, allow_nan=False) for r in self.records]
        except (TypeError, ValueError) as error:
            raise ResultError(
                f"result of {self.experiment} cannot be written as JSON: {error}"
            ) from error
        records = "[]" if not lines else "[\n  " + ",\n  ".join(lines) + "\n ]"
        return f'{text[:-2]},\n "records": {records}\n}}\n'

    @classmethod
    def load(cls, path: str | os.PathLike) -> Result:
        """Read a result file.

        Raises
        ------
        ResultError
            If the file is truncated, not a result, or of another schema.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ResultError(f"{path}: truncated or not JSON ({error})") from error
        problem = _problem(content)
        if problem:
            raise ResultError(f"{path}: not a result file of schema {SCHEMA}: {problem}")
        names = ("experiment", "parameters", "records", "data", "curves", "settings", "provenance")
        return cls(**{name: content[name] for name in names if name in content})


def merge(
    runs: Mapping[str, Result], *, profile: str | None = None, allow_mixed: bool = False
) -> Result:
    """Join the runs of one experiment into the result that is committed.

    Parameters
    ----------
    runs : mapping of str to Result
        Run identifier, for example ``"arm=laf,repeat=0"``, to its result.
    profile : str, optional
        Kept in the provenance.
    allow_mixed : bool
        Accept runs of different code or data; the result then names them in ``"mixed"``.

    Returns
    -------
    Result
        All records; parameters and data with the list of distinct values where runs differ;
        settings with a mapping of run to value where runs differ; curves by run; provenances
        collapsed where equal.

    Raises
    ------
    ResultError
        If the runs belong to different experiments, hold the same number twice, or mix code or
        data.
    """
    if not runs:
        raise ResultError("runs: expected at least one result, got none")
    results = list(runs.values())
    experiments = sorted({r.experiment for r in results})
    if len(experiments) > 1:
        raise ResultError(f"runs: expected one experiment, got {', '.join(experiments)}")
    mixed = _mixed(results)
    if mixed and not allow_mixed:
        raise ResultError(
            f"runs of {experiments[0]} mix versions of {', '.join(mixed)}; run them again with "
            "one, or allow the mixture explicitly (--allow-mixed)"
        )
    seen: dict[tuple, str] = {}
    records = []
    for run, result in runs.items():
        for r in result.records:
            key = _record_key(r)
            if key in seen:
                raise ResultError(
                    f"runs {seen[key]} and {run} of {experiments[0]} both hold arm {key[0]}, "
                    f"repeat {key[1]}, metric {key[2]}, step {key[3]}"
                )
            seen[key] = run
            records.append(r)
    provenance: dict[str, Any] = {"profile": profile} if profile else {}
    if mixed:
        provenance["mixed"] = mixed
    provenance["runs"] = _collapse_provenance(runs)
    return Result(
        experiment=experiments[0],
        parameters=_distinct([r.parameters for r in results]),
        records=records,
        data=_distinct([r.data for r in results]),
        curves={run: r.curves for run, r in runs.items() if r.curves},
        settings=_by_run({run: r.settings for run, r in runs.items()}),
        provenance=provenance,
    )


#: Largest relative difference between a number and its repetition by other code. Sums of float32
#: in another order differ by 1e-6; a changed method does not stay below 1e-4.
CONFIRMED_WITHIN = 1e-4


def confirm(committed: Result, fresh: Result) -> Result:
    """Note in a committed result that fresh runs by other code gave the same numbers.

    A changed module makes a result outdated although most changes change no number. Some of its
    runs, repeated, show whether that is so.

    Parameters
    ----------
    committed, fresh : Result
        As `merge` makes them; `fresh` may hold some of the runs only.

    Returns
    -------
    Result
        `committed` with one more entry in ``provenance["confirmations"]``: runs, number of
        records, largest relative difference, code, packages and platform of the fresh runs.

    Raises
    ------
    ResultError
        If the experiment or the data differ, or a number of `fresh` is not committed or differs by
        more than ``CONFIRMED_WITHIN``.
    """
    name = committed.experiment
    if (fresh.experiment, fresh.data.get("sha256")) != (name, committed.data.get("sha256")):
        raise ResultError(
            f"{name}: expected runs of this experiment on the same data, got {fresh.experiment}"
        )
    known = {_record_key(record): record["value"] for record in committed.records}
    largest = 0.0
    for record in fresh.records:
        key, new = _record_key(record), record["value"]
        if key not in known:
            raise ResultError(f"{name}: no committed number for {key}")
        difference = abs(new - known[key]) / max(abs(new), abs(known[key]), 1e-12)
        if difference > CONFIRMED_WITHIN:
            raise ResultError(f"{name}: committed {known[key]:g} for {key}, measured again {new:g}")
        largest = max(largest, difference)
    runs = fresh.provenance["runs"]
    described = ("code", "git_commit", "packages", "platform", "device")
    note = {
        "runs": [run for entry in runs for run in entry["of"]],
        "records": len(fresh.records),
        "largest_difference": largest,
        **{key: runs[0][key] for key in described if key in runs[0]},
    }
    # a newer note on the same runs replaces the older one
    earlier = committed.provenance.get("confirmations", [])
    kept = [other for other in earlier if other["runs"] != note["runs"]]
    return replace(committed, provenance={**committed.provenance, "confirmations": [*kept, note]})


def _record_key(record: Mapping[str, Any]) -> tuple:
    """What identifies a number within a result."""
    return record["arm"], record["repeat"], record["metric"], record.get("step")


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
        "tasks": len(data),
        "examples": sum(len(task) for task in data),
    }


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new, never a part."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes the file private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def package_root() -> Path:
    """Return the folder of the installed package."""
    return Path(__file__).resolve().parents[1]


def code_hashes() -> dict[str, str]:
    """Return ``{module file: hash}`` of the numerical code that this process has imported.

    Plots, command line, workflow, ledger and data sets (whose content a result identifies by its
    own hash) do not count, nor do ``__init__`` files, which only hand on names, nor comments,
    docstrings and blank lines. So a new method leaves the results of the others current.
    """
    root = package_root()
    loaded = (getattr(m, "__file__", None) for n, m in list(sys.modules.items()) if "mtlbook" in n)
    paths = {Path(file) for file in loaded if file and Path(file).is_relative_to(root)}
    names = sorted(path.relative_to(root).as_posix() for path in paths)
    return {
        name: _code_hash(name)
        for name in names
        if not name.startswith(_NOT_NUMERICAL) and not name.endswith("__init__.py")
    }


def code_is_current(provenance: Mapping[str, Any]) -> bool:
    """Whether the modules that a run used are known and, but for prose, still what they were."""
    return "code" in provenance and all(
        _code_hash(name) == found for name, found in provenance["code"].items()
    )


@functools.cache
def _code_hash(name: str) -> str | None:
    path = package_root() / name
    if not path.is_file():
        return None
    source = essential_source(path.read_text(encoding="utf-8"))
    return hashlib.sha256(source.encode()).hexdigest()


def notebook_sha256(path: str | os.PathLike) -> str:
    """Return the hash of a notebook's code cells; outputs, prose and metadata do not count."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def essential_source(source: str) -> str:
    """Return Python source without comments, docstrings, blank lines and trailing spaces."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            docstring = node.body[0]
            for row in range(docstring.lineno, docstring.end_lineno + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _finite(value: float, name: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}; did the run diverge?")
    return number


def _problem(content: Any) -> str | None:
    """Say what is wrong with the content of a result file, or None."""
    if not isinstance(content, dict):
        return f"expected an object, got {type(content).__name__}"
    if content.get("schema") != SCHEMA:
        return f"expected schema {SCHEMA}, got {content.get('schema')!r}"
    expected = {"experiment": str, "parameters": dict, "records": list, "data": dict}
    optional = {"curves": dict, "settings": dict, "provenance": dict}
    for name, kind in {**expected, **optional}.items():
        if name not in content and name in optional:
            continue
        if not isinstance(content.get(name), kind):
            return f"{name}: expected {kind.__name__}, got {type(content.get(name)).__name__}"
    for i, record in enumerate(content["records"]):
        if not isinstance(record, dict):
            return f"records[{i}]: expected an object, got {type(record).__name__}"
        kinds = {"arm": str, "metric": str, "repeat": int, "value": int | float}
        for name, kind in kinds.items():
            if not isinstance(record.get(name), kind):
                return f"records[{i}].{name}: missing or of the wrong type"
    return None


def _distinct(dictionaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join dictionaries: the value where all agree, else the list of distinct values."""
    joined = {}
    for name in dict.fromkeys(name for d in dictionaries for name in d):
        values: list[Any] = []
        for d in dictionaries:
            if d.get(name) not in values:
                values.append(d.get(name))
        joined[name] = values[0] if len(values) == 1 else values
    return joined


def _mixed(results: Sequence[Result]) -> list[str]:
    """Name what has several versions among runs: the data, the notebook, files of the package."""
    versions: dict[str, set] = {"data": set(), "notebook": set()}
    for result in results:
        versions["data"].add(result.data.get("sha256"))
        versions["notebook"].add(result.provenance.get("run", {}).get("notebook_sha256"))
        for name, version in result.provenance.get("code", {}).items():
            versions.setdefault(name, set()).add(version)
    return [name for name, found in versions.items() if len(found) > 1]


def _by_run(dictionaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Join dictionaries: the value where all agree, else a mapping of run to value."""
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for d in dictionaries.values() for name in d):
        values = {run: d[name] for run, d in dictionaries.items() if name in d}
        first = next(iter(values.values()))
        same = len(values) == len(dictionaries) and all(v == first for v in values.values())
        joined[name] = first if same else values
    return joined


def _collapse_provenance(runs: Mapping[str, Result]) -> list[dict[str, Any]]:
    """List the distinct provenances, each with its runs and what those do not share."""
    entries: list[dict[str, Any]] = []
    for run, result in runs.items():
        stable = {k: v for k, v in result.provenance.items() if k not in _VOLATILE}
        of_run = {k: v for k, v in result.provenance.items() if k in _VOLATILE and k != "run"}
        notebook = result.provenance.get("run", {})
        stable |= {k: notebook[k] for k in ("notebook", "notebook_sha256") if k in notebook}
        entry = next((e for e in entries if e["stable"] == stable), None)
        if entry is None:
            entry = {"stable": stable, "of": {}}
            entries.append(entry)
        entry["of"][run] = of_run
    return [{**e["stable"], "of": e["of"]} for e in entries]


def _provenance(started: tuple[datetime, float], device: str) -> dict[str, Any]:
    """Describe this process, without names of hosts, users or folders."""
    import torch

    code = code_hashes()
    provenance: dict[str, Any] = {
        "mtlbook": _version("mtlbook"),
        "code": code,
        "code_sha256": hashlib.sha256(json.dumps(code).encode()).hexdigest(),
        **_git(),
        "python": platform.python_version(),
        "packages": {name: v for name in _PACKAGES if (v := _version(name))},
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "device": device,
        "torch_threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "started": started[0].isoformat(timespec="seconds"),
        "wall_seconds": round(time.perf_counter() - started[1], 3),
        "peak_memory_mb": _peak_memory_mb(),
    }
    if device.startswith("cuda"):
        provenance["device_name"] = torch.cuda.get_device_name(device)
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        provenance["peak_device_memory_mb"] = round(peak, 1)
    return provenance


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    """Return commit and dirty flag if the package's own files are tracked by git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package_root()), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return {
            "git_commit": git("rev-parse", "HEAD"),
            "git_dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _peak_memory_mb() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
