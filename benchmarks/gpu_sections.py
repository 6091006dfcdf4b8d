"""What ``benchmarks/gpu.py`` measures: a section is a list of jobs, each of which gives a row."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from gpu_cases import CASES, SETTINGS, Steps, omniglot, omniglot_tasks, unlike, unlike_tasks
from gpu_laws import laws
from on_device import (
    CPU,
    PRECISIONS,
    Job,
    Row,
    Run,
    Way,
    allocated,
    clock,
    kernels,
    ms,
    peak,
    per_call,
    precision,
    ratio,
    waits,
)
from torch import Tensor

from mtlbook.methods import MTAL, STL, Method
from mtlbook.tasks import TaskSet
from mtlbook.training import evaluate

ROOT = Path(__file__).resolve().parents[1]


@cache
def _made(name: str, size: str) -> Method:
    """Some take seconds to build: once, and copied wherever they are trained."""
    return CASES[name].make(size)


def _steps(run: Run, name: str) -> Steps:
    """A case on the device, with a batch of its setting."""
    method = copy.deepcopy(_made(name, run.size))
    return Steps(method, SETTINGS[CASES[name].setting].tasks(run.size), run.device)


# ---------------------------------------------------------------- a step of every method


def methods(run: Run) -> Iterator[tuple[str, Job]]:
    """A step against the bare networks: time in three precisions, kernels, memory, waits."""
    for name in CASES:
        yield name, partial(_method, run, name)


def _method(run: Run, name: str) -> Row:
    setting = CASES[name].setting
    bare, row = _bare(run, setting)
    held = allocated(run.device)
    of = _steps(run, name)
    method = of.module
    row = {"method": type(method).__name__, "setting": setting} | row
    row["peak"] = peak(of.step, run.device, held)
    if method.update_every > 1:
        method.update()  # so that no covariance is the identity any more
    ways: dict[str, Way] = {"bare": bare}
    row["errors"] = {}
    for name in PRECISIONS:
        way = partial(_within, name, run.device, of.step)
        try:
            way()
            ways[name] = way
        except (RuntimeError, ValueError) as error:
            row["errors"][name] = f"{type(error).__name__}: {error}"[:500]
    times = per_call(ways, run.device, run.rounds, run.block)
    row["bare_ms"] = ms(times["bare"])
    row["ms"] = {name: ms(times[name]) for name in ways if name != "bare"}
    row["ratio"] = {name: ratio(times[name], times["bare"]) for name in row["ms"]}
    row |= kernels(of.step, run.device)
    row["waits"] = waits(of.step, run.device)
    row["update_every"] = method.update_every
    if method.update_every > 1:
        update = per_call({"update": method.update}, run.device, run.rounds, run.block)["update"]
        row["update_ms"] = ms(update)
        row["update_waits"] = waits(method.update, run.device)
        row["update_kernels"] = kernels(method.update, run.device).get("kernels")
        row["amortised"] = row["ratio"]["float32"] + (
            row["update_ms"] / method.update_every / row["bare_ms"]
        )
    return row


@cache
def _bare(run: Run, setting: str) -> tuple[Way, Row]:
    """A step of the networks that all methods of a setting are held against."""
    empty = allocated(run.device)
    of = Steps(SETTINGS[setting].bare(run.size), SETTINGS[setting].tasks(run.size), run.device)
    held = peak(of.bare, run.device, empty)
    return of.bare, {
        "bare_peak": held,
        "bare_kernels": kernels(of.bare, run.device).get("kernels"),
    }


def _within(name: str, device: torch.device, way: Way) -> object:
    with precision(name, device):
        return way()


# ---------------------------------------------------------------- the same numbers


def agreement(run: Run) -> Iterator[tuple[str, Job]]:
    """Three steps on the CPU and on the device: the largest differences.

    At a middle size: MRN's update of fc7 and VGG16 in float64 would take a CPU minutes.
    """
    for name in CASES:
        yield name, partial(_agreement, run, name)


def _agreement(run: Run, name: str) -> Row:
    size, row = "small" if run.quick else "middle", {}
    tasks, first = SETTINGS[CASES[name].setting].tasks(size), _made(name, size)
    for dtype in (torch.float32, torch.float64):
        here, there = (
            _three_steps(copy.deepcopy(first), tasks, device, dtype) for device in (CPU, run.device)
        )
        row[str(dtype).removeprefix("torch.")] = _difference(here, there)
    return row


def determinism(run: Run) -> Iterator[tuple[str, Job]]:
    """The same three steps twice on the device: equal to the last bit, or not."""
    for name in CASES:
        yield name, partial(_determinism, run, name)


def _determinism(run: Run, name: str) -> Row:
    tasks, first = SETTINGS[CASES[name].setting].tasks(run.size), _made(name, run.size)
    one, other = (
        _three_steps(copy.deepcopy(first), tasks, run.device, torch.float32) for _ in range(2)
    )
    equal = all(torch.equal(one[key], other[key]) for key in one)
    return {"equal": equal} | _difference(one, other)


def _three_steps(
    method: Method, tasks: TaskSet, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Losses, and weights after three steps with an update in each.

    Without covariances: their bases are not unique.
    """
    with precision("float32", device):
        of = Steps(method, tasks, device, dtype, lr=0.01)
        losses = []
        for _ in range(3):
            losses.append(of.step())
            if method.update_every > 1:
                method.update()
    learned = {k: v for k, v in method.named_buffers() if k == "coupling"}  # SRDML's omega
    found = {**dict(method.named_parameters()), **learned, "losses": torch.stack(losses)}
    return {key: value.detach().cpu().double() for key, value in found.items()}


