"""SRDML and what it is compared with: the objective, omega's steps, balancing, experts."""

import copy
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
import torch
from device_checks import check_forward_on_fake_cuda, check_step_on_meta
from torch import nn

from mtlbook.backbones import TaskHeads
from mtlbook.methods import PLE, SRDML, Balanced, MMoE, SharedTrunk
from mtlbook.methods.balancing import BALANCINGS, weighting
from mtlbook.methods.srdml import broadcast_targets, fresh_adam_step, project
from mtlbook.saliency import pairwise_distances, task_saliency
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import Batches, TaskLoss, evaluate, fit, step

T = 4


def trunk():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.Tanh(), nn.MaxPool2d(3))


def heads(outputs=(1,) * T, **options):
    return TaskHeads(20, list(outputs), **{"hidden": (7,), "seed": 0} | options)


def one_by_one():
    torch.manual_seed(3)
    return nn.ModuleList(
        nn.Sequential(nn.Flatten(), nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 1)) for _ in range(T)
    )


def srdml(**options):
    return SRDML(trunk(), heads(), **{"weight": 0.1} | options)


def flat_trunk():
    return nn.Sequential(trunk(), nn.Flatten())


VARIANTS = {
    **{
        f"{distance}, {omega}": partial(srdml, distance=distance, omega=omega)
        for distance in (1, 2, "cosine")
        for omega in ("simplex", "projected")
    },
    "sum over the batch": partial(srdml, reduction="sum", weight=0.01),
    "no sum over space": partial(srdml, spatial="none"),
    "mean over space": partial(srdml, spatial="mean"),
    "warm-up": partial(srdml, warmup=3),
    "as released": partial(srdml, as_released=True, weight=0.01),
    "heads in a list": lambda: SRDML(trunk(), one_by_one(), weight=0.1),
    "two outputs": lambda: SRDML(trunk(), heads([2] * T), weight=0.1, scalar="sum"),
    "tanh heads": lambda: SRDML(trunk(), heads(activation=nn.Tanh), weight=0.1),
    "linear heads": lambda: SRDML(trunk(), heads(hidden=()), weight=0.1),
}
OTHERS = {
    "shared trunk": lambda: SharedTrunk(trunk(), heads()),
    "MMoE": lambda: MMoE(flat_trunk(), 20, [1] * T, experts=3, width=6, seed=0),
    "MMoE, hidden": lambda: MMoE(flat_trunk(), 20, [1] * T, width=6, hidden=(5,), seed=0),
    "CGC": lambda: PLE(flat_trunk(), 20, [1] * T, width=6, levels=1, seed=0),
    "PLE": lambda: PLE(flat_trunk(), 20, [1] * T, common=3, own=2, width=6, seed=0),
}
BALANCED = {
    **{
        kind: partial(lambda k: Balanced(SharedTrunk(trunk(), heads()), k), kind)
        for kind in BALANCINGS
    },
    **{f"SRDML, {kind}": partial(srdml, balancing=kind) for kind in BALANCINGS},
}
METHODS = VARIANTS | OTHERS | BALANCED


@pytest.fixture
def tasks():
    """Four binary tasks on the same 24 images; the first two are the same task."""
    x, w = torch.randn(24, 1, 6, 6), torch.randn(36, T)
    y = (x.flatten(1) @ w > 0).float()
    y[:, 1] = y[:, 0]
    return TaskSet("shared", [Task(str(t), x, y[:, t : t + 1], "bce") for t in range(T)])


@pytest.fixture
def own_inputs():
    sizes = (5, 6, 7, 8)
    return TaskSet(
        "own",
        [Task(str(n), torch.randn(n, 1, 6, 6), torch.rand(n, 1).round(), "bce") for n in sizes],
    )


def prepared(method, tasks):
    """After one forward pass on all samples."""
    method([tasks[0].inputs] * T if tasks.shared_inputs else [task.inputs for task in tasks])
    return method


def with_outputs(tasks, k):
    targets = [torch.rand(len(task), k).round() for task in tasks]
    made = [replace(task, targets=y) for task, y in zip(tasks, targets, strict=True)]
    return replace(tasks, tasks=made)


