"""YAML files, read by the C parser where there is one: seven to ten times as fast, same content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def read_yaml(path: str | os.PathLike) -> Any:
    """The content of a YAML file of plain values.

    Raises
    ------
    yaml.YAMLError
        If it is not YAML, or not text in UTF-8.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"expected text in UTF-8, got other bytes: {error}") from error
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """As `read_yaml`, of the text of a file."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # wheels bring libyaml, a build may not
    return yaml.load(text, Loader=loader)
