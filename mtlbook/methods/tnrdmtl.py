"""Trace norm regularised deep multi-task learning (Yang and Hospedales, arXiv 1606.04038)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlbook.layers import TaskNetwork
from mtlbook.methods.base import NetworkMethod
from mtlbook.norms import (
    alignment,
    singular_value_threshold,
    tensor_trace_norms,
    tensorflow_order,
    uncoupled_norms,
)
from mtlbook.tensors import fold, unfold

#: Of the controls: the norm of which each is the sum over tasks.
UNCOUPLED = {"uncoupled": "laf", "uncoupled-tucker": "tucker", "uncoupled-tt": "tt"}
KINDS = ("laf", "tucker", "tt", *UNCOUPLED)


class TNRDMTL(NetworkMethod):
    r"""A tensor trace norm on the stacked weights of every layer that can be shared.

    OBJECTIVE   :math:`\sum_t \ell_t(W^t) + \sum_{l} \sum_i \gamma_{l,i} \|W_l^{(i)}\|_*`
                (eq. 1 with eq. 4, 6 or 7 as the regulariser)

    Parameters
    ----------
    network : TaskNetwork
        T networks of one architecture; as many parameters, and the same forward pass, as STL.
    kind : "laf" | "tucker" | "tt" | "uncoupled" | "uncoupled-tucker" | "uncoupled-tt"
        The norm: TNRDMTL-1 (last axis flattening, eq. 7), -2 (Tucker, eq. 4), -3 (tensor train,
        eq. 6). The others are **our controls**, not the paper's: the sum over tasks of the norm of
        each task alone, the same shrinkage without sharing. ``"uncoupled"`` is that of LAF, the
        sum of the tasks' Frobenius norms, which LAF equals for orthogonal tasks.
    gamma : float, sequence of float, or mapping from layer name to either
        Strength; a sequence weighs the components (1 for laf, N for tucker, N - 1 for tt).
    reduction : "sum" | "mean"
        ``"sum"`` over layers and components (the paper's text); ``"mean"`` over layers of the mean
        over components (the authors' first code, and what figure 1 plots).
    axis_order : "tensorflow" | "torch"
        Of the axes before the last in a stack; matters for tt alone. The authors used TensorFlow.
    init : "random" | "stl"
        ``"stl"`` copies the parameters of the trained ``stl`` (what the text calls optional);
        ``"random"`` leaves the network as it was drawn (what the authors' demonstration does).
    stl : NetworkMethod, optional
        A trained method on the same architecture, for ``init="stl"``.
    layers : sequence of str, optional
        By default every layer with a copy for each task but the head: heads of unequal size are
        opted out of sharing (section 2). Biases are never regularised.
    proximal : bool
        **Our extension**, not the paper's: instead of adding the norm to the gradient, apply its
        proximal map (singular value thresholding) after every step. Exact for laf, the only norm
        with a closed form.
    step_size : float, optional
        Learning rate of the proximal map; with momentum m, ``lr / (1 - m)``.

    Notes
    -----
    Sub-gradients come from :func:`mtlbook.norms.trace_norm` (eq. 8-10).

    References
    ----------
    Yang, Y. and Hospedales, T. M., *Trace norm regularised deep multi-task learning*,
    arXiv 1606.04038v1, 2016.
    """

    def __init__(
        self,
        network: TaskNetwork,
        *,
        kind: str = "laf",
        gamma: float | Sequence[float] | Mapping[str, float | Sequence[float]] = 0.01,
        reduction: str = "sum",
        axis_order: str = "tensorflow",
        init: str = "random",
        stl: NetworkMethod | None = None,
        layers: Sequence[str] | None = None,
        proximal: bool = False,
        step_size: float | None = None,
    ):
        super().__init__(network, layers)
        _one_of("kind", kind, KINDS)
        _one_of("reduction", reduction, ("sum", "mean"))
        _one_of("axis_order", axis_order, ("tensorflow", "torch"))
        _one_of("init", init, ("random", "stl"))
        if (init == "stl") != (stl is not None):
            raise ValueError(
                f"stl: expected a trained method with init='stl' and none without, got "
                f"{type(stl).__name__} with init={init!r}"
            )
        if proximal and (kind != "laf" or step_size is None or reduction != "sum"):
            raise ValueError(
                "proximal: expected kind='laf', reduction='sum' and a step_size, got "
                f"kind={kind!r}, reduction={reduction!r}, step_size={step_size}"
            )
        if not self.layers:
            raise ValueError("layers: expected at least one layer to regularise, got none")
        self.kind, self.reduction, self.axis_order = kind, reduction, axis_order
        self.proximal, self.step_size = proximal, step_size
        if stl is not None:
            self.network.load_state_dict(stl.network.state_dict())
        if isinstance(gamma, Mapping) and set(gamma) != set(self.layers):
            raise ValueError(f"gamma: expected layers {self.layers}, got {tuple(gamma)}")
        for name, norms in self.norms().items():
            weights = gamma[name] if isinstance(gamma, Mapping) else gamma
            weights = [float(g) for g in weights] if isinstance(weights, Sequence) else [weights]
            if len(weights) not in (1, len(norms)):
                raise ValueError(
                    f"gamma: expected a number or {len(norms)} of them for {kind} on {name}, "
                    f"got {weights}"
                )
            if not all(weight >= 0 for weight in weights):
                raise ValueError(f"gamma: expected numbers >= 0, got {weights}")
            weights = weights * (len(norms) // len(weights))
            self.register_buffer(f"gamma_{name}", norms.new_tensor(weights))
            self.register_buffer(f"initial_{name}", norms.detach().mean())

    def stack(self, name: str) -> Tensor:
        """The layer's tensor as the norm sees it, task axis last."""
        stack = self.network.task_layers[name].stack()
        return tensorflow_order(stack) if self.axis_order == "tensorflow" else stack

    def norms(self) -> dict[str, Tensor]:
        """Component norms of every regularised layer, without gamma."""
        if self.kind in UNCOUPLED:
            of = UNCOUPLED[self.kind]
            return {name: uncoupled_norms(self.stack(name), of) for name in self.layers}
        return {name: tensor_trace_norms(self.stack(name), self.kind) for name in self.layers}

    def mean_norm(self) -> Tensor:
        """Mean over layers of the mean over components: the curve of figure 1."""
        return torch.stack([norms.mean() for norms in self.norms().values()]).mean()

    def penalty(self) -> Tensor:
        if self.proximal:
            return super().penalty()
        weighted = [getattr(self, f"gamma_{name}") * norms for name, norms in self.norms().items()]
        if self.reduction == "sum":
            return torch.cat(weighted).sum()
        return torch.stack([norms.mean() for norms in weighted]).mean()

    @torch.no_grad()
    def update(self) -> None:
        """The proximal step, where there is one."""
        if not self.proximal:
            return
        for name, layer in self.regularised.items():
            stack = layer.stack()
            threshold = self.step_size * getattr(self, f"gamma_{name}")
            shrunk = singular_value_threshold(unfold(stack, -1), threshold)
            layer.set_stack(fold(shrunk, -1, stack.shape))

    def sharing_strength(self) -> dict[str, float]:
        """``1 - norm / initial norm`` of every layer.

        The authors' rough estimate as we remember their second version: it reports shrinkage and
        sharing together. :meth:`alignment` tells them apart.
        """
        return {
            name: float(1 - norms.detach().mean() / getattr(self, f"initial_{name}"))
            for name, norms in self.norms().items()
        }

    def alignment(self) -> dict[str, float]:
        """:func:`mtlbook.norms.alignment` of every layer: 1 unrelated, ``1/sqrt(T)`` equal."""
        return layer_alignment(self)


def layer_alignment(method: NetworkMethod) -> dict[str, float]:
    """:func:`mtlbook.norms.alignment` of every layer that a method could share."""
    return {
        name: float(alignment(layer.stack().detach())) for name, layer in method.regularised.items()
    }


def _one_of(argument: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument}: expected one of {tuple(allowed)}, got {value!r}")
