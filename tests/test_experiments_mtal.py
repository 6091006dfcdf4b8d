"""The experiments of MTAL on tiny tasks that differ in inputs and labels."""

import json
import math
from dataclasses import replace

import pytest
import torch
import yaml

from mtlbook import datasets
from mtlbook.experiments import mtal, mtal_fair, mtal_search
from mtlbook.experiments.mtal import ARMS, CONTROL, TABLE, Protocol, sharing
from mtlbook.ledger.results import Result
from mtlbook.methods import MTAL, STL, TNRDMTL, CrossStitch, HardSharing
from mtlbook.study import Arm, Study, choices
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate

FAST = Protocol(
    train=4, validation=4, test=8, steps=3, batch_size=6, channels=(3, 4), init="independent"
)
TINY = replace(TABLE, protocol=FAST)


def made(shapes=((1, 8, 8), (1, 12, 12), (3, 8, 8)), classes=(3, 2, 4), samples=20):
    """Tasks of different shape; each class can be told from its pixels."""
    generator = torch.Generator().manual_seed(0)
    tasks = []
    for t, (shape, k) in enumerate(zip(shapes, classes, strict=True)):
        targets = torch.arange(k).repeat(samples)
        mean = torch.rand(k, *shape, generator=generator)
        inputs = mean[targets] + 0.2 * torch.randn(len(targets), *shape, generator=generator)
        tasks.append(Task(f"task {t}", inputs, targets, classes=k))
    return TaskSet("made", tasks)


@pytest.fixture(scope="module")
def tasks():
    return made()


@pytest.fixture(scope="module")
def pair():
    """Two tasks whose layers all agree in shape but for the head."""
    return made(shapes=((1, 8, 8), (1, 12, 12)), classes=(3, 2))


@pytest.fixture
def result():
    return Result("mtal-tiny", {})


def trial_of(row, tasks, repeat=0, value=None, **changes):
    """A row of a table about to be trained on the tiny tasks."""
    study = replace(TINY.at(**changes), arms={"one": row})
    train = study.split(tasks, repeat, study.protocol)["train"]
    return study.trial("one", train, repeat, value)


def built(row, tasks, repeat=0, value=None):
    return row.build(trial_of(row, tasks, repeat, value))


def step_size(row, tasks, value=None, **changes):
    return TINY.training(trial_of(row, tasks, 0, value, **changes))["optimizer"].keywords["lr"]


# Data


def test_task_sets_are_embedded_or_say_where_they_come_from():
    tasks = mtal.assemble(mtal.TASK_SETS["embedded"])
    assert tasks.tier == "embedded" and "no printed number" in tasks.stand_in_for
    assert tasks.names == ["digits", "mnist5k", "Greek small"]
    assert [tuple(t.inputs.shape[1:]) for t in tasks] == [(1, 8, 8), (1, 28, 28), (1, 28, 28)]
    assert tasks.outputs == [10, 10, 25]
    for task in tasks:
        assert float(task.inputs.min()) >= 0 and float(task.inputs.max()) <= 1
    other = mtal.assemble(mtal.TASK_SETS["embedded"][:2])
    assert len(other.sha256) == 64 and other.sha256 != tasks.sha256


def test_a_set_is_as_accessible_as_the_least_of_its_parts(monkeypatch):
    digits = datasets.load("digits")
    tiers = {"a": "embedded", "b": "gated", "c": "fetched"}
    load = lambda name: replace(digits, name=name, tier=tiers[name])  # noqa: E731
    monkeypatch.setattr(datasets, "load", load)
    for names, tier in (("aa", "embedded"), ("ac", "fetched"), ("abc", "gated")):
        assert mtal.assemble(names).tier == tier


def test_every_pair_of_images_or_labels_differs():
    for names in mtal.TASK_SETS.values():
        assert len(names) == len(set(names)) >= 2


def test_parts_are_of_the_size_that_each_task_allows(tasks):
    parts = mtal.split(tasks, 0, FAST)
    for name, count in (("train", 4), ("validation", 4), ("test", 8)):
        for task in parts[name]:
            assert torch.bincount(task.targets).tolist() == [count] * task.classes
    greedy = mtal.split(tasks, 0, replace(FAST, train=100, validation=100, test=100))
    sizes = {name: len(part[0]) / 3 for name, part in greedy.items()}
    assert sizes == {"train": 10, "validation": 4, "test": 6}  # of 20: a half, a fifth, the rest
    for one, other in zip(parts["validation"], greedy["validation"], strict=True):
        assert torch.equal(one.inputs, other.inputs)  # whatever the size of the other parts


