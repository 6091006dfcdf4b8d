"""Networks that the user has written, under the methods of this package."""

import copy
import importlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mtlbook.backbones import attach, convnet, kernel_networks, mlp
from mtlbook.methods import (
    DMTLTF,
    DRN,
    MRN,
    MTAL,
    SRDML,
    STL,
    TNRDMTL,
    CrossStitch,
    FixedRelation,
    SharedTrunk,
)
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate, fit

T, D, K = 3, 6, 2
METHODS = {
    "laf": lambda net: TNRDMTL(net, kind="laf", gamma=0.1),
    "tucker": lambda net: TNRDMTL(net, kind="tucker", gamma=0.1),
    "tt": lambda net: TNRDMTL(net, kind="tt", gamma=0.1),
    "uncoupled": lambda net: TNRDMTL(net, kind="uncoupled", gamma=0.1),
    "proximal": lambda net: TNRDMTL(net, gamma=0.1, proximal=True, step_size=0.1),
    "mrn": lambda net: MRN(net, weight=0.1, update_every=2),
    "mrn-proximal": lambda net: MRN(net, weight=0.1, update_every=2, proximal=0.5),
    "mrn-released": lambda net: MRN(net, as_released=True, update_every=2),
    "drn": lambda net: DRN(net, weight=0.1, update_every=2),
    "fixed": lambda net: FixedRelation(net, weight=0.1, rho=0.3),
    "stl": lambda net: STL(net, weight_decay=0.1),
}


def own_networks(outputs=(K,) * T, seed=0):
    """What a user has: plain modules, with a normalisation that no method touches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [
            nn.Sequential(
                nn.Linear(D, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, k)
            )
            for k in outputs
        ]


def same_twice():
    """The same T networks as this package stacks them, and as plain modules."""
    stacked = mlp(D, [K] * T, seed=0, hidden=(5, 4), activation=nn.Tanh, std=0.5)
    plain = []
    for t in range(T):
        dense = [nn.Linear(D, 5), nn.Linear(5, 4), nn.Linear(4, K)]
        for layer, source in zip(dense, stacked.task_layers.values(), strict=True):
            with torch.no_grad():
                layer.weight.copy_(source.weight[t].mT)
                layer.bias.copy_(source.bias[t])
        plain.append(nn.Sequential(dense[0], nn.Tanh(), dense[1], nn.Tanh(), dense[2]))
    return stacked, plain


def tasks(dtype=torch.float32, n=8):
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(n, D, generator=generator, dtype=dtype) for _ in range(T)]
    return TaskSet(
        "x", [Task(str(t), x, torch.arange(n) % K, classes=K) for t, x in enumerate(draw)]
    )


def train(method, steps=4, lr=0.1):
    """A loop of the user's own."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=lr)
    data = tasks()
    for i in range(steps):
        optimizer.zero_grad()
        outputs = method([task.inputs for task in data])
        losses = [F.cross_entropy(out, t.targets) for out, t in zip(outputs, data, strict=True)]
        (sum(losses) + method.penalty()).backward()
        optimizer.step()
        if (i + 1) % method.update_every == 0:
            method.update()
    return method


@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_on_own_networks_what_it_does_on_stacked_ones(name):
    stacked, plain = same_twice()
    layers = ["0.weight", "2.weight"]
    own_head = name in ("mrn", "mrn-proximal", "mrn-released", "drn", "fixed")
    on_own = METHODS[name](attach(plain, [*layers, *(["4.weight"] if own_head else [])]))
    on_stack = METHODS[name](stacked)
    for round_ in range(3):
        torch.testing.assert_close(on_own.penalty(), on_stack.penalty(), msg=f"round {round_}")
        train(on_own, 2)
        train(on_stack, 2)
    for t, network in enumerate(plain):
        for own, source in zip((0, 2, 4), stacked.task_layers.values(), strict=True):
            torch.testing.assert_close(network[own].weight, source.weight[t].mT)
            torch.testing.assert_close(network[own].bias, source.bias[t])
    torch.testing.assert_close(on_own.relation().matrix, on_stack.relation().matrix)


