"""Networks for tasks that agree neither in their inputs nor in their classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlbook.backbones.stacks import tasks_of
from mtlbook.layers import TaskConv2d, TaskLayer


class OwnLayer(nn.Module):
    """T layers of one kind whose shapes differ: ``weight[t]`` and ``bias[t]`` are task t's.

    Parameters
    ----------
    shapes : sequence of T shapes
        Of the weights, output channels or classes first.
    """

    def __init__(self, shapes: Sequence[Sequence[int]]):
        super().__init__()
        self.tasks = len(shapes)
        self.weight = nn.ParameterList(torch.zeros(*shape) for shape in shapes)
        self.bias = nn.ParameterList(torch.zeros(shape[0]) for shape in shapes)

    def stack(self) -> Tensor:
        """A stack needs one shape."""
        shapes = [tuple(w.shape) for w in self.weight]
        raise ValueError(f"layer: expected weights of one shape to stack, got {shapes}")


class TaskConvnets(nn.Module):
    """T convolutional networks that may differ in input shape, width and classes.

    Each layer: convolution, max-pooling over 2 x 2, ReLU; then a dense head. Nothing is shared
    unless ``shared`` says so. It offers what :class:`mtlbook.layers.TaskNetwork` offers, so that
    ``STL``, ``HardSharing`` and ``TNRDMTL`` (on the layers that stack) take it as it is; made by
    :func:`kernel_networks`.

    Parameters
    ----------
    layers : mapping of name to TaskConv2d or OwnLayer
        ``TaskConv2d`` where the tasks' shapes agree (one copy where all tasks share it).
    head : OwnLayer
    """

    head_name = "head"

    def __init__(self, layers: Mapping[str, TaskConv2d | OwnLayer], head: OwnLayer):
        super().__init__()
        self.convolutions = nn.ModuleDict(layers)
        self.head = head

    @property
    def task_layers(self) -> dict[str, nn.Module]:
        """The layers that hold parameters, by name, the head last."""
        return {**self.convolutions, self.head_name: self.head}

    @property
    def shareable(self) -> tuple[str, ...]:
        """Names of the layers that stack: one copy for each task, all of one shape."""
        layers = self.convolutions.items()
        return tuple(n for n, m in layers if isinstance(m, TaskLayer) and m.tasks > 1)

    @property
    def kernel_layers(self) -> tuple[str, ...]:
        """Names of the convolutions with kernels of each task's own, of one shape or not."""
        return tuple(name for name, m in self.convolutions.items() if m.tasks == self.head.tasks)

    def kernels(self, name: str) -> list[Tensor]:
        """The filters of each task in a layer: T tensors (out, in, k, k)."""
        weights = list(self.convolutions[name].weight)
        return weights * (self.head.tasks // len(weights))

    def biases(self, name: str) -> list[Tensor]:
        """The biases of each task in a layer: T tensors (out,)."""
        biases = list(self.convolutions[name].bias)
        return biases * (self.head.tasks // len(biases))

    @torch.no_grad()
    def set_kernels(self, name: str, kernels: Sequence[Tensor]) -> None:
        """Write the filters of each task."""
        for own, new in zip(self.convolutions[name].weight, kernels, strict=True):
            own.copy_(new)

    def forward(
        self, inputs: Sequence[Tensor], kernels: Mapping[str, Sequence[Tensor]] | None = None
    ) -> list[Tensor]:
        """T batches to T outputs.

        Parameters
        ----------
        inputs : sequence of T Tensor, shape ``(B_t, channels_t, height_t, width_t)``
        kernels : mapping of layer name to T tensors, optional
            Filters to use in place of the network's own.
        """
        given = kernels or {}
        activations = list(inputs)
        for name in self.convolutions:
            weights, biases = given.get(name) or self.kernels(name), self.biases(name)
            activations = [
                convolve(x, w, b) for x, w, b in zip(activations, weights, biases, strict=True)
            ]
        return [self.classify(x, t) for t, x in enumerate(activations)]

    def classify(self, activations: Tensor, task: int) -> Tensor:
        """The head of one task, on its last activations."""
        return F.linear(activations.flatten(1), self.head.weight[task], self.head.bias[task])

    def reset(self, *, seed: int, gain: float = 2.0, common: float = 0.0) -> TaskConvnets:
        r"""Draw all weights anew, normal with variance ``gain / fan_in``; biases zero.

        Every layer has a generator of its own, so that networks which share different layers
        agree in the others, and the first tasks do not depend on how many follow.

        Parameters
        ----------
        seed : int
        gain : float
            2 is that of He et al. (2015) for ReLU.
        common : float, in [0, 1]
            How alike the tasks start: in layers that stack, kernel by kernel
            :math:`w_t = \sqrt{c}\, w_0 + \sqrt{1 - c}\, w'_t` with independent draws, so that c is
            the cosine to expect between filters of the same number of two tasks.
        """
        if not 0 <= common <= 1:
            raise ValueError(f"common: expected a number in [0, 1], got {common}")
        for i, (name, layer) in enumerate(self.task_layers.items()):
            generator = torch.Generator().manual_seed(1000 * seed + i)
            trunk = torch.Generator().manual_seed(1000 * seed + 500 + i)
            stacks = name in self.shareable
            with torch.no_grad():
                shared = _normal(layer.weight[0].shape, gain, trunk) if stacks else 0
                for w in layer.weight:
                    own = _normal(w.shape, gain, generator)
                    w.copy_(common**0.5 * shared + (1 - common) ** 0.5 * own if stacks else own)
                for b in layer.bias:
                    b.zero_()
        return self


def convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
    """Convolution of the same size, max-pooling over 2 x 2, ReLU."""
    if x.device.type == "cpu":  # 12 to 27 % of the step's time
        x = x.contiguous(memory_format=torch.channels_last)
    # ReLU after the pooling: it is monotone, so the two commute, and there is a quarter to do.
    return F.max_pool2d(F.conv2d(x, weight, bias, padding="same", groups=groups), 2).relu()


def kernel_networks(
    input_shapes: Sequence[Sequence[int]],
    outputs: Sequence[int],
    *,
    seed: int,
    channels: Sequence[int] | Sequence[Sequence[int]] = (12, 24, 24),
    kernel_size: int | Sequence[int] = 3,
    shared: Collection[str] = (),
    common: float = 0.0,
) -> TaskConvnets:
    """One convolutional network for each task; layers ``conv1, conv2, ..., head``.

    Parameters
    ----------
    input_shapes : sequence of T (channels, height, width)
    outputs : sequence of T int
        Classes of each task.
    seed : int
        Of the initial weights.
    channels : sequence of int, or T of them
        Filters of each layer, the same for all tasks or each task's own.
    kernel_size : int or sequence of int
        Spatial size in each layer, the same for all tasks.
    shared : collection of layer names
        Convolutions of which there is one for all tasks (hard sharing): the upper ones, say.
    common : float, in [0, 1]
        See :meth:`TaskConvnets.reset`.

    Examples
    --------
    >>> networks = kernel_networks([(1, 28, 28), (3, 32, 32)], [10, 20], seed=0)
    >>> [tuple(k.shape) for k in networks.kernels("conv1")], networks.shareable
    ([(12, 1, 3, 3), (12, 3, 3, 3)], ('conv2', 'conv3'))
    """
    tasks = len(outputs)
    if tasks < 1 or len(input_shapes) != tasks:
        raise ValueError(
            f"input_shapes: expected one for each of {tasks} outputs, got {list(input_shapes)}"
        )
    widths = [channels] * tasks if isinstance(channels[0], int) else list(channels)
    depth = len(widths[0])
    sizes = [kernel_size] * depth if isinstance(kernel_size, int) else list(kernel_size)
    if len(widths) != tasks or {len(w) for w in widths} != {len(sizes)}:
        raise ValueError(
            f"channels: expected {len(sizes)} widths, or as many for each of {tasks} tasks, got "
            f"{channels}"
        )
    names = [f"conv{i + 1}" for i in range(depth)]
    if not set(shared) <= set(names):
        raise ValueError(f"shared: expected names among {names}, got {list(shared)}")
    small = [tuple(s) for s in input_shapes if min(s[1:]) < 2**depth]
    if small:
        raise ValueError(f"input_shapes: expected sides of {2**depth} or more, got {small}")

    layers: dict[str, nn.Module] = {}
    before = [shape[0] for shape in input_shapes]
    for i, (name, k) in enumerate(zip(names, sizes, strict=True)):
        after = [w[i] for w in widths]
        if len({*zip(after, before, strict=True)}) == 1:
            layers[name] = TaskConv2d(tasks_of(name, tasks, shared), before[0], after[0], k)
        elif name in shared:
            raise ValueError(
                f"shared: expected layers of one shape, got {name} with {before} channels in and "
                f"{after} out"
            )
        else:
            layers[name] = OwnLayer([(o, c, k, k) for o, c in zip(after, before, strict=True)])
        before = after
    flat = [
        b * (h // 2**depth) * (w // 2**depth)
        for b, (_, h, w) in zip(before, input_shapes, strict=True)
    ]
    head = OwnLayer(list(zip(outputs, flat, strict=True)))
    return TaskConvnets(layers, head).reset(seed=seed, common=common)


def _normal(shape: Sequence[int], gain: float, generator: torch.Generator) -> Tensor:
    fan_in = torch.Size(shape[1:]).numel()
    return (gain / fan_in) ** 0.5 * torch.randn(shape, generator=generator)