def width_of(name):
    return 2 if name == "two outputs" else 1


# All methods


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_and_says_what_it_means(name, tasks):
    method, tasks = METHODS[name](), with_outputs(tasks, width_of(name))
    assert len(method.tasks) == T and method.update_every == 1
    optimizer = partial(torch.optim.Adam, lr=0.01)
    history = fit(method, tasks, steps=60, batch_size=8, optimizer=optimizer, device="cpu")
    assert float(history.loss[-5:].mean()) < 0.9 * float(history.loss[:5].mean())
    assert evaluate(method, tasks).mean > 55
    relation = method.relation()
    if relation is not None:
        matrix = relation.matrix
        assert "omega" in relation.meaning and not matrix.requires_grad
        assert torch.equal(matrix, matrix.mT) and not matrix.diagonal().any()
        assert float(matrix.min()) >= 0


@pytest.mark.parametrize("name", METHODS)
def test_state_and_copies(name, tasks):
    trained, fresh = METHODS[name](), METHODS[name]()
    tasks = with_outputs(tasks, width_of(name))
    fit(trained, tasks, steps=4, device="cpu")
    fresh.load_state_dict(trained.state_dict())
    inputs = [tasks[0].inputs] * T
    for method in (fresh, copy.deepcopy(trained)):
        for a, b in zip(trained(inputs), method(inputs), strict=True):
            assert torch.equal(a, b)
        if trained.relation() is not None:
            assert torch.equal(trained.relation().matrix, method.relation().matrix)


@pytest.mark.parametrize("name", [n for n in METHODS if "mgda-ub" not in n and n not in OTHERS])
def test_tasks_of_their_own_samples(name, own_inputs):
    method, tasks = METHODS[name](), with_outputs(own_inputs, width_of(name))
    inputs = [task.inputs for task in tasks]
    together = [out.detach() for out in method(inputs)]
    assert [tuple(out.shape) for out in together] == [(n, width_of(name)) for n in (5, 6, 7, 8)]
    copies = [task.inputs.clone().requires_grad_() for task in tasks]
    method(copies)[1].sum().backward()
    assert copies[1].grad.any() and all(
        copies[t].grad is None or not copies[t].grad.any() for t in (0, 2, 3)
    )
    for t, x in enumerate(inputs):  # the same as if all tasks had the samples of task t
        torch.testing.assert_close(together[t], method([x] * T)[t].detach())
    fit(METHODS[name](), tasks, steps=2, batch_size=4, device="cpu")


@pytest.mark.parametrize("name", VARIANTS | OTHERS)
def test_never_waits_for_the_device(name, tasks):
    check_step_on_meta(METHODS[name](), with_outputs(tasks, width_of(name)))


