"""What a study would cost, counted without numbers: one step of every arm on fake tensors.

A fake tensor has a shape and no content, so that networks of any size are built, run forward and
backward, and updated on any machine. Operations are counted by ``torch.utils.flop_counter``, and
memory is what the weights, their gradients, the optimiser and the activations kept for the backward
pass take. A time follows from them by a throughput, which is an assumption and is stated beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils.flop_counter import FlopCounterMode

from mtlbook import layers
from mtlbook.datasets.registry import entry
from mtlbook.experiments import mrn, mrn_images, srdml
from mtlbook.methods import Method, balancing
from mtlbook.methods import mrn as tensor_normal
from mtlbook.study import Study
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import TaskLoss, step

GPU = 1e13  # operations a second in float32 that a large GPU is assumed to sustain
#: An eigendecomposition of n x n takes about 9 n^3 operations, and is assumed to run at a twentieth
#: of the speed of matrix products.
EIGH = 9 * 20
#: Cholesky factors, their inverses and triangular systems are assumed to run at a quarter of it.
TRIANGULAR = 4
SAMPLES = {  # of all tasks, and tasks, where data/datasets.yaml does not say
    "office_caltech10": (2533, 4),
    "office_caltech10_efflite0": (2533, 4),
    "imageclef_da": (2400, 4),
    "cifar_mtl": (12_000, 10),
}


@dataclass(frozen=True)
class Step:
    """One step of an arm.

    Attributes
    ----------
    operations, update, forward : float
        Of a step of training, of the method's own update (of covariances, say), and of a forward
        pass on one sample of every task.
    update_every : int
    memory : int
        Bytes.
    solved : bool
        It learns by iterations of its own, which are not counted: convex models, seconds each.
    """

    operations: float = 0.0
    update: float = 0.0
    forward: float = 0.0
    update_every: int = 1
    memory: int = 0
    solved: bool = False


@dataclass(frozen=True)
class Cost:
    """Of all trainings of a run, or of several."""

    operations: float = 0.0
    memory: int = 0
    trainings: int = 0

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(
            self.operations + other.operations,
            max(self.memory, other.memory),
            self.trainings + other.trainings,
        )


def shapes(
    data: str, shape: Sequence[int], classes: int, length: int, *, tasks: int = 4
) -> TaskSet:
    """Tasks of a shape, ``length`` samples each, in one number's worth of memory.

    Those of CIFAR-MTL ask on the same images.
    """
    common = torch.zeros(1).expand(length, *shape)
    if data == "cifar_mtl":
        targets = torch.zeros(1).expand(length, 1)
        of = [Task(f"task {t}", common, targets, loss="bce") for t in range(tasks)]
    else:
        targets = torch.arange(length) % classes
        of = [Task(f"task {t}", common[:], targets, classes=classes) for t in range(tasks)]
    return TaskSet(data, of)


def of_step(study: Study, arm: str, tasks: TaskSet) -> Step:
    """Build an arm without numbers, and take one step.

    An arm whose shapes depend on numbers (the ranks of DMTL-TF) counts as the one it starts from.
    """
    row = study.arms[arm]
    value = next(iter(row.values), row.value)
    loss = TaskLoss(tasks)
    with _without_numbers():
        start = None
        if row.start:
            first = study.arms[row.start]
            at = first.values[0] if first.values else first.value
            start = first.build(study.trial(row.start, tasks, 0, at))
        trial = study.trial(arm, tasks, 0, value, start)
        options = study.training(trial)
        try:
            method = row.build(trial).train()
            if type(method).solve is not Method.solve:
                return Step(solved=True)
            return _step(method, loss, tasks, options)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if not row.start:
                raise
    return of_step(study, row.start, tasks)


def _eigh(shape: Sequence[int], *_: Any, **__: Any) -> int:
    return EIGH * shape[:-2].numel() * shape[-1] ** 3


def _cholesky(shape: Sequence[int], *_: Any, **__: Any) -> int:
    return TRIANGULAR * shape[:-2].numel() * shape[-1] ** 3 // 3


def _triangular(factor: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
    return TRIANGULAR * factor[-1] * right.numel()


def _counter() -> FlopCounterMode:
    aten = torch.ops.aten
    decompositions = {
        aten._linalg_eigh: _eigh,
        aten.linalg_cholesky_ex: _cholesky,
        aten.cholesky_inverse: lambda *shapes, **_: 2 * _cholesky(*shapes),
        aten.linalg_solve_triangular: _triangular,
    }
    return FlopCounterMode(display=False, custom_mapping=decompositions)


def _step(method: Method, loss: TaskLoss, tasks: TaskSet, options: Mapping[str, Any]) -> Step:
    size = min(options.get("batch_size") or len(tasks[0]), len(tasks[0]))
    batch = [torch.empty(size, *task.inputs.shape[1:]) for task in tasks]
    if tasks.shared_inputs:
        batch = [batch[0]] * len(tasks)
    targets = [torch.zeros(size, *t.targets.shape[1:], dtype=t.targets.dtype) for t in tasks]
    optimiser = options["optimizer"](list(method.parameters()))
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor
        return tensor

    with (
        _counter() as trained,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        step(method, loss, optimiser, batch, targets)
    with _counter() as updated:
        method.update()
    with _counter() as read, torch.no_grad():
        method(batch)
    weights = list(method.parameters())
    held = {id(p.untyped_storage()) for p in weights}
    state = [x for of in optimiser.state.values() for x in of.values() if isinstance(x, Tensor)]
    gradients = [p.grad for p in weights if p.grad is not None]
    activations = [x for key, x in kept.items() if key not in held]
    memory = sum(map(_bytes, [*weights, *gradients, *state, *method.buffers(), *activations]))
    return Step(
        operations=trained.get_total_flops(),
        update=updated.get_total_flops(),
        forward=read.get_total_flops() / size,
        update_every=method.update_every,
        memory=memory,
    )


_steps: dict[tuple, Step] = {}  # a step is the same at every percentage that fills a batch


def of_run(
    study: Study, arms: Sequence[str], tasks: TaskSet, *, repeats: int, samples: int
) -> Cost:
    """A run: arms tuned on the tuning splits, then trained and measured in every repeat.

    Parameters
    ----------
    study, arms
    tasks : TaskSet
        Shapes, with as many samples as a task has to train on.
    repeats : int
    samples : int
        Of a task, in all: what is read at the end, and on the way where the study watches.
    """
    total, splits = Cost(), len(study.tuning_splits)
    begun = {study.arms[arm].start for arm in arms} - {None} - set(arms)
    for arm in (*arms, *begun):
        row = study.arms[arm]
        trial = study.trial(arm, tasks, 0, next(iter(row.values), row.value), _start(row))
        options = study.training(trial)
        steps, size = options["steps"], min(options["batch_size"], len(tasks[0]))
        fields = {k: v for k, v in vars(study.protocol).items() if k not in ("percent", "steps")}
        key = (study.name, arm, size, str(tasks[0].inputs.shape[1:]), tasks.outputs[0], str(fields))
        one = _steps[key] = _steps.get(key) or of_step(study, arm, tasks)
        tried = splits * max(1, len(row.values))
        looks = repeats * (1 + len(study.watch(trial, {})["probe_at"] if study.watch else ()))
        trained = steps * one.operations + steps // one.update_every * one.update
        operations = (tried + repeats) * trained + looks * samples * one.forward
        # what depends on repeats and on tuning splits is held once
        total += Cost(operations, one.memory + _data(tasks, samples), tried + repeats)
    return total


def _start(row: Any) -> Any:
    """Whatever: a trial asks whether there is something to start from, and not what."""
    return object() if row.start else None


def _data(tasks: TaskSet, samples: int) -> int:
    sets = 1 if tasks.shared_inputs else len(tasks)
    return sets * samples * tasks[0].inputs[0].numel() * 4


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


@contextmanager
def _without_numbers() -> Iterator[None]:
    """Tensors without content; what looks at a number to check or to redraw it does not."""
    from torchvision import models

    random = models.vgg16

    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        for owner, name, other in (
            (layers, "truncated_normal_", lambda tensor, **_: tensor),
            (tensor_normal, "check_covariance", lambda *_: None),
            (models, "vgg16", lambda **_: random(weights=None)),
            (balancing.Weighting, "forward", lambda self, gramian: gramian.new_ones(len(gramian))),
        ):
            stack.enter_context(mock.patch.object(owner, name, other))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


# ---------------------------------------------------------------- from a run to its study


def _domains(parameters: Mapping[str, Any], data: str) -> tuple[int, int, int]:
    """Samples of a domain, those to train on, and classes."""
    raw = entry(entry(data).made_from or data)
    known = None not in (raw.counts or {"": None}).values()
    total, tasks = (
        (sum(raw.counts.values()), len(raw.counts))
        if known
        else SAMPLES[data if data in SAMPLES else raw.name]
    )
    samples = total // tasks
    return samples, max(1, samples * parameters["percent"] // 100), raw.classes or 10


def _table1(parameters: Mapping[str, Any]) -> Cost:
    samples, train, classes = _domains(parameters, parameters["data"])
    tasks = shapes(parameters["data"], (1280,), classes, train)
    study = mrn.table1(parameters["percent"], parameters["steps"])
    arms = mrn.GROUPS[parameters["group"]]
    return of_run(study, arms, tasks, repeats=parameters["repeats"], samples=samples)


def _images(parameters: Mapping[str, Any]) -> Cost:
    samples, train, classes = _domains(parameters, parameters["data"])
    width = {"alexnet": 9216, "vgg16": 25088}[parameters["backbone"]]
    tasks = shapes(parameters["data"], (width,), classes, train)
    names = ("backbone", "width", "steps", "update_every")
    study = mrn_images.table(
        parameters["percent"], weights="", **{name: parameters[name] for name in names}
    )
    arms = mrn_images.GROUPS[parameters["group"]]
    return of_run(study, arms, tasks, repeats=parameters["repeats"], samples=samples)


def _srdml(parameters: Mapping[str, Any]) -> Cost:
    samples, count = SAMPLES[parameters["data"]]
    tasks = shapes(parameters["data"], (3, 64, 64), 2, parameters["train"] * count, tasks=count)
    study = srdml.study(parameters)
    repeats = len(parameters["repeats"])
    return of_run(study, parameters["arms"], tasks, repeats=repeats, samples=samples)


#: Notebook -> what a run of it costs, from its parameters.
COUNTED: dict[str, Callable[[Mapping[str, Any]], Cost]] = {
    "mrn_table1.ipynb": _table1,
    "mrn_images.ipynb": _images,
    "srdml_table.ipynb": _srdml,
}
#: Those of them that need no GPU.
ON_CPU = ("mrn_table1.ipynb",)
