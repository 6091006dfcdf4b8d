"""What holds elsewhere: under other systems and encodings, and for a wheel outside a checkout."""

import ast
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mtlbook.experiments.mrn_linear import GROUPS
from mtlbook.ledger.results import Result

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = sorted(
    path
    for folder in ("mtlbook", "scripts", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}


def named(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def text_without_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding of the system."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or None in given:
        return False
    if named(call) in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute)  # a function of that name is our own
    if getattr(given.get("text"), "value", False) is True:  # of a process
        return True
    if named(call) != "open":
        return False
    # open(path, mode) and path.open(mode); what opens an archive or a picture names no mode
    modes = call.args[1:2] if isinstance(call.func, ast.Name) else call.args[:1]
    modes += [given["mode"]] if "mode" in given else []
    if not modes:
        return isinstance(call.func, ast.Name) or not call.args
    mode = getattr(modes[0], "value", None)
    return isinstance(mode, str) and "b" not in mode


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_has_one_encoding_on_every_system(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if text_without_encoding(call)] == []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_of_posix_are_imported_where_they_may_be_missing(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(node)
        for attempt in ast.walk(tree)
        if isinstance(attempt, ast.Try)
        for node in ast.walk(attempt)
    }
    found = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in guarded
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name in POSIX
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("open('a')", True),
        ("open('a', 'rb')", False),
        ("path.open()", True),
        ("path.open('w', newline='')", True),
        ("path.open('wb')", False),
        ("open('a', encoding='utf-8')", False),
        ("archive.open(member)", False),
        ("path.read_text()", True),
        ("run(command, text=True)", True),
        ("run(command, text=True, encoding='utf-8')", False),
    ],
)
def test_the_test_of_encodings(code, found):
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert text_without_encoding(call) is found


OF_POSIX = re.compile(r"\.chmod\(|symlink_to\(|SIG[A-Z]+\b|os\.kill|os\.fork|/proc")


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda p: p.stem)
def test_tests_that_cannot_run_on_windows_say_so(path):
    text = path.read_text(encoding="utf-8")
    if "\npytestmark = pytest.mark.posix(" in text or path.stem == "test_elsewhere":
        return
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            if OF_POSIX.search(ast.get_source_segment(text, node)):
                assert any("mark.posix" in ast.unparse(d) for d in node.decorator_list), node.name


def collected(mark=None, file="test_any.py"):
    item = SimpleNamespace(added=[], get_closest_marker=lambda name: mark, path=Path(file))
    item.add_marker = item.added.append
    return item


def test_files_that_take_long_begin_first():
    import conftest

    names = [f"test_{name}.py" for name in conftest.LONGEST]
    assert [name for name in names if not (ROOT / "tests" / name).is_file()] == []
    items = [collected(file=file) for file in ("test_any.py", names[-1], "statistics.py", names[0])]
    conftest.pytest_collection_modifyitems(items)
    found = [item.path.name for item in items]
    assert found == [names[0], names[-1], "test_any.py", "statistics.py"]


def test_marked_tests_are_skipped_on_windows(monkeypatch):
    import conftest

    items = [collected(pytest.mark.posix("no signals").mark), collected(None)]
    conftest.pytest_collection_modifyitems(items)
    assert not items[0].added or sys.platform == "win32"
    monkeypatch.setattr(sys, "platform", "win32")
    conftest.pytest_collection_modifyitems(items)
    assert "no signals" in str(items[0].added[-1]) and not items[1].added


