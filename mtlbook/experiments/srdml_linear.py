"""SRDML with linear tasks: the authors' synthetic study, and School as a bridge to shallow models.

The saliency of a linear task is its weight vector, so the regulariser is a weighted sum of
distances of weight vectors, and everything follows from the tasks' second moments. That makes it
cheap enough to train all seeds and all settings at once: an axis of *runs* stands before the tasks.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mtlbook.experiments.linear_descent import Problem, Setting, descend
from mtlbook.ledger.statistics import spearman
from mtlbook.tasks import Task, TaskSet

if TYPE_CHECKING:
    from mtlbook.ledger.results import Result

SLOPES = (1, 1, 2, 2, 3, 3, -1, -1, -2, -2, -3, -3)  # two bases, three pairs of twins each
SAMPLES, TEST, FEATURES, NOISE = 10, 40, 20, 0.01
FIRST_SEED = 300  # of those that are judged; others were looked at before the claims
TUNING_SEED = 1000  # the first of those on which settings are chosen


# The synthetic study

#: The script: 150 iterations, the regulariser from the twelfth on, both step sizes 0.01.
RELEASED = Setting(weight=1.0, omega_step=0.01, warmup=11)


def synthetic_tasks(seed: int) -> dict[str, TaskSet]:
    """The twelve tasks of the script: ``y_t = X w_t + noise``, one X for all of them.

    ``X ~ N(0.5, 1)``, 20 features, ``w_t = s_t (1, ..., 1)`` with ``SLOPES``, noise of
    deviation 0.01; 10 samples to train on, 40 to test.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for part, count in (("train", SAMPLES), ("test", TEST)):
        x = 0.5 + torch.randn(count, FEATURES, generator=generator)
        noise = NOISE * torch.randn(count, len(SLOPES), generator=generator)
        y = x.sum(1, keepdim=True) * torch.tensor(SLOPES) + noise
        tasks = [Task(f"task {t + 1}", x, y[:, [t]], loss="mse") for t in range(len(SLOPES))]
        parts[part] = TaskSet("srdml-synthetic", tasks, licence="generated")
    return parts


def synthetic_problem(
    seeds: Sequence[int], *, as_released: bool = False, copies: int = 1, start: str = "glorot"
) -> Problem:
    r"""The synthetic tasks of several seeds as one problem, each seed ``copies`` times.

    Parameters
    ----------
    seeds : sequence of int
    as_released : bool
        With the script's bug. It subtracts targets ``(n,)`` from outputs ``(n, 1)``, which is an
        ``(n, n)`` table: each output is compared with every target. The gradient is then
        :math:`X^\top (X w - \bar y)`, without the factor 1/n: *predict the mean of the targets*,
        n times as fast.
    copies : int
        Runs of a seed, next to each other.
    start : "glorot" | "zero"
        Initial weights: uniform after Glorot and Bengio, as in the script, or zero (ours).
    """
    if start not in ("glorot", "zero"):
        raise ValueError(f"start: expected 'glorot' or 'zero', got {start!r}")
    data = [synthetic_tasks(seed) for seed in seeds]
    x, y = _stacked(data, "train")
    gram = x.mT @ x / SAMPLES
    moment = y.mT @ x / SAMPLES
    if as_released:
        gram = SAMPLES * gram
        moment = SAMPLES * y.mean(1)[:, :, None] * x.mean(1)[:, None, :]
    limit = (6 / (FEATURES + 1)) ** 0.5 if start == "glorot" else 0.0
    weights = torch.zeros(len(seeds), len(SLOPES), FEATURES + 1)
    for w, seed in zip(weights, seeds, strict=True):
        generator = torch.Generator().manual_seed(10_000 + seed)
        w[:, :-1] = limit * (2 * torch.rand(w[:, :-1].shape, generator=generator) - 1)
    x_test, y_test = (each.repeat_interleave(copies, 0) for each in _stacked(data, "test"))

    def test(w: Tensor) -> tuple[Tensor, Tensor]:
        error = x_test @ w.mT - y_test
        return error.square().mean(1).sqrt(), error.abs().mean(1)

    repeat = partial(torch.repeat_interleave, repeats=copies, dim=0)
    return Problem(repeat(gram)[:, None], repeat(moment), repeat(weights), test)


def _stacked(data: Sequence[dict[str, TaskSet]], part: str) -> tuple[Tensor, Tensor]:
    """Inputs ``(S, n, D)``, with a last column of ones, and targets ``(S, n, T)``."""
    x = torch.stack([of[part][0].inputs for of in data])
    y = torch.stack([torch.cat([task.targets for task in of[part]], 1) for of in data])
    return torch.cat([x, torch.ones(*x.shape[:2], 1)], 2), y


