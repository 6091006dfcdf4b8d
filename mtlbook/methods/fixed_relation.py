"""A prior whose relation nobody has learned: the control of every method that learns one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mtlbook.layers import TaskNetwork
from mtlbook.methods.mrn import MRN
from mtlbook.priors import decompose


class FixedRelation(MRN):
    r"""**Our control**, not the paper's: MRN_t with a relation that nobody has learned.

    OBJECTIVE   that of :class:`MRN` with :math:`\Sigma_3 = (1 - \rho) I + \rho \mathbf 1 \mathbf
    1^\top` on every layer, all else the identity

    :math:`\rho = 0` is weight decay on each task by itself; towards 1 the tasks become one model.

    Parameters
    ----------
    network : TaskNetwork
    layers : sequence of str, optional
        As :class:`MRN`.
    weight : float
    rho : float
        Correlation of any two tasks, in ``(-1 / (T - 1), 1)``.
    """

    def __init__(
        self,
        network: TaskNetwork,
        layers: Sequence[str] | None = None,
        *,
        weight: float = 1e-3,
        rho: float = 0.5,
    ):
        super().__init__(network, layers, learn=("task",), weight=weight, max_updates=0)
        tasks = len(self.tasks)
        if not -1 < (tasks - 1) * rho or not rho < 1:
            raise ValueError(f"rho: expected -1 / (T - 1) < rho < 1 with T = {tasks}, got {rho}")
        # in double precision: near 1 the least eigenvalue, 1 - rho, is no rounding error
        matrix = (1 - rho) * torch.eye(tasks, dtype=torch.float64) + rho
        relation = decompose(matrix, check=False)
        for name in self.layers:
            self.set_covariance(name, "task", relation.to(self.tensor(name).dtype))
