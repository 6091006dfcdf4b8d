"""Saliency against the plain loop over samples and tasks, and what the theory says of it."""

from itertools import combinations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtlbook import saliency
from mtlbook.backbones import TaskHeads
from mtlbook.saliency import pairwise_distances, task_saliency

TASKS, BATCH, CHANNELS, SIDE = 4, 5, 3, 2
FEATURES = CHANNELS * SIDE**2
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def stack(outputs=(1,) * TASKS, **options):
    heads = TaskHeads(FEATURES, list(outputs), seed=0, **options)
    for name, parameter in heads.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return heads


def one_by_one(activation=nn.ReLU, tasks=TASKS):
    layers = [nn.Flatten, lambda: nn.Linear(FEATURES, 6), activation, lambda: nn.Linear(6, 1)]
    return nn.ModuleList(nn.Sequential(*(make() for make in layers)) for _ in range(tasks))


HEADS = {
    "linear": lambda: stack(hidden=()),
    "one hidden ReLU": lambda: stack(hidden=(6,)),
    "two hidden ReLU": lambda: stack(hidden=(6, 5)),
    "one hidden tanh": lambda: stack(hidden=(6,), activation=nn.Tanh),
    "a list, ReLU": one_by_one,
    "a list, tanh": lambda: one_by_one(nn.Tanh),
}


class Opaque(nn.Module):
    """Heads that do not say what they are, so that no closed form is chosen."""

    def __init__(self, heads):
        super().__init__()
        self.heads, self.tasks, self.calls = heads, heads.tasks, 0
        self.widths = heads.widths

    def forward(self, x):
        self.calls += 1
        return self.heads(x)


def features(dtype=torch.float64, flat=False, batch=BATCH):
    x = torch.randn(batch, CHANNELS, SIDE, SIDE, dtype=dtype)
    return x.flatten(1) if flat else x


def head(heads, t, x):
    """One task's outputs on one sample, ``(1, ...)`` to ``(1, K)``."""
    if isinstance(heads, nn.ModuleList):
        return heads[t](x)
    copies = torch.zeros(heads.tasks, *x.shape, dtype=x.dtype)
    return heads(torch.cat([copies[:t], x[None], copies[t + 1 :]]))[t]


def loop(heads, x, reduction="none", choose=None):
    """The definition: one backward pass for every sample and task, kept for differentiation."""
    tasks = len(heads) if isinstance(heads, nn.ModuleList) else heads.tasks
    rows = []
    for t in range(tasks):
        row = []
        for b in range(len(x)):
            a = x[b : b + 1].detach().requires_grad_()
            y = head(heads, t, a)[0]
            y = y[0] if choose is None else choose(y, t, b)
            (g,) = torch.autograd.grad(y, a, create_graph=True)
            if reduction != "none" and g.ndim > 2:
                g = g.sum((2, 3)) / (1 if reduction == "sum" else g[0, 0].numel())
            row.append(g[0])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def distance(u, v, p):
    if p == "cosine":
        u, v = (x.flatten() / x.norm() if x.any() else x.flatten() for x in (u, v))
        return (u - v).square().sum() / 2
    return torch.linalg.vector_norm((u - v).flatten(), ord=p)


def loop_distances(saliency, p):
    tasks, batch = saliency.shape[:2]
    return torch.stack(
        [
            sum(distance(saliency[i, b], saliency[j, b], p) for b in range(batch))
            for i, j in combinations(range(tasks), 2)
        ]
    )


