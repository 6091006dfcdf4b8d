"""Golden trajectories: a few steps of every arm of every experiment on made-up tasks.

    python tests/golden.py [STUDY ...]     compare with data/golden/, and print the coverage
    python tests/golden.py --write [...]   record anew

A refactoring leaves every number where it is. A number that is meant to change takes a bump of
``mtlbook/numerics.py``: recording refuses changed values under the old version, and a bump without
a changed value. New numbers may join at any time.

All of it runs in float64, so that a tolerance of 1e-6 holds on every processor; the tasks are made
of cosines of indices, without a random generator.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "data" / "golden"
TOLERANCE = 1e-6  # relative; and absolute below 1
TOLERANCES = {"datasets": 1e-4}  # float32


# Made-up tasks


def waves(*shape: int, phase: float = 0.0) -> torch.Tensor:
    """Numbers in (-1, 1) that look irregular and are the same everywhere."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.cos(1.7 * index + 0.013 * index.square() + phase).view(shape)


def classes(name: str, shape: tuple[int, ...], count: int, each: int, phase: float = 0.0):
    """A task of ``count`` classes, ``each`` samples a class, that can be learned."""
    from mtlbook.tasks import Task

    targets = torch.arange(count).repeat_interleave(each)
    centre = waves(count, *shape, phase=phase)
    noise = waves(count * each, *shape, phase=phase + 1)
    return Task(name, (centre[targets] + 0.5 * noise), targets, classes=count)


def task_set(name: str, tasks: list):
    from mtlbook.tasks import TaskSet

    return TaskSet(name, tasks, licence="generated", sha256="0" * 64)


def alphabets():
    """Three tasks that differ in their classes."""
    tasks = [classes(f"task {t}", (1, 26, 26), 2 + t % 2, 7, phase=t) for t in range(3)]
    return task_set("made-up alphabets", tasks)


def domains(shape: tuple[int, ...] = (1, 26, 26), each: int = 12):
    """Four tasks with the same classes."""
    names = ("amazon", "caltech", "dslr", "webcam")
    tasks = [classes(n, shape, 3, each, phase=0.3 * t) for t, n in enumerate(names)]
    return task_set("made-up domains", tasks)


def one_vs_all(shape: tuple[int, ...], each: int = 7):
    """The ten binary tasks of CIFAR-MTL on common inputs."""
    from mtlbook.tasks import Task

    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    whole = classes("all", shape, len(names), each)
    binary = torch.nn.functional.one_hot(whole.targets, len(names)).to(whole.inputs)
    tasks = [Task(n, whole.inputs, binary[:, [t]], loss="bce") for t, n in enumerate(names)]
    return task_set("made-up one-vs-all", tasks)


def heterogeneous():
    """Three tasks that differ in images and classes."""
    shapes = (((1, 8, 8), 2), ((3, 9, 9), 3), ((1, 8, 8), 2))
    tasks = [classes(f"t{i}", s, c, 10, phase=0.7 * i) for i, (s, c) in enumerate(shapes)]
    return task_set("made-up heterogeneous", tasks)


def schools():
    """Five regressions of unlike size."""
    from mtlbook.tasks import Task

    tasks = []
    for t, n in enumerate((11, 15, 20, 13, 17)):
        x = waves(n, 4, phase=t)
        y = x.sum(1, keepdim=True) * (1 + 0.2 * t) + 0.1 * waves(n, 1, phase=t + 9)
        tasks.append(Task(f"school {t}", x, 10 + 5 * y, loss="mse"))
    return task_set("made-up schools", tasks)


# What is looked at


@contextmanager
def watching(module) -> Iterator[list[dict]]:
    """Every call of ``fit`` in a module leaves a trajectory."""
    seen: list[dict] = []
    original = module.fit

    def fit(method, train, *arguments, **options):
        history = original(method, train, *arguments, **options)
        if history is not None:
            seen.append(trajectory(method, history))
        return history

    module.fit = fit
    try:
        yield seen
    finally:
        module.fit = original


def trajectory(method, history) -> dict[str, Any]:
    """Losses, penalties, the lengths of the trained parameters and the relation."""
    found: dict[str, Any] = {"penalty": history.penalty, "loss": history.loss}
    weights = [p.detach().flatten() for p in method.parameters()]
    found["length"] = [w.norm() for w in weights]
    found["projection"] = [waves(len(w)).to(w) @ w for w in weights]
    relation = method.relation()
    if relation is not None:
        found["relation"] = relation.matrix
    return found


