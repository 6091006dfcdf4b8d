"""Cross-stitch networks (Misra et al., CVPR 2016), also where samples or inputs differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlbook.backbones import TaskConvnets, convolve
from mtlbook.layers import TaskLayer, TaskNetwork
from mtlbook.methods.base import NetworkMethod
from mtlbook.relations import Relation
from mtlbook.tensors import Ragged


class CrossStitch(NetworkMethod):
    r"""T networks that read learned mixtures of each other's activations.

    OBJECTIVE   :math:`\sum_t \ell_t`, after every stitched layer
                :math:`\tilde a_s = \sum_r \alpha_{sr}\, a_r` for the activations of the networks
                on one batch

    Parameters
    ----------
    networks : TaskNetwork or TaskConvnets
        A batch of task t goes through the stitched layers of **all** networks, and from the t-th to
        t's head. Where networks agree (TaskNetwork), all layers below the head that are not shared
        are stitched, after their activations. Where they differ, the last ones that stack (kernels
        of one shape); below them a batch goes through its own task's.
    own : float
        Start of :math:`\alpha_{tt}`; the others share ``1 - own``.

    Notes
    -----
    The paper's tasks look at the same images, so all networks run on every batch; so do ours, at T
    times the cost in the stitched layers. What the paper does not have is a first layer that only
    one network can apply: where input channels differ, nothing is stitched before the first layer
    in which activations of one shape exist. One alpha per layer and pair of tasks.

    References
    ----------
    Misra, I., Shrivastava, A., Gupta, A. and Hebert, M., *Cross-stitch networks for multi-task
    learning*, CVPR 2016.
    """

    def __init__(self, networks: TaskNetwork | TaskConvnets, *, own: float = 0.9):
        if not isinstance(networks, TaskNetwork | TaskConvnets):
            raise ValueError(
                f"networks: expected TaskNetwork or TaskConvnets, got {type(networks).__name__}"
            )
        stacked, layers = networks.shareable, networks.task_layers
        if isinstance(networks, TaskConvnets):  # none below one that only one network can apply
            names = list(networks.convolutions)
            top = max((i + 1 for i, name in enumerate(names) if name not in stacked), default=0)
            stacked = names[top:]
        super().__init__(networks, stacked)
        if not self.layers:
            shapes = {
                name: [tuple(w.shape) for w in layer.weight] for name, layer in layers.items()
            }
            raise ValueError(
                "networks: expected layers below the head of each task's own, the last of one "
                f"shape, got {shapes}"
            )
        tasks = len(self.tasks)
        start = torch.full((tasks, tasks), (1 - own) / max(tasks - 1, 1))
        self.alpha = nn.ParameterDict(
            {name: nn.Parameter(start.clone().fill_diagonal_(own)) for name in self.layers}
        )

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        network, tasks = self.network, len(self.tasks)
        if len(inputs) != tasks:
            raise ValueError(
                f"inputs: expected a batch for each of {tasks} tasks, got {len(inputs)}"
            )
        if isinstance(network, TaskNetwork):
            return self._in_one(self.network.stacked(inputs))
        below = [name for name in network.convolutions if name not in self.layers]
        outputs = []
        for t, x in enumerate(inputs):
            for name in below:
                x = convolve(x, network.kernels(name)[t], network.biases(name)[t])
            groups = 1  # x is the input of all networks, after the first stitch one of each
            for name in self.layers:
                layer = network.convolutions[name]
                x = convolve(x, layer.weight.flatten(0, 1), layer.bias.flatten(), groups)
                apart = x.unflatten(1, (tasks, -1))  # (B, T, C, H, W)
                x = torch.einsum("sr,brchw->bschw", self.alpha[name], apart).flatten(1, 2)
                groups = tasks
            outputs.append(network.classify(x.unflatten(1, (tasks, -1))[:, t], t))
        return outputs

    def _in_one(self, batch: Ragged) -> Ragged:
        """The networks of one architecture, all at once: activations ``(T, T B, ...)``."""
        tasks, size, *shape = batch.padded.shape
        x = batch.padded.reshape(1, tasks * size, *shape).expand(tasks, -1, *[-1] * len(shape))
        ends = {end: layer for layer, end in self._activated().items() if layer in self.layers}
        for name, module in self.network.trunk.named_children():
            x = module(x)
            if name not in ends:
                continue
            alpha = self.alpha[ends[name]]
            if ends[name] == self.layers[-1]:  # from here on a sample needs its own network alone
                x = torch.einsum("tr,rtb...->tb...", alpha, x.unflatten(1, (tasks, size)))
            else:
                x = torch.einsum("sr,rb...->sb...", alpha, x)
        return batch.like(self.network.head(x), self.network.head.widths)

    def _activated(self) -> dict[str, str]:
        """Of each layer of the trunk the module that gives its activation: before the next one."""
        layer, found = "", {}
        for name, module in self.network.trunk.named_children():
            layer = name if isinstance(module, TaskLayer) else layer
            found[layer] = name
        return found

    def relation(self) -> Relation:
        """Of what two tasks read, the share that is the other's: ``|alpha|``, mean over layers."""
        alpha = torch.stack([a.detach().abs() for a in self.alpha.values()])
        share = (alpha / alpha.sum(-1, keepdim=True)).mean(0)
        meaning = "share of the other in what two tasks read, 0 to 1 (the diagonal is 1)"
        return Relation(((share + share.mT) / 2).fill_diagonal_(1), meaning)
