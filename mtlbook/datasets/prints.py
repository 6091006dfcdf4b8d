"""Fingerprints of what we derive: features and re-encoded pictures, whose last digits may differ.

Another version of a library decodes, resizes and multiplies a little differently, so no hash of
ours decides whether a reader's own copy is right. What is exact (labels, order, names) has to be
exact; the rest has to have the numbers of :meth:`mtlbook.tasks.TaskSet.fingerprint`, task by task,
to within a tolerance, as ``data/fingerprints.json`` lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlbook.datasets.registry import Entry, data_file

if TYPE_CHECKING:
    from mtlbook.tasks import Task

#: name -> function that makes the tasks, one after the other, of the arrays of a derived file.
VIEWS: dict[str, Callable[[Mapping[str, np.ndarray]], Iterator[Task]]] = {}


@cache
def known() -> dict[str, dict[str, Any]]:
    """What ``data/fingerprints.json`` holds.

    Of each set: ``derived``, the arrays that may differ a little; ``exact``, the hash of the
    others; ``tolerance``; ``tasks``, the fingerprint of each.
    """
    return json.loads(data_file("fingerprints.json").read_text(encoding="utf-8"))


def measure(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """The fingerprint of every task of a derived set."""
    from mtlbook.tasks import TaskSet  # and with it torch, which only this needs

    return {
        task.name: TaskSet(name=name, tasks=(task,)).fingerprint() for task in VIEWS[name](arrays)
    }


def distance(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far the fingerprint of every task is from the known one: the largest difference."""
    found, expected = measure(name, arrays), known()[name]["tasks"]
    return {
        task: float(np.abs(np.subtract(found[task], numbers)).max())  # NaN where one of them is
        for task, numbers in expected.items()
    }


def differs(entry: Entry, arrays: Mapping[str, np.ndarray]) -> str | None:
    """In what arrays are not those of a set, in words; None if they are, as far as is known."""
    from mtlbook.datasets.cache import content_sha256

    about = known().get(entry.name)
    if about is None:
        return "other values"
    exact = {key: array for key, array in arrays.items() if key not in about["derived"]}
    if content_sha256(exact) != about["exact"]:
        return f"other values than in {', '.join(about['derived'])} alone"
    try:
        distances = distance(entry.name, arrays)
    except (OSError, ValueError, KeyError, IndexError) as error:  # no pictures, another shape
        return f"{type(error).__name__}: {error}"
    wrong = [
        f"{task} by {far:.1e}"
        for task, far in distances.items()
        if not far <= about["tolerance"]  # nor what is no number
    ]
    if not wrong:
        return None
    return f"fingerprints differ by more than {about['tolerance']}: {', '.join(wrong)}"
