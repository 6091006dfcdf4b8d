"""The ledger: result files, claims, rules, verdicts and their committed form."""

import importlib
import json
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter
from scipy import stats

import mtlbook
from mtlbook.ledger import audit as audits
from mtlbook.ledger import claims, matrices, placebo, provenance, report, rules
from mtlbook.ledger.chain import series
from mtlbook.ledger.currency import same_data, stale
from mtlbook.ledger.merging import compare_runs, merge, record
from mtlbook.ledger.results import Result, ResultError
from mtlbook.ledger.statistics import (
    detectable,
    mean_interval,
    p_value,
    repeats_needed,
)
from mtlbook.numerics import NUMERICS
from mtlbook.tasks import Task, TaskSet

ROOT = Path(__file__).resolve().parents[1]
REAL = {"name": "d", "tier": "fetched", "stand_in_for": None, "sha256": "1"}
RECORD = {"arm": "a", "metric": "m", "repeat": 0, "value": 1.0}
STAND_IN = {"name": "glyphs", "tier": "embedded", "stand_in_for": "Omniglot", "sha256": "2"}


def result_of(values, data=REAL, experiment="e"):
    """``{(arm, metric): [value of repeat 0, 1, ...]}`` -> Result."""
    result = Result(experiment, {}, data=dict(data), provenance={"code": {"norms.py": "c"}})
    for (arm, metric), of_repeats in values.items():
        for repeat, value in enumerate(of_repeats):
            result.add(arm=arm, metric=metric, value=value, repeat=repeat)
    return result


def rule_of(**content):
    return TypeAdapter(rules.Rule).validate_python(content)


def judge(result, printed=None, **rule):
    return rule_of(**rule).judge(result.values, printed or rules.Printed())


# Result files


def test_a_result_survives_the_file(tmp_path):
    result = Result.begin("e", {"arm": "laf"}, REAL, settings={"gamma": 0.01})
    result.add(arm="laf", metric="m", value=1.5, repeat=2, seed=7, per_task=[1, 2.0])
    result.add(arm="laf", metric="m", value=np.float32(2), repeat=2, step=5)
    path = result.save(tmp_path / "deep" / "r.json")
    loaded = Result.load(path)
    assert loaded.records == result.records
    assert loaded.parameters == {"arm": "laf"}
    assert loaded.settings == {"gamma": 0.01}
    assert loaded.values("laf", "m") == {2: 1.5}
    assert loaded.values("laf", "m", 5) == {2: 2.0}
    assert path.read_text().count("\n  {") == 2, "one line a record"
    assert os.listdir(path.parent) == ["r.json"]


def test_provenance_says_with_what_and_not_where_or_who(tmp_path):
    result = Result.begin("e", {}, REAL)
    path = result.save(tmp_path / "r.json")
    found = result.provenance
    assert found["code"] == provenance.code_hashes()
    assert {"torch", "numpy"} <= set(found["packages"])
    assert found["device"] == "cpu"
    assert found["wall_seconds"] >= 0
    assert found["cpu_seconds"] > 0
    assert found["peak_memory_mb"] > 1
    # what rounding depends on, and who draws the rendered sets
    assert found["platform"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert {"torch", "pillow", "matplotlib"} <= set(found["packages"])
    text = path.read_text()
    assert str(tmp_path) not in text and str(Path.home()) not in text
    assert os.uname().nodename not in text


@pytest.mark.parametrize("installed", [None, "0.0.1"])
def test_a_version_is_that_of_the_code_whatever_was_installed(installed, monkeypatch):
    """On the path and not installed, or installed for editing long ago: runs were made of both."""
    monkeypatch.setattr(provenance, "_version", lambda package: installed)
    found = provenance.describe_process((datetime.now(UTC), time.perf_counter()), "cpu")
    assert found["mtlbook"] == mtlbook.__version__


def test_saving_a_loaded_result_keeps_its_provenance(tmp_path):
    path = Result.begin("e", {}, REAL).save(tmp_path / "r.json")
    before = path.read_text()
    Result.load(path).save(path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), r"No space left on device: .*r\.json"),
        (OSError("no space left on device"), "^no space left on device$"),
    ],
)
def test_a_failing_save_leaves_the_old_file(error, message, tmp_path, monkeypatch):
    path = result_of({("a", "m"): [1.0]}).save(tmp_path / "r.json")
    before = path.read_text()

    def no_space(*_):
        raise error

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=message):
        result_of({("a", "m"): [2.0]}).save(path)
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["r.json"]


def test_values_have_to_be_finite_and_json():
    result = Result("e", {})
    with pytest.raises(ValueError, match=r"value of laf m in repeat 3.*diverge"):
        result.add(arm="laf", metric="m", value=float("nan"), repeat=3)
    with pytest.raises(ValueError, match=r"per_task\[1\]"):
        result.add(arm="laf", metric="m", value=1, per_task=[0, float("inf")])
    for value in (object(), float("nan"), {1: 0, "b": object()}):
        for write in (Result.to_json, lambda result: result.save("never.json")):
            with pytest.raises(ResultError, match="result of e cannot be written as JSON"):
                write(Result("e", {"device": value}))


def test_keys_that_are_numbers_are_no_edit(tmp_path):
    for curves in ({2: 1.0, 10: 2.0}, {1e-05: 4.0, 0.1: 3.0, "name": 5.0}):
        path = Result("e", {}, curves=curves).save(tmp_path / "r.json")
        assert Result.load(path).curves == {str(key): x for key, x in curves.items()}


def test_every_truncation_of_a_result_is_noticed(tmp_path):
    text = result_of({("a", "m"): [1.0]}).to_json()
    path = tmp_path / "r.json"
    for length in range(len(text) - 2):
        path.write_text(text[:length])
        with pytest.raises(ResultError, match=r"r\.json: truncated or not JSON"):
            Result.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "expected schema 1, got 2"),
        ({"records": {}}, "records: expected list, got dict"),
        ({"records": [{"arm": "a", "metric": "m", "repeat": 0}]}, r"records\[0\]\.value"),
        ({"records": [3]}, r"records\[0\]: expected an object"),
        ({"records": [RECORD | {"value": False}]}, r"records\[0\]\.value"),
        ({"records": [RECORD | {"repeat": False}]}, r"records\[0\]\.repeat"),
        ({"records": [RECORD | {"per_task": [1, None]}]}, r"records\[0\]\.per_task"),
        ({"records": [RECORD | {"per_task": "12"}]}, r"records\[0\]\.per_task"),
        ({"experiment": None}, "experiment: expected str"),
        ({"provenance": []}, "provenance: expected dict"),
    ],
)
def test_foreign_json_is_refused(tmp_path, change, message):
    content = json.loads(result_of({("a", "m"): [1.0]}).to_json()) | change
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=message):
        Result.load(path)
    path.write_text("[]")
    with pytest.raises(ResultError, match="expected an object, got list"):
        Result.load(path)


def test_source_without_what_cannot_change_a_number():
    source = (
        '"""Head."""\n\nimport math  # why\n\n\nclass A:\n    """Doc\n    more."""\n\n'
        '    def f(self):\n        "doc"\n        return "# no comment"  \n'
    )
    expected = 'import math\nclass A:\n    def f(self):\n        return "# no comment"'
    assert provenance.essential_source(source) == expected
    assert provenance.essential_source(source.replace("math", "os")) != expected


def test_code_hashes_are_of_the_imported_numerical_modules():
    importlib.import_module("mtlbook.norms")
    found = provenance.code_hashes()
    assert "norms.py" in found
    assert not any(name.startswith("ledger/") or "__init__" in name for name in found)


