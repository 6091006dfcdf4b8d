"""MTAL (reconstruction), cross-stitch, and networks of tasks that differ in input and classes."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from device_checks import check_forward_on_fake_cuda, check_step_on_meta

from mtlbook.backbones import OwnLayer, TaskConvnets, convnet, kernel_networks, mlp
from mtlbook.kernels import aggregate, cosine_similarity, gaussian_similarity, pair_share
from mtlbook.methods import MTAL, STL, TNRDMTL, CrossStitch, HardSharing
from mtlbook.methods.mtal import layer_redundancy, units
from mtlbook.relations import Relation
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import Batches, TaskLoss, evaluate, fit, step

SHAPES = [(1, 12, 12), (1, 8, 8), (3, 10, 11)]
CLASSES = [3, 4, 2]
LAYERS = ("conv1", "conv2", "conv3")
ONE_SHAPE = [(1, 8, 8)] * 3


def networks(shapes=SHAPES, common=0.8, seed=0, **options):
    options = {"channels": (3, 4, 5)} | options
    return kernel_networks(shapes, CLASSES, seed=seed, common=common, **options)


VARIANTS = {
    "all pairs": {},
    "cross-task": {"pairs": "cross-task"},
    "mutual best": {"pairs": "mutual-best"},
    "random": {"pairs": "random"},
    "random, like cross-task": {"pairs": "random", "like": "cross-task"},
    "random, like mutual best": {"pairs": "random", "like": "mutual-best"},
    "slices": {"unit": "slice"},
    "learned weights": {"weights": "learned"},
    "learned weights, random": {"weights": "learned", "pairs": "random"},
    "Pearson": {"similarity": "pearson"},
    "Gaussian": {"similarity": "gaussian"},
    "own measure": {"similarity": partial(gaussian_similarity, sigma=1.0)},
    "attached": {"detach": False},
    "warm-up": {"warmup": 2},
    "warm-up, attached": {"warmup": 2, "detach": False},
    "every third step": {"update_every": 3},
    "two layers": {"layers": ("conv2", "conv3")},
    "a threshold for each layer": {"rho": {"conv1": 1.0, "conv2": 0.5, "conv3": 0.4}},
}
METHODS = {
    **{
        f"MTAL {name}": partial(lambda o: MTAL(networks(), **({"rho": 0.5} | o)), options)
        for name, options in VARIANTS.items()
    },
    "MTAL, widths differ": lambda: MTAL(networks(channels=[(3, 4), (2, 4), (3, 3)]), 0.5),
    "MTAL, 5 x 5 and 1 x 1": lambda: MTAL(networks(kernel_size=(5, 3, 1)), 0.5),
    "MTAL, one shared layer": lambda: MTAL(networks(shared=("conv3",)), 0.5),
    "cross-stitch": lambda: CrossStitch(networks()),
    "cross-stitch, one shape": lambda: CrossStitch(networks(ONE_SHAPE)),
    "STL": lambda: STL(networks()),
    "STL, weight decay": lambda: STL(networks(), weight_decay=0.01),
    "hard sharing": lambda: HardSharing(networks(shared=("conv2", "conv3"))),
    "TNRDMTL": lambda: TNRDMTL(networks(), kind="laf", gamma=0.01),
}


def shapes_of(method):
    return ONE_SHAPE if method.network.kernels("conv1")[2].shape[1] == 1 else SHAPES


def easy_tasks(shapes=SHAPES):
    """Three tasks of different kinds of image, the classes of each far apart."""

    def task(t):
        targets = torch.arange(12) % CLASSES[t]
        patterns = torch.randn(CLASSES[t], *shapes[t])
        inputs = patterns[targets] + 0.1 * torch.randn(12, *shapes[t])
        return Task(f"task {t}", inputs, targets, classes=CLASSES[t])

    return TaskSet("easy", [task(t) for t in range(3)])


@pytest.fixture
def tasks():
    return easy_tasks()


@pytest.mark.parametrize("name", METHODS)
class TestProtocol:
    def test_shapes_and_own_batches(self, name):
        method = METHODS[name]()
        assert len(method.tasks) == 3
        sizes = (4, 1, 2)
        inputs = [
            torch.randn(n, *s, requires_grad=True)
            for n, s in zip(sizes, shapes_of(method), strict=True)
        ]
        outputs = method(inputs)
        assert [tuple(out.shape) for out in outputs] == list(zip(sizes, CLASSES, strict=True))
        outputs[1].square().sum().backward()
        assert float(inputs[1].grad.abs().sum()) > 0
        assert all(x.grad is None or not bool(x.grad.any()) for x in (inputs[0], inputs[2]))

    def test_it_learns(self, name):
        method = METHODS[name]()
        tasks = easy_tasks(shapes_of(method))
        optimizer = partial(torch.optim.Adam, lr=0.01)
        history = fit(method, tasks, steps=40, batch_size=6, optimizer=optimizer, device="cpu")
        assert bool(history.loss.isfinite().all())
        assert float(history.loss[-5:].mean()) < 0.8 * float(history.loss[:5].mean())
        assert evaluate(method, tasks).mean > 50

    def test_relation(self, name):
        relation = METHODS[name]().relation()
        if name == "hard sharing":  # no layer that stacks to take a cosine of
            assert relation is None
            return
        assert isinstance(relation, Relation) and relation.meaning
        assert relation.matrix.shape == (3, 3) and not relation.matrix.requires_grad
        assert relation.matrix.diagonal().tolist() == [1, 1, 1]
        torch.testing.assert_close(relation.matrix, relation.matrix.mT)
        assert float(relation.matrix.abs().max()) <= 1 + 1e-6

    def test_state_round_trip(self, name):
        trained, fresh = METHODS[name](), METHODS[name]()
        tasks = easy_tasks(shapes_of(trained))
        fit(trained, tasks, steps=3, device="cpu")
        fresh.load_state_dict(trained.state_dict())
        inputs = [task.inputs for task in tasks]
        assert all(torch.equal(*pair) for pair in zip(trained(inputs), fresh(inputs), strict=True))

    def test_it_never_waits_for_the_device(self, name):
        method = METHODS[name]()
        check_step_on_meta(method, easy_tasks(shapes_of(method)))

    def test_every_tensor_is_on_the_device(self, name):
        method = METHODS[name]()
        check_forward_on_fake_cuda(method, easy_tasks(shapes_of(method)))

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_the_same_on_the_gpu(self, name):
        here, there = METHODS[name](), METHODS[name]()
        tasks = easy_tasks(shapes_of(here))
        # one step: later ones may pair kernels that rounding puts on two sides of the threshold
        losses = [
            fit(m, tasks, steps=1, device=d).loss for m, d in ((here, "cpu"), (there, "cuda"))
        ]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


# The threshold, and what freezing keeps


def run(method, tasks, steps=12):
    history = fit(method, tasks, steps=steps, batch_size=5, seed=3, device="cpu")
    return history.loss, method.network.state_dict()


def same_run(a, b):
    return torch.equal(a[0], b[0]) and all(torch.equal(a[1][key], b[1][key]) for key in a[1])


OFF = {
    name: options
    for name, options in VARIANTS.items()
    if name not in ("a threshold for each layer", "own measure")
}


@pytest.mark.parametrize("name", OFF)
def test_from_rho_one_it_is_stl_bit_for_bit(name, tasks):
    method = MTAL(networks(), 7 if name == "slices" else 1, **OFF[name])
    assert same_run(run(STL(networks()), tasks), run(method, tasks))
    assert torch.equal(method.relation().matrix, torch.eye(3))


@pytest.mark.parametrize("options", [{}, {"detach": False}, {"weights": "learned"}])
def test_warm_up_is_stl(options, tasks):
    stl = run(STL(networks()), tasks)
    assert same_run(stl, run(MTAL(networks(), 0.5, warmup=13, **options), tasks))
    late = run(MTAL(networks(), 0.5, warmup=6, **options), tasks)
    assert torch.equal(stl[0][:6], late[0][:6]) and not torch.equal(stl[0][6], late[0][6])


def test_sharing_without_a_partner_is_stl(tasks):
    stl, alone = run(STL(networks()), tasks), run(MTAL(networks(), 0.9999), tasks)
    torch.testing.assert_close(alone[0], stl[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_frozen_networks_give_the_same_outputs(name, tasks):
    method = MTAL(networks(), **({"rho": 0.5} | VARIANTS[name]))
    fit(method, tasks, steps=5, device="cpu")
    inputs = [task.inputs for task in tasks]
    frozen = method.freeze()
    assert isinstance(frozen, TaskConvnets) and frozen is not method.network
    for a, b in zip(method(inputs), frozen(inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert [tuple(p.shape) for p in frozen.parameters()] == [
        tuple(p.shape) for p in networks().parameters()
    ]
    assert evaluate(STL(frozen), tasks).per_task == evaluate(method, tasks).per_task
    before = {key: value.clone() for key, value in method.network.state_dict().items()}
    frozen.reset(seed=5)
    assert all(torch.equal(before[k], v) for k, v in method.network.state_dict().items())


# What is mixed with what


@pytest.mark.parametrize("unit", ["filter", "slice"])
@pytest.mark.parametrize("pairs", ["all", "cross-task", "mutual-best"])
def test_shared_kernels_are_the_aggregate_of_all_tasks(unit, pairs):
    method = MTAL(networks(), 0.4, unit=unit, pairs=pairs)
    for name in LAYERS:
        own = method.network.kernels(name)
        sliced = unit == "slice" or name == "conv1"  # whose input channels differ
        parts = [k.flatten(0, 1) if sliced else k for k in own]
        owner = [t for t, part in enumerate(parts) for _ in part]
        expected = aggregate(
            torch.cat(parts),
            0.4,
            owner,
            pairs != "all",
            pairs="mutual-best" if pairs == "mutual-best" else "all",
        )
        got = torch.cat([k.reshape(-1, *expected.shape[1:]) for k in method.shared(name)])
        torch.testing.assert_close(got, expected)
        assert [k.shape for k in method.shared(name)] == [k.shape for k in own]
        assert not torch.equal(got, torch.cat(parts))


def test_units_by_hand():
    filters = [torch.randn(2, 1, 3, 3), torch.randn(4, 3, 3, 3)]
    assert [tuple(k.shape) for k in units(filters)] == [(2, 3, 3), (12, 3, 3)]
    assert [tuple(k.shape) for k in units(filters[1:])] == [(4, 3, 3, 3)]
    assert torch.equal(units(filters)[1][5], filters[1][1, 2])  # filter 1, channel 2


def test_slices_of_one_number_are_all_alike_but_for_the_sign():
    method = MTAL(networks(kernel_size=1), 0.5, unit="slice")
    x = [torch.randn(2, *s) for s in SHAPES]
    assert all(bool(out.isfinite().all()) for out in method(x))
    for name in LAYERS:
        mixed, own = (
            torch.cat([k.flatten() for k in ks])
            for ks in (method.shared(name), method.network.kernels(name))
        )
        for sign in (1, -1):
            side = own * sign > 0
            torch.testing.assert_close(mixed[side], own[side].mean().expand_as(own[side]))


def test_identical_tasks_are_unchanged():
    """Two networks with the same filters, none of them alike within a task."""
    net = kernel_networks([(1, 8, 8)] * 2, [3, 3], seed=0, channels=(3, 4, 5), common=1.0)
    x = [torch.randn(4, 1, 8, 8)] * 2
    own = net(x)
    for pairs in ("all", "cross-task", "mutual-best"):
        for unit in ("filter", "slice"):
            method = MTAL(net, 0.9999, pairs=pairs, unit=unit)
            assert float(method.relation().matrix.min()) == 1
            for a, b in zip(method(x), own, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"pairs": "cross-task"}, {"unit": "slice"}])
def test_numbering_of_filters_does_not_matter(options):
    """Permute the filters of one task's last layer, and the inputs of its head with them."""
    net, permuted = networks(), networks()
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.no_grad():
        permuted.convolutions["conv3"].weight[1] = net.convolutions["conv3"].weight[1][order]
        head = net.head.weight[1].unflatten(1, (5, -1))[:, order]
        permuted.head.weight[1].copy_(head.flatten(1))
    x = [torch.randn(4, *s) for s in SHAPES]
    a, b = MTAL(net, 0.4, **options), MTAL(permuted, 0.4, **options)
    for p, q in zip(a(x), b(x), strict=True):
        torch.testing.assert_close(p, q)
    torch.testing.assert_close(a.relation().matrix, b.relation().matrix)


