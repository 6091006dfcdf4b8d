"""One more paper: its files are laid out and valid, and the tutorial does what it says."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import made_up_ledger as toy
import pytest
import test_book
import test_prose
import yaml

from mtlbook import cli, workflow
from mtlbook.documents import read_yaml
from mtlbook.ledger import claims, coverage, deviations, page, report, strict
from mtlbook.ledger.chain import chains
from mtlbook.ledger.results import Result
from mtlbook.workflow import new_paper

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "yours" / "paper.md"
OF_FIVE = ("data/claims/", "data/results/", "data/verdicts", "data/manifest.json", "data/golden/")


def copied(root: Path, without: tuple[str, ...] = ()) -> Path:
    """The files of this checkout, as they are now, without those whose path begins so."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("this is not a git checkout")
    for name in listing.stdout.split("\0"):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if not name.startswith(without):
                shutil.copyfile(ROOT / name, root / name)
    return root


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A paper that was just laid out, in a copy without those of the book: audits are short."""
    root = copied(tmp_path_factory.mktemp("papers"), without=OF_FIVE)
    new_paper.lay_out(root, "toys")
    return root


@pytest.fixture
def small(tmp_path, monkeypatch):
    """As much of a checkout as is needed to lay out a paper, as working folder."""
    for path in (new_paper.EXPERIMENTS, new_paper.TOC):
        (tmp_path / path).parent.mkdir()
        shutil.copyfile(ROOT / path, tmp_path / path)
    for folder in ("data/claims/printed", "book/reproduction", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("MTLBOOK_ROOT", str(tmp_path))
    return tmp_path


def state(root):
    return {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}


# What is laid out


def test_all_that_was_there_stays(small, capsys):
    before = state(small)
    assert cli.main(["new-paper", "toys"]) == 0
    after, printed = state(small), capsys.readouterr().out
    new = {p.relative_to(small).as_posix() for p in after.keys() - before.keys()}
    assert new == {path.format("toys") for path, _ in new_paper.FILES.values()}
    assert all(path in printed for path in new)
    for path in (new_paper.EXPERIMENTS, new_paper.TOC):  # lines were added, none changed
        old, now = (of[small / path].decode().splitlines() for of in (before, after))
        assert path.as_posix() in printed and len(now) > len(old)
        rest = iter(now)
        assert all(line in rest for line in old)
    assert [p for p, text in after.items() if b"papername" in text.lower()] == []


def test_two_papers_do_not_meet(small):
    new_paper.lay_out(small, "toys")
    new_paper.lay_out(small, "games")
    chapters = re.findall(r"reproduction/(\w+)", (small / new_paper.TOC).read_text())
    assert chapters.index("toys") + 1 == chapters.index("games") < chapters.index("controls")
    assert list(read_yaml(small / new_paper.EXPERIMENTS)["experiments"])[-2:] == [
        "toys-table1",
        "games-table1",
    ]


def test_what_is_laid_out_is_valid_beside_the_others(tmp_path, monkeypatch, capsys):
    """With the papers of the book, their results and their verdicts."""
    monkeypatch.setenv("MTLBOOK_ROOT", str(copied(tmp_path)))
    assert cli.main(["new-paper", "toys"]) == 0
    assert cli.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "toys         0 claims" in listed and "toys-table1: " in listed
    numbers = coverage.numbers(tmp_path / "data/claims")
    assert all(number.claims or number.reasons for number in numbers)
    assert cli.main(["audit", "--paper", "drn", "--format", "json"]) == 0
    # one paper was shown, and all were compared
    assert {row["paper"] for row in json.loads(capsys.readouterr().out)} == {"drn"}


def test_a_paper_without_claims_is_on_no_page(checkout, monkeypatch, capsys):
    monkeypatch.setenv("MTLBOOK_ROOT", str(checkout))
    assert cli.main(["audit", "--paper", "toys"]) == 2
    assert cli.main(["export", "report", "--paper", "toys", "-o", str(checkout / "x")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "--paper: expected one with claims (none yet), got 'toys'" in first
    assert "paper: expected one with claims (none yet), got 'toys'" in second
    assert chains(checkout)["papers"] == {} and not (checkout / "x").exists()


def test_the_chapter_hangs_together_with_the_book(checkout, script, monkeypatch):
    builder = script("build_book")
    chapter = checkout / "book/reproduction/toys.md"
    assert builder.pages(checkout / "book/_toc.yml").count("reproduction/toys") == 1
    test_book.test_executable_chapters_name_their_kernel(chapter)
    test_book.test_texts_of_claims_and_data_are_escaped(chapter)
    test_book.test_cells_load_only_what_comes_with_the_packages(chapter)
    assert test_prose.broken_formulas(chapter.read_text()) == []
    monkeypatch.setenv("MTLBOOK_ROOT", str(checkout))
    assert shown_by(chapter) == [
        "No claim has been written yet.",
        "None.",
        "None is listed yet.",
        "Nothing has been run yet.",
    ]


def shown_by(chapter):
    """The Markdown that the cells of a page show, one after the other."""
    namespace, shown = {}, []
    for cell in test_prose.CELL.finditer(chapter.read_text()):
        *lines, last = cell[3].rstrip().splitlines()
        exec("\n".join(lines), namespace)
        shown.append(eval(last, namespace).data)
    return shown


def test_files_are_in_the_style_of_the_project(checkout):
    files = [path.format("toys") for path, _ in new_paper.FILES.values()]
    files = [name for name in files if name.endswith((".py", ".ipynb"))]
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, *files]
        done = subprocess.run(ruff, cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_laid_out_tests_pass(checkout):
    run_tests_of(checkout, "toys")


def run_tests_of(root, name):
    spec = importlib.util.spec_from_file_location(f"of_{name}", root / f"tests/test_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [test for key, test in vars(module).items() if key.startswith("test_")]
    assert len(tests) >= 3
    for test in tests:
        test()


def test_claims_in_comments_become_claims(small):
    new_paper.lay_out(small, "toys")
    path = small / "data/claims/toys.yaml"
    assert claims.load(path).claims == ()
    text = re.sub(r"^#(?=  )", "", path.read_text(), flags=re.MULTILINE)
    path.write_text(re.sub(r"claims: \[\].*", "claims:", text))
    found = claims.load(path)
    assert [claim.rule.kind for claim in found.claims] == ["difference", "value", "difference"]
    (name,) = {name for claim in found.claims for name in claim.experiments}
    assert name in read_yaml(small / new_paper.EXPERIMENTS)["experiments"]


def test_the_example_runs(checkout, tmp_path, capsys):
    """Its smoke profile, cell by cell; what a cell prints is what is stored."""
    (run,) = workflow.expand(checkout / new_paper.EXPERIMENTS, "smoke", ["toys-table1"])
    assert run.parameters == {"experiment": "toys-table1"} and run.skip is None
    cells = json.loads(run.notebook.read_text())["cells"]
    path, namespace, outputs = tmp_path / "result.json", {}, 0
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        source = "".join(cell["source"])
        stored = "".join(line for output in cell["outputs"] for line in output["text"])
        exec(source, namespace)
        if "parameters" in cell["metadata"].get("tags", ()):
            namespace |= run.parameters | {"result": str(path)}
        printed = capsys.readouterr().out
        assert printed == stored or "NBVAL_IGNORE_OUTPUT" in source
        outputs += bool(printed)
    assert outputs == 3
    arms = {(r["arm"], r["metric"], r["repeat"]) for r in Result.load(path).records}
    assert arms == {(a, "rmse/uniform", r) for a in ("stl", "pooled") for r in (0, 1)}


# What cannot be laid out


ENTRY = "{paper: p, title: t, notebook: n.ipynb, profiles: {smoke: {}}}"


def refused(root, name, message):
    before = state(root)
    with pytest.raises(workflow.WorkflowError, match=message):
        new_paper.lay_out(root, name)
    assert state(root) == before


@pytest.mark.parametrize("name", ["", "x", "Toys", "1st", "two-words", "a b", "../toys", "töys"])
def test_a_name_that_is_none(small, name):
    refused(small, name, "name: expected small letters and digits, a letter first.*; got")


@pytest.mark.parametrize("path", [path.format("toys") for path, _ in new_paper.FILES.values()])
def test_a_paper_that_is_there(small, path):
    (small / path).write_text("somebody's work")
    refused(small, "toys", f"a paper that is not there yet, got 'toys', which has {path}$")


def test_an_experiment_that_is_there(small):
    (small / new_paper.EXPERIMENTS).write_text(f"experiments:\n  toys-table1: {ENTRY}\n")
    refused(small, "toys", r"experiments\.yaml: toys-table1 is there already")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"experiments: {{a: {ENTRY}}}", "expected the experiments last in the file"),
        (f"experiments:\n    a: {ENTRY}", "expected the experiments last in the file"),
        ("experiments: [", "not YAML"),
        ("experiments:\n  a: 1", "experiments.a: "),
    ],
)
def test_a_list_of_experiments_without_a_place(small, text, message):
    (small / new_paper.EXPERIMENTS).write_text(text)
    refused(small, "toys", rf"experiments\.yaml: {message}")


def test_a_table_of_contents_without_a_place(small):
    (small / new_paper.TOC).write_text("root: index\n")
    refused(small, "toys", r"_toc\.yml: expected one line '# above .*, found 0")


def test_a_checkout_that_lacks_a_part(small):
    (small / "tests").rmdir()
    refused(small, "toys", "tests: expected a folder that can be written to")
    (small / new_paper.TOC).unlink()
    refused(small, "toys", r"expected a checkout with book/_toc\.yml \(No such file")


@pytest.mark.posix("modes of folders")
def test_a_checkout_that_is_read_only(small):
    folder = small / "data/claims/printed"
    folder.chmod(0o555)
    try:
        refused(small, "toys", "printed: expected a folder that can be written to.*of your own")
    finally:
        folder.chmod(0o755)


def test_all_or_nothing(small, monkeypatch):
    """A full disk, after some files."""
    before, write = state(small), new_paper.write_atomically

    def full(path, text):
        if Path(path).name == "_toc.yml" and "toys" in text:
            raise OSError(28, "No space left on device")
        write(path, text)

    monkeypatch.setattr(new_paper, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        new_paper.lay_out(small, "toys")
    assert state(small) == before


# What is not the paper's says so


def test_a_mark_stands_behind_the_name_on_every_page(tmp_path):
    root = tmp_path / "repository"
    root.mkdir()
    toy.build(root)
    toy.write_claims(root, mark="made up")
    known = chains(root)
    assert {row["label"] for row in known["claims"]} == {"TOY (made up)"}
    assert known["papers"]["toy"]["label"] == "TOY (made up)"
    assert "<h3>TOY (made up) " in page.page(known)
    text = report.readme(known["claims"], toy.README)
    assert "| TOY (made up) | 4 |" in text and "| TOY (made up): gain, as the paper" in text


@pytest.mark.parametrize("more", ["--strict", "--coverage"])
def test_what_asks_about_all_shows_no_paper_alone(more, checkout, monkeypatch, capsys):
    monkeypatch.setenv("MTLBOOK_ROOT", str(checkout))
    assert cli.main(["audit", "--paper", "drn", more]) == 2
    assert "--paper: says what is shown" in capsys.readouterr().err


# The tutorial


BLOCK = re.compile(
    r"^```(?P<kind>sh|text|\{code-block\} \w+)\n(?::caption: (?P<path>\S+)\n)?(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def walk(text: str, root: Path) -> list[tuple[str, str]]:
    """Do what a page says: run its commands, write its files.

    Returns
    -------
    list of (str, str)
        What the page shows and what the command before it printed, for each block of output.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MTLBOOK", "GIT"))}
    environment |= {
        **{f"GIT_{who}_NAME": "reader" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "reader@example.org" for who in ("AUTHOR", "COMMITTER")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
    }
    shown, printed = [], ""

    def run(script: str) -> str:
        done = subprocess.run(
            ["sh", "-e", "-c", script], cwd=root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run("git init --quiet --initial-branch main; git add --all; git commit --quiet --message all")
    for block in BLOCK.finditer(text):
        kind, path, content = block.group("kind", "path", "text")
        if kind == "sh":
            printed = run(content)
        elif path is None:
            shown.append((content, printed))
        else:
            write(root / path, content)
    return shown


def write(path: Path, text: str) -> None:
    """A whole file; but of a notebook the cell that begins alike, of deviations the end."""
    if path.suffix == ".ipynb":
        notebook = json.loads(path.read_text())
        first = text.splitlines(keepends=True)[0]
        (cell,) = (cell for cell in notebook["cells"] if cell["source"][:1] == [first])
        cell["source"] = text.rstrip().splitlines(keepends=True)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    elif path.name == "deviations.yaml":
        text = path.read_text() + text
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def verdicts_in(text):
    """Of every row of a table of verdicts its words and its numbers."""
    rows = (re.split(" {2,}", line) for line in text.splitlines() if " [" in line)
    found = {}
    for name, printed, ours, n, _, word in rows:
        if name != "claim":
            found[name, printed, n, word] = [float(x) for x in re.findall(r"[+-][\d.]+", ours)]
    return found


@pytest.mark.posix("experiments, and the commands of the page, need a POSIX shell")
def test_the_tutorial_does_what_it_says(tmp_path, monkeypatch):
    """In a copy without the papers of the book, which makes the audits short."""
    root = copied(tmp_path, without=OF_FIVE)
    listing, verdicts, cheat = walk(PAGE.read_text(), root)
    assert listing[0] == listing[1]
    expected, found = map(verdicts_in, verdicts)
    assert len(expected) == 3 and found.keys() == expected.keys()
    for row, values in expected.items():  # another processor may round otherwise
        assert found[row] == pytest.approx(values, abs=0.02)
    assert [word for *_, word in expected] == ["reproduced", "opposite", "yes"]

    # all is committed, and passes; a rule that is changed now is found
    monkeypatch.setenv("MTLBOOK_ROOT", str(root))
    assert strict.check(root).findings == []
    path = root / "data/claims/pooling.yaml"
    rule = path.read_text()
    path.write_text(rule.replace("margin: 0.05", "margin: 0.5", 1))
    (late,) = (f"mtlbook: {f}" for f in strict.check(root).findings if f.kind == "rule")
    path.write_text(rule)
    a_commit = re.compile(r"\b[0-9a-f]{10}\b")
    assert a_commit.sub("…", late) == a_commit.sub("…", cheat[0].replace("\n", " ").strip())

    assert "n = 8: yes (pooling.control.shrinkage)" in deviations.markdown("pooling", root)
    exported = (root / "runs/pooling/report.html").read_text()
    assert "<h1>[not Re] Pooling always pays, a made-up paper" in exported
    assert "| POOLING (made up) | 2 |" in (root / "README.md").read_text()
    chapter = shown_by(root / "book/reproduction/pooling.md")
    assert "1 reproduced, 1 opposite; 1 questions of our own: 1 yes" in chapter[0]
    assert "six made-up regressions" in chapter[3]
    run_tests_of(root, "pooling")


def test_the_tutorial_says_everywhere_that_its_paper_is_made_up():
    text = PAGE.read_text()
    files = {block["path"]: block["text"] for block in BLOCK.finditer(text)}
    content = yaml.safe_load(files["data/claims/pooling.yaml"])
    assert content["mark"] == "made up" and "made-up" in content["title"]
    assert content["source"].startswith("made up")
    for claim in content["claims"]:
        assert claim.get("asked_by") == "us" or "(a made-up claim)" in claim["statement"]
    assert "Table 1, made up" in text and "There is no *Pooling always pays*" in text
    assert not any(path.stem == "pooling" for path in (ROOT / "data/claims").rglob("*.yaml"))
