"""A Chromium on this machine, where there is one: it prints pages, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: To run without a window, a user or a network.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find() -> str | None:
    """Return the path of the browser, None where there is none.

    The environment variable ``MTLBOOK_CHROMIUM`` names one that is not on the search path.
    """
    return os.environ.get("MTLBOOK_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def print_to_pdf(page: Path, pdf: Path, *, seconds: float = 120, flags: Sequence[str] = ()) -> Path:
    """Print an HTML file, so that the PDF exists complete or not at all.

    Parameters
    ----------
    page : Path
    pdf : Path
    seconds : float
        After which the browser is ended.
    flags : sequence of str
        Besides those that every run has.

    Raises
    ------
    RuntimeError
        Without a browser, or if it does not print.
    """
    browser = find()
    if browser is None:
        raise RuntimeError(
            f"{pdf.name}: expected Chromium or Chrome to print it, found none of "
            f"{', '.join(NAMES)}; install one, or name it in MTLBOOK_CHROMIUM, or print "
            f"{page.name} from any browser"
        )
    with tempfile.TemporaryDirectory(dir=pdf.parent, ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "page.pdf"
        command = [browser, *FLAGS, *flags, f"--user-data-dir={folder}/profile"]
        command += ["--no-pdf-header-footer", f"--print-to-pdf={made}"]
        try:
            done = subprocess.run(
                [*command, page.resolve().as_uri()],
                capture_output=True,
                encoding="utf-8",
                timeout=seconds,
                check=False,
            )
            said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        except (OSError, subprocess.TimeoutExpired) as error:
            said = [str(error)]
        if not made.is_file() or not made.read_bytes().startswith(b"%PDF-"):
            raise RuntimeError(f"{pdf.name}: {browser} has not printed {page.name} ({said[0]})")
        os.replace(made, pdf)
    return pdf
