"""Downloads: every file has a known hash, and a right one is all that is left in the folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mtlbook.datasets.registry import Download, require

RETRIES = 2  # after a failed download, with pauses of a second and more


def into(folder: Path, files: Sequence[Download]) -> None:
    """Download files into a folder, to the places where torchvision looks for them.

    Parameters
    ----------
    folder : Path
        A scratch folder; the caller removes it, also after a failure.
    files : sequence of Download

    Raises
    ------
    OSError
        The network, or the folder.
    RuntimeError
        A file has another hash than the expected one, after `RETRIES` more tries.
    """
    if not files:
        return
    pooch = require("pooch", "reproduce")
    fetcher = pooch.create(
        path=folder,
        base_url="",
        registry={file.path: file.hash for file in files},
        urls={file.path: file.url for file in files},
        retry_if_failed=RETRIES,
    )
    pooch.get_logger().setLevel("WARNING")
    for file in files:
        web = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=60)
        try:
            fetcher.fetch(file.path, downloader=web)
        except ValueError as error:  # pooch's error for another hash
            raise RuntimeError(f"{file.url}: {error}") from error
