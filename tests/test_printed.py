"""Every printed number is in a claim or has a reason; tables of claims; rules on the print."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import made_up_ledger as toy
import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter
from scipy import stats

from mtlbook import cli
from mtlbook.documents import read_yaml
from mtlbook.ledger import audit, claims, coverage, report, rules, statistics, strict, tables
from mtlbook.ledger.results import Result

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "data" / "claims"
# What the five papers print, and what was read off their figures; the other files are of others,
# or of marks and squares.
OF_THE_PAPERS = (
    "mrn_tables srdml_main srdml_synthetic_gain srdml_synthetic_relation tnrdmtl_figure1 "
    "tnrdmtl_table1"
).split()


@pytest.fixture(scope="module")
def rows():
    return audit.audit(FOLDER, audit.load_results(ROOT / "data" / "results"))


# What is committed


def cells_of(name):
    """Every cell that is not a place, found without the ledger."""
    with (FOLDER / "printed" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        head, *body = csv.reader(stream)
    values = ("printed", "printed_std", "printed_pm", "digitised", "side_points", "sign")
    values += ("bold_in_print", "underlined_in_print")
    return {
        f"{name}.csv:{line}:{column}"
        for line, row in enumerate(body, start=2)
        for column, cell in zip(head, row, strict=True)
        if column in values and cell
    }


def test_every_printed_number_is_in_a_claim_or_has_a_reason():
    found = {number.place: number for number in coverage.numbers(FOLDER)}
    names = [path.stem for path in (FOLDER / "printed").glob("*.csv")]
    assert set(found) == set().union(*map(cells_of, names))
    assert sum(len(cells_of(name)) for name in OF_THE_PAPERS) == 709
    assert [place for place, number in found.items() if not number.claims + number.reasons] == []


def test_a_number_that_stands_elsewhere_is_in_the_claim_that_judges_it():
    """The printed number of the claim is a cell's, or the difference of two of its cells."""
    of_claim: dict[str, list[str]] = {}
    for number in coverage.numbers(FOLDER):
        for name in number.claims:
            of_claim.setdefault(name, []).append(number.text)
    by_id = {claim.id: claim for of in claims.load_all(FOLDER) for claim in of.claims}
    # printed averages that contradict their rows: there the claim takes the row's own
    gains = ("mrn-over-stl", "full-over-mrn-8", "full-over-mrn-t")
    by_row = {f"mrn.table1.{name}-20" for name in gains}
    # a share of seeds is no cell
    by_row.add("srdml.synthetic.pattern-of-pairs")
    checked = 0
    for name, texts in of_claim.items():
        claim = by_id[name]
        if claim.printed is not None and name not in by_row:
            numbers = [Decimal(text) for text in texts]
            whole = {abs(a - b) for a in numbers for b in numbers} | {abs(a) for a in numbers}
            assert abs(Decimal(claim.printed)) in whole, name
            checked += 1
    assert checked > 400
    rows = claims.printed_rows(FOLDER / "printed" / "mrn_tables.csv")
    at_20 = [r for r in rows if (r["table"], r["train_percent"]) == ("Table 1", "20")]

    def mean(method):
        return np.mean([float(r["printed"]) for r in at_20 if r["method"] == method][:4])

    for other, name in zip(("STL", "MRN_8", "MRN_t"), gains, strict=True):
        printed = float(by_id[f"mrn.table1.{name}-20"].printed)
        assert abs(mean("MRN full") - mean(other) - printed) <= 0.051, name


def test_tasks_are_counted_as_the_results_do():
    """A position in brackets is the domain that the table names."""
    records = audit.load_results(ROOT / "data" / "results")["mrn-linear"].records
    names = [r["metric"].split("/")[1] for r in records if r["metric"].startswith("correlation/")]
    # pairs in the order of the tasks: the first task is first in three of them, and so on
    order = sorted({n for pair in names for n in pair.split("-")}, key=lambda n: -sum(
        pair.startswith(f"{n}-") for pair in set(names)
    ))  # fmt: skip
    assert order == ["amazon", "caltech10", "dslr", "webcam"]
    words = {"Amazon": "amazon", "Caltech": "caltech10", "DSLR": "dslr", "Webcam": "webcam"}
    seen = set()
    for of_paper in claims.load_all(FOLDER):
        for claim in of_paper.claims:
            if claim.id.startswith("mrn.table1-cells.") and "average" not in claim.id:
                (task,) = (word for word in words if f" on {word}" in claim.statement)
                assert claim.rule.metric.endswith(f"[{order.index(words[task])}]"), claim.id
                seen.add(task)
            if claim.id.startswith("srdml.synthetic-cells."):
                task = int(claim.id.rpartition("-")[2])
                assert claim.rule.metric.endswith(f"[{task - 1}]"), claim.id
    assert seen == set(words)


