"""The networks of the papers, as stacks of T."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from mtlbook.layers import MaxPool2d, TaskConv2d, TaskLinear, TaskNetwork


class Flatten(nn.Flatten):
    """``(T, B, ...) -> (T, B, features)``."""

    def __init__(self):
        super().__init__(start_dim=2)


def tasks_of(name: str, tasks: int, shared: Collection[str] | bool) -> int:
    """How many copies of the layer ``name`` there are: 1 where all tasks share it."""
    return 1 if shared is True or (shared and name in shared) else tasks


def convnet(
    input_shape: Sequence[int],
    outputs: Sequence[int],
    *,
    seed: int,
    channels: Sequence[int] = (8, 12, 16),
    kernels: Sequence[int] = (5, 3, 3),
    hidden: int = 64,
    padding: str = "same",
    shared: Collection[str] | bool = (),
    std: float = 0.1,
) -> TaskNetwork:
    """The network of TNRDMTL (section 3): three convolutions with pooling, a dense layer, a head.

    conv 5x5x8, pool, conv 3x3x12, pool, conv 3x3x16, pool, dense 64, head; tanh. Layers are named
    ``conv1, conv2, conv3, fc1, head``.

    Parameters
    ----------
    input_shape : (channels, height, width)
    outputs : sequence of T int
        Classes of each task.
    seed : int
        Of the initial weights.
    padding : "same" | "valid"
        Not stated in the paper. "same" with 28 x 28 images gives ``fc1`` the 256 inputs that the
        paper's plotted norms imply; pooling rounds up under "same", down under "valid".
    shared : collection of layer names, or True
        Layers of which there is one for all tasks (hard sharing); True for all, head included.
    std : float
        Of the truncated normal that draws the weights.
    """
    if padding not in ("same", "valid"):
        raise ValueError(f"padding: expected 'same' or 'valid', got {padding!r}")
    tasks = len(outputs)
    size, before = list(input_shape[1:]), input_shape[0]
    trunk: list[tuple[str, nn.Module]] = []
    for i, (width, kernel) in enumerate(zip(channels, kernels, strict=True), start=1):
        name = f"conv{i}"
        copies = tasks_of(name, tasks, shared)
        conv = TaskConv2d(copies, before, width, kernel, padding=padding)
        # tanh after the pooling: it is monotone, so the two commute, and there is a quarter to do.
        pool = MaxPool2d(ceil_mode=padding == "same")
        trunk += [(name, conv), (f"pool{i}", pool), (f"tanh{i}", nn.Tanh())]
        lost = 0 if padding == "same" else kernel - 1
        size = [(s - lost + (padding == "same")) // 2 for s in size]
        before = width
    if min(size) < 1:
        raise ValueError(f"input_shape: expected a larger image, got {tuple(input_shape)}")
    flat = before * size[0] * size[1]
    trunk += [
        ("flatten", Flatten()),
        ("fc1", TaskLinear(tasks_of("fc1", tasks, shared), flat, hidden)),
        ("tanh", nn.Tanh()),
    ]
    return _with_head(trunk, hidden, outputs, shared, seed, std)


def mlp(
    in_features: int,
    outputs: Sequence[int],
    *,
    seed: int,
    hidden: Sequence[int] = (10,),
    activation: type[nn.Module] = nn.Sigmoid,
    shared: Collection[str] | bool = (),
    std: float = 1.0,
    names: Sequence[str] | None = None,
) -> TaskNetwork:
    """A dense network for each task; layers ``fc1, fc2, ..., head``, or as ``names`` says.

    The defaults are those of the authors' demonstration of TNRDMTL (20-10-k, sigmoid). With
    ``names=("fc7", "fc8")`` it is what stands on top of AlexNet's fc6 in MRN.
    """
    names = [*(f"fc{i + 1}" for i in range(len(hidden))), "head"] if names is None else list(names)
    if len(names) != len(hidden) + 1:
        raise ValueError(f"names: expected {len(hidden) + 1} layer names, got {names}")
    tasks, trunk, before = len(outputs), [], in_features
    for i, (name, width) in enumerate(zip(names, hidden, strict=False), start=1):
        trunk += [
            (name, TaskLinear(tasks_of(name, tasks, shared), before, width)),
            (f"activation{i}", activation()),
        ]
        before = width
    return _with_head(trunk, before, outputs, shared, seed, std, names[-1])


def _with_head(trunk, features, outputs, shared, seed, std, name="head") -> TaskNetwork:
    copies = tasks_of(name, len(outputs), shared)
    if copies == 1 and len(set(outputs)) > 1:
        raise ValueError(f"outputs: expected one width for a shared head, got {list(outputs)}")
    widths = outputs[0] if len(set(outputs)) == 1 else list(outputs)
    network = TaskNetwork(trunk, TaskLinear(copies, features, widths), head_name=name)
    return network.reset(std=std, seed=seed)