def test_notebook_hash_ignores_prose_and_outputs(tmp_path):
    path = tmp_path / "n.ipynb"

    def write(code, prose, outputs):
        cells = [
            {"cell_type": "markdown", "source": prose},
            {"cell_type": "code", "source": code, "outputs": outputs},
        ]
        path.write_text(json.dumps({"cells": cells}))
        return provenance.notebook_sha256(path)

    first = write(["x = 1\n", "y = 2"], "words", [])
    assert write("x = 1\ny = 2", "other words", ["output"]) == first
    assert write("x = 1\ny = 3", "words", []) != first


# Merging


def run_result(arm, repeat, sha256="1", gamma=0.1, study="mrn", version=1, uses=None, **data):
    result = Result(
        "e",
        {"arm": arm, "repeat": repeat, "steps": 5},
        data=REAL | {"sha256": sha256} | data,
        settings={"gamma": gamma, "lr": 0.05},
        curves={"loss": [1, 2]},
        numerics={study: version},
        uses=uses or {},
        provenance={"code": {"norms.py": "c"}, "wall_seconds": repeat, "run": {"id": "x"}},
    )
    result.add(arm=arm, metric="m", value=repeat, repeat=repeat)
    return result


def test_merge_keeps_all_records_and_collapses_the_rest(tmp_path):
    runs = {
        "a,0": run_result("a", 0),
        "a,1": run_result("a", 1),
        "b,0": run_result("b", 0, gamma=3, uses={"t": "one"}),
    }
    merged = merge(runs, profile="laptop")
    assert [(r["arm"], r["repeat"]) for r in merged.records] == [("a", 0), ("a", 1), ("b", 0)]
    assert merged.parameters == {"arm": ["a", "b"], "repeat": [0, 1], "steps": 5}
    assert merged.settings == {"gamma": {"a,0": 0.1, "a,1": 0.1, "b,0": 3}, "lr": 0.05}
    assert merged.curves["b,0"] == {"loss": [1, 2]}
    assert (merged.numerics, merged.uses) == ({"mrn": 1}, {"t": "one"})
    (entry,) = merged.provenance["runs"]
    parameters = {"arm": "a", "repeat": 1, "steps": 5}
    assert entry["of"]["a,1"] == {"wall_seconds": 1, "parameters": parameters}
    assert entry["code"] == {"norms.py": "c"}
    assert Result.load(merged.save(tmp_path / "e.json")).records == merged.records


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"sha256": "2"}, "data"),
        ({"version": 2}, "numerics"),
        ({"uses": {"t": "other"}}, "t"),
        ({"fingerprint": [1.0, 3.0]}, "data"),
    ],
)
def test_merge_refuses_mixtures_unless_allowed(other, what):
    first = run_result("a", 0, uses={"t": "one"}, fingerprint=[1.0, 2.0])
    runs = {"a": first, "b": run_result("b", 0, **{"uses": {"t": "one"}} | other)}
    with pytest.raises(ResultError, match=f"runs of e mix versions of {what};"):
        merge(runs)
    merged = merge(runs, allow_mixed=True)
    assert merged.provenance["mixed"] == [what]
    assert len(merged.records) == 2
    assert merged.numerics == ({} if what == "numerics" else {"mrn": 1})


def test_runs_of_two_versions_of_a_notebook_are_a_mixture():
    runs = {arm: run_result(arm, 0) for arm in "ab"}
    for version, run in enumerate(runs.values()):
        run.provenance["run"] = {"notebook": "n.ipynb", "notebook_sha256": str(version)}
    with pytest.raises(ResultError, match="runs of e mix versions of notebook;"):
        merge(runs)


def test_other_code_of_one_version_is_no_mixture():
    more = run_result("b", 0)
    more.provenance["code"] = {"norms.py": "edited", "priors.py": "p"}
    assert "mixed" not in merge({"a": run_result("a", 0), "b": more}).provenance


# Recording


EXPECTED = {f"a,{i}": {"arm": "a", "repeat": i} for i in range(3)}


def listed(**options):
    runs = {f"a,{i}": run_result("a", i, **options) for i in range(3)}
    for run in runs.values():
        run.provenance["content_sha256"] = run.content_sha256()  # as `save` does
    return runs


def recorded(runs, known=None, profile="laptop", **options):
    return record(runs, EXPECTED, profile=profile, known=known or {}, **options)


def test_exactly_the_listed_runs_are_recorded():
    result = recorded(listed())
    assert len(result.records) == 3 and result.provenance["profile"] == "laptop"
    runs = listed()
    del runs["a,1"]
    with pytest.raises(ResultError, match=r"expected the 3 .* missing: a,1; not listed: none"):
        recorded(runs)
    with pytest.raises(ResultError, match="missing: none; not listed: b,0"):
        recorded(listed() | {"b,0": run_result("b", 0)})
    other = listed()
    other["a,2"].parameters["repeat"] = 7
    with pytest.raises(ResultError, match="run a,2: other parameters than listed: repeat"):
        recorded(other)


def test_runs_that_hold_nothing_or_were_edited_are_not_recorded():
    empty, edited, unsigned = listed(), listed(), listed()
    empty["a,1"].records.clear()
    with pytest.raises(ResultError, match="run a,1 holds no number"):
        recorded(empty)
    edited["a,1"].records[0]["value"] = 5.0
    del unsigned["a,1"].provenance["content_sha256"]
    for runs in (edited, unsigned):
        with pytest.raises(ResultError, match="run a,1 is not as it was written"):
            recorded(runs)


def test_fingerprints_that_agree_are_merged_into_one():
    prints = [1.0, 2.0], [1.0, 2.0 + 1e-9]
    runs = {f"a,{i}": run_result("a", i, fingerprint=p) for i, p in enumerate(prints)}
    merged = merge(runs)
    assert merged.data["fingerprint"] == [1.0, 2.0]
    assert same_data(merged.data, runs["a,1"].data)
    # a run without a fingerprint does not hide that the others differ
    others = {"old": run_result("b", 0), **runs, "other": run_result("c", 0, fingerprint=[9, 9])}
    with pytest.raises(ResultError, match="mix versions of data"):
        merge(others)


def test_runs_of_one_problem_must_agree_in_their_data_and_others_need_not():
    prints = {"one": [1.0, 2.0], "two": [3.0, 4.0]}
    runs = {}
    for problem, found in prints.items():
        for arm in "ab":
            run = run_result(f"{arm}-{problem}", 0, fingerprint=found)
            run.parameters = run.parameters | {"problem": problem}
            runs[f"{problem},{arm}"] = run
    assert merge(runs).data["fingerprint"] == list(prints.values())
    runs["two,b"].data["fingerprint"] = [3.0, 4.1]
    with pytest.raises(ResultError, match="mix versions of data"):
        merge(runs)


def test_runs_that_are_not_current_are_not_recorded():
    with pytest.raises(ResultError, match="run a,0 is not current: measured"):
        recorded(listed(version=99))
    tuning = run_result("t", 0)
    uses = {"t": tuning.content_sha256()}
    recorded(listed(uses=uses), {"t": tuning})
    with pytest.raises(ResultError, match="the tuning t that it used is not there"):
        recorded(listed(uses=uses))
    tuning.records[0]["value"] = 5.0
    with pytest.raises(ResultError, match="the tuning t that it used has changed since"):
        recorded(listed(uses=uses), {"t": tuning})


def test_a_committed_result_is_not_lost_unless_forced():
    before = recorded(listed())
    before.records.append({"arm": "b", "repeat": 0, "metric": "m", "value": 1.0})
    with pytest.raises(ResultError, match=r"has 4 records, .* 3; replace it with --force"):
        recorded(listed(), {"e": before})
    del before.records[3:]
    assert recorded(listed(), {"e": before}).records == before.records
    with pytest.raises(ResultError, match="is of profile laptop, the runs are of paper"):
        recorded(listed(), {"e": before}, "paper")
    assert recorded(listed(), {"e": before}, "paper", force=True).provenance["profile"] == "paper"


