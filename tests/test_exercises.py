"""The exercises: what is on the pages, what the checks say of it, and what is said to readers.

Solutions and stubs stand on the pages alone; they are read from both editions that
``scripts/editions.py`` writes. Every check must be needed: some mistake passes all checks before it
and fails this one.
"""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
import torch

from mtlbook import cli
from mtlbook.exercises import EXERCISES, find, judging, running
from mtlbook.exercises.model import LEVELS, Exercise, Failed, Mistake, close, hint, title

CHECKED = [exercise for exercise in EXERCISES.values() if exercise.checks]
names = [exercise.name for exercise in CHECKED]


def judged(exercise, namespace):
    return list(judging.judge(exercise, namespace))


def run(code):
    namespace = dict(judging.PRELUDE)
    exec(code, namespace)
    return namespace


# --------------------------------------------------------------------------------- the editions


@pytest.fixture(scope="module")
def editions(script):
    return script("editions")


@pytest.fixture(scope="module")
def on_pages(editions, root):
    """Page -> its exercises as they stand there."""
    pages = editions.pages()
    texts = {page: (root / "book" / f"{page}.md").read_text(encoding="utf-8") for page in pages}
    return {page: of for page, text in texts.items() if (of := editions.exercises(text))}


@pytest.fixture(scope="module")
def written(editions, tmp_path_factory):
    """(solved?, exercise) -> the code of its cell in that edition, and all text of the edition."""
    cells, text = {}, {}
    for solved in (False, True):
        out = tmp_path_factory.mktemp("edition")
        paths = editions.write(out, solved=solved, form="md")
        assert len(paths) == len(editions.pages())
        text[solved] = "\n".join(path.read_text(encoding="utf-8") for path in paths)
        for name, code in re.findall(CHECK_CELL, text[solved]):
            assert (solved, name) not in cells
            cells[solved, name] = code
    return cells, text


