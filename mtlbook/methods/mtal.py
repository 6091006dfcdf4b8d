"""Sharing similar convolution kernels (after Feng and Chen, arXiv 2101.12431): a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from mtlbook.backbones import TaskConvnets
from mtlbook.kernels import (
    MEASURES,
    Similarity,
    chance_threshold,
    mix,
    pair_share,
    pair_weights,
    random_order,
)
from mtlbook.methods.base import NetworkMethod
from mtlbook.relations import Relation
from mtlbook.tensors import exact

PAIRS = ("all", "cross-task", "mutual-best", "random")
UNITS = ("filter", "slice")
WEIGHTS = ("similarity", "learned")


class MTAL(NetworkMethod):
    r"""Kernels of T different networks, mixed with those that are similar to them.

    OBJECTIVE   :math:`\sum_t \ell_t(\tilde K_t, v_t)`, in every layer
                :math:`\tilde K = A(K)\, K`,
                :math:`A_{pq} \propto 1` for :math:`p = q`, :math:`s_{pq}` where it exceeds
                :math:`\theta` (``rho``), else 0

    **Reconstruction.** Only the abstract, the setting and the notation of the paper are known to
    us. From them come: tasks that differ in inputs and classes; aggregation, with weights, of any
    pair of kernels of a layer whose similarity exceeds a threshold rho; training end to end.
    The measure of similarity, the weights, the unit and the schedule are ours, as arguments.

    Parameters
    ----------
    networks : TaskConvnets
        Of ``mtlbook.backbones.kernel_networks``.
    rho : float, or mapping of layer name to float
        Threshold, >= 0. At 1 or more a layer shares nothing: STL, bit for bit.
    chance : float, optional
        **Ours**, in place of rho: the threshold of every layer is the similarity that this share of
        the pairs of random kernels of its shape exceeds, at most 1/2. One rho is another strictness
        in every layer (``mtlbook.kernels.chance_threshold``).
    pairs : "all" | "cross-task" | "mutual-best" | "random"
        ``"all"``: any two kernels of a layer; those of one task merge duplicates. ``"cross-task"``:
        of two tasks. ``"mutual-best"``: of two tasks, each the other's most similar. ``"random"``
        is **our control**: the weights of ``like``, handed to kernels at random (drawn once), so
        that as many pairs are as strongly joined within and between the same tasks.
    unit : "filter" | "slice"
        What a kernel is: whole filters (in, k, k) where the tasks' shapes agree and else their
        slices (k, k); or slices in every layer.
    weights : "similarity" | "learned"
        ``"learned"``: of each pair of kernels a logit, from 0, trained with the rest.
    similarity : "cosine" | "pearson" | "gaussian" | callable
        See :mod:`mtlbook.kernels`.
    detach : bool
        Whether similarities are constants to autograd (the kernels that they mix never are).
    warmup : int
        Steps of STL before sharing begins.
    update_every : int
        Steps between searches for pairs (with ``detach=False``, every step searches).
    layers : sequence of str, optional
        Convolutions that share; by default all of which each task has its own.
    like : "all" | "cross-task" | "mutual-best"
        For ``pairs="random"``: whose pairs it counts.
    seed : int
        Of the random pairs.

    Notes
    -----
    Pairs are found in ``update`` and used by ``forward``; call ``update`` after changing weights by
    hand. A step costs one product ``A K`` a layer more than STL's, inference nothing: ``freeze``.

    References
    ----------
    Feng, Q. and Chen, S., *Learning twofold heterogeneous multi-task by sharing similar convolution
    kernel pairs*, arXiv 2101.12431, 2021.
    """

    def __init__(
        self,
        networks: TaskConvnets,
        rho: float | Mapping[str, float] | None = None,
        *,
        chance: float | None = None,
        pairs: str = "all",
        unit: str = "filter",
        weights: str = "similarity",
        similarity: Similarity = "cosine",
        detach: bool = True,
        warmup: int = 0,
        update_every: int = 1,
        layers: Sequence[str] | None = None,
        like: str = "all",
        seed: int = 0,
    ):
        super().__init__(networks, networks.kernel_layers if layers is None else layers)
        for argument, value, allowed in (
            ("pairs", pairs, PAIRS),
            ("unit", unit, UNITS),
            ("weights", weights, WEIGHTS),
            ("like", like, PAIRS[:-1]),
        ):
            if value not in allowed:
                raise ValueError(f"{argument}: expected one of {allowed}, got {value!r}")
        if unknown := [name for name in self.layers if name not in networks.kernel_layers]:
            raise ValueError(
                f"layers: expected names among {list(networks.kernel_layers)}, got {unknown}"
            )
        if (rho is None) == (chance is None):
            raise ValueError(f"rho, chance: expected one of the two, got {rho} and {chance}")
        if isinstance(rho, Mapping) and set(rho) != set(self.layers):
            raise ValueError(f"rho: expected layers {self.layers}, got {tuple(rho)}")
        if warmup < 0 or update_every < 1:
            raise ValueError(
                "warmup, update_every: expected numbers >= 0 and >= 1, got "
                f"{warmup} and {update_every}"
            )
        if chance is not None:
            rho = chance_thresholds(networks, chance, self.layers, unit=unit, similarity=similarity)
        self.rho = {n: float(rho[n] if isinstance(rho, Mapping) else rho) for n in self.layers}
        if bad := {name: value for name, value in self.rho.items() if not value >= 0}:
            raise ValueError(f"rho: expected numbers >= 0, a similarity is a weight, got {bad}")
        self.pairs, self.unit, self.similarity = pairs, unit, similarity
        self.detach, self.warmup, self.update_every = detach, warmup, update_every
        self._rule = like if pairs == "random" else pairs
        self._constant = detach and weights == "similarity"
        self.logits = nn.ParameterDict()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        generator = torch.Generator().manual_seed(seed)
        for name in self.layers:
            sizes = [len(k) for k in self.kernels(name)]
            owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
            self.register_buffer(f"owner_{name}", owner, persistent=False)
            if pairs == "random":
                self.register_buffer(f"order_{name}", random_order(owner, generator=generator))
            if name in self.sharing_layers and weights == "learned":
                self.logits[name] = nn.Parameter(torch.zeros(len(owner), len(owner)))
            if name in self.sharing_layers and self._constant:
                self.register_buffer(f"weights_{name}", torch.eye(len(owner)))
        self._search()

    @property
    def sharing_layers(self) -> list[str]:
        """The layers with a threshold below 1."""
        return [name for name in self.layers if self.rho[name] < 1]

    def kernels(self, name: str) -> list[Tensor]:
        """The kernels of each task in a layer, T tensors (P_t, ...): filters or slices."""
        return units(self.network.kernels(name), self.unit)

    def weights(self, name: str) -> Tensor:
        """A of a layer's kernels as they are now, (P, P); differentiable where it is learned."""
        kernels = torch.cat(self.kernels(name))
        return pair_weights(
            kernels.detach() if self.detach else kernels,
            self.rho[name],
            getattr(self, f"owner_{name}"),
            self._rule != "all",
            pairs="mutual-best" if self._rule == "mutual-best" else "all",
            similarity=self.similarity,
            logits=self.logits[name] if name in self.logits else None,
            order=getattr(self, f"order_{name}", None),
        )

    def shared(self, name: str) -> list[Tensor]:
        """The filters that the networks compute with in a layer, T tensors (out, in, k, k)."""
        own = self.network.kernels(name)
        if name not in self.sharing_layers:
            return own
        parts = self.kernels(name)
        w = getattr(self, f"weights_{name}") if self._constant else self._warm(self.weights(name))
        with exact(w):
            mixed = mix(w, torch.cat(parts)).split([len(part) for part in parts])
        return [new.reshape(old.shape) for new, old in zip(mixed, own, strict=True)]

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return self.network(inputs, {name: self.shared(name) for name in self.sharing_layers})

    def update(self) -> None:
        """Count the steps, and find the pairs of the kernels as they are now."""
        self.steps += self.update_every
        with exact(self.steps):
            self._search()

    @torch.no_grad()
    def _search(self) -> None:
        if self._constant:  # else the weights are made anew in every forward pass
            for name in self.sharing_layers:
                getattr(self, f"weights_{name}").copy_(self._warm(self.weights(name)))

    def _warm(self, w: Tensor) -> Tensor:
        """No sharing during the first steps; a choice on the device, which nobody waits for."""
        if not self.warmup:
            return w
        return torch.where(self.steps >= self.warmup, w, torch.zeros_like(w).fill_diagonal_(1))

    def freeze(self) -> TaskConvnets:
        """Plain networks with the shared kernels as their own: the same outputs at no extra cost.

        Wrap them in :class:`mtlbook.methods.STL` to evaluate them.
        """
        networks = deepcopy(self.network)
        for name in self.sharing_layers:
            networks.set_kernels(name, self.shared(name))
        return networks

    @torch.no_grad()
    def relations(self) -> dict[str, Relation]:
        """:meth:`relation` of every layer."""
        return {name: _as_relation(*self._partners(name)) for name in self.layers}

    @torch.no_grad()
    def relation(self) -> Relation | None:
        """For each pair of tasks the share of their kernels that have a partner in the other."""
        if not self.layers:
            return None
        partnered, number = zip(*(self._partners(name) for name in self.layers), strict=True)
        return _as_relation(sum(partnered), sum(number))

    def _partners(self, name: str) -> tuple[Tensor, Tensor]:
        """Kernels of task s with a partner in task t, (T, T); kernels of each task, (T,)."""
        owner = getattr(self, f"owner_{name}")
        own = torch.nn.functional.one_hot(owner, len(self.tasks)).to(self.kernels(name)[0])
        if name not in self.sharing_layers:
            return own.mT @ (0 * own), own.sum(0)
        w = self.weights(name)
        paired = (w > 0).fill_diagonal_(False).to(own)
        # what is not a number is no partner, and not without one either
        return own.mT @ ((paired @ own > 0) + 0 * (w @ own)).to(own), own.sum(0)

    @torch.no_grad()
    def sharing(self) -> dict[str, float]:
        r"""What to watch during training, of every layer: a probe for ``fit``.

        ``share/conv1``: share of all pairs of kernels that are joined.
        ``redundancy/conv1``: share of the pairs *within* a task with a similarity above rho, among
        the shared kernels, with which the networks compute; ``own_redundancy/conv1``: among those
        that are trained.
        """
        seen = {}
        for name in self.sharing_layers:
            w = self.weights(name)
            seen[f"share/{name}"] = float(pair_share((w + w.mT) / 2, 0.0))
        for prefix, networks in (("", self.freeze()), ("own_", self.network)):
            for name, value in layer_redundancy(
                networks, self.rho, unit=self.unit, similarity=self.similarity
            ).items():
                seen[f"{prefix}redundancy/{name}"] = value
        return seen


