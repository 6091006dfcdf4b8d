"""Fit and evaluate any method: ``fit`` never sees test data, ``evaluate`` alone reads it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlbook.batches import Batches, together
from mtlbook.methods.base import Method
from mtlbook.progress import Progress
from mtlbook.tasks import Task, TaskSet
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
        Of the order of the samples, and of dropout.
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
    _check_inputs(train)
    method.to(device).train()
    if method.solve(train.to(device)):
        return History(torch.empty(0, len(train)), torch.empty(0))
    if len(method.tasks) != len(train):
        raise ValueError(f"train: expected {len(method.tasks)} tasks, got {len(train)}")
    batches = Batches(train, batch_size=batch_size, steps=steps, seed=seed, device=device)
    loss = TaskLoss(train, device)
    validation = None if validation is None else validation.to(device)  # once, not at every probe
    optim = optimizer(method.parameters())
    losses = torch.empty(steps, len(train), device=device)
    penalties = torch.empty(steps, device=device)
    history, probe_at = History(losses, penalties), set(probe_at)
    report = Progress(steps)

    def look(done: int) -> None:
        if done in probe_at:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                seen = {"step": done} | (probe(method) if probe else {})
                if validation is not None:
                    seen["validation"] = evaluate(method, validation).mean
            history.probes.append(seen)

    before = dict(method.named_buffers())
    finite = before.keys() - _not_finite(before).keys()
    with _seeded(seed, device):
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
    # the last step has no loss after it; where squares overflow, no norm is a number either
    if broken := _not_finite({name: x.square() for name, x in _learned(method, finite)}):
        raise _diverged(steps, f"weights that are not in {list(broken)}")
    return history


def _learned(method: Method, finite: Container[str]) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and the buffers that were finite before: a mask may hold minus infinity."""
    yield from method.named_parameters()
    yield from ((name, x) for name, x in method.named_buffers() if name in finite)


def _diverged(steps: int, found: str) -> FloatingPointError:
    return FloatingPointError(
        f"loss: expected finite values, got {found} at step {steps}; "
        "a smaller step size or a weaker penalty may help"
    )


def _not_finite(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """How many numbers of a tensor are NaN or infinite, where any is; waits for the device once."""
    if not tensors:
        return {}
    device = next(iter(tensors.values())).device  # counters of steps stay on the CPU
    counts = torch.stack([(~x.isfinite()).sum().to(device) for x in tensors.values()]).tolist()
    return {name: n for name, n in zip(tensors, counts, strict=True) if n}


def _check_inputs(train: TaskSet) -> None:
    tasks = train[:1] if train.shared_inputs else train.tasks
    if broken := _broken_tasks(tasks, [task.inputs for task in tasks]):
        raise ValueError(f"train: expected finite inputs, got some that are not, by task: {broken}")


def _broken_tasks(tasks: Sequence[Task], values: Sequence[Tensor]) -> dict[str, int]:
    """:func:`_not_finite` of a tensor per task; names of tasks may repeat, their numbers do not."""
    return _not_finite(
        {f"{t} ({task.name})": x for t, (task, x) in enumerate(zip(tasks, values, strict=True))}
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's global generators: seeded for a while, then as they were."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


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

    Raises
    ------
    FloatingPointError
        Where an output is not a finite number: it would still have a largest entry, and a score.
    """
    device, was_training = next(method.parameters()).device, method.training
    method.eval()
    sizes = [len(task) for task in tasks]
    if not all(sizes):
        raise ValueError(f"tasks: expected samples in every task, got {sizes}")
    outputs: list[list[Tensor]] = [[] for _ in sizes]
    for start in range(0, max(sizes), chunk):
        stop = min(start + chunk, max(sizes))
        if tasks.shared_inputs:
            part = [tasks[0].inputs[start:stop].to(device)] * len(tasks)
        else:
            part = together([_rows(task.inputs, start, stop).to(device) for task in tasks])
        for t, out in enumerate(method(part)):
            outputs[t].append(out[: max(0, sizes[t] - start)])
    method.train(was_training)
    found = [torch.cat(parts) for parts in outputs]
    _refuse("outputs", found, tasks)
    return found


def _rows(inputs: Tensor, start: int, stop: int) -> Tensor:
    """A slice, a view; a task that has run out goes on with its last sample, which is dropped."""
    rows = inputs[start:stop]
    missing = stop - start - len(rows)
    return torch.cat([rows, *[inputs[-1:]] * missing]) if missing else rows


def _refuse(what: str, values: Sequence[Tensor], tasks: TaskSet) -> None:
    """Nothing that is not a number becomes a score."""
    if broken := _broken_tasks(tasks, values):
        raise FloatingPointError(
            f"{what}: expected finite numbers, got some that are not, by task: {broken}; "
            "did the training diverge, or are there such inputs?"
        )


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
    _refuse("loss", losses, test)
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
