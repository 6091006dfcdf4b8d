"""What a terminal shows while runs are made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from mtlbook.workflow.catalogue import Run
from mtlbook.workflow.schedule import cpu_seconds


def show_progress(
    process: subprocess.Popen, runs: Sequence[Run], seconds: Mapping[str, float]
) -> None:
    """Print a line a finished run until Snakemake ends; on a terminal also a bar a running one.

    ``seconds`` are those that each run is expected to take, by name.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    started = time.monotonic()
    waiting = list(runs)
    bars: dict[str, tqdm] = {}
    with tqdm(total=len(runs), desc="runs", unit="run", disable=not terminal) as overall:
        while waiting:
            ended = process.poll() is not None
            for run in [run for run in waiting if run.result.exists()]:
                waiting.remove(run)
                overall.update()
                if run.name in bars:
                    bars.pop(run.name).close()
                done, elapsed = len(runs) - len(waiting), time.monotonic() - started
                to_do = sum(seconds[run.name] for run in waiting)
                left = elapsed * to_do / (sum(seconds[run.name] for run in runs) - to_do)
                cpu = cpu_seconds(run)
                tqdm.write(
                    f"[{done}/{len(runs)}] {run.name}  ("
                    + (f"{cpu:.0f} CPU s, " if cpu is not None else "")
                    + f"elapsed {tqdm.format_interval(elapsed)}, "
                    f"about {tqdm.format_interval(left)} left)"
                )
                sys.stdout.flush()
            if terminal:
                _draw_running(waiting, bars)
            if ended:
                break
            time.sleep(0.2)
        for bar in bars.values():
            bar.close()
    process.wait()


def _draw_running(waiting: Sequence[Run], bars: dict) -> None:
    """Draw what training writes to the progress files: ``{"step": ..., "steps": ...}``."""
    from tqdm import tqdm

    for run in waiting:
        try:
            state = json.loads(run.progress.read_text(encoding="utf-8"))
            step, steps = int(state["step"]), int(state["steps"])
        except (OSError, ValueError, KeyError, TypeError):
            if run.name in bars:
                bars.pop(run.name).close()
            continue
        if run.name not in bars:
            bars[run.name] = tqdm(total=steps, desc=f"  {run.name}", unit="step", leave=False)
        bars[run.name].n = step
        bars[run.name].refresh()