@pytest.mark.parametrize("name", METHODS)
def test_makes_nothing_on_another_device(name, tasks):
    if name == "tanh heads":
        pytest.skip("their penalty differentiates, for which CUDA needs a driver even when fake")
    check_forward_on_fake_cuda(METHODS[name](), with_outputs(tasks, width_of(name)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_trains_on_cuda_as_on_the_cpu(name, tasks):
    losses = [
        fit(METHODS[name](), with_outputs_of(tasks, name), steps=5, batch_size=8, device=d).loss
        for d in ("cpu", "cuda")
    ]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


def with_outputs_of(tasks, name):
    torch.manual_seed(0)
    return with_outputs(tasks, width_of(name))


def test_the_trunk_looks_once_at_shared_inputs(tasks):
    calls = []
    method = srdml()
    method.trunk.register_forward_hook(lambda m, inputs, out: calls.append(len(inputs[0])))
    fit(method, tasks, steps=3, batch_size=8, device="cpu")
    assert calls == [8, 8, 8]


# The objective


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("distance", [1, 2, "cosine"])
@pytest.mark.parametrize("name", ["shared", "own"])
def test_penalty_by_hand(name, distance, reduction, tasks, own_inputs):
    tasks = tasks if name == "shared" else own_inputs
    method = srdml(distance=distance, reduction=reduction, weight=0.3, beta=2.0)
    with torch.no_grad():
        method.coupling.copy_(torch.rand(6))
    images = tasks[0].inputs if name == "shared" else torch.cat([t.inputs for t in tasks])
    features = method.trunk(images)  # own samples: every head on all of them, and no padding
    saliency = task_saliency(method.heads, features, reduction="sum")
    d = pairwise_distances(saliency, distance)
    expected = sum(
        2 * c / method.coupling.sum() * d[i, j]
        for c, (i, j) in zip(method.coupling, combinations(range(T), 2), strict=True)
    )
    expected = 0.3 * expected / (len(images) if reduction == "mean" else 1)
    torch.testing.assert_close(prepared(method, tasks).penalty(), expected)


def test_weight_zero_is_hard_sharing_to_the_last_bit(tasks):
    def after(method):
        fit(method, tasks, steps=5, batch_size=8, seed=1, device="cpu")
        own = ("coupling", "_extra_state")  # of omega, and the count of its steps
        return {k: v for k, v in method.state_dict().items() if k not in own}

    plain = after(SharedTrunk(trunk(), heads()))
    for method in (srdml(weight=0), srdml(warmup=5), srdml(weight=0, as_released=True)):
        found = after(method)
        assert set(found) == set(plain)
        assert all(torch.equal(found[key], plain[key]) for key in plain)
        assert float(method.coupling.std()) == 0
    found = after(srdml(warmup=4))
    assert any(not torch.equal(found[key], plain[key]) for key in plain)


def test_relu_heads_leave_the_trunk_alone(tasks):
    method = prepared(srdml(weight=1.0), tasks)
    method.penalty().backward()
    assert all(p.grad is None or not p.grad.any() for p in method.trunk.parameters())
    assert all(
        layer.weight.grad.any() for layer in (method.heads.layers[0], method.heads.layers[2])
    )
    method = prepared(SRDML(trunk(), heads(activation=nn.Tanh), weight=1.0), tasks)
    method.penalty().backward()
    assert all(p.grad.any() for p in method.trunk.parameters())


def test_linear_special_case():
    """Without a trunk and with linear heads the regulariser is one of the weight vectors."""
    method = SRDML(nn.Identity(), TaskHeads(5, [1] * T, hidden=(), seed=0), weight=0.5)
    x = torch.randn(9, 5)
    method([x] * T)
    w = method.heads.layers[0].weight[..., 0]
    pairs = sum((w[i] - w[j]).abs().sum() for i, j in combinations(range(T), 2)) / 6
    torch.testing.assert_close(method.penalty(), 0.5 * pairs)


def test_equal_heads_cost_nothing(tasks):
    for distance in (1, 2, "cosine"):
        method = srdml(distance=distance)
        with torch.no_grad():
            for p in method.heads.parameters():
                p.copy_(p[:1].expand_as(p).clone())
        penalty = prepared(method, tasks).penalty()
        penalty.backward()
        assert float(penalty.detach().abs()) < 1e-6
        assert all(p.grad.isfinite().all() for p in method.heads.parameters() if p.grad is not None)


# Omega


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_the_step_is_the_gradient_of_the_regulariser(beta, tasks):
    method = prepared(srdml(weight=0.7, omega_step=0.05, beta=beta), tasks)
    with torch.no_grad():
        method.coupling.copy_(0.5 + torch.rand(6))
    penalty = method.penalty()
    c = method.coupling.clone().requires_grad_()
    value = 0.7 * (beta * c / c.sum()) @ method.distances
    torch.testing.assert_close(value, penalty)
    value.backward()
    method.update()
    torch.testing.assert_close(method.coupling, (c - 0.05 * c.grad).detach())


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "warm-up"])
def test_the_closest_pair_gains_and_the_farthest_loses(name, tasks):
    method, tasks = METHODS[name](), with_outputs(tasks, width_of(name))
    before = method.omega().clone()
    prepared(method, tasks).penalty()
    closest, farthest = int(method.distances.argmin()), int(method.distances.argmax())
    method.omega_step = 0.01
    method.update()
    gain = method.omega() - before
    assert float(gain[closest]) > 0 > float(gain[farthest])
    assert int(gain.argmax()) == closest or method.as_released


