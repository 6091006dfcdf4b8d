"""A training step of MTAL with sharing on against off, and the forms of its aggregation.

    python benchmarks/kernels.py [--threads 1] [--images 32] [--rounds 20]

Four networks of 12, 24 and 24 filters on images of the sizes of MNIST, USPS, CIFAR-10 and notMNIST.
The first ratio is the one that must stay below 1.2.
"""

from __future__ import annotations

import argparse
from itertools import count

import torch
from clock import interleaved, show

from mtlbook.backbones import kernel_networks
from mtlbook.kernels import aggregate, cosine_similarity
from mtlbook.methods import MTAL, STL, CrossStitch
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import Batches, TaskLoss, sgd, step

SHAPES = ((1, 28, 28), (1, 16, 16), (3, 32, 32), (1, 28, 28))
RHO = 0.3


def networks():
    """Kernels of different tasks start alike, so that there is something to share."""
    return kernel_networks(SHAPES, [10] * 4, seed=0, common=0.5)


def steps(images: int, rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tasks = [
        Task(
            str(t),
            torch.randn(images, *shape, generator=generator),
            torch.arange(images) % 10,
            classes=10,
        )
        for t, shape in enumerate(SHAPES)
    ]
    tasks = TaskSet("noise", tasks)
    batch, loss = Batches(tasks, batch_size=None, steps=1, seed=0)[0], TaskLoss(tasks)

    def way(method):
        optimizer, done = sgd(method.parameters(), lr=1e-4), count(1)

        def run():
            step(method, loss, optimizer, *batch)
            if next(done) % method.update_every == 0:
                method.update()

        return run

    methods = {
        "sharing off (STL)": STL(networks()),
        "MTAL, filters": MTAL(networks(), RHO),
        "MTAL, filters, cross-task": MTAL(networks(), RHO, pairs="cross-task"),
        "MTAL, filters, mutual best": MTAL(networks(), RHO, pairs="mutual-best"),
        "MTAL, filters, random pairs": MTAL(networks(), RHO, pairs="random"),
        "MTAL, filters, learned weights": MTAL(networks(), RHO, weights="learned"),
        "MTAL, slices, every step": MTAL(networks(), 0.9, unit="slice"),
        "MTAL, slices, every 10th step": MTAL(networks(), 0.9, unit="slice", update_every=10),
        "MTAL frozen": STL(MTAL(networks(), RHO).freeze()),
        "cross-stitch": CrossStitch(networks()),
    }
    times = interleaved({name: way(method) for name, method in methods.items()}, rounds)
    show(f"training step, {images} images of each of 4 tasks", times)


def by_pairs(kernels: torch.Tensor, rho: float) -> torch.Tensor:
    """The definition, with an array of P x P x k numbers."""
    w = cosine_similarity(kernels)
    w = torch.where(w > rho, w, 0).fill_diagonal_(1)
    rows = kernels.flatten(1)
    total = (w[:, :, None] * rows[None, :, :]).sum(1)
    return (total / w.sum(1, keepdim=True)).view_as(kernels)


def aggregation(rounds: int) -> None:
    kernels = torch.randn(96, 24, 3, 3, generator=torch.Generator().manual_seed(0))
    ways = {
        "one product": lambda: aggregate(kernels, 0.1),
        "pair by pair (P x P x k)": lambda: by_pairs(kernels, 0.1),
    }
    show("aggregation of 96 filters of 216 numbers", interleaved(ways, rounds))
    torch.testing.assert_close(ways["one product"](), ways["pair by pair (P x P x k)"]())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=32, help="of each task a step")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, CPU, {arguments.threads} thread(s)")
    steps(arguments.images, arguments.rounds)
    aggregation(arguments.rounds)


if __name__ == "__main__":
    main()
