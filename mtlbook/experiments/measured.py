"""What the study "which method when" has measured, as its pages show it.

One draw of ten settings on all problems (:func:`first_draw`), five more on four of them
(:func:`draws`), and whole replications of eight (:func:`replications`), from the committed results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mtlbook.comparison import winners
from mtlbook.experiments.problems import AGAIN, DRAWS, REAL, TEACHERS
from mtlbook.ledger.repository import committed
from mtlbook.ledger.results import Result
from mtlbook.ledger.statistics import Interval, mean_interval

#: Arms, shorter than the study's page says once what they are.
LABEL = {
    "stl": "STL",
    "stl-plain": "STL, no decay",
    "pooled": "one model",
    "fixed": "fixed relation",
    "mrn-t": "MRN_t",
    "drn": "after DRN (ours)",
    "mrn": "MRN",
    "uncoupled": "uncoupled",
    "laf": "LAF",
    "tucker": "Tucker",
    "tt": "tensor train",
    "dmtl-tf": "DMTL-TF",
    "hard-sharing": "hard sharing",
    "hard-deep": "hard sharing, deep heads",
    "cross-stitch": "cross-stitch",
    "cross-stitch-same": "cross-stitch, same",
    "uniform": "SRDML, fixed",
    "srdml": "SRDML",
    "pcgrad": "PCGrad",
    "mgda": "MGDA",
    "upgrad": "UPGrad",
    "mean": "mean gradient",
    "mtfl": "MTFL",
    "rmtl": "RMTL",
    "mtrl": "MTRL",
    "mmoe": "MMoE",
    "mtal": "MTAL",
    "oracle": "told the truth",
}
#: Real problems; the number is of labels per class, or per task of a regression.
REAL_NAMES = {
    "office-1": "Office, 1",
    "office-10": "Office, 10",
    "codings-3": "two codings, 3",
    "harmful-3": "contradicting task, 3",
    "pacs-3": "PACS, 3",
    "pacs-30": "PACS, 30",
    "school-20": "School, 20",
    "sarcos-20": "SARCOS, 20",
}
FIRST_DRAW = tuple(f"when-{of}" for of in "planted planted-more office pacs school sarcos".split())

_committed = cache(committed)  # several problems are in one file


def named(problem: str) -> str:
    """A problem of the first draw in words.

    Raises
    ------
    ValueError
        If it is none.
    """
    if problem in REAL_NAMES:
        return REAL_NAMES[problem]
    found = re.fullmatch(r"T(\d+)-n(\d+)-(?:c([-+][\d.]+)|none)", problem)
    if found is None:
        raise ValueError(f"problem: expected one of the first draw of settings, got {problem!r}")
    tasks, samples, c = found.groups()
    where = "unrelated" if c is None else f"c = {float(c):g}".replace("-", "−")
    return f"{tasks} tasks, n = {samples}, {where}"


@dataclass(frozen=True)
class FirstDraw:
    """All arms on all problems, with ten settings each that were drawn once.

    Attributes
    ----------
    scores : mapping of problem to mapping of arm to array
        One number per repeat.
    seconds : mapping of problem to mapping of arm to float
        Median CPU time of a training with its test.
    recovered : mapping of problem to mapping of arm to float
        How surely a pair of one group is held for closer than one across, percent.
    relations : mapping of (problem, arm) to array, shape ``(T, T)``
        What the first repeat's method holds.
    settings : mapping of (arm, problem) to (list of dict, int)
        The ten settings, and the place of the chosen one.
    processors : mapping of (arm, problem) to str
        Where it was measured.
    """

    scores: Mapping[str, Mapping[str, np.ndarray]]
    seconds: Mapping[str, Mapping[str, float]]
    recovered: Mapping[str, Mapping[str, float]]
    relations: Mapping[tuple[str, str], np.ndarray]
    settings: Mapping[tuple[str, str], tuple[list[dict[str, Any]], int]]
    processors: Mapping[tuple[str, str], str]

    def difference(self, problem: str, arm: str, other: str = "stl") -> Interval:
        """The mean of paired differences of two arms over repeats."""
        return mean_interval(self.scores[problem][arm] - self.scores[problem][other])

    def timed(self, arm: str) -> list[str]:
        """Problems on which one machine measured an arm and single-task learning."""
        return [
            p
            for p, of in self.scores.items()
            if arm in of and self.processors[arm, p] == self.processors["stl", p]
        ]

    def cost(self, arm: str, problems: Iterable[str]) -> float:
        """CPU time in units of single-task learning's, where one machine measured both.

        Of no such problem among these: over all that there are; infinite where there is none.
        """
        same = self.timed(arm)
        at = [p for p in problems if p in same] or same
        ratios = [self.seconds[p][arm] / self.seconds[p]["stl"] for p in at]
        return float(np.exp(np.mean(np.log(ratios)))) if ratios else np.inf


def problems_of(result: Result) -> list[str]:
    """The problems whose scores a result holds."""
    metrics = dict.fromkeys(record["metric"] for record in result.records)
    return [metric.removeprefix("score/") for metric in metrics if metric.startswith("score/")]


def first_draw() -> FirstDraw:
    """What the committed results hold of it."""
    found = FirstDraw({}, {}, {}, {}, {}, {})
    for result in map(_committed, FIRST_DRAW):
        for problem in problems_of(result):
            found.scores[problem] = winners.scores_of(result, problem)
            spent = winners.scores_of(result, problem, "seconds")
            found.seconds[problem] = {arm: float(np.median(of)) for arm, of in spent.items()}
            seen = {a: result.values(a, f"recovery/{problem}") for a in found.scores[problem]}
            found.recovered[problem] = {
                arm: float(np.mean(list(of.values()))) for arm, of in seen.items() if of
            }
        for curves in result.curves.values():
            for key, rows in curves.items():
                _, arm, _, problem = key.split("/")
                found.relations[problem, arm] = np.array(rows)
        entries = result.provenance["runs"]
        where = {run: entry["platform"]["processor"] for entry in entries for run in entry["of"]}
        for run, places in result.settings["chosen"].items():
            for key, place in places.items():
                arm, problem = key.split("/")
                ten = result.settings["configurations"][run][arm]
                found.settings[arm, problem] = ten, int(place)
                found.processors[arm, problem] = where[run]
    return found


@cache
def draws(problem: str) -> list[winners.Scores]:
    """The scores of six draws of settings, the first one among them.

    Parameters
    ----------
    problem : str
        Eight tasks with 20 samples at c = -1, 0 or 1; Office-Caltech with one image per class.
    """
    of, first = ("-office", "office") if problem in REAL else ("", "planted")
    more = _committed(f"when-draws{of}")
    names = [f"{problem}-draw{k}" for k in range(1, DRAWS)]
    first_scores = winners.scores_of(_committed(f"when-{first}"), problem)
    return [first_scores, *(winners.scores_of(more, name) for name in names)]


@cache
def replications(problem: str) -> list[winners.Scores]:
    """The scores of ten replications: other settings, other problems to tune and to test.

    Of real data they have other samples: for validation, to tune and to test.

    Parameters
    ----------
    problem : str
        Eight tasks with 20 samples at c = -1, 0 or 1, or with unrelated heads; Office-Caltech with
        one image per class, in two codings, or with a task that contradicts; PACS with three.
    """
    file = "" if problem in TEACHERS else "-pacs" if problem.startswith("pacs") else "-office"
    again = _committed(f"when-again{file}")
    return [winners.scores_of(again, f"{problem}-again{k}") for k in range(1, AGAIN + 1)]


def over_replications(problem: str, arm: str, reference: str = "stl") -> Interval:
    """The gain over repeats and replications of a problem, both taken for random."""
    return winners.over_draws(replications(problem), arm, reference)[0]
