"""MRN and its relatives: dense references, what each switch promises, degenerate weights."""

import copy
import math
from functools import partial

import pytest
import torch
from device_checks import check_forward_on_fake_cuda, check_step_on_meta
from gradient_checks import check_gradient

from mtlbook.backbones import convnet, dense_network, image_network, mlp
from mtlbook.choices import dense_covariance
from mtlbook.methods import DMTLTF, DRN, MRN, STL, FixedRelation
from mtlbook.methods.mrn import RELEASED, Switches, proximal_step
from mtlbook.priors import Cholesky, Inverted, LowRankPlusDiagonal, sqrt_relation
from mtlbook.relations import Relation, cosine_relation
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate, fit

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def network(features=5, hidden=4, classes=3, tasks=3, seed=0, std=0.3, **options):
    return mlp(
        features,
        [classes] * tasks,
        seed=seed,
        hidden=(hidden,),
        activation=torch.nn.ReLU,
        names=("fc7", "fc8"),
        std=std,
        **options,
    )


def wide():
    """2.5 times the inputs that outputs and tasks have together: low-rank feature covariances."""
    return network(features=30, hidden=4, tasks=3)


def convolutional():
    return convnet((1, 9, 9), [3, 3, 3], seed=0, channels=(2, 3, 4), hidden=6)


METHODS = {
    "MRN": lambda n: MRN(n(), update_every=2),
    "MRN_8": lambda n: MRN(n(), (n().head_name,), update_every=2),
    "MRN_t": lambda n: MRN(n(), learn=("task",), update_every=2),
    "MRN simultaneous": lambda n: MRN(n(), order="simultaneous", update_every=2),
    "MRN literal": lambda n: MRN(n(), relative=False, scale="none", eps=1e-5, update_every=2),
    "MRN proximal": lambda n: MRN(n(), proximal=0.5, weight=0.01, update_every=2),
    "MRN bounded": lambda n: MRN(n(), curvature=0.002, update_every=2),
    "MRN released": lambda n: MRN(n(), as_released=True, weight=0.01, update_every=2),
    "MRN released, all": lambda n: MRN(
        n(), as_released=True, learn=("task", "class", "feature"), weight=1e-4, update_every=2
    ),
    "fixed relation": lambda n: FixedRelation(n(), rho=0.5),
    "fixed negative relation": lambda n: FixedRelation(n(), rho=-0.4),
    **{
        f"DRN {f} {form}": partial(
            lambda n, f, form: DRN(n(), feature_covariance=f, form=form, update_every=2),
            f=f,
            form=form,
        )
        for f in ("identity", "diagonal", "full")
        for form in ("normal", "trace-one")
    },
    "DMTL-TF": lambda n: DMTLTF(n(), tolerance=0.3),
}
PENALISED = [name for name in METHODS if name not in ("MRN proximal", "DMTL-TF")]


def tasks_for(features=5, tasks=3, samples=12, dtype=torch.float32):
    return TaskSet(
        "made up",
        [
            Task(
                str(t),
                torch.randn(samples, features, dtype=dtype),
                torch.arange(samples) % 3,
                classes=3,
            )
            for t in range(tasks)
        ],
    )


matrix = partial(torch.tensor, dtype=torch.float64)


