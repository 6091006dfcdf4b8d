"""The book: its sources hang together, and what was built can be read offline."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from jupyter_cache import get_cache
from myst_nb.core.read import read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
TOC = BOOK / "_toc.yml"
HTML = ROOT / "_build" / "html"
CHAPTERS = sorted(BOOK.rglob("*.md"))


@pytest.fixture(scope="module")
def builder(script):
    return script("build_book")


def chapter_name(path: Path) -> str:
    return path.relative_to(BOOK).with_suffix("").as_posix()


def test_toc_lists_every_chapter_once(builder):
    listed = builder.pages(TOC)
    assert sorted(listed) == sorted(chapter_name(path) for path in CHAPTERS)
    assert listed[0] == "index"


@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_name)
def test_executable_chapters_name_their_kernel(path):
    text = path.read_text()
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if "{code-cell}" not in text:
        assert front is None or "kernelspec" not in front[1], "a kernel, but nothing to run"
        return
    assert front, "cells, but no front matter: they would not run"
    kernel = yaml.safe_load(front[1])["kernelspec"]
    assert (kernel["name"], kernel["language"]) == ("python3", "python")
    assert kernel["display_name"]


def unescaped(line: str) -> list[str]:
    """Texts of claims and data sets that a line of a cell hands on as they are."""
    texts = r"\w+\[['\"](?:statement|why|unit|where|revised|stand_in)['\"]\]|\w+\.names\b"
    found = []
    for match in re.finditer(texts, line):
        before, after = line[: match.start()], line[match.end() :]
        escaped = re.search(r"\b(escape|code)(\(|, )[^()]*$", before)
        asked = before.endswith(" in ") or after.startswith((" is ", "[", ".index"))
        joined = "join(" in before or "{" in before or "cells" in before or "else" in before
        if joined and not escaped and not asked:
            found.append(match[0])
    return found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("f\"{row['unit']} points\"", ["row['unit']"]),
        ("f\"{report.escape(row['unit'])} points\"", []),
        ('" | ".join(tasks.names)', ["tasks.names"]),
        ('" | ".join(map(report.escape, tasks.names))', []),
        ('n = sum("not" in row["why"] for row in rows)', []),
        ('why = "ours" if surf else row["why"]', ['row["why"]']),
    ],
)
def test_what_counts_as_unescaped(line, found):
    assert unescaped(line) == found


@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_name)
def test_texts_of_claims_and_data_are_escaped(path):
    cells = re.findall(r"^```\{code-cell\}(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for cell in cells for line in cell.splitlines() if "print(" not in line]
    assert [found for line in lines for found in unescaped(line)] == []


def test_every_citation_is_in_the_bibliography():
    entries = re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.MULTILINE)
    assert len(entries) == len(set(entries))
    cited = {
        key.strip()
        for path in CHAPTERS
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", path.read_text())
        for key in keys.split(",")
    }
    assert cited - set(entries) == set()


def test_mathjax_comes_from_its_package_and_is_complete(builder, script, root):
    """Each part and font that pages ask for is there and stays; the repository holds none of it."""
    import importlib

    mathjax = Path(importlib.import_module("sphinx-mathjax-offline").__file__).parent / "static"
    pages = script("book_pages")
    parts = [Path(builder.MATHJAX).relative_to("_static/mathjax").stem, *pages.MATHJAX]
    files = [f"{part}.js" for part in [*parts, "output/chtml/fonts/tex"]]
    assert all(pages.KEPT.fullmatch(name) for name in files)
    code = "".join((mathjax / "mathjax" / name).read_text() for name in files)
    fonts = set(re.findall(r"MathJax_[A-Za-z0-9]+(?:-[A-Za-z]+)?(?=\.woff)", code))
    there = {path.stem for path in mathjax.glob("mathjax/output/chtml/fonts/woff-v2/*.woff")}
    assert len(fonts) > 20
    assert fonts - there == set()
    config = yaml.safe_load((root / "_config.yml").read_text())["sphinx"]["config"]
    assert "sphinx-mathjax-offline" in config["extensions"]
    assert [path for path in BOOK.rglob("*") if "mathjax" in path.name.lower()] == []


@pytest.mark.parametrize(
    ("html", "loaded"),
    [
        ('<script src="https://cdn.example/a.js"></script>', ["https://cdn.example/a.js"]),
        ('<script src="//cdn.example/a.js"></script>', ["//cdn.example/a.js"]),
        ('<script src="_static/a.js"></script>', []),
        ('<link rel="stylesheet" href="http://e.example/a.css">', ["http://e.example/a.css"]),
        ('<link rel="canonical" href="http://e.example/">', []),
        ('<img src="https://e.example/badge.svg">', ["https://e.example/badge.svg"]),
        ("<style>a{src: url('https://f.example/x.woff')}</style>", ["https://f.example/x.woff"]),
        ("<script>import('https://e.example/m.js')</script>", ["https://e.example/m.js"]),
        ('<a href="https://arxiv.org/abs/1606.04038">a link that a reader may click</a>', []),
    ],
)
def test_external_loads(builder, html, loaded):
    assert builder.external_loads(html) == loaded


@pytest.fixture
def small_book(tmp_path):
    """A book of two pages, built and in order: (html, toc)."""
    html, toc = tmp_path / "html", tmp_path / "_toc.yml"
    toc.write_text("root: index\nparts:\n- chapters:\n  - file: part/one\n")
    page = '<h1>b</h1><img src="../_static/a%20picture.png?v=1">'
    pages = {"index.html": "<h1>a</h1>", "part/one.html": page, "_static/a picture.png": ""}
    pages["ledger.html"] = '<tr id="p.there"></tr>'
    for name, text in pages.items():
        (html / name).parent.mkdir(parents=True, exist_ok=True)
        (html / name).write_text(text)
    return html, toc


def test_no_problem_in_a_good_book(builder, small_book):
    assert builder.problems(*small_book) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "part/one: not built"),
        ("no heading", "part/one: has no title"),
        ("<h1>b</h1> Traceback (most recent call last)", "part/one: shows a traceback"),
        ('<h1>b</h1><img src="//e.example/i.png">', "part/one.html: loads //e.example/i.png"),
        (
            '<h1>b</h1><script src="../_static/lost.js?v=1"></script>',
            "part/one.html: loads ../_static/lost.js, which is not there",
        ),
        (
            '<h1>b</h1><span class="math notranslate">x</span>',
            "part/one: has formulas but does not load the book's own MathJax",
        ),
        (
            '<h1>b</h1><a href="../ledger.html#p.lost">x</a> <a href="../ledger.html#p.there">y</a>'
            '<a href="../ledger.html#paper=p">z</a> <a href="../ledger.html">all</a>',
            "part/one: leads to ledger.html#p.lost, which is not there",
        ),
        (
            '<h1 id="there">b</h1><a href="#there">x</a> <a href="#lost">y</a> <a href="#">z</a>',
            "part/one: leads to #lost, which is not there",
        ),
    ],
)
def test_problems_are_named(builder, small_book, text, problem):
    page = small_book[0] / "part" / "one.html"
    page.unlink()
    if text is not None:
        page.write_text(text)
    assert builder.problems(*small_book) == [problem]


DRAWS = """\
%matplotlib inline
import matplotlib.pyplot as plt

