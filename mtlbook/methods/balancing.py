"""Gradient balancing: MGDA, PCGrad and UPGrad, by TorchJD, on the trunk that the tasks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mtlbook.methods.base import Method
from mtlbook.methods.trunk import SharedTrunk
from mtlbook.relations import Relation
from mtlbook.tensors import exact

BALANCINGS = ("mgda", "mgda-ub", "pcgrad", "upgrad", "mean")


class Weighting(nn.Module):
    """Weights of T gradients from their inner products.

    Parameters
    ----------
    kind : "mgda" | "mgda-ub" | "pcgrad" | "upgrad" | "mean"
    rule : callable
        TorchJD's, ``(T, T) -> (T,)``.
    seed : int
        Of the orders in which PCGrad goes through the tasks.
    """

    def __init__(self, kind: str, rule: Callable[[Tensor], Tensor], seed: int = 0):
        super().__init__()
        self.kind, self.rule, self.seed, self.calls = kind, rule, seed, 0

    def forward(self, gramian: Tensor) -> Tensor:
        # PCGrad goes through the tasks in random order, which it draws from torch's own stream
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(1_000_003 * self.seed + self.calls)  # the CPU's
            self.calls += 1
            return self.rule(gramian)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)


def weighting(kind: str, seed: int = 0) -> Weighting:
    """The rule of a method of gradient balancing.

    Parameters
    ----------
    kind : "mgda" | "mgda-ub" | "pcgrad" | "upgrad" | "mean"
        As in :class:`Balanced`. PCGrad goes through the tasks in random order.
    seed : int
        Of these orders.
    """
    if kind not in BALANCINGS:
        raise ValueError(f"balancing: expected one of {BALANCINGS}, got {kind!r}")
    try:
        from torchjd.aggregation import (
            MeanWeighting,
            MGDAWeighting,
            PCGradWeighting,
            UPGradWeighting,
        )

        rules = {"pcgrad": PCGradWeighting, "upgrad": UPGradWeighting, "mean": MeanWeighting}
        rule = rules.get(kind, MGDAWeighting)()  # UPGrad's asks for its solver here
    except ImportError as error:
        extra, wanted = "reproduce", "torchjd"
        if kind == "upgrad":
            extra, wanted = "upgrad", "torchjd[quadprog-projector]"
        raise ImportError(
            f"{kind} needs {wanted}: pip install 'mtlbook[{extra}]', or pip install '{wanted}'"
        ) from error
    return Weighting(kind, rule, seed)


def balanced_backward(
    method: SharedTrunk, losses: Tensor, penalty: Tensor, weights: Weighting
) -> None:
    r"""Gradients of a method with one trunk: heads as ever, the trunk's combined by ``weights``.

    The trunk gets :math:`\sum_t \alpha_t \nabla \ell_t`, with :math:`\alpha` from the inner
    products of the tasks' gradients, plus the penalty's gradient as it is.

    Parameters
    ----------
    method : SharedTrunk
        After its forward pass.
    losses : Tensor, shape ``(T,)``
    penalty : Tensor, scalar
    weights : Weighting

    Notes
    -----
    One pass through the heads gives every task's gradient in its own copy of the features. MGDA-UB
    needs no more; the others go through the trunk once a task. The weights are found on the host,
    which waits for the device.
    """
    trunk = [p for p in method.trunk.parameters() if p.requires_grad]
    if not trunk:
        (losses.sum() + penalty).backward()
        return
    batch = method.batch
    if weights.kind == "mgda-ub" and not batch.shared:
        raise ValueError("balancing: expected tasks on the same samples with 'mgda-ub'")
    own = [p for p in method.heads.parameters() if p.requires_grad]
    in_features, *in_heads = torch.autograd.grad(
        losses.sum(), [batch.per_task, *own], retain_graph=True, materialize_grads=True
    )
    read = [batch.features] * len(losses) if batch.shared else batch.per_task.unbind(0)
    with exact(losses):
        if weights.kind == "mgda-ub":
            rows = in_features.flatten(1)
            alpha = weights((rows @ rows.mT).to(losses.dtype))
            combined = torch.autograd.grad(
                batch.features,
                trunk,
                torch.tensordot(alpha.to(in_features), in_features, dims=1),
                retain_graph=True,
                materialize_grads=True,
            )
        else:
            jacobian = [
                torch.autograd.grad(x, trunk, g, retain_graph=True, materialize_grads=True)
                for x, g in zip(read, in_features, strict=True)
            ]
            jacobian = [torch.stack(rows) for rows in zip(*jacobian, strict=True)]  # (T, ...) each
            alpha = weights(sum(rows.flatten(1) @ rows.flatten(1).mT for rows in jacobian))
            combined = [torch.tensordot(alpha.to(rows), rows, dims=1) for rows in jacobian]
    if penalty.requires_grad:
        penalty.backward()
    _add_gradients([*trunk, *own], [*combined, *in_heads])


def _add_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g if p.grad is None else p.grad + g


class Balanced(Method):
    r"""A method with one trunk whose tasks' gradients are balanced there.

    OBJECTIVE   that of ``method``; only the direction of the trunk's step differs

    Parameters
    ----------
    method : SharedTrunk
        Plain :class:`SharedTrunk` gives the tables' MGDA-UB and PCGrad.
    kind : "mgda" | "mgda-ub" | "pcgrad" | "upgrad" | "mean"
        MGDA (Désidéri 2012): the convex combination of the gradients of least norm, by Frank and
        Wolfe's method; with "ub" its upper bound (Sener and Koltun 2018), weights from the
        gradients in the features. PCGrad (Yu et al. 2020): the sum of the gradients, each without
        what conflicts with the others. UPGrad (Quinton and Rey 2024): the mean of the gradients,
        each projected onto what conflicts with none, by a quadratic program. "mean": the control of
        MGDA and UPGrad, whose steps are a mean's too, 1/T of a sum's. The sum with equal weights
        needs no wrapper: it is the method itself.
    seed : int
        Of the orders in which PCGrad goes through the tasks: another one for each repeat.

    References
    ----------
    Désidéri, J.-A., *Multiple-gradient descent algorithm (MGDA) for multiobjective optimization*,
    C. R. Math. 350, 2012. Sener, O. and Koltun, V., *Multi-task learning as multi-objective
    optimization*, NeurIPS 2018. Yu, T. et al., *Gradient surgery for multi-task learning*,
    NeurIPS 2020. Quinton, P. and Rey, V., *Jacobian descent for multi-objective optimization*,
    2024.
    """

    def __init__(self, method: SharedTrunk, kind: str, seed: int = 0):
        super().__init__()
        if not isinstance(method, SharedTrunk):
            raise ValueError(f"method: expected one with a shared trunk, got {type(method)}")
        self.method = method
        self.weighting = weighting(kind, seed)

    @property
    def tasks(self) -> Sequence:
        return self.method.tasks

    @property
    def update_every(self) -> int:
        return self.method.update_every

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return self.method(inputs)

    def penalty(self) -> Tensor:
        return self.method.penalty()

    def backward(self, losses: Tensor, penalty: Tensor) -> None:
        balanced_backward(self.method, losses, penalty, self.weighting)

    def update(self) -> None:
        self.method.update()

    def relation(self) -> Relation | None:
        return self.method.relation()
