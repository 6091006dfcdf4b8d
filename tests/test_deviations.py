"""Differences between paper, released code and this book: complete, real switches, real effects."""

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml

from mtlbook.ledger import audit, deviations
from mtlbook.ledger.results import Result

ROOT = Path(__file__).resolve().parents[1]
LISTED = deviations.load(ROOT / "data" / "deviations.yaml")
METHODS = ("tnrdmtl", "mrn", "drn", "srdml", "mtal")
# What is known to differ, as our notes on papers and code have it.
KNOWN = {
    "tnrdmtl": "reduction gamma loss-over-tasks stl-start axis-order image-size optimiser "
    "initialisation biases validation sharing-strength gradient",
    "mrn": "released backbone layers covariances weight log-determinant half kronecker-order "
    "rows-and-columns update-rule inverse ridge scale trace-cap feature-step update-order "
    "update-times stored head-init older-code selection lists optimiser passes",
    "drn": "matrix feature-covariance form layers data",
    "srdml": "text batch-sum spatial distance omega omega-step one-adam broadcast warm-up "
    "selection compared-with network loops",
    "mtal": "similarity unit pairs weights threshold schedule start data",
}


@pytest.fixture(scope="module")
def ledger():
    results = audit.load_results(ROOT / "data" / "results")
    rows = audit.audit(ROOT / "data" / "claims", results)
    return results, {row["claim"]: row for row in rows}


def test_every_known_difference_is_listed():
    of_methods = {d.id for d in LISTED if d.id.partition(".")[0] in METHODS}
    assert of_methods == {f"{m}.{x}" for m in METHODS for x in KNOWN[m].split()}


@pytest.mark.parametrize("deviation", [d for d in LISTED if d.switch], ids=lambda d: d.id)
def test_every_switch_exists_and_changes_something(deviation):
    module, _, name = deviation.switch.of.rpartition(".")
    thing = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(thing).parameters
    assert deviation.switch.argument in parameters
    if deviation.switch.value is not None:
        value = ast.literal_eval(deviation.switch.value)
        default = parameters[deviation.switch.argument].default
        # no updates at most is MRN's default; what is listed as ours is a number
        assert value != default or deviation.id == "mrn.update-times"


def test_every_switch_of_mrn_is_listed():
    from mtlbook.methods.mrn import RELEASED, Switches

    of_mrn = {d.switch.argument for d in LISTED if d.switch and d.id.startswith("mrn.")}
    ours = Switches()
    for field in dataclasses.fields(Switches):
        differs = getattr(ours, field.name) != getattr(RELEASED, field.name)
        assert not differs or field.name in of_mrn | {"eps"}, field.name  # eps goes with relative


@pytest.mark.parametrize(
    "effect",
    [pytest.param(e, id=f"{d.id}-{i}") for d in LISTED for i, e in enumerate(d.effects)],
)
def test_every_effect_is_computed_from_a_committed_result(effect, ledger):
    text = deviations.measured(effect, *ledger)
    assert re.match(r"[+−]?\d+\.\d+( \[|.*, n = \d+)", text), text
    if effect.claim is None:
        # by hand
        other = effect.reference_experiment or effect.experiment
        a = ledger[0][effect.experiment].values(effect.arm, effect.metric)
        b = ledger[0][other].values(
            effect.reference or effect.arm, effect.reference_metric or effect.metric
        )
        both = sorted(set(a) & set(b))
        mean = sum(a[r] - b[r] for r in both) / len(both)
        assert float(text.split(" ")[0].replace("−", "-")) == pytest.approx(mean, abs=0.0051)
        assert f"n = {len(both)}" in text and (len(both) < 5) == ("too few" in text)


def test_no_number_is_typed_as_an_effect():
    """Neither in the words of an effect nor in a reason is there a result."""
    for deviation in LISTED:
        for text in [e.what for e in deviation.effects] + [deviation.unmeasured or ""]:
            assert not re.search(r"[+-]\d|\d\.\d+ points|\[\S+,", text), deviation.id


def test_what_nobody_saw_is_no_text_of_a_paper():
    for deviation in LISTED:
        method = deviation.id.partition(".")[0]
        if method == "srdml":  # a poster and code: nothing of the paper is printed
            assert deviation.paper.known in ("poster", "unseen"), deviation.id
        if method in ("drn", "mtal"):
            assert deviation.released is None
            assert deviation.paper.known == "unseen" or re.search(
                "abstract|figure", deviation.paper.where
            )
        if deviation.paper.known == "memory":
            (line,) = (x for x in deviations.markdown(method).splitlines() if deviation.what in x)
            cell = line.split(" | ")[1]
            assert cell.startswith("*from memory, not verified; not the paper's words*<br>")


