"""What every chapter has at its head and at its end, and the time that it takes.

At its head, in the box "Before and after": what it is for, what it needs, what one will learn, and
the minutes to read and the seconds to run. At its end, "In short": a box with a summary, questions
to discuss and further reading; a chapter on a method also has ninety minutes for a group of five.
Without an option the problems are listed; `--write` writes the times, minutes from the number of
words and seconds from `book/page_seconds.json` (`scripts/build_book.py --keep-seconds`).
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from mtlbook.ledger.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
SECONDS = ROOT / "book" / "page_seconds.json"
WORDS_PER_MINUTE = 200
FENCE = re.compile(r"^(```+)(?:\{code-cell\}|python|text|sh).*?^\1$", re.DOTALL | re.MULTILINE)
SOLUTION = re.compile(
    r"^```\{solution-start\}.*?^```\{solution-end\}\n```$", re.DOTALL | re.MULTILINE
)
BOX = r"^:::\{{admonition\}} {title}\n:class: {css}\n(.*?)^:::$"
TIME = re.compile(
    r"^\*\*Time:\*\* (\d+) minutes to read without a pencil, (\d+) seconds? to run\.$", re.MULTILINE
)
HEAD = ("What it is for.", "You need", "You will learn", "Time:")
SESSION = {  # what a group does in ninety minutes, and how many of it
    "Read before": None,
    "Three cells to run": 3,
    "Five questions to argue": 5,
    "On the whiteboard": None,
    "The dispute": None,
}


def minutes(text: str) -> int:
    """The minutes to read a chapter: its words without code, solutions and the box of letters."""
    front = re.sub(r"\A---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE)
    prose = SOLUTION.sub("", front)
    prose = FENCE.sub("", prose)
    prose = re.sub(
        BOX.format(title="Letters in this chapter", css="[^\n]*"), "", prose, flags=re.S | re.M
    )
    prose = re.sub(r"\$\$.*?\$\$|\$[^$]+\$", "x", prose, flags=re.DOTALL)  # a formula is one word
    return max(1, round(len(re.findall(r"\w[\w'’-]*", prose)) / WORDS_PER_MINUTE))


def section(text: str, title: str) -> str:
    """The text below one heading of the second level; empty when it is not there."""
    match = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return match[1] if match else ""


def numbered(text: str, title: str) -> int:
    """How many numbered items follow a paragraph that begins with a title in bold."""
    match = re.search(rf"^\*\*{title}.*?\n\n((?:\d\. .*?\n(?:   .*\n)*)+)", text, re.MULTILINE)
    return len(re.findall(r"^\d\. ", match[1], re.MULTILINE)) if match else 0


def problems(name: str, text: str, seconds: Mapping[str, float], keys: set[str]) -> Iterator[str]:
    """What a chapter lacks, one sentence each."""
    flags = re.DOTALL | re.MULTILINE
    head = re.search(BOX.format(title="Before and after", css="note"), text, flags)
    for field in HEAD:
        if head is None or f"**{field}**" not in head[1]:
            yield f"{name}: nothing at its head under {field!r}"
    if (time := TIME.search(text)) is None:
        yield f"{name}: does not say how long it takes"
    else:
        if abs(int(time[1]) - minutes(text)) > 2 + 0.1 * minutes(text):
            yield f"{name}: {time[1]} minutes to read, and its words take {minutes(text)}"
        if name not in seconds:
            yield f"{name}: no measurement of its cells in {SECONDS.name}"
        elif int(time[2]) != max(1, round(seconds[name])):
            yield f"{name}: {time[2]} seconds to run, measured were {seconds[name]}"
    end = section(text, "In short")
    box = re.search(BOX.format(title="Summary", css="summary"), end, flags)
    items = len(re.findall(r"^- ", box[1], re.MULTILINE)) if box else 0
    if not 3 <= items <= 5:
        yield f"{name}: a summary of {items} points, not of three to five"
    if not 3 <= (items := numbered(end, "To discuss")) <= 5:
        yield f"{name}: {items} questions to discuss, not three to five"
    reading = re.search(r"^\*\*Further reading\.\*\*(.*?)\n\n", end, flags)
    cited = re.findall(r"\{cite:?\w?\}`([^`]+)`", reading[1]) if reading else []
    if not cited or (lost := {key for c in cited for key in c.split(",")} - keys):
        yield f"{name}: further reading {lost if cited else 'is missing'}"
    if name.startswith("methods/"):
        group = section(text, "Ninety minutes for five")
        for title, number in SESSION.items():
            if f"**{title}" not in group or number not in (None, numbered(group, title)):
                yield f"{name}: a session for five lacks {title!r}"


def chapters(book: Path) -> dict[str, Path]:
    """The chapters by the name of their page."""
    paths = [*sorted((book / "foundations").glob("*.md")), *sorted((book / "methods").glob("*.md"))]
    return {path.relative_to(book).with_suffix("").as_posix(): path for path in paths}


def keys(book: Path) -> set[str]:
    """The keys of the bibliography."""
    text = (book / "references.bib").read_text(encoding="utf-8")
    return set(re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE))


def write(paths: Mapping[str, Path], seconds: Mapping[str, float]) -> None:
    """Write the time that each chapter takes."""
    for name, path in paths.items():
        text = path.read_text(encoding="utf-8")
        took = max(1, round(seconds[name]))
        read = f"{minutes(text)} minutes to read without a pencil"
        line = f"**Time:** {read}, {took} second{'s' * (took > 1)} to run."
        write_atomically(path, TIME.sub(line, text))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the times")
    options = parser.parse_args()
    paths, seconds = chapters(ROOT / "book"), json.loads(SECONDS.read_text(encoding="utf-8"))
    if options.write:
        write(paths, seconds)
    known = keys(ROOT / "book")
    found = [
        problem
        for name, path in paths.items()
        for problem in problems(name, path.read_text(encoding="utf-8"), seconds, known)
    ]
    print(*found, sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
