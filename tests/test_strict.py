"""The strict audit: whatever is changed against its rules is found, and named."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import made_up_ledger as toy
import pytest
import yaml

from mtlbook import cli
from mtlbook.ledger import audit, contents, manifest, strict
from mtlbook.ledger.files import write_atomically
from mtlbook.ledger.history import History, HistoryError
from mtlbook.ledger.results import Result

ROOT = Path(__file__).resolve().parents[1]
CLAIMS, PRINTED = "data/claims/toy.yaml", "data/claims/printed/"
TABLE, TUNING, ALONE = (f"data/results/{name}.json" for name in ("table", "tuning", "alone"))


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("ledger") / "repository"
    root.mkdir()
    toy.build(root)
    return root


@pytest.fixture
def repository(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "repository"))


def findings(root):
    return [str(finding) for finding in strict.check(root).findings]


# What an attacker does. Each takes the root; results are saved with a hash that fits.


def text(path, old, new, count=1):
    def edit(root):
        before = (root / path).read_text()
        assert old in before
        (root / path).write_text(before.replace(old, new, count))

    return edit


def remove(path):
    return lambda root: (root / path).unlink()


def claims(change, **head):
    """Rewrite the file of claims; `change` gets the claims by their short names."""

    def edit(root):
        entries = yaml.safe_load((root / CLAIMS).read_text())["claims"]
        by_name = {entry["id"].removeprefix("toy."): entry for entry in entries}
        change(by_name)
        toy.write_claims(root, list(by_name.values()), **head)

    return edit


def a_claim(name, **fields):
    return claims(lambda by_name: by_name[name].update(fields))


def result(path, change):
    def edit(root):
        content = Result.load(root / path)
        change(content)
        content.save(root / path)

    return edit


def listed(path, change):
    """Rewrite a YAML file."""

    def edit(root):
        content = yaml.safe_load((root / path).read_text())
        change(content)
        (root / path).write_text(yaml.safe_dump(content))

    return edit


def verdicts(change):
    def edit(root):
        content = json.loads((root / contents.VERDICTS).read_text())
        change(content)
        (root / contents.VERDICTS).write_text(json.dumps(content))

    return edit


def of_manifest(change):
    def edit(root):
        content = json.loads((root / contents.MANIFEST).read_text())
        change(content)
        write_atomically(root / contents.MANIFEST, manifest.to_json(content))

    return edit


def both(*edits):
    def edit(root):
        for each in edits:
            each(root)

    return edit


def dated_anew(root):
    """A rule is changed, and the run that it judges becomes a later one by its date alone."""
    a_claim("gain", printed="+1.3")(root)
    at = toy.commit(root)

    def later(found):
        for of in entry(found)["of"].values():
            of["started"] = of["started"].replace("2026-01", "2026-02")
        entry(found)["git_commit"] = at

    result(TABLE, later)(root)


def below(root):
    """A better result of the same name, in a folder of its own."""
    (root / "data/results/more").mkdir()
    shutil.copy(root / TABLE, root / "data/results/more")
    result("data/results/more/table.json", raise_b)(root)


def to_an_attic(root):
    shutil.copytree(root / "data/claims", root / "data/claims/attic")
    claims(lambda by_name: by_name.pop("alone"))(root)


def first(found):
    return found.records[0]


def raise_b(found):
    """All numbers of an arm, so that everything inside the file still agrees."""
    for record in found.records:
        if record["arm"] == "b" and record["metric"] == "m":
            record["value"] += 3.0
            record["per_task"] = [x + 3.0 for x in record["per_task"]]


def swap_arms(found):
    for record in found.records:
        record["arm"] = {"a": "b", "b": "a"}[record["arm"]]


def drop_repeat(found):
    del found.provenance["runs"][0]["of"]["repeat=4"]
    found.records = [record for record in found.records if record["repeat"] != 4]


def entry(found):
    return found.provenance["runs"][0]


def tuned_on_other_scores(root):
    """The tuning and the table that used it, both changed, so that hashes agree again."""
    result(TUNING, lambda r: r.records[2].update(value=90.0))(root)
    result(TUNING, lambda r: r.settings["chosen"].update(b=1.0))(root)
    used = Result.load(root / TUNING).content_sha256()
    result(TABLE, lambda r: r.uses.update(tuning=used))(root)
    result(TABLE, lambda r: r.settings["chosen"].update(b=1.0))(root)


NEW = toy.claim("new")
EDIT, WRITE, COMMIT = "edit", "edit and write", "edit, write and commit"
EVERY = (EDIT, WRITE, COMMIT)
RULE = r"claim toy\.{}: expected as it is now"

# name: (what is done, how far it is covered up, what the message must name)
ATTACKS = {
    # claims
    "statement": (a_claim("gain", statement="b beats a by far"), EVERY, "claim toy.gain"),
    "memory becomes print": (a_claim("memory", known="printed"), EVERY, "claim toy.memory"),
    "printed number": (a_claim("gain", printed="+1.3"), EVERY, "claim toy.gain"),
    "tolerance": (a_claim("level", rule=toy.VALUE | {"tolerance": 2}), EVERY, "claim toy.level"),
    "sign": (
        a_claim("alone", rule=toy.CLAIMS[0]["rule"] | {"sign": -1}),
        EVERY,
        "claim toy.alone",
    ),
    "other metric": (
        a_claim("memory", rule=toy.VALUE | {"kind": "value"}, printed="51", known="printed"),
        EVERY,
        "claim toy.memory",
    ),
    "source of a claim": (a_claim("gain", where="Table 9"), EVERY, "claim toy.gain"),
    "unit": (a_claim("level", unit="points"), EVERY, "claim toy.level"),
    "whose question": (a_claim("alone", asked_by="paper", known="printed"), EVERY, "toy.alone"),
    "other experiment": (a_claim("alone", experiments=["table"]), EVERY, "claim toy.alone"),
    "headline": (a_claim("level", headline=True), (EDIT,), "claim toy.level"),
    "claim deleted": (claims(lambda c: c.pop("alone")), EVERY, "claim toy.alone"),
    "claim added": (claims(lambda c: c.update(new=NEW)), EVERY, "claim toy.new"),
    "claim renamed": (a_claim("gain", id="toy.profit"), EVERY, "claim toy.gain"),
    "source of the paper": (claims(lambda c: None, source="arXiv 2"), EVERY, CLAIMS),
    "title of the paper": (claims(lambda c: None, title="Games"), (EDIT,), CLAIMS),
    "a key twice": (text(CLAIMS, "  where:", "  where: Figure 1\n  where:"), EVERY, "where"),
    "broken file": (text(CLAIMS, "kind: value", "kind: [value"), (EDIT,), CLAIMS),
    "empty words on a revision": (a_claim("gain", where="T", revised=""), (EDIT,), CLAIMS),
    "print's own claim deleted": (claims(lambda c: c.pop("print")), EVERY, "claim toy.print"),
    "claim put aside": (to_an_attic, EVERY, "claim toy.alone"),
    "mark of a claim that is not the paper's": (claims(lambda c: None, mark=None), EVERY, CLAIMS),
    "words that say nothing": (a_claim("gain", printed="+1.3", revised=" "), EVERY, CLAIMS),
    # printed values
    "digitised point": (text(f"{PRINTED}curves.csv", "2.0", "2.2"), EVERY, "curves.csv"),
    "point added": (
        text(f"{PRINTED}curves.csv", "loss,b,2,1.0", "loss,b,2,1.0\nloss,b,3,0.5"),
        (EDIT,),
        "curves.csv",
    ),
    "printed cell": (text(f"{PRINTED}tables.csv", "52.00", "51.00"), EVERY, "tables.csv"),
    "a column twice": (
        lambda root: (root / PRINTED / "tables.csv").write_text(
            "table,method,value,value\n1,a,50.00,51.00\n1,b,53.00,52.00\n"
        ),
        (EDIT,),
        "tables.csv.*twice: value",
    ),
    "a point without its column": (
        text(f"{PRINTED}curves.csv", "quantity,", "quality,"),
        (EDIT,),
        "toy.curve.*curves.csv.*columns quantity",
    ),
    "printed row removed": (text(f"{PRINTED}tables.csv", "1,b,52.00\n", ""), EVERY, "tables.csv"),
    "printed file deleted": (remove(f"{PRINTED}tables.csv"), EVERY, "tables.csv"),
    "printed file that a rule needs": (remove(f"{PRINTED}curves.csv"), (EDIT,), "curves.csv"),
    # results
    "number, by hand": (text(TABLE, '"value": 51.2', '"value": 61.2'), (EDIT,), TABLE),
    "number": (result(TABLE, lambda r: first(r).update(value=60.0)), EVERY, f"{TABLE}.*a m, rep"),
    "number and its tasks": (result(TABLE, raise_b), EVERY, TABLE),
    "tasks zeroed": (result(TABLE, lambda r: first(r).update(per_task=[0.0, 0.0])), EVERY, TABLE),
    "tasks removed": (result(TABLE, lambda r: first(r).pop("per_task")), EVERY, TABLE),
    "no tasks": (result(TABLE, lambda r: first(r).update(per_task=[])), EVERY, TABLE),
    "record doubled": (
        result(TABLE, lambda r: r.records.append(first(r) | {"value": 60.0, "per_task": [60.0]})),
        EVERY,
        "a m, repeat 0: expected one record, found 2",
    ),
    "record removed": (result(TABLE, lambda r: r.records.pop(0)), EVERY, TABLE),
    "unwelcome repeat dropped": (result(TABLE, drop_repeat), EVERY, f"{TABLE}.*repeat=4"),
    "arms swapped": (result(ALONE, swap_arms), EVERY, ALONE),
    "seed": (result(TABLE, lambda r: first(r).update(seed=9)), EVERY, TABLE),
    "not a number": (text(ALONE, '"value": 0.5', '"value": NaN'), (EDIT,), ALONE),
    "truncated": (lambda root: (root / ALONE).write_text("{"), (EDIT,), ALONE),
    "a key twice in a result": (
        text(ALONE, '"curves": {}', '"curves": {}, "curves": {}'),
        EVERY,
        ALONE,
    ),
    "result deleted": (remove(ALONE), EVERY, ALONE),
    "result renamed": (
        lambda root: (root / ALONE).rename(root / "data/results/together.json"),
        (EDIT,),
        "data/results/together.json",
    ),
    "another result of the name": (below, EVERY, "data/results/more/table.json"),
    "result of another form": (
        result(TABLE, lambda r: entry(r).update(of="repeat=1")),
        (EDIT,),
        f"{TABLE}: expected a result",
    ),
    # data, provenance, what it was made with
    "run dated anew": (dated_anew, (WRITE, COMMIT), f"{TABLE}: run repeat=0.*dated anew"),
    "commit of another form": (
        result(TABLE, lambda r: entry(r).update(git_commit=["x"])),
        (EDIT,),
        f"{TABLE}: expected runs made",
    ),
    "data hash": (result(TABLE, lambda r: r.data.update(sha256="0" * 64)), EVERY, TABLE),
    "data hash of a drawn set": (
        result(ALONE, lambda r: r.data.update(sha256=None)),
        EVERY,
        f"{ALONE}: data",
    ),
    "other data": (
        result(TABLE, lambda r: r.data.update(name="other", sha256=toy.OTHER)),
        EVERY,
        TABLE,
    ),
    "unknown data": (result(TABLE, lambda r: r.data.update(name="toyz")), EVERY, "toyz"),
    "tier": (result(TABLE, lambda r: r.data.update(tier="embedded")), EVERY, f"{TABLE}: data"),
    "stand-in hidden": (result(ALONE, lambda r: r.data.pop("stand_in_for")), EVERY, ALONE),
    "provenance emptied": (result(TABLE, lambda r: r.provenance.clear()), EVERY, TABLE),
    "runs without a time": (
        result(ALONE, lambda r: entry(r)["of"]["all"].pop("started")),
        EVERY,
        f"{ALONE}: prov",
    ),
    "device": (result(TABLE, lambda r: entry(r).update(device="cuda")), EVERY, TABLE),
    "code": (result(TABLE, lambda r: entry(r)["code"].update(x="1")), EVERY, f"{TABLE}: prov"),
    "commit of the runs": (
        result(TABLE, lambda r: entry(r).update(git_commit="f" * 40)),
        EVERY,
        TABLE,
    ),
    "numerics": (result(TABLE, lambda r: r.numerics.update(mrn=99)), EVERY, f"{TABLE}.*version"),
    "no numerics": (result(TABLE, lambda r: r.numerics.clear()), EVERY, TABLE),
    "profile": (result(TABLE, lambda r: r.provenance.update(profile="paper")), EVERY, TABLE),
    "notebook": (text("notebooks/table.ipynb", "print", "1 + print"), EVERY, "table.ipynb"),
    "notebook deleted": (remove("notebooks/tuning.ipynb"), EVERY, "tuning.ipynb"),
    "parameter": (
        listed(
            "notebooks/experiments.yaml",
            lambda c: c["experiments"]["alone"]["profiles"]["laptop"]["parameters"].update(steps=8),
        ),
        EVERY,
        f"{ALONE}: run all: parameter steps",
    ),
    "more repeats": (
        listed(
            "notebooks/experiments.yaml",
            lambda c: c["experiments"]["table"]["profiles"]["laptop"]["each"]["repeat"].append(5),
        ),
        EVERY,
        f"{TABLE}: runs",
    ),
    "experiment removed": (
        listed("notebooks/experiments.yaml", lambda c: c["experiments"].pop("alone")),
        EVERY,
        f"{ALONE}.*experiments.yaml",
    ),
    "data of the experiment": (
        listed(
            "notebooks/experiments.yaml", lambda c: c["experiments"]["alone"].update(data="toys")
        ),
        EVERY,
        f"{ALONE}.*experiments.yaml",
    ),
    "hash of a data set": (
        listed("data/datasets.yaml", lambda c: c[0].update(sha256="0" * 64)),
        EVERY,
        f"{TABLE}: data",
    ),
    "tier of a data set": (
        listed("data/datasets.yaml", lambda c: c[0].update(tier="embedded")),
        EVERY,
        f"{TABLE}: data",
    ),
    "source of a data set": (
        listed("data/datasets.yaml", lambda c: c[1].update(source="elsewhere")),
        (EDIT,),
        "set other",
    ),
    "data set twice": (
        listed("data/datasets.yaml", lambda c: c.insert(0, c[0] | {"sha256": "0" * 64})),
        (EDIT,),
        "datasets.yaml.*twice: toys",
    ),
    "data sets of another form": (
        lambda root: (root / contents.DATASETS).write_text("toys"),
        (EDIT,),
        "datasets.yaml: expected a list",
    ),
    "experiments of another form": (
        lambda root: (root / contents.EXPERIMENTS).write_text("[table]"),
        (EDIT,),
        "experiments.yaml: expected",
    ),
    "what else pages quote": (text("data/timings.json", "1.0", "0.5"), (EDIT,), "timings.json"),
    "data set removed": (listed("data/datasets.yaml", lambda c: c.pop(0)), EVERY, f"{TABLE}: data"),
    # tuning
    "tuning deleted": (remove(TUNING), EVERY, TUNING),
    "score of a trial": (result(TUNING, lambda r: r.records[1].update(value=75.0)), EVERY, TUNING),
    "other choice": (
        result(TUNING, lambda r: r.settings["chosen"].update(b=1.0)),
        EVERY,
        f"{TUNING}.*chosen b",
    ),
    "choice outside the grid": (
        result(TABLE, lambda r: r.settings["chosen"].update(b=0.3)),
        EVERY,
        f"{TABLE}.*chosen b",
    ),
    "another choice of the grid": (
        result(TABLE, lambda r: r.settings["chosen"].update(b=0.01)),
        EVERY,
        TABLE,
    ),
    "tuning forgotten": (result(TABLE, lambda r: r.uses.clear()), EVERY, TABLE),
    "hash of the tuning": (result(TABLE, lambda r: r.uses.update(tuning="0")), EVERY, "tuning"),
    "tuning and table": (tuned_on_other_scores, EVERY, TUNING),
    # verdicts and pages
    "verdict": (
        verdicts(lambda v: v[4].update(verdict="reproduced")),
        (EDIT,),
        "toy.alone: verdict",
    ),
    "low": (verdicts(lambda v: v[0].update(low=0.5)), (EDIT,), "claim toy.gain: low"),
    "high": (verdicts(lambda v: v[0].update(high=9)), (EDIT,), "claim toy.gain: high"),
    "value": (verdicts(lambda v: v[1].update(ours=51.0)), (EDIT,), "claim toy.level: ours"),
    "number of repeats": (verdicts(lambda v: v[0].update(n=50)), (EDIT,), "claim toy.gain: n"),
    "words of the rule": (verdicts(lambda v: v[0].update(rule="b")), (EDIT,), "toy.gain: rule"),
    "field of a verdict": (verdicts(lambda v: v[0].pop("low")), (EDIT,), "claim toy.gain: low"),
    "field too many": (verdicts(lambda v: v[0].update(p=0.01)), (EDIT,), "claim toy.gain: p"),
    "verdict removed": (verdicts(lambda v: v.pop(2)), (EDIT,), "claim toy.curve"),
    "verdict twice": (verdicts(lambda v: v.append(v[0])), (EDIT,), "claim toy.gain"),
    "a key twice in the verdicts": (
        text(contents.VERDICTS, '"verdict":', '"verdict": "reproduced", "verdict":'),
        (EDIT,),
        contents.VERDICTS,
    ),
    "verdict of another form": (
        verdicts(lambda v: v[0].update(claim=["toy.gain"])),
        (EDIT,),
        "claim toy.gain: no verdict",
    ),
    "verdicts deleted": (remove(contents.VERDICTS), (EDIT,), contents.VERDICTS),
    "number of the README": (text("README.md", "+1.0", "+1.5"), (EDIT,), "README.md"),
    "README without results": (text("README.md", "<!-- results:end -->", ""), (EDIT,), "README.md"),
    # the manifest itself
    "no manifest": (remove(contents.MANIFEST), (EDIT,), contents.MANIFEST),
    "manifest is no JSON": (text(contents.MANIFEST, "{", "{{"), (EDIT,), contents.MANIFEST),
    "manifest forgets a claim": (
        of_manifest(lambda m: m["claims"].pop("toy.gain")),
        (EDIT,),
        "toy.gain",
    ),
    "manifest forgets a file": (of_manifest(lambda m: m["results"].pop(TABLE)), (EDIT,), TABLE),
    "manifest forgets a part": (of_manifest(lambda m: m.pop("printed")), (EDIT,), "printed"),
    "interval in the manifest": (
        of_manifest(lambda m: m["verdicts"]["toy.gain"].update(low=0.1)),
        (EDIT,),
        "toy.gain: low",
    ),
    "reason in the manifest": (
        of_manifest(lambda m: m["verdicts"]["toy.gain"].update(why="so")),
        (EDIT,),
        "toy.gain: why",
    ),
    "a key twice in the manifest": (
        text(contents.MANIFEST, '"schema": 1', '"schema": 1,\n "schema": 1'),
        (EDIT,),
        contents.MANIFEST,
    ),
    "revision invented": (
        of_manifest(lambda m: m["revised"].update({"toy.gain": "so"})),
        (EDIT,),
        "toy.gain",
    ),
    "something accepted in advance": (
        of_manifest(lambda m: m["accepted"].append({"why": "so", "findings": {"rule: x": ["0"]}})),
        (EDIT,),
        "accepted rule: x",
    ),
    "nothing accepted": (
        of_manifest(lambda m: m.update(accepted={})),
        (EDIT,),
        f"{contents.MANIFEST}: accepted",
    ),
    "another file's digest": (
        both(
            result(TABLE, raise_b),
            of_manifest(lambda m: m["results"].update({TABLE: m["results"][ALONE]})),
        ),
        EVERY,
        TABLE,
    ),
}
CASES = [(name, how) for name, (_, hows, _) in ATTACKS.items() for how in hows]


@pytest.mark.parametrize(("name", "how"), CASES, ids=[f"{n}: {h}" for n, h in CASES])
def test_an_attack_is_found_and_named(repository, name, how):
    edit, _, named = ATTACKS[name]
    edit(repository)
    if how != EDIT:
        try:
            strict.write(repository)
        except ValueError as error:  # what cannot be written was found before
            assert re.search(named, str(error))
            return
    if how == COMMIT:
        toy.commit(repository)
    found = findings(repository)
    assert any(re.search(named, line) for line in found), found


def test_there_are_enough_attacks():
    assert len(ATTACKS) >= 60


def test_the_untouched_repository_passes(repository):
    found = strict.check(repository)
    assert found.findings == [] and found.accepted == {} and found.revised == {}
    assert found.no_history is None and len(found.rows) == len(toy.CLAIMS)


# What is allowed


def test_how_a_file_is_written_does_not_count(repository):
    path = repository / CLAIMS
    content = yaml.safe_load(path.read_text())
    for entry_ in content["claims"]:
        entry_["printed_n"] = None  # as if it were left out
        entry_["unit"] = entry_.get("unit", "")
    path.write_text("# A comment.\n" + yaml.safe_dump(content, sort_keys=True))
    text("notebooks/table.ipynb", '"outputs": []', '"outputs": [1]')(repository)
    (repository / "data/.DS_Store").write_bytes(b"\xff")  # what a file manager leaves behind
    assert findings(repository) == []
    before = (repository / contents.MANIFEST).read_text()
    strict.write(repository)
    assert (repository / contents.MANIFEST).read_text() == before


def test_a_new_run_may_give_other_numbers(repository):
    toy.measure(repository, toy.git(repository, "rev-parse", "HEAD"), second=9)
    result(TABLE, raise_b)(repository)
    assert strict.write(repository).findings == []
    assert findings(repository) == []
    toy.commit(repository)
    assert findings(repository) == []


def test_a_new_run_leaves_the_numbers_of_the_others(repository):
    """One run made again does not let all of them change."""

    def again(found):
        later = {"started": "2026-01-03T00:00:00+00:00", "wall_seconds": 2.5}
        entry(found)["of"]["repeat=4"].update(later)
        raise_b(found)

    result(TABLE, again)(repository)
    strict.write(repository)
    toy.commit(repository)
    found = findings(repository)
    assert len(found) == 4 and all(f"{TABLE}: records of run repeat=" in line for line in found)


def test_a_revised_rule_says_so(repository):
    edit = a_claim("gain", printed="+1.3", revised="a digit was misread")
    edit(repository)
    strict.write(repository)
    toy.commit(repository)
    found = strict.check(repository)
    assert found.findings == []
    assert found.revised == {"toy.gain": "a digit was misread"}
    (row,) = [row for row in found.rows if row["revised"]]
    assert (row["claim"], row["revised"]) == ("toy.gain", "a digit was misread")
    # the words hold for this change, not for the next one
    a_claim("gain", printed="+1.1")(repository)
    strict.write(repository)
    toy.commit(repository)
    assert any(re.search(RULE.format("gain"), line) for line in findings(repository))
    a_claim("gain", revised="a digit was misread, twice")(repository)
    strict.write(repository)
    assert findings(repository) == []
    # and they stay
    claims(lambda by_name: by_name["gain"].pop("revised"))(repository)
    strict.write(repository)
    assert any(re.search(RULE.format("gain"), line) for line in findings(repository))


def test_a_file_of_claims_may_be_revised_as_a_whole(repository):
    def widen(by_name):
        by_name["level"]["rule"] = toy.VALUE | {"tolerance": 1.0}
        by_name["new"] = NEW

    head = {"revised": [{"day": "2026-02-03", "why": "margins are stated"}]}
    claims(widen, **head)(repository)
    strict.write(repository)
    toy.commit(repository)
    found = strict.check(repository)
    assert found.findings == []
    assert found.revised == dict.fromkeys(["toy.level", "toy.new"], "margins are stated")
    claims(lambda by_name: by_name["level"].update(where="Table 2"), **head)(repository)
    strict.write(repository)
    assert any(re.search(RULE.format("level"), line) for line in findings(repository))


def test_a_change_that_was_taken_back_is_none(repository):
    before = (repository / CLAIMS).read_text()
    a_claim("gain", printed="+2.0")(repository)
    toy.commit(repository)
    (repository / CLAIMS).write_text(before)
    toy.commit(repository)
    assert findings(repository) == []


def test_what_is_accepted_is_accepted_in_this_state_alone(repository, monkeypatch, capsys):
    monkeypatch.setenv("MTLBOOK_ROOT", str(repository))
    text("notebooks/table.ipynb", "print", "1 + print")(repository)
    assert cli.main(["audit", "--write", "--accept", "a sum that nobody reads"]) == 0
    toy.commit(repository)
    capsys.readouterr()
    assert cli.main(["audit", "--strict"]) == 0
    out = capsys.readouterr().out
    assert "accepted, 2 findings: a sum that nobody reads" in out and "table.json" in out
    assert strict.write(repository).findings == [], "it stays accepted"
    text("notebooks/table.ipynb", "1 + print", "2 + print")(repository)
    assert cli.main(["audit", "--strict"]) == 1
    text("notebooks/table.ipynb", "2 + print", "print")(repository)
    strict.write(repository)
    assert strict.check(repository).accepted == {}, "what is found no more leaves the manifest"


def test_an_acceptance_has_words(repository):
    text("notebooks/table.ipynb", "print", "1 + print")(repository)
    strict.write(repository, accept=" ")
    assert any("table.ipynb" in line for line in findings(repository))


def test_many_findings_of_a_kind_are_counted(repository, monkeypatch, capsys):
    monkeypatch.setenv("MTLBOOK_ROOT", str(repository))

    def zero(found):
        for record in found.records:
            if "per_task" in record:
                record["per_task"] = [0.0, 0.0]

    result(TABLE, zero)(repository)
    assert cli.main(["audit", "--strict"]) == 1
    err = capsys.readouterr().err
    assert err.count("expected the mean of per_task, 0, as value") == 5
    assert f"{TABLE}: and 5 more like it" in err


# The history


def test_a_rule_changed_between_run_and_commit_is_found(repository):
    at = toy.git(repository, "rev-parse", "HEAD")
    a_claim("gain", printed="+1.2")(repository)
    toy.commit(repository)
    toy.measure(repository, at, second=9)
    strict.write(repository)
    toy.commit(repository)
    assert any(re.search(RULE.format("gain") + f".*{at[:10]}", x) for x in findings(repository))


def test_a_rule_that_comes_with_its_result_is_found(repository):
    toy.measure(repository, toy.git(repository, "rev-parse", "HEAD"), second=9)
    a_claim("gain", printed="+1.2")(repository)
    strict.write(repository)
    toy.commit(repository)
    assert any(re.search(RULE.format("gain"), line) for line in findings(repository))


def test_a_rule_changed_on_another_branch_is_found(repository):
    toy.git(repository, "checkout", "--quiet", "-b", "rules", "HEAD~1")
    a_claim("gain", printed="+1.2")(repository)
    toy.commit(repository)
    toy.git(repository, "checkout", "--quiet", "main")
    toy.git(repository, "-c", "user.name=t", "-c", "user.email=t@t", "merge", "--quiet", "rules")
    strict.write(repository)
    toy.commit(repository)
    assert any(re.search(RULE.format("gain"), line) for line in findings(repository))


def test_a_replaced_commit_hides_nothing(repository):
    old = toy.git(repository, "rev-parse", "HEAD~1")
    a_claim("gain", printed="+1.2")(repository)
    strict.write(repository)
    new = toy.commit(repository)
    toy.git(repository, "replace", "--graft", new)
    toy.git(repository, "replace", old, new)
    assert any(re.search(RULE.format("gain"), line) for line in findings(repository))


def test_a_result_that_went_and_came_back_changed_is_found(repository):
    kept = (repository / TABLE).read_text()
    (repository / TABLE).unlink()
    toy.commit(repository)
    (repository / TABLE).write_text(kept)
    result(TABLE, raise_b)(repository)
    strict.write(repository)
    toy.commit(repository)
    assert any(re.search(f"{TABLE}: records: expected as", x) for x in findings(repository))


def test_a_run_at_a_commit_that_nobody_has_is_found(repository):
    toy.measure(repository, "f" * 40, second=9)
    strict.write(repository)
    toy.commit(repository)
    assert any(f"{TABLE}: expected runs made at commits" in x for x in findings(repository))


def test_another_judge_is_found(repository, monkeypatch):
    judge = audit.judge

    def kind(*arguments):
        return dataclasses.replace(judge(*arguments), low=0.7)

    monkeypatch.setattr(audit, "judge", kind)
    strict.write(repository)
    toy.commit(repository)
    assert any("the verdicts on toy.gain" in line for line in findings(repository))


@pytest.mark.parametrize("others", [True, False])
def test_a_correction_moves_with_the_tests_beside_it(repository, others):
    """Holm's p rests on its family: another result moves it, and nothing else may."""
    path = repository / contents.VERDICTS
    rows = json.loads(path.read_text())
    one, other = rows[:2]
    one["holm"] = 0.125
    if others:
        other["p"] = 0.0625
    path.write_text(json.dumps(rows))
    toy.commit(repository)
    (found,) = (line for line in findings(repository) if "although claim and result" in line)
    assert (one["claim"] in found) != others and (other["claim"] in found) == others


