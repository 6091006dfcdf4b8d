"""Deep multi-task representation learning by tensor factorisation (Yang and Hospedales 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mtlbook.layers import TaskLayer, TaskNetwork
from mtlbook.methods.base import NetworkMethod
from mtlbook.tensors import exact, mode_product, unfold


class DMTLTF(NetworkMethod):
    r"""Each layer's stack is a Tucker product, and its factors are what is learned.

    OBJECTIVE   :math:`\sum_t \ell_t(W^t)`,
                :math:`\tensor W = \tensor S \times_1 U_1 \dots \times_N U_N`

    Parameters
    ----------
    network : TaskNetwork
        Its weights are the start: they are factorised, truncated to the ranks. The paper starts
        at the weights of trained single tasks.
    layers : sequence of str, optional
        By default all layers with a copy for each task, the head among them where heads are equal.
    ranks : sequence of int, or mapping from layer name to one, optional
        Ranks :math:`(r_1, \dots, r_N)` of a stack, the tasks' last.
    tolerance : float
        Without ``ranks``: the smallest ones with which the truncated factorisation of the start
        loses at most this part of its Frobenius norm.

    Notes
    -----
    No term is added to the loss: what is shared are the factors of all modes but the last, and the
    core. The last factor holds the tasks' coefficients; with its rank below T they must share.

    References
    ----------
    Yang, Y. and Hospedales, T. M., *Deep multi-task representation learning: a tensor factorisation
    approach*, ICLR 2017.
    """

    def __init__(
        self,
        network: TaskNetwork,
        layers: Sequence[str] | None = None,
        *,
        ranks: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
        tolerance: float = 0.1,
    ):
        if layers is None:
            layers = network.shareable
            if len(set(network.head.widths or ())) <= 1 and network.head.tasks > 1:
                layers = (*layers, network.head_name)
        super().__init__(network, layers)
        if not self.layers:
            raise ValueError("layers: expected at least one layer to factorise, got none")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance: expected a number in [0, 1), got {tolerance}")
        if isinstance(ranks, Mapping) and set(ranks) != set(self.layers):
            raise ValueError(f"ranks: expected layers {self.layers}, got {tuple(ranks)}")
        if foreign := [n for n, m in self.regularised.items() if not isinstance(m, TaskLayer)]:
            raise ValueError(
                f"network: expected layers whose weights can be replaced by factors, got {foreign}"
            )
        for name, layer in self.regularised.items():
            chosen = ranks[name] if isinstance(ranks, Mapping) else ranks
            tucker = _Tucker(layer, chosen, tolerance)
            # unsafe: the factors give back a truncated weight, not the one that went in
            parametrize.register_parametrization(layer, "weight", tucker, unsafe=True)

    def ranks(self) -> dict[str, tuple[int, ...]]:
        """Ranks of every layer, the tasks' last."""
        return {
            name: tuple(layer.parametrizations.weight.original0.shape)
            for name, layer in self.regularised.items()
        }

    def task_factor(self, name: str) -> Tensor:
        """The layer's last factor, shape ``(T, r_N)``: what a task takes of each basis network."""
        factors = self.regularised[name].parametrizations.weight
        return getattr(factors, f"original{factors.original0.ndim}")


# From the axes of a stack, tasks last, to those of the stored weight, by the number of axes.
_STORED = {3: (2, 1, 0), 5: (4, 0, 1, 2, 3)}


class _Tucker(nn.Module):
    """From core and factors to a layer's stored weight, and back by truncated HOSVD."""

    def __init__(self, layer: TaskLayer, ranks: Sequence[int] | None, tolerance: float):
        super().__init__()
        stack = layer.stack()
        shape = tuple(stack.shape)
        if ranks is not None and not (
            len(ranks) == len(shape) and all(1 <= r <= d for r, d in zip(ranks, shape, strict=True))
        ):
            raise ValueError(f"ranks: expected one in 1..d for each axis of {shape}, got {ranks}")
        self.ranks, self.tolerance = ranks, tolerance
        self.axes = _STORED[len(shape)]

    def forward(self, core: Tensor, *factors: Tensor) -> Tensor:
        with exact(core):
            for mode, factor in enumerate(factors):
                core = mode_product(core, factor, mode)
        return core.permute(self.axes)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        stack = weight.detach().permute([self.axes.index(axis) for axis in range(weight.ndim)])
        factors = []
        for mode in range(stack.ndim):
            u, s, _ = torch.linalg.svd(unfold(stack, mode), full_matrices=False)
            rank = self.ranks[mode] if self.ranks is not None else self._rank(s, stack.ndim)
            factors.append(u[:, :rank].contiguous())
        core = stack
        for mode, factor in enumerate(factors):
            core = mode_product(core, factor.mT, mode)
        return (core.contiguous(), *factors)

    def _rank(self, s: Tensor, modes: int) -> int:
        """The squared error of a truncated HOSVD is at most the sum of what the modes drop."""
        squares = s.double().square()
        tail = squares.sum() - squares.cumsum(0)  # what is left out after 1, 2, ... directions
        small = tail <= self.tolerance**2 / modes * squares.sum() + 1e-12 * squares.sum()
        return int(small.nonzero()[0]) + 1
