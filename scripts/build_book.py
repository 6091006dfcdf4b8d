"""Build the book strictly and check what was built.

``jupyter-book`` alone is not enough: it exits with 0 when it leaves out a page, and its cache of
executed cells does not see a change of the package that the cells import. So this script

1. empties that cache when the package, the data or the configuration have changed,
2. executes the pages that are not in it, several at a time (``--at-once``, default: the cores),
3. builds from it with every warning an error, and writes the ledger page beside the others,
4. checks that all pages of the table of contents are there, that none shows a traceback or lacks a
   figure that its cells draw, that none loads a script, a style sheet, a font or a picture from
   another host, or one that is not there (the book reads offline), and that links to the ledger
   lead to a claim, and those of a page to itself to a place.

Pages are executed by the kernel of this Python, and nothing of a user's settings reaches it.

``--clean`` builds from nothing; ``--check`` only checks the pages that are there.
``--keep-seconds`` writes how long the pages ran into book/page_seconds.json, which their heads
state (`scripts/chapters.py --write`).
"""

import argparse
import ast
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import psutil
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from myst_nb.core.read import is_myst_markdown_notebook, myst_nb_reader_plugin

from mtlbook.documents import read_yaml
from mtlbook.ledger.chain import chains
from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.page import page as ledger_page
from mtlbook.workflow.kernel import OwnKernel
from mtlbook.workflow.surroundings import environment, of_kernel

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
HTML = BUILD / "html"
LEDGER = "ledger.html"
SECONDS = ROOT / "book" / "page_seconds.json"
FIGURE = r'<img[^>]*\ssrc="[^"]*_images/[0-9a-f]{64}\.'  # of a cell: named by its content
MATHJAX = "_static/mathjax/startup.js"  # from the package sphinx-mathjax-offline
# what the cells of the book read besides their own page, which the cache does look at
INPUTS = ("mtlbook", "data", "notebooks", "_config.yml", "requirements.lock")


def inputs_sha256(root: Path = ROOT) -> str:
    """One hash over every file that executed pages depend on."""
    digest = hashlib.sha256()
    for name in INPUTS:
        path = root / name
        for file in sorted(path.rglob("*") if path.is_dir() else [path]):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(root)).encode() + b"\0")
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def pages(toc: Path) -> list[str]:
    """The pages of a table of contents, root first, without suffix."""

    def walk(node):
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for item in node:
                yield from walk(item)

    return list(walk(read_yaml(toc)))