def test_an_edited_file_is_refused(tmp_path):
    path = run_result("a", 1, uses={"t": "one"}).save(tmp_path / "r.json")
    text = path.read_text()
    assert Result.load(path).values("a", "m") == {1: 1.0}
    for old, new in (
        ('"value": 1.0', '"value": 2.0'),
        ('"steps": 5', '"steps": 6'),
        ('"mrn": 1', '"mrn": 2'),
        ('"sha256": "1"', '"sha256": "2"'),
        ('"experiment": "e"', '"experiment": "f"'),
        ('"gamma": 0.1', '"gamma": 0.2'),
        ('"loss"', '"gain"'),
        ('"t": "one"', '"t": "two"'),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(ResultError, match=r"r\.json: the content is not what was written"):
            Result.load(path)
    for token in ("NaN", "-Infinity", "1e999"):
        path.write_text(text.replace("1.0}", f"{token}}}"))
        with pytest.raises(ResultError, match=f"r.json: .*expected finite numbers, got {token}"):
            Result.load(path)
    path.write_text(text.replace('"provenance": {', '"provenance": {"other": -1e999,'))
    with pytest.raises(ResultError, match=r"r\.json: .*expected finite numbers, got -1e999"):
        Result.load(path)


def test_a_metric_may_name_one_task():
    result = Result("e", {})
    result.add(arm="a", metric="m", value=1.5, per_task=[1.0, 2.0])
    assert [result.values("a", f"m[{task}]") for task in range(3)] == [{0: 1.0}, {0: 2.0}, {}]


def test_what_a_number_has_to_be():
    result = Result("e", {})
    wrong = True, "3", b"3", None, [3.0], 3j, np.bool_(True), np.ones(1), torch.ones(2) > 0
    for value in wrong:
        with pytest.raises(ValueError, match="value of a m in repeat 0: expected a number, got"):
            result.add(arm="a", metric="m", value=value)
        with pytest.raises(ValueError, match=r"per_task\[0\].*expected a number, got"):
            result.add(arm="a", metric="m", value=1, per_task=[value])


# Currency


def test_a_result_is_current_by_its_version_and_its_tunings():
    tuning, version = run_result("t", 0), NUMERICS["mrn"]
    result = run_result("a", 0, version=version, uses={"t": tuning.content_sha256()})
    assert stale(result, {"t": tuning}) == []
    tuning.settings["lr"] = 0.06
    assert stale(result, {"t": tuning}) == ["the tuning t that it used has changed since"]
    tuning.settings["lr"] = 0.05
    tuning.provenance["wall_seconds"] = 7
    assert stale(result, {"t": tuning}) == []
    for other in (version - 1, version + 1):
        result.numerics = {"mrn": other}
        (reason,) = stale(result, {"t": tuning})
        assert reason == f"measured under version {other} of mrn, the code's is {version}"
    result.numerics = {"gone": 1}
    assert stale(result, {"t": tuning}) == ["measured under version 1 of gone, the code's is None"]
    result.numerics = {}
    assert stale(result, {"t": tuning}) == ["it carries no numerics version"]


def test_one_stale_tuning_makes_the_rows_of_its_table_stale(tmp_path):
    write_claims(tmp_path, claim_of())
    table = result_of(WINS)
    tuning = run_result("t", 0)
    table.numerics, table.uses = {"mrn": NUMERICS["mrn"]}, {"t": tuning.content_sha256()}
    (row,) = audits.audit(tmp_path, {"e": table, "t": tuning})
    assert row["stale"] == []
    tuning.records[0]["value"] = 9.0
    (row,) = audits.audit(tmp_path, {"e": table, "t": tuning})
    assert row["stale"] == ["the tuning t that it used has changed since"]


def test_begin_stamps_version_tunings_and_fingerprint(monkeypatch):
    tuning = run_result("t", 0)
    x = torch.arange(6.0).reshape(3, 2)
    tasks = TaskSet("s", [Task("a", x, x, loss="mse")])
    result = Result.begin("e", {"lr": 1}, tasks, study="mrn", uses={"t": tuning})
    assert result.numerics == {"mrn": NUMERICS["mrn"], "datasets": NUMERICS["datasets"]}
    assert result.uses == {"t": tuning.content_sha256()}
    assert result.data["fingerprint"] == tasks.fingerprint()
    with pytest.raises(ValueError, match=r"study: expected one of .* got 'mnr'"):
        Result.begin("e", {}, study="mnr")
    monkeypatch.setenv("MTLBOOK_PARAMETERS", json.dumps(["lr", "steps"]))
    with pytest.raises(ValueError, match=r"parameters: .* got none named \['steps'\]"):
        Result.begin("e", {"lr": 1})
    Result.begin("e", {"lr": 1, "steps": 3, "more": 0})


def test_data_are_the_same_by_hash_and_fingerprint():
    one = {"sha256": "1", "fingerprint": [1.0, 200.0]}
    assert same_data(one, {"sha256": "1", "fingerprint": [1.000001, 200.000001]})
    assert same_data(one, {"sha256": "1"})
    assert not same_data(one, {"sha256": "1", "fingerprint": [1.001, 200.0]})
    assert not same_data(one, {"sha256": "2", "fingerprint": [1.0, 200.0]})
    assert not same_data(one, {"sha256": "1", "fingerprint": [1.0]})  # of one task fewer


# A run made again


def test_a_repeated_run_is_compared_number_by_number():
    committed = merge({f"a,{i}": run_result("a", i) for i in range(1, 4)})
    fresh = run_result("a", 2)
    assert compare_runs(committed, fresh) == ([], 0.0)
    fresh.records[0]["value"] *= 1.001
    differences, largest = compare_runs(committed, fresh)
    assert differences == [] and largest == pytest.approx(0.001, rel=0.01)
    (line,) = compare_runs(committed, fresh, tolerance=1e-4)[0]
    assert line == "a m, repeat 2: committed 2, measured again 2.002"
    (line,) = compare_runs(committed, run_result("b", 2))[0]
    assert line == "b m, repeat 2: not in the committed result"
    committed, fresh = run_result("a", 0), run_result("a", 0)
    for step in (1, 2):  # of a curve, every step is a number of its own
        for result in (committed, fresh):
            result.add(arm="a", metric="loss", value=step, repeat=0, step=step)
    assert compare_runs(merge({"x": committed}), fresh) == ([], 0.0)
    only_trials = run_result("a@0.1", 2)  # not committed, and nothing else
    for nothing in (Result("e", {}), only_trials):
        assert compare_runs(committed, nothing)[0] == ["no number was measured again"]


def test_merge_refuses_doubles_and_strangers():
    with pytest.raises(ResultError, match="runs x and y of e both hold arm a, repeat 0, metric m"):
        merge({"x": run_result("a", 0), "y": run_result("a", 0)})
    with pytest.raises(ResultError, match="expected one experiment, got e, f"):
        merge({"x": run_result("a", 0), "y": Result("f", {})})
    with pytest.raises(ResultError, match="at least one"):
        merge({})


# Rules


def spread(mean, half):
    """Five values whose 95 % interval is mean plus and minus half."""
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    return list(mean + values * half / mean_interval(values).high)


def test_spread():
    assert mean_interval(spread(3.0, 0.5)) == pytest.approx((3.0, 2.5, 3.5, 5))


VALUE = {"kind": "value", "arm": "a", "metric": "m", "tolerance": 2.0}


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (36, 1.9, "reproduced"),
        (37.5, 0.4, "reproduced"),
        (37.5, 0.6, "undecided"),  # the mean lies within, the interval does not
        (36, 9, "undecided"),  # an imprecise measurement is no success
        (38.5, 0.6, "undecided"),
        (39, 0.9, "refuted at the printed size"),
        (33, 0.9, "refuted at the printed size"),
    ],
)
def test_value(mean, half, verdict):
    judgement = judge(result_of({("a", "m"): spread(mean, half)}), rules.Printed("36.00"), **VALUE)
    assert judgement.verdict == verdict
    assert (judgement.low, judgement.high) == pytest.approx((mean - half, mean + half))
    assert judgement.n == 5


