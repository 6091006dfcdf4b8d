"""The baselines: no sharing, one trunk, one model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mtlbook.layers import TaskNetwork
from mtlbook.methods.base import NetworkMethod


class STL(NetworkMethod):
    r"""Single-task learning: T networks that never meet. The honest first baseline.

    OBJECTIVE   :math:`\sum_t \ell_t(w_t) + \tfrac{\lambda}{2} \sum_t \|w_t\|_F^2`

    Parameters
    ----------
    network : TaskNetwork
    weight_decay : float
        :math:`\lambda`, on the weights of ``layers``.
    layers : sequence of str, optional
        The decayed layers; by default those that the other methods share.
    """

    def __init__(
        self,
        network: TaskNetwork,
        *,
        weight_decay: float = 0.0,
        layers: Sequence[str] | None = None,
    ):
        super().__init__(network, layers)
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay: expected a number >= 0, got {weight_decay}")
        self.weight_decay = weight_decay

    def penalty(self) -> Tensor:
        if not self.weight_decay or not self.layers:
            return super().penalty()
        squares = sum(layer.weight.square().sum() for layer in self.regularised.values())
        return 0.5 * self.weight_decay * squares


class HardSharing(NetworkMethod):
    r"""One trunk for all tasks, a head for each (Caruana 1997).

    OBJECTIVE   :math:`\sum_t \ell_t(v_t \circ h)`, trunk :math:`h` common to all

    Parameters
    ----------
    network : TaskNetwork
        Some layers of which are built with ``shared``; the head is each task's own.
    """

    def __init__(self, network: TaskNetwork):
        super().__init__(network)
        layers = network.task_layers
        if network.head.tasks == 1 or all(layer.tasks > 1 for layer in layers.values()):
            raise ValueError(
                "network: expected some shared layers and a head for each task, got copies "
                f"{ {name: layer.tasks for name, layer in layers.items()} }"
            )


class Pooled(NetworkMethod):
    r"""One model for all tasks, as if they were one: for tasks with the same classes.

    OBJECTIVE   :math:`\sum_t \ell_t(w)`

    Parameters
    ----------
    network : TaskNetwork
        Built with ``shared=True``.
    tasks : int
        T.
    """

    def __init__(self, network: TaskNetwork, *, tasks: int):
        super().__init__(network, layers=())
        separate = [n for n, layer in network.task_layers.items() if layer.tasks != 1]
        if separate:
            raise ValueError(f"network: expected every layer shared, got copies of {separate}")
        self._tasks = range(tasks)

    @property
    def tasks(self) -> range:
        return self._tasks
