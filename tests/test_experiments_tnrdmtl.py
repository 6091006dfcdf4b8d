"""The experiments of TNRDMTL on a tiny task set: splits, pairing, and what the claims read."""

import math
from dataclasses import replace

import pytest
import torch
import yaml

from mtlbook.experiments import tnrdmtl
from mtlbook.experiments.tnrdmtl import ARMS, GRIDS, PAPER_ARMS, Protocol, parts_of, train_arm
from mtlbook.ledger.results import Result
from mtlbook.methods import STL, TNRDMTL, HardSharing
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate

TRUNK = ("conv1", "conv2", "conv3", "fc1")
FAST = Protocol(steps=3, batch_size=4)
SIZE = 8


def alphabets(classes=(3, 2, 4), drawers=20, size=SIZE):
    """Like Omniglot: 20 drawings of each character, each of which can be told from its pixels."""
    made = []
    for t, k in enumerate(classes):
        targets = torch.arange(k).repeat(drawers)
        shapes = torch.randn(k, 1, size, size)
        inputs = shapes[targets] + 0.3 * torch.randn(len(targets), 1, size, size)
        made.append(Task(f"alphabet {t}", inputs, targets, classes=k))
    return TaskSet("tiny", made)


@pytest.fixture(scope="module")
def tasks():
    torch.manual_seed(0)
    return alphabets()


@pytest.fixture
def result():
    return Result.begin("tiny", {})


def samples(part):
    """Every sample as its pixels, for comparison of parts."""
    return {tuple(x.flatten().tolist()) for task in part for x in task.inputs}


def metrics(result):
    return {record["metric"] for record in result.records}


# Splits


def test_parts_are_2_of_20_and_2_of_20_and_the_rest(tasks):
    parts = parts_of(tasks, 0, Protocol())
    assert set(parts) == {"train", "validation", "test"}
    for name, count in (("train", 2), ("validation", 2), ("test", 16)):
        for task in parts[name]:
            assert torch.bincount(task.targets).tolist() == [count] * task.classes


def test_parts_are_disjoint_and_validation_is_the_same_in_every_repeat(tasks):
    first, second, tuning = (
        {name: samples(part) for name, part in parts_of(tasks, repeat, Protocol()).items()}
        for repeat in (0, 1, tnrdmtl.TUNING_REPEAT)
    )
    assert first["validation"] == second["validation"] == tuning["validation"]
    assert first["train"] != second["train"] != tuning["train"]
    for parts in (first, second, tuning):
        assert sum(len(part) for part in parts.values()) == tasks.samples == len(samples(tasks))
        assert not parts["validation"] & (parts["train"] | parts["test"])


# Arms


def test_every_arm_that_is_tuned_has_five_values():
    assert set(ARMS) == {*PAPER_ARMS, *GRIDS}
    for grid in GRIDS.values():
        assert len(grid) == 5 and list(grid) == sorted(set(grid)) and grid[0] > 0


EXPECTED = {
    "stl": (STL, {"weight_decay": 0.0}),
    "laf": (TNRDMTL, {"kind": "laf", "proximal": False, "reduction": "sum"}),
    "tucker": (TNRDMTL, {"kind": "tucker"}),
    "tt": (TNRDMTL, {"kind": "tt", "axis_order": "tensorflow"}),
    "laf-tuned": (TNRDMTL, {"kind": "laf"}),
    "tucker-tuned": (TNRDMTL, {"kind": "tucker"}),
    "tt-tuned": (TNRDMTL, {"kind": "tt"}),
    "uncoupled-tuned": (TNRDMTL, {"kind": "uncoupled"}),
    "weight-decay-tuned": (STL, {"weight_decay": 0.02}),
    "proximal-tuned": (TNRDMTL, {"kind": "laf", "proximal": True, "step_size": pytest.approx(0.5)}),
    "hard-sharing": (HardSharing, {}),
    "laf-averaged": (TNRDMTL, {"kind": "laf", "reduction": "mean"}),
    "tucker-averaged": (TNRDMTL, {"kind": "tucker", "reduction": "mean"}),
    "tt-averaged": (TNRDMTL, {"kind": "tt", "reduction": "mean"}),
    "uncoupled-averaged": (TNRDMTL, {"kind": "uncoupled", "reduction": "mean"}),
}


def test_all_arms_are_checked():
    assert set(EXPECTED) == {*ARMS, *tnrdmtl.AVERAGED_ARMS}