@pytest.mark.parametrize(
    ("value", "verdict"),  # of the printed value, not of ours
    [
        (198.01, "reproduced"),
        (201.9, "reproduced"),
        (202.01, "refuted at the printed size"),
        (197.9, "refuted at the printed size"),
    ],
)
def test_value_with_relative_tolerance(value, verdict):
    rule = VALUE | {"tolerance": 0.01, "relative": True}
    result = result_of({("a", "m"): [value] * 5})
    assert judge(result, rules.Printed("200"), **rule).verdict == verdict


def test_a_number_of_one_run_is_judged_by_where_a_new_run_lies():
    one_run = rules.Printed("36", single_run=True)
    near = result_of({("a", "m"): spread(37, 0.9)})  # a new run within 37 +- 2.2
    assert judge(near, one_run, **VALUE).verdict == "reproduced"
    exact = result_of({("a", "m"): spread(37, 0.3)})  # within 37 +- 0.73
    judgement = judge(exact, one_run, **VALUE)
    assert judgement.verdict == "refuted at the printed size"
    assert judgement.why == "a new run lies in [36.27, 37.73], the printed one outside"
    assert judge(exact, rules.Printed("36"), **VALUE).verdict == "reproduced"


DIFFERENCE = {"kind": "difference", "arm": "a", "reference": "b", "metric": "m"}


@pytest.mark.parametrize(
    ("mean", "half", "sign", "margin", "printed", "verdict", "why"),
    [
        (2, 1, 1, None, rules.Printed("+1.5"), "direction", "above 0"),
        (2, 1, 1, None, rules.Printed("+4", 1.5), "direction", "above 0"),
        (2, 1, 1, None, rules.Printed("+4", 0.5), "refuted at the printed size", "+4 ± 0.5"),
        (2, 1, 1, None, rules.Printed("+0.2", 1.0), "direction", "above 0"),
        (2, 1, 1, None, rules.Printed("+0.2", 0.5), "refuted at the printed size", "above 0"),
        # a new run of ours lies within 2 +- 2.45
        (2, 1, 1, None, rules.Printed("+4", single_run=True), "direction", "above 0"),
        (2, 1, 1, None, rules.Printed("+5", single_run=True), "refuted at the printed size", ""),
        (2, 1, 1, 1.5, rules.Printed("+1.7"), "reproduced", "within 1.5 of +1.7"),
        (2, 1, 1, 1.2, rules.Printed("+1.7"), "direction", "above 0"),
        (2, 1, 1, None, rules.Printed(), "direction", "above 0"),
        (2, 1, -1, None, rules.Printed(), "opposite", "above 0"),
        (-2, 1, -1, None, rules.Printed("-2"), "direction", "below 0"),
        (-2, 1, 1, None, rules.Printed("+2"), "opposite", "below 0"),
        (1, 2, 1, None, rules.Printed("+2"), "undecided", "contains 0"),
        (0, 0, 1, None, rules.Printed(), "undecided", "the same in all 5 repeats"),
        (0, 0.1, 1, None, rules.Printed("+2", 0.5), "refuted at the printed size", "contains 0"),
        (0, 0.1, 1, 0.2, rules.Printed(), "equal within a margin", "within 0.2 of 0"),
        (0.3, 0.1, 1, 0.2, rules.Printed(), "direction", "above 0"),
    ],
)
def test_difference(mean, half, sign, margin, printed, verdict, why):
    # The repeats differ far more than the arms: only the pairing shows the difference.
    base, differences = np.array([10, 50, 90, 20, 40]), spread(mean, half)
    result = result_of({("a", "m"): base + differences, ("b", "m"): base})
    judgement = judge(result, printed, sign=sign, margin=margin, **DIFFERENCE)
    assert judgement.verdict == verdict
    assert why in judgement.why
    assert judgement.ours == pytest.approx(mean)


def test_undecided_says_what_could_have_been_found():
    result = result_of({("a", "m"): spread(1, 2), ("b", "m"): [0.0] * 5})
    sd = np.std(spread(1, 2), ddof=1)
    for printed, which, effect in (("+2", "printed", 2), (None, "observed", 1)):
        why = judge(result, rules.Printed(printed), **DIFFERENCE).why
        found, needed = detectable(sd, 5), repeats_needed(sd, effect)
        assert f"5 repeats find an effect of {found:.2g} four times of five" in why
        assert why.endswith(f"{needed} would find the {which} one")


def drawn(means, residual=0.0, repeats=8):
    """Arm a over b in several draws of the settings: metrics m, m-1, ... and these mean gains."""
    rng, of = np.random.default_rng(0), {}
    base, luck = rng.normal(50, 20, repeats), rng.normal(size=repeats)
    noise = residual * rng.normal(size=(repeats, len(means)))
    gains = np.array(means) + 0.2 * (luck - luck.mean())[:, None] + noise - noise.mean(0)
    for k in range(len(means)):
        metric = f"m-{k}" if k else "m"
        of |= {("a", metric): base + gains[:, k], ("b", metric): base}
    return result_of(of), {**DIFFERENCE, "draws": [f"m-{k}" for k in range(1, len(means))]}, gains


@pytest.mark.parametrize(
    ("means", "margin", "verdict", "why"),
    [
        # the first draw is sure of its sign, and the others turn it
        ((3, -2, 1, -1, 2), None, "undecided", "over repeats and draws contains 0"),
        ((3, 2, 4, 3, 2), None, "direction", "over repeats and draws lies above 0"),
        ((-3, -2, -4, -3, -2), None, "opposite", "over repeats and draws lies below 0"),
        ((3, 0.1, -0.1, 0.1, -3), 5.0, "equal within a margin", "over repeats and draws"),
        ((0.2, 0.1, -0.1, 0.1, -0.2), 1.0, "equal within a margin", "within 1 of 0"),
    ],
)
def test_a_difference_over_draws_of_the_settings(means, margin, verdict, why):
    result, rule, gains = drawn(means, residual=0.1)
    judged = judge(result, margin=margin, **rule)
    assert judged.verdict == verdict and why in judged.why and judged.n == 5
    # the variance of the mean by hand, and a t of four degrees of freedom: five draws
    r, u = gains.shape
    of_repeats, of_draws = gains.mean(1), gains.mean(0)
    rest = gains - of_repeats[:, None] - of_draws + gains.mean()
    left = (rest**2).sum() / ((r - 1) * (u - 1)) / (r * u)
    parts = of_repeats.var(ddof=1) / r, of_draws.var(ddof=1) / u
    error = max(sum(parts) - left, *parts) ** 0.5
    half = stats.t.ppf(0.975, 4) * error
    found = (judged.ours, judged.low, judged.high)
    assert found == pytest.approx((gains.mean(), gains.mean() - half, gains.mean() + half))
    p = 2 * stats.t.sf(abs(gains.mean()) / error, 4)
    assert judged.p == pytest.approx(p, rel=1e-6)
    text = rule_of(**rule).text(rules.Printed())
    assert "over repeats and 5 draws (m-1, m-2, m-3, m-4 beside it)" in text
    (of_page,) = series(rule_of(**rule), result.values, rules.Printed()).values()
    assert of_page == pytest.approx(list(means))
    if verdict == "undecided":
        sd = error * 5**0.5
        assert f"5 draws find an effect of {detectable(sd, 5):.2g} four times of five" in judged.why
        assert judged.why.endswith(
            f"{repeats_needed(sd, gains.mean())} would find the observed one"
        )
        assert judge(result, **DIFFERENCE).verdict == "direction"  # what one draw would have said


