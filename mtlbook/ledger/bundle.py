"""Bundles of one paper for others: a CODECHECK configuration, an RO-Crate, and the files they name.

A bundle holds what a verdict rests on: claims, printed values, results with the tunings they used,
notebooks, and the report. `codecheck.yml` follows version 1.0 of the specification. Version 2.0
also demands the number of a certificate from the public register and an ORCID of every author: the
first is given by others, the second is nothing that a ledger may guess.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mtlbook.documents import read_yaml
from mtlbook.ledger import contents, dossier
from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.results import Result

CODECHECK = "https://codecheck.org.uk/spec/config/1.0/"
CRATE = "https://w3id.org/ro/crate/1.1"
REPORT, VERDICTS = "codecheck/report.html", "codecheck/verdicts.json"
_LICENCES = {"code": "https://spdx.org/licenses/MIT", "text": "https://spdx.org/licenses/CC-BY-4.0"}


def write_codecheck(root: Path, chains: Mapping[str, Any], paper: str, folder: Path) -> Path:
    """Write a CODECHECK bundle.

    Parameters
    ----------
    root : Path
        Of the repository.
    chains : dict
        As `mtlbook.ledger.chain.chains` returns it.
    paper : str
    folder : Path
        The bundle; what it has by the same names is replaced.

    Returns
    -------
    Path
        The file ``codecheck.yml``.
    """
    _write_files(root, chains, paper, folder)
    of = _results(chains, paper)
    manifest = [
        {"file": REPORT, "comment": dossier.title(chains, paper)},
        {"file": VERDICTS, "comment": "every verdict, with the values it rests on"},
    ]
    for name, run in of.items():
        command = f"mtlbook reproduce --profile {run['profile']} --only {name}"
        manifest.append({"file": run["file"], "comment": f"{run['title']}; made by: {command}"})
    title, authors = _title_and_authors(chains, paper)
    content = {
        "version": CODECHECK,
        "manifest": manifest,
        "paper": {
            "title": title,
            "authors": [{"name": name} for name in authors],
            "reference": _reference(chains, paper),
        },
        "codechecker": [{"name": name} for name in _checkers(root)],
        "report": _identifier((folder / REPORT).read_bytes()),
        "summary": dossier.outcome(chains, paper),
        "source": chains["papers"][paper]["source"],
    }
    if days := _days(of):
        content["check_time"] = days[-1]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    path = folder / "codecheck.yml"
    write_atomically(path, f"%YAML 1.1\n---\n{text}")
    return path


def write_crate(root: Path, chains: Mapping[str, Any], paper: str, folder: Path) -> Path:
    """Write an RO-Crate; parameters are those of `write_codecheck`.

    Returns
    -------
    Path
        The file ``ro-crate-metadata.json``.
    """
    files = _write_files(root, chains, paper, folder)
    entities = list(_entities(root, chains, paper, {name: folder / name for name in files}))
    path = folder / "ro-crate-metadata.json"
    content = {"@context": f"{CRATE}/context", "@graph": entities}
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def _write_files(root: Path, chains: Mapping[str, Any], paper: str, folder: Path) -> list[str]:
    """Copy what the verdicts on a paper rest on, and write the report; return the names."""
    rows = dossier.of_paper(chains, paper)
    copied = [*_claim_files(root, paper), contents.EXPERIMENTS, contents.DATASETS]
    copied += [f"{contents.PRINTED}{p.name}" for p in _printed(root, paper)]
    copied += ["requirements.lock", "LICENSE", "LICENSE-TEXT", "CITATION.cff"]
    for run in _results(chains, paper).values():
        copied.append(f"notebooks/{run['notebook']}")
        copied += _with_tunings(root, run["file"])
    copied = [name for name in dict.fromkeys(copied) if (root / name).is_file()]
    for name in copied:
        _write(folder / name, (root / name).read_text(encoding="utf-8"))
    _write(folder / REPORT, dossier.report(chains, paper))
    _write(folder / VERDICTS, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return [*copied, REPORT, VERDICTS]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def _claim_files(root: Path, paper: str) -> list[str]:
    """The files of claims that bear the name of a paper, in whatever folder of the claims."""
    paths = sorted((root / contents.CLAIMS).rglob(f"{paper}.yaml"))
    return [path.relative_to(root).as_posix() for path in paths]


def _printed(root: Path, paper: str) -> list[Path]:
    """The printed values of a paper: files that begin with its name, and those its rules read."""
    text = "".join((root / name).read_text(encoding="utf-8") for name in _claim_files(root, paper))
    paths = sorted((root / contents.PRINTED).glob("*.csv"))
    return [path for path in paths if path.name.startswith(f"{paper}_") or path.name in text]


def _results(chains: Mapping[str, Any], paper: str) -> dict[str, Mapping[str, Any]]:
    """The experiments with results that the verdicts on a paper rest on."""
    names = dict.fromkeys(row["experiment"] for row in dossier.of_paper(chains, paper))
    found = {name: chains["experiments"][name] for name in names if name}
    return {name: run for name, run in found.items() if run.get("runs")}


def _with_tunings(root: Path, file: str) -> Iterator[str]:
    """A result, and the tunings that it used."""
    if (root / file).is_file():
        yield file
        for name in Result.load(root / file).uses:
            yield from _with_tunings(root, f"{contents.RESULTS}{name}.json")


def _title_and_authors(chains: Mapping[str, Any], paper: str) -> tuple[str, list[str]]:
    """A title as the claims have it ends with the names in brackets."""
    text = chains["papers"][paper]["title"]
    found = re.fullmatch(r"(.+?) \(([^()]+)\)", text)
    return (found[1], found[2].split(", ")) if found else (text, ["not named"])


def _reference(chains: Mapping[str, Any], paper: str) -> str:
    """The address of the paper; its source as it is written where that names none."""
    source = chains["papers"][paper]["source"]
    if found := re.search(r"arXiv (\d{4}\.\d{4,5})", source):
        return f"https://arxiv.org/abs/{found[1]}"
    if found := re.search(r"(?:https?://|\b(?=10\.\d{4,9}/))[^\s,;)]+[\w/]", source):
        return found[0] if found[0].startswith("http") else f"https://doi.org/{found[0]}"
    return source


def _checkers(root: Path) -> list[str]:
    """Who checked: the authors of the repository."""
    path = root / "CITATION.cff"
    authors = read_yaml(path).get("authors", []) if path.is_file() else []
    names = [
        of.get("name") or f"{of.get('given-names', '')} {of.get('family-names', '')}".strip()
        for of in authors
    ]
    if not any(names):
        raise ValueError(f"{path.name}: expected authors, who are the codecheckers; found none")
    return [name for name in names if name]


def _identifier(content: bytes) -> str:
    """A name that only this content has (RFC 6920), as nobody has published it under another."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"ni:///sha-256;{digest}"


