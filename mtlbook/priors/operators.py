"""Covariances as they come out of few samples, and products of tensors with their inverses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from mtlbook.tensors import exact, mode_product


@dataclass(frozen=True, eq=False)
class LowRankPlusDiagonal:
    r"""A covariance :math:`\Sigma = U S^2 U^\top + \varepsilon I`, never written out.
    Derived in the book: :eq:`tensor-normal-low-rank`, :eq:`tensor-normal-woodbury`.

    Parameters
    ----------
    basis : Tensor U, shape ``(d, r)``
        Orthonormal columns; a column of zeros is allowed where its value is 0.
    values : Tensor s, the diagonal of :math:`S^2`, shape ``(r,)``, non-negative
    eps : Tensor, scalar, non-negative
    size : int, optional
        Dimension of the space of which ``basis`` holds coordinates in a subspace, orthonormal ones;
        the rest of it, where the eigenvalue is eps, counts in trace and determinant. By default d.

    Notes
    -----
    Any function of :math:`\Sigma` acts as

    .. math:: \phi(\Sigma) x = U \operatorname{diag}(\phi(s + \varepsilon) - \phi(\varepsilon))
              U^\top x + \phi(\varepsilon) x

    at the cost ``O(d r)`` a column; for ``phi = 1 / .`` this is Woodbury's identity. Inverses are
    generalised, as MRN proposes: ``phi(0) = 0``, so that a singular one gives no infinity. With
    ``r = d`` and ``eps = 0`` it is the eigendecomposition of any covariance: :func:`decompose`.

    Examples
    --------
    >>> s = LowRankPlusDiagonal(torch.eye(3)[:, :1], torch.tensor([3.0]), torch.tensor(1.0))
    >>> s.dense().diagonal(), s.solve(torch.ones(3, 1)).flatten(), s.logdet().exp()
    (tensor([4., 1., 1.]), tensor([0.2500, 1.0000, 1.0000]), tensor(4.))
    """

    basis: Tensor
    values: Tensor
    eps: Tensor
    size: int | None = field(default=None, kw_only=True)

    def __post_init__(self):
        if self.basis.ndim != 2 or self.values.shape != self.basis.shape[1:] or self.eps.ndim:
            raise ValueError(
                "basis, values, eps: expected shapes (d, r), (r,), (), got "
                f"{tuple(self.basis.shape)}, {tuple(self.values.shape)}, {tuple(self.eps.shape)}"
            )

    @property
    def shape(self) -> torch.Size:
        """``(d, d)``, that of the matrix."""
        return torch.Size([self.basis.shape[0]] * 2)

    @property
    def dimension(self) -> int:
        """``size`` where it is given, else d."""
        return self.basis.shape[0] if self.size is None else self.size

    @property
    def device(self) -> torch.device:
        """That of the three tensors."""
        return self.basis.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the three tensors."""
        return self.basis.dtype

    def to(self, *args, **kwargs) -> LowRankPlusDiagonal:
        """The same on another device or in another dtype, as ``Tensor.to``."""
        parts = (x.to(*args, **kwargs) for x in (self.basis, self.values, self.eps))
        return LowRankPlusDiagonal(*parts, size=self.size)

    def solve(self, matrix: Tensor) -> Tensor:
        """``S^+ @ matrix``, shape ``(d, n)``, the generalised inverse."""
        return self._apply(reciprocal, matrix)

    def root_solve(self, matrix: Tensor) -> Tensor:
        """``(S^+)^(1/2) @ matrix``, shape ``(d, n)``: whitens columns of covariance ``S``."""
        return self._apply(lambda x: reciprocal(x).sqrt(), matrix)

    def logdet(self) -> Tensor:
        """``ln |S|``; of a singular ``S`` that of its non-zero eigenvalues."""
        others = self.dimension - self.basis.shape[1]
        return _log(self.values + self.eps).sum() + others * _log(self.eps)

    def trace(self) -> Tensor:
        """``tr S``."""
        return self.values.sum() + self.dimension * self.eps

    def scale(self, factor: float | Tensor) -> LowRankPlusDiagonal:
        """``factor * S``."""
        values, eps = self.values * factor, self.eps * factor
        return LowRankPlusDiagonal(self.basis, values, eps, size=self.size)

    def dense(self) -> Tensor:
        """``S`` itself, shape ``(d, d)``."""
        identity = torch.eye(self.basis.shape[0], dtype=self.dtype, device=self.basis.device)
        return (self.basis * self.values) @ self.basis.mT + self.eps * identity

    def _apply(self, function: Callable[[Tensor], Tensor], matrix: Tensor) -> Tensor:
        outside = function(self.eps)
        inside = function(self.values + self.eps) - outside
        return self.basis @ (inside[:, None] * (self.basis.mT @ matrix)) + outside * matrix


