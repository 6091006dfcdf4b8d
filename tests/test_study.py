"""The engine: what is chosen on what, who is paired with whom; and no study can leak."""

import math
from dataclasses import dataclass, replace
from functools import partial

import golden
import pytest
import torch

from mtlbook import study as engine
from mtlbook.backbones import mlp
from mtlbook.experiments import (
    domains,
    mrn,
    mrn_images,
    mrn_linear,
    mtal,
    planted,
    problems,
    srdml,
    tnrdmtl,
    tnrdmtl_fair,
    which_method,
)
from mtlbook.ledger.results import Result
from mtlbook.methods import STL
from mtlbook.numerics import NUMERICS
from mtlbook.study import Arm, Study, choices, configurations, parameters_of
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate

# A study of its own: two tasks, and arms that need no training to be understood


@dataclass(frozen=True)
class Protocol:
    steps: int = 2
    lr: float = 0.1


def build(trial):
    return STL(mlp(2, trial.train.outputs, seed=trial.repeat, hidden=()))


def made(count, phase=0.0, loss="cross_entropy"):
    x = torch.cos(torch.arange(2.0 * count) + phase).view(count, 2)
    if loss == "mse":
        return TaskSet("made", [Task("a", x, x[:, :1], loss="mse")])
    names = ("a", "b")
    return TaskSet("made", [Task(n, x, torch.arange(count) % 2, classes=2) for n in names])


def split(tasks, repeat, protocol):
    return {name: made(4, phase=repeat + i) for i, name in enumerate(("train", "validation"))} | {
        "test": made(6, phase=repeat + 9)
    }


def training(trial):
    optimizer = partial(torch.optim.SGD, lr=trial.protocol.lr)
    return {"steps": trial.protocol.steps, "optimizer": optimizer}


def measure(add, outcome, parts):
    add(metric="value", value=float(outcome.trial.value or 0))


ROWS = {
    "plain": Arm(build),
    "tuned": Arm(build, (1.0, 2.0, 3.0)),
    "speed": Arm(build, (0.1, 0.2), number="lr"),
    "control": Arm(build, like="tuned"),
    "later": Arm(build, start="plain", protocol={"steps": 5}),
}
SMALL = Study("mrn", ROWS, Protocol(), split, training, measure, tuning_splits=(1000, 1001))


@pytest.fixture
def fits(monkeypatch):
    """Every call of ``fit``: the arguments."""
    calls = []

    def fit(method, train, **options):
        calls.append({"method": method, "train": train, **options})
        return original(method, train, **options)

    original = engine.fit
    monkeypatch.setattr(engine, "fit", fit)
    return calls


def scored(table, seen=None):
    """A score that is looked up by the arm's number, for whoever has one."""

    def train(self, arm, parts, repeat, value=None, **options):
        return engine.Outcome(arm, None, value, None)

    def score(value, part):
        if seen is not None:
            seen.append(part)
        found = table[value]
        if isinstance(found, Exception):
            raise found
        return [found]

    return train, score


def test_the_best_of_the_validation_part_is_chosen(monkeypatch):
    seen, result = [], Result("r", {})
    train, score = scored({1.0: 50.0, 2.0: 70.0, 3.0: 60.0}, seen)
    monkeypatch.setattr(Study, "train", train)
    kept = {}

    def splitting(tasks, repeat, protocol):
        kept[repeat] = split(tasks, repeat, protocol)
        return kept[repeat]

    study = replace(SMALL, score=score, split=splitting)
    assert study.tune(result, None, arms=["tuned"]) == {"tuned": 2.0}
    of_split = [kept[repeat]["validation"] for repeat in (1000, 1001)]
    assert len(seen) == 6 and all(a is b for a, b in zip(seen, of_split * 3, strict=True))
    assert choices(result) == {"tuned": 2.0}
    assert result.settings["validation"] == {"tuned@1": 50.0, "tuned@2": 70.0, "tuned@3": 60.0}
    assert result.values("tuned@2", "validation_percent") == {1000: 70.0, 1001: 70.0}


