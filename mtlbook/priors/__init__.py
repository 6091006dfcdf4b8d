r"""Matrix and tensor normal priors, and their covariances by flip-flop maximum likelihood.

A tensor of shape ``(d_1, ..., d_K)`` is tensor normal, ``X ~ TN(M, S_1, ..., S_K)``, if
``vec(X) ~ N(vec(M), S_1 (x) ... (x) S_K)`` with the last index of ``vec`` fastest (MRN eq. 1-3).
Here everything is a product along a mode, ``X x_k A``, so that the order of ``vec``, on which the
paper contradicts itself, plays no part and no Kronecker product is ever formed.

Equation numbers are those of MRN (NIPS 2017, arXiv 1506.02117v4).
"""

from mtlbook.priors.covariances import (
    Cholesky,
    Covariance,
    Inverted,
    LowRankPlusDiagonal,
    check_covariance,
    decompose,
    reciprocal,
)
from mtlbook.priors.distributions import MatrixNormal, TensorNormal
from mtlbook.priors.maximum_likelihood import (
    flip_flop,
    mode_covariance,
    normalise_trace,
    sqrt_relation,
)
from mtlbook.priors.operators import (
    apply_precisions,
    log_determinant_term,
    proximal_step,
    quadratic_form,
    whiten,
)
from mtlbook.priors.stored import StoredCovariance

__all__ = [
    "Cholesky",
    "Covariance",
    "Inverted",
    "LowRankPlusDiagonal",
    "MatrixNormal",
    "StoredCovariance",
    "TensorNormal",
    "apply_precisions",
    "check_covariance",
    "decompose",
    "flip_flop",
    "log_determinant_term",
    "mode_covariance",
    "normalise_trace",
    "proximal_step",
    "quadratic_form",
    "reciprocal",
    "sqrt_relation",
    "whiten",
]