@pytest.mark.parametrize("method", METHODS)
def test_differences_stand_on_the_page_of_the_method(method):
    page = (ROOT / "book" / "methods" / f"{method}.md").read_text()
    assert page.count("\n## Differences\n") == 1
    assert f'Markdown(deviations.markdown("{method}"))' in page.split("\n## Differences\n")[1]
    lines = deviations.markdown(method).splitlines()
    assert len(lines) == 2 + len(KNOWN[method].split())
    assert {line.count(" | ") for line in lines[:1] + lines[2:]} == {4}


# Made up

ONE = {
    "id": "p.x",
    "what": "x",
    "paper": {"known": "silent"},
    "ours": "y",
    "unmeasured": "no",
}


def write(tmp_path, *entries):
    (tmp_path / "data").mkdir(exist_ok=True)
    path = tmp_path / "data" / "deviations.yaml"
    path.write_text(yaml.safe_dump({"deviations": list(entries)}))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paper": {"known": "rumour"}}, "known"),
        ({"paper": {"known": "printed", "where": "eq. 1"}}, "says: expected a text"),
        ({"paper": {"known": "printed", "says": "z"}}, "where: expected"),
        ({"paper": {"known": "silent", "says": "z"}}, "none where the paper is silent"),
        ({"unmeasured": None}, "expected effects, or unmeasured"),
        ({"effects": [{"what": "w", "claim": "p.q"}]}, "expected effects, or unmeasured"),
        ({"unmeasured": None, "effects": [{"what": "w", "experiment": "e"}]}, "expected a claim"),
        (
            {"unmeasured": None, "effects": [{"what": "w", "claim": "p.q", "arm": "a"}]},
            "claim: expected alone",
        ),
        ({"colour": "red"}, "colour"),
        ({"switch": {"of": "torch.nn.Linear", "argument": "bias"}}, "switch.of"),
    ],
)
def test_mistakes_are_named(tmp_path, change, message):
    with pytest.raises(deviations.DeviationError, match=message):
        deviations.load(write(tmp_path, {k: v for k, v in {**ONE, **change}.items() if v}))


def test_ids_are_given_once_and_files_are_there(tmp_path):
    with pytest.raises(deviations.DeviationError, match=r"ids given twice: p\.x"):
        deviations.load(write(tmp_path, ONE, ONE))
    with pytest.raises(deviations.DeviationError, match="cannot be read"):
        deviations.load(tmp_path / "none.yaml")


def effect_of(**content):
    return deviations.Effect.model_validate({"what": "w", "unit": "points", **content})


def test_an_effect_is_paired_over_repeats():
    a, b = Result("e", {}), Result("f", {})
    for repeat in range(6):
        a.add(arm="x", metric="m", value=repeat + 1.5, repeat=repeat)
        b.add(arm="y", metric="n", value=float(repeat), repeat=repeat)
    pair = effect_of(
        experiment="e", arm="x", metric="m", reference="y", reference_experiment="f",
        reference_metric="n",
    )  # fmt: skip
    found = deviations.measured(pair, {"e": a, "f": b}, {})
    assert found == "+1.50 [+1.50, +1.50] points, n = 6 (e against f)"
    b.records = b.records[:4]
    found = deviations.measured(pair, {"e": a, "f": b}, {})
    assert found == "+1.50 points, n = 4, too few for an interval (e against f)"
    assert deviations.measured(pair, {"e": a}, {}) == "not run yet (f)"
    with pytest.raises(deviations.DeviationError, match=r"no repeat has both of e: x: m; f: y: n"):
        deviations.measured(pair, {"e": a, "f": Result("f", {})}, {})
    with pytest.raises(deviations.DeviationError, match=r"there is no claim p\.q"):
        deviations.measured(effect_of(claim="p.q"), {}, {})


def test_texts_are_escaped(tmp_path):
    for folder in ("claims", "results"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    hostile = "<script>a</script> | *b* {c}`d`"
    write(tmp_path, {**ONE, "what": hostile, "ours": hostile, "released": hostile})
    line = deviations.markdown("p", tmp_path).splitlines()[-1]
    assert "<script" not in line.replace("\\<", "") and line.count(" | ") == 4
    with pytest.raises(deviations.DeviationError, match="method: expected one of"):
        deviations.markdown("q", tmp_path)