def units(kernels: Sequence[Tensor], unit: str = "filter") -> list[Tensor]:
    """What is compared in a layer: each task's filters (out, in, k, k), or slices (out in, k, k).

    Filters of tasks whose input channels differ have no common shape; their slices have.
    """
    if unit == "slice" or len({k.shape[1:] for k in kernels}) > 1:
        return [k.flatten(0, 1) for k in kernels]
    return list(kernels)


def chance_thresholds(
    networks: TaskConvnets,
    chance: float,
    layers: Sequence[str] | None = None,
    *,
    unit: str = "filter",
    similarity: Similarity = "cosine",
) -> dict[str, float]:
    """The similarity that a share ``chance`` of the pairs of random kernels exceeds, by layer.

    Parameters
    ----------
    networks : TaskConvnets
        Of which the shapes count alone.
    chance : float
        In (0, 1/2]: above one half the threshold would be negative.
    layers : sequence of str, optional
    unit, similarity
        As in :class:`MTAL`; a law of chance is known of the cosine and of Pearson's correlation.
    """
    if similarity not in ("cosine", "pearson"):
        raise ValueError(f"chance: expected similarity 'cosine' or 'pearson', got {similarity!r}")
    if not 0 < chance <= 0.5:
        raise ValueError(f"chance: expected a share in (0, 1/2], got {chance}")
    lost = int(similarity == "pearson")  # the direction of the mean
    return {
        name: chance_threshold(units(networks.kernels(name), unit)[0][0].numel() - lost, chance)
        for name in (networks.kernel_layers if layers is None else layers)
    }


