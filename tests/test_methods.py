"""One set of tests for every method, then what TNRDMTL promises by itself."""

import math
from functools import partial

import pytest
import torch
from gradient_checks import check_gradient

from mtlbook.backbones import convnet, mlp
from mtlbook.methods import STL, TNRDMTL, HardSharing, Pooled
from mtlbook.methods.tnrdmtl import layer_alignment
from mtlbook.norms import (
    alignment,
    tensor_trace_norms,
    tensorflow_order,
    uncoupled_norm,
)
from mtlbook.relations import Relation
from mtlbook.tasks import Task, TaskSet
from mtlbook.tensors import unfold
from mtlbook.training import Batches, TaskLoss, evaluate, fit, step

TRUNK = ("conv1", "conv2", "conv3", "fc1")
OUTPUTS = [3, 3, 3]
KINDS = ["laf", "tucker", "tt", "uncoupled", "uncoupled-tucker", "uncoupled-tt"]


def network(outputs=OUTPUTS, seed=0, **options):
    return convnet((1, 9, 9), outputs, seed=seed, channels=(2, 3, 4), hidden=6, **options)


METHODS = {
    "STL": lambda: STL(network()),
    "STL, weight decay": lambda: STL(network(), weight_decay=0.01),
    "hard sharing": lambda: HardSharing(network(shared=TRUNK)),
    "hard sharing of one layer": lambda: HardSharing(network(shared=("conv1",))),
    "pooled": lambda: Pooled(network(shared=True), tasks=3),
    **{
        f"TNRDMTL {kind} {reduction}": partial(
            lambda kind, reduction: TNRDMTL(network(), kind=kind, reduction=reduction, gamma=0.001),
            kind,
            reduction,
        )
        for kind in KINDS
        for reduction in ("sum", "mean")
    },
    "TNRDMTL proximal": lambda: TNRDMTL(network(), gamma=0.001, proximal=True, step_size=0.05),
}


def easy_tasks():
    """Three tasks, each with three kinds of image that are far apart."""
    patterns = torch.randn(3, 3, 1, 9, 9)
    targets = torch.arange(12) % 3
    return TaskSet(
        "easy",
        [
            Task(
                f"task {t}",
                patterns[t][targets] + 0.1 * torch.randn(12, 1, 9, 9),
                targets,
                classes=3,
            )
            for t in range(3)
        ],
    )


@pytest.fixture
def tasks():
    return easy_tasks()


