"""How the built book looks: nothing cut or too small, colours that can be read, names for all.

A browser opens every page once, 1280 pixels wide, then as wide as a phone, then in the dark.
"""

import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from browser import Browser, browser, why_not

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
HTML = ROOT / "_build" / "html"
PHONE = 390

built = [
    pytest.mark.book,
    pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="not built: make book"),
]

# What of a page is cut, at the present width. A box that scrolls is in order, but for formulas,
# which are to be seen as a whole where there is room.
MEASURE = r"""
const article = document.querySelector("article") || document.body;
const all = (selector) =>
  [...article.querySelectorAll(selector)].filter((n) => n.getClientRects().length);
const screen_ = document.documentElement.clientWidth;
const width = (node) => node.getBoundingClientRect().width;
const named = (node) =>
  `${node.tagName.toLowerCase()} ${(node.id || node.textContent).trim().slice(0, 40)}`;
const scrolls = (node) => {
  for (let n = node; n && n !== article; n = n.parentElement)
    if (/auto|scroll/.test(getComputedStyle(n).overflowX)) return true;
  return false;
};
const formulas = all("mjx-container").filter((n) => {
  const math = n.querySelector("mjx-math");
  return math && width(math) > n.clientWidth + 1;
});
const displayed = formulas.filter((n) => n.getAttribute("display") === "true");
const inline = all("span.math").filter((n) => {
  const math = n.querySelector("mjx-math");
  return math && width(math) > n.clientWidth + 1;
});
const hidden = inline.filter((n) => !/auto|scroll/.test(getComputedStyle(n).overflowX));
return {
  unset: all(".math").filter((n) => !n.querySelector("mjx-assistive-mml math")).map(named),
  width: document.scrollingElement.scrollWidth,
  formulas: displayed.map((n) =>
    (n.parentElement.querySelector(".eqno")?.textContent || named(n)).trim()),
  clipped: all("pre, table, img, svg, .explorable, .cell_output").filter((n) =>
    (n.getBoundingClientRect().right > screen_ + 1 || n.scrollWidth > n.clientWidth + 2
      && n.matches("pre, .cell_output")) && !scrolls(n) && !n.closest(".pieces"))
    .concat(hidden).map(named),
  inline: inline.map(named),
  bars: all("span.math").filter((n) => n.offsetHeight > n.clientHeight + 1).map(named),
  figures: all(".cell_output img").filter((n) => n.naturalWidth > 0)
    .map((n) => [n.getAttribute("src"), width(n) / n.naturalWidth]),
  beyond: all(".cell_output img:not(.pieces *), .pieces > span").filter((n) => {
    const { left, right } = n.closest(".cell_output").getBoundingClientRect();
    const here = n.getBoundingClientRect();
    return here.left < left - 1 || here.right > right + 1;
  }).map((n) => (n.querySelector("img") || n).getAttribute("src")),
  cut: all("pre, .seealso .pst-scrollable-table-container").filter((n) =>
    !n.closest("details:not([open])") && n.scrollWidth > n.clientWidth + 2).map(named),
  letters: all("svg text").filter((n) => n.textContent.trim()).map((n) => {
    const svg = n.ownerSVGElement;
    const scale = svg.viewBox.baseVal?.width ? width(svg) / svg.viewBox.baseVal.width : 1;
    return parseFloat(getComputedStyle(n).fontSize) * scale;
  }),
};
"""

# Half of a page is markup for readers of screens and colours of code, which lay out nothing.
LIGHTER = r"""
document.querySelectorAll("mjx-assistive-mml").forEach((n) => n.remove());
[...document.querySelectorAll("pre")].slice(3).forEach((n) => { n.textContent = n.textContent; });
"""

