"""What MRN's prior adds to a training step of single-task learning.

    python benchmarks/mrn_step.py [--threads 1] [--batch 24 128] [--update-every 100 500]

Four tasks of ten classes on 1280 features, fc7 with 256 units and fc8, the prior on both.
"Amortised" is a step plus the time of an update, divided by the steps from one to the next. The
prior's gradient in every step multiplies each layer by all its precisions, at fc7 by 1280 x 1280
and 256 x 256; the proximal variant does that once an update.
"""

from __future__ import annotations

import argparse
from statistics import median

import torch
from clock import interleaved, show

from mtlbook.backbones import mlp
from mtlbook.methods import MRN, STL, FixedRelation
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import Batches, TaskLoss, sgd, step

FEATURES, HIDDEN, CLASSES, TASKS = 1280, 256, 10, 4


def network():
    return mlp(
        FEATURES,
        [CLASSES] * TASKS,
        seed=0,
        hidden=(HIDDEN,),
        activation=torch.nn.ReLU,
        names=("fc7", "fc8"),
        std=0.02,
    )


METHODS = {
    "STL": lambda: STL(network()),
    "MRN, proximal": lambda: MRN(network(), proximal=0.1),
    "MRN, gradient": lambda: MRN(network()),
    "MRN_t, gradient": lambda: MRN(network(), learn=("task",)),
    "MRN_8, gradient": lambda: MRN(network(), ("fc8",)),
    "fixed relation": lambda: FixedRelation(network()),
}


def steps_of(methods, batch: int):
    """A training step of each method on one batch."""
    x, y = torch.randn(TASKS, batch, FEATURES), torch.arange(batch) % CLASSES
    tasks = TaskSet("made up", [Task(str(t), x[t], y, classes=CLASSES) for t in range(TASKS)])
    inputs, targets = Batches(tasks, batch_size=None, steps=1, seed=0)[0]
    loss = TaskLoss(tasks)

    def one(method):
        optimizer = sgd(method.parameters())
        return lambda: step(method, loss, optimizer, inputs, targets)

    return {name: one(method) for name, method in methods.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[24, 128])
    parser.add_argument("--update-every", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    methods = {name: make() for name, make in METHODS.items()}
    for method in methods.values():
        method.update()  # so that no covariance is the identity any more
    updates = interleaved({name: method.update for name, method in methods.items()}, 3)
    for batch in options.batch:
        times = interleaved(steps_of(methods, batch), options.rounds)
        show(f"one step, {batch} samples of each task", times)
        alone = median(times["STL"])
        for every in options.update_every:
            print(
                f"  amortised, an update every {every} steps: ratio to STL (at most 1.3 is asked)"
            )
            for name in list(METHODS)[1:]:
                ratio = (median(times[name]) + median(updates[name]) / every) / alone
                print(f"  {name:<34} {ratio:10.2f}")


if __name__ == "__main__":
    main()