def gradients(value, heads):
    found = torch.autograd.grad(value, list(heads.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(heads.parameters(), found)]  # noqa: B905


# Against the loop


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("flat", [False, True], ids=["map", "vector"])
@pytest.mark.parametrize("name", HEADS)
def test_saliency_and_its_gradient_equal_the_loop(name, flat, reduction, dtype):
    heads, x = HEADS[name]().to(dtype), features(dtype, flat)
    ours = task_saliency(heads, x, create_graph=True, reduction=reduction)
    theirs = loop(heads, x, reduction)
    tolerance = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    torch.testing.assert_close(ours, theirs, **tolerance)
    weights = torch.randn_like(theirs)
    for a, b in zip(
        gradients((weights * ours).sum(), heads),
        gradients((weights * theirs).sum(), heads),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("p", [1, 2, "cosine"])
@pytest.mark.parametrize("name", HEADS)
def test_distances_and_second_order_gradients_equal_the_loop(name, p, dtype):
    heads, x = HEADS[name]().to(dtype), features(dtype)
    i, j = torch.triu_indices(TASKS, TASKS, 1)
    ours = pairwise_distances(task_saliency(heads, x, True, "sum"), p)[i, j]
    theirs = loop_distances(loop(heads, x, "sum"), p)
    tolerance = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    torch.testing.assert_close(ours, theirs, **tolerance)
    weights = torch.rand(len(ours), dtype=dtype)
    for a, b in zip(
        gradients(weights @ ours, heads), gradients(weights @ theirs, heads), strict=True
    ):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("scalar", [None, "sum", "max"])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_closed_form_equals_autograd(hidden, scalar, reduction):
    heads = stack([1] * TASKS if scalar is None else [3] * TASKS, hidden=hidden).double()
    x = features()
    found = [
        task_saliency(h, x, create_graph=True, reduction=reduction, scalar=scalar)
        for h in (heads, Opaque(heads))
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    weights = torch.randn_like(found[0])
    for a, b in zip(*(gradients((weights * s).sum(), heads) for s in found), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_which_heads_have_the_closed_form():
    for hidden in ((), (6,), (6, 5)):
        assert len(stack(hidden=hidden).relu_layers()) == len(hidden) + 1
    assert stack(hidden=(6,), activation=nn.Tanh).relu_layers() is None

    def differentiates_twice(heads):
        graph = task_saliency(heads, features(torch.float32), create_graph=True).grad_fn
        seen, todo = set(), [graph]
        while todo:
            node = todo.pop()
            seen.add(node)
            todo += [n for n, _ in node.next_functions if n is not None and n not in seen]
        return any("Tanh" in type(n).__name__ or "Relu" in type(n).__name__ for n in seen)

    assert not differentiates_twice(one_by_one())
    assert differentiates_twice(one_by_one(nn.Tanh))
    heads = one_by_one()
    heads[1] = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 7), nn.ReLU(), nn.Linear(7, 1))
    x = features(torch.float32)
    torch.testing.assert_close(task_saliency(heads, x), loop(heads, x).detach())


def test_heads_of_one_axis_and_a_constant_head():
    heads = [lambda x: x.flatten(1).square().sum(1), lambda x: x.new_ones(len(x), 1) + 0 * x.sum()]
    x = features()
    saliency = task_saliency(heads, x)
    torch.testing.assert_close(saliency[0], 2 * x)
    assert not saliency[1].any()


# Heads of several outputs


@pytest.mark.parametrize("name", ["closed form", "autograd"])
def test_choice_of_the_scalar(name):
    heads = stack([3, 3, 3], hidden=(6,)).double()
    which, x = heads if name == "closed form" else Opaque(heads), features()
    true = torch.randint(3, (BATCH,))
    of_task = torch.randint(3, (3, BATCH))
    choices = {
        "sum": lambda y, t, b: y.sum(),
        "max": lambda y, t, b: y.max(),
        true: lambda y, t, b: y[true[b]],
        of_task: lambda y, t, b: y[of_task[t, b]],
    }
    for scalar, choose in choices.items():
        expected = loop(heads, x, choose=choose)
        torch.testing.assert_close(task_saliency(which, x, scalar=scalar), expected.detach())


def test_scalar_of_a_list_of_unequal_heads():
    heads = nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, k)) for k in (2, 3))
    x, of_task = features(torch.float32), torch.tensor([[0, 1, 0, 1, 1], [2, 0, 1, 2, 2]])
    saliency = task_saliency(heads, x, scalar=of_task).flatten(2)
    for t, layer in enumerate(heads):
        torch.testing.assert_close(saliency[t], layer[1].weight.detach()[of_task[t]])


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("scalar", ["sum", "max"])
def test_padding_of_ragged_heads_counts_for_nothing(scalar, closed):
    heads = stack([1, 3, 2], hidden=(6,)).double()
    x = features()
    saliency = task_saliency(heads if closed else Opaque(heads), x, True, scalar=scalar)
    choose = {
        "sum": lambda y, t, b: y[: heads.widths[t]].sum(),
        "max": lambda y, t, b: y[: heads.widths[t]].max(),
    }[scalar]
    torch.testing.assert_close(saliency, loop(heads, x, choose=choose))
    saliency.square().sum().backward()
    last = heads.layers[-1].weight.grad
    assert not last[0, :, 1:].any() and not last[2, :, 2:].any() and last[2, :, :2].any()


# One pass, through the heads only


