"""Runs of the experiments: which there are, which are finished, and how one is executed.

``notebooks/experiments.yaml`` says which notebook runs with which parameters in which profile. One
run is one execution of a notebook; it leaves ``runs/<profile>/<experiment>/<run>.json`` (the
result), ``.ipynb`` (the executed notebook) and ``.log``. A result appears complete or not at all,
and last, so a result that exists belongs to a finished run: killing any process loses only
unfinished runs.

The scheduling is Snakemake's (``workflow/Snakefile``); it calls ``python -m mtlbook.workflow run``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtlbook.ledger import repository
from mtlbook.ledger.results import (
    Result,
    ResultError,
    code_is_current,
    merge,
    notebook_sha256,
    package_root,
)

PROFILES = ("smoke", "laptop", "paper")


class WorkflowError(ValueError):
    """A mistake in ``experiments.yaml``, in a notebook's parameters or in a request."""


class RunError(RuntimeError):
    """A run that failed; the message names the run and its log."""


class Profile(BaseModel):
    """Parameters of an experiment in one profile: fixed ones, and lists whose product is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: dict[str, Any] = {}
    each: dict[str, list[Any]] = {}


class Experiment(BaseModel):
    """One entry of ``experiments.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str
    title: str
    notebook: str
    data: str | None = None
    profiles: dict[Literal["smoke", "laptop", "paper"], Profile] = Field(min_length=1)


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
    skip : str or None
        Why the run cannot be made now.
    """

    profile: str
    experiment: str
    id: str
    notebook: Path
    parameters: dict[str, Any]
    folder: Path
    skip: str | None = None

    @property
    def name(self) -> str:
        return f"{self.experiment} {self.id}"

    @property
    def result(self) -> Path:
        return self.folder / f"{self.id}.json"

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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _File.model_validate(content).experiments
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
            runs += _runs(root, name, experiment, profile)
    wanted = set(where.split(",")) - {""}
    chosen = [run for run in runs if wanted <= set(run.id.split(","))]
    if runs and not chosen:
        raise WorkflowError(f"where: expected values of a run such as {runs[0].id}, got {where!r}")
    return chosen


def is_current(run: Run) -> bool:
    """Whether the finished run used the present parameters, notebook and numerical code."""
    provenance = Result.load(run.result).provenance
    recorded = provenance.get("run", {})
    return (
        recorded.get("parameters") == json.loads(json.dumps(run.parameters))
        and recorded.get("notebook_sha256") == notebook_sha256(run.notebook)
        and code_is_current(provenance)
    )


def set_stale_aside(runs: Sequence[Run]) -> list[Run]:
    """Rename finished results that are no longer current (or unreadable) to ``.json.stale``."""
    stale = []
    for run in runs:
        if not run.result.exists():
            continue
        try:
            current = is_current(run)
        except ResultError:
            current = False
        if not current:
            _set_aside(run)
            stale.append(run)
    return stale


def execute_run(run: Run, root: Path) -> None:
    """Execute one run and publish its files, the result last.

    Parameters
    ----------
    run : Run
    root : Path
        Working folder of the kernel.

    Raises
    ------
    RunError
        If the notebook fails or writes no result. The log then ends with the traceback, and the
        notebook lies beside it as ``<run>.failed.ipynb``.
    """
    import papermill

    run.folder.mkdir(parents=True, exist_ok=True)
    run.failed.unlink(missing_ok=True)
    # In the same folder, so that os.replace never crosses file systems.
    scratch = Path(tempfile.mkdtemp(dir=run.folder, prefix=f".{run.id}.", suffix=".tmp"))
    result, executed = scratch / "result.json", scratch / "notebook.ipynb"
    environment = {
        "MTLBOOK_PROGRESS": str(run.progress),
        "MTLBOOK_ROOT": str(root),
        **{name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        # glibc would give the large activations back to the system after every step and fetch them
        # anew, page by page: a step is about 1.5 times as fast without (benchmarks/steps.py)
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
    }
    try:
        with run.log.open("w", encoding="utf-8", buffering=1) as log, _environment(environment):
            print(f"{run.name}: {json.dumps(run.parameters)}", file=log)
            try:
                papermill.execute_notebook(
                    str(run.notebook),
                    str(executed),
                    parameters={**run.parameters, "result": str(result)},
                    kernel_name="python3",
                    cwd=str(root),
                    progress_bar=False,
                    stdout_file=log,
                    stderr_file=log,
                )
                finished = _finished(run, result)
            except Exception as error:
                print(f"\n{type(error).__name__}: {error}", file=log)
                if executed.exists():
                    os.replace(executed, run.failed)
                raise RunError(f"{run.name} failed; its log: {run.log}") from error
        finished.save(result)
        os.replace(executed, run.executed)
        os.replace(result, run.result)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        run.progress.unlink(missing_ok=True)


def snakemake_command(
    root: Path,
    profile: str,
    *,
    only: Sequence[str] = (),
    where: str = "",
    cores: int = 1,
    extra: Sequence[str] = (),
) -> list[str]:
    """Return the command line of Snakemake; `extra` arguments come last and so win.

    Locks and marks of incomplete files are off: `reproduce` holds its own lock, which the system
    releases on any death, and a result that exists is complete.
    """
    snakefile = root / "workflow" / "Snakefile"
    if not snakefile.exists():
        snakefile = package_root().parent / "workflow" / "Snakefile"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
    command += ["--directory", str(root), "--cores", str(cores), "--keep-going"]
    command += ["--rerun-triggers", "mtime", "--nolock", "--ignore-incomplete", "--quiet", "all"]
    command += ["--config", f"profile={profile}"]
    command += [f"only={'+'.join(only)}"] if only else []
    return [*command, *([f"where={where}"] if where else []), *extra]


def reproduce(
    root: Path,
    profile: str,
    *,
    only: Sequence[str] = (),
    where: str = "",
    cores: int = 1,
    extra: Sequence[str] = (),
    keep_stale: bool = False,
    force: bool = False,
) -> list[Run]:
    """Make every unfinished run of a profile.

    Parameters
    ----------
    root : Path
        The repository.
    profile, only, where
        As in `expand`.
    cores : int
        Runs at a time; each uses one thread.
    extra : sequence of str
        Further arguments of Snakemake, for example ``["--executor", "slurm", "--jobs", "8"]``.
    keep_stale : bool
        Keep finished runs although code, notebook or parameters changed since.
    force : bool
        Repeat finished runs.

    Returns
    -------
    list of Run
        The runs that did not finish; empty on success.

    Raises
    ------
    WorkflowError
        As `expand`, or if another process works on the same profile.
    KeyboardInterrupt
        After the workers have been stopped.
    """
    runs = expand(root / repository.EXPERIMENTS, profile, only, where)
    runs = [run for run in runs if not run.skip]
    folder = root / "runs" / profile
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / ".lock") as lock:
        for leftover in folder.glob("*/.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        if force:
            for run in filter(lambda run: run.result.exists(), runs):
                _set_aside(run)
        elif not keep_stale:
            for run in set_stale_aside(runs):
                print(f"stale, runs again: {run.name} (code, notebook or parameters changed)")
        unfinished = [run for run in runs if not run.result.exists()]
        print(f"{len(runs) - len(unfinished)} of {len(runs)} runs are finished", flush=True)
        if not unfinished:
            return []
        for run in unfinished:
            run.progress.unlink(missing_ok=True)
            run.failed.unlink(missing_ok=True)
        command = snakemake_command(root, profile, only=only, where=where, cores=cores, extra=extra)
        log = folder / "snakemake.log"
        with log.open("w", encoding="utf-8") as stream:
            # A session of its own: an interrupt reaches this process alone, which then stops the
            # workers. The inherited lock lives as long as either.
            process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "MTLBOOK_ROOT": str(root)},
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
            _note_processes(lock, process.pid)
            try:
                _show_progress(process, unfinished)
            finally:
                _stop(process)
        missing = [run for run in unfinished if not run.result.exists()]
        if process.returncode and not any(run.failed.exists() for run in missing):
            print("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-20:]))
            print(f"Snakemake failed ({process.returncode}); its log: {log}")
        return missing


def collect(
    folder: str | os.PathLike, *, only: Sequence[str] = (), allow_mixed: bool = False
) -> dict[str, Result]:
    """Merge the finished runs of the experiments in ``runs/<profile>``.

    Raises
    ------
    WorkflowError
        If there are none, or none of an experiment of `only`.
    ResultError
        As `merge`, or if a file is not valid.
    """
    folder = Path(folder)
    merged = {}
    for name in only or sorted(path.name for path in folder.glob("*") if path.is_dir()):
        # Natural order of the ids, so that repeat=10 follows repeat=9.
        paths = sorted((folder / name).glob("*.json"), key=lambda path: _natural(path.stem))
        runs = {path.stem: Result.load(path) for path in paths}
        if runs:
            merged[name] = merge(runs, profile=folder.name, allow_mixed=allow_mixed)
    absent = [name for name in only if name not in merged]
    if absent or not merged:
        raise WorkflowError(
            f"{folder}: no finished runs of {', '.join(absent) or 'any experiment'}"
        )
    return merged


def _runs(root: Path, name: str, experiment: Experiment, profile: str) -> Iterator[Run]:
    chosen = experiment.profiles[profile]
    notebook = root / "notebooks" / experiment.notebook
    both = set(chosen.parameters) & set(chosen.each)
    if both:
        raise WorkflowError(f"{name}.{profile}: both fixed and varied: {', '.join(sorted(both))}")
    defaults = _notebook_parameters(name, notebook)
    if "result" not in defaults:
        raise WorkflowError(f"{name}: notebook {experiment.notebook} has no parameter 'result'")
    given = {"data": experiment.data} if experiment.data and "data" in defaults else {}
    skip = _missing_data(name, experiment.data) if experiment.data else None
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
        folder = root / "runs" / profile / name
        yield Run(profile, name, run, notebook, parameters, folder, skip)


def _notebook_parameters(experiment: str, notebook: Path) -> dict[str, dict]:
    """Names and defaults in the cell tagged ``parameters``."""
    import papermill

    if not notebook.exists():
        raise WorkflowError(f"{experiment}: no notebook {notebook}")
    return papermill.inspect_notebook(str(notebook))


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
    return f"data set {name} is not here; get it with: mtlbook data fetch {name}"


def _set_aside(run: Run) -> None:
    os.replace(run.result, run.result.with_name(run.result.name + ".stale"))


def _finished(run: Run, path: Path) -> Result:
    """Read what the notebook wrote and add what identifies the run."""
    if not path.exists():
        raise RunError(
            f"the notebook ended, but wrote no result to its parameter 'result' ({path})"
        )
    result = Result.load(path)
    if result.experiment != run.experiment:
        raise RunError(f"expected a result of {run.experiment}, got {result.experiment}")
    result.provenance["run"] = {
        "profile": run.profile,
        "id": run.id,
        "parameters": run.parameters,
        "notebook": run.notebook.name,
        "notebook_sha256": notebook_sha256(run.notebook),
    }
    return result


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which kernels inherit, and restore the old ones."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[int | None]:
    """Hold an exclusive lock; the workers of a driver that was killed are stopped first."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock; runs are then not protected from each other
        yield None
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for attempt in range(100):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                driver, workers = _noted_processes(handle)
                if driver is None or _is_alive(driver):
                    raise WorkflowError(
                        f"another process ({driver}) makes the runs of {path.parent}"
                    ) from None
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(workers, signal.SIGTERM if attempt < 50 else signal.SIGKILL)
                time.sleep(0.1)
        else:
            raise WorkflowError(f"the workers of a killed process hold {path}; process {workers}")
        os.ftruncate(handle, 0)
        yield handle
    finally:
        os.close(handle)


