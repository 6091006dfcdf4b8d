"""The networks of the papers: stacks of T, networks of unlike shape, images, yours."""

from mtlbook.backbones.attached import AttachedLayer, AttachedNetworks, attach
from mtlbook.backbones.heads import TaskHeads, glorot
from mtlbook.backbones.heterogeneous import OwnLayer, TaskConvnets, convolve, kernel_networks
from mtlbook.backbones.stacks import Flatten, convnet, mlp, tasks_of
from mtlbook.backbones.vision import dense_network, image_network, load_backbone

__all__ = [
    "AttachedLayer",
    "AttachedNetworks",
    "Flatten",
    "OwnLayer",
    "TaskConvnets",
    "TaskHeads",
    "attach",
    "convnet",
    "convolve",
    "dense_network",
    "glorot",
    "image_network",
    "kernel_networks",
    "load_backbone",
    "mlp",
    "tasks_of",
]
