"""MTAL (reconstruction): does any regime gain by sharing? All of it on validation images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mtlbook.experiments.mtal import ARMS, COMMON, REGIME_ARMS, STEP_SIZES, sharing, stl
from mtlbook.ledger.results import Result
from mtlbook.study import Arm, Study, choices
from mtlbook.tasks import TaskSet

INITS = tuple(COMMON)
SHARINGS: tuple[dict[str, Any], ...] = (
    {"rho": 0.5, "unit": "filter"},
    {"rho": 0.7, "unit": "filter"},
    {"rho": 0.3, "unit": "filter", "speed": 2},
    {"rho": 0.5, "unit": "filter", "speed": 2},
    {"rho": 0.8, "unit": "slice"},
)
#: Each changes one thing of the best found so far; ``warmup`` is a part of the steps.
CHANGES: tuple[dict[str, Any], ...] = (
    {"pairs": "cross-task"},
    {"pairs": "mutual-best"},
    {"weights": "learned"},
    {"similarity": "pearson"},
    {"similarity": "gaussian"},
    {"warmup": 0.5},
    {"steps": 3},
)


def search(
    result: Result, tasks: TaskSet, *, study: Study, samples: int, device: str = "auto"
) -> None:
    """Where does sharing gain over STL? First every start and threshold; then the switches.

    STL's step size is chosen anew for every start, and MTAL keeps it; a baseline that a start
    throws off balance is none. Records, for every configuration (its name is JSON) and tuning
    split, ``gain_points``: validation accuracy less that of STL from the same start. At last the
    step sizes of the hard sharing arms are chosen for the best start, as ``hard-sharing/start@lr``.
    """
    parts = {
        repeat: study.split(tasks, repeat, replace(study.protocol, train=samples))
        for repeat in study.tuning_splits
    }
    of_stl: dict[tuple, float] = {}

    def accuracy(here: Study, row: Arm, repeat: int) -> float:
        one = replace(here, arms={"one": row})
        return one.validate("one", None, parts[repeat], repeat, device=device)[0]

    def gains(configuration: Mapping[str, Any]) -> float:
        here, rows = regime_of(configuration, study)
        here = here.at(lr=choices(result)[f"stl/{here.protocol.init}"])
        found = []
        for repeat in parts:
            key = repeat, here.protocol
            if key not in of_stl:
                of_stl[key] = accuracy(here, Arm(stl), repeat)
            found.append(accuracy(here, rows["mtal"], repeat) - of_stl[key])
            name = json.dumps(configuration, sort_keys=True)
            result.add(arm=name, repeat=repeat, metric="gain_points", value=found[-1])
        return sum(found) / len(found)

    def tune(init: str, rows: Mapping[str, Arm]) -> None:
        named = {f"{arm}/{init}": row for arm, row in rows.items()}
        here = replace(study.at(init=init, train=samples), arms=named)
        here.tune(result, tasks, arms=named, device=device)

    tried = []
    for init in INITS:
        tune(init, {"stl": replace(ARMS["stl"], grid=ARMS["stl"].grid[:4])})
        for of_mtal in SHARINGS:
            configuration = {"init": init, "train": samples, **of_mtal}
            tried.append((gains(configuration), configuration))
    best = max(tried, key=lambda trial: trial[0])[1]
    for change in CHANGES:
        gains(best | change)
    both = {arm: replace(ARMS[arm], grid=STEP_SIZES) for arm in ("hard-sharing", "one-trunk")}
    tune(best_of(result)["init"], both)


def regime_of(configuration: Mapping[str, Any], study: Study) -> tuple[Study, dict[str, Arm]]:
    """What a configuration of the search means: a protocol, and MTAL and its control in it."""
    switches = dict(configuration)
    here = study.at(
        init=switches.pop("init"),
        train=switches.pop("train"),
        steps=study.protocol.steps * switches.pop("steps", 1),
    )
    return here, sharing(switches.pop("rho"), **switches)


def best_of(found: Result) -> dict[str, Any]:
    """The configuration of a search with the largest mean gain."""
    gains: dict[str, list[float]] = {}
    for record in found.records:
        if record["metric"] == "gain_points":
            gains.setdefault(record["arm"], []).append(record["value"])
    return json.loads(max(gains, key=lambda arm: sum(gains[arm]) / len(gains[arm])))


def values_at(found: Result, init: str) -> dict[str, float]:
    """The values that a search chose for one start."""
    values = choices(found)
    return {arm: values[f"{arm}/{init}"] for arm in REGIME_ARMS if f"{arm}/{init}" in values}


def regime(name: str, study: Study) -> Study:
    """The study at ``"start/images of a class"``, for example ``"common/10"``."""
    init, _, train = name.partition("/")
    if init not in COMMON or not train.isdecimal():
        raise ValueError(
            f"regime: expected a start of {tuple(COMMON)} and a number, like 'common/10', "
            f"got {name!r}"
        )
    return study.at(init=init, train=int(train))
