"""The page at the end of `mtlbook reproduce`: its counts, and its two forms, which say the same."""

import os
import re
import shutil
from html.parser import HTMLParser

import pytest
import yaml

from mtlbook import cli, datasets, workflow
from mtlbook.cli import commands
from mtlbook.cli import endpage as command
from mtlbook.ledger import endpage
from mtlbook.ledger.agreement import Agreement, agreement
from mtlbook.ledger.audit import audit, counterparts, load_results
from mtlbook.ledger.merging import merge
from mtlbook.ledger.results import Result
from mtlbook.ledger.summary import NOT_RUN, Missing, summarise
from mtlbook.workflow import Run


def claim(name, experiments, **changes):
    rule = {"kind": "difference", "arm": "b", "reference": "a", "metric": "m"}
    content = {"id": f"toy.{name}", "where": "Table 1", "statement": f"b beats a, {name}"}
    content |= {"known": "printed", "experiments": experiments, "rule": rule, "printed": "+1.0"}
    return content | {"headline": True} | changes


CLAIMS = [
    claim("gain.real-or-stand-in", ["real", "stand-in"]),
    claim("gain.real", ["real"]),
    claim("asked", ["stand-in"], known=None, asked_by="us", printed=None),
    claim("later", ["never"], headline=False),
]


