"""The command line: what it prints, what it refuses, and its exit codes."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mtlbook import __version__, cli, datasets, documents, workflow
from mtlbook.ledger.merging import merge
from mtlbook.ledger.provenance import notebook_sha256
from mtlbook.ledger.results import Result
from mtlbook.workflow import catalogue, read_runs

ROOT = Path(__file__).resolve().parents[1]

CLAIM = {
    "id": "toy.b-over-a",
    "where": "Table 1",
    "statement": "b beats a",
    "known": "printed",
    "printed": "+1.0",
    "experiments": ["tiny"],
    "rule": {"kind": "difference", "arm": "b", "reference": "a", "metric": "m"},
}

NOTEBOOK = """\
from mtlbook.ledger.results import Result
data = {"name": "toy", "tier": "embedded", "stand_in_for": None}
outcome = Result("tiny", {"gain": gain}, data=data, numerics={"mrn": 1})
for repeat in range(5):
    outcome.add(arm="a", metric="m", value=repeat, repeat=repeat)
    outcome.add(arm="b", metric="m", value=repeat + gain, repeat=repeat)
outcome.save(result)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with one claim and one experiment, as working folder."""
    for folder in ("notebooks", "data/claims/printed", "data/results"):
        (tmp_path / folder).mkdir(parents=True)
    content = {"paper": "toy", "title": "Toy paper", "source": "none", "claims": [CLAIM]}
    (tmp_path / "data/claims/toy.yaml").write_text(yaml.safe_dump(content))
    cells = [
        {
            "cell_type": "code",
            "id": f"cell{number}",
            "metadata": {"tags": tags},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for number, (source, tags) in enumerate(
            [('gain = 0.0\nresult = ""\n', ["parameters"]), (NOTEBOOK, [])]
        )
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}}
    notebook |= {"nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebooks/tiny.ipynb").write_text(json.dumps(notebook))
    tiny = {"paper": "toy", "title": "Tiny", "notebook": "tiny.ipynb"}
    tiny["profiles"] = {"laptop": {"parameters": {"gain": 1.5}}}
    experiments = {"experiments": {"tiny": tiny}}
    (tmp_path / "notebooks/experiments.yaml").write_text(yaml.safe_dump(experiments))
    monkeypatch.setenv("MTLBOOK_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path, gain, experiment="tiny"):
    result = Result(
        experiment,
        {"gain": 1.5},
        data={"name": "toy", "tier": "embedded", "stand_in_for": None, "sha256": "0"},
        numerics={"mrn": 1},
        provenance={"profile": "laptop", "runs": [{"of": {"all": {}}}]},
    )
    for repeat in range(5):
        result.add(arm="a", metric="m", value=repeat, repeat=repeat)
        result.add(arm="b", metric="m", value=repeat + gain, repeat=repeat)
    result.save(path)


# Help


def test_help_documents_exit_codes():
    command = [sys.executable, "-m", "mtlbook.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    for word in ("list", "data", "reproduce", "record", "audit", "rerun", "exit codes", "130"):
        assert word in done.stdout


def test_light_imports():
    code = "import sys, mtlbook.cli; print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    for heavy in ("torch", "numpy", "pydantic", "papermill"):
        assert f"'{heavy}'" not in out.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"mtlbook {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["reproduce", "--cores", "0"],
        ["reproduce", "--profile", "desktop"],
        ["audit", "--format", "pdf"],
        ["audit", "--", "--jobs", "8"],
        ["record"],
    ],
)
def test_mistakes_in_the_request_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: mtlbook" in capsys.readouterr().err


def test_an_interrupt_exits_130_without_a_traceback(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.commands, "list_all", interrupted)
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err == "\nmtlbook: interrupted\n"


def test_without_a_repository(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTLBOOK_ROOT", str(tmp_path))
    assert cli.main(["audit"]) == 2
    assert "no notebooks/experiments.yaml in" in capsys.readouterr().err


def test_the_root_is_found_from_a_folder_below(project, monkeypatch, capsys):
    monkeypatch.delenv("MTLBOOK_ROOT")
    monkeypatch.chdir(project / "data" / "claims")
    assert cli.main(["audit", "--write"]) == 0
    assert (project / "data" / "verdicts.json").exists()


def test_a_missing_package_names_the_extra(project, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pydantic", None)
    for name in [n for n in sys.modules if n.startswith("mtlbook.ledger")]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.main(["audit"]) == 2
    assert "pip install 'mtlbook[reproduce]'" in capsys.readouterr().err


# list, data


def test_list(project, capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "1 claims  Toy paper" in out
    assert "TNRDMTL" in out
    assert "tiny: Tiny" in out and "laptop    1 runs" in out


def test_list_reads_the_experiments_once_a_profile(monkeypatch, capsys):
    reads = []
    monkeypatch.setattr(
        catalogue, "read_yaml", lambda path: reads.append(path) or documents.read_yaml(path)
    )
    assert cli.main(["list"]) == 0
    assert len(reads) == 1 + len(catalogue.PROFILES)


def test_which_runs_there_are_is_known_without_torch(project):
    """A run's driver, Snakemake and worker ask; only the kernel needs what is slow to import."""
    code = """
import sys
from mtlbook import workflow

workflow.expand("notebooks/experiments.yaml", "laptop")
assert "torch" not in sys.modules
"""
    path = project / "notebooks/experiments.yaml"
    content = yaml.safe_load(path.read_text())
    content["experiments"]["tiny"]["data"] = ["glyphs", "omniglot_28"]
    path.write_text(yaml.safe_dump(content))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_data_list_and_fetch(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    assert cli.main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in datasets.names())
    assert cli.main(["data", "fetch"]) == 2
    assert cli.main(["data", "fetch", "no-such-set"]) == 2
    assert "no-such-set" in capsys.readouterr().err