@pytest.mark.parametrize("name", METHODS)
class TestProtocol:
    def test_tasks_and_shapes(self, name):
        method = METHODS[name]()
        assert len(method.tasks) == 3 and method.update_every >= 1
        for sizes in ((2, 2, 2), (4, 1, 2)):
            outputs = method([torch.randn(n, 1, 9, 9) for n in sizes])
            assert [tuple(out.shape) for out in outputs] == [(n, 3) for n in sizes]

    def test_each_task_reads_its_own_batch(self, name):
        method = METHODS[name]()
        inputs = [torch.randn(2, 1, 9, 9, requires_grad=True) for _ in range(3)]
        method(inputs)[1].sum().backward()
        assert float(inputs[1].grad.abs().sum()) > 0
        assert float(inputs[0].grad.abs().sum() + inputs[2].grad.abs().sum()) == 0

    def test_penalty_is_a_finite_non_negative_scalar(self, name):
        method = METHODS[name]()
        penalty = method.penalty()
        assert penalty.shape == () and penalty.isfinite() and float(penalty.detach()) >= 0
        (penalty + 0 * sum(p.sum() for p in method.parameters())).backward()
        assert all(p.grad.isfinite().all() for p in method.parameters())

    @torch.no_grad()
    def test_penalty_at_degenerate_weights(self, name):
        method = METHODS[name]()
        for fill in (0.0, 1.0, 1e-20, 1e15):
            for parameter in method.parameters():
                parameter.fill_(fill)
            with torch.enable_grad():
                penalty = method.penalty() + 0 * sum(p.sum() for p in method.parameters())
                gradients = torch.autograd.grad(penalty, list(method.parameters()))
            assert penalty.isfinite() and all(g.isfinite().all() for g in gradients)

    def test_penalty_has_the_gradient_of_its_value(self, name):
        method = METHODS[name]().double()
        parameters = [p for p in method.parameters()]
        penalty = method.penalty()
        if not penalty.requires_grad:
            assert float(penalty) == 0
            return
        check_gradient(method.penalty, parameters)

    def test_update_keeps_parameters_finite(self, name):
        method = METHODS[name]()
        method.update()
        assert all(p.isfinite().all() and p.requires_grad for p in method.parameters())

    def test_relation(self, name):
        relation = METHODS[name]().relation()
        if relation is not None:
            assert isinstance(relation, Relation) and relation.meaning
            assert relation.matrix.shape == (3, 3) and not relation.matrix.requires_grad
            assert relation.matrix.diagonal().tolist() == [1, 1, 1]
            torch.testing.assert_close(relation.matrix, relation.matrix.mT)
            assert float(relation.matrix.abs().max()) <= 1 + 1e-6

    def test_state_round_trip(self, name, tasks):
        trained, fresh = METHODS[name](), METHODS[name]()
        fit(trained, tasks, steps=2, device="cpu")
        fresh.load_state_dict(trained.state_dict())
        inputs = [task.inputs for task in tasks]
        for a, b in zip(trained(inputs), fresh(inputs), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(trained.penalty(), fresh.penalty())

    def test_one_step_lowers_the_objective(self, name, tasks):
        method = METHODS[name]()
        loss, batch = TaskLoss(tasks), Batches(tasks, batch_size=None, steps=1, seed=0)[0]
        before = sum(x.sum() for x in step(method, loss, _sgd(method, 1e-3), *batch))
        after = sum(x.sum() for x in step(method, loss, _sgd(method, 0.0), *batch))
        assert float(after) < float(before)

    def test_it_learns(self, name, tasks):
        method = METHODS[name]()
        optimizer = partial(torch.optim.Adam, lr=0.01)
        history = fit(method, tasks, steps=60, batch_size=6, optimizer=optimizer, device="cpu")
        assert float(history.loss[-5:].mean()) < 0.8 * float(history.loss[:5].mean())
        assert evaluate(method, tasks).mean > 45


def _sgd(method, lr):
    return torch.optim.SGD(method.parameters(), lr=lr)


# Baselines


def test_weight_decay_by_hand():
    method = STL(network(), weight_decay=0.1, layers=["conv1", "fc1"])
    layers = method.network.task_layers
    squares = layers["conv1"].weight.square().sum() + layers["fc1"].weight.square().sum()
    torch.testing.assert_close(method.penalty(), 0.05 * squares)


def test_weight_decay_of_nothing_is_a_tensor():
    assert STL(network(shared=TRUNK), weight_decay=0.1).penalty().shape == ()


def test_stl_tasks_never_meet(tasks):
    def first_task(others):
        parts = TaskSet("s", [tasks[0], *others])
        method = STL(network())
        fit(method, parts, steps=4, batch_size=12, device="cpu")
        return method.network.task_layers["conv1"].weight[0]

    torch.testing.assert_close(first_task(tasks[1:]), first_task([tasks[2], tasks[0]]))


def test_pooled_is_one_model():
    method = Pooled(network(shared=True), tasks=3)
    x = torch.randn(2, 1, 9, 9)
    first, *others = method([x, x, x])
    assert all(torch.equal(first, other) for other in others)
    assert method.relation() is None


# TNRDMTL


def norms_by_hand(method, kind):
    stacks = {name: method.network.task_layers[name].stack() for name in TRUNK}
    if kind == "uncoupled":
        return {name: uncoupled_norm(stack)[None] for name, stack in stacks.items()}
    if kind.startswith("uncoupled-"):  # every task as a stack of its own
        of = kind.removeprefix("uncoupled-")
        parts = {name: tensorflow_order(stack).split(1, -1) for name, stack in stacks.items()}
        return {n: sum(tensor_trace_norms(w, of) for w in ws) for n, ws in parts.items()}
    return {name: tensor_trace_norms(tensorflow_order(stacks[name]), kind) for name in stacks}


@pytest.mark.parametrize("kind", KINDS)
def test_reduction_by_hand(kind):
    method = TNRDMTL(network(), kind=kind, gamma=0.3)
    norms = norms_by_hand(method, kind)
    total = 0.3 * sum(components.sum() for components in norms.values())
    mean = 0.3 * sum(components.mean() for components in norms.values()) / 4
    torch.testing.assert_close(method.penalty(), total)
    averaged = TNRDMTL(network(), kind=kind, gamma=0.3, reduction="mean")
    torch.testing.assert_close(averaged.penalty(), mean)
    torch.testing.assert_close(averaged.mean_norm(), mean / 0.3)


@pytest.mark.parametrize("kind", ["laf", "tucker", "tt"])
def test_gamma_of_every_layer_and_component(kind):
    plain = TNRDMTL(network(), kind=kind)
    gamma = {name: torch.rand(len(v)).tolist() for name, v in plain.norms().items()}
    gamma["fc1"] = 0.7
    expected = sum(
        (torch.tensor(gamma[name]) * components).sum() for name, components in plain.norms().items()
    )
    torch.testing.assert_close(TNRDMTL(network(), kind=kind, gamma=gamma).penalty(), expected)


def test_a_gamma_of_zero_leaves_a_component_out():
    method = TNRDMTL(network(), kind="tucker", layers=["fc1"], gamma=[0, 0, 0.5])
    laf = TNRDMTL(network(), kind="laf", layers=["fc1"], gamma=0.5)
    torch.testing.assert_close(method.penalty(), laf.penalty())


@pytest.mark.parametrize("kind", KINDS)
def test_without_gamma_it_is_stl_bit_for_bit(kind, tasks):
    runs = []
    for method in (STL(network()), TNRDMTL(network(), kind=kind, gamma=0.0)):
        history = fit(method, tasks, steps=8, batch_size=4, device="cpu")
        runs.append((history.loss, method.network.state_dict()))
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


def test_it_has_stls_parameters_and_outputs():
    stl, method = STL(network()), TNRDMTL(network())
    shapes = [[tuple(p.shape) for p in m.parameters()] for m in (stl, method)]
    assert shapes[0] == shapes[1]
    x = [torch.randn(2, 1, 9, 9)] * 3
    assert all(torch.equal(a, b) for a, b in zip(stl(x), method(x), strict=True))


def test_only_tt_reads_the_order_of_axes():
    for kind in KINDS:
        a, b = (TNRDMTL(network(), kind=kind, axis_order=o) for o in ("tensorflow", "torch"))
        difference = abs(float(a.penalty().detach() - b.penalty().detach()))
        assert (difference > 1e-3) == (kind == "tt")


@pytest.mark.parametrize("outputs", [[3, 3, 3], [2, 5, 3]])
def test_heads_and_biases_are_opted_out(outputs):
    method = TNRDMTL(network(outputs))
    assert method.layers == TRUNK
    method.penalty().backward()
    for name, layer in method.network.task_layers.items():
        assert (layer.weight.grad is None) == (name == "head")
        assert layer.bias.grad is None


def test_a_head_of_one_width_may_be_regularised():
    method = TNRDMTL(network(), layers=["fc1", "head"])
    method.penalty().backward()
    assert method.network.head.weight.grad is not None
    assert method.network.task_layers["conv1"].weight.grad is None


def test_start_at_stl_copies(tasks):
    stl = STL(network())
    fit(stl, tasks, steps=3, device="cpu")
    method = TNRDMTL(network(seed=1), init="stl", stl=stl)
    before = {name: value.clone() for name, value in stl.network.state_dict().items()}
    assert all(torch.equal(before[k], v) for k, v in method.network.state_dict().items())
    assert all(strength == pytest.approx(0) for strength in method.sharing_strength().values())
    fit(method, tasks, steps=3, device="cpu")
    assert all(torch.equal(before[k], v) for k, v in stl.network.state_dict().items())


def test_sharing_strength_and_alignment_by_hand():
    method = TNRDMTL(network(), kind="tt")
    with torch.no_grad():
        method.network.task_layers["fc1"].weight.mul_(0.25)
        weight = method.network.task_layers["conv1"].weight
        weight.copy_(weight[:1].expand_as(weight).clone())
    strength = method.sharing_strength()
    assert strength["fc1"] == pytest.approx(0.75) and strength["conv2"] == pytest.approx(0)
    ratio = method.alignment()
    assert ratio["conv1"] == pytest.approx(1 / math.sqrt(3), rel=1e-5)
    stack = method.network.task_layers["fc1"].stack().detach()
    assert ratio["fc1"] == pytest.approx(float(alignment(stack)))
    assert layer_alignment(method) == ratio


def test_relation_is_the_cosine_of_the_regularised_weights():
    method = TNRDMTL(network(), layers=["conv1", "fc1"])
    layers = method.network.task_layers
    with torch.no_grad():
        for name in ("conv1", "fc1"):
            layers[name].weight[1] = -2 * layers[name].weight[0]
    matrix = method.relation().matrix
    assert float(matrix[0, 1]) == pytest.approx(-1)
    weights = [layers[name].weight.detach() for name in method.layers]
    first, third = (torch.cat([weight[t].flatten() for weight in weights]) for t in (0, 2))
    torch.testing.assert_close(matrix[0, 2], torch.cosine_similarity(first, third, dim=0))


# The proximal step


def test_proximal_step_equals_the_decomposition():
    method = TNRDMTL(
        network(),
        gamma={name: 0.1 for name in TRUNK[:3]} | {"fc1": 2.0},
        proximal=True,
        step_size=0.5,
    )
    stacks = {name: method.network.task_layers[name].stack().detach().clone() for name in TRUNK}
    assert float(method.penalty()) == 0
    method.update()
    for name, before in stacks.items():
        u, s, vh = torch.linalg.svd(unfold(before, -1).double(), full_matrices=False)
        expected = (u * (s - (1.0 if name == "fc1" else 0.05)).clamp(min=0)) @ vh
        after = unfold(method.network.task_layers[name].stack().detach(), -1).double()
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("gamma", "rank"), [(1e-6, 3), (100.0, 0)])
def test_proximal_zeros_are_exact(gamma, rank):
    method = TNRDMTL(network(), gamma=gamma, proximal=True, step_size=1.0)
    method.update()
    for name in TRUNK:
        matrix = unfold(method.network.task_layers[name].stack().detach(), -1)
        assert int(torch.linalg.matrix_rank(matrix)) == rank
        assert rank or float(matrix.abs().max()) == 0