def test_verdicts_may_be_written_after_their_result(repository):
    older = (repository / contents.VERDICTS).read_text()
    toy.measure(repository, toy.git(repository, "rev-parse", "HEAD"), second=9)
    result(TABLE, raise_b)(repository)
    toy.commit(repository)
    assert (repository / contents.VERDICTS).read_text() == older
    strict.write(repository)
    toy.commit(repository)
    assert findings(repository) == []


def test_without_a_whole_history_the_exit_code_is_another(template, tmp_path, monkeypatch, capsys):
    shallow = tmp_path / "shallow"
    toy.git(tmp_path, "clone", "--quiet", "--depth", "1", template.as_uri(), str(shallow))
    monkeypatch.setenv("MTLBOOK_ROOT", str(shallow))
    assert cli.main(["audit", "--strict"]) == 3
    assert "git fetch --unshallow" in capsys.readouterr().err
    text(CLAIMS, "Table 1", "Table 2")(shallow)
    assert cli.main(["audit", "--strict"]) == 1, "what needs no history is found all the same"
    assert "claim toy.gain" in capsys.readouterr().err


def test_without_git_what_was_accepted_is_kept(repository):
    text("notebooks/table.ipynb", "print", "1 + print")(repository)
    strict.write(repository, "a sum that nobody reads")
    before = (repository / contents.MANIFEST).read_text()
    shutil.rmtree(repository / ".git")
    found = strict.check(repository)
    assert found.findings == [] and "no history" in found.no_history
    strict.write(repository)
    assert (repository / contents.MANIFEST).read_text() == before