def spd(size, seed):
    a = torch.randn(
        size, size + 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return a @ a.mT / size


def with_covariances(method, seed=0):
    """The method, its learned covariances replaced by random ones."""
    for name in method.layers:
        for i, which in enumerate(method.switches.learn):
            size = method.tensor(name).shape[method.mode(name, which)]
            method.set_covariance(name, which, spd(size, seed + i))
    return method


def kronecker(method, name):
    """The layer's whole covariance, dense, for ``tensor(name)`` read row by row."""
    result = torch.ones(1, 1, dtype=torch.float64)
    for size, c in zip(method.tensor(name).shape, method.covariances(name), strict=True):
        result = torch.kron(result, torch.eye(size).double() if c is None else c.dense())
    return result


# One protocol


@pytest.mark.parametrize("make", [network, wide], ids=["small", "wide"])
@pytest.mark.parametrize("name", METHODS)
class TestProtocol:
    def test_trains_and_says_what_relates(self, name, make):
        method = METHODS[name](make)
        tasks = tasks_for(features=30 if make is wide else 5)
        history = fit(method, tasks, steps=6, batch_size=4, optimizer=SGD, device="cpu")
        assert history.loss.isfinite().all() and history.penalty.isfinite().all()
        assert all(b.isfinite().all() for b in method.buffers())
        relation = method.relation()
        assert isinstance(relation, Relation) and "-1 to 1" in relation.meaning
        assert relation.matrix.shape == (3, 3) and not relation.matrix.requires_grad
        torch.testing.assert_close(relation.matrix.diagonal(), torch.ones(3))
        torch.testing.assert_close(relation.matrix, relation.matrix.mT)
        assert float(relation.matrix.abs().max()) <= 1 + 1e-6
        assert len(evaluate(method, tasks).per_task) == 3

    @pytest.mark.parametrize("updates", [0, 1, 3])
    def test_penalty_has_the_gradient_of_its_value(self, name, make, updates):
        method = METHODS[name](make).double()
        for _ in range(updates):
            method.update()
        parameters = [p for p in method.parameters() if p.requires_grad]
        penalty = method.penalty()
        if name not in PENALISED:
            assert float(penalty) == 0
            return
        # a quadratic: the central difference is exact
        check_gradient(method.penalty, parameters, size=1e-4, rel=1e-6, abs=0)

    def test_state_can_be_saved(self, name, make):
        method, copy = METHODS[name](make), METHODS[name](make)
        method.update()
        copy.load_state_dict(method.state_dict())
        torch.testing.assert_close(copy.penalty(), method.penalty())
        torch.testing.assert_close(copy.relation().matrix, method.relation().matrix)

    def test_a_whole_step_never_waits_for_the_device(self, name, make):
        tasks = tasks_for(features=30 if make is wide else 5)
        check_step_on_meta(METHODS[name](make), tasks)

    def test_stays_on_cuda(self, name, make):
        tasks = tasks_for(features=30 if make is wide else 5)
        check_forward_on_fake_cuda(METHODS[name](make), tasks)


@pytest.mark.parametrize("name", METHODS)
def test_convolutions_have_a_prior_too(name):
    method = METHODS[name](convolutional)
    method.update()
    loss = method.penalty() + sum(out.sum() for out in method([torch.randn(2, 1, 9, 9)] * 3))
    loss.backward()
    learning = [p for p in method.parameters() if p.requires_grad]
    assert learning and all(p.grad is not None and p.grad.isfinite().all() for p in learning)


# Degenerate weights: never a NaN


@pytest.mark.parametrize("kind", ["identical", "zero", "one is zero", "rank one", "tiny", "huge"])
@pytest.mark.parametrize("name", METHODS)
def test_no_nan_at_degenerate_weights(name, kind):
    net = wide()  # float32, the harder one
    with torch.no_grad():
        for layer in net.task_layers.values():
            w = layer.weight
            if kind == "identical":
                w.copy_(w[:1].clone().expand_as(w))
            elif kind == "zero":
                w.zero_()
            elif kind == "one is zero":
                w[1] = 0
            elif kind == "rank one":
                w.copy_(torch.ones_like(w))
            else:
                w.mul_(1e-12 if kind == "tiny" else 1e6)
    method = METHODS[name](lambda: net)
    for _ in range(3):
        method.update()
        penalty = method.penalty() + 0 * sum(p.sum() for p in method.parameters())
        gradients = torch.autograd.grad(
            penalty, [p for p in method.parameters() if p.requires_grad]
        )
        assert penalty.isfinite() and all(g.isfinite().all() for g in gradients)
        assert method.relation().matrix.isfinite().all()
        assert all(x.isfinite().all() for x in method.state_dict().values())


def updates_are_finite(method):
    method.update()
    (method.penalty() + 0 * sum(p.sum() for p in method.parameters())).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    return bool(method.relation().matrix.isfinite().all())


@pytest.mark.parametrize("name", METHODS)
def test_one_class(name):
    assert updates_are_finite(METHODS[name](lambda: network(classes=1)))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    "make", [MRN, DRN, DMTLTF, FixedRelation, partial(DRN, form="trace-one")], ids=str
)
def test_one_task(make, classes):
    """It has no layer to share unless layers are named."""
    assert updates_are_finite(make(network(classes=classes, tasks=1), ("fc7", "fc8")))


# The prior, against its dense form


@pytest.mark.parametrize("learn", [("task",), ("class", "task"), ("feature", "class", "task")])
def test_penalty_is_the_negative_log_density(learn):
    """Eq. 9 with the sign of eq. 2: up to a constant, minus the log of a dense normal density."""
    method = with_covariances(MRN(network().double(), learn=learn, weight=0.7))
    values = []
    for scale in (1.0, 2.0):
        for name in method.layers:
            for which in learn:
                scaled = scale * method.covariance(name, which).dense()
                method.set_covariance(name, which, scaled)
        dense = 0.0
        for name in method.layers:
            covariance = kronecker(method, name)
            flat = method.tensor(name).detach().flatten()
            normal = torch.distributions.MultivariateNormal(torch.zeros_like(flat), covariance)
            constant = 0.5 * len(flat) * math.log(2 * math.pi)
            dense = dense - 0.7 * (normal.log_prob(flat) + constant)
        values.append(float(method.penalty().detach()))
        assert values[-1] == pytest.approx(float(dense), rel=1e-10)
    assert values[0] != pytest.approx(values[1])


def test_gradient_is_equation_10():
    method = with_covariances(MRN(network().double(), weight=1.0))
    method.penalty().backward()
    for name in method.layers:
        w = method.tensor(name)
        expected = torch.linalg.solve(kronecker(method, name), w.detach().flatten())
        torch.testing.assert_close(w.grad, expected.view_as(w), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [network, wide], ids=["small", "wide"])
