"""The files that an audit of one more paper needs, laid out from ``templates``.

A template is a valid file of a paper called ``papername``; it is laid out under the name of the new
one. The list of experiments and the table of contents get an entry each; nothing else that exists
is changed, and all of it is written or nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from mtlbook.datasets.registry import is_read_only
from mtlbook.documents import parse_yaml
from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.repository import EXPERIMENTS
from mtlbook.workflow.catalogue import WorkflowError, load_experiments

TEMPLATES = Path(__file__).resolve().parent / "templates"
TOC = Path("book") / "_toc.yml"
#: The line of the table of contents above which a new chapter goes.
ABOVE = "# above this line: mtlbook new-paper"
#: Template -> the file that it becomes, and what that is for.
FILES: Mapping[str, tuple[str, str]] = {
    "printed.csv": ("data/claims/printed/{}_table1.csv", "what the paper prints, number by number"),
    "claims.yaml": ("data/claims/{}.yaml", "what it claims, and by which rule that is judged"),
    "notebook.ipynb": ("notebooks/{}_table1.ipynb", "what is measured; holds an example that runs"),
    "chapter.md": ("book/reproduction/{}.md", "the chapter: verdicts, differences, provenance"),
    "test.py.txt": ("tests/test_{}.py", "tests of all that"),
}
ENTRIES = {
    EXPERIMENTS.as_posix(): "which notebook runs with which parameters",
    TOC.as_posix(): "the chapter",
}


def lay_out(root: Path, name: str) -> dict[str, str]:
    """Write what an auditor of a paper fills in.

    Parameters
    ----------
    root : Path
        Of a checkout.
    name : str
        Of the paper: small letters and digits, a letter first.

    Returns
    -------
    dict of str to str
        The files that were written, and what each is for; those that got an entry come last.

    Raises
    ------
    WorkflowError
        If the name is none or the paper is there, if the checkout lacks a folder, cannot be written
        to, or has no place for an entry. Nothing is written then.
    """
    if not re.fullmatch("[a-z][a-z0-9]+", name):
        raise WorkflowError(
            f"name: expected small letters and digits, a letter first, such as mrn; got {name!r}"
        )
    new = {path.format(name): _rendered(template, name) for template, (path, _) in FILES.items()}
    if there := [path for path in new if (root / path).exists()]:
        raise WorkflowError(
            f"name: expected a paper that is not there yet, got {name!r}, which has "
            f"{', '.join(there)}"
        )
    new |= {
        EXPERIMENTS.as_posix(): _with_experiment(root, name),
        TOC.as_posix(): _with_chapter(root, name),
    }
    for folder in sorted({(root / path).parent for path in new}):
        if not folder.is_dir() or is_read_only(folder):
            raise WorkflowError(
                f"{folder}: expected a folder that can be written to; a paper is laid out in a "
                "checkout of your own (git clone)"
            )
    _write_all(root, new)
    what = {path.format(name): why for path, why in FILES.values()}
    return what | {path: f"an entry: {why}" for path, why in ENTRIES.items()}


def _rendered(template: str, name: str) -> str:
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return text.replace("papername", name).replace("PAPERNAME", name.upper())


def _with_experiment(root: Path, name: str) -> str:
    """The list of experiments and, at its end, the example's entry."""
    load_experiments(root / EXPERIMENTS)  # which says what is wrong with it
    old, entry = _read(root, EXPERIMENTS), _rendered("experiment.yaml", name)
    known, added = (parse_yaml(text)["experiments"] for text in (old, f"experiments:\n{entry}"))
    if both := sorted(set(known) & set(added)):
        raise WorkflowError(f"{EXPERIMENTS.as_posix()}: {', '.join(both)} is there already")
    new = f"{old.rstrip()}\n{entry}"
    with contextlib.suppress(yaml.YAMLError):
        if parse_yaml(new)["experiments"] == known | added:
            return new
    raise WorkflowError(
        f"{EXPERIMENTS.as_posix()}: expected the experiments last in the file, each two columns in"
    )


def _with_chapter(root: Path, name: str) -> str:
    """The table of contents with the chapter above the line that says where."""
    old = _read(root, TOC)
    found = re.findall(rf"^( *){re.escape(ABOVE)}\n", old, re.MULTILINE)
    if len(found) != 1:
        raise WorkflowError(f"{TOC.as_posix()}: expected one line {ABOVE!r}, found {len(found)}")
    line = f"{found[0]}- file: reproduction/{name}\n"
    return old.replace(f"{found[0]}{ABOVE}", f"{line}{found[0]}{ABOVE}")


def _read(root: Path, path: Path) -> str:
    try:
        return (root / path).read_text(encoding="utf-8")
    except OSError as error:
        raise WorkflowError(
            f"{root}: expected a checkout with {path.as_posix()} ({error.strerror})"
        ) from error


def _write_all(root: Path, new: Mapping[str, str]) -> None:
    """Write all files, or leave every one as it was."""
    before = {p: (root / p).read_text(encoding="utf-8") for p in new if (root / p).exists()}
    written: list[str] = []
    try:
        for path, text in new.items():
            written.append(path)
            write_atomically(root / path, text)
    except BaseException:
        for path in written:
            if path in before:
                write_atomically(root / path, before[path])
            else:
                (root / path).unlink(missing_ok=True)
        raise
