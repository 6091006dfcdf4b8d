"""A small repository with a past: claims, then runs, then results and verdicts, in git."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import yaml

from mtlbook.ledger import strict
from mtlbook.ledger.provenance import notebook_sha256
from mtlbook.ledger.results import Result
from mtlbook.numerics import NUMERICS

HASH = hashlib.sha256(b"toys").hexdigest()
OTHER = hashlib.sha256(b"other toys").hexdigest()


def claim(name, **changes):
    content = {
        "id": f"toy.{name}",
        "where": "Table 1",
        "statement": f"{name}, as the paper says",
        "known": "printed",
        "experiments": ["table"],
        "rule": {"kind": "difference", "arm": "b", "reference": "a", "metric": "m"},
    }
    return content | changes


VALUE = {"kind": "value", "arm": "a", "metric": "m", "tolerance": 0.5}
POINTS = {"file": "curves.csv", "quantity": "loss", "method": "b"}
CURVE = {"kind": "curve", "arm": "b", "metric": "loss", "points": POINTS, "tolerance": 0.1}
PRINT = {"kind": "print", "check": "lead", "file": "lead.csv", "method": "b", "over": ["a"]}
CLAIMS = [
    claim("gain", printed="+1.0", headline=True),
    claim("level", rule=VALUE, printed="51.00", unit="%"),
    claim("curve", known="digitised", rule=CURVE),
    claim("memory", known="memory"),
    claim("alone", known=None, asked_by="us", experiments=["alone"]),
    claim("print", known=None, asked_by="us", experiments=[], rule=PRINT),
]
DATASETS = [
    {"name": "toys", "tier": "fetched", "sha256": HASH, "content_sha256": HASH},
    {"name": "other", "tier": "fetched", "sha256": OTHER, "content_sha256": OTHER},
    {"name": "drawn", "tier": "embedded", "sha256": None, "content_sha256": None},
]
EXPERIMENTS = {
    "tuning": {
        "notebook": "tuning.ipynb",
        "data": "toys",
        "profiles": {"paper": {"parameters": {"steps": 5}}},
    },
    "table": {
        "notebook": "table.ipynb",
        "data": "toys",
        "profiles": {
            "laptop": {
                "parameters": {"steps": 5, "tuned_by": "tuning"},
                "each": {"repeat": [0, 1, 2, 3, 4]},
            }
        },
    },
    "alone": {
        "notebook": "table.ipynb",
        "data": "drawn",
        "profiles": {"laptop": {"parameters": {"steps": 9}}},
    },
}
CURVES = "quantity,method,iteration,digitised\nloss,b,0,3.0\nloss,b,1,2.0\nloss,b,2,1.0\n"
TABLES = "table,method,value\n1,a,51.00\n1,b,52.00\n"
LEAD = "table,method,printed\n1,a,51.00\n1,b,52.00\n"
README = "# Toys\n\n<!-- results:begin (written) -->\n<!-- results:end -->\n"


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            **{f"GIT_{who}_NAME": "toy" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "toy@example.org" for who in ("AUTHOR", "COMMITTER")},
            "GIT_CONFIG_GLOBAL": os.devnull,
        },
    )
    return done.stdout.strip()


def commit(root: Path, message: str = "more") -> str:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--no-verify", "--message", message)
    return git(root, "rev-parse", "HEAD")


def provenance(root: Path, experiment: str, runs: dict[str, dict], profile: str, at: str) -> dict:
    """As `merge` leaves it."""
    notebook = EXPERIMENTS[experiment]["notebook"]
    code = {"norms.py": "0" * 64}
    of = {
        run: {
            "parameters": parameters,
            "started": f"2026-01-02T03:04:{i:02}+00:00",
            "wall_seconds": 1.5,
        }
        for i, (run, parameters) in enumerate(runs.items())
    }
    entry = {
        "mtlbook": "1.0",
        "code": code,
        "code_sha256": hashlib.sha256(json.dumps(code).encode()).hexdigest(),
        "git_commit": at,
        "git_dirty": False,
        "python": "3.11.0",
        "packages": {"torch": "2.0"},
        "platform": {"system": "Linux", "processor": "toy"},
        "device": "cpu",
        "dtype": "float32",
        "notebook": notebook,
        "notebook_sha256": notebook_sha256(root / "notebooks" / notebook),
        "of": of,
    }
    return {"profile": profile, "runs": [entry]}


def measure(root: Path, at: str, second: int = 0) -> None:
    """Write the three results, measured at a commit."""
    numerics = {name: NUMERICS[name] for name in ("mrn", "datasets")}
    toys = {"name": "toys", "tier": "fetched", "stand_in_for": None, "sha256": HASH}

    def result(name, runs, profile="laptop", data=toys, **more):
        told = provenance(root, name, runs, profile, at)
        for of in told["runs"][0]["of"].values():
            of["started"] = of["started"].replace("T03:", f"T{3 + second:02}:")
            of["wall_seconds"] += second / 1000
        parameters = next(iter(runs.values()))
        return Result(
            name, dict(parameters), data=dict(data), numerics=numerics, provenance=told, **more
        )

    tuning = result("tuning", {"all": {"steps": 5}}, "paper", settings={"chosen": {"b": 0.1}})
    for value, score in ((0.01, 70.0), (0.1, 80.0), (1.0, 60.0)):
        tuning.add(arm=f"b@{value:g}", metric="validation_percent", value=score, repeat=1000)
    tuning.save(root / "data/results/tuning.json")

    runs = {f"repeat={r}": {"steps": 5, "tuned_by": "tuning", "repeat": r} for r in range(5)}
    uses = {"tuning": tuning.content_sha256()}
    table = result("table", runs, settings={"chosen": {"b": 0.1}}, uses=uses)
    for repeat in range(5):
        for arm, level in (("a", 51.0), ("b", 52.0)):
            tasks = [level + repeat / 10 - 1, level + repeat / 10 + 1]
            value = sum(tasks) / 2
            table.add(arm=arm, metric="m", value=value, repeat=repeat, seed=repeat, per_task=tasks)
        for step, loss in enumerate((3.0, 2.0, 1.0)):
            table.add(arm="b", metric="loss", value=loss + repeat / 100, repeat=repeat, step=step)
    table.save(root / "data/results/table.json")

    drawn = {"name": "drawn", "tier": "embedded", "stand_in_for": None, "sha256": OTHER}
    alone = result("alone", {"all": {"steps": 9}}, data=drawn)
    for repeat in range(5):
        for arm, level in (("a", 1.0), ("b", 0.5)):
            alone.add(arm=arm, metric="m", value=level + repeat / 10, repeat=repeat)
    alone.save(root / "data/results/alone.json")


def write_claims(root: Path, claims=CLAIMS, **head) -> None:
    content = {"paper": "toy", "title": "Toys", "source": "arXiv 1", "mark": "made up"} | head
    text = yaml.safe_dump({**content, "claims": claims}, sort_keys=False)
    (root / "data/claims/toy.yaml").write_text(text)


def build(root: Path) -> None:
    """Rules first, then results: two commits."""
    for folder in ("data/claims/printed", "data/results", "notebooks"):
        (root / folder).mkdir(parents=True)
    write_claims(root)
    (root / "data/claims/printed/curves.csv").write_text(CURVES)
    (root / "data/claims/printed/tables.csv").write_text(TABLES)
    (root / "data/claims/printed/lead.csv").write_text(LEAD)
    (root / "data/timings.json").write_text('{"seconds": 1.0}\n')
    (root / "data/datasets.yaml").write_text(yaml.safe_dump(DATASETS))
    (root / "notebooks/experiments.yaml").write_text(yaml.safe_dump({"experiments": EXPERIMENTS}))
    for name in ("tuning", "table"):
        cells = [{"cell_type": "code", "source": f"print('{name}')", "outputs": []}]
        (root / f"notebooks/{name}.ipynb").write_text(json.dumps({"cells": cells}))
    (root / "README.md").write_text(README)
    git(root.parent, "init", "--quiet", "--initial-branch", "main", str(root))
    measure(root, commit(root, "Claims and their rules, before any run"))
    strict.write(root)
    commit(root, "Results and verdicts")