def test_data_fetch_exits_1_when_it_fails(monkeypatch, capsys):
    error = datasets.DataError(Path("x.npz"), "missing", "a", "b", "try again")

    def fail(name):
        raise error

    monkeypatch.setattr(datasets, "fetch", fail)
    assert cli.main(["data", "fetch", "omniglot_28"]) == 1
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ok", "names", "code"),
    [(True, [], 0), (None, [], 0), (None, ["x"], 1), (False, [], 1), (False, ["x"], 1)],
)
def test_data_verify(monkeypatch, capsys, ok, names, code):
    row = {"name": "x", "state": "s", "ok": ok, "why": "because"}
    monkeypatch.setattr(datasets, "verify", lambda which: [row])
    assert cli.main(["data", "verify", *names]) == code
    assert "because" in capsys.readouterr().out


# audit


def test_audit_follows_the_committed_verdicts(project, capsys):
    save(project / "data/results/tiny.json", gain=1.2)
    assert cli.main(["audit"]) == 2, "no committed verdicts yet"
    assert cli.main(["audit", "--write"]) == 0
    capsys.readouterr()
    assert cli.main(["audit", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["verdict"] == "refuted at the printed size", "[1.2, 1.2] is not the printed +1.0"
    assert row["stale"] == []

    save(project / "data/results/tiny.json", gain=-1.0)
    assert cli.main(["audit"]) == 1
    err = capsys.readouterr().err
    assert "toy.b-over-a: committed verdict 'refuted at the printed size', now 'opposite'" in err


def test_audit_of_another_folder_compares_nothing(project, capsys):
    save(project / "elsewhere.d/tiny.json", gain=1.0)
    assert cli.main(["audit", "--results", "elsewhere.d"]) == 0
    assert "1 claims of the papers: 1 direction" in capsys.readouterr().out
    assert cli.main(["audit", "--results", "elsewhere.d", "--write"]) == 2
    assert cli.main(["audit", "--results", "gone"]) == 2
    assert not (project / "data/verdicts.json").exists()


def test_audit_of_a_folder_without_results_is_a_mistake(project, capsys):
    (project / "empty").mkdir()
    assert cli.main(["audit", "--results", "empty"]) == 2
    captured = capsys.readouterr()
    assert "expected results (*.json) in empty, found none" in captured.err
    assert captured.out == ""


@pytest.mark.posix("writing to a closed pipe is another error there")
@pytest.mark.parametrize("form", ["table", "json", "html"])
def test_a_reader_that_goes_away_is_no_error(project, form):
    """As `mtlbook audit | head -1`: the pipe is closed before anything is written."""
    save(project / "data/results/tiny.json", gain=1.2)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mtlbook.cli", "audit", "--results", "data/results"]
    command += ["--format", form]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=project)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141


def shell(project, line):
    """A line of a shell, with ``mtlbook`` for the command."""
    command = f"{shlex.quote(sys.executable)} -m mtlbook.cli"
    line = line.replace("mtlbook", command)
    options = {"capture_output": True, "text": True, "cwd": project, "timeout": 100}
    return subprocess.run(["bash", "-c", line], **options)


CLOSED = {
    "output": ("mtlbook audit >&-", ""),
    "errors": ("mtlbook audit 2>&-", "1 not attempted"),
    "all": ("mtlbook audit --write <&- >&- 2>&-; echo $? $(head -c 1 data/verdicts.json)", "0 ["),
}


@pytest.mark.skipif(not shutil.which("bash"), reason="closes streams with bash")
@pytest.mark.parametrize("line, expected", CLOSED.values(), ids=CLOSED)
def test_closed_streams_are_no_error(project, line, expected):
    cli.main(["audit", "--write"])
    done = shell(project, line)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout


@pytest.mark.skipif(not shutil.which("bash"), reason="sets the variable with bash")
@pytest.mark.parametrize("form", ["table", "json", "html"])
def test_what_a_terminal_has_no_letter_for_is_spelt_out(project, form):
    path = project / "data/claims/toy.yaml"
    path.write_text(path.read_text().replace("b beats a", "b \u2265 a \u00b1 \u00e9"), "utf-8")
    cli.main(["audit", "--write"])
    done = shell(project, f"PYTHONIOENCODING=ascii mtlbook audit --format {form}")
    assert (done.returncode, done.stderr) == (0, "")
    if form == "json":
        assert "b \u2265 a" in json.loads(done.stdout)[0]["statement"]


AT = """
import atexit, os, signal, sys

moment, name, hangup = sys.argv[1:4]
del sys.argv[1:4]

class At:
    def find_spec(self, module, path=None, target=None):
        if module == moment:
            os.kill(os.getpid(), signal.Signals[name])

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.Handlers[hangup])
sys.meta_path.insert(0, At())
if moment == "the end":
    atexit.register(os.kill, os.getpid(), signal.Signals[name])
from mtlbook.cli import main
sys.exit(main())
"""


@pytest.mark.posix("signals")
@pytest.mark.parametrize(
    ("moment", "name", "hangup", "code"),
    [
        ("argparse", "SIGINT", "SIG_DFL", 130),
        ("mtlbook.cli.commands", "SIGINT", "SIG_DFL", 130),
        ("mtlbook.exercises", "SIGTERM", "SIG_DFL", 130),
        ("mtlbook.exercises", "SIGHUP", "SIG_DFL", 130),
        ("mtlbook.exercises", "SIGHUP", "SIG_IGN", 0),  # as under nohup
        ("the end", "SIGINT", "SIG_DFL", -2),
    ],
)
def test_a_command_may_be_ended_at_any_moment(moment, name, hangup, code):
    """While modules are imported, one after the other, and while Python ends."""
    command = [sys.executable, "-c", AT, moment, name, hangup, "check", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stderr == ("\nmtlbook: interrupted\n" if code == 130 else "")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[]", b'{"cells": 3}', b"\xef\xbb\xbf{}"])
@pytest.mark.parametrize("name", ["claims/toy.yaml", "experiments.yaml", "tiny.ipynb"])
def test_a_file_that_is_none_is_named(project, capsys, name, content):
    (path,) = project.rglob(name)
    path.write_bytes(content)
    assert cli.main(["list"]) == 2
    captured = capsys.readouterr()
    assert path.name in captured.err and "Traceback" not in captured.err


def test_accepting_goes_with_writing_and_a_reason(project, capsys):
    for arguments in (["--accept", "so"], ["--write", "--accept", " "]):
        assert cli.main(["audit", *arguments]) == 2
        assert "--accept: expected a reason, together with --write" in capsys.readouterr().err
    assert cli.main(["audit", "--strict", "--results", "data/results"]) == 2


def test_audit_of_broken_files(project, capsys):
    (project / "data/results/tiny.json").write_text('{"schema": 1,')
    assert cli.main(["audit"]) == 2
    assert "tiny.json: truncated or not JSON" in capsys.readouterr().err
    (project / "data/claims/toy.yaml").write_text("paper: [")
    (project / "data/results/tiny.json").unlink()
    assert cli.main(["audit"]) == 2
    assert "toy.yaml: not YAML" in capsys.readouterr().err


def test_audit_writes_the_ledger_page(project, capsys):
    save(project / "data/results/tiny.json", 1.5)
    cli.main(["audit", "--write"])
    capsys.readouterr()
    assert cli.main(["audit", "--format", "html", "-o", "ledger.html"]) == 0
    assert capsys.readouterr().out == ""
    page = (project / "ledger.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and 'id="toy.b-over-a"' in page
    assert cli.main(["audit", "--format", "html"]) == 0
    assert capsys.readouterr().out == page


# record


def finish(project, experiment="tiny", **uses):
    """As `execute_run` leaves a run of the laptop profile."""
    (run,) = workflow.expand(project / "notebooks/experiments.yaml", "laptop", [experiment])
    of_run = {"parameters": run.parameters, "data": run.data}
    of_run["notebook_sha256"] = notebook_sha256(run.notebook)
    result = Result(
        experiment,
        run.parameters,
        numerics={"mrn": 1},
        uses={name: used.content_sha256() for name, used in uses.items()},
        provenance={"run": of_run},
    )
    for repeat in range(5):
        for arm in "ab":
            result.add(arm=arm, metric="m", value=repeat, repeat=repeat)
    result.save(run.result)


def test_record_refuses_runs_of_another_notebook(project, capsys):
    finish(project)
    notebook = project / "notebooks/tiny.ipynb"
    notebook.write_text(notebook.read_text().replace("range(5)", "range(6)"))
    assert cli.main(["record", "--from", "runs/laptop"]) == 2
    assert "tiny: parameters, notebook, data or tuning changed since all" in capsys.readouterr().err
    assert not list((project / "data/results").glob("*.json"))


def test_a_tuning_is_recorded_before_the_table_that_uses_it(project, capsys):
    path = project / "notebooks/experiments.yaml"
    tiny = yaml.safe_load(path.read_text())["experiments"]["tiny"]
    notebook = project / "notebooks/tiny.ipynb"
    source = notebook.read_text()
    notebook.write_text(source.replace("gain = 0.0", "tuned_by = ''\\ngain = 0.0"))
    table = tiny | {"profiles": {"laptop": {"parameters": {"gain": 1.5, "tuned_by": "tiny-step"}}}}
    path.write_text(yaml.safe_dump({"experiments": {"tiny": table, "tiny-step": tiny}}))
    finish(project, "tiny-step")
    runs = read_runs(project / "runs/laptop/tiny-step")
    uses = {"tiny-step": merge(runs, profile="laptop")}
    uses["tiny-step"].save(project / "runs/laptop/tiny-step.json")
    committed = uses["tiny-step"]
    committed = Result(**{**vars(committed), "settings": {"chosen": "of an earlier search"}})
    committed.save(project / "data/results/tiny-step.json")
    finish(project, "tiny", **uses)
    assert cli.main(["record", "--from", "runs/laptop", "--force"]) == 0, capsys.readouterr().err
    assert cli.main(["audit", "--write"]) == 0


def test_record_merges_runs(project, capsys):
    finish(project)
    assert cli.main(["record", "--from", "runs/laptop"]) == 0
    assert "tiny: 1 runs, 10 records -> data/results/tiny.json" in capsys.readouterr().out
    recorded = Result.load(project / "data/results/tiny.json")
    assert recorded.provenance["profile"] == "laptop"
    assert recorded.provenance["runs"][0]["of"]["all"]["parameters"] == {"gain": 1.5}
    assert cli.main(["record", "--from", "runs/laptop", "--only", "huge"]) == 2


def test_record_without_runs_says_so(project, capsys):
    assert cli.main(["record", "--from", "runs/laptop"]) == 2
    assert "no finished runs of any experiment" in capsys.readouterr().err


@pytest.mark.posix("links need a privilege")
def test_record_refuses_strangers_and_places_outside(project, capsys):
    save(project / "runs/laptop/tiny/all.json", gain=1.0)
    save(project / "elsewhere/laptop/tiny/all.json", gain=1.0)
    assert cli.main(["record", "--from", "elsewhere/laptop"]) == 2
    assert "--from: expected a folder of" in capsys.readouterr().err
    save(project / "runs/laptop/tiny/arm=b.json", gain=1.0)
    assert cli.main(["record", "--from", "runs/laptop"]) == 2
    assert "not listed: arm=b" in capsys.readouterr().err
    (project / "runs/laptop/tiny/arm=b.json").unlink()
    (project / "runs/laptop/tiny/all.json").unlink()
    (project / "runs/laptop/tiny/all.json").symlink_to(project / "elsewhere/laptop/tiny/all.json")
    assert cli.main(["record", "--from", "runs/laptop"]) == 2
    assert "got a link to another" in capsys.readouterr().err
    assert not list((project / "data/results").glob("*.json"))


# reproduce, rerun


def test_dry_run_lists_and_runs_nothing(project, capsys):
    arguments = ["reproduce", "--dry-run", "--verbose", "--cores", "2", "--", "--executor", "slurm"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "to run    tiny all" in out
    assert out.rstrip().endswith("--executor slurm")
    assert not (project / "runs").exists()


def test_reproduce_refuses_unknown_experiments(project, capsys):
    assert cli.main(["reproduce", "--only", "tiny", "huge"]) == 2
    assert "unknown experiment huge; known: tiny" in capsys.readouterr().err


def test_reproduce_skips_what_has_no_data(project, capsys, monkeypatch):
    monkeypatch.setattr(datasets, "names", lambda: ["far"])
    monkeypatch.setattr(datasets, "available", lambda name: False)
    monkeypatch.setattr(datasets, "how_to_get", lambda name: f"mtlbook data fetch {name}")
    path = project / "notebooks/experiments.yaml"
    path.write_text(path.read_text().replace("    notebook:", "    data: far\n    notebook:"))
    assert cli.main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert "skipped: tiny (1 runs); get far with: mtlbook data fetch far" in out
    assert "far (1 experiment, 1 runs): mtlbook data fetch far" in out
    assert "0 of 0 runs" in out


@pytest.mark.posix("Snakemake runs commands in a POSIX shell")
def test_reproduce_and_rerun_print_three_values_side_by_side(project):
    save(project / "data/results/tiny.json", gain=1.2)

    def call(*arguments):
        command = [sys.executable, "-m", "mtlbook.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = call("reproduce", "--verbose")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("b-over-a"))
    assert line.split()[1:5] == ["+1.0", "+1.2", "+1.5", "[+1.5,"]

    assert call("rerun", "toy.gone").returncode == 2
    done = call("rerun", "toy.b-over-a", "--profile", "smoke")
    assert done.returncode == 2 and "tiny has no profile smoke" in done.stderr
    done = call("rerun", "toy.b-over-a")
    assert done.returncode == 0, done.stderr
    assert "1 runs of tiny" in done.stdout and "[1/1] tiny all" in done.stdout
    assert (project / "runs/laptop/tiny/all.json.stale").exists()


def test_a_random_run_is_repeated_and_every_number_compared(project, capsys):
    save(project / "data/results/tiny.json", gain=1.5)
    assert cli.main(["rerun", "--random", "--seed", "3"]) == 0
    assert "same     tiny all: 10 numbers, largest" in capsys.readouterr().out
    save(project / "data/results/tiny.json", gain=1.2)
    assert cli.main(["rerun", "--random"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("differs  tiny all: 10 numbers")
    assert "b m, repeat 0: committed 1.2, measured again 1.5" in told.err
    assert cli.main(["rerun", "--random", "--only", "huge"]) == 2
    assert cli.main(["rerun"]) == 2 and cli.main(["rerun", "toy.b-over-a", "--random"]) == 2


def test_a_rerun_may_be_cut_short_and_is_reported(project, capsys, monkeypatch):
    """One of a run's repeats, on data that was made here: both are said, and written down."""
    path = project / "notebooks/tiny.ipynb"
    source = path.read_text(encoding="utf-8").replace("range(5)", "range(repeats)")
    path.write_text(source.replace("gain = 0.0", "repeats = 5\\ngain = 0.0"), encoding="utf-8")
    monkeypatch.setattr(datasets, "names", lambda: ["far"])
    monkeypatch.setattr(datasets, "available", lambda name: True)
    monkeypatch.setattr(datasets, "identity", lambda name: "made here")
    monkeypatch.setattr(datasets, "info", lambda name: {"sha256": "ours"})
    monkeypatch.setattr(datasets, "distance", lambda name: 2.5e-5)
    catalogue._missing_data.cache_clear()
    path = project / "notebooks/experiments.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["experiments"]["tiny"]["data"] = "far"
    for profile in content["experiments"]["tiny"]["profiles"].values():
        profile.setdefault("parameters", {})["repeats"] = 5
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    save(project / "data/results/tiny.json", gain=1.5)
    command = ["rerun", "--random", "--repeats", "2", "--report", "found.json"]
    assert cli.main(command) == 0
    assert "tiny all: 4 numbers" in (told := capsys.readouterr().out)
    assert "; far made here, 2.5e-05 from ours" in told
    (row,) = json.loads((project / "found.json").read_text(encoding="utf-8"))
    assert (row["name"], row["compared"], row["repeats"]) == ("tiny all", 4, 2)
    assert row["rederived"] == {"far": 2.5e-5}
    assert cli.main([*command, "--where", "arm=b"]) == 1  # nothing could be compared
    assert "skipped  tiny: none of its runs has arm=b" in capsys.readouterr().out
    assert cli.main(["rerun", "toy.b-over-a", "--repeats", "2"]) == 2
    assert "go with --random" in capsys.readouterr().err
    catalogue._missing_data.cache_clear()
