"""All runs of a profile: one driver at a time, Snakemake below it, and nobody left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from mtlbook.ledger import repository
from mtlbook.ledger.provenance import package_root
from mtlbook.workflow.catalogue import Run, WorkflowError, expand
from mtlbook.workflow.collection import mixed
from mtlbook.workflow.execution import set_aside, set_stale_aside, set_waiting_aside
from mtlbook.workflow.progress import show_progress
from mtlbook.workflow.schedule import expected_seconds
from mtlbook.workflow.surroundings import of_worker

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
    # its own notes go beside the runs, too: a checkout need not be writable
    command += ["--directory", str(repository.runs(root)), "--cores", str(cores), "--keep-going"]
    command += ["--rerun-triggers", "mtime", *([] if keep_stale else ["params"])]
    # "all" would keep quiet about its errors as well
    command += ["--nolock", "--ignore-incomplete", "--quiet", "host", "progress", "reason", "rules"]
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
    with only_driver(folder):
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
            return _told(runs, [])
        for run in unfinished:
            run.progress.unlink(missing_ok=True)
            run.failed.unlink(missing_ok=True)
        options = {"only": only, "where": where, "cores": cores, "extra": extra}
        command = snakemake_command(root, profile, keep_stale=keep_stale, **options)
        log = folder / "snakemake.log"
        with log.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **of_worker(root), MARK: str(folder)},
                # a session of its own: an interrupt reaches this process alone, which then stops
                # the workers
                start_new_session=True,
            )
            show_progress(process, unfinished, expected_seconds(root, unfinished))
        missing = [run for run in unfinished if not run.result.exists()]
        if (process.returncode or missing) and not any(run.failed.exists() for run in missing):
            print(last_lines(log, 20))
            print(f"Snakemake ended with code {process.returncode}; its log: {log}")
        return _told(runs, missing)


def _told(runs: Sequence[Run], missing: list[Run]) -> list[Run]:
    """``missing``, after a word on finished runs that do not belong together."""
    for line in mixed(runs):
        print(line, flush=True)
    return missing


def last_lines(log: Path, count: int) -> str:
    """The end of a log, where the error stands, without blank lines and a terminal's colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def _judged(runs: Sequence[Run], verdicts: Path) -> bool:
    """Whether the verdicts are younger than every run: a driver may have been killed between."""
    when = max((run.result.stat().st_mtime for run in runs), default=0.0)
    return not runs or (verdicts.exists() and verdicts.stat().st_mtime >= when)


@contextlib.contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; nobody works for the folder before or after that."""
    lock = FileLock(folder / ".lock")
    note = folder / ".driver"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        other = note.read_text(encoding="utf-8") if note.exists() else "?"
        raise WorkflowError(f"another process ({other}) makes the runs of {folder}") from None
    except OSError as error:
        raise WorkflowError(
            f"{folder}: expected a folder that can be written to ({error.strerror}); the runs go "
            "to another one with MTLBOOK_RUNS=FOLDER"
        ) from error
    try:
        note.write_text(str(os.getpid()), encoding="utf-8")
        _clear(folder)  # of what a driver that was killed has left
        yield
    finally:
        _clear(folder)
        note.unlink(missing_ok=True)
        lock.release()


def _clear(folder: Path) -> None:
    """Stop who works for a folder, and remove unfinished runs."""
    stop_workers(folder)
    for leftover in folder.glob("*/.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


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