def test_identity_covariances_are_weight_decay(make):
    prior = MRN(make(), weight=0.3)
    decay = STL(make(), weight_decay=0.3, layers=("fc7", "fc8"))
    torch.testing.assert_close(prior.penalty(), decay.penalty())
    tasks = tasks_for(features=30 if make is wide else 5)
    for method in (prior, decay):
        fit(method, tasks, steps=5, optimizer=SGD, device="cpu")
    for a, b in zip(prior.network.parameters(), decay.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_prior_of_weight_zero_is_single_task_learning():
    tasks = tasks_for()
    alone, none = STL(network()), MRN(network(), weight=0.0, update_every=2)
    for method in (alone, none):
        fit(method, tasks, steps=7, batch_size=4, optimizer=SGD, device="cpu")
    for a, b in zip(alone.network.parameters(), none.network.parameters(), strict=True):
        assert torch.equal(a, b)


# Updates, eq. 11 and 12


def reference():
    """The tensor and covariances of the notes' reference values, in MRN's own layout.

    W[i, j, t] = sin(1 + i + 2 j + 5 t), i = 0..2 outputs, j = 0..1 inputs, t = 0..1 tasks.
    """
    i, j, t = (torch.arange(n).double() for n in (3, 2, 2))
    w = torch.sin(1 + i[:, None, None] + 2 * j[:, None] + 5 * t)
    method = MRN(
        mlp(2, [3, 3], seed=0, hidden=()).double(),
        weight=1.0,
        relative=False,
        scale="none",
        eps=1e-5,
        order="simultaneous",
        log_determinant=False,
    )
    with torch.no_grad():
        method.network.head.stack().copy_(w)
    method.set_covariance("head", "class", 0.7 * torch.eye(3).double() + 0.3)
    method.set_covariance("head", "feature", matrix([[1, 0.2], [0.2, 2]]))
    method.set_covariance("head", "task", matrix([[1, -0.4], [-0.4, 1.5]]))
    return method


def test_reference_value_of_the_quadratic_form():
    method = reference()
    penalty = method.penalty()
    assert float(penalty.detach()) == pytest.approx(4.758573699 / 2, abs=1e-9)
    penalty.backward()
    expected = [
        [0.453885525, 0.480183031],
        [1.143671070, -0.429829457],
        [0.109388820, -0.691880181],
    ]
    gradient = method.network.head.weight.grad[0].mT  # slice of the first task, (outputs, inputs)
    torch.testing.assert_close(gradient, matrix(expected), atol=1e-8, rtol=0)


def test_reference_value_of_the_log_determinants():
    method = reference()
    assert float(method.head_log_determinant) == pytest.approx(4.820299489, abs=1e-8)


def test_reference_values_of_the_updates():
    method = reference()
    method.update()
    expected = {
        "class": [
            [0.27957566, 0.19609942, -0.06765973],
            [0.19609942, 0.51432645, 0.35967332],
            [-0.06765973, 0.35967332, 0.45633437],
        ],
        "feature": [[0.44019273, -0.19280978], [-0.19280978, 0.59698803]],
        "task": [[0.34903698, 0.08353488], [0.08353488, 0.47238976]],
    }
    for which, values in expected.items():
        found = method.covariance("head", which).dense()
        torch.testing.assert_close(found, matrix(values), atol=2e-8, rtol=0)


def test_equation_12_entry_by_entry():
    method = reference()
    old = {n: method.covariance("head", n).dense() for n in ("feature", "class")}
    w = method.network.head.weight.detach()  # (T, in, out)
    method.update()
    found = method.covariance("head", "task").dense()
    for i in range(2):
        for j in range(2):
            moved = torch.linalg.solve(old["feature"], w[j])
            moved = torch.linalg.solve(old["class"], moved.mT).mT
            expected = (w[i] * moved).sum() / 6 + 1e-5 * (i == j)
            assert float(found[i, j]) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("which", ["task", "class", "feature"])
def test_an_exact_update_makes_the_quadratic_form_the_number_of_weights(which):
    method = with_covariances(
        MRN(network().double(), scale="none", relative=False, eps=0.0, weight=2.0, half=True)
    )
    method.switches = Switches(**{**vars(method.switches), "log_determinant": False})
    for name in method.layers:
        w, covariances = method.tensor(name).detach(), method.covariances(name)
        new = method._updated(w, covariances, which, method.mode(name, which))
        if which == "task" or new.basis.shape[0] == new.basis.shape[1]:
            method.set_covariance(name, which, new)
    total = sum(method.tensor(name).numel() for name in method.layers)
    assert float(method.penalty().detach()) == pytest.approx(total, rel=1e-9)


def test_updates_lower_the_objective():
    """Each is its minimum over one covariance, and the sign of the log-determinant is the cause."""
    method = with_covariances(
        MRN(network().double(), scale="none", relative=False, eps=0.0, update_every=1)
    )
    values = []
    for _ in range(4):
        values.append(float(method.penalty().detach()))
        method.update()
    assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_simultaneous_updates_lose_the_scale_and_sequential_ones_keep_it():
    sizes = {}
    for order in ("sequential", "simultaneous"):
        method = MRN(network().double(), order=order, scale="none", relative=False, eps=1e-9)
        found = []
        for _ in range(4):
            method.update()
            w, c = method.tensor("fc8"), method.covariances("fc8")
            q = float((w * mode_products(w, c)).sum().detach()) / w.numel()
            found.append(q)
        sizes[order] = found
    assert max(abs(q - 1) for q in sizes["sequential"]) < 0.01
    assert max(sizes["simultaneous"]) > 1e3 and min(sizes["simultaneous"]) < 1e-3


def mode_products(w, covariances):
    for mode, c in enumerate(covariances):
        w = torch.tensordot(c.solve(torch.eye(w.shape[mode]).to(w)), w, ([1], [mode]))
        w = w.movedim(0, mode)
    return w


def test_traces_are_those_of_identities():
    method = MRN(wide(), update_every=1)
    for _ in range(3):
        method.update()
    for name in method.layers:
        for which in method.switches.learn:
            covariance = method.covariance(name, which)
            assert float(covariance.trace()) == pytest.approx(covariance.shape[0], rel=1e-5)


@pytest.mark.parametrize("make", [network, convolutional])
def test_classes_are_outputs_and_features_are_inputs(make):
    """Dense weights lie inputs first, those of convolutions outputs first."""
    method = MRN(make())
    for name, layer in method.regularised.items():
        outputs, inputs = layer.stack().shape[:2]
        assert outputs != inputs
        assert tuple(method.covariance(name, "class").shape) == (outputs, outputs)
        assert tuple(method.covariance(name, "feature").shape) == (inputs, inputs)


def test_low_rank_features_are_exact():
    """wide(): 30 inputs, 4 x 3 columns. As the same update by hand, all dense."""
    method = MRN(wide().double(), learn=("feature",), eps=0.3)
    method.update()
    found = method.covariance("fc7", "feature")
    assert found.basis.shape == (30, 12)
    w = method.tensor("fc7").detach()
    dense = torch.einsum("tio,tjo->ij", w, w)
    dense = dense * 30 / dense.trace()
    torch.testing.assert_close(found.dense(), 0.7 * dense + 0.3 * torch.eye(30).double())
    assert method.covariances("fc7")[0] is method.covariances("fc7")[2] is None


@pytest.mark.parametrize("make", [MRN, partial(DRN, feature_covariance="diagonal")])
def test_updates_come_as_often_as_said_and_end(make):
    method = make(network(), update_every=3, max_updates=2)
    fit(method, tasks_for(), steps=5, optimizer=SGD, device="cpu")
    assert method.updates == 1
    fit(method, tasks_for(), steps=12, optimizer=SGD, device="cpu")
    assert method.updates == 2
    before = {n: b.clone() for n, b in method.named_buffers()}
    method.update()
    assert all(torch.equal(before[n], b) for n, b in method.named_buffers())


def test_planted_relation_is_found():
    """Two tasks share their weights, the third has the opposite ones."""
    method = MRN(network(features=30), learn=("task",), eps=0.0)
    with torch.no_grad():
        for layer in method.network.task_layers.values():
            layer.weight[1] = layer.weight[0] + 0.05 * torch.randn_like(layer.weight[0])
            layer.weight[2] = -layer.weight[0] + 0.05 * torch.randn_like(layer.weight[0])
    method.update()
    for layer in ("fc7", None):
        matrix = method.relation(layer).matrix
        assert float(matrix[0, 1]) > 0.9 and float(matrix[0, 2]) < -0.8
    first, last = (method.relation(layer).matrix for layer in ("fc7", "fc8"))
    assert torch.equal(method.relation().matrix, last) and not torch.equal(first, last)


# The released code's rules


def released(eigenvalues, **switches):
    """A head whose unnormalised task matrix has these eigenvalues, after one released update."""
    tasks = len(eigenvalues)
    net = mlp(tasks, [1] * tasks, seed=0, hidden=()).double()
    with torch.no_grad():
        net.head.weight.zero_()
        for t, value in enumerate(eigenvalues):
            net.head.weight[t, t, 0] = value**0.5
    method = MRN(net, as_released=True, **switches)
    method.update()
    return method, method.covariance("head", "task").solve(torch.eye(tasks).double())


def test_released_does_not_divide_and_does_not_invert_below_the_threshold():
    _, precision = released([4.0, 0.5, 0.05])
    expected = matrix([1 / 4.00001, 1 / 0.50001, 0.05001])  # the last as it is
    torch.testing.assert_close(precision, torch.diag(expected), rtol=1e-9, atol=1e-12)


def test_released_division_and_threshold_belong_together():
    """With the paper's factor all eigenvalues of usual heads are below 0.1."""
    _, precision = released([0.2, 0.1, 0.05], divide=True)
    expected = matrix([0.2, 0.1, 0.05]) / 3 + 1e-5
    torch.testing.assert_close(precision, torch.diag(expected))


@pytest.mark.parametrize("which", ["task", "class", "feature"])
def test_without_the_division_a_covariance_is_a_sum(which):
    """Of as many columns as the unfolding of its own mode has."""
    found = []
    for divide in (True, False):
        options = {"scale": "none", "relative": False, "eps": 0.0, "divide": divide}
        method = MRN(network().double(), ("fc7",), learn=(which,), **options)
        method.update()
        found.append(method.covariance("fc7", which).dense())
    mean, total = found
    torch.testing.assert_close(total, mean * (3 * 5 * 4 // len(mean)))  # tasks, inputs, outputs


def test_released_cap_on_the_trace():
    _, precision = released([1.0, 1.0], threshold=None, eps=0.0, trace_cap=0.5)
    torch.testing.assert_close(precision, 0.25 * torch.eye(2).double())
    _, precision = released([2e-4, 1.0], threshold=1e-5, eps=0.0)
    raw = matrix([5000.0, 1.0])
    torch.testing.assert_close(precision, torch.diag(raw * 3000 / 5001))


def test_released_penalty_is_the_quadratic_form_alone():
    method, precision = released([4.0, 0.5, 0.05])
    w = method.network.head.weight.detach().flatten(1)
    expected = torch.trace(w.mT @ precision @ w)
    torch.testing.assert_close(method.penalty().detach(), expected)
    # after an update that inverts everything it is the number of tasks
    method, _ = released([4.0, 0.5, 0.2])
    assert float(method.penalty().detach()) == pytest.approx(3, rel=1e-3)


def test_released_feature_precisions_add_up():
    net = mlp(2, [1, 1], seed=0, hidden=()).double()
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[[1.0], [0.0]], [[0.0], [2.0]]]))
    method = MRN(net, as_released=True, learn=("feature",))
    method.update()
    precision = method.covariance("head", "feature").solve(torch.eye(2).double())
    expected = 1 + 0.0003 * matrix([1 / 1.00001, 1 / 4.00001])
    torch.testing.assert_close(precision, torch.diag(expected))


