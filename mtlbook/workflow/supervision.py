"""All runs of a profile: one driver at a time, Snakemake below it, and nobody left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from mtlbook.ledger import repository
from mtlbook.ledger.provenance import package_root
from mtlbook.workflow.catalogue import Run, WorkflowError, expand
from mtlbook.workflow.execution import set_aside, set_stale_aside, set_waiting_aside
from mtlbook.workflow.progress import show_progress
from mtlbook.workflow.schedule import expected_seconds

MARK = "MTLBOOK_DRIVER"  # in the environment of every worker: the folder that it works for


def snakemake_command(
    root: Path,
    profile: str,
    *,
    only: Sequence[str] = (),
    where: str = "",
    cores: int = 1,
    extra: Sequence[str] = (),
    keep_stale: bool = False,
) -> list[str]:
    """Return the command line of Snakemake; `extra` arguments come last and so win.

    Snakemake's locks and marks of incomplete files are off: `reproduce` holds a lock that the
    system releases on any death, and a result that exists is complete, so that a killed Snakemake
    must not make it anew.
    """
    snakefile = root / "workflow" / "Snakefile"
    if not snakefile.exists():
        snakefile = package_root().parent / "workflow" / "Snakefile"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
    command += ["--directory", str(root), "--cores", str(cores), "--keep-going"]
    command += ["--rerun-triggers", "mtime", *([] if keep_stale else ["params"])]
    command += ["--nolock", "--ignore-incomplete", "--quiet", "all"]
    command += ["--config", f"profile={profile}", f"keep_stale={int(keep_stale)}"]
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
    folder = repository.runs(root) / profile
    folder.mkdir(parents=True, exist_ok=True)
    with _only_driver(folder):
        for leftover in folder.glob("*/.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        if force:
            for run in runs:
                run.waiting.unlink(missing_ok=True)
                if run.result.exists():
                    set_aside(run)
        elif not keep_stale:
            for run in set_stale_aside(runs):
                print(f"stale, runs again: {run.name} (code, notebook, data or parameters changed)")
        for run in set_waiting_aside(runs):
            print(f"waits for its tuning: {run.name}")
        unfinished = [run for run in runs if not run.result.exists()]
        print(f"{len(runs) - len(unfinished)} of {len(runs)} runs are finished", flush=True)
        if not unfinished and _judged(runs, folder / "verdicts.jsonl"):
            return []
        for run in unfinished:
            run.progress.unlink(missing_ok=True)
            run.failed.unlink(missing_ok=True)
        options = {"only": only, "where": where, "cores": cores, "extra": extra}
        command = snakemake_command(root, profile, keep_stale=keep_stale, **options)
        log = folder / "snakemake.log"
        with log.open("w", encoding="utf-8") as stream, _asked_to_end():
            process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "MTLBOOK_ROOT": str(root), MARK: str(folder)},
                # a session of its own: an interrupt reaches this process alone, which then stops
                # the workers
                start_new_session=True,
            )
            try:
                show_progress(process, unfinished, expected_seconds(root, unfinished))
            finally:
                stop_workers(folder)
                process.wait()
        missing = [run for run in unfinished if not run.result.exists()]
        if process.returncode and not any(run.failed.exists() for run in missing):
            text = log.read_text(encoding="utf-8", errors="replace")
            print("".join(text.splitlines(keepends=True)[-20:]))
            print(f"Snakemake failed ({process.returncode}); its log: {log}")
        return missing


def _judged(runs: Sequence[Run], verdicts: Path) -> bool:
    """Whether the verdicts are younger than every run: a driver may have been killed between."""
    when = max((run.result.stat().st_mtime for run in runs), default=0.0)
    return not runs or (verdicts.exists() and verdicts.stat().st_mtime >= when)


@contextlib.contextmanager
def _only_driver(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; what a driver that was killed has left working is stopped first."""
    lock = FileLock(folder / ".lock")
    note = folder / ".driver"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = note.read_text(encoding="utf-8") if note.exists() else "?"
        raise WorkflowError(f"another process ({other}) makes the runs of {folder}") from None
    try:
        note.write_text(str(os.getpid()), encoding="utf-8")
        stop_workers(folder)
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def stop_workers(folder: Path) -> None:
    """End every process that works for a folder: Snakemake, its jobs and their kernels."""
    alive = [process for process in psutil.process_iter() if _works_for(process, folder)]
    for end in ("terminate", "kill"):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, end)()
        _, alive = psutil.wait_procs(alive, timeout=5)


def _works_for(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(MARK) == str(folder)
    except psutil.Error:
        return False  # ended meanwhile, or another user's


@contextlib.contextmanager
def _asked_to_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does: workers first."""

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    except ValueError:  # not in the main thread
        before = {}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
