"""Deep multi-task learning, executable and audited."""

__version__ = "0.12.0"


def __getattr__(name: str) -> object:
    """``mtlbook.compare`` and ``mtlbook.check``, imported when they are asked for."""
    if name == "compare":
        from mtlbook.comparison import compare

        return compare
    if name == "check":
        from mtlbook.exercises import check

        return check
    raise AttributeError(f"module 'mtlbook' has no attribute {name!r}")


def load_ipython_extension(ipython) -> None:
    """``%load_ext mtlbook``: gives a notebook ``%%check NAME`` for the exercises of the book."""
    from mtlbook.exercises import notebook

    notebook.load_ipython_extension(ipython)
