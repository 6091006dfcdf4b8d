"""Make slides of a chapter: one HTML file that opens from a folder, by keyboard, touch and print.

What is shown comes from the built page, so that formulas, numbers, references and pictures are
those of the book: the first paragraph of each section, with what it announces and its numbered
equations, each statement and each picture, the exercises as questions, and the summary. What is
higher than the screen is set smaller, until it fits.

    python scripts/slides.py methods/mrn          # _build/html/slides/methods-mrn.html
    python scripts/slides.py --all                # every chapter

With the slides of a method's chapter comes its handout, ``methods-mrn-handout.html``: what is in
short, and the session of ninety minutes, to print on one sheet.

Pictures are inside the file; MathJax is the built book's, by a relative path.
"""

import argparse
import base64
import os
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

from bs4 import BeautifulSoup, Tag

from mtlbook.ledger.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
BOOK, HTML = ROOT / "book", ROOT / "_build" / "html"
FIRST = ("summary", "pst-scrollable-table-container")  # boxes that begin a section
STATEMENTS = "definition proposition theorem lemma corollary".split()
SESSION = "Ninety minutes for five"
#: Sections that nobody shows.
LEFT_OUT = (
    SESSION,
    "A map of the book",
    "From the",
    "Differences",
    "Further reading",
    "What the paper leaves open",
)


class Slide(NamedTuple):
    """A title and the HTML below it."""

    title: str
    body: str


def _title(element: Tag) -> str:
    return element.get_text().rstrip("#").strip()


def slides(page: Tag) -> Iterator[Slide]:
    """The slides of a chapter."""
    first = next((p for p in page.find_all("p") if p.find_parent("figure") is None), None)
    picture = page.find(["figure", "h2"])  # one that opens the chapter
    opening = picture if picture is not None and picture.name == "figure" else None
    yield Slide(_title(page.h1), _html(first, opening))
    for section in page.find_all("section"):
        heading = section.find(["h2", "h3"], recursive=False)
        if heading is None or (title := _title(heading)).startswith(LEFT_OUT):
            continue
        if title == "Exercises":
            for exercise in section.find_all("div", class_="exercise"):
                yield Slide(_title(exercise.p), _html(*exercise.find_all(["p", "pre"])[1:]))
            continue
        paragraph = section.find(
            lambda e: e.name in ("p", "ul", "ol", "table") or {*FIRST} & {*e.get("class", [])},
            recursive=False,
        )
        numbered = [
            m
            for m in section.find_all("div", class_="math", recursive=False)
            if m.find(class_="eqno")
        ]
        opened = _announced(paragraph)
        if shown := [*opened, *(m for m in numbered[:2] if m not in opened)]:
            yield Slide(title, _html(*shown))
        for statement in section.find_all("div", class_=STATEMENTS, recursive=False):
            yield Slide(title, _html(statement))
        for cell in section.find_all("div", class_="cell", recursive=False):
            for figure in cell.find_all("figure"):
                yield Slide(title, _html(figure))


def _announced(element: Tag | None) -> list[Tag]:
    """An element and, while the words end with a colon, what they announce; not a cell's output."""
    found = []
    while element is not None and "cell" not in element.get("class", []):
        found.append(element)
        announces = element.get_text().rstrip().endswith(":")
        element = element.find_next_sibling() if announces else None
    return found


def _html(*elements: Tag | None) -> str:
    return "".join(str(element) for element in elements if element is not None)


def _inside(text: str, page: Path) -> str:
    """Pictures as data, links of the page as links into the book, no anchors."""
    soup = BeautifulSoup(text, "html.parser")
    for image in soup.find_all("img"):
        path = (page.parent / image["src"]).resolve()
        kind = "svg+xml" if path.suffix == ".svg" else path.suffix[1:]
        image["src"] = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    for link in soup.find_all("a"):
        if "headerlink" in link.get("class", []):
            link.decompose()
        else:
            link.unwrap()
    for element in soup.find_all(id=True):
        del element["id"]
    return str(soup)


def handout(page: Tag) -> str:
    """The summary and the session of a chapter; empty where it has no session."""
    titles = {_title(heading): heading.parent for heading in page.find_all("h2")}
    if (session := titles.get(SESSION)) is None:
        return ""
    return f"<h1>{escape(_title(page.h1))}</h1>" + _html(
        page.find("div", class_="summary"), *session.find_all(["p", "ol", "ul"], recursive=False)
    )