def test_the_weakest_of_a_tie_is_chosen(monkeypatch):
    train, score = scored({1.0: 60.0, 2.0: 70.0, 3.0: 70.0})
    monkeypatch.setattr(Study, "train", train)
    assert replace(SMALL, score=score).tune(Result("r", {}), None, arms=["tuned"])["tuned"] == 2.0


def test_the_mean_of_the_first_metric_over_all_splits_decides(monkeypatch):
    table = {1.0: (90.0, 0.0), 2.0: (60.0, 60.0), 3.0: (10.0, 100.0)}
    first = split(None, 1000, None)["validation"][0].inputs

    def score(value, part):
        return [table[value][int(not torch.equal(part[0].inputs, first))], 100 * value]

    monkeypatch.setattr(Study, "train", scored({})[0])
    study = replace(SMALL, score=score, metrics=("validation_percent", "other"))
    assert study.tune(Result("r", {}), None, arms=["tuned"]) == {"tuned": 2.0}


@pytest.mark.parametrize(("loss", "worst"), [("cross_entropy", 0.0), ("mse", -1000.0)])
def test_what_diverges_is_worse_than_all_else(monkeypatch, loss, worst):
    result = Result("r", {})
    train, score = scored({1.0: FloatingPointError("nan"), 2.0: -3.0, 3.0: FloatingPointError()})
    monkeypatch.setattr(Study, "train", train)
    parts = {name: made(4, loss=loss) for name in ("train", "validation", "test")}
    study = replace(SMALL, score=score, split=lambda *_: parts)
    study.tune(result, None, arms=["tuned"])
    assert result.settings["validation"]["tuned@1"] == worst
    assert result.settings["validation"]["tuned@2"] == -3.0


def test_a_tuning_is_handed_no_test_part(fits):
    class Secret:
        def __getattr__(self, name):
            raise AssertionError("the test part was looked at")

    def with_secret(tasks, repeat, protocol):
        return split(tasks, repeat, protocol) | {"test": Secret()}

    study = replace(SMALL, split=with_secret)
    study.tune(Result("r", {}), None, arms=ROWS)
    assert len(fits) == 2 * (3 + 2)  # two splits, and the values of the two grids


def test_a_comparison_without_values_tunes_first_and_with_values_does_not(fits):
    result = Result("r", {})
    SMALL.compare(result, None, arms=["tuned", "control"], repeats=[0])
    chosen = choices(result)["tuned"]
    assert result.values("tuned", "value") == result.values("control", "value") == {0: chosen}
    assert len(fits) == 2 * 3 + 2
    fits.clear()
    SMALL.compare(Result("r", {}), None, arms=["tuned"], repeats=[0, 1], values={"tuned": 3.0})
    assert len(fits) == 2


def test_arms_of_a_repeat_share_split_and_seed(fits):
    values, result = {"tuned": 1.0, "speed": 0.1}, Result("r", {})
    SMALL.compare(result, None, arms=ROWS, repeats=[3, 4], values=values)
    for arm in ROWS:  # by these numbers arms are paired later
        assert list(result.values(arm, "value")) == [3, 4], arm
    assert all(record["seed"] == record["repeat"] for record in result.records)
    by_seed = {}
    for call in fits:
        by_seed.setdefault(call["seed"], []).append(call["train"])
    assert set(by_seed) == {3, 4}
    for repeat, trains in by_seed.items():
        assert torch.equal(trains[0][0].inputs, split(None, repeat, None)["train"][0].inputs)
        assert len(trains) == len(ROWS) and all(train is trains[0] for train in trains)


def test_a_number_sets_its_field_and_an_arm_its_own_protocol():
    parts = split(None, 0, None)
    trial = SMALL.trial("speed", parts["train"], 0, 0.2)
    assert (trial.protocol.lr, trial.value) == (0.2, 0.2)
    trial = SMALL.trial("later", parts["train"], 0, start=build(trial))
    assert trial.protocol == Protocol(steps=5)
    assert SMALL.at(steps=7).trial("plain", parts["train"], 0).protocol.steps == 7


