"""What a GPU says of the methods: steps, agreement with the CPU, how costs grow, one table.

    python benchmarks/gpu.py [--tests] [--budget 170] [--out data/gpu/nvidia-h200.json]
    python benchmarks/gpu.py --device cpu --quick    # a rehearsal, seconds

The file is written anew after every section. A job that fails leaves its traceback and the others
go on; when the budget of seconds is spent, what is left is named and not run.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from gpu_cases import SETTINGS
from gpu_sections import SECTIONS
from on_device import Run, kernels

import mtlbook
from mtlbook.ledger.devices import FOLDER, SCHEMA
from mtlbook.ledger.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
NO_GPU = """expected a CUDA device, found none: torch {version} is built for CUDA {cuda}.
Run it on a machine with an NVIDIA GPU, its driver and a CUDA build of torch (nvidia-smi shows the
first two); a rehearsal on a CPU takes seconds: python benchmarks/gpu.py --device cpu --quick"""


def facts(device: torch.device) -> dict[str, Any]:
    """The device, the day, and what computed."""
    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "day": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "mtlbook": mtlbook.__version__,
        "cpu_cores": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "memory": properties.total_memory,
            "processors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return found


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(
            command, check=True, capture_output=True, encoding="utf-8", timeout=20
        ).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def tests(seconds: float) -> dict[str, Any]:
    """The tests that need a device, in a process of their own: how many passed, what was said."""
    files = [
        p for p in (ROOT / "tests").glob("test_*.py") if "mark.gpu" in p.read_text(encoding="utf-8")
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        try:
            pytest = subprocess.Popen(
                [*command, *map(str, sorted(files))], cwd=ROOT, stdout=said, stderr=said
            )
            code = pytest.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.kill()
            code = 124  # as timeout(1) says it
        said.seek(0)
        text = said.read().replace(f"{ROOT}{os.sep}", "")
    counts = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", text[-300:]):
        counts[word] = int(number)
    print(text[-3000:], flush=True)
    took = time.monotonic() - start
    return {"code": code, **counts, "seconds": took, "said": text[-20_000:] if code else ""}


def measure(
    jobs: Iterable[tuple[str, Callable[[], Mapping[str, Any]]]], left: Callable[[], float]
) -> dict[str, Any]:
    """Rows of a section's jobs, tracebacks of those that fail, names of those not begun in time."""
    start = time.monotonic()
    section: dict[str, Any] = {"rows": {}, "errors": {}, "left_out": []}
    try:
        for label, job in jobs:
            if left() <= 0:
                section["left_out"].append(label)
                continue
            begun = time.monotonic()
            try:
                section["rows"][label] = job()
                print(f"  {label:<28} {time.monotonic() - begun:6.1f} s", flush=True)
            except Exception as error:
                section["errors"][label] = _traceback()
                print(f"  {label:<28} FAILED: {type(error).__name__}: {error}"[:300], flush=True)
    except Exception:  # the list of jobs itself
        section["errors"][""] = _traceback()
    section["seconds"] = time.monotonic() - start
    return section


def _traceback() -> str:
    """Of the error that is being handled; files of this repository without its folder."""
    return traceback.format_exc().replace(f"{ROOT}{os.sep}", "")


def to_json(found: Mapping[str, Any]) -> str:
    return json.dumps(_short(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _short(value: Any) -> Any:
    """Five significant digits; null for what is no finite number."""
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--quick", action="store_true", help="small networks, few rounds")
    parser.add_argument("--budget", type=float, default=170, metavar="SECONDS")
    parser.add_argument("--tests", action="store_true", help="first the tests marked gpu")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, help=f"by default {FOLDER}/<device>.json, if on CUDA")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(NO_GPU.format(version=torch.__version__, cuda=torch.version.cuda), file=sys.stderr)
        return 1
    found = {"schema": SCHEMA, **facts(device), "quick": options.quick, "budget": options.budget}
    found |= {"settings": {name: setting.words for name, setting in SETTINGS.items()}}
    if options.tests:
        found["tests"] = tests(140)
    found["sections"], start = {}, time.monotonic()
    out = options.out
    if out is None and device.type == "cuda" and not options.quick:
        out = ROOT / FOLDER / (found["device"].lower().replace(" ", "-") + ".json")
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        backend.allow_tf32 = False  # float32 unless a precision says otherwise
    # libraries take their workspaces at the first product, and a first trace can lack its kernels
    ones = torch.ones(8, 8, device=device)
    kernels(lambda: torch.nn.functional.conv2d((ones @ ones)[None, None], ones[None, None]), device)
    gc.freeze()  # what is imported stays: collecting the rest takes milliseconds
    for name in options.sections:
        print(f"{name} ({time.monotonic() - start:.0f} s)", flush=True)
        jobs = SECTIONS[name](Run(device, options.quick))
        found["sections"][name] = measure(jobs, lambda: options.budget - (time.monotonic() - start))
        found["seconds"] = time.monotonic() - start
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, to_json(found))
    failed = sum(len(section["errors"]) for section in found["sections"].values())
    late = sum(len(section["left_out"]) for section in found["sections"].values())
    print(f"{found['device']}: {found['seconds']:.0f} s, {failed} failed, {late} left out; {out}")
    return 1 if failed or found.get("tests", {}).get("code") else 0


if __name__ == "__main__":
    sys.exit(main())