def _difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Row:
    """Of the losses as they are; of the weights relative to the largest of their tensor."""
    relative = [
        float((one[k] - other[k]).abs().max() / one[k].abs().max().clamp(min=1e-30))
        for k in one
        if k != "losses"
    ]
    return {
        "loss": float((one["losses"] - other["losses"]).abs().max()),
        "weights": max(relative, default=0.0),
    }


# ---------------------------------------------------------------- as tasks are added


def growth(run: Run) -> Iterator[tuple[str, Job]]:
    """Kernels and time of a step as the tasks grow, for networks in a stack and one by one."""
    families = {
        "stacked": (omniglot_tasks, lambda s, t: STL(omniglot(s, t))),
        "unlike": (unlike_tasks, lambda s, t: STL(unlike(s, t))),
        "unlike, MTAL": (unlike_tasks, lambda s, t: MTAL(unlike(s, t), 0.3)),
    }
    for name, (tasks, make) in families.items():
        yield name, partial(_growth, run, tasks, make)


def _growth(run: Run, tasks: Callable[..., TaskSet], make: Callable[..., Method]) -> Row:
    row: Row = {"tasks": [2, 4] if run.quick else [4, 10, 20, 50], "ms": [], "kernels": []}
    for number in row["tasks"]:
        of = Steps(make(run.size, number), tasks(run.size, number), run.device)
        row["ms"].append(ms(per_call({"": of.step}, run.device, run.rounds, run.block)[""]))
        row["kernels"].append(kernels(of.step, run.device).get("kernels"))
    return row


# ---------------------------------------------------------------- a table, here and there


PLANT_ARMS = ("stl", "pooled", "fixed", "mrn-t", "mrn", "drn")


def table(run: Run) -> Iterator[tuple[str, Job]]:
    """Arms of the planted problem, settings as committed: the errors here and on the device."""
    for arm in PLANT_ARMS:
        yield arm, partial(_arm, run, arm)


def _arm(run: Run, arm: str) -> Row:
    from mtlbook.experiments.planted import planted

    committed = json.loads((ROOT / "data/results/mrn-planted.json").read_text(encoding="utf-8"))
    study = planted("signs", **({"steps": 20} if run.quick else {}))
    value = committed["settings"]["chosen"][f"{arm}/signs"]
    repeats = range(100, 101 if run.quick else 103)
    row: Row = {"metric": "rmse", "repeats": list(repeats), "cpu": [], "device": []}
    for repeat in repeats:
        parts = study.split(None, repeat, study.protocol)
        for place, device in (("cpu", CPU), ("device", run.device)):
            outcome = study.train(arm, parts, repeat, value, device=str(device))
            row[place].append(evaluate(outcome.method, parts["test"]).mean)
    row["difference"] = max(abs(a - b) for a, b in zip(row["cpu"], row["device"], strict=True))
    records = committed["records"]
    row["committed"] = [
        r["value"]
        for repeat in repeats
        for r in records
        if (r["arm"], r["metric"], r["repeat"]) == (arm, "rmse/signs", repeat)
    ]
    return row


# ---------------------------------------------------------------- one graph


COMPILED = ("STL", "MTAL", "MRN", "TNRDMTL, LAF")


def compiled(run: Run) -> Iterator[tuple[str, Job]]:
    """Losses and penalty as one graph (``fullgraph=True``), compiled, against eager."""
    for name in COMPILED:
        yield name, partial(_compiled, run, name)


def _compiled(run: Run, name: str) -> Row:
    of = _steps(run, name)
    method, loss = of.module, of.loss

    def objective(inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        return loss(method(inputs), targets), method.penalty()

    torch._dynamo.reset()
    backend = "eager" if run.quick else "inductor"
    graph = torch.compile(objective, fullgraph=True, backend=backend)

    def stepped(way: Callable[..., tuple[Tensor, Tensor]]) -> Way:
        def one() -> None:
            of.optimizer.zero_grad(set_to_none=True)
            method.backward(*way(of.inputs, of.targets))
            of.optimizer.step()

        return one

    ways = {"eager": stepped(objective), "compiled": stepped(graph)}
    start = clock(run.device)
    ways["compiled"]()
    row: Row = {"seconds_to_compile": clock(run.device) - start}
    times = per_call(ways, run.device, run.rounds, run.block)
    row |= {name: ms(seconds) for name, seconds in times.items()}
    row["ratio"] = ratio(times["compiled"], times["eager"])
    row["kernels"] = kernels(ways["eager"], run.device).get("kernels")
    row["compiled_kernels"] = kernels(ways["compiled"], run.device).get("kernels")
    return row


#: In order of importance: what a budget cuts off is the end.
SECTIONS: dict[str, Callable[[Run], Iterator[tuple[str, Job]]]] = {
    "methods": methods,
    "agreement": agreement,
    "growth": growth,
    "laws": laws,
    "determinism": determinism,
    "table": table,
    "compiled": compiled,
}