def later():
    return plt.figure()

fig, ax = plt.subplots()"""


@pytest.mark.parametrize("shown", [0, 1])
def test_a_page_without_the_figures_that_its_cells_draw_is_not_in_order(builder, small_book, shown):
    """As with MPLBACKEND=Agg at the build: no cell fails, and the pictures are missing."""
    html, toc = small_book
    write_page(toc.parent / "part", "one", DRAWS + "\n```\n\n```{code-cell} python\nlater()")
    picture = f"_images/{'0' * 64}.png"
    (html / "_images").mkdir()
    (html / picture).touch()
    text = "<h1>b</h1>" + f'<img alt="x" src="../{picture}">' * shown
    (html / "part" / "one.html").write_text(text)
    missing = ["part/one: 1 of its cells draw figures, and it shows 0"]
    assert builder.problems(html, toc) == ([] if shown else missing)


def test_cells_are_run_again_when_the_package_changes(builder, tmp_path):
    for name in builder.INPUTS:
        path = tmp_path / name
        if path.suffix:
            path.write_text("a")
        else:
            path.mkdir()
    module = tmp_path / "mtlbook" / "norms.py"
    module.write_text("one")
    before = builder.inputs_sha256(tmp_path)
    assert builder.inputs_sha256(tmp_path) == before
    module.write_text("two")
    assert builder.inputs_sha256(tmp_path) != before


PAGE = """\
---
file_format: mystnb
kernelspec:
  name: python3
  display_name: Python 3