#: A covariance of one mode; None is the identity.
Covariance = Tensor | LowRankPlusDiagonal | None


@torch.no_grad()
def decompose(covariance: Covariance, *, check: bool = True) -> LowRankPlusDiagonal | None:
    """Eigendecomposition, so that it is paid once and not at every use; O(d^3) for a dense matrix.

    Eigenvalues that rounding may have made count as zero (MRN keeps those above zero).

    Parameters
    ----------
    covariance : Tensor, shape ``(d, d)``, or LowRankPlusDiagonal or None
        The last two are returned as they are.
    check : bool
        Whether to refuse a matrix that is not symmetric or not positive semi-definite. On the CPU
        alone: elsewhere one would have to wait for the device, and such a matrix is projected.

    Raises
    ------
    ValueError
        If the matrix is no covariance, up to the rounding of its dtype.
    """
    if covariance is None or isinstance(covariance, LowRankPlusDiagonal):
        return covariance
    if check and covariance.device.type == "cpu":
        check_covariance("covariance", covariance)
    # Rounding each entry to relative u moves no eigenvalue by more than u ||S||_F.
    error = covariance.shape[0] ** 0.5 * torch.finfo(covariance.dtype).eps
    return _factor(covariance, error)


@dataclass(frozen=True, eq=False)
class Inverted(LowRankPlusDiagonal):
    """A covariance of high rank beside its inverse: a step takes one product, not two."""

    precision: Tensor

    def to(self, *args, **kwargs) -> Inverted:
        parts = (self.basis, self.values, self.eps, self.precision)
        return Inverted(*(part.to(*args, **kwargs) for part in parts), size=self.size)

    def solve(self, matrix: Tensor) -> Tensor:
        return self.precision @ matrix