def kinds() -> dict[str, Tensor]:
    """Which pairs i < j of tasks are twins, of the same base, opposite: shape ``(P,)``, boolean."""
    i, j = torch.triu_indices(len(SLOPES), len(SLOPES), 1)
    a, b = torch.tensor(SLOPES)[i], torch.tensor(SLOPES)[j]
    return {"twins": a == b, "same-base": (a * b > 0) & (a != b), "opposite": a * b < 0}


def pattern(coupling: Tensor) -> dict[str, float]:
    """How c, shape ``(P,)``, orders the pairs.

    Returns
    -------
    dict
        The mean of each kind of pairs; ``pattern``: 1 if *every* twin pair lies above every pair
        of the same base, and each of those above every opposite pair, else 0;
        ``pattern_of_means``: the same of the three means.
    """
    groups = {name: coupling[pairs] for name, pairs in kinds().items()}
    twin, base, opposite = groups.values()
    every = bool(twin.min() > base.max()) and bool(base.min() > opposite.max())
    means = {f"relation/{name}": float(values.mean()) for name, values in groups.items()}
    falling = bool(twin.mean() > base.mean() > opposite.mean())
    return means | {"pattern": float(every), "pattern_of_means": float(falling)}


def square(pairs: Tensor) -> Tensor:
    """The symmetric ``(T, T)`` matrix with a zero diagonal of ``(P,)`` pairs i < j."""
    tasks = round((1 + (1 + 8 * len(pairs)) ** 0.5) / 2)
    matrix = pairs.new_zeros(tasks, tasks)
    i, j = torch.triu_indices(tasks, tasks, 1)
    matrix[i, j] = pairs
    return matrix + matrix.mT


# One number or one pair of numbers an arm, 25 values of it for each: the same budget for all.
LAMBDAS = (0.001, 0.003, 0.01, 0.03, 0.1)
OMEGA_STEPS = (0.01, 1.0, 10.0, 100.0, 1000.0)
BUDGET = len(LAMBDAS) * len(OMEGA_STEPS)


def grid(arm: str, base: Setting) -> list[Setting]:
    """The 25 settings that an arm may choose from, the others' fields as in ``base``."""
    if arm == "stl-tuned":
        return [
            Setting(lr=lr, steps=steps)
            for steps in (60, 125, 250, 500, 1000)
            for lr in (0.01, 0.03, 0.1, 0.3, 1.0)
        ]
    of = partial(Setting, lr=base.lr, steps=base.steps)
    if arm == "srdml-tuned":
        return [of(weight=w, omega_step=s) for w in LAMBDAS for s in OMEGA_STEPS]
    ends = {"srdml-slow": (-5, 0), "uniform-tuned": (-5, 0), "twins-known": (-4, 1)}
    if arm == "weight-decay-tuned":
        return [of(decay=float(v)) for v in np.geomspace(1e-5, 1, BUDGET)]
    if arm in ends:
        step = RELEASED.omega_step if arm == "srdml-slow" else 0.0
        values = np.logspace(*ends[arm], BUDGET)
        return [of(weight=float(v), omega_step=step) for v in values]
    raise ValueError(f"arm: expected one of {TUNED_ARMS}, got {arm!r}")


#: ``srdml-slow`` keeps the script's step of c; ``uniform-tuned`` never changes omega; weight decay
#: and ``zero-start`` know nothing of other tasks; ``twins-known`` is told who is whose twin.
TUNED_ARMS = (
    "stl-tuned",
    "srdml-tuned",
    "srdml-slow",
    "uniform-tuned",
    "weight-decay-tuned",
    "twins-known",
)
SCRIPT_ARMS = ("stl-released", "srdml-released", "stl", "srdml")


