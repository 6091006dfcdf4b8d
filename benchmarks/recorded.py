"""What pages and the README say of time on a CPU: ratios, both sides of every rule, cost laws.

    python benchmarks/recorded.py [--rounds 5] [--out data/benchmarks.json]

One thread, CPU seconds, all ways of one thing in turn, medians of paired ratios. A ratio is the
time of the other way over ours: below 1 the other way is faster.
"""

from __future__ import annotations

import argparse
import json
import platform
from datetime import date
from functools import partial
from pathlib import Path

import mrn_step
import saliency
import torch
from clock import interleaved, ratio
from gpu_laws import LAWS
from on_device import CPU, exponent, ms
from priors import cholesky_inverse, dense_sweep

from mtlbook.backbones import TaskHeads
from mtlbook.ledger.files import write_atomically
from mtlbook.methods import MRN
from mtlbook.priors import Cholesky, apply_precisions, mode_covariance, normalise_trace
from mtlbook.tensors import symmetric_product

SIZES = {  # of the laws: what a CPU does in seconds
    "trace norm LAF, tasks": (64, 128, 256, 512),
    "trace norm LAF, weights": (2**12, 2**14, 2**16, 2**18),
    "trace norm Tucker, tasks": (32, 64, 128, 256),
    "MRN's update, features": (1024, 2048, 4096, 8192),
    "MRN's update, tasks": (4, 8, 16, 32),
    "SRDML's regulariser, tasks": (8, 16, 32, 64),
    "MTAL's aggregation, kernels": (1024, 2048, 4096, 8192),
}


def ratios(rounds: int) -> dict[str, dict]:
    """Peers against ours."""

    def against(ours, other, of: int) -> dict:
        times = interleaved({"ours": ours, "other": other}, of)
        found = {name: ms(seconds) for name, seconds in times.items()}
        return {"ratio": ratio(times["other"], times["ours"]), "rounds": of, **found}

    def sweeps(method: MRN) -> None:
        for name in method.layers:
            dense_sweep(method.tensor(name).detach(), cholesky_inverse)

    found = {}
    for features, hidden in ((1280, ()), (1280, (256,)), (64, ())):
        method = MRN(mrn_step.network(features, hidden))
        method.update()
        widths = "-".join(map(str, (features, *hidden, mrn_step.CLASSES)))
        found[f"mrn update {widths}"] = against(method.update, partial(sweeps, method), rounds)
        data = mrn_step.batch_of(features, 24)
        steps = mrn_step.one_step(method, *data), mrn_step.by_hand(method, *data)
        found[f"mrn step {widths}"] = against(
            *steps, 2 * rounds if features > 1000 else 20 * rounds
        )
    features, heads = (
        torch.randn(10, 20).add(0.5).requires_grad_(),
        TaskHeads(20, [1] * 12, hidden=(), seed=0),
    )
    targets, lists = torch.rand(12, 10, 1).round(), saliency.one_by_one(heads)

    def step(objective, which, leaves):
        return torch.autograd.grad(objective(which, features, targets), [features, *leaves])

    loop = partial(step, saliency.looped, lists, [p for parameters in lists for p in parameters])
    ours = partial(step, saliency.batched, heads, list(heads.parameters()))
    found["srdml step, loop over samples and tasks"] = against(ours, loop, 2 * rounds)
    return found


def choices(rounds: int) -> list[dict]:
    """Both sides of every rule of `mtlbook.choices`, milliseconds."""
    found = []

    def both(rule: str, shape: tuple[int, ...], yes, no) -> None:
        times = interleaved({"yes": yes, "no": no}, rounds)
        found.append({"rule": rule, "shape": shape} | {k: ms(v) for k, v in times.items()})

    for rank in (64, 256, 768, 1024):
        w = 0.01 * torch.randn(1280, rank)
        options = {"eps": 0.9, "mode": 0}
        low = mode_covariance(w, [None] * 2, structure="low-rank", **options)
        dense = Cholesky.of(normalise_trace(low.dense()))
        products = (partial(apply_precisions, w, [c, None]) for c in (dense, low))
        both("dense_covariance", (1280, rank), *products)
    for rows, columns in ((50, 2000), (2000, 50)):
        x = torch.randn(rows, columns)
        ways = (partial(torch.linalg.svd, y, full_matrices=False) for y in (x.mT, x))
        both("transposed_svd", (rows, columns), *ways)
    for rows in (32, 512):
        x = torch.randn(rows, 4096, dtype=torch.float64)
        halves = x.split(rows // 2)

        def split(top=halves[0], bottom=halves[1]):
            corner = top @ bottom.mT
            upper = torch.cat([top @ top.mT, corner], -1)
            return torch.cat([upper, torch.cat([corner.mT, bottom @ bottom.mT], -1)], -2)

        whole = partial(torch.matmul, x, x.mT)
        both(
            "split_symmetric",
            (rows,),
            split if rows < 128 else partial(symmetric_product, x),
            whole,
        )
    return found


def laws(rounds: int) -> dict[str, dict]:
    """CPU milliseconds against one size at a time, and the slope of the upper half."""
    found = {}
    for name, sizes in SIZES.items():
        law = LAWS[name]
        times = [ms(interleaved({"": law.make(n, CPU)}, rounds)[""]) for n in sizes]
        found[name] = {"size": law.size, "theory": law.theory, "sizes": sizes, "ms": times}
        found[name] |= {"exponent": exponent(sizes, times), "exponent_theory": law.time}
        print(f"{name}: {found[name]['exponent']:.2f}, theory {law.time}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {"schema": 1, "day": str(date.today()), "torch": torch.__version__, "threads": 1}
    found |= {"machine": platform.machine(), "clock": "CPU seconds"}
    found["ratios"] = ratios(options.rounds)
    for name, row in found["ratios"].items():
        print(f"{name}: {row['ratio']:.2f}", flush=True)
    found["choices"] = choices(options.rounds)
    found["laws"] = laws(max(2, options.rounds // 2))
    write_atomically(options.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
