"""What all tests share: where the repository is, and random numbers that do not change."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


# Files that take long, the longest first: none begins when all others have ended.
LONGEST = """
    workflow paper_profile golden elsewhere attached comparison cli study ledger_page kills
    experiments_tnrdmtl fair export printed project
""".split()


def pytest_collection_modifyitems(items):
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    for item in items:
        marker = item.get_closest_marker("posix")
        if marker is not None and sys.platform == "win32":
            item.add_marker(pytest.mark.skip(reason=f"not on Windows: {marker.args[0]}"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    numpy.random.seed(0)
    # torch.compile turns it off for the whole process, and tests share theirs
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture(scope="session")
def script():
    """``script("lock")``: the module ``scripts/lock.py``, which is not part of the package."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
