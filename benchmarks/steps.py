"""A training step of 50 stacked networks against a loop over 50 plain ones and torch.func.vmap.

    python benchmarks/steps.py [--threads 1] [--images 8 16 32] [--rounds 7]

The networks are those of TNRDMTL for Omniglot, without a norm. Besides: what the layout in memory
(channels last) and the C library's way to return memory do to the stacked step.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import torch
import torch.nn.functional as F
from clock import interleaved, show
from torch import nn

import mtlbook.layers
from mtlbook.backbones import convnet
from mtlbook.methods import STL
from mtlbook.tasks import Task, TaskSet
from mtlbook.tensors import Ragged
from mtlbook.training import TaskLoss, sgd, step

TASKS, CLASSES = 50, 32
# glibc gives large blocks back to the system at once, and every step asks for them anew
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


def plain_network() -> nn.Module:
    """One task's network, as the paper describes it."""
    layers, before = [], 1
    for width, kernel in ((8, 5), (12, 3), (16, 3)):
        pool = nn.MaxPool2d(2, ceil_mode=True)
        layers += [nn.Conv2d(before, width, kernel, padding="same"), pool, nn.Tanh()]
        before = width
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, CLASSES)
    )


def data(images: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(TASKS, images, 1, 28, 28), torch.randint(CLASSES, (TASKS, images))


def stacked(images: int):
    """A step of this package."""
    x, y = data(images)
    tasks = TaskSet("made up", [Task("", *xy, classes=CLASSES) for xy in zip(x, y, strict=True)])
    method = STL(convnet((1, 28, 28), tasks.outputs, seed=0))
    loss, optimizer = TaskLoss(tasks), sgd(method.parameters())
    inputs, targets = Ragged(x), Ragged(y)
    return lambda: step(method, loss, optimizer, inputs, targets)


def looped(images: int, *, careful: bool = False):
    """A loop over 50 networks, one optimiser, the sum of their losses.

    ``careful``: channels last in memory, and an optimiser that takes all parameters at once.
    """
    layout = torch.channels_last if careful else torch.contiguous_format
    x, y = data(images)
    x = [part.contiguous(memory_format=layout) for part in x]
    networks = [plain_network().to(memory_format=layout) for _ in range(TASKS)]
    parameters = [p for network in networks for p in network.parameters()]
    optimizer = sgd(parameters, foreach=careful)

    def one_step():
        optimizer.zero_grad(set_to_none=True)
        sum(F.cross_entropy(networks[t](x[t]), y[t]) for t in range(TASKS)).backward()
        optimizer.step()

    return one_step


def mapped(images: int):
    """The same networks under torch.func.vmap."""
    x, y = data(images)
    networks = [plain_network() for _ in range(TASKS)]
    parameters, _ = torch.func.stack_module_state(networks)
    skeleton = plain_network()
    optimizer = sgd(list(parameters.values()))

    def forward(parameters, x):
        return torch.func.functional_call(skeleton, parameters, (x,))

    def one_step():
        optimizer.zero_grad(set_to_none=True)
        out = torch.func.vmap(forward)(parameters, x)
        # the mean over a task's images, summed over tasks
        (F.cross_entropy(out.flatten(0, 1), y.flatten()) * TASKS).backward()
        optimizer.step()

    return one_step


def channels_first(one_step):
    """A step without the layout that join_tasks asks for."""

    def join_tasks(x):
        return x.transpose(0, 1).flatten(1, 2)

    def other():
        kept, mtlbook.layers.join_tasks = mtlbook.layers.join_tasks, join_tasks
        try:
            one_step()
        finally:
            mtlbook.layers.join_tasks = kept

    return other


def compare(images: int, rounds: int) -> None:
    one_step = stacked(images)
    ways = {
        "stacked (this package)": one_step,
        "stacked, channels first": channels_first(one_step),
        "loop over 50 networks": looped(images),
        "the same, channels last, foreach": looped(images, careful=True),
        "torch.func.vmap": mapped(images),
    }
    show(f"{TASKS} tasks, {images} images each", interleaved(ways, rounds))


def pooling(images: int, rounds: int) -> None:
    """The layout's effect on the pooling after the first convolution."""
    joined = torch.randn(images, 8 * TASKS, 28, 28)
    layouts = {
        "channels last": joined.contiguous(memory_format=torch.channels_last).requires_grad_(),
        "channels first": joined.requires_grad_(),
    }

    def forward(x):
        return F.max_pool2d(x, 2, ceil_mode=True)

    ways = {name: lambda x=x: forward(x.detach()) for name, x in layouts.items()}
    show(f"pooling of {tuple(joined.shape)}, no gradient", interleaved(ways, rounds))
    ways = {name: lambda x=x: forward(x) for name, x in layouts.items()}
    show("pooling, kept for the gradient", interleaved(ways, rounds))
    kept = {name: (x, forward(x)) for name, x in layouts.items()}
    gradients = {name: torch.ones_like(y) for name, (_, y) in kept.items()}
    ways = {
        name: lambda x=x, y=y, g=gradients[name]: torch.autograd.grad(y, x, g, retain_graph=True)
        for name, (x, y) in kept.items()
    }
    show("pooling, backward", interleaved(ways, rounds))


def memory(arguments: argparse.Namespace) -> None:
    """The stacked step in fresh processes with and without returning memory at once."""
    command = [sys.executable, __file__, "--stacked-only", "--threads", str(arguments.threads)]
    command += ["--rounds", str(arguments.rounds), "--images", *map(str, arguments.images)]
    for title, extra in (("as it comes", {}), ("memory kept", MALLOC)):
        clean = {name: v for name, v in os.environ.items() if name not in MALLOC}
        print(f"\nfresh process, {title}: {' '.join(f'{k}={v}' for k, v in extra.items())}")
        print(
            subprocess.run(
                command, env=clean | extra, check=True, capture_output=True, encoding="utf-8"
            ).stdout,
            end="",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--stacked-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.stacked_only:
        for images in arguments.images:
            ways = {"stacked (this package)": stacked(images)}
            show(f"{TASKS} tasks, {images} images each", interleaved(ways, arguments.rounds))
        return
    print(f"torch {torch.__version__}, CPU, {arguments.threads} thread(s)")
    for images in arguments.images:
        compare(images, arguments.rounds)
    pooling(arguments.images[0], arguments.rounds)
    memory(arguments)


if __name__ == "__main__":
    main()
