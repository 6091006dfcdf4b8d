"""Put the built book into one zip file that opens without a network; with ``--pdf`` also print it.

    python scripts/archive.py            # _build/mtlbook-<version>.zip
    python scripts/archive.py --pdf      # and _build/mtlbook-<version>.pdf, by Chromium

The PDF is the pages one after the other, in the order of the contents, code that the pages hide
left out. Formulas are set by the book's own MathJax.
"""

import argparse
import os
import posixpath
import sys
import zipfile
from pathlib import Path

from bs4 import BeautifulSoup
from build_book import HTML, ROOT, pages

import mtlbook
from mtlbook.ledger.chromium import print_to_pdf
from mtlbook.ledger.files import write_atomically

NAME = f"mtlbook-{mtlbook.__version__}"
README = """Deep multi-task learning, executable and audited ({name})

Unpack this file, and open html/index.html in a browser. Nothing is loaded from elsewhere, so
it reads without a network. The ledger of all verdicts is html/ledger.html.

Text: CC BY 4.0. Code: MIT. MathJax 3 (in html/_static/mathjax): Apache 2.0.
"""
# the clock of the page: MathJax has as much of it as it needs, whatever it takes here
FLAGS = ("--virtual-time-budget=600000", "--generate-pdf-document-outline")
LEFT_OUT = ("_sources", ".doctrees", "reports")
PRINTED = """
@page { size: A4; margin: 18mm 16mm;
  @bottom-center { content: counter(page); font: 8pt sans-serif } }
article { break-before: page }
html { font-size: 11.5px } body { font-size: 9.5pt; line-height: 1.45 }
figure, tr, .math, .exercise, .sd-card, .admonition-title { break-inside: avoid !important }
/* what is long is divided, or every second page would be half empty */
.admonition:not(.exercise), .cell, .cell_output, pre, table, blockquote {
  break-inside: auto !important; orphans: 3; widows: 3 }
h1, h2, h3, .admonition-title { break-after: avoid }
/* in one line, or the outline of the PDF joins two words */
h1 { font-size: 14pt } h2 { font-size: 12pt } h3 { font-size: 10.5pt }
.headerlink, button, details.hide { display: none }
.bd-article div.cell_output img, img { max-width: 100%; zoom: 1 }
/* paper does not scroll: code and tables are broken, formulas have no bars below them */
pre { white-space: pre-wrap } ::-webkit-scrollbar { display: none }
.math, mjx-container, .pst-scrollable-table-container { overflow: visible !important }
/* all tabs, one below the other */
.sd-tab-set > label, .sd-tab-content { display: block !important; order: 0; width: 100% }
.sd-tab-set > label { color: inherit !important; border: 0 !important }
table { font-size: 8pt !important } td, td code { overflow-wrap: anywhere; white-space: normal }
td { min-width: 5em } th { overflow-wrap: normal; hyphens: none }
"""


def archive(html: Path, out: Path) -> Path:
    """Write the built book into ``out``, a zip file, complete or not at all."""
    if not (html / "index.html").is_file():
        raise ValueError(f"{html}: expected a built book, got none; make book first")
    files = sorted(path for path in html.rglob("*") if path.is_file())
    part = out.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("README.txt", README.format(name=out.stem))
        for path in files:
            inside = path.relative_to(html)
            if not {*LEFT_OUT} & {*inside.parts} and not inside.name.startswith("."):
                made.write(path, Path("html") / inside)
    os.replace(part, out)
    return out


def one_page(html: Path, names: list[str]) -> str:
    """All pages as one: their articles, with the head of the first and links within the whole."""
    first = BeautifulSoup((html / f"{names[0]}.html").read_text(encoding="utf-8"), "html.parser")
    head = first.head
    for element, key in ((e, k) for k in ("src", "href") for e in head.find_all(attrs={k: True})):
        element[key] = _from(names[0], element[key])
    style = first.new_tag("style")
    style.string = PRINTED
    head.append(style)
    articles = []
    for name in names:
        text = (html / f"{name}.html").read_text(encoding="utf-8")
        article = BeautifulSoup(text, "html.parser").find("article")
        for element in article.find_all(id=True):  # two pages may have a section of one title
            element["id"] = _place(name, element["id"])
        article["id"] = _place(name)
        for image in article.find_all(src=True):
            image["src"] = _from(name, image["src"])
        for link in article.find_all(href=lambda href: href and ":" not in href):
            page, _, at = link["href"].partition("#")
            page = _from(name, page).removesuffix(".html") if page else name
            if page in names:
                link["href"] = f"#{_place(page, at)}"
            else:  # a file beside the pages, which a PDF does not have
                del link["href"]
        for hidden in article.select("details.hide"):
            hidden.decompose()
        for answer in article.select(".dropdown"):  # would be closed
            answer["class"].remove("dropdown")
        for answer in article.select("details:not(.ids)"):
            answer["open"] = ""
        articles.append(str(article))
    return f"<!doctype html><html lang='en'>{head}<body>{''.join(articles)}</body></html>"


def _from(name: str, path: str) -> str:
    """A path that page ``name`` has, from the root of the book."""
    if ":" in path:
        return path
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _place(name: str, at: str = "") -> str:
    return f"{name}.{at}" if at else name


def print_book(html: Path, names: list[str], out: Path, *, seconds: float = 900) -> Path:
    """Print all pages into one PDF."""
    page = html / "print.html"
    try:
        write_atomically(page, one_page(html, names))
        return print_to_pdf(page, out, seconds=seconds, flags=FLAGS)
    finally:
        page.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pdf", action="store_true", help="print the book, too")
    options = parser.parse_args()
    try:
        print(archive(HTML, HTML.parent / f"{NAME}.zip"))
        if options.pdf:
            names = pages(ROOT / "book" / "_toc.yml")
            print(print_book(HTML, names, HTML.parent / f"{NAME}.pdf"))
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