def test_gated_domains_come_in_the_order_of_their_tables():
    entries = {entry["name"]: entry for entry in read_yaml(ROOT / "data" / "datasets.yaml")}
    listed = read_yaml(FOLDER / "tables" / "mrn.yaml")["tables"][0]["words"]["at"]["task"]
    printed = {
        "office_home": ["Art", "Clipart", "Product", "RealWorld"],
        "imageclef_da": ["Caltech-256", "ImageNet", "PascalVOC", "Bing"],
    }
    ours = {
        "office_home": ["Art", "Clipart", "Product", "Real_World"],
        "imageclef_da": ["caltech256", "imagenet", "voc2012", "bing"],
    }
    for name, tasks in printed.items():
        assert list(entries[name]["counts"]) == ours[name]
        assert [listed[task] for task in tasks] == [f"[{i}]" for i in range(4)]


def test_single_numbers_never_count_as_claims_of_a_paper(rows):
    kinds = {row["claim"]: row["kind"] for row in rows}
    assert set(kinds.values()) == set(report.GROUPS)
    for row in rows:
        assert (row["kind"] == "cell") == bool(row["cells"]) == ("-cells." in row["claim"])
        assert (row["kind"] == "us") == (row["asked_by"] == "us")
        assert row["verdict"] in report.GROUPS[row["kind"]][1]
        # a family of their own: what the paper argues from is not corrected for them
        if row["kind"] == "cell":
            assert row["group"].endswith(", number by number") and not row["headline"]
        else:
            assert "number by number" not in row["group"]
    cells = [row for row in rows if row["kind"] == "cell"]
    assert "reproduced" not in {row["verdict"] for row in cells}  # no margin was stated
    assert f"{len(cells)} single printed numbers: " in report.summary(rows)


def test_what_the_printed_numbers_say_of_each_other(rows):
    """The answers, against plain arithmetic on the files."""
    answers = {row["claim"]: row for row in rows if ".print." in row["claim"]}
    printed = claims.printed_rows(FOLDER / "printed" / "mrn_tables.csv")
    for table in ("Table 1", "Table 2", "Table 3"):
        off = 0
        for average in (r for r in printed if r["task"] == "Avg" and r["table"] == table):
            same = ("table", "method", "train_percent")
            of = [float(r["printed"]) for r in printed if r["task"] != "Avg"
                  and all(r[k] == average[k] for k in same)]  # fmt: skip
            assert len(of) == 4
            off += abs(np.mean(of) - float(average["printed"])) > 0.0501
        row = answers[f"mrn.print.averages-{table.replace(' ', '').lower()}"]
        assert (row["ours"], row["n"], row["verdict"]) == (off, 24, "no" if off else "yes")
    assert answers["mrn.print.averages-table1"]["ours"] == 4
    assert "94.4 printed, 93.075 by row" in answers["mrn.print.averages-table1"]["why"]
    assert answers["srdml.print.bold"]["verdict"] == "yes"
    underlined = answers["srdml.print.underlined"]
    assert underlined["verdict"] == "no" and "PCGrad (90.11) is marked, SRDML" in underlined["why"]
    # 10 % of 1000 are positive, 71.32 % precise, 69.83 % found: STL, of CIFAR-MTL
    found = 100 * 0.6983
    false = found * (1 - 0.7132) / 0.7132
    implied = 100 * (1 - (100 - found + false) / 1000)
    assert f"92.65 printed, {implied:.2f} by" in answers["srdml.print.accuracy-cifar"]["why"]
    assert (
        f"at least {50 * (1 + 0.6983 - false / 900):.2f}"
        in answers["srdml.print.area-cifar"]["why"]
    )
    assert answers["srdml.print.area-celeba"]["ours"] == 2
    for row in answers.values():
        assert (row["experiment"], row["result_file"], row["p"], row["low"]) == (
            "",
            None,
            None,
            None,
        )


