"""What the files of the ledger say, in any version, independent of how they are written.

Old versions need not satisfy today's models, so they are read as plain mappings. Two contents are
the same if their digests are: keys are sorted, and a field at its default counts as left out, so
that a new optional field changes no digest.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from mtlbook.ledger import tables
from mtlbook.ledger.claims import Claim
from mtlbook.ledger.history import NOW, Commit, Versions
from mtlbook.ledger.provenance import code_cells_sha256

CLAIMS, PRINTED, RESULTS = "data/claims/", "data/claims/printed/", "data/results/"
TABLES = "data/claims/tables/"
DATASETS, EXPERIMENTS = "data/datasets.yaml", "notebooks/experiments.yaml"
VERDICTS, MANIFEST = "data/verdicts.json", "data/manifest.json"
FOLDERS = ("data/", "notebooks/")

# What a claim may change without being judged otherwise.
_NOT_JUDGED = ("headline", "revised")
_DEFAULTS = {
    name: json.loads(json.dumps(field.default, default=str))
    for name, field in Claim.model_fields.items()
    if not field.is_required() and field.default_factory is None
}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class ClaimText:
    """A claim as it is written.

    Attributes
    ----------
    path : str
        Its file.
    content : dict
        All its fields that are not at their defaults.
    judged : dict
        What the verdict rests on: those fields, the paper's source, and the printed points of a
        curve.
    revised : list
        What the claim and its file say about changes after a result; empty where they say nothing.
    """

    path: str
    content: dict[str, Any]
    judged: dict[str, Any]
    revised: list[Any]

    @property
    def why(self) -> str:
        """The last word on why it was revised."""
        last = self.revised[-1] if self.revised else ""
        return str(last.get("why", "") if isinstance(last, Mapping) else last)


class Reader:
    """Reads the files of any commit, each version once; what cannot be read counts as empty."""

    def __init__(self, versions: Versions) -> None:
        self.versions = versions
        self._parsed: dict[tuple[str, str], Any] = {}
        self._claims: dict[int, dict[str, ClaimText]] = {}
        self._of_file: dict[tuple, list[ClaimText]] = {}

    def parse(self, commit: Commit, path: str) -> Any:
        """The content of a file, None where it is missing or cannot be read."""
        blob = commit.files.get(path)
        return None if blob is None else self.content(blob, PurePosixPath(path).suffix)

    def content(self, blob: str, suffix: str) -> Any:
        """The content of a version of a file of some kind."""
        key = blob, suffix
        if key not in self._parsed:
            try:
                text = self.versions.read(blob).decode("utf-8")
                self._parsed[key] = _PARSERS[suffix](text)
            except (ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError, csv.Error):
                self._parsed[key] = None
        return self._parsed[key]

    def claims(self, commit: Commit) -> dict[str, ClaimText]:
        """All claims of a commit by id."""
        key = id(commit.files)  # commits that change nothing share it
        if key not in self._claims:
            paths = [p for p in commit.files if lies_in(p, CLAIMS, TABLES) and p.endswith(".yaml")]
            # few commits change what a file of claims is read with
            printed = frozenset(of for of in commit.files.items() if of[0].startswith(PRINTED))
            found = {}
            for path in paths:
                source = commit.files.get(path.replace(TABLES, CLAIMS))
                version = path, commit.files[path], source, printed
                if version not in self._of_file:
                    self._of_file[version] = list(self._claims_of(commit, path))
                found |= {claim.content["id"]: claim for claim in self._of_file[version]}
            self._claims[key] = found
        return self._claims[key]

    def _claims_of(self, commit: Commit, path: str) -> Iterator[ClaimText]:
        file = self.parse(commit, path)
        if not isinstance(file, Mapping):
            return
        source = self.parse(commit, path.replace(TABLES, CLAIMS)) or {}
        listed = file.get("claims") if isinstance(file.get("claims"), list) else []
        for entry in [*listed, *self._expanded(commit, file)]:
            if isinstance(entry, Mapping) and isinstance(entry.get("id"), str):
                content = {k: v for k, v in entry.items() if v is not None}
                content = {
                    k: v for k, v in content.items() if k not in _DEFAULTS or v != _DEFAULTS[k]
                }
                judged = {k: v for k, v in content.items() if k not in _NOT_JUDGED}
                judged |= {"source": source.get("source")} | self._printed(
                    commit, entry.get("rule")
                )
                revised = [*(file.get("revised") or []), entry.get("revised")]
                yield ClaimText(path, content, judged, [why for why in revised if why])

    def _expanded(self, commit: Commit, file: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The claims that tables make; none where they cannot be filled."""
        try:
            return list(tables.expand(file, lambda name: self._rows(commit, name)))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return []

    def _rows(self, commit: Commit, name: str) -> list[dict[str, str]]:
        return self.parse(commit, f"{PRINTED}{name}") or []

    def _printed(self, commit: Commit, rule: Any) -> dict[str, Any]:
        """The rows of a printed curve, or of a printed table, that a rule names."""
        if isinstance(rule, Mapping) and rule.get("kind") == "print":
            names = [rule[key] for key in ("file", "marks") if rule.get(key)]
            return {"table": [self._rows(commit, str(name)) for name in names]}
        of = rule.get("points") if isinstance(rule, Mapping) else None
        if not isinstance(of, Mapping):
            return {}
        rows = self._rows(commit, str(of.get("file")))
        named = {k: str(v) for k, v in of.items() if k != "file"}
        return {"points": [row for row in rows if named.items() <= row.items()]}

    def experiment(self, commit: Commit, name: str) -> dict[str, Any] | None:
        """The entry of ``experiments.yaml``."""
        content = self.parse(commit, EXPERIMENTS)
        entry = ((content or {}).get("experiments") or {}).get(name)
        return entry if isinstance(entry, dict) else None

    def notebook(self, commit: Commit, name: Any) -> str | None:
        """The hash of a notebook's code."""
        return self.parse(commit, f"notebooks/{name}")

    def result(self, commit: Commit, experiment: str) -> dict[str, Any] | None:
        """A result file."""
        content = self.parse(commit, f"{RESULTS}{experiment}.json")
        return content if isinstance(content, dict) else None