class _Loads(HTMLParser):
    """Collects the addresses that a browser loads by itself: not the links that a reader clicks."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.addresses.append(attributes.get("src") or "")
        # a canonical or "next" link is only named, not loaded
        elif tag == "link" and not {"canonical", "next", "prev", "author", "search"} & set(
            (attributes.get("rel") or "").split()
        ):
            self.addresses.append(attributes.get("href") or "")


def external_loads(text: str) -> list[str]:
    """The addresses on other hosts that the HTML page ``text`` loads."""
    parser = _Loads()
    parser.feed(text)
    styles = re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(
        r"@import\s+['\"](.+?)['\"]", text
    )
    imports = re.findall(r"\bimport\s*\(?\s*['\"](https?:[^'\"]+)", text)
    return [
        address
        for address in [*parser.addresses, *styles, *imports]
        if re.match(r"\s*(https?:)?//", address)
    ]


def local_loads(text: str) -> list[str]:
    """The files of the book itself that the HTML page ``text`` loads, relative to the page."""
    parser = _Loads()
    parser.feed(text)
    paths = [re.split(r"[?#]", address.strip())[0] for address in parser.addresses]
    return [unquote(path) for path in paths if path and not re.match(r"(\w+:|//)", path)]


def lost_claims(text: str, ledger: str | None) -> list[str]:
    """The links of a page to the ledger that lead nowhere; ``ledger`` is its text, None if lost."""
    found = []
    for address in sorted(set(re.findall(rf'href="[./]*({LEDGER}[^"]*)"', text))):
        claim = address.partition("#")[2]
        if ledger is None or ("=" not in claim and claim and f'id="{claim}"' not in ledger):
            found.append(address)
    return found


def lost_places(text: str) -> list[str]:
    """The links of a page to places of its own that it does not have."""
    places = set(re.findall(r'\sid="([^"]+)"', text))
    return [f"#{at}" for at in sorted(set(re.findall(r'href="#([^"]+)"', text)) - places)]


def figures(page: Path) -> int:
    """How many cells of a page draw a figure, at least one each."""
    if not page.is_file() or not is_myst_markdown_notebook(page.read_text(encoding="utf-8")):
        return 0
    cells = [cell for cell in myst_nb_reader_plugin(str(page)).cells if cell.cell_type == "code"]
    return sum(bool({"show", "subplots", "figure"} & set(_asked_of_plt(c.source))) for c in cells)


def _asked_of_plt(source: str) -> Iterator[str]:
    """The functions of pyplot that a cell calls itself, not in what it defines."""
    lines = [line for line in source.splitlines() if not line.startswith(("%", "!"))]
    waiting: list[ast.AST] = [ast.parse("\n".join(lines))]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="plt"), attr=name)):
                yield name
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def problems(html: Path, toc: Path) -> list[str]:
    """What is wrong with the built book; an empty list when nothing is."""
    found = []
    path = html / LEDGER
    ledger = path.read_text(encoding="utf-8") if path.is_file() else None
    for page in pages(toc):
        file = html / f"{page}.html"
        if not file.is_file():
            found.append(f"{page}: not built")
            continue
        text = file.read_text(encoding="utf-8")
        if "<h1" not in text:
            found.append(f"{page}: has no title")
        if "Traceback (most recent call last)" in text:
            found.append(f"{page}: shows a traceback")
        for address in [*lost_claims(text, ledger), *lost_places(text)]:
            found.append(f"{page}: leads to {address}, which is not there")
        drawn, shown = figures(toc.parent / f"{page}.md"), len(re.findall(FIGURE, text))
        if shown < drawn:
            found.append(f"{page}: {drawn} of its cells draw figures, and it shows {shown}")
        if re.search(r'class="[^"]*\bmath\b', text) and MATHJAX not in text:
            found.append(f"{page}: has formulas but does not load the book's own MathJax")
    for file in sorted([*html.rglob("*.html"), *html.rglob("*.css")]):
        text = file.read_text(encoding="utf-8", errors="replace")
        for address in external_loads(text):
            found.append(f"{file.relative_to(html)}: loads {address}")
        if "_static" in file.parts:  # the theme's templates, and its style sheets
            continue
        for address in local_loads(text):
            if not (file.parent / address).exists():
                found.append(f"{file.relative_to(html)}: loads {address}, which is not there")
    for log in html.glob("reports/**/*.log"):
        found.append(f"failed cell: {log.read_text(encoding='utf-8')[-800:]}")
    return found


def execute(sources: Sequence[Path], folder: Path, *, at_once: int) -> list[str]:
    """Execute the pages that the cache in ``folder`` does not have, each in a kernel of its own.

    Sphinx would execute one page after the other. What goes into the cache is what it would put
    there: a page that fails does not, and the failures are returned.
    """
    timeout = read_yaml(ROOT / "_config.yml")["execute"]["timeout"]
    cache, waiting, failures = get_cache(str(folder)), {}, []
    for source in sources:
        if not is_myst_markdown_notebook(source.read_text(encoding="utf-8")):
            continue
        notebook = myst_nb_reader_plugin(str(source))
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            waiting[source] = notebook
    with ThreadPoolExecutor(at_once) as pool:  # the kernels are processes
        running: dict[Future[ExecutionResult], Path] = {
            pool.submit(
                single_nb_execution,
                waiting[source],
                cwd=str(source.parent),
                timeout=timeout,
                allow_errors=False,
                kernel_manager_class=OwnKernel,
            ): source
            for source in sorted(waiting, key=lambda source: -source.stat().st_size)
        }
        for future in as_completed(running):
            source, result = running[future], future.result()
            if result.err is not None:
                failures.append(f"{source.name}: {result.exc_string}")
                continue
            print(f"{result.time:6.1f} s  {source.name}", flush=True)
            data = {"execution_seconds": result.time}
            bundle = CacheBundleIn(result.nb, str(source), data=data)
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    return failures


def seconds(book: Path, folder: Path) -> dict[str, float]:
    """How long each page of the book ran when it came into the cache in ``folder``."""
    cache, found = get_cache(str(folder)), {}
    for source in sorted(book.rglob("*.md")):
        if is_myst_markdown_notebook(source.read_text(encoding="utf-8")):
            record = cache.match_cache_notebook(myst_nb_reader_plugin(str(source)))
            page = source.relative_to(book).with_suffix("").as_posix()
            found[page] = round(record.data["execution_seconds"], 1)
    return found


def build(clean: bool, *, at_once: int) -> int:
    """Build into ``_build/html``; returns the exit code of the build."""
    with environment(of_kernel(BUILD / ".kernels")):
        return _build(clean, at_once=at_once)


def _build(clean: bool, *, at_once: int) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # pages side by side, one thread each
    stamp = BUILD / "inputs.sha256"
    digest = inputs_sha256()
    stale = not stamp.is_file() or stamp.read_text(encoding="utf-8") != digest
    if clean:
        shutil.rmtree(BUILD, ignore_errors=True)
    elif stale:
        shutil.rmtree(BUILD / ".jupyter_cache", ignore_errors=True)
    # What a page shows must not depend on which data the builder happens to have: it finds none
    # but those that come with the packages. What needs other data is a committed result.
    cache = BUILD / "data"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    os.environ["MTLBOOK_DATA"] = str(cache)
    sources = [ROOT / "book" / f"{page}.md" for page in pages(ROOT / "book/_toc.yml")]
    failures = execute(sources, BUILD / ".jupyter_cache", at_once=at_once)
    for failure in failures:
        print(failure)
    if failures:
        return 1
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        "book",
        "--path-output",
        ".",
    ]
    command += [
        "--config",
        "_config.yml",
        "--toc",
        str(ROOT / "book/_toc.yml"),
        "-n",
        "-W",
        "--keep-going",
    ]
    command += ["-q"] + (["--all"] if stale else [])
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code == 0:
        write_atomically(HTML / LEDGER, ledger_page(chains(ROOT), book="audit.html"))
        stamp.write_text(digest, encoding="utf-8")
    return code


def end_with_children() -> None:
    """Being asked to end, end kernels and Sphinx first, which would work on for nobody."""

    def end(*_) -> None:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        os._exit(143)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)


def main() -> int:
    end_with_children()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clean", action="store_true", help="build from nothing")
    parser.add_argument("--check", action="store_true", help="build nothing, only check")
    parser.add_argument(
        "--at-once", type=int, default=os.cpu_count(), metavar="N", help="pages executed at a time"
    )
    parser.add_argument(
        "--keep-seconds", action="store_true", help="write the pages' seconds into book"
    )
    options = parser.parse_args()
    if not options.check and (code := build(options.clean, at_once=options.at_once)):
        print(f"the build of the book failed (exit code {code}); its warnings stand above")
        return code
    if options.keep_seconds:
        kept = json.dumps(seconds(ROOT / "book", BUILD / ".jupyter_cache"), indent=1)
        write_atomically(SECONDS, kept + "\n")
    found = problems(HTML, ROOT / "book" / "_toc.yml")
    for problem in found:
        print(problem)
    if not found:
        print(f"the book is in order: open {HTML.relative_to(ROOT) / 'index.html'} in a browser")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
