"""Gradient descent on SRDML's objective for linear tasks, all runs at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


@dataclass
class Problem:
    r"""R runs of T linear regressions, as far as the squared error needs them.

    Attributes
    ----------
    gram : Tensor, shape ``(R, T or 1, D, D)``
        :math:`X_t^\top X_t / n_t`; the last column of X is 1.
    moment : Tensor, shape ``(R, T, D)``
        :math:`X_t^\top y_t / n_t`.
    start : Tensor, shape ``(R, T, D)``
        Initial weights, the intercept last.
    test : callable
        Weights ``(R, T, D)`` to the root mean squared and the mean absolute error of every task on
        its test samples, shape ``(R, T)`` each.
    """

    gram: Tensor
    moment: Tensor
    start: Tensor
    test: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Setting:
    r"""How one run descends. Every field is one number.

    Attributes
    ----------
    weight : float
        :math:`\lambda`, on distances that are summed over ``count`` samples.
    omega_step : float
        Step size of c; 0 keeps :math:`\omega` as it starts.
    decay : float
        **Ours**: weight decay on every task by itself.
    lr, steps
        Of gradient descent on the mean of the tasks' losses.
    warmup : int
        Steps without the regulariser.
    """

    weight: float = 0.0
    omega_step: float = 0.0
    decay: float = 0.0
    lr: float = 0.01
    steps: int = 150
    warmup: int = 0


def descend(
    problem: Problem,
    settings: Sequence[Setting],
    *,
    count: int,
    coupling: Tensor | None = None,
    look_at: Iterable[int] = (),
    look: Callable[[int, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Gradient descent on the weights and on c, R runs at once.

    OBJECTIVE   :math:`\frac1T \sum_t \frac1{2 n_t} \|X_t w_t - y_t\|^2 + \lambda n \sum_{i<j}
    \omega_{ij} \|w_i - w_j\|_1`, :math:`\omega = c / \sum_{i<j} c_{ij}`, :math:`c \ge 0`

    Parameters
    ----------
    problem : Problem
    settings : sequence of R Setting
        All of one length; a run each.
    count : int
        n: over how many samples the distances are summed.
    coupling : Tensor, shape ``(T, T)``, optional
        c to start with, of which the upper triangle is read; ones by default.
    look_at : iterable of int
        Numbers of completed steps after which ``look(step, weights, coupling)`` is called.

    Returns
    -------
    weights : Tensor, shape ``(R, T, D)``
    coupling : Tensor, shape ``(R, P)``
        c of the ``P = T (T - 1) / 2`` pairs i < j, row by row.

    Notes
    -----
    Intercepts are neither saliency nor decayed. Weights and c step together, from the same
    gradients, as the script's two optimisers do.
    """
    runs, tasks, _ = problem.start.shape
    steps = {setting.steps for setting in settings}
    if len(settings) != runs or len(steps) != 1:
        raise ValueError(
            f"settings: expected {runs} of one length, got {len(settings)} of steps {steps}"
        )
    (steps,) = steps
    column = partial(_column, settings)
    weight, omega_step, decay, lr = map(column, ("weight", "omega_step", "decay", "lr"))
    warmup = column("warmup")
    coupled = bool((weight > 0).any())
    i, j = torch.triu_indices(tasks, tasks, 1)
    edges = torch.eye(tasks)[i] - torch.eye(tasks)[j]  # (P, T): row p takes w_i - w_j
    c = torch.ones(len(i)) if coupling is None else coupling[i, j]
    c = c.expand(runs, -1)[..., None]  # (R, P, 1)
    groups = problem.gram.shape[1]
    look_at, w = set(look_at), problem.start
    for step in range(steps + 1):
        if step in look_at:
            look(step, w, c[..., 0])
        if step == steps:
            return w, c[..., 0]
        fitted = w.unflatten(1, (groups, -1)) @ problem.gram
        gradient = (fitted.flatten(1, 2) - problem.moment) / tasks
        gradient[..., :-1] += decay * w[..., :-1]
        if coupled:
            strength = weight * count * (step >= warmup)
            difference = edges @ w[..., :-1]  # (R, P, D - 1)
            distance = difference.abs().sum(-1, keepdim=True)
            total = c.sum(1, keepdim=True).clamp(min=1e-30)
            omega = c / total
            gradient[..., :-1] += strength * (edges.mT @ difference.sign_().mul_(omega))
            mean = (omega * distance).sum(1, keepdim=True)
            c = (c - omega_step * strength * (distance - mean) / total).clamp(min=0)
        w = w - lr * gradient


def _column(settings: Sequence[Setting], name: str) -> Tensor:
    return torch.tensor([float(getattr(s, name)) for s in settings])[:, None, None]