def digest(content: Any) -> str:
    """The hash of a content, in whatever order its keys are written."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same, numbers up to what another processor rounds otherwise."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    numbers = [x for x in (a, b) if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) == 2 and float in (type(a), type(b)):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return type(a) is type(b) and a == b


def setup(reader: Reader, commit: Commit, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a commit lists for the profile of a result: its notebook, data sets and runs."""
    entry = reader.experiment(commit, str(result.get("experiment"))) or {}
    profile = (result.get("provenance") or {}).get("profile")
    chosen = (entry.get("profiles") or {}).get(profile) or {}
    fixed, each = chosen.get("parameters") or {}, chosen.get("each") or {}
    return {
        "notebook": entry.get("notebook"),
        "data": entry.get("data"),
        "runs": {run: {**fixed, **own} for run, own in combinations(each)},
    }


def combinations(each: Mapping[str, Sequence]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The runs of lists of parameters: the name of each, and its combination of values."""
    for values in itertools.product(*each.values()):
        varied = dict(zip(each, values, strict=True))
        spelt = {k: "+".join(map(str, v)) if type(v) is list else v for k, v in varied.items()}
        name = ",".join(f"{k}={v}" for k, v in spelt.items()) or "all"
        yield re.sub(r"[^\w.=,+-]+", "-", name), varied  # the name names files


def runs_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The runs of a merged result by name: when each was started, with what, at which commit."""
    found: dict[str, dict[str, Any]] = {}
    provenance = result.get("provenance")
    entries = provenance.get("runs") if isinstance(provenance, Mapping) else None
    for entry in entries if isinstance(entries, list) else ():
        of = entry.get("of") if isinstance(entry, Mapping) else None
        shared = {k: v for k, v in entry.items() if k != "of"} if of else {}
        found |= {run: {**shared, **own} for run, own in (of or {}).items()}
    return found


def started(result: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """What tells two measurements apart: the names of the runs, and when each began."""
    return frozenset((run, str(of.get("started"))) for run, of in runs_of(result).items())


def records_of(result: Mapping[str, Any], run: str) -> list[dict[str, Any]] | None:
    """The records of one run, None where its name, such as ``repeat=3,arm=stl``, does not tell."""
    named = dict(part.split("=", 1) for part in run.split(",") if "=" in part)
    arm, repeat = named.get("arm"), named.get("repeat")
    if repeat is None or named.keys() - {"arm", "repeat"}:
        return None  # runs that differ in something else may share arm and repeat
    return [
        record
        for record in result.get("records") or ()
        if str(record.get("repeat")) == repeat and arm in (None, record.get("arm"))
    ]


def measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """All of a result that is fixed once its runs are over."""
    kept = {k: v for k, v in result.items() if k != "provenance"}
    provenance = dict(result.get("provenance") or {})
    return kept | {"provenance": {k: v for k, v in provenance.items() if k != "content_sha256"}}


def is_other(path: str) -> bool:
    """Whether a file of ``data/`` is none that claims are judged with, and not made of these."""
    known = (CLAIMS, RESULTS, DATASETS, VERDICTS, MANIFEST)
    hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
    return path.startswith("data/") and not path.startswith(known) and not hidden


def lies_in(path: str, *folders: str) -> bool:
    """Whether a file lies in one of the folders itself, not below it."""
    return f"{PurePosixPath(path).parent}/" in folders


def problem(reader: Reader, path: str) -> str | None:
    """What is wrong with the form of the lists of data sets and of experiments."""
    content = reader.parse(reader.versions.commits[NOW], path)
    if path == DATASETS:
        entries = content if isinstance(content, list) else [content]
        if not all(isinstance(of, Mapping) and {"name", "tier"} <= of.keys() for of in entries):
            return "expected a list of data sets with name and tier"
    if path == EXPERIMENTS:
        listed = content.get("experiments") if isinstance(content, Mapping) else None
        if not isinstance(listed, Mapping):
            return "expected experiments by name"
    return None


def repeated(path: str, text: bytes) -> list[str]:
    """What a file gives twice, of which a reader sees one and a program the other.

    Keys of YAML, columns of CSV, names of data sets; nothing of a file that cannot be read.
    """
    try:
        if path.endswith(".csv"):
            names = next(csv.reader(io.StringIO(text.decode())), [])
        elif path.endswith(".yaml"):
            names = _repeated_keys(text)
            if path == DATASETS:
                names += [entry["name"] for entry in yaml.load(text, Loader=_Loader)]
        else:
            return []
    except (ValueError, TypeError, KeyError, yaml.YAMLError, csv.Error):
        return []
    return sorted({name for name in names if names.count(name) > 1})


def _repeated_keys(text: bytes) -> list[str]:
    """The keys that some mapping of a YAML file gives more than once, each twice."""
    found: list[str] = []
    seen: set[int] = set()

    def walk(node: yaml.Node | None) -> None:
        if node is None or id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            found.extend(2 * [key for key in set(keys) if keys.count(key) > 1])
            for _, value in node.value:
                walk(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                walk(value)

    walk(yaml.compose(text, Loader=_Loader))
    return found


_PARSERS = {
    ".yaml": lambda text: yaml.load(text, Loader=_Loader),
    ".json": json.loads,
    ".csv": lambda text: list(csv.DictReader(io.StringIO(text, newline=""), restkey="more")),
    ".ipynb": code_cells_sha256,
}
