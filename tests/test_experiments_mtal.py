"""The experiments of MTAL on tiny tasks that differ in inputs and labels."""

import json
import math
from dataclasses import replace

import pytest
import torch
import yaml

from mtlbook.experiments import mtal
from mtlbook.experiments.mtal import ARMS, CONTROL, GRIDS, Arm, Protocol, parts_of, train_arm
from mtlbook.ledger.results import Result
from mtlbook.methods import MTAL, STL, TNRDMTL, CrossStitch, HardSharing
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate, fit

FAST = Protocol(
    train=4, validation=4, test=8, steps=3, batch_size=6, channels=(3, 4), init="independent"
)


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
    return Result.begin("mtal-tiny", {})


def samples(part):
    return {tuple(x.flatten().tolist()) for task in part for x in task.inputs}


def arm(method, value=0.3, **switches):
    return Arm(method, None if method == "stl" else value, switches)


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


def test_every_pair_of_images_or_labels_differs():
    for names in mtal.TASK_SETS.values():
        assert len(names) == len(set(names)) >= 2


def test_parts_are_of_the_size_that_each_task_allows(tasks):
    parts = parts_of(tasks, 0, FAST)
    for name, count in (("train", 4), ("validation", 4), ("test", 8)):
        for task in parts[name]:
            assert torch.bincount(task.targets).tolist() == [count] * task.classes
    greedy = parts_of(tasks, 0, replace(FAST, train=100, validation=100, test=100))
    sizes = {name: len(part[0]) / 3 for name, part in greedy.items()}
    assert sizes == {"train": 10, "validation": 4, "test": 6}  # of 20: a half, a fifth, the rest


def test_no_repeat_trains_or_tests_on_a_validation_image(tasks):
    validation = samples(parts_of(tasks, 0, FAST)["validation"])
    seen = []
    for repeat in (0, 1, *mtal.TUNING_REPEATS):
        parts = {name: samples(part) for name, part in parts_of(tasks, repeat, FAST).items()}
        assert parts["validation"] == validation
        assert not validation & (parts["train"] | parts["test"])
        assert not parts["train"] & parts["test"]
        seen.append(frozenset(parts["train"]))
    assert len(set(seen)) == len(seen)
    more = parts_of(tasks, 0, replace(FAST, train=8))  # nor does the size of another part matter
    assert samples(more["validation"]) == validation


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


def test_every_tuned_arm_has_five_values():
    assert set(ARMS) == {*GRIDS, CONTROL}
    assert {*mtal.COUNTERPARTS, "stl", "mtal", CONTROL} == set(ARMS)
    for grid in GRIDS.values():
        assert len(grid) == 5 and list(grid) == sorted(set(grid)) and grid[0] > 0


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
    assert set(KINDS) == {*ARMS, "one-trunk"}


@pytest.mark.parametrize("name", KINDS)
def test_an_arm_is_its_method_at_its_value_and_trains(name, tasks):
    parts = parts_of(tasks, 0, FAST)
    method = train_arm(arm(name), parts["train"], 0, FAST, device="cpu")
    kind, attributes = KINDS[name]
    assert type(method) is kind
    for attribute, value in attributes.items():
        assert getattr(method, attribute) == value
    if kind is MTAL:
        assert set(method.rho.values()) == {0.3}
    assert len(evaluate(method, parts["test"]).per_task) == 3


def test_what_is_shared_hard(pair):
    parts = parts_of(pair, 0, FAST)
    upper = mtal.build(arm("hard-sharing"), parts["train"], 0, FAST).network
    trunk = mtal.build(arm("one-trunk"), parts["train"], 0, FAST).network
    assert [layer.tasks for layer in upper.convolutions.values()] == [2, 1]
    assert [layer.tasks for layer in trunk.convolutions.values()] == [1, 1]


def test_switches_reach_mtal_and_its_control(tasks):
    train = parts_of(tasks, 0, FAST)["train"]
    method = mtal.build(arm("mtal", pairs="cross-task", unit="slice"), train, 0, FAST)
    assert (method.pairs, method.unit) == ("cross-task", "slice")
    control = mtal.build(arm(CONTROL, pairs="cross-task", unit="slice"), train, 0, FAST)
    assert (control.pairs, control.unit) == ("random", "slice")
    for name in method.sharing_layers:  # as many pairs across tasks, and as strong; none within
        own, other = method.weights(name), control.weights(name)
        assert torch.equal(own.flatten().sort().values, other.flatten().sort().values)


def test_arms_of_a_repeat_start_alike_and_see_the_same_samples(pair):
    train = parts_of(pair, 0, FAST)["train"]
    losses = {}
    for name in ("stl", "weight-decay", "laf"):
        method = mtal.build(arm(name, 0.01), train, 0, FAST)
        losses[name] = fit(method, train, steps=1, batch_size=6, seed=0, device="cpu").loss
    method = mtal.build(arm("mtal", 1.0), train, 0, FAST)
    losses["mtal"] = fit(method, train, steps=1, batch_size=6, seed=0, device="cpu").loss
    for loss in losses.values():
        assert torch.equal(loss, losses["stl"])


