"""Cross-stitch networks (Misra et al., CVPR 2016), also for tasks whose inputs differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlbook.backbones import TaskConvnets, convolve
from mtlbook.methods.base import NetworkMethod
from mtlbook.relations import Relation


class CrossStitch(NetworkMethod):
    r"""T networks that read learned mixtures of each other's activations.

    OBJECTIVE   :math:`\sum_t \ell_t`, after every stitched layer
                :math:`\tilde a_s = \sum_r \alpha_{sr}\, a_r` for the activations of the networks
                on one batch

    Parameters
    ----------
    networks : TaskConvnets
        The stitched layers are the last ones that stack (kernels of one shape). A batch of task t
        goes through t's own layers below them, then through the stitched layers of **all**
        networks, and from the t-th to t's head.
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

    def __init__(self, networks: TaskConvnets, *, own: float = 0.9):
        if not isinstance(networks, TaskConvnets):
            raise ValueError(f"networks: expected TaskConvnets, got {type(networks).__name__}")
        stacked, names = networks.shareable, list(networks.convolutions)
        top = max((i + 1 for i, name in enumerate(names) if name not in stacked), default=0)
        super().__init__(networks, names[top:])
        if not self.layers:
            raise ValueError(
                "networks: expected a last convolution of one shape for all tasks, got "
                f"{[tuple(k.shape) for k in networks.kernels(names[-1])]}"
            )
        tasks = len(self.tasks)
        start = torch.full((tasks, tasks), (1 - own) / max(tasks - 1, 1))
        self.alpha = nn.ParameterDict(
            {name: nn.Parameter(start.clone().fill_diagonal_(own)) for name in self.layers}
        )

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        network, tasks = self.network, len(self.tasks)
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

    def relation(self) -> Relation:
        """Of what two tasks read, the share that is the other's: ``|alpha|``, mean over layers."""
        alpha = torch.stack([a.detach().abs() for a in self.alpha.values()])
        share = (alpha / alpha.sum(-1, keepdim=True)).mean(0)
        meaning = "share of the other in what two tasks read, 0 to 1 (the diagonal is 1)"
        return Relation(((share + share.mT) / 2).fill_diagonal_(1), meaning)