@pytest.mark.parametrize("omega", ["simplex", "projected"])
@pytest.mark.parametrize("step", [0.01, 1e6])
def test_omega_stays_allowed_and_its_sum_positive(omega, step):
    method = srdml(omega=omega, omega_step=step, weight=1.0, beta=2.0)
    for _ in range(50):
        method.distances = 10 ** torch.empty(6).uniform_(-3, 3)
        method.update()
        assert float(method.coupling.sum()) > 0 and float(method.coupling.min()) >= 0
        assert method.omega().isfinite().all()
        assert float(method.omega().sum()) == pytest.approx(2.0, rel=1e-5)


def test_no_coupling_at_all_is_no_nan(tasks):
    method = srdml()
    method.coupling.zero_()
    assert float(prepared(method, tasks).penalty().detach()) == 0
    method.update()
    assert method.coupling.isfinite().all()


def test_projection_is_the_closest_point():
    for _ in range(20):
        x, beta = 2 * torch.randn(5, dtype=torch.float64), 1.5
        y = project(x, beta)
        assert float(y.min()) >= 0 and float(y.sum()) >= beta - 1e-12
        for _ in range(200):  # no allowed point lies beyond the plane through y across x - y
            z = torch.rand(5, dtype=torch.float64) * (torch.rand(5) > 0.4)
            z = z * max(1.0, beta / float(z.sum())) if z.any() else z + beta
            assert float((x - y) @ (z - y)) <= 1e-9
    inside = torch.tensor([1.0, 0.2, 0.4])
    assert torch.equal(project(inside, 1.5), inside)
    torch.testing.assert_close(
        project(torch.tensor([-1.0, 0.0, 0.5]), 1.0), torch.tensor([0.0, 0.25, 0.75])
    )


def test_a_linear_programme_puts_everything_on_the_closest_pair():
    """With the distances held, projected steps end where the minimum over omega is: one pair."""
    method = srdml(omega="projected", omega_step=0.1, weight=1.0)
    for _ in range(200):
        method.distances = torch.tensor([3.0, 1.0, 2.0, 1.2, 5.0, 4.0])
        method.update()
    assert method.omega().tolist() == pytest.approx([0, 1, 0, 0, 0, 0])


# As released


@pytest.mark.parametrize("count", [3, 150, 3000])
def test_fresh_adam_is_adam_with_moments_of_zero(count):
    g = torch.tensor([3.0, -0.2, 0.01, 0.0])
    c = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([c], lr=1e-3)
    optimizer.state[c] = {
        "step": torch.tensor(float(count - 1)),
        "exp_avg": torch.zeros(4),
        "exp_avg_sq": torch.zeros(4),
    }
    c.grad = g
    optimizer.step()
    # torch adds eps after the bias correction, Keras before
    torch.testing.assert_close(1 - c.detach(), fresh_adam_step(g, count), rtol=1e-3, atol=1e-7)


def test_size_of_the_released_step_grows():
    """What TensorFlow's own Adam does when its variable is made anew at every step."""
    sizes = [float(fresh_adam_step(torch.tensor(1.0), 3 * n)) for n in (1, 3, 50, 100, 300, 2000)]
    assert sizes == pytest.approx([6.4e-4, 5e-4, 1.2e-3, 1.6e-3, 2.4e-3, 3.1e-3], rel=0.05)


def test_as_released_repeats_the_script(tasks):
    method = srdml(as_released=True, weight=0.1)
    assert (method.distance, method.reduction, method.kind) == (1, "sum", "simplex")
    c = torch.ones(6)
    loss, optimizer = TaskLoss(tasks), torch.optim.Adam(method.parameters(), lr=1e-3)
    batches = Batches(tasks, batch_size=8, steps=5, seed=0)
    for n in range(5):
        inputs, targets = batches[n]
        a = method.trunk(inputs[0]).detach().requires_grad_()
        logits = method.heads(a.expand(T, *a.shape))
        alpha = [
            torch.stack(
                [
                    torch.autograd.grad(logits[t, e, 0], a, retain_graph=True)[0][e].sum((1, 2))
                    for e in range(8)
                ]
            )
            for t in range(T)
        ]
        d = torch.stack([(alpha[i] - alpha[j]).abs().sum() for i, j in combinations(range(T), 2)])
        regulariser = 0.1 * (c / c.sum()) @ d
        _, penalty = step(method, loss, optimizer, inputs, targets)
        torch.testing.assert_close(penalty, regulariser)
        gradient = 0.1 * (d / c.sum() - (c @ d) / c.sum() ** 2)
        c = (c - fresh_adam_step(gradient, 3 * (n + 1))).relu()
        method.update()
        torch.testing.assert_close(method.coupling, c)


