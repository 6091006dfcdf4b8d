"""What a call costs on a device: seconds, kernels, memory, and how often the host waits for it."""

from __future__ import annotations

import gc
import json
import math
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from clock import interleaved

Way = Callable[[], object]
Row = dict[str, Any]
Job = Callable[[], Row]
CPU = torch.device("cpu")
PRECISIONS = ("float32", "TF32", "bfloat16")
SYNC = "called a synchronizing CUDA operation"  # what torch warns of in its debug mode
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")  # a copy to the host among them


@dataclass(frozen=True)
class Run:
    """Where and how large.

    Attributes
    ----------
    device : torch.device
    quick : bool
        Small networks, few rounds: a rehearsal.
    """

    device: torch.device
    quick: bool

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 5

    @property
    def block(self) -> float:
        """Seconds for which a call is repeated in a round."""
        return 0.002 if self.quick else 0.02

    @property
    def size(self) -> str:
        return "small" if self.quick else "paper"


def clock(device: torch.device) -> float:
    """Wall-clock seconds, when the device has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def per_call(
    ways: Mapping[str, Way], device: torch.device, rounds: int, block: float
) -> dict[str, list[float]]:
    """Seconds of one call of every way, in every round; a round repeats a call for ``block`` s."""

    def repeated(way: Way) -> tuple[Way, int]:
        for _ in range(2 if device.type == "cuda" else 1):
            way()  # libraries choose their algorithms
        start = clock(device)
        way()
        calls = max(1, min(100, int(block / max(clock(device) - start, 1e-6))))
        return lambda: [way() for _ in range(calls)], calls

    blocks = {name: repeated(way) for name, way in ways.items()}
    times = interleaved({k: b for k, (b, _) in blocks.items()}, rounds, partial(clock, device))
    return {name: [s / blocks[name][1] for s in seconds] for name, seconds in times.items()}


def ms(seconds: Sequence[float]) -> float:
    """Milliseconds, the median."""
    return 1e3 * median(seconds)


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median over rounds of that round's ratio: what slows a round slows both."""
    return median(a / b for a, b in zip(one, other, strict=True))


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Products of float32 as they are, rounded to TF32, or by autocast in bfloat16."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = name == "TF32"
    rounded = torch.autocast(device.type, torch.bfloat16) if name == "bfloat16" else nullcontext()
    try:
        with rounded:
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def kernels(way: Way, device: torch.device, calls: int = 3) -> dict[str, float]:
    """Of one call, by CUDA's own trace: kernels, copies, milliseconds in kernels, host waits."""
    if device.type != "cuda":
        return {}
    way()
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        for _ in range(calls):
            way()
        torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return count(events, calls)


def count(events: Iterable[Mapping[str, Any]], calls: int) -> dict[str, float]:
    """What a trace holds, of one of so many calls."""
    events = list(events)
    kinds = Counter(event.get("cat") for event in events)
    busy = sum(event.get("dur", 0) for event in events if event.get("cat") == "kernel")
    return {
        "kernels": kinds["kernel"] / calls,
        "copies": (kinds["gpu_memcpy"] + kinds["gpu_memset"]) / calls,
        "kernel_ms": busy / 1e3 / calls,  # durations are in microseconds
        "driver_waits": sum(event.get("name") in WAITS for event in events) / calls,
    }


def waits(way: Way, device: torch.device) -> dict[str, int]:
    """How often torch makes the host wait in one call, by the line that asks for it.

    ``torch.cuda.set_sync_debug_mode`` sees what torch's own operations do (``.item()``, a copy from
    the host, the check of a decomposition), and not what a library does within.
    """
    if device.type != "cuda":
        return {}
    way()
    torch.cuda.synchronize(device)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            way()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [w for w in seen if SYNC in str(w.message)]
    return dict(Counter(f"{Path(w.filename).name}:{w.lineno}" for w in found))


def peak(way: Way, device: torch.device, before: int = 0) -> int | None:
    """Bytes that are allocated at most during a call, without those that were ``before``."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    way()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def allocated(device: torch.device) -> int:
    """Bytes in use, after what nobody holds has been given back."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)


def exponent(sizes: Sequence[float], values: Sequence[float | None]) -> float | None:
    """Slope of log value against log size by least squares over the upper half of the sizes.

    Where sizes are small, what is always to be done hides the law.
    """
    pairs = [(math.log(s), math.log(v)) for s, v in zip(sizes, values, strict=False) if v]
    pairs = pairs[-max(3, (len(pairs) + 1) // 2) :]
    if len(pairs) < 2:
        return None
    x, y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    return sum((a - x) * (b - y) for a, b in pairs) / sum((a - x) ** 2 for a, _ in pairs)
