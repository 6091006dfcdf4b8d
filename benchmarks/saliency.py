"""SRDML's regulariser: one batched pass, or its closed form, against a loop over samples and tasks.

    python benchmarks/saliency.py [--threads 1] [--rounds 5]

A step is the value of losses + regulariser and its gradients in the heads and in the features. The
loop does what the authors' code does: one backward pass for each sample and task, kept for a second
differentiation. Settings: the synthetic study (12 linear tasks, 20 features, 10 samples) and heads
on a feature map of 2 x 2 x 512 as VGG16 leaves it (10 heads with a hidden layer of 128, 200
samples). The bare step, without the regulariser, is the floor.
"""

from __future__ import annotations

import argparse
from itertools import combinations

import torch
import torch.nn.functional as F
from clock import interleaved, show
from torch import nn

from mtlbook.backbones import TaskHeads
from mtlbook.saliency import pairwise_distances, task_saliency


class Opaque(nn.Module):
    """Heads that do not say what they are made of, so that the closed form is not chosen."""

    def __init__(self, heads: TaskHeads):
        super().__init__()
        self.heads, self.tasks, self.widths = heads, heads.tasks, heads.widths

    def forward(self, x):
        return self.heads(x)


def bare(heads, features, targets):
    outputs = heads(features.expand(heads.tasks, *features.shape))
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="sum") / len(features)


def batched(heads, features, targets):
    saliency = task_saliency(heads, features, create_graph=True, reduction="sum")
    pairs = pairwise_distances(saliency, 1).sum() / 2
    return bare(heads, features, targets) + 1e-3 * pairs


def one_by_one(heads: TaskHeads) -> list[list[torch.Tensor]]:
    """Each task's weights and biases in tensors of their own, as separate networks have them."""
    return [
        [p[t].detach().clone().requires_grad_() for p in heads.parameters()]
        for t in range(heads.tasks)
    ]


def looped(heads, features, targets):
    """As in the script: for every sample, for every task, then for every pair."""

    def head(parameters, x):
        x = x.flatten(1)
        for i in range(0, len(parameters), 2):
            x = x @ parameters[i] + parameters[i + 1]
            x = x.relu() if i + 2 < len(parameters) else x
        return x

    total = 0
    for sample in features:
        a = sample[None]
        saliency = []
        for parameters in heads:
            (g,) = torch.autograd.grad(head(parameters, a).sum(), a, create_graph=True)
            saliency.append(g.flatten(2).sum(2) if g.ndim > 2 else g)
        total = total + sum((u - v).abs().sum() for u, v in combinations(saliency, 2))
    outputs = torch.stack([head(parameters, features) for parameters in heads])
    loss = F.binary_cross_entropy_with_logits(outputs, targets, reduction="sum")
    return loss / len(features) + 1e-3 * total


def compare(title: str, features: torch.Tensor, heads: TaskHeads, rounds: int) -> None:
    features = features.requires_grad_()
    targets = torch.rand(heads.tasks, len(features), 1).round()
    lists, stacked = one_by_one(heads), list(heads.parameters())

    def step(objective, which, leaves):
        value = objective(which, features, targets)
        return value, torch.autograd.grad(value, [features, *leaves])

    flat = [p for parameters in lists for p in parameters]
    ways = {"loop over samples and tasks": lambda: step(looped, lists, flat)}
    ways["batched, by autograd"] = lambda: step(batched, Opaque(heads), stacked)
    ways["closed form"] = lambda: step(batched, heads, stacked)
    ways["without the regulariser"] = lambda: step(bare, heads, stacked)
    value, (of_features, *rest) = ways["loop over samples and tasks"]()
    each = [torch.stack(rest[i :: len(stacked)]) for i in range(len(stacked))]
    for name in list(ways)[1:-1]:
        torch.testing.assert_close(
            ways[name](), (value, (of_features, *each)), rtol=1e-4, atol=1e-5
        )
    times = interleaved(ways, rounds)
    show(title, times)
    best = {name: min(seconds) for name, seconds in times.items()}
    loop, floor = best["loop over samples and tasks"], best["without the regulariser"]
    for name in list(ways)[1:-1]:
        print(
            f"  {name}: {loop / best[name]:.1f} times as fast as the loop; "
            f"{100 * floor / best[name]:.0f} % of it is the step without the regulariser"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    compare(
        "synthetic: 12 linear heads, 20 features, 10 samples",
        torch.randn(10, 20) + 0.5,
        TaskHeads(20, [1] * 12, hidden=(), seed=0),
        10 * options.rounds,
    )
    compare(
        "a map of 2 x 2 x 512: 10 heads with 128 hidden units, 200 samples",
        torch.randn(200, 512, 2, 2).relu(),
        TaskHeads(2048, [1] * 10, hidden=(128,), seed=0),
        options.rounds,
    )