def test_released_freezes_the_trunk_and_regularises_the_head():
    method = MRN(network(), as_released=True)
    assert method.layers == ("fc8",) and method.switches == RELEASED
    before = method.network.task_layers["fc7"].weight.clone()
    fit(method, tasks_for(), steps=3, optimizer=SGD, device="cpu")
    assert torch.equal(before, method.network.task_layers["fc7"].weight)


@pytest.mark.parametrize("switch", [n for n in vars(RELEASED) if n not in ("feature_step",)])
def test_each_deviation_is_a_switch(switch):
    """Setting them one by one leads from ours to the released rules."""
    method = MRN(network(), **{switch: getattr(RELEASED, switch)})
    assert getattr(method.switches, switch) == getattr(RELEASED, switch)
    method.update()
    assert method.penalty().isfinite()


# The proximal step


@pytest.mark.parametrize("make", [network, wide], ids=["small", "wide"])
def test_proximal_step_solves_its_equation(make):
    method = MRN(make().double())
    for _ in range(2):
        method.update()
    for name in method.layers:
        w, covariances = method.tensor(name).detach(), method.covariances(name)
        found = proximal_step(w, covariances, 0.7)
        torch.testing.assert_close(found + 0.7 * mode_products(found, covariances), w)


def test_proximal_and_gradient_agree_for_small_steps():
    lr, steps = 1e-3, 20
    weights = []
    for options in ({}, {"proximal": lr}):
        method = with_covariances(
            MRN(network().double(), weight=0.5, update_every=1, max_updates=0, **options)
        )
        tasks = tasks_for().map_inputs(torch.Tensor.double)
        torch.manual_seed(0)
        optimizer = partial(torch.optim.SGD, lr=lr)
        fit(method, tasks, steps=steps, optimizer=optimizer, device="cpu")
        weights.append(method.tensor("fc7").detach().clone())
    start = network().double().task_layers["fc7"].weight.detach()
    assert float((weights[0] - start).norm()) > 10 * float((weights[0] - weights[1]).norm())