@torch.no_grad()
def layer_redundancy(
    networks: TaskConvnets,
    rho: float | Mapping[str, float],
    *,
    unit: str = "filter",
    similarity: Similarity = "cosine",
) -> dict[str, float]:
    """Share of the pairs of kernels of one task that are more similar than rho, in every layer.

    Parameters
    ----------
    networks : TaskConvnets
        ``method.network`` of any method on them.
    rho : float, or mapping of the layers to look at to float
    unit, similarity
        As in :class:`MTAL`.
    """
    measure = similarity if callable(similarity) else MEASURES[similarity]
    rhos = rho if isinstance(rho, Mapping) else dict.fromkeys(networks.kernel_layers, rho)
    found = {}
    for name, threshold in rhos.items():
        parts = units(networks.kernels(name), unit)
        owner = torch.cat([torch.full((len(k),), t) for t, k in enumerate(parts)])
        found[name] = float(pair_share(measure(torch.cat(parts)), threshold, owner, "within"))
    return found


def _as_relation(partnered: Tensor, number: Tensor) -> Relation:
    share = (partnered + partnered.mT) / (number[:, None] + number[None, :])
    return Relation(
        share.fill_diagonal_(1),
        "share of two tasks' kernels with a partner in the other, 0 to 1 (the diagonal is 1)",
    )
