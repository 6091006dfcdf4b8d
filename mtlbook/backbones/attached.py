"""Networks that somebody else has written, as one network of T tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call


class AttachedLayer(nn.Module):
    """One parameter of T networks, seen as a layer with a task axis.

    It owns nothing: ``weight`` stacks the networks' own parameters anew at every use, and what is
    differentiated in it reaches them.

    Parameters
    ----------
    parameters : sequence of T Tensor
        ``(out, in)`` as in ``nn.Linear`` (of ``nn.Embedding`` or an attention likewise), or
        ``(out, in, height, width)`` as in ``nn.Conv2d``; of one shape, where they are to stack.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        super().__init__()
        self._own = tuple(parameters)  # no module's parameters: they are their networks'

    @property
    def tasks(self) -> int:
        return len(self._own)

    @property
    def weight(self) -> Tensor:
        """``(T, in, out)`` of dense layers, ``(T, out, in, kh, kw)`` of convolutions; a copy."""
        stacked = self.stack().movedim(-1, 0)
        return stacked.mT if stacked.ndim == 3 else stacked

    def stack(self) -> Tensor:
        """The papers' tensor, task axis last."""
        shapes = [tuple(parameter.shape) for parameter in self._own]
        if len(set(shapes)) > 1:
            raise ValueError(f"layer: expected weights of one shape to stack, got {shapes}")
        if len(devices := {str(parameter.device) for parameter in self._own}) > 1:
            raise ValueError(f"layer: expected weights on one device, got {sorted(devices)}")
        return torch.stack(self._own, -1)

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Write the networks' parameters from ``(T, ...)`` as :attr:`weight` shows them."""
        for own, new in zip(self._own, weight, strict=True):
            if own.requires_grad:  # what is frozen stays
                own.copy_(new.mT if new.ndim == 2 else new)

    @torch.no_grad()
    def set_stack(self, stack: Tensor) -> None:
        """Write them as :meth:`stack` shows them."""
        for own, new in zip(self._own, stack.unbind(-1), strict=True):
            if own.requires_grad:
                own.copy_(new)


class AttachedHead:
    """Stands for the heads of networks that keep their own: as many as there are tasks."""

    def __init__(self, tasks: int):
        self.tasks, self.widths = tasks, None


class AttachedNetworks(nn.Module):
    """T networks that somebody else has written; made by :func:`attach`.

    It offers what :class:`mtlbook.layers.TaskNetwork` and
    :class:`mtlbook.backbones.heterogeneous.TaskConvnets` offer to ``STL``, ``TNRDMTL``, ``MRN``,
    ``DRN``, ``FixedRelation`` and ``MTAL``. Its ``state_dict`` is that of the networks.

    Parameters
    ----------
    networks : nn.ModuleList
    names : mapping of layer name to the name of a parameter
    """

    def __init__(self, networks: nn.ModuleList, names: dict[str, str]):
        super().__init__()
        self.networks, self.names = networks, dict(names)

    @property
    def task_layers(self) -> dict[str, AttachedLayer]:
        """The attached parameters, by layer name; looked up anew, whatever has become of them."""
        return {
            layer: AttachedLayer(self._parameters_of(name)) for layer, name in self.names.items()
        }

    @property
    def shareable(self) -> tuple[str, ...]:
        """All that were named: whoever names a head wants it coupled."""
        return tuple(self.names)

    @property
    def separate(self) -> tuple[str, ...]:
        """The same."""
        return self.shareable

    @property
    def head_name(self) -> str:
        """The last one that was named."""
        return self.shareable[-1]

    @property
    def head(self) -> AttachedHead:
        return AttachedHead(len(self.networks))

    def learn_only(self, names: Sequence[str]) -> None:
        """Fix all parameters but those of the modules that own these."""
        self.networks.requires_grad_(False)
        for name in names:
            owner = self.names[name].rpartition(".")[0]
            for network in self.networks:
                network.get_submodule(owner).requires_grad_(True)

    @property
    def kernel_layers(self) -> tuple[str, ...]:
        """Names of the convolutions, whose shapes may differ."""
        return tuple(n for n, name in self.names.items() if self._parameters_of(name)[0].ndim == 4)

    def kernels(self, name: str) -> list[Tensor]:
        """The filters of each task in a layer: T tensors (out, in, kh, kw)."""
        return self._parameters_of(self.names[name])

    @torch.no_grad()
    def set_kernels(self, name: str, kernels: Sequence[Tensor]) -> None:
        """Write the filters of each task."""
        for own, new in zip(self.kernels(name), kernels, strict=True):
            own.copy_(new)

    def forward(
        self, inputs: Sequence[Tensor], kernels: Mapping[str, Sequence[Tensor]] | None = None
    ) -> list[Tensor]:
        """T batches to T outputs, each by its own network.

        Parameters
        ----------
        inputs : sequence of T Tensor
        kernels : mapping of layer name to T tensors, optional
            To use in place of the networks' own parameters.
        """
        if not kernels:
            return [network(x) for network, x in zip(self.networks, inputs, strict=True)]
        given = {self.names[layer]: new for layer, new in kernels.items()}
        return [
            functional_call(network, {name: new[t] for name, new in given.items()}, (x,))
            for t, (network, x) in enumerate(zip(self.networks, inputs, strict=True))
        ]

    def _parameters_of(self, name: str) -> list[Tensor]:
        return [network.get_parameter(name) for network in self.networks]


