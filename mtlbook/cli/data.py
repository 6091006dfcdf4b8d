"""``mtlbook data``: list, fetch or verify data sets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def data(options: argparse.Namespace) -> int:
    """List, fetch or verify data sets."""
    if options.all and options.action != "fetch":
        raise ValueError("--all: goes with data fetch")
    return {"list": _list, "fetch": _fetch, "verify": _verify}[options.action](options)


def _list(options: argparse.Namespace) -> int:
    from mtlbook import datasets

    if options.names:
        raise ValueError("data list: takes no names")
    needs = _needs()
    for row in datasets.table():
        size = "" if row["size"] is None else f"{row['size'] / 1e6:.1f} MB"
        notes = [row["note"], row["stand_in_for"] and f"stand-in for {row['stand_in_for']}"]
        print(
            f"{row['name']:<26} {row['tier']:<9} {row['state']:<9} {size:>8}  "
            f"sha256 {row['sha256'] or 'recorded at first use'}"
        )
        print("    " + "; ".join([row["title"], *filter(None, notes)]))
        print(f"    licence: {row['licence']}")
        if row["name"] in needs:
            experiments, claims = needs[row["name"]]
            print(f"    needed by: {', '.join(experiments)} ({claims} claims)")
        at_most = f" (at most {row['download'] / 1e6:.3g} MB)" if row["download"] else ""
        print(f"    get it: {row['get']}{at_most}")
    print(f"cache: {datasets.cache_dir()} (MTLBOOK_DATA)")
    return 0


def _needs() -> dict[str, tuple[list[str], int]]:
    """Data set -> the experiments that need it and the number of their claims, in a checkout."""
    try:
        from mtlbook import workflow
        from mtlbook.ledger import repository
        from mtlbook.ledger.claims import load_all

        root = repository.root()
        experiments = workflow.load_experiments(root / repository.EXPERIMENTS)
        claims = [claim for paper in load_all(root / "data" / "claims") for claim in paper.claims]
    except (ImportError, OSError, ValueError, RuntimeError):
        return {}
    needs = {}
    for name in {data for experiment in experiments.values() for data in experiment.sets}:
        users = [user for user, experiment in experiments.items() if name in experiment.sets]
        needs[name] = users, sum(bool({*users} & {*claim.experiments}) for claim in claims)
    return needs


def _fetch(options: argparse.Namespace) -> int:
    from mtlbook import datasets

    if bool(options.names) == options.all:
        raise ValueError("data fetch: expected names, or --all; see: mtlbook data list")
    names: Sequence[str] = options.names
    if options.all:
        rows = datasets.table()
        names = [row["name"] for row in rows if row["tier"] == "fetched"]
    failed = 0
    for number, name in enumerate(names, 1):
        if name in datasets.names() and datasets.status(name) not in ("cached", "embedded"):
            print(f"{name}: licence: {datasets.info(name)['licence']}", flush=True)
        then = {"then": names[number:]} if names[number:] else {}
        try:
            print(f"{name}: {datasets.fetch(name, **then)}", flush=True)
        except datasets.DataError as error:
            print(f"mtlbook: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def _verify(options: argparse.Namespace) -> int:
    from mtlbook import datasets

    rows = datasets.verify(options.names or None)
    for row in rows:
        print(f"{row['name']:<26} {row['state']:<9} {row['why'] or 'as expected'}")
    # A set that was asked for by name has to be there; among all, missing ones are no fault.
    wrong = [row for row in rows if row["ok"] is False or (row["ok"] is None and options.names)]
    return 1 if wrong else 0
