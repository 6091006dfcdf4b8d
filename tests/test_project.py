"""The project's files agree with each other, and say nothing of the machine they were made on."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.~)}-])/(?:work|root|home)/\w"),
    "a host of a package registry": re.compile(
        r"\bpypi\.(?:org|python\.org)|pythonhosted\.org|npm[j]s\.|anaconda\.(?:org|com)"
        r"|download\.pytorch\.org"
    ),
}


APART = {"parquet"}  # of a format that few need: large, neither in "all" nor locked


def requirements(extras: list[str]) -> list[Requirement]:
    """The dependencies of the project with the given extras; the project itself left out."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [r for r in map(Requirement, lines) if r.name != PROJECT["name"]]


def locked() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def repository_files() -> list[Path]:
    """Every text file that is in the repository, or would be at the next ``git add``."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("this is not a git checkout")
    names = [name for name in listing.stdout.split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_one_version():
    import mtlbook

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = PROJECT["version"]
    assert (mtlbook.__version__, citation["version"], newest[1]) == (version, version, version)


def test_extra_all_is_every_extra():
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(extras) - {"all"} - APART


def test_an_extra_gives_one_bound_per_package():
    bounds: dict[str, set[str]] = {}
    for requirement in requirements(list(PROJECT["optional-dependencies"])):
        bounds.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert {name: b for name, b in bounds.items() if len(b) > 1 or b == {""}} == {}


def test_environment_file_installs_the_tested_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = environment["dependencies"]
    assert environment["channels"] == ["conda-forge"]
    # conda would take the newest Python, for which nothing here was tried
    assert python == f"python{PROJECT['requires-python']},<3.14"
    # the tested versions; no extras, because the lock has them all and nothing is listed twice
    assert (pip, by_pip) == ("pip", {"pip": ["-r requirements.lock", "-e ."]})


def test_lock_pins_every_line_and_names_no_source():
    for requirement in locked():
        pins = [(s.operator, "*" in s.version) for s in requirement.specifier]
        assert pins == [("==", False)], requirement
        assert requirement.url is None
        # a build such as +cpu exists on one index only
        assert "+" not in str(requirement.specifier), requirement


def test_lock_satisfies_the_bounds():
    versions: dict[str, list[str]] = {}
    for requirement in locked():
        (pin,) = requirement.specifier
        versions.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    for requirement in requirements(list(set(PROJECT["optional-dependencies"]) - APART)):
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement.name} is not in the lock: make lock"
        assert all(requirement.specifier.contains(version) for version in found), requirement


def test_lock_script_hands_pip_indexes_to_uv(script, monkeypatch):
    lock = script("lock")
    listing = "global.extra-index-url='one\\ntwo'\n:env:.find-links='wheels'\nglobal.timeout='9'\n"

    def run(command, **_):
        return subprocess.CompletedProcess(command, 0, stdout=listing)

    monkeypatch.setattr(lock.subprocess, "run", run)
    monkeypatch.setattr(lock.os, "environ", {"UV_FIND_LINKS": "mine"})
    assert lock.uv_environment() == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_EXTRA_INDEX_URL": "one two",
        "UV_FIND_LINKS": "mine",  # the user's own setting wins
    }


@pytest.mark.parametrize(
    ("fails", "ends", "code"),
    [
        ("nothing", "uv uv", 0),
        ("pip install uv", "pip pip", 0),  # it cannot be had
        ("uv pip install lock", "uv pip pip", 0),
        ("uv pip install mtlbook", "uv uv pip pip", 0),
        ("install lock", "uv pip", 1),
    ],
)
def test_installation_is_by_pip_where_uv_cannot(script, monkeypatch, fails, ends, code):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    install, tools = script("install"), []
    monkeypatch.setattr(install, "uv_environment", lambda: {"UV_FIND_LINKS": "wheels"})

    def run(command, *, env, check):
        assert command[:2] == [sys.executable, "-m"] and not check
        tool, what = command[2], {"uv": "uv", str(ROOT): "mtlbook"}.get(command[-1], "lock")
        said = f"{'uv pip' if tool == 'uv' else 'pip'} install {what}"
        assert (env.get("UV_FIND_LINKS") == "wheels") == (tool == "uv")
        if what != "uv":
            tools.append(tool)
        failed = fails == said or (fails == "install lock" and what == "lock")
        return subprocess.CompletedProcess(command, int(failed))

    monkeypatch.setattr(install.subprocess, "run", run)
    assert install.main() == code and " ".join(tools) == ends


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what):
    offenders = []
    for path in repository_files():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:  # a picture or an archive
            continue
        offenders += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
            for number, line in enumerate(lines, start=1)
            if FORBIDDEN[what].search(line)
        ]
    assert offenders == []


@pytest.mark.parametrize(
    ("what", "text", "found"),
    [
        ("a path of one machine", "open('/" + "root/data')", True),
        ("a path of one machine", "at home/work/page and ~/work/page", False),
        ("a host of a package registry", "https://" + "pypi" + ".org/simple", True),
        ("a host of a package registry", "https://arxiv.org/abs/1606.04038", False),
    ],
)
def test_forbidden_patterns(what, text, found):
    assert bool(FORBIDDEN[what].search(text)) is found


def test_readme_names_existing_targets_and_files():
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z.]+):", makefile, re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([a-z]+)", readme, re.MULTILINE)
    assert {"reproduce", "test"} <= set(named) <= set(targets)
    folders = re.findall(r"^\| `([\w/]+/)` \|", readme, re.MULTILINE)
    assert len(folders) >= 5
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


@pytest.mark.posix("make")
def test_what_make_starts_does_not_hear_of_settings_that_harm_it(tmp_path):
    """Pictures would be missing, kernels be others, and every process compile what it imports."""
    harm = "JUPYTER_PATH MPLBACKEND PYTHONSTARTUP PYTHONDONTWRITEBYTECODE".split()
    shown = tmp_path / "shown.mk"
    shown.write_text(f"include {ROOT / 'Makefile'}\nshown:\n\t@env\n")
    done = subprocess.run(
        ["make", "--no-print-directory", "-f", str(shown), "shown"],
        cwd=tmp_path,
        env=os.environ | dict.fromkeys([*harm, "MTLBOOK_DATA"], "1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names & {*harm, "MTLBOOK_DATA", "JUPYTER_PREFER_ENV_PATH"} == {
        "MTLBOOK_DATA",
        "JUPYTER_PREFER_ENV_PATH",
    }


def test_core_needs_torch_and_numpy_only():
    extras = ["book", "reproduce", "test"]
    names = {requirement.name for requirement in requirements(extras)} - {"torch", "numpy"}
    modules = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
    blocked = sorted(modules.get(name, name.replace("-", "_")) for name in names)
    program = f"""
