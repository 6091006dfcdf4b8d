"""Pages as notebooks: downloads in the built book, ``mtlbook open``, and services that run them."""

import json
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml

from mtlbook import cli
from mtlbook.cli import notebooks

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]


@pytest.fixture(scope="module")
def book_pages(script):
    return script("book_pages")


@pytest.fixture
def no_jupyter(monkeypatch):
    monkeypatch.setattr(notebooks, "PROGRAMS", ())


def sources(path: Path) -> str:
    cells = nbformat.validator.normalize(json.loads(path.read_text()))[1]["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


# ------------------------------------------------------------------------------------ mtlbook open


def test_open_writes_the_page_and_says_how_to_go_on(no_jupyter, tmp_path, capsys):
    folder = tmp_path / "my pages"
    assert cli.main(["open", "trace-norm", "--folder", str(folder)]) == 0
    path = folder / "foundations" / "trace-norm.ipynb"
    said = capsys.readouterr().out
    assert f"written: {path}" in said and "pip install jupyterlab" in said
    text = sources(path)
    assert "%%check ex-trace-norm-factors" in text and "return u * s.sqrt()" not in text
    assert cli.main(["open", "trace-norm", "--folder", str(folder), "--solved", "--force"]) == 0
    assert "return u * s.sqrt()" in sources(path)


def test_open_keeps_what_a_reader_wrote_unless_forced(no_jupyter, tmp_path, capsys):
    arguments = ["open", "foundations/tensors", "--folder", str(tmp_path), "--only-write"]
    assert cli.main(arguments) == 0
    path = tmp_path / "foundations" / "tensors.ipynb"
    original = path.read_text()
    path.write_text(original.replace("import torch", "import torch  # mine", 1))
    assert cli.main(arguments) == 0
    assert "# mine" in path.read_text()
    assert "stays as it is" in capsys.readouterr().out
    assert cli.main([*arguments, "--force"]) == 0
    assert path.read_text() == original


@pytest.mark.posix("a script as a program")
def test_open_starts_what_is_installed(tmp_path, monkeypatch):
    program, log = tmp_path / "jupyter-lab", tmp_path / "log"
    program.write_text(f'#!/bin/sh\necho "$1 $MTLBOOK_ROOT" > {log}\nexit 7\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert cli.main(["open", "drn", "--folder", str(tmp_path)]) == 7
    assert log.read_text().split() == [str(tmp_path / "methods" / "drn.ipynb"), str(ROOT)]
    log.unlink()
    assert cli.main(["open", "drn", "--folder", str(tmp_path), "--only-write"]) == 0
    assert not log.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mrn", "expected one of methods/mrn, reproduction/mrn; got 'mrn'"),
        ("no-such-page", "expected one of when-tasks-help, how-to-read, notation"),
    ],
)
def test_open_of_an_unknown_page_is_a_mistake(name, message, tmp_path, capsys):
    assert cli.main(["open", name, "--folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------- buttons in a page's header


def test_without_a_repository_no_service_is_offered(book_pages):
    assert book_pages.launchers("methods/mrn", repository="", published="") == []
    assert book_pages.launchers("methods/mrn", repository="", published="gh-pages") == []


def test_with_a_repository_binder_and_with_a_branch_colab(book_pages):
    settings = {"repository": "https://github.com/some/book.git", "published": ""}
    (binder,) = book_pages.launchers("methods/mrn", **settings)
    address = "https://mybinder.org/v2/gh/some/book/HEAD?urlpath=lab/tree/pages/methods/mrn.ipynb"
    assert binder == ("Binder", address)
    made = (ROOT / ".binder" / "postBuild").read_text()
    assert "python scripts/editions.py --student pages\n" in made  # what the address leads to
    _, colab = book_pages.launchers("methods/mrn", **{**settings, "published": "gh-pages"})
    github = "github/some/book/blob/gh-pages/_notebooks/methods/mrn.ipynb"
    assert colab == ("Colab", f"https://colab.research.google.com/{github}")


@pytest.mark.parametrize("address", ["https://example.org/some/book", "some/book"])
def test_another_address_is_refused(book_pages, address):
    with pytest.raises(ValueError, match=r"expected https://github\.com/OWNER/NAME, got"):
        book_pages.launchers("methods/mrn", repository=address, published="")


@pytest.mark.parametrize("repository", ["", "https://github.com/some/book"])
def test_a_page_with_cells_gets_its_notebook_and_buttons(book_pages, tmp_path, repository):
    app = SimpleNamespace(
        outdir=tmp_path,
        env=SimpleNamespace(
            metadata={"methods/drn": {"kernelspec": {}}, "bibliography": {}},
            doc2path=lambda page: ROOT / "book" / f"{page}.md",
        ),
        config=SimpleNamespace(mtlbook_repository=repository, mtlbook_published=""),
    )
    context = {"header_buttons": [{"label": "theme"}], "pathto": lambda path, _: f"../{path}"}
    book_pages.add_notebook(app, "methods/drn", "page.html", context, object())
    download, *services, theme = context["header_buttons"]
    assert download["url"] == "../_notebooks/methods/drn.ipynb" and theme["label"] == "theme"
    assert "%%check" in sources(tmp_path / "_notebooks" / "methods" / "drn.ipynb")
    assert [service["text"] for service in services] == (["Binder"] if repository else [])
    context["header_buttons"] = []
    book_pages.add_notebook(app, "bibliography", "page.html", context, object())
    assert context["header_buttons"] == []


def test_this_project_offers_only_what_it_can_keep():
    """There is no public repository; a setting changes that."""
    assert (CONFIG["mtlbook_repository"], CONFIG["mtlbook_published"]) == ("", "")


# ----------------------------------------------------------------------------------- light pages


def test_what_no_page_loads_is_left_out(book_pages, tmp_path):
    static = tmp_path / "_static"
    kept = ["mathjax/core.js", "mathjax/input/tex/extensions/ams.js", "vendor/solid.woff2", "a.js"]
    kept += ["mathjax/output/chtml/fonts/woff-v2/MathJax_Main-Regular.woff"]
    lost = ["mathjax/ui/menu.js", "mathjax/sre/mathmaps/en.json", "mathjax/tex-chtml.js"]
    lost += ["scripts/x.js.map", "vendor/solid.ttf"]
    for name in [*kept, *lost, "scripts/fontawesome.js"]:
        (static / name).parent.mkdir(parents=True, exist_ok=True)
        (static / name).write_text("x" * 100)
    app = SimpleNamespace(outdir=tmp_path)
    book_pages.lighten(app, RuntimeError("the build failed"))
    assert len([path for path in static.rglob("*") if path.is_file()]) == len(kept + lost) + 1
    book_pages.lighten(app, None)
    left = {path.relative_to(static).as_posix() for path in static.rglob("*") if path.is_file()}
    assert left == {*kept, "scripts/fontawesome.js"}
    assert len((static / "scripts" / "fontawesome.js").read_text()) < 100


@pytest.mark.book
@pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="not built: make book")
def test_a_page_and_the_folder_are_light(script):
    """Half of what they were: 3.4 MB of scripts and styles for a page with formulas, without the
    index of the search, which grows with the book; and 31 MB in _static."""
    text = (HTML / "foundations" / "trace-norm.html").read_text()
    builder = script("build_book")
    files = {(HTML / "foundations" / path).resolve() for path in builder.local_loads(text)}
    mathjax = HTML / "_static" / "mathjax"
    files |= {mathjax / f"{name}.js" for name in ("core", "input/tex", "output/chtml")}
    files |= {mathjax / "output/chtml/fonts/tex.js", mathjax / "a11y/assistive-mml.js"}
    loaded = [path for path in files if path.suffix in (".js", ".css")]
    loaded = [path for path in loaded if path.name != "searchindex.js"]
    assert 0.5e6 < sum(path.stat().st_size for path in loaded) < 1.68e6
    everything = [path for path in (HTML / "_static").rglob("*") if path.is_file()]
    assert 1e6 < sum(path.stat().st_size for path in everything) < 6e6


@pytest.mark.book
@pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="not built: make book")
def test_every_page_with_cells_offers_its_notebook():
    found = 0
    for path in sorted((ROOT / "book").rglob("*.md")):
        page = path.relative_to(ROOT / "book").with_suffix("").as_posix()
        text = (HTML / f"{page}.html").read_text()
        notebook = HTML / "_notebooks" / f"{page}.ipynb"
        has_cells = "\nkernelspec:" in path.read_text()
        assert notebook.is_file() is has_cells, page
        link = f"{'../' * page.count('/')}_notebooks/{page}.ipynb"
        assert (f'href="{link}"' in text) is has_cells, page
        assert "mybinder.org" not in text and "colab.research" not in text
        found += has_cells
    assert found > 20


def test_pages_say_of_a_drawing_what_it_says_itself(book_pages, tmp_path):
    said = 'data-letters="9" data-pieces="[[[0,0,0.5,1]],[[0.5,0,0.5,1]]]"'
    (tmp_path / "wide.svg").write_text(f'<?xml version="1.0"?>\n<svg {said} width="9pt"></svg>')
    (tmp_path / "plain.svg").write_text("<svg></svg>")
    images = {f"{name}.svg": f"{name}0.svg" for name in ("wide", "plain")}
    app = SimpleNamespace(srcdir=tmp_path, builder=SimpleNamespace(images=images))
    shown = '<img alt="A" src="../_images/{0}" /><p>'
    body = "".join(map(shown.format, ["wide0.svg", "plain0.svg", "other.svg", "photo.png"]))
    context = {"body": body}
    book_pages.name_pieces(app, "page", "page.html", context, None)
    assert context["body"] == body.replace("<img", f"<img {said}", 1)
    book_pages.name_pieces(app, "genindex", "genindex.html", empty := {}, None)
    assert empty == {}