def test_broadcast_targets_repeat_the_bug_of_the_synthetic_script():
    x, y = torch.randn(7, 3), torch.randn(7, 1)
    model = nn.Linear(3, 1)
    wrong = (model(x) - y.flatten()).square().sum() / 14  # (7, 1) - (7,) = (7, 7)
    wrong.backward()
    found = [p.grad.clone() for p in model.parameters()]
    tasks = broadcast_targets(TaskSet("s", [Task("a", x, y, "mse")]))
    model.zero_grad()
    (7 * (model(x) - tasks[0].targets).square().sum() / 14).backward()
    for p, g in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(p.grad, g)
    assert tasks[0].targets.std() < 1e-6 and tasks[0].inputs is x


# Balancing


def gradients_of(method, tasks):
    losses = TaskLoss(tasks)(method([tasks[0].inputs] * T), [t.targets for t in tasks])
    method.backward(losses, method.penalty())
    return {n.removeprefix("method."): p.grad.clone() for n, p in method.named_parameters()}


def task_gradients(tasks):
    """Of the trunk's parameters, one row a task: T backward passes through everything."""
    method = SharedTrunk(trunk(), heads())
    losses = TaskLoss(tasks)(method([tasks[0].inputs] * T), [t.targets for t in tasks])
    rows = []
    for loss in losses:
        g = torch.autograd.grad(loss, list(method.trunk.parameters()), retain_graph=True)
        rows.append(torch.cat([x.flatten() for x in g]))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["mgda", "pcgrad", "upgrad", "mean"])
def test_the_trunk_follows_torchjd(kind, tasks):
    from torchjd.aggregation import MGDA, Mean, PCGrad, UPGrad

    found = gradients_of(Balanced(SharedTrunk(trunk(), heads()), kind), tasks)
    plain = gradients_of(SharedTrunk(trunk(), heads()), tasks)
    rows = task_gradients(tasks)
    torch.manual_seed(0)  # the order of the tasks in the first step
    expected = {"mgda": MGDA, "pcgrad": PCGrad, "upgrad": UPGrad, "mean": Mean}[kind]()(rows)
    mine = torch.cat([g.flatten() for n, g in found.items() if n.startswith("trunk")])
    torch.testing.assert_close(mine, expected)
    for name in plain:
        if name.startswith("heads"):
            torch.testing.assert_close(found[name], plain[name])


def test_mgda_ub_weighs_by_the_gradients_in_the_features(tasks):
    method = Balanced(SharedTrunk(trunk(), heads()), "mgda-ub")
    found = gradients_of(method, tasks)
    plain = SharedTrunk(trunk(), heads())
    losses = TaskLoss(tasks)(plain([tasks[0].inputs] * T), [t.targets for t in tasks])
    rows = torch.stack(
        [
            torch.autograd.grad(x, plain.batch.features, retain_graph=True)[0].flatten()
            for x in losses
        ]
    )
    alpha = weighting("mgda-ub")(rows @ rows.mT)
    assert float(alpha.sum()) == pytest.approx(1) and float(alpha.min()) >= 0
    mine = torch.cat([g.flatten() for n, g in found.items() if n.startswith("trunk")])
    torch.testing.assert_close(mine, alpha @ task_gradients(tasks))


def test_pcgrad_by_hand():
    # two gradients at an angle of more than 90 degrees: each loses its part along the other
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    combined = weighting("pcgrad")(g @ g.mT) @ g
    torch.testing.assert_close(combined, torch.tensor([0.5, 0.5]) + torch.tensor([0.0, 1.0]))
    agreeing = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert weighting("pcgrad")(agreeing @ agreeing.mT).tolist() == [1, 1]
    assert weighting("mgda")(agreeing @ agreeing.mT).tolist() == pytest.approx([1, 0])