def test_draws_are_five_different_ones_compared_at_the_repeats_of_all():
    result, rule, gains = drawn((3, 2, 4, 3, 2), residual=0.1)
    with pytest.raises(ValueError, match="expected 4 different ones beside metric at least, got"):
        rule_of(**rule | {"draws": ["m-1", "m-2", "m-3"]})
    with pytest.raises(ValueError, match="different ones"):
        rule_of(**rule | {"draws": ["m-1", "m-2", "m-3", "m"]})
    missing = rule_of(**rule | {"draws": [*rule["draws"], "m-9"]})
    assert missing.judge(result.values, rules.Printed()).verdict == "not attempted"
    assert list(series(missing, result.values, rules.Printed()).values()) == [[]]
    for arm in "ab":  # a repeat that one draw alone has does not count
        result.add(arm=arm, metric="m", value=1.0, repeat=17)
    assert judge(result, **rule).ours == pytest.approx(gains.mean())
    result.records = [r for r in result.records if (r["metric"], r["repeat"]) != ("m-2", 0)]
    assert judge(result, **rule).ours == pytest.approx(gains[1:].mean())


def test_differences_by_rounding_are_no_differences():
    a = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    result = result_of({("a", "m"): a + 0.2, ("b", "m"): (a * 10 + 2) / 10})
    assert np.ptp(a + 0.2 - (a * 10 + 2) / 10) > 0
    judgement = judge(result, **DIFFERENCE)
    assert (judgement.verdict, judgement.ours, judgement.p) == ("undecided", 0.0, 1.0)


def test_pairs_are_matched_by_repeat_not_by_position():
    result = result_of({("a", "m"): [11, 22, 33, 44, 55]})
    for repeat in (3, 1, 0, 2, 4):
        result.add(arm="b", metric="m", value=10 * (repeat + 1), repeat=repeat)
    assert judge(result, **DIFFERENCE).ours == 3
    # A repeat that only one arm has does not count.
    result.add(arm="b", metric="m", value=1e6, repeat=9)
    assert judge(result, **DIFFERENCE).n == 5


@pytest.mark.parametrize(
    "rule",
    [
        VALUE,
        DIFFERENCE,
        {"kind": "order", "arms": ["a", "b"], "metric": "m"},
        {"kind": "bound", "arm": "a", "metric": "m", "references": ["b"], "sign": 1},
    ],
)
def test_four_repeats_are_too_few(rule):
    result = result_of({("a", "m"): [5, 6, 7, 8], ("b", "m"): [0] * 4})
    judgement = judge(result, rules.Printed("5"), **rule)
    assert (judgement.verdict, judgement.n, judgement.ours) == ("undecided", 4, 6.5)
    assert judgement.low is judgement.high is judgement.p is None
    assert judgement.why == "needs 5 repeats of every arm, has 4"
    nothing = judge(result_of({("c", "m"): [1]}), rules.Printed("5"), **rule)
    assert (nothing.verdict, nothing.n) == ("not attempted", 0)


@pytest.mark.parametrize(
    ("a", "b", "c", "verdict"),
    [
        ([9] * 5, [5, 5, 6, 5, 5], [1, 2, 3, 2, 2], "direction"),
        ([9, 9, 1, 9, 9], [5] * 5, [1, 2, 3, 2, 2], "undecided"),
        ([4, 6, 5, 6, 4], [5, 5, 5, 5, 5], [1] * 5, "undecided"),
        ([5] * 5, [9, 9, 9, 9, 8], [9] * 5, "opposite"),
        ([5] * 5, [5] * 5, [1, 2, 3, 2, 2], "undecided"),
    ],
)
def test_order(a, b, c, verdict):
    result = result_of({("a", "m"): a, ("b", "m"): b, ("c", "m"): c})
    judgement = judge(result, kind="order", arms=["a", "b", "c"], metric="m")
    assert judgement.verdict == verdict
    # The same over metrics of one arm.
    result = result_of({("x", "a"): a, ("x", "b"): b, ("x", "c"): c})
    other = judge(result, kind="order", arm="x", metrics=["a", "b", "c"])
    assert other == judgement


def test_order_reports_the_smallest_step():
    result = result_of({("a", "m"): [9] * 5, ("b", "m"): [7] * 5, ("c", "m"): [6] * 5})
    judgement = judge(result, kind="order", arms=["a", "b", "c"], metric="m")
    assert (judgement.ours, judgement.low, judgement.high) == (1, 1, 1)
    assert "the smallest the step b over c" in judgement.why


def test_an_order_is_as_sure_as_its_least_sure_step():
    """Not as sure as the smallest, which may be measured well."""
    c = np.zeros(5)
    b = c + spread(2, 1.5)
    a = b + spread(1, 0.1)
    result = result_of({("a", "m"): a, ("b", "m"): b, ("c", "m"): c})
    judgement = judge(result, kind="order", arms=["a", "b", "c"], metric="m")
    assert judgement.verdict == "direction" and judgement.ours == pytest.approx(1)
    assert judgement.p == pytest.approx(p_value(b - c)) and judgement.p > 10 * p_value(a - b)


def test_order_takes_one_form():
    with pytest.raises(ValueError, match="either arms and metric, or arm and metrics"):
        rule_of(kind="order", arms=["a", "b"], metrics=["m", "k"])
    with pytest.raises(ValueError, match="at least two"):
        rule_of(kind="order", arms=["a"], metric="m")


@pytest.mark.parametrize(
    ("a", "sign", "verdict"),
    [
        ([0, 0, 1, 0, 0], -1, "direction"),
        ([0, 0, 9, 0, 0], -1, "undecided"),
        ([4, 4, 4, 4, 4], -1, "opposite"),
        ([9, 9, 9, 9, 9], 1, "direction"),
        ([4, 4, 4, 4, 4], 1, "opposite"),
    ],
)
def test_bound(a, sign, verdict):
    result = result_of({("a", "m"): a, ("b", "m"): [3] * 5, ("c", "m"): [6] * 5})
    rule = {"kind": "bound", "arm": "a", "metric": "m", "references": ["b", "c"], "sign": sign}
    judgement = judge(result, **rule)
    assert judgement.verdict == verdict
    assert f"against {'b' if sign < 0 else 'c'}" in judgement.why
    every = [p_value(np.array(a) - x) for x in (3, 6)]
    assert judgement.p == (pytest.approx(max(every)) if verdict != "opposite" else min(every))


CURVE = {
    "kind": "curve",
    "arm": "a",
    "metric": "m",
    "tolerance": 0.15,
    "points": {"file": "f.csv", "quantity": "m", "method": "A"},
}


def curve_of(printed, factors, noise, arm="a"):
    result = Result("e", {}, data=dict(REAL))
    for (step, value), factor in zip(printed.points.items(), factors, strict=True):
        for repeat, off in enumerate(noise):
            result.add(arm=arm, metric="m", value=value * (factor + off), repeat=repeat, step=step)
    return result


POINTS = rules.Printed(points={5: 8.0, 25: 4.0, 50: 2.0, 75: 1.0})
QUIET, LOUD = (-0.02, -0.01, 0, 0.01, 0.02), (-0.4, -0.2, 0, 0.2, 0.4)


@pytest.mark.parametrize(
    ("factors", "noise", "verdict", "deviation"),
    [
        ([1.1, 1.1, 1.1, 5.0], QUIET, "reproduced", 0.1),
        ([1.1, 1.1, 1.1, 5.0], LOUD, "undecided", 0.1),
        ([2, 2, 2, 2], QUIET, "refuted at the printed size", 1.0),
        ([0.1, 3, 9, 30], QUIET, "refuted at the printed size", 5.0),
    ],
)
def test_curve(factors, noise, verdict, deviation):
    judgement = judge(curve_of(POINTS, factors, noise), POINTS, **CURVE)
    assert judgement.verdict == verdict
    assert judgement.ours == pytest.approx(deviation)
    assert 0 <= judgement.low <= judgement.ours <= judgement.high
    unfinished = curve_of(POINTS, factors, noise)  # a sixth repeat that lacks the later steps
    unfinished.add(arm="a", metric="m", value=9e9, repeat=5, step=5)
    assert judge(unfinished, POINTS, **CURVE) == judgement
    missing = rules.Printed(points={**POINTS.points, 99: 1.0})
    judgement = judge(curve_of(POINTS, factors, noise), missing, **CURVE)
    assert judgement.verdict == "not attempted"
    assert "step 99" in judgement.why