def test_a_step_size_is_the_value_of_stl_and_hard_sharing_alone(pair):
    train = parts_of(pair, 0, FAST)["train"]
    heads = {}
    for name, value, lr in (("by value", 0.02, 0.5), ("by protocol", None, 0.02)):
        method = train_arm(Arm("stl", value), train, 0, replace(FAST, lr=lr), device="cpu")
        heads[name] = method.network.head.weight[0]
    assert torch.equal(heads["by value"], heads["by protocol"])
    assert Arm("hard-sharing", 0.1).lr(0.5) == 0.1 and Arm("mtal", 0.1, speed=2).lr(0.5) == 1


def test_arms_at_values():
    named = mtal.arms_at(
        ["stl", "one-trunk", "mtal", CONTROL],
        {"stl": 0.02, "hard-sharing": 0.01, "mtal": 0.3},
        "/x",
        Arm("mtal", 0.7, {"unit": "slice"}, speed=2),
    )
    assert named == {
        "stl/x": Arm("stl", 0.02),
        "one-trunk/x": Arm("one-trunk", 0.01),
        "mtal/x": Arm("mtal", 0.7, {"unit": "slice"}, speed=2),
        f"{CONTROL}/x": Arm(CONTROL, 0.7, {"unit": "slice"}, speed=2),
    }
    assert mtal.arms_at([CONTROL], {"mtal": 0.3}) == {CONTROL: Arm(CONTROL, 0.3)}


def test_errors(tasks):
    train = parts_of(tasks, 0, FAST)["train"]
    with pytest.raises(ValueError, match=r"arm: expected one of .* got 'ridge'"):
        mtal.build(Arm("ridge", 1.0), train, 0, FAST)
    with pytest.raises(ValueError, match="value: expected a number for arm 'mtal', got None"):
        mtal.build(Arm("mtal"), train, 0, FAST)
    for name in ("common", "other/10", "common/ten"):
        with pytest.raises(ValueError, match="regime: expected a start"):
            mtal.regime(name, FAST)


# Choices


def test_tune_reads_the_validation_part_alone(tasks, result):
    mtal.tune(result, tasks, arms=["stl", "mtal"], protocol=FAST, device="cpu")
    names = [r["arm"] for r in result.records if r["repeat"] == mtal.TUNING_REPEATS[0]]
    assert names == [f"{a}@{v:g}" for a in ("stl", "mtal") for v in GRIDS[a]]
    assert {r["metric"] for r in result.records} == {"validation_percent"}
    repeat, lr = mtal.TUNING_REPEATS[1], mtal.chosen(result)["stl"]
    parts = parts_of(tasks, repeat, FAST)
    by_hand = train_arm(
        Arm("mtal", 0.3), parts["train"], repeat, replace(FAST, lr=lr), device="cpu"
    )
    expected = evaluate(by_hand, parts["validation"]).mean
    assert result.values("mtal@0.3", "validation_percent")[repeat] == expected


def test_chosen_is_the_best_mean_and_of_equals_the_first(result):
    for name, repeat, value in (
        ("mtal@0.3", 0, 80.0),
        ("mtal@0.3", 1, 10.0),
        ("mtal@0.5", 0, 50.0),
        ("mtal@0.5", 1, 52.0),
        ("mtal@0.7", 0, 51.0),
        ("mtal@0.7", 1, 51.0),
    ):
        result.add(arm=name, repeat=repeat, metric="validation_percent", value=value)
    result.add(arm=json.dumps({"init": "common"}), metric="gain_points", value=99.0)
    assert mtal.chosen(result) == {"mtal": 0.5}


def test_what_diverges_scores_nothing(tasks):
    parts = parts_of(tasks, 0, FAST)
    wild = replace(FAST, steps=8)
    assert mtal.score(Arm("stl", 1e30), parts, 0, wild, "cpu") == 0
    assert mtal.score(Arm("stl", 0.01), parts, 0, wild, "cpu") > 0


