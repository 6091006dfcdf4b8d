"""Fit and evaluate any method: ``fit`` never sees test data, ``evaluate`` alone reads it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlbook.methods.base import Method
from mtlbook.tasks import TaskSet
from mtlbook.tensors import Ragged

OptimizerFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"``: CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


class TaskLoss:
    """Mean loss of each task, shape ``(T,)``, in one pass where the outputs are one tensor.

    Parameters
    ----------
    tasks : TaskSet
        Whose kinds of loss and widths of output count; its data are not kept.
    device : torch.device

    Notes
    -----
    Cross-entropy and squared error are means over a task's samples (and outputs), so that a task
    counts the same whatever its size: the ``1/N_t`` of TNRDMTL's objective.
    """

    def __init__(self, tasks: TaskSet, device: torch.device | str = "cpu"):
        self.kinds = [task.loss for task in tasks]
        widths = torch.tensor(tasks.outputs)
        # (T, 1, width): which outputs are the task's own and which are padding
        columns = torch.arange(int(widths.max()))
        self.valid = (columns[None, :] < widths[:, None])[:, None, :].to(device)
        self.widths = widths.to(device)

    def __call__(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        one_tensor = isinstance(outputs, Ragged) and isinstance(targets, Ragged)
        if not (one_tensor and len(set(self.kinds)) == 1):
            return torch.stack(
                [
                    _pointwise(kind, out[:, None], _own(out, y)[:, None]).mean()
                    for kind, out, y in zip(self.kinds, outputs, targets, strict=True)
                ]
            )
        out, y = outputs.padded, targets.padded
        kind = self.kinds[0]
        if kind == "cross_entropy":
            each = _pointwise(kind, out.masked_fill(~self.valid, -torch.inf), y)  # (T, B)
        else:
            each = (_pointwise(kind, out, y) * self.valid).sum(-1) / self.widths[:, None]
        if targets.lengths is None:
            return each.mean(1)
        return (each * targets.mask).sum(1) / targets.mask.sum(1)


def _own(outputs: Tensor, targets: Tensor) -> Tensor:
    """The targets without what :func:`padded_targets` has added."""
    return targets[..., : outputs.shape[-1]] if targets.ndim == outputs.ndim else targets


def _pointwise(kind: str, outputs: Tensor, targets: Tensor) -> Tensor:
    if kind == "cross_entropy":
        return F.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")
    if kind == "mse":
        return F.mse_loss(outputs, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


class Batches:
    """Mini-batches of T tasks: every task goes through its own samples in its own random order.

    Parameters
    ----------
    tasks : TaskSet
    batch_size : int, optional
        Samples of each task a step; None: all of them.
    steps, seed : int
    device : torch.device

    Notes
    -----
    The orders of all steps are drawn beforehand on the CPU, so that they are the same on every
    device. Tasks of one input shape are one padded tensor, and a batch is one gather; tasks of
    different shapes give a plain list. Tasks that share their inputs go through them in one common
    order, and the batch is one tensor, T times in a list: a method may look once.
    """

    def __init__(
        self,
        tasks: TaskSet,
        *,
        batch_size: int | None,
        steps: int,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.inputs = inputs_together(tasks.to(device))
        self.shared = tasks.shared_inputs
        self.targets = together([padded_targets(task, tasks).to(device) for task in tasks])
        self.orders = None
        if batch_size is not None:
            generator = torch.Generator().manual_seed(seed)
            orders = [
                _endless_order(len(task), steps * batch_size, generator).view(steps, batch_size)
                for task in (tasks[:1] if self.shared else tasks)
            ]
            orders = torch.stack(orders, 1).to(device)
            self.orders = orders.expand(-1, len(tasks), -1)  # (steps, T, B)

    def __getitem__(self, step: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        if self.orders is None:
            return self.inputs, self.targets
        order = self.orders[step]
        targets = _take(self.targets, order)
        if self.shared:
            return [self.inputs[0][order[0]]] * len(self.inputs), targets
        return _take(self.inputs, order), targets


def together(tensors: list[Tensor]) -> Ragged | list[Tensor]:
    """One padded tensor where the shapes of a sample agree, else the list itself."""
    return Ragged.stack(tensors) if len({x.shape[1:] for x in tensors}) == 1 else tensors


def inputs_together(tasks: TaskSet) -> Sequence[Tensor]:
    """:func:`together` of the inputs; if tasks share them, one tensor, T times in a list."""
    if tasks.shared_inputs:
        return [tasks[0].inputs] * len(tasks)
    return together([task.inputs for task in tasks])


def padded_targets(task, tasks: TaskSet) -> Tensor:
    """Targets of a regression task padded to the widest of the set; class numbers as they are."""
    if task.targets.ndim == 1:
        return task.targets
    return F.pad(task.targets, (0, max(tasks.outputs) - task.targets.shape[1]))


def _endless_order(n: int, length: int, generator: torch.Generator) -> Tensor:
    rounds = -(-length // n)
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(rounds)])[:length]


def _take(samples: Ragged | list[Tensor], order: Tensor) -> Sequence[Tensor]:
    if isinstance(samples, Ragged):
        tasks = torch.arange(len(samples), device=order.device)[:, None]
        return Ragged(samples.padded[tasks, order])
    return [x[i] for x, i in zip(samples, order, strict=True)]


def step(
    method: Method,
    loss: TaskLoss,
    optimizer: torch.optim.Optimizer,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """One step of gradient descent on sum of task losses + penalty; never waits for the device.

    Returns
    -------
    losses : Tensor, shape ``(T,)``
    penalty : Tensor, scalar
    """
    optimizer.zero_grad(set_to_none=True)
    losses = loss(method(inputs), targets)
    penalty = method.penalty()
    method.backward(losses, penalty)
    optimizer.step()
    return losses.detach(), penalty.detach()


@dataclass
class History:
    """What happened during :func:`fit`.

    Attributes
    ----------
    loss : Tensor, shape ``(steps, T)``
        Mini-batch loss of each task before each step.
    penalty : Tensor, shape ``(steps,)``
    probes : list of dict
        ``{"step": int, **probe(method)}`` for every probed step.
    """

    loss: Tensor
    penalty: Tensor
    probes: list[dict] = field(default_factory=list)


def fit(
    method: Method,
    train: TaskSet,
    validation: TaskSet | None = None,
    *,
    steps: int,
    batch_size: int | None = None,
    optimizer: OptimizerFactory = sgd,
    seed: int = 0,
    device: str | torch.device = "auto",
    probe: Callable[[Method], dict] | None = None,
    probe_at: Iterable[int] = (),
) -> History:
    """Train a method: gradient steps on the sum of task losses plus its penalty.

    Parameters
    ----------
    method : Method
    train : TaskSet
    validation : TaskSet, optional
        Scored (accuracy, or negative error) at every probed step; training never depends on it.
    steps : int
    batch_size : int, optional
        Samples of each task a step; None for full batches.
    optimizer : callable
        From parameters to an optimiser, e.g. ``partial(torch.optim.Adam, lr=1e-2)``.
    seed : int
        Of the order of the samples.
    device : "auto" or a torch device
    probe : callable, optional
        ``probe(method) -> dict`` of numbers to keep.
    probe_at : iterable of int
        Numbers of completed steps after which to probe; 0 is before training.

    Returns
    -------
    History
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if not all(len(task) for task in train):
        empty = [task.name for task in train if not len(task)]
        raise ValueError(f"train: expected samples in every task, got none in {empty}")
    device = pick_device(device)
    method.to(device).train()
    if method.solve(train.to(device)):
        return History(torch.empty(0, len(train)), torch.empty(0))
    if len(method.tasks) != len(train):
        raise ValueError(f"train: expected {len(method.tasks)} tasks, got {len(train)}")
    batches = Batches(train, batch_size=batch_size, steps=steps, seed=seed, device=device)
    loss = TaskLoss(train, device)
    optim = optimizer(method.parameters())
    losses = torch.empty(steps, len(train), device=device)
    penalties = torch.empty(steps, device=device)
    history, probe_at = History(losses, penalties), set(probe_at)
    report = _Progress(steps)

    def look(done: int) -> None:
        if done in probe_at:
            seen = {"step": done} | (probe(method) if probe else {})
            if validation is not None:
                seen["validation"] = evaluate(method, validation).mean
            history.probes.append(seen)

    look(0)
    for i in range(steps):
        try:
            losses[i], penalties[i] = step(method, loss, optim, *batches[i])
            if (i + 1) % method.update_every == 0:
                method.update()
        except torch.linalg.LinAlgError as error:  # decompositions refuse weights that are NaN
            raise _diverged(i + 1, "weights that LAPACK refuses") from error
        look(i + 1)
        report(i + 1)
    history.loss, history.penalty = losses.cpu(), penalties.cpu()
    if not bool(history.loss[-1].isfinite().all()):
        raise _diverged(steps, f"{history.loss[-1].mean():g}")
    return history


