"""What MRN's prior adds to a training step, and what an update costs, against dense matrices.

    python benchmarks/mrn_step.py [--threads 1] [--batch 24 128] [--update-every 10 100 500]

Four tasks of ten classes, fc7 and fc8, the prior on both. By hand: a loop of one's own with the
precisions as matrices, whose gradient is added to that of the losses; and updates by Cholesky. The
shapes reach from few columns of weights (rank) to more of them than half the features.
"Amortised" is a step plus the time of an update, divided by the steps from one to the next.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

import torch
from clock import interleaved, ratio, show
from priors import cholesky_inverse, dense_sweep
from torch import nn

from mtlbook.backbones import mlp
from mtlbook.methods import MRN, STL, FixedRelation
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import Batches, TaskLoss, sgd, step

CLASSES, TASKS = 10, 4
WIDTHS = (None, 32, 128, 160, 256)  # of fc7
SHAPES = ((64, ()), *((1280, () if width is None else (width,)) for width in WIDTHS))


def network(features: int, hidden: tuple[int, ...]):
    names = ("fc7", "fc8") if hidden else ("head",)
    kind = {"hidden": hidden, "activation": nn.ReLU, "names": names, "std": 0.02}
    return mlp(features, [CLASSES] * TASKS, seed=0, **kind)


VARIANTS = {
    "MRN, proximal": partial(MRN, proximal=0.1),
    "MRN_t, gradient": partial(MRN, learn=("task",)),
    "MRN_8, gradient": partial(MRN, layers=("fc8",)),
    "fixed relation": FixedRelation,
}


def batch_of(features: int, batch: int):
    x, y = torch.randn(TASKS, batch, features), torch.arange(batch) % CLASSES
    tasks = TaskSet("made up", [Task(str(t), x[t], y, classes=CLASSES) for t in range(TASKS)])
    return TaskLoss(tasks), *Batches(tasks, batch_size=None, steps=1, seed=0)[0]


def one_step(method, loss, inputs, targets):
    """A training step of a method on one batch."""
    optimizer = sgd(method.parameters())
    return lambda: step(method, loss, optimizer, inputs, targets)


def by_hand(method: MRN, loss, inputs, targets):
    """The same step of single tasks, with dense precisions and the prior's gradient by hand."""
    plain = STL(method.network)
    optimizer, weight = sgd(plain.parameters()), method.switches.weight
    precisions = {
        name: [c.solve(torch.eye(c.shape[0])) for c in method.covariances(name)]
        for name in method.layers
    }

    def one():
        optimizer.zero_grad()
        loss(plain(inputs), targets).sum().backward()
        for name, (tasks, features, classes) in precisions.items():
            w = method.tensor(name)
            joined = features @ w.detach().transpose(0, 1).flatten(1)  # one product for all tasks
            gradient = joined.unflatten(1, (len(tasks), -1)).transpose(0, 1) @ classes
            w.grad.add_((tasks @ gradient.flatten(1)).view_as(w), alpha=weight)
        optimizer.step()

    return one


def measure(features: int, hidden: tuple[int, ...], options: argparse.Namespace) -> None:
    widths = " -> ".join(map(str, (features, *hidden, CLASSES)))
    alone, method = (kind(network(features, hidden)) for kind in (STL, MRN))
    variants = {
        n: make(network(features, hidden)) for n, make in VARIANTS.items() if hidden[:1] == (256,)
    }
    for each in (method, *variants.values()):
        each.update()  # so that no covariance is the identity any more

    def sweeps():
        for name in method.layers:
            dense_sweep(method.tensor(name).detach(), cholesky_inverse)

    ways = {"MRN": method.update, "dense, Cholesky": sweeps}
    updates = interleaved(ways | {n: m.update for n, m in variants.items()}, options.updates)
    show(f"{widths}: an update", updates)
    for batch in options.batch:
        data = batch_of(features, batch)
        steps = {"STL": one_step(alone, *data), "MRN, gradient": one_step(method, *data)}
        steps["dense, by hand"] = by_hand(method, *data)
        steps |= {name: one_step(each, *data) for name, each in variants.items()}
        times = interleaved(steps, options.rounds)
        show(f"{widths}: one step, {batch} samples of each task", times)
        hand = ratio(times["dense, by hand"], times["MRN, gradient"])
        print(f"  by hand / MRN: {hand:.2f}")
        for every in options.update_every:
            print(f"  amortised, an update every {every} steps: ratio to STL")
            for name in ("MRN, gradient", *variants):
                update = median(updates.get(name, updates["MRN"])) / every
                print(f"  {name:<34} {(median(times[name]) + update) / median(times['STL']):10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[24, 128])
    parser.add_argument("--update-every", type=int, nargs="+", default=[10, 100, 500])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--updates", type=int, default=5, help="rounds of updates")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, CPU, {options.threads} thread(s)")
    for features, hidden in SHAPES:
        measure(features, hidden, options)


if __name__ == "__main__":
    main()