# axe sees of each kind of thing a few: formulas have their own markup for readers of screens, and a
# thousand coloured words of code have a dozen colours.
THIN = r"""
document.head.insertAdjacentHTML("beforeend", "<style>* { transition: none !important }</style>");
document.querySelectorAll("mjx-container").forEach((n) => n.replaceWith("x"));
const seen = {};
const kinds = "pre span[class], tbody tr, dl.py, .toc-entry, nav li, article p, article li, .cell";
for (const n of document.querySelectorAll(kinds)) {
  if (n.querySelector("img, input, .explorable") || n.closest(".explorable")) continue;
  const around = n.closest("table, pre, nav, .admonition, section");
  const key = [n.tagName, n.className, n.parentElement?.className, around?.className].join();
  seen[key] = (seen[key] || 0) + 1;
  if (seen[key] > 2) n.remove();
}
"""
AXE = r"""
const options = {runOnly: arguments[0], rules: arguments[2], resultTypes: ["violations"]};
return axe.run({exclude: [[".citation-list"]]}, options).then(({ violations }) =>
  violations.filter((v) => !arguments[1].includes(v.id)).flatMap((v) => v.nodes.map((n) =>
    `${v.id}: ${n.html.slice(0, 120)} ${n.any[0]?.message || ""}`)));
"""
# Made by Sphinx and its extensions: blocks of proofs and exercises repeat an id that nothing points
# to. (Left out above: bibliographies, whose entries have a role that docutils gives them.) Browsers
# let the keyboard into boxes that scroll.
KNOWN = ["duplicate-id", "scrollable-region-focusable"]


def axe() -> str | None:
    """The script of axe-core, which a package of the tests brings."""
    spec = importlib.util.find_spec("axe_core_python")
    if spec is None or spec.origin is None:
        return None
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def look(window: Browser, address: str, script: str | None, *, at: int = PHONE) -> dict:
    """Everything that is looked at on one page; axe sees it ``at`` so many pixels.

    On a phone the table of contents is not to be seen: one page is enough for that.
    """
    window.size(1280, 900)
    window.open(address)
    window.js("return window.MathJax?.startup?.promise?.then(() => true)")
    found = {"wide": window.js(MEASURE)}
    window.js(LIGHTER)
    window.size(PHONE, 844)
    found["phone"] = window.js(MEASURE)
    found["errors"] = window.errors()
    if script:
        window.size(at, 900)
        window.js(THIN)
        window.js(script)
        found["light"] = window.js(
            AXE, ["wcag2a", "wcag2aa"], KNOWN, {"tabindex": {"enabled": True}}
        )
        window.js("Object.assign(document.documentElement.dataset, {theme: 'dark', mode: 'dark'})")
        colours = {"type": "rule", "values": ["color-contrast"]}
        found["dark"] = window.js(AXE, colours, [], {})
    return found


@pytest.fixture(scope="module")
def window():
    if why := why_not():
        pytest.skip(why)
    with browser() as found:
        found.patience(180)
        yield found


@pytest.fixture(scope="module")
def pages():
    """Every page of the book -> what was found on it. Two browsers share them, one for a core."""
    if why := why_not():
        pytest.skip(why)
    script = axe()
    names = [path.relative_to(BOOK).with_suffix("").as_posix() for path in BOOK.rglob("*.md")]
    width = {"index": 1280}
    waiting = iter(sorted(names))

    def some(_: int) -> dict:
        with browser() as window:
            window.patience(180)
            return {
                name: look(
                    window, (HTML / f"{name}.html").as_uri(), script, at=width.get(name, PHONE)
                )
                for name in waiting
            }

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(some, range(2))
    return dict(sorted((first | second).items()))


def sizes(path: Path) -> list[float]:
    """Of the letters of a figure, in points; exponents and indices aside, which are smaller."""
    return [float(s) * 100 for s in re.findall(r"scale\(([\d.]+) -[\d.]+\)", path.read_text())]


def wrong(pages, kind, of):
    return {name: found for name, page in pages.items() if (found := of(page[kind]))}


