"""Every method that the package exports, without a list by hand, through the one protocol.

How a method is built follows from the names of its constructor's arguments: ``network`` is a stack
of T dense networks, ``networks`` are networks of unlike shape, ``trunk`` and ``heads`` are what
they say. A method that is added is tested if it follows these names, or has a row in ``SPECIAL``.
"""

import copy
import inspect
import re
import sys
from functools import partial

import pytest
import torch
from device_checks import OLD, check_forward_on_fake_cuda, check_step_on_meta
from gradient_checks import check_gradient
from torch import nn

from mtlbook import methods
from mtlbook.backbones import TaskHeads, kernel_networks, mlp
from mtlbook.methods import Method, SharedTrunk
from mtlbook.methods.linear import LinearTasks
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import Batches, TaskLoss, fit, predict, step

EXPORTED = {name: getattr(methods, name) for name in methods.__all__}
CLASSES = {
    name: cls
    for name, cls in EXPORTED.items()
    if isinstance(cls, type) and issubclass(cls, Method) and name not in ("Method", "NetworkMethod")
}
SOLVED = [name for name, cls in CLASSES.items() if issubclass(cls, LinearTasks)]
STEPPED = [name for name in CLASSES if name not in SOLVED]
T, D, K = 3, 6, 2
IMAGES = ((1, 8, 8), (2, 9, 9), (1, 8, 8))


def dense(shared=()):
    return mlp(D, [K] * T, seed=0, hidden=(5,), names=("fc7", "fc8"), shared=shared)


def convolutional():
    return kernel_networks(IMAGES[:T], [K] * T, seed=0, channels=(3, 4))


def trunk():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Unflatten(1, (4, 1, 1)))


#: What an argument of a constructor is, by its name.
PARTS = {
    "network": dense,
    "networks": convolutional,
    "trunk": trunk,
    "heads": lambda: TaskHeads(4, [K] * T, hidden=(3,), seed=0),
    "method": lambda: SharedTrunk(trunk(), PARTS["heads"]()),
    "in_features": lambda: 4,
    "outputs": lambda: [K] * T,
    "tasks": lambda: T,
    "seed": lambda: 0,
    "rho": lambda: 0.1,
    "weight": lambda: 0.1,
    "kind": lambda: "pcgrad",
}
SPECIAL = {
    "HardSharing": {"network": lambda: dense(("fc7",))},
    "Pooled": {"network": lambda: dense(True)},
    "TNRDMTL": {"gamma": lambda: 0.1},
    "MRN": {"update_every": lambda: 1, "weight": lambda: 0.1},
    "DRN": {"update_every": lambda: 1, "weight": lambda: 0.1},
    "SRDML": {"scalar": lambda: "sum"},
    "MTAL": {"rho": lambda: 0.5},
}


def build(name):
    """A method with its required arguments, and those that ``SPECIAL`` adds."""
    special = SPECIAL.get(name, {})
    arguments = {}
    for argument in inspect.signature(CLASSES[name].__init__).parameters.values():
        required = argument.default is argument.empty and argument.kind not in (
            argument.VAR_KEYWORD,
            argument.VAR_POSITIONAL,
        )
        if argument.name != "self" and (required or argument.name in special):
            assert argument.name in PARTS | special, (
                f"{name}: no part is known for its argument {argument.name!r}; "
                "name it as other methods do, or add a row to SPECIAL"
            )
            arguments[argument.name] = (PARTS | special)[argument.name]()
    arguments |= {key: make() for key, make in special.items() if key not in arguments}
    if name in ("Balanced",) or "balancing" in name:
        pytest.importorskip("torchjd")
    return CLASSES[name](**arguments)


def common(name):
    """Whether a method wants the same samples for all tasks."""
    return "in_features" in inspect.signature(CLASSES[name].__init__).parameters


