"""What the Snakefile calls: execute one run, merge an experiment, judge a profile."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence

from mtlbook.ledger import repository
from mtlbook.ledger.audit import audit, load_results
from mtlbook.ledger.files import write_atomically
from mtlbook.workflow.catalogue import WorkflowError, expand
from mtlbook.workflow.collection import collect
from mtlbook.workflow.execution import RunError, execute_run, put_back


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute one run: what the Snakefile calls."""
    parser = argparse.ArgumentParser(prog="python -m mtlbook.workflow", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="execute one run")
    merge_parser = commands.add_parser("merge", help="join the finished runs of an experiment")
    verdicts_parser = commands.add_parser("verdicts", help="judge the merged results of a profile")
    for each in (run_parser, merge_parser, verdicts_parser):
        each.add_argument("--profile", required=True)
    for each in (run_parser, merge_parser):
        each.add_argument("--experiment", required=True)
    run_parser.add_argument("--run", required=True)
    options = parser.parse_args(arguments)
    # Being asked to end is an exception like any other, so that the scratch folder goes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = repository.root()
    folder = repository.runs(root) / options.profile
    try:
        if options.command == "run":
            runs = expand(root / repository.EXPERIMENTS, options.profile, [options.experiment])
            chosen = next((run for run in runs if run.id == options.run), None)
            if chosen is None:
                raise WorkflowError(f"{options.experiment}: no run {options.run!r}")
            if not put_back(chosen):
                execute_run(chosen, root)
        elif options.command == "merge":
            merged = collect(folder, only=[options.experiment], allow_mixed=True)
            merged[options.experiment].save(folder / f"{options.experiment}.json")
        else:
            committed = load_results(root / "data" / "results")
            own = load_results(folder)
            rows = audit(root / "data" / "claims", own, {**committed, **own})
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row["n"]]
            write_atomically(folder / "verdicts.jsonl", "".join(lines))
    except (WorkflowError, RunError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
