"""Under which conditions a run was made: code, versions, machine, time."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import time
import tokenize
from datetime import datetime
from pathlib import Path
from typing import Any

import mtlbook

# Parts of the package that cannot change a measured number; of data sets a result holds the hash.
_NOT_NUMERICAL = ("plots.py", "cli", "workflow", "ledger/", "datasets/", "numerics.py")

# Pillow draws the letters of the rendered sets.
_PACKAGES = (
    *("numpy", "torch", "torchvision", "scipy", "scikit-learn", "mlxtend", "papermill"),
    *("torchjd", "pillow", "matplotlib"),
)


def package_root() -> Path:
    """Return the folder of the installed package."""
    return Path(__file__).resolve().parents[1]


def code_hashes() -> dict[str, str]:
    """Return ``{module file: hash}`` of the numerical code that this process has imported.

    Plots, command line, workflow, ledger and data sets (whose content a result identifies by its
    own hash) do not count, nor do ``__init__`` files, which only hand on names, nor comments,
    docstrings and blank lines. For information: nothing is decided by them
    (:mod:`mtlbook.ledger.currency`).
    """
    root = package_root()
    loaded = (getattr(m, "__file__", None) for n, m in list(sys.modules.items()) if "mtlbook" in n)
    paths = {Path(file) for file in loaded if file and Path(file).is_relative_to(root)}
    names = sorted(path.relative_to(root).as_posix() for path in paths)
    return {
        name: _code_hash(name)
        for name in names
        if not name.startswith(_NOT_NUMERICAL) and not name.endswith("__init__.py")
    }


@functools.cache
def _code_hash(name: str) -> str | None:
    path = package_root() / name
    if not path.is_file():
        return None
    source = essential_source(path.read_text(encoding="utf-8"))
    return hashlib.sha256(source.encode()).hexdigest()


def notebook_sha256(path: str | os.PathLike) -> str:
    """Return the hash of a notebook's code cells; outputs, prose and metadata do not count."""
    return code_cells_sha256(Path(path).read_text(encoding="utf-8"))


def code_cells_sha256(text: str) -> str:
    """As `notebook_sha256`, of the text of a notebook."""
    cells = json.loads(text)["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def essential_source(source: str) -> str:
    """Return Python source without comments, docstrings, blank lines and trailing spaces."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            docstring = node.body[0]
            for row in range(docstring.lineno, docstring.end_lineno + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def describe_process(started: tuple[datetime, float], device: str) -> dict[str, Any]:
    """Describe this process, without names of hosts, users or folders."""
    import torch

    code = code_hashes()
    provenance: dict[str, Any] = {
        "mtlbook": mtlbook.__version__,  # of the code: an old installation may name another
        "code": code,
        "code_sha256": hashlib.sha256(json.dumps(code).encode()).hexdigest(),
        **_git(),
        "python": platform.python_version(),
        "packages": {name: v for name in _PACKAGES if (v := _version(name))},
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            # other kernels round otherwise, and training amplifies it
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "device": device,
        "torch_threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "started": started[0].isoformat(timespec="seconds"),
        "wall_seconds": round(time.perf_counter() - started[1], 3),
        "cpu_seconds": round(time.process_time(), 3),  # of the process, its imports among them
        "peak_memory_mb": _peak_memory_mb(),
    }
    if device.startswith("cuda"):
        provenance["device_name"] = torch.cuda.get_device_name(device)
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        provenance["peak_device_memory_mb"] = round(peak, 1)
    return provenance


def git_environment() -> dict[str, str]:
    """Of git processes: the history is that of the folder that is named, and of its commits.

    A git hook, or whoever wants to show another one, sets ``GIT_DIR``, ``GIT_INDEX_FILE`` and so
    on; a file of grafts gives commits other parents.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return ours | {"GIT_GRAFT_FILE": os.devnull}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    """Return commit and dirty flag if the package's own files are tracked by git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package_root()), *arguments],
            env=git_environment(),
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return {
            "git_commit": git("rev-parse", "HEAD"),
            "git_dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _peak_memory_mb() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