@pytest.mark.parametrize(("half", "every"), [(True, 1), (True, 5), (False, 2)])
def test_a_proximal_update_is_as_strong_as_the_steps_that_it_stands_for(half, every):
    """With identities the penalty is weight decay, of which the half may be left out."""
    options = {"weight": 0.5, "update_every": every, "half": half, "max_updates": 0}
    method = MRN(network().double(), proximal=0.1, **options)
    before = [method.tensor(name).detach().clone() for name in method.layers]
    method.update()
    factor = 1 + 0.1 * 0.5 * every * (1 if half else 2)
    for name, old in zip(method.layers, before, strict=True):
        torch.testing.assert_close(method.tensor(name).detach() * factor, old)


# Too long a step


@pytest.mark.parametrize("name", [n for n in METHODS if n.startswith(("MRN", "DRN", "fixed"))])
@pytest.mark.parametrize("make", [network, wide], ids=["small", "wide"])
def test_stiffness_is_the_largest_eigenvalue_of_the_hessian(name, make):
    """Of all weights of a layer, seen through the penalty alone."""
    method = METHODS[name](make).double()
    if "proximal" in name:
        pytest.skip("its prior is no penalty")
    for _ in range(2):
        method.update()
    for layer in method.layers:
        weight = method.network.task_layers[layer].weight
        columns = []
        for unit in torch.eye(weight.numel()).double():  # of a quadratic: the slope is linear
            weight.data = unit.reshape(weight.shape)
            columns += torch.autograd.grad(method.penalty(), weight)
        largest = torch.linalg.eigvalsh(torch.stack(columns).flatten(1))[-1]
        bound = method.switches.curvature
        stiffness = method.stiffness(layer)
        found = stiffness if bound is None else stiffness.clamp(max=bound)
        torch.testing.assert_close(found, largest, rtol=1e-6, atol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("part", [0.98, 1.02])
@pytest.mark.parametrize("bounded", [False, True])
def test_gradient_steps_on_the_prior_grow_above_the_limit_alone(momentum, part, bounded):
    method = with_covariances(MRN(network().double(), weight=0.3, max_updates=0))
    lr = part * 2 * (1 + momentum) / float(max(method.stiffness(n) for n in method.layers))
    if bounded:
        limit = 0.95 * 2 * (1 + momentum) / lr
        method = MRN(network().double(), weight=0.3, max_updates=0, curvature=limit)
        with_covariances(method)
    weights = [method.tensor(name) for name in method.layers]
    optimizer = torch.optim.SGD(weights, lr=lr, momentum=momentum)
    norms = []
    for _ in range(500):
        optimizer.zero_grad()
        method.penalty().backward()
        optimizer.step()
        norms.append(sum(float(w.detach().norm()) for w in weights))
    grows = part > 1 and not bounded
    assert norms[-1] > 1e3 * norms[0] if grows else norms[-1] < 0.5 * norms[0]


def test_a_bound_that_is_not_reached_changes_nothing():
    a, b = MRN(network(), update_every=2), MRN(network(), update_every=2, curvature=1e6)
    tasks = tasks_for()
    for method in (a, b):
        fit(method, tasks, steps=5, optimizer=SGD, device="cpu")
    assert torch.equal(a.penalty(), b.penalty())
    with pytest.raises(ValueError, match=r"curvature: expected a number > 0, got 0"):
        MRN(network(), curvature=0.0)


# DRN


def test_drn_with_the_identity_is_mrn_t():
    a, b = DRN(network(), update_every=2), MRN(network(), learn=("task",), update_every=2)
    tasks = tasks_for()
    for method in (a, b):
        fit(method, tasks, steps=5, optimizer=SGD, device="cpu")
    torch.testing.assert_close(a.penalty(), b.penalty())
    torch.testing.assert_close(a.relation().matrix, b.relation().matrix)
    for x, y in zip(a.network.parameters(), b.network.parameters(), strict=True):
        torch.testing.assert_close(x, y)


def test_drn_full_penalty_is_a_matrix_normal_density():
    method = DRN(network().double(), feature_covariance="full", weight=0.7)
    for _ in range(2):
        method.update()
    dense = 0.0
    for name in method.layers:
        flat = method.tensor(name).detach().flatten()
        normal = torch.distributions.MultivariateNormal(
            torch.zeros_like(flat), kronecker(method, name)
        )
        constant = 0.5 * len(flat) * math.log(2 * math.pi)
        dense = dense - 0.7 * (normal.log_prob(flat) + constant)
    assert float(method.penalty().detach()) == pytest.approx(float(dense), rel=1e-8)


def test_drn_diagonal_penalty_is_a_matrix_normal_density():
    method = DRN(network().double(), feature_covariance="diagonal", weight=1.0)
    for _ in range(2):
        method.update()
    w = torch.nn.utils.parameters_to_vector([method.network.task_layers["fc8"].weight]).detach()
    variances, omega = method.fc8_variances, method.covariance("fc8", "task").dense()
    covariance = torch.kron(omega, torch.diag(variances))
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(w), covariance)
    expected = -normal.log_prob(w) - 0.5 * len(w) * math.log(2 * math.pi)
    only = DRN(method.network, ("fc8",), feature_covariance="diagonal", weight=1.0)
    only.load_state_dict(
        {k: v for k, v in method.state_dict().items() if not k.startswith("fc7")}, strict=False
    )
    assert float(only.penalty().detach()) == pytest.approx(float(expected), rel=1e-8)
    assert float(variances.mean()) == pytest.approx(1) and float(variances.std()) > 0.01