def test_upgrad_by_hand():
    # what PCGrad leaves of each, and the mean of both; where none conflict, the mean of all
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    combined = weighting("upgrad")(g @ g.mT) @ g
    torch.testing.assert_close(combined, torch.tensor([0.25, 0.75]), atol=1e-3, rtol=0)
    assert weighting("upgrad")(torch.eye(3)).tolist() == pytest.approx([1 / 3] * 3)


def test_balancing_adds_the_regulariser_as_it_is(tasks):
    smooth = lambda: heads(activation=nn.Tanh)  # noqa: E731 - whose regulariser reaches the trunk
    alone = gradients_of(Balanced(SharedTrunk(trunk(), smooth()), "pcgrad"), tasks)
    both = gradients_of(SRDML(trunk(), smooth(), weight=0.2, balancing="pcgrad"), tasks)
    wrapped = gradients_of(Balanced(SRDML(trunk(), smooth(), weight=0.2), "pcgrad"), tasks)
    method = prepared(SRDML(trunk(), smooth(), weight=0.2), tasks)
    method.penalty().backward()
    for name, p in method.named_parameters():
        extra = 0 if p.grad is None else p.grad
        torch.testing.assert_close(both[name], alone[name] + extra)
        assert torch.equal(both[name], wrapped[name])


def test_balancing_repeats_itself_and_leaves_the_global_stream_alone(tasks):
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        method = Balanced(SharedTrunk(trunk(), heads()), "pcgrad")
        torch.set_rng_state(before)
        runs.append(fit(method, tasks, steps=5, batch_size=8, device="cpu").loss)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*runs)


