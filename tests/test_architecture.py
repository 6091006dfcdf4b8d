"""The floors of the package: a module imports only from those below it, the core torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mtlbook"

# From the ground up.
FLOORS = [
    "documents",
    "numerics",
    "choices",
    "tensors",
    "norms",
    "priors",
    "saliency",
    "kernels",
    "relations",
    "layers",
    "backbones",
    "tasks",
    "datasets",
    "methods",
    "batches",
    "progress",
    "training",
    "ledger",
    "arms",
    "study",
    "comparison",
    "experiments",
    "exercises",
    "narrow",
    "plots",
    "explorables",
    "workflow",
    "cli",
]
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem in FLOORS)


def floor(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Floors that a file imports; what stands under ``if TYPE_CHECKING`` is never imported."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "mtlbook":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mtlbook."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mtlbook.")}
    return names & set(FLOORS)


def test_every_module_has_a_floor():
    known = {*FLOORS, "__init__"}
    assert {floor(p) for p in PACKAGE.rglob("*.py")} <= known


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path):
    here = FLOORS.index(floor(path))
    above = [name for name in imported(path) if FLOORS.index(name) > here]
    assert above == []


def test_the_core_needs_torch_and_numpy_alone():
    """With everything else hidden, the package's mathematics and its training import."""
    code = """
import sys

optional = "matplotlib seaborn pydantic yaml papermill snakemake sklearn mlxtend torchvision pandas"
for name in optional.split():
    sys.modules[name] = None
import mtlbook.experiments.tnrdmtl, mtlbook.training, mtlbook.methods, mtlbook.cli, mtlbook.datasets
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_docstrings_have_no_control_characters():
    """A backslash in a docstring that is not raw turns a formula's letters into a TAB."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = (ast.get_docstring(node, clean=False) or "") if isinstance(node, kinds) else ""
            strange = sorted({c for c in text if ord(c) < 32 and c != "\n"})
            assert not strange, f"{path.name}: {strange} in {text[:60]!r}"
