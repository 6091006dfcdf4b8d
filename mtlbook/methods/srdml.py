"""Saliency-regularised deep multi-task learning (Bai and Zhao, KDD 2022, arXiv 2207.01117)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mtlbook.methods.balancing import balanced_backward, weighting
from mtlbook.methods.trunk import SharedTrunk
from mtlbook.relations import Relation
from mtlbook.saliency import pairwise_distances, task_saliency
from mtlbook.tasks import TaskSet
from mtlbook.tensors import exact

KERAS_ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-7}


class SRDML(SharedTrunk):
    r"""A learned, weighted sum of the distances between the tasks' saliencies.

    OBJECTIVE   :math:`\sum_t \ell_t(f_t \circ h) + \lambda \sum_{i<j} \omega_{ij} \delta_{ij}` over
                h, f and :math:`\omega \ge 0,\ \sum_{i<j} \omega_{ij} \ge \beta`, with
                :math:`\delta_{ij} = \operatorname{dist}(\nabla_A f_i, \nabla_A f_j)` on the batch's
                features :math:`A = h(x)`

    Parameters
    ----------
    trunk, heads
        As in :class:`mtlbook.methods.SharedTrunk`.
    weight : float
        :math:`\lambda`; 0 is hard sharing.
    distance : 1 | 2 | "cosine"
        As in :func:`mtlbook.saliency.pairwise_distances`; the scripts use 1.
    omega : "simplex" | "projected"
        ``"simplex"``: :math:`\omega = \beta c / \sum c` with :math:`c \ge 0` free, as in the
        scripts. ``"projected"``: gradient steps on :math:`\omega` itself, projected onto
        :math:`\{\omega \ge 0, \sum \omega \ge \beta\}`.
    omega_step : float
        Step size of :math:`c` (or of :math:`\omega`), on the whole regulariser,
        :math:`\lambda` included. A hyper-parameter of consequence: see the chapter.
    beta : float
        :math:`\beta > 0`.
    warmup : int
        Steps without the regulariser, and without a step of omega.
    reduction : "mean" | "sum"
        Of the distances over the batch; the scripts sum, while they average the losses.
    spatial : "none" | "sum" | "mean"
        ``reduction`` of :func:`mtlbook.saliency.task_saliency`; the CIFAR script sums.
    scalar : None | "sum" | "max"
        Which number of a head of several outputs is differentiated.
    balancing : None | "mgda" | "mgda-ub" | "pcgrad" | "upgrad" | "mean"
        How the tasks' gradients in the trunk are combined; the regulariser's is added to that.
    seed : int
        Of the balancing.
    as_released : bool
        As the CIFAR script does it: distance 1, sums over space and batch, the simplex, and an
        Adam step of omega whose moments start afresh every time (``omega_step`` is then not used),
        so that its size hardly depends on the gradient. Overrides the other arguments.

    Notes
    -----
    In each step the weights' gradient holds omega, and omega's the distances, both of before the
    step. For the simplex :math:`\partial / \partial c_{ij} = \lambda \beta\, (\delta_{ij} -
    \sum \omega \delta / \beta) / \sum c`: pairs closer than the weighted average gain. The
    closest pair with :math:`c > 0` never loses, so :math:`\sum c` stays positive.

    References
    ----------
    Bai, G. and Zhao, L., *Saliency-regularized deep multi-task learning*, KDD 2022, pp. 15-25.
    """

    def __init__(
        self,
        trunk: nn.Module,
        heads: nn.Module,
        *,
        weight: float,
        distance: Literal[1, 2, "cosine"] = 1,
        omega: Literal["simplex", "projected"] = "simplex",
        omega_step: float = 1.0,
        beta: float = 1.0,
        warmup: int = 0,
        reduction: Literal["mean", "sum"] = "mean",
        spatial: Literal["none", "sum", "mean"] = "sum",
        scalar: Literal["sum", "max"] | None = None,
        balancing: str | None = None,
        seed: int = 0,
        as_released: bool = False,
    ):
        super().__init__(trunk, heads)
        if as_released:
            distance, omega, reduction, spatial = 1, "simplex", "sum", "sum"
        _one_of("distance", distance, (1, 2, "cosine"))
        _one_of("omega", omega, ("simplex", "projected"))
        _one_of("reduction", reduction, ("mean", "sum"))
        _one_of("spatial", spatial, ("none", "sum", "mean"))
        _one_of("scalar", scalar, (None, "sum", "max"))
        for name, value, low in (
            ("weight", weight, weight >= 0),
            ("omega_step", omega_step, omega_step >= 0),
            ("warmup", warmup, warmup >= 0),
        ):
            if not low:
                raise ValueError(f"{name}: expected a number >= 0, got {value}")
        if beta <= 0:
            raise ValueError(f"beta: expected a number > 0, got {beta}")
        T = len(self.tasks)
        if T < 2:
            raise ValueError(f"heads: expected at least two tasks to relate, got {T}")
        self.weight, self.distance, self.reduction, self.spatial = (
            weight,
            distance,
            reduction,
            spatial,
        )
        self.kind, self.omega_step, self.beta, self.warmup = omega, omega_step, beta, warmup
        self.scalar, self.as_released = scalar, as_released
        self.weighting = None if balancing is None else weighting(balancing, seed)
        self.register_buffer("pairs", torch.triu_indices(T, T, 1), persistent=False)  # i < j
        pairs = self.pairs.shape[1]
        # what is learned: c of the scripts, which starts at ones, or omega itself
        even = torch.ones(pairs) if omega == "simplex" else torch.full((pairs,), beta / pairs)
        self.register_buffer("coupling", even)
        self.steps = 0  # of the optimiser so far
        self.distances: Tensor | None = None  # of the last batch, one per pair

    def omega(self) -> Tensor:
        """The pairs' weights, shape ``(T (T - 1) / 2,)``, in the order of ``pairs``."""
        if self.kind == "projected":
            return self.coupling
        return self.beta * self.coupling / self._total()

    def penalty(self) -> Tensor:
        if self.weight == 0 or self.steps < self.warmup:
            return super().penalty()
        if self.batch is None:
            raise RuntimeError("penalty: expected a forward pass with gradients before it")
        features = self.batch.features.to(self.coupling.dtype)  # a trunk's may be rounded
        with exact(features):
            saliency = task_saliency(
                self.heads, features, create_graph=True, reduction=self.spatial, scalar=self.scalar
            )
            distances = pairwise_distances(saliency, self.distance)[self.pairs[0], self.pairs[1]]
            if self.reduction == "mean":
                distances = distances / len(features)
            self.distances = distances.detach()
            return self.weight * (self.omega() @ distances)

    def backward(self, losses: Tensor, penalty: Tensor) -> None:
        if self.weighting is None:
            super().backward(losses, penalty)
        else:
            balanced_backward(self, losses, penalty, self.weighting)

    @torch.no_grad()
    def update(self) -> None:
        """One step of omega on the regulariser of the last batch."""
        super().update()
        self.steps += 1
        if self.distances is None:
            return
        d, self.distances = self.distances, None
        if self.kind == "projected":
            moved = self.coupling - self.omega_step * self.weight * d
            self.coupling.copy_(project(moved, self.beta))
            return
        omega = self.omega()
        with exact(d):
            gradient = self.weight * (self.beta * d - omega @ d) / self._total()
        if self.as_released:
            step = fresh_adam_step(gradient, 3 * self.steps)
        else:
            step = self.omega_step * gradient
        self.coupling.copy_((self.coupling - step).clamp(min=0))

    def get_extra_state(self) -> Tensor:
        """The number of steps, on which warm-up and the released step of omega depend."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)

    def relation(self) -> Relation:
        """Omega as a symmetric matrix with a zero diagonal."""
        T = len(self.tasks)
        i, j = self.pairs
        matrix = self.coupling.new_zeros(T, T)
        omega = self.omega()
        matrix[i, j] = omega
        matrix[j, i] = omega
        bound = "= " if self.kind == "simplex" else ">= "
        meaning = (
            "omega: weight of the distance between two tasks' saliencies, >= 0, sum over pairs "
            f"{bound}{self.beta:g}; the diagonal is not defined"
        )
        return Relation(matrix, meaning)

    def _total(self) -> Tensor:
        return self.coupling.sum().clamp(min=torch.finfo(self.coupling.dtype).tiny)


def project(x: Tensor, beta: float) -> Tensor:
    r"""The point of :math:`\{\omega \ge 0, \sum \omega \ge \beta\}` closest to x, shape ``(P,)``.

    :math:`\max(x, 0)` where that sums to at least :math:`\beta`; else the bound is active, and
    what remains is the projection onto a simplex (Held, Wolfe and Crowder 1974):
    :math:`\max(x - \theta, 0)` with :math:`\theta` such that the sum is :math:`\beta`.
    """
    x = x - x.max().clamp(max=0)  # far below 0 the sum would swallow beta; the point is the same
    falling = x.sort(descending=True).values
    excess = falling.cumsum(0) - beta
    number = torch.arange(1, len(x) + 1, device=x.device)
    # the k largest stay positive; the condition holds for the first k and no further
    k = (falling * number > excess).sum().clamp(min=1)
    theta = excess.gather(0, (k - 1)[None])[0] / k
    enough = x.clamp(min=0)
    return torch.where(enough.sum() >= beta, enough, (x - theta).clamp(min=0))


def fresh_adam_step(gradient: Tensor, count: int) -> Tensor:
    """Adam's step from moments that are zero, at the optimiser's ``count``-th call (Keras).

    The CIFAR script makes a new variable of c in every step, so Adam's moments restart while its
    count goes on, three calls per step (trunk, heads, c). The step is then the sign of the gradient
    times a size that the bias corrections, meant for moments that do not restart, let grow from
    0.0006 to 0.0032 with the default settings.
    """
    lr, beta1, beta2, eps = KERAS_ADAM.values()
    size = lr * (1 - beta2**count) ** 0.5 / (1 - beta1**count)
    return size * (1 - beta1) * gradient / ((1 - beta2) ** 0.5 * gradient.abs() + eps)


def broadcast_targets(tasks: TaskSet) -> TaskSet:
    r"""The targets for which the synthetic script really trains: each task's mean.

    The script subtracts targets ``(n,)`` from outputs ``(n, 1)``, an ``(n, n)`` matrix. Its sum of
    squares is :math:`\sum_{ij} (\hat y_i - y_j)^2 = n \sum_i (\hat y_i - \bar y)^2 + n \sum_j (y_j
    - \bar y)^2`: n times the squared error from the *mean* target, and a constant. So training on
    these targets, with the loss multiplied by n, repeats the script's bug exactly.

    Parameters
    ----------
    tasks : TaskSet
        Of regression tasks; the mean is over all samples of a task, a full batch.
    """
    for task in tasks:
        if task.loss != "mse":
            raise ValueError(f"tasks: expected loss 'mse', got {task.loss!r} of task {task.name!r}")
    return replace(
        tasks,
        tasks=tuple(
            replace(task, targets=task.targets.mean(0, keepdim=True).expand_as(task.targets))
            for task in tasks
        ),
    )


def _one_of(argument: str, value, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"{argument}: expected one of {allowed}, got {value!r}")