def test_drn_shrinks_its_variances_absolutely_where_it_is_told_to():
    found = []
    for eps in (0.0, 0.3):
        options = {"eps": {"task": 0.1, "feature": eps}, "relative": False, "scale": "none"}
        method = DRN(network(), feature_covariance="diagonal", **options)
        method.update()
        found.append(method.fc7_variances)
    torch.testing.assert_close(found[1], found[0] + 0.3)


def test_drn_trace_one_form_is_the_square_root_and_the_squared_trace_norm():
    method = DRN(network().double(), form="trace-one", eps=0.0, weight=2.0)
    method.update()
    expected = 0.0
    for name in method.layers:
        w = method.tensor(name).detach()  # (T, d)
        torch.testing.assert_close(method.covariance(name, "task").dense(), sqrt_relation(w.mT))
        expected = expected + torch.linalg.svdvals(w).sum() ** 2
    torch.testing.assert_close(method.penalty().detach(), expected)


# Controls


def test_fixed_relation_zero_decouples():
    tasks = tasks_for()
    fixed = FixedRelation(network(), weight=0.1, rho=0.0)
    decay = STL(network(), weight_decay=0.1, layers=("fc7", "fc8"))
    for method in (fixed, decay):
        fit(method, tasks, steps=5, optimizer=SGD, device="cpu")
    for a, b in zip(fixed.network.parameters(), decay.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_fixed_relation_pulls_tasks_together_and_is_never_learned():
    spreads = []
    for rho in (0.0, 0.5, 0.99):
        method = FixedRelation(network(), ("fc8",), weight=0.1, rho=rho)
        fit(method, tasks_for(), steps=150, optimizer=SGD, device="cpu")
        w = method.tensor("fc8").detach()
        spreads.append(float((w - w.mean(0)).norm() / w.norm()))
        expected = (1 - rho) * torch.eye(3) + rho
        torch.testing.assert_close(method.relation().matrix, expected)
        torch.manual_seed(0)
    assert spreads[0] > 1.2 * spreads[1] > 1.2 * 1.2 * spreads[2]


# DMTL-TF


def test_dmtl_tf_learns_factors():
    net = network(features=6)
    full = sum(p.numel() for p in net.parameters())
    method = DMTLTF(net, ranks={"fc7": (2, 3, 2), "fc8": (3, 2, 1)})
    names = [name for name, _ in method.named_parameters()]
    assert not any(name.endswith("weight") for name in names)
    assert sum(p.numel() for p in method.parameters()) < full
    assert method.ranks() == {"fc7": (2, 3, 2), "fc8": (3, 2, 1)}
    assert method.task_factor("fc8").shape == (3, 1)
    before = [p.detach().clone() for p in method.parameters()]
    fit(method, tasks_for(features=6), steps=3, optimizer=SGD, device="cpu")
    assert all(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))
    for name, ranks in method.ranks().items():
        stack = method.network.task_layers[name].stack().detach()
        for mode, rank in enumerate(ranks):
            matrix = stack.movedim(mode, 0).flatten(1)
            assert torch.linalg.matrix_rank(matrix, rtol=1e-5) <= rank


