"""Covariances kept as low rank plus diagonal against dense ones: time, and that they are the same.

    python benchmarks/priors.py [--threads 1] [--rounds 20] [--dense-rounds 1] [--features 1280]

A head of C classes on D features for T tasks: its feature covariance has rank C T at most. Timed
are one penalty with its gradient, covariances given, and one sweep of flip-flop over all three
modes that leaves the inverses ready. The dense ways are plain code in float32, by
eigendecomposition (which gives generalised inverses) and by Cholesky (which does not); ours
computes in float64. The dense sweep takes seconds: few rounds, and the minima are what to compare.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from clock import interleaved, show
from torch import Tensor

from mtlbook.priors import flip_flop, quadratic_form

EPS = 0.1  # relative


def eigen_inverse(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors / values) @ vectors.mT


def cholesky_inverse(covariance: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(covariance))


def apply(w: Tensor, matrices: list[Tensor]) -> Tensor:
    """All three mode products."""
    return torch.einsum("cdt,ca,db,te->abe", w, *matrices)


def dense_sweep(w: Tensor, inverse) -> list[Tensor]:
    """Eq. 11 with matrices, trace fixed: the precisions of all three modes."""
    identities = [torch.eye(size, dtype=w.dtype) for size in w.shape]
    precisions = list(identities)
    for mode, size in enumerate(w.shape):
        others = [*precisions[:mode], identities[mode], *precisions[mode + 1 :]]
        x = w.movedim(mode, 0).flatten(1)
        covariance = x @ apply(w, others).movedim(mode, 0).flatten(1).mT
        covariance *= (1 - EPS) * size / covariance.trace()
        covariance.diagonal().add_(EPS)
        precisions[mode] = inverse(covariance)
    return precisions


def sweep(w: Tensor) -> list:
    """The same by this package."""
    start = [None] * w.ndim
    options = {"eps": EPS, "relative": True, "scale": "trace", "structure": "low-rank"}
    return flip_flop(w.detach()[None], start, **options)


def backward(penalty, w: Tensor, covariances) -> Tensor:
    return torch.autograd.grad(penalty(w, covariances), w)[0]


def dense_penalty(w: Tensor, precisions: list[Tensor]) -> Tensor:
    return (w * apply(w, precisions)).sum()


def alternately(ours, dense: dict, rounds: int, dense_rounds: int) -> dict[str, list[float]]:
    """Times of our way and of the dense ones, few rounds of these where they take seconds."""
    slow = interleaved({"low rank plus diagonal": ours, **dense}, dense_rounds)
    more = interleaved({"low rank plus diagonal": ours}, rounds)
    return {name: times + more.get(name, []) for name, times in slow.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dense-rounds", type=int, default=1)
    parser.add_argument("--features", type=int, nargs="+", default=[1280, 4096])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 65])
    parser.add_argument("--tasks", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rounds = (options.rounds, options.dense_rounds)

    for d in options.features:
        for c in options.classes:
            w = (0.01 * torch.randn(c, d, options.tasks)).requires_grad_()
            size = f"D = {d}, C = {c}, T = {options.tasks}"
            inverses = {"eigendecomposition": eigen_inverse, "Cholesky": cholesky_inverse}
            dense = {
                f"dense, {name}": partial(dense_sweep, w.detach(), inverse)
                for name, inverse in inverses.items()
            }
            show(f"{size}: one sweep", alternately(partial(sweep, w), dense, *rounds))
            ours, theirs = sweep(w), dense_sweep(w.detach(), cholesky_inverse)
            ways = {
                "low rank plus diagonal": partial(backward, quadratic_form, w, ours),
                "dense": partial(backward, dense_penalty, w, theirs),
            }
            show(f"{size}: penalty and gradient", interleaved(ways, options.rounds))
            exact = w.detach().double().requires_grad_()
            ours = backward(quadratic_form, exact, sweep(exact))
            theirs = backward(dense_penalty, exact, dense_sweep(exact.detach(), cholesky_inverse))
            error = float((ours - theirs).norm() / theirs.norm())
            print(f"  relative difference of the gradients in float64: {error:.1e}")


if __name__ == "__main__":
    main()
