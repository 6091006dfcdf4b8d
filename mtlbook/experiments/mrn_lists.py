"""What samples of MRN's domains hold: random ones, and the lists that came with the code."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mtlbook.datasets import split_audit
from mtlbook.experiments.mrn_splits import Protocol, parts_of
from mtlbook.ledger.results import Result
from mtlbook.tasks import TaskSet

# Of an audit of a pair of lists, what is recorded under which name.
COUNTS = {
    "true_percent": "true_percent",
    "train_rows": "rows",
    "train_items": "images",
    "test_items": "test_images",
    "overlap": "in_both",
    "missing": "in_neither",
}


def random_samples(
    result: Result, tasks: TaskSet, *, percents: Sequence[int], repeats: Sequence[int]
) -> None:
    """Which classes the training parts of the tables' random splits lack, and what that costs.

    Records, an arm each task: ``random_images/p``, ``missing_classes/p``, and
    ``reachable_percent/p``, the test samples whose class the training part holds: the most that a
    task can reach by itself.
    """
    for percent in percents:
        for repeat in repeats:
            parts = parts_of(tasks, repeat, Protocol(percent=percent))
            for task, train, test in zip(tasks, parts["train"], parts["test"], strict=True):
                seen = train.targets.unique()
                share = torch.isin(test.targets, seen).double().mean()
                found = {
                    "random_images": len(train),
                    "missing_classes": task.classes - len(seen),
                    "reachable_percent": 100 * float(share),
                }
                for metric, value in found.items():
                    name = f"{metric}/{percent}"
                    result.add(arm=task.name, metric=name, value=value, repeat=repeat)


def published_lists(result: Result) -> None:
    """What the published lists hold, by `mtlbook.datasets.split_audit`.

    Records, an arm each task: ``list_<what>/p`` for what `COUNTS` names, ``least_of_class`` and
    ``most_of_class``, and ``list_repeated_k/p``, the images that stand there k times.

    Raises
    ------
    DataError
        The data set is not in the cache.
    """
    for audit in split_audit.audit_lists(*split_audit.office_caltech10()):
        each = audit.train_classes.values()
        found = {name: getattr(audit, field) for field, name in COUNTS.items()}
        found |= {"least_of_class": min(each), "most_of_class": max(each)}
        found |= {f"repeated_{k}": n for k, n in audit.repeats.items() if k > 1}
        for name, value in found.items():
            result.add(arm=audit.task, metric=f"list_{name}/{audit.percent:g}", value=value)
