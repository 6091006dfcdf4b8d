"""The study "which method when": its problems, its arms, its measures."""

import re
from dataclasses import replace
from functools import partial
from itertools import combinations, product
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
import yaml

from mtlbook.arms import Arm, Trial
from mtlbook.comparison import arms as table
from mtlbook.comparison import winners
from mtlbook.experiments import problems, which_method
from mtlbook.experiments.problems import REAL, TEACHERS, WITHIN, Real, Teacher
from mtlbook.ledger.repository import committed
from mtlbook.ledger.results import Result
from mtlbook.methods import SRDML, STL
from mtlbook.relations import Relation
from mtlbook.study import Add
from mtlbook.tasks import Task, TaskSet

ROOT = Path(__file__).resolve().parents[1]


# The teachers


@pytest.mark.parametrize("name", TEACHERS)
def test_a_name_says_what_a_teacher_is(name):
    teacher, name = TEACHERS[name], re.sub(r"-norms$|-draw\d$|-again\d+$", "", name)
    if teacher.unrelated:
        assert name == f"T{teacher.tasks}-n{teacher.samples}-none"
    else:
        assert name == f"T{teacher.tasks}-n{teacher.samples}-c{teacher.across:+g}"
    s = teacher.correlation()
    assert s.shape == (teacher.tasks,) * 2 and torch.equal(s, s.mT)
    assert float(torch.linalg.eigvalsh(s.double()).min()) > 0.01


@pytest.mark.parametrize("across", [-1.0, 0.0, 0.5])
def test_targets_have_the_planted_correlation_and_variance_one(across):
    """Over many outputs, each a draw of the heads: on common inputs, without noise."""
    teacher = Teacher(4, across, outputs=400, samples=5, noise=0.0)
    torch.manual_seed(0)
    parts = [teacher.parts(repeat, test=200) for repeat in range(2)]
    assert np.mean([float(t.targets.var(0).mean()) for p in parts for t in p["test"]]) == (
        pytest.approx(1, abs=0.12)
    )
    x = [torch.randn(200, teacher.features)] * 4
    found = torch.stack([_correlation(teacher, repeat, x) for repeat in range(3)]).mean(0)
    torch.testing.assert_close(found, teacher.correlation(), atol=0.06, rtol=0)


def _correlation(teacher, repeat, x):
    """Of the tasks' functions, read off a least squares fit of what the test part holds."""
    test = teacher.parts(repeat, test=2000)["test"]
    heads = []
    for task in test:
        design = torch.cat([task.inputs, torch.relu(task.inputs), torch.ones(2000, 1)], 1)
        fit = torch.linalg.lstsq(design, task.targets).solution
        heads.append(torch.cat([x[0], torch.relu(x[0]), torch.ones(200, 1)], 1) @ fit)
    flat = torch.stack([h - h.mean(0) for h in heads]).flatten(1)
    return torch.corrcoef(flat)


def test_repeats_are_problems_of_their_own_and_come_again():
    teacher = TEACHERS["T8-n5-c+0"]
    a, b, c = teacher.parts(0), teacher.parts(0), teacher.parts(1)
    for name in a:
        for one, same, other in zip(a[name], b[name], c[name], strict=True):
            assert torch.equal(one.inputs, same.inputs)
            assert torch.equal(one.targets, same.targets)
            assert not torch.equal(one.inputs, other.inputs)
    assert [len(p[0]) for p in a.values()] == [5, 50, 500]
    for task in a["train"]:  # test targets are moved by the same mean, not by their own
        torch.testing.assert_close(task.targets.mean(0), torch.zeros(2), atol=1e-6, rtol=0)


def test_two_groups_of_tasks():
    assert TEACHERS["T8-n20-c-1"].groups == [0] * 4 + [1] * 4
    assert TEACHERS["T2-n20-c+0"].correlation().tolist() == [[1, 0], [0, 1]]
    s = TEACHERS["T8-n20-c-0.5"].correlation()
    assert float(s[0, 3]) == pytest.approx(WITHIN)
    assert float(s[0, 4]) == pytest.approx(-WITHIN / 2)
    assert torch.equal(TEACHERS["T8-n20-none"].correlation(), torch.eye(8))


# Real problems


def torques(count=60):
    x, y = golden.waves(count, 4).float(), golden.waves(count, 3, phase=1).float()
    return TaskSet("t", [Task(str(t), x, y[:, t, None], loss="mse") for t in range(3)])


