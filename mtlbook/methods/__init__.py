"""The methods of the book, one short file each, all behind the protocol of ``Method``."""

from mtlbook.methods.base import Method, NetworkMethod
from mtlbook.methods.baselines import STL, HardSharing, Pooled
from mtlbook.methods.tnrdmtl import TNRDMTL

__all__ = ["STL", "TNRDMTL", "HardSharing", "Method", "NetworkMethod", "Pooled"]