def of_split(parts) -> dict[str, list]:
    """What identifies the samples of each part: the sums of the inputs of each task, weighted."""
    found = {}
    for name, part in parts.items():
        sums = []
        for task in part:
            x = task.inputs.flatten(1).double().sum(1)
            sums.append(float((x * torch.arange(1, len(x) + 1)).sum()))
        found[name] = [sums, [len(task) for task in part]]
    return found


def of_result(result) -> dict[str, Any]:
    """Every record, and what was chosen."""
    records = {}
    for r in result.records:
        key = "/".join(str(r[k]) for k in ("arm", "metric", "repeat"))
        key += f"/{r['step']}" if "step" in r else ""
        records[key] = [r["value"], *r.get("per_task", ())]
    found = {"records": records, "curves": result.curves}
    kept = {k: result.settings[k] for k in ("chosen", "validation") if k in result.settings}
    return {**found, **kept}


def plain(value: Any) -> Any:
    """Tensors, mappings and sequences as JSON holds them, numbers with ten digits."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().tolist()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    return float(f"{float(value):.10g}")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """``(path, number)`` of everything in a nested value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path} > {key}" if path else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{i}]")
    else:
        yield path, value


def differences(old: Any, new: Any, tolerance: float = TOLERANCE) -> list[str]:
    """Sentences on what is no longer there and what has changed; what is new is no difference."""
    fresh = dict(leaves(new))
    found = []
    for path, before in leaves(old):
        if path not in fresh:
            found.append(f"{path}: was {before}, is gone")
        elif not _same(before, fresh[path], tolerance):
            found.append(f"{path}: was {before}, is {fresh[path]}")
    return found


def _same(a: Any, b: Any, tolerance: float) -> bool:
    numbers = [isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b)]
    if not all(numbers):
        return type(a) is type(b) and a == b
    return abs(a - b) <= tolerance * max(1.0, abs(a), abs(b)) or a == b


# The studies


def engine():
    from mtlbook import study

    return study


def trained(study, parts, numbers: dict[str, float | None], **options) -> dict[str, list]:
    """The trajectories of every arm of a study, at its number; of the arm to start from first."""
    found = {}
    for arm, value in numbers.items():
        with watching(engine()) as seen:
            study.train(arm, parts, 0, value, device="cpu", **options)
        found[arm] = seen
    return found


def compared(study, tasks, **options) -> dict[str, Any]:
    from mtlbook.ledger.results import Result

    result = Result("golden", {})
    options = {"repeats": [0], "device": "cpu"} | options
    study.compare(result, tasks, **options)
    return of_result(result)


def tuned(study, tasks, arms) -> dict[str, Any]:
    from mtlbook.ledger.results import Result

    result = Result("golden", {})
    study.tune(result, tasks, arms=arms, device="cpu")
    return of_result(result)


def numbers(arms, position: int) -> dict[str, float | None]:
    return {name: arm.grid[position] if arm.grid else None for name, arm in arms.items()}


def tnrdmtl() -> dict[str, Any]:
    from mtlbook.experiments import tnrdmtl as of
    from mtlbook.ledger.results import Result

    tasks = alphabets()
    table = of.TABLE1.at(steps=3, batch_size=3)
    parts = table.split(tasks, 0, table.protocol)
    figure = replace(of.FIGURE1, protocol=table.protocol)
    found: dict[str, Any] = {"split": of_split(parts)}
    found |= trained(table, parts, numbers(of.ARMS, 0))
    found |= trained(figure, parts, dict.fromkeys(of.AVERAGED_ARMS))
    found["table"] = compared(table, tasks, arms=of.ARMS, values=numbers(of.ARMS, 1))
    found["tuning"] = tuned(table, tasks, ("stl", "laf-tuned", "hard-sharing"))
    arms = (*of.PAPER_ARMS, *of.AVERAGED_ARMS)
    found["figure"] = compared(figure, tasks, arms=arms, values={})
    calibration = Result("golden", {})
    study = replace(of.CALIBRATION, protocol=table.protocol)
    study.compare(calibration, tasks, arms=of.OPTIMISERS, repeats=[1000], values={}, device="cpu")
    found["calibration"] = of_result(calibration)
    found["nearest"] = of.nearest(calibration, {0: 0.9})
    demo = Result("golden", {})
    with watching(engine()) as seen:
        of.DEMO.at(steps=3).compare(
            demo, None, arms=of.DEMO.arms, repeats=[0], values={}, device="cpu"
        )
    found["demo"] = [of_result(demo), seen]
    arms = [name for name in of.VARIANTS if name != "stl-800-steps"]
    study = replace(of.AMBIGUITIES, protocol=replace(table.protocol, steps=2))
    found["variants"] = compared(study, tasks, arms=arms, values={"stl": 0.05})
    from mtlbook.experiments import tnrdmtl_fair as fair

    study = fair.STUDY.at(steps=3, batch_size=3, validation=3)
    found["fair"] = compared(study, tasks, arms=study.arms, values=numbers(fair.ARMS, 2))
    return found


