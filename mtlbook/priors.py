r"""Matrix and tensor normal priors, and their covariances by flip-flop maximum likelihood.

A tensor of shape ``(d_1, ..., d_K)`` is tensor normal, ``X ~ TN(M, S_1, ..., S_K)``, if
``vec(X) ~ N(vec(M), S_1 (x) ... (x) S_K)`` with the last index of ``vec`` fastest (MRN eq. 1-3).
Here everything is a product along a mode, ``X x_k A``, so that the order of ``vec``, on which the
paper contradicts itself, plays no part and no Kronecker product is ever formed.

Equation numbers are those of MRN (NIPS 2017, arXiv 1506.02117v4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from mtlbook.tensors import unfold

Structure = Literal["auto", "dense", "low-rank"]
Order = Literal["sequential", "simultaneous"]


# Covariances as they come out of few samples


@dataclass(frozen=True, eq=False)
class LowRankPlusDiagonal:
    r"""A covariance :math:`S = U \operatorname{diag}(s) U^\top + \varepsilon I`, never written out.

    Parameters
    ----------
    basis : Tensor U, shape ``(d, r)``
        Orthonormal columns; a column of zeros is allowed where its value is 0.
    values : Tensor s, shape ``(r,)``, non-negative
    eps : Tensor, scalar, non-negative

    Notes
    -----
    Any function of ``S`` acts as

    .. math:: f(S) x = U \operatorname{diag}(f(s + \varepsilon) - f(\varepsilon)) U^\top x
              + f(\varepsilon) x

    at the cost ``O(d r)`` a column; for ``f = 1 / .`` this is Woodbury's identity. Inverses are
    generalised, as MRN proposes: ``f(0) = 0``, so that a singular ``S`` gives no infinity. With
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
    def dtype(self) -> torch.dtype:
        """That of the three tensors."""
        return self.basis.dtype

    def to(self, *args, **kwargs) -> LowRankPlusDiagonal:
        """The same on another device or in another dtype, as ``Tensor.to``."""
        return LowRankPlusDiagonal(
            *(x.to(*args, **kwargs) for x in (self.basis, self.values, self.eps))
        )

    def solve(self, matrix: Tensor) -> Tensor:
        """``S^+ @ matrix``, shape ``(d, n)``, the generalised inverse."""
        return self._apply(_reciprocal, matrix)

    def root_solve(self, matrix: Tensor) -> Tensor:
        """``(S^+)^(1/2) @ matrix``, shape ``(d, n)``: whitens columns of covariance ``S``."""
        return self._apply(lambda x: _reciprocal(x).sqrt(), matrix)

    def logdet(self) -> Tensor:
        """``ln |S|``; of a singular ``S`` that of its non-zero eigenvalues."""
        d, r = self.basis.shape
        return _log(self.values + self.eps).sum() + (d - r) * _log(self.eps)

    def trace(self) -> Tensor:
        """``tr S``."""
        return self.values.sum() + self.basis.shape[0] * self.eps

    def scale(self, factor: float | Tensor) -> LowRankPlusDiagonal:
        """``factor * S``."""
        return LowRankPlusDiagonal(self.basis, self.values * factor, self.eps * factor)

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
def decompose(covariance: Covariance) -> LowRankPlusDiagonal | None:
    """Eigendecomposition, so that it is paid once and not at every use; O(d^3) for a dense matrix.

    Eigenvalues that rounding may have made count as zero (MRN keeps those above zero).

    Parameters
    ----------
    covariance : Tensor, shape ``(d, d)``, or LowRankPlusDiagonal or None
        The last two are returned as they are.
    """
    if covariance is None:
        return None
    # Rounding each entry to relative u moves no eigenvalue by more than u ||S||_F.
    error = covariance.shape[0] ** 0.5 * torch.finfo(covariance.dtype).eps
    return _factor(covariance, error)


def apply_precisions(w: Tensor, covariances: Sequence[Covariance]) -> Tensor:
    r"""The prior's gradient :math:`W \times_1 S_1^{-1} \dots \times_K S_K^{-1}` (eq. 10).

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
    :math:`Q = \operatorname{vec}(W)^\top (S_1 \otimes \dots \otimes S_K)^{-1}
    \operatorname{vec}(W)`.

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
    return _QuadraticForm.apply(w, tuple(covariances))


def log_determinant_term(shape: Sequence[int], covariances: Sequence[Covariance]) -> Tensor:
    r"""The prior's normaliser :math:`\sum_k (D / D_k) \ln |S_k|`, with :math:`D = \prod_k D_k`.

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
def mode_covariance(
    w: Tensor,
    covariances: Sequence[Covariance],
    mode: int,
    *,
    eps: float,
    relative: bool = True,
    structure: Structure = "auto",
) -> Tensor | LowRankPlusDiagonal:
    r"""One flip-flop update: the covariance of a mode, given those of the others (eq. 5, 11, 12).

    .. math:: S_k = \frac{d_k}{n d} \sum_{i=1}^n W^i_{(k)}
              \Bigl( \bigotimes_{j \ne k} S_j \Bigr)^{-1} W_{(k)}^{i\top} + \varepsilon I

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

    Returns
    -------
    Tensor, shape ``(d_k, d_k)``, or LowRankPlusDiagonal
        In the dtype of ``w``, computed in float64. Zero weights give 0 (plus ``eps I``).
    """
    factors = _factors("w", w, covariances)
    covariance = _update(w, factors, mode, eps=eps, relative=relative, structure=structure)
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

    Parameters
    ----------
    samples : Tensor, shape ``(n, d_1, ..., d_K)``
        Subtract their mean first where it is not zero (eq. 4).
    covariances : sequence of K Tensor, LowRankPlusDiagonal or None (identity)
        Where to start.
    eps : float, or one a mode
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


