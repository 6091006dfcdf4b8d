"""One run: execute its notebook, publish its files, and say whether it is still current."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mtlbook.ledger import repository
from mtlbook.ledger.currency import stale
from mtlbook.ledger.provenance import notebook_sha256
from mtlbook.ledger.results import Result, ResultError
from mtlbook.workflow.catalogue import Run, literal
from mtlbook.workflow.surroundings import environment, of_kernel


class RunError(RuntimeError):
    """A run that failed; the message names the run and its log."""


def is_current(run: Run, path: Path | None = None) -> bool:
    """Whether the finished run (or the result in ``path``) is what would come out now.

    It had the present parameters, notebook and data, the numerics version of the code, and took
    its choices from results that are unchanged.
    """
    result = Result.load(path or run.result)
    recorded = result.provenance.get("run", {})
    return (
        recorded.get("parameters") == json.loads(json.dumps(run.parameters))
        and recorded.get("notebook_sha256") == notebook_sha256(run.notebook)
        and recorded.get("data") == run.data
        and not stale(result, _tunings_of(run))
    )


def _tunings_of(run: Run) -> dict[str, Result]:
    """The results whose choices a run takes over, as they are now."""
    with environment(_where_results_are(run)):
        found = {}
        for name in run.uses:
            with contextlib.suppress(FileNotFoundError):
                found[name] = repository.committed(name)
    return found


def _where_results_are(run: Run) -> dict[str, str]:
    """The merged results of the run's own profile come before those that are committed."""
    return {"MTLBOOK_RESULTS": str(run.folder.parent)}


def set_stale_aside(runs: Sequence[Run]) -> list[Run]:
    """Rename finished results that are no longer current (or unreadable) to ``.json.stale``."""
    stale = []
    for run in runs:
        if not run.result.exists():
            continue
        try:
            current = is_current(run)
        except (OSError, ResultError):
            current = False
        if not current:
            set_aside(run)
            stale.append(run)
    return stale


def set_waiting_aside(runs: Sequence[Run]) -> list[Run]:
    """Set aside the finished runs whose tunings are still to be made, in this call."""
    open_ = {run.experiment for run in runs if not run.result.exists()}
    waiting: list[Run] = []
    while found := [run for run in runs if run.result.exists() and open_ & set(run.uses)]:
        for run in found:
            os.replace(run.result, run.waiting)
            open_.add(run.experiment)
        waiting += found
    return waiting


def put_back(run: Run) -> bool:
    """Whether a run that waited is finished after all: its tunings came out as they were."""
    try:
        current = is_current(run, run.waiting)
    except (OSError, ResultError):
        return False
    if current:
        os.replace(run.waiting, run.result)
    return current


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

    from mtlbook.workflow.kernel import OwnKernel

    run.folder.mkdir(parents=True, exist_ok=True)
    run.failed.unlink(missing_ok=True)
    # In the same folder, so that os.replace never crosses file systems.
    scratch = Path(tempfile.mkdtemp(dir=run.folder, prefix=f".{run.id}.", suffix=".tmp"))
    result, executed = scratch / "result.json", scratch / "notebook.ipynb"
    told = {
        "MTLBOOK_PROGRESS": str(run.progress),
        "MTLBOOK_ROOT": str(root),
        # so that `Result.begin` hears of a parameter that a notebook forgets before it runs
        "MTLBOOK_PARAMETERS": json.dumps([name for name in run.parameters if name != "device"]),
        **_where_results_are(run),
        **{name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        # glibc would give the large activations back to the system after every step and fetch them
        # anew, page by page: a step is about 1.5 times as fast without (benchmarks/steps.py)
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
        **of_kernel(scratch),
    }
    try:
        with run.log.open("w", encoding="utf-8", buffering=1) as log, environment(told):
            print(f"{run.name}: {json.dumps(run.parameters)}", file=log)
            try:
                papermill.execute_notebook(
                    literal(run.notebook),
                    literal(executed),
                    parameters={**run.parameters, "result": str(result)},
                    kernel_name="python3",
                    kernel_manager_class=OwnKernel,
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
        run.waiting.unlink(missing_ok=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        run.progress.unlink(missing_ok=True)


def set_aside(run: Run) -> None:
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
    missing = [
        name
        for name, value in json.loads(json.dumps(run.parameters)).items()
        if name != "device" and result.parameters.get(name, value) != value
    ]
    if missing:
        raise RunError(f"the result records other parameters than the run had: {missing}")
    if set(result.uses) != set(run.uses):
        raise RunError(
            f"the result records other tunings than the run names in tuned_by: expected "
            f"{sorted(run.uses)}, got {sorted(result.uses)}"
        )
    result.provenance["run"] = {
        "profile": run.profile,
        "id": run.id,
        "parameters": run.parameters,
        "data": run.data,
        "notebook": run.notebook.name,
        "notebook_sha256": notebook_sha256(run.notebook),
    }
    return result