def domains_study() -> dict[str, Any]:
    from mtlbook.experiments import domains as of

    tasks = domains(each=14)
    study = of.STUDY.at(steps=2, batch_size=4)
    parts = study.split(tasks, 0, study.protocol)
    found: dict[str, Any] = trained(study, parts, numbers(of.ARMS, 0))
    found["table"] = compared(study, tasks, arms=("stl", "pooled", "laf-tuned"))
    return found


def mrn() -> dict[str, Any]:
    from mtlbook.experiments import mrn as of
    from mtlbook.experiments import planted
    from mtlbook.ledger.results import Result

    tasks = domains((7,), each=16)
    table = replace(of.TABLE1.at(percent=20, hidden=4, steps=4, batch_size=5, update_every=2))
    table = replace(table, suffix="/20")
    found: dict[str, Any] = {"split": of_split(of.parts_of(tasks, 0, table.protocol))}
    parts = table.split(tasks, 0, table.protocol)
    found["standardised"] = of_split(parts)
    known = planted.Plant("groups").correlation()[:4, :4]
    row = of.Arm(of.partial(of.known, covariance=known), of.WEIGHTS)
    study = replace(table, arms={**table.arms, "known": row})
    for arm in (*of.ARMS, "known"):
        with watching(engine()) as seen:
            outcome = study.train(arm, parts, 0, study.arms[arm].grid[-2], device="cpu")
        scores = {n: of.evaluate(outcome.method, parts[n]).per_task for n in ("validation", "test")}
        relation = outcome.method.relation()
        found[arm] = [seen, scores, relation and relation.matrix]
    lists = {
        task.name: (torch.tensor([0, 1, 1, 17, 33]), torch.arange(len(task))) for task in tasks
    }
    result = Result("golden", {})
    table.compare(result, tasks, arms=of.ARMS, repeats=[0], device="cpu")
    values = {arm: result.settings["chosen"][f"{arm}/20"] for arm in of.ARMS}
    for unique in (False, True):
        of.on_lists(table, lists, unique).compare(
            result, tasks, arms=of.ARMS, repeats=[0], values=values, device="cpu"
        )
    found["table"] = of_result(result)
    arms = ("stl", "mrn-t", "pooled", "mtrl")
    found["harmful"] = compared(table, of.with_harmful_task(tasks), arms=arms)
    result = Result("golden", {})
    for i, name in enumerate(("uniform", "groups", "signs", "none", "samples=10")):
        arms = ("stl", "mrn-t") if i else planted.PLANT_ARMS
        study = planted.planted(name, steps=11)
        study.compare(result, None, arms=arms, repeats=[0], device="cpu")
    found["planted"] = of_result(result)
    recovered = Result("golden", {})
    planted.recover(recovered, samples=(1, 2), sweeps=(1, 2), repeats=[0])
    found["recovered"] = of_result(recovered)
    return found


def mrn_linear() -> dict[str, Any]:
    from mtlbook.experiments import mrn_flipped
    from mtlbook.experiments import mrn_linear as of
    from mtlbook.experiments import mrn_splits as splits

    tasks = domains((7,), each=16)
    table = of.table1(tasks, percent=20, steps=4).at(batch_size=5, update_every=2)
    parts = table.split(tasks, 0, table.protocol)
    found: dict[str, Any] = {"split": of_split(parts)}
    arms = (*of.ARMS, *of.ORACLE)
    found["configurations"] = {arm: list(table.arms[arm].configurations) for arm in arms}
    found |= trained(table, parts, dict.fromkeys(arms, 3))
    found["table"] = compared(table, tasks, arms=of.ARMS, values=dict.fromkeys(of.ARMS, 1))
    found["tuning"] = tuned(replace(table, tuning_splits=(1000,)), tasks, ("pooled", "mrn-t"))
    codings = splits.with_codings(domains((7,), each=32))
    found["codings"] = compared(
        table, codings, arms=of.GROUPS["codings"], values=dict.fromkeys(of.GROUPS["codings"], 2)
    )
    noisy = mrn_flipped.study(tasks, 20, 4, 40).at(batch_size=5, update_every=2)
    found["flipped split"] = of_split(noisy.split(tasks, 0, noisy.protocol))
    found["flipped"] = compared(noisy, tasks, arms=("stl", "mrn-t"), values={"stl": 2, "mrn-t": 2})
    return found


