"""Mixtures of experts: MMoE (Ma et al., KDD 2018) and PLE (Tang et al., RecSys 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlbook.backbones import TaskHeads, glorot
from mtlbook.layers import TaskLinear
from mtlbook.methods.base import Method
from mtlbook.tensors import Ragged


class Experts(nn.Module):
    """Dense ReLU layers, each on its own copy of the input: ``(n, B, in) -> (B, n, out)``."""

    def __init__(self, experts: int, in_features: int, out_features: int, *, seed: int):
        super().__init__()
        self.layer = TaskLinear(experts, in_features, out_features)
        glorot(self.layer, [out_features] * experts, seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu().transpose(0, 1)


class Gates(nn.Module):
    """Softmax gates: by ``(G, B, in)`` each mixes ``(G, B, n, out)`` to ``(G, B, out)``."""

    def __init__(self, gates: int, in_features: int, experts: int, *, seed: int):
        super().__init__()
        self.layer = TaskLinear(gates, in_features, experts)
        glorot(self.layer, [experts] * gates, seed=seed)

    def forward(self, x: Tensor, experts: Tensor) -> Tensor:
        mixture = self.layer(x).softmax(-1)  # (G, B, n)
        return (mixture[..., None, :] @ experts).squeeze(-2)


class _Mixture(Method):
    """A trunk and, after whatever mixes its features for each task, a stack of heads."""

    def __init__(self, trunk: nn.Module, width: int, outputs: Sequence[int], hidden, seed: int):
        super().__init__()
        self.trunk = trunk
        self.heads = TaskHeads(width, outputs, hidden=hidden, seed=seed)

    @property
    def tasks(self) -> range:
        return range(self.heads.tasks)

    def forward(self, inputs: Sequence[Tensor]) -> Ragged:
        if len(inputs) > 1 and not all(x is inputs[0] for x in inputs):
            raise ValueError("inputs: expected one tensor for all tasks, got several")
        mixed = self.mix(self.trunk(inputs[0]).flatten(1))
        return Ragged(self.heads(mixed), None, self.heads.widths)

    def mix(self, features: Tensor) -> Tensor:
        """Features ``(B, in)`` to what each head reads, ``(T, B, width)``."""
        raise NotImplementedError


class MMoE(_Mixture):
    r"""Multi-gate mixture of experts, for tasks on the same samples.

    OBJECTIVE   :math:`\sum_t \ell_t\bigl(f_t(\sum_e g_{te}(a)\, E_e(a))\bigr)` with
                :math:`a = h(x)`, experts :math:`E_e` for all tasks and softmax gates :math:`g_t`

    Parameters
    ----------
    trunk : nn.Module
        :math:`h`; ``nn.Identity()`` for none. Its output is flattened.
    in_features : int
        Of the flattened features.
    outputs : sequence of T int
    experts, width : int
        Number of experts, each a dense ReLU layer, and their width.
    hidden : sequence of int
        Hidden layers of the heads :math:`f_t`.
    seed : int

    References
    ----------
    Ma, J. et al., *Modeling task relationships in multi-task learning with multi-gate
    mixture-of-experts*, KDD 2018, eq. 6 and 7.
    """

    def __init__(
        self,
        trunk: nn.Module,
        in_features: int,
        outputs: Sequence[int],
        *,
        experts: int = 4,
        width: int = 128,
        hidden: Sequence[int] = (),
        seed: int,
    ):
        _at_least_one(experts=experts, width=width)
        super().__init__(trunk, width, outputs, hidden, seed=10 * seed)
        self.experts = Experts(experts, in_features, width, seed=10 * seed + 4)
        self.gates = Gates(len(outputs), in_features, experts, seed=10 * seed + 5)

    def mix(self, features: Tensor) -> Tensor:
        experts = self.experts(features.expand(self.experts.layer.tasks, -1, -1))
        T = len(self.tasks)
        return self.gates(features.expand(T, -1, -1), experts.expand(T, -1, -1, -1))


class PLE(_Mixture):
    r"""Progressive layered extraction, for tasks on the same samples.

    OBJECTIVE   :math:`\sum_t \ell_t(f_t(a_t^L))` with :math:`a_t^0 = h(x)` for :math:`t = 0..T`;
                in level l the gate of task t mixes the common experts of :math:`a_0^{l-1}` and its
                own of :math:`a_t^{l-1}` to :math:`a_t^l`, and a common gate mixes all experts to
                :math:`a_0^l`

    Parameters
    ----------
    trunk, in_features, outputs, hidden, seed
        As in :class:`MMoE`.
    common, own, width : int
        Common experts, own experts of each task, and the width of all.
    levels : int
        L; with 1 this is customised gate control (CGC).

    References
    ----------
    Tang, H. et al., *Progressive layered extraction (PLE)*, RecSys 2020, sections 4.1 and 4.2.
    """

    def __init__(
        self,
        trunk: nn.Module,
        in_features: int,
        outputs: Sequence[int],
        *,
        common: int = 2,
        own: int = 1,
        width: int = 128,
        levels: int = 2,
        hidden: Sequence[int] = (),
        seed: int,
    ):
        _at_least_one(common=common, own=own, width=width, levels=levels)
        super().__init__(trunk, width, outputs, hidden, seed=10 * seed)
        sizes = [in_features] + [width] * (levels - 1)
        self.levels = nn.ModuleList(
            _Level(len(outputs), common, own, before, width, last=i == levels - 1, seed=seed + i)
            for i, before in enumerate(sizes)
        )

    def mix(self, features: Tensor) -> Tensor:
        streams, common = features.expand(len(self.tasks), -1, -1), features
        for level in self.levels:
            streams, common = level(streams, common)
        return streams


class _Level(nn.Module):
    """Experts and gates of one level of PLE; the last one needs no common gate."""

    def __init__(self, tasks, common, own, in_features, width, *, last: bool, seed: int):
        super().__init__()
        self.each = own
        self.common = Experts(common, in_features, width, seed=10 * seed + 4)
        self.own = Experts(tasks * own, in_features, width, seed=10 * seed + 5)
        self.gates = Gates(tasks, in_features, common + own, seed=10 * seed + 6)
        every = common + tasks * own
        self.gate = None if last else Gates(1, in_features, every, seed=10 * seed + 7)

    def forward(self, streams: Tensor, common: Tensor) -> tuple[Tensor, Tensor | None]:
        """Streams ``(T, B, in)`` and the common one ``(B, in)`` to those of the next level."""
        shared = self.common(common.expand(self.common.layer.tasks, -1, -1))  # (B, common, width)
        own = self.own(streams.repeat_interleave(self.each, 0))  # (B, T own, width)
        T = len(streams)
        of_task = own.unflatten(1, (T, self.each)).transpose(0, 1)  # (T, B, own, width)
        mixed = self.gates(streams, torch.cat([of_task, shared.expand(T, -1, -1, -1)], 2))
        if self.gate is None:
            return mixed, None
        return mixed, self.gate(common[None], torch.cat([own, shared], 1)[None])[0]


def _at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}")
