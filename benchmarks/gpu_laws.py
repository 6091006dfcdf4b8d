"""How the costs of the methods' own parts grow: time and memory against one size at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from on_device import CPU, Job, Row, Run, Way, allocated, exponent, ms, peak, per_call
from torch import Tensor

from mtlbook.backbones import TaskHeads
from mtlbook.kernels import aggregate
from mtlbook.norms import tensor_trace_norms
from mtlbook.priors import flip_flop
from mtlbook.saliency import pairwise_distances, task_saliency


def laws(run: Run) -> Iterator[tuple[str, Job]]:
    """Time and memory against one size, on the device and on the CPU, with fitted exponents."""
    for name, law in LAWS.items():
        yield name, partial(_law, run, law)


@dataclass(frozen=True)
class Law:
    """A cost that follows a power of a size, once it is large.

    Attributes
    ----------
    size : str
        The letter of what grows.
    theory : str
        The operations, in TeX.
    time, memory : float
        Exponents of what grows fastest.
    sizes, small : sequence of int
        On the device, and in a rehearsal.
    on_cpu : int
        Of the first sizes so many also on a CPU.
    make : callable
        From size and device to the call.
    """

    size: str
    theory: str
    time: float
    memory: float
    sizes: tuple[int, ...]
    small: tuple[int, ...]
    on_cpu: int
    make: Callable[[int, torch.device], Way]


def _law(run: Run, law: Law) -> Row:
    sizes = law.small if run.quick else law.sizes
    row: Row = {"size": law.size, "theory": law.theory, "sizes": list(sizes)}
    row |= {"time_theory": law.time, "memory_theory": law.memory, "ms": [], "peak": []}
    row["cpu_ms"] = []
    rounds = 2 if run.quick else 3
    for i, size in enumerate(sizes):
        empty = allocated(run.device)
        way = law.make(size, run.device)
        row["ms"].append(ms(per_call({"": way}, run.device, rounds, run.block)[""]))
        row["peak"].append(peak(way, run.device, empty))
        if i < law.on_cpu:
            here = {"": law.make(size, CPU)}
            row["cpu_ms"].append(ms(per_call(here, CPU, 1, 0.0)[""]))
        del way
    row["time"] = exponent(sizes, row["ms"])
    row["memory"] = exponent(sizes, row["peak"])
    row["cpu_time"] = exponent(sizes, row["cpu_ms"])
    return row


def _normal(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device)


def _trace_norm(kind: str, features: int, tasks: int, device: torch.device) -> Way:
    w = _normal(64, features // 64, tasks, device=device).requires_grad_()
    return lambda: torch.autograd.grad(tensor_trace_norms(w, kind).sum(), w)


def _flip_flop(features: int, classes: int, tasks: int, device: torch.device) -> Way:
    w = _normal(1, tasks, features, classes, device=device)
    return lambda: flip_flop(w, [None] * 3, eps=0.1, relative=True, structure="auto")


def _regulariser(tasks: int, samples: int, features: int, device: torch.device) -> Way:
    heads = TaskHeads(features, [1] * tasks, hidden=(32,), seed=0).to(device)
    x, parameters = _normal(samples, features, device=device), list(heads.parameters())

    def way() -> object:
        distances = pairwise_distances(task_saliency(heads, x, create_graph=True), 1)
        return torch.autograd.grad(distances.sum(), parameters, allow_unused=True)

    return way


def _aggregate(kernels_: int, device: torch.device) -> Way:
    k = _normal(kernels_, 3, 3, device=device)
    return lambda: aggregate(k, 0.9)


LAWS = {
    "trace norm LAF, tasks": Law(
        "T", "D T^2 + T^3", 2, 1, (64, 128, 256, 512, 1024), (4, 8, 16), 4,
        lambda n, device: _trace_norm("laf", 16384, n, device),
    ),
    "trace norm LAF, weights": Law(
        "D", "D T^2 + T^3", 1, 1, (2**13, 2**15, 2**17, 2**19, 2**20), (64, 128, 256), 4,
        lambda n, device: _trace_norm("laf", n, 50, device),
    ),
    "trace norm Tucker, tasks": Law(
        "T", r"\sum_i (d_i D T + d_i^3)", 1, 1, (32, 64, 128, 256), (4, 8, 16), 3,
        lambda n, device: _trace_norm("tucker", 8192, n, device),
    ),
    "MRN's update, features": Law(
        "D", "D (C T)^2", 1, 1, (1024, 2048, 4096, 8192, 16384), (8, 16, 32), 4,
        lambda n, device: _flip_flop(n, 31, 4, device),
    ),
    "MRN's update, tasks": Law(
        "T", "D (C T)^2", 2, 1, (4, 8, 16, 32, 64), (2, 3, 4), 3,
        lambda n, device: _flip_flop(4096, 10, n, device),
    ),
    "SRDML's regulariser, tasks": Law(
        "T", "T^2 B D", 2, 1, (8, 16, 32, 64), (3, 4, 5), 2,
        lambda n, device: _regulariser(n, 64, 2048, device),
    ),
    "MTAL's aggregation, kernels": Law(
        "P", "P^2 k", 2, 2, (1024, 2048, 4096, 8192, 16384), (8, 16, 32), 3,
        _aggregate,
    ),
}  # fmt: skip