@pytest.mark.parametrize("arm", EXPECTED)
def test_an_arm_is_its_method_at_its_strength(arm, tasks):
    strength = None if arm in PAPER_ARMS or arm.endswith("averaged") else 0.02
    parts = parts_of(tasks, 0, FAST)
    method, history, lengths = train_arm(
        arm, parts, 0, replace(FAST, steps=1), strength=strength, device="cpu"
    )
    kind, attributes = EXPECTED[arm]
    assert type(method) is kind
    for name, value in attributes.items():
        assert getattr(method, name) == value
    if kind is TNRDMTL:
        gamma = 0.02 if strength else 0.01 * (3 if arm.endswith("averaged") else 1)
        assert method.gamma_fc1.tolist() == pytest.approx([gamma] * len(method.gamma_fc1))
    assert history.loss.shape == (1, 3)
    assert set(lengths) == (set() if arm == "hard-sharing" else set(TRUNK))


def test_arms_of_a_repeat_are_paired(tasks):
    parts = parts_of(tasks, 0, FAST)
    first = {}
    for arm in ("stl", "laf", "uncoupled-tuned", "weight-decay-tuned"):
        strength = None if arm in PAPER_ARMS else 0.01
        _, history, lengths = train_arm(arm, parts, 0, FAST, strength=strength, device="cpu")
        first[arm] = (history.loss[0], lengths)
    for loss, lengths in first.values():  # same weights, same samples: same loss before any step
        assert torch.equal(loss, first["stl"][0]) and lengths == first["stl"][1]
    _, other, _ = train_arm("stl", parts_of(tasks, 1, FAST), 1, FAST, device="cpu")
    assert not torch.equal(other.loss[0], first["stl"][0])