def document(name: str, *, html: Path = HTML, out: Path | None = None) -> Path:
    """Write the slides of a chapter, and its handout, and return the path of the slides.

    Raises
    ------
    ValueError
        If the chapter is not built.
    """
    page, out = html / f"{name}.html", out or html / "slides"
    if not page.is_file():
        raise ValueError(f"{name}: expected a built page {page}, got none; make book first")
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    article = soup.find("article")
    found = list(slides(article))
    parts = [
        f'<section class="slide{" front" if n == 1 else ""}" id="s{n}">'
        f"<h2>{escape(slide.title)}</h2><div>{_inside(slide.body, page)}</div>"
        f"<footer>{n} / {len(found)}</footer></section>"
        for n, slide in enumerate(found, 1)
    ]
    configured = re.search(r"<script>(window\.MathJax = .*?)</script>", str(soup), re.DOTALL)
    mathjax = os.path.relpath(html / "_static" / "mathjax" / "startup.js", out)
    made = {"": ("\n".join(parts), STYLE, SCRIPT)}
    if sheet := handout(article):
        made["-handout"] = (_inside(sheet, page), HANDOUT, "")
    out.mkdir(parents=True, exist_ok=True)
    for suffix, (shown, style, script) in made.items():
        text = TEMPLATE.format(
            title=escape(found[0].title),
            slides=shown,
            settings=configured[1] if configured else "",
            mathjax=escape(mathjax.replace(os.sep, "/")),
            style=style,
            script=script,
        )
        write_atomically(out / f"{name.replace('/', '-')}{suffix}.html", text)
    return out / f"{name.replace('/', '-')}.html"


STYLE = """
body { margin: 0; color: #1b1f24; background: #fff;
  font: clamp(16px, 2.1vw, 30px)/1.4 system-ui, sans-serif; }
.slide { box-sizing: border-box; min-height: 100vh; padding: 5vh 6vw 8vh; position: relative; }
.slide h2 { margin: 0 0 .6em; font-size: 1.5em; line-height: 1.2; color: #0b4f8a; }
.front h2 { font-size: 2em; }
.slide img { display: block; max-width: 100%; max-height: calc(62vh * var(--fit, 1));
  margin: 0 auto; background: #fff; }
.slide figure { margin: 0 0 .8em; } figcaption { font-size: .75em; }
.slide .math { overflow-x: auto; position: relative; }
.eqno { position: absolute; right: 0; top: 50%; transform: translateY(-50%); }
.slide pre { overflow-x: auto; background: #f3f4f5; padding: .6em; font-size: .75em; }
.slide .admonition-title, .slide .caption-number { font-weight: 600; }
.slide table { border-collapse: collapse; font-size: .8em; }
.slide td, .slide th { padding: .3em .6em; border-bottom: 1px solid #ccd; text-align: left; }
footer { position: absolute; right: 2vw; bottom: 2vh; font-size: .6em; color: #55606b; }
.js .slide { display: none; height: 100vh; overflow-y: auto; }
.js .slide.now { display: block; }
@media print { @page { size: 297mm 167mm; margin: 0 } body { font-size: 18px }
  .slide, .js .slide { display: block; height: auto; min-height: 160mm; break-after: page;
    overflow: visible; font-size: 1em !important; } }
"""
HANDOUT = """
@page { size: A4; margin: 14mm 16mm }
body { max-width: 178mm; margin: 1em auto; color: #1b1f24; font: 9.5pt/1.35 system-ui, sans-serif; }
h1 { font-size: 1.4em; margin: 0 0 .5em; } p { margin: .45em 0; } li { margin: .15em 0; }
.summary { border: 1px solid #889; padding: 0 .8em; }
"""
SCRIPT = """
const all = [...document.querySelectorAll('.slide')];
let at = 0;
function fit() {
  const slide = all[at];
  for (let part = 1; part > 0.4; part -= 0.04) {
    slide.style.cssText = `--fit: ${part}; font-size: ${part}em`;
    if (slide.scrollHeight <= slide.clientHeight + 1) break;
  }
}
function show(n) {
  at = Math.min(all.length - 1, Math.max(0, n));
  all.forEach((slide, i) => slide.classList.toggle('now', i === at));
  fit();
  history.replaceState(null, '', '#s' + (at + 1));
}
const steps = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, ' ': 1,
  ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };
addEventListener('keydown', event => {
  if (event.key in steps) { event.preventDefault(); show(at + steps[event.key]); }
  if (event.key === 'Home') show(0);
  if (event.key === 'End') show(all.length - 1);
});
addEventListener('click', event => {
  if (getSelection().toString() || event.target.closest('a, pre')) return;
  show(at + (event.clientX < innerWidth / 3 ? -1 : 1));
});
document.documentElement.classList.add('js');
addEventListener('resize', fit);
addEventListener('load', () => window.MathJax?.startup?.promise?.then(fit));
show((parseInt(location.hash.slice(2)) || 1) - 1);
"""
TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style>
<script>{settings}</script><script defer src="{mathjax}"></script></head>
<body>
{slides}
<script>{script}</script></body></html>
"""


def chapters() -> list[str]:
    """The chapters that have slides."""
    folders = (BOOK / "foundations", BOOK / "methods")
    paths = [BOOK / "when-tasks-help.md", *(p for f in folders for p in sorted(f.glob("*.md")))]
    return [path.relative_to(BOOK).with_suffix("").as_posix() for path in paths]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter", nargs="*", help="for example methods/mrn")
    parser.add_argument("--all", action="store_true", help="every chapter")
    parser.add_argument("--out", type=Path, help="a folder; by default slides/ of the built book")
    options = parser.parse_args()
    if not (names := chapters() if options.all else options.chapter):
        parser.error("expected a chapter, or --all")
    try:
        for name in names:
            print(document(name, out=options.out))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