def test_an_arm_starts_at_trained_weights_which_it_leaves_alone(fits):
    def go_on(trial):
        return trial.start

    study = replace(SMALL, arms={**ROWS, "later": Arm(go_on, start="plain")})
    parts, starts = split(None, 0, None), {}
    outcome = study.train("later", parts, 0, starts=starts)
    plain, later = fits[0]["method"], fits[1]["method"]
    assert plain is starts["plain"] and later is outcome.method and later is not plain
    again = study.train("plain", parts, 0).method
    assert torch.equal(again.network.head.weight, plain.network.head.weight)
    assert not torch.equal(later.network.head.weight, plain.network.head.weight)
    fits.clear()
    study.train("later", parts, 0, starts=starts)
    assert len(fits) == 1  # trained once a repeat


def test_a_tuning_starts_at_weights_of_the_same_split(fits):
    arms = {"plain": Arm(build), "later": Arm(lambda trial: trial.start, (1, 2), start="plain")}
    replace(SMALL, arms=arms).tune(Result("r", {}), None, arms=["later"])
    seen = [(call["seed"], float(call["train"][0].inputs[0, 0])) for call in fits]
    of_split = {s: float(split(None, s, None)["train"][0].inputs[0, 0]) for s in (1000, 1001)}
    assert sorted(seen) == sorted([*of_split.items()] * 3)  # the start, and two values


def test_an_error_counts_against_an_arm():
    for loss, sign in (("cross_entropy", 1), ("mse", -1)):
        part = made(4, loss=loss)
        method = STL(mlp(2, part.outputs, seed=0, hidden=()))
        assert engine.validation_score(method, part) == [sign * evaluate(method, part).mean]


def test_untrained_is_what_training_began_with():
    outcome = SMALL.train("plain", split(None, 0, None), 5)
    fresh = build(outcome.trial)
    assert torch.equal(outcome.untrained().network.head.weight, fresh.network.head.weight)
    assert not torch.equal(outcome.method.network.head.weight, fresh.network.head.weight)


def test_mistakes_are_named():
    parts, result = split(None, 0, None), Result("r", {})
    with pytest.raises(ValueError, match=r"arms: expected some of \('plain', .* got \['nope'\]"):
        SMALL.compare(result, None, arms=["plain", "nope"], repeats=[0])
    with pytest.raises(ValueError, match="value: expected a number for arm 'tuned', got None"):
        SMALL.train("tuned", parts, 0)
    with pytest.raises(ValueError, match="value: expected a number for arm 'control'"):
        SMALL.train("control", parts, 0)
    with pytest.raises(ValueError, match=r"repeats: expected none of the tuning .* \[1000\]"):
        SMALL.compare(result, None, arms=["plain"], repeats=[0, 1000])
    with pytest.raises(ValueError, match="start: expected plain for arm 'later', got NoneType"):
        SMALL.trial("later", parts["train"], 0)


def test_a_suffix_ends_metrics_and_choices(monkeypatch):
    result = Result("r", {})
    study = replace(SMALL, suffix="/5")
    study.compare(result, None, arms=["tuned"], repeats=[0])
    assert set(choices(result)) == {"tuned/5"}
    assert {r["metric"] for r in result.records} == {"value/5", "validation_percent/5"}
    assert "tuned@1/5" in result.settings["validation"]
    given = Result("r", {})
    study.compare(given, None, arms=["tuned"], repeats=[0], values={"tuned": 2.0})
    assert choices(given) == {"tuned/5": 2.0}


def test_what_an_arm_draws_comes_before_what_it_always_has():
    arm = Arm(build, configurations=[{"lr": 0.5}], protocol={"lr": 0.1, "steps": 3})
    assert arm.changes(0) == {"lr": 0.5, "steps": 3}
    assert replace(arm, configurations=(), number="lr").changes(0.2) == {"lr": 0.2, "steps": 3}


def test_a_result_names_the_device_and_not_the_wish_for_one():
    result = SMALL.begin("e", {}, made(4), device="auto")
    assert result.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert result.numerics["mrn"] == NUMERICS["mrn"] and result.data["train"] == 8