def test_the_jackknife_of_a_curve_is_the_interval_of_a_mean_where_it_is_one():
    # All factors equal and above 1: the deviation of the mean curve is a mean of deviations.
    judgement = judge(curve_of(POINTS, [1.5] * 4, LOUD), POINTS, **CURVE)
    expected = mean_interval(np.array(LOUD) + 0.5)
    assert (judgement.ours, judgement.low, judgement.high) == pytest.approx(expected[:3])


def test_printed_margin():
    # Student's t with the fewest degrees of freedom that two unequal variances leave.
    assert rules.printed_margin((3.0, 4.0), 25) == pytest.approx(2.0639, abs=1e-4)
    # Table 1 of TNRDMTL: LAF and STL over 10 repeats.
    assert rules.printed_margin((0.38, 0.60), 10) == pytest.approx(0.5081, abs=1e-4)


# Claims


def claim_of(**changes):
    content = {
        "id": "p.a-over-b",
        "where": "Table 1",
        "statement": "a beats b",
        "known": "printed",
        "experiments": ["e", "s"],
        "rule": DIFFERENCE,
    }
    content |= changes
    return {k: v for k, v in content.items() if v is not None}


def write_claims(folder, *of_paper, paper="p"):
    (folder / "printed").mkdir(parents=True, exist_ok=True)
    content = {"paper": paper, "title": "T", "source": "S", "claims": list(of_paper)}
    path = folder / f"{paper}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"printed": 1.5}, "printed: Input should be a valid string"),
        ({"printed": "about 2"}, "printed: String should match"),
        ({"known": "memory", "printed": "+1"}, "memory .* is not a printed one"),
        ({"asked_by": "us"}, "known: expected for a claim of the paper"),
        ({"known": None}, "known: expected for a claim of the paper"),
        ({"printed_std": ["1", "2"]}, "expected both or none"),
        (
            {"rule": {"kind": "value", "arm": "a", "metric": "m", "tolerance": 1}},
            "printed: expected",
        ),
        ({"rule": {"kind": "guess"}}, "rule"),
        ({"rule": {**DIFFERENCE, "refrence": "c"}}, "refrence"),
        ({"experiments": []}, "experiments"),
        ({"rule": {**DIFFERENCE, "margin": 1}}, "margin: expected a printed number"),
        ({"single_run": True}, "single_run: expected a printed number"),
        ({"known": None, "asked_by": "us", "calibrated": "yes"}, "for a claim of the paper only"),
        ({"id": "q.a-over-b"}, r"expected ids p\."),
        ({"colour": "red"}, "colour"),
    ],
)
def test_mistakes_in_claims_are_refused(tmp_path, change, message):
    path = write_claims(tmp_path, claim_of(**change))
    with pytest.raises(claims.ClaimError, match=message):
        claims.load(path)


def test_repeated_ids_are_refused(tmp_path):
    path = write_claims(tmp_path, claim_of(), claim_of())
    with pytest.raises(claims.ClaimError, match=r"ids given twice: p\.a-over-b"):
        claims.load(path)


def test_statements_from_memory_and_of_our_own_are_marked():
    memory = claims.Claim(**claim_of(known="memory"))
    assert memory.marked_statement.startswith("[reported from memory, not verified")
    ours = claims.Claim(**claim_of(known=None, asked_by="us"))
    assert ours.marked_statement.startswith("[our control]")
    assert claims.Claim(**claim_of()).marked_statement == "a beats b"


def test_points_of_a_curve_come_from_the_csv(tmp_path):
    write_claims(tmp_path, claim_of(known="digitised", rule=CURVE))
    (claim,) = claims.load(tmp_path / "p.yaml").claims
    with pytest.raises(claims.ClaimError, match=r"f\.csv: cannot be read"):
        claim.resolve_printed(tmp_path / "printed")
    csv = "quantity,method,iteration,digitised\nm,A,5,.5\nm,B,5,9\nm,A,25,.25\n"
    (tmp_path / "printed" / "f.csv").write_text(csv)
    assert claim.resolve_printed(tmp_path / "printed").points == {5: 0.5, 25: 0.25}
    (tmp_path / "printed" / "f.csv").write_text(csv.replace("m,A", "m,C"))
    with pytest.raises(claims.ClaimError, match="expected at least 2 rows"):
        claim.resolve_printed(tmp_path / "printed")


# The audit

WINS = {("a", "m"): [11, 12, 14, 12, 13], ("b", "m"): [10] * 5}
TIES = {("a", "m"): [9, 10, 11, 9, 11], ("b", "m"): [10] * 5}


def audit_one(tmp_path, measured, **changes):
    write_claims(tmp_path, claim_of(**changes))
    (row,) = audits.audit(tmp_path, {result.experiment: result for result in measured})
    return row


def test_a_row_has_the_agreed_keys(tmp_path):
    row = audit_one(tmp_path, [result_of(WINS)], printed="+2.0", unit="points")
    keys = "claim paper printed ours low high n rule verdict why tier experiment where statement "
    keys += "known stand_in result_file stale p holm group two_way data"
    assert set(keys.split()) <= set(row)
    assert (row["verdict"], row["tier"], row["stand_in"]) == ("direction", "fetched", None)
    assert (row["ours"], row["n"], row["experiment"]) == (pytest.approx(2.4), 5, "e")
    assert row["result_file"] == "e.json"
    assert row["stale"] == ["it carries no numerics version"]
    json.loads(report.to_json([row]))


def test_without_results_nothing_was_attempted(tmp_path):
    row = audit_one(tmp_path, [])
    assert (row["verdict"], row["tier"], row["experiment"]) == ("not attempted", "none", "e")
    assert row["ours"] is None and row["stale"] is None


def test_a_stand_in_shows_a_sign_and_no_size(tmp_path):
    row = audit_one(tmp_path, [result_of(WINS, STAND_IN, "s")], printed="+90")
    assert row["verdict"] == "direction"
    assert row["stand_in"] == "glyphs for Omniglot"
    assert row["why"].startswith("on a stand-in for Omniglot, the sign alone")
    assert audit_one(tmp_path, [result_of(TIES, STAND_IN, "s")])["verdict"] == "undecided"
    row = audit_one(tmp_path, [result_of(WINS, STAND_IN, "s")], rule=VALUE, printed="12")
    assert row["verdict"] == "not comparable"
    assert row["ours"] == pytest.approx(12.4)


@pytest.mark.parametrize(
    "change",
    [{"comparable": "with other data"}, {"unit": "points, frozen features (paper: AlexNet)"}],
)
def test_so_does_another_backbone(tmp_path, change):
    row = audit_one(tmp_path, [result_of(WINS)], printed="+90", **change)
    # nor does a margin around the printed number make two arms equal
    wide = {**DIFFERENCE, "margin": 50}
    tied = audit_one(tmp_path, [result_of(TIES)], printed="+2", rule=wide, **change)
    assert tied["verdict"] == "undecided"
    assert row["verdict"] == "direction" and "the sign alone" in row["why"]
    lost = {**DIFFERENCE, "sign": -1}
    assert audit_one(tmp_path, [result_of(WINS)], rule=lost, **change)["verdict"] == "opposite"
    row = audit_one(tmp_path, [result_of(WINS)], rule=VALUE, printed="12", **change)
    assert row["verdict"] == "not comparable"


