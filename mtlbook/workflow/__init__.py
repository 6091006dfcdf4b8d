"""Runs of the experiments: which there are, which are finished, and how they are made.

``notebooks/experiments.yaml`` says which notebook runs with which parameters in which profile. One
run is one execution of a notebook; it leaves ``runs/<profile>/<experiment>/<run>.json`` (the
result), ``.ipynb`` (the executed notebook) and ``.log``, in the repository or where
``MTLBOOK_RUNS`` says. A result appears complete or not at all,
and last, so a result that exists belongs to a finished run: killing any process loses only
unfinished runs.

The scheduling is Snakemake's (``workflow/Snakefile``); it calls ``python -m mtlbook.workflow``.

- `catalogue`: the file, its parameters checked, its lists expanded;
- `execution`: one run, and whether a finished one is still current;
- `surroundings`: what kernels and workers inherit;
- `supervision`: all runs of a profile; `schedule`: which begin first; `progress`: what a terminal
  shows meanwhile;
- `collection`: finished runs, merged; `rerun`: a random run of each committed result, repeated;
- `new_paper`: the files of one more paper, laid out.
"""

from mtlbook.workflow.catalogue import (
    PROFILES,
    Experiment,
    Run,
    WorkflowError,
    expand,
    load_experiments,
)
from mtlbook.workflow.collection import collect, read_runs, recorded
from mtlbook.workflow.execution import RunError, execute_run, is_current, set_stale_aside
from mtlbook.workflow.new_paper import lay_out
from mtlbook.workflow.rerun import Repetition, rerun_random, write_report
from mtlbook.workflow.schedule import priorities
from mtlbook.workflow.supervision import last_lines, reproduce, snakemake_command

__all__ = [
    "PROFILES",
    "Experiment",
    "Repetition",
    "Run",
    "RunError",
    "WorkflowError",
    "collect",
    "execute_run",
    "expand",
    "is_current",
    "last_lines",
    "lay_out",
    "load_experiments",
    "priorities",
    "read_runs",
    "recorded",
    "reproduce",
    "rerun_random",
    "set_stale_aside",
    "snakemake_command",
    "write_report",
]