# Starts


@pytest.mark.parametrize("init", ["independent", "half-common", "common"])
def test_how_alike_the_tasks_start(init, pair):
    wide = replace(FAST, channels=(3, 200), init=init)
    networks = mtal.start(pair, 0, wide)
    first, second = (k.detach().flatten() for k in networks.kernels("conv2"))
    cosine = float(torch.nn.functional.cosine_similarity(first, second, dim=0))
    assert cosine == pytest.approx(mtal.COMMON[init], abs=0.05)


def test_a_pretrained_start_is_one_for_all_and_not_random(pair, monkeypatch):
    monkeypatch.setattr(mtal, "assemble", lambda names: made(((1, 8, 8),), (3,)))
    mtal.pretrained.cache_clear()
    protocol = replace(FAST, init="pretrained")
    networks = mtal.start(pair, 0, protocol)
    for name in ("conv1", "conv2"):
        first, second = networks.kernels(name)
        assert torch.equal(first, second)
        assert torch.equal(first, mtal.pretrained(0, protocol)[name])
        tuned = mtal.pretrained(0, replace(protocol, own_lr=1.0, speed=2))[name]
        assert torch.equal(first, tuned)  # an arm's step size does not change where it starts
    fresh = mtal.start(pair, 0, FAST)
    assert not torch.equal(networks.kernels("conv2")[0], fresh.kernels("conv2")[0])
    assert torch.equal(networks.head.weight[1], fresh.head.weight[1])
    mtal.pretrained.cache_clear()


@pytest.mark.parametrize("init", ["independent", "common"])
def test_shared_layers_start_as_the_first_tasks_own(init, pair):
    protocol = replace(FAST, init=init)
    own = mtal.start(pair, 1, protocol)
    shared = mtal.start(pair, 1, protocol, shared=["conv2"])
    assert torch.equal(shared.kernels("conv2")[1], own.kernels("conv2")[0])
    for a, b in zip(shared.kernels("conv1"), own.kernels("conv1"), strict=True):
        assert torch.equal(a, b)


# Arms


KINDS = {
    "stl": (STL, {"weight_decay": 0.0}),
    "weight-decay": (STL, {"weight_decay": 0.3}),
    "laf": (TNRDMTL, {"kind": "laf"}),
    "hard-sharing": (HardSharing, {}),
    "one-trunk": (HardSharing, {}),
    "cross-stitch": (CrossStitch, {}),
    "mtal": (MTAL, {"pairs": "all", "unit": "filter"}),
    CONTROL: (MTAL, {"pairs": "random"}),
}


def test_all_arms_are_checked():
    assert set(KINDS) == set(ARMS) > set(mtal.REGIME_ARMS)


@pytest.mark.parametrize("name", KINDS)
def test_an_arm_is_its_method_at_its_value_and_trains(name, tasks):
    parts = TINY.split(tasks, 0, FAST)
    method = TINY.train(name, parts, 0, 0.3, device="cpu").method
    kind, attributes = KINDS[name]
    assert type(method) is kind
    for attribute, value in attributes.items():
        assert getattr(method, attribute) == value
    if kind is MTAL:
        assert set(method.rho.values()) == {0.3}
    assert len(evaluate(method, parts["test"]).per_task) == 3


def test_what_is_shared_hard(pair):
    upper, trunk = (
        built(ARMS[name], pair, value=0.1).network for name in ("hard-sharing", "one-trunk")
    )
    assert [layer.tasks for layer in upper.convolutions.values()] == [2, 1]
    assert [layer.tasks for layer in trunk.convolutions.values()] == [1, 1]


def test_switches_reach_mtal_and_its_control(tasks):
    rows = sharing(0.3, 2, pairs="cross-task", unit="slice", warmup=0.5)
    for name, pairs in (("mtal", "cross-task"), (CONTROL, "random")):
        method = built(rows[name], tasks)
        assert (method.pairs, method.unit) == (pairs, "slice")
        assert set(method.rho.values()) == {0.3}
        assert method.warmup == 1  # half of three steps
        assert step_size(rows[name], tasks) == 2 * FAST.lr