@pytest.mark.parametrize("options", [{}, {"detach": False}, {"weights": "learned"}])
def test_gradient_reaches_the_partners_and_nobody_else(options):
    method = MTAL(networks(), 0.8, pairs="cross-task", layers=["conv3"], **options)
    with torch.no_grad():
        method.network.convolutions["conv3"].bias.fill_(5)  # no ReLU is shut
    x = [torch.randn(4, *s) for s in SHAPES]
    method(x)[0].square().sum().backward()
    reached = method.network.convolutions["conv3"].weight.grad.flatten(0, 1).flatten(1)
    reached = (reached.abs().sum(1) > 0)[5:]  # filters of the other two tasks
    partners = (method.weights("conv3")[:5, 5:] > 0).any(0)
    assert torch.equal(reached, partners)
    assert 0 < int(partners.sum()) < 10
    grad = method.network.convolutions["conv2"].weight.grad  # a layer that does not share
    assert not bool(grad[1:].any()) and bool(grad[0].any())


def test_learned_weights_learn_where_there_are_pairs(tasks):
    method = MTAL(networks(), 0.4, weights="learned")
    fit(method, tasks, steps=1, device="cpu")
    w = MTAL(networks(), 0.4).weights("conv3") > 0
    moved = method.logits["conv3"] != 0
    w.fill_diagonal_(False)
    assert bool((moved <= w).all()) and int(moved.sum()) > 0