def attach(networks: Sequence[nn.Module], parameters: Sequence[str]) -> AttachedNetworks:
    """Join T networks of your own, so that a method of this package can be put on them.

    The norms and priors do not care where a stack of weights comes from. ``TNRDMTL``, ``MRN``,
    ``DRN``, ``FixedRelation``, ``STL`` and, on convolutions, ``MTAL`` take what this returns as
    their network: their ``penalty()``, ``update()`` and ``relation()`` then serve in a training
    loop of your own, and ``fit`` trains them as it trains any other. One trunk of your own with T
    heads needs no such thing: ``SharedTrunk``, ``Balanced`` and ``SRDML`` take modules.

    Parameters
    ----------
    networks : sequence of T nn.Module
        Of one architecture as far as the named parameters go; inputs and heads may differ. A
        method changes them in place; what it does not name, it does not touch.
    parameters : sequence of str
        Names as ``named_parameters()`` gives them, e.g. ``"fc1.weight"``: matrices or convolutions.
        The layers are called ``fc1`` (without ``.weight``), other dots become ``_``.

    Raises
    ------
    ValueError
        If a parameter is missing in a network, is shared by two, has no shape yet (lazy), or is no
        matrix or convolution. A method that stacks parameters of unlike shape or device says so
        itself.

    Examples
    --------
    >>> from mtlbook.methods import TNRDMTL
    >>> make = lambda classes: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))
    >>> method = TNRDMTL(attach([make(2), make(3)], ["0.weight"]), kind="laf", gamma=0.1)
    >>> method.layers, method.penalty().requires_grad
    (('0',), True)
    """
    if not isinstance(networks, nn.ModuleList):
        networks = list(networks)
        if odd := [type(network) for network in networks if not isinstance(network, nn.Module)]:
            raise ValueError(f"networks: expected a sequence of nn.Module, got {odd[0].__name__}")
        networks = nn.ModuleList(networks)
    if not len(networks):
        raise ValueError("networks: expected at least one, got none")
    if len({id(network) for network in networks}) < len(networks):
        raise ValueError("networks: expected one for each task, got the same module twice")
    if isinstance(parameters, str) or not parameters:
        raise ValueError(f"parameters: expected a sequence of names, got {parameters!r}")
    names: dict[str, str] = {}
    seen: dict[int, str] = {}
    for name in parameters:
        layer = name.removesuffix(".weight").replace(".", "_")
        if layer in names:
            raise ValueError(f"parameters: expected different names, got {name!r} twice")
        _check(networks, name)
        for network in networks:
            own = id(network.get_parameter(name))
            if own in seen:
                raise ValueError(
                    f"parameters: expected different ones, got {name!r}, tied to {seen[own]!r}"
                )
            seen[own] = name
        names[layer] = name
    return AttachedNetworks(networks, names)


def _check(networks: nn.ModuleList, name: str) -> None:
    found = [dict(n.named_parameters(remove_duplicate=False)).get(name) for n in networks]
    for task, (network, parameter) in enumerate(zip(networks, found, strict=True)):
        if parameter is None:
            own = network.named_parameters()
            known = [n for n, p in own if nn.parameter.is_lazy(p) or p.ndim > 1]
            raise ValueError(
                f"parameters: expected names among {known} of network {task}, got {name!r}"
            )
        if nn.parameter.is_lazy(parameter):
            raise ValueError(
                f"parameters: expected a shape, got {name!r} of network {task}, which has none "
                "before the network was called once"
            )
    shapes = [tuple(parameter.shape) for parameter in found]
    if {len(shape) for shape in shapes} not in ({2}, {4}):
        raise ValueError(
            f"parameters: expected matrices (out, in) or convolutions (out, in, height, width), "
            f"got {name!r} of shapes {shapes}"
        )
    if len({id(parameter) for parameter in found}) < len(found):
        raise ValueError(f"parameters: expected a copy of {name!r} for each task, got a shared one")