---

# A page

```{code-cell} python
%s
```
"""


def write_page(folder, name, source):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(PAGE % source)
    return path


def test_pages_are_executed_side_by_side_and_once(builder, tmp_path):
    """Each page waits for the other one's file: one after the other they would never end."""
    wait = """\
import time
from pathlib import Path
Path("{0}").touch()
end = time.monotonic() + 60
while not Path("{1}").exists():
    assert time.monotonic() < end, "alone"
    time.sleep(0.05)
print("{0} ran")"""
    sources = [
        write_page(tmp_path, "one", wait.format("a", "b")),
        write_page(tmp_path, "two", wait.format("b", "a")),
    ]
    (tmp_path / "plain.md").write_text("# No cells")
    sources.append(tmp_path / "plain.md")
    assert builder.execute(sources, tmp_path / "cache", at_once=2) == []
    ran = builder.seconds(tmp_path, tmp_path / "cache")
    assert sorted(ran) == ["one", "two"] and all(0 < seconds < 60 for seconds in ran.values())
    for name in "ab":
        (tmp_path / name).unlink()
    assert builder.execute(sources, tmp_path / "cache", at_once=2) == []
    assert not (tmp_path / "a").exists()


def test_what_sphinx_asks_the_cache_for_is_there(builder, tmp_path):
    """The reader of a page here and that of myst-nb give notebooks of one hash."""
    source = write_page(tmp_path, "one", "import math\nprint(math.pi)")
    assert builder.execute([source], tmp_path / "cache", at_once=1) == []
    notebook = read_myst_markdown_notebook(
        source.read_text(), config=MdParserConfig(), add_source_map=True, path=source
    )
    _, merged = get_cache(str(tmp_path / "cache")).merge_match_into_notebook(notebook)
    (output,) = merged.cells[1].outputs
    assert output["text"] == "3.141592653589793\n"


def test_a_failing_cell_fails_the_build(builder, tmp_path, monkeypatch, capsys):
    sources = [write_page(tmp_path, "good", "1 + 1"), write_page(tmp_path, "bad", "1 / 0")]
    (failure,) = builder.execute(sources, tmp_path / "cache", at_once=2)
    assert failure.startswith("bad.md: ") and "ZeroDivisionError" in failure
    monkeypatch.setattr(builder, "BUILD", tmp_path / "build")
    (tmp_path / "build").mkdir()
    monkeypatch.setattr(builder, "execute", lambda *arguments, **options: [failure])
    monkeypatch.setattr(
        builder.subprocess, "run", lambda *a, **o: pytest.fail("built all the same")
    )
    assert builder.build(False, at_once=2) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert not (tmp_path / "build" / "inputs.sha256").exists()


def test_figures_are_drawn_whatever_the_backend_is_said_to_be(builder, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(builder, "BUILD", tmp_path / "build")
    (tmp_path / "build").mkdir()
    seen = []
    monkeypatch.setattr(
        builder, "execute", lambda *a, **o: seen.append(dict(builder.os.environ)) or ["stop"]
    )
    assert builder.build(False, at_once=1) == 1
    assert "MPLBACKEND" not in seen[0]


def test_pages_find_no_data_but_those_of_the_packages(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "BUILD", tmp_path / "build")
    had = tmp_path / "had"
    had.mkdir()
    (had / "omniglot_28.npz").write_text("what the builder has")
    monkeypatch.setenv("MTLBOOK_DATA", str(had))
    seen, folders = [], []

    def look(*arguments, **options):
        folders.append(Path(builder.os.environ["MTLBOOK_DATA"]))
        seen.extend(folders[0].iterdir())
        return ["stop"]

    monkeypatch.setattr(builder, "execute", look)
    (tmp_path / "build" / "data").mkdir(parents=True)
    (tmp_path / "build" / "data" / "omniglot_28.npz").write_text("left by an earlier build")
    assert builder.build(False, at_once=1) == 1
    assert folders == [tmp_path / "build" / "data"]
    assert seen == []
    assert (had / "omniglot_28.npz").exists()


# What tells what the cache holds; and what reads it besides `datasets.load`.
OF_THE_CACHE = re.compile(
    r"datasets\.(available|status|fetch|verify|identity|table)\b|MTLBOOK_DATA|cache_dir|"
    r"split_audit\.(office_caltech10|PUBLISHED)|published_lists|how_to_get"
)


@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_name)
def test_cells_load_only_what_comes_with_the_packages(path):
    tiers = {entry["name"]: entry["tier"] for entry in yaml.safe_load(
        (ROOT / "data" / "datasets.yaml").read_text()
    )}  # fmt: skip
    cells = re.findall(r"(?ms)^(`{3,})\{code-cell\}.*?$(.*?)^\1$", path.read_text())
    for _, cell in cells:
        assert not OF_THE_CACHE.search(cell), OF_THE_CACHE.search(cell)
        for argument in re.findall(r"\bdatasets\.load\(\s*([^,)]*)", cell):
            name = argument.strip("'\" ")
            assert argument[:1] in "'\"" and tiers[name] == "embedded", argument


