"""Checks an answer in a process of its own, with a time limit, and says what was found.

That process imports what the checks need; this one is there at once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

SECONDS = 30.0
PRINTED = 2000  # letters that are shown of what an answer printed
FRAME = re.compile(r'File "(.*)", line (\d+)')
NO_END = "the code comes to an end"


@dataclass(frozen=True)
class Report:
    """What the checks of an exercise said of an answer.

    Attributes
    ----------
    exercise : dict
        Its ``name``, ``title``, ``level``, ``chapter``, and the number of its ``checks``.
    lines : tuple of dict
        For each check that was run ``check`` and ``ok``; the last, where it failed, has
        ``expected``, ``came`` and ``hint``.
    printed : str
        What the answer printed.
    """

    exercise: dict
    lines: tuple[dict, ...]
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check was passed."""
        return len(self.lines) == self.exercise["checks"] and all(x["ok"] for x in self.lines)

    @property
    def ended(self) -> bool:
        """Whether the answer came to an end by itself."""
        return all(line["check"] != NO_END for line in self.lines)

    def __str__(self) -> str:
        of = self.exercise
        out = [f"{of['name']}: {of['title']} ({of['level']}, {of['chapter']})"]
        if self.printed.strip():
            out += ["  printed:", textwrap.indent(self.printed.rstrip()[-PRINTED:], "    ")]
        for line in self.lines:
            out.append(f"  {'ok    ' if line['ok'] else 'failed'}  {line['check']}")
            for word in ("expected", "came", "hint"):
                if line.get(word):
                    first, rest = " " * 10, " " * 20
                    text = f"{word:<9} {line[word]}"
                    out.append(
                        textwrap.fill(text, 84, initial_indent=first, subsequent_indent=rest)
                    )
        passed = sum(line["ok"] for line in self.lines)
        out.append(
            "  all checks passed" if self.passed else f"  {passed} of {of['checks']} checks passed"
        )
        return "\n".join(out)


def check(name: str, answer: str | os.PathLike, *, seconds: float = SECONDS) -> Report:
    """Check an answer to an exercise of the book.

    Parameters
    ----------
    name : str
        For example ``"ex-trace-norm-another"``; ``mtlbook check --list`` has all.
    answer : str or path
        A file of Python, or its text: whatever has a line break is text.
    seconds : float
        The answer is ended when it has run for so long.

    Returns
    -------
    Report
        Printed, it says what was expected, what came, and gives a hint.

    Raises
    ------
    ValueError
        If there is no such exercise, or it is one without checks.
    FileNotFoundError
        If the file is not there.
    """
    with tempfile.TemporaryDirectory(prefix="mtlbook-") as folder:
        if isinstance(answer, str) and "\n" in answer:
            path = Path(folder) / "cell.py"
            path.write_text(answer, encoding="utf-8")
        else:
            path = Path(answer).resolve()
            if not path.is_file():
                raise FileNotFoundError(f"answer: expected a file of Python, got {answer}")
        return _run(name, path, Path(folder), seconds)


def _run(name: str, path: Path, folder: Path, seconds: float) -> Report:
    output = folder / "lines.jsonl"
    command = [sys.executable, "-m", "mtlbook.exercises.judging", name]
    command += [str(path), str(output), str(seconds)]
    code: int | None = None
    with open(folder / "printed", "w+b") as printed:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            code = child.wait(seconds + 300)  # it ends itself; this is for one that cannot
        except subprocess.TimeoutExpired:
            pass
        finally:
            child.kill()
            child.wait()
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - 4 * PRINTED))  # it may be endless
        text = printed.read().decode(errors="replace")
    return _report(path, output, seconds, code, text)


def _report(path: Path, output: Path, seconds: float, code: int | None, text: str) -> Report:
    """What a process that has ended with ``code`` left in ``output``; None: it had to be ended."""
    lines, trace = _read(output)
    if not lines:
        raise RuntimeError(f"check: the process that checks did not start:\n{text[-PRINTED:]}")
    first, done = lines[0], lines[-1].get("done", False)
    if "error" in first:
        raise ValueError(first["error"])
    found = [line for line in lines if "check" in line]
    if not done:
        over = bool(trace) or code is None
        found.append(_unfinished(path, trace, seconds if over else None, code))
    return Report(first, tuple(found), text)


def _read(output: Path) -> tuple[list[dict], str]:
    """The lines that a judge has written, and the traceback after them if its time was over."""
    text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    lines, rest = [], []
    for line in text.splitlines():
        if line.startswith("{") and not rest:
            lines.append(json.loads(line))
        else:
            rest.append(line)
    return lines, "\n".join(rest)


def _unfinished(path: Path, trace: str, seconds: float | None, code: int | None) -> dict:
    """What is said of an answer that did not come to an end, or took the process with it."""
    here = [int(line) for file, line in FRAME.findall(trace) if file == str(path)]
    where = f", in line {here[0]}" if here else ""
    hint = ""
    if seconds is not None:
        expected, came = f"an answer within {seconds:g} seconds", f"none yet{where}"
        hint = "Does a loop end, and is nothing computed entry by entry that a product could do?"
    elif code is not None and code < 0:
        expected, came = "a result", f"the process was ended by {signal.Signals(-code).name}"
        hint = "Often it asked for more memory than there is: what is the largest array?"
    else:
        expected, came = "a result", f"the process ended by itself, with code {code}"
    return {"check": NO_END, "ok": False, "expected": expected, "came": came, "hint": hint}
