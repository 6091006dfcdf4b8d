"""Seconds of several ways to do one thing, in turn, so that a busy machine is fair to all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of every way in every round, after one round that does not count.

    ``clock``: by default CPU seconds; a GPU needs one that waits for it.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if i:
                times[name].append(clock() - start)
    return times


def ratio(seconds: list[float], to: list[float]) -> float:
    """Median over rounds of that round's ratio: what slows a round slows both."""
    return median(one / other for one, other in zip(seconds, to, strict=True))


def show(title: str, times: Mapping[str, list[float]]) -> None:
    """Median and minimum of every way, and how many times as fast the first one is.

    The ratio is that of :func:`ratio`.
    """
    first = next(iter(times.values()))
    print(f"\n{title}")
    print(f"  {'':<34} {'median ms':>10} {'min ms':>10} {'ratio':>8} {'of minima':>10}")
    for name, seconds in times.items():
        best = min(seconds) / min(first)
        print(
            f"  {name:<34} {1e3 * median(seconds):10.2f} {1e3 * min(seconds):10.2f} "
            f"{ratio(seconds, first):8.2f} {best:10.2f}"
        )