def normalise_trace(covariance: Tensor | LowRankPlusDiagonal) -> Tensor | LowRankPlusDiagonal:
    """The covariance scaled to trace ``d``, that of the identity; zero becomes the identity."""
    d, trace = covariance.shape[0], covariance.trace()
    zero = trace == 0
    factor = torch.where(zero, 1, d / torch.where(zero, 1, trace))
    if isinstance(covariance, LowRankPlusDiagonal):
        scaled = covariance.scale(factor)
        return LowRankPlusDiagonal(scaled.basis, scaled.values, torch.where(zero, 1, scaled.eps))
    identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    return covariance * factor + zero * identity


@torch.no_grad()
def sqrt_relation(w: Tensor) -> Tensor:
    r"""The task covariance of the trace-one convex form, :math:`(W^\top W)^{1/2}` over its trace.

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


# The distributions


class TensorNormal(Distribution):
    r"""Tensor normal distribution :math:`\mathrm{TN}(M, S_1, \dots, S_K)` (eq. 1-3).

    .. math:: p(X) = (2 \pi)^{-d/2} \prod_k |S_k|^{-d / (2 d_k)}
              \exp \bigl( -\tfrac12 \| (X - M) \times_1 L_1^{-1} \dots \times_K L_K^{-1} \|^2
              \bigr), \qquad S_k = L_k L_k^\top

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
    r"""Matrix normal distribution :math:`\mathrm{MN}(M, F, \Omega)`, the tensor normal with K = 2.

    .. math:: p(X) = (2 \pi)^{-mn/2} |F|^{-n/2} |\Omega|^{-m/2}
              \exp \bigl( -\tfrac12 \operatorname{tr}(F^{-1} (X - M) \Omega^{-1} (X - M)^\top)
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


# Helpers


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


def _update(
    w: Tensor,
    factors: Sequence[LowRankPlusDiagonal | None],
    mode: int,
    *,
    eps: float,
    relative: bool,
    structure: Structure,
) -> Tensor | LowRankPlusDiagonal:
    """:func:`mode_covariance` in float64, the other covariances already decomposed."""
    if eps < 0 or (relative and eps > 1):
        raise ValueError(f"eps: expected {'0 to 1' if relative else 'a number >= 0'}, got {eps}")
    if structure not in ("auto", "dense", "low-rank"):
        raise ValueError(f"structure: expected 'auto', 'dense' or 'low-rank', got {structure!r}")
    k = len(factors)
    mode = _mode(k, mode) - k
    white = w.double()
    for axis, factor in enumerate(factors, start=-k):
        if axis != mode and factor is not None:
            white = _along(factor.to(white.dtype).root_solve, white, axis)
    white = unfold(white, mode)
    d, m = white.shape
    white = white / max(m, 1) ** 0.5  # now S_k = white @ white.mT

    keep, ridge = (1 - eps, eps / d) if relative else (1.0, eps)
    if structure == "dense" or (structure == "auto" and m >= d):
        covariance = white @ white.mT
        shift = ridge * covariance.trace() if relative else ridge
        identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
        return keep * covariance + shift * identity
    values, basis = _left_singular(white, w.dtype)
    shift = ridge * values.sum() if relative else values.new_full((), ridge)
    values = keep * values
    if m >= d:  # the basis is square and holds the identity too
        values, shift = values + shift, torch.zeros_like(shift)
    return LowRankPlusDiagonal(basis, values, shift)


def _left_singular(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Squared singular values and left singular vectors of ``(d, m)``, ``min(d, m)`` of them.

    From the smaller Gram matrix: what its rounding spoils in the vectors of small values does not
    reach ``U diag(values) U^T``, which is all that is used.
    """
    d, m = x.shape
    if m >= d:
        return _eigh(x @ x.mT, _gram_error(d, dtype))
    values, right = _eigh(x.mT @ x, _gram_error(m, dtype))
    return values, x @ (right * _reciprocal(values).sqrt())


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


def _scaled(covariance: Tensor | LowRankPlusDiagonal, factor: Tensor):
    if isinstance(covariance, LowRankPlusDiagonal):
        return covariance.scale(factor)
    return covariance * factor


# A NaN must stay one: comparisons ask for what is dropped, never for what is kept.


def _reciprocal(x: Tensor) -> Tensor:
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
