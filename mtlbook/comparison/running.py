"""Tune and compare arms on somebody's tasks, in small steps that an interruption does not lose."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlbook.arms import configurations
from mtlbook.comparison import arms as table
from mtlbook.comparison.arms import Choice, Protocol
from mtlbook.comparison.splits import Shares, parts_of, standardise
from mtlbook.ledger.currency import fingerprints_agree
from mtlbook.ledger.results import Result, ResultError
from mtlbook.methods import Method
from mtlbook.study import Add, Outcome, Parts, Study, Trial
from mtlbook.tasks import TaskSet
from mtlbook.training import evaluate, pick_device

CHUNK = 1024  # samples at a time where they are only read
TUNING_SPLITS = (1000, 1001)  # of the training parts on which numbers are chosen; no repeat's


def split(tasks: TaskSet, repeat: int, protocol: Protocol) -> dict[str, TaskSet]:
    """The parts of one repeat, standardised by what is trained on."""
    return standardise(parts_of(tasks, repeat, Shares(protocol.train, protocol.validation)))


def optimiser(parameters: Iterable[Tensor], *, lr: float, momentum: float, decay: float):
    """SGD with momentum."""
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay)


def training(trial: Trial) -> dict[str, Any]:
    """What all arms have in common."""
    p = trial.protocol
    chosen = partial(optimiser, lr=p.lr, momentum=p.momentum, decay=p.decay)
    return {"steps": p.steps, "batch_size": p.batch_size, "optimizer": chosen}


def scores(method: Method, part: TaskSet) -> tuple[list[float], float]:
    """Of each task the score in percent, the larger the better, and the mean log loss.

    Classification: accuracy. Regression: explained variance, 100 minus the squared error in percent
    of the target's variance in the training part; it can be negative.
    """
    found = evaluate(method, part, chunk=CHUNK)
    if found.metric == "rmse":
        return [100 * (1 - rmse**2) for rmse in found.per_task], found.mean_loss
    return found.per_task, found.mean_loss


def score(method: Method, part: TaskSet) -> Sequence[float]:
    """What validation judges: the mean score of the tasks."""
    per_task, _ = scores(method, part)
    return [sum(per_task) / len(per_task)]


def guess(tasks: TaskSet) -> float:
    """The score without any inputs: the mean of each task's targets, or its largest class."""
    if tasks[0].loss == "mse":
        return 0.0
    shares = [
        float(task.targets.bincount().max()) / len(task)
        if task.loss == "cross_entropy"
        else float((0.5 + (task.targets.double().mean(0) - 0.5).abs()).mean())
        for task in tasks
    ]
    return 100 * sum(shares) / len(shares)


def measure(add: Add, outcome: Outcome, parts: Parts) -> None:
    """``score`` with every task's, ``loss``, and what the method holds of the tasks' relation."""
    per_task, loss = scores(outcome.method, parts["test"])
    per_task = [round(x, 4) for x in per_task]
    add(metric="score", value=sum(per_task) / len(per_task), per_task=per_task)
    add(metric="loss", value=loss)
    relation = outcome.method.relation()
    if relation is not None and bool(relation.matrix.isfinite().all()):
        matrix = [[round(x, 4) for x in row] for row in relation.matrix.tolist()]
        add.curve("relation", {"matrix": matrix, "meaning": relation.meaning})


def study_of(choice: Choice, protocol: Protocol) -> Study:
    """The study of these arms, whose numbers are the user's: no version of ours names them."""
    return Study(
        name="comparison",
        arms={**choice.arms, **table.START},
        protocol=protocol,
        split=split,
        training=training,
        measure=measure,
        score=score,
        tuning_splits=TUNING_SPLITS,
    )


def redrawn(choice: Choice, trials: int, seed: int) -> Choice:
    """The same arms, each with other settings to choose from."""
    drawn = {
        name: replace(
            arm, configurations=configurations(trials, seed, **table.CANDIDATES[name].ranges)
        )
        for name, arm in choice.arms.items()
    }
    return replace(choice, arms=drawn)


def searches(
    choice: Choice, protocol: Protocol, *, repeats: int, trials: int, anew: bool
) -> list[tuple[Study, Sequence[int]]]:
    """The studies that choose numbers, each with the repeats that take what it has chosen.

    One for all repeats; or one for each, among other settings, on its own training part. Its suffix
    ends the names of what is chosen, and of the scores that chose it.
    """
    if not anew:
        return [(study_of(choice, protocol), range(repeats))]
    studies = (study_of(redrawn(choice, trials, seed=r), protocol) for r in range(repeats))
    return [
        (replace(study, tuning_splits=[repeat], suffix=f"/{repeat}"), [repeat])
        for repeat, study in enumerate(studies)
    ]