@pytest.mark.parametrize("name", ["laf", "tucker", "tt", "uncoupled", "proximal"])
def test_convolutions_are_coupled_as_stacked_ones_are(name):
    """Proximal maps write into the networks, not into a copy."""
    stacked = convnet((1, 8, 8), [K] * T, seed=0, channels=(3,), kernels=(3,), hidden=4)
    plain = [nn.Sequential(nn.Conv2d(1, 3, 3), nn.Linear(48, 4)) for _ in range(T)]
    for t, network in enumerate(plain):
        with torch.no_grad():
            network[0].weight.copy_(stacked.task_layers["conv1"].weight[t])
            network[1].weight.copy_(stacked.task_layers["fc1"].weight[t].mT)
    on_own, on_stack = (
        METHODS[name](attach(plain, ["0.weight", "1.weight"])),
        METHODS[name](stacked),
    )
    torch.testing.assert_close(on_own.penalty(), on_stack.penalty())
    on_own.update()
    on_stack.update()
    for t, network in enumerate(plain):
        torch.testing.assert_close(network[0].weight, stacked.task_layers["conv1"].weight[t])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fit_evaluate_state_and_copies(name, dtype):
    method = METHODS[name](attach(own_networks(), ["0.weight", "3.weight"])).to(dtype)
    fit(method, tasks(dtype), steps=4, seed=0, device="cpu")
    twin, kept = copy.deepcopy(method), io.BytesIO()
    torch.save(method.state_dict(), kept)
    kept.seek(0)
    fresh = METHODS[name](attach(own_networks(seed=1), ["0.weight", "3.weight"])).to(dtype)
    fresh.load_state_dict(torch.load(kept))
    pickled = pickle.loads(pickle.dumps(method))
    for other in (twin, fresh, pickled):
        torch.testing.assert_close(other.penalty(), method.penalty())
        assert evaluate(other, tasks(dtype)).per_task == evaluate(method, tasks(dtype)).per_task
    before = [p.clone() for p in method.parameters()]
    fit(twin, tasks(dtype), steps=2, seed=0, device="cpu")  # a copy has weights of its own
    assert all(torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))


def test_the_state_is_that_of_the_networks_and_of_the_prior_alone():
    networks = own_networks()
    method = STL(attach(networks, ["0.weight"]), weight_decay=0.1)
    own = {f"network.networks.{t}.{k}" for t, net in enumerate(networks) for k in net.state_dict()}
    assert set(method.state_dict()) == own
    assert len(list(method.parameters())) == sum(len(list(n.parameters())) for n in networks)


@pytest.mark.parametrize("name", ["laf", "mrn", "drn", "fixed"])
def test_frozen_parameters_stay(name):
    networks = own_networks()
    for network in networks:
        network[3].weight.requires_grad_(False)
    before = [network[3].weight.clone() for network in networks]
    train(METHODS[name](attach(networks, ["0.weight"])))
    assert all(torch.equal(b, n[3].weight) for b, n in zip(before, networks, strict=True))
    frozen = own_networks()
    for network in frozen:
        network[0].weight.requires_grad_(False)
    penalty = METHODS[name](attach(frozen, ["0.weight"])).penalty()
    assert penalty.isfinite() and not penalty.requires_grad


def test_heads_of_unequal_width_may_stay_outside():
    networks = own_networks(outputs=(2, 3, 5))
    method = TNRDMTL(attach(networks, ["0.weight", "3.weight"]), gamma=0.1)
    method.penalty().backward()
    assert networks[2][0].weight.grad.abs().sum() > 0 and networks[2][4].weight.grad is None