def test_other_methods_have_no_step_of_their_own():
    method = TNRDMTL(network())
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.update()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


# What the norm is for: tasks that live in a plane are found there


def planted(tasks=8, features=12, rank=2, samples=20):
    weights = torch.randn(features, rank) @ torch.randn(rank, tasks)
    inputs = torch.randn(tasks, samples, features)
    targets = torch.einsum("tnf,ft->tn", inputs, weights) + torch.randn(tasks, samples)
    made = [Task(str(t), inputs[t], targets[t, :, None], "mse") for t in range(tasks)]
    return TaskSet("planted", made)


def found_rank(**options):
    tasks = planted()
    # a linear network whose only hidden layer is the regression itself
    net = mlp(12, tasks.outputs, seed=0, hidden=(1,), activation=torch.nn.Identity, std=0.3)
    method = TNRDMTL(net, layers=["fc1"], **options)
    with torch.no_grad():
        net.head.weight.fill_(1)
    net.head.requires_grad_(False)
    optimizer = lambda p: torch.optim.SGD([q for q in p if q.requires_grad], lr=0.02)  # noqa: E731
    fit(method, tasks, steps=300, optimizer=optimizer, device="cpu")
    values = torch.linalg.svdvals(unfold(net.task_layers["fc1"].stack().detach(), -1))
    return int((values > 0.02 * values[0]).sum())