def test_a_strength_of_stl_is_its_step_size(tasks):
    parts = parts_of(tasks, 0, FAST)
    by_strength, _, _ = train_arm("stl", parts, 0, FAST, strength=0.02, device="cpu")
    by_protocol, _, _ = train_arm("stl", parts, 0, replace(FAST, lr=0.02), device="cpu")
    other, _, _ = train_arm("stl", parts, 0, FAST, device="cpu")
    weights = [m.network.head.weight for m in (by_strength, by_protocol, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_errors(tasks):
    parts = parts_of(tasks, 0, FAST)
    with pytest.raises(ValueError, match=r"arm: expected one of .* got 'ridge'"):
        train_arm("ridge", parts, 0, FAST, device="cpu")
    with pytest.raises(ValueError, match="strength: expected a number for arm 'laf-tuned'"):
        train_arm("laf-tuned", parts, 0, FAST, device="cpu")


# Table 1


def test_table1_records(tasks, result):
    arms = ["stl", "laf", "hard-sharing"]
    tnrdmtl.table1(
        result,
        tasks,
        arms=arms,
        repeats=[0, 3],
        protocol=FAST,
        strengths={"hard-sharing": 0.005},
        device="cpu",
    )
    for arm in arms:
        for metric in ("accuracy_percent", "train_cross_entropy", "test_cross_entropy"):
            assert set(result.values(arm, metric)) == {0, 3}
    for layer in TRUNK:
        for arm in ("stl", "laf"):
            assert set(result.values(arm, f"length/{layer}")) == {0, 3}
            for ratio in result.values(arm, f"alignment/{layer}").values():
                assert 1 / math.sqrt(3) - 1e-6 <= ratio <= 1 + 1e-6
        assert set(result.values("laf", f"sharing_strength/{layer}")) == {0, 3}
    for record in result.records:
        assert record["seed"] == record["repeat"]
        if record["metric"] == "accuracy_percent":
            assert record["value"] == pytest.approx(sum(record["per_task"]) / 3, abs=1e-3)
            assert 0 <= record["value"] <= 100


def test_table1_is_what_training_and_evaluating_by_hand_gives(tasks, result):
    tnrdmtl.table1(
        result, tasks, arms=["laf"], repeats=[0], protocol=FAST, strengths={}, device="cpu"
    )
    parts = parts_of(tasks, 0, FAST)
    method, _, before = train_arm("laf", parts, 0, FAST, device="cpu")
    values = {record["metric"]: record["value"] for record in result.records}
    assert values["accuracy_percent"] == evaluate(method, parts["test"]).mean
    assert values["train_cross_entropy"] == evaluate(method, parts["train"]).mean_loss
    after = method.network.task_layers["fc1"].weight.detach().flatten(1).norm(dim=1).sum()
    assert values["length/fc1"] == pytest.approx(float(after) / before["fc1"], rel=1e-5)


def test_table1_learns():
    torch.manual_seed(0)
    tasks, result = alphabets(), Result.begin("tiny", {})
    tnrdmtl.table1(
        result,
        tasks,
        arms=["stl"],
        repeats=[0],
        protocol=Protocol(steps=150, batch_size=None, optimizer="adam", lr=0.01),
        strengths={},
        device="cpu",
    )
    assert result.values("stl", "accuracy_percent")[0] > 80


# Tuning


def test_tune_reads_validation_alone(tasks, result):
    tnrdmtl.tune(result, tasks, arms=["stl", "laf-tuned"], protocol=FAST, device="cpu")
    arms = [record["arm"] for record in result.records]
    assert arms == [f"{arm}@{value:g}" for arm in ("stl", "laf-tuned") for value in GRIDS[arm]]
    assert metrics(result) == {"validation_percent"}
    parts = parts_of(tasks, tnrdmtl.TUNING_REPEAT, FAST)
    without_test = {name: parts[name] for name in ("train", "validation")}
    method, *_ = train_arm(
        "laf-tuned", without_test, tnrdmtl.TUNING_REPEAT, FAST, strength=0.003, device="cpu"
    )
    expected = evaluate(method, parts["validation"]).mean
    assert result.values("laf-tuned@0.003", "validation_percent")[0] == expected


def test_a_strength_that_diverges_is_the_worst(tasks, result, monkeypatch):
    monkeypatch.setitem(GRIDS, "stl", (0.01, 1e38))
    protocol = replace(FAST, steps=8)
    tnrdmtl.tune(result, tasks, arms=["stl"], protocol=protocol, device="cpu")
    values = [record["value"] for record in result.records]
    assert values[1] == 0 < values[0]


def test_chosen_is_the_best_and_of_equals_the_weakest(result):
    for arm, value in (
        ("laf@0.01", 30.0),
        ("laf@0.03", 50.0),
        ("laf@0.1", 50.0),
        ("stl@1e-05", 10.0),
        ("stl@0.5", 9.0),
    ):
        result.add(arm=arm, metric="validation_percent", value=value)
    assert tnrdmtl.chosen(result) == {"laf": 0.03, "stl": 1e-5}


def test_what_is_chosen_is_one_of_the_grid(tasks, result):
    tnrdmtl.tune(result, tasks, arms=["weight-decay-tuned"], protocol=FAST, device="cpu")
    assert tnrdmtl.chosen(result)["weight-decay-tuned"] in GRIDS["weight-decay-tuned"]


# Figure 1


def test_figure1_records(tasks, result):
    tnrdmtl.figure1(
        result,
        tasks,
        arms=PAPER_ARMS,
        repeats=[0],
        protocol=replace(FAST, steps=25),
        device="cpu",
    )
    assert {"initial_norm", "train_cross_entropy", "norm", "accuracy_percent"} <= metrics(result)
    for arm in PAPER_ARMS:
        for metric in ("train_cross_entropy", "norm"):
            steps = [
                r["step"]
                for r in result.records
                if (r["arm"], r["metric"]) == (arm, metric) and "step" in r
            ]
            assert steps == [0, 5, 25]  # what is digitised of the printed curves
        assert result.values(arm, "initial_norm") == result.values(arm, "norm", step=0)
    initial = {arm: result.values(arm, "initial_norm")[0] for arm in PAPER_ARMS}
    assert initial["stl"] == initial["laf"]  # STL is measured by the LAF norm
    entropies = {result.values(arm, "train_cross_entropy", step=0)[0] for arm in PAPER_ARMS}
    assert len(entropies) == 1  # all start at the same weights
    parts = parts_of(tasks, 0, FAST)
    method, *_ = train_arm("tt", parts, 0, replace(FAST, steps=25), device="cpu")
    loss = evaluate(method, parts["train"]).mean_loss
    assert result.values("tt", "train_cross_entropy", step=25)[0] == loss
    assert result.values("tt", "train_cross_entropy")[0] == loss
    assert result.values("tt", "norm", step=25)[0] == float(method.mean_norm().detach())
    assert result.values("tt", "accuracy_percent")[0] == evaluate(method, parts["test"]).mean


def test_calibration_and_the_nearest_curve(tasks, result):
    names = ["adam-0.001-batch-16", "sgd-0.02-batch-32"]
    protocol = replace(FAST, steps=25)
    tnrdmtl.calibrate(result, tasks, optimisers=names, protocol=protocol, device="cpu")
    for name in names:
        curve = {step: result.values(name, "train_cross_entropy", step=step)[0] for step in (0, 25)}
        assert curve[25] < curve[0]
        assert tnrdmtl.nearest(result, curve | {9999: 1.0}) == name


def test_the_optimisers_are_settings_of_the_protocol():
    for name, settings in tnrdmtl.OPTIMISERS.items():
        protocol = replace(Protocol(), **settings)
        made = protocol.optimiser()([torch.zeros(1, requires_grad=True)])
        assert type(made) is (torch.optim.Adam if "adam" in name else torch.optim.SGD)
        assert f"{made.defaults['lr']:g}" in name and f"batch-{protocol.batch_size}" in name


# The authors' demonstration


def test_demo_tasks_are_noise_free_regressions_of_one_x():
    tasks = tnrdmtl.demo_tasks(0)
    assert tasks.outputs == [3, 2, 5] and [len(task) for task in tasks] == [100] * 3
    for task in tasks:
        assert task.inputs is tasks[0].inputs and task.inputs.shape == (100, 20)
        weights = torch.linalg.lstsq(task.inputs, task.targets).solution
        torch.testing.assert_close(task.inputs @ weights, task.targets, rtol=1e-4, atol=1e-4)
    assert torch.equal(tnrdmtl.demo_tasks(0)[2].targets, tasks[2].targets)
    assert not torch.equal(tnrdmtl.demo_tasks(1)[2].targets, tasks[2].targets)


def test_demo_records_and_its_objective(result):
    tnrdmtl.demo(result, repeats=[0], steps=250, device="cpu")
    losses = {}
    for arm in ("stl", "laf"):
        curve = {r["step"]: r["value"] for r in result.records if r["arm"] == arm and "step" in r}
        assert list(curve) == [0, 100, 200]
        assert curve[0] > curve[100] > curve[200]
        assert result.values(arm, "train_loss") == {0: curve[200]}
        losses[arm] = curve
    # at step 0 the arms differ by the norm alone: 0.001 times that of the first layer
    tasks = tnrdmtl.demo_tasks(0)
    network = tnrdmtl.mlp(20, tasks.outputs, seed=0)
    norm = float(
        torch.linalg.matrix_norm(network.task_layers["fc1"].weight.detach().flatten(1), "nuc")
    )
    assert losses["laf"][0] - losses["stl"][0] == pytest.approx(0.001 * norm, rel=1e-3)
    mean = evaluate(STL(network), tasks).mean_loss
    assert losses["stl"][0] == pytest.approx(mean, rel=1e-5)
    assert 15 < losses["stl"][0] < 45  # the authors print 29.4 for their draw


# Ambiguities


def test_every_variant_changes_one_thing(result):
    torch.manual_seed(0)
    tasks = alphabets((2, 2), size=36)  # large enough for convolutions without padding
    tnrdmtl.ambiguity(
        result,
        tasks,
        variants=tnrdmtl.VARIANTS,
        repeats=[0],
        protocol=replace(FAST, steps=2),
        strengths={},
        device="cpu",
    )
    assert [record["arm"] for record in result.records] == list(tnrdmtl.VARIANTS)
    assert metrics(result) == {"accuracy_percent"}
    for arm, changes in tnrdmtl.VARIANTS.values():
        assert arm in (*PAPER_ARMS, *tnrdmtl.AVERAGED_ARMS)
        for name, value in changes.items():
            assert getattr(Protocol(), name) != value


def test_the_start_at_stl_is_a_trained_stl(tasks, result, monkeypatch):
    starts = []
    plain = tnrdmtl.train_arm

    def watched(arm, *args, stl=None, **options):
        starts.append((arm, options["strength"], type(stl).__name__))
        return plain(arm, *args, stl=stl, **options)

    monkeypatch.setattr(tnrdmtl, "train_arm", watched)
    tnrdmtl.ambiguity(
        result,
        tasks,
        variants=["laf-stl-start"],
        repeats=[0],
        protocol=FAST,
        strengths={"stl": 0.02, "laf": 0.03},
        device="cpu",
    )
    assert starts == [("stl", 0.02, "NoneType"), ("laf", 0.03, "STL")]


# Claims


def test_claims_name_arms_and_metrics_that_the_experiments_record(root, tasks):
    claims = yaml.safe_load((root / "data/claims/tnrdmtl.yaml").read_text())["claims"]
    protocol = replace(FAST, steps=2)
    shared = {"repeats": [0], "protocol": protocol, "device": "cpu"}
    strengths = {arm: grid[0] for arm, grid in GRIDS.items()}
    table, figure, demo = (Result.begin(name, {}) for name in ("table", "figure", "demo"))
    tnrdmtl.table1(table, tasks, arms=ARMS, strengths=strengths, **shared)
    curves = (*PAPER_ARMS, *tnrdmtl.AVERAGED_ARMS)
    tnrdmtl.figure1(figure, tasks, arms=curves, **shared)
    tnrdmtl.demo(demo, repeats=[0], steps=2, device="cpu")
    records = {"omniglot": table, "glyphs": table, "figure1": figure, "demo": demo}
    checked = 0
    for claim in claims:
        rule, source = claim["rule"], claim["experiments"][0].removeprefix("tnrdmtl-")
        if source not in records:
            continue
        recorded = {(r["arm"], r["metric"]) for r in records[source].records}
        arms = [
            rule.get("arm"),
            rule.get("reference"),
            *rule.get("arms", rule.get("references", [])),
        ]
        for arm in filter(None, arms):
            for metric in rule.get("metrics", [rule.get("metric")]):
                assert (arm, metric) in recorded, claim["id"]
        checked += 1
    assert checked > 30
