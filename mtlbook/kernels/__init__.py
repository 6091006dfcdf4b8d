r"""Similar convolution kernels: how alike they are, how alike chance makes them, and sharing them.

A *kernel* is one row of numbers, whatever its shape: a whole filter (in, k, k) or a slice (k, k) of
one. P kernels have a (P, P) matrix of similarities; row-stochastic weights made of it mix them,
``K' = A K``: one product of matrices, however many tasks the kernels come from.

**Reconstruction.** Of MTAL (Feng and Chen, arXiv 2101.12431) only the abstract, the setting and the
notation are known to us. That kernels are aggregated with weights if their similarity exceeds rho
is the abstract's; the measure, the weights and all else here are ours.
"""

from mtlbook.kernels.chance import chance_density, chance_tail, chance_threshold
from mtlbook.kernels.sharing import (
    MEASURES,
    PAIRS,
    Similarity,
    aggregate,
    cosine_similarity,
    gaussian_similarity,
    mix,
    pair_share,
    pair_weights,
    pearson_similarity,
    random_order,
)

__all__ = [
    "MEASURES",
    "PAIRS",
    "Similarity",
    "aggregate",
    "chance_density",
    "chance_tail",
    "chance_threshold",
    "cosine_similarity",
    "gaussian_similarity",
    "mix",
    "pair_share",
    "pair_weights",
    "pearson_similarity",
    "random_order",
]
