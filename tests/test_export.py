"""Bundles and reports: complete, true to the ledger, and readable by the tools of others."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from browser import why_not
from made_up_ledger import build, claim, commit, write_claims

from mtlbook import cli
from mtlbook.cli import parsing
from mtlbook.ledger import bundle, chromium, dossier
from mtlbook.ledger.audit import audit, load_results
from mtlbook.ledger.chain import chains
from mtlbook.ledger.claims import load_all
from mtlbook.ledger.repository import root as repository

MEASURED = {path.stem for path in (repository() / "data/results").glob("*.json")}
PAPERS = [
    of.paper
    for of in load_all(repository() / "data/claims")
    if MEASURED & {name for claim in of.claims for name in claim.experiments}
]
CITATION = "cff-version: 1.2.0\nauthors:\n  - name: the toy makers\n"


@pytest.fixture(scope="module")
def known():
    return chains(repository())


@pytest.fixture(scope="module", params=PAPERS)
def written(request, known, tmp_path_factory):
    """A paper, and the folder of its bundle: CODECHECK and RO-Crate share their files."""
    folder = tmp_path_factory.mktemp(request.param)
    bundle.write_codecheck(repository(), known, request.param, folder)
    (folder / "codecheck.yml").rename(folder.with_suffix(".yml"))
    bundle.write_crate(repository(), known, request.param, folder)
    return request.param, folder


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A small repository, as working folder."""
    root = tmp_path / "toys"
    build(root)
    (root / "CITATION.cff").write_text(CITATION)
    monkeypatch.setenv("MTLBOOK_ROOT", str(root))
    monkeypatch.chdir(tmp_path)
    return root


def test_the_papers_are_those_of_the_ledger(known):
    assert {"drn", "mrn", "mtal", "srdml", "tnrdmtl"} <= set(PAPERS) <= set(known["papers"])


# the title


def of_verdicts(*verdicts, kind="paper"):
    claims = [{"paper": "p", "kind": kind, "verdict": verdict} for verdict in verdicts]
    return {"claims": claims, "papers": {"p": {"title": "A paper", "source": ""}}}


@pytest.mark.parametrize(
    ("verdicts", "title", "counts"),
    [
        (["reproduced"], "[Re] A paper", (1, 0, 0)),
        (["direction", "reproduced", "opposite", "undecided"], "[Re] A paper", (2, 1, 1)),
        (["direction", "opposite"], "[not Re] A paper", (1, 1, 0)),
        (["refuted at the printed size", "opposite", "reproduced"], "[not Re] A paper", (1, 2, 0)),
        (["undecided", "not attempted", "calibrated on it"], "[not Re] A paper", (0, 0, 3)),
    ],
)
def test_the_title_follows_from_the_stated_rule(verdicts, title, counts):
    of = of_verdicts(*verdicts)
    assert dossier.title(of, "p") == title
    assert dossier.counts(of["claims"]) == counts


def test_questions_of_our_own_decide_no_title():
    of = of_verdicts("yes", "yes", kind="us")
    assert dossier.title(of, "p") == "[not Re] A paper"
    assert dossier.outcome(of, "p") == (
        "No claim of the paper was at hand to be tested. Questions of our own: 2 yes."
    )


# the report


@pytest.mark.parametrize("paper", PAPERS)
def test_a_report_has_every_claim_and_loads_nothing(known, paper, script):
    text = dossier.report(known, paper)
    plain = re.sub(r"<[^>]+>", " ", text)
    for row in dossier.of_paper(known, paper):
        assert f"<code>{row['claim']}</code>" in text
        assert row["interval_text"] in plain
    title = dossier.title(known, paper)
    assert f"<title>{title}</title>" in text and f"<h1>{title}</h1>" in text
    for head in ("What came out", "What was tested", "What was not attempted", "How to repeat"):
        assert head in text
    assert script("build_book").external_loads(text) == []
    assert script("build_book").local_loads(text) == []


def test_a_report_says_what_was_not_attempted_and_why(known):
    text = dossier.report(known, "mrn")
    part = text[text.index("What was not attempted") : text.index("<h2>Data")]
    missing = [r["claim"] for r in known["claims"] if r["verdict"] == "not attempted"]
    for name in missing:
        assert (name in part) == name.startswith("mrn.")
    assert "it needs office_home_efflite0 (gated), profile paper" in part
    assert "no such experiment is written" in dossier.report(known, "srdml")


