r"""Per-task saliency: gradients of the tasks' predictions in a shared feature map, and distances.

For a feature map ``A`` and heads ``f_1 .. f_T`` the saliency of task t is ``d f_t(A) / d A``, one
gradient a sample. Of a linear head it is the weight vector; of any other it is what takes that
vector's place (Bai and Zhao, *Saliency-regularized deep multi-task learning*, KDD 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

Heads = Sequence[Callable[[Tensor], Tensor]] | nn.Module
Scalar = Literal["sum", "max"] | Tensor | None
BUFFER = 2**26  # numbers that distances may hold besides their arguments: 256 MB in float32


def task_saliency(
    heads: Heads,
    features: Tensor,
    create_graph: bool = False,
    reduction: Literal["none", "sum", "mean"] = "none",
    *,
    scalar: Scalar = None,
) -> Tensor:
    r"""Gradient of every task's prediction in the features, for every sample of a batch.

    Derived in the book: :eq:`eq-saliency-gradcam`, :eq:`eq-saliency-relu`.

    :math:`g_{tb} = \partial f_t(A_b) / \partial A_b`, in one pass through the heads for all tasks
    and samples, and none through what made the features.

    Parameters
    ----------
    heads : sequence of T modules, or one module for all tasks
        Each of the T maps ``(B, ...)`` to ``(B,)`` or ``(B, K_t)``. The one module has an integer
        ``tasks``, maps ``(T, B, ...)`` to ``(T, B, K)`` and may have ``widths``, T numbers of
        outputs that are not padding, and ``relu_layers()``
        (:class:`mtlbook.backbones.TaskHeads`). Heads must treat the samples of a batch apart:
        no batch normalisation.
    features : Tensor, shape ``(B, ...)``
        ``(B, D)``, or a map ``(B, C, H, W)``, channels first.
    create_graph : bool
        Whether the result can be differentiated, as a regulariser must be.
    reduction : "none" | "sum" | "mean"
        Over all axes after the channels: ``"mean"`` gives the channel weights of Grad-CAM,
        ``"sum"`` those of the code of SRDML. Features ``(B, D)`` have no such axes.
    scalar : None | "sum" | "max" | Tensor of int, shape ``(B,)`` or ``(T, B)``
        Which number of a head with several outputs is differentiated: their sum, the largest, or
        the one with the given number (the true class). With one output there is no choice.

    Returns
    -------
    Tensor, shape ``(T, B, ...)``, or ``(T, B, C)`` if reduced

    Notes
    -----
    Samples do not meet in the heads, so the gradient of :math:`\sum_b f_t(A_b)` holds the
    gradients of all samples; tasks do not meet either if each has a copy of the features.

    Heads of one hidden ReLU layer, :math:`f(a) = v^\top \max(V a + \beta, 0) + \beta_0`, have the
    closed form :math:`V^\top (v \odot [V a + \beta > 0])`, chosen by itself; likewise linear
    heads and those of several hidden layers. It needs no second differentiation, because the masks
    are constant almost everywhere; and sums over space can be taken of V, once, instead of over
    every sample's gradient.

    Examples
    --------
    >>> head = torch.nn.Linear(2, 1)
    >>> saliency = task_saliency([head], torch.randn(3, 2))
    >>> torch.equal(saliency, head.weight.detach().expand(1, 3, 2))
    True
    """
    if features.ndim < 2 or not features.is_floating_point():
        raise ValueError(
            "features: expected a floating tensor of shape (B, ...), got "
            f"{features.dtype} of shape {tuple(features.shape)}"
        )
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction: expected 'none', 'sum' or 'mean', got {reduction!r}")
    layers = _relu_layers(heads)
    if layers is not None:
        widths = getattr(heads, "widths", None)
        with torch.set_grad_enabled(create_graph):
            return _closed_form(layers, features, reduction, scalar, widths)
    with torch.enable_grad():
        if not create_graph or not features.requires_grad:
            features = features.detach().requires_grad_()
        return _by_autograd(heads, features, create_graph, reduction, scalar)


def pairwise_distances(saliency: Tensor, p: Literal[1, 2, "cosine"] = 1) -> Tensor:
    r"""Distances between the tasks' saliencies, summed over the batch.

    Derived in the book: :eq:`eq-saliency-distances`.

    ============ =================================================================
    p            entry (i, j)
    ============ =================================================================
    1, 2         :math:`\sum_b \|g_{ib} - g_{jb}\|_p`
    "cosine"     :math:`\sum_b \tfrac12 \|\hat g_{ib} - \hat g_{jb}\|_2^2`, which is
                 :math:`\sum_b 1 - \cos(g_{ib}, g_{jb})`
    ============ =================================================================

    with :math:`\hat g = g / \|g\|_2`, and 0 for 0: equal saliencies are at distance 0, even zeros.

    Parameters
    ----------
    saliency : Tensor, shape ``(T, B, ...)``
    p : 1 | 2 | "cosine"

    Returns
    -------
    Tensor, shape ``(T, T)``
        Symmetric, with zeros on the diagonal and finite sub-gradients everywhere.

    Notes
    -----
    Nothing larger than the saliency itself, ``(B, T, T)`` and, on CUDA, a buffer of 256 MB is ever
    made.
    """
    if saliency.ndim < 3:
        raise ValueError(f"saliency: expected shape (T, B, ...), got {tuple(saliency.shape)}")
    if p not in (1, 2, "cosine"):
        raise ValueError(f"p: expected 1, 2 or 'cosine', got {p!r}")
    s = saliency.flatten(2)
    s = s if s.dtype == torch.float64 else s.float()  # half the mantissa is too little to sum in
    if p == 1:  # the norm of all samples' differences is the sum of the samples' norms
        parts = s.flatten(1).split(_at_once(s, 1), 1)
        distances = sum(torch.cdist(rows, rows, p=1) for rows in parts)
    elif p == 2:
        parts = s.transpose(0, 1).split(_at_once(s, s.shape[2]))  # (B, T, D)
        # without the matrix product: it loses the small distances
        exact = {"p": 2, "compute_mode": "donot_use_mm_for_euclid_dist"}
        distances = sum(torch.cdist(rows, rows, **exact).sum(0) for rows in parts)
    else:
        length = torch.linalg.vector_norm(s, dim=2, keepdim=True)
        unit = (s / torch.where(length > 0, length, 1)).flatten(1)
        cosines = unit @ unit.mT  # sums over the batch
        squares = cosines.diagonal()
        distances = (squares[:, None] + squares[None, :]) / 2 - cosines
    return distances.to(saliency.dtype)


def _at_once(s: Tensor, numbers: int) -> int:
    """How many columns (or samples, of so many numbers each) to measure distances of at a time.

    On CUDA the gradient of ``cdist`` makes a buffer of all pairs' differences; a part's is freed
    before the next one is made. A CPU makes none, and takes all at once.
    """
    whole = s.shape[1] * s.shape[2] // numbers
    if s.device.type == "cpu" or not whole:
        return max(whole, 1)
    return max(1, BUFFER // (len(s) ** 2 * numbers))


def _by_autograd(heads, features, create_graph, reduction, scalar) -> Tensor:
    tasks = heads.tasks if hasattr(heads, "tasks") else len(heads)
    if tasks < 1:
        raise ValueError(f"heads: expected at least one, got {tasks}")
    copies = features.expand(tasks, *features.shape)
    if hasattr(heads, "tasks"):
        outputs, scalars, batch_axes = [heads(copies)], [scalar], 2
    else:
        outputs = [head(x) for head, x in zip(heads, copies.unbind(0), strict=True)]
        per_task = isinstance(scalar, Tensor) and scalar.ndim == 2
        scalars, batch_axes = (list(scalar) if per_task else [scalar] * tasks), 1
    outputs = [y[..., None] if y.ndim == batch_axes else y for y in outputs]  # (..., B, K)
    selectors = [
        _selector(y.detach(), k, getattr(heads, "widths", None)).expand_as(y)
        for y, k in zip(outputs, scalars, strict=True)
    ]
    (saliency,) = torch.autograd.grad(
        outputs, copies, selectors, create_graph=create_graph, materialize_grads=True
    )
    if reduction == "none" or saliency.ndim == 3:
        return saliency
    flat = saliency.flatten(3)
    return flat.sum(-1) if reduction == "sum" else flat.mean(-1)


def _closed_form(layers, features, reduction, scalar, widths) -> Tensor:
    """Backpropagation by hand; layers are pairs of weights (T, in, out) and biases (T, out)."""
    (first, _), (last, last_bias) = layers[0], layers[-1]
    shape = features.shape[1:]
    if first.shape[1] != prod(shape):
        raise ValueError(
            f"features: expected {first.shape[1]} numbers a sample for these heads, got shape "
            f"{tuple(features.shape)}"
        )
    with torch.no_grad():
        x, masks = features.flatten(1), []
        for weight, bias in layers[:-1]:
            x = (x @ weight + bias[:, None]).relu_()  # (T, B, H)
            masks.append((x > 0) + 0 * x)  # 0 or 1, and NaN where the features are none
        outputs = last_bias[:, None]  # only their number counts, unless the largest is wanted
        if isinstance(scalar, str) and scalar == "max":
            outputs = x @ last + outputs
    gradient = _selector(outputs, scalar, widths)
    for (weight, _), mask in zip(reversed(layers[1:]), reversed(masks), strict=True):
        gradient = (gradient @ weight.mT) * mask
    if reduction != "none" and features.ndim > 2:
        first = first.unflatten(1, (shape[0], -1))
        first = first.sum(2) if reduction == "sum" else first.mean(2)
        shape = shape[:1]
    saliency = (gradient @ first.mT).unflatten(-1, shape)
    return saliency.expand(-1, len(features), *shape)  # linear heads have one for all samples


def _selector(outputs: Tensor, scalar: Scalar, widths: Sequence[int] | None) -> Tensor:
    """By what to multiply outputs ``(..., B, K)`` so that their sum is the chosen scalar."""
    k = outputs.shape[-1]
    valid = None
    if widths is not None:
        columns = torch.arange(k, device=outputs.device)
        valid = columns < torch.tensor(widths, device=outputs.device)[:, None, None]  # (T, 1, K)
    if scalar is None:
        if k != 1:
            raise ValueError(
                f"scalar: expected 'sum', 'max' or the classes' numbers for heads of {k} outputs, "
                "got None"
            )
        return torch.ones_like(outputs)
    if isinstance(scalar, Tensor):
        chosen = scalar.expand(*outputs.shape[:-2], scalar.shape[-1])
    elif scalar == "sum":
        return torch.ones_like(outputs) if valid is None else valid.to(outputs.dtype)
    elif scalar == "max":
        chosen = (outputs if valid is None else outputs.masked_fill(~valid, -torch.inf)).argmax(-1)
    else:
        raise ValueError(
            f"scalar: expected None, 'sum', 'max' or a tensor of numbers, got {scalar!r}"
        )
    return outputs.new_zeros(*chosen.shape, k).scatter_(-1, chosen[..., None], 1)


def _relu_layers(heads: Heads) -> Sequence[tuple[Tensor, Tensor]] | None:
    """Stacked weights and biases if all heads are alike, linear layers with ReLU between them."""
    if hasattr(heads, "relu_layers"):
        return heads.relu_layers()
    if isinstance(heads, nn.Module) and not isinstance(heads, nn.ModuleList):
        return None
    found = []
    for head in heads:
        modules = list(head) if type(head) is nn.Sequential else [head]
        modules = [m for m in modules if type(m) is not nn.Flatten]
        kinds = [nn.Linear if i % 2 == 0 else nn.ReLU for i in range(len(modules))]
        linear = modules[::2]
        if [type(m) for m in modules] != kinds or len(modules) % 2 == 0:
            return None
        if any(m.bias is None for m in linear):
            return None
        found.append([(m.weight.mT, m.bias) for m in linear])
    if len({tuple(w.shape for w, _ in layers) for layers in found}) != 1:
        return None
    return [
        (torch.stack([w for w, _ in layer]), torch.stack([b for _, b in layer]))
        for layer in zip(*found, strict=True)
    ]
