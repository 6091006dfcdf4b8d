"""The built book as one file: a zip that opens anywhere, and a PDF."""

import sys
import zipfile
from pathlib import Path

import pytest

from mtlbook.ledger import chromium

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def archive(script, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    return script("archive")


@pytest.fixture
def html(tmp_path):
    """A built book of two pages, one in a folder."""
    folder = tmp_path / "html"
    pages = {
        "index.html": '<head><link href="_static/a.css"></head><article><h1 id="x">One</h1>'
        '<a href="part/two.html">two</a></article>',
        "part/two.html": "<head></head><nav>menu</nav><article><h1>Two</h1>"
        '<img src="../_images/a.png"><a href="../index.html#x">x</a><a href="#x">y</a>'
        '<p id="x"></p><a href="../ledger.html">w</a><a href="https://e.example/">z</a>'
        '<details class="hide">code</details><div class="dropdown note">solution</div>'
        '<details><p>answer</p></details><details class="ids">claims</details></article>',
        "_images/a.png": "",
        "_sources/index.md": "left out",
        ".buildinfo": "left out",
    }
    for name, text in pages.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_archive(archive, html, tmp_path):
    made = archive.archive(html, tmp_path / "book-1.zip")
    with zipfile.ZipFile(made) as inside:
        names = {"README.txt", "html/index.html", "html/part/two.html", "html/_images/a.png"}
        assert set(inside.namelist()) == names
        assert "open html/index.html" in inside.read("README.txt").decode()
    assert list(tmp_path.glob("*.part")) == []


def test_a_book_that_is_not_built(archive, tmp_path):
    with pytest.raises(ValueError, match="expected a built book"):
        archive.archive(tmp_path, tmp_path / "book.zip")
    assert list(tmp_path.iterdir()) == []


def test_one_page(archive, html):
    text = archive.one_page(html, ["index", "part/two"])
    assert text.index("One") < text.index("Two") and "menu" not in text
    assert 'src="_images/a.png"' in text and 'href="https://e.example/"' in text
    assert ">code<" not in text and '<div class="note">solution' in text
    assert '<details open=""><p>answer' in text and '<details class="ids">claims' in text


def test_links_of_one_page_stay_in_it(archive, html):
    """A PDF has no other files; ids of two pages are two, though both pages have a section x."""
    text = archive.one_page(html, ["index", "part/two"])
    for place in ("index", "index.x", "part/two", "part/two.x"):
        assert (
            text.count(f'id="{place}"') == 1 == text.count(f'href="#{place}"') + (place == "index")
        )
    assert "<a>w</a>" in text and ".html" not in text


def test_a_page_in_a_folder_may_come_first(archive, html):
    (html / "part" / "two.html").write_text('<head><link href="../_static/a.css"></head><article>')
    assert 'href="_static/a.css"' in archive.one_page(html, ["part/two"])


@pytest.mark.skipif(chromium.find() is None, reason="no Chromium on this machine")
def test_print(archive, html, tmp_path):
    made = archive.print_book(html, ["index", "part/two"], tmp_path / "book.pdf", seconds=120)
    assert made.read_bytes().startswith(b"%PDF-") and not (html / "print.html").exists()