def test_choices_are_read_from_one_run_or_from_many():
    one = Result("r", {}, settings={"chosen": {"a": 1.0, "b": 2.0}})
    many = Result("r", {}, settings={"chosen": {"arm=a": {"a": 3.0}, "arm=c": {"c": 4.0}}})
    assert choices(one) == {"a": 1.0, "b": 2.0}
    assert choices(one, many) == {"a": 3.0, "b": 2.0, "c": 4.0}
    assert choices() == {}


def test_the_parameters_of_a_notebook_are_all_that_its_cell_names():
    namespace = {"__name__": "n", "_i": "x", "In": [], "Out": {}, "torch": torch, "f": build}
    parameters = {"experiment": "e", "steps": 3, "lr": 0.1, "lists": False, "arms": ["stl"]}
    where = {"device": "cpu", "result": "r.json"}
    assert parameters_of(namespace | parameters | where) == parameters


def test_settings_are_drawn_evenly_and_set_the_protocol(fits):
    drawn = configurations(10, seed=3, lr=(0.01, 1.0), steps=[1, 2])
    assert drawn == configurations(10, seed=3, lr=(0.01, 1.0), steps=[1, 2])
    assert drawn != configurations(10, seed=4, lr=(0.01, 1.0), steps=[1, 2])
    tenths = sorted(10 * (math.log10(settings["lr"]) + 2) / 2 for settings in drawn)
    for i, tenth in enumerate(tenths):  # one in every tenth of the range, rounded
        assert i - 0.03 <= tenth <= i + 1.03
    assert sorted(settings["steps"] for settings in drawn) == [1] * 5 + [2] * 5
    study = replace(SMALL, arms={"many": Arm(build, configurations=drawn)})
    result = Result("r", {})
    study.compare(result, None, arms=["many"], repeats=[0])
    assert study.grids() == {"many": range(10)}
    assert len(fits) == 2 * 10 + 1
    at = choices(result)["many"]
    assert result.settings["configurations"] == {"many": drawn}
    assert fits[-1]["steps"] == drawn[at]["steps"]
    assert fits[-1]["optimizer"].keywords["lr"] == drawn[at]["lr"]


# The studies of the book: none can leak


def of_digits(protocol):
    return replace(protocol, train=3, validation=2, test=2, channels=4, hidden=3, trunk="small")