import importlib, pkgutil, sys
for name in {blocked}:
    sys.modules[name] = None  # importing it raises ImportError
import mtlbook
needs_extras = ("mtlbook.ledger", "mtlbook.narrow", "mtlbook.plots", "mtlbook.workflow")
found = [m.name for m in pkgutil.walk_packages(mtlbook.__path__, "mtlbook.", onerror=print)]
for name in found:
    if not name.startswith(needs_extras):
        importlib.import_module(name)
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 5


def test_there_are_notebooks():
    experiments = yaml.safe_load((ROOT / "notebooks" / "experiments.yaml").read_text())
    named = {experiment["notebook"] for experiment in experiments["experiments"].values()}
    assert named <= {notebook.name for notebook in NOTEBOOKS}
    assert named


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_has_been_run(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code" and "".join(c["source"])]
    tags = [tag for cell in cells for tag in cell["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run it from top to bottom, then save"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs, "no cell shows anything"
    assert [output for output in outputs if output["output_type"] == "error"] == []


def test_readme_shows_the_committed_verdicts(root):
    """Between the marks stands what `mtlbook audit --write` writes, to the letter."""
    from mtlbook.ledger import report
    from mtlbook.ledger.audit import audit, load_results

    rows = audit(root / "data" / "claims", load_results(root / "data" / "results"))
    text = (root / "README.md").read_text()
    assert report.readme(rows, text) == text


def test_no_docstring_holds_a_control_character():
    """A tab once stood in a formula, for the letter t that followed a backslash."""
    found = []
    for path in sorted((ROOT / "mtlbook").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                found += [path.name for c in text if ord(c) < 32 and c != "\n"]
    assert found == []


def test_no_file_of_the_package_is_long():
    lengths = {p: len(p.read_text().splitlines()) for p in (ROOT / "mtlbook").rglob("*.py")}
    assert {p.name: n for p, n in lengths.items() if n > 400} == {}
