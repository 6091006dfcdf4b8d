"""``mtlbook open``: a page of the book as a notebook of the reader's own."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.repository import root

#: Programs that open a notebook, the first that is installed does.
PROGRAMS = ("jupyter-lab", "jupyter-notebook")


def open_page(options: argparse.Namespace) -> int:
    """Write a page's notebook, unless the reader has one, and open it."""
    editions = _editions()
    page = find(options.page, editions.pages())
    path = Path(options.folder, f"{page}.ipynb")
    text = (editions.BOOK / f"{page}.md").read_text(encoding="utf-8")
    new = editions.notebook(editions.edition(text, solved=options.solved))
    if path.is_file() and path.read_text(encoding="utf-8") != new and not options.force:
        print(f"{path} is there already, and stays as it is; --force writes the page's own over it")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, new)
        print(f"written: {path}")
    if options.only_write:
        return 0
    program = next(filter(None, map(_program, PROGRAMS)), None)
    if program is None:
        print(
            "JupyterLab is not installed. Open the notebook with any program that you have for "
            "that, or with\n"
            f"  {shlex.quote(sys.executable)} -m pip install jupyterlab\n"
            f"  mtlbook open {page} --folder {shlex.quote(str(options.folder))}"
        )
        return 0
    # cells that read results find them, wherever the notebook lies
    environment = {**os.environ, "MTLBOOK_ROOT": str(root())}
    return subprocess.run([program, str(path)], env=environment, check=False).returncode


def find(name: str, pages: list[str]) -> str:
    """The page ``foundations/trace-norm`` of either that or ``trace-norm``.

    Raises
    ------
    ValueError
        If there is none, or if several have the name.
    """
    wanted = name.removesuffix(".md").strip("/")
    found = [page for page in pages if wanted in (page, page.rpartition("/")[2])]
    if len(found) == 1:
        return found[0]
    expected = f"one of {', '.join(found)}" if found else f"one of {', '.join(pages)}"
    raise ValueError(f"open: expected {expected}; got {name!r}")


def _program(name: str) -> str | None:
    """A program beside this Python, or else on the search path."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _editions() -> ModuleType:
    """``scripts/editions.py`` of the repository, which makes notebooks of pages."""
    path = root() / "scripts" / "editions.py"
    spec = importlib.util.spec_from_file_location("editions", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"open: expected the repository's {path}, found none")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"open: {error}; the book's tools are needed: pip install 'mtlbook[book]'"
        ) from error
    return module