class TestBook:
    pytestmark = built

    def test_every_formula_is_set_for_eyes_and_for_readers_of_screens(self, pages):
        assert wrong(pages, "wide", lambda page: page["unset"]) == {}

    def test_no_displayed_formula_is_cut(self, pages):
        assert wrong(pages, "wide", lambda page: page["formulas"]) == {}

    def test_formulas_shrink_to_a_phone_and_few_of_the_displayed_ones_scroll(self, pages):
        assert wrong(pages, "phone", lambda page: page["inline"]) == {}
        scrolling = wrong(pages, "phone", lambda page: page["formulas"])
        assert sum(map(len, scrolling.values())) <= 1, scrolling

    def test_no_formula_in_a_line_has_a_bar_to_scroll_it(self, pages):
        assert wrong(pages, "wide", lambda page: page["bars"]) == {}

    def test_code_and_outputs_need_no_scrolling_where_there_is_room(self, pages):
        found = wrong(pages, "wide", lambda page: page["cut"])
        assert found.keys() <= {"api"}, found  # its examples are those of the docstrings

    @pytest.mark.parametrize("kind", ["wide", "phone"])
    def test_no_page_is_wider_than_the_screen(self, pages, kind):
        limit = {"wide": 1280, "phone": PHONE}[kind]
        widths = {name: page[kind]["width"] for name, page in pages.items()}
        assert {name: width for name, width in widths.items() if width > limit} == {}

    @pytest.mark.parametrize("kind", ["wide", "phone"])
    def test_what_does_not_fit_scrolls(self, pages, kind):
        assert wrong(pages, kind, lambda page: page["clipped"]) == {}

    def test_figures_are_seen_as_a_whole(self, pages):
        """On a phone their panels stand below each other, and none is wider than the page."""
        assert wrong(pages, "wide", lambda page: page["beyond"]) == {}
        assert wrong(pages, "phone", lambda page: page["beyond"]) == {}

    def test_letters_of_figures_can_be_read_on_a_phone(self, pages):
        """A figure is a picture: its letters are as high as their size, by its scale."""
        scales = {
            (name, HTML / "_images" / Path(source).name): scale
            for name, page in pages.items()
            for source, scale in page["phone"]["figures"]
        }
        assert len(scales) > 80
        smallest = {path: min(sizes(path), default=11) for _, path in scales}
        high = {(n, p.name): smallest[p] / 72 * 96 * s for (n, p), s in scales.items()}
        assert {key: round(h, 2) for key, h in high.items() if h < 8.99} == {}
        assert wrong(pages, "phone", lambda page: [x for x in page["letters"] if x < 9]) == {}

    def test_figures_are_light_drawings_of_the_size_that_is_assumed(self, pages):
        figures = [source for page in pages.values() for source, _ in page["phone"]["figures"]]
        files = {HTML / "_images" / Path(source).name for source in figures}
        assert len(files) > 80 and {path.suffix for path in files} == {".svg"}
        found = {p: re.search(r'<svg[^>]*? width="([\d.]+)pt"', p.read_text()) for p in files}
        widths = [float(of[1]) for of in found.values()]
        assert 220 < min(widths) and max(widths) < 780
        # what consists of thousands of patches is `rasterized`
        assert {p.name: p.stat().st_size for p in files if p.stat().st_size > 250_000} == {}

    def test_no_page_complains(self, pages):
        assert {name: page["errors"] for name, page in pages.items() if page["errors"]} == {}

    @pytest.mark.parametrize("kind", ["light", "dark"])
    @pytest.mark.skipif(axe() is None, reason="needs the package axe-core-python")
    def test_contrast_names_and_tab_stops(self, pages, kind):
        found = wrong(pages, kind, list)
        assert {name: sorted(set(lines))[:5] for name, lines in found.items()} == {}


# -------------------------------------------------------------------- that faults would be found

MATH = (
    '<div class="math"><mjx-container display="true" style="display:block;overflow:auto">'
    '<mjx-math style="display:inline-block;width:{0}px;height:9px"></mjx-math></mjx-container>'
    "</div>"
)

# 600 pixels wide; the style sheet and the script are those of the book
FIGURE = (
    f'<link rel="stylesheet" href="{(BOOK / "_static" / "book.css").as_uri()}">'
    f'<script src="{(BOOK / "_static" / "fit.js").as_uri()}"></script>'
    '<div class="bd-article"><div class="cell_output"><img {0} src="data:image/svg+xml,'
    "%3Csvg xmlns='http://www.w3.org/2000/svg' width='600' height='200' viewBox='0 0 6 2'/%3E\""
    "></div></div>"
)
HALVES = "[[[0,0,0.5,1]],[[0,0.1,0.1,0.8],[0.5,0,0.5,1]]]"


