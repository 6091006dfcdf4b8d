"""Command line: ``mtlbook list | data | reproduce | record | confirm | audit | rerun`` and
``audit-split``.

Imports that take time stay inside the commands: ``mtlbook --help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtlbook import __version__

EPILOG = """\
exit codes: 0 success; 1 a committed verdict no longer follows, a run failed, a data set is missing
or wrong, or split lists have faults; 2 a mistake in the request or in a file; 130 interrupted
(finished runs stay)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # argparse would drop the "--" and take Snakemake's options for its own.
    extra: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1 :]
    parser = _parser()
    options = parser.parse_args(arguments)
    if extra and options.command != "reproduce":
        parser.error("arguments after -- are Snakemake's, and go with reproduce only")
    options.extra = extra
    try:
        return options.function(options)
    except ImportError as error:
        known = (error.name or "").partition(".")[0] in _EXTRAS
        hint = "; install it with: pip install 'mtlbook[reproduce]'" if known else ""
        print(f"mtlbook: {error}{hint}", file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        print(f"mtlbook: {error}", file=sys.stderr)
        return 2


_EXTRAS = ("papermill", "pydantic", "snakemake", "tqdm", "yaml")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtlbook",
        description="Deep multi-task learning, executable and audited.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mtlbook {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, function, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(function=function)
        return command

    add("list", _list, "list papers, methods, experiments and the number of claims")

    data = add("data", _data, "list, fetch or verify data sets")
    data.add_argument("action", choices=("list", "fetch", "verify"))
    data.add_argument("names", nargs="*", metavar="NAME", help="data sets; verify: default all")

    reproduce = add(
        "reproduce",
        _reproduce,
        "make every unfinished run of a profile, then print the verdicts on your own runs",
    )
    reproduce.usage = "mtlbook reproduce [options] [-- arguments of Snakemake]"
    reproduce.epilog = (
        "Runs on two cores of this machine: --cores 2. On a cluster: -- --executor slurm --jobs 8. "
        "A run that was interrupted begins again; finished ones are kept."
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
    reproduce.add_argument("--dry-run", action="store_true", help="list the runs, run nothing")
    reproduce.add_argument(
        "--keep-stale",
        action="store_true",
        help="keep finished runs although code, notebook or parameters changed since",
    )

    record = add("record", _record, "merge finished runs into data/results, to be committed")
    _add_source(record)
    _add_only(record)
    record.add_argument(
        "--allow-mixed", action="store_true", help="accept runs of different code or data; says so"
    )

    confirm = add(
        "confirm",
        _confirm,
        "compare finished runs with the committed results; where all agree, note there that the "
        "present code gives the same numbers",
    )
    _add_source(confirm)
    _add_only(confirm)

    audit = add("audit", _audit, "recompute every verdict and compare it with the committed one")
    audit.add_argument(
        "--format", choices=("table", "json", "page"), default="table", help="default: table"
    )
    audit.add_argument(
        "--results",
        metavar="FOLDER",
        help="judge the results of this folder instead of data/results; compares nothing",
    )
    audit.add_argument(
        "--write",
        action="store_true",
        help="write data/verdicts.json and the results in README.md, to be committed",
    )

    rerun = add(
        "rerun", _rerun, "repeat the experiment behind a claim and compare with the committed value"
    )
    rerun.add_argument("claim", help="for example tnrdmtl.table1.laf-over-stl")
    _add_profile(rerun)
    _add_cores(rerun)

    split = add("audit-split", _audit_split, "find out what split lists really hold")
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
    return parser


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


def _list(options: argparse.Namespace) -> int:
    from mtlbook import methods, workflow
    from mtlbook.ledger import repository
    from mtlbook.ledger.claims import load_all

    root = repository.root()
    print("papers")
    for of_paper in load_all(root / "data" / "claims"):
        print(f"  {of_paper.paper:<10} {len(of_paper.claims):>3} claims  {of_paper.title}")
    bases = {"Method", "NetworkMethod"}
    print("methods\n  " + ", ".join(sorted(set(methods.__all__) - bases)))
    print("experiments")
    path = root / repository.EXPERIMENTS
    for name, experiment in workflow.load_experiments(path).items():
        print(f"  {name}: {experiment.title}")
        for profile in experiment.profiles:
            runs = workflow.expand(path, profile, [name])
            state = runs[0].skip or f"data: {experiment.data or 'made by the notebook'}"
            print(f"    {profile:<7} {len(runs):>3} runs  {state}")
    return 0


def _data(options: argparse.Namespace) -> int:
    from mtlbook import datasets

    if options.action == "list":
        if options.names:
            raise ValueError("data list: takes no names")
        for row in datasets.table():
            size = "" if row["size"] is None else f"{row['size'] / 1e6:.1f} MB"
            notes = [row["note"], row["stand_in_for"] and f"stand-in for {row['stand_in_for']}"]
            print(
                f"{row['name']:<25} {row['tier']:<9} {row['state']:<9} {size:>8}  "
                f"sha256 {row['sha256'] or 'recorded at first use'}"
            )
            print("    " + "; ".join([row["title"], *filter(None, notes)]))
            print(f"    licence: {row['licence']}")
        print(f"cache: {datasets.cache_dir()} (MTLBOOK_DATA)")
        return 0
    if options.action == "fetch":
        if not options.names:
            raise ValueError("data fetch: expected at least one name; see: mtlbook data list")
        try:
            for name in options.names:
                print(f"{name}: {datasets.fetch(name)}")
        except datasets.DataError as error:
            print(f"mtlbook: {error}", file=sys.stderr)
            return 1
        return 0
    rows = datasets.verify(options.names or None)
    for row in rows:
        print(f"{row['name']:<25} {row['state']:<9} {row['why'] or 'as expected'}")
    # A set that was asked for by name has to be there; among all, missing ones are no fault.
    wrong = [row for row in rows if row["ok"] is False or (row["ok"] is None and options.names)]
    return 1 if wrong else 0


def _reproduce(options: argparse.Namespace) -> int:
    from mtlbook import workflow
    from mtlbook.ledger import repository

    root = repository.root()
    path = root / repository.EXPERIMENTS
    runs = workflow.expand(path, options.profile, options.only, options.where)
    skipped = {run.experiment: run.skip for run in runs if run.skip}
    for experiment, why in skipped.items():
        count = sum(run.experiment == experiment for run in runs)
        print(f"skipped: {experiment}, {count} runs: {why}")
    if options.dry_run:
        for run in runs:
            if not run.skip:
                print(f"{'finished' if run.result.exists() else 'to run':<9} {run.name}")
        print(" ".join(_command(options, root)))
        return 0
    return _make_runs(options, root, options.only, runs)


def _command(options: argparse.Namespace, root: Path) -> list[str]:
    from mtlbook import workflow

    return workflow.snakemake_command(
        root,
        options.profile,
        only=options.only,
        where=options.where,
        cores=options.cores,
        extra=options.extra,
    )


def _make_runs(
    options: argparse.Namespace,
    root: Path,
    only: Sequence[str],
    runs: Sequence,
    *,
    force: bool = False,
    claim: str | None = None,
) -> int:
    """Run, then print the verdicts on these runs beside the committed values."""
    from mtlbook import workflow

    try:
        missing = workflow.reproduce(
            root,
            options.profile,
            only=only,
            where=getattr(options, "where", ""),
            cores=options.cores,
            extra=options.extra,
            keep_stale=getattr(options, "keep_stale", False),
            force=force,
        )
    except KeyboardInterrupt:
        print("\ninterrupted; finished runs are kept. The same command goes on.", file=sys.stderr)
        return 130
    for run in missing:
        if run.failed.exists():
            print(f"failed: {run.name}; log: {run.log}; notebook: {run.failed}", file=sys.stderr)
        else:
            print(f"not finished: {run.name}", file=sys.stderr)
    # Files of runs that are no longer asked for stay on disk, but are not judged.
    finished = [run for run in runs if not run.skip and run.result.exists()]
    print(_verdicts_on(root, options.profile, finished, claim))
    return 1 if missing else 0


def _verdicts_on(root: Path, profile: str, runs: Sequence, claim: str | None) -> str:
    from mtlbook.ledger.audit import audit, load_results
    from mtlbook.ledger.report import table
    from mtlbook.ledger.results import Result, merge

    of: dict[str, dict[str, Result]] = {}
    for run in runs:
        of.setdefault(run.experiment, {})[run.id] = Result.load(run.result)
    own = {name: merge(results, profile=profile, allow_mixed=True) for name, results in of.items()}
    claims = root / "data" / "claims"
    rows = [row for row in audit(claims, own) if row["experiment"] in own]
    if claim is not None:
        rows = [row for row in rows if row["claim"] == claim]
    before = audit(claims, load_results(root / "data" / "results"))
    if not rows:
        return "no claim speaks of these experiments"
    return table(rows, committed={row["claim"]: row for row in before})


def _record(options: argparse.Namespace) -> int:
    from mtlbook import workflow
    from mtlbook.ledger import repository

    root, source = repository.root(), Path(options.source)
    merged = workflow.collect(source, only=options.only, allow_mixed=options.allow_mixed)
    target = root / "data" / "results"
    for name, result in merged.items():
        result.save(target / f"{name}.json")
        count = sum(len(entry["of"]) for entry in result.provenance["runs"])
        print(f"{name}: {count} runs, {len(result.records)} records -> data/results/{name}.json")
    return 0


def _confirm(options: argparse.Namespace) -> int:
    from mtlbook import workflow
    from mtlbook.ledger import repository
    from mtlbook.ledger.results import Result, ResultError, confirm

    failed = False
    for name, fresh in workflow.collect(Path(options.source), only=options.only).items():
        path = repository.root() / "data" / "results" / f"{name}.json"
        try:
            confirmed = confirm(Result.load(path), fresh)
        except ResultError as error:
            print(f"mtlbook: {error}", file=sys.stderr)
            failed = True
            continue
        confirmed.save(path)
        note = confirmed.provenance["confirmations"][-1]
        print(
            f"{name}: {note['records']} of {len(confirmed.records)} numbers measured again, "
            f"largest relative difference {note['largest_difference']:.1e}"
        )
    return 1 if failed else 0


def _audit(options: argparse.Namespace) -> int:
    from mtlbook.ledger import report, repository
    from mtlbook.ledger.audit import audit, load_results, mismatches, write_verdicts
    from mtlbook.ledger.results import write_atomically

    root = repository.root()
    if options.results and not Path(options.results).is_dir():
        raise ValueError(f"--results: expected a folder, got {options.results}")
    if options.results and options.write:
        raise ValueError("--write: commits verdicts on data/results; not together with --results")
    results = load_results(options.results or root / "data" / "results")
    rows = audit(root / "data" / "claims", results)
    if options.format == "page":
        print(report.markdown(rows=rows))
    else:
        print(report.to_json(rows) if options.format == "json" else report.table(rows))
    verdicts = root / "data" / "verdicts.json"
    if options.write:
        write_verdicts(rows, verdicts)
        page = root / "README.md"
        if page.is_file():
            write_atomically(page, report.readme(rows, page.read_text(encoding="utf-8")))
        return 0
    if options.results:
        return 0
    found = mismatches(rows, verdicts)
    for line in found:
        print(f"mtlbook: {line}", file=sys.stderr)
    return 1 if found else 0


def _rerun(options: argparse.Namespace) -> int:
    from mtlbook import workflow
    from mtlbook.ledger import repository

    root = repository.root()
    claims = _claims(root)
    if options.claim not in claims:
        raise ValueError(f"unknown claim {options.claim!r}; known: {', '.join(claims)}")
    path = root / repository.EXPERIMENTS
    experiments = workflow.load_experiments(path)
    reasons = []
    for name in claims[options.claim].experiments:
        if name not in experiments or options.profile not in experiments[name].profiles:
            reasons.append(f"{name} has no profile {options.profile}")
            continue
        runs = workflow.expand(path, options.profile, [name])
        if runs[0].skip:
            reasons.append(f"{name}: {runs[0].skip}")
            continue
        print(f"{options.claim}: {len(runs)} runs of {name}")
        return _make_runs(options, root, [name], runs, force=True, claim=options.claim)
    raise ValueError(f"{options.claim} cannot be run: {'; '.join(reasons)}")


def _audit_split(options: argparse.Namespace) -> int:
    import json

    from mtlbook.datasets import DataError, split_audit

    paths = [Path(name) for name in options.lists]
    if options.items and len(paths) != 2:
        raise ValueError("--items: goes with a training and a test file")
    try:
        if len(paths) == 2 and all(path.is_file() for path in paths):
            train, test = map(split_audit.read_list, paths)
            items = dict(split_audit.read_list(Path(options.items))) if options.items else None
            audits = [split_audit.audit_split(train, test, items=items, task=paths[0].stem)]
        elif len(paths) == 1 and paths[0].is_dir():
            audits = split_audit.audit_lists(split_audit.read_folder(paths[0]))
        elif len(paths) == 1 and options.lists[0] in split_audit.PUBLISHED:
            audits = split_audit.audit_lists(*split_audit.PUBLISHED[options.lists[0]]())
        else:
            raise ValueError(
                f"LISTS: expected {' or '.join(split_audit.PUBLISHED)}, a folder, or a training "
                f"and a test file; got {' '.join(options.lists)}"
            )
    except DataError as error:
        print(f"mtlbook: {error}", file=sys.stderr)
        return 1
    if options.format == "json":
        print(json.dumps([audit.as_dict() for audit in audits], indent=2))
    else:
        print(split_audit.table(audits))
    return 1 if any(audit.findings for audit in audits) else 0


def _claims(root: Path) -> Mapping:
    from mtlbook.ledger.claims import load_all

    return {
        claim.id: claim
        for of_paper in load_all(root / "data" / "claims")
        for claim in of_paper.claims
    }


if __name__ == "__main__":
    sys.exit(main())