def profile(weights, sizes):
    """The rows of each task's kernels, in no order: their weights by task of the partner."""
    return [
        sorted([block.sort().values.tolist() for block in row.split(sizes)] for row in rows)
        for rows in weights.split(sizes)
    ]


@pytest.mark.parametrize("pairs", ["all", "cross-task", "mutual-best"])
def test_random_pairs_are_as_many_whole_kernels_with_the_same_weights(pairs, pair):
    rows = sharing(0.1, pairs=pairs)
    method, control = built(rows["mtal"], pair), built(rows[CONTROL], pair)
    assert method.sharing_layers == control.sharing_layers == ["conv1", "conv2"]
    joined = 0
    for name in method.sharing_layers:
        sizes = [len(filters) for filters in method.network.kernels(name)]
        own, other = method.weights(name), control.weights(name)
        assert len(other) == sum(sizes)  # whole filters, not slices
        assert profile(own, sizes) == profile(other, sizes)
        assert torch.equal(own.diagonal().sort().values, other.diagonal().sort().values)
        joined += int((other > 0).sum()) - len(other)
    assert joined > 0
    later = built(rows[CONTROL], pair, repeat=1)
    orders = [[m.get_buffer(f"order_{n}").tolist() for n in m.layers] for m in (control, later)]
    assert orders[0] != orders[1]  # each repeat draws pairs of its own


def test_arms_of_a_repeat_start_alike_and_see_the_same_samples(pair):
    study, parts = TINY.at(steps=1), TINY.split(pair, 0, FAST)
    values = {"stl": 0.01, "weight-decay": 0.01, "laf": 0.01, "mtal": 1.0}
    first, *others = (
        study.train(name, parts, 0, value, device="cpu").history.loss
        for name, value in values.items()
    )
    for loss in others:
        assert torch.equal(loss, first)


def test_a_step_size_is_the_value_of_stl_and_hard_sharing_alone(pair):
    of_value = {name for name in ARMS if step_size(ARMS[name], pair, 0.1, lr=0.5) == 0.1}
    assert of_value == {"stl", "hard-sharing", "one-trunk"}
    for name in set(ARMS) - of_value:
        assert step_size(ARMS[name], pair, 0.1, lr=0.5) == 0.5
    assert step_size(Arm(mtal.stl), pair, lr=0.5) == 0.5
    assert step_size(sharing(0.1, speed=2)["mtal"], pair, lr=0.5) == 1


def test_arms_at_values():
    rows = sharing(0.7, speed=2, unit="slice")
    values = {"stl": 0.02, "hard-sharing": 0.01, "mtal": 0.3}
    named = mtal.arms_at(mtal.REGIME_ARMS, values, "/x", rows)
    assert {name: row.value for name, row in named.items()} == {
        "stl/x": 0.02,
        "hard-sharing/x": 0.01,
        "one-trunk/x": 0.01,
        "mtal/x": 0.7,
        f"{CONTROL}/x": 0.7,
    }
    assert all(not row.grid and row.like is None for row in named.values())
    assert named[f"{CONTROL}/x"] == rows[CONTROL] and named["mtal/x"] == rows["mtal"]
    assert mtal.arms_at([CONTROL], {"mtal": 0.3})[CONTROL].value == 0.3


# Choices


def test_tune_gives_the_other_arms_the_step_size_of_stl(pair, result, monkeypatch):
    seen = {}

    def validate(self, arm, value, parts, repeat, *args, **options):
        trial = self.trial(arm, parts["train"], repeat, value)
        lr = self.training(trial)["optimizer"].keywords["lr"]
        seen.setdefault(arm, set()).add(lr)
        return [50 - abs(lr - 0.05) + value / 1000]

    monkeypatch.setattr(Study, "validate", validate)
    arms = ["mtal", "hard-sharing", "stl"]
    chosen = mtal.tune(result, pair, study=TINY.at(lr=0.5), arms=arms)
    assert chosen == choices(result) == {"stl": 0.05, "mtal": 0.9, "hard-sharing": 0.05}
    grids = {arm: set(ARMS[arm].grid) for arm in ("stl", "hard-sharing")}
    assert seen == grids | {"mtal": {0.05}}