def test_dmtl_tf_of_rank_one_in_the_tasks_gives_proportional_tasks():
    method = DMTLTF(network(), ranks={"fc7": (4, 5, 1), "fc8": (3, 4, 1)})
    for layer in method.network.task_layers.values():
        cosines = cosine_relation(layer.weight.detach().flatten(1)).matrix
        assert float(cosines.abs().min()) > 1 - 1e-5


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.5])
def test_dmtl_tf_keeps_the_start_within_its_tolerance(tolerance):
    before = {n: layer.weight.detach().clone() for n, layer in network().task_layers.items()}
    method = DMTLTF(network(), tolerance=tolerance)
    for name, layer in method.network.task_layers.items():
        error = float((layer.weight.detach() - before[name]).norm() / before[name].norm())
        assert error <= tolerance + 1e-5
    assert method.layers == ("fc7", "fc8")


def test_dmtl_tf_leaves_heads_of_unequal_width_alone():
    method = DMTLTF(mlp(5, [2, 3], seed=0, hidden=(4,)))
    assert method.layers == ("fc1",)


# AlexNet and VGG16


def test_alexnet_has_the_layers_of_figure_1():
    pytest.importorskip("torchvision")
    net = image_network("alexnet", [5, 5], seed=0)
    layers = net.task_layers
    assert {n: layer.tasks for n, layer in layers.items()} == {"fc6": 1, "fc7": 2, "fc8": 2}
    assert not any(p.requires_grad for p in net.trunk.conv.parameters())
    assert torch.equal(layers["fc7"].weight[0], layers["fc7"].weight[1])  # the backbone's, twice
    out = net.eval()([torch.randn(1, 3, 224, 224), torch.randn(2, 3, 224, 224)])
    assert [tuple(o.shape) for o in out] == [(1, 5), (2, 5)]
    assert MRN(net, ("fc8",), learn=("task", "feature")).layers == ("fc8",)


@pytest.mark.parametrize("shared", [(), ("fc6",), True])
def test_dense_layers_start_at_the_backbones_and_drop_half(shared):
    dense = [torch.nn.Linear(6, 5), torch.nn.Linear(5, 4)]
    net = dense_network(dense, [3, 3], seed=0, shared=shared)
    assert [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] == [0.5, 0.5]
    x = torch.randn(2, 7, 6)
    with torch.no_grad():
        expected = dense[1](dense[0](x).relu()).relu()
        torch.testing.assert_close(net.eval().features(list(x)).padded, expected)


