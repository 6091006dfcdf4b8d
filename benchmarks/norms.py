"""The norms of this package against autograd through torch's singular values: time and accuracy.

    python benchmarks/norms.py [--threads 1] [--rounds 20] [--steps 100] [--gamma 0.01 0.1 0.3]

Stacks are those of the Omniglot network of TNRDMTL, 50 tasks. Accuracy is that of the sub-gradient
on weights that LAF has trained, weakly (the paper's gamma) and strongly: only a strong norm spreads
the singular values over orders of magnitude, which is what single precision cannot follow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from clock import interleaved, show

from mtlbook import datasets
from mtlbook.experiments.tnrdmtl import TABLE1
from mtlbook.norms import tensor_trace_norms, trace_norm
from mtlbook.tensors import unfold

# (kh, kw, in, out, T) and (in, out, T), the order of TensorFlow
STACKS = ((5, 5, 1, 8, 50), (3, 3, 8, 12, 50), (3, 3, 12, 16, 50), (256, 64, 50))


def matrices(w: torch.Tensor, kind: str) -> list[torch.Tensor]:
    """The unfoldings of a norm."""
    if kind == "laf":
        return [unfold(w, -1)]
    if kind == "tucker":
        return [unfold(w, mode) for mode in range(w.ndim)]
    return [w.flatten(0, i - 1).flatten(1) for i in range(1, w.ndim)]


def backward(norm, weights: list[torch.Tensor]) -> None:
    """Value and gradient of the sum over all stacks."""
    torch.autograd.grad(sum(norm(w).sum() for w in weights), weights)


def speed(rounds: int) -> None:
    weights = [(0.088 * torch.randn(shape)).requires_grad_() for shape in STACKS]
    for kind in ("laf", "tucker", "tt"):

        def ours(w, kind=kind, **options):
            return tensor_trace_norms(w, kind, **options)

        def torchs(w, kind=kind):
            return torch.stack([torch.linalg.svdvals(m).sum() for m in matrices(w, kind)])

        def transposed(w, kind=kind):
            tall = [m if m.shape[0] >= m.shape[1] else m.mT for m in matrices(w, kind)]
            return torch.stack([torch.linalg.svdvals(m).sum() for m in tall])

        ways = {
            "ours (gram, float64)": lambda ours=ours: backward(ours, weights),
            "ours (svd, float32)": lambda ours=ours: backward(
                lambda w: ours(w, method="svd"), weights
            ),
            "torch.linalg.svdvals, autograd": lambda torchs=torchs: backward(torchs, weights),
            "the same, of the tall transpose": lambda transposed=transposed: backward(
                transposed, weights
            ),
        }
        show(f"{kind}: value and gradient of all four stacks", interleaved(ways, rounds))


def single_precision_gram(x: torch.Tensor) -> torch.Tensor:
    """The sub-gradient by a Gram matrix in float32, as one would write it first."""
    small = x.mT if x.shape[0] >= x.shape[1] else x
    values, vectors = torch.linalg.eigh(small @ small.mT)
    root = (vectors * values.clamp(min=1e-12).rsqrt()) @ vectors.mT
    return x @ root if x.shape[0] >= x.shape[1] else root @ x


def accuracy(steps: int, strengths: Sequence[float]) -> None:
    name = "omniglot_28" if datasets.available("omniglot_28") else "glyphs"
    study = TABLE1.at(steps=steps)
    parts = study.split(datasets.load(name), 0, study.protocol)
    for gamma in strengths:
        method = study.train("laf-tuned", parts, 0, gamma, device="cpu").method
        print(
            f"\nlargest error of the sub-gradient: {steps} steps of LAF on {name}, gamma {gamma:g}"
        )
        print(f"  {'':<8} {'condition':>10} {'ours':>10} {'svd f32':>10} {'gram f32':>10}")
        for layer in method.layers:
            x = unfold(method.stack(layer).detach(), -1).contiguous()
            u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
            found = {}
            for way in ("gram", "svd"):
                leaf = x.clone().requires_grad_()
                (found[way],) = torch.autograd.grad(trace_norm(leaf, method=way), leaf)
            found["naive"] = single_precision_gram(x)
            errors = [float((g - u @ vh).abs().max()) for g in found.values()]
            condition = float(s[0] / s[-1])
            print(f"  {layer:<8} {condition:10.3g} " + " ".join(f"{e:10.2g}" for e in errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="of training, for the accuracy")
    parser.add_argument("--gamma", type=float, nargs="+", default=[0.01, 0.1, 0.3])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, CPU, {arguments.threads} thread(s)")
    speed(arguments.rounds)
    accuracy(arguments.steps, arguments.gamma)


if __name__ == "__main__":
    main()
