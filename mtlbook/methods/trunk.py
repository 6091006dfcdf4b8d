"""One trunk of any kind and a stack of heads: what SRDML, MMoE and PLE stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlbook.methods.base import Method
from mtlbook.tensors import Ragged


@dataclass
class Batch:
    """What a forward pass leaves for the penalty and the backward pass.

    Attributes
    ----------
    features : Tensor, shape ``(n, ...)``
        The trunk's output on every sample once.
    per_task : Tensor, shape ``(T, B, ...)``
        What the heads have read.
    shared : bool
        Whether all tasks looked at the same samples.
    """

    features: Tensor
    per_task: Tensor
    shared: bool


class SharedTrunk(Method):
    r"""Hard sharing with a trunk of any kind: one trunk, a head for each task (Caruana 1997).

    OBJECTIVE   :math:`\sum_t \ell_t(f_t \circ h)`

    Parameters
    ----------
    trunk : nn.Module
        :math:`h`: ``(B, ...) -> (B, ...)``; ``nn.Identity()`` where there is none. It runs once
        where the tasks share their inputs.
    heads : TaskHeads, or nn.ModuleList of T modules
        :math:`f_1, \dots, f_T`; a stack is faster. Each of T modules maps features to ``(B, K)``.
    """

    def __init__(self, trunk: nn.Module, heads: nn.Module):
        super().__init__()
        self.trunk, self.heads = trunk, heads
        self.batch: Batch | None = None

    @property
    def tasks(self) -> range:
        stacked = hasattr(self.heads, "tasks")
        return range(self.heads.tasks if stacked else len(self.heads))

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        shared, lengths = all(x is inputs[0] for x in inputs), None
        if shared:
            features = self.trunk(inputs[0])
            per_task = features.expand(len(inputs), *features.shape)
        else:
            samples = Ragged.stack(inputs)
            # the samples alone: a trunk with BatchNorm would count what pads them
            ragged = samples.lengths is not None
            features = self.trunk(
                torch.cat(list(samples)) if ragged else samples.padded.flatten(0, 1)
            )
            parts = Ragged.stack(features.split([len(x) for x in samples]))
            per_task, lengths = parts.padded, parts.lengths
        if torch.is_grad_enabled():
            self.batch = Batch(features, per_task, shared)
        if hasattr(self.heads, "tasks"):
            return Ragged(self.heads(per_task), lengths, self.heads.widths)
        lengths = lengths or [per_task.shape[1]] * len(per_task)
        return [
            head(x)[:n] for head, x, n in zip(self.heads, per_task.unbind(0), lengths, strict=True)
        ]

    def update(self) -> None:
        """Let go of the batch: its graph is used up."""
        self.batch = None

    def __getstate__(self) -> dict:
        """A copy has no batch: tensors within a graph cannot be copied."""
        return self.__dict__ | {"batch": None}
