"""Covariances of samples: flip-flop maximum likelihood (MRN eq. 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mtlbook.priors.covariances import (
    Cholesky,
    Covariance,
    Factored,
    LowRankPlusDiagonal,
    _eigh,
    _factor,
    _gram_error,
    reciprocal,
)
from mtlbook.priors.operators import _factors, _mode, _whiten
from mtlbook.tensors import symmetric_product, unfold

Structure = Literal["auto", "dense", "low-rank"]
Order = Literal["sequential", "simultaneous"]


@torch.no_grad()
def mode_covariance(
    w: Tensor,
    covariances: Sequence[Covariance],
    mode: int,
    *,
    eps: float,
    relative: bool = True,
    structure: Structure = "auto",
    size: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor | LowRankPlusDiagonal:
    r"""One flip-flop update: the covariance of a mode, given those of the others (eq. 5, 11, 12).

    Derived in the book: :eq:`tensor-normal-flip-flop`.

    .. math:: \Sigma_k = \frac{D_k}{n D} \sum_{i=1}^n W^i_{(k)}
              \Bigl( \bigotimes_{j \ne k} \Sigma_j \Bigr)^{-1} W_{(k)}^{i\top} + \varepsilon I

    Parameters
    ----------
    w : Tensor, shape ``(d_1, ..., d_K)`` or ``(n, d_1, ..., d_K)``
        Of mean zero; more leading axes are samples too.
    covariances : sequence of K Tensor, LowRankPlusDiagonal or None (identity)
        That of ``mode`` itself is not used. Inverses are generalised.
    mode : int
    eps : float, non-negative
    relative : bool
        Shrink towards a multiple of the identity, ``(1 - eps) S + eps (tr S / d_k) I``, with
        ``eps <= 1``; False: add ``eps I``, as the paper does.
    structure : "auto" | "dense" | "low-rank"
        What is returned: a matrix, ``O(d_k^2 n d / d_k)``, or its decomposition, ``O(d_k m^2)``
        for the rank ``m = n d / d_k``, exact either way. ``"auto"`` is low-rank where ``m < d_k``.
    size : int, optional
        Dimension of the mode where ``w`` holds coordinates in a subspace, orthonormal ones: as
        :class:`LowRankPlusDiagonal` has it, which is then returned.
    dtype : torch.dtype
        In which to compute. A decomposition squares its errors and asks for float64.

    Returns
    -------
    Tensor, shape ``(d_k, d_k)``, or LowRankPlusDiagonal
        In the dtype of ``w``. Zero weights give 0 (plus ``eps I``).
    """
    factors = _factors("w", w, covariances)
    options = {"eps": eps, "relative": relative, "structure": structure, "size": size}
    covariance = _update(w, factors, mode, dtype=dtype, **options)
    return covariance.to(w.dtype)


@torch.no_grad()
def flip_flop(
    samples: Tensor,
    covariances: Sequence[Covariance],
    *,
    eps: float | Sequence[float],
    sweeps: int = 1,
    order: Order = "sequential",
    relative: bool = False,
    scale: Literal["none", "last", "trace"] = "none",
    modes: Sequence[int] | None = None,
    structure: Structure = "dense",
) -> list[Covariance]:
    r"""Flip-flop maximum likelihood of the K covariances of a tensor normal of mean zero (eq. 11).

    Derived in the book: :eq:`tensor-normal-flip-flop`, :eq:`tensor-normal-scale-map`.

    Parameters
    ----------
    samples : Tensor, shape ``(n, d_1, ..., d_K)``
        Subtract their mean first where it is not zero (eq. 4).
    covariances : sequence of K Tensor, LowRankPlusDiagonal or None (identity)
        Where to start.
    eps : float, or one per mode
        Added to each covariance, as in :func:`mode_covariance`.
    sweeps : int
        Rounds over the modes.
    order : "sequential" | "simultaneous"
        Each update sees the last one's result, or none does before the end of the round. The paper
        does not say. A common factor ``c`` of all K covariances becomes ``c^(1 - K)`` in a
        simultaneous round: for ``K > 2`` the scale diverges, unless ``scale="trace"``.
    relative : bool
        Meaning of ``eps``; False is the paper's.
    scale : "none" | "last" | "trace"
        Only the Kronecker product is identifiable. ``"last"``: every updated covariance gets trace
        ``d_k``, the last of them takes up the factors, so that the product does not change.
        ``"trace"``: that one too, and the overall scale is dropped.
    modes : sequence of int, optional
        Which to update, in this order; by default ``0 .. K-1``.
    structure : "auto" | "dense" | "low-rank"
        As in :func:`mode_covariance`.

    Returns
    -------
    list of K
        New ones; modes that were not updated are those given.

    Notes
    -----
    Where ``n d / d_k <= d_k``, as for the many features of one layer, an update of mode ``k`` that
    comes first and is not shrunk explains everything: up to scale, all other covariances stay where
    they started, whatever the samples are. Shrink it, or let it come last (``modes``).

    Examples
    --------
    >>> x = torch.randn(500, 3, 4, generator=torch.Generator().manual_seed(0))
    >>> rows, columns = flip_flop(x, [None, None], eps=0, sweeps=3, scale="last")
    >>> float(rows.trace()), columns.shape
    (3.0, torch.Size([4, 4]))
    """
    result, factors = list(covariances), _factors("samples", samples, covariances)
    k = len(factors)
    if samples.ndim != k + 1:
        raise ValueError(
            f"samples: expected shape (n, d_1, ..., d_{k}) for {k} covariances, got "
            f"{tuple(samples.shape)}"
        )
    if order not in ("sequential", "simultaneous"):
        raise ValueError(f"order: expected 'sequential' or 'simultaneous', got {order!r}")
    if scale not in ("none", "last", "trace"):
        raise ValueError(f"scale: expected 'none', 'last' or 'trace', got {scale!r}")
    modes = range(k) if modes is None else [_mode(k, mode) for mode in modes]
    ridges = [eps] * k if isinstance(eps, float | int) else list(eps)
    if len(ridges) != k:
        raise ValueError(f"eps: expected one number, or one for each of {k} modes, got {eps}")
    for _ in range(sweeps):
        seen = factors if order == "sequential" else list(factors)
        for mode in modes:
            covariance = _update(
                samples, seen, mode, eps=ridges[mode], relative=relative, structure=structure
            )
            if scale == "trace":
                covariance = normalise_trace(covariance)
            error = _gram_error(covariance.shape[0], samples.dtype)
            result[mode], factors[mode] = covariance, _factor(covariance, error)
        if scale == "last":
            for mode in {*modes} - {*modes[-1:]}:
                factor = factors[mode].trace() / samples.shape[1 + mode]
                for kept in (result, factors):
                    kept[modes[-1]] = _scaled(kept[modes[-1]], factor)
                    kept[mode] = normalise_trace(kept[mode])
    return [c if c is None else c.to(samples.dtype) for c in result]


def normalise_trace(covariance: Tensor | Factored) -> Tensor | Factored:
    """The covariance scaled to trace ``d``, that of the identity; zero becomes the identity."""
    if isinstance(covariance, Cholesky):  # never zero
        return covariance.scale(covariance.dimension / covariance.trace())
    low_rank = isinstance(covariance, LowRankPlusDiagonal)
    d, trace = covariance.dimension if low_rank else covariance.shape[0], covariance.trace()
    zero = trace == 0
    factor = torch.where(zero, 1, d / torch.where(zero, 1, trace))
    if low_rank:
        scaled = covariance.scale(factor)
        return replace(scaled, eps=torch.where(zero, 1, scaled.eps))
    identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    return covariance * factor + zero * identity


@torch.no_grad()
def sqrt_relation(w: Tensor) -> Tensor:
    r"""The task covariance of the trace-one convex form, :math:`(W^\top W)^{1/2}` over its trace.

    Derived in the book: :eq:`matrix-normal-trace-one`.

    It minimises :math:`\operatorname{tr}(W \Omega^{-1} W^\top)` over
    :math:`\Omega \succeq 0, \operatorname{tr} \Omega = 1` (Zhang and Yeung 2010).

    Parameters
    ----------
    w : Tensor, shape ``(..., T)``
        One column, or slice of the last axis, a task.

    Returns
    -------
    Tensor, shape ``(T, T)``
        ``I / T`` where ``w`` is zero.
    """
    rows = unfold(w, -1).double()
    values, basis = _eigh(rows @ rows.mT, _gram_error(len(rows), w.dtype))
    root = (basis * values.sqrt()) @ basis.mT
    return (normalise_trace(root) / len(values)).to(w.dtype)


def _update(
    w: Tensor,
    factors: Sequence[Factored | None],
    mode: int,
    *,
    eps: float,
    relative: bool,
    structure: Structure,
    size: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor | LowRankPlusDiagonal:
    """:func:`mode_covariance` in ``dtype``, the other covariances already decomposed."""
    if eps < 0 or (relative and eps > 1):
        raise ValueError(f"eps: expected {'0 to 1' if relative else 'a number >= 0'}, got {eps}")
    if structure not in ("auto", "dense", "low-rank"):
        raise ValueError(f"structure: expected 'auto', 'dense' or 'low-rank', got {structure!r}")
    k = len(factors)
    mode = _mode(k, mode) - k
    others = [None if axis == mode else factor for axis, factor in enumerate(factors, start=-k)]
    white = unfold(_whiten(w.to(dtype), others), mode)
    d, m = white.shape
    white = white / max(m, 1) ** 0.5  # now S_k = white @ white.mT

    if size is not None and (size < d or structure == "dense"):
        raise ValueError(f"size: expected at least {d} and no dense structure, got {size}")
    whole = d if size is None else size
    keep, ridge = (1 - eps, eps / whole) if relative else (1.0, eps)
    if structure == "dense" or (structure == "auto" and m >= whole):
        covariance = symmetric_product(white)
        shift = ridge * covariance.trace() if relative else ridge
        identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
        return keep * covariance + shift * identity
    values, basis = _left_singular(white, w.dtype)
    shift = ridge * values.sum() if relative else values.new_full((), ridge)
    values = keep * values
    if m >= whole:  # the basis is square and holds the identity too
        values, shift = values + shift, torch.zeros_like(shift)
    return LowRankPlusDiagonal(basis, values, shift, size=size)


def _left_singular(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Squared singular values and left singular vectors of ``(d, m)``, ``min(d, m)`` of them.

    From the smaller Gram matrix: what its rounding spoils in the vectors of small values does not
    reach ``U diag(values) U^T``, which is all that is used.
    """
    d, m = x.shape
    if m >= d:
        return _eigh(x @ x.mT, _gram_error(d, dtype))
    values, right = _eigh(x.mT @ x, _gram_error(m, dtype))
    return values, x @ (right * reciprocal(values).sqrt())


def _scaled(covariance: Tensor | LowRankPlusDiagonal, factor: Tensor):
    if isinstance(covariance, LowRankPlusDiagonal):
        return covariance.scale(factor)
    return covariance * factor