def test_actions_try_three_versions_of_python_on_three_systems():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["systems"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"] == ["3.11", "3.12", "3.13"]


def test_containers_and_conda_install_what_is_tested():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"] == "make .venv"
    assert container["image"].endswith("python:3.11")
    assert (ROOT / ".binder/runtime.txt").read_text(encoding="utf-8").strip() == "python-3.11"
    named = (ROOT / ".binder/requirements.txt").read_text(encoding="utf-8").split()
    assert named == ["-r", "../requirements.lock"]
    if sys.platform != "win32":
        assert os.access(ROOT / ".binder/postBuild", os.X_OK)
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, of_pip = conda["dependencies"]
    assert (pip, of_pip) == ("pip", {"pip": ["-r requirements.lock", "-e ."]})
    assert Requirement(python).specifier == SpecifierSet(">=3.11,<3.14")  # those that Actions try


def test_files_of_a_checkout_have_the_same_bytes_everywhere():
    """What is hashed byte by byte must not get other line ends where git would give it some."""
    rules = (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    assert "* -text" in rules


def test_written_files_have_the_same_bytes_everywhere(tmp_path, monkeypatch):
    from mtlbook.ledger import files

    def of_windows(handle, mode, newline=None, *, fdopen=os.fdopen, **options):
        return fdopen(handle, mode, newline="\r\n" if newline is None else newline, **options)

    monkeypatch.setattr(files.os, "fdopen", of_windows)
    files.write_atomically(tmp_path / "a.json", "α\nβ\n")
    assert (tmp_path / "a.json").read_bytes() == "α\nβ\n".encode()


def test_a_full_disk_is_said_with_the_file(tmp_path, monkeypatch):
    from mtlbook.ledger import files

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        files.write_atomically(tmp_path / "a.json", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["audit"], ["audit", "--format", "json"], ["data", "list"]])
def test_a_terminal_that_lacks_letters_stops_no_command(arguments):
    command = [sys.executable, "-m", "mtlbook.cli", *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "MTLBOOK_ROOT": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert b"codec" not in done.stderr
    assert done.stdout.isascii() and done.returncode != 2
    if "json" in arguments:
        assert any("±" in str(row) for row in yaml.safe_load(done.stdout.decode()))


# ---------------------------------------------------------------- data that was made again


def test_readme_says_how_far_numbers_on_features_made_again_are(script):
    rows = json.loads((ROOT / "data/rederived.json").read_text(encoding="utf-8"))
    first, again = sorted(rows, key=lambda row: row["distance"])
    kinds = [of for kinds in first["percent"].values() for of in kinds.values()]
    assert first["distance"] == 0 and all(of["equal"] == of["numbers"] for of in kinds)
    accuracies = [of["accuracy_percent"] for of in again["percent"].values()]
    largest = max(accuracies, key=lambda of: of["largest"])
    relation = max(
        (of["correlation"] for of in again["percent"].values()), key=lambda r: r["largest"]
    )
    numbers, equal = (sum(of[name] for of in accuracies) for name in ("numbers", "equal"))
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for said in (
        f"fingerprints are at most {again['distance']:.1e} from",
        f"Of {numbers} accuracies {equal} are the committed ones",
        f"largest difference is {largest['largest']:.2f} points (`{largest['arm']}` at 5 %)",
        f"{script('rederived').TOLERANCE} is the tolerance",
        f"at 20 % a correlation moved by {relation['largest']:.2f}",
        f"all {sum(of['numbers'] for of in kinds)} numbers at 5 % are the committed ones",
    ):
        assert said in readme, said
    (tuned,) = json.loads((ROOT / "data/rederived-tuning.json").read_text(encoding="utf-8"))
    assert tuned["name"] == "mrn-linear percent=5,group=baselines" and not tuned["differences"]
    assert tuned["rederived"] == {"office_caltech10_efflite0": again["distance"]}
    assert len(GROUPS["baselines"]) == 7
    said = f"the largest of the differences in {tuned['compared']} numbers is "
    assert f"{said}{100 * tuned['largest']:.2f} % of the committed one" in readme
    assert relation is again["percent"]["20"]["correlation"] and largest is accuracies[0]
    assert largest["largest"] <= script("rederived").TOLERANCE


def test_differences_are_counted_by_kind(script):
    rederived = script("rederived")
    committed, fresh = (Result("mrn-linear", {}, data={}) for _ in range(2))
    for result, moved in ((committed, 0.0), (fresh, 0.25)):
        result.add(arm="mrn", metric="accuracy_percent/5", value=90.0 + moved, repeat=0)
        result.add(arm="stl", metric="accuracy_percent/5", value=80.0, repeat=0)
        result.add(arm="stl", metric="steps", value=moved, repeat=0)
    found = rederived.differences(committed, fresh)
    expected = {"numbers": 2, "equal": 1, "largest": 0.25, "arm": "mrn"}
    assert found == {"accuracy_percent": expected}


# ---------------------------------------------------------------- a wheel, outside a checkout

HELPERS = ("made_up_data.py", "made_up_sources.py", "loopback.py")
FETCH = """
import os
from mtlbook import cli, datasets
from mtlbook.datasets import registry
from tests import loopback, made_up_sources

served, known, _ = made_up_sources.everything()
registry.entries()["school"] = known["school"]
with loopback.running() as server:
    for url, content in served.items():
        server.put(url, content)
    os.environ["MTLBOOK_MIRROR"] = server.address
    assert cli.main(["data", "fetch", "school"]) == 0
    assert cli.main(["data", "verify", "school"]) == 0
for name in ("school", "digits"):
    loaded = datasets.load(name)
    print("loaded", name, loaded.samples)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of these files, as ``pip wheel`` builds it."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """``run(*arguments)`` with the wheel in place of these files, where no checkout is."""
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("here")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, timeout=60)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MTLBOOK")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(site), str(here)]),
        "MTLBOOK_DATA": str(here / "cache"),
    }

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=here,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )

    found = run("-c", "import mtlbook; print(mtlbook.__file__)")
    assert Path(found.stdout.strip()).is_relative_to(site), found.stderr
    (script,) = (site / "bin").glob("mtlbook*")
    return SimpleNamespace(run=run, site=site, here=here, script=script)


def test_wheel_holds_the_package_and_the_lists_of_data_sets(wheel):
    with zipfile.ZipFile(wheel) as packed:
        inside = {name: packed.read(name) for name in packed.namelist()}
    for path in sorted((ROOT / "mtlbook").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            assert inside[path.relative_to(ROOT).as_posix()] == path.read_bytes()
    lists = [ROOT / "data" / name for name in ("datasets.yaml", "fingerprints.json")]
    for path in [*lists, *(ROOT / "data" / "manifests").iterdir()]:
        name = path.relative_to(ROOT / "data").as_posix()
        assert inside[f"mtlbook/_data/{name}"] == path.read_bytes()


def test_installed_lists_fetches_and_loads_data(installed):
    listed = installed.run(str(installed.script), "data", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "get it: mtlbook data fetch school" in listed.stdout
    (installed.here / "tests").mkdir()
    for name in HELPERS:
        shutil.copy(ROOT / "tests" / name, installed.here / "tests")
    fetched = installed.run("-c", FETCH)
    assert fetched.returncode == 0, fetched.stderr
    assert "loaded school 12" in fetched.stdout and "loaded digits 1797" in fetched.stdout


def test_installed_trains_every_method(installed):
    """The tests of the protocol, on the wheel's files."""
    folder = installed.here / "protocol"
    folder.mkdir()
    for path in (ROOT / "tests").glob("*.py"):  # it, and what tests share
        if path.name == "test_protocol.py" or not path.name.startswith("test_"):
            shutil.copy(path, folder)
    done = installed.run("-m", "pytest", "-q", "-k", "trains_to_finite", str(folder))
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and int(passed[1]) > 20, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "reproduce",
        "audit",
        "audit --strict",
        "rerun --random",
        "record --from runs",
        "new-paper x1",
    ],
)
def test_installed_says_how_to_get_the_checkout(installed, command):
    done = installed.run("-m", "mtlbook.cli", *command.split())
    assert done.returncode == 2 and done.stdout == ""
    assert "git clone ADDRESS mtlbook" in done.stderr and "MTLBOOK_ROOT" in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_installed_lists_its_methods(installed):
    done = installed.run("-m", "mtlbook.cli", "list")
    assert "TNRDMTL" in done.stdout and "git clone" in done.stderr


