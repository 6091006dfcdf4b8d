"""Deep relationship networks (Long and Wang, arXiv 1506.02117v1), as far as they are known.

**Matrix normal model after DRN's abstract and figure.** Of the first version's body, its equations,
updates and results, nothing could be seen; abstract and figure say: a matrix normal prior on the
parameters of each task-specific layer, fc6, fc7 and fc8, linking the tasks' copies. What follows
is what any such model must be, and a reconstruction where there was a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mtlbook.layers import TaskNetwork
from mtlbook.methods.mrn import MRN
from mtlbook.priors import (
    LowRankPlusDiagonal,
    apply_precisions,
    decompose,
    mode_covariance,
    reciprocal,
)


class DRN(MRN):
    r"""A matrix normal prior on each task-specific layer, one column per task.

    OBJECTIVE   :math:`\sum_t \ell_t(W^t) + \tfrac{\lambda}{2} \sum_l \bigl( \tr(F_l^{-1} W_l
    \Omega_l^{-1} W_l^\top) + T \ln |F_l| + d_l \ln |\Omega_l| \bigr)`,
    :math:`W_l = [\vec W^{1,l}, \dots, \vec W^{T,l}] \in \R^{d_l \times T}`

    Parameters
    ----------
    network : TaskNetwork
    layers : sequence of str, optional
        By default every layer with a copy for each task (the figure's fc6, fc7 and fc8).
    feature_covariance : "identity" | "diagonal" | "full"
        :math:`F`. "identity" is MRN_t; "diagonal" has a variance for each position of the layer;
        "full" is ``d x d`` of rank T, plus a diagonal.
    form : "normal" | "trace-one"
        Of the task covariance. "trace-one" is MTRL's convex one (Zhang and Yeung 2010):
        :math:`\tr \Omega = 1` instead of the log-determinants, and :math:`\Omega =
        (W^\top F^{-1} W)^{1/2} / \tr (\cdot)^{1/2}`.
    weight : float
    **switches
        ``update_every``, ``max_updates``, ``eps``, ``order`` and others of
        :class:`mtlbook.methods.mrn.Switches`.

    References
    ----------
    Long, M. and Wang, J., *Learning multiple tasks with deep relationship networks*,
    arXiv 1506.02117v1, 2015: abstract; figure as reprinted by Ruder, arXiv 1706.05098.
    """

    names: ClassVar[Sequence[str]] = ("task", "feature")

    def __init__(
        self,
        network: TaskNetwork,
        layers: Sequence[str] | None = None,
        *,
        feature_covariance: str = "identity",
        form: str = "normal",
        weight: float = 1e-3,
        **switches,
    ):
        if feature_covariance not in ("identity", "diagonal", "full"):
            raise ValueError(
                "feature_covariance: expected 'identity', 'diagonal' or 'full', got "
                f"{feature_covariance!r}"
            )
        if form not in ("normal", "trace-one"):
            raise ValueError(f"form: expected 'normal' or 'trace-one', got {form!r}")
        if {"as_released", "learn", "proximal"} & set(switches):
            raise ValueError(f"switches: expected none of MRN's own, got {sorted(switches)}")
        learn = ("task", "feature") if feature_covariance == "full" else ("task",)
        if form == "trace-one":
            switches = {"scale": "none", "log_determinant": False, **switches}
        super().__init__(network, layers, learn=learn, weight=weight, **switches)
        self.feature_covariance, self.form = feature_covariance, form
        for name in self.layers:
            matrix = self.tensor(name).detach()
            tasks, size = matrix.shape
            if feature_covariance == "diagonal":
                self.register_buffer(f"{name}_variances", matrix.new_ones(size))
            if form == "trace-one":
                self.set_covariance(name, "task", torch.eye(tasks).to(matrix) / tasks)

    def tensor(self, name: str) -> Tensor:
        r"""The layer's :math:`W_l^\top`, shape ``(T, d)``; :math:`W_l^\top F^{-1/2}` where F is
        diagonal."""
        matrix = super().tensor(name).flatten(1)
        variances = self._buffers.get(f"{name}_variances")
        return matrix if variances is None else matrix * _inverse_root(variances)

    def mode(self, name: str, which: str) -> int:
        return self.names.index(which)

    @torch.no_grad()
    def update(self) -> None:
        before = self.updates
        super().update()
        if self.feature_covariance == "diagonal" and self.updates > before:
            for name in self.layers:
                self._update_variances(name)

    def _update_variances(self, name: str) -> None:
        """The diagonal of F's flip-flop update, mean one where the scale is fixed."""
        white = self.tensor(name)
        old = getattr(self, f"{name}_variances")
        squares = (white * apply_precisions(white, self.covariances(name))).mean(0) * old
        eps, mean = self.eps["feature"], squares.mean()
        new = (1 - eps) * squares + eps * mean if self.switches.relative else squares + eps
        if self.switches.scale == "trace":
            new = new / torch.where(mean <= 0, 1, new.mean())
        setattr(self, f"{name}_variances", torch.where(mean <= 0, 1, new))
        self._settle(name)

    def stiffness(self, name: str) -> Tensor:
        result, variances = super().stiffness(name), self._buffers.get(f"{name}_variances")
        return result if variances is None else result * reciprocal(variances).amax()

    def _log_determinant(self, name: str) -> Tensor:
        result, variances = super()._log_determinant(name), self._buffers.get(f"{name}_variances")
        if variances is None:
            return result
        return result + len(self.tasks) * torch.where(variances <= 0, 1, variances).log().sum()

    def _updated(
        self, w: Tensor, covariances: Sequence, which: str, mode: int
    ) -> LowRankPlusDiagonal:
        if self.form == "normal" or which != "task":
            return super()._updated(w, covariances, which, mode)
        # T x T also where a task has fewer weights than there are tasks: the share of eps is of all
        made = mode_covariance(w.double(), covariances, mode, eps=0.0, structure="dense")
        gram = decompose(made, check=False)
        roots = gram.values.sqrt()
        total, eps, tasks = roots.sum(), self.eps["task"], len(roots)
        shares = torch.where(total <= 0, 1 / tasks, roots / torch.where(total <= 0, 1, total))
        shares = (1 - eps) * shares + eps / tasks
        return LowRankPlusDiagonal(gram.basis, shares, gram.eps).to(w.dtype)


def _inverse_root(x: Tensor) -> Tensor:
    """``x ** -0.5``, and 0 where x is 0: a generalised inverse, as elsewhere."""
    zero = x <= 0
    return torch.where(zero, 0, torch.where(zero, 1, x).rsqrt())
