"""The exercises of the book, and the checks of what their readers write.

``mtlbook check --list`` lists them; ``mtlbook check NAME my.py`` checks an answer, as in a notebook
``%load_ext mtlbook`` and then ``%%check NAME`` do. Statements and solutions stand on the pages.
"""

from typing import Any

from mtlbook.exercises.running import Report, check

__all__ = ["EXERCISES", "Report", "check", "find"]


def __getattr__(name: str) -> Any:
    """``EXERCISES`` and ``find``, imported when asked for: whoever only checks needs no torch."""
    if name in ("EXERCISES", "find"):
        from mtlbook.exercises import course

        return getattr(course, name)
    raise AttributeError(f"module 'mtlbook.exercises' has no attribute {name!r}")
