"""What the commands do. Imports that take time stay inside them: ``--help`` answers at once."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtlbook.cli import endpage, plan


def list_all(options: argparse.Namespace) -> int:
    """What there is; of an installed package, whose experiments are elsewhere, the methods."""
    from mtlbook import methods, workflow
    from mtlbook.ledger import repository
    from mtlbook.ledger.claims import load_all

    bases = {"Method", "NetworkMethod"}
    print("methods\n  " + ", ".join(sorted(set(methods.__all__) - bases)))
    root = repository.root()
    print("papers")
    for of_paper in load_all(root / "data" / "claims"):
        print(f"  {of_paper.paper:<10} {len(of_paper.claims):>3} claims  {of_paper.title}")
    print("experiments")
    path = root / repository.EXPERIMENTS
    experiments = workflow.load_experiments(path)
    of: dict[tuple[str, str], list] = {}
    for profile in {profile for each in experiments.values() for profile in each.profiles}:
        for run in workflow.expand(path, profile):
            of.setdefault((run.experiment, profile), []).append(run)
    for name, experiment in experiments.items():
        print(f"  {name}: {experiment.title}")
        for profile in experiment.profiles:
            runs = of[name, profile]
            data = ", ".join(experiment.sets) or "made by the notebook"
            state = runs[0].skip or f"data: {data}"
            print(f"    {profile:<7} {len(runs):>3} runs  {state}")
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """Make the unfinished runs of a profile."""
    from mtlbook import workflow
    from mtlbook.ledger import repository
    from mtlbook.workflow import schedule

    root = repository.root()
    path = root / repository.EXPERIMENTS
    runs = workflow.expand(path, options.profile, options.only, options.where)
    if options.within is not None:
        runs, long = schedule.within(root, runs, 60 * options.within)
        endpage.say_long(long, options.within)
        if not runs:
            raise workflow.WorkflowError(
                f"--within: expected minutes that an experiment keeps to, got {options.within:g}"
            )
        options.only = list(dict.fromkeys(run.experiment for run in runs))
    if options.dry_run:
        from mtlbook.workflow.plan import plans

        print(plan.text(plans(root, runs), options.profile))
        for run in runs if options.verbose else ():
            if not run.skip:
                print(f"{'finished' if run.result.exists() else 'to run':<9} {run.name}")
        print("\n" + " ".join(_command(options, root)))
        return 0
    endpage.say_missing(runs)
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
    """Run, then show the page at the end, or a claim's verdict beside the committed value."""
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
            print(textwrap.indent(workflow.last_lines(run.log, 5), "    "), file=sys.stderr)
        else:
            print(f"not finished: {run.name}", file=sys.stderr)
    if claim is not None:
        print(_verdict_on(root, options.profile, runs, claim))
        return 1 if missing else 0
    sound = endpage.show(root, options.profile, runs, missing, verbose=options.verbose)
    return 0 if sound and not missing else 1


def _verdict_on(root: Path, profile: str, runs: Sequence, claim: str) -> str:
    from mtlbook.ledger.audit import audit, counterparts, load_results
    from mtlbook.ledger.report import table

    own, _ = endpage.finished_results(profile, runs)
    claims, committed = root / "data" / "claims", load_results(root / "data" / "results")
    rows = [row for row in audit(claims, own, {**committed, **own}) if row["claim"] == claim]
    return table(rows, committed=counterparts(claims, rows, committed))


def record(options: argparse.Namespace) -> int:
    """Commit exactly the runs that the experiments list."""
    from mtlbook import workflow
    from mtlbook.ledger import repository

    root, source = repository.root(), Path(options.source)
    merged = workflow.recorded(
        root, source, only=options.only, force=options.force, allow_mixed=options.allow_mixed
    )
    for name, result in merged.items():  # all of them are right before one is written
        result.save(root / "data" / "results" / f"{name}.json")
        count = sum(len(entry["of"]) for entry in result.provenance["runs"])
        print(f"{name}: {count} runs, {len(result.records)} records -> data/results/{name}.json")
    return 0


