"""What the authors' code of MRN computes in place of an inverse (thuml/MTlearn, 566df73)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtlbook.priors import Covariance, LowRankPlusDiagonal, mode_covariance, reciprocal

if TYPE_CHECKING:
    from mtlbook.methods.mrn import Switches


def released(
    w: Tensor,
    covariances: Sequence[Covariance],
    which: str,
    mode: int,
    switches: Switches,
    eps: float,
) -> LowRankPlusDiagonal:
    """The covariance of a mode whose inverse is the matrix that the released code computes.

    That code keeps precisions. Here, too, an eigenvalue of one is 1/s or, below the threshold,
    s; zero stays zero.
    """
    s = mode_covariance(
        w.double(), covariances, mode, eps=eps, relative=switches.relative, structure="dense"
    )
    values, basis = torch.linalg.eigh(s)
    values = values.clamp(min=0)
    precisions = reciprocal(values)
    if switches.threshold is not None:
        precisions = torch.where(values > switches.threshold, precisions, values)
    if switches.trace_cap is not None:
        trace = precisions.sum()
        precisions = precisions * torch.where(
            trace > switches.trace_cap, switches.trace_cap / trace, 1
        )
    if switches.feature_step is not None and which == "feature":
        old = covariances[mode].to(s.dtype)
        precision = old.solve(torch.zeros_like(s).fill_diagonal_(1))
        step = (basis * precisions) @ basis.mT * switches.feature_step
        precisions, basis = torch.linalg.eigh(precision + step)
    return LowRankPlusDiagonal(basis, reciprocal(precisions), precisions.new_zeros(())).to(w.dtype)