def run(
    tasks: TaskSet,
    choice: Choice,
    protocol: Protocol,
    *,
    repeats: int,
    trials: int,
    path: Path | None,
    anew: bool = False,
    device: str = "auto",
    tell: Callable[[str], None] = lambda text: None,
) -> Result:
    """Choose every arm's numbers on validation data, then train and test it in every repeat.

    With ``anew`` numbers are chosen for each repeat by itself (:func:`searches`). What is finished
    is in the file at ``path`` after each arm's tuning and each training, and is not done again.

    Raises
    ------
    ValueError
        If the file holds a comparison of other data or under other settings.
    """
    parameters = {
        "protocol": {f.name: getattr(protocol, f.name) for f in fields(protocol)},
        "trials": trials,
    }
    begun = Result.begin(
        "comparison",
        parameters | ({"anew": True} if anew else {}),
        tasks,
        splits=split(tasks, 0, protocol),
        device=str(pick_device(device)),
        settings={"names": tasks.names, "loss": tasks[0].loss, "left_out": choice.left_out}
        | {"guess": guess(tasks)},
    )
    result = _resumed(begun, path)
    found = searches(choice, protocol, repeats=repeats, trials=trials, anew=anew)
    of_search = trials * len(found[0][0].tuning_splits)
    todo = len(choice.arms) * (of_search * len(found) + repeats)
    done, started = 0, time.perf_counter()

    def step(text: str, work: int, action: Callable[[], object] | None) -> None:
        nonlocal done
        if action is not None:
            action()
            if path is not None:
                result.save(path)
        done += work
        spent = time.perf_counter() - started
        tell(f"{100 * done / todo:3.0f} %  {spent:6.0f} s  {text}")

    for study, of_study in found:
        which = f" of repeat {of_study[0] + 1}" if anew else ""
        for arm in choice.arms:
            known = arm + study.suffix in result.settings.get("chosen", {})
            tune = partial(_tune, study, result, tasks, arm, device)
            step(f"{arm}: numbers{which}", of_search, None if known else tune)
        values = {arm: result.settings["chosen"][arm + study.suffix] for arm in choice.arms}
        # one name for the score of all repeats; nothing more is chosen
        testing = replace(study, suffix="", tuning_splits=())
        for repeat in of_study:
            for arm in choice.arms:
                known = any(repeat in result.values(arm, m) for m in ("score", "failed"))
                compare = partial(_compare, testing, result, tasks, arm, repeat, values, device)
                step(f"{arm}: repeat {repeat + 1} of {repeats}", 1, None if known else compare)
    return result


def asked(result: Result, arms: Iterable[str], repeats: int) -> Result:
    """Of a result that may hold more, for it was resumed, these arms and repeats."""
    arms = set(arms)

    def wanted(name: str) -> bool:
        """Of an arm that is asked for, and of no search that a later repeat made for itself."""
        return re.split("[@/]", name)[0] in arms and _in_time(name, repeats)

    records = [
        record
        for record in result.records
        if wanted(record["arm"])
        and (
            _in_time(record["metric"], repeats)
            if "@" in record["arm"]
            else record["repeat"] < repeats
        )
    ]
    tuned = {"chosen", "configurations", "validation"}
    settings = {
        name: {key: of for key, of in value.items() if wanted(key)} if name in tuned else value
        for name, value in result.settings.items()
    }
    curves = {key: of for key, of in result.curves.items() if key.split("/")[1] in arms}
    return replace(result, records=records, settings=settings, curves=curves)


def _in_time(name: str, repeats: int) -> bool:
    """Whether a name ends with no repeat, or with an early one: ``arm@trial/repeat``."""
    found = re.search(r"/(\d+)$", name)
    return found is None or int(found[1]) < repeats


def _tune(study: Study, result: Result, tasks: TaskSet, arm: str, device: str) -> None:
    study.tune(result, tasks, arms=[arm], device=device)
    drawn = result.settings["configurations"]
    drawn[arm + study.suffix] = drawn.pop(arm)


def _compare(
    study: Study,
    result: Result,
    tasks: TaskSet,
    arm: str,
    repeat: int,
    values: Mapping[str, float],
    device: str,
) -> None:
    """One training of one arm; a divergence is a result, too."""
    start = time.perf_counter()
    kept = dict(result.settings["chosen"])
    try:
        study.compare(result, tasks, arms=[arm], repeats=[repeat], values=values, device=device)
        seconds = time.perf_counter() - start
        result.add(arm=arm, repeat=repeat, metric="seconds", value=seconds)
    except FloatingPointError:
        result.add(arm=arm, repeat=repeat, metric="failed", value=1)
    result.settings["chosen"] = kept


def _resumed(begun: Result, path: Path | None) -> Result:
    """What is in the file, if it is of the same data and settings."""
    if path is None or not path.exists():
        return begun
    try:
        found = Result.load(path)
    except ResultError as error:
        raise ValueError(f"{error}; delete it, or write elsewhere with --output") from error
    now = json.loads(json.dumps([begun.parameters, begun.data, begun.settings["names"]]))
    then = [found.parameters, dict(found.data), found.settings.get("names")]
    prints = [of[1].pop("fingerprint", None) for of in (now, then)]
    what = ("settings", "data", "tasks")
    other = [name for name, a, b in zip(what, then, now, strict=True) if a != b]
    # the last digit of a sum hangs on the number of threads
    if (
        "data" not in other
        and None not in prints
        and not fingerprints_agree(*prints, tolerance=1e-9)
    ):
        other.append("data")
    if other:
        raise ValueError(
            f"{path}: expected a comparison of these data under these settings, got another one, "
            f"of other {' and '.join(other)}; delete it, or write elsewhere with --output"
        )
    found.settings |= {name: begun.settings[name] for name in ("left_out", "guess")}
    found.device, found._started = begun.device, begun._started
    return found