def test_pairs_are_searched_when_update_says_so():
    method = MTAL(networks(), 0.4, layers=["conv3"])
    with torch.no_grad():
        method.network.convolutions["conv3"].weight.normal_()
    stale = torch.cat(method.shared("conv3"))
    method.update()
    fresh = torch.cat(method.shared("conv3"))
    torch.testing.assert_close(fresh, aggregate(torch.cat(method.kernels("conv3")), 0.4))
    assert not torch.allclose(stale, fresh)


# Random pairs: the control


def test_random_pairs_are_as_many_between_the_same_tasks():
    for like in ("all", "cross-task", "mutual-best"):
        similar = MTAL(networks(), 0.4, pairs=like)
        control = MTAL(networks(), 0.4, pairs="random", like=like)
        for name in LAYERS:
            a, b = similar.weights(name), control.weights(name)
            owner = getattr(similar, f"owner_{name}")
            own = F.one_hot(owner).float()
            torch.testing.assert_close(own.mT @ a @ own, own.mT @ b @ own)
            assert int((a > 0).sum()) == int((b > 0).sum()) > len(a)
            assert not torch.equal(a > 0, b > 0)
        other = MTAL(networks(), 0.4, pairs="random", like=like, seed=1)
        assert not torch.equal(other.weights("conv3"), control.weights("conv3"))