def test_nothing_to_balance_without_a_trunk(tasks):
    tasks = tasks.map_inputs(lambda x: x.flatten(1))
    make = lambda: SharedTrunk(nn.Identity(), TaskHeads(36, [1] * T, seed=0))  # noqa: E731
    a, b = gradients_of(Balanced(make(), "pcgrad"), tasks), gradients_of(make(), tasks)
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_only_balancing_needs_torchjd():
    code = """
import sys
sys.modules["torchjd"] = sys.modules["torchjd.aggregation"] = None
from torch import nn
from mtlbook.backbones import TaskHeads
from mtlbook.methods import MMoE, PLE, SRDML, Balanced
method = SRDML(nn.Identity(), TaskHeads(3, [1, 1], seed=0), weight=1)
for kind in ("mgda", "upgrad"):
    try:
        Balanced(method, kind)
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "mgda needs torchjd: pip install 'mtlbook[reproduce]'" in done.stdout
    assert "upgrad needs torchjd[quadprog-projector]: pip install 'mtlbook[upgrad]'" in done.stdout


# Experts


def dense(layer, i, x):
    return x @ layer.weight[i] + layer.bias[i]


def test_mmoe_by_hand():
    method = MMoE(nn.Identity(), 5, [1, 2], experts=3, width=4, seed=0)
    x = torch.randn(6, 5)
    outputs = method([x, x])
    experts = torch.stack([dense(method.experts.layer, e, x).relu() for e in range(3)])
    for t, k in enumerate([1, 2]):
        gate = dense(method.gates.layer, t, x).softmax(1)
        mixed = torch.einsum("be,ebw->bw", gate, experts)
        expected = dense(method.heads.layers[0], t, mixed)[:, :k]
        torch.testing.assert_close(outputs[t], expected)


def test_ple_by_hand():
    method = PLE(nn.Identity(), 5, [1, 1], common=2, own=2, width=4, levels=2, seed=0)
    x = torch.randn(6, 5)
    outputs = method([x, x])
    streams, common = [x, x], x
    for level in method.levels:
        shared = [dense(level.common.layer, e, common).relu() for e in range(2)]
        own = [
            [dense(level.own.layer, 2 * t + e, streams[t]).relu() for e in range(2)]
            for t in range(2)
        ]
        after = []
        for t in range(2):
            gate = dense(level.gates.layer, t, streams[t]).softmax(1)
            parts = [*own[t], *shared]
            after.append(sum(gate[:, [n]] * part for n, part in enumerate(parts)))
        if level.gate is not None:
            gate = dense(level.gate.layer, 0, common).softmax(1)
            parts = [*own[0], *own[1], *shared]
            common = sum(gate[:, [n]] * part for n, part in enumerate(parts))
        streams = after
    for t in range(2):
        torch.testing.assert_close(outputs[t], dense(method.heads.layers[0], t, streams[t]))


def test_copies_of_a_layer_start_unlike():
    for method in (METHODS["MMoE"](), METHODS["PLE"](), METHODS["shared trunk"]()):
        stacks = [p for n, p in method.named_parameters() if n.endswith("weight") and p.ndim == 3]
        assert len(stacks) >= 2
        for w in stacks:
            assert len(w) == 1 or float((w[0] - w[1]).detach().abs().max()) > 0.01


def test_glorot_bounds_and_ragged_padding():
    layer = TaskHeads(30, [2, 5], hidden=(), seed=0).layers[0]
    for t, k in enumerate([2, 5]):
        bound = (6 / (30 + k)) ** 0.5
        assert 0.8 * bound < float(layer.weight[t, :, :k].detach().abs().max()) <= bound
    assert not layer.weight[0, :, 2:].any() and not layer.bias.any()


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: srdml(distance=3), "distance: expected one of .* got 3"),
        (lambda: srdml(omega="free"), "omega: expected one of .* got 'free'"),
        (lambda: srdml(reduction="max"), "reduction: expected one of .* got 'max'"),
        (lambda: srdml(spatial="max"), "spatial: expected one of .* got 'max'"),
        (lambda: srdml(scalar="true"), "scalar: expected one of .* got 'true'"),
        (lambda: srdml(weight=-1), "weight: expected a number >= 0, got -1"),
        (lambda: srdml(omega_step=-1), "omega_step: expected a number >= 0, got -1"),
        (lambda: srdml(warmup=-1), "warmup: expected a number >= 0, got -1"),
        (lambda: srdml(beta=0), "beta: expected a number > 0, got 0"),
        (lambda: srdml(balancing="sum"), "balancing: expected one of .* got 'sum'"),
        (
            lambda: SRDML(trunk(), heads([1]), weight=1),
            "heads: expected at least two tasks to relate, got 1",
        ),
        (
            lambda: Balanced(METHODS["MMoE"](), "mgda"),
            "method: expected one with a shared trunk, got .*MMoE",
        ),
        (
            lambda: METHODS["PLE"]()([torch.zeros(2, 1, 6, 6) for _ in range(T)]),
            "inputs: expected one tensor for all tasks, got several",
        ),
        (lambda: MMoE(nn.Identity(), 5, [1, 1], experts=0, seed=0), "experts: .* got 0"),
        (lambda: PLE(nn.Identity(), 5, [1, 1], levels=0, seed=0), "levels: .* got 0"),
        (
            lambda: broadcast_targets(
                TaskSet("s", [Task("a", torch.zeros(2, 1), torch.zeros(2, 1), "bce")])
            ),
            "tasks: expected loss 'mse', got 'bce' of task 'a'",
        ),
    ],
)
def test_errors_name_argument_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mgda_ub_needs_common_samples(own_inputs):
    with pytest.raises(ValueError, match="balancing: expected tasks on the same samples"):
        fit(METHODS["mgda-ub"](), own_inputs, steps=1, device="cpu")


def test_penalty_before_a_forward_pass():
    with pytest.raises(RuntimeError, match="penalty: expected a forward pass"):
        srdml().penalty()


def test_pcgrad_goes_through_the_tasks_in_an_order_of_the_seed():
    torch.manual_seed(0)
    conflicting = torch.randn(6, 2)
    gramian = conflicting @ conflicting.mT

    def first_weights(seed):
        rule = weighting("pcgrad", seed)
        return [rule(gramian).tolist() for _ in range(3)]

    assert first_weights(1) == first_weights(1)
    assert len({str(first_weights(seed)) for seed in range(4)}) == 4