@contextmanager
def narrow_backbone(features: int = 7) -> Iterator[None]:
    """In place of torchvision's network: dense layers of a few units, made of waves."""
    from unittest import mock

    from mtlbook.experiments import mrn_images

    dense = [torch.nn.Linear(features, 6), torch.nn.Linear(6, 5)]
    with torch.no_grad():
        for i, layer in enumerate(dense):
            layer.weight.copy_(waves(*layer.weight.shape, phase=i))
            layer.bias.copy_(waves(*layer.bias.shape, phase=i + 0.5))
    with mock.patch.object(mrn_images, "backbone", lambda *_: (torch.nn.Identity(), dense)):
        yield


def mrn_images() -> dict[str, Any]:
    from mtlbook.experiments import mrn_images as of

    tasks = domains((7,), each=16)
    table = of.table(20, steps=4, batch_size=5, update_every=2)
    parts = table.split(tasks, 0, table.protocol)
    found: dict[str, Any] = {"split": of_split(parts)}
    found["configurations"] = {arm: list(table.arms[arm].configurations) for arm in of.ARMS}
    with narrow_backbone():
        found |= trained(table, parts, dict.fromkeys(of.ARMS, 3))
        found["table"] = compared(table, tasks, arms=of.ARMS, values=dict.fromkeys(of.ARMS, 1))
        once = replace(table, tuning_splits=(1000,))
        found["tuning"] = tuned(once, tasks, ("pooled", "mrn-t", "dmtl-tf"))
    return found


def srdml() -> dict[str, Any]:
    from mtlbook.experiments import srdml as of

    table = of.TABLE.at(
        trunk="small",
        channels=4,
        hidden=3,
        train=3,
        validation=2,
        test=2,
        epochs=2,
        extra_epochs=2,
        batch_size=15,
        second_batch=15,
    )
    tasks = one_vs_all((1, 8, 8))
    parts = table.split(tasks, 0, table.protocol)
    found: dict[str, Any] = {"split": of_split(parts)}
    starts = {"hard-sharing": table.train("hard-sharing", parts, 0, device="cpu").method}
    found |= trained(table, parts, numbers(of.ARMS, -2), starts=starts)
    for arm in ("lasso", "l21", "rmtl"):
        outcome = table.train(arm, parts, 0, of.ARMS[arm].grid[-2], device="cpu")
        found[arm] = of.predict(outcome.method, parts["test"])
    second = table.train("pcgrad", table.split(tasks, 1, table.protocol), 1, 0.002, device="cpu")
    found["pcgrad, repeat 1"] = trajectory(second.method, second.history)
    values = numbers(of.ARMS, -2)
    found["table"] = compared(table, tasks, arms=of.ARMS, values=values)
    found["tuning"] = tuned(table, tasks, ("stl", "lasso", "hard-sharing-longer", "srdml"))
    arms = ("stl", "lasso", "hard-sharing")
    on_maps = table.at(trunk="efficientnet")
    found["maps"] = compared(on_maps, one_vs_all((6, 4, 4)), arms=arms, values=values)
    from mtlbook.experiments import srdml_fair as fair

    same = {k: getattr(table.protocol, k) for k in vars(table.protocol)}
    study = fair.STUDY.at(**same)
    tasks = fair.numbered(tasks)
    parts = study.split(tasks, 0, study.protocol)
    found["fair split"] = of_split(parts)
    trials = {arm: 3 if row.configurations else None for arm, row in study.arms.items()}
    found["fair"] = trained(study, parts, trials, starts=starts)
    found["fair configurations"] = {
        arm: list(study.arms[arm].configurations) for arm in (*fair.ARMS, *fair.TABLE)
    }
    return found