def test_what_was_chosen_to_hit_the_number_is_not_counted(tmp_path):
    row = audit_one(
        tmp_path, [result_of(WINS)], rule=VALUE, printed="12", calibrated="the step was fitted"
    )
    assert (row["verdict"], row["why"]) == ("calibrated on it", "the step was fitted")


@pytest.mark.parametrize(
    ("measured", "margin", "answer"),
    [
        (WINS, None, "yes"),
        (TIES, None, "undecided"),
        ({("b", "m"): WINS["a", "m"], ("a", "m"): WINS["b", "m"]}, None, "no"),
        (TIES, 3.0, "equal within a margin"),
    ],
)
def test_our_own_questions_are_answered(tmp_path, measured, margin, answer):
    rule = {**DIFFERENCE, "margin": margin}
    row = audit_one(tmp_path, [result_of(measured)], known=None, asked_by="us", rule=rule)
    assert row["verdict"] == answer
    assert not set(report.ANSWERS) & {"reproduced", "direction"}


def test_the_first_experiment_with_results_decides(tmp_path):
    real, stand_in = result_of(TIES), result_of(WINS, STAND_IN, "s")
    assert audit_one(tmp_path, [stand_in, real])["verdict"] == "undecided"
    # Real results without these arms leave it to the stand-in.
    other = result_of({("c", "m"): [1, 2, 3]})
    assert audit_one(tmp_path, [stand_in, other])["experiment"] == "s"
    assert audit_one(tmp_path, [other])["why"] == "needs 5 repeats of every arm, has 0"


# Placebos


def test_a_value_that_stl_reaches_is_void(tmp_path):
    laf, stl = [35.0, 35.5, 36.0, 35.2, 35.4], [34.0, 34.5, 35.0, 34.2, 34.4]
    rule = {**VALUE, "arm": "laf"}
    result = result_of({("laf", "m"): laf, ("stl", "m"): stl, ("weight-decay", "m"): [20] * 5})
    row = audit_one(tmp_path, [result], rule=rule, printed="35.65")
    assert row["verdict"] == "undecided"
    assert row["why"].startswith("not decisive, this rule is passed by stl, too: the interval")
    for arm in ("weight-decay-tuned", "uncoupled", "fixed", "uniform"):
        alone = result_of({("laf", "m"): laf, (arm, "m"): stl, ("stls", "m"): stl})
        why = audit_one(tmp_path, [alone], rule=rule, printed="35.65")["why"]
        assert f"passed by {arm}, too" in why
    narrow = {**rule, "tolerance": 0.75}
    assert audit_one(tmp_path, [result], rule=narrow, printed="35.65")["verdict"] == "reproduced"
    # of a claim about STL itself, STL is no placebo
    own = {**rule, "arm": "stl"}
    assert audit_one(tmp_path, [result], rule=own, printed="34.11")["verdict"] == "reproduced"


def test_a_curve_that_stl_or_a_constant_follows_is_void():
    flat = rules.Printed(points={5: 1.0, 25: 1.01, 50: 1.02, 75: 1.01})
    claim = claims.Claim(**claim_of(known="digitised", rule={**CURVE, "arm": "laf"}))
    result = curve_of(POINTS, [1.0] * 4, QUIET, "laf")
    result.records += curve_of(POINTS, [1.05] * 4, QUIET, "uncoupled-tuned").records
    assert placebo.passing(claim, POINTS, result) == ["uncoupled-tuned"]
    assert placebo.passing(claim, flat, curve_of(flat, [1.0] * 4, QUIET, "laf")) == ["a constant"]
    assert placebo.passing(claim, POINTS, curve_of(POINTS, [1.0] * 4, QUIET, "laf")) == []


def test_an_order_that_constants_pass_is_void(tmp_path):
    rule = {"kind": "order", "arm": "mrn", "metrics": ["least", "none"]}
    at_the_cap = result_of({("mrn", "least"): [0.89, 0.9, 0.9, 0.9, 0.9], ("mrn", "none"): [0] * 5})
    assert audit_one(tmp_path, [at_the_cap], rule=rule)["verdict"] == "direction"
    constants = {"least": 0.9, "none": 0.0}
    row = audit_one(tmp_path, [at_the_cap], rule=rule, constants=constants)
    assert row["verdict"] == "undecided" and "passed by a constant" in row["why"]
    other = {"least": 0.0, "none": 0.0}
    row = audit_one(tmp_path, [at_the_cap], rule=rule, constants=other)
    assert row["verdict"] == "direction"


# Many tests


def test_holm_within_a_table_and_not_across(tmp_path):
    weak = {("a", "m"): spread(2, 1.9), ("b", "m"): [0] * 5}
    strong = {("c", "m"): spread(2, 0.1)}
    result = result_of(weak | strong)
    write_claims(
        tmp_path,
        claim_of(where="Table 1, 5 %"),
        claim_of(id="p.c", where="Table 1, 10 %", rule={**DIFFERENCE, "arm": "c"}),
        claim_of(id="p.other", where="Table 2"),
        claim_of(id="p.control.x", where="our control", known=None, asked_by="us"),
        claim_of(id="p.none", where="Table 1", experiments=["nothing"]),
    )
    rows = {row["claim"]: row for row in audits.audit(tmp_path, {"e": result})}
    first, second = rows["p.a-over-b"], rows["p.c"]
    assert 0.02 < first["p"] < 0.05 and first["holm"] == first["p"]
    assert second["holm"] == pytest.approx(2 * second["p"])
    assert [rows[key]["group"] for key in ("p.c", "p.control.x")] == [
        "Table 1",
        "our questions: control",
    ]
    assert rows["p.none"]["p"] is None and rows["p.none"]["holm"] is None
    # Another weak one: neither survives, and both verdicts stay and say so.
    write_claims(tmp_path, claim_of(), claim_of(id="p.again"))
    for row in audits.audit(tmp_path, {"e": result}):
        assert row["verdict"] == "direction" and row["holm"] > 0.05
        assert "does not survive Holm's correction for the 2 tests of Table 1" in row["why"]


def test_the_interval_over_tasks_stands_beside_that_over_repeats(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 1)) + 5 * rng.normal(size=(1, 4)) + rng.normal(size=(6, 4))
    result = result_of({("b", "m"): [0.0] * 6})
    for one in result.records:
        one["per_task"] = [0.0] * 4
    for repeat, of_tasks in enumerate(scores):
        mean = float(of_tasks.mean())
        result.add(arm="a", metric="m", value=mean, per_task=of_tasks, repeat=repeat)
    row = audit_one(tmp_path, [result])
    low, high = row["two_way"]
    assert low < row["low"] and row["high"] < high
    result.records[0]["per_task"] = [1.0] * 4  # no longer what the value is the mean of
    assert audit_one(tmp_path, [result])["two_way"] is None
    assert audit_one(tmp_path, [result_of(WINS)])["two_way"] is None


def test_committed_verdicts_follow_or_are_named(tmp_path):
    write_claims(tmp_path, claim_of(), claim_of(id="p.other"))
    path = tmp_path / "verdicts.json"
    rows = audits.audit(tmp_path, {"e": result_of(WINS)})
    with pytest.raises(ResultError, match="no committed verdicts"):
        audits.mismatches(rows, path)
    audits.write_verdicts(rows, path)
    assert audits.mismatches(rows, path) == []

    # Another result: verdict and number no longer follow.
    (first, second) = audits.mismatches(audits.audit(tmp_path, {"e": result_of(TIES)}), path)
    assert first == "p.a-over-b: committed verdict 'direction', now 'undecided'"
    assert second.startswith("p.other")
    nudged = {**WINS, ("a", "m"): [11, 12, 14.01, 12, 13]}
    (first, _) = audits.mismatches(audits.audit(tmp_path, {"e": result_of(nudged)}), path)
    assert "committed value 2.4" in first

    # Another rule under the same result.
    write_claims(tmp_path, claim_of(rule={**DIFFERENCE, "sign": -1}), claim_of(id="p.new"))
    found = audits.mismatches(audits.audit(tmp_path, {"e": result_of(WINS)}), path)
    assert [line.partition(":")[0] for line in found] == ["p.a-over-b", "p.new", "p.other"]
    assert "that is gone" in found[-1]

    path.write_text("{")
    with pytest.raises(ResultError, match="not a list of verdicts"):
        audits.mismatches(rows, path)