def test_the_command_says_how_many(capsys, monkeypatch, tmp_path):
    assert cli.main(["audit", "--coverage"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.split()[:2] == ["all", str(len(coverage.numbers(FOLDER)))]
    assert last.split()[-1] == "0"


# Made-up tables

TABLE = "table,method,task,train_percent,printed\n" + "".join(
    f"1,{method},{task},5,{number}\n"
    for method, of in {"A": ("50.0", "60.5"), "B": ("51.0", "60.5"), "C": ("48.9", "61.0")}.items()
    for task, number in zip(("X", "Y"), of, strict=True)
)
MADE = {
    "file": "t.csv",
    "column": "printed",
    "rows": {"method": ["B", "C"]},
    "minus": {"method": "A"},
    "tie": "printed as equal to A: no side is claimed",
    "words": {"arm": {"method": {"B": "b", "C": "c"}}, "at": {"task": {"X": "[0]", "Y": "[1]"}}},
    "claim": {
        "id": "p.cells.{method}-{task}",
        "where": "Table {table}, {train_percent} %",
        "statement": "{method} is {side} on {task}, by {size}",
        "known": "derived",
        "experiments": ["e"],
        "rule": {"kind": "difference", "arm": "{arm}", "reference": "a", "metric": "m{at}"},
    },
}


def folder_of(tmp_path, *entries, text=TABLE, **more):
    (tmp_path / "printed").mkdir(parents=True)
    (tmp_path / "printed" / "t.csv").write_text(text)
    head = {"paper": "p", "title": "T", "source": "S", "claims": []}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(head))
    (tmp_path / "tables").mkdir()
    content = {"paper": "p", "tables": list(entries), **more}
    (tmp_path / "tables" / "p.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def test_an_entry_makes_a_claim_of_every_number(tmp_path):
    folder = folder_of(tmp_path, MADE)
    (of_paper,) = claims.load_all(folder)
    made = {claim.id: claim for claim in of_paper.claims}
    assert list(made) == ["p.cells.b-x", "p.cells.c-x", "p.cells.c-y"]  # B equals A on Y
    up, down = made["p.cells.b-x"], made["p.cells.c-x"]
    assert (up.printed, up.rule.sign, down.printed, down.rule.sign) == ("+1.0", 1, "-1.1", -1)
    assert down.statement == "C is lower on X, by 1.1"
    assert (down.rule.arm, down.rule.metric, down.where) == ("c", "m[0]", "Table 1, 5 %")
    assert down.cells == ("t.csv:6:printed", "t.csv:2:printed")
    assert down.kind == "cell"
    found = {number.place: number for number in coverage.numbers(folder)}
    assert found["t.csv:5:printed"].reasons == ["printed as equal to A: no side is claimed"]
    assert found["t.csv:2:printed"].claims == ["p.cells.b-x", "p.cells.c-x"]
    assert found["t.csv:3:printed"].claims == ["p.cells.c-y"]


def test_one_task_of_a_result_is_judged(tmp_path):
    result = Result("e", {}, data={"tier": "fetched"})
    for repeat in range(6):
        jitter = 0.1 * (repeat % 3)
        for arm, of in (("a", (50, 60)), ("b", (52, 58)), ("c", (48, 60))):
            per_task = [of[0] + jitter, of[1] - jitter]
            result.add(
                arm=arm, metric="m", value=np.mean(per_task), per_task=per_task, repeat=repeat
            )
    found = {row["claim"]: row for row in audit.audit(folder_of(tmp_path, MADE), {"e": result})}
    # differences are exact, so a new run of ours is, too: the printed sizes are excluded
    assert found["p.cells.b-x"]["ours"] == pytest.approx(2)
    assert found["p.cells.b-x"]["verdict"] == "refuted at the printed size"
    assert found["p.cells.c-y"]["ours"] == 0
    assert result.values("a", "m[1]") == {r: 60 - 0.1 * (r % 3) for r in range(6)}
    assert result.values("a", "m[2]") == {} == result.values("a", "n[0]")


def test_missing_numbers_are_named(tmp_path, monkeypatch, capsys):
    root = tmp_path / "repository"
    root.mkdir()
    toy.build(root)
    monkeypatch.setenv("MTLBOOK_ROOT", str(root))
    assert cli.main(["audit", "--coverage"]) == 1
    assert "tables.csv:2:value: 51.00 is in no claim" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reason": "a reason that is long enough"}, "expected one of claim, judged_by and reason"),
        ({"claim": None}, "expected one of claim"),
        ({"rows": {"method": "Z"}}, "no row fits"),
        ({"minus": {"method": "Z"}}, "expected one row with .*found 0"),
        ({"words": {**MADE["words"], "arm": {"method": {"B": "b"}}}}, "no word for method 'C'"),
        ({"words": {}}, r"\{arm\}: expected a column of the file, or one of table, method"),
        ({"file": "u.csv"}, r"u\.csv: cannot be read"),
        ({"claim": {**MADE["claim"], "colour": "red"}}, "claim p.cells.b-x: colour"),
        ({"claim": {**MADE["claim"], "id": "p.cells.same"}}, "ids given twice: p.cells.same"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_mistakes_in_tables_are_refused(tmp_path, change, message):
    entry = {k: v for k, v in {**MADE, **change}.items() if v is not None}
    with pytest.raises(claims.ClaimError, match=message):
        claims.load_all(folder_of(tmp_path, entry))


def test_a_claim_that_is_not_there_judges_nothing(tmp_path):
    entry = {"file": "t.csv", "column": "printed", "judged_by": ["p.nobody.{method}"]}
    with pytest.raises(claims.ClaimError, match=r"there is no claim p\.nobody\.a"):
        coverage.numbers(folder_of(tmp_path, entry))


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        ({"a": {"less": "b"}}, [2]),
        ({"a": {"more": "b"}}, [3]),
        ({"a": {"same": "b"}}, [4]),
        ({"a": ["10", "2"]}, [3, 4]),
        ({"a": "9", "b": "10"}, [2]),
    ],
)
def test_rows_are_selected_as_numbers_and_words(wanted, lines):
    rows = [{"a": "9", "b": "10"}, {"a": "10", "b": "9"}, {"a": "2", "b": "2"}]
    assert [line for line, _ in tables.selected(rows, wanted)] == lines


# Rules


def judge(printed, **rule):
    return (
        TypeAdapter(rules.Rule)
        .validate_python({"kind": "print", "file": "t", **rule})
        .judge(None, printed)
    )


def averages(*numbers):
    tasks = [*(f"t{i}" for i in range(len(numbers) - 1)), "Avg"]
    row = {"table": "1", "train_percent": "5", "method": "A"}
    return rules.Printed(
        table=[row | {"task": t, "printed": n} for t, n in zip(tasks, numbers, strict=True)]
    )


@pytest.mark.parametrize(
    ("numbers", "answer", "words"),
    [
        (("1.0", "2.0", "1.5"), "yes", "1 of 1 agree"),
        (("1.0", "1.1", "1.1"), "yes", ""),  # 1.05 rounds to either
        (("1.0", "2.0", "1.6"), "no", "rounding before averaging can explain"),
        (("1.0", "2.0", "1.7"), "no", "1.7 printed, 1.500 by row"),
    ],
)
def test_averages(numbers, answer, words):
    found = judge(averages(*numbers), check="averages")
    assert found.verdict == answer and words in found.why
    assert ("rounding" in found.why) == ("rounding" in words)


@pytest.mark.parametrize(
    ("most", "b", "answer"), [(False, 2, "no"), (True, 2, "yes"), (False, 0, "yes")]
)
def test_the_lead(most, b, answer):
    table = [
        {"method": m, "task": t, "printed": str(n)}
        for t, of in {"x": (3, 1), "y": (3, 1), "z": (1, b)}.items()
        for m, n in zip("AB", of, strict=True)
    ]
    found = judge(rules.Printed(table=table), check="lead", method="A", over=["B"], most=most)
    assert found.verdict == answer
    backwards = judge(rules.Printed(table=table), check="lead", method="B", over=["A"], sign=-1)
    assert backwards.verdict == ("no" if b else "yes")


def test_scores_of_known_answers_agree():
    """From a table of right and wrong answers, printed to two decimals."""
    right, missed, false, rejected = 60, 40, 90, 810
    n = right + missed + false + rejected
    fpr, recall = false / (false + rejected), right / (right + missed)
    scores = {
        "accuracy_percent": (right + rejected) / n,
        "precision_percent": right / (right + false),
        "recall_percent": recall,
        "auc_percent": (1 + recall - fpr) / 2 + 0.001,
    }
    table = [
        {"dataset": "D", "method": "A", "metric": m, "printed": f"{100 * s:.2f}"}
        for m, s in scores.items()
    ]
    printed = rules.Printed(table=table)
    assert judge(printed, check="accuracy", share=0.1, tolerance=0.02).verdict == "yes"
    assert judge(printed, check="accuracy", share=0.2, tolerance=0.02).verdict == "no"
    assert judge(printed, check="area", share=0.1).verdict == "yes"
    assert judge(printed, check="area").verdict == "yes"  # the share follows from the rest
    table[-1]["printed"] = f"{100 * scores['auc_percent'] - 0.3:.2f}"
    assert judge(printed, check="area", share=0.1).verdict == "no"
    assert judge(printed, check="area").verdict == "no"


def test_a_rule_on_the_print_is_a_question_of_ours_without_a_run():
    content = {"id": "p.print.x", "where": "our control", "statement": "s", "asked_by": "us"}
    rule = {"kind": "print", "check": "bold", "file": "t.csv"}
    claims.Claim.model_validate(content | {"rule": rule})
    for wrong in ({"experiments": ["e"]}, {"asked_by": "paper", "known": "printed"}):
        with pytest.raises(ValueError, match="print"):
            claims.Claim.model_validate(content | {"rule": rule} | wrong)


def test_the_interval_of_a_ratio_of_spreads_covers():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        ours, theirs = rng.normal(0, 3, 12), rng.normal(0, 2, 8)
        i = statistics.spread_ratio_interval(ours, theirs.std(ddof=1), 8)
        hits += i.low <= 1.5 <= i.high
    assert abs(hits / 2000 - 0.95) < 0.015
    i = statistics.spread_ratio_interval(ours, 1.0, 8)
    assert i.mean / i.low == pytest.approx(np.sqrt(stats.f.ppf(0.975, 11, 7)))
    with pytest.raises(ValueError, match="other, n_other"):
        statistics.spread_ratio_interval(ours, 0.0, 8)


@pytest.mark.parametrize(
    ("scale", "n", "verdict"),
    [(1.0, 200, "reproduced"), (0.2, 20, "refuted at the printed size"), (1.0, 6, "undecided")],
)
def test_spreads(scale, n, verdict):
    values = stats.norm.ppf((np.arange(n) + 0.5) / n) * scale
    values /= values.std(ddof=1) / scale
    result = Result("e", {})
    for repeat, value in enumerate(values):
        result.add(arm="a", metric="m", value=value, repeat=repeat)
    rule = {"kind": "spread", "arm": "a", "metric": "m", "printed_n": max(n, 10), "factor": 1.5}
    rule = TypeAdapter(rules.Rule).validate_python(rule)
    found = rule.judge(result.values, rules.Printed("1.0"))
    assert found.verdict == verdict and found.ours == pytest.approx(scale)
    assert rule.text(rules.Printed("1.0")).endswith("lies between 1/1.5 and 1.5.")


# History


def test_claims_of_tables_are_dated_and_guarded(tmp_path):
    root = tmp_path / "repository"
    root.mkdir()
    toy.build(root)
    entry = {
        "file": "tables.csv",
        "column": "value",
        "rows": {"method": "b"},
        "minus": {"method": "a"},
        "words": {"arm": {"method": {"b": "b"}}},
        "claim": toy.claim("cells", id="toy.cells.{method}", known="derived"),
    }
    path = root / "data" / "claims" / "tables" / "toy.yaml"
    path.parent.mkdir()

    def write(**more):
        path.write_text(yaml.safe_dump({"paper": "toy", "tables": [entry], **more}))
        strict.write(root)
        toy.commit(root)
        return [str(finding) for finding in strict.check(root).findings]

    (late,) = write()
    assert "tables/toy.yaml: claim toy.cells.b" in late and "before the run" in late
    assert write(revised=[{"day": "2026-01-03", "why": "first asked after the run"}]) == []
    found = strict.check(root)
    assert found.revised == {"toy.cells.b": "first asked after the run"}
    (row,) = (row for row in found.rows if row["claim"] == "toy.cells.b")
    assert row["printed"] == "+1.00"
    # a printed cell, and a rule, changed after that
    before = path.read_text()
    path.write_text(before.replace("reference: a", "reference: c"))
    assert any(
        "toy.cells.b" in str(f) and "before the run" in str(f) for f in strict.check(root).findings
    )
    path.write_text(before)
    csv_file = root / "data" / "claims" / "printed" / "tables.csv"
    csv_file.write_text(csv_file.read_text().replace("52.00", "53.00"))
    kinds = {finding.kind for finding in strict.check(root).findings}
    assert {"printed", "rule", "manifest"} <= kinds
    assert json.loads((root / "data" / "manifest.json").read_text())["claims"]["toy.cells.b"]
