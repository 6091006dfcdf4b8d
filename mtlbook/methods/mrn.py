"""Multilinear relationship networks (Long, Cao, Wang and Yu, NIPS 2017, arXiv 1506.02117v4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from mtlbook.choices import dense_covariance
from mtlbook.layers import TaskNetwork
from mtlbook.methods.base import NetworkMethod
from mtlbook.methods.mrn_released import released
from mtlbook.priors import (
    Cholesky,
    Covariance,
    LowRankPlusDiagonal,
    StoredCovariance,
    check_covariance,
    decompose,
    log_determinant_term,
    mode_covariance,
    normalise_trace,
    proximal_step,
    quadratic_form,
    whiten,
)
from mtlbook.relations import Relation
from mtlbook.tensors import exact


@dataclass(frozen=True)
class Switches:
    r"""What MRN's sources leave open or do differently; each a choice of its own.

    The defaults are this book's; :data:`mtlbook.methods.mrn.RELEASED` holds those of the authors'
    code.

    Parameters
    ----------
    learn : sequence of "feature", "class", "task"
        Covariances that are learned; the others stay the identity. ``("task",)`` is MRN_t.
    weight : float
        :math:`\lambda` in front of the prior; the paper has none, which is 1 for *summed* losses.
    update_every : int
        Steps between updates of the covariances. Paper: an epoch. Released: 100.
    max_updates : int, optional
        The covariances stay as they are after so many updates.
    eps : float, or mapping from a name in ``learn`` to one
        What is added to, or shrinks, an updated covariance. Released: 1e-5.
    relative : bool
        True: ``(1 - eps) S + eps (tr S / d) I``. False: ``S + eps I`` (paper, released).
    scale : "trace" | "none"
        "trace": every covariance has the trace of the identity and ``weight`` carries the scale.
        "none": as eq. 11 gives it (paper, released).
    order : "sequential" | "simultaneous"
        Whether an update sees those before it in the same round. The paper does not say; released:
        simultaneous, though it learns but one.
    divide : bool
        The factor :math:`D_k / D` of eq. 11. Released: left out.
    half : bool
        The factor 1/2 in front of the quadratic form (eq. 9). Released: left out.
    log_determinant : bool
        The second term of eq. 9, with the sign of the density. No gradient reaches the weights
        from it. Released: left out.
    threshold : float, optional
        Released: 0.1. The "inverse" of an eigenvalue s is 1/s above it, and **s itself** below.
    trace_cap : float, optional
        Released: 3000, the largest trace of a precision.
    feature_step : float, optional
        Released, in the part commented out: 0.0003. New feature precisions are *added* to the old
        with this factor, instead of replacing them.
    freeze : bool
        Layers without a prior do not learn. Released: yes (learning rate 0).
    proximal : float, optional
        **Ours**: the step size with which the prior's proximal map is applied, exactly and
        ``update_every`` times as strong, at every update. Nothing is then added to the loss, and a
        step costs what it costs in STL. With momentum m, ``lr / (1 - m)``.
    curvature : float, optional
        **Ours**: the largest that the prior may have. An update that makes it larger weakens the
        prior of the layer to this. Gradient steps of size ``lr`` with momentum m grow without bound
        above ``2 (1 + m) / lr`` (:eq:`mrn-too-long`).
    features : int, optional
        **Ours**: the number of features where the inputs of the only layer with a prior are given
        in an orthonormal basis of a subspace that holds them all, and the weights. The prior then
        counts the others, too, and all weights are what they would be in the whole space.
    """

    learn: Sequence[str] = ("feature", "class", "task")
    weight: float = 1e-3
    update_every: int = 100
    max_updates: int | None = None
    eps: float | Mapping[str, float] | None = None
    relative: bool = True
    scale: str = "trace"
    order: str = "sequential"
    divide: bool = True
    half: bool = True
    log_determinant: bool = True
    threshold: float | None = None
    trace_cap: float | None = None
    feature_step: float | None = None
    freeze: bool = False
    proximal: float | None = None
    curvature: float | None = None
    features: int | None = None


#: The authors' code at its last state (thuml/MTlearn, 566df73, December 2017).
RELEASED = Switches(
    learn=("task",),
    weight=1.0,
    update_every=100,
    eps=1e-5,
    relative=False,
    scale="none",
    order="simultaneous",
    divide=False,
    half=False,
    log_determinant=False,
    threshold=0.1,
    trace_cap=3000.0,
    feature_step=0.0003,
    freeze=True,
)

#: Shrinkage of each covariance where ``eps`` is not given. One sample of the weights, few outputs:
#: the larger a mode, the less is known of its covariance.
SHRINKAGE = {"feature": 0.9, "class": 0.5, "task": 0.1}


class MRN(NetworkMethod):
    r"""A tensor normal prior on the stacked weights of every task-specific layer.

    OBJECTIVE   :math:`\sum_t \ell_t(W^t) + \tfrac{\lambda}{2} \sum_l \bigl( Q_l + \sum_k
    \tfrac{D^l}{D_k^l} \ln |\Sigma_k^l| \bigr)`,
    :math:`Q_l = \operatorname{vec}(\tensor W^l)^\top (\Sigma_1^l \otimes \Sigma_2^l \otimes
    \Sigma_3^l)^{-1} \operatorname{vec}(\tensor W^l)`   (eq. 9, its sign mended)

    Weights by gradient steps (eq. 10), covariances in closed form, one after the other (eq. 11).
    MRN_8 of the paper is ``layers=("fc8",)``, MRN_t is ``learn=("task",)``.

    Parameters
    ----------
    network : TaskNetwork
    layers : sequence of str, optional
        By default every layer with a copy for each task, the head among them (the paper's fc7 and
        fc8); ``as_released``, the head alone.
    as_released : bool
        Start from :data:`mtlbook.methods.mrn.RELEASED` instead of this book's choices.
    **switches
        Of :class:`mtlbook.methods.mrn.Switches`: each deviation by itself.

    Notes
    -----
    A layer has the modes class (its outputs), feature (its inputs) and task; kernel height and
    width of a convolution get no covariance. The order of the axes plays no part, so all is done
    in the layer's own, tasks first. Covariances are buffers: eigendecompositions where they are of
    low rank or may be singular, else Cholesky factors. They start as identities: weight decay.

    References
    ----------
    Long, M., Cao, Z., Wang, J. and Yu, P. S., *Learning multiple tasks with multilinear
    relationship networks*, NIPS 2017.
    """

    #: The covariances that there are, in the order of their updates.
    names: ClassVar[Sequence[str]] = ("task", "class", "feature")

    def __init__(
        self,
        network: TaskNetwork,
        layers: Sequence[str] | None = None,
        *,
        as_released: bool = False,
        **switches,
    ):
        if layers is None:
            head = network.head_name
            layers = tuple(n for n in network.separate if n == head or not as_released)
        super().__init__(network, layers)
        self.switches = replace(RELEASED if as_released else Switches(), **switches)
        self.update_every, self.updates = self.switches.update_every, 0
        self._check()
        chosen = self.switches
        self.caps = {chosen.threshold, chosen.trace_cap, chosen.feature_step} != {None}
        if chosen.freeze:
            network.learn_only(self.layers)
        self.kept = nn.ModuleDict()
        for name, layer in self.regularised.items():
            layer.stack()  # complains of heads that differ in width
            self.register_buffer(
                f"{name}_log_determinant", self.tensor(name).detach().new_zeros(())
            )
            if self.switches.curvature is not None:
                self.register_buffer(f"{name}_weaker", self.tensor(name).detach().new_ones(()))
            for which in self.switches.learn:
                self.kept[f"{name}_{which}"] = StoredCovariance(self._identity(name, which))

    def get_extra_state(self) -> Tensor:
        """The number of updates, which ``max_updates`` bounds."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)

    def _check(self) -> None:
        chosen = self.switches
        if not self.layers:
            raise ValueError("layers: expected at least one layer with a prior, got none")
        unknown = [which for which in chosen.learn if which not in self.names]
        if unknown or isinstance(chosen.learn, str):
            raise ValueError(f"learn: expected names among {self.names}, got {chosen.learn}")
        if not chosen.weight >= 0:
            raise ValueError(f"weight: expected a number >= 0, got {chosen.weight}")
        if chosen.update_every < 1:
            raise ValueError(f"update_every: expected at least 1, got {chosen.update_every}")
        for name, of in (("scale", ("trace", "none")), ("order", ("sequential", "simultaneous"))):
            if (given := getattr(chosen, name)) not in of:
                raise ValueError(f"{name}: expected {of[0]!r} or {of[1]!r}, got {given!r}")
        eps = chosen.eps
        if not isinstance(eps, Mapping):
            eps = {} if eps is None else dict.fromkeys(self.names, eps)
        self.eps = {**SHRINKAGE, **eps}
        if set(eps) - set(self.names):
            raise ValueError(f"eps: expected names among {self.names}, got {list(eps)}")
        if min(self.eps.values()) < 0 or (chosen.relative and max(self.eps.values()) > 1):
            raise ValueError(f"eps: expected numbers >= 0, relative ones <= 1, got {chosen.eps}")
        if chosen.curvature is not None and not chosen.curvature > 0:
            raise ValueError(f"curvature: expected a number > 0, got {chosen.curvature}")
        if chosen.features is not None:
            if len(self.layers) != 1 or chosen.scale != "trace" or not chosen.relative:
                raise ValueError(
                    "features: expected one layer with a prior, relative=True and scale='trace', "
                    f"got {self.layers}, {chosen.relative} and {chosen.scale!r}"
                )

    def _size(self, which: str) -> int | None:
        """The dimension of a mode, where the layer holds a part of it."""
        return self.switches.features if which == "feature" else None

    def _identity(self, name: str, which: str) -> Covariance:
        """The identity in the form that updates will have."""
        tensor, mode, size = self.tensor(name).detach(), self.mode(name, which), self._size(which)
        d = tensor.shape[mode]
        if self._is_dense(tensor, which, mode):
            return Cholesky(*[tensor.new_zeros(d, d).fill_diagonal_(1) for _ in range(2)])
        rank = min(d, tensor.numel() // d)
        return LowRankPlusDiagonal.identity(d, rank, size=size, like=tensor)

    def tensor(self, name: str) -> Tensor:
        """The layer's weights as they are stored, task axis first."""
        return self.network.task_layers[name].weight

    def mode(self, name: str, which: str) -> int:
        """Axis of :meth:`tensor` that a covariance belongs to."""
        if which == "task":
            return 0
        dense = self.tensor(name).ndim == 3  # (T, in, out), against (T, out, in, kh, kw)
        return 1 if (which == "feature") == dense else 2

    def covariance(self, name: str, which: str) -> Covariance:
        """A covariance of a layer: ``which`` of ``learn``."""
        return self.kept[f"{name}_{which}"].get()

    def covariances(self, name: str) -> list[Covariance]:
        """One for each axis of the layer's tensor; None for the identity."""
        result: list[Covariance] = [None] * self.tensor(name).ndim
        for which in self.switches.learn:
            result[self.mode(name, which)] = self.covariance(name, which)
        return result

    @torch.no_grad()
    def set_covariance(self, name: str, which: str, covariance: Covariance) -> None:
        """Put a covariance, one of ``learn``, in the place of a layer's."""
        size = self.tensor(name).shape[self.mode(name, which)]
        if tuple(covariance.shape) != (size, size):
            raise ValueError(
                f"covariance: expected shape {(size, size)} for {which} of {name}, got "
                f"{tuple(covariance.shape)}"
            )
        if covariance.device.type != "meta":
            check_covariance("covariance", covariance)
        self.kept[f"{name}_{which}"].put(decompose(covariance, check=False))
        self._settle(name)

    def _settle(self, name: str) -> None:
        """What follows from new covariances."""
        setattr(self, f"{name}_log_determinant", self._log_determinant(name))
        if self.switches.curvature is not None:
            excess = self.stiffness(name) / self.switches.curvature
            setattr(self, f"{name}_weaker", 1 / excess.clamp(min=1))

    def _log_determinant(self, name: str) -> Tensor:
        """Second term of eq. 9 for one layer; kept, since it changes at updates alone."""
        tensor = self.tensor(name)
        shape = list(tensor.shape)
        if self.switches.features is not None:
            shape[self.mode(name, "feature")] = self.switches.features
        return log_determinant_term(shape, self.covariances(name)).to(tensor)

    def penalty(self) -> Tensor:
        """The negative log prior of the weights (eq. 9, its sign mended)."""
        chosen = self.switches
        if chosen.proximal is not None:
            return super().penalty()
        total = sum(self._quadratic_form(n) for n in self.layers)
        total = 0.5 * total if chosen.half else total
        if chosen.log_determinant:
            total = total + 0.5 * sum(getattr(self, f"{n}_log_determinant") for n in self.layers)
        return chosen.weight * total

    def _quadratic_form(self, name: str) -> Tensor:
        form = quadratic_form(self.tensor(name), self.covariances(name))
        return form * self._buffers.get(f"{name}_weaker", 1)

    @torch.no_grad()
    def stiffness(self, name: str) -> Tensor:
        """The largest curvature of a layer's prior: the weight times the largest precision."""
        factor = self.switches.weight if self.switches.half else 2 * self.switches.weight
        known = [c.stiffness() for c in self.covariances(name) if c is not None]
        return math.prod(known, start=self.tensor(name).new_tensor(factor))

    @torch.no_grad()
    def update(self) -> None:
        """The proximal step where there is one, then a flip-flop round on every layer."""
        chosen = self.switches
        if chosen.proximal is not None:
            strength = chosen.proximal * self.update_every * chosen.weight
            for name in self.layers:
                scale = self._buffers.get(f"{name}_weaker", 1) * (1 if chosen.half else 2)
                new = proximal_step(self.tensor(name), self.covariances(name), scale * strength)
                self.network.task_layers[name].set_weight(new)
        if chosen.max_updates is not None and self.updates >= chosen.max_updates:
            return
        self.updates += 1
        for name in self.layers:
            with exact(self.tensor(name)):
                self._update_layer(name)

    def _update_layer(self, name: str) -> None:
        chosen, tensor, seen = self.switches, self.tensor(name), self.covariances(name)
        new, white, others = {}, tensor, seen
        mode = self.mode(name, "feature")
        if isinstance(seen[mode], Cholesky):  # a dear product that the other modes have in common
            white = whiten(tensor, [c if i == mode else None for i, c in enumerate(seen)])
            others = [None if i == mode else c for i, c in enumerate(seen)]
        for which in (which for which in self.names if which in chosen.learn):
            mode = self.mode(name, which)
            given = (tensor, seen) if which == "feature" else (white, others)
            new[which] = self._updated(*given, which, mode)
            if chosen.order == "sequential":
                seen[mode] = others[mode] = new[which]
        for which, covariance in new.items():
            self.kept[f"{name}_{which}"].put(covariance)
        self._settle(name)

    def _updated(self, w: Tensor, covariances: Sequence, which: str, mode: int) -> Covariance:
        """The new covariance of one mode, eq. 11 or what the switches make of it."""
        chosen, eps = self.switches, self.eps[which]
        if not chosen.divide:
            w = w * (w.numel() / w.shape[mode]) ** 0.5
        kind = {"eps": eps, "relative": chosen.relative}
        if self.caps:
            new = released(w, covariances, which, mode, chosen, eps)
        elif self._is_dense(w, which, mode):
            x = w if (1 - eps) * w.shape[mode] < 1e4 * eps else w.double()  # condition 10,000
            new = mode_covariance(x, covariances, mode, structure="dense", dtype=x.dtype, **kind)
            return Cholesky.of(normalise_trace(new)).to(w.dtype)
        else:
            # in float64: an eps far below the largest eigenvalue is no rounding error
            new = mode_covariance(w.double(), covariances, mode, size=self._size(which), **kind)
        new = decompose(new, check=False)  # made here: a covariance
        return (normalise_trace(new) if chosen.scale == "trace" else new).to(w.dtype)

    def _is_dense(self, w: Tensor, which: str, mode: int) -> bool:
        """Whether updates make a definite matrix, and nobody (the proximal map) asks for more."""
        chosen, d = self.switches, w.shape[mode]
        if self.caps or chosen.proximal is not None or self._size(which) not in (None, d):
            return False
        definite = self.eps[which] > 0 and chosen.relative and chosen.scale == "trace"
        return definite and dense_covariance(d, w.numel() // d)

    def relation(self, layer: str | None = None) -> Relation | None:
        """Correlation of the tasks in the prior of a layer, by default the last.

        Cosines of the tasks' weights where no task covariance is learned.
        """
        if "task" not in self.switches.learn:
            return super().relation()
        layer = self.layers[-1] if layer is None else layer
        if layer not in self.layers:
            raise ValueError(f"layer: expected one of {self.layers}, got {layer!r}")
        meaning = f"correlation of the tasks in the prior of {layer}, -1 to 1"
        matrix = Relation(self.covariance(layer, "task").dense(), meaning).normalised().matrix
        matrix = ((matrix + matrix.mT) / 2).clamp(-1, 1)
        return Relation(matrix.fill_diagonal_(1), meaning)
