"""Relations: a task x task matrix that says what it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlbook.priors import reciprocal


@dataclass(frozen=True)
class Relation:
    """How strongly a method holds its tasks to be related.

    Parameters
    ----------
    matrix : Tensor, shape ``(T, T)``
    meaning : str
        What an entry is, with its range: "cosine of the tasks' parameters, -1 to 1".
    names : sequence of T str
    """

    matrix: Tensor
    meaning: str
    names: Sequence[str] = ()

    def __post_init__(self):
        shape = tuple(self.matrix.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"matrix: expected shape (T, T), got {shape}")
        if self.names and len(self.names) != shape[0]:
            raise ValueError(f"names: expected {shape[0]}, got {len(self.names)}")

    def normalised(self) -> Relation:
        """With ones on the diagonal: ``m_ij / sqrt(m_ii m_jj)`` (a covariance's correlation)."""
        scale = self.matrix.diagonal().clamp(min=0).sqrt()
        inverse = reciprocal(scale)
        matrix = self.matrix * inverse[:, None] * inverse[None, :]
        return Relation(matrix, f"normalised: {self.meaning}", self.names)

    def off_diagonal(self) -> Tensor:
        """The ``T (T - 1) / 2`` entries above the diagonal of the symmetric part."""
        t = len(self.matrix)
        rows, columns = torch.triu_indices(t, t, offset=1, device=self.matrix.device)
        return ((self.matrix + self.matrix.mT) / 2)[rows, columns]

    def compare(self, other: Relation) -> Tensor:
        """Pearson correlation of the off-diagonal entries with those of another relation."""
        a, b = self.off_diagonal(), other.off_diagonal()
        if len(a) != len(b):
            raise ValueError(f"other: expected {len(self.matrix)} tasks, got {len(other.matrix)}")
        if len(a) < 2:
            raise ValueError(
                f"relation: expected 3 tasks or more to correlate, got {len(self.matrix)}"
            )
        return torch.corrcoef(torch.stack([a, b]))[0, 1]


def cosine_relation(vectors: Tensor, names: Sequence[str] = ()) -> Relation:
    """Cosines of T vectors, shape ``(T, d)``; a zero vector is related to itself alone."""
    # in float64, in which the squares of float32 neither overflow nor vanish
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True, dtype=torch.float64)
    unit = vectors / torch.where(length > 0, length, 1)
    matrix = (unit @ unit.mT).to(vectors.dtype)
    own = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    matrix = matrix - torch.diag(matrix.diagonal()) + own
    return Relation(matrix, "cosine of the tasks' parameters, -1 to 1", names)
