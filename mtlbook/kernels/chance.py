"""How alike chance makes kernels: the law of the cosine of two random directions."""

from __future__ import annotations

from math import exp, lgamma

import torch
from torch import Tensor


def chance_density(cosine: Tensor | float, dimension: int) -> Tensor:
    r"""Density of the cosine of two random kernels of d entries.

    Derived in the book: :eq:`kernel-density`.

    .. math:: f_d(s) = \frac{(1 - s^2)^{(d - 3) / 2}}{\mathrm B(\frac12, \frac{d - 1}{2})}

    Parameters
    ----------
    cosine : Tensor or float, in [-1, 1]
    dimension : int, >= 2
        d. For Pearson's correlation take d - 1: centred kernels live in one dimension less.

    Returns
    -------
    Tensor, float64, shape of ``cosine``

    Notes
    -----
    Exact if one of the two has a direction that is uniform on the sphere and independent of the
    other: normal entries of one variance, for example.
    """
    _check_dimension(dimension, 2)
    s = torch.as_tensor(cosine, dtype=torch.float64)
    a = (dimension - 1) / 2
    beta = lgamma(a) + lgamma(0.5) - lgamma(a + 0.5)
    return ((1 - s) * (1 + s)) ** (a - 1) * exp(-beta)


def chance_tail(cosine: Tensor | float, dimension: int) -> Tensor:
    r"""Probability that the cosine of two random kernels of d entries exceeds a value.

    Derived in the book: :eq:`kernel-tail`.

    .. math:: \Pr(s > \theta) = \tfrac12\, \mathrm I_{1 - \theta^2} (\tfrac{d - 1}{2}, \tfrac12)

    with the regularised incomplete beta function I; ``1 - Pr(s > -theta)`` for negative theta.

    Parameters
    ----------
    cosine : Tensor or float
        At 1 and above the probability is 0, below -1 it is 1.
    dimension : int, >= 1
        d; see :func:`chance_density`.

    Returns
    -------
    Tensor, float64, shape of ``cosine``

    Examples
    --------
    >>> chance_tail(0.8, 9), chance_tail(0.8, 216)   # a 3 x 3 slice, a filter of 24 channels
    (tensor(0.0027, dtype=torch.float64), tensor(6.7998e-50, dtype=torch.float64))
    """
    _check_dimension(dimension, 1)
    r = torch.as_tensor(cosine, dtype=torch.float64).detach().cpu()
    if dimension == 1:  # the cosine is 1 or -1
        return ((r < 1).double() + (r < -1).double()) / 2
    from scipy.special import betainc, betaincc  # of the extras

    size = r.abs().clamp(max=1)
    # the same number twice, each where its argument is exact
    small = torch.as_tensor(betaincc(0.5, (dimension - 1) / 2, (size**2).numpy()))
    large = torch.as_tensor(betainc((dimension - 1) / 2, 0.5, ((1 - size) * (1 + size)).numpy()))
    upper = 0.5 * torch.where(size < 0.5, small, large)
    return torch.where(r >= 0, upper, 1 - upper)


def chance_threshold(dimension: int, tail: float) -> float:
    """The cosine that two random kernels of d entries exceed with probability ``tail``.

    Derived in the book: :eq:`kernel-threshold`.

    Parameters
    ----------
    dimension : int, >= 2
    tail : float, in (0, 1)
    """
    _check_dimension(dimension, 2)
    if not 0 < tail < 1:
        raise ValueError(f"tail: expected a probability in (0, 1), got {tail}")
    from scipy.special import betaincinv

    square = 1 - betaincinv((dimension - 1) / 2, 0.5, 2 * min(tail, 1 - tail))
    return float(square**0.5) if tail <= 0.5 else -float(square**0.5)


def _check_dimension(dimension: int, least: int) -> None:
    if dimension < least:
        raise ValueError(f"dimension: expected at least {least}, got {dimension}")