def test_load_results_checks_the_name(tmp_path):
    result_of(WINS).save(tmp_path / "e.json")
    assert list(audits.load_results(tmp_path)) == ["e"]
    result_of(WINS).save(tmp_path / "f.json")
    with pytest.raises(ResultError, match=r"f\.json: expected experiment f, got e"):
        audits.load_results(tmp_path)


# The report


def test_table_fits_and_counts(tmp_path):
    write_claims(
        tmp_path,
        claim_of(printed="+2.00"),
        claim_of(id="p." + "very-long-name-" * 8 + "x", experiments=["none"]),
    )
    rows = audits.audit(tmp_path, {"e": result_of(WINS)})
    text = report.table(rows)
    assert max(len(line) for line in text.splitlines()) <= 110
    assert "+2.40 [+0.98, +3.82]" in text
    assert text.endswith("2 claims of the papers: 1 direction, 1 not attempted")
    text = report.table(rows, committed={rows[0]["claim"]: {**rows[0], "ours": 1.0}})
    line = next(line for line in text.splitlines() if line.startswith("a-over-b"))
    assert line.split()[1:3] == ["+2.00", "+1.00"]
    assert max(len(line) for line in text.splitlines()) <= 110


def test_our_questions_never_stand_among_the_papers_claims(tmp_path):
    own = {"known": None, "asked_by": "us", "headline": True}
    write_claims(tmp_path, claim_of(headline=True), claim_of(id="p.control.own", **own))
    rows = audits.audit(tmp_path, {"e": result_of(WINS)})
    counts = "1 claims of the papers: 1 direction; 1 questions of our own: 1 yes"
    assert report.summary(rows) == counts
    text = report.table(rows)
    paper, us = re.split("Questions of our own", text)
    assert "Claims of the papers" in paper and text.endswith(counts)
    assert ("control.own" in us) and ("yes" not in paper) and ("direction" not in us[:-100])
    page = report.readme(rows, "a <!-- results:begin --> b <!-- results:end --> c")
    paper, us = page.split("**Questions of our own**")
    assert "| P | 1 | 1 |" in paper and "| P | 1 | 1 |" in us
    assert "| 5 | d | direction |" in paper and "| 5 | d | yes |" in us
    assert report.readme(rows, page) == page


HOSTILE = [
    "a <script>alert(1)</script> b",
    "{raw}`html <b>x</b>`",
    "<img src=x onerror=alert(1)>",
    "code `x` and **bold** and _em_ and ~~gone~~",
    "[x](javascript:alert(1)) ![x](y) [x]{.y} [x][y]",
    "&lt;script&gt;",
    "one | more | cells",
    "a\\|b \\<b>",
    "costs $5 and $6 | $7",
    "{{ substitution }} <!-- comment -->",
    "$<img src=x>$",
    "line\n\n```{raw} html\n<b>x</b>\n```\n",
]


@pytest.mark.parametrize("statement", HOSTILE)
def test_a_hostile_text_comes_out_as_text(tmp_path, statement):
    """Through the parser of the book: one row, one cell, no mark-up but our own."""
    from docutils.core import publish_doctree
    from myst_parser.docutils_ import Parser

    row = audit_one(tmp_path, [result_of(WINS)], statement=statement, where=statement)
    row |= {"unit": statement, "why": statement, "stand_in": statement, "revised": statement}
    row["experiment"] = statement
    extensions = "amsmath attrs_block attrs_inline colon_fence deflist dollarmath html_image"
    options = {"myst_enable_extensions": [*extensions.split(), "substitution"], "report_level": 5}
    source = matrices.markdown([row], "ledger.html")
    tree = publish_doctree(source, parser=Parser(), settings_overrides=options)
    (body,) = [node for node in tree.findall() if node.tagname == "tbody"]
    assert [len(line.children) for line in body.children] == [5]
    allowed = "a href=|/a".split("|")
    for node in body.findall():
        if node.tagname == "raw":
            assert node.astext().strip("<>").startswith(tuple(allowed)), node
        assert node.tagname not in ("reference", "image", "inline", "pending")
    words = " ".join(statement.split())
    if not statement.startswith("$"):
        assert body.astext().count(words) == 1
        assert not [node for node in body.findall() if node.tagname == "math"]


def test_formulas_stay_formulas():
    text = "the norm $\\|W_t\\|_*$ of $|a|<b$ for MRN_t, 5 % [our control]"
    expected = (
        "the norm $\\Vert W_t\\Vert _*$ of $\\vert a\\vert \\lt b$ for MRN_t, 5 % [our control]"
    )
    assert report.escape(text) == expected


def test_a_row_says_that_its_rule_was_revised(tmp_path):
    folder = tmp_path / "claims"
    folder.mkdir()
    (tmp_path / "manifest.json").write_text('{"revised": {"p.a-over-b": "it was misread"}}')
    write_claims(folder, claim_of())
    (row,) = audits.audit(folder, {"e": result_of(WINS)})
    assert row["revised"] == "it was misread"


# What is committed


def test_committed_claims_are_valid_and_agree_with_the_printed_tables():
    folder = ROOT / "data" / "claims"
    of_paper = claims.load(folder / "tnrdmtl.yaml")
    by_id = {claim.id.removeprefix("tnrdmtl."): claim for claim in of_paper.claims}
    table = np.genfromtxt(
        folder / "printed" / "tnrdmtl_table1.csv", delimiter=",", names=True, dtype=None,
        encoding="utf-8",
    )  # fmt: skip
    arms = dict(zip(("stl", "laf", "tucker", "tt"), table, strict=True))
    for arm, row in arms.items():
        assert float(by_id[f"table1.{arm}"].printed) == row["printed"]
        if arm != "stl":
            claim = by_id[f"table1.{arm}-over-stl"]
            assert float(claim.printed) == pytest.approx(row["printed"] - arms["stl"]["printed"])
            stds = [float(std) for std in claim.printed_std]
            assert stds == [row["printed_std"], arms["stl"]["printed_std"]]
    for claim in of_paper.claims:
        printed = claim.resolve_printed(folder / "printed")
        assert claim.rule.text(printed).endswith(".")
        if claim.rule.kind == "curve":
            assert list(printed.points) == [5, 25, 50, 75, 100, 150, 200, 250, 300, 350, 400]


def test_what_the_verdicts_were_before_is_kept_in_words_that_are_known():
    rows = json.loads((ROOT / "data" / "verdicts-2026-11.json").read_text())
    words = {"reproduced", "direction", "not reproduced", "not attempted"}
    assert {row["before"][0] for row in rows} == words
    for row in rows:
        assert row["after"][0] in report.GROUPS[row["asked_by"]][1]


def test_who_asked_which_backbone_and_what_was_fitted_is_said_in_the_claims():
    for of_paper in claims.load_all(ROOT / "data" / "claims"):
        for claim in of_paper.claims:
            ours = claim.where == "our control"
            assert (claim.asked_by == "us") == ours, claim.id
            if "frozen" in claim.unit and not ours:
                assert claim.incomparable() is not None, claim.id
            if claim.id.startswith("srdml.cifar.") and not ours:
                assert claim.incomparable() is not None, claim.id
    calibrated = {
        claim.id
        for of_paper in claims.load_all(ROOT / "data" / "claims")
        for claim in of_paper.claims
        if claim.calibrated
    }
    assert "tnrdmtl.figure1.initial-norm-laf" in calibrated
