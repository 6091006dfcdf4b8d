"""Whether a penalty has the gradient of its value, along a random direction."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor


def check_gradient(
    penalty: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    *,
    size: float = 1e-6,
    rel: float = 1e-5,
    abs: float = 1e-8,
) -> None:
    """Compare the slope with a central difference of this size; the parameters move."""
    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    values = []
    for move in (size, -2 * size):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += move * d
        values.append(float(penalty().detach()))
    assert (values[0] - values[1]) / (2 * size) == pytest.approx(float(slope), rel=rel, abs=abs)