# ---------------------------------------------------------------- other kernels, other rounding


def made_by(instructions, moved=0.0):
    """A result of two arms in five repeats, with some accuracies moved."""
    result = Result("mtal-embedded", {}, data={"tier": "embedded"})
    result.provenance = {"runs": [{"platform": {"instructions": instructions}}]}
    for repeat in range(5):
        away = moved if repeat == 3 else 0.0
        result.add(arm="stl", metric="accuracy_percent", value=80.0 + repeat, repeat=repeat)
        result.add(arm="mtal", metric="accuracy_percent", value=81 + repeat + away, repeat=repeat)
        result.add(arm="mtal@1", metric="accuracy_percent", value=away, repeat=repeat)  # a trial
        result.add(arm="stl", metric="train_cross_entropy", value=away, repeat=repeat)
    return result


def test_what_rounding_moves_is_told_in_points_of_accuracy(script):
    compare = script("rounding").compare
    found = compare(made_by("AVX2"), made_by("DEFAULT", moved=2.0), ROOT / "data/claims")
    assert found["instructions"] == ["AVX2", "DEFAULT"]
    assert (found["numbers"], found["equal"]) == (10, 9)
    assert (found["largest"], found["whose"]) == (2.0, "mtal repeat 3")
    assert found["moved"] == pytest.approx(2 / 10**0.5)  # one of ten by 2
    assert found["repeats"] == pytest.approx(2.5**0.5)  # 0 to 4 around 2, four degrees of freedom
    assert found["shift"]["mean"] == pytest.approx(0.2)  # of five repeats' means one moved by 1
    assert found["shift"]["low"] < 0 < found["shift"]["high"]
    fewer = made_by("DEFAULT")
    fewer.records = [r for r in fewer.records if r["repeat"] < 4]
    with pytest.raises(ValueError, match=r"mtal: expected the repeats \[0, 1, 2, 3, 4\]"):
        compare(made_by("AVX2"), fewer, ROOT / "data/claims")


def test_verdicts_that_rounding_turns_are_named(script):
    """A gain of 1 in every repeat has a direction; one that swings by 40 has none."""
    compare, claims = script("rounding").compare, ROOT / "data/claims"
    same = compare(made_by("AVX2"), made_by("DEFAULT"), claims)
    assert same["claims"] > 0 and same["other verdicts"] == {}
    other = made_by("DEFAULT")
    for record in other.records:
        record["value"] += 40.0 * (record["arm"] == "mtal") * (-1) ** record["repeat"]
    turned = compare(made_by("AVX2"), other, claims)
    assert turned["claims"] == same["claims"] and turned["other verdicts"]