def test_the_history_is_that_of_the_folder_whatever_else_is_set(repository, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    toy.git(other, "init", "--quiet")
    with History(repository, contents.FOLDERS) as history:
        expected = list(history.commits)
    head = toy.git(repository, "rev-parse", "HEAD")
    info = repository / ".git" / "info"
    info.mkdir(exist_ok=True)
    (info / "grafts").write_text(f"{head}\n")  # nothing before it ever happened
    toy.git(repository, "config", "i18n.logOutputEncoding", "UTF-16")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / ".git" / "objects"))
    with History(repository, contents.FOLDERS) as history:
        assert list(history.commits) == expected and len(expected) > 2


def test_the_history_of_files_is_that_of_git(repository):
    text(CLAIMS, "Table 1", "Table 2")(repository)
    with History(repository, contents.FOLDERS) as history:
        *commits, now = history.commits
        for name in commits:
            lines = toy.git(repository, "ls-tree", "-r", name, *contents.FOLDERS).splitlines()
            files = {line.split("\t")[1]: line.split()[2] for line in lines}
            assert dict(history.commits[name].files) == files
        assert history.commits[now].parents == (commits[-1],)
        assert len(history.versions(CLAIMS)) == 2
        assert b"Table 1" in history.read(history.versions(CLAIMS)[0])
        assert b"Table 2" in history.read(history.now[CLAIMS])


def test_files_are_named_as_git_names_them(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("an öld file.json", "zwölf\ttabs.json"):
        (tmp_path / "data" / name).write_text("{}")
    toy.git(tmp_path, "init", "--quiet")
    with pytest.raises(HistoryError, match="git has no history here"):
        History(tmp_path, ("data/",))
    toy.commit(tmp_path)
    with History(tmp_path, ("data/",)) as history:
        (commit,) = [c for name, c in history.commits.items() if c.parents == ()]
        assert dict(commit.files) == dict(history.now)


# This repository


def _whole_history():
    command = ["git", "-C", str(ROOT), "rev-parse", "--is-shallow-repository"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return "git is not installed"
    if done.returncode:
        return "not a git checkout"
    return "a shallow clone" if done.stdout.strip() == "true" else None


def test_this_repository_passes():
    why = _whole_history()
    found = strict.check(ROOT)
    assert [str(finding) for finding in found.findings] == []
    if why:
        pytest.skip(f"{why}: the files agree, their history was not looked at")
    assert found.no_history is None