def test_the_search_for_the_cache_finds_what_stood_there():
    for text in (
        'if datasets.available("office_caltech10"):',
        "split_audit.audit_lists(*split_audit.office_caltech10())",
    ):
        assert OF_THE_CACHE.search(text)


@pytest.mark.posix("no SIGHUP")
def test_kernels_end_with_the_build(tmp_path):
    """As Ctrl-C in make reproduce asks it to."""
    source = "import os, time\nprint(os.getpid(), file=open('pid', 'w'), flush=True)"
    write_page(tmp_path, "one", source)
    with (tmp_path / "one.md").open("a") as page:
        page.write("\n```{code-cell} python\ntime.sleep(600)\n```\n")
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "scripts")!r})
from pathlib import Path
import build_book
build_book.end_with_children()
build_book.execute([Path("one.md").resolve()], Path("cache"), at_once=1)
"""
    build = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    wait_until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    kernel = psutil.Process(int((tmp_path / "pid").read_text()))
    build.send_signal(signal.SIGHUP)
    assert build.wait(timeout=30) == 143
    wait_until(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)


def wait_until(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_pages_are_executed_by_the_kernel_of_this_python(builder, tmp_path, monkeypatch):
    kernel = tmp_path / "theirs" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["false"], "display_name": "theirs", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "theirs"))
    source = write_page(tmp_path, "one", f"import sys\nassert sys.prefix == {sys.prefix!r}")
    assert builder.execute([source], tmp_path / "cache", at_once=1) == []


@pytest.mark.book
@pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="not built: make book")
class TestBuiltBook:
    def test_is_in_order(self, builder):
        assert builder.problems(HTML, TOC) == []

    @pytest.mark.parametrize("path", CHAPTERS, ids=chapter_name)
    def test_cells_have_run(self, path):
        """A page with cells shows the output of at least one of them."""
        page = (HTML / f"{chapter_name(path)}.html").read_text()
        text = path.read_text()
        seen = text.count("{code-cell}") - text.count("[remove-cell]")
        assert ("cell_output" in page) == (seen > 0)

    def test_formulas_are_numbered(self):
        chapter = (BOOK / "foundations" / "trace-norm.md").read_text()
        page = (HTML / "foundations" / "trace-norm.html").read_text()
        labels = re.findall(r"^\$\$ \(([\w:.-]+)\)$", chapter, re.MULTILINE)
        assert labels
        assert [label for label in labels if f'id="equation-{label.lower()}"' not in page] == []
        parts = [part for part in yaml.safe_load(TOC.read_text())["parts"] if part.get("numbered")]
        files = [chapter["file"] for part in parts for chapter in part["chapters"]]
        chapter = files.index("foundations/trace-norm") + 1
        numbers = re.findall(r'class="eqno">\(([\d.]+)\)', page)
        assert numbers == [f"{chapter}.{n}" for n in range(1, len(labels) + 1)]

    def test_api_page_documents_the_package(self):
        page = (HTML / "api.html").read_text()
        for name in ("mtlbook.tensors.unfold", "mtlbook.norms.trace_norm", "mtlbook.training.fit"):
            assert f'id="{name}"' in page
