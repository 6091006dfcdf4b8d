"""Write the student edition and the solved edition of the book's pages, as notebooks.

Both come from the pages themselves. An exercise with checks becomes a cell that begins with
``%%check NAME``: in the student edition with the stub of the page, in the solved edition with its
solution. Solutions and their cells are left out of the student edition, all else is in both.

    python scripts/editions.py --student OUT      # OUT/foundations/tensors.ipynb, ...
    python scripts/editions.py --solved OUT
    python scripts/editions.py --student OUT --format md   # the same as MyST Markdown

References such as {eq}`...` stay as they are written. Notebooks that read results need
``MTLBOOK_ROOT``, if OUT is outside the repository.
"""

import argparse
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import nbformat
from myst_nb.core.read import myst_nb_reader_plugin

from mtlbook.documents import read_yaml
from mtlbook.ledger.files import write_atomically

BOOK = Path(__file__).resolve().parents[1] / "book"
EXERCISE = re.compile(
    r"^(?P<fence>:{3,}|`{3,})\{exercise\} *(?P<title>[^\n]*)\n:label: (?P<name>[\w-]+)\n"
    r"(?P<body>.*?)^(?P=fence)\n",
    re.DOTALL | re.MULTILINE,
)
SOLUTION = re.compile(
    r"^(?P<fence>`{3,})\{solution-start\} (?P<name>[\w-]+)\n(?::[^\n]*\n)*(?P=fence)\n"
    r"(?P<body>.*?)^(?P=fence)\{solution-end\}\n(?P=fence)\n\n?"
    r"|^(?P<fence2>:{3,}|`{3,})\{solution\} (?P<name2>[\w-]+)\n(?::[^\n]*\n)*"
    r"(?P<body2>.*?)^(?P=fence2)\n\n?",
    re.DOTALL | re.MULTILINE,
)
CODE = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
NOTEBOOK = """\
---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

"""
LOAD = "```{code-cell} python\n%load_ext mtlbook\n```\n\n"


class Exercise(NamedTuple):
    """An exercise as it stands on a page: ``stub`` and ``solution`` are code, or empty."""

    name: str
    title: str
    body: str
    stub: str
    solution: str


def exercises(text: str) -> list[Exercise]:
    """The exercises of a page, each with the code of its stub and of its solution.

    Raises
    ------
    ValueError
        If an exercise has no solution, or a solution no exercise.
    """
    solved = {m["name"] or m["name2"]: m["body"] or m["body2"] for m in SOLUTION.finditer(text)}
    found = [
        Exercise(
            m["name"],
            m["title"].strip(),
            m["body"],
            "\n".join(CODE.findall(m["body"])),
            "\n\n".join(CODE.findall(solved.get(m["name"], ""))),
        )
        for m in EXERCISE.finditer(text)
    ]
    names = [exercise.name for exercise in found]
    if set(names) != set(solved) or text.count("{exercise}") != len(names):
        raise ValueError(f"expected a solution for each exercise, got {names} and {list(solved)}")
    return found


def edition(text: str, *, solved: bool) -> str:
    """A page of one edition, as MyST Markdown whose exercises are cells."""
    known = {exercise.name: exercise for exercise in exercises(text)}

    def asked(match: re.Match) -> str:
        body = CODE.sub("", match["body"]).strip()
        out = f"### Exercise: {match['title'].strip()}\n\n{body}\n"
        own = known[match["name"]]
        return out + ("" if solved or not own.stub else "\n" + _cell(own.name, own.stub))

    def answered(match: re.Match) -> str:
        if not solved:
            return ""
        own = known[match["name"] or match["name2"]]
        body = CODE.sub("", match["body"] or match["body2"]).strip()
        out = f"#### Solution\n\n{body}\n"
        return out + ("\n" + _cell(own.name, own.solution) if own.solution else "") + "\n"

    out = SOLUTION.sub(answered, EXERCISE.sub(asked, text))
    head = re.match(r"---\n.*?^---\n+", out, re.DOTALL | re.MULTILINE)
    front, rest = (out[: head.end()], out[head.end() :]) if head else (NOTEBOOK, out)
    checked = any(exercise.stub for exercise in known.values())
    return front + (LOAD if checked else "") + rest


def _cell(name: str, code: str) -> str:
    code = re.sub(r"^# mtlbook check [^\n]*\n", "", code)
    return f"```{{code-cell}} python\n%%check {name}\n{code.rstrip()}\n```\n"


def notebook(text: str) -> str:
    """A page of an edition as the text of an ``.ipynb`` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.md"
        path.write_text(text, encoding="utf-8")
        made = myst_nb_reader_plugin(str(path))
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number}"
    made.nbformat, made.nbformat_minor = 4, 5
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def pages() -> list[str]:
    """The pages of the book that are chapters, without suffix."""
    parts = read_yaml(BOOK / "_toc.yml")["parts"]
    return [entry["file"] for part in parts for entry in part["chapters"]]


def write(out: Path, *, solved: bool, form: str = "ipynb") -> list[Path]:
    """Write all pages of an edition under ``out``, and return their paths."""
    written = []
    for page in pages():
        text = edition((BOOK / f"{page}.md").read_text(encoding="utf-8"), solved=solved)
        path = out / f"{page}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, notebook(text) if form == "ipynb" else text)
        written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--student", type=Path, metavar="OUT", help="with stubs, without solutions")
    which.add_argument("--solved", type=Path, metavar="OUT", help="with solutions")
    parser.add_argument("--format", choices=("ipynb", "md"), default="ipynb")
    options = parser.parse_args()
    out = options.solved or options.student
    written = write(out, solved=options.solved is not None, form=options.format)
    print(f"{len(written)} pages in {out}")


if __name__ == "__main__":
    main()
