"""The networks of the papers: stacks of T, networks of unlike shape, heads, image networks."""

from mtlbook.backbones.heads import TaskHeads, glorot
from mtlbook.backbones.heterogeneous import OwnLayer, TaskConvnets, convolve, kernel_networks
from mtlbook.backbones.stacks import Flatten, convnet, mlp, tasks_of
from mtlbook.backbones.vision import dense_network, image_network, load_backbone

__all__ = [
    "Flatten",
    "OwnLayer",
    "TaskConvnets",
    "TaskHeads",
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