def _diverged(steps: int, found: str) -> FloatingPointError:
    return FloatingPointError(
        f"loss: expected finite values, got {found} at step {steps}; "
        "a smaller step size or a weaker penalty may help"
    )


@dataclass(frozen=True)
class Scores:
    """Scores of T tasks.

    Attributes
    ----------
    per_task : list of T float
        Accuracy in percent, or for regression the root mean squared error.
    loss : list of T float
        Mean loss.
    metric : str
    """

    per_task: list[float]
    loss: list[float]
    metric: str

    @property
    def mean(self) -> float:
        """Mean over tasks, each counting the same."""
        return sum(self.per_task) / len(self.per_task)

    @property
    def mean_loss(self) -> float:
        return sum(self.loss) / len(self.loss)


@torch.no_grad()
def predict(method: Method, tasks: TaskSet, *, chunk: int = 64) -> list[Tensor]:
    """The method's outputs on all samples.

    Parameters
    ----------
    method : Method
    tasks : TaskSet
        On any device; none of its targets is read.
    chunk : int
        Samples of each task at a time (bounds the memory).

    Returns
    -------
    list of T Tensor, shape ``(n_t, outputs of task t)``
        On the method's device.
    """
    device, was_training = next(method.parameters()).device, method.training
    method.eval()
    sizes = [len(task) for task in tasks]
    if not all(sizes):
        raise ValueError(f"test: expected samples in every task, got {sizes}")
    outputs: list[list[Tensor]] = [[] for _ in sizes]
    for start in range(0, max(sizes), chunk):
        # a task that has run out of samples goes on with its last one, which is dropped
        rows = {
            n: torch.arange(start, min(start + chunk, max(sizes))).clamp(max=n - 1) for n in sizes
        }
        part = tasks.select([rows[n] for n in sizes]).to(device)
        for t, out in enumerate(method(inputs_together(part))):
            outputs[t].append(out[: max(0, sizes[t] - start)])
    method.train(was_training)
    return [torch.cat(parts) for parts in outputs]