def apply_precisions(w: Tensor, covariances: Sequence[Covariance]) -> Tensor:
    r"""The prior's gradient :math:`W \times_1 \Sigma_1^{-1} \dots \times_N \Sigma_N^{-1}` (eq. 10).
    Derived in the book: :eq:`tensor-normal-penalty`.

    Parameters
    ----------
    w : Tensor, shape ``(..., d_1, ..., d_K)``
    covariances : sequence of K Tensor, LowRankPlusDiagonal or None (identity)
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
            dtype = torch.promote_types(x.dtype, factor.dtype)
            x = _along(factor.to(dtype).solve, x.to(dtype), axis)
    return x.to(w.dtype)


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
def proximal_step(
    w: Tensor, covariances: Sequence[LowRankPlusDiagonal | None], strength: float
) -> Tensor:
    r"""Proximal map of half the quadratic form: :math:`(I + c\, \Sigma^{-1})^{-1}
    \operatorname{vec}(\tensor W)`.

    In the eigenvectors of all modes it is a division by ``1 + c / product of eigenvalues``.

    Parameters
    ----------
    w : Tensor, shape ``(d_1, ..., d_K)``
    covariances : sequence of K LowRankPlusDiagonal or None (identity)
    strength : float
        :math:`c`; a gradient step on the same term multiplies by ``1 - c / ...`` instead.
    """

    def shrink(x: Tensor, mode: int, scale: Tensor) -> Tensor:
        if mode == w.ndim:
            return x * scale / (scale + strength)
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
        return (w * gradient).sum(tuple(range(-len(covariances), 0)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        (gradient,) = ctx.saved_tensors
        return 2 * grad[(..., *[None] * ctx.modes)] * gradient, None


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


def _factors(
    name: str, w: Tensor, covariances: Sequence[Covariance]
) -> list[LowRankPlusDiagonal | None]:
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


def _factor(covariance: Tensor | LowRankPlusDiagonal, error: float) -> LowRankPlusDiagonal:
    if isinstance(covariance, LowRankPlusDiagonal):
        return covariance
    values, basis = _eigh(covariance.double(), error)
    return LowRankPlusDiagonal(basis, values, values.new_zeros(())).to(covariance.dtype)


def check_covariance(name: str, covariance: Tensor | LowRankPlusDiagonal) -> None:
    """Refuse what is no covariance: symmetric, and no eigenvalue below 0, up to rounding."""
    if isinstance(covariance, LowRankPlusDiagonal):
        least, tolerance = float(torch.cat([covariance.values, covariance.eps[None]]).amin()), 0.0
    else:
        check_symmetric(name, covariance)
        least = float(torch.linalg.eigvalsh(covariance.double())[:1].sum())  # of an empty one 0
        tolerance = _rounding(covariance) * float(covariance.detach().norm())
    if not least >= -tolerance:
        raise ValueError(
            f"{name}: expected a positive semi-definite matrix, got an eigenvalue of {least:.3g}"
        )
    if isinstance(covariance, LowRankPlusDiagonal):
        root = covariance.values.sqrt()  # rounding may bend the columns of small values
        error = (covariance.basis.mT @ covariance.basis).fill_diagonal_(0) * root[:, None] * root
        length = covariance.basis.square().sum(0) * covariance.values - covariance.values
        error = (error + length.diag()).abs().sum()
        if not float(error) <= _rounding(covariance.basis) * float(covariance.values.sum()):
            raise ValueError(f"{name}: expected orthonormal columns of its basis, got others")


def check_symmetric(name: str, matrix: Tensor) -> None:
    """Refuse matrices ``(..., d, d)`` that are not symmetric, up to ``100 d`` roundings."""
    if not matrix.numel():
        return
    size, skew = (x.abs().amax((-2, -1)) for x in (matrix, matrix - matrix.mT))
    tolerance = _rounding(matrix)
    if not bool((skew <= tolerance * size).all()):
        raise ValueError(
            f"{name}: expected a symmetric matrix of finite numbers, up to {tolerance:.1g} of its "
            f"largest entry {float(size.max()):.3g}, got entries that differ by "
            f"{float(skew.max()):.3g}"
        )


def _rounding(matrix: Tensor) -> float:
    return 100 * matrix.shape[-1] * torch.finfo(matrix.dtype).eps


# A NaN must stay one: comparisons ask for what is dropped, never for what is kept.


def reciprocal(x: Tensor) -> Tensor:
    """``1 / x``, and 0 where x is not above 0; what is not a number stays so."""
    zero = x <= 0
    return torch.where(zero, 0, 1 / torch.where(zero, 1, x))


def _log(x: Tensor) -> Tensor:
    return torch.where(x <= 0, 1, x).log()


def _eigh(matrix: Tensor, error: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues and -vectors of a positive semi-definite float64 matrix.

    An eigenvalue counts as zero if an error of the matrix, relative to its norm, may have made it.
    """
    values, vectors = torch.linalg.eigh(matrix)
    level = max(error, 10 * len(values) * torch.finfo(matrix.dtype).eps)
    return torch.where(values <= level * values[-1:], 0, values), vectors


def _gram_error(n: int, dtype: torch.dtype) -> float:
    """Of an ``n x n`` Gram matrix: rounding of the data, which it squares."""
    return n * torch.finfo(dtype).eps ** 2
