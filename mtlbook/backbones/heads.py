"""A stack of T dense heads, for a trunk of any kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlbook.layers import TaskLinear


class TaskHeads(nn.Module):
    """T dense heads with a task axis: ``(T, B, ...) -> (T, B, K)``, features flattened.

    Parameters
    ----------
    in_features : int
        Of the flattened features.
    outputs : sequence of T int
        Outputs of each head; narrower ones are padded.
    hidden : sequence of int
        Widths of the hidden layers; none for linear heads.
    activation : type of nn.Module
    seed : int
        Weights are drawn uniformly after Glorot and Bengio (2010), biases are zero: what Keras
        does by itself, and so the code of SRDML. Every task and layer has its own stream.
    """

    def __init__(
        self,
        in_features: int,
        outputs: Sequence[int],
        *,
        hidden: Sequence[int] = (128,),
        activation: type[nn.Module] = nn.ReLU,
        seed: int,
    ):
        super().__init__()
        self.tasks = len(outputs)
        self.widths = None if len(set(outputs)) == 1 else list(outputs)
        self.layers = nn.Sequential()
        sizes = [in_features, *hidden]
        for before, width in zip(sizes, hidden, strict=False):
            self.layers.append(TaskLinear(self.tasks, before, width))
            self.layers.append(activation())
        self.layers.append(TaskLinear(self.tasks, sizes[-1], max(outputs)))
        dense = [layer for layer in self.layers if isinstance(layer, TaskLinear)]
        for i, layer in enumerate(dense):
            widths = outputs if i == len(dense) - 1 else [layer.weight.shape[-1]] * self.tasks
            glorot(layer, widths, seed=1000 * seed + i)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.flatten(2))

    def relu_layers(self) -> list[tuple[Tensor, Tensor]] | None:
        """Weights and biases of all layers if there is nothing but ReLU between them, else None.

        What :func:`mtlbook.saliency.task_saliency` asks for.
        """
        if any(type(m) not in (TaskLinear, nn.ReLU) for m in self.layers):
            return None
        return [(m.weight, m.bias) for m in self.layers if isinstance(m, TaskLinear)]


def glorot(layer: TaskLinear, widths: Sequence[int], *, seed: int) -> None:
    """Glorot's uniform weights for each copy of a layer, from a stream of its own; biases zero."""
    with torch.no_grad():
        for t, (weight, width) in enumerate(zip(layer.weight, widths, strict=True)):
            generator = torch.Generator().manual_seed(1_000_000 * seed + t)
            weight.zero_()
            nn.init.xavier_uniform_(weight[:, :width], generator=generator)
        layer.bias.zero_()