def test_vgg16_has_copies_of_fc6_where_drn_has():
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        net = image_network("vgg16", [5, 5, 5], seed=0, shared=(), fix_convolutions=False)
    assert {n: layer.tasks for n, layer in net.task_layers.items()} == dict.fromkeys(
        ("fc6", "fc7", "fc8"), 3
    )
    assert all(p.requires_grad for p in net.trunk.conv.parameters())
    assert net.task_layers["fc6"].weight.shape == (3, 25088, 4096)


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MRN(network(), learn=("tasks",)), "learn: expected names among .* got .*tasks"),
        (lambda: MRN(network(), learn="task"), "learn: expected names among .* got task"),
        (lambda: MRN(network(), weight=-1), "weight: expected a number >= 0, got -1"),
        (lambda: MRN(network(), update_every=0), "update_every: expected at least 1, got 0"),
        (lambda: MRN(network(), eps=1.5), "eps: expected numbers >= 0, relative .* got 1.5"),
        (lambda: MRN(network(), eps={"row": 0.1}), r"eps: expected names .* got \['row'\]"),
        (lambda: MRN(network(), scale="last"), "scale: expected 'trace' or 'none', got 'last'"),
        (lambda: MRN(network(), order="any"), "order: expected 'sequential' .* got 'any'"),
        (lambda: MRN(network(), ("fc9",)), r"layers: expected names .* got \['fc9'\]"),
        (lambda: MRN(network(), ()), "layers: expected at least one layer with a prior, got none"),
        (
            lambda: MRN(mlp(5, [2, 3], seed=0)),
            r"layer: expected heads of one width to stack, got widths \[2, 3\]",
        ),
        (lambda: MRN(network()).relation("fc9"), "layer: expected one of .* got 'fc9'"),
        (
            lambda: MRN(network()).set_covariance("fc8", "task", torch.eye(2)),
            r"covariance: expected shape \(3, 3\) for task of fc8, got \(2, 2\)",
        ),
        (lambda: FixedRelation(network(), rho=1.0), "rho: expected .* with T = 3, got 1.0"),
        (lambda: FixedRelation(network(), rho=-0.5), "rho: expected .* with T = 3, got -0.5"),
        (lambda: DRN(network(), feature_covariance="low"), "feature_covariance: .* got 'low'"),
        (lambda: DRN(network(), form="convex"), "form: expected 'normal' .* got 'convex'"),
        (lambda: DRN(network(), learn=("task",)), r"switches: expected none .* got \['learn'\]"),
        (lambda: DMTLTF(network(), ()), "layers: expected at least one layer to factorise"),
        (lambda: DMTLTF(network(), tolerance=1.0), r"tolerance: expected a number in .* got 1.0"),
        (lambda: DMTLTF(network(), ranks=(4, 5)), r"ranks: expected one in 1..d .* got \(4, 5\)"),
        (lambda: DMTLTF(network(), ranks={"fc7": (1, 1, 1)}), r"ranks: expected layers .*fc8"),
        (lambda: image_network("resnet", [2], seed=0), "backbone: expected .* got 'resnet'"),
        (
            lambda: image_network("alexnet", [2], seed=0, shared=["fc8"]),
            r"shared: .* got \['fc8'\]",
        ),
    ],
)
def test_errors_name_argument_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", [network, wide], ids=["small", "wide"])
@pytest.mark.parametrize("name", METHODS)
def test_cuda_trains_like_the_cpu(name, make, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    tasks = tasks_for(features=30 if make is wide else 5)
    found = []
    for device in ("cpu", "cuda"):
        method = METHODS[name](make)
        history = fit(method, tasks, steps=5, optimizer=SGD, device=device)
        found.append((history.loss, history.penalty, method.relation().matrix.cpu()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_no_inverse_is_left_from_an_earlier_covariance():
    """A dense covariance has full rank and an inverse; the next update is of lower rank."""
    method, untouched = MRN(wide(), learn=("feature",)), MRN(wide(), learn=("feature",))
    method.set_covariance("fc7", "feature", spd(30, 0).float())
    for each in (method, untouched):
        each.update()
    torch.testing.assert_close(method.penalty(), untouched.penalty())


@pytest.mark.parametrize(
    ("basis", "values", "eps", "message"),
    [
        (torch.eye(3), [1.0, -1.0, 1.0], 0.0, "expected a positive semi-definite .* of -1"),
        (torch.eye(3)[:, :1], [2.0], -1.0, "expected a positive semi-definite .* of -1"),
        (torch.eye(3), [1.0, math.nan, 1.0], 0.0, "expected a positive semi-definite .* of nan"),
        (2 * torch.eye(3), [1.0, 1.0, 1.0], 0.0, "expected orthonormal columns"),
    ],
)
def test_a_factorised_matrix_that_is_no_covariance_is_refused(basis, values, eps, message):
    factors = LowRankPlusDiagonal(basis, torch.tensor(values), torch.tensor(eps))
    with pytest.raises(ValueError, match=message):
        MRN(network()).set_covariance("fc8", "task", factors)


def test_variances_that_are_not_numbers_are_not_hidden():
    method = DRN(network(), feature_covariance="diagonal")
    method.fc7_variances[0] = math.nan
    assert method.penalty().isnan() and method._log_determinant("fc7").isnan()


@pytest.mark.parametrize(("features", "form"), [(20, Cholesky), (30, LowRankPlusDiagonal)])
def test_both_forms_of_a_covariance_train_alike(features, form, monkeypatch):
    """Four outputs of three tasks have rank 12; above two fifths of d a matrix is kept."""
    tasks, found = tasks_for(features=features, dtype=torch.float64), []
    for choose in (dense_covariance, lambda d, rank: not dense_covariance(d, rank)):
        monkeypatch.setattr("mtlbook.methods.mrn.dense_covariance", choose)
        torch.manual_seed(0)
        method = MRN(network(features=features), weight=0.1, update_every=2).double()
        fit(method, tasks, steps=9, optimizer=SGD, device="cpu")
        found.append((method, method.penalty().detach()))
    (ours, value), (other, same) = found
    assert type(ours.covariance("fc7", "feature")) is form
    assert type(other.covariance("fc7", "feature")) is not form
    assert ours.updates == 4
    torch.testing.assert_close(value, same, rtol=1e-10, atol=0)
    for name in ours.layers:
        torch.testing.assert_close(ours.tensor(name), other.tensor(name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("hidden", "eps"), [(30, None), (8, 1e-5)], ids=["ours", "singular"])
def test_weights_in_single_precision_have_the_covariances_of_double(hidden, eps):
    """What bounds the condition is computed in single precision, what does not is in double."""
    method = MRN(network(features=60, hidden=hidden, tasks=4), eps=eps, learn=("feature", "class"))
    twin = copy.deepcopy(method).double()
    for each in (method, twin):
        each.update()
    for name, which in (("fc7", "feature"), ("fc7", "class"), ("fc8", "class")):
        ours, theirs = method.covariance(name, which), twin.covariance(name, which)
        assert isinstance(ours, Cholesky) and ours.dtype == torch.float32
        error = ours.precision - theirs.precision.float()
        assert float(error.norm()) < 1e-4 * float(theirs.precision.norm())


def test_a_covariance_is_loaded_in_the_form_in_which_it_was_saved():
    """One that was set is an eigendecomposition; those of updates need not be."""
    method, copy_ = MRN(network()), MRN(network())
    method.set_covariance("fc8", "task", spd(3, 0).float())
    copy_.load_state_dict(method.state_dict())
    torch.testing.assert_close(copy_.penalty(), method.penalty())
    assert isinstance(copy_.covariance("fc8", "task"), Inverted)
    assert isinstance(MRN(network()).covariance("fc8", "task"), Cholesky)


@pytest.mark.parametrize(("features", "dense"), [(20, True), (30, False), (60, False)])
def test_of_high_rank_the_inverse_is_kept(features, dense):
    """Four outputs of three tasks have rank 12; without shrinkage there is no Cholesky factor."""
    method = MRN(network(features=features, hidden=4, tasks=3), eps=1e-4, relative=False).double()
    method.update()
    kept = method.covariance("fc7", "feature")
    assert kept.values.shape == (12,) and isinstance(kept, Inverted) == dense
    plain = LowRankPlusDiagonal(kept.basis, kept.values, kept.eps)
    x = torch.randn(features, 5, dtype=torch.float64)
    torch.testing.assert_close(kept.solve(x), plain.solve(x))
    torch.testing.assert_close(kept.solve(kept.dense() @ x), x)