@torch.no_grad()
def evaluate(method: Method, test: TaskSet, *, chunk: int = 64) -> Scores:
    """Score a method on every task of a set.

    Parameters
    ----------
    method : Method
    test : TaskSet
    chunk : int
        Samples of each task at a time (bounds the memory).
    """
    kinds = {task.loss for task in test}
    if len(kinds) != 1:
        raise ValueError(f"test: expected tasks of one kind of loss to score, got {kinds}")
    scores, losses = [], []
    for task, out in zip(test, predict(method, test, chunk=chunk), strict=True):
        targets = task.targets.to(out.device)
        losses.append(_pointwise(task.loss, out[:, None], targets[:, None]).mean())
        scores.append(_score(task.loss, out, targets).mean())
    per_task = torch.stack(scores)
    metric = "rmse" if kinds == {"mse"} else "accuracy_percent"
    per_task = per_task.sqrt() if metric == "rmse" else 100 * per_task
    return Scores(per_task.tolist(), torch.stack(losses).tolist(), metric)


def _score(kind: str, outputs: Tensor, targets: Tensor) -> Tensor:
    if kind == "cross_entropy":
        return (outputs.argmax(-1) == targets).float()
    if kind == "mse":
        return (outputs - targets).square().mean(-1)
    return ((outputs > 0) == (targets > 0.5)).float().mean(-1)


class _Progress:
    """Tells whoever waits how far the run is: a small file named by MTLBOOK_PROGRESS."""

    def __init__(self, steps: int):
        self.path = os.environ.get("MTLBOOK_PROGRESS")
        self.steps, self.last = steps, 0.0

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self.path and (now - self.last > 1 or done == self.steps):
            self.last = now
            part = Path(f"{self.path}.part")
            part.write_text(json.dumps({"step": done, "steps": self.steps}))
            part.replace(self.path)
