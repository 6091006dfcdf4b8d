"""What makes a comparison wrong before it begins: refused, or named in the report."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from mtlbook.comparison.reading import ONE_SHAPE, Data
from mtlbook.tasks import Task, TaskSet

FEWEST = 8  # samples of a task, of which half are to learn from


def check(data: Data) -> list[str]:
    """Refuse what cannot be compared, and say what a reader must know.

    Returns
    -------
    list of str
        What was found and does not forbid a comparison.

    Raises
    ------
    ValueError
        One task alone; inputs that are no numbers or differ in shape; tasks of several kinds; a
        task with too few samples or groups, with one class only, with hardly two samples of a
        class, or with a constant target.
    """
    tasks = data.tasks
    if len(tasks) < 2:
        raise ValueError(f"tasks: expected at least two, got {tasks.names}")
    if len(set(tasks.names)) < len(tasks):
        raise ValueError(f"tasks: expected different names, got {tasks.names}")
    kinds = {task.loss for task in tasks}
    if len(kinds) > 1:
        raise ValueError(f"tasks: expected one kind of targets in all, got {sorted(kinds)}")
    shapes = {task.name: tuple(task.inputs.shape[1:]) for task in tasks}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"tasks: expected inputs of one shape in all, got {shapes}; {ONE_SHAPE}")
    outputs = dict(zip(tasks.names, tasks.outputs, strict=True))
    if kinds != {"cross_entropy"} and len(set(outputs.values())) > 1:
        raise ValueError(f"targets: expected as many numbers in all tasks, got {outputs}")
    few = {task.name: len(task) for task in tasks if len(task) < FEWEST}
    if few:
        raise ValueError(
            f"tasks: expected at least {FEWEST} samples in each, got {_some(few)}; leave them out "
            "with --without"
        )
    broken = {t.name: int((~t.inputs.isfinite()).sum()) for t in tasks}
    if broken := {name: n for name, n in broken.items() if n}:
        raise ValueError(
            f"inputs: expected finite numbers, got NaN or infinity by task: {_some(broken)}"
        )
    constant = [task.name for task in tasks if _is_constant(task.targets)]
    if constant:
        raise ValueError(
            f"targets: expected two values or more in every task, got one in {constant}; there is "
            "nothing to learn in it: leave it out with --without"
        )
    single = {t.name: _singles(t) for t in tasks if t.classes and _singles(t) > len(t) / 2}
    if single:
        raise ValueError(
            f"targets: expected classes with several samples, got classes of a single one by task: "
            f"{_some(single)}; is the target a name or a number of the sample?"
        )
    number = {t.name: len(t.groups.unique()) for t in tasks if t.groups is not None}
    if number:
        if number := {name: n for name, n in number.items() if n < 3}:
            raise ValueError(
                "groups: expected at least 3 in every task, to learn from, to choose numbers with "
                f"and to test on, got by task: {_some(number)}"
            )
    return [*_classes(tasks), *_features(data), *_duplicates(tasks)]


def _singles(task: Task) -> int:
    """How many samples are the only one of their class."""
    return int((task.targets.unique(return_counts=True)[1] == 1).sum())


def _is_constant(targets: Tensor) -> bool:
    return bool((targets == targets[:1]).all())


def _classes(tasks: TaskSet) -> list[str]:
    if tasks[0].classes is None:
        return []
    rare, uneven = {}, {}
    for task in tasks:
        counts = task.targets.bincount(minlength=task.classes)
        if n := int(((counts > 0) & (counts < 3)).sum()):
            rare[task.name] = n
        share = float(counts.max() / counts.sum())
        if share > 0.8:
            uneven[task.name] = f"{100 * share:.0f} %"
    found = []
    if rare:
        found.append(
            f"classes with one or two samples, which some part of a split lacks: {_some(rare)}"
        )
    if uneven:
        found.append(
            f"the largest class holds most of a task, so accuracy says little: {_some(uneven)}"
        )
    return found


def _features(data: Data) -> list[str]:
    tasks = data.tasks
    if tasks[0].inputs.ndim != 2:
        return []
    x = torch.cat([task.inputs for task in tasks]).double()
    x = x - x.mean(0)
    spread = x.square().sum(0).sqrt()
    found = []
    if n := int((spread == 0).sum()):
        found.append(f"{n} of {len(spread)} features never change")
    y = torch.cat([task.targets.double().reshape(len(task), -1) for task in tasks])
    y = y - y.mean(0)
    cosine = (x.mT @ y) / (spread[:, None] * y.square().sum(0).sqrt()).clamp(min=1e-30)
    if leaks := (cosine.abs() > 0.999).any(1).nonzero().flatten().tolist():
        names = [data.features[i] if data.features else str(i) for i in leaks]
        found.append(f"features that give the target away: {_some(dict.fromkeys(names, ''))}")
    return found


def _duplicates(tasks: TaskSet) -> list[str]:
    """Samples that occur more than once; the split keeps them on one side."""
    seen: dict[bytes, list[tuple[int, str]]] = {}
    for t, task in enumerate(tasks):
        for key, y in zip(sample_keys(task.inputs), task.targets.tolist(), strict=True):
            seen.setdefault(key, []).append((t, str(y)))
    if tasks.shared_inputs:
        return ["all tasks look at the same samples, which are split alike"]
    twice = [of for of in seen.values() if len(of) > 1]
    if not twice:
        return []
    across = sum(len({t for t, _ in of}) > 1 for of in twice)
    torn = sum(len(set(of)) > len({t for t, _ in of}) for of in twice)
    extra = sum(len(of) - 1 for of in twice)
    text = f"{extra} samples repeat another one, {across} of them in another task"
    text += "; copies are kept on one side of every split"
    return [text + (f"; {torn} have two different targets in one task" if torn else "")]


def sample_keys(inputs: Tensor) -> list[bytes]:
    """A hash of every sample; 0 and -0 are one number."""
    rows = inputs.detach().cpu().flatten(1).contiguous().numpy()
    rows = rows + rows.dtype.type(0)
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]


def _some(found: dict, most: int = 6) -> str:
    items = [f"{k}: {v}" if v != "" else str(k) for k, v in list(found.items())[:most]]
    more = len(found) - len(items)
    return ", ".join(items) + (f" and {more} more" if more > 0 else "")
