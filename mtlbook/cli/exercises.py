"""``mtlbook check``: the exercises of the book, and what an answer is worth."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter


def check(options: argparse.Namespace) -> int:
    """Check an answer; with ``--list`` say what there is, without a file what is asked for."""
    if options.answer is not None and not options.list:
        from mtlbook.exercises.running import check as run

        report = run(options.name, options.answer, seconds=options.seconds)
        print(report)
        return 0 if report.passed else 1
    from mtlbook import exercises

    if options.list:
        everything = list(exercises.EXERCISES.values())
        chosen = [x for x in everything if options.name in (None, x.name, *_chapter(x))]
        if not chosen:
            chapters = ", ".join(dict.fromkeys(x.chapter for x in everything))
            raise ValueError(f"check: expected a chapter of {chapters}; got {options.name!r}")
        print(listing(chosen))
        return 0
    if options.name is None:
        raise ValueError("check: expected the name of an exercise, or --list")
    print(listing([exercises.find(options.name)]))
    return 0


def _chapter(exercise) -> tuple[str, str]:
    """The two names of its chapter: ``foundations/tensors`` and ``tensors``."""
    return exercise.chapter, exercise.chapter.partition("/")[2]


def listing(chosen) -> str:
    """The exercises, by chapter, each with its level and the function that is checked."""
    lines, chapter = [], None
    for exercise in chosen:
        if exercise.chapter != chapter:
            chapter = exercise.chapter
            lines += ["", chapter]
        lines.append(f"  {exercise.name:<29} {exercise.level:<17} {exercise.title}")
        if exercise.checks:
            text = f"{exercise.signature}: {exercise.shapes}"
            lines.append(
                textwrap.fill(text, 96, initial_indent=" " * 32, subsequent_indent=" " * 36)
            )
    levels = Counter(exercise.level for exercise in chosen)
    checked = sum(bool(exercise.checks) for exercise in chosen)
    number = f"{len(chosen)} exercise{'s' * (len(chosen) > 1)}, {checked} with checks"
    of = ", ".join(f"{count} {level}" for level, count in levels.items())
    return "\n".join([*lines[1:], "", f"{number} ({of})"])
