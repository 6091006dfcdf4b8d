"""The methods of the book, one short file each, all behind the protocol of ``Method``."""

from mtlbook.methods.balancing import Balanced
from mtlbook.methods.base import Method, NetworkMethod
from mtlbook.methods.baselines import STL, HardSharing, Pooled
from mtlbook.methods.cross_stitch import CrossStitch
from mtlbook.methods.dmtl_tf import DMTLTF
from mtlbook.methods.drn import DRN
from mtlbook.methods.experts import PLE, MMoE
from mtlbook.methods.fixed_relation import FixedRelation
from mtlbook.methods.mrn import MRN
from mtlbook.methods.mtal import MTAL
from mtlbook.methods.shallow import L21, MTFL, MTRL, RMTL, Lasso
from mtlbook.methods.srdml import SRDML
from mtlbook.methods.tnrdmtl import TNRDMTL
from mtlbook.methods.trunk import SharedTrunk

__all__ = [
    "DMTLTF",
    "DRN",
    "L21",
    "MRN",
    "MTAL",
    "MTFL",
    "MTRL",
    "PLE",
    "RMTL",
    "SRDML",
    "STL",
    "TNRDMTL",
    "Balanced",
    "CrossStitch",
    "FixedRelation",
    "HardSharing",
    "Lasso",
    "MMoE",
    "Method",
    "NetworkMethod",
    "Pooled",
    "SharedTrunk",
]
