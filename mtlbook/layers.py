"""Layers with a task axis: T layers of one shape in one parameter, one kernel for all of them.

Activations have shape ``(T, B, ...)``. A layer with ``tasks=1`` under T tasks is *shared*: it sees
all samples in one batch. ``stack()`` hands out the tensor of the papers, task axis last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from mtlbook.tensors import Ragged


@torch.no_grad()
def truncated_normal_(tensor: Tensor, *, std: float, generator: torch.Generator) -> Tensor:
    """Draw from a normal of deviation ``std`` cut at two deviations, in place.

    What lies outside is drawn again until nothing does. ``torch.nn.init.trunc_normal_`` does the
    same in torch 2.14 and another thing in 2.6; ``normal_``, on which this rests, is older than
    both, so a seed means the same weights in every version.
    """
    tensor.normal_(0, std, generator=generator)
    # a tensor on the meta device has no numbers to look at
    while not tensor.is_meta and bool((outside := tensor.abs() > 2 * std).any()):
        again = torch.empty_like(tensor).normal_(0, std, generator=generator)
        tensor.copy_(torch.where(outside, again, tensor))
    return tensor


class TaskLayer(nn.Module):
    """Base of the layers with a task axis: a stacked ``weight`` (T, ...) and ``bias`` (T, out).

    Parameters
    ----------
    weight_shape : tuple of int
        Without the task axis.
    tasks : int
        T, or 1 for a layer that all tasks share.
    out : int
    """

    def __init__(self, tasks: int, weight_shape: Sequence[int], out: int):
        super().__init__()
        if tasks < 1:
            raise ValueError(f"tasks: expected at least 1, got {tasks}")
        self.tasks = tasks
        self.weight = nn.Parameter(torch.zeros(tasks, *weight_shape))
        self.bias = nn.Parameter(torch.zeros(tasks, out))

    def reset(self, *, std: float, generator: torch.Generator) -> None:
        """Draw the weights from a normal of deviation ``std`` cut at two deviations; biases zero.

        TensorFlow's ``truncated_normal``, with which the authors of TNRDMTL start; the deviation
        that is left is ``0.88 std``.
        """
        with torch.no_grad():
            for w in self.weight:  # task by task: the first tasks do not depend on how many follow
                truncated_normal_(w, std=std, generator=generator)
            self.bias.zero_()

    def stack(self) -> Tensor:
        """The paper's tensor: a view of the weights with the task axis last."""
        raise NotImplementedError

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Write the weights, ``(T, ...)`` as they are stored; frozen ones stay."""
        if self.weight.requires_grad:
            self.weight.copy_(weight)

    @torch.no_grad()
    def set_stack(self, stack: Tensor) -> None:
        """Write the weights as :meth:`stack` shows them; frozen ones stay."""
        if self.weight.requires_grad:
            self.stack().copy_(stack)

    def forward(self, x: Tensor) -> Tensor:
        tasks = x.shape[0]
        if self.tasks == tasks:
            return self.per_task(x)
        if self.tasks != 1:
            raise ValueError(
                f"x: expected {self.tasks} tasks on the first axis, got shape {tuple(x.shape)}"
            )
        merged = x.reshape(1, tasks * x.shape[1], *x.shape[2:])
        y = self.per_task(merged)
        return y.reshape(tasks, x.shape[1], *y.shape[2:])

    def per_task(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class TaskLinear(TaskLayer):
    """T dense layers: ``(T, B, in) -> (T, B, out)``, one batched matrix product.

    Parameters
    ----------
    tasks, in_features : int
    out_features : int or sequence of T int
        Ragged heads: with a sequence the weights are padded with zeros to the widest head; the
        padding neither changes an output nor, since nobody reads it, receives a gradient.
    """

    def __init__(self, tasks: int, in_features: int, out_features: int | Sequence[int]):
        ragged = not isinstance(out_features, int)
        if ragged and len(out_features) != tasks:
            raise ValueError(f"out_features: expected {tasks} widths, got {len(out_features)}")
        widest = max(out_features) if ragged else out_features
        super().__init__(tasks, (in_features, widest), widest)
        self.widths = list(out_features) if ragged else None

    def reset(self, *, std: float, generator: torch.Generator) -> None:
        super().reset(std=std, generator=generator)
        with torch.no_grad():
            for w, width in zip(self.weight, self.widths or (), strict=bool(self.widths)):
                w[:, width:] = 0

    def stack(self) -> Tensor:
        """Shape ``(out, in, T)``; a ragged head has none."""
        if self.widths is not None and len(set(self.widths)) > 1:
            raise ValueError(
                f"layer: expected heads of one width to stack, got widths {self.widths}"
            )
        return self.weight.permute(2, 1, 0)

    def per_task(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None, :], x, self.weight)


class TaskConv2d(TaskLayer):
    """T convolutions: ``(T, B, in, H, W) -> (T, B, out, H', W')``, one convolution of T groups.

    Parameters
    ----------
    tasks, in_channels, out_channels, kernel_size : int
    padding : int or "same" or "valid"
    """

    def __init__(
        self,
        tasks: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        padding: int | str = "same",
    ):
        super().__init__(tasks, (out_channels, in_channels, kernel_size, kernel_size), out_channels)
        self.padding = padding

    def stack(self) -> Tensor:
        """Shape ``(out, in, kh, kw, T)``."""
        return self.weight.permute(1, 2, 3, 4, 0)

    def per_task(self, x: Tensor) -> Tensor:
        y = F.conv2d(
            join_tasks(x),
            self.weight.flatten(0, 1),
            self.bias.flatten(),
            padding=self.padding,
            groups=self.tasks,
        )
        return part_tasks(y, self.tasks)


class MaxPool2d(nn.Module):
    """Pooling of ``(T, B, C, H, W)`` over windows of 2 x 2, the last one cut at the border.

    ``ceil_mode`` as in TensorFlow's SAME pooling: 7 x 7 becomes 4 x 4.
    """

    def __init__(self, ceil_mode: bool = True):
        super().__init__()
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        return part_tasks(F.max_pool2d(join_tasks(x), 2, ceil_mode=self.ceil_mode), x.shape[0])


def join_tasks(x: Tensor) -> Tensor:
    """``(T, B, C, H, W) -> (B, T C, H, W)``: tasks are groups of channels.

    On a CPU with channels last in memory, in which the forward of a pooling is 12 times, its
    backward .8 times and the whole step 1.9 times as fast (``benchmarks/steps.py``). Between layers
    no copy is made: :func:`part_tasks` keeps the layout that this function asks for.
    """
    joined = x.transpose(0, 1).flatten(1, 2)
    if x.device.type == "cpu":
        return joined.contiguous(memory_format=torch.channels_last)
    return joined


def part_tasks(x: Tensor, tasks: int) -> Tensor:
    """``(B, T C, H, W) -> (T, B, C, H, W)``, a view."""
    return x.unflatten(1, (tasks, -1)).transpose(0, 1)


class TaskNetwork(nn.Module):
    """T networks of one architecture: a trunk of layers with a task axis, and a head each.

    Parameters
    ----------
    trunk : sequence of (str, nn.Module)
        Named layers on activations ``(T, B, ...)``; the last one gives ``(T, B, features)``.
    head : TaskLinear
        Ragged where the tasks' outputs differ.
    head_name : str
        What the paper calls it.
    """

    def __init__(
        self,
        trunk: Sequence[tuple[str, nn.Module]],
        head: TaskLinear,
        *,
        head_name: str = "head",
    ):
        super().__init__()
        self.head_name = head_name
        self.trunk = nn.Sequential()
        for name, layer in trunk:
            self.trunk.add_module(name, layer)
        self.head = head

    @property
    def task_layers(self) -> dict[str, TaskLayer]:
        """The layers that hold parameters, by name, the head last."""
        layers = {n: m for n, m in self.trunk.named_children() if isinstance(m, TaskLayer)}
        return {**layers, self.head_name: self.head}

    @property
    def shareable(self) -> tuple[str, ...]:
        """Names of the layers that a norm can couple: one for each task, and not the head.

        The papers opt the topmost layer out because its size differs from task to task.
        """
        layers = self.task_layers.items()
        return tuple(n for n, m in layers if m is not self.head and m.tasks > 1)

    @property
    def separate(self) -> tuple[str, ...]:
        """Names of all layers with a copy for each task, the head among them."""
        return (*self.shareable, *([self.head_name] if self.head.tasks > 1 else []))

    def learn_only(self, names: Sequence[str]) -> None:
        """Fix all layers but these."""
        for name, layer in self.task_layers.items():
            layer.requires_grad_(name in names)

    def features(self, inputs: Sequence[Tensor]) -> Ragged:
        """The trunk's output, ``(T, B, features)``."""
        batch = self.stacked(inputs)
        return batch.like(self.trunk(batch.padded))

    def stacked(self, inputs: Sequence[Tensor]) -> Ragged:
        """The batches in one; refused where padding would be counted as samples."""
        batch = Ragged.stack(inputs)
        normalised = [m for m in self.trunk.modules() if isinstance(m, BatchNorm) and m.training]
        if normalised and batch.lengths is not None:
            raise ValueError(
                "inputs: expected as many samples of every task, since BatchNorm would count what "
                f"pads them, got {batch.lengths}"
            )
        return batch

    def forward(self, inputs: Sequence[Tensor]) -> Ragged:
        """T batches to T outputs; batch sizes and head sizes may differ from task to task."""
        features = self.features(inputs)
        return features.like(self.head(features.padded), self.head.widths)

    def reset(self, *, std: float, seed: int) -> TaskNetwork:
        """Draw all weights anew; see :meth:`TaskLayer.reset`.

        Every layer has a generator of its own, so that networks which differ in one layer (or
        share one) agree in the others.
        """
        for i, layer in enumerate(self.task_layers.values()):
            layer.reset(std=std, generator=torch.Generator().manual_seed(1000 * seed + i))
        return self