CHECK_CELL = re.compile(
    r"^```\{code-cell\} python\n%%check ([\w-]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize("solved", [False, True])
def test_a_notebook_has_the_cells_of_the_page(editions, written, root, solved):
    page = "methods/drn"
    text = editions.edition((root / "book" / f"{page}.md").read_text(), solved=solved)
    cells = [c for c in json.loads(editions.notebook(text))["cells"] if c["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert sources[0] == "%load_ext mtlbook"
    asked = [source for source in sources if source.startswith("%%check ")]
    of = [e.name for e in CHECKED if e.chapter == page]
    assert asked == [f"%%check {name}\n{written[0][solved, name]}".rstrip() for name in of]
    assert len(sources) > 5


def test_pages_and_catalogue_have_the_same_exercises(on_pages):
    there = {(e.name, e.title, page) for page, of in on_pages.items() for e in of}
    assert there == {(e.name, e.title, e.chapter) for e in EXERCISES.values()}
    by_chapter = {page: len(of) for page, of in on_pages.items()}
    assert min(n for page, n in by_chapter.items() if page[:4] in ("foun", "meth")) >= 3
    assert len(EXERCISES) >= 60 and {e.level for e in EXERCISES.values()} == set(LEVELS)


def test_a_page_says_what_the_catalogue_says(on_pages):
    """The level in the first words; a stub with the command, the function and its arguments."""
    for exercise in (e for of in on_pages.values() for e in of):
        known = EXERCISES[exercise.name]
        assert exercise.body.lower().startswith(f"*{known.level}.* "), exercise.name
        assert bool(exercise.stub) == bool(exercise.solution) == bool(known.checks), exercise.name
        if known.checks:
            assert f"# mtlbook check {exercise.name} my.py\n" in exercise.stub
            assert max(map(len, exercise.stub.splitlines())) <= 72, exercise.name
            for code in (exercise.stub, exercise.solution):
                functions = [n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef)]
                asked = {f.name: [a.arg for a in f.args.args] for f in functions}
                assert asked[known.function] == known.arguments, exercise.name


def test_pages_say_how_to_check(on_pages, root):
    for page, of in on_pages.items():
        text = (root / "book" / f"{page}.md").read_text(encoding="utf-8")
        told = f"`mtlbook check --list {page}`" in text and "sec-exercises" in text
        assert told == any(exercise.stub for exercise in of), page


def test_an_exercise_without_a_solution_is_named(editions):
    with pytest.raises(ValueError, match=r"expected a solution for each exercise.*ex-one"):
        editions.exercises(":::{exercise} One\n:label: ex-one\nWhy?\n:::\n")


def test_the_student_edition_has_no_solutions(written, on_pages):
    cells, text = written
    for exercise in (e for of in on_pages.values() for e in of if e.stub):
        assert exercise.solution.strip() in text[True]
        assert exercise.solution.strip() not in text[False]
    assert "{solution" not in text[False] and "#### Solution" not in text[False]
    assert text[True].count("#### Solution") == len(EXERCISES)
    assert {name for solved, name in cells if solved} == set(names)
    assert {name for solved, name in cells if not solved} == set(names)


def test_what_follows_a_solution_does_not_need_it(editions, root):
    """Names that only the cells of solutions define are used by no other cell."""
    for page in editions.pages():
        text = (root / "book" / f"{page}.md").read_text(encoding="utf-8")
        rest = "\n".join(cells(editions.SOLUTION.sub("", text)))
        solutions = "\n".join(m[0] for m in editions.SOLUTION.finditer(text))
        inside = "\n".join(cells(solutions))
        own, tree = defined(rest), ast.parse(rest)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert (defined(inside) - own) & used == set(), page


def hides(page_cells):
    """The names that an answer takes over and that a later cell uses for something else."""
    taken, found = set(), set()
    for cell in page_cells:
        name, _, code = cell.partition("\n") if cell.startswith("%") else ("", "", cell)
        tree = ast.parse(code)
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        found |= taken & used - defined(code)
        if name:
            taken |= {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            assigned = [n.targets[0] for n in tree.body if isinstance(n, ast.Assign)]
            taken |= {n.id for n in assigned if isinstance(n, ast.Name)}
        else:
            taken -= defined(code)
    return found


def test_hides():
    answer = "%%check ex-one\ndef x(): ...\n"
    assert hides(["x = 1", answer, "print(x)"]) == {"x"}
    assert hides(["x = 1", answer, "x = 2\nprint(x)"]) == set()
    assert hides([answer, "%%check ex-two\ny = x\n"]) == {"x"}


def test_no_answer_hides_a_name_of_the_page(editions, root):
    for page in editions.pages():
        text = (root / "book" / f"{page}.md").read_text(encoding="utf-8")
        assert hides(cells(editions.edition(text, solved=True))) == set(), page


def cells(text):
    """The code of each cell of a page."""
    code, inside, options = [], False, False
    for line in text.splitlines():
        if line.startswith("```{code-cell}"):
            inside = True
            code.append("")
        elif inside and line == "```":
            inside = False
        elif inside and (line == "---" or options):
            options ^= line == "---"
        elif inside and not line.startswith(":"):
            code[-1] += f"{line}\n"
    return code


def defined(code):
    nodes = list(ast.walk(ast.parse(code)))
    found = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    found |= {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    found |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    imports = [n for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
    return found | {(a.asname or a.name).split(".")[0] for n in imports for a in n.names}


# ----------------------------------------------------------------------------------- the checks


@pytest.mark.parametrize("name", names)
def test_the_solution_passes_and_the_stub_does_not(name, written):
    cells, exercise = written[0], find(name)
    lines = judged(exercise, run(cells[True, name]))
    assert [line["ok"] for line in lines] == [True] * len(exercise.checks), lines[-1]
    last = judged(exercise, run(cells[False, name]))[-1]
    assert not last["ok"] and last["hint"], last


@pytest.mark.parametrize("name", names)
def test_each_mistake_fails_and_is_recognised(name):
    """And each check is needed: a mistake passes all checks before it, and fails it."""
    exercise, failed = find(name), set()
    for mistake in exercise.mistakes:
        last = judged(exercise, {exercise.function: mistake.function})[-1]
        assert not last["ok"], mistake.hint
        assert last["hint"] == mistake.hint
        assert last["expected"] and last["came"]
        failed.add(last["check"])
    assert failed == {title(one) for one in exercise.checks}


@pytest.mark.parametrize("name", names)
def test_checks_and_signatures_say_what_they_mean(name):
    exercise = find(name)
    assert exercise.shapes and exercise.level in LEVELS
    assert re.fullmatch(r"\w+\((\w+(, \w+)*)\)", exercise.signature)
    for one in exercise.checks:
        assert title(one) != one.__name__ and len(hint(one)) > 20, one
        assert next(iter(inspect.signature(one).parameters)) == "f"


def test_hints_differ():
    for exercise in CHECKED:
        hints = [m.hint for m in exercise.mistakes]
        assert len(set(hints)) == len(hints)


# ------------------------------------------------------------------- what is said of bad answers


def one(f):
    """It doubles

    Twice as much.
    """
    close(f(torch.arange(3.0)), torch.tensor([0.0, 2.0, 4.0]), "the double")


DOUBLE = Exercise(
    *("ex-double", "Double", "warm-up", "page", "double(x)", "x (n,) -> (n,)", (one,)),
    mistakes=(Mistake("That is the square.", lambda x: x**2),),
)


@pytest.mark.parametrize(
    ("answer", "came", "said"),
    [
        (lambda x: 2 * x, None, None),
        (lambda x: None, "None", "does it return"),
        (lambda x: ..., "Ellipsis", "does it return"),
        (lambda x: x**2, "0, 1, 4", "That is the square."),
        (lambda x: -2 * x, "-4", "wrong sign"),
        (lambda x: 6 * x, "12", "3 times what was expected"),
        (lambda x: 2.0001 * x, "2, 4", ""),  # nearly right is wrong
        (lambda x: 2 * x[:2], r"shape \(2,\)", "Twice as much."),
        (lambda x: 2 * x.double(), "float64", "Take over the dtype"),
        (lambda x: x / x, "NaN in 1 of 3", "Twice as much."),
        (lambda x: x.mul_(2), "changed in place", "Work on a copy"),
        (lambda x: x @ x[:2], "RuntimeError", "Twice as much."),
        (lambda x: [0, 2, 4], r"list of 3|list \[0", "Twice as much."),
    ],
)
def test_what_is_wrong_is_said(answer, came, said):
    (line,) = judged(DOUBLE, {"double": answer})
    if came is None:
        assert line == {"check": "It doubles", "ok": True}
    else:
        assert not line["ok"] and re.search(came, line["came"]), line
        assert said in line["hint"]


@pytest.mark.parametrize(
    ("namespace", "came", "said"),
    [
        ({}, "no function", "must be this one"),
        ({"duble": lambda x: x}, "the functions duble", "Is duble meant"),
        ({"double": 2.0}, "float", ""),
        ({"double": lambda: 0}, r"double\(\)", "number of arguments"),
    ],
)
def test_a_function_that_is_not_there(namespace, came, said):
    (line,) = judged(DOUBLE, namespace)
    assert not line["ok"] and re.search(came, line["came"]) and said in line["hint"]


@pytest.mark.parametrize(
    ("code", "came"),
    [
        ("def double(x)\n    return x\n", "line 1: expected ':'"),
        ("y = 1\nz = w\n", "NameError: name 'w' is not defined, line 2"),
        ("import sys\nsys.exit('bye')\n", "SystemExit: bye, line 2"),
    ],
)
def test_code_that_does_not_run(tmp_path, code, came):
    path = tmp_path / "my.py"
    path.write_text(code)
    with pytest.raises(Failed) as failure:
        judging.load(path)
    assert failure.value.came.startswith(came)


# ------------------------------------------------------------------- in a process of its own


SHARE = "def share(kernels, rho):\n    {}\n"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("while True: pass", 1, r"an answer within 2 seconds\s+came +none yet, in line 2\n"),
        (
            "import helper; return helper.help(kernels, rho)",
            0,
            r"printed:\n    hello\n(.*\n)*.*all",
        ),
    ],
)
def test_command(tmp_path, capsys, body, code, said):
    (tmp_path / "my.py").write_text(SHARE.format(body))
    (tmp_path / "helper.py").write_text(
        "print('hello')\n"
        "from mtlbook.kernels import aggregate\n"
        "def help(kernels, rho):\n    return aggregate(kernels, rho)\n"
    )
    path = str(tmp_path / "my.py")
    assert cli.main(["check", "ex-mtal-share", path, "--seconds", "2"]) == code
    assert re.search(said, capsys.readouterr().out)


def test_what_the_command_refuses(tmp_path, capsys):
    for arguments, said in (
        (["ex-mtal-share", str(tmp_path / "none.py")], "expected a file of Python"),
        (["--list", "nowhere"], "expected a chapter of when-tasks-help"),
        ([], "expected the name of an exercise"),
        (["ex-mtal-shar"], "did you mean ex-mtal-share"),
    ):
        assert cli.main(["check", *arguments]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ex-mtal-one", "expected an exercise with checks.* stands in the chapter methods/mtal"),
        ("ex-mtal-shar", "did you mean ex-mtal-share"),
    ],
)
def test_a_name_that_has_no_checks(tmp_path, name, said):
    judging.main(name, "my.py", str(tmp_path / "lines"), "1")
    with pytest.raises(ValueError, match=said):
        running._report(Path("my.py"), tmp_path / "lines", 1, 0, "")


@pytest.mark.parametrize(
    ("code", "said"),
    [(3, "ended by itself, with code 3"), (-9, "ended by SIGKILL"), (None, "within 5 seconds")],
)
def test_an_answer_that_takes_the_process_with_it(tmp_path, code, said):
    lines = [{**KNOWN, "checks": 2}, {"check": "one", "ok": True}]
    (tmp_path / "lines").write_text("\n".join(map(json.dumps, lines)) + "\n")
    report = running._report(Path("my.py"), tmp_path / "lines", 5, code, "")
    assert said in str(report) and "1 of 2 checks passed" in str(report)
    assert not report.passed and not report.ended


def test_a_process_that_did_not_start_is_shown(tmp_path):
    with pytest.raises(RuntimeError, match="did not start:\nno module"):
        running._report(Path("my.py"), tmp_path / "lines", 5, 1, "no module")


KNOWN = {"name": "ex-double", "title": "Double", "level": "warm-up", "chapter": "page"}


def test_the_page_shows_what_the_command_says(editions, root):
    page = (root / "book" / "how-to-read.md").read_text(encoding="utf-8")
    (code,), exercise = editions.CODE.findall(page), find("ex-tensor-laf")
    of = {key: getattr(exercise, key) for key in ("name", "title", "level", "chapter")}
    report = running.Report({**of, "checks": 2}, tuple(judged(exercise, run(code))))
    assert f"```text\n{report}\n```" in page


def test_listing(capsys):
    assert cli.main(["check", "--list"]) == 0
    everything = capsys.readouterr().out
    assert all(f"  {name} " in everything for name in EXERCISES)
    assert f"{len(EXERCISES)} exercises, {len(CHECKED)} with checks" in everything
    assert cli.main(["check", "--list", "methods/mtal"]) == 0
    assert set(re.findall(r"ex-[\w-]+", capsys.readouterr().out)) == {
        e.name for e in EXERCISES.values() if e.chapter == "methods/mtal"
    }
    assert cli.main(["check", "--list", "mrn"]) == 0
    both = re.findall(r"^\w+/\w+$", capsys.readouterr().out, re.MULTILINE)
    assert both == ["methods/mrn", "reproduction/mrn"]
    assert cli.main(["check", "ex-mtal-share"]) == 0
    assert "share(kernels, rho): kernels (P, d)" in capsys.readouterr().out


def test_cell_magic(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.run_line_magic("load_ext", "mtlbook")
        shell.run_cell_magic("check", "ex-mtal-share", SHARE.format("return kernels"))
        assert "1 of 2 checks passed" in capsys.readouterr().out
        assert shell.user_ns["share"](1, 2) == 1  # the cell has run here, too
    finally:
        InteractiveShell.clear_instance()