# What it reports


def test_relation_by_hand():
    net = kernel_networks([(1, 4, 4)] * 3, CLASSES, seed=0, channels=(2, 3), kernel_size=1)
    with torch.no_grad():
        one, two = torch.eye(2), torch.tensor([[1.0, 0], [1, 1], [0, 1]])
        net.set_kernels("conv1", [k[:, :1, None, None] for k in (one * 0, one * 0, one * 0)])
        filters = torch.stack([two, -two, torch.stack([two[0], -two[1], -two[1]])])
        net.set_kernels("conv2", filters[..., None, None])
    method = MTAL(net, 0.9)  # in layer 2: tasks 0 and 2 have one alike each, 1 and 2 one and two
    matrix = method.relations()["conv2"].matrix
    torch.testing.assert_close(matrix[0, 2], torch.tensor(2 / 6))
    torch.testing.assert_close(matrix[1, 2], torch.tensor(3 / 6))
    assert float(matrix[0, 1]) == 0
    assert torch.equal(method.relations()["conv1"].matrix, torch.eye(3))
    torch.testing.assert_close(method.relation().matrix[1, 2], torch.tensor(3 / 10))
    # of 36 pairs are joined: 0-2 one, 1-2 one with two, and two within task 2
    assert method.sharing()["share/conv2"] == pytest.approx(4 / 36)
    assert method.sharing()["own_redundancy/conv2"] == pytest.approx(1 / 9)


