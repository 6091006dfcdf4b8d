"""Fair trials of SRDML and MTAL: equal budgets, test images drawn anew, thresholds by chance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_experiments_mtal import made
from test_experiments_srdml import images as pictures

from mtlbook.backbones import kernel_networks
from mtlbook.experiments import mtal, mtal_fair, srdml, srdml_fair
from mtlbook.kernels import (
    chance_tail,
    chance_threshold,
    cosine_similarity,
    pair_share,
    pearson_similarity,
)
from mtlbook.ledger import claims, images
from mtlbook.ledger.results import Result
from mtlbook.ledger.rules import DifferenceRule, Printed
from mtlbook.ledger.statistics import mean_interval, two_way_interval
from mtlbook.ledger.verdicts import judge as verdict_of
from mtlbook.ledger.verdicts import over_images
from mtlbook.methods import MTAL
from mtlbook.methods.mtal import chance_thresholds, units
from mtlbook.study import choices

TINY = srdml_fair.STUDY.at(
    trunk="small", channels=4, hidden=4, train=6, validation=4, test=5, epochs=1, extra_epochs=2,
    batch_size=10, second_batch=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def tasks():
    return srdml_fair.numbered(pictures(groups=True))


# Budgets


@pytest.mark.parametrize("of", [srdml_fair, mtal_fair])
def test_every_arm_that_chooses_has_as_many_settings_of_its_step_size(of):
    for name, arm in of.ARMS.items():
        if name == "hard-sharing" and of is srdml_fair:
            assert not arm.values  # the first stage, of which all others start
            continue
        assert len(arm.configurations) == of.TRIALS
        steps = sorted(c.get("lr", c.get("own_lr")) for c in arm.configurations)
        low, high = srdml_fair.STEP["lr"] if of is srdml_fair else mtal_fair.STEP["own_lr"]
        assert low <= steps[0] < 2 * low and high / 2 < steps[-1] <= high


def test_lambda_may_be_zero_and_a_control_has_what_its_method_has():
    for arm in ("srdml", "srdml-uniform", "srdml-fast"):
        assert 0 in {c["weight"] for c in srdml_fair.ARMS[arm].configurations}
    for arm in ("mtal", "mtal-chance"):
        control = arm.replace("mtal", "random-pairs")
        assert mtal_fair.ARMS[arm].configurations == mtal_fair.ARMS[control].configurations


# CIFAR-MTL


def test_every_repeat_draws_its_test_images_anew_and_none_is_validated_on(tasks):
    rows = {}
    for repeat in (0, 1, 1000):
        parts = TINY.split(tasks, repeat, TINY.protocol)
        rows[repeat] = {name: set(part[0].groups.tolist()) for name, part in parts.items()}
        assert {name: len(found) for name, found in rows[repeat].items()} == {
            "validation": 12, "train": 18, "test": 15
        }  # fmt: skip
        assert len(set.union(*rows[repeat].values())) == 45
        for part in parts.values():
            assert {int(task.targets.sum()) for task in part} == {len(part[0]) // 3}
    assert rows[0]["validation"] == rows[1]["validation"] == rows[1000]["validation"]
    assert rows[0]["test"] != rows[1]["test"] and rows[0]["train"] & rows[1]["test"]
    in_test_batch = set((pictures(groups=True)[0].groups == 1).nonzero().flatten().tolist())
    assert in_test_batch & rows[0]["train"] and rows[0]["test"] - in_test_batch
    with pytest.raises(ValueError, match="at most 20 images of class 0 together, got 29"):
        TINY.split(tasks, 0, replace(TINY.protocol, train=20))


@pytest.fixture(scope="module")
def measured(tasks):
    result = TINY.begin("tiny", {}, tasks)
    arms = ("hard-sharing", "hard-sharing-longer", "srdml", "srdml-fast", "lambda-0", "lambda-0.1")
    study = replace(TINY, tuning_splits=(1000,))
    study.compare(result, tasks, arms=arms, repeats=range(5), device="cpu")
    return result


def test_choices_are_among_the_settings_and_reach_the_methods(tasks, measured):
    chosen = choices(measured)
    assert set(chosen) == {"hard-sharing-longer", "srdml", "srdml-fast"}
    parts, first = TINY.split(tasks, 0, TINY.protocol), None
    first = TINY.train("hard-sharing", parts, 0, device="cpu").method
    for place, settings in enumerate(srdml_fair.ARMS["srdml-fast"].configurations):
        trial = TINY.trial("srdml-fast", parts["train"], 0, place, first)
        method = trial.arm.build(trial)
        assert (method.weight, method.omega_step) == (settings["weight"], settings["omega_step"])
        assert srdml.training(trial)["optimizer"].keywords["lr"] == settings["lr"]
    for place in range(srdml_fair.TRIALS):  # the control: a uniform omega that stays so
        trial = TINY.trial("srdml-uniform", parts["train"], 0, place, first)
        assert trial.arm.build(trial).omega_step == 0
    script = TINY.trial("lambda-0.1", parts["train"], 0, None, first)
    assert script.arm.build(script).as_released and script.arm.build(script).weight == 0.1
    assert script.protocol.lr == srdml_fair.SCRIPT_STEP


def test_without_lambda_the_second_stage_is_hard_sharing_for_longer(tasks):
    parts = TINY.split(tasks, 0, TINY.protocol)
    first = TINY.train("hard-sharing", parts, 0, device="cpu").method
    starts = {"hard-sharing": first}
    without = TINY.train("lambda-0", parts, 0, starts=starts, device="cpu").method
    longer = replace(
        TINY, arms={**TINY.arms, "plain": replace(TINY.arms["lambda-0"], build=srdml.shared)}
    )
    plain = longer.train("plain", parts, 0, 0.0, starts=starts, device="cpu").method
    for a, b in zip(without.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


# Images


def test_the_images_that_were_kept_give_the_accuracies(tasks, measured):
    for arm in ("hard-sharing", "srdml", "lambda-0.1"):
        of_images = images.scores(measured, arm)
        assert set(of_images) == set(range(5))
        for repeat, found in of_images.items():
            test = TINY.split(tasks, repeat, TINY.protocol)["test"][0].groups
            assert set(np.flatnonzero(~np.isnan(found))) == set(test.tolist())
            assert np.nanmean(found) == pytest.approx(
                measured.values(arm, "accuracy_percent")[repeat]
            )
    rule = DifferenceRule(
        kind="difference", arm="srdml", reference="hard-sharing", metric="accuracy_percent"
    )
    matrix = images.differences(measured, "srdml", "hard-sharing")
    assert over_images(rule, measured) == two_way_interval(matrix)
    assert over_images(rule.model_copy(update={"metric": "auc_percent"}), measured) is None


def kept(of_arm, repeats=20, units=200, tasks=10):
    """A result with two arms; every repeat tests half of the images."""
    rng = np.random.default_rng(0)
    result = Result("kept", {}, data={"tasks": tasks})
    for repeat in range(repeats):
        tested = rng.permutation(units)[: units // 2]
        for arm in ("a", "b"):
            right = of_arm(arm, tested, rng)
            images.keep(result, arm, repeat, tested, right)
            value = 100 * float(right.mean()) / tasks
            result.add(arm=arm, metric="accuracy_percent", value=value, repeat=repeat)
    return result


def hard_images(arm, tested, rng):
    """Arm a fails on six images, b on three others: nine images are the whole evidence."""
    wrong = (tested < 6) if arm == "a" else (tested >= 197)
    return 10 - 4 * wrong.astype(int)


def test_a_difference_that_rests_on_few_images_is_undecided():
    result = kept(hard_images)
    rule = DifferenceRule(
        kind="difference", arm="a", reference="b", metric="accuracy_percent", margin=5.0
    )
    wide = over_images(rule, result)
    d = [result.values("a", rule.metric)[r] - result.values("b", rule.metric)[r] for r in range(20)]
    narrow = mean_interval(d)
    assert wide.mean == pytest.approx(narrow.mean) and wide.low < narrow.low
    assert narrow.high < 0 < wide.high
    plain = rule.model_copy(update={"margin": None})
    assert plain.judge(result.values, Printed()).verdict == "opposite"
    judged = plain.judge(result.values, Printed(), wide)
    assert judged.verdict == "undecided" and "over repeats and images contains 0" in judged.why
    assert "repeats with images of their own" in judged.why
    assert (judged.low, judged.high) == (wide.low, wide.high) and judged.p > 0.05
    equal = rule.judge(result.values, Printed(), wide)
    assert equal.verdict == "equal within a margin" and "over repeats and images" in equal.why


def test_a_difference_that_a_named_placebo_passes_decides_nothing():
    """Longer training alone beats the reference as well: the rule says nothing of the method."""
    result = Result("e", {})
    for repeat in range(6):
        for arm, value in (("method", 12.0), ("longer", 12.5), ("short", 10.0)):
            result.add(
                arm=arm, metric="m", value=value + repeat % 2 / 10 * (arm == "short"), repeat=repeat
            )
    claim = claims.Claim.model_validate({
        "id": "p.c", "where": "Table 1", "statement": "s", "known": "derived", "experiments": ["e"],
        "rule": {"kind": "difference", "arm": "method", "reference": "short", "metric": "m"},
    })  # fmt: skip
    assert verdict_of(claim, Printed(), result).verdict == "direction"
    named = claim.model_copy(update={"placebo": ("longer",)})
    found = verdict_of(named, Printed(), result)
    assert found.verdict == "undecided" and "passed by longer, too" in found.why
    opposite = named.rule.model_copy(update={"sign": -1})
    found = verdict_of(named.model_copy(update={"rule": opposite}), Printed(), result)
    assert found.verdict == "opposite"  # what does not hold needs no placebo
    order = {"kind": "order", "arms": ["a", "b"], "metric": "m"}
    with pytest.raises(ValueError, match="placebo: expected for a difference only"):
        claims.Claim.model_validate(claim.model_dump() | {"rule": order, "placebo": ["c"]})


def test_images_survive_the_file_and_the_merging_of_runs(tmp_path):
    result = kept(hard_images)
    before = images.differences(result, "a", "b")
    result = Result.load(result.save(tmp_path / "kept.json"))
    np.testing.assert_array_equal(images.differences(result, "a", "b"), before)
    result.curves = {"repeats=0": result.curves}
    np.testing.assert_array_equal(images.differences(result, "a", "b"), before)
    result.records[0]["value"] += 1  # no longer what the images give
    assert images.differences(result, "a", "b") is None
    assert images.differences(result, "a", "c") is None


def test_bad_images():
    result = Result("kept", {}, data={"tasks": 3})
    images.keep(result, "a", 0, [5, 2], [3, 1])
    assert np.flatnonzero(~np.isnan(images.scores(result, "a")[0])).tolist() == [2, 5]
    assert images.scores(result, "a")[0][[2, 5]] == pytest.approx([100 / 3, 100])
    with pytest.raises(ValueError, match="expected different images"):
        images.keep(result, "b", 1, [5, 5], [3, 1])
    with pytest.raises(ValueError, match="the same images for all arms of repeat 0"):
        images.keep(result, "b", 0, [5, 3], [3, 1])


# Thresholds by chance

SHAPES, CLASSES = [(1, 28, 28), (1, 16, 16)], [10, 10]


@pytest.mark.parametrize("chance", [0.3, 0.05, 0.005])
@pytest.mark.parametrize("similarity", ["cosine", "pearson"])
@pytest.mark.parametrize("unit", ["filter", "slice"])
def test_random_kernels_are_joined_at_the_chance_level_in_every_layer(chance, similarity, unit):
    """Cosines with independent uniform directions are pairwise independent: the sd is binomial."""
    shares: dict[str, list[float]] = {}
    measure = {"cosine": cosine_similarity, "pearson": pearson_similarity}[similarity]
    pairs = {}
    for seed in range(30):
        networks = kernel_networks(SHAPES, CLASSES, seed=seed, channels=(8, 8, 8))
        rhos = chance_thresholds(networks, chance, unit=unit, similarity=similarity)
        for name, rho in rhos.items():
            kernels = units(networks.kernels(name), unit)
            generator = torch.Generator().manual_seed(seed)
            number = sum(map(len, kernels))
            normal = torch.randn(number, kernels[0][0].numel(), generator=generator)
            shares.setdefault(name, []).append(float(pair_share(measure(normal), rho)))
            pairs[name] = number * (number - 1) / 2
    for name, found in shares.items():
        sd = (chance * (1 - chance) / pairs[name] / len(found)) ** 0.5
        assert np.mean(found) == pytest.approx(chance, abs=4.5 * sd), name


def test_one_threshold_joins_the_first_layer_alone_and_a_chance_level_joins_all():
    """Of networks as they start: what a method joins, not what a law predicts."""
    joined = {"rho": [], "chance": []}
    for seed in range(40):
        networks = kernel_networks(SHAPES, CLASSES, seed=seed, channels=(8, 16, 16))
        for argument, value in (("rho", 0.5), ("chance", 0.08)):
            shares = MTAL(networks, **{argument: value}).sharing()
            joined[argument].append([shares[f"share/conv{k}"] for k in (1, 2, 3)])
    rho, chance = (np.mean(joined[name], axis=0) for name in ("rho", "chance"))
    assert rho[0] == pytest.approx(float(chance_tail(0.5, 9)), abs=0.02)
    assert rho[1] < 1e-3 and rho[2] < 1e-3
    assert chance == pytest.approx([0.08] * 3, abs=0.015)


def test_thresholds_follow_the_shape_of_each_layer():
    networks = kernel_networks(SHAPES, CLASSES, seed=0, channels=(8, 16, 16))
    method = MTAL(networks, chance=0.01)
    assert method.rho == {
        f"conv{k}": chance_threshold(d, 0.01) for k, d in ((1, 9), (2, 72), (3, 144))
    }
    assert MTAL(networks, chance=0.01, layers=("conv3",)).rho == {"conv3": method.rho["conv3"]}
    of_slices = MTAL(networks, chance=0.01, unit="slice").rho
    assert set(of_slices.values()) == {method.rho["conv1"]}
    for options, message in (
        ({}, "expected one of the two, got None and None"),
        ({"rho": 0.5, "chance": 0.1}, "expected one of the two, got 0.5 and 0.1"),
        ({"chance": 0.6}, r"a share in \(0, 1/2\], got 0.6"),
        ({"chance": 0.0}, r"a share in \(0, 1/2\], got 0"),
        ({"chance": 0.1, "similarity": "gaussian"}, "expected similarity 'cosine' or 'pearson'"),
    ):
        with pytest.raises(ValueError, match=message):
            MTAL(networks, **options)


def test_fair_arms_of_mtal_train_and_join_as_many_random_pairs():
    pair = made(shapes=((1, 8, 8), (1, 12, 12)), classes=(3, 2))
    study = mtal_fair.study(samples=4, steps=3, splits=1)
    study = study.at(validation=4, test=8, batch_size=6, channels=(3, 4))
    result = study.begin("tiny", {}, pair)
    mtal.before_training(result, pair, study=study, repeats=[0])
    study.compare(result, pair, arms=study.arms, repeats=[0], device="cpu")
    assert len(result.settings["validation"]) == mtal_fair.TRIALS * len(study.arms)
    assert result.values("untrained", "redundancy").keys() == {0}
    assert result.values("stl", "across/conv1@0.5").keys() == {0}
    parts = study.split(pair, 0, study.protocol)
    for arm in ("mtal", "mtal-chance"):
        for place in range(mtal_fair.TRIALS):
            found = []
            for name in (arm, arm.replace("mtal", "random-pairs")):
                trial = study.trial(name, parts["train"], 0, place)
                method = trial.arm.build(trial)
                assert method.pairs == ("all" if name == arm else "random")
                shares = {k: v for k, v in method.sharing().items() if k.startswith("share/")}
                found.append((shares, trial.protocol.own_lr, method.rho))
            assert found[0] == found[1]
        settings = mtal_fair.ARMS[arm].configurations[place]
        if arm == "mtal":
            assert set(method.rho.values()) == {settings["rho"]}
        else:
            assert method.rho["conv1"] == chance_threshold(9, settings["chance"])
    for arm in ("random-pairs", "random-pairs-chance"):  # drawn anew in every repeat
        trials = [study.trial(arm, parts["train"], repeat, 0) for repeat in range(6)]
        assert len({tuple(t.arm.build(t).order_conv1.tolist()) for t in trials}) > 1
