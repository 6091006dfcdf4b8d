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
        "index.html": "<head><title>b</title></head><article><h1>One</h1></article>",
        "part/two.html": "<head></head><nav>menu</nav><article><h1>Two</h1>"
        '<img src="../_images/a.png"><a href="one.html#x">x</a><a href="#y">y</a>'
        '<a href="https://e.example/">z</a><details class="hide">code</details>'
        "<details><p>answer</p></details></article>",
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
    assert 'src="_images/a.png"' in text and 'href="part/one.html#x"' in text
    assert 'href="#y"' in text and 'href="https://e.example/"' in text
    assert ">code<" not in text and '<details open="">' in text


@pytest.mark.skipif(chromium.find() is None, reason="no Chromium on this machine")
def test_print(archive, html, tmp_path):
    made = archive.print_book(html, ["index", "part/two"], tmp_path / "book.pdf", seconds=120)
    assert made.read_bytes().startswith(b"%PDF-") and not (html / "print.html").exists()