def test_sharing_is_a_probe(tasks):
    method = MTAL(networks(), 0.4)
    history = fit(method, tasks, steps=4, device="cpu", probe=MTAL.sharing, probe_at=(0, 4))
    keys = {f"{kind}/{n}" for kind in ("share", "redundancy", "own_redundancy") for n in LAYERS}
    for seen in history.probes:
        assert set(seen) == keys | {"step"}
        assert all(0 <= seen[key] <= 1 for key in keys)
    last = history.probes[-1]
    for name in LAYERS:
        similar = cosine_similarity(torch.cat(method.kernels(name)))
        assert last[f"share/{name}"] == pytest.approx(float(pair_share(similar, 0.4)))


def test_redundancy_by_hand():
    net = kernel_networks([(1, 2, 2)] * 2, [2, 2], seed=0, channels=(3,), kernel_size=3)
    with torch.no_grad():
        base = torch.randn(3, 1, 3, 3)
        base[1], base[2] = 2 * base[0], -base[0]  # one pair of three is alike
        net.set_kernels("conv1", [base, torch.eye(9)[:3].view(3, 1, 3, 3)])
    assert layer_redundancy(net, 0.5)["conv1"] == pytest.approx(1 / 6)
    assert (
        layer_redundancy(net, 1.1)["conv1"] == 0 == layer_redundancy(net, {"conv1": 1.1})["conv1"]
    )
    assert layer_redundancy(net, {"conv1": 0.5}, unit="slice")["conv1"] == pytest.approx(1 / 6)


def test_sharing_makes_similar_kernels_of_a_task_more_similar():
    """It merges duplicates: by the measure of their cosines there are more of them, not fewer."""
    method = MTAL(networks(common=0.0), 0.2)
    seen = method.sharing()
    assert all(seen[f"redundancy/{n}"] >= seen[f"own_redundancy/{n}"] for n in LAYERS)


# The networks


def plain_forward(net, x, t):
    for name in LAYERS:
        x = F.conv2d(x, net.kernels(name)[t], net.biases(name)[t], padding="same")
        x = F.max_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), net.head.weight[t], net.head.bias[t])


@pytest.mark.parametrize("shared", [(), ("conv2", "conv3")])
def test_networks_compute_what_they_say(shared):
    net = networks(shared=shared)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x = [torch.randn(2, *s) for s in SHAPES]
    for t, out in enumerate(net(x)):
        torch.testing.assert_close(out, plain_forward(net, x[t], t))


def test_shared_layers_are_one():
    net = networks(shared=("conv2", "conv3"))
    assert net.convolutions["conv2"].weight.shape == (1, 4, 3, 3, 3)
    assert net.kernel_layers == ("conv1",) and net.shareable == ()
    assert torch.equal(net.kernels("conv3")[0], net.kernels("conv3")[2])
    apart = networks()
    assert torch.equal(net.kernels("conv1")[1], apart.kernels("conv1")[1])
    assert torch.equal(net.head.weight[2], apart.head.weight[2])


def test_layers_that_stack():
    net = networks()
    assert net.shareable == ("conv2", "conv3") and net.kernel_layers == LAYERS
    assert net.task_layers["conv2"].stack().shape == (4, 3, 3, 3, 3)
    with pytest.raises(ValueError, match=r"expected weights of one shape to stack, got \[\(3, 1"):
        net.task_layers["conv1"].stack()
    assert networks(ONE_SHAPE).shareable == LAYERS
    assert networks(channels=[(3, 4), (3, 4), (2, 4)]).shareable == ()


