"""Every chapter has a head, an end and, on a method, ninety minutes for a group."""

import json

import pytest


@pytest.fixture(scope="module")
def chapters(script):
    return script("chapters")


def test_chapters_of_the_book(chapters, root):
    paths = chapters.chapters(root / "book")
    seconds, keys = json.loads(chapters.SECONDS.read_text()), chapters.keys(root / "book")
    assert len(paths) >= 14
    for name, path in paths.items():
        assert list(chapters.problems(name, path.read_text(), seconds, keys)) == []


GOOD = """\
# One

:::{admonition} Before and after
:class: note
**What it is for.** A.

**You need** B.

**You will learn** C.

**Time:** 1 minutes to read without a pencil, 2 seconds to run.
:::

## In short

:::{admonition} Summary
:class: summary
- one
- two
  goes on
- three
:::

**To discuss.**

1. one
   goes on
2. two
3. three

**Further reading.** {cite:t}`one2020` and
{cite}`two2020,one2020`.

## Ninety minutes for five

**Read before:** this.

**Three cells to run**, each of you one.

1. one
2. two
3. three

**Five questions to argue**, now.

1. one
2. two
   goes on
3. three
4. four
5. five

**On the whiteboard**, that.

**The dispute.** So.

## Differences
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("", "", None),
        ("**You need** B", "B", "nothing at its head under 'You need'"),
        ("2 seconds", "5 seconds", "5 seconds to run, measured were 2.2"),
        ("1 minutes", "9 minutes", "9 minutes to read, and its words take 1"),
        ("**Time:** 1", "Time: 1", "does not say how long it takes"),
        ("- two\n  goes on\n", "", "a summary of 2 points"),
        ("3. three\n\n**Further", "\n**Further", "2 questions to discuss"),
        ("two2020", "lost2020", "further reading {'lost2020'}"),
        ("**Further reading.**", "Further reading.", "further reading is missing"),
        ("5. five\n", "", "lacks 'Five questions to argue'"),
        ("**The dispute.**", "", "lacks 'The dispute'"),
        ("## In short", "## In long", "a summary of 0 points"),
    ],
)
def test_what_a_chapter_lacks_is_named(chapters, old, new, problem):
    text = GOOD.replace(old, new) if old else GOOD
    found = list(
        chapters.problems("methods/one", text, {"methods/one": 2.2}, {"one2020", "two2020"})
    )
    assert (found == []) if problem is None else any(problem in sentence for sentence in found)


def test_words_of_code_solutions_and_letters_take_no_time(chapters, tmp_path):
    words = "word " * 1000
    hidden = (
        f"```{{code-cell}} python\n{words}\n```\n\n```python\n{words}\n```\n\n"
        f"```{{solution-start}} a\n:class: dropdown\n```\n{words}\n```{{solution-end}}\n```\n\n"
        f":::{{admonition}} Letters in this chapter\n:class: letters dropdown\n{words}\n:::\n\n"
        f"$$\n{words}\n$$ (eq-one)\n"
    )
    assert chapters.minutes(words) == 5 == chapters.minutes(f"{words}\n\n{hidden}")
    path = tmp_path / "one.md"
    path.write_text(GOOD.replace("# One\n", f"# One\n\n{words[:4500]}\n"))
    chapters.write({"methods/one": path}, {"methods/one": 0.6})
    assert "**Time:** 5 minutes to read without a pencil, 1 second to run." in path.read_text()