@pytest.mark.parametrize("name", ["laf", "tucker", "mrn", "fixed"])
def test_the_penalty_keeps_its_precision_under_autocast(name):
    method = METHODS[name](attach(own_networks(), ["0.weight", "3.weight"]))
    expected = method.penalty()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = method([task.inputs for task in tasks()])
        found = method.penalty()
    assert outputs[0].dtype == torch.bfloat16 and found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["laf", "tucker", "tt", "uncoupled", "mrn", "drn", "fixed", "stl"])
def test_a_step_is_captured_as_one_graph(name):
    method = METHODS[name](attach(own_networks(), ["0.weight", "3.weight"]))
    inputs = [task.inputs for task in tasks()]

    def objective(of):
        return sum(out.square().mean() for out in of(inputs)) + of.penalty()

    torch._dynamo.reset()
    found = torch.compile(objective, fullgraph=True, backend="eager")(method)
    torch.testing.assert_close(found, objective(method))


def test_unlike_shapes_are_refused_by_what_stacks_them():
    with pytest.raises(ValueError, match="of one shape to stack"):
        TNRDMTL(attach(own_networks(outputs=(2, 3, 5)), ["4.weight"]))


def test_kernels_of_your_own_networks_are_shared_as_those_of_this_package():
    """MTAL: networks of unlike inputs, whose similar kernels are mixed on the way."""
    shapes = [(1, 8, 8), (2, 8, 8), (1, 8, 8)]
    made = kernel_networks(shapes, [K] * T, seed=0, channels=(3, 4))

    def plain(task):
        first, second = made.kernels("conv1")[task], made.kernels("conv2")[task]
        convs = [nn.Conv2d(k.shape[1], k.shape[0], 3, padding="same") for k in (first, second)]
        head = nn.Linear(16, K)
        with torch.no_grad():
            for own, new in zip(
                (*convs, head), (first, second, made.head.weight[task]), strict=True
            ):
                own.weight.copy_(new)
                own.bias.zero_()
        pool = nn.Sequential(nn.MaxPool2d(2), nn.ReLU())
        return nn.Sequential(convs[0], pool, convs[1], pool, nn.Flatten(), head)

    own = attach([plain(t) for t in range(T)], ["0.weight", "2.weight"])
    inputs = [torch.randn(4, *s, generator=torch.Generator().manual_seed(2)) for s in shapes]
    ours, theirs = MTAL(own, 0.1), MTAL(made, 0.1)
    for a, b in zip(ours(inputs), theirs(inputs), strict=True):
        torch.testing.assert_close(a, b)
    sum(out.square().sum() for out in ours(inputs)).backward()
    assert all(network[0].weight.grad.abs().sum() > 0 for network in own.networks)
    torch.testing.assert_close(ours.relation().matrix, theirs.relation().matrix)
    for a, b in zip(ours.freeze()(inputs), ours(inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_on_the_meta_device():
    with torch.device("meta"):
        networks = own_networks()
        method = MRN(attach(networks, ["0.weight", "3.weight"]), update_every=1)
        method.penalty().backward()
        method.update()
    assert networks[0][0].weight.grad.shape == (5, D)


def test_a_trunk_and_heads_of_your_own():
    """Methods with one trunk take plain modules as they are."""
    trunk = nn.Sequential(nn.Linear(D, 4), nn.Tanh())
    method = SharedTrunk(trunk, nn.ModuleList(nn.Linear(4, k) for k in (2, 3, 5)))
    assert [out.shape[1] for out in method([t.inputs for t in tasks()])] == [2, 3, 5]
    heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(T))
    saliency = SRDML(nn.Sequential(nn.Linear(D, 4), nn.Tanh()), heads, weight=0.1)
    shared = torch.randn(8, D, generator=torch.Generator().manual_seed(0))
    saliency([shared] * T)
    saliency.penalty().backward()
    assert saliency.relation().matrix.shape == (T, T)


class Tied(nn.Module):
    """Two layers, one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight


def test_a_tied_parameter_has_two_names():
    for name in ("a.weight", "b.weight"):
        penalty = TNRDMTL(attach([Tied(), Tied()], [name]), kind="laf", gamma=0.1).penalty()
        assert penalty.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_priors_of_every_mode_in_half_precision(dtype):
    """Updates factorise in single precision: LAPACK knows no halves."""
    networks = own_networks()
    method = MRN(attach([n.to(dtype) for n in networks], ["0.weight"]), weight=0.01)
    for _ in range(2):
        method.update()
        method.penalty().backward()
    assert networks[0][0].weight.grad.isfinite().all() and method.relation().matrix.isfinite().all()


BROKEN = [
    ([], ["0.weight"], "at least one"),
    ([nn.Conv1d(1, 2, 3), nn.Conv1d(1, 2, 3)], ["weight"], "matrices"),
    (own_networks(), [], "sequence of names"),
    (own_networks(), "0.weight", "sequence of names"),
    (own_networks(), ["7.weight"], "names among"),
    (own_networks(), ["0.weight", "0.weight"], "twice"),
    (own_networks(), ["0.bias"], "matrices"),
    ([own_networks()[0]] * 2, ["0.weight"], "same module twice"),
    (nn.ModuleDict({"a": nn.Linear(2, 2)}), ["weight"], "sequence of nn.Module, got str"),
    ([nn.LazyLinear(3), nn.LazyLinear(3)], ["weight"], "network 0, which has none before"),
    ([Tied(), Tied()], ["a.weight", "b.weight"], "got 'b.weight', tied to 'a.weight'"),
]


@pytest.mark.parametrize(("networks", "names", "message"), BROKEN)
def test_what_cannot_be_attached_is_refused(networks, names, message):
    with pytest.raises(ValueError, match=message):
        attach(networks, names)


def test_a_parameter_that_the_networks_share_is_refused():
    first, *others = own_networks()
    for network in others:
        network[0].weight = first[0].weight
    with pytest.raises(ValueError, match="a shared one"):
        attach([first, *others], ["0.weight"])


@pytest.mark.parametrize(
    ("method", "message"), [(CrossStitch, "TaskConvnets"), (DMTLTF, "factors")]
)
def test_methods_that_need_networks_of_this_package_say_so(method, message):
    with pytest.raises(ValueError, match=message):
        method(attach(own_networks(), ["0.weight"]))


def test_two_processes_learn_what_one_learns(tmp_path):
    """DistributedDataParallel: half of the samples each, gradients averaged, one prior."""
    from distributed_worker import train

    names = [name for name in METHODS if name != "mrn-released"]  # which fixes parameters
    tests = Path(__file__).parent
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tests / "distributed_worker.py")]
    files = [str(tmp_path / "store"), str(tmp_path / "state"), *names]
    running = [
        subprocess.Popen([*command, str(rank), *files], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=170)
        assert process.returncode == 0, errors.decode()
    halves = [torch.load(tmp_path / f"state{rank}") for rank in range(2)]
    for name in names:
        alone = train(name, 0, 1)
        for half in halves:
            assert half[name].keys() == alone.keys()
            for key, value in alone.items():
                torch.testing.assert_close(half[name][key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("own_network", None),
        ("own_network_lightning", "pytorch_lightning"),
        ("own_network_accelerate", "accelerate"),
    ],
)
def test_the_examples_run(name, needs, monkeypatch):
    if needs:
        pytest.importorskip(needs, reason=f"{needs} is not installed: an example, no dependency")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    found = importlib.import_module(name).main()
    if name == "own_network":
        method, loss = found
        assert loss < 2.5  # of four tasks, where a guess has 4 ln 2
    else:
        method = found
    matrix = method.relation().matrix
    assert matrix.shape == (4, 4) and matrix.isfinite().all()


def test_networks_on_unlike_devices_are_named():
    networks = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2, device="meta")]
    with pytest.raises(ValueError, match=r"expected weights on one device, got \['cpu', 'meta'\]"):
        TNRDMTL(attach(networks, ["weight"]), kind="laf", gamma=0.1)