def test_the_commands_of_a_report_are_taken_by_the_command_line(known):
    text = dossier.report(known, "tnrdmtl")
    commands = re.findall(r'<code class="command">mtlbook ([^<]+)</code>', text)
    assert [command.split()[0] for command in commands][-2:] == ["audit", "export"]
    for command in commands:
        parsing.parser().parse_args(command.split())


def test_texts_are_escaped(toy):
    text = '<script>x</script> "quoted" & ]]>'
    write_claims(toy, [claim("gain", statement=text, unit=text)], title=text, source=text)
    page = dossier.report(chains(toy), "toy")
    assert "<script" not in page
    assert page.count("&lt;script&gt;x&lt;/script&gt; &quot;quoted&quot; &amp; ]]&gt;") == 5


def test_report_as_html_and_pdf(toy, capsys):
    if why := why_not():
        pytest.skip(why)
    assert cli.main(["export", "report", "--paper", "toy", "-o", "out"]) == 0
    assert capsys.readouterr().out.split() == ["out/report.html", "out/report.pdf"]
    pdf = Path("out/report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")
    assert sorted(p.name for p in Path("out").iterdir()) == ["report.html", "report.pdf"]


def test_without_a_browser_the_html_is_there_and_the_error_says_what_to_do(
    toy, capsys, monkeypatch
):
    monkeypatch.setattr(chromium, "find", lambda: None)
    assert cli.main(["export", "report", "--paper", "toy", "-o", "out"]) == 2
    error = capsys.readouterr().err
    assert "report.pdf: expected Chromium or Chrome to print it, found none of chromium," in error
    assert "or print report.html from any browser" in error
    assert [p.name for p in Path("out").iterdir()] == ["report.html"]
    assert cli.main(["export", "report", "--paper", "toy", "-o", "out", "--no-pdf"]) == 0


@pytest.mark.posix("a script is no program there")
def test_a_browser_that_does_not_print_leaves_nothing(toy, tmp_path, monkeypatch):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho no screen >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("MTLBOOK_CHROMIUM", str(broken))
    page = tmp_path / "page.html"
    page.write_text("<p>a</p>")
    with pytest.raises(RuntimeError, match=r"has not printed page.html \(no screen\)"):
        chromium.print_to_pdf(page, tmp_path / "page.pdf")
    assert not (tmp_path / "page.pdf").exists()


@pytest.mark.parametrize("kind", ["codecheck", "ro-crate", "report"])
def test_mistakes_in_a_request_write_nothing(toy, capsys, kind):
    assert cli.main(["export", kind, "--paper", "toyz", "-o", "out"]) == 2
    assert "paper: expected one with claims (toy), got 'toyz'" in capsys.readouterr().err
    assert not Path("out").exists()
    Path("file").write_text("")
    assert cli.main(["export", kind, "--paper", "toy", "-o", "file"]) == 2
    assert "-o: expected a folder, got the file file" in capsys.readouterr().err


# CODECHECK


