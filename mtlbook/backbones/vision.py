"""AlexNet and VGG16 as networks of T tasks: those that MRN names; DRN's figure has the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlbook.layers import TaskLinear, TaskNetwork


class PerImage(nn.Module):
    """A module on batches ``(B, C, H, W)`` as one on ``(T, B, C, H, W)``: all tasks share it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def load_backbone(
    backbone: str, weights: str | None = None, width: int | None = None
) -> tuple[nn.Module, list[nn.Linear]]:
    """The convolutions of a network of torchvision, and its fc6 and fc7.

    Parameters
    ----------
    backbone : "alexnet" | "vgg16"
        Of torchvision, which must be installed.
    weights : str, optional
        torchvision's name of trained weights, e.g. ``"IMAGENET1K_V1"``, which it downloads; None
        for random ones (drawn from torch's global generator).
    width : int, optional
        Outputs of fc6 and fc7 in place of 4,096, at random weights: for a rehearsal.

    Returns
    -------
    convolutions : nn.Module
        ``(B, 3, H, W)`` to the flattened maps ``(B, 9216)``, of VGG16 ``(B, 25088)``.
    dense : list of two nn.Linear
    """
    from torchvision import models

    if backbone not in ("alexnet", "vgg16"):
        raise ValueError(f"backbone: expected 'alexnet' or 'vgg16', got {backbone!r}")
    model = models.get_model(backbone, weights=weights)
    convolutions = nn.Sequential(model.features, model.avgpool, nn.Flatten())
    dense = [module for module in model.classifier if isinstance(module, nn.Linear)][:2]
    if width:
        dense = [nn.Linear(dense[0].in_features, width), nn.Linear(width, width)]
    return convolutions, dense


def image_network(
    backbone: str,
    outputs: Sequence[int],
    *,
    seed: int,
    weights: str | None = None,
    shared: Sequence[str] = ("fc6",),
    fix_convolutions: bool = True,
    std: float = 0.01,
) -> TaskNetwork:
    """The network of MRN (figure 1): convolutions and fc6 for all tasks, fc7 and fc8 for each.

    Layers are named ``conv, fc6, fc7, fc8``. Every task's fc7 starts as a copy of the backbone's.

    Parameters
    ----------
    backbone, weights
        As in :func:`load_backbone`.
    outputs : sequence of T int
        Classes of each task.
    seed : int
        Of the heads' weights.
    shared : sequence of "fc6", "fc7"
        Layers of which there is one for all tasks. DRN's figure has copies of fc6, too: ``()``.
    fix_convolutions : bool
        They do not learn (section 5.1; section 4.1 says that they do).
    std : float
        Of the truncated normal that draws the heads.
    """
    convolutions, dense = load_backbone(backbone, weights)
    convolutions.requires_grad_(not fix_convolutions)
    conv = [("conv", PerImage(convolutions))]
    return dense_network(dense, outputs, seed=seed, shared=shared, std=std, below=conv)


def dense_network(
    dense: Sequence[nn.Linear],
    outputs: Sequence[int],
    *,
    seed: int,
    shared: Sequence[str] | bool = ("fc6",),
    std: float = 0.01,
    below: Sequence[tuple[str, nn.Module]] = (),
) -> TaskNetwork:
    """The layers fc6, fc7 and fc8 of :func:`image_network`, on the maps of fixed convolutions.

    Parameters
    ----------
    dense : two nn.Linear
        Of :func:`load_backbone`: where fc6 and fc7 start.
    outputs, seed, std
        As in :func:`image_network`.
    shared : sequence of "fc6", "fc7", or True
        True: one model for all tasks, fc8 included.
    below : sequence of (str, nn.Module)
        Layers below fc6.
    """
    names = ("fc6", "fc7")
    unknown = [] if shared is True else [name for name in shared if name not in names]
    if unknown:
        raise ValueError(f"shared: expected names among ['fc6', 'fc7'], got {unknown}")
    trunk = list(below)
    for name, source in zip(names, dense, strict=True):
        copies = 1 if shared is True or name in shared else len(outputs)
        layer = TaskLinear(copies, source.in_features, source.out_features)
        trunk += [(name, layer), (f"relu_{name}", nn.ReLU()), (f"dropout_{name}", nn.Dropout())]
    if shared is True and len(set(outputs)) > 1:
        raise ValueError(f"outputs: expected one width for a shared head, got {list(outputs)}")
    widths = outputs[0] if len(set(outputs)) == 1 else list(outputs)
    head = TaskLinear(1 if shared is True else len(outputs), dense[1].out_features, widths)
    head.reset(std=std, generator=torch.Generator().manual_seed(seed))
    network = TaskNetwork(trunk, head, head_name="fc8")
    with torch.no_grad():
        for name, source in zip(names, dense, strict=True):
            network.task_layers[name].weight.copy_(source.weight.mT)  # to every task
            network.task_layers[name].bias.copy_(source.bias)
    return network
