"""Tensors: unfoldings, mode products, and ragged batches (T tensors in one).

Notation of the book: an N-way tensor has modes ``0 .. N-1``; ``unfold(x, i)`` is the matrix that
the papers write :math:`W_{(i+1)}`, with the remaining axes in their order, row-major (C order).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from mtlbook.choices import split_symmetric

# asked once: at the question torch.compile of 2.11 breaks the graph
_AUTOCAST = [d for d in ("cpu", "cuda", "mps", "xpu", "hpu") if torch.amp.is_autocast_available(d)]


def unfold(x: Tensor, mode: int) -> Tensor:
    """Mode unfolding: the axis ``mode`` to the rows, all others, in their order, to the columns.

    Derived in the book: :eq:`eq-unfolding`.

    Parameters
    ----------
    x : Tensor, shape ``(d_1, ..., d_N)``
    mode : int
        Axis in ``[-N, N)``.

    Returns
    -------
    Tensor, shape ``(d_mode, prod of the other d_i)``

    Notes
    -----
    Kolda and Bader (2009) let the *first* remaining axis vary fastest, we (like TensorLy and the
    code of TNRDMTL) the *last*. The two differ by a permutation of columns, so singular values, and
    with them every norm of this package, agree.

    Examples
    --------
    >>> unfold(torch.arange(6).reshape(1, 2, 3), 1)
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """
    mode = _axis(x.ndim, mode)
    rest = prod([size for axis, size in enumerate(x.shape) if axis != mode])
    return x.movedim(mode, 0).reshape(x.shape[mode], rest)


def fold(matrix: Tensor, mode: int, shape: Sequence[int]) -> Tensor:
    """Inverse of :func:`unfold`: ``fold(unfold(x, i), i, x.shape) == x``.

    Derived in the book: :eq:`eq-unfolding`.

    Parameters
    ----------
    matrix : Tensor, shape ``(d_mode, prod of the others)``
    mode : int
    shape : sequence of int
        Shape ``(d_1, ..., d_N)`` of the tensor.
    """
    shape = tuple(shape)
    mode = _axis(len(shape), mode)
    moved = (shape[mode], *shape[:mode], *shape[mode + 1 :])
    if matrix.numel() != prod(shape) or matrix.shape[0] != shape[mode]:
        raise ValueError(
            f"matrix: expected shape ({shape[mode]}, {prod(moved[1:])}) to fold mode {mode} of a "
            f"tensor of shape {shape}, got {tuple(matrix.shape)}"
        )
    return matrix.reshape(moved).movedim(0, mode)


def symmetric_product(rows: Tensor) -> Tensor:
    """``rows @ rows.mT``; torch has no syrk, so large products leave one of four blocks out."""
    if not split_symmetric(rows.shape[-2]):
        return rows @ rows.mT
    half = rows.shape[-2] // 2
    top, bottom = rows[..., :half, :], rows[..., half:, :]
    corner = top @ bottom.mT
    upper = torch.cat([symmetric_product(top), corner], -1)
    lower = torch.cat([corner.mT, symmetric_product(bottom)], -1)
    return torch.cat([upper, lower], -2)


def exact(x: Tensor) -> AbstractContextManager:
    """A context in which autocast leaves products on the device of ``x`` in the dtype they have.

    What a network computes may be rounded to bfloat16; a prior, a factorisation or a saliency is a
    small difference of large numbers, which would be gone.
    """
    kind = x.device.type
    if kind in _AUTOCAST and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def mode_product(x: Tensor, matrix: Tensor, mode: int) -> Tensor:
    r"""Mode product :math:`x \times_{mode} L`: every mode-``mode`` fibre of ``x`` times ``L``.

    Derived in the book: :eq:`eq-mode-product`, :eq:`eq-mode-product-unfolded`.

    Parameters
    ----------
    x : Tensor, shape ``(d_1, ..., d_N)``
    matrix : Tensor, shape ``(m, d_mode)``
    mode : int

    Returns
    -------
    Tensor
        As ``x`` with ``d_mode`` replaced by ``m``.
    """
    mode = _axis(x.ndim, mode)
    if matrix.ndim != 2 or matrix.shape[1] != x.shape[mode]:
        raise ValueError(
            f"matrix: expected shape (m, {x.shape[mode]}) for mode {mode} of a tensor of shape "
            f"{tuple(x.shape)}, got {tuple(matrix.shape)}"
        )
    return torch.tensordot(matrix, x, dims=([1], [mode])).movedim(0, mode)


def _axis(ndim: int, mode: int) -> int:
    if not -ndim <= mode < ndim:
        raise ValueError(f"mode: expected an axis in [-{ndim}, {ndim}), got {mode}")
    return mode % ndim


class Ragged(Sequence):
    """T tensors of unequal length and width that live in one padded tensor.

    A list of T tensors to who reads it, one tensor to who computes: a layer with a task axis works
    on ``padded`` with a handful of large kernels, and nobody else needs to know.

    Parameters
    ----------
    padded : Tensor, shape ``(T, n_max, ...)``
    lengths : sequence of T int, optional
        Samples of each task (``n_max`` for all where it is not given).
    widths : sequence of T int, optional
        Valid entries of the last axis of each task (all where it is not given), for heads of
        unequal size.

    Examples
    --------
    >>> r = Ragged.stack([torch.ones(2, 3), torch.ones(1, 3)])
    >>> [tuple(x.shape) for x in r]
    [(2, 3), (1, 3)]
    """

    def __init__(
        self,
        padded: Tensor,
        lengths: Sequence[int] | None = None,
        widths: Sequence[int] | None = None,
    ):
        for name, sizes in (("lengths", lengths), ("widths", widths)):
            if sizes is not None and len(sizes) != padded.shape[0]:
                raise ValueError(
                    f"{name}: expected one for each of {padded.shape[0]} tasks, got {len(sizes)}"
                )
        self.padded = padded
        self.lengths = None if lengths is None else list(lengths)
        self.widths = None if widths is None else list(widths)

    @classmethod
    def stack(cls, tensors: Sequence[Tensor]) -> Ragged:
        """Pad T tensors ``(n_t, ...)`` with zeros to the longest; a Ragged stays itself."""
        if isinstance(tensors, Ragged):
            return tensors
        if not tensors:
            raise ValueError("tensors: expected at least one task, got none")
        shapes = {tuple(x.shape[1:]) for x in tensors}
        if len(shapes) != 1:
            raise ValueError(f"tensors: expected one shape of a sample in all tasks, got {shapes}")
        lengths = [len(x) for x in tensors]
        if len(set(lengths)) == 1:
            return cls(torch.stack(list(tensors)))
        return cls(torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True), lengths)

    @cached_property
    def mask(self) -> Tensor:
        """Which samples are real, not padding, shape ``(T, n_max)``; made once, on the device."""
        lengths = self.lengths or [self.padded.shape[1]] * len(self)
        columns = torch.arange(self.padded.shape[1], device=self.padded.device)
        return columns < torch.tensor(lengths, device=self.padded.device)[:, None]

    def like(self, padded: Tensor, widths: Sequence[int] | None = None) -> Ragged:
        """The same tasks and lengths around another tensor."""
        return Ragged(padded, self.lengths, widths)

    def to(self, device: torch.device | str) -> Ragged:
        return Ragged(self.padded.to(device), self.lengths, self.widths)

    def __len__(self) -> int:
        return self.padded.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        # a Sequence goes up to the first IndexError, which torch.compile cannot capture
        return iter([self[task] for task in range(len(self))])

    def __getitem__(self, task: int) -> Tensor:
        x = self.padded[task]
        if self.lengths is not None:
            x = x[: self.lengths[task]]
        if self.widths is not None:
            x = x[..., : self.widths[task]]
        return x
