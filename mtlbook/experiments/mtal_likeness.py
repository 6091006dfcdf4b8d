"""How alike the kernels of networks are: redundancy, rank, shares of similar pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlbook.kernels import cosine_similarity, pair_share
from mtlbook.methods import MTAL, NetworkMethod
from mtlbook.methods.mtal import units

COSINES = (0.3, 0.5, 0.8)  # where shares of similar pairs are read


@torch.no_grad()
def likeness(method: NetworkMethod) -> dict[str, float]:
    """How alike the kernels are with which the networks compute.

    Returns
    -------
    dict
        ``redundancy``: cosine of a filter with the most similar one of its own network and layer,
        mean over filters, networks and layers; it needs no threshold. ``rank``: effective rank of a
        layer's filters over the largest possible, mean over networks and layers
        (:func:`effective_rank`); 1 where they are orthogonal. For layers with filters of each
        task's own, ``within/l@c`` and ``across/l@c``: share of the pairs of filters (slices, where
        their shapes differ) of one task, and of two tasks, with a cosine above ``c``. For MTAL and
        its control ``joined/l``: share of all pairs that are joined at the end.
    """
    networks = method.freeze() if isinstance(method, MTAL) else method.network
    kernels = [k for name in networks.convolutions for k in networks.kernels(name)]
    nearest = [cosine_similarity(k).fill_diagonal_(-1).amax(1).mean() for k in kernels]
    found = {
        "redundancy": float(sum(nearest)) / len(nearest),
        "rank": sum(map(effective_rank, kernels)) / len(kernels),
    }
    for name in networks.kernel_layers:
        parts = units(networks.kernels(name))
        owner = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(p) for p in parts]))
        similarity = cosine_similarity(torch.cat(parts))
        for cosine in COSINES:
            for which in ("within", "across"):
                share = pair_share(similarity, cosine, owner.to(similarity.device), which)
                found[f"{which}/{name}@{cosine:g}"] = float(share)
    if isinstance(method, MTAL):
        shares = method.sharing().items()
        found |= {k.replace("share/", "joined/"): v for k, v in shares if k.startswith("share/")}
    return found


def effective_rank(kernels: Tensor) -> float:
    r"""``exp`` of the entropy of the normalised singular values, over the largest possible rank.

    Of the kernels at unit length, ``(P, ...)``: how many directions they use, whatever their
    lengths. Roy and Vetterli (2007).
    """
    rows = F.normalize(kernels.flatten(1).double(), dim=1)
    values = torch.linalg.svdvals(rows)
    part = values / values.sum()
    return float(torch.special.entr(part).sum().exp() / len(values))