def _note_processes(lock: int | None, workers: int) -> None:
    if lock is not None:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {workers}".encode(), 0)


def _noted_processes(lock: int) -> tuple[int | None, int | None]:
    match = re.fullmatch(rb"(\d+) (\d+)", os.pread(lock, 64, 0))
    return (int(match[1]), int(match[2])) if match else (None, None)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _stop(process: subprocess.Popen) -> None:
    """End Snakemake and its jobs; kernels end with the jobs that started them."""
    for sign, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _show_progress(process: subprocess.Popen, runs: Sequence[Run]) -> None:
    """Print a line a finished run until Snakemake ends; on a terminal also a bar a running one."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    started = time.monotonic()
    waiting = list(runs)
    bars: dict[str, tqdm] = {}
    with tqdm(total=len(runs), desc="runs", unit="run", disable=not terminal) as overall:
        while waiting:
            ended = process.poll() is not None
            for run in [run for run in waiting if run.result.exists()]:
                waiting.remove(run)
                overall.update()
                if run.name in bars:
                    bars.pop(run.name).close()
                done, elapsed = len(runs) - len(waiting), time.monotonic() - started
                left = elapsed / done * len(waiting)
                tqdm.write(
                    f"[{done}/{len(runs)}] {run.name}  (elapsed {tqdm.format_interval(elapsed)}, "
                    f"about {tqdm.format_interval(left)} left)"
                )
                sys.stdout.flush()
            if terminal:
                _draw_running(waiting, bars)
            if ended:
                break
            time.sleep(0.2)
        for bar in bars.values():
            bar.close()
    process.wait()


def _draw_running(waiting: Sequence[Run], bars: dict) -> None:
    """Draw what training writes to the progress files: ``{"step": ..., "steps": ...}``."""
    from tqdm import tqdm

    for run in waiting:
        try:
            state = json.loads(run.progress.read_text(encoding="utf-8"))
            step, steps = int(state["step"]), int(state["steps"])
        except (OSError, ValueError, KeyError, TypeError):
            if run.name in bars:
                bars.pop(run.name).close()
            continue
        if run.name not in bars:
            bars[run.name] = tqdm(total=steps, desc=f"  {run.name}", unit="step", leave=False)
        bars[run.name].n = step
        bars[run.name].refresh()


def _natural(text: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute one run: what the Snakefile calls."""
    parser = argparse.ArgumentParser(prog="python -m mtlbook.workflow", description=main.__doc__)
    run_parser = parser.add_subparsers(required=True).add_parser("run", help="execute one run")
    for name in ("profile", "experiment", "run"):
        run_parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args(arguments)
    # Being asked to end is an exception like any other, so that the scratch folder goes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = repository.root()
    try:
        runs = expand(root / repository.EXPERIMENTS, options.profile, [options.experiment])
        chosen = next((run for run in runs if run.id == options.run), None)
        if chosen is None:
            raise WorkflowError(f"{options.experiment}: no run {options.run!r}")
        execute_run(chosen, root)
    except (WorkflowError, RunError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
