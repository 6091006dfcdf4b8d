"""What may be asked on the command line."""

from __future__ import annotations

import argparse

from mtlbook import __version__
from mtlbook.cli import commands, comparison, exercises, notebooks
from mtlbook.cli import data as data_sets
from mtlbook.cli import export as exports

EPILOG = """\
exit codes: 0 success; 1 a committed verdict no longer follows, a file was changed that must not be
(audit --strict), a run failed, a data set is missing or wrong, split lists have faults, or an
answer fails a check; 2 a mistake in the request or in a file; 3 no git history to judge by (audit
--strict), all else right; 130 interrupted (finished runs stay); 141 the reader of the output went
away"""


def parser() -> argparse.ArgumentParser:
    """All commands; each names its function."""
    whole = argparse.ArgumentParser(
        prog="mtlbook",
        description="Deep multi-task learning, executable and audited.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"mtlbook {__version__}")
    subparsers = whole.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, function, text: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        command.set_defaults(function=function)
        return command

    add("list", commands.list_all, "list papers, methods, experiments and the number of claims")

    data = add("data", data_sets.data, "list, fetch or verify data sets")
    data.add_argument("action", choices=("list", "fetch", "verify"))
    data.add_argument("names", nargs="*", metavar="NAME", help="data sets; verify: default all")
    data.add_argument("--all", action="store_true", help="fetch: every set with a public source")

    reproduce = add(
        "reproduce",
        commands.reproduce,
        "make every unfinished run of a profile, then show what came out beside what is committed",
    )
    reproduce.usage = "mtlbook reproduce [options] [-- arguments of Snakemake]"
    reproduce.epilog = (
        "Runs on two cores of this machine: --cores 2. On a cluster: -- --executor slurm --jobs 8. "
        "A run that was interrupted begins again; finished ones are kept, in runs/ of the checkout "
        "or in the folder that MTLBOOK_RUNS names."
    )
    _add_profile(reproduce)
    _add_cores(reproduce)
    _add_only(reproduce)
    reproduce.add_argument(
        "--where",
        default="",
        metavar="NAME=VALUE,...",
        help="these runs only, for example repeat=0,arm=laf",
    )
    reproduce.add_argument(
        "--within",
        type=float,
        metavar="MINUTES",
        help="leave out experiments whose unfinished runs take longer together on one core, by the "
        "times of the committed runs",
    )
    reproduce.add_argument(
        "--dry-run",
        action="store_true",
        help="run nothing, and say what would be run, how it differs from laptop, on which data, "
        "how long and how large; --verbose lists every run",
    )
    reproduce.add_argument(
        "--verbose", action="store_true", help="print every claim, too, with what decided"
    )
    reproduce.add_argument(
        "--keep-stale",
        action="store_true",
        help="keep finished runs although code, notebook or parameters changed since",
    )

    record = add(
        "record", commands.record, "merge the runs of a profile into data/results, to be committed"
    )
    _add_source(record)
    _add_only(record)
    record.add_argument(
        "--allow-mixed", action="store_true", help="accept runs of different data or tunings"
    )
    record.add_argument(
        "--force",
        action="store_true",
        help="replace a committed result of another profile, or one with more records",
    )

    audit = add(
        "audit", commands.audit, "recompute every verdict and compare it with the committed one"
    )
    audit.add_argument(
        "--format",
        choices=("table", "json", "html"),
        default="table",
        help="default: table; html: the ledger, one page to filter, sort and open",
    )
    audit.add_argument("-o", dest="output", metavar="FILE", help="write to a file, print nothing")
    audit.add_argument("--paper", metavar="NAME", help="show the verdicts on this paper alone")
    audit.add_argument(
        "--results",
        metavar="FOLDER",
        help="judge the results of this folder instead of data/results; compares nothing",
    )
    audit.add_argument(
        "--coverage",
        action="store_true",
        help="say how many printed numbers are in a claim, and how many have a stated reason "
        "why not; fail if one has neither",
    )
    audit.add_argument(
        "--write",
        action="store_true",
        help="write data/verdicts.json, data/manifest.json and the results in README.md, to be "
        "committed",
    )
    audit.add_argument(
        "--strict",
        action="store_true",
        help="also fail on whatever was changed since it was written, or later than it may be: "
        "claims, results, printed values, provenance, tunings, verdicts; reads the git history",
    )
    audit.add_argument(
        "--accept",
        metavar="WHY",
        help="with --write: accept what --strict finds, as it is now, for this reason; every "
        "strict audit and the book name it",
    )

    rerun = add(
        "rerun",
        commands.rerun,
        "repeat the experiment behind a claim, or a random run of every result, and compare",
    )
    rerun.add_argument("claim", nargs="?", help="for example tnrdmtl.table1.laf-over-stl")
    rerun.add_argument("--random", action="store_true", help="one run of every committed result")
    rerun.add_argument(
        "--seed", type=int, default=0, metavar="N", help="with --random: of the choice (default 0)"
    )
    rerun.add_argument(
        "--where",
        default="",
        metavar="NAME=VALUE,...",
        help="with --random: one of these runs, for example percent=5,group=learned",
    )
    rerun.add_argument(
        "--repeats",
        type=_positive,
        metavar="N",
        help="with --random: of a run, the first N repeats",
    )
    rerun.add_argument(
        "--report", metavar="FILE", help="with --random: also write what was found, as JSON"
    )
    _add_only(rerun)
    _add_profile(rerun)
    _add_cores(rerun)

    _add_compare(
        add("compare", comparison.compare, "find out which method helps on your own tasks")
    )

    answer = add("check", exercises.check, "check your answer to an exercise")
    answer.add_argument("name", nargs="?", metavar="NAME", help="for example ex-tensors-unfold")
    answer.add_argument("answer", nargs="?", metavar="FILE", help="your code, for example my.py")
    answer.add_argument(
        "--list",
        action="store_true",
        help="list all exercises, or those of the chapter NAME: levels, and functions asked for",
    )
    answer.add_argument(
        "--seconds",
        type=_positive,
        default=30,
        metavar="N",
        help="end your code after so long (default 30)",
    )

    page = add("open", notebooks.open_page, "open a page of the book as a notebook of your own")
    page.add_argument("page", metavar="PAGE", help="for example trace-norm, or methods/mrn")
    page.add_argument(
        "--folder",
        default="mtlbook-pages",
        metavar="FOLDER",
        help="where notebooks are kept (default: mtlbook-pages); one that is there is not replaced",
    )
    page.add_argument("--force", action="store_true", help="replace it, with all that you wrote")
    page.add_argument("--solved", action="store_true", help="with solutions to the exercises")
    page.add_argument("--only-write", action="store_true", help="do not start Jupyter")

    paper = add(
        "new-paper",
        commands.new_paper,
        "lay out the files that an audit of one more paper needs",
    )
    paper.add_argument("name", metavar="NAME", help="small letters and digits, for example pooling")

    export = add(
        "export", exports.export, "write a CODECHECK bundle, an RO-Crate or the report of a paper"
    )
    export.add_argument("kind", choices=exports.KINDS)
    export.add_argument("--paper", required=True, metavar="NAME", help="for example tnrdmtl")
    export.add_argument("-o", dest="folder", required=True, metavar="FOLDER", help="made if needed")
    export.add_argument(
        "--no-pdf", action="store_true", help="report: HTML alone, which needs no browser"
    )

    split = add("audit-split", commands.audit_split, "find out what split lists really hold")
    split.add_argument(
        "lists",
        nargs="+",
        metavar="LISTS",
        help="office_caltech10, for the lists released with MRN; a folder of <task>/train_<percent>"
        '.txt and test_<percent>.txt; or a training and a test file; lines are "path label"',
    )
    split.add_argument(
        "--items", metavar="FILE", help="with two files: all samples that there are, likewise"
    )
    split.add_argument(
        "--format", choices=("table", "json"), default="table", help="default: table"
    )
    return whole


def _add_compare(command: argparse.ArgumentParser) -> None:
    command.epilog = (
        "DATA is a folder <task>/<class>/<image>, a .csv, .tsv or .parquet table with one row per "
        "sample, or an .npz file with x, y and task, or with x_NAME and y_NAME of every task. "
        "Writes report.html and result.json; an interrupted comparison goes on where it stopped."
    )
    several = {"nargs": "+", "action": "extend"}  # given twice, an option adds to what it had
    command.add_argument("data", metavar="DATA")
    command.add_argument("--task", default="task", metavar="COLUMN", help="table: the task")
    command.add_argument(
        "--target", **several, metavar="COLUMN", help="table: what to predict (default target)"
    )
    command.add_argument(
        "--group",
        metavar="COLUMN",
        help="table: samples of one group are never divided between training and test",
    )
    command.add_argument("--drop", **several, default=[], metavar="COLUMN", help="table: no inputs")
    command.add_argument("--without", **several, default=[], metavar="TASK", help="leave tasks out")
    command.add_argument("--kind", choices=("auto", "classification", "regression"), default="auto")
    command.add_argument(
        "--images",
        choices=("auto", "features", "pixels"),
        default="auto",
        help="features of a pretrained network, or pixels",
    )
    command.add_argument("--size", type=_positive, default=32, metavar="N", help="of pixels")
    command.add_argument("--network", choices=("auto", "linear", "mlp", "convnet"), default="auto")
    command.add_argument("--arms", **several, metavar="ARM", help="default: all that apply")
    command.add_argument(
        "--repeats", type=_positive, default=10, metavar="N", help="random splits (default 10)"
    )
    command.add_argument(
        "--trials", type=_positive, default=8, metavar="N", help="settings of each arm (default 8)"
    )
    command.add_argument(
        "--anew",
        action="store_true",
        help="choose numbers for every repeat by itself: intervals then hold the search's luck",
    )
    command.add_argument(
        "--margin", type=float, default=1.0, metavar="POINTS", help="equal within (default 1)"
    )
    command.add_argument(
        "--protocol",
        **several,
        default=[],
        metavar="NAME=VALUE",
        help="other numbers of all arms, for example steps=600 hidden=128 train=0.3",
    )
    command.add_argument(
        "--output", metavar="FOLDER", help="default: compare-<name of DATA> in this folder"
    )
    command.add_argument("--device", default="auto")


def _add_profile(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--profile",
        default="laptop",
        choices=("smoke", "laptop", "paper"),
        help="smoke: seconds; laptop: minutes on two cores (default); paper: the paper's scale",
    )


def _add_cores(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cores", type=_positive, default=1, metavar="N", help="runs at a time (default 1)"
    )


def _add_only(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="these experiments only",
    )


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--from", dest="source", required=True, metavar="FOLDER", help="for example runs/laptop"
    )


def _positive(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return number
