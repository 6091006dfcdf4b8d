"""Runs: what the file asks for, what is refused before anything runs, and what survives a kill.

The notebooks here take a second and count how often they were executed. What starts drivers mostly
waits for them, so those tests are run side by side.
"""

import ast
import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from mtlbook import cli, datasets, workflow
from mtlbook.ledger import currency
from mtlbook.ledger.provenance import notebook_sha256
from mtlbook.ledger.results import Result
from mtlbook.workflow import collection, progress, rerun, schedule

pytestmark = pytest.mark.posix("signals, and Snakemake, which runs commands in a POSIX shell")
PACKAGE = Path(workflow.__file__).resolve().parents[2]

PARAMETERS = """\
arm = "a"
repeat = 0
seconds = 0.0
flag = False
layers = ("conv1",)
limit = None
tuned_by = ""
data = "toy"
result = ""
"""

BODY = """\
import time
from pathlib import Path
from mtlbook.ledger.repository import committed
from mtlbook.ledger.results import Result

Path("counts").mkdir(exist_ok=True)
with open(f"counts/{arm}{repeat}", "a") as stream:
    print(time.time(), file=stream)
time.sleep(seconds)
with open(f"counts/{arm}{repeat}", "a") as stream:
    print(time.time(), file=stream)
if arm == "bad":
    raise RuntimeError("the loss is a banana")
if result and arm != "silent":
    Result(
        experiment="tiny" if arm != "foreign" else "other",
        parameters={"arm": arm, "repeat": repeat, "seconds": seconds, "data": data},
        records=[{"arm": arm, "repeat": repeat, "metric": "m", "value": float(repeat)}],
        data={"name": data, "tier": "embedded", "stand_in_for": None, "sha256": "0"},
        numerics={"mrn": 1},
        uses={name: committed(name).content_sha256() for name in [tuned_by] if name},
    ).save(result)
"""


