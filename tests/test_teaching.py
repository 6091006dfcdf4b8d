"""The plans of the page on teaching: what they name is there, and the minutes add up."""

import re
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
TEXT = (BOOK / "teaching.md").read_text(encoding="utf-8")
PLANS = {"twelve": 12, "six": 6, "three": 3}


def headings(page):
    text = (BOOK / f"{page}.md").read_text(encoding="utf-8")
    text = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"^##+ (.*)$", text, re.MULTILINE))


def taught(line):
    """(page, section, minutes) of a line of a plan; the page of what has none is None."""
    found = []
    for part in line.split("; "):
        page = re.match(r"\{doc\}`([^`]+)`: ", part)
        sections = re.findall(r"\*([^*]+)\* \((\d+)\)", part) if page else []
        rest = re.findall(r"\((\d+)\)", part) if not page else []
        found += [(page[1], section, int(minutes)) for section, minutes in sections]
        found += [(None, part, int(minutes)) for minutes in rest]
    return found


def sessions(plan):
    part = TEXT.split(f"(sec-teaching-{plan})=")[1].split("\n(sec-teaching-")[0]
    return re.findall(r"^### (.*?)\n\n((?:- .*\n)+)", part, re.MULTILINE)


def test_what_a_line_teaches():
    line = "{doc}`a/b`: *One* (10), *Two: more* (5); {doc}`c`: *Three* (1); projects (30)."
    assert taught(line) == [
        ("a/b", "One", 10),
        ("a/b", "Two: more", 5),
        ("c", "Three", 1),
        (None, "projects (30).", 30),
    ]


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_is_complete(plan):
    found = sessions(plan)
    assert len(found) == PLANS[plan]
    for title, body in found:
        lines = dict(re.findall(r"^- \*([^*]+)\*: (.*)$", body, re.MULTILINE))
        assert list(lines) == ["Read before", "In class", "Exercises", "Argue"], title
        in_class = taught(lines["In class"])
        assert sum(minutes for _, _, minutes in in_class) == 90, title
        for page, section, _ in in_class:
            assert page is None or section in headings(page), (title, section)
        assert re.findall(r"\{ref\}`(ex-[\w-]+)`", lines["Exercises"]), title
        assert lines["Argue"].endswith((".", "?")), title


def test_pages_and_exercises_exist():
    pages = set(re.findall(r"\{doc\}`([^`]+)`", TEXT))
    assert [page for page in pages if not (BOOK / f"{page}.md").is_file()] == []
    known = set()
    for path in BOOK.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        known |= set(re.findall(r"^:label: ([\w-]+)$|^\(([\w-]+)\)=$", text, re.MULTILINE))
    known = {label for pair in known for label in pair}
    assert set(re.findall(r"\{ref\}`([\w-]+)`", TEXT)) - known == set()


def test_every_chapter_has_an_outcome():
    table = TEXT.split("## What students can do afterwards")[1].split("\n(sec-")[0]
    rows = re.findall(r"^\| \{doc\}`([^`]+)` \|", table, re.MULTILINE)
    course = [p for f in ("foundations", "methods") for p in sorted((BOOK / f).glob("*.md"))]
    chapters = {path.relative_to(BOOK).with_suffix("").as_posix() for path in course}
    assert chapters < set(rows) and len(rows) == len(set(rows))


def test_points_of_the_exam():
    questions = re.findall(r"^\d+\. \*\((\d+) points\)\*", TEXT, re.MULTILINE)
    assert len(questions) == 10 and sum(map(int, questions)) == 60
    answers = TEXT.split("{dropdown} Answers")[1].split("\n:::::\n")[0]
    assert len(re.findall(r"^\d+\. ", answers, re.MULTILINE)) == 10
    rubric = TEXT.split("| | 4 | 2 | 0 |\n|---|---|---|---|\n")[1].split("\n\n")[0]
    assert f"\n{4 * len(rubric.splitlines())} points; 12 to pass" in TEXT
