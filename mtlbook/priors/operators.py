"""Products of tensors with the inverses of their modes' covariances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from mtlbook.priors.covariances import (
    Cholesky,
    Covariance,
    Factored,
    Inverted,
    decompose,
)
from mtlbook.tensors import exact, mode_product


def apply_precisions(w: Tensor, covariances: Sequence[Covariance]) -> Tensor:
    r"""The prior's gradient :math:`W \times_1 \Sigma_1^{-1} \dots \times_N \Sigma_N^{-1}` (eq. 10).
    Derived in the book: :eq:`tensor-normal-penalty`.

    Parameters
    ----------
    w : Tensor, shape ``(..., d_1, ..., d_K)``
    covariances : sequence of K Tensor, LowRankPlusDiagonal, Cholesky or None (identity)
        Inverses are generalised. A dense one costs an eigendecomposition: :func:`decompose` first.

    Returns
    -------
    Tensor, as ``w``
        Computed in the widest dtype: with float64 covariances float32 weights lose nothing where a
        small eps, say below 1e-4 of an eigenvalue, would have amplified their rounding.
    """
    factors, x = _factors("w", w, covariances), w
    for axis, factor in enumerate(factors, start=-len(factors)):
        if factor is not None:
            if x.dtype != factor.dtype:
                dtype = torch.promote_types(x.dtype, factor.dtype)
                factor, x = factor.to(dtype), x.to(dtype)
            if axis == -1 and isinstance(factor, Inverted | Cholesky):
                x = x @ factor.precision  # symmetric, and no axis need be moved
            else:
                x = _along(factor.solve, x, axis)
    return x.to(w.dtype)


def whiten(w: Tensor, covariances: Sequence[Covariance]) -> Tensor:
    r"""A root of every precision along its mode: of a tensor normal sample white noise is left.

    Parameters
    ----------
    w : Tensor, shape ``(..., d_1, ..., d_K)``
    covariances : sequence of K Tensor, LowRankPlusDiagonal, Cholesky or None (identity)

    Returns
    -------
    Tensor, as ``w``
        Its squares sum to :func:`quadratic_form`.
    """
    return _whiten(w, _factors("w", w, covariances))


def quadratic_form(w: Tensor, covariances: Sequence[Covariance]) -> Tensor:
    r"""The Mahalanobis term of the prior (eq. 9),
    :math:`Q = \operatorname{vec}(W)^\top (\Sigma_1 \otimes \dots \otimes \Sigma_N)^{-1}
    \operatorname{vec}(W)`.
    Derived in the book: :eq:`tensor-normal-penalty`.

    Parameters
    ----------
    w : Tensor, shape ``(..., d_1, ..., d_K)``
    covariances : sequence of K Tensor, LowRankPlusDiagonal or None (identity)
        Constants: no gradient reaches them (:class:`TensorNormal` has it).

    Returns
    -------
    Tensor, shape ``(...)``
        With gradient ``2 * apply_precisions(w, covariances)``, which the forward pass has made.

    Examples
    --------
    >>> w = torch.ones(2, 3, 4)
    >>> quadratic_form(w, [None, None, 2 * torch.eye(4)])
    tensor(12.)
    """
    with exact(w):
        return _QuadraticForm.apply(w, tuple(covariances))


def log_determinant_term(shape: Sequence[int], covariances: Sequence[Covariance]) -> Tensor:
    r"""The prior's normaliser :math:`\sum_k (D / D_k) \ln |\Sigma_k|`, :math:`D = \prod_k D_k`.
    Derived in the book: :eq:`tensor-normal-penalty`.

    Eq. 9 prints it with a minus, which the density (eq. 2) contradicts: half of it is *added* to
    half of :func:`quadratic_form`.

    Parameters
    ----------
    shape : sequence of K int, ``(D_1, ..., D_K)``
    covariances : sequence of K Tensor, LowRankPlusDiagonal or None (identity)
        Of a singular one the non-zero eigenvalues count.
    """
    shape = tuple(shape)
    total: float | Tensor = 0.0
    for size, factor in zip(shape, map(decompose, covariances), strict=True):
        if factor is not None:
            total = total + prod(shape) // size * factor.logdet()
    return torch.as_tensor(total)


@torch.no_grad()
def proximal_step(w: Tensor, covariances: Sequence[Factored | None], strength: float) -> Tensor:
    r"""Proximal map of half the quadratic form: :math:`(I + c\, \Sigma^{-1})^{-1}
    \operatorname{vec}(\tensor W)`.

    In the eigenvectors of all modes it is a division by ``1 + c / product of eigenvalues``.

    Parameters
    ----------
    w : Tensor, shape ``(d_1, ..., d_K)``
    covariances : sequence of K LowRankPlusDiagonal, Cholesky or None (identity)
        Of a Cholesky factor the eigenvectors have to be found.
    strength : float
        :math:`c`; a gradient step on the same term multiplies by ``1 - c / ...`` instead.
    """

    covariances = [
        decompose(c.dense(), check=False) if isinstance(c, Cholesky) else c for c in covariances
    ]

    def shrink(x: Tensor, mode: int, scale: Tensor) -> Tensor:
        if mode == w.ndim:  # where the covariance is singular the quadratic form sees nothing
            zero = scale <= 0
            scale = torch.where(zero, 1, scale)
            return torch.where(zero, x, x * scale / (scale + strength))
        covariance = covariances[mode]
        if covariance is None:
            return shrink(x, mode + 1, scale)
        inside = mode_product(x, covariance.basis.mT, mode)
        values = (covariance.values + covariance.eps).reshape(-1, *[1] * (w.ndim - mode - 1))
        result = mode_product(shrink(inside, mode + 1, scale * values), covariance.basis, mode)
        if covariance.basis.shape[0] == covariance.basis.shape[1]:
            return result
        outside = x - mode_product(inside, covariance.basis, mode)
        return result + shrink(outside, mode + 1, scale * covariance.eps)

    return shrink(w, 0, w.new_ones(()))


class _QuadraticForm(torch.autograd.Function):
    """``<W, P W>``, whose gradient ``2 P W`` comes out of the forward pass."""

    @staticmethod
    def forward(ctx, w: Tensor, covariances: tuple[Covariance, ...]) -> Tensor:
        gradient = apply_precisions(w, covariances)
        ctx.save_for_backward(gradient)
        ctx.modes = len(covariances)
        return torch.linalg.vecdot(*(x.flatten(-len(covariances)) for x in (w, gradient)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        (gradient,) = ctx.saved_tensors
        return (2 * grad)[(..., *[None] * ctx.modes)] * gradient, None


def _whiten(w: Tensor, factors: Sequence[Factored | None]) -> Tensor:
    for axis, factor in enumerate(factors, start=-len(factors)):
        if factor is not None:
            w = _along(factor.to(w.dtype).root_solve, w, axis)
    return w


def _along(
    apply: Callable[[Tensor], Tensor], x: Tensor, axis: int, modes: int = 0, batch: int = 0
) -> Tensor:
    """``apply`` on the fibres of one axis of ``x``, as columns ``(*batch, d, n)`` of a matrix.

    ``batch`` axes before the last ``modes`` stay apart; all others share the columns.
    """
    kept = range(x.ndim - modes - batch, x.ndim - modes)
    front = [*kept, axis % x.ndim]
    columns = x.permute(*front, *(i for i in range(x.ndim) if i not in front))
    shape = columns.shape
    size = [*shape[: batch + 1], prod(shape[batch + 1 :])]
    order = [*front, *(i for i in range(x.ndim) if i not in front)]
    result = apply(columns.reshape(size)).reshape(shape)
    return result.permute(*(order.index(i) for i in range(x.ndim)))


def _factors(name: str, w: Tensor, covariances: Sequence[Covariance]) -> list[Factored | None]:
    """The covariances decomposed, after a look at the shapes."""
    k = len(covariances)
    if not 1 <= k <= w.ndim or 0 in w.shape[w.ndim - k :] or not w.is_floating_point():
        raise ValueError(
            f"{name}: expected a floating tensor with one axis a covariance, {k}, or more, none of "
            f"them empty, got {w.dtype} of shape {tuple(w.shape)}"
        )
    for i, (size, c) in enumerate(zip(w.shape[w.ndim - k :], covariances, strict=True)):
        if c is not None and tuple(c.shape) != (size, size):
            raise ValueError(
                f"covariances[{i}]: expected shape ({size}, {size}) for {name} of shape "
                f"{tuple(w.shape)}, got {tuple(c.shape)}"
            )
    return [decompose(c) for c in covariances]


def _mode(k: int, mode: int) -> int:
    if not -k <= mode < k:
        raise ValueError(f"mode: expected an axis in [-{k}, {k}), got {mode}")
    return mode % k