def write_notebook(path, parameters=PARAMETERS, body=BODY):
    def cell(number, source, tags=()):
        return {
            "cell_type": "code",
            "id": f"cell{number}",
            "metadata": {"tags": list(tags)},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }

    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {
        "cells": [cell(0, parameters, ["parameters"]), cell(1, body)],
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with one experiment; ``project.profile(...)`` writes its smoke profile."""
    monkeypatch.setenv("MTLBOOK_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))
    return Project(tmp_path)


SIDE_BY_SIDE = {}


def side_by_side(*cases):
    """Run a test of drivers, or each of its cases, in a thread beside the others like it."""

    def register(test):
        def outcome(started, case):
            started[test.__name__, case].result()

        for case in cases or (None,):
            SIDE_BY_SIDE[test.__name__, case] = test if case is None else with_case(test, case)
        outcome.__name__ = test.__name__
        return pytest.mark.parametrize("case", cases or (None,))(outcome)

    def with_case(test, case):
        return functools.partial(test, case=case)

    return register


@pytest.fixture(scope="session")
def started(request, tmp_path_factory):
    """The chosen ones of these tests, each with a repository in a folder of awkward name."""
    chosen = {getattr(item, "originalname", None) for item in request.session.items}
    with ThreadPoolExecutor(max_workers=4) as pool:

        def start(number, test):
            folder = tmp_path_factory.mktemp(f"drivers{number}") / "a {brace} and spaces"
            folder.mkdir()
            return pool.submit(test, Project(folder))

        yield {
            key: start(number, test)
            for number, (key, test) in enumerate(SIDE_BY_SIDE.items())
            if key[0] in chosen
        }


class Project:
    def __init__(self, root):
        self.root = root
        self.file = root / "notebooks" / "experiments.yaml"
        self.runs = root / "runs" / "smoke" / "tiny"
        self.environment = {}
        (root / "data" / "claims").mkdir(parents=True)
        (root / "data" / "results").mkdir()
        self.file.parent.mkdir()
        write_notebook(root / "notebooks" / "tiny.ipynb")
        self.profile(each={"arm": ["a", "b"]})

    def profile(self, parameters=None, each=None, **entries):
        profile = {"parameters": parameters or {}, "each": each or {}}
        tiny = {"paper": "toy", "title": "Tiny", "notebook": "tiny.ipynb", **entries}
        tiny["profiles"] = {"smoke": profile}
        self.file.write_text(yaml.safe_dump({"experiments": {"tiny": tiny}}), encoding="utf-8")

    def tuned_by(self, named):
        """Two experiments; the second takes its choices from ``named``."""
        self.profile({"tuned_by": named})
        content = yaml.safe_load(self.file.read_text(encoding="utf-8"))
        other = content["experiments"]["tiny"] | {"profiles": {"smoke": {}}}
        content["experiments"] = {"tuning": other} | content["experiments"]
        self.file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def expand(self, only=None):
        return workflow.expand(self.file, "smoke", only)

    def start(self, *arguments, cwd=None, command=("reproduce", "--profile", "smoke")):
        # where the tests run in the background of a script, the shell has switched SIGINT off, and
        # nohup SIGHUP
        call = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        call += "signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        call += "from mtlbook.cli import main; sys.exit(main(sys.argv[1:]))"
        return subprocess.Popen(
            [sys.executable, "-c", call, *command, *arguments],
            cwd=cwd or self.root,
            env={
                **os.environ,
                "MTLBOOK_ROOT": str(self.root),
                "PYTHONPATH": os.pathsep.join([str(self.root), str(PACKAGE)]),
                **self.environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def reproduce(self, *arguments, cwd=None):
        process = self.start(*arguments, cwd=cwd)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def times(self, name):
        path = self.root / "counts" / name
        return [float(line) for line in path.read_text().split()] if path.exists() else []

    def finished(self):
        return sorted(path.stem for path in self.runs.glob("*.json"))

    def wait_for(self, condition, process, seconds=150):
        """Wait until the condition holds, while the process lives."""
        end = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    def workers(self):
        """Processes that work for this repository (their environment names its root)."""
        needle = f"MTLBOOK_ROOT={self.root}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if path.name != str(os.getpid()) and needle in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                pass
        return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds the workers in /proc"
)

# What the file asks for


def test_expand_lists_the_product_in_order(project):
    project.profile({"seconds": 0.5}, {"arm": ["b", "a"], "repeat": [0, 1]})
    runs = project.expand()
    ids = ["arm=b,repeat=0", "arm=b,repeat=1", "arm=a,repeat=0", "arm=a,repeat=1"]
    assert [run.id for run in runs] == ids
    assert runs[1].parameters == {"seconds": 0.5, "arm": "b", "repeat": 1}
    assert runs[1].result == project.runs / "arm=b,repeat=1.json"
    assert all(run.skip is None for run in runs)


def test_ids_name_files(project):
    project.profile(each={"arm": ["adam, step 0.1", "../up"]})
    assert [run.id for run in project.expand()] == ["arm=adam,-step-0.1", "arm=..-up"]
    project.profile(each={"layers": [["conv1"], ["conv1", "fc1"]]})
    assert [run.id for run in project.expand()] == ["layers=conv1", "layers=conv1+fc1"]


def test_expand_without_each_is_one_run(project):
    project.profile({"arm": "b"})
    assert [run.id for run in project.expand(["tiny"])] == ["all"]


def test_where_picks_runs(project):
    project.profile(each={"arm": ["a", "b"], "seconds": [0.1, 0.2]})

    def ids(where):
        return [run.id for run in workflow.expand(project.file, "smoke", where=where)]

    assert ids("arm=b") == ["arm=b,seconds=0.1", "arm=b,seconds=0.2"]
    assert ids("seconds=0.2,arm=a") == ["arm=a,seconds=0.2"]
    with pytest.raises(workflow.WorkflowError, match=r"such as arm=a,seconds=0\.1, got 'arm=c'"):
        ids("arm=c")


# Which begin first


def took(project, name, seconds, **provenance):
    """A committed result whose runs took so long."""
    of = {run: {"wall_seconds": s} for run, s in seconds.items()}
    data = {"name": "toy", "tier": "embedded", "stand_in_for": None}
    result = Result(name, {}, data=data, provenance={"runs": [{"of": of}], **provenance})
    result.save(project.root / "data" / "results" / f"{name}.json")


def test_a_run_is_expected_to_take_what_an_earlier_one_took(project):
    project.profile(each={"arm": ["a", "b", "c"]})

    def expected():
        return list(schedule.expected_seconds(project.root, project.expand()).values())

    assert expected() == [1, 1, 1]  # nothing is known
    took(project, "tiny", {"arm=a": 2, "arm=b": 40})
    assert expected() == [2, 40, 21]
    stale = project.expand()[0].result.with_suffix(".json.stale")
    stale.parent.mkdir(parents=True)
    stale.write_text(json.dumps({"provenance": {"wall_seconds": 7}}))
    assert expected() == [7, 40, 21]
    for seconds, needed in ((6, 6), (90, 7)):  # beside others a run waits; BLAS may turn idly
        content = {"wall_seconds": 7, "cpu_seconds": seconds}
        stale.write_text(json.dumps({"provenance": content}))
        assert expected()[0] == needed
    waits = {"wall_seconds": 7, "cpu_seconds": 2, "device": "cuda"}  # for the device
    stale.write_text(json.dumps({"provenance": waits}))
    assert expected()[0] == 7
    stale.write_text("{")
    assert expected() == [2, 40, 21]


def test_what_takes_longer_is_left_out_until_it_is_asked_for(project, capsys, monkeypatch):
    monkeypatch.chdir(project.root)
    project.tuned_by("tuning")
    took(project, "tuning", {"all": 30})
    took(project, "tiny", {"all": 90})
    request = ["reproduce", "--profile", "smoke", "--dry-run", "--verbose", "--within"]
    for minutes, names in (("1", ["tuning"]), ("2", ["tuning", "tiny"])):
        assert cli.main([*request, minutes]) == 0
        out = capsys.readouterr().out
        assert [f"to run    {name} all" in out for name in ("tuning", "tiny")] == [
            name in names for name in ("tuning", "tiny")
        ]
        left = "more than 1 minutes each on one core: tiny (1 runs, 1.5 min); one of them with"
        assert (left in out) == (minutes == "1")
    assert cli.main([*request, "0.1"]) == 2
    assert "--within: expected minutes" in capsys.readouterr().err
    # what is finished takes no time
    (run,) = project.expand(["tiny"])
    run.result.parent.mkdir(parents=True)
    run.result.write_text("{}")
    kept, long = schedule.within(project.root, project.expand(), 60)
    assert [run.experiment for run in kept] == ["tuning", "tiny"] and long == {}


def test_readme_says_how_long_a_reproduction_takes(tmp_path, monkeypatch):
    """By the committed runs, without real data and with all, as the next result may change it."""
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MTLBOOK_RUNS", str(tmp_path / "runs"))
    root = Path(__file__).resolve().parents[1]
    runs = workflow.expand(root / "notebooks/experiments.yaml", "laptop")
    seconds = schedule.expected_seconds(root, runs)
    here = [run for run in runs if not run.skip]
    kept, _ = schedule.within(root, here, 600)
    few, some, every = (sum(seconds[run.name] for run in of) for of in (kept, here, runs))
    readme = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"what is left takes {few / 60:.0f} minutes of one core where there is no real data, and "
        f"everything {some / 3600:.0f} hours; all experiments on all data take {every / 3600:.0f} "
        "hours of one core."
    ) in readme


def test_a_tuning_goes_before_what_waits_for_it(project):
    project.tuned_by("tuning")
    took(project, "tuning", {"all": 3})
    took(project, "tiny", {"all": 40})
    found = schedule.priorities(project.root, project.expand())
    assert found == {"tuning all": 43, "tiny all": 40}


@side_by_side()
def test_the_longest_run_begins_first(project):
    project.profile(each={"arm": ["a", "b", "c"]})
    took(project, "tiny", {"arm=a": 1, "arm=b": 30, "arm=c": 10})
    code, _, err = project.reproduce("--cores", "1")
    assert code == 0, err
    began = {arm: project.times(f"{arm}0")[0] for arm in "abc"}
    assert sorted(began, key=began.get) == ["b", "c", "a"]


def test_progress_says_cpu_seconds_and_what_is_left(project, capsys):
    project.profile(each={"arm": ["a", "b"]})
    runs = project.expand()
    runs[0].result.parent.mkdir(parents=True)
    runs[0].result.write_text(json.dumps({"provenance": {"cpu_seconds": 12.3}}))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    progress.show_progress(ended, runs, {"tiny arm=a": 1.0, "tiny arm=b": 3.0})
    assert (
        "[1/2] tiny arm=a  (12 CPU s, elapsed 00:00, about 00:00 left)" in capsys.readouterr().out
    )


@side_by_side()
def test_where_reaches_snakemake(project):
    code, out, err = project.reproduce("--where", "arm=b")
    assert code == 0, err
    assert "0 of 1 runs are finished" in out and project.finished() == ["arm=b"]


def test_data_is_passed_and_a_missing_set_is_a_reason_to_skip(project, monkeypatch):
    monkeypatch.setattr(datasets, "names", lambda: ["here", "gone"])
    monkeypatch.setattr(datasets, "available", lambda name: name == "here")
    monkeypatch.setattr(datasets, "identity", lambda name: f"hash of {name}")
    monkeypatch.setattr(datasets, "how_to_get", lambda name: f"mtlbook data fetch {name}")
    project.profile(data="here")
    (run,) = project.expand()
    assert run.parameters == {"data": "here"} and run.skip is None
    assert run.data == {"here": "hash of here"}
    project.profile(data=["here", "gone"])
    assert "set gone is not here" in project.expand()[0].skip
    assert project.expand()[0].parameters == {"data": "here"}
    project.profile(data="gone")
    assert "mtlbook data fetch gone" in project.expand()[0].skip
    project.profile(data="typo")
    with pytest.raises(workflow.WorkflowError, match="unknown data set 'typo'; known: here, gone"):
        project.expand()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lr": 0.1}, "tiny: unknown parameter 'lr'; the notebook has arm, repeat"),
        ({"repeat": "0"}, r"'repeat': expected int \(like 0\), got str \('0'\)"),
        ({"repeat": 0.0}, "'repeat': expected int .* got float"),
        ({"repeat": True}, "'repeat': expected int .* got bool"),
        ({"flag": 1}, "'flag': expected bool .* got int"),
        ({"seconds": "1e-3"}, "'seconds': expected float .* got str"),
        ({"arm": 3}, "'arm': expected str .* got int"),
        ({"layers": "conv1"}, "'layers': expected tuple .* got str"),
    ],
)
def test_wrong_parameters_are_refused(project, parameters, message):
    project.profile(parameters)
    with pytest.raises(workflow.WorkflowError, match=message):
        project.expand()


@pytest.mark.parametrize("parameters", [{"seconds": 1}, {"limit": 3}, {"layers": ["conv1"]}])
def test_int_for_float_anything_for_none_and_a_list_for_a_tuple(project, parameters):
    project.profile(parameters)
    assert project.expand()[0].parameters == parameters


def test_a_wrong_type_among_varied_values_is_refused(project):
    project.profile(each={"repeat": [0, 1, "two"]})
    with pytest.raises(workflow.WorkflowError, match=r"'repeat'.*'two'"):
        project.expand()


def test_mistakes_in_the_file(project):
    project.profile({"arm": "a"}, {"arm": ["a", "b"]})
    with pytest.raises(workflow.WorkflowError, match="both fixed and varied: arm"):
        project.expand()
    project.profile(each={"arm": ["a/b", "a b"]})
    with pytest.raises(workflow.WorkflowError, match="two runs would be named 'arm=a-b'"):
        project.expand()
    project.profile(notebook="gone.ipynb")
    with pytest.raises(workflow.WorkflowError, match=r"no notebook .*gone\.ipynb"):
        project.expand()
    project.profile(colour="red")
    with pytest.raises(workflow.WorkflowError, match=r"tiny\.colour"):
        project.expand()
    project.file.write_text("experiments: [", encoding="utf-8")
    with pytest.raises(workflow.WorkflowError, match="not YAML"):
        project.expand()
    project.file.unlink()
    with pytest.raises(workflow.WorkflowError, match="no experiments"):
        project.expand()


def test_unknown_requests(project):
    with pytest.raises(workflow.WorkflowError, match="unknown experiment huge; known: tiny"):
        project.expand(["huge"])
    with pytest.raises(workflow.WorkflowError, match="tiny has no profile paper; it has smoke"):
        workflow.expand(project.file, "paper", ["tiny"])
    with pytest.raises(workflow.WorkflowError, match="expected one of smoke, laptop, paper"):
        workflow.expand(project.file, "desktop")
    assert workflow.expand(project.file, "paper") == []


def test_a_notebook_needs_the_parameter_result(project):
    write_notebook(project.root / "notebooks" / "tiny.ipynb", 'arm = "a"\n')
    with pytest.raises(workflow.WorkflowError, match="no parameter 'result'"):
        project.expand()


# One run


def test_execute_run_publishes_result_notebook_and_log(project):
    project.profile(each={"arm": ["a"], "repeat": [4]})
    (run,) = project.expand()
    workflow.execute_run(run, project.root)
    result = Result.load(run.result)
    assert result.values("a", "m") == {4: 4.0}
    assert result.provenance["run"]["id"] == "arm=a,repeat=4"
    assert result.provenance["run"]["parameters"] == {"arm": "a", "repeat": 4}
    executed = json.loads(run.executed.read_text())
    assert any("injected-parameters" in cell["metadata"]["tags"] for cell in executed["cells"])
    assert sorted(path.suffix for path in run.folder.iterdir()) == [".ipynb", ".json", ".log"]
    assert workflow.is_current(run)


TELLS = """\
import os, sys
from mtlbook import datasets
told = {
    "prefix": sys.prefix,
    "data": str(datasets.cache_dir()),
    "backend": os.environ.get("MPLBACKEND"),
    "ipython": os.environ.get("IPYTHONDIR"),
    "spoilt": "spoilt" in globals(),
}
Result("tiny", {"arm": str(told)}, numerics={"mrn": 1}).save(result)
"""


def test_a_kernel_hears_nothing_of_a_users_settings(project, monkeypatch):
    """Another python3 on JUPYTER_PATH, start-up files, a backend, a folder named from elsewhere."""
    monkeypatch.chdir(project.root / "notebooks")
    home = project.root / "home"
    kernel = home / "kernels" / "python3" / "kernel.json"
    startup = home / "profile_default" / "startup" / "first.py"
    for path, text in (
        (kernel, '{"argv": ["false"], "display_name": "theirs", "language": "python"}'),
        (startup, "spoilt = True"),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.setenv("JUPYTER_PATH", str(home))
    monkeypatch.setenv("IPYTHONDIR", str(home))
    monkeypatch.setenv("PYTHONSTARTUP", str(startup))
    monkeypatch.setenv("MPLBACKEND", "module://nothing")
    monkeypatch.setenv("MTLBOOK_DATA", "../cache of mine")
    body = BODY.partition("Path(")[0] + TELLS
    write_notebook(project.root / "notebooks" / "tiny.ipynb", body=body)
    project.profile()
    (run,) = project.expand()
    workflow.execute_run(run, project.root)
    told = ast.literal_eval(Result.load(run.result).parameters["arm"])
    assert told["prefix"] == sys.prefix and not told["spoilt"]
    assert Path(told["data"]).resolve() == project.root / "cache of mine"
    assert told["backend"] in (None, "module://matplotlib_inline.backend_inline")
    assert not Path(told["ipython"]).exists()  # went with the run's scratch folder
    assert sorted(path.suffix for path in run.folder.iterdir()) == [".ipynb", ".json", ".log"]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("bad", "RuntimeError: the loss is a banana"),
        ("silent", "wrote no result"),
        ("foreign", "expected a result of tiny, got other"),
    ],
)
def test_a_failing_run_leaves_its_log_and_no_result(project, arm, message):
    project.profile({"arm": arm})
    (run,) = project.expand()
    with pytest.raises(workflow.RunError, match=r"tiny all failed; its log: .*all\.log"):
        workflow.execute_run(run, project.root)
    assert message in run.log.read_text()
    left = {path.name for path in run.folder.iterdir()}
    assert left == {"all.log", "all.failed.ipynb"}


# Stale results


def test_what_makes_a_result_stale_and_what_does_not(project, monkeypatch):
    (run, _) = project.expand()
    run.folder.mkdir(parents=True)
    now = {
        "parameters": run.parameters,
        "data": {},
        "notebook_sha256": notebook_sha256(run.notebook),
    }

    def save(numerics=1, **changed):
        provenance = {"code": {"norms.py": "of another day"}, "run": now | changed}
        Result("tiny", {}, numerics={"mrn": numerics}, provenance=provenance).save(run.result)

    save()
    assert workflow.is_current(run)  # edited code of the same version changes nothing
    notebook = json.loads(run.notebook.read_text())
    prose = {"cell_type": "markdown", "id": "x", "metadata": {}, "source": "words"}
    notebook["cells"].append(prose)
    run.notebook.write_text(json.dumps(notebook))
    assert workflow.is_current(run)
    save(parameters={"arm": "a", "seconds": 9})
    assert not workflow.is_current(run)
    save(data={"toy": "another hash"})
    assert not workflow.is_current(run)
    save(numerics=99)
    assert not workflow.is_current(run)
    save()
    write_notebook(run.notebook, body=BODY + "x = 1\n")
    assert not workflow.is_current(run)
    write_notebook(run.notebook)
    monkeypatch.setitem(currency.NUMERICS, "mrn", 2)
    assert not workflow.is_current(run)
    assert workflow.set_stale_aside([run]) == [run]
    assert not run.result.exists()
    assert (run.folder / "arm=a.json.stale").exists()


def test_a_tuning_that_has_changed_makes_a_run_stale(project):
    tuning = Result("tuning", {}, settings={"chosen": {"a": 1.0}})
    committed = project.root / "data" / "results" / "tuning.json"
    own = project.root / "runs" / "smoke" / "tuning.json"
    tuning.save(committed)
    project.tuned_by("tuning")
    (run,) = project.expand(["tiny"])
    assert run.uses == ("tuning",)
    run.folder.mkdir(parents=True)
    of_run = {
        "parameters": run.parameters,
        "data": {},
        "notebook_sha256": notebook_sha256(run.notebook),
    }
    uses = {"tuning": tuning.content_sha256()}
    Result("tiny", {}, numerics={"mrn": 1}, uses=uses, provenance={"run": of_run}).save(run.result)
    assert workflow.is_current(run)
    Result("tuning", {}, settings={"chosen": {"a": 2.0}}).save(own)  # comes before the committed
    assert not workflow.is_current(run)
    own.unlink()
    assert workflow.is_current(run)
    committed.unlink()
    assert not workflow.is_current(run)


def test_a_tuning_has_to_be_another_experiment(project):
    for named in ("tiny", "nobody"):
        project.tuned_by(named)
        with pytest.raises(workflow.WorkflowError, match=f"tuned_by: .* got .'{named}'"):
            project.expand(["tiny"])


def test_an_unreadable_result_is_set_aside(project):
    (run, _) = project.expand()
    run.folder.mkdir(parents=True)
    run.result.write_text('{"schema": 1, "exper')
    assert workflow.set_stale_aside([run]) == [run]


# Snakemake


def test_further_arguments_reach_snakemake_last():
    extra = ["--executor", "slurm", "--jobs", "8"]
    command = workflow.snakemake_command(PACKAGE, "paper", only=["a", "b"], cores=3, extra=extra)
    assert command[-4:] == extra
    assert command[command.index("--cores") + 1] == "3"
    assert "profile=paper" in command and "only=a+b" in command


@side_by_side()
def test_an_unknown_executor_is_refused_by_snakemake(project):
    code, out, _ = project.reproduce("--", "--executor", "abacus")
    assert code == 1
    assert "abacus" in out
    assert project.finished() == []


@side_by_side()
def test_neither_a_home_nor_a_folder_in_the_checkout_is_needed(project):
    """As in a read-only checkout, called from a folder in it, by somebody without a home."""
    project.environment = {
        "HOME": "/proc/nobody",
        "XDG_CACHE_HOME": "",
        "MTLBOOK_RUNS": "../my {runs}",
        "MTLBOOK_ROOT": "..",
    }
    project.profile(each={"arm": ["a"]})
    code, out, err = project.reproduce(cwd=project.root / "notebooks")
    assert code == 0, out + err
    assert (project.root / "my {runs}" / "smoke" / "tiny" / "arm=a.json").exists()
    assert (project.root / "my {runs}" / "smoke" / "verdicts.jsonl").exists()
    folders = {path.name for path in project.root.iterdir() if path.is_dir()}
    assert folders == {"counts", "data", "my {runs}", "notebooks"}


@side_by_side()
def test_the_reason_why_snakemake_did_not_begin_is_shown(project):
    (project.root / "sitecustomize.py").write_text(
        "import sys\nif 'snakemake' in sys.orig_argv:\n    sys.exit('the moon is too near')\n"
    )
    code, out, err = project.reproduce()
    assert code == 1
    assert "the moon is too near" in out and "Snakemake ended with code" in out
    assert "not finished: tiny arm=a" in err


@side_by_side()
def test_runs_that_cannot_be_written_are_refused_with_a_way_out(project):
    (project.root / "runs").write_text("a file")
    code, _, err = project.reproduce()
    assert code == 2
    assert "expected a folder that can be written to" in err and "MTLBOOK_RUNS" in err


def test_runs_on_two_versions_of_the_data_are_not_taken_together_without_a_word(project):
    for arm, sha256 in (("a", "0"), ("b", "1")):
        data = {"name": "toy", "tier": "embedded", "stand_in_for": None, "sha256": sha256}
        result = Result("tiny", {"arm": arm}, data=data, numerics={"mrn": 1})
        result.add(arm=arm, metric="m", value=1.0)
        result.save(project.runs / f"arm={arm}.json")
    (line,) = collection.mixed(project.expand())
    assert line.startswith("mixed: the runs of tiny have several versions of data;")
    merged = workflow.collect(project.runs.parent, allow_mixed=True)["tiny"]
    assert currency.stale(merged, {}) == ["its runs mix versions of data"]
    assert collection.mixed(project.expand()[:1]) == []


@side_by_side()
def test_two_runs_at_a_time_finish_and_a_second_call_repeats_nothing(project):
    project.profile({"seconds": 8.0}, {"arm": ["a", "b"]})
    code, out, err = project.reproduce("--cores", "2")
    assert code == 0, out + err
    assert project.finished() == ["arm=a", "arm=b"]
    assert "[2/2]" in out
    (a_start, a_end), (b_start, b_end) = project.times("a0"), project.times("b0")
    assert max(a_start, b_start) < min(a_end, b_end), "the runs did not overlap"
    code, out, _ = project.reproduce("--cores", "2")
    assert code == 0
    assert "2 of 2 runs are finished" in out
    assert len(project.times("a0")) == 2


@side_by_side()
def test_a_failing_run_does_not_stop_the_others(project):
    project.profile(each={"arm": ["bad", "a"]})
    code, _, err = project.reproduce()
    assert code == 1
    assert "failed: tiny arm=bad; log:" in err
    assert "    RuntimeError: the loss is a banana\n" in err
    assert project.finished() == ["arm=a"]


@side_by_side()
def test_a_changed_parameter_runs_again_unless_stale_ones_are_kept(project):
    project.profile(each={"arm": ["a"]})
    assert project.reproduce()[0] == 0
    project.profile({"limit": 5}, {"arm": ["a"]})
    code, out, _ = project.reproduce("--keep-stale")
    assert code == 0 and "1 of 1 runs are finished" in out
    code, out, _ = project.reproduce()
    assert code == 0 and "stale, runs again: tiny arm=a" in out
    assert len(project.times("a0")) == 4


@side_by_side()
def test_another_numerics_version_repeats_what_was_measured_under_it_alone(project):
    assert project.reproduce("--cores", "2")[0] == 0
    (project.runs / "arm=b.json").unlink()
    bump = project.root / "sitecustomize.py"  # in every process of the next calls
    bump.write_text("from mtlbook.numerics import NUMERICS\nNUMERICS['srdml'] += 1\n")
    assert project.reproduce()[0] == 0
    assert len(project.times("a0")) == 2 and len(project.times("b0")) == 4
    bump.write_text("from mtlbook.numerics import NUMERICS\nNUMERICS['mrn'] += 1\n")
    _, out, _ = project.reproduce("--where", "arm=a")
    assert "stale, runs again: tiny arm=a" in out
    assert len(project.times("a0")) == 4 and len(project.times("b0")) == 4


@side_by_side()
def test_a_tuning_made_again_repeats_its_table_only_if_it_came_out_otherwise(project):
    def repeats(tuning, table):
        code, out, err = project.reproduce()
        assert code == 0, out + err
        counted = len(project.times("a0")) // 2, len(project.times("table0")) // 2
        assert counted == (tuning, table), out
        return out

    def write(limit):
        body = BODY.replace('"tiny" if arm != "foreign" else "other"', '"t" + str(arm)')
        body = body.replace("float(repeat)", "float(limit)")
        write_notebook(project.root / "notebooks" / "tiny.ipynb", body=body)
        project.profile()
        tiny = yaml.safe_load(project.file.read_text(encoding="utf-8"))["experiments"]["tiny"]
        tuning = {"limit": limit}, "ta"
        table = {"limit": 1, "arm": "table", "tuned_by": "ta"}, "ttable"
        content = {
            name: tiny | {"profiles": {"smoke": {"parameters": parameters}}}
            for parameters, name in (tuning, table)
        }
        project.file.write_text(yaml.safe_dump({"experiments": content}), encoding="utf-8")

    write(limit=1)
    assert "[2/2] ttable all" in repeats(1, 1)
    of_profile = project.root / "runs" / "smoke"
    (of_profile / "ta" / "all.json").unlink()
    assert "waits for its tuning: ttable all" in repeats(2, 1)
    write(limit=2)
    repeats(3, 2)
    (of_profile / "verdicts.jsonl").unlink()  # as if killed after the last run
    assert "2 of 2 runs are finished" in repeats(3, 2)
    assert (of_profile / "verdicts.jsonl").exists()


@needs_proc
@side_by_side("all", "driver")
def test_after_a_kill_only_unfinished_runs_are_made(project, case):
    project.profile({"seconds": 1.5}, {"repeat": [0, 1, 2]})
    process = project.start()
    project.wait_for(lambda: len(project.finished()) == 1, process)
    first = project.finished()[0]
    before = (project.runs / f"{first}.json").stat().st_ino  # Snakemake touches the time
    # In the middle of the next one.
    done = int(first[-1])
    others = {0, 1, 2} - {done}
    project.wait_for(lambda: any(len(project.times(f"a{r}")) == 1 for r in others), process)
    targets = project.workers() if case == "all" else [process.pid]
    for target in targets:
        os.kill(target, signal.SIGKILL)
    process.communicate(timeout=60)
    for path in project.runs.glob("*.json"):
        Result.load(path)  # whatever exists is complete
    code, out, err = project.reproduce()
    assert code == 0, out + err
    assert len(project.finished()) == 3
    assert (project.runs / f"{first}.json").stat().st_ino == before
    assert len(project.times(f"a{done}")) == 2
    assert not list(project.runs.glob(".*"))


@needs_proc
@side_by_side(0, 1)
def test_killed_at_random_moments_nothing_finished_is_lost_or_repeated(project, case):
    """Of a driver and its workers, all or one; also while they start, merge and judge."""
    project.profile({"seconds": 0.3}, {"repeat": [0, 1, 2, 3]})
    moments = random.Random(case)
    for _ in range(2):
        before = {path: path.stat().st_ino for path in project.runs.glob("*.json")}
        began = {path.stem: len(project.times(f"a{path.stem[-1]}")) for path in before}
        process = project.start("--cores", "2")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(3, 14))
        alive = project.workers()
        for target in alive if moments.random() < 0.5 else alive[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
        process.communicate(timeout=100)
        for path in project.runs.glob("*.json"):
            Result.load(path)
        assert {path: path.stat().st_ino for path in before} == before
        assert {name: len(project.times(f"a{name[-1]}")) for name in began} == began
    code, out, err = project.reproduce("--cores", "2")
    assert code == 0, out + err
    assert len(project.finished()) == 4 and not list(project.runs.glob(".*"))
    assert (project.runs.parent / "verdicts.jsonl").exists()
    assert project.workers() == []


@needs_proc
@side_by_side("SIGINT", "SIGTERM", "SIGHUP")
def test_an_interrupt_stops_the_workers_and_keeps_what_is_finished(project, case):
    project.profile({"seconds": 150.0}, {"arm": ["a", "b"]})
    process = project.start("--cores", "2")
    project.wait_for(lambda: project.times("a0") and project.times("b0"), process)
    process.send_signal(getattr(signal, case))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on" in err
    assert project.workers() == []
    assert project.finished() == []


@needs_proc
@side_by_side("SIGTERM", "SIGHUP", "SIGKILL")
def test_a_rerun_that_is_ended_leaves_nothing_behind(project, case):
    """No kernel and no unfinished run; after a kill, once the next one has begun."""
    project.profile({"seconds": 150.0}, {"arm": ["a"]})
    took(project, "tiny", {"arm=a": 1})
    began = 0
    for name in (case, "SIGTERM"):
        process = project.start(command=("rerun", "--random"))
        project.wait_for(lambda began=began: len(project.times("a0")) > began, process)
        began = len(project.times("a0"))
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=60)
        assert process.returncode == (-9 if name == "SIGKILL" else 130)
        if case != "SIGKILL":
            break
    assert project.workers() == []
    assert not list(project.root.glob("runs/rerun/**/*.tmp"))


@side_by_side()
def test_a_second_process_is_refused_while_the_first_works(project):
    project.profile({"seconds": 150.0}, {"arm": ["a"]})
    first = project.start()
    project.wait_for(lambda: project.times("a0"), first)
    code, _, err = project.reproduce()
    assert code == 2
    assert f"another process ({first.pid})" in err
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)


# Collecting


def test_collect_orders_runs_naturally_and_names_what_is_missing(tmp_path):
    for repeat in (10, 9):
        records = [{"arm": "a", "repeat": repeat, "metric": "m", "value": 1.0}]
        path = tmp_path / "laptop" / "tiny" / f"repeat={repeat}.json"
        Result("tiny", {}, records, provenance={"code": {}}).save(path)
    (tmp_path / "laptop" / "tiny" / "repeat=8.json.stale").write_text("old")
    merged = workflow.collect(tmp_path / "laptop")["tiny"]
    assert [record["repeat"] for record in merged.records] == [9, 10]
    assert merged.provenance["profile"] == "laptop"
    with pytest.raises(workflow.WorkflowError, match="no finished runs of huge"):
        workflow.collect(tmp_path / "laptop", only=["huge"])
    with pytest.raises(workflow.WorkflowError, match="no finished runs of any experiment"):
        workflow.collect(tmp_path / "paper")


# Repeating


def test_seeds_in_a_row_repeat_every_run(tmp_path, monkeypatch):
    picked = []
    monkeypatch.setattr(rerun, "_listed", lambda root, name, result, run: picked.append(run))
    result = Result(
        "tiny", {}, provenance={"runs": [{"of": {"a": {}, "b": {}}}, {"of": {"c": {}}}]}
    )
    for seed in range(2968, 2971):
        list(workflow.rerun_random(tmp_path, {"tiny": result}, seed=seed))
    assert sorted(picked) == ["a", "b", "c"]