def _days(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted(day for run in results.values() for day in run["days"])


def _entities(
    root: Path, chains: Mapping[str, Any], paper: str, files: Mapping[str, Path]
) -> Iterator[dict[str, Any]]:
    """The metadata of a crate: itself, its files, the paper, people, runs, and their data."""
    results, (title, authors) = _results(chains, paper), _title_and_authors(chains, paper)
    days = _days(results)
    people = {name: f"#author-{i}" for i, name in enumerate(authors, start=1)}
    checkers = {name: f"#checker-{i}" for i, name in enumerate(_checkers(root), start=1)}
    yield {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": CRATE},
    }
    yield {
        "@id": "./",
        "@type": "Dataset",
        "name": dossier.title(chains, paper),
        "description": f"{dossier.outcome(chains, paper)} {dossier.RULE}",
        "datePublished": days[-1] if days else "2026",
        "license": [{"@id": of} for of in _LICENCES.values()],
        "author": _ids(checkers.values()),
        "about": {"@id": _reference(chains, paper)},
        "hasPart": _ids(files),
        "mentions": _ids(f"#run-{name}" for name in results),
    }
    yield {
        "@id": _reference(chains, paper),
        "@type": "ScholarlyArticle",
        "name": title,
        "author": _ids(people.values()),
        "description": chains["papers"][paper]["source"],
    }
    for name, identifier in (people | checkers).items():
        yield {"@id": identifier, "@type": "Person", "name": name}
    for name, identifier in _LICENCES.items():
        what = "code, claims and results" if name == "code" else "text and figures"
        yield {"@id": identifier, "@type": "CreativeWork", "name": f"licence of the {what}"}
    yield from _file_entities(files, results)
    sets: dict[str, dict[str, Any]] = {}
    for name, run in results.items():
        used = [f"#data-{_slug(data['name'])}" for data in run["data"]]
        for identifier, data in zip(used, run["data"], strict=True):
            sets[identifier] = _data_entity(identifier, data, chains["datasets"])
        yield {
            "@id": f"#run-{name}",
            "@type": "CreateAction",
            "name": run["title"] or name,
            "description": f"{run['runs']} runs, profile {run['profile']}, on "
            f"{'; '.join(run['machines'])}; {'; '.join(run['versions'])}",
            "instrument": {"@id": f"notebooks/{run['notebook']}"},
            "object": _ids(used),
            "result": {"@id": run["file"]},
            **({"startTime": run["days"][0], "endTime": run["days"][-1]} if run["days"] else {}),
        }
    yield from sets.values()


def _file_entities(files: Mapping[str, Path], results: Mapping) -> Iterator[dict[str, Any]]:
    titles = {run["file"]: run["title"] for run in results.values()}
    known = {REPORT: "the report", VERDICTS: "every verdict, with the values it rests on"}
    for name, path in files.items():
        content = path.read_bytes()
        notebook = path.suffix == ".ipynb"
        yield {
            "@id": name,
            "@type": ["File", "SoftwareSourceCode"] if notebook else "File",
            "name": known.get(name) or titles.get(name) or path.name,
            "contentSize": str(len(content)),
            "sha256": hashlib.sha256(content).hexdigest(),
            "encodingFormat": _media_type(path),
        }


def _media_type(path: Path) -> str:
    known = {".yaml": "application/yaml", ".cff": "application/yaml", ".csv": "text/csv"}
    known |= {".ipynb": "application/x-ipynb+json", ".json": "application/json"}
    return known.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"


def _data_entity(identifier: str, data: Mapping, datasets: Mapping) -> dict[str, Any]:
    about = datasets.get(data["name"], {})
    entity = {
        "@id": identifier,
        "@type": "Dataset",
        "name": about.get("title") or data["name"],
        "identifier": f"sha256:{data['sha256']}" if data["sha256"] else data["name"],
        "description": " ".join((about.get("source") or "made by the notebook").split()),
    }
    return entity | ({"license": about["licence"]} if about.get("licence") else {})


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _ids(names) -> list[dict[str, str]]:
    return [{"@id": name} for name in names]
