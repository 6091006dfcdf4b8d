"""Checks one answer, in this process; started by `mtlbook.exercises.running` in one of its own.

``python -m mtlbook.exercises.judging NAME FILE OUTPUT SECONDS`` writes one JSON object a line to
OUTPUT, as soon as it knows it, so that what was found is there even if the answer never ends.
"""

from __future__ import annotations

import difflib
import faulthandler
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from mtlbook.exercises.model import Answer, Exercise, Failed, alike, copied, hint, raised, title

PRELUDE = {"np": numpy, "numpy": numpy, "torch": torch}  # an answer need not import these
Line = dict[str, Any]


def judge(exercise: Exercise, namespace: Mapping[str, Any], *, file: str = "") -> Iterator[Line]:
    """What the checks say of the function in ``namespace``; ends with the first that fails.

    Yields
    ------
    dict
        ``check``, ``ok``, and where it is not ``expected``, ``came`` and ``hint``.
    """
    try:
        function = _function(exercise, namespace)
    except Failed as failure:
        yield _line(f"there is a function {exercise.signature}", failure)
        return
    for check in exercise.checks:
        yield (line := run(exercise, check, function, file=file))
        if not line["ok"]:
            return


def run(exercise: Exercise, check: Callable, function: Callable, *, file: str = "") -> Line:
    """One check of one function, with the hint of the mistake that gives the same."""
    answer = Answer(function, file=file)
    failure = _failure(exercise, check, answer)
    if failure is None:
        return {"check": title(check), "ok": True}
    own = failure.hint or hint(check)
    return _line(title(check), failure, _recognised(exercise, check, answer) or own)


def _failure(exercise: Exercise, check: Callable, answer: Answer) -> Failed | None:
    torch.manual_seed(0)
    try:
        check(answer)
    except Failed as failure:
        return failure
    except Exception as error:  # of what came, in a form that the check did not think of
        return Failed(f"{exercise.signature}: {exercise.shapes}", raised(error))
    return None


def _recognised(exercise: Exercise, check: Callable, answer: Answer) -> str:
    """The hint of a mistake that gives the same as the answer, on all that was asked.

    The answer has passed the checks before this one; a mistake that does not is another one.
    """
    before = exercise.checks[: exercise.checks.index(check)]
    for mistake in exercise.mistakes if answer.calls else ():
        own = Answer(mistake.function)
        if any(_failure(exercise, earlier, own) for earlier in before):
            continue
        torch.manual_seed(0)
        if all(alike(_outcome(mistake.function, args), came) for args, came in answer.calls):
            return mistake.hint
    return ""


def _outcome(function: Callable, args: tuple) -> Any:
    """What it gives, or raises."""
    try:
        return function(*copied(args))
    except Exception as error:
        return error


def _line(check: str, failure: Failed, hint: str | None = None) -> Line:
    hint = failure.hint if hint is None else hint
    return {
        "check": check,
        "ok": False,
        "expected": failure.expected,
        "came": failure.came,
        "hint": hint,
    }


def _function(exercise: Exercise, namespace: Mapping[str, Any]) -> Callable:
    name = exercise.function
    if name not in namespace:
        own = [n for n, value in namespace.items() if inspect.isfunction(value)]
        near = difflib.get_close_matches(name, own, 1, 0.6)
        found = f"the functions {', '.join(own)}" if own else "no function"
        hint = f"Is {near[0]} meant to be it? Rename it." if near else "The name must be this one."
        raise Failed(f"a function named {name}", found, hint)
    function = namespace[name]
    if not callable(function):
        raise Failed(f"a function {name}", f"{type(function).__name__}")
    try:
        inspect.signature(function).bind(*exercise.arguments)
    except ValueError:  # written in C
        pass
    except TypeError:
        came = f"{name}{inspect.signature(function)}"
        raise Failed(exercise.signature, came, "The number of arguments differs.") from None
    return function


def load(path: Path) -> dict[str, Any]:
    """The namespace of a file with an answer.

    Raises
    ------
    Failed
        It is not Python, or raises.
    """
    namespace = {**PRELUDE, "__name__": path.stem, "__file__": str(path)}
    try:
        source = path.read_text(encoding="utf-8-sig")
        exec(compile(source, str(path), "exec"), namespace)
    except SyntaxError as error:
        came = f"line {error.lineno}: {error.msg}: {(error.text or '').strip()}"
        raise Failed("Python", came) from error
    except NameError as error:
        advice = "What is checked stands by itself: define or import in it what it needs."
        raise Failed("code that runs", raised(error, str(path)), advice) from error
    except (Exception, SystemExit) as error:
        raise Failed("code that runs", raised(error, str(path))) from error
    return namespace


def _checked(name: str) -> Exercise:
    from mtlbook.exercises.course import find

    exercise = find(name)
    if not exercise.checks:
        raise ValueError(
            f"{name}: expected an exercise with checks; this one is for paper and your own "
            f"cells, and its solution stands in the chapter {exercise.chapter}"
        )
    return exercise


def main(name: str, file: str, output: str, seconds: str) -> None:
    """Judge the answer in ``file``; its lines go to ``output``."""
    path = Path(file)
    with open(output, "a", encoding="utf-8", buffering=1) as stream:
        try:
            exercise = _checked(name)
        except ValueError as error:
            stream.write(json.dumps({"error": str(error)}) + "\n")
            return
        of = {key: getattr(exercise, key) for key in ("name", "title", "level", "chapter")}
        stream.write(json.dumps({**of, "checks": len(exercise.checks)}) + "\n")
        sys.path.insert(0, str(path.parent))  # for what the file imports from its neighbours
        # the clock runs from here: what came before is ours; where it stopped is written, too
        faulthandler.dump_traceback_later(float(seconds), exit=True, file=stream)
        try:
            lines = judge(exercise, load(path), file=str(path))
            for line in lines:
                stream.write(json.dumps(line) + "\n")
        except Failed as failure:
            stream.write(json.dumps(_line("the code can be read and run", failure)) + "\n")
        faulthandler.cancel_dump_traceback_later()
        stream.write(json.dumps({"done": True}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
