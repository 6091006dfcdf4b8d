"""Deep multi-task learning, executable and audited."""

from typing import Any

__version__ = "0.4.0"


def __getattr__(name: str) -> Any:
    """``mtlbook.compare``, imported when it is asked for: it takes the whole package."""
    if name == "compare":
        from mtlbook.comparison import compare

        return compare
    raise AttributeError(f"module 'mtlbook' has no attribute {name!r}")
