"""Similarity of kernels, and their aggregation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Similarity = Literal["cosine", "pearson", "gaussian"] | Callable[[Tensor], Tensor]
PAIRS = ("all", "mutual-best")
BLOCK = 4096  # kernels whose rows are computed at a time; more than that are many


# Similarity


def cosine_similarity(kernels: Tensor) -> Tensor:
    r"""Cosines of all pairs, :math:`s_{pq} = \langle K_p, K_q \rangle / \|K_p\| \|K_q\|`.

    Derived in the book: :eq:`kernel-measures`.

    Parameters
    ----------
    kernels : Tensor, shape ``(P, ...)``

    Returns
    -------
    Tensor, shape ``(P, P)``
        In [-1, 1], the diagonal 1. A zero kernel is similar to itself alone: its row is 0.

    Examples
    --------
    >>> cosine_similarity(torch.tensor([[1.0, 0], [3, 3], [0, 0]]))
    tensor([[1.0000, 0.7071, 0.0000],
            [0.7071, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    unit = _unit(_rows(kernels))
    return (unit @ unit.mT).clamp_(-1, 1).fill_diagonal_(1)


def _unit(rows: Tensor) -> Tensor:
    # in float64, in which the squares of float32 neither overflow nor vanish
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    return rows / torch.where(length > 0, length, 1).to(rows.dtype)


def pearson_similarity(kernels: Tensor) -> Tensor:
    r"""Correlations of all pairs: :func:`cosine_similarity` of the kernels less their means.

    Derived in the book: :eq:`kernel-measures`.

    Parameters
    ----------
    kernels : Tensor, shape ``(P, ...)``

    Returns
    -------
    Tensor, shape ``(P, P)``
        A constant kernel, and so any kernel of one entry, is similar to itself alone.
    """
    rows = _rows(kernels).double()
    centred = rows - rows.mean(1, keepdim=True)
    # What rounding leaves of a constant kernel is no direction.
    constant = centred.norm(dim=1, keepdim=True) <= 1e-12 * rows.norm(dim=1, keepdim=True)
    return cosine_similarity(centred.masked_fill(constant, 0)).to(kernels.dtype)


def gaussian_similarity(kernels: Tensor, sigma: float | None = None) -> Tensor:
    r"""Closeness of all pairs, :math:`s_{pq} = \exp(-\|K_p - K_q\|^2 / b)`, b = sigma.

    Derived in the book: :eq:`kernel-measures`.

    Parameters
    ----------
    kernels : Tensor, shape ``(P, ...)``
    sigma : float, optional
        In squared units of the kernels; by default their mean squared length, so that scaling all
        kernels changes nothing (independent ones of equal length then read ``exp(-2)``).

    Returns
    -------
    Tensor, shape ``(P, P)``
        In [0, 1], the diagonal 1. Unlike a cosine it sees lengths; two zero kernels are equal.
    """
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma: expected a number > 0, got {sigma}")
    rows = _rows(kernels).double()
    squares = rows.square().sum(1)
    if sigma is None:
        mean = squares.mean()
        sigma = torch.where(mean > 0, mean, 1)
    distance = (squares[:, None] + squares[None, :] - 2 * rows @ rows.mT).clamp(min=0)
    off = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return torch.exp(-distance * off / sigma).to(kernels.dtype)


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": cosine_similarity,
    "pearson": pearson_similarity,
    "gaussian": gaussian_similarity,
}


# Sharing


def pair_weights(
    kernels: Tensor,
    rho: float,
    tasks: Tensor | Sequence[int] | None = None,
    cross_task_only: bool = False,
    *,
    pairs: Literal["all", "mutual-best"] = "all",
    similarity: Similarity = "cosine",
    logits: Tensor | None = None,
    order: Tensor | None = None,
) -> Tensor:
    r"""The weights A with which kernels are mixed: rows of a stochastic matrix.

    Derived in the book: :eq:`mtal-pairs`, :eq:`mtal-matrix`.

    With :math:`\mathcal P = \{(p, q) : p \ne q,\ s_{pq} > \theta\}`, :math:`\theta` = rho,

    .. math:: A_{pq} \propto \begin{cases} 1 & q = p \\ s_{pq} & (p, q) \in \mathcal P \\
              0 & \text{else} \end{cases}

    Parameters
    ----------
    kernels, rho, tasks, cross_task_only, pairs, similarity, order
        As in :func:`aggregate`.
    logits : Tensor, shape ``(P, P)``, optional
        Learned weights: :math:`\exp(a_{pq})` in place of :math:`s_{pq}`, so that a row is a softmax
        over a kernel (whose own logit is 0) and its partners.

    Returns
    -------
    Tensor, shape ``(P, P)``

    Raises
    ------
    ValueError
        Also if the pairs of very many kernels do not fit into the memory that is free. Cosines of
        all pairs take that of A alone, anything else a few times as much.
    """
    rows = _rows(kernels)
    if not rho >= 0:
        raise ValueError(f"rho: expected a number >= 0, a similarity is a weight, got {rho}")
    if pairs not in PAIRS:
        raise ValueError(f"pairs: expected one of {PAIRS}, got {pairs!r}")
    if not callable(similarity) and similarity not in MEASURES:
        raise ValueError(
            f"similarity: expected one of {tuple(MEASURES)} or a function, got {similarity!r}"
        )
    if cross_task_only and tasks is None:
        raise ValueError("tasks: expected the task of each kernel with cross_task_only, got None")
    if len(rows) > BLOCK:
        constant = not (torch.is_grad_enabled() and rows.requires_grad)
        by_rows = constant and (pairs, similarity, logits) == ("all", "cosine", None)
        _check_memory(rows, 1 if by_rows and order is None else 4)
        if by_rows:
            w = _weights_by_rows(rows, rho, tasks if cross_task_only else None)
            return w if order is None else w[order][:, order]
    s = (similarity if callable(similarity) else MEASURES[similarity])(rows)
    if cross_task_only:
        s = s.masked_fill(_same_task(tasks, rows), -torch.inf)
    if pairs == "mutual-best" and len(rows):
        s = s.masked_fill(_not_mutual_best(s), -torch.inf)
    w = F.threshold(s, rho, 0.0)
    if logits is not None:  # a softmax over partners and, with logit 0, the kernel itself
        joined = (w > 0).fill_diagonal_(True)
        a = logits.clone().fill_diagonal_(0).masked_fill(~joined, -torch.inf)
        w = a.softmax(1) + 0 * w  # of what is not a number no finite weight
    else:
        w = w.fill_diagonal_(1)
        w /= w.sum(1, keepdim=True)
    return w if order is None else w[order][:, order]


def _weights_by_rows(rows: Tensor, rho: float, tasks: Tensor | Sequence[int] | None) -> Tensor:
    """The weights of cosines, a block of rows at a time in the place where they stay."""
    unit, w = _unit(rows), rows.new_empty(len(rows), len(rows))
    for start in range(0, len(rows), BLOCK):
        block = w[start : start + BLOCK]
        torch.matmul(unit[start : start + BLOCK], unit.mT, out=block)
        block.clamp_(-1, 1)
        if tasks is not None:
            tasks = torch.as_tensor(tasks, device=rows.device)
            block.masked_fill_(tasks[start : start + BLOCK, None] == tasks, -torch.inf)
        F.threshold_(block, rho, 0.0)
        block.diagonal(start).fill_(1)
        block /= block.sum(1, keepdim=True)
    return w


def _check_memory(rows: Tensor, matrices: int) -> None:
    """Refuse what would fill the memory, and say how much it would take."""
    pairs, free = len(rows) ** 2, _free_memory(rows.device)
    needed = matrices * pairs * rows.element_size()
    if free is not None and needed > free:
        raise ValueError(
            f"kernels: expected so few that their pairs fit into memory, got {len(rows):,} with "
            f"{pairs:,} pairs, which take {needed / 1e9:.1f} GB where {free / 1e9:.1f} GB are free"
        )


def _free_memory(device: torch.device) -> int | None:
    """Bytes that could be had on a device; None where that is not known."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if device.type == "cpu" else None


def aggregate(
    kernels: Tensor,
    rho: float,
    tasks: Tensor | Sequence[int] | None = None,
    cross_task_only: bool = False,
    *,
    pairs: Literal["all", "mutual-best"] = "all",
    similarity: Similarity = "cosine",
    detach: bool = True,
    weights: Tensor | None = None,
    order: Tensor | None = None,
) -> Tensor:
    r"""Every kernel replaced by the weighted mean of itself and of all that are similar to it.

    Derived in the book: :eq:`mtal-aggregate`.

    .. math:: K'_p = \frac{K_p + \sum_{q \ne p,\ s_{pq} > \theta} s_{pq} K_q}
                          {1 + \sum_{q \ne p,\ s_{pq} > \theta} s_{pq}}

    Parameters
    ----------
    kernels : Tensor, shape ``(P, ...)``
    rho : float, >= 0
        Threshold. At 1 or more the kernels are returned as they are, bit for bit.
    tasks : Tensor or sequence of int, shape ``(P,)``, optional
        Whose kernel it is; needed with ``cross_task_only``.
    cross_task_only : bool
        Drop partners of the same task.
    pairs : "all" | "mutual-best"
        ``"mutual-best"``: only pairs in which each is the other's most similar partner.
    similarity : "cosine" | "pearson" | "gaussian" | callable
        ``(P, ...) -> (P, P)``.
    detach : bool
        Whether the weights are constants to autograd. Gradients reach every partner either way.
    weights : Tensor, shape ``(P, P)``, optional
        Learned weights, as logits; see :func:`pair_weights`.
    order : Tensor, shape ``(P,)``, optional
        A permutation, for **the control**: kernel p gets the weights of kernel ``order[p]``, and so
        as many partners, of as high a weight, but strangers; see :func:`random_order`.

    Returns
    -------
    Tensor, shape ``(P, ...)``

    Examples
    --------
    >>> kernels = torch.tensor([[1.0, 0], [1, 0.1], [0, 1]])
    >>> aggregate(kernels, 0.9)                                 # the first two are alike
    tensor([[1.0000, 0.0499],
            [1.0000, 0.0501],
            [0.0000, 1.0000]])
    """
    if rho >= 1 or not kernels.numel():
        return kernels
    source = kernels.detach() if detach else kernels
    w = pair_weights(
        source,
        rho,
        tasks,
        cross_task_only,
        pairs=pairs,
        similarity=similarity,
        logits=weights,
        order=order,
    )
    return mix(w, kernels)


def mix(weights: Tensor, kernels: Tensor) -> Tensor:
    """``A K`` for kernels of any shape: (P, P) and (P, ...) to (P, ...), one product.

    Derived in the book: :eq:`mtal-matrix`.
    """
    # K^T A^T, not A K: with few rows the product is four times as fast as with few columns, and
    # its gradient ten times, if the rows lie one after the other in memory.
    return (kernels.flatten(1).mT.contiguous() @ weights.mT).mT.reshape(kernels.shape)


def random_order(tasks: Tensor | Sequence[int], *, generator: torch.Generator) -> Tensor:
    """A random permutation of the kernels of each task among themselves, shape ``(P,)``.

    Derived in the book: :eq:`mtal-random`.

    Weights in this order join as many pairs within each task and between any two tasks, with the
    same weights, but pairs at random: the control for "similar kernels should be shared".
    """
    tasks = torch.as_tensor(tasks)
    order = torch.arange(len(tasks))
    for task in tasks.unique():
        own = (tasks == task).nonzero().flatten()
        order[own] = own[torch.randperm(len(own), generator=generator)]
    return order


def pair_share(
    similarity: Tensor,
    rho: float,
    tasks: Tensor | Sequence[int] | None = None,
    which: Literal["all", "within", "across"] = "all",
) -> Tensor:
    r"""Share of the pairs with similarity above rho, a scalar (0 where there is no pair).

    Parameters
    ----------
    similarity : Tensor, shape ``(P, P)``
    rho : float
    tasks : Tensor or sequence of int, shape ``(P,)``, optional
    which : "all" | "within" | "across"
        Of all pairs, those within a task (their share is the *redundancy*), or those across tasks.
    """
    if which not in ("all", "within", "across"):
        raise ValueError(f"which: expected 'all', 'within' or 'across', got {which!r}")
    if which != "all" and tasks is None:
        raise ValueError(f"tasks: expected the task of each kernel with which={which!r}, got None")
    counted = torch.ones_like(similarity, dtype=torch.bool).triu(1)
    if which != "all":
        same = _same_task(tasks, similarity)
        counted = counted & (same if which == "within" else ~same)
    number = counted.sum()
    share = ((similarity > rho) & counted).sum() / number.clamp(min=1)
    return share.masked_fill((similarity.isnan() & counted).any(), torch.nan)


def _rows(kernels: Tensor) -> Tensor:
    if kernels.ndim < 2 or not kernels.is_floating_point():
        raise ValueError(
            "kernels: expected a floating tensor of shape (P, ...), got "
            f"{kernels.dtype} of shape {tuple(kernels.shape)}"
        )
    return kernels.flatten(1)


def _same_task(tasks: Tensor | Sequence[int], rows: Tensor) -> Tensor:
    tasks = torch.as_tensor(tasks, device=rows.device)
    if tasks.shape != rows.shape[:1]:
        raise ValueError(
            f"tasks: expected one for each of {len(rows)} kernels, got shape {tuple(tasks.shape)}"
        )
    return tasks[:, None] == tasks[None, :]


def _not_mutual_best(s: Tensor) -> Tensor:
    """Which pairs are not each other's most similar; ties are all best."""
    others = s.clone().fill_diagonal_(-torch.inf)
    best = others >= others.amax(1, keepdim=True)
    return ~(best & best.mT)
