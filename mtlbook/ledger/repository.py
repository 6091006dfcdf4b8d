"""Where the repository is: notebooks, claims, results and runs lie outside the package."""

from __future__ import annotations

import os
from pathlib import Path

from mtlbook.ledger.provenance import package_root

EXPERIMENTS = Path("notebooks") / "experiments.yaml"


def root() -> Path:
    """Return the repository root, the folder that holds ``notebooks/experiments.yaml``.

    The environment variable ``MTLBOOK_ROOT`` decides; without it the working folder and its parents
    are searched, then the folder of the package.

    Raises
    ------
    FileNotFoundError
        If there is none: the package alone has no experiments.
    """
    if chosen := os.environ.get("MTLBOOK_ROOT"):
        candidates = [Path(chosen).resolve()]
    else:
        here = Path.cwd()
        candidates = [here, *here.parents, package_root().parent]
    for folder in candidates:
        if (folder / EXPERIMENTS).is_file():
            return folder
    raise FileNotFoundError(
        f"no {EXPERIMENTS.as_posix()} in {candidates[0]}"
        + ("" if chosen else ", its parents or beside the package")
        + ". Experiments, claims and results are in the repository, not in the installed package: "
        "get it from where the package came from (git clone ADDRESS mtlbook, or unpack its source "
        "archive), and run the command in that folder, or name the folder in MTLBOOK_ROOT"
    )


def runs(repository: Path) -> Path:
    """The folder that holds the runs of all profiles: ``runs`` of the repository."""
    return repository / "runs"


def committed(experiment: str):
    """Return the result of an experiment whose choices others take over.

    ``data/results/<experiment>.json``; while runs of a profile are made, the merged result of that
    profile comes first (the environment variable ``MTLBOOK_RESULTS`` names its folder).
    """
    from mtlbook.ledger.results import Result

    first = os.environ.get("MTLBOOK_RESULTS")
    folders = [*([Path(first)] if first else []), root() / "data" / "results"]
    for folder in folders:
        if (path := folder / f"{experiment}.json").is_file():
            return Result.load(path)
    raise FileNotFoundError(
        f"experiment: expected a committed result {experiment}.json in data/results, found none"
    )