def test_search_covers_its_plan_and_changes_the_best(pair, result, monkeypatch):
    bonus = {"common": 6.0, "independent": 2.0}

    def validate(self, arm, value, parts, repeat, *args, **options):
        """STL likes a step size of 0.02, hard sharing one of 0.01; MTAL a rho of 0.5."""
        trial = self.trial(arm, parts["train"], repeat, value)
        lr, p = self.training(trial)["optimizer"].keywords["lr"], self.protocol
        level = 50 + 7 * (repeat - 1000)  # a split on which all are better: no gain
        if trial.value is None or trial.arm.number:
            return [level - abs(lr - (0.02 if trial.arm.build is mtal.stl else 0.01))]
        assert p.lr == 0.02 and len(parts["train"][0]) == 2 * pair[0].classes
        return [level + bonus.get(p.init, 0) + (trial.value == 0.5) - lr / p.lr]

    monkeypatch.setattr(Study, "validate", validate)
    mtal_search.search(result, pair, study=TINY.at(lr=0.5), samples=2)
    names = [r["arm"] for r in result.records if r["metric"] == "gain_points"]
    names = list(dict.fromkeys(names))
    plan = len(mtal_search.INITS) * len(mtal_search.SHARINGS)
    assert len(names) == plan + len(mtal_search.CHANGES)
    best = {"init": "common", "train": 2, "rho": 0.5, "unit": "filter"}
    changed = [json.loads(name) for name in names[plan:]]
    assert changed == [best | change for change in mtal_search.CHANGES]
    assert mtal_search.best_of(result) == best
    assert result.values(names[0], "gain_points") == {1000: 2.0, 1001: 2.0}
    expected = {"stl": 0.02, "hard-sharing": 0.01, "one-trunk": 0.01}
    assert mtal_search.values_at(result, "common") == expected
    assert mtal_search.values_at(result, "independent") == {"stl": 0.02}


def test_what_a_configuration_means():
    here, rows = mtal_search.regime_of(
        {"init": "common", "train": 7, "rho": 0.3, "unit": "slice", "steps": 3, "speed": 2}, TINY
    )
    assert here.protocol == replace(FAST, init="common", train=7, steps=9)
    for row in (rows["mtal"], rows[CONTROL]):
        assert (row.value, row.build.keywords) == (0.3, {"unit": "slice"})
        assert row.protocol == {"speed": 2}


def test_a_regime_is_a_start_and_a_number():
    here = mtal_search.regime("common/10", TINY).protocol
    assert here == replace(FAST, init="common", train=10)
    for name in ("common", "other/10", "common/ten"):
        with pytest.raises(ValueError, match="regime: expected a start"):
            mtal_search.regime(name, TINY)


# Comparisons


def test_compare_records_what_training_by_hand_gives(pair, result):
    arms = {"stl": Arm(mtal.stl), "mtal": sharing(0.2)["mtal"]}
    mtal.compare(result, pair, study=TINY, arms=arms, repeats=[0, 2], device="cpu")
    parts = mtal.split(pair, 2, FAST)
    method = TINY.train("mtal", parts, 2, 0.2, device="cpu").method
    for metric, value in (
        ("accuracy_percent", evaluate(method, parts["test"]).mean),
        ("validation_percent", evaluate(method, parts["validation"]).mean),
        ("train_cross_entropy", evaluate(method, parts["train"]).mean_loss),
        ("test_cross_entropy", evaluate(method, parts["test"]).mean_loss),
        ("redundancy", mtal.likeness(method)["redundancy"]),
    ):
        assert result.values("mtal", metric)[2] == value
        assert set(result.values("stl", metric)) == {0, 2}
    start = mtal.likeness(STL(mtal.start(parts["train"], 2, FAST)))
    assert result.values("untrained", "rank")[2] == start["rank"]
    assert set(result.values("stl", "across/conv1@0.5")) == {0, 2}
    assert set(result.values("mtal", "joined/conv2")) == {0, 2}
    assert not result.values("mtal", "across/conv1@0.5")