def which_method() -> dict[str, Any]:
    from mtlbook.experiments import problems
    from mtlbook.experiments import which_method as of
    from mtlbook.ledger.results import Result
    from mtlbook.tasks import Task

    inputs, targets = waves(60, 4), waves(60, 3, phase=1)
    torques = [Task(f"task {t}", inputs, targets[:, t, None], loss="mse") for t in range(3)]
    sets = {
        "T8-n5-c-1": None,
        "harmful-3": problems.with_harmful_task(domains((7,), each=16)),
        "sarcos-20": task_set("made-up torques", torques),
        "school-20": task_set("made-up scores", torques),
        "school-20-strong": task_set("made-up scores", torques),
    }
    of_school = {"school-20": ("stl", "pooled", "mtrl"), "school-20-strong": ("fixed", "mrn-t")}
    found: dict[str, Any] = {}
    for problem, tasks in sets.items():
        study = of.study_of(problem, tasks, trials=1, splits=1, steps=5, update_every=2)
        for arm in set(of.GROUPS["trace-norms"]) - {"dmtl-tf"}:  # a number, whatever the range is
            row = study.arms[arm]
            at = [row.configurations[0] | {"gamma": 0.00019}]
            study.arms[arm] = replace(row, configurations=at)
        parts, result = study.split(tasks, 0, study.protocol), Result("golden", {})
        found[f"{problem}, split"] = of_split(parts)
        arms = [arm for arm in of_school.get(problem, of.ARMS) if arm in study.arms]
        of.run(study, result, tasks, arms=arms, repeats=[0], device="cpu")
        result.records = [r for r in result.records if not r["metric"].startswith("seconds")]
        found[problem] = of_result(result)
    return found


def srdml_linear() -> dict[str, Any]:
    from mtlbook.experiments import school
    from mtlbook.experiments import srdml_linear as study
    from mtlbook.ledger.results import Result

    result = Result("golden", {})
    poster = waves(12, 12)
    study.synthetic(result, repeats=2, tuning_repeats=1, poster=poster + poster.mT, shorten=20)
    found = Result("golden", {})
    school.compare(found, schools(), repeats=2, protocol=school.Protocol(steps=20))
    return {"synthetic": of_result(result), "school": of_result(found)}


def mtal() -> dict[str, Any]:
    from mtlbook.experiments import mtal as of
    from mtlbook.experiments import mtal_search
    from mtlbook.ledger.results import Result

    tasks = heterogeneous()
    table = of.TABLE.at(train=4, validation=2, test=3, steps=2, batch_size=4, channels=(3, 4))
    parts = table.split(tasks, 0, table.protocol)
    found: dict[str, Any] = {"split": of_split(parts)}
    assemble = of.assemble
    of.assemble = lambda names: task_set("pretraining", [classes("p", (1, 8, 8), 2, 10)])
    try:
        values = {name: row.grid[1] for name, row in of.ARMS.items() if row.grid}
        # the warm-up of four steps' half, in a training of two
        arms = of.variants() | {"warm-up": of.sharing(of.DEFAULT_RHO, warmup=1.0)["mtal"]}
        arms |= of.arms_at(of.ARMS, values)
        found |= trained(replace(table, arms=arms), parts, dict.fromkeys(arms))
        for init in of.COMMON:
            one = {f"one-trunk, {init}": replace(of.ARMS["one-trunk"], value=0.02, like=None)}
            study = replace(table.at(init=init), arms=one)
            found |= trained(study, parts, dict.fromkeys(one))
        result = Result("golden", {})
        of.compare(result, tasks, study=table, arms=arms, repeats=[0], device="cpu")
        found["table"] = of_result(result)
        tuning = Result("golden", {})
        of.tune(tuning, tasks, study=table, arms=("stl", "mtal"), device="cpu")
        found["tuning"] = of_result(tuning)
        searched = Result("golden", {})
        mtal_search.search(searched, tasks, study=table.at(steps=1), samples=4, device="cpu")
        found["search"] = of_result(searched) | {"best": mtal_search.best_of(searched)}
        from mtlbook.experiments import mtal_fair as fair

        study = fair.STUDY.at(**vars(table.protocol))
        found["fair"] = trained(study, parts, dict.fromkeys(fair.ARMS, 3))
        found["fair configurations"] = {a: list(fair.ARMS[a].configurations) for a in fair.ARMS}
    finally:
        of.assemble = assemble
        of.pretrained.cache_clear()
    return found


def statistics() -> dict[str, Any]:
    from mtlbook.ledger import statistics as of

    found = {}
    for n in (2, 3, 5, 8, 10, 30):
        values = waves(n, phase=n).numpy()
        found[f"n={n}"] = [list(f(values)) for f in (of.mean_interval, of.prediction_interval)]
    x, y = waves(12).round(decimals=1).numpy(), waves(12, phase=2).numpy()
    found["spearman"] = [of.spearman(x, y), of.spearman(x, -x)]
    found["two ways"] = list(of.two_way_interval(waves(4, 3).numpy()))
    found["power"] = [of.detectable(1.5, 7), of.repeats_needed(1.5, 0.4)]
    found["percentile"] = list(of.percentile_interval(waves(4).numpy(), resamples=50))
    found["p"] = [of.p_value(waves(6).numpy() + 0.3), *of.holm([0.01, 0.04, 0.03])]
    return found