def audit(options: argparse.Namespace) -> int:
    """Recompute every verdict."""
    from mtlbook.ledger import report, repository
    from mtlbook.ledger.audit import audit, load_results, mismatches
    from mtlbook.ledger.files import write_atomically

    root = repository.root()
    if options.results and not Path(options.results).is_dir():
        raise ValueError(f"--results: expected a folder, got {options.results}")
    if options.results and (options.write or options.strict):
        raise ValueError("--results: compares nothing; not together with --write or --strict")
    if options.accept is not None and not (options.write and options.accept.strip()):
        raise ValueError("--accept: expected a reason, together with --write")
    if options.coverage and (options.write or options.strict):
        raise ValueError("--coverage: changes and compares nothing; not with --write or --strict")
    if options.paper and (options.coverage or (options.strict and not options.write)):
        raise ValueError("--paper: says what is shown; --coverage and --strict ask about all")
    if options.strict and not options.write:
        return _strict(root)
    results = load_results(options.results or root / "data" / "results")
    if options.results and not results:
        raise ValueError(f"--results: expected results (*.json) in {options.results}, found none")
    rows = audit(root / "data" / "claims", results)
    if options.coverage:
        return _coverage(root, rows)
    shown = [row for row in rows if options.paper in (None, row["paper"])]
    if options.paper and not shown:
        papers = ", ".join(dict.fromkeys(row["paper"] for row in rows)) or "none yet"
        raise ValueError(f"--paper: expected one with claims ({papers}), got {options.paper!r}")
    if options.format == "html":
        from mtlbook.ledger import chain, page

        text = page.page(chain.chains(root, results, shown))
    else:
        text = report.to_json(shown) if options.format == "json" else report.table(shown)
    if options.output:
        write_atomically(options.output, text + "\n")
    else:
        print(text)
    if options.write:
        return _write(root, options.accept, options.strict)
    if options.results:
        return 0
    found = mismatches(rows, root / "data" / "verdicts.json")
    for line in found:
        print(f"mtlbook: {line}", file=sys.stderr)
    return 1 if found else 0


def _coverage(root: Path, rows: Sequence[Mapping]) -> int:
    """Whether every printed number is in a claim, or has a reason."""
    from mtlbook.ledger import coverage, report

    numbers = coverage.numbers(root / "data" / "claims")
    print(report.text_table(coverage.table(numbers, rows)))
    bare = [n for n in numbers if not n.claims and not n.reasons]
    for number in bare:
        print(f"mtlbook: {number.place}: {number.text} is in no claim", file=sys.stderr)
    return 1 if bare else 0


def _write(root: Path, accept: str | None, strict: bool) -> int:
    from mtlbook.ledger.strict import write

    found = write(root, accept)
    if strict:
        return _strict(root)
    if found.findings:
        count = len(found.findings)
        print(f"mtlbook: {count} findings remain; see: mtlbook audit --strict", file=sys.stderr)
    return 0


def _strict(root: Path) -> int:
    """Whether anything was changed that must not be."""
    from mtlbook.ledger.report import summary
    from mtlbook.ledger.strict import check

    found = check(root)
    print(summary(found.rows))
    for why in dict.fromkeys(found.revised.values()):
        claims = [claim for claim, of in found.revised.items() if of == why]
        print(f"revised after the run, {len(claims)} claims: {why}\n    {', '.join(claims)}")
    for why, findings in found.accepted.items():
        subjects = dict.fromkeys(f"{f.kind} of {Path(f.subject).name}" for f in findings)
        print(f"accepted, {len(findings)} findings: {why}")
        print(textwrap.indent(textwrap.fill(", ".join(subjects), 106), "    "))
    groups: dict[str, list] = {}
    for finding in found.findings:
        groups.setdefault(finding.name, []).append(finding)
    for findings in groups.values():
        for finding in findings[:5]:
            print(f"mtlbook: {finding}", file=sys.stderr)
        if (more := len(findings) - 5) > 0:
            print(f"mtlbook: {finding.subject}: and {more} more like it", file=sys.stderr)
    if found.no_history:
        print(f"mtlbook: rules and results were not dated: {found.no_history}", file=sys.stderr)
    if found.findings:
        print(f"mtlbook: {len(found.findings)} findings", file=sys.stderr)
        return 1
    return 3 if found.no_history else 0