def test_labels_of_each_class_and_at_most_half_of_what_is_there():
    tasks = golden.domains((7,), each=16)
    for labels in (1, 3, 100):
        parts = Real("d", labels).divided(tasks, 0)
        for t, task in enumerate(tasks):
            kept = task.targets.bincount() - parts["validation"][t].targets.bincount(minlength=3)
            expected = torch.clamp(kept // 2, max=labels)
            assert torch.equal(parts["train"][t].targets.bincount(minlength=3), expected)
            assert sum(len(p[t]) for p in parts.values()) == len(task)


def test_common_inputs_stay_common():
    tasks = torques()
    for parts in (REAL["sarcos-20"].divided(tasks, 0), REAL["sarcos-20"].parts(tasks, 0)):
        assert all(part.shared_inputs for part in parts.values())
        assert [len(part[0]) for part in parts.values()] == [20, 12, 28]


def test_targets_of_one_kind_share_their_unit():
    y = golden.waves(60, 1).float()
    tasks = [Task("a", golden.waves(60, 4).float(), y, loss="mse")]
    tasks.append(Task("b", golden.waves(60, 4, phase=2).float(), 10 * y + 3, loss="mse"))
    of = TaskSet("s", tasks)
    apart, common = (Real("s", 20, common=c).parts(of, 0)["train"] for c in (False, True))
    spread = [[float(t.targets.std(correction=0)) for t in part] for part in (apart, common)]
    assert spread[0] == pytest.approx([1, 1], rel=1e-5)
    assert 5 < spread[1][1] / spread[1][0] < 20
    both = torch.cat([t.targets for t in common])
    assert float(both.mean()) == pytest.approx(0, abs=1e-6)
    assert float(both.std(correction=0)) == pytest.approx(1, rel=1e-5)


# Arms

TASKS = {"office": 4, "codings": 8, "harmful": 5, "pacs": 4, "school": 139, "sarcos": 7}


def test_all_arms_have_one_budget_and_the_step_sizes_reach_far_enough():
    for problem, tasks in (("T8-n20-c+0", 8), ("T32-n20-c+0", 32), ("office-1", 4)):
        arms = which_method.arms_of(problem, tasks)
        for name, arm in arms.items():
            if name == "stl-start":
                continue
            assert len(arm.configurations) == which_method.TRIALS, name
            rates = [c["lr"] for c in arm.configurations if "lr" in c]
            assert bool(rates) == (name not in which_method.SHALLOW), name
            if rates:
                low = 0.012 / max(tasks, 4)
                assert low * 0.9 <= min(rates) < low * 2.5 and 0.05 < max(rates) <= 0.1, name


def test_the_norms_second_trial_gives_all_twice_as_many_settings_and_them_more_weight():
    first, second = (which_method.arms_of(f"T8-n20-c+0{of}", 8) for of in ("", "-norms"))
    for name in which_method.GROUPS["strong-norms"]:
        assert len(second[name].configurations) == 2 * len(first[name].configurations) == 20
    strong = second["laf"].configurations
    assert (
        strong == second["uncoupled"].configurations and second["laf"].protocol["trunk"] == "shared"
    )
    assert max(c["gamma"] for c in first["laf"].configurations) < 3
    above = [c for c in strong if c["gamma"] > 3]
    assert len(above) == 10 and len({c["lr"] for c in above}) > 5  # several step sizes
    assert which_method.arms_of("school-20-norms", 139)["laf"].protocol["network"] == "linear"


def test_cross_stitch_may_have_the_settings_of_hard_sharing():
    arms = which_method.arms_of("T8-n20-c+0", 8)
    assert arms["cross-stitch-same"].configurations == arms["hard-sharing"].configurations
    assert trained("cross-stitch-same")[0].protocol.own == 0.9
    assert {c["own"] > 0.9 for c in arms["cross-stitch"].configurations} == {True, False}


def test_each_half_of_what_a_mean_changes_on_the_trunk_comes_alone():
    """One step from a common start: how the trunk moved is as the arm says, heads as ever."""
    tasks, rate, decay = 8, 0.5, 0.25

    def moved(build):
        study = which_method.study_of(
            "T8-n5-c-1", trials=1, splits=1, steps=1, batch_size=None, lr=rate, decay=decay
        )
        parts = study.split(None, 0, study.protocol)
        study = replace(study, arms={"arm": Arm(build)})
        method = study.train("arm", parts, 0, None, device="cpu").method
        return {n.removeprefix("method."): p.detach() for n, p in method.named_parameters()}, parts

    deep, parts = moved(which_method.deep)
    start = which_method.deep(
        Trial(Arm(which_method.deep), parts["train"], 0, which_method.Protocol(decay=decay))
    )
    start = {name: p.detach() for name, p in start.named_parameters()}
    pull = {n: (start[n] - deep[n]) / rate - decay * start[n] for n in deep}  # the sum of g_t
    for step, heavy in product((False, True), repeat=2):
        found, _ = moved(partial(which_method.reweighted, step=step, decay=heavy))
        for name, w in found.items():
            on_trunk = name.startswith("trunk")
            factor = tasks if heavy and on_trunk else 1
            share = 1 / tasks if step and on_trunk else 1
            expected = start[name] - rate * share * (pull[name] + factor * decay * start[name])
            torch.testing.assert_close(w, expected, rtol=1e-4, atol=1e-6)
    both, _ = moved(partial(which_method.reweighted, step=True, decay=True))
    mean, _ = moved(partial(table.balanced, kind="mean"))
    for name in both:
        torch.testing.assert_close(both[name], mean[name])
    arms = which_method.arms_of("T8-n20-c+0", tasks)
    for arm in which_method.GROUPS["trunk"]:
        assert arms[arm].configurations == arms["hard-deep"].configurations, arm


def test_a_draw_changes_the_settings_and_nothing_else():
    names = ["T8-n20-c+0", *(f"T8-n20-c+0-draw{k}" for k in range(1, 6))]
    arms = [which_method.arms_of(name, 8) for name in names]
    for of in which_method.GROUPS["redrawn"]:
        drawn = [str(each[of].configurations) for each in arms]
        assert len(set(drawn)) == 6, of
        kinds = [{tuple(c) for c in each[of].configurations} for each in arms]
        assert all(kind == kinds[0] for kind in kinds)
    parts = [TEACHERS[name].parts(3)["train"] for name in names]
    assert all(torch.equal(part[7].targets, parts[0][7].targets) for part in parts)


def test_a_replication_has_other_settings_and_other_problems_to_tune_and_to_test():
    names = ["T8-n20-c+0", *(f"T8-n20-c+0-again{k}" for k in range(1, problems.AGAIN + 1))]
    arms = [which_method.arms_of(name, 8) for name in names]
    for of in which_method.GROUPS["again"]:
        assert len({str(each[of].configurations) for each in arms}) == len(names), of
    older = [which_method.arms_of(f"T8-n20-c+0-draw{k}", 8) for k in range(1, problems.DRAWS)]
    assert not {str(a["mrn"].configurations) for a in arms} & {
        str(a["mrn"].configurations) for a in older
    }
    for repeat in (0, 19, 1000, 1001):  # the splits of tuning are repeats, too
        inputs = [TEACHERS[name].parts(repeat)["train"][0].inputs for name in names]
        assert len({x.sum().item() for x in inputs}) == len(names)
    correlations = [TEACHERS[name].correlation() for name in names]
    assert all(torch.equal(c, correlations[0]) for c in correlations)


def test_a_replication_of_real_tasks_has_other_settings_and_other_samples():
    """Everything is drawn anew but the data."""
    targets = torch.arange(300) % 3
    task = Task("a", torch.randn(300, 2), targets, classes=3)
    tasks = TaskSet("made up", [task], licence="generated")
    names = ["office-1", *(f"office-1-again{k}" for k in range(1, problems.AGAIN + 1))]
    arms = [which_method.arms_of(name, 4) for name in names]
    for of in which_method.GROUPS["again"]:
        assert len({str(each[of].configurations) for each in arms}) == len(names), of
    for part, repeat in product(("train", "validation", "test"), (0, 9, 1000, 1001)):
        inputs = [REAL[name].divided(tasks, repeat)[part][0].inputs for name in names]
        assert len({x.sum().item() for x in inputs}) == len(names)
    for name in names:  # within a replication what is validated stays the same, and apart
        divided = [REAL[name].divided(tasks, repeat) for repeat in (0, 1000)]
        rows = [{str(x) for x in of["validation"][0].inputs.tolist()} for of in divided]
        assert rows[0] == rows[1] and len(rows[0]) == 60
        for of in divided:
            seen = [str(x) for part in ("train", "test") for x in of[part][0].inputs.tolist()]
            assert len(seen) == len({*seen}) == 240 and not rows[0] & {*seen}


def test_some_settings_only_are_the_first_of_all():
    few = which_method.arms_of("T8-n20-c+0", 8, trials=2)["mrn"].configurations
    assert list(few) == list(which_method.arms_of("T8-n20-c+0", 8)["mrn"].configurations[:2])


def test_srdml_may_be_hard_sharing():
    arms = which_method.arms_of("T8-n20-c+0", 8)
    for name in ("uniform", "srdml"):
        drawn = arms[name].configurations
        assert sum(c["weight"] == 0 for c in drawn) == 2
        assert all("decay" in c for c in drawn)


def test_every_arm_runs_somewhere_and_every_refusal_has_a_reason():
    content = yaml.safe_load((ROOT / "notebooks" / "experiments.yaml").read_text("utf-8"))
    seen, ran = set(), set()
    for name, experiment in content["experiments"].items():
        if not name.startswith("when-"):
            continue
        profile = experiment["profiles"]["laptop"]
        listed = profile["each"].get("problem", [profile["parameters"].get("problem")])
        groups = [which_method.GROUPS[g] for g in profile["each"]["group"]]
        members = [arm for group in groups for arm in group]
        assert len(members) == len(set(members))
        for problem in listed:
            seen.add(problem)
            count = TEACHERS[problem].tasks if problem in TEACHERS else TASKS[problem.split("-")[0]]
            arms = set(which_method.arms_of(problem, count)) - {"stl-start"}
            refused = {a for a in which_method.ARMS if which_method.refusal(a, problem, count)}
            assert arms | refused == set(which_method.ARMS) and not arms & refused
            assert arms & set(members)
            if "simple" in profile["each"]["group"]:  # the others have some arms alone
                # not run there; the page says so
                more = {"uniform", "srdml"} if "more" in name else set()
                controls = {*which_method.GROUPS["controls"], *which_method.GROUPS["trunk"]} & arms
                controls -= {"hard-deep", "upgrad"}
                if name == "when-planted":
                    controls -= {*which_method.GROUPS["controls"]}
                assert arms - set(members) == more | controls
            ran |= arms & set(members)
    assert seen == {*TEACHERS, *REAL} and ran == set(which_method.ARMS)


@pytest.mark.parametrize(
    "name",
    "planted planted-more office pacs school school-strong sarcos norms school-norms draws "
    "draws-office trunk again again-office again-pacs stitched school-stitched".split(),
)
def test_what_was_measured_chose_among_the_settings_that_the_code_draws(name):
    """A range that changes needs new runs: the golden values hold arms at a number alone."""
    found = committed(f"when-{name}").settings["configurations"]
    if name in ("school-strong", "school-norms"):  # of one run, whose name they do not have
        found = {f"problem=school-20-{name.removeprefix('school-')}": found}
    if name == "school-stitched":  # nor this one
        found = {"problem=school-20": found}
    for run, of_arm in found.items():
        problem = dict(part.split("=") for part in run.split(",")).get("problem", f"{name}-20")
        teacher = TEACHERS.get(problem)
        arms = which_method.arms_of(
            problem, teacher.tasks if teacher else TASKS[problem.split("-")[0]]
        )
        for arm, settings in of_arm.items():
            assert list(arms[arm].configurations) == settings, (run, arm)


def trained(arm, problem="T8-n5-c-1", **changes):
    study = which_method.study_of(problem, trials=1, splits=1, steps=3, **changes)
    parts = study.split(None, 0, study.protocol)
    return study, parts, study.train(arm, parts, 0, 0, device="cpu").method


def test_the_oracle_is_told_the_truth_and_nothing_else():
    _, _, method = trained("oracle", update_every=1)
    assert list(method.layers) == ["head"]
    assert method.network.task_layers["fc1"].tasks == 1
    truth = TEACHERS["T8-n5-c-1"].correlation()
    torch.testing.assert_close(method.relation().matrix, truth, atol=1e-4, rtol=0)


def test_nobody_learns_the_uniform_weights_and_srdml_learns_its_own():
    for arm, still in (("uniform", True), ("srdml", False)):
        study = which_method.study_of("T8-n5-c-1", trials=10, splits=1, steps=5)
        drawn = study.arms[arm].configurations
        place = max(range(10), key=lambda i: drawn[i]["weight"] * drawn[i].get("omega_step", 1))
        parts = study.split(None, 0, study.protocol)
        method = study.train(arm, parts, 0, place, device="cpu").method
        assert isinstance(method, SRDML)
        spread = method.relation().off_diagonal()
        assert (float(spread.max() - spread.min()) < 1e-7) == still


def test_a_shared_trunk_leaves_the_heads_to_be_related():
    study = which_method.study_of("T8-n5-c-1", trials=10, splits=1, steps=2)
    parts = study.split(None, 0, study.protocol)
    for arm in which_method.RELATED:
        drawn = study.arms[arm].configurations
        for trunk, layers in (("own", ["fc1", "head"]), ("shared", ["head"])):
            place = next(i for i, c in enumerate(drawn) if c["trunk"] == trunk)
            method = study.train(arm, parts, 0, place, device="cpu").method
            assert list(method.layers) == layers, (arm, trunk)


# Measures


def test_recovery_is_the_share_of_pairs_in_the_right_order():
    groups = [0, 0, 1, 1, 1]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        matrix = torch.rand(5, 5, generator=generator).round(decimals=1)
        matrix = (matrix + matrix.mT).fill_diagonal_(0)
        pairs = list(combinations(range(5), 2))
        within = [float(matrix[a, b]) for a, b in pairs if groups[a] == groups[b]]
        across = [float(matrix[a, b]) for a, b in pairs if groups[a] != groups[b]]
        wins = [(w > a) + (w == a) / 2 for w in within for a in across]
        found = which_method.recovery(Relation(matrix, "m"), groups)
        assert found == pytest.approx(100 * np.mean(wins))
    truth = Teacher(8, -1.0)
    for scale in (1e-6, 1.0, 1e6):
        relation = Relation(scale * truth.correlation(), "m")
        assert which_method.recovery(relation, truth.groups) == 100
    unequal = torch.diag(torch.tensor([1.0, 9, 1, 9, 1, 9, 1, 9]))
    covariance = Relation(unequal.sqrt() @ truth.correlation() @ unequal.sqrt(), "covariance")
    assert which_method.recovery(covariance, truth.groups) == 100
    assert which_method.recovery(Relation(torch.ones(8, 8), "m"), truth.groups) == 50
    with pytest.raises(ValueError, match="groups: expected pairs within and across"):
        which_method.recovery(Relation(torch.eye(3), "m"), [0, 0, 0])


def test_what_a_method_sees_is_a_relation_of_its_heads():
    _, _, stl = trained("stl")
    assert isinstance(stl, STL)
    w = stl.network.head.weight.detach().flatten(1)
    expected = torch.nn.functional.cosine_similarity(w[0], w[5], dim=0)
    torch.testing.assert_close(which_method.seen(stl).matrix[0, 5], expected)
    assert which_method.seen(trained("pooled")[2]) is None
    assert which_method.seen(trained("mrn-t")[2]).meaning.startswith("correlation")


def test_a_model_that_goes_astray_scores_the_floor_and_one_that_diverges_as_a_guess():
    study = which_method.study_of("T8-n5-c-1", trials=1, splits=1, steps=5)
    parts, result = study.split(None, 0, study.protocol), Result("r", {})
    outcome = study.train("stl", parts, 0, 0, device="cpu")
    with torch.no_grad():
        outcome.method.network.head.weight.mul_(1e6)
    study.measure(Add(result, "stl", 0, study.suffix), outcome, parts)
    assert result.values("stl", "score/T8-n5-c-1") == {0: -100}
    assert result.values("stl", "worst/T8-n5-c-1") == {0: -100}
    of_classes = golden.domains((7,), each=16).map_inputs(torch.Tensor.float)  # three of them
    for problem, tasks, guess in (("T8-n5-c-1", None, 0), ("pacs-3", of_classes, 100 / 3)):
        study = which_method.study_of(problem, tasks, trials=1, splits=1, steps=5)
        wild = replace(study.arms["pooled"], configurations=[{"lr": 1e30, "decay": 0.0}])
        wild = replace(study, arms={**study.arms, "pooled": wild})
        which_method.run(wild, result, tasks, arms=["pooled"], repeats=[0], device="cpu")
        assert result.values("pooled", f"score/{problem}") == {0: pytest.approx(guess)}
        assert result.values("pooled", f"failed/{problem}") == {0: 1}
    with pytest.raises(ValueError, match="problem: expected one of"):
        which_method.study_of("T9")


def test_groups_are_known_where_there_are_pairs_of_both_kinds():
    assert which_method.groups_of("T8-n20-c-1", 8) == [0] * 4 + [1] * 4
    for problem in ("T8-n20-c+1", "T2-n20-c-1", "T8-n20-none", "pacs-3"):
        assert which_method.groups_of(problem, 4 if problem == "pacs-3" else 2) is None
    assert which_method.groups_of("codings-3", 8) == [0] * 4 + [1] * 4
    assert which_method.groups_of("harmful-3", 5) == [0, 0, 0, 0, 1]
    assert problems.TEST == 1000


# Who wins


def scores(**means):
    noise = np.linspace(-1, 1, 20)
    return {arm: mean + noise + 0.01 * np.cos(7 * i + np.arange(20)) for i, (arm, mean) in
            enumerate(means.items())}  # fmt: skip


def test_gains_are_paired():
    found = winners.gains(scores(stl=50, a=51, b=40))
    assert set(found) == {"a", "b"}
    assert found["a"].mean == pytest.approx(1, abs=0.01) and found["a"].low > 0.9
    assert found["b"].high < -9.9


def test_the_cheapest_of_those_that_are_as_good_is_advised():
    costs = {"stl": 1, "a": 2, "b": 3}
    advice = winners.advise(scores(stl=50, a=51.5, b=51.8), costs)
    assert (advice.best, advice.cheapest, set(advice.equal)) == ("b", "a", {"a", "b"})
    advice = winners.advise(scores(stl=51.5, a=51.5, b=51.8), costs)
    assert advice.cheapest == "stl" and len(advice.equal) == 3
    noisy = scores(stl=51.7, b=51.8)
    wild = 8 * np.cos(np.arange(20))  # as good on average, not for certain
    noisy["stl"] = noisy["stl"] + wild - wild.mean()
    assert winners.advise(noisy, costs).equal == ["b"]


def test_ranks_and_their_critical_difference():
    problems_ = [{"a": 3, "b": 2, "c": 1}, {"a": 1, "b": 2, "c": 2}]
    ranks = winners.average_ranks(problems_)
    assert ranks == {"a": 2.0, "b": 1.75, "c": 2.25}
    assert winners.critical_difference(2, 10) == pytest.approx(1.96 * (6 / 60) ** 0.5, abs=1e-3)
    with pytest.raises(ValueError, match="expected the arms"):
        winners.average_ranks([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="expected two arms"):
        winners.critical_difference(1, 3)


def test_regret_is_what_the_best_has_more():
    found = winners.regret([{"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 4.0}])
    assert found == {"a": [0, 3], "b": [1, 0]}


def test_arms_of_a_problem_must_have_the_same_repeats():
    result = Result("r", {})
    for repeat in range(3):
        result.add(arm="a", repeat=repeat, metric="score/p", value=repeat)
        result.add(arm="b", repeat=2 - repeat, metric="score/p", value=repeat)
    found = winners.scores_of(result, "p")
    assert found["a"].tolist() == [0, 1, 2] and found["b"].tolist() == [2, 1, 0]
    result.add(arm="b", repeat=3, metric="score/p", value=1)
    with pytest.raises(ValueError, match="p: expected the same repeats"):
        winners.scores_of(result, "p")


# What is said of it


def chapter_lines():
    """The five conclusions, as the chapter's own cells make them from the committed results."""
    page = (ROOT / "book" / "reproduction" / "which-method-when.md").read_text(encoding="utf-8")
    cells = re.findall(r"```{code-cell}[^\n]*\n(.*?)\n```", page, re.DOTALL)[:2]
    scope = {}
    for cell in cells:
        exec(re.sub(r"^:\w.*$", "", cell, flags=re.MULTILINE), scope)
    return scope["lines"]


def test_the_readme_says_what_the_chapter_says():
    lines = chapter_lines()
    assert len(lines) == 5 and all(re.search(r"\[\D?[\d.]+, \D?[\d.]+\]", line) for line in lines)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = readme.split("<!-- study:begin")[1].split("-->", 1)[1].split("<!-- study:end")[0]
    expected = " ".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
    assert " ".join(said.split()) == " ".join(expected.split())