@pytest.mark.parametrize("common", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_common_is_the_cosine_to_expect(common):
    net = kernel_networks([(1, 8, 8)] * 2, [2, 2], seed=0, channels=(20, 40), common=common)
    a, b = (k.flatten(1) for k in net.kernels("conv2"))
    cosines = torch.cosine_similarity(a, b, dim=1)
    assert float(cosines.mean()) == pytest.approx(common, abs=0.03)
    std = float(torch.cat([a, b]).std())
    assert std == pytest.approx(math.sqrt(2 / 180), rel=0.05)


def test_first_tasks_do_not_depend_on_how_many_follow():
    few = kernel_networks(SHAPES[:2], CLASSES[:2], seed=4, channels=(3, 4, 5))
    many = kernel_networks(SHAPES, CLASSES, seed=4, channels=(3, 4, 5))
    x = [torch.randn(2, *s) for s in SHAPES]
    torch.testing.assert_close(few(x[:2])[1], many(x)[1])
    other = kernel_networks(SHAPES, CLASSES, seed=5, channels=(3, 4, 5))
    assert not torch.allclose(other(x)[1], many(x)[1])


def test_tnrdmtl_couples_the_layers_that_stack():
    method = TNRDMTL(networks())
    assert method.layers == ("conv2", "conv3")
    method.penalty().backward()
    assert method.network.convolutions["conv1"].weight[0].grad is None
    assert bool(method.network.convolutions["conv3"].weight.grad.any())


def test_double_precision_agrees(tasks):
    for name in ("MTAL all pairs", "MTAL learned weights", "cross-stitch"):
        single, double = METHODS[name](), METHODS[name]().double()
        x = [task.inputs for task in tasks]
        for a, b in zip(single(x), double([v.double() for v in x]), strict=True):
            assert b.dtype == torch.float64
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


# Cross-stitch


def slow_cross_stitch(method, x, t):
    """Network by network, as the paper draws it: all of them on the batch of task t."""
    net, tasks = method.network, range(3)
    below = [name for name in LAYERS if name not in method.layers]

    def layer(name, s, a):
        out = F.conv2d(a, net.kernels(name)[s], net.biases(name)[s], padding="same")
        return F.relu(F.max_pool2d(out, 2))

    for name in below:
        x = layer(name, t, x)
    activations = [x] * 3
    for name in method.layers:
        outs = [layer(name, s, activations[s]) for s in tasks]
        alpha = method.alpha[name]
        activations = [sum(alpha[s, r] * outs[r] for r in tasks) for s in tasks]
    return F.linear(activations[t].flatten(1), net.head.weight[t], net.head.bias[t])


@pytest.mark.parametrize("shapes", [SHAPES, ONE_SHAPE])
def test_cross_stitch_network_by_network(shapes):
    method = CrossStitch(networks(shapes, common=0.3))
    assert method.layers == (LAYERS if shapes is ONE_SHAPE else LAYERS[1:])
    with torch.no_grad():
        for p in method.parameters():
            p.add_(0.05 * torch.randn_like(p))
    x = [torch.randn(2, *s) for s in shapes]
    for t, out in enumerate(method(x)):
        torch.testing.assert_close(out, slow_cross_stitch(method, x[t], t))


def test_cross_stitch_with_own_one_is_stl():
    x = [torch.randn(2, *s) for s in SHAPES]
    for a, b in zip(CrossStitch(networks(), own=1.0)(x), STL(networks())(x), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(CrossStitch(networks(), own=1.0).relation().matrix, torch.eye(3))


def slow_stitched_mlp(method, x, t):
    """As slow_cross_stitch, for dense layers with a sigmoid; one that is shared mixes nothing."""
    net, tasks = method.network, range(len(method.tasks))
    activations = [x] * len(tasks)
    for name, layer in net.task_layers.items():
        copies = [0] * len(tasks) if layer.tasks == 1 else list(tasks)
        dense = [
            a @ layer.weight[r] + layer.bias[r] for a, r in zip(activations, copies, strict=True)
        ]
        if name == net.head_name:
            width = dense[t].shape[1] if layer.widths is None else layer.widths[t]
            return dense[t][:, :width]
        outs = [out.sigmoid() for out in dense]
        alpha = method.alpha[name] if name in method.layers else torch.eye(len(tasks)).to(x)
        activations = [sum(alpha[s, r] * outs[r] for r in tasks) for s in tasks]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("outputs", [(2, 2, 2), (2, 4, 1)])
@pytest.mark.parametrize("shared", [(), ("fc1",), ("fc3",)])
def test_cross_stitch_of_one_architecture_network_by_network(dtype, sizes, outputs, shared):
    net = mlp(5, outputs, seed=0, hidden=(4, 6, 3), shared=shared).to(dtype)
    method = CrossStitch(net).to(dtype)
    assert method.layers == tuple(n for n in ("fc1", "fc2", "fc3") if n not in shared)
    with torch.no_grad():
        for p in method.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = [10 * torch.randn(n, 5, dtype=dtype) for n in sizes]
    for t, out in enumerate(method(x)):
        torch.testing.assert_close(out, slow_stitched_mlp(method, x[t], t))


def test_cross_stitch_of_one_architecture_on_convolutions():
    net = convnet((1, 10, 10), [2, 3], seed=0, channels=(2, 3, 2), hidden=4)
    x = [torch.randn(2, 1, 10, 10), torch.randn(3, 1, 10, 10)]
    for a, b in zip(CrossStitch(net, own=1.0)(x), STL(net)(x), strict=True):
        torch.testing.assert_close(a, b)
    method = CrossStitch(net, own=0.5)
    assert method.layers == ("conv1", "conv2", "conv3", "fc1")
    # what all networks say alike is what one of them says
    with torch.no_grad():
        for layer in (net.task_layers[name] for name in method.layers):
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
    for a, b in zip(method(x), STL(net)(x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("check", [check_step_on_meta, check_forward_on_fake_cuda])
@pytest.mark.parametrize("lengths", [(6, 6), (6, 3)])
def test_cross_stitch_of_one_architecture_on_devices_that_are_not_here(check, lengths):
    tasks = [Task(f"task {n}", torch.randn(n, 5), torch.arange(n) % 3, classes=3) for n in lengths]
    check(CrossStitch(mlp(5, [3, 3], seed=0, hidden=(4, 4))), TaskSet("made up", tasks))


def test_cross_stitch_of_one_architecture_is_captured_and_copied():
    from copy import deepcopy

    method = CrossStitch(mlp(5, [3, 2], seed=0, hidden=(4,)))
    x = [torch.randn(4, 5), torch.randn(4, 5)]
    compiled = torch.compile(
        lambda *batches: list(method(batches)), fullgraph=True, backend="eager"
    )
    for a, b, c in zip(compiled(*x), method(x), deepcopy(method)(x), strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(b, c)
    other = CrossStitch(mlp(5, [3, 2], seed=9, hidden=(4,)), own=0.5)
    other.load_state_dict(method.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other(x), method(x), strict=True))


def test_cross_stitch_gradients():
    net = mlp(3, [2, 2], seed=0, hidden=(3,)).double()
    method, x = CrossStitch(net).double(), torch.randn(2, 2, 3, dtype=torch.float64)
    names, start = zip(*method.named_parameters(), strict=True)

    def outputs(*values):
        given = dict(zip(names, values, strict=True))
        return torch.cat(list(torch.func.functional_call(method, given, (list(x),))))

    assert torch.autograd.gradcheck(outputs, start)
    # each task reaches every network, and through it every weight of a mixture
    torch.stack(list(method(list(x)))).sum().backward()
    assert all(bool((p.grad != 0).all()) for n, p in method.named_parameters() if "alpha" in n)


def test_cross_stitch_relation_by_hand():
    method = CrossStitch(networks())
    with torch.no_grad():
        for alpha in method.alpha.values():
            alpha.copy_(torch.tensor([[3.0, -1, 0], [0, 1, 0], [0, 2, 2]]))
    expected = torch.tensor([[1, 0.125, 0], [0.125, 1, 0.25], [0, 0.25, 1]])
    torch.testing.assert_close(method.relation().matrix, expected)


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MTAL(networks(), 0.5, pairs="some"), "pairs: expected one of .* got 'some'"),
        (lambda: MTAL(networks(), 0.5, unit="row"), "unit: expected one of .* got 'row'"),
        (lambda: MTAL(networks(), 0.5, weights="equal"), "weights: expected .* got 'equal'"),
        (lambda: MTAL(networks(), 0.5, like="random"), "like: expected one of .* got 'random'"),
        (lambda: MTAL(networks(), 0.5, similarity="dot"), "similarity: expected .* got 'dot'"),
        (lambda: MTAL(networks(), -0.5), "rho: expected numbers >= 0, .*'conv1': -0.5"),
        (lambda: MTAL(networks(), {"conv1": 0.5}), r"rho: expected layers .* got \('conv1',\)"),
        (
            lambda: MTAL(networks(), 0.5, warmup=-1),
            "warmup, update_every: expected .* got -1 and 1",
        ),
        (lambda: MTAL(networks(), 0.5, update_every=0), "warmup, update_every: .* got 0 and 0"),
        (lambda: MTAL(networks(), 0.5, layers=["head"]), r"layers: .*'conv3'\], got \['head'\]"),
        (lambda: MTAL(networks(), 0.5, layers=["conv9"]), r"layers: .* got \['conv9'\]"),
        (
            lambda: MTAL(networks(shared=("conv2",)), 0.5, layers=["conv2"]),
            r"layers: expected layers with one copy per task, got \['conv2'\]",
        ),
        (
            lambda: CrossStitch(networks(channels=[(3, 4), (3, 5), (3, 4)])),
            r"networks: expected layers below the head .* of one shape, got .*\(5, 3, 3, 3",
        ),
        (
            lambda: CrossStitch(mlp(3, [2, 2], seed=0, hidden=())),
            r"networks: expected layers below the head .* got \{'head': \[\(3, 2\), \(3, 2\)\]\}",
        ),
        (
            lambda: CrossStitch(mlp(3, [2, 2], seed=0))([torch.ones(1, 3)]),
            "inputs: expected a batch for each of 2 tasks, got 1",
        ),
        (lambda: CrossStitch(torch.nn.Linear(2, 2)), "expected TaskNetwork or .* got Linear"),
        (lambda: HardSharing(networks()), "network: expected some shared layers"),
        (lambda: kernel_networks(SHAPES, [2], seed=0), "input_shapes: expected one for each of 1"),
        (lambda: kernel_networks([], [], seed=0), "input_shapes: expected one for each of 0"),
        (
            lambda: networks([(1, 4, 9)] * 3),
            r"input_shapes: expected sides of 8 or more, got \[\(1, 4, 9\)",
        ),
        (lambda: networks(channels=[(3, 4)] * 2), "channels: expected 2 widths, or as many for"),
        (lambda: networks(kernel_size=(3, 3)), "channels: expected 2 widths"),
        (lambda: networks(shared=("fc1",)), r"shared: expected names among .* got \['fc1'\]"),
        (lambda: networks(shared=("conv1",)), r"shared: expected layers of one shape, got conv1"),
        (lambda: networks(common=1.5), r"common: expected a number in \[0, 1\], got 1.5"),
    ],
)
def test_errors_name_argument_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_step_descends(tasks):
    """A small step along the gradient lowers the sum of losses, for every kind of weight."""
    for options in ({}, {"weights": "learned"}, {"detach": False}):
        method = MTAL(networks(), 0.4, **options)
        loss, batch = TaskLoss(tasks), Batches(tasks, batch_size=None, steps=1, seed=0)[0]
        optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
        before, _ = step(method, loss, optimizer, *batch)
        after = loss(method(batch[0]), batch[1])
        assert float(after.sum().detach()) < float(before.sum())


def test_own_layers_keep_their_shapes():
    layer = OwnLayer([(2, 3), (4, 5)])
    assert layer.tasks == 2 and [tuple(b.shape) for b in layer.bias] == [(2,), (4,)]