def test_the_norm_finds_the_plane_and_the_control_does_not():
    assert found_rank(kind="laf", gamma=3.0) == 2
    assert found_rank(kind="laf", gamma=3.0, proximal=True, step_size=0.02) == 2
    assert found_rank(kind="uncoupled", gamma=3.0) > 2


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TNRDMTL(network(), kind="cp"), "kind: expected one of .* got 'cp'"),
        (lambda: TNRDMTL(network(), reduction="max"), "reduction: expected one of .* got 'max'"),
        (lambda: TNRDMTL(network(), axis_order="keras"), "axis_order: expected .* got 'keras'"),
        (lambda: TNRDMTL(network(), init="zeros"), "init: expected one of .* got 'zeros'"),
        (lambda: TNRDMTL(network(), init="stl"), "stl: expected a trained method with init='stl'"),
        (lambda: TNRDMTL(network(), stl=STL(network())), "stl: .* got STL with init='random'"),
        (lambda: TNRDMTL(network(), gamma=-1), r"gamma: expected numbers >= 0, got \[-1\]"),
        (lambda: TNRDMTL(network(), gamma=[1, 2]), "gamma: expected a number or 1 .* laf on conv1"),
        (
            lambda: TNRDMTL(network(), kind="tucker", layers=["fc1"], gamma=[1, 2]),
            r"gamma: expected a number or 3 of them for tucker on fc1, got \[1.0, 2.0\]",
        ),
        (lambda: TNRDMTL(network(), gamma={"conv1": 1.0}), "gamma: expected .*conv2"),
        (
            lambda: TNRDMTL(network(), gamma=dict.fromkeys((*TRUNK, "fc9"), 1.0)),
            "gamma: expected .*fc9",
        ),
        (lambda: TNRDMTL(network(), layers=["fc9"]), r"layers: expected names .* got \['fc9'\]"),
        (
            lambda: TNRDMTL(network(shared=("conv1",)), layers=["conv1"]),
            r"layers: expected layers with one copy per task, got \['conv1'\]",
        ),
        (lambda: TNRDMTL(network(shared=TRUNK)), "layers: expected at least one layer"),
        (
            lambda: TNRDMTL(network([2, 3, 3]), layers=["head"]),
            r"layer: expected heads of one width to stack, got widths \[2, 3, 3\]",
        ),
        (lambda: TNRDMTL(network(), proximal=True), "proximal: expected .* got .*step_size=None"),
        (
            lambda: TNRDMTL(network(), kind="tt", proximal=True, step_size=1.0),
            "proximal: expected kind='laf'.* got kind='tt'",
        ),
        (lambda: STL(network(), weight_decay=-1), "weight_decay: expected a number >= 0, got -1"),
        (lambda: HardSharing(network()), "network: expected some shared layers"),
        (lambda: HardSharing(network(shared=True)), "network: expected some shared layers"),
        (
            lambda: Pooled(network(shared=TRUNK), tasks=3),
            r"network: expected every layer shared, got copies of \['head'\]",
        ),
    ],
)
def test_errors_name_argument_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_sharing_strength_survives_a_checkpoint():
    trained, fresh = TNRDMTL(network()), TNRDMTL(network(seed=1))
    with torch.no_grad():
        trained.network.task_layers["fc1"].weight.mul_(0.25)
    fresh.load_state_dict(trained.state_dict())
    assert fresh.sharing_strength() == pytest.approx(trained.sharing_strength())