CASES = {
    "tnrdmtl": (lambda g: tnrdmtl.TABLE1.at(steps=1), lambda g: g.alphabets(), 2),
    "tnrdmtl_fair": (
        lambda g: tnrdmtl_fair.STUDY.at(steps=1, validation=3),
        lambda g: g.alphabets(),
        3,
    ),
    "domains": (lambda g: domains.STUDY.at(steps=1), lambda g: g.domains(each=14), 5),
    "mrn": (
        lambda g: mrn.table1(20, 1).at(hidden=3),
        lambda g: g.domains((7,), each=16),
        round(0.2 * 48) / 3,
    ),
    "mrn_linear": (
        lambda g: mrn_linear.table1(g.domains((7,), each=16), 20, 1),
        lambda g: g.domains((7,), each=16),
        round(0.2 * 48) / 3,
    ),
    "mrn_images": (
        lambda g: mrn_images.table(20, steps=1),
        lambda g: g.domains((7,), each=16),
        round(0.2 * 48) / 3,
    ),
    "planted": (lambda g: planted.planted("signs", steps=1), lambda g: None, None),
    "which_method": (
        lambda g: which_method.study_of("pacs-3", g.domains((7,), each=16), steps=1),
        lambda g: g.domains((7,), each=16),
        (3 * 16 // 5) / 3,
    ),
    "which_method, planted": (
        lambda g: which_method.study_of("T8-n5-c-1", steps=1),
        lambda g: None,
        None,
    ),
    "srdml": (
        lambda g: replace(srdml.TABLE, protocol=of_digits(srdml.TABLE.protocol)),
        lambda g: g.one_vs_all((1, 8, 8), each=9),
        2,
    ),
    "mtal": (
        lambda g: mtal.TABLE.at(steps=1, train=3, validation=2, test=3, channels=(3, 4)),
        lambda g: g.heterogeneous(),
        2,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    """A study, made-up tasks (in float64) for it, and its number of validation samples a class."""
    study, tasks, validation = CASES[request.param]
    torch.set_default_dtype(torch.float64)
    with golden.narrow_backbone():  # for whom it is meant
        yield study(golden), tasks(golden), validation
    torch.set_default_dtype(torch.float32)


def samples(part):
    """What identifies the samples of every task: their inputs, each as a number."""
    return [
        {round(float(x.flatten().double().square().sum()), 6) for x in task.inputs} for task in part
    ]


def test_a_study_has_a_version(case):
    assert case[0].name in NUMERICS


def test_validation_is_kept_apart_once_and_for_all(case):
    """What numbers are chosen with is the same in all repeats, and no repeat trains or tests on it.

    A swap of validation and test parts fails here.
    """
    study, tasks, validation = case
    if tasks is None:
        pytest.skip("every repeat draws a problem of its own")
    repeats = (0, 1, *study.tuning_splits)
    # unscaled inputs: scales follow the training part of each repeat
    unscaled = {
        "mrn": mrn.parts_of,
        "which_method": lambda tasks, repeat, _: problems.REAL["pacs-3"].divided(tasks, repeat),
    }
    split = unscaled.get("mrn" if study.name.startswith("mrn") else study.name, study.split)
    parts = {repeat: split(tasks, repeat, study.protocol) for repeat in repeats}
    kept = samples(parts[0]["validation"])
    for of_repeat in parts.values():
        train, test = samples(of_repeat["train"]), samples(of_repeat["test"])
        assert samples(of_repeat["validation"]) == kept
        for t in range(len(kept)):
            assert kept[t] and train[t] and test[t]
            assert not kept[t] & train[t] and not kept[t] & test[t] and not train[t] & test[t]
    assert samples(parts[0]["train"]) != samples(parts[1]["train"])
    for task in parts[0]["validation"]:
        classes = 10 if task.loss == "bce" else task.outputs
        assert len(task) == pytest.approx(validation * classes)


def test_no_arm_sees_more_than_its_training_part(case, fits):
    """``fit`` gets the training part and numbers; what it watches is a function of the method."""
    study, tasks, _ = case
    parts = study.split(tasks, 0, study.protocol)
    shown = {"train": parts["train"], "validation": parts["validation"]}
    for arm, grid in study.grids().items():
        study.train(arm, shown, 0, grid[0], device="cpu")
    assert fits
    for call in fits:
        others = {k: v for k, v in call.items() if isinstance(v, TaskSet) and k != "train"}
        assert call["train"] is parts["train"] and not others


def test_every_arm_has_the_same_budget(case, fits):
    """As many values for each, the weakest first, and for each as many trainings."""
    study, tasks, _ = case
    grids = study.grids()
    (size,) = {len(grid) for grid in grids.values()}
    drawn = {"mrn_linear": mrn_linear, "mrn_images": mrn_linear, "which_method": which_method}
    assert size == (drawn[study.name].TRIALS if study.name in drawn else 5)
    for arm, grid in grids.items():
        assert list(grid) == sorted(set(grid))
        assert grid[0] > 0 or study.arms[arm].configurations
    few = [arm for arm in grids if study.arms[arm].start is None][:3]
    study.tune(Result("r", {}), tasks, arms=few, device="cpu")
    assert len(fits) == size * len(few) * len(study.tuning_splits)
    assert not set(study.tuning_splits) & set(range(1000))


def test_controls_take_over_the_number_of_what_they_are_compared_with():
    arms = {**tnrdmtl.VARIANTS, **mtal.ARMS}
    assert {name: arm.like for name, arm in arms.items() if arm.like} == {
        "stl-800-steps": "stl",
        "stl-52px": "stl",
        "random-pairs": "mtal",
        "one-trunk": "hard-sharing",
    }
    assert not any(arm.like and (arm.values or arm.value is not None) for arm in arms.values())


def test_controls_take_over_a_number_that_exists(case):
    study, *_ = case
    for row in study.arms.values():
        assert row.like is None or study.arms[row.like].grid
        assert row.start is None or row.start in study.arms
        assert row.number is None or hasattr(study.protocol, row.number)
        assert set(row.protocol) <= set(vars(study.protocol))