def test_search_covers_its_plan_and_changes_the_best(pair, result, monkeypatch):
    bonus = {"common": 6.0, "independent": 2.0}

    def score(arm, parts, repeat, protocol, device):
        """STL likes a step size of 0.02, hard sharing one of 0.01; MTAL a rho of 0.5."""
        if arm.method != "mtal":
            liked = 0.02 if arm.method == "stl" else 0.01
            return 50 - abs(arm.lr(protocol.lr) - liked)
        assert protocol.lr == 0.02 and len(parts["train"][0]) == 2 * pair[0].classes
        return 50 + bonus.get(protocol.init, 0) + (arm.value == 0.5) - arm.speed

    monkeypatch.setattr(mtal, "score", score)
    mtal.search(result, pair, samples=2, protocol=replace(FAST, lr=0.5))
    names = [r["arm"] for r in result.records if r["metric"] == "gain_points"]
    names = list(dict.fromkeys(names))
    plan = len(mtal.INITS) * len(mtal.SHARINGS)
    assert len(names) == plan + len(mtal.CHANGES)
    best = {"init": "common", "train": 2, "rho": 0.5, "unit": "filter"}
    assert [json.loads(name) for name in names[plan:]] == [best | c for c in mtal.CHANGES]
    assert mtal.best_of(result) == best
    assert result.values(names[0], "gain_points") == {1000: 2.0, 1001: 2.0}
    expected = {"stl": 0.02, "hard-sharing": 0.01, "one-trunk": 0.01}
    assert mtal.values_at(result, "common") == expected
    assert mtal.values_at(result, "independent") == {"stl": 0.02}


def test_what_a_configuration_means():
    here, of_mtal = mtal.unfold(
        {"init": "common", "train": 7, "rho": 0.3, "unit": "filter", "steps": 3, "warmup": 0.5},
        FAST,
    )
    assert here == replace(FAST, init="common", train=7, steps=9)
    assert of_mtal == Arm("mtal", 0.3, {"unit": "filter", "warmup": 4})
    assert mtal.unfold(
        {"init": "common", "train": 7, "rho": 0.3, "unit": "filter", "speed": 2}, FAST
    ) == (replace(FAST, init="common", train=7), Arm("mtal", 0.3, {"unit": "filter"}, speed=2))


# Comparisons


def test_compare_records_what_training_by_hand_gives(pair, result):
    arms = {"stl": Arm("stl"), "mtal": Arm("mtal", 0.2)}
    mtal.compare(result, pair, arms=arms, repeats=[0, 2], protocol=FAST, device="cpu")
    parts = parts_of(pair, 2, FAST)
    method = train_arm(arms["mtal"], parts["train"], 2, FAST, device="cpu")
    for metric, value in (
        ("accuracy_percent", evaluate(method, parts["test"]).mean),
        ("validation_percent", evaluate(method, parts["validation"]).mean),
        ("train_cross_entropy", evaluate(method, parts["train"]).mean_loss),
        ("redundancy", mtal.likeness(method)["redundancy"]),
    ):
        assert result.values("mtal", metric)[2] == value
        assert set(result.values("stl", metric)) == {0, 2}
    assert set(result.values("untrained", "across/conv1@0.5")) == {0, 2}
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
    method = mtal.build(Arm("mtal", 0.0), pair, 0, FAST)
    mixed, own = mtal.likeness(method), mtal.likeness(STL(method.network))
    assert mixed["redundancy"] > own["redundancy"]
    assert {name for name in mixed if name.startswith("joined")} == {"joined/conv1", "joined/conv2"}


@pytest.mark.parametrize(("rows", "expected"), [(torch.eye(4), 1.0), (torch.ones(4, 6), 0.25)])
def test_effective_rank(rows, expected):
    assert mtal.effective_rank(rows) == pytest.approx(expected)
    scaled = rows * torch.tensor([1.0, 2, 30, 4])[:, None]
    assert mtal.effective_rank(scaled) == pytest.approx(expected)


def test_variants_differ_in_one_thing_from_the_default():
    arms = mtal.variants(20)
    default = arms[f"mtal, rho {mtal.DEFAULT_RHO:g}"]
    assert default == Arm("mtal", mtal.DEFAULT_RHO)
    for name, of_name in arms.items():
        if name == "slices, rho 0.8":
            continue
        changes = (of_name.method != default.method) + len(of_name.switches) + of_name.speed - 1
        changes += of_name.method != "stl" and of_name.value != default.value
        assert changes <= (2 if CONTROL in name else 1)
    assert arms["warm-up"].switches == {"warmup": 10}


@pytest.mark.parametrize("name", ["stl", "mtal"])
def test_arms_learn(name, tasks, result):
    protocol = replace(FAST, steps=60, batch_size=12, lr=0.02, channels=(4, 8))
    mtal.compare(
        result, tasks, arms={name: arm(name, 0.5)}, repeats=[0], protocol=protocol, device="cpu"
    )
    assert result.values(name, "accuracy_percent")[0] > 80


# Claims


def test_claims_name_arms_metrics_and_experiments_that_exist(root):
    claims = yaml.safe_load((root / "data" / "claims" / "mtal.yaml").read_text())["claims"]
    entries = yaml.safe_load((root / "notebooks" / "experiments.yaml").read_text())["experiments"]
    known = {*ARMS, "one-trunk", "untrained", "stl-same-step"}
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