def synthetic(
    result: Result,
    *,
    repeats: int,
    tuning_repeats: int,
    first_seed: int = FIRST_SEED,
    poster: Tensor | None = None,
    shorten: int = 1,
) -> None:
    """The synthetic study into ``result``: as released, corrected, and with settings chosen.

    Records of every arm and seed: ``rmse`` and ``mae`` (mean over tasks, with every task's), the
    least of them over the iterations (``best/rmse``, what the script prints), and of the arms that
    learn omega :func:`pattern` and ``rank_correlation`` with the poster's map. What was tried is
    in ``result.curves["tuning"]``, what was chosen in ``result.settings["chosen"]``.

    Parameters
    ----------
    result : Result
    repeats, tuning_repeats : int
        Seeds that are judged, and others with which settings are chosen.
    first_seed : int
        Of those that are judged.
    poster : Tensor, shape ``(T, T)``, optional
        The digitised map.
    shorten : int
        Divides the numbers of steps of the tuned arms, for a quick look.
    """
    seeds = range(first_seed, first_seed + repeats)
    judge = partial(_judge, result, seeds, poster=poster)
    for arm in SCRIPT_ARMS:
        setting = RELEASED if arm.startswith("srdml") else Setting()
        judge(arm, synthetic_problem(seeds, as_released=arm.endswith("released")), setting)
    base, chosen, tried = Setting(), {}, {}
    for arm in TUNED_ARMS:
        chosen[arm], tried[arm] = _choose(arm, base, range(tuning_repeats), shorten)
        if arm == "stl-tuned":
            base = chosen[arm]
        judge(arm, synthetic_problem(seeds), chosen[arm])
    for arm, like in (("stl-zero-start", "stl-tuned"), ("srdml-zero-start", "srdml-tuned")):
        judge(arm, synthetic_problem(seeds, start="zero"), chosen[like])
    result.settings["chosen"] = {arm: vars(setting) for arm, setting in chosen.items()}
    result.curves["tuning"] = tried


def _choose(
    arm: str, base: Setting, seeds: Iterable[int], shorten: int
) -> tuple[Setting, list[dict]]:
    """The setting of least error on the tuning seeds, and what every setting gave there."""
    seeds = [TUNING_SEED + seed for seed in seeds]
    settings = grid(arm, base)
    if shorten > 1 and arm == "stl-tuned":
        settings = [Setting(lr=s.lr, steps=max(1, s.steps // shorten)) for s in settings]
    errors: dict[Setting, Tensor] = {}
    for steps in sorted({s.steps for s in settings}):
        of_length = [s for s in settings if s.steps == steps]
        problem = synthetic_problem(seeds, copies=len(of_length))
        w, _ = descend(problem, of_length * len(seeds), count=SAMPLES, coupling=_start(arm))
        rmse = problem.test(w)[0].mean(1).view(len(seeds), -1)  # (seeds, settings)
        errors |= {s: rmse[:, i] for i, s in enumerate(of_length)}
    mean = {s: float(e.mean().nan_to_num(nan=torch.inf)) for s, e in errors.items()}
    tried = [{**vars(s), "rmse": m} for s, m in mean.items() if m < torch.inf]
    return min(mean, key=mean.get), tried


def _start(arm: str) -> Tensor | None:
    return square(kinds()["twins"].float()) if arm == "twins-known" else None


def _judge(
    result: Result,
    seeds: Sequence[int],
    arm: str,
    problem: Problem,
    setting: Setting,
    poster: Tensor | None,
) -> None:
    """Run all seeds at one setting, and record what came out."""
    seen: list[tuple[Tensor, Tensor]] = []
    w, c = descend(
        problem,
        [setting] * len(seeds),
        count=SAMPLES,
        coupling=_start(arm),
        look_at=range(setting.steps + 1),
        look=lambda step, w, c: seen.append(tuple(e.mean(1) for e in problem.test(w))),
    )
    least = [torch.stack(of_metric).min(0).values for of_metric in zip(*seen, strict=True)]
    for i, (metric, errors) in enumerate(zip(("rmse", "mae"), problem.test(w), strict=True)):
        for repeat, of_tasks in enumerate(errors):
            add = partial(result.add, arm=arm, repeat=repeat, seed=seeds[repeat])
            rounded = [round(float(x), 4) for x in of_tasks]
            add(metric=metric, value=float(of_tasks.mean()), per_task=rounded)
            add(metric=f"best/{metric}", value=float(least[i][repeat]))
    if not setting.omega_step:
        return
    for repeat, coupling in enumerate(c):
        found = pattern(coupling)
        if poster is not None:
            pairs = poster[tuple(torch.triu_indices(*poster.shape, 1))]
            found["rank_correlation"] = spearman(coupling, pairs)
        for metric, value in found.items():
            result.add(arm=arm, repeat=repeat, seed=seeds[repeat], metric=metric, value=value)
    rows = [[round(float(x), 4) for x in row] for row in square(c.mean(0))]
    result.curves[f"relation/{arm}"] = rows


def poster_map(path: str | os.PathLike) -> Tensor:
    """The poster's map of learned relations, shape ``(T, T)``, from its digitised values."""
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    matrix = torch.zeros(len(SLOPES), len(SLOPES))
    for row in rows:
        matrix[int(row["task_i"]) - 1, int(row["task_j"]) - 1] = float(row["digitised"])
    return matrix