def rerun(options: argparse.Namespace) -> int:
    """Repeat the experiment behind a claim, or a random run of every result."""
    from mtlbook import workflow
    from mtlbook.ledger import repository

    root = repository.root()
    if options.random == (options.claim is not None):
        raise ValueError("rerun: expected a claim, or --random, and not both")
    if not options.random and (options.where or options.repeats or options.report):
        raise ValueError("rerun: --where, --repeats and --report go with --random")
    if options.random:
        return _rerun_random(options, root)
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


def _rerun_random(options: argparse.Namespace, root: Path) -> int:
    from mtlbook import workflow
    from mtlbook.ledger.audit import load_results

    made = []
    results = load_results(root / "data" / "results")
    if unknown := sorted(set(options.only) - set(results)):
        raise ValueError(f"--only: expected committed results, got {', '.join(unknown)}")
    for found in workflow.rerun_random(
        root,
        results,
        seed=options.seed,
        only=options.only,
        where=options.where,
        repeats=options.repeats,
    ):
        if found.skip:
            print(f"skipped  {found.name}: {found.skip}", flush=True)
            continue
        word = "differs" if found.differences else "same"
        print(
            f"{word:<8} {found.name}: {found.compared} numbers, largest relative difference "
            f"{found.largest:.1e}"
            + "".join(
                f"; {name} made here, {far:.1e} from ours" for name, far in found.rederived.items()
            ),
            flush=True,
        )
        for line in found.differences[:5]:
            print(f"         {line}", file=sys.stderr)
        made.append(found)
        if options.report:  # after each: the next may take long
            workflow.write_report(Path(options.report), made)
    compared = sum(found.compared for found in made)
    if not compared:
        print("mtlbook: nothing could be compared", file=sys.stderr)
    return 1 if not compared or any(found.differences for found in made) else 0


def new_paper(options: argparse.Namespace) -> int:
    """Lay out the files of one more paper, and say how to go on."""
    from mtlbook import workflow
    from mtlbook.ledger import repository

    files = workflow.lay_out(repository.root(), options.name)
    width = max(map(len, files))
    print(f"{options.name}: laid out, with comments that say what to write where")
    for path, why in files.items():
        print(f"  {path:<{width}}  {why}")
    print(
        f"Its example runs: mtlbook reproduce --profile smoke --only {options.name}-table1\n"
        "From a printed table to a verdict: book/yours/paper.md"
    )
    return 0


def audit_split(options: argparse.Namespace) -> int:
    """What split lists really hold."""
    import json

    from mtlbook.datasets import DataError, split_audit

    paths = [Path(name) for name in options.lists]
    if options.items and len(paths) != 2:
        raise ValueError("--items: goes with a training and a test file")
    try:
        if len(paths) == 2 and all(path.is_file() for path in paths):
            train, test = split_audit.read_pair(*paths)
            items = dict(split_audit.read_list(Path(options.items))) if options.items else None
            audits = [split_audit.audit_split(train, test, items=items, task=paths[0].stem)]
        elif len(paths) == 1 and paths[0].is_dir():
            audits = split_audit.audit_lists(split_audit.read_folder(paths[0]))
            if odd := split_audit.unread(paths[0]):
                more = f" and {len(odd) - 1} more" if odd[1:] else ""
                expected = "expected the names train_<percent>.txt and test_<percent>.txt"
                print(f"mtlbook: not read: {odd[0]}{more}; {expected}", file=sys.stderr)
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
