"""The one protocol of all methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlbook.layers import TaskLayer, TaskNetwork
from mtlbook.relations import Relation, cosine_relation
from mtlbook.tasks import TaskSet


class Method(nn.Module):
    """A method of multi-task learning: a module over T tasks.

    OBJECTIVE   sum over tasks of the task's mean loss  +  ``penalty()``

    ``fit`` calls, in every step, ``forward``, ``penalty``, ``backward`` and the optimiser, and
    after every ``update_every`` steps ``update``. A penalty may use what ``forward`` has kept of
    the batch (SRDML's saliency of the batch's features).

    Attributes
    ----------
    tasks : sequence
        One entry per task; its length is T.
    update_every : int
        Steps between calls of ``update``.
    """

    update_every: int = 1
    tasks: Sequence

    def solve(self, train: TaskSet) -> bool:
        """Learn by iterations of its own, and say so; False where it learns by gradient steps."""
        return False

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """T batches, whose sizes and shapes may differ, to T outputs."""
        raise NotImplementedError

    def penalty(self) -> Tensor:
        """The differentiable term that the paper adds to the sum of task losses."""
        return next(self.parameters()).new_zeros(())

    def backward(self, losses: Tensor, penalty: Tensor) -> None:
        """Gradients of the sum of the task losses, shape ``(T,)``, plus the penalty.

        A method that weighs or projects the tasks' gradients (MGDA, PCGrad) does so here.
        """
        (losses.sum() + penalty).backward()

    def update(self) -> None:
        """What the paper changes in closed form or by a step of its own."""

    def relation(self) -> Relation | None:
        """How the method holds its tasks to be related, or None where it does not say."""
        return None


class NetworkMethod(Method):
    """A method on T networks of one architecture.

    Parameters
    ----------
    network : TaskNetwork
    layers : sequence of str, optional
        Names of the layers that the method regularises; by default all that can be shared.
    """

    def __init__(self, network: TaskNetwork, layers: Sequence[str] | None = None):
        super().__init__()
        self.network = network
        known = network.task_layers
        layers = network.shareable if layers is None else tuple(layers)
        unknown = [name for name in layers if name not in known]
        if unknown:
            raise ValueError(f"layers: expected names among {list(known)}, got {unknown}")
        shared = [name for name in layers if known[name].tasks != network.head.tasks]
        if shared:
            raise ValueError(f"layers: expected layers with one copy per task, got {shared}")
        self.layers = layers

    @property
    def tasks(self) -> range:
        return range(self.network.head.tasks)

    @property
    def regularised(self) -> dict[str, TaskLayer]:
        """The layers that the method regularises, by name."""
        return {name: self.network.task_layers[name] for name in self.layers}

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return self.network(inputs)

    def relation(self) -> Relation | None:
        """Cosines of the tasks' regularised parameters; None where no layer has a task axis."""
        if not self.layers:
            return None
        weights = [layer.weight.detach().flatten(1) for layer in self.regularised.values()]
        return cosine_relation(torch.cat(weights, 1))