def test_heads_are_called_once_and_the_trunk_never():
    class Wall(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise AssertionError("differentiated through the trunk")

    heads = Opaque(stack(hidden=(6,), activation=nn.Tanh))
    x = Wall.apply(features(torch.float32).requires_grad_())
    saliency = task_saliency(heads, x, create_graph=True)
    assert heads.calls == 1 and saliency.shape == (TASKS, BATCH, CHANNELS, SIDE, SIDE)
    torch.autograd.grad(saliency.sum(), list(heads.parameters()), allow_unused=True)


@pytest.mark.parametrize("name", HEADS)
def test_without_a_graph_under_no_grad(name):
    heads, x = HEADS[name](), features(torch.float32)
    with torch.no_grad():
        saliency = task_saliency(heads, x)
    assert not saliency.requires_grad
    torch.testing.assert_close(saliency, task_saliency(heads, x, create_graph=True).detach())
    assert all(p.grad is None for p in heads.parameters())


def test_relu_heads_regularise_themselves_and_not_the_features():
    x = features(torch.float32).requires_grad_()
    for heads in (stack(hidden=(6,)), stack(hidden=(6, 5)), Opaque(stack(hidden=(6,)))):
        value = pairwise_distances(task_saliency(heads, x, create_graph=True), 1).sum()
        (of_x,) = torch.autograd.grad(value, x, allow_unused=True, retain_graph=True)
        assert of_x is None or not of_x.any()
        weights = [p for n, p in heads.named_parameters() if n.endswith("weight")]
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad(value, weights))
    smooth = stack(hidden=(6,), activation=nn.Tanh)
    value = pairwise_distances(task_saliency(smooth, x, create_graph=True), 1).sum()
    assert torch.autograd.grad(value, x)[0].any()


# What the theory says


def test_theorem_1_the_gradient_knows_the_function():
    """With f(0) = 0, f(x) is the integral of the gradient from 0 to x: f1 = f2 iff f1' = f2'."""
    nodes, weights = (torch.as_tensor(v) for v in legendre(40))
    heads, x = stack(hidden=(6,), activation=nn.Tanh).double(), features(flat=True)
    way = (nodes[:, None, None] * x).flatten(0, 1)  # points between 0 and every sample
    slopes = task_saliency(heads, way).unflatten(1, (len(nodes), BATCH))
    rebuilt = torch.einsum("n,tnbd,bd->tb", weights, slopes, x)
    copies = torch.cat([x, torch.zeros_like(x[:1])]).expand(TASKS, -1, -1)
    values = heads(copies)[..., 0].detach()
    torch.testing.assert_close(rebuilt, values[:, :-1] - values[:, -1:], rtol=0, atol=1e-9)


def legendre(n):
    """Nodes and weights of Gauss's rule on [0, 1]."""
    import numpy

    nodes, weights = numpy.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


def test_theorem_1_needs_a_common_value_at_zero():
    heads, x = stack(hidden=(6,)).double(), features()
    before = task_saliency(heads, x)
    with torch.no_grad():
        heads.layers[-1].bias += 3  # another function ...
    assert torch.equal(task_saliency(heads, x), before)  # ... with the same gradient
    with torch.no_grad():
        heads.layers[0].bias += 1
    assert not torch.equal(task_saliency(heads, x), before)


@pytest.mark.parametrize("p", [1, 2, "cosine"])
def test_linear_heads_give_the_distance_of_their_weights(p):
    heads = stack(hidden=()).double()
    w = heads.layers[0].weight[..., 0].detach()
    for x in (features(flat=True), 100 * features(flat=True)):
        found = pairwise_distances(task_saliency(heads, x), p)
        for i, j in combinations(range(TASKS), 2):
            assert float(found[i, j]) == pytest.approx(BATCH * float(distance(w[i], w[j], p)))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("p", [1, 2, "cosine"])
@pytest.mark.parametrize("zero", [False, True], ids=["equal", "zero"])
def test_equal_heads_are_at_distance_zero_without_nan(p, activation, zero):
    heads = stack(hidden=(6,), activation=activation)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.copy_(0 * parameter if zero else parameter[:1].expand_as(parameter).clone())
    found = pairwise_distances(task_saliency(heads, features(torch.float32), True), p)
    assert float(found.detach().abs().max()) <= (2e-6 if p == "cosine" else 0)
    found.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in heads.parameters())


# Distances


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_distances_by_parts_are_the_distances(p, at_once, monkeypatch):
    """On a GPU a part's buffer of all pairs' differences bounds the memory."""
    s = torch.randn(TASKS, BATCH, 3, 2, dtype=torch.float64, requires_grad=True)
    whole = pairwise_distances(s, p)
    monkeypatch.setattr(saliency, "_at_once", lambda s, numbers: at_once)
    found = pairwise_distances(s, p)
    torch.testing.assert_close(found, whole)
    weights = torch.randn(TASKS, TASKS, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((weights * found).sum(), s),
        torch.autograd.grad((weights * whole).sum(), s),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_a_buffer_of_differences_is_bounded():
    s = torch.empty(50, 100, 1792, device="meta")
    assert saliency._at_once(s, 1) == saliency.BUFFER // 2500
    assert saliency._at_once(s, 1792) == saliency.BUFFER // (2500 * 1792)
    assert saliency._at_once(torch.empty(2, 3, 4), 1) == 12
    assert saliency._at_once(torch.empty(2, 0, 4), 1) == 1


@pytest.mark.parametrize("p", [1, 2, "cosine"])
def test_distances_are_a_symmetric_sum_over_the_batch(p):
    s = torch.randn(TASKS, BATCH, 3, 2, dtype=torch.float64)
    found = pairwise_distances(s, p)
    assert found.shape == (TASKS, TASKS) and not found.diagonal().any()
    torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[*torch.triu_indices(TASKS, TASKS, 1)], loop_distances(s, p))
    each = sum(pairwise_distances(s[:, b : b + 1], p) for b in range(BATCH))
    torch.testing.assert_close(found, each)


