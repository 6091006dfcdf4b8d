"""Which runs there are: ``notebooks/experiments.yaml``, checked and expanded."""

from __future__ import annotations

import ast
import functools
import itertools
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtlbook.documents import read_yaml
from mtlbook.ledger import repository

PROFILES = ("smoke", "laptop", "paper")


class WorkflowError(ValueError):
    """A mistake in ``experiments.yaml``, in a notebook's parameters or in a request."""


class Profile(BaseModel):
    """Parameters of an experiment in one profile: fixed ones, and lists whose product is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: dict[str, Any] = {}
    each: dict[str, list[Any]] = {}


class Experiment(BaseModel):
    """One entry of ``experiments.yaml``.

    ``instead_of`` names the experiment that takes its place on a laptop.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str
    title: str
    notebook: str
    data: str | list[str] | None = None
    instead_of: str | None = None
    profiles: dict[Literal["smoke", "laptop", "paper"], Profile] = Field(min_length=1)

    @property
    def sets(self) -> list[str]:
        """The data sets that it needs."""
        return [self.data] if isinstance(self.data, str) else self.data or []


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    experiments: dict[str, Experiment]


@dataclass(frozen=True)
class Run:
    """One execution of a notebook.

    Attributes
    ----------
    profile, experiment, id : str
        ``id`` spells the varied parameters, for example ``"arm=laf,repeat=0"``, or is ``"all"``.
    notebook : Path
    parameters : dict
        Everything passed to the notebook except ``result``.
    folder : Path
        Where the files of the run lie.
    data : dict of str to str
        The data sets that it needs, each with what identifies its content.
    uses : tuple of str
        The experiments whose choices it takes over: its parameter ``tuned_by``.
    skip : str or None
        Why the run cannot be made now.
    missing : tuple of str
        The data sets that are not here.
    """

    profile: str
    experiment: str
    id: str
    notebook: Path
    parameters: dict[str, Any]
    folder: Path
    data: dict[str, str] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    skip: str | None = None
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.experiment} {self.id}"

    @property
    def result(self) -> Path:
        return self.folder / f"{self.id}.json"

    @property
    def waiting(self) -> Path:
        """The result, set aside until the tunings that it used have been made again."""
        return self.folder / f"{self.id}.json.waiting"

    @property
    def executed(self) -> Path:
        return self.folder / f"{self.id}.ipynb"

    @property
    def failed(self) -> Path:
        return self.folder / f"{self.id}.failed.ipynb"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.id}.log"

    @property
    def progress(self) -> Path:
        return self.folder / f"{self.id}.progress"


