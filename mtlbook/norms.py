r"""Matrix and tensor trace norms with a sub-gradient that is finite everywhere.

For ``X = U diag(s) V^T`` the trace norm is ``||X||_* = sum_i s_i``, and ``U_r V_r^T`` (over the
non-zero singular values) is the sub-gradient of least norm (Watson 1992; TNRDMTL eq. 8-10). It is
computed in the forward pass and handed out in the backward pass, so that autograd never goes
through the singular vectors, which is where ties and zeros give NaN.

Equation numbers are those of TNRDMTL, arXiv 1606.04038v1.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor

from mtlbook.choices import gram_decomposition, transposed_svd
from mtlbook.tensors import symmetric_product, unfold

Kind = Literal["laf", "tucker", "tt"]


def trace_norm(matrix: Tensor, *, method: Literal["auto", "gram", "svd"] = "auto") -> Tensor:
    r"""Trace norm :math:`\|X\|_* = \sum_i \sigma_i` (eq. 2), sub-gradient :math:`UV^T` (eq. 10).

    Derived in the book: :eq:`eq-trace-norm`, :eq:`eq-sub-gradient`, :eq:`eq-subdifferential`.

    Parameters
    ----------
    matrix : Tensor, shape ``(..., m, n)``
        Any floating dtype; leading axes are a batch. An empty matrix has norm 0.
    method : "auto" | "gram" | "svd"
        ``"gram"``: eigendecomposition of the smaller Gram matrix, in float64 whatever the dtype.
        It squares the condition number, so singular values below ``1e-8 * sigma_max`` are lost;
        float32 cannot tell them from zero anyway. ``"svd"``: a thin SVD in the dtype of the matrix
        (float32 for halves), exact and slower. ``"auto"``: gram, but svd for float64.

    Returns
    -------
    Tensor, shape ``(...)``
        In the dtype of ``matrix``.

    Notes
    -----
    With ``m >= n`` and ``X^T X = Q diag(s^2) Q^T`` the sub-gradient is ``X Q diag(1/s) Q^T``,
    ``O(m n^2)``. A zero singular value contributes nothing: the choice of least norm, a valid
    sub-gradient at every point. On CUDA, ``torch.linalg.eigh`` and ``svd`` themselves wait for the
    device once to check convergence; nothing else here does.

    Examples
    --------
    >>> x = torch.zeros(3, 2, requires_grad=True)
    >>> trace_norm(x).backward()
    >>> x.grad.abs().sum()
    tensor(0.)
    """
    if matrix.ndim < 2 or not matrix.is_floating_point():
        raise ValueError(
            "matrix: expected a floating tensor of shape (..., m, n), got "
            f"{matrix.dtype} of shape {tuple(matrix.shape)}"
        )
    if method not in ("auto", "gram", "svd"):
        raise ValueError(f"method: expected 'auto', 'gram' or 'svd', got {method!r}")
    if method == "auto":
        gram = gram_decomposition(torch.finfo(matrix.dtype).bits)
        method = "gram" if gram else "svd"
    return _TraceNorm.apply(matrix, method)


def tensor_trace_norms(w: Tensor, kind: Kind, *, method: str = "auto") -> Tensor:
    r"""The component norms of a tensor trace norm, task axis last.

    Derived in the book: :eq:`eq-laf`, :eq:`eq-tucker-norm`, :eq:`eq-tt-norm`.

    ========= ========================================================= ======== ==============
    kind      components                                                number   equation
    ========= ========================================================= ======== ==============
    "laf"     :math:`\|W_{(N)}\|_*`, last axis (tasks) against the rest  1        7
    "tucker"  :math:`\|W_{(i)}\|_*` for i = 1..N                         N        3, 4
    "tt"      :math:`\|W_{[i]}\|_*`, first i axes against the rest       N - 1    5, 6
    ========= ========================================================= ======== ==============

    Parameters
    ----------
    w : Tensor, shape ``(d_1, ..., d_{N-1}, T)``, N >= 2
    kind : "laf" | "tucker" | "tt"
    method : "auto" | "gram" | "svd"
        As in :func:`trace_norm`.

    Returns
    -------
    Tensor, shape ``(1,)``, ``(N,)`` or ``(N - 1,)``
        Weigh and reduce it as you please: the paper sums ``gamma_i * norm_i``.

    Notes
    -----
    LAF and Tucker do not depend on the order of the axes before the last, TT does: the authors'
    numbers need :func:`tensorflow_order`. LAF is the last component of both others, and the first
    components of Tucker and TT agree.

    Examples
    --------
    >>> w = torch.ones(2, 3, 4)                     # one task, four times: rank one in every mode
    >>> tensor_trace_norms(w, "tucker")             # each component is the Frobenius norm
    tensor([4.8990, 4.8990, 4.8990])
    """
    if w.ndim < 2:
        raise ValueError(
            f"w: expected at least 2 axes, the last of them tasks, got shape {tuple(w.shape)}"
        )
    if kind == "laf":
        matrices = [unfold(w, -1)]
    elif kind == "tucker":
        matrices = [unfold(w, mode) for mode in range(w.ndim)]
    elif kind == "tt":
        shape = w.shape
        matrices = [w.reshape(prod(shape[:i]), prod(shape[i:])) for i in range(1, w.ndim)]
    else:
        raise ValueError(f"kind: expected 'laf', 'tucker' or 'tt', got {kind!r}")
    return torch.stack([trace_norm(matrix, method=method) for matrix in matrices])


def uncoupled_norm(w: Tensor) -> Tensor:
    r"""The control without sharing: :math:`\sum_t \|w_t\|_F`, task axis last.

    Derived in the book: :eq:`eq-uncoupled`.

    The trace norm of ``W_(N)`` equals this number when the tasks are orthogonal, and is smaller
    otherwise: it shrinks each task by the same law and couples none. (Not in the paper.)

    Parameters
    ----------
    w : Tensor, shape ``(d_1, ..., T)``

    Returns
    -------
    Tensor, scalar
        With sub-gradient 0 for a task that is zero.
    """
    # vector_norm has sub-gradient 0 at 0; in float64 the squares of float32 never overflow.
    rows = unfold(w, -1)
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).sum().to(w.dtype)


def uncoupled_norms(w: Tensor, kind: Kind, *, method: str = "auto") -> Tensor:
    r"""The control of each tensor trace norm: the sum over tasks of the task's own norm.

    Component by component ``sum_t tensor_trace_norms(w_t, kind)``, ``w_t`` a stack of that task
    alone. Tucker and TT want low rank inside a task, too, among its filters and channels; this asks
    for the same of every task by itself and couples none. For ``"laf"`` it is
    :func:`uncoupled_norm`. (Ours, not in the paper.)

    Parameters
    ----------
    w : Tensor, shape ``(d_1, ..., d_{N-1}, T)``
    kind : "laf" | "tucker" | "tt"
    method : "auto" | "gram" | "svd"

    Returns
    -------
    Tensor, shape ``(1,)``, ``(N,)`` or ``(N - 1,)``
        No component is below that of :func:`tensor_trace_norms`, by the triangle inequality.

    Examples
    --------
    >>> w = torch.ones(2, 3, 4)  # four tasks, each of rank one and of length 2.4495
    >>> uncoupled_norms(w, "tucker")
    tensor([9.7980, 9.7980, 9.7980])
    """
    tasks = w.movedim(-1, 0)  # (T, d_1, ..., d_{N-1})
    count, *shape = tasks.shape
    matrices: list[Tensor] = []
    if kind == "tucker":
        axes = range(len(shape))
        matrices = [tasks.movedim(i + 1, 1).reshape(count, shape[i], -1) for i in axes]
    elif kind == "tt":
        rows = [prod(shape[:i]) for i in range(1, len(shape))]
        matrices = [tasks.reshape(count, of, -1) for of in rows]
    elif kind != "laf":
        raise ValueError(f"kind: expected 'laf', 'tucker' or 'tt', got {kind!r}")
    own = [trace_norm(matrix, method=method).sum() for matrix in matrices]
    return torch.stack([*own, uncoupled_norm(w)])  # a task alone has one column: its length


def alignment(w: Tensor) -> Tensor:
    r"""Sharing, free of shrinkage: :math:`\|W_{(N)}\|_* / \sum_t \|w_t\|_F \in [1/\sqrt T, 1]`.

    Derived in the book: :eq:`eq-alignment`.

    1 where the tasks are orthogonal, ``1/sqrt(T)`` where they are equal (up to sign) and of one
    length; scaling all tasks changes nothing. Zero tensors give 1. (Ours, not the paper's.)

    Parameters
    ----------
    w : Tensor, shape ``(d_1, ..., T)``
    """
    total = uncoupled_norm(w)
    norm = trace_norm(unfold(w, -1))
    return torch.where(total > 0, norm / torch.where(total > 0, total, 1), 1)


def singular_value_threshold(matrix: Tensor, threshold: float | Tensor) -> Tensor:
    r"""Proximal map of ``threshold * ||.||_*``: :math:`U \max(S - \tau, 0) V^T`.

    Derived in the book: :eq:`eq-svt`.

    (Cai, Candès and Shen 2010, theorem 2.1.)

    Parameters
    ----------
    matrix : Tensor, shape ``(..., m, n)``
    threshold : float, non-negative
    """
    if isinstance(threshold, float | int) and threshold < 0:
        raise ValueError(f"threshold: expected a number >= 0, got {threshold}")
    if matrix.numel() == 0:
        return matrix
    x = matrix.double()
    values, vectors = torch.linalg.eigh(_gram(x))
    s = values.clamp(min=0).sqrt()
    keep = _keep(s)
    factor = torch.where(keep, (s - threshold).clamp(min=0) / torch.where(keep, s, 1), 0)
    shrink = (vectors * factor.unsqueeze(-2)) @ vectors.mT
    return _multiply_smaller(shrink, x).to(matrix.dtype)


def tensorflow_order(w: Tensor) -> Tensor:
    """From torch's order of a stack to TensorFlow's, in which the authors' TT numbers are given.

    ``(out, in, kh, kw, T) -> (kh, kw, in, out, T)`` and ``(out, in, T) -> (in, out, T)``.
    """
    if w.ndim == 5:
        return w.permute(2, 3, 1, 0, 4)
    if w.ndim == 3:
        return w.permute(1, 0, 2)
    raise ValueError(
        "w: expected a stack of convolutions (out, in, kh, kw, T) or of dense layers (out, in, T), "
        f"got shape {tuple(w.shape)}"
    )


class _TraceNorm(torch.autograd.Function):
    """Value and minimal sub-gradient together; the sub-gradient is a constant to autograd."""

    @staticmethod
    def forward(ctx, matrix: Tensor, method: str) -> Tensor:
        if matrix.numel() == 0:
            value, subgradient = matrix.sum((-2, -1)), matrix
        else:
            value, subgradient = (_by_svd if method == "svd" else _by_gram)(
                matrix, ctx.needs_input_grad[0]
            )
        ctx.save_for_backward(subgradient)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        (subgradient,) = ctx.saved_tensors
        return grad[..., None, None] * subgradient, None


def _gram(x: Tensor) -> Tensor:
    """The smaller of ``X X^T`` and ``X^T X``."""
    return symmetric_product(x if x.shape[-2] < x.shape[-1] else x.mT)


def _multiply_smaller(square: Tensor, x: Tensor) -> Tensor:
    """Multiply ``x`` from the side of its smaller Gram matrix."""
    return square @ x if x.shape[-2] < x.shape[-1] else x @ square


def _keep(s: Tensor) -> Tensor:
    """Which singular values, taken from a float64 Gram matrix, rounding cannot have made."""
    # A Gram matrix carries squares: what rounding leaves of a zero is sqrt(eps), not eps.
    level = (s.shape[-1] * torch.finfo(torch.float64).eps) ** 0.5
    return ~(s <= level * s.amax(-1, keepdim=True))  # so that NaN stays NaN


def _by_gram(matrix: Tensor, want_gradient: bool) -> tuple[Tensor, Tensor | None]:
    x = matrix.double()
    values, vectors = torch.linalg.eigh(_gram(x))
    s = values.clamp(min=0).sqrt()
    keep = _keep(s)
    value = torch.where(keep, s, 0).sum(-1).to(matrix.dtype)
    if not want_gradient:
        return value, None
    inverse = torch.where(keep, 1 / torch.where(keep, s, 1), 0)
    root = (vectors * inverse.unsqueeze(-2)) @ vectors.mT  # (X^T X)^(-1/2), pseudo-inverse
    # Multiplied in float64: root has entries 1/sigma_min that cancel against small ones of X.
    return value, _multiply_smaller(root, x).to(matrix.dtype)


def _by_svd(matrix: Tensor, want_gradient: bool) -> tuple[Tensor, Tensor | None]:
    x = matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
    wide = transposed_svd(*x.shape[-2:])
    x = x.mT if wide else x
    if not want_gradient:
        return torch.linalg.svdvals(x).sum(-1).to(matrix.dtype), None
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    level = max(x.shape[-2:]) * torch.finfo(x.dtype).eps
    keep = s > level * s.amax(-1, keepdim=True)
    subgradient = (u * keep.unsqueeze(-2)) @ vh
    subgradient = subgradient.mT if wide else subgradient
    return s.sum(-1).to(matrix.dtype), subgradient.to(matrix.dtype)