def mathematics() -> dict[str, Any]:
    """What chapters and tests use beside the experiments: functions, and switches of methods."""
    return {"functions": functions(), "switches": switches()}


def functions() -> dict[str, Any]:
    from mtlbook import kernels, norms, priors, relations, saliency, tensors
    from mtlbook.backbones import mlp

    w, m = waves(4, 3, 5), waves(6, 4)
    spd = [waves(d, d) @ waves(d, d).mT + torch.eye(d) for d in (4, 3, 5)]
    found: dict[str, Any] = {}
    ragged = tensors.Ragged.stack([waves(2, 3), waves(4, 3)])
    found["tensors"] = [
        tensors.unfold(w, 1),
        tensors.fold(tensors.unfold(w, -1), -1, w.shape),
        tensors.mode_product(w, waves(2, 3), 1),
        ragged.mask.int(),
        [x.shape for x in ragged],
    ]
    found["norms"] = [
        [norms.trace_norm(m, method=method) for method in ("auto", "gram", "svd")],
        [norms.tensor_trace_norms(w, kind) for kind in ("laf", "tucker", "tt")],
        norms.uncoupled_norm(w),
        norms.alignment(w),
        norms.singular_value_threshold(m, 0.5),
        norms.tensorflow_order(waves(2, 3, 4, 4, 2)).flatten(),
    ]
    for method in ("gram", "svd"):
        x = m.clone().requires_grad_()
        norms.trace_norm(x, method=method).backward()
        found[f"sub-gradient by {method}"] = x.grad
    normal = priors.TensorNormal(w, spd)
    other = priors.TensorNormal(w + 0.1, [c + torch.eye(len(c)) for c in spd])
    matrix = priors.MatrixNormal(waves(4, 3), spd[0], spd[1])
    torch.manual_seed(0)
    found["normal"] = [
        normal.log_prob(w + waves(2, 4, 3, 5)),
        normal.rsample((2,)),
        normal.entropy(),
        normal.mean,
        normal.variance,
        torch.distributions.kl_divergence(normal, other),
        matrix.log_prob(waves(2, 4, 3)),
        matrix.expand((2,)).entropy(),
    ]
    samples = waves(3, 4, 3, 5)
    low = priors.decompose(spd[0]).scale(2.0)
    thin = priors.LowRankPlusDiagonal(
        torch.eye(9)[:, :2], waves(2).abs() + 1, torch.tensor(0.3, dtype=torch.float64)
    )
    found["covariances"] = [
        low.dense(),
        low.solve(waves(4, 2)),
        low.root_solve(waves(4, 2)),
        low.logdet(),
        low.trace(),
        thin.dense(),
        thin.solve(waves(9, 2)),
        thin.logdet(),
        priors.quadratic_form(w, spd),
        priors.apply_precisions(w, [None, spd[1], None]),
        priors.log_determinant_term(w.shape, spd),
        priors.sqrt_relation(waves(6, 4)),
    ]
    for scale in ("trace", "none"):
        for eps in (1e-6, 0.2):
            covariances = priors.flip_flop(
                samples, [None] * 3, eps=eps, relative=eps > 0.1, sweeps=2, scale=scale
            )
            found[f"flip-flop, {scale}, {eps}"] = [c.dense() if hasattr(c, "dense") else c
                                                   for c in covariances]  # fmt: skip
    wide = priors.mode_covariance(waves(40, 2, 3), [None] * 3, 0, eps=0.1, relative=False)
    found["wide mode"] = [wide.solve(torch.eye(40, dtype=torch.float64)[:, :3]), wide.logdet()]
    bank, owner = waves(7, 2, 3, 3), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    found["kernels"] = [
        kernels.cosine_similarity(bank),
        kernels.pearson_similarity(bank),
        kernels.gaussian_similarity(bank),
        kernels.gaussian_similarity(bank, sigma=2.0),
        kernels.aggregate(bank, 0.1),
        kernels.aggregate(bank, 0.1, owner, cross_task_only=True),
        kernels.pair_weights(bank, 0.0, owner, True, pairs="mutual-best"),
        kernels.pair_weights(bank, 0.0, logits=waves(7, 7)),
        [
            kernels.pair_share(kernels.cosine_similarity(bank), 0.1, owner, which)
            for which in ("all", "within", "across")
        ],
        [kernels.chance_density(torch.tensor(0.3), d) for d in (2, 3, 9)],
        [kernels.chance_tail(torch.tensor(0.3), d) for d in (2, 3, 9)],
        [kernels.chance_threshold(d, 0.01) for d in (3, 9)],
    ]
    relation = relations.Relation(spd[0], "covariance")
    found["relations"] = [
        relation.normalised().matrix,
        relation.off_diagonal(),
        relation.compare(relations.cosine_relation(waves(4, 6))),
        relations.cosine_relation(waves(4, 6)).matrix,
    ]
    heads = [mlp(6, [2], seed=t, hidden=(4,)) for t in range(3)]
    heads = [lambda x, n=n: n([x.flatten(1)])[0] for n in heads]
    features = waves(5, 6)
    for scalar in (None, "sum", "max"):
        for reduction in ("none", "sum"):
            name = f"saliency, {scalar}, {reduction}"
            shaped = features.unflatten(1, (2, 3, 1)) if reduction == "sum" else features
            try:
                found[name] = saliency.task_saliency(
                    heads, shaped, scalar=scalar, reduction=reduction
                )
            except ValueError:
                found[name] = "refused"
    maps = waves(3, 5, 6)
    found["distances"] = [saliency.pairwise_distances(maps, p) for p in (1, 2, "cosine")]
    return found