@pytest.mark.parametrize(
    ("html", "wide", "phone"),
    [
        (MATH.format(300), {}, {}),
        (MATH.format(700), {}, {"formulas": 1}),
        (MATH.format(2000), {"formulas": 1}, {"formulas": 1}),
        ('<pre style="width:500px">x</pre>', {}, {"width": 500, "clipped": 1}),
        ('<div style="overflow-x:auto"><table style="width:900px"><td>x</table></div>', {}, {}),
        (
            '<div style="overflow:hidden"><table style="width:900px"><td>x</table></div>',
            {},
            {"clipped": 1},
        ),
        ('<pre style="overflow:hidden">' + "long " * 99 + "</pre>", {"clipped": 1}, {"clipped": 1}),
        (
            '<span class="math" style="display:inline-block;width:9px;overflow:hidden">'
            '<mjx-math style="display:inline-block;width:50px">x</mjx-math></span>',
            {"clipped": 1},
            {"clipped": 1},
        ),
        (
            '<span class="math" style="display:inline-block;width:9px;overflow-x:auto">'
            '<span style="display:inline-block;width:12px">y</span></span>',
            {"bars": 1},
            {},  # where bars lie over what scrolls
        ),
        (
            '<svg viewBox="0 0 800 80" width="100%"><text font-size="12" y="9">a</text></svg>',
            {},
            {"letters": 1},
        ),
        (FIGURE.format(""), {}, {"beyond": 1}),
        (FIGURE.format('data-letters="9" data-pieces="[[[0,0,1,1]]]"'), {}, {"beyond": 1}),
        (FIGURE.format('data-letters="12" data-pieces="[[[0,0,1,1]]]"'), {}, {}),
        (FIGURE.format(f'data-letters="9" data-pieces="{HALVES}"'), {}, {}),
    ],
)
def test_measures(window, tmp_path, html, wide, phone):
    path = tmp_path / "page.html"
    style = "body, article { margin: 0 } article { padding: 4px }"
    head = (
        f'<!DOCTYPE html><meta name="viewport" content="width=device-width"><style>{style}</style>'
    )
    path.write_text(f"{head}<article>{html}</article>")
    page = look(window, path.as_uri(), None)
    for kind, limit, expected in (("wide", 1280, wide), ("phone", PHONE, phone)):
        found = page[kind]
        assert len(found["unset"]) == html.count('class="math"')  # no MathJax here
        counts = {"formulas": len(found["formulas"]), "clipped": len(found["clipped"])}
        counts["width"] = found["width"] if found["width"] > limit else 0
        counts["letters"] = sum(size < 9 for size in found["letters"])
        counts["beyond"], counts["bars"] = len(found["beyond"]), len(found["bars"])
        counts = {name: count for name, count in counts.items() if count}
        assert counts.keys() == expected.keys(), (kind, found)
        assert counts.get("clipped") == expected.get("clipped")


CAPTION = (
    "<figcaption><p>Left: <b>a</b> (left). Right, b; on the right c. On the left (right) d.</p>"
)


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (HALVES, "First: a (first). Second, b; in the second c. In the first (second) d."),
        (
            "[[[0,0,0.3,1]],[[0.3,0,0.3,1]],[[0.6,0,0.4,1]]]",
            "First: a (first). Third, b; in the third",
        ),
        (
            "[[[0,0,1,0.1]],[[0,0.1,0.5,0.9]],[[0.5,0.1,0.5,0.9]]]",  # a legend above both
            "First: a (first). Second, b",
        ),
        ("[[[0,0,1,1]]]", "Left: a (left). Right, b; on the right c. On the left (right) d."),
    ],
)
def test_captions_tell_pieces_in_their_order_on_a_phone(window, tmp_path, pieces, said):
    figure = FIGURE.format(f'data-letters="12" data-pieces="{pieces}"')
    figure = figure.replace("<img", "<figure><img").replace(
        "></div></div>", f">{CAPTION}</figure></div></div>"
    )
    path = tmp_path / "page.html"
    path.write_text(f'<!DOCTYPE html><meta name="viewport" content="width=device-width">{figure}')
    window.size(1280, 900)
    window.open(path.as_uri())
    text = "return document.querySelector('figcaption').innerText"
    assert window.js(text) == "Left: a (left). Right, b; on the right c. On the left (right) d."
    window.size(PHONE, 844)
    assert window.js(text).startswith(said)
    spans = window.js("return document.querySelectorAll('figcaption .in-order').length")
    assert spans == (0 if said.startswith("Left") else 6)  # each place once


@pytest.mark.skipif(axe() is None, reason="needs the package axe-core-python")
def test_axe_sees_faults(window, tmp_path):
    path = tmp_path / "page.html"
    dark = "html[data-theme=dark] { background: #111 } html[data-theme=dark] p { color: #333 }"
    path.write_text(
        f'<!DOCTYPE html><html lang="en"><title>x</title><style>{dark}</style><article><p>Text</p>'
        '<p style="color:#aaa;background:#fff">Grey</p><img src="a.png"><input><a href="x"></a>'
        '<pre tabindex="3">x</pre></article>'
    )
    page = look(window, path.as_uri(), axe())
    rules = {line.split(":")[0] for line in page["light"]}
    assert rules == {"color-contrast", "image-alt", "label", "link-name", "tabindex"}
    assert not any("<p>Text" in line for line in page["light"])
    assert any("<p>Text" in line for line in page["dark"])