def load_experiments(path: str | os.PathLike) -> dict[str, Experiment]:
    """Read ``experiments.yaml``.

    Raises
    ------
    WorkflowError
        If it is missing or not valid; the message names the entry.
    """
    path = Path(path)
    try:
        return _File.model_validate(read_yaml(path)).experiments
    except OSError as error:
        raise WorkflowError(f"{path}: no experiments ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise WorkflowError(f"{path}: not YAML ({error})") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise WorkflowError(f"{path}: " + "; ".join(lines)) from error


def expand(
    path: str | os.PathLike, profile: str, only: Sequence[str] | None = None, where: str = ""
) -> list[Run]:
    """List the runs of a profile, after checking every parameter against its notebook.

    Parameters
    ----------
    path : path
        ``notebooks/experiments.yaml`` of a repository.
    profile : {"smoke", "laptop", "paper"}
    only : sequence of str, optional
        Experiments; by default all that have the profile.
    where : str
        Values that a run must have, for example ``"repeat=0,arm=laf"``; by default any.

    Returns
    -------
    list of Run
        In the order of the file. Runs whose data set is not here say so in ``skip``.

    Raises
    ------
    WorkflowError
        On an unknown profile or experiment, or a parameter that the notebook does not have or has
        with another type.
    """
    path = Path(path)
    experiments = load_experiments(path)
    if profile not in PROFILES:
        raise WorkflowError(f"profile: expected one of {', '.join(PROFILES)}, got {profile!r}")
    unknown = [name for name in only or () if name not in experiments]
    if unknown:
        raise WorkflowError(
            f"unknown experiment {', '.join(unknown)}; known: {', '.join(experiments)}"
        )
    for name in only or ():
        if profile not in experiments[name].profiles:
            raise WorkflowError(
                f"{name} has no profile {profile}; it has {', '.join(experiments[name].profiles)}"
            )
    root = path.resolve().parents[1]
    runs = []
    for name, experiment in experiments.items():
        if profile in experiment.profiles and (not only or name in only):
            runs += _runs(root, name, experiment, profile, experiments)
    wanted = set(where.split(",")) - {""}
    chosen = [run for run in runs if wanted <= set(run.id.split(","))]
    if runs and not chosen:
        raise WorkflowError(f"where: expected values of a run such as {runs[0].id}, got {where!r}")
    return chosen


def _runs(
    root: Path, name: str, experiment: Experiment, profile: str, known: Collection[str]
) -> Iterator[Run]:
    chosen = experiment.profiles[profile]
    notebook = root / "notebooks" / experiment.notebook
    both = set(chosen.parameters) & set(chosen.each)
    if both:
        raise WorkflowError(f"{name}.{profile}: both fixed and varied: {', '.join(sorted(both))}")
    defaults = _notebook_parameters(name, notebook)
    if "result" not in defaults:
        raise WorkflowError(f"{name}: notebook {experiment.notebook} has no parameter 'result'")
    given = {"data": experiment.sets[0]} if experiment.sets and "data" in defaults else {}
    missing = {data: why for data in experiment.sets if (why := _missing_data(name, data))}
    data = {} if missing else {each: _identity(each) for each in experiment.sets}
    taken: set[str] = set()
    for values in itertools.product(*chosen.each.values()):
        varied = dict(zip(chosen.each, values, strict=True))
        parameters = {**given, **chosen.parameters, **varied}
        for parameter, value in parameters.items():
            _check_parameter(name, parameter, value, defaults)
        spelt = {k: "+".join(map(str, v)) if type(v) is list else v for k, v in varied.items()}
        run = ",".join(f"{k}={v}" for k, v in spelt.items()) or "all"
        run = re.sub(r"[^\w.=,+-]+", "-", run)  # the id names files
        if run in taken:
            raise WorkflowError(f"{name}.{profile}.each: two runs would be named {run!r}")
        taken.add(run)
        folder = repository.runs(root) / profile / name
        uses = _tunings(name, parameters, known)
        skip = "; ".join(missing.values()) or None
        yield Run(
            profile, name, run, notebook, parameters, folder, data, uses, skip, tuple(missing)
        )


def _tunings(name: str, parameters: Mapping[str, Any], known: Collection[str]) -> tuple[str, ...]:
    """The experiments that a run's parameter ``tuned_by`` names."""
    named = parameters.get("tuned_by") or []
    uses = (named,) if isinstance(named, str) else tuple(named)
    if unknown := [used for used in uses if used not in known or used == name]:
        raise WorkflowError(f"{name}: tuned_by: expected other experiments, got {unknown}")
    return uses


def _notebook_parameters(experiment: str, notebook: Path) -> dict[str, dict]:
    """Names and defaults in the cell tagged ``parameters``."""
    import papermill

    if not notebook.exists():
        raise WorkflowError(f"{experiment}: no notebook {notebook}")
    return papermill.inspect_notebook(literal(notebook))


def literal(path: Path) -> str:
    """A path for papermill, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _check_parameter(experiment: str, name: str, value: Any, defaults: Mapping[str, Any]) -> None:
    """Compare a value with the type of the notebook's default; an int will do for a float."""
    if name not in defaults:
        raise WorkflowError(
            f"{experiment}: unknown parameter {name!r}; the notebook has {', '.join(defaults)}"
        )
    try:
        default = ast.literal_eval(defaults[name]["default"])
    except (ValueError, SyntaxError):
        return  # an expression: its type is known only when it runs
    if default is None or type(value) is type(default):
        return
    if isinstance(default, float) and type(value) is int:
        return
    if isinstance(default, list | tuple) and isinstance(value, list):
        return  # YAML has no tuples
    raise WorkflowError(
        f"{experiment}: parameter {name!r}: expected {type(default).__name__} (like {default!r}), "
        f"got {type(value).__name__} ({value!r})"
    )


@functools.cache
def _missing_data(experiment: str, name: str) -> str | None:
    """Why a data set cannot be loaded now, or None."""
    from mtlbook import datasets

    if name not in datasets.names():
        raise WorkflowError(
            f"{experiment}: unknown data set {name!r}; known: {', '.join(datasets.names())}"
        )
    if datasets.available(name):
        return None
    return f"data set {name} is not here; get it with: {datasets.how_to_get(name)}"


def _identity(name: str) -> str:
    from mtlbook import datasets

    return datasets.identity(name)