def switches() -> dict[str, Any]:
    from functools import partial

    from mtlbook import methods, training
    from mtlbook.backbones import TaskHeads, convnet, kernel_networks, mlp

    flat, shared = domains((6,), each=3), one_vs_all((1, 6, 6), each=2).subset([0, 1, 2])
    pictures = alphabets()

    def dense():
        return mlp(6, flat.outputs, seed=0, hidden=(5,), names=("fc7", "fc8"))

    def trunk():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.ReLU())

    heads = partial(TaskHeads, 3 * 36, shared.outputs, hidden=(4,), seed=0)
    tanh = partial(heads, activation=torch.nn.Tanh)
    srdml = partial(methods.SRDML, weight=0.1)
    others = heterogeneous()
    nets = kernel_networks(
        [t.inputs.shape[1:] for t in others], others.outputs, seed=0, channels=(3, 4)
    )
    every = {"update_every": 1, "weight": 0.1}
    rows: dict[str, Callable] = {}
    for name, options in {
        "proximal": {"proximal": 0.2},
        "scale none": {"scale": "none"},
        "simultaneous": {"order": "simultaneous"},
        "not halved": {"half": False, "divide": False},
        "absolute": {"relative": False, "eps": {"task": 0.3}},
        "once": {"max_updates": 1},
        "released, all": {
            "as_released": True,
            "learn": ("feature", "class", "task"),
            "layers": ("fc7", "fc8"),
            "update_every": 2,
        },
    }.items():
        rows[f"MRN, {name}"] = lambda o=options: methods.MRN(dense(), **every | o)
    for feature in ("identity", "diagonal", "full"):
        rows[f"DRN, {feature}"] = lambda f=feature: methods.DRN(
            dense(), feature_covariance=f, **every
        )
    rows["DMTL-TF"] = lambda: methods.DMTLTF(dense(), tolerance=0.4)
    rows["TNRDMTL, uncoupled, mean"] = lambda: methods.TNRDMTL(
        dense(), kind="uncoupled", reduction="mean"
    )
    rows["cross-stitch"] = lambda: methods.CrossStitch(
        mlp(6, flat.outputs, seed=0, hidden=(5, 4)), own=0.8
    )
    of_flat = dict(rows)
    of_shared = {
        f"SRDML, {name}": lambda o=options, h=h: srdml(trunk(), h(), **o)
        for name, options, h in (
            ("plain", {}, heads),
            ("by autograd", {}, tanh),
            ("squared", {"distance": 2, "reduction": "sum"}, tanh),
            ("cosine", {"distance": "cosine", "spatial": "none"}, heads),
            ("projected", {"omega": "projected", "beta": 2.0}, heads),
            ("warm-up", {"warmup": 1, "spatial": "mean"}, heads),
            ("mgda", {"balancing": "mgda"}, heads),
        )
    }
    of_shared["PLE, two levels"] = lambda: methods.PLE(
        trunk(), 3 * 36, shared.outputs, width=4, levels=2, seed=0
    )
    of_shared["MGDA"] = lambda: methods.Balanced(methods.SharedTrunk(trunk(), heads()), "mgda")
    of_others = {
        f"MTAL, {name}": lambda o=options: methods.MTAL(deepcopy(nets), 0.1, **o)
        for name, options in (
            ("through similarities", {"detach": False}),
            ("mutual best", {"pairs": "mutual-best"}),
            ("learned", {"weights": "learned"}),
            ("slices, across", {"unit": "slice", "pairs": "cross-task", "like": "all"}),
            ("every second step", {"update_every": 2, "warmup": 1}),
        )
    }
    of_others["cross-stitch"] = lambda: methods.CrossStitch(deepcopy(nets), own=0.8)
    of_pictures = {
        f"TNRDMTL, {kind}": lambda k=kind: methods.TNRDMTL(
            convnet((1, 26, 26), pictures.outputs, seed=0), kind=k, gamma=0.1
        )
        for kind in ("tucker", "tt")
    }
    sets = ((flat, of_flat), (shared, of_shared), (others, of_others), (pictures, of_pictures))
    found = {}
    for tasks, rows in sets:
        for name, make in rows.items():
            method = make()
            history = training.fit(method, tasks, steps=3, batch_size=4, device="cpu")
            found[name] = [trajectory(method, history), training.evaluate(method, tasks).loss]
    return found