def run_of(gain, experiment="stand-in", repeats=range(5), **changes):
    about = {"gain": gain} | changes
    data = {"name": "toy", "tier": "embedded", "stand_in_for": None, "sha256": "0"}
    result = Result(experiment, about, data=data, numerics={"mrn": 1})
    for repeat in repeats:
        result.add(arm="a", metric="m", value=100 + repeat, repeat=repeat)
        result.add(arm="b", metric="m", value=100 + repeat + gain + repeat / 100, repeat=repeat)
    return result


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Claims on two experiments, of both of which results are committed: +3 and -2."""
    for folder in ("data/claims", "data/results", "notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    content = {"paper": "toy", "title": "Toys", "source": "none", "claims": CLAIMS}
    (tmp_path / "data/claims/toy.yaml").write_text(yaml.safe_dump(content))
    for experiment, gain in (("real", 3.0), ("stand-in", -2.0)):
        runs = {"all": run_of(gain, experiment)}
        merge(runs, profile="laptop").save(tmp_path / f"data/results/{experiment}.json")
    (tmp_path / "notebooks/experiments.yaml").write_text("experiments: {}\n")
    monkeypatch.setenv("MTLBOOK_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(root, experiment, missing=(), run="all"):
    folder = root / "runs/laptop" / experiment
    skip = "no data" if missing else None
    notebook = root / "notebooks/none.ipynb"
    return Run("laptop", experiment, run, notebook, {}, folder, skip=skip, missing=missing)


def summary_of(root, own, **told):
    committed = load_results(root / "data/results")
    merged = {name: merge(runs, profile="laptop") for name, runs in own.items()}
    rows = audit(root / "data/claims", merged)
    told = {"profile": "laptop", "finished": 1, "asked": 1} | told
    return summarise(
        rows,
        audit(root / "data/claims", committed),
        counterparts(root / "data/claims", rows, committed),
        agreement(own, committed),
        **told,
    )


def test_beside_a_value_stands_the_committed_one_of_the_same_experiment(project):
    page = summary_of(project, {"stand-in": {"all": run_of(-2.0)}})
    either, real, asked = page.headlines
    assert (either.committed, either.yours.split()[0]) == ("−2.0", "−2.0"), "not +3.0, of the other"
    assert either.before == either.verdict == "opposite" and either.same_runs
    assert (real.committed, real.yours, real.before) == (
        "+3.0",
        None,
        "refuted at the printed size",
    )
    assert asked.verdict == "no" and asked.paper == "no claim"


def test_rerun_compares_with_the_same_experiment_too(project):
    run_of(-2.0).save(project / "runs/laptop/stand-in/all.json")
    runs, name = [planned(project, "stand-in")], "toy.gain.real-or-stand-in"
    text = commands._verdict_on(project, "laptop", runs, name)
    (line,) = [line for line in text.splitlines() if line.startswith("gain.real-or-stand-in")]
    assert line.split()[1:4] == ["+1.0", "-2.0", "-2.0"]


def test_what_is_committed_of_no_such_experiment_has_nothing_beside_it(project):
    (project / "data/results/stand-in.json").unlink()
    page = summary_of(project, {"stand-in": {"all": run_of(-2.0)}})
    assert page.headlines[0].yours and page.headlines[0].committed is None
    assert not page.headlines[0].same_runs


def test_counts_of_a_paper(project):
    def of(run, name="all"):
        (paper,) = summary_of(project, {"stand-in": {name: run}}).papers
        return paper

    judged = ["toy.gain.real-or-stand-in", "toy.asked"]
    paper = of(run_of(-2.0))
    assert paper.counts["paper"] == {"opposite": 1, NOT_RUN: 2}
    assert paper.counts["us"] == {"no": 1}
    assert (paper.same, paper.changed, paper.elsewhere) == (judged, [], [])
    paper = of(shifted(run_of(-2.0), 5.0))
    assert (paper.same, paper.changed, paper.elsewhere) == ([], judged, [])
    # other parameters, or another choice of runs: no verdict is held against the committed one
    for paper in (of(run_of(-1.0)), of(run_of(-2.0), "repeat=0")):
        assert (paper.same, paper.changed, paper.elsewhere) == ([], [], judged)


def shifted(result, more):
    """The same run with other numbers."""
    for record in result.records:
        record["value"] += more * (record["arm"] == "b")
    return result


# Numbers


def test_numbers_agree_within_the_stated_tolerance_or_are_named(project):
    committed = load_results(project / "data/results")
    found = agreement({"stand-in": {"all": shifted(run_of(-2.0), 1.9)}}, committed)  # of about 100
    assert found.same == ["stand-in all"] and found.whole == {"stand-in"}
    found = agreement({"stand-in": {"all": shifted(run_of(-2.0), 2.1)}}, committed)
    assert found.same == [] and found.whole == {"stand-in"}
    assert len(found.differing["stand-in all"]) == 5
    other = shifted(run_of(-2.0), 2.1)
    other.provenance["platform"] = {"instructions": "AVX512"}
    said = agreement({"stand-in": {"all": other}}, committed).differing["stand-in all"]
    assert len(said) == 6 and said[0].endswith("instructions AVX512 here, not recorded there")
    other = shifted(run_of(-2.0), 2.1)
    other.data["sha256"] = "12345678abc"
    said = agreement({"stand-in": {"all": other}}, committed).differing["stand-in all"]
    assert said[0] == "its data (12345678…) are not those of the committed run (0…)"
    assert len(said) == 6
    assert found.differing["stand-in all"][0].startswith("b m, repeat 0: committed 98, measured")
    found = agreement({"new": {"all": run_of(1.0, "new")}}, committed)
    assert found == Agreement([], {}, ["new all"])


def test_a_parameter_that_a_notebook_has_gained_since_is_no_difference(project):
    committed = load_results(project / "data/results")
    assert agreement({"real": {"all": run_of(3.0, "real", colour="red")}}, committed).same
    assert not agreement({"real": {"all": run_of(4.0, "real")}}, committed).same


def test_old_results_hold_the_parameters_of_all_runs_together(project):
    committed = merge({f"{k}": run_of(-2.0, repeats=[k], k=k) for k in range(2)})
    for entry in committed.provenance["runs"]:
        for about in entry["of"].values():
            del about["parameters"]
    own = {"1": run_of(-2.0, repeats=[1], k=1), "0": run_of(-2.0, repeats=[0], k=7)}
    found = agreement({"stand-in": own}, {"stand-in": committed})
    assert found.same == ["stand-in 1"] and found.elsewhere == ["stand-in 0"]
    assert not found.whole
    # what chose other data was a parameter that they do not hold, where a new run names one more
    other = {"1": run_of(-2.0, repeats=[1], k=1, alphabets=8)}
    assert agreement({"stand-in": other}, {"stand-in": committed}).same == ["stand-in 1"]
    other["1"].data["sha256"] = "1"
    assert agreement({"stand-in": other}, {"stand-in": committed}).elsewhere == ["stand-in 1"]


# Two forms


class Text(HTMLParser):
    """What a reader sees of a page."""

    def __init__(self, page):
        super().__init__()
        self.parts, self.hidden = [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.hidden = tag == "style"
        for name, value in attributes:
            assert name not in ("src", "href") or value.startswith("#"), "loads from elsewhere"

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        self.parts += [] if self.hidden else [data]


def squeezed(text):
    return re.sub(r"\s", "", text)


def rich(project):
    """A page on which everything occurs."""
    own = {
        "stand-in": {"all": shifted(run_of(-2.0), 5.0)},
        "real": {"repeat=1": run_of(9.0, "real")},
    }
    missing = [Missing("far", ["x", "y"], 7, "mtlbook data fetch far")]
    missing += [Missing("kept", ["z"], 1, "mtlbook data verify kept", by_hand=True)]
    told = {"failed": ["`never all`: `runs/never.log`"], "unsound": ["toy.later: was <b> & more"]}
    files = {"runs/laptop/summary.html": "this page"}
    return summary_of(project, own, missing=missing, files=files, verdicts=4, **told)


def test_terminal_and_html_say_the_same(project):
    page = rich(project)
    terminal = squeezed(endpage.terminal(page, 80))
    wide = {squeezed(line) for line in endpage.terminal(page, 200).splitlines()}
    seen = squeezed("".join(Text(endpage.html(page)).parts))
    tables = [block for block in endpage.blocks(page) if isinstance(block, endpage.Table)]
    assert [len(table.rows) for table in tables] == [1, 3]
    for block in endpage.blocks(page):
        for line in [block.title, *getattr(block, "lines", []), *getattr(block, "notes", [])]:
            plain = squeezed(line.replace("`", ""))
            assert plain in terminal and plain in seen, line
    for table in tables:
        for row in (table.head, *table.rows):
            assert squeezed("".join(cell.text + cell.detail for cell in row)) in seen
            assert squeezed("".join(cell.short or cell.text for cell in row)) in wide
        for cell in table.head:  # a short form is explained, up to "undecided question"
            known = endpage.OPEN.values()
            assert squeezed(cell.text) in terminal or cell.text in known


def test_the_terminal_reads_so(project):
    lines = endpage.terminal(rich(project), 80).splitlines()
    assert lines[0] == "Your runs, profile laptop: 1 of 1 runs finished"
    text = "\n".join(lines)
    assert "  stand-in all differs: b m, repeat 0: committed 98, measured again 103, and 4" in text
    assert "  far (2 experiments, 7 runs): mtlbook data fetch far\n" in text
    assert "  kept (1 experiment, 1 runs): mtlbook data verify kept, after what" in text
    assert "  never all: runs/never.log\n" in text
    assert "Does not follow from the committed results: toy.later: was <b> & more." in text
    assert "committed verdicts follow" not in text
    assert "toy.gain.real " in text and "refuted*" in text and "yes, was" in text


@pytest.mark.parametrize("width", [20, 32, 40, 60, 79, 80, 100, 110])
def test_no_line_is_wider_than_the_terminal(project, width):
    for page in (rich(project), summary_of(project, {})):
        for line in endpage.terminal(page, width).splitlines():
            words = line.split()
            assert len(line) <= width or len(words) == 1, line


def test_nothing_run_shows_what_is_committed(project):
    text = endpage.terminal(summary_of(project, {}, verdicts=4), 80)
    assert "(in brackets): the committed verdict, not run here." in text
    assert "(refuted)" in text and "All 4 committed verdicts follow" in text


def test_html_is_for_every_screen(project):
    page = endpage.html(rich(project))
    assert "color-scheme: light dark" in page and "@media (max-width" in page
    assert 'name="viewport"' in page
    assert "was &lt;b&gt; &amp; more" in page


def test_the_page_of_the_real_ledger_is_taken_in_at_a_glance(root):
    """All that is committed, as if just measured, in a screen or so."""
    results = load_results(root / "data/results")
    rows = audit(root / "data/claims", results)
    of = Agreement(same=["x"] * 200, whole=frozenset(results))
    told = {"profile": "laptop", "finished": 200, "asked": 200, "verdicts": len(rows)}
    page = summarise(rows, rows, {row["claim"]: row for row in rows}, of, **told)
    lines = endpage.terminal(page, 80).splitlines()
    assert 30 <= len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert [sum(1 for line in lines if line.startswith(p.paper.upper())) for p in page.papers] == [
        1
    ] * len(page.papers)
    assert len(page.papers) >= 5
    ran = [row for row in rows if row["n"] and row["kind"] != "cell" and row["experiment"]]
    assert sum(len(p.same) for p in page.papers) == len(ran)
    assert not any(p.changed or p.elsewhere for p in page.papers)


# The command


def test_the_command_writes_listing_and_page(project, capsys):
    assert cli.main(["audit", "--write"]) == 0
    run_of(-2.0).save(project / "runs/laptop/stand-in/all.json")
    runs = [planned(project, "stand-in"), planned(project, "real", missing=("far",))]
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "how_to_get", lambda name: f"mtlbook data fetch {name} (first ask)")
        assert command.show(project, "laptop", runs, [])
        out = capsys.readouterr().out
        assert command.show(project, "laptop", runs, [], verbose=True)
        assert "ours, committed" in capsys.readouterr().out
        command.say_missing(runs)
    assert "skipped: real (1 runs); get far with: mtlbook data fetch far, after" in (
        capsys.readouterr().out
    )
    assert "Your runs, profile laptop: 1 of 1 runs finished" in out
    assert "1 run of committed settings: every number agrees within 2 %." in out
    assert "far (1 experiment, 1 runs): mtlbook data fetch far, after what" in out
    assert "All 4 committed verdicts follow from the committed results." in out
    assert "runs/laptop/verdicts.txt: every claim" in out and "ours, committed" not in out
    listing = (project / "runs/laptop/verdicts.txt").read_text()
    line = next(line for line in listing.splitlines() if line.startswith("gain.real-or-stand-in"))
    assert line.split()[1:4] == ["+1.0", "-2.0", "-2.0"]
    assert (
        "<title>Your runs, profile laptop: 1 of 1 runs finished</title>"
        in (project / "runs/laptop/summary.html").read_text()
    )


def test_a_committed_verdict_that_does_not_follow_is_said_and_fails(project, capsys, monkeypatch):
    assert cli.main(["audit", "--write"]) == 0
    runs = {"all": run_of(0.5, "real")}
    merge(runs, profile="laptop").save(project / "data/results/real.json")
    monkeypatch.setattr(workflow, "expand", lambda *given: [planned(project, "stand-in")])
    monkeypatch.setattr(workflow, "reproduce", lambda *given, **options: [])
    capsys.readouterr()
    assert cli.main(["reproduce"]) == 1
    out = capsys.readouterr().out
    assert "Does not follow from the committed results: toy.gain.real-or-stand-in:" in " ".join(
        out.split()
    )
    (project / "data/verdicts.json").unlink()
    assert cli.main(["reproduce"]) == 0
    assert "committed results" not in capsys.readouterr().out


def test_the_page_takes_the_width_of_the_terminal(project, capsys, monkeypatch):
    widths = []
    monkeypatch.setattr(endpage, "terminal", lambda page, width: widths.append(width) or "")
    for columns in (10, 66, 300):
        size = os.terminal_size((columns, 24))
        monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, size=size: size)
        command.show(project, "laptop", [], [])
    assert widths == [20, 66, 110]