def test_cosine_by_hand():
    s = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[-3.0, 0.0]], [[0.0, 0.0]]])
    expected = [[0, 1, 2, 0.5], [1, 0, 1, 0.5], [2, 1, 0, 0.5], [0.5, 0.5, 0.5, 0]]
    assert pairwise_distances(s, "cosine").tolist() == expected


@pytest.mark.parametrize("p", [1, 2, "cosine"])
def test_gradients_by_finite_differences(p):
    x, heads = features(), stack(hidden=(6,), activation=nn.Tanh).double()
    names, values = zip(*heads.named_parameters(), strict=True)
    weights = torch.rand(TASKS, TASKS, dtype=torch.float64)

    def regulariser(x, *values):
        def run(a):
            return torch.func.functional_call(heads, dict(zip(names, values, strict=True)), (a,))

        run.tasks = TASKS
        saliency = task_saliency(_Module(run), x, create_graph=True, reduction="sum")
        return (weights * pairwise_distances(saliency, p)).sum()

    leaves = [v.detach().requires_grad_() for v in (x, *values)]
    assert torch.autograd.gradcheck(regulariser, leaves, atol=1e-6)


class _Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.tasks = function, function.tasks

    def forward(self, x):
        return self.function(x)


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that is made."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                self.entries = max(self.entries, x.numel() if not x._is_view() else 0)
        return out


@pytest.mark.parametrize("p", [1, 2, "cosine"])
def test_memory_of_many_tasks(p):
    tasks, batch, size = 100, 3, 50
    s = torch.randn(tasks, batch, size, requires_grad=True)
    with Largest() as largest:
        pairwise_distances(s, p).sum().backward()
    assert 0 < largest.entries <= batch * tasks * max(tasks, size)


def test_half_precision_keeps_its_dtype():
    s = torch.randn(3, 40, 50)
    for p in (1, 2, "cosine"):
        half = pairwise_distances(s.bfloat16(), p)
        assert half.dtype == torch.bfloat16
        full = pairwise_distances(s.bfloat16().float(), p)
        torch.testing.assert_close(half.float(), full, rtol=0.01, atol=0.1)


@pytest.mark.parametrize("name", HEADS)
def test_on_a_device_without_numbers(name):
    heads = HEADS[name]().to("meta")
    saliency = task_saliency(heads, features(torch.float32).to("meta"), True, "sum")
    for p in (1, 2, "cosine"):
        pairwise_distances(saliency, p).sum().backward(retain_graph=True)
    assert saliency.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", HEADS)
def test_cuda_equals_cpu(name):
    heads, x = HEADS[name]().double(), features()
    here = pairwise_distances(task_saliency(heads, x), 1)
    there = pairwise_distances(task_saliency(heads.cuda(), x.cuda()), 1)
    torch.testing.assert_close(there.cpu(), here)


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: task_saliency(stack(), torch.zeros(3)), r"features: expected .* got .* \(3,\)"),
        (
            lambda: task_saliency(stack(), torch.zeros(3, 12).long()),
            "features: expected a floating tensor .* got torch.int64",
        ),
        (
            lambda: task_saliency(stack(), torch.zeros(3, 7)),
            r"features: expected 12 numbers a sample .* got shape \(3, 7\)",
        ),
        (
            lambda: task_saliency(stack(), torch.zeros(3, 12), reduction="max"),
            "reduction: expected 'none', 'sum' or 'mean', got 'max'",
        ),
        (
            lambda: task_saliency(stack([2] * 3), torch.zeros(3, 12)),
            "scalar: expected 'sum', 'max' or .* heads of 2 outputs, got None",
        ),
        (
            lambda: task_saliency(stack([2] * 3), torch.zeros(3, 12), scalar="mean"),
            "scalar: expected .* got 'mean'",
        ),
        (lambda: task_saliency([], torch.zeros(3, 12)), "heads: expected at least one, got 0"),
        (lambda: pairwise_distances(torch.zeros(3, 2)), r"saliency: expected .* got \(3, 2\)"),
        (lambda: pairwise_distances(torch.zeros(3, 2, 4), 3), "p: expected 1, 2 or .* got 3"),
    ],
)
def test_errors_name_argument_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()
