"""Command line: ``mtlbook list | data | reproduce | record | audit | rerun | check | ...``.

Hardly anything is imported before `main` begins: from then on a command ends in order, whenever it
is asked to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

_EXTRAS = ("pandas", "papermill", "pydantic", "scipy", "snakemake", "tqdm", "yaml")


def main(arguments=None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default, which then has nothing to do afterwards.
    """
    try:
        with _asked_to_end():
            return _guarded(arguments)
    finally:
        if arguments is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of Python's own end


def _guarded(arguments) -> int:
    """Run a command; say in a line why it ended, and in the exit code."""
    try:
        _open_streams()
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()  # here, where a reader that has gone away is noticed
        return code
    except BrokenPipeError:
        # what is still in the buffer would raise again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ImportError as error:
        known = (error.name or "").partition(".")[0] in _EXTRAS
        hint = "; install it with: pip install 'mtlbook[reproduce]'" if known else ""
        print(f"mtlbook: {error}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # of a terminal that was closed
            print("\nmtlbook: interrupted", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"mtlbook: {error}", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    from mtlbook.cli.parsing import parser

    # argparse would drop the "--" and take Snakemake's options for its own.
    extra: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1 :]
    known = parser()
    options = known.parse_args(arguments)
    if extra and options.command != "reproduce":
        known.error("arguments after -- are Snakemake's, and go with reproduce only")
    options.extra = extra
    return options.function(options)


@contextlib.contextmanager
def _asked_to_end():
    """SIGTERM and SIGHUP end a command as Ctrl-C does: what it has started goes first.

    Not where they are switched off: by ``nohup``, say.
    """

    def interrupt(*_) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # once is enough
        raise KeyboardInterrupt

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        with contextlib.suppress(ValueError):  # not in the main thread
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_streams() -> None:
    """Closed standard streams lead nowhere; what a stream has no letter for is spelt out.

    A number that is not taken would go to the next file that is opened, and what is printed into
    that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
