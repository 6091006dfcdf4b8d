"""Slides of a chapter: what goes onto them, and how they are shown."""

from pathlib import Path

import pytest
from browser import browser, why_not

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"

PAGE = """<html><head><script>window.MathJax = {"a": 1}</script></head><article>
<section><h1>Stacks<a class="headerlink" href="#x">#</a></h1>
<p>Why, at all?</p>
<section><h2>Rank<a class="headerlink" href="#r">#</a></h2>
<p>A <em>rank</em> counts directions, see <a href="other.html">there</a>.</p>
<p>Second thoughts are left out.</p>
<div class="math" id="equation-eq-rank"><span class="eqno">(1)</span>\\[r\\]</div>
<div class="math">\\[unnumbered\\]</div>
<div class="proof theorem admonition" id="thm-one"><p>Theorem 1</p></div>
<div class="cell"><figure id="fig-one"><img src="_images/a.png">
<figcaption>One</figcaption></figure>
</div></section>
<section><h2>From the paper to the code</h2><p>A table.</p></section>
<section><h2>Nothing to show</h2><div class="cell">code</div></section>
<section><h2>In short</h2><div class="summary admonition"><p>Ranks.</p></div><p>More.</p></section>
<section><h2>Exercises</h2><div class="exercise admonition" id="ex-one">
<p class="admonition-title">Exercise 1 (One)</p><section><p>How many?</p></section></div>
<div class="solution admonition"><p>Two.</p></div></section>
</section></article></html>"""


@pytest.fixture
def slides(script):
    return script("slides")


@pytest.fixture
def made(slides, tmp_path):
    """A function from a built page to the path of its slides."""
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images" / "a.png").write_bytes(b"\x89PNG")

    def make(page=PAGE):
        (tmp_path / "one.html").write_text(page)
        return slides.document("one", html=tmp_path)

    return make


def shown(path):
    from bs4 import BeautifulSoup

    found = BeautifulSoup(path.read_text(), "html.parser").find_all("section", class_="slide")
    return [(s.h2.get_text(), " ".join(s.div.get_text().split())) for s in found]


def test_by_rule(made):
    assert shown(made()) == [
        ("Stacks", "Why, at all?"),
        ("Rank", r"A rank counts directions, see there.(1)\[r\]"),
        ("Rank", "Theorem 1"),
        ("Rank", "One"),
        ("In short", "Ranks."),
        ("Exercise 1 (One)", "How many?"),
    ]


def test_a_slide_is_one_file(made):
    text = made().read_text()
    assert 'src="data:image/png;base64,' in text and "<a " not in text
    assert 'src="../_static/mathjax/startup.js"' in text and 'window.MathJax = {"a": 1}' in text


def test_what_is_announced_is_shown(made):
    announced = "Two controls:</p><ul><li>pooling</li></ul><p>Not that.</p>"
    path = made(PAGE.replace("there</a>.</p>", f"there</a>. {announced}"))
    assert shown(path)[1] == (
        "Rank",
        r"A rank counts directions, see there. Two controls:pooling(1)\[r\]",
    )


def test_a_session_has_a_handout(made):
    path = made()
    sheet = path.with_name("one-handout.html")
    assert not sheet.exists()
    session = "<section><h2>Ninety minutes for five</h2><p>Read before.</p></section></article>"
    made(PAGE.replace("</article>", session))
    text = sheet.read_text()
    assert text.index("Stacks</h1>") < text.index("Ranks.") < text.index("Read before.")
    assert "Second" not in text and "Ninety minutes" not in path.read_text()


def test_a_page_that_is_not_built(slides, tmp_path):
    with pytest.raises(ValueError, match="two: expected a built page"):
        slides.document("two", html=tmp_path)


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_keys_touch_and_print(made):
    path = made()
    with browser() as window:
        window.open(path.as_uri() + "#s2")
        now = "return document.querySelector('.slide.now').id"
        visible = (
            "return [...document.querySelectorAll('.slide')].filter(s => s.offsetHeight).length"
        )
        assert window.js(now) == "s2" and window.js(visible) == 1
        window.press("Down", "Down")
        assert window.js(now) == "s4"
        window.press("Down", "Down", "Down")
        window.press("Down")
        assert window.js(now) == "s6"  # and stays
        window.press("Up")
        assert window.js(now) == "s5"
        window.click(".slide.now h2")  # its middle: one on
        assert window.js(now) == "s6"
        window.media("print")
        assert window.js(visible) == 6


HEIGHTS = """
return MathJax.startup.promise.then(() => all.map((slide, i) => {
  show(i);
  return [slide.scrollHeight - slide.clientHeight, parseFloat(slide.style.fontSize)];
}));
"""


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_what_is_higher_than_the_screen_is_set_smaller(made, tmp_path):
    path = made()
    text = path.read_text().replace("Why, at all?", "<br>".join(["Why?"] * 22))
    ready = "window.MathJax = {startup: {promise: Promise.resolve()}}"
    path.write_text(text.replace('window.MathJax = {"a": 1}', ready))
    with browser() as window:
        window.size(1280, 720)
        window.open(path.as_uri())
        (over, size), *others = window.js(HEIGHTS)
    assert over <= 1 and 0.4 < size < 0.9
    assert [size for _, size in others] == [1] * 5


@pytest.mark.book
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="not built: make book")
def test_no_slide_of_the_longest_chapters_is_cut(slides, tmp_path):
    with browser() as window:
        window.patience(120)
        window.size(1280, 720)
        for name in ("when-tasks-help", "methods/srdml"):
            window.open(slides.document(name, out=tmp_path).as_uri())
            found = window.js(HEIGHTS)
            assert len(found) > 12 and max(over for over, _ in found) <= 1
            assert min(size for _, size in found) > 0.6  # and can be read from the last row