def codecheck(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("%YAML 1.1\n---\n")  # an explicit document
    return yaml.safe_load(text)


def test_a_codecheck_configuration_has_what_the_specification_demands(written):
    """Version 1.0, each MUST, and each SHOULD but the ORCIDs, which nobody has told us."""
    _, folder = written
    of = codecheck(folder.with_suffix(".yml"))
    assert of["version"] == "https://codecheck.org.uk/spec/config/1.0/"
    assert len(of["manifest"]) > 2
    for entry in of["manifest"]:
        assert not Path(entry["file"]).is_absolute() and ".." not in Path(entry["file"]).parts
        assert (folder / entry["file"]).is_file() and entry["comment"]
    assert of["paper"]["title"] and all(author["name"] for author in of["paper"]["authors"])
    if "arXiv" in of["source"]:
        assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", of["paper"]["reference"])
    assert of["paper"]["reference"]
    assert [checker["name"] for checker in of["codechecker"]] == ["the mtlbook authors"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", of["check_time"]) and of["summary"]
    content = (folder / bundle.REPORT).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    assert of["report"] == f"ni:///sha-256;{digest}"
    assert "certificate" not in of  # the register gives it


@pytest.mark.parametrize(
    ("source", "reference"),
    [
        ("arXiv 1606.04038v1 (13 June 2016)", "https://arxiv.org/abs/1606.04038"),
        ("Science (2015), doi 10.1126/science.aab3050.", "https://doi.org/10.1126/science.aab3050"),
        ("its page, https://example.org/a/b (May 2030)", "https://example.org/a/b"),
        ("a print of 10.5 pages", "a print of 10.5 pages"),
    ],
)
def test_the_address_of_a_paper_is_read_off_its_source(source, reference):
    assert bundle._reference({"papers": {"p": {"source": source}}}, "p") == reference


def test_authors_and_title_are_told_apart(known):
    title, authors = bundle._title_and_authors(known, "mrn")
    assert title == "Learning Multiple Tasks with Multilinear Relationship Networks"
    assert authors == ["Long", "Cao", "Wang", "Yu"]


def test_a_bundle_gives_the_same_verdicts(known, written):
    """What it holds is all that they rest on."""
    paper, folder = written
    rows = audit(folder / "data" / "claims", load_results(folder / "data" / "results"))
    keys = ("claim", "verdict", "ours", "low", "high", "n", "rule", "why", "holm", "stale")
    expected = [{k: row[k] for k in keys} for row in dossier.of_paper(known, paper)]
    assert [{k: row[k] for k in keys} for row in rows] == expected
    stored = json.loads((folder / bundle.VERDICTS).read_text())
    assert [row["claim"] for row in stored] == [row["claim"] for row in rows]


def test_who_checks_has_to_be_known(toy):
    (toy / "CITATION.cff").write_text("authors: []\n")
    with pytest.raises(ValueError, match=r"CITATION.cff: expected authors"):
        bundle.write_codecheck(toy, chains(toy), "toy", toy / "out")


def test_people_of_a_citation_have_given_and_family_names(toy):
    (toy / "CITATION.cff").write_text("authors:\n- {given-names: Ada, family-names: L.}\n")
    path = bundle.write_codecheck(toy, chains(toy), "toy", toy / "out")
    assert path == toy / "out" / "codecheck.yml"
    assert codecheck(path)["codechecker"] == [{"name": "Ada L."}]


def test_a_bundle_takes_the_tunings_along(toy):
    commit(toy)
    bundle.write_codecheck(toy, chains(toy), "toy", toy / "out")
    results = sorted(p.name for p in (toy / "out/data/results").iterdir())
    assert results == ["alone.json", "table.json", "tuning.json"]
    assert (toy / "out/data/claims/printed/curves.csv").is_file()  # that a rule reads


# RO-Crate


def test_a_crate_is_valid(known, written, tmp_path):
    """By the reference library: it reads it, finds each file, and every reference has an end."""
    model = pytest.importorskip("rocrate.rocrate", reason="rocrate is not installed (extra test)")
    paper, folder = written
    path = folder / "ro-crate-metadata.json"
    crate = model.ROCrate(folder)
    root = crate.root_dataset
    assert crate.metadata.id == path.name and crate.name == dossier.title(known, paper)
    assert root["datePublished"] and root["license"] and root["description"]

    files = {e.id: e for e in crate.data_entities if "File" in str(e.type)}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(files) == there - {path.name}
    for name, entity in files.items():
        content = (folder / name).read_bytes()
        assert entity["contentSize"] == str(len(content))
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()

    graph = json.loads(path.read_text())["@graph"]
    identifiers = [entity["@id"] for entity in graph]
    assert len(set(identifiers)) == len(identifiers)
    wanted = set(re.findall(r'"@id": "([^"]+)"', json.dumps(graph)))
    assert wanted - set(identifiers) == {bundle.CRATE}
    assert all(crate.dereference(name) is not None for name in identifiers)

    runs = crate.get_by_type("CreateAction")
    measured = {r["experiment"] for r in dossier.of_paper(known, paper) if r["result_file"]}
    assert {run.id for run in runs} == {f"#run-{name}" for name in measured}
    assert all(run["result"].id in files and run["instrument"].id in files for run in runs)
    crate.write(tmp_path)
    again = model.ROCrate(tmp_path)
    assert {e.id for e in again.get_entities()} == {e.id for e in crate.get_entities()}


def test_a_crate_changes_with_a_result(toy):
    first = bundle.write_crate(toy, chains(toy), "toy", toy / "out").read_text()
    again = bundle.write_crate(toy, chains(toy), "toy", toy / "out").read_text()
    assert first == again
    path = toy / "data/claims/toy.yaml"
    path.write_text(path.read_text().replace("level, as", "level, quite as"))
    assert bundle.write_crate(toy, chains(toy), "toy", toy / "out").read_text() != first
