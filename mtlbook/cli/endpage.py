"""What `mtlbook reproduce` shows when the runs are made, and what it skips before."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtlbook.cli.plan import duration

if TYPE_CHECKING:
    from mtlbook.ledger.results import Result
    from mtlbook.ledger.summary import Missing
    from mtlbook.workflow import Run


def show(
    root: Path, profile: str, runs: Sequence[Run], failed: Sequence[Run], *, verbose: bool = False
) -> bool:
    """Print the page and write it, with the full listing, beside the runs of the profile.

    Returns
    -------
    bool
        Whether every committed verdict follows from the committed results.
    """
    from mtlbook.ledger import endpage, repository
    from mtlbook.ledger.agreement import agreement
    from mtlbook.ledger.audit import audit, counterparts, load_results, mismatches
    from mtlbook.ledger.files import write_atomically
    from mtlbook.ledger.report import table
    from mtlbook.ledger.summary import summarise

    claims, verdicts = root / "data" / "claims", root / "data" / "verdicts.json"
    committed = load_results(root / "data" / "results")
    own, of_runs = finished_results(profile, runs)
    rows = audit(claims, own, {**committed, **own})
    before = audit(claims, committed)
    beside = counterparts(claims, rows, committed)
    folder = repository.runs(root) / profile
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "summary.html": "this page",
        "verdicts.txt": "every claim with what decided; also --verbose",
    }
    page = summarise(
        rows,
        before,
        beside,
        agreement(of_runs, committed),
        profile=profile,
        finished=sum(map(len, of_runs.values())),
        asked=sum(run.skip is None for run in runs),
        missing=missing_data(runs),
        failed=[f"`{run.name}`: `{_shown(run.log)}`" for run in failed],
        unsound=mismatches(before, verdicts) if verdicts.exists() else (),
        verdicts=len(before) if verdicts.exists() else 0,
        files={_shown(folder / name): what for name, what in files.items()},
    )
    listing = table([row for row in rows if row["n"]], committed=beside)
    write_atomically(folder / "verdicts.txt", listing + "\n")
    write_atomically(folder / "summary.html", endpage.html(page))
    if verbose:
        print(listing)
    width = shutil.get_terminal_size((80, 24)).columns
    print("\n" + endpage.terminal(page, max(20, min(width, 110))))
    return not page.unsound


def finished_results(
    profile: str, runs: Sequence[Run]
) -> tuple[dict[str, Result], dict[str, dict[str, Result]]]:
    """The finished ones of these runs by experiment: merged, and one by one.

    Files of runs that are no longer asked for stay on disk, but are not judged.
    """
    from mtlbook.ledger.merging import merge
    from mtlbook.ledger.results import Result

    of: dict[str, dict[str, Result]] = {}
    for run in runs:
        if not run.skip and run.result.exists():
            of.setdefault(run.experiment, {})[run.id] = Result.load(run.result)
    merged = {
        name: merge(results, profile=profile, allow_mixed=True) for name, results in of.items()
    }
    return merged, of


def missing_data(runs: Sequence[Run]) -> list[Missing]:
    """The data sets that runs wait for, each with all of these, and how to get it."""
    from mtlbook import datasets
    from mtlbook.ledger.summary import Missing

    waiting: dict[str, list[Run]] = {}
    for run in runs:
        for name in run.missing:
            waiting.setdefault(name, []).append(run)
    found = []
    for name, of in waiting.items():
        command, _, first = datasets.how_to_get(name).partition(" (")
        experiments = tuple(dict.fromkeys(run.experiment for run in of))
        found.append(Missing(name, experiments, len(of), command, by_hand=bool(first)))
    return found


def say_missing(runs: Sequence[Run]) -> None:
    """One line a set, before the runs begin."""
    for one in missing_data(runs):
        first = ", after what mtlbook data list says" * one.by_hand
        where = f"get {one.data} with: {one.command}{first}"
        print(f"skipped: {', '.join(one.experiments)} ({one.runs} runs); {where}")


def say_long(long: Mapping[str, tuple[int, float]], minutes: float) -> None:
    """What is left out because it takes longer, and what would make it."""
    if long:
        names = (f"{name} ({runs} runs, {duration(s)})" for name, (runs, s) in long.items())
        print(
            f"left out, for they take more than {minutes:g} minutes each on one core: "
            f"{', '.join(names)}; one of them with: mtlbook reproduce --only {next(iter(long))}"
        )


def _shown(path: Path) -> str:
    """As somebody in the working folder would write it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
