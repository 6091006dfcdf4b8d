"""A covariance among the buffers of a module: it moves, and is saved, with the module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtlbook.choices import dense_covariance
from mtlbook.priors.covariances import Cholesky, Factored, Inverted, LowRankPlusDiagonal


class StoredCovariance(nn.Module):
    """Holds one covariance, in whichever form it comes.

    Parameters
    ----------
    covariance : LowRankPlusDiagonal or Cholesky
    """

    def __init__(self, covariance: Factored):
        super().__init__()
        self.put(covariance)

    @torch.no_grad()
    def put(self, covariance: Factored) -> None:
        """Hold another covariance in place of the present one."""
        if isinstance(covariance, Cholesky):
            self.size, names = None, ("factor", "precision")
        else:
            self.size, names = covariance.size, ("basis", "values", "eps")
            d = len(covariance.basis)
            if dense_covariance(*covariance.basis.shape):
                identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
                inverse = LowRankPlusDiagonal.solve(covariance, identity)
                parts = (covariance.basis, covariance.values, covariance.eps, inverse)
                covariance, names = Inverted(*parts, size=self.size), (*names, "precision")
        self._buffers.clear()
        for name in names:
            self.register_buffer(name, getattr(covariance, name))

    def get(self) -> Factored:
        """The covariance."""
        if "factor" in self._buffers:
            return Cholesky(**self._buffers)
        kind = Inverted if "precision" in self._buffers else LowRankPlusDiagonal
        return kind(**self._buffers, size=self.size)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Take what was saved in its own form, which need not be the present one."""
        like = next(iter(self._buffers.values()))
        saved = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if saved:
            self._buffers.clear()
        for name, value in saved.items():
            wide = torch.promote_types(value.dtype, like.dtype)  # what was wide loses nothing
            self.register_buffer(name, torch.empty_like(value, dtype=wide, device=like.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
