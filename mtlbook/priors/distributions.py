"""The matrix and the tensor normal distribution, as ``torch.distributions``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from mtlbook.priors.covariances import check_symmetric
from mtlbook.priors.operators import _along


class TensorNormal(Distribution):
    r"""Tensor normal distribution :math:`\mathrm{TN}(M, \Sigma_1, \dots, \Sigma_N)` (eq. 1-3).

    Derived in the book: :eq:`tensor-normal-construction`, :eq:`tensor-normal-density`.

    .. math:: p(X) &= (2 \pi)^{-D/2} \prod_k |\Sigma_k|^{-D / (2 D_k)} \; e^{-Q / 2}, \\
              Q &= \| (X - M) \times_1 L_1^{-1} \dots \times_N L_N^{-1} \|^2,
              \qquad \Sigma_k = L_k L_k^\top

    Parameters
    ----------
    loc : Tensor M, shape ``(..., d_1, ..., d_K)``
        Leading axes are a batch.
    covariances : sequence of K Tensor, shapes ``(..., d_k, d_k)``
        Positive definite, their leading axes broadcastable to one batch shape. ``S_k`` is the
        covariance between the slices of mode ``k``; ``Cov(X_i, X_j) = prod_k (S_k)[i_k, j_k]``.
    validate_args : bool, optional
        False: no look at the values, hence none that waits for a device.

    Notes
    -----
    Cost ``O(sum_k d_k^3)`` once and ``O(d sum_k d_k)`` a density or sample. Gradients reach the
    value, ``loc`` and every covariance. Only the Kronecker product of the covariances is
    identifiable: ``(a S_1, S_2 / a)`` is the same distribution.

    Examples
    --------
    >>> x = TensorNormal(torch.zeros(2, 3, 4), [torch.eye(2), torch.eye(3), 2 * torch.eye(4)])
    >>> x.event_shape, x.variance[0, 0]
    (torch.Size([2, 3, 4]), tensor([2., 2., 2., 2.]))
    """

    has_rsample = True
    _names: tuple[str, ...] = ()

    def __init__(
        self, loc: Tensor, covariances: Sequence[Tensor], validate_args: bool | None = None
    ):
        covariances = tuple(covariances)
        k = len(covariances)
        if not 1 <= k <= loc.ndim:
            raise ValueError(
                f"loc: expected one axis a covariance, {k}, or more, got shape {tuple(loc.shape)}"
            )
        event_shape = loc.shape[loc.ndim - k :]
        for i, (size, matrix) in enumerate(zip(event_shape, covariances, strict=True)):
            if matrix.ndim < 2 or matrix.shape[-2:] != (size, size):
                raise ValueError(
                    f"covariances[{i}]: expected shape (..., {size}, {size}) for a loc of shape "
                    f"{tuple(loc.shape)}, got {tuple(matrix.shape)}"
                )
        batch_shape = torch.broadcast_shapes(
            loc.shape[: loc.ndim - k], *(matrix.shape[:-2] for matrix in covariances)
        )
        self._set_parameters(loc, covariances, batch_shape)
        if self._validate_args if validate_args is None else validate_args:
            for name, matrix in zip(self._names, covariances, strict=True):
                check_symmetric(name, matrix)  # torch's tolerance is absolute
        super().__init__(batch_shape, event_shape, validate_args=validate_args)
        # Not expanded: one factorisation serves the batch.
        self._scale_trils = tuple(torch.linalg.cholesky(c) for c in covariances)

    def _set_parameters(self, loc: Tensor, covariances: Sequence[Tensor], batch_shape) -> None:
        """Attributes of one tensor each, which is what torch's checks and ``repr`` look at."""
        self._names = self._names or tuple(f"covariance_{i}" for i in range(len(covariances)))
        self.loc = loc.expand(batch_shape + loc.shape[loc.ndim - len(covariances) :])
        for name, covariance in zip(self._names, covariances, strict=True):
            setattr(self, name, covariance.expand(batch_shape + covariance.shape[-2:]))

    @property
    def covariances(self) -> tuple[Tensor, ...]:
        """All K of them, shapes ``batch_shape + (d_k, d_k)``; one by one ``covariance_0``, ..."""
        return tuple(getattr(self, name) for name in self._names)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """Real ``loc``, positive definite covariances."""
        return {"loc": self.support, **dict.fromkeys(self._names, constraints.positive_definite)}

    @property
    def support(self) -> constraints.Constraint:
        """All real tensors of ``event_shape``."""
        return constraints.independent(constraints.real, len(self._names))

    def expand(self, batch_shape, _instance=None) -> TensorNormal:
        """The same distribution in a larger batch."""
        new = self._get_checked_instance(TensorNormal, _instance)
        batch_shape = torch.Size(batch_shape)
        new._set_parameters(self.loc, self.covariances, batch_shape)
        new._scale_trils = self._scale_trils
        super(TensorNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """``loc``."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """``loc``."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Of every entry: the product of its K diagonal entries."""
        k = len(self._names)
        result = torch.ones_like(self.loc)
        for axis, covariance in enumerate(self.covariances):
            diagonal = covariance.diagonal(dim1=-2, dim2=-1)
            result = result * diagonal[(..., *[None] * (k - 1))].movedim(-k, axis - k)
        return result

    def rsample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008 torch's own signature
        """``M + E x_1 L_1 ... x_K L_K`` with standard normal ``E``."""
        noise = torch.randn(
            self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device
        )
        return self.loc + self._on_modes(torch.matmul, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density (eq. 2), shape ``sample_shape + batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        white = self._whiten(value - self.loc)
        square = white.square().sum(tuple(range(-len(self._names), 0)))
        d = self.event_shape.numel()
        return -0.5 * (square + d * math.log(2 * math.pi)) - self._half_log_determinant()

    def entropy(self) -> Tensor:
        """``d (1 + ln 2 pi) / 2 + sum_k d / (2 d_k) ln |S_k|``, shape ``batch_shape``."""
        d = self.event_shape.numel()
        entropy = 0.5 * d * (1 + math.log(2 * math.pi)) + self._half_log_determinant()
        return entropy.expand(self.batch_shape)

    def _half_log_determinant(self) -> Tensor:
        d = self.event_shape.numel()
        return sum(
            d // size * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            for size, tril in zip(self.event_shape, self._scale_trils, strict=True)
        )

    def _whiten(self, x: Tensor) -> Tensor:
        return self._on_modes(
            lambda tril, columns: torch.linalg.solve_triangular(tril, columns, upper=False), x
        )

    def _on_modes(self, apply: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
        """``apply(L_k, .)`` on every mode of ``x``, shape ``sample + batch + event``."""
        k = len(self._names)
        for axis, tril in enumerate(self._scale_trils, start=-k):
            x = _along(lambda columns, tril=tril: apply(tril, columns), x, axis, k, tril.ndim - 2)
        return x


class MatrixNormal(TensorNormal):
    r"""Matrix normal distribution :math:`\mathrm{MN}(M, F, \Omega)`, two modes.

    Derived in the book: :eq:`matrix-normal-construction`, :eq:`matrix-normal-density`.

    .. math:: p(X) = {} & (2 \pi)^{-dT/2} |F|^{-T/2} |\Omega|^{-d/2} \\
              & \exp \bigl( -\tfrac12 \operatorname{tr}(F^{-1} (X - M) \Omega^{-1} (X - M)^\top)
              \bigr)

    Parameters
    ----------
    loc : Tensor M, shape ``(..., m, n)``
    row_covariance : Tensor F, shape ``(..., m, m)``
        Between the rows of a matrix: the entries of a column have covariance ``F * Omega_jj``.
    column_covariance : Tensor Omega, shape ``(..., n, n)``
    validate_args : bool, optional
        As in :class:`TensorNormal`.

    Examples
    --------
    >>> x = MatrixNormal(torch.zeros(2, 3), torch.eye(2), torch.eye(3))
    >>> x.log_prob(torch.zeros(2, 3)).exp() * (2 * torch.pi) ** 3
    tensor(1.0000)
    """

    arg_constraints = {  # noqa: RUF012 torch's own convention
        "loc": constraints.independent(constraints.real, 2),
        "row_covariance": constraints.positive_definite,
        "column_covariance": constraints.positive_definite,
    }
    support = constraints.independent(constraints.real, 2)
    _names = ("row_covariance", "column_covariance")

    def __init__(
        self,
        loc: Tensor,
        row_covariance: Tensor,
        column_covariance: Tensor,
        validate_args: bool | None = None,
    ):
        super().__init__(loc, (row_covariance, column_covariance), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> MatrixNormal:
        """The same distribution in a larger batch."""
        return super().expand(batch_shape, self._get_checked_instance(MatrixNormal, _instance))


@register_kl(TensorNormal, TensorNormal)
def _kl_tensor_normal(p: TensorNormal, q: TensorNormal) -> Tensor:
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"q: expected event shape {tuple(p.event_shape)}, that of p, got {tuple(q.event_shape)}"
        )
    # The trace of a Kronecker product is the product of the traces.
    trace = prod(
        torch.linalg.solve_triangular(b, a, upper=False).square().sum((-2, -1))
        for a, b in zip(p._scale_trils, q._scale_trils, strict=True)
    )
    white = q._whiten(p.loc - q.loc)
    square = white.square().sum(tuple(range(-len(q._names), 0)))
    determinants = q._half_log_determinant() - p._half_log_determinant()
    return 0.5 * (trace + square - p.event_shape.numel()) + determinants