def test_likeness_by_hand(pair):
    networks = mtal.start(pair, 0, replace(FAST, channels=(3,)))
    a, b = torch.eye(9)[:3], torch.eye(9)[[3, 3, 0]]  # b: two filters alike, one of task a's
    networks.set_kernels("conv1", [k.view(3, 1, 3, 3) for k in (a, b)])
    found = mtal.likeness(STL(networks))
    assert found["redundancy"] == pytest.approx((0 + 2 / 3) / 2)
    assert found["within/conv1@0.5"] == pytest.approx(1 / 6)
    assert found["across/conv1@0.5"] == pytest.approx(1 / 9)
    values = torch.tensor([math.sqrt(2), 1.0]) / (1 + math.sqrt(2))
    rank = float(torch.exp(-(values * values.log()).sum())) / 3
    assert found["rank"] == pytest.approx((1 + rank) / 2)


def test_likeness_is_of_the_kernels_that_compute(pair):
    """MTAL's own kernels do not count, those it has mixed do."""
    method = built(sharing(0.0)["mtal"], pair)
    mixed, own = mtal.likeness(method), mtal.likeness(STL(method.network))
    assert mixed["redundancy"] > own["redundancy"]
    assert {name for name in mixed if name.startswith("joined")} == {"joined/conv1", "joined/conv2"}


@pytest.mark.parametrize(("rows", "expected"), [(torch.eye(4), 1.0), (torch.ones(4, 6), 0.25)])
def test_effective_rank(rows, expected):
    assert mtal.effective_rank(rows) == pytest.approx(expected)
    scaled = rows * torch.tensor([1.0, 2, 30, 4])[:, None]
    assert mtal.effective_rank(scaled) == pytest.approx(expected)


def test_variants_differ_in_one_thing_from_the_default(pair):
    variants = mtal.variants()
    assert variants[f"mtal, rho {mtal.DEFAULT_RHO:g}"].value == mtal.DEFAULT_RHO
    del variants["slices, rho 0.8"], variants["stl"]
    for name, row in variants.items():
        changes = (row.value != mtal.DEFAULT_RHO) + len(row.build.keywords)
        changes += row.protocol != {"speed": 1}
        assert changes == (name not in (f"mtal, rho {mtal.DEFAULT_RHO:g}", f"{CONTROL}, rho 0.5"))
        method = built(row, pair)
        assert (method.pairs == "random") == (CONTROL in name)
        assert set(method.rho.values()) == {row.value}


@pytest.mark.parametrize("name", ["stl", "mtal"])
def test_arms_learn(name, tasks, result):
    study = TINY.at(steps=60, batch_size=12, lr=0.02, channels=(4, 8))
    row = {"stl": Arm(mtal.stl), "mtal": sharing(0.5)["mtal"]}[name]
    mtal.compare(result, tasks, study=study, arms={name: row}, repeats=[0], device="cpu")
    assert result.values(name, "accuracy_percent")[0] > 80


# Claims


def test_claims_name_arms_metrics_and_experiments_that_exist(root):
    claims = yaml.safe_load((root / "data" / "claims" / "mtal.yaml").read_text())["claims"]
    entries = yaml.safe_load((root / "notebooks" / "experiments.yaml").read_text())["experiments"]
    known = {*ARMS, *mtal_fair.ARMS, "untrained", "stl-same-step"}
    for claim in claims:
        assert "printed" not in claim
        if "asked_by" not in claim:
            assert claim["known"] == "printed" and "no printed number" in claim["statement"].lower()
        rule = claim["rule"]
        for name in (rule["arm"], *rule.get("references", ()), rule.get("reference", "stl")):
            method, _, suffix = name.partition("/")
            assert method in known
            for experiment in claim["experiments"]:
                given = entries[experiment]["profiles"]["laptop"]["parameters"]
                if entries[experiment]["notebook"] == "mtal_fair.ipynb":
                    assert name in (*mtal_fair.GROUPS[given["group"]], "untrained")
                    continue
                if entries[experiment]["notebook"] == "mtal_step.ipynb":
                    assert name in ("stl", "stl-same-step", "mtal", CONTROL)
                    continue
                regimes = {r.replace("/", "-") for r in given["regimes"][1:]}
                regimes |= {"chosen"} if given.get("searched") else set()
                assert suffix in {"", *regimes}
                if method != "untrained":
                    assert method in (mtal.REGIME_ARMS if suffix else given["arms"])
        assert rule["metric"] in ("accuracy_percent", "redundancy", "rank") or (
            rule["metric"].startswith("across/conv")
            and float(rule["metric"].split("@")[1]) in mtal.COSINES
        )