def datasets() -> dict[str, Any]:
    """What loaders and feature extractors make of made-up files; float32, as they do."""
    import tempfile

    import made_up_data

    from mtlbook.experiments import srdml as of

    pictures = one_vs_all((3, 16, 16), each=1)
    pictures = pictures.map_inputs(lambda x: (2 * x + 0.5).clamp(0, 1).float())
    torch.set_default_dtype(torch.float32)
    maps = of.feature_maps(pictures, size=32)[0].inputs
    found = {"shape": list(maps.shape), "maps": (maps / maps.std()).flatten()[::97]}
    with tempfile.TemporaryDirectory() as folder:
        sets = made_up_data.task_sets(Path(folder))
    # glyphs are drawn by Pillow, whose versions differ
    prints = {name: tasks.fingerprint() for name, tasks in sets.items() if "glyphs" not in name}
    return found | {"fingerprints": prints, "features": made_up_data.features()}


STUDIES: dict[str, Callable[[], dict[str, Any]]] = {
    "tnrdmtl": tnrdmtl,
    "domains": domains_study,
    "mrn": mrn,
    "mrn_linear": mrn_linear,
    "mrn_images": mrn_images,
    "srdml": srdml,
    "srdml_linear": srdml_linear,
    "which_method": which_method,
    "mtal": mtal,
    "mathematics": mathematics,
    "statistics": statistics,
    "datasets": datasets,
}


def measure(study: str) -> dict[str, Any]:
    """The numbers of one study, with one thread and in float64."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        return plain(STUDIES[study]())
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


# Stored values


def stored(study: str) -> dict[str, Any]:
    """What ``data/golden/<study>.json`` holds: ``{"numerics": version, "values": ...}``."""
    return json.loads((GOLDEN / f"{study}.json").read_text(encoding="utf-8"))


def check(study: str, old: dict[str, Any] | None, new: Any, version: int) -> list[str]:
    """What forbids that ``new``, measured by the code of this version, takes the place of ``old``.

    Empty if nothing has changed under the same version, or if something has under a higher one.
    """
    if old is None:
        return []
    changed = differences(old["values"], new, TOLERANCES.get(study, TOLERANCE))
    if version == old["numerics"]:
        return changed
    if version < old["numerics"]:
        return [f"numerics: expected version {old['numerics']} or above, got {version}"]
    if changed:
        return []
    return [f"numerics: version {version} against {old['numerics']}, but no value has changed"]


def write(study: str, values: Any, version: int) -> None:
    """Store the values of a study, one line an entry of the uppermost two levels."""
    from mtlbook.ledger.results import write_atomically

    entries = []
    for key, value in values.items():
        entries.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    text = f'{{\n "numerics": {version},\n "values": {{\n' + ",\n".join(entries) + "\n }\n}\n"
    GOLDEN.mkdir(exist_ok=True)
    write_atomically(GOLDEN / f"{study}.json", text)


def main(arguments: list[str] | None = None) -> int:
    """Compare, or record; 1 if something has changed that must not, or the other way round."""
    from mtlbook.numerics import NUMERICS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--write", action="store_true", help="record, in place of compare")
    options = parser.parse_args(arguments)
    failed = False
    for study in options.studies or STUDIES:
        started = time.process_time()
        values, version = measure(study), NUMERICS[study]
        seconds = time.process_time() - started
        there = (GOLDEN / f"{study}.json").is_file()
        found = check(study, stored(study) if there else None, values, version)
        for line in found[:20]:
            print(f"{study}: {line}")
        failed |= bool(found)
        if options.write and not found:
            write(study, values, version)
        print(f"{study}: version {version}, {len(list(leaves(values)))} values, {seconds:.1f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