def inputs_of(name, counts=(8, 8, 8), dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    wide = "networks" in inspect.signature(CLASSES[name].__init__).parameters
    shapes = IMAGES if wide else ((D,),) * T
    draw = partial(torch.randn, generator=generator, dtype=dtype)
    if common(name):
        return [draw(counts[0], D)] * T
    return [draw(n, *shape) for n, shape in zip(counts[:T], shapes[:T], strict=True)]


def tasks_of(name, counts=(8, 8, 8), dtype=torch.float32):
    made = inputs_of(name, counts, dtype)
    tasks = [Task(str(t), x, torch.arange(len(x)) % K, classes=K) for t, x in enumerate(made)]
    return TaskSet("made up", tasks)


def sgd(method):
    return torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)


def train(method, name, steps, optimizer, first=0):
    """Steps of gradient descent, from the given one on."""
    tasks = tasks_of(name)
    batches = Batches(tasks, batch_size=4, steps=20, seed=0)
    for i in range(first, first + steps):
        step(method, TaskLoss(tasks), optimizer, *batches[i])
        method.update()


def test_every_exported_class_is_tested():
    assert {"STL", "MRN", "SRDML", "MTAL", "TNRDMTL", "DRN", "Lasso"} <= set(CLASSES)
    assert set(SPECIAL) <= set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_outputs_have_the_tasks_shapes(name):
    method = build(name)
    if name in SOLVED:
        method.solve(tasks_of(name))
    assert len(method.tasks) == T and method.update_every >= 1
    for counts in ((4, 4, 4), (4, 1, 2)):
        inputs = inputs_of(name, counts)
        assert [tuple(out.shape) for out in method(inputs)] == [(len(x), K) for x in inputs]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("counts", [(8, 8, 8), (8, 1, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_trains_to_finite_outputs(name, counts, dtype):
    method = build(name).to(dtype)
    tasks = tasks_of(name, counts, dtype)
    fit(method, tasks, steps=3, batch_size=4, device="cpu")
    assert all(out.isfinite().all() and out.dtype == dtype for out in predict(method, tasks))
    relation = method.relation()
    if relation is not None:
        matrix = relation.matrix
        assert matrix.shape == (T, T) and matrix.isfinite().all() and relation.meaning
        torch.testing.assert_close(matrix, matrix.mT)


#: What a method says that has nothing to share.
REFUSALS = r"(heads|layers|networks?): expected "


@pytest.mark.parametrize("name", CLASSES)
def test_one_task_is_learned_or_refused_by_name(name, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "T", 1)
    tasks = tasks_of(name)
    assert len(tasks) == 1
    try:
        method = build(name)
    except ValueError as error:
        assert re.match(REFUSALS, str(error))
        return
    fit(method, tasks, steps=3, batch_size=4, device="cpu")
    assert predict(method, tasks)[0].isfinite().all()
    relation = method.relation()
    assert relation is None or relation.matrix.tolist() == [[1.0]]


@pytest.mark.parametrize("name", STEPPED)
def test_a_whole_step_never_waits_for_the_device(name):
    if name == "Balanced":
        pytest.skip("weights of the tasks' gradients are found on the host, as it says")
    check_step_on_meta(build(name), tasks_of(name))


@pytest.mark.parametrize("name", STEPPED)
def test_forward_and_penalty_stay_on_cuda(name):
    check_forward_on_fake_cuda(build(name), tasks_of(name))


@pytest.mark.parametrize("name", STEPPED)
def test_a_checkpoint_goes_on_where_it_was(name):
    """Counts of steps and updates, random orders, relations: all of it is in the state."""
    whole = build(name)
    optimizer = sgd(whole)
    train(whole, name, 3, optimizer)
    saved = copy.deepcopy([whole.state_dict(), optimizer.state_dict()])
    train(whole, name, 3, optimizer, first=3)

    fresh = build(name)
    resumed = sgd(fresh)
    fresh.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    train(fresh, name, 3, resumed, first=3)
    for (key, a), b in zip(whole.state_dict().items(), fresh.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", CLASSES)
def test_a_copy_may_be_made_at_any_time(name):
    method, tasks = build(name), tasks_of(name)
    if name in SOLVED:
        method.solve(tasks)
    outputs = method([task.inputs for task in tasks])  # what it keeps of the batch has a graph
    twin = copy.deepcopy(method)
    for a, b in zip(outputs, twin([task.inputs for task in tasks]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", STEPPED)
def test_the_penalty_has_the_gradient_of_its_value(name):
    method = build(name).double()
    inputs = inputs_of(name, dtype=torch.float64)
    parameters = [p for p in method.parameters() if p.requires_grad]

    def penalty():
        method(inputs)
        return method.penalty()

    value = penalty()
    assert value.shape == () and value.isfinite()
    if not value.requires_grad:
        assert float(value) == 0
        return
    check_gradient(penalty, parameters, rel=1e-4, abs=1e-7)


#: Methods whose relation, or penalty, does not read the weights, or the inputs, that are NaN.
FIXED = {"FixedRelation"}
OF_BATCH = {"SRDML"}


@pytest.mark.parametrize("name", STEPPED)
def test_weights_that_are_not_numbers_are_not_hidden(name):
    """They give no finite output, and no finite penalty or relation that is made of them."""
    method = build(name)
    method(inputs_of(name))
    had_penalty = method.penalty().requires_grad
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.fill_(torch.nan)
    assert not any(out.isfinite().any() for out in method(inputs_of(name)))
    try:
        if had_penalty:
            assert not method.penalty().isfinite()
        method.update()
        relation = method.relation()
    except torch.linalg.LinAlgError:
        return  # a decomposition refuses them: not hidden either
    if relation is not None and name not in FIXED:
        others = ~torch.eye(T, dtype=torch.bool)
        assert not relation.matrix[others].isfinite().any()


@pytest.mark.parametrize("name", STEPPED)
def test_inputs_that_are_not_numbers_are_not_hidden(name):
    method, inputs = build(name), inputs_of(name)
    method(
        [torch.full_like(inputs[0], torch.nan)] * T
        if common(name)
        else [torch.full_like(x, torch.nan) for x in inputs]
    )
    penalty = method.penalty()
    assert not (name in OF_BATCH and penalty.isfinite())


# What makes a control a control


def gradient_reaches(method, inputs, task):
    """Which tasks' outputs a gradient step on one task changes."""
    before = [out.detach().clone() for out in method(inputs)]
    method.zero_grad()
    method(inputs)[task].square().sum().backward()
    with torch.no_grad():
        for p in method.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    return [not torch.allclose(a, b) for a, b in zip(before, method(inputs), strict=True)]


def test_hard_sharing_shares_and_stl_does_not():
    inputs = inputs_of("STL")
    assert gradient_reaches(build("STL"), inputs, 1) == [False, True, False]
    shared = build("HardSharing")
    assert gradient_reaches(shared, inputs, 1) == [True, True, True]
    heads = [p.grad for p in shared.network.head.parameters()]
    assert all(g[0].abs().sum() == 0 and g[1].abs().sum() > 0 for g in heads)


def test_pooled_is_one_model():
    x = inputs_of("Pooled")[0]
    a, b, c = build("Pooled")([x, x, x])
    assert torch.equal(a, b) and torch.equal(b, c)


def test_a_fixed_relation_stays_and_a_learned_one_moves():
    for name, moves in (("FixedRelation", False), ("MRN", True), ("DRN", True)):
        method = build(name)
        before = method.relation().matrix.clone()
        train(method, name, 4, sgd(method))
        assert torch.equal(before, method.relation().matrix) != moves


@pytest.mark.parametrize("kind", ["laf", "tucker", "tt"])
def test_an_uncoupled_norm_does_not_couple(kind):
    """Another task's weights may be replaced, or tasks permuted: a task's gradient stays."""
    control = "uncoupled" if kind == "laf" else f"uncoupled-{kind}"
    for of, expected in ((control, True), (kind, False)):
        method = methods.TNRDMTL(dense(), kind=of, gamma=0.1)
        weight = method.network.task_layers["fc7"].weight
        first = torch.autograd.grad(method.penalty(), weight)[0]
        with torch.no_grad():
            weight[1] = torch.randn_like(weight[1])
        again = torch.autograd.grad(method.penalty(), weight)[0]
        assert torch.allclose(first[0], again[0]) == expected
        assert not torch.allclose(first[1], again[1])
        order = torch.randperm(len(weight)).roll(1)
        with torch.no_grad():
            weight.copy_(weight[order])
        permuted = torch.autograd.grad(method.penalty(), weight)[0]
        torch.testing.assert_close(permuted, again[order])


def test_cross_stitch_at_its_own_activations_is_stl():
    nets = convolutional()
    stitched = methods.CrossStitch(nets, own=1.0)
    inputs = inputs_of("CrossStitch")
    for a, b in zip(stitched(inputs), methods.STL(nets)(inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_mtrl_finds_a_planted_relation():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(20, 1, generator=generator)
    tasks = []
    for t, sign in enumerate((1, 1, -1)):
        x = torch.randn(40, 20, generator=generator)
        tasks.append(Task(str(t), x, sign * x @ w, loss="mse"))
    method = methods.MTRL(0.01, 0.01)
    method.solve(TaskSet("planted", tasks))
    matrix = method.relation().matrix
    assert float(matrix[0, 1]) > 0.9 and float(matrix[0, 2]) < -0.9
    unrelated = methods.MTRL(0.01, 0.01, rounds=0)
    unrelated.solve(TaskSet("planted", tasks))
    assert float(unrelated.relation().matrix[0, 1]) == pytest.approx(0, abs=1e-6)


def test_random_pairs_are_pairs_of_whole_kernels_with_the_same_weights():
    """The control hands MTAL's weights to other kernels: as many pairs, as strongly joined."""
    alike = methods.MTAL(convolutional(), 0.1)
    strangers = methods.MTAL(convolutional(), 0.1, pairs="random", like="all", seed=1)
    for name in alike.sharing_layers:
        w, v = alike.weights(name), strangers.weights(name)
        order = getattr(strangers, f"order_{name}")
        owner = getattr(strangers, f"owner_{name}")
        assert torch.equal(owner[order], owner) and not torch.equal(order, torch.arange(len(order)))
        torch.testing.assert_close(v, w[order][:, order])  # rows and columns together
        torch.testing.assert_close(v.sum(1), torch.ones(len(v)))
        counts = [
            [int((m[owner == s][:, owner == t] > 0).sum()) for s in range(T) for t in range(T)]
            for m in (w, v)
        ]
        assert counts[0] == counts[1]


@pytest.mark.skipif(OLD, reason="torch 2.6 breaks the graph at what 2.14 captures")
@pytest.mark.parametrize("name", STEPPED)
def test_a_step_is_captured_as_one_graph(name):
    """``fullgraph=True`` refuses any break; the eager backend is the fast one to test with."""
    plain = build(name)
    method, tasks = copy.deepcopy(plain), tasks_of(name)
    loss, batches = TaskLoss(tasks), Batches(tasks, batch_size=4, steps=1, seed=0)

    def objective(of, inputs, targets):
        return loss(of(inputs), targets), of.penalty()

    torch._dynamo.reset()
    compiled = torch.compile(objective, fullgraph=True, backend="eager")
    gradients = []
    for of, way in ((plain, objective), (method, compiled)):
        of.train()
        found = way(of, *batches[0])
        of.backward(*found)
        gradients.append([*found, *(p.grad for p in of.parameters() if p.grad is not None)])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", STEPPED)
def test_autocast_rounds_the_networks_and_nothing_else(name):
    """A prior in bfloat16 would be off by per cents, and say nothing."""
    plain = build(name)
    method, tasks = copy.deepcopy(plain), tasks_of(name)
    loss, batches = TaskLoss(tasks), Batches(tasks, batch_size=4, steps=1, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        losses, penalty = loss(method(batches[0][0]), batches[0][1]), method.penalty()
        method.backward(losses, penalty)
        method.update()
    expected = loss(plain(batches[0][0]), batches[0][1]), plain.penalty()
    plain.backward(*expected)
    plain.update()
    torch.testing.assert_close(losses, expected[0], rtol=0.05, atol=0.05)
    exactly = {} if isinstance(method, SharedTrunk) else {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(penalty, expected[1], **(exactly or {"rtol": 0.05, "atol": 1e-3}))
    for own, other in zip(method.buffers(), plain.buffers(), strict=True):
        if own.is_floating_point():  # weights have not moved: covariances are what they were to be
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
