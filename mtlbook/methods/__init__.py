"""The methods of the book, one short file each, all behind the protocol of ``Method``.

A method is imported when it is first asked for, so that a run depends on, and its result names, the
code of its own methods alone.
"""

from importlib import import_module

_MODULES = {
    "Method": "base",
    "NetworkMethod": "base",
    "STL": "baselines",
    "HardSharing": "baselines",
    "Pooled": "baselines",
    "TNRDMTL": "tnrdmtl",
    "MTAL": "mtal",
    "CrossStitch": "cross_stitch",
    "MRN": "mrn",
    "FixedRelation": "mrn",
    "DRN": "drn",
    "DMTLTF": "dmtl_tf",
    "Lasso": "shallow",
    "L21": "shallow",
    "MTFL": "shallow",
    "RMTL": "shallow",
    "MTRL": "shallow",
    "SharedTrunk": "trunk",
    "TaskHeads": "trunk",
    "SRDML": "srdml",
    "MMoE": "experts",
    "PLE": "experts",
    "Balanced": "balancing",
}

__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
