"""Covariances of one mode, factored so that their inverses are cheap.

Few samples make one of low rank, plus a multiple of the identity; many make a dense one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


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

    @classmethod
    def identity(
        cls, d: int, rank: int, *, size: int | None = None, like: Tensor
    ) -> LowRankPlusDiagonal:
        """The identity with a basis of so many columns, in the dtype of ``like``."""
        basis = like.new_zeros(d, rank).fill_diagonal_(1)  # a square one may be too large
        full = float(rank == (d if size is None else size))
        values, eps = like.new_full((rank,), full), like.new_full((), 1 - full)
        return cls(basis, values, eps, size=size)

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

    def stiffness(self) -> Tensor:
        """The largest eigenvalue of the (generalised) inverse."""
        others = self.eps[None] if self.dimension > self.basis.shape[1] else self.eps.new_zeros(0)
        return reciprocal(torch.cat([self.values + self.eps, others])).amax()

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


@dataclass(frozen=True, eq=False)
class Inverted(LowRankPlusDiagonal):
    """A covariance of high rank beside its inverse: a step takes one product, not two."""

    precision: Tensor

    def to(self, *args, **kwargs) -> Inverted:
        parts = (self.basis, self.values, self.eps, self.precision)
        return Inverted(*(part.to(*args, **kwargs) for part in parts), size=self.size)

    def solve(self, matrix: Tensor) -> Tensor:
        return self.precision @ matrix


@dataclass(frozen=True, eq=False)
class Cholesky:
    r"""A covariance :math:`S = L L^\top` of full rank, beside its inverse.

    A fifth of the time of an eigendecomposition, and no need to wait for a GPU; a singular matrix
    has none.

    Parameters
    ----------
    factor : Tensor L, shape ``(d, d)``, lower triangular
    precision : Tensor, shape ``(d, d)``
    """

    factor: Tensor
    precision: Tensor

    @classmethod
    def of(cls, covariance: Tensor) -> Cholesky:
        """That of a positive definite matrix ``(d, d)``; NaN where it is none."""
        wide = torch.promote_types(covariance.dtype, torch.float32)  # LAPACK knows no halves
        factor, failed = torch.linalg.cholesky_ex(covariance.to(wide))
        factor = torch.where(failed == 0, factor, torch.nan)
        return cls(factor, torch.cholesky_inverse(factor)).to(covariance.dtype)

    @property
    def shape(self) -> torch.Size:
        """``(d, d)``, that of the matrix."""
        return self.factor.shape

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.factor)

    @property
    def device(self) -> torch.device:
        """That of both tensors."""
        return self.factor.device

    @property
    def dtype(self) -> torch.dtype:
        """That of both tensors."""
        return self.factor.dtype

    def to(self, *args, **kwargs) -> Cholesky:
        """The same on another device or in another dtype, as ``Tensor.to``."""
        return Cholesky(self.factor.to(*args, **kwargs), self.precision.to(*args, **kwargs))

    def solve(self, matrix: Tensor) -> Tensor:
        """``S^-1 @ matrix``, shape ``(..., d, n)``."""
        return self.precision @ matrix

    def root_solve(self, matrix: Tensor) -> Tensor:
        """``L^-1 @ matrix``, shape ``(..., d, n)``: whitens columns of covariance ``S``."""
        wide = torch.promote_types(self.dtype, torch.float32)  # LAPACK knows no halves
        solved = torch.linalg.solve_triangular(self.factor.to(wide), matrix.to(wide), upper=False)
        return solved.to(matrix.dtype)

    def logdet(self) -> Tensor:
        """``ln |S|``."""
        return 2 * self.factor.diagonal().log().sum()

    def trace(self) -> Tensor:
        """``tr S``."""
        return self.factor.square().sum()

    def stiffness(self) -> Tensor:
        """The largest eigenvalue of the inverse."""
        wide = torch.promote_types(self.dtype, torch.float32)  # LAPACK knows no halves
        return torch.linalg.eigvalsh(self.precision.to(wide))[-1].to(self.dtype)

    def scale(self, factor: float | Tensor) -> Cholesky:
        """``factor * S``, for a factor above 0."""
        factor = torch.as_tensor(factor, dtype=self.dtype, device=self.device)
        return Cholesky(self.factor * factor.sqrt(), self.precision / factor)

    def dense(self) -> Tensor:
        """``S`` itself, shape ``(d, d)``."""
        return self.factor @ self.factor.mT


Factored = LowRankPlusDiagonal | Cholesky
#: A covariance of one mode; None is the identity.
Covariance = Tensor | Factored | None


@torch.no_grad()
def decompose(covariance: Covariance, *, check: bool = True) -> Factored | None:
    """Eigendecomposition, so that it is paid once and not at every use; O(d^3) for a dense matrix.

    Eigenvalues that rounding may have made count as zero (MRN keeps those above zero).

    Parameters
    ----------
    covariance : Tensor, shape ``(d, d)``, or LowRankPlusDiagonal, Cholesky or None
        All but the first are returned as they are.
    check : bool
        Whether to refuse a matrix that is not symmetric or not positive semi-definite. On the CPU
        alone: elsewhere one would have to wait for the device, and such a matrix is projected.

    Raises
    ------
    ValueError
        If the matrix is no covariance, up to the rounding of its dtype.
    """
    if covariance is None or isinstance(covariance, Factored):
        return covariance
    if check and covariance.device.type == "cpu":
        check_covariance("covariance", covariance)
    # Rounding each entry to relative u moves no eigenvalue by more than u ||S||_F.
    error = covariance.shape[0] ** 0.5 * torch.finfo(covariance.dtype).eps
    return _factor(covariance, error)


def _factor(covariance: Tensor | Factored, error: float) -> Factored:
    if isinstance(covariance, Factored):
        return covariance
    values, basis = _eigh(covariance.double(), error)
    return LowRankPlusDiagonal(basis, values, values.new_zeros(())).to(covariance.dtype)


def check_covariance(name: str, covariance: Tensor | Factored) -> None:
    """Refuse what is no covariance: symmetric, and no eigenvalue below 0, up to rounding."""
    covariance = covariance.dense() if isinstance(covariance, Cholesky) else covariance
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
