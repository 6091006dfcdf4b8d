"""Files that exist complete or not at all, and JSON that means what it says."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new, never a part."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes the file private
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:  # a full disk, say
            error.filename = str(path)
        raise


def read_json(text: str, *, huge: bool = False) -> Any:
    """Parse JSON; NaN, Infinity and 1e999, which Python would accept, are a ``ValueError``.

    With ``huge``, 1e999 becomes infinite: to ask every number takes as long as to parse it, and a
    caller that writes it again, ``allow_nan=False``, meets it there.
    """

    def finite(token: str) -> float:
        if not math.isfinite(number := float(token)):
            raise ValueError(f"expected finite numbers, got {token}")
        return number

    return json.loads(text, parse_constant=finite, parse_float=None if huge else finite)
