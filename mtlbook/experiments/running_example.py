"""The running example of the book: two groups of tasks that agree or contradict each other.

*Planted*: the eight regressions of the study "which method when" with 20 samples each. What
chapter 0 trains on, what each chapter on a method looks at and what the committed result
``when-planted`` holds are the same samples, repeat for repeat. *Real*: the ten digits from three
sources, in one coding of the classes or in two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mtlbook import datasets
from mtlbook.comparison import running, winners
from mtlbook.experiments.measured import over_replications
from mtlbook.experiments.mrn_splits import with_codings
from mtlbook.experiments.problems import ACROSS, TEACHERS, Search
from mtlbook.experiments.which_method import FLOOR, study_of
from mtlbook.ledger.repository import committed
from mtlbook.ledger.results import Result
from mtlbook.ledger.statistics import Interval, mean_interval
from mtlbook.study import Outcome, Parts, choices
from mtlbook.tasks import TaskSet, split_per_class

SOURCES = ("mnist", "digits", "transformed")  # of the digits, all real images


def problem(c: float, samples: int = 20) -> str:
    """The study's name of the planted problem: correlation -1 to 1, samples of each task."""
    name = f"T8-n{samples}-c{c:+g}"
    if name not in TEACHERS:
        known = [
            known
            for known, of in TEACHERS.items()
            if of.tasks == 8 and not of.series and of.search == Search()
        ]
        raise ValueError(f"c, samples: expected a problem of {known}, got {c} and {samples}")
    return name


def planted(c: float, repeat: int) -> dict[str, TaskSet]:
    """Training, validation and test parts of eight planted regressions, two groups of four.

    Parameters
    ----------
    c : float
        Heads of one group correlate by 0.95, of the two groups by 0.95 c: at 1 the groups agree, at
        -1 they contradict each other (:class:`mtlbook.experiments.problems.Teacher`).
    repeat : int
        A problem of its own.
    """
    return TEACHERS[problem(c)].parts(repeat)


def digits(agree: bool, repeat: int, labels: int = 3) -> dict[str, TaskSet]:
    """Six tasks on digits of three sources, each source in two halves; two groups of three.

    Parameters
    ----------
    agree : bool
        Whether the second halves name the digits as the first do; else they have moved on by three.
    repeat : int
        A split of its own.
    labels : int
        Training images of each digit of each task.

    Returns
    -------
    dict of str to TaskSet
        ``train``, ``validation`` (5 images of each digit), ``test`` (30); 7 x 7 pixels as vectors,
        centred and scaled by what is trained on.
    """
    tasks = _digits(agree)
    counts = {"train": labels, "validation": 5, "test": 30}
    parts = split_per_class(tasks, counts, seed=repeat, rest="rest")
    seen = torch.cat([task.inputs for task in parts["train"]])
    mean, scale = seen.mean(0), seen.std(0).mean()
    return {name: parts[name].map_inputs(lambda x: (x - mean) / scale) for name in counts}


@cache
def _digits(agree: bool) -> TaskSet:
    tasks = datasets.load("digit_domains", domains=list(SOURCES))
    tasks = with_codings(tasks.map_inputs(lambda x: avg_pool2d(x, 4).flatten(1)))
    if not agree:
        return tasks
    moved = tasks.tasks[len(SOURCES) :]
    same = (
        replace(t, targets=(t.targets - 3) % 10, name=f"{source}, again")
        for source, t in zip(SOURCES, moved, strict=True)
    )
    return replace(tasks, tasks=(*tasks.tasks[: len(SOURCES)], *same))


def stacked(problems: Iterable[Parts]) -> dict[str, tuple[Tensor, Tensor]]:
    """Many problems as one: of each part inputs ``(P, T, n, ...)`` and targets ``(P, T, n, ...)``.

    All must have as many tasks, and these as many samples. Networks with the same leading axes are
    then trained side by side.
    """
    problems = list(problems)

    def of(name: str, field: str) -> Tensor:
        return torch.stack([torch.stack([getattr(t, field) for t in p[name]]) for p in problems])

    return {name: (of(name, "inputs"), of(name, "targets")) for name in problems[0]}


_committed = cache(committed)  # several problems are in one file


def _result(samples: int = 20) -> Result:
    return _committed("when-planted" if samples == 20 else "when-planted-more")


def gains(
    arms: Iterable[str],
    reference: str = "stl",
    *,
    at: Iterable[float] = ACROSS,
    samples: int = 20,
) -> dict[str, list[Interval]]:
    """What the study has measured: gains over a reference, points of explained variance.

    Parameters
    ----------
    arms : iterable of str
        Names of :mod:`mtlbook.experiments.which_method`.
    reference : str
    at : iterable of float
        Correlations across the groups.
    samples : int
        Of each task: 20, or at correlations -1, 0 and 1 also 5 and 80.

    Returns
    -------
    dict of arm to list of Interval
        One for each correlation of ``at``; 20 paired repeats.
    """
    scores = {c: winners.scores_of(_result(samples), problem(c, samples)) for c in at}
    return {arm: [mean_interval(of[arm] - of[reference]) for of in scores.values()] for arm in arms}


def replicated(arm: str, reference: str, c: float) -> Interval:
    """The gain over ten replications of the problem with correlation c = -1, 0 or 1."""
    return over_replications(problem(c), arm, reference)


def trained(arm: str, c: float, repeat: int = 0) -> tuple[Outcome, Mapping[str, float]]:
    """An arm of the study, trained again with what it had chosen.

    Returns
    -------
    Outcome
    dict
        ``now`` and ``committed``: the score of this training and of the committed one. They differ
        by what processors and versions of PyTorch round differently.
    """
    result, name = _result(), problem(c)
    study = study_of(name, steps=result.parameters["steps"])
    parts = planted(c, repeat)
    chosen = choices(result)[f"{arm}/{name}"]
    outcome = study.train(arm, parts, repeat, chosen, device="cpu")
    per_task = [max(score, FLOOR) for score in running.scores(outcome.method, parts["test"])[0]]
    then = result.values(arm, f"score/{name}")[repeat]
    return outcome, {"now": sum(per_task) / len(per_task), "committed": then}
