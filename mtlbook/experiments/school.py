"""School as a bridge from SRDML to shallow models: its linear case, each school a task. Ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlbook.experiments.linear_descent import Problem, Setting, descend
from mtlbook.experiments.srdml_linear import FIRST_SEED, TUNING_SEED
from mtlbook.ledger.results import Result
from mtlbook.tasks import TaskSet


@dataclass(frozen=True)
class Protocol:
    """Ours: neither poster nor scripts have such an experiment.

    Attributes
    ----------
    train, validation : float
        Shares of each school's pupils; the rest are tested. The pupils for validation are the same
        in all repeats.
    lr, steps
        Of gradient descent, from zero.
    omega_step : float
        Over lambda.
    """

    train: float = 0.4
    validation: float = 0.2
    lr: float = 1.0
    steps: int = 300
    omega_step: float = 300.0


#: One number an arm, five values of it for each. ``pooled`` is one model for all schools.
GRIDS: dict[str, tuple[str, Sequence[float]]] = {
    "stl": ("lr", (0.1, 0.25, 0.5, 1.0, 2.0)),
    "pooled": ("decay", (0.0, 0.0001, 0.0003, 0.001, 0.003)),
    "weight-decay-tuned": ("decay", (0.0003, 0.001, 0.003, 0.01, 0.03)),
    "uniform-tuned": ("weight", (0.003, 0.01, 0.03, 0.1, 0.3)),
    "srdml-tuned": ("weight", (0.003, 0.01, 0.03, 0.1, 0.3)),
}


def settings_of(arm: str, protocol: Protocol) -> list[Setting]:
    """The five settings of an arm; omega's step is such that c can move by its size."""
    name, values = GRIDS[arm]
    base = Setting(lr=protocol.lr, steps=protocol.steps)
    settings = [replace(base, **{name: value}) for value in values]
    if arm == "srdml-tuned":
        settings = [replace(s, omega_step=protocol.omega_step / s.weight) for s in settings]
    return settings


def compare(result: Result, tasks: TaskSet, *, repeats: int, protocol: Protocol) -> None:
    """Test error of every arm in every repeat, its number chosen on validation pupils.

    Inputs and scores are standardised by the training pupils of all schools; the error is in points
    of the exam (1 to 70), the mean over schools of each one's root mean square.
    """
    chosen: dict[str, Setting] = {}
    tried: dict[str, list[float]] = {}
    for arm in GRIDS:
        settings = settings_of(arm, protocol)
        error = errors_of(tasks, arm, settings, [TUNING_SEED], "validation", protocol)[0]
        error = error.where(error.isfinite(), torch.inf)  # diverged; argmin would take a NaN
        tried[arm] = [float(e) if e < torch.inf else None for e in error]
        chosen[arm] = settings[int(error.argmin())]
        seeds = range(FIRST_SEED, FIRST_SEED + repeats)
        errors = errors_of(tasks, arm, [chosen[arm]], seeds, "test", protocol)[:, 0]
        for repeat, (seed, rmse) in enumerate(zip(seeds, errors, strict=True)):
            result.add(arm=arm, repeat=repeat, seed=seed, metric="rmse", value=float(rmse))
    result.settings["chosen"] = {arm: vars(setting) for arm, setting in chosen.items()}
    result.curves["tuning"] = tried


def errors_of(
    tasks: TaskSet,
    arm: str,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    part: str,
    protocol: Protocol,
) -> Tensor:
    """Mean over schools of the error on ``part``, ``(seeds, settings)``; a run for each pair."""
    errors = []
    for seed in seeds:
        rows = [_pupils(len(task), t, seed, protocol) for t, task in enumerate(tasks)]
        train = [(t.inputs[r["train"]], t.targets[r["train"]]) for t, r in _zip(tasks, rows)]
        every_x, every_y = (torch.cat(of_all) for of_all in zip(*train, strict=True))
        shift, scale = every_x.mean(0), every_x.std(0).clamp(min=1e-6)
        mean, std = every_y.mean(), every_y.std()

        def ready(x: Tensor, shift=shift, scale=scale) -> Tensor:
            return F.pad((x - shift) / scale, (0, 1), value=1.0)

        gram = torch.stack([ready(x).mT @ ready(x) / len(x) for x, _ in train])
        moment = torch.stack([((y - mean) / std * ready(x)).mean(0) for x, y in train])
        if arm == "pooled":  # tasks with the same moments stay the same
            gram, moment = gram.mean(0, keepdim=True), moment.mean(0).expand_as(moment)
        runs = len(settings)
        moment = moment.expand(runs, -1, -1)
        problem = Problem(gram.expand(runs, -1, -1, -1), moment, torch.zeros_like(moment))
        w, _ = descend(problem, settings, count=1)
        found = [
            (ready(task.inputs[r[part]]) @ w[:, t, :, None] * std + mean - task.targets[r[part]])
            .square()
            .mean((1, 2))
            .sqrt()
            for t, (task, r) in enumerate(_zip(tasks, rows))
        ]
        errors.append(torch.stack(found).mean(0))
    return torch.stack(errors)


_zip = partial(zip, strict=True)


def _pupils(count: int, school: int, seed: int, protocol: Protocol) -> dict[str, Tensor]:
    """Rows of one school: validation the same for all seeds, training drawn from the others."""
    fixed = torch.Generator().manual_seed(school)
    order = torch.randperm(count, generator=fixed)
    kept = round(protocol.validation * count)
    held, free = order[:kept], order[kept:]
    drawn = torch.Generator().manual_seed(1_000 * (seed + 1) + school)
    free = free[torch.randperm(len(free), generator=drawn)]
    cut = round(protocol.train * count)
    return {"train": free[:cut], "validation": held, "test": free[cut:]}
