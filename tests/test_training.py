"""Losses, batches, fit and evaluate against plain loops."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mtlbook import training
from mtlbook.backbones import TaskHeads, mlp
from mtlbook.layers import TaskLinear, TaskNetwork
from mtlbook.methods import (
    DRN,
    MRN,
    MTFL,
    STL,
    TNRDMTL,
    Lasso,
    Method,
    SharedTrunk,
)
from mtlbook.tasks import Task, TaskSet
from mtlbook.tensors import Ragged
from mtlbook.training import Batches, TaskLoss, evaluate, fit, pick_device, predict, sgd, step

LOSSES = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy_with_logits,
}
adam = partial(torch.optim.Adam, lr=0.02)


def task(loss, samples, outputs, features=4):
    inputs = torch.randn(samples, features)
    if loss == "cross_entropy":
        return Task(loss, inputs, torch.arange(samples) % outputs, classes=outputs)
    targets = torch.randn(samples, outputs)
    return Task(loss, inputs, (targets > 0).float() if loss == "bce" else targets, loss)


def taskset(loss="cross_entropy", samples=(9, 9, 9), outputs=(3, 3, 3), features=4):
    return TaskSet(
        "made up", [task(loss, *size, features) for size in zip(samples, outputs, strict=True)]
    )


class Separate(Method):
    """Tasks of different input shapes: a list in, a list out."""

    def __init__(self, tasks):
        super().__init__()
        self.tasks = range(len(tasks))
        self.models = torch.nn.ModuleList(
            torch.nn.Linear(task.inputs.shape[1], task.outputs) for task in tasks
        )

    def forward(self, inputs):
        return [model(x) for model, x in zip(self.models, inputs, strict=True)]


def losses_by_hand(method, tasks):
    outputs = [method([t.inputs for t in tasks])[i] for i in range(len(tasks))]
    return torch.stack(
        [LOSSES[t.loss](out, t.targets) for t, out in zip(tasks, outputs, strict=True)]
    )


# Losses


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("samples", [(5, 5, 5), (5, 1, 3)], ids=["equal", "ragged lengths"])
@pytest.mark.parametrize("outputs", [(3, 3, 3), (3, 1, 5)], ids=["equal", "ragged widths"])
def test_loss_equals_a_loop(loss, samples, outputs):
    tasks = taskset(loss, samples, outputs)
    method = STL(mlp(4, tasks.outputs, seed=0))
    inputs, targets = Batches(tasks, batch_size=None, steps=1, seed=0)[0]
    assert isinstance(inputs, Ragged) and isinstance(targets, Ragged)
    got, expected = TaskLoss(tasks)(method(inputs), targets), losses_by_hand(method, tasks)
    torch.testing.assert_close(got, expected)
    parameters = list(method.parameters())
    for a, b in zip(
        torch.autograd.grad(got.sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("batch_size", [None, 6])
@pytest.mark.parametrize(
    "kinds",
    [("mse", "bce"), ("mse", "cross_entropy"), ("cross_entropy", "bce"), ("mse", "mse")],
    ids="-".join,
)
@pytest.mark.parametrize("method_class", ["network", "list"])
def test_loss_of_mixed_tasks_equals_a_loop(kinds, batch_size, method_class):
    tasks = TaskSet("mixed", [task(kinds[0], 6, 1), task(kinds[1], 6, 3)])
    method = STL(mlp(4, tasks.outputs, seed=0)) if method_class == "network" else Separate(tasks)
    inputs, targets = Batches(tasks, batch_size=batch_size, steps=1, seed=0)[0]
    # a batch of all samples in another order has the same mean
    torch.testing.assert_close(
        TaskLoss(tasks)(method(inputs), targets), losses_by_hand(method, tasks)
    )


@pytest.mark.filterwarnings("error")
def test_tasks_of_different_input_shapes():
    tasks = TaskSet("mixed", [task("mse", 8, 1, features=3), task("mse", 6, 2, features=5)])
    method = Separate(tasks)
    inputs, targets = Batches(tasks, batch_size=None, steps=1, seed=0)[0]
    torch.testing.assert_close(
        TaskLoss(tasks)(method(inputs), targets), losses_by_hand(method, tasks)
    )
    before = losses_by_hand(method, tasks).sum()
    fit(method, tasks, steps=20, batch_size=4, optimizer=adam, device="cpu")
    assert losses_by_hand(method, tasks).sum() < before


def test_a_task_counts_the_same_whatever_its_size():
    tasks = taskset("mse", (2, 9, 4))
    twice = tasks.select([torch.arange(2).repeat(5), torch.arange(9), torch.arange(4)])
    method = STL(mlp(4, tasks.outputs, seed=0))
    losses = []
    for one in (tasks, twice):
        inputs, targets = Batches(one, batch_size=None, steps=1, seed=0)[0]
        losses.append(TaskLoss(one)(method(inputs), targets))
    torch.testing.assert_close(*losses)


# Batches


def numbered(*samples):
    """The input of a sample is its number, so is its target."""
    return TaskSet(
        "n",
        [Task("n", torch.arange(n)[:, None].float(), torch.arange(n), classes=n) for n in samples],
    )


def test_batches_go_through_every_sample_once_an_epoch():
    tasks = numbered(12, 6, 4)
    batches = Batches(tasks, batch_size=2, steps=6, seed=0)
    seen = [torch.cat([batches[i][1][t] for i in range(6)]) for t in range(3)]
    for n, order in zip((12, 6, 4), seen, strict=True):
        for epoch in order.split(n):
            assert epoch.sort().values.tolist() == list(range(n))
        assert order[:n].tolist() != list(range(n))
    for i in range(6):
        inputs, targets = batches[i]
        for x, y in zip(inputs, targets, strict=True):
            assert torch.equal(x.flatten().long(), y)


def test_batches_may_be_larger_than_a_task():
    inputs, targets = Batches(numbered(3, 10), batch_size=7, steps=2, seed=0)[1]
    assert [len(x) for x in inputs] == [7, 7]
    assert set(targets[0].tolist()) == {0, 1, 2}


def test_batches_are_the_seeds():
    def orders(seed):
        return Batches(numbered(9, 5), batch_size=4, steps=5, seed=seed).orders

    assert torch.equal(orders(0), orders(0))
    assert not torch.equal(orders(0), orders(1))
    tasks = orders(0)
    assert not torch.equal(tasks[:, 0] % 5, tasks[:, 1] % 5)  # every task in an order of its own


def test_batches_of_everything():
    batches = Batches(numbered(3, 5), batch_size=None, steps=2, seed=0)
    for i in range(2):
        inputs, targets = batches[i]
        assert [len(x) for x in inputs] == [len(y) for y in targets] == [3, 5]


# fit


def trained(seed=0, network_seed=0, validation=None, tasks=None, **options):
    torch.manual_seed(5)
    tasks = tasks or taskset(samples=(9, 7, 8))
    method = STL(mlp(4, tasks.outputs, seed=network_seed))
    options = {"steps": 6, "batch_size": 4, "optimizer": adam, "device": "cpu"} | options
    history = fit(method, tasks, validation, seed=seed, **options)
    return history, method.state_dict()


def same(a, b):
    return torch.equal(a[0].loss, b[0].loss) and all(torch.equal(a[1][k], b[1][k]) for k in a[1])


def test_fit_descends_with_momentum_unless_told_otherwise():
    tasks, found = taskset(), []
    for options in ({}, {"optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9)}):
        method = STL(mlp(4, tasks.outputs, seed=0))
        history = fit(method, tasks, steps=3, device="cpu", **options)
        found.append((history, method.state_dict()))
    assert same(*found)


def test_fit_is_its_seed_bit_for_bit():
    assert same(trained(), trained())
    assert not same(trained(), trained(seed=1))
    assert not same(trained(), trained(network_seed=1))


def test_fit_neither_reads_nor_moves_the_global_generator():
    tasks = taskset(samples=(9, 9), outputs=(3, 3))
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        expected = torch.rand(1)
        torch.manual_seed(seed)
        history = fit(STL(mlp(4, [3, 3], seed=0)), tasks, steps=3, batch_size=2, device="cpu")
        losses.append(history.loss)
        assert torch.equal(torch.rand(1), expected)
    assert torch.equal(*losses)


def test_fit_never_depends_on_validation_or_probes():
    plain = trained()
    watched = trained(
        validation=taskset(samples=(5, 5, 5)),
        probe=lambda method: {"training": method.training, "loss": evaluate_loss(method)},
        probe_at=[0, 2, 6],
    )
    assert same(plain, watched)
    probes = watched[0].probes
    assert [seen["step"] for seen in probes] == [0, 2, 6]
    assert all(set(seen) == {"step", "training", "loss", "validation"} for seen in probes)
    assert all(seen["training"] for seen in probes)  # a probe that evaluates leaves no trace
    assert probes[0]["loss"] != probes[-1]["loss"]


def evaluate_loss(method):
    torch.manual_seed(5)
    return evaluate(method, taskset(samples=(9, 7, 8))).mean_loss


def test_fit_by_hand():
    """Plain gradient descent on the sum of the losses and the penalty."""
    tasks = taskset("mse", (6, 4), (2, 2))
    method, twin = (TNRDMTL(mlp(4, [2, 2], seed=0), gamma=0.1) for _ in range(2))
    history = fit(method, tasks, steps=3, optimizer=partial(torch.optim.SGD, lr=0.1), device="cpu")
    for i in range(3):
        losses, penalty = losses_by_hand(twin, tasks), twin.penalty()
        torch.testing.assert_close(history.loss[i], losses.detach())
        torch.testing.assert_close(history.penalty[i], penalty.detach())
        parameters = list(twin.parameters())
        gradients = torch.autograd.grad(losses.sum() + penalty, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.1 * gradient
    for a, b in zip(method.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_fit_calls_update_every_so_often():
    class Counting(STL):
        update_every = 2
        calls = 0

        def update(self):
            self.calls += 1

    method = Counting(mlp(4, [3, 3, 3], seed=0))
    probe = lambda method: {"calls": method.calls}  # noqa: E731
    history = fit(method, taskset(), steps=5, probe=probe, probe_at=range(6), device="cpu")
    assert [seen["calls"] for seen in history.probes] == [0, 0, 1, 1, 2, 2]  # a probe comes last


def test_fit_learns():
    history, _ = trained(steps=200, batch_size=None)
    assert history.loss.shape == (200, 3) and history.penalty.shape == (200,)
    assert float(history.loss[-1].sum()) < 0.5 * float(history.loss[0].sum())
    assert float(history.penalty.abs().sum()) == 0


@pytest.mark.parametrize("kind", [None, "laf", "tucker", "tt", "uncoupled"])
def test_divergence_is_an_error_that_says_where(kind):
    tasks = taskset("mse", (6,) * 5, (2,) * 5, features=8)
    network = mlp(8, tasks.outputs, seed=0, hidden=(9,), activation=torch.nn.Identity)
    method = TNRDMTL(network, kind=kind) if kind else STL(network)
    with pytest.raises(FloatingPointError, match=r"loss: expected finite values, got .* at step"):
        fit(method, tasks, steps=40, optimizer=partial(torch.optim.SGD, lr=1e15), device="cpu")


def test_progress_is_told_to_whoever_waits(tmp_path, monkeypatch):
    path = tmp_path / "progress"
    monkeypatch.setenv("MTLBOOK_PROGRESS", str(path))
    trained(steps=3)
    assert json.loads(path.read_text()) == {"step": 3, "steps": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["progress"]


def test_step_returns_what_was_before_it():
    tasks = taskset("mse")
    method = TNRDMTL(mlp(4, tasks.outputs, seed=0))
    expected, penalty = losses_by_hand(method, tasks).detach(), method.penalty().detach()
    batch = Batches(tasks, batch_size=None, steps=1, seed=0)[0]
    got = step(method, TaskLoss(tasks), sgd(method.parameters()), *batch)
    torch.testing.assert_close(got, (expected, penalty))
    assert not torch.allclose(losses_by_hand(method, tasks), expected)


def test_pick_device():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(torch.device("meta")).type == "meta"
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


# evaluate


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("loss", LOSSES)
def test_evaluate_equals_a_loop(loss, chunk):
    tasks = taskset(loss, (9, 2, 6), (3, 3, 5) if loss == "cross_entropy" else (3, 1, 5))
    method = STL(mlp(4, tasks.outputs, seed=0))
    scores = evaluate(method, tasks, chunk=chunk)
    for t, one in enumerate(tasks):
        out = method([other.inputs for other in tasks])[t].detach()
        if loss == "cross_entropy":
            expected = 100 * float((out.argmax(1) == one.targets).float().mean())
        elif loss == "mse":
            expected = math.sqrt(F.mse_loss(out, one.targets))
        else:
            expected = 100 * float(((out > 0) == (one.targets > 0.5)).float().mean())
        assert scores.per_task[t] == pytest.approx(expected, rel=1e-5)
        assert scores.loss[t] == pytest.approx(float(LOSSES[loss](out, one.targets)), rel=1e-5)
    assert scores.metric == ("rmse" if loss == "mse" else "accuracy_percent")
    assert scores.mean == pytest.approx(sum(scores.per_task) / 3)
    assert scores.mean_loss == pytest.approx(sum(scores.loss) / 3)


def test_evaluate_changes_nothing():
    tasks = taskset()
    method = TNRDMTL(mlp(4, tasks.outputs, seed=0))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    for mode in (True, False):
        method.train(mode)
        evaluate(method, tasks)
        assert method.training == mode
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_a_perfect_model_is_right_every_time():
    inputs = F.one_hot(torch.arange(9) % 3).float()
    tasks = TaskSet("easy", [Task("easy", inputs, torch.arange(9) % 3, classes=3)] * 2)
    method = Separate(tasks)
    for model in method.models:
        model.weight.data = 5 * torch.eye(3)
        model.bias.data.zero_()
    assert evaluate(method, tasks).per_task == [100, 100]
    method.models[1].weight.data *= -1
    assert evaluate(method, tasks).per_task == [100, 0]


def test_a_probability_of_one_half_is_a_no():
    tasks = TaskSet("x", [Task("x", torch.ones(4, 3), torch.eye(4)[:, :1], loss="bce")] * 2)
    method = STL(mlp(3, [1, 1], seed=0))
    method.network.head.weight.data.zero_()
    assert evaluate(method, tasks).per_task == [75, 75]


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: fit(m, taskset(), steps=0, device="cpu"), "steps: expected at least 1, got 0"),
        (
            lambda m: fit(m, taskset().subset([0, 1]), steps=1, device="cpu"),
            "train: expected 3 tasks, got 2",
        ),
        (
            lambda m: fit(m, taskset(samples=(3, 0, 3)), steps=1, batch_size=2, device="cpu"),
            "train: expected samples in every task",
        ),
        (
            lambda m: evaluate(m, taskset(samples=(3, 0, 3))),
            r"tasks: expected samples in every task, got \[3, 0, 3\]",
        ),
        (
            lambda m: evaluate(m, TaskSet("m", [task(kind, 3, 3) for kind in LOSSES])),
            "test: expected tasks of one kind of loss",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(STL(mlp(4, [3, 3, 3], seed=0)))


def test_predict_gives_every_sample_once_and_in_order():
    sizes = (5, 70, 1)
    tasks = TaskSet(
        "own",
        [
            Task(str(t), torch.randn(n, 4), torch.zeros(n).long(), classes=t + 1)
            for t, n in enumerate(sizes)
        ],
    )
    method = STL(mlp(4, tasks.outputs, seed=0))
    for chunk in (1, 3, 64, 100):
        found = predict(method, tasks, chunk=chunk)
        assert [tuple(x.shape) for x in found] == [(5, 1), (70, 2), (1, 3)]
        for t, out in enumerate(method([task.inputs for task in tasks])):
            torch.testing.assert_close(found[t], out)


def test_shared_inputs_are_predicted_from_where_they_lie():
    """Slices are views: a probe copies no sample."""
    inputs = torch.randn(70, 4)
    tasks = TaskSet(
        "own", [Task(name, inputs, torch.zeros(70).long(), classes=2) for name in ("a", "b")]
    )
    method = STL(mlp(4, tasks.outputs, seed=0))
    seen = []
    method.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][1]))
    predict(method, tasks, chunk=64)
    assert [part.data_ptr() for part in seen] == [inputs.data_ptr(), inputs[64:].data_ptr()]


# Not-a-number never becomes a score

METHODS = {
    "stl": lambda outputs: STL(mlp(4, outputs, seed=0)),
    "tnrdmtl": lambda outputs: TNRDMTL(mlp(4, outputs, seed=0)),
    "mrn": lambda outputs: MRN(mlp(4, outputs, seed=0)),
    "drn": lambda outputs: DRN(mlp(4, outputs, seed=0)),
    "shared trunk": lambda outputs: SharedTrunk(
        torch.nn.Linear(4, 5), TaskHeads(5, outputs, seed=0)
    ),
    "lasso": lambda outputs: Lasso(0.1),
    "mtfl": lambda outputs: MTFL(0.1),
}


def with_input(tasks, value):
    inputs = tasks[1].inputs.clone()
    inputs[2, 1] = value
    return TaskSet("broken", [tasks[0], replace(tasks[1], inputs=inputs), tasks[2]])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", METHODS)
class TestNotANumber:
    def trained(self, name, tasks):
        method = METHODS[name](tasks.outputs)
        fit(method, tasks, steps=2, batch_size=4, device="cpu")
        return method

    def test_of_inputs_is_refused_before_training(self, name, loss):
        tasks = taskset(loss)
        for value in (math.nan, math.inf):
            with pytest.raises(ValueError, match=rf"train: .*finite inputs.*'1 \({loss}\)': 1"):
                self.trained(name, with_input(tasks, value))

    def test_of_inputs_gets_no_score(self, name, loss):
        tasks = taskset(loss)
        method = self.trained(name, tasks)
        assert all(math.isfinite(x) for x in evaluate(method, tasks).per_task)
        for read in (evaluate, predict):
            with pytest.raises(FloatingPointError, match=rf"outputs: .*'1 \({loss}\)': 3"):
                read(method, with_input(tasks, math.nan))
            assert method.training  # as it was

    def test_of_weights_gets_no_score(self, name, loss):
        tasks = taskset(loss)
        method = self.trained(name, tasks)
        with torch.no_grad():
            next(method.parameters()).fill_(math.nan)
        with pytest.raises(FloatingPointError, match="outputs: expected finite numbers"):
            evaluate(method, tasks)


def test_an_error_that_overflows_is_no_score():
    tasks = taskset("mse")
    method = STL(mlp(4, tasks.outputs, seed=0, hidden=()))
    with torch.no_grad():
        method.network.head.weight.fill_(1e30)  # outputs are finite, their squares are not
    assert all(output.isfinite().all() for output in predict(method, tasks))
    with pytest.raises(FloatingPointError, match="loss: expected finite numbers"):
        evaluate(method, tasks)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("rate", [1e38, math.inf])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("lasso", "mtfl")])
def test_a_diverged_training_gets_no_score(name, loss, rate, steps):
    """Also where only the last step diverged, after which no loss is computed."""
    tasks = taskset(loss)
    method = METHODS[name](tasks.outputs)
    with pytest.raises(FloatingPointError, match="expected finite"):
        fit(method, tasks, steps=steps, optimizer=partial(torch.optim.SGD, lr=rate), device="cpu")
        evaluate(method, tasks)


def test_the_last_steps_weights_are_checked_without_an_evaluation():
    method = STL(mlp(4, [3, 3, 3], seed=0))
    with pytest.raises(
        FloatingPointError, match=r"not in \['network.trunk.fc1.weight'.* at step 1"
    ):
        fit(method, taskset(), steps=1, optimizer=partial(torch.optim.SGD, lr=math.inf))


# Dropout and padding


def with_dropout():
    return SharedTrunk(
        torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout()),
        TaskHeads(8, [3, 3, 3], seed=0),
    )


def test_nothing_is_dropped_when_a_method_is_read():
    tasks, method = taskset(), with_dropout()
    first, second = predict(method, tasks), predict(method, tasks)
    assert method.training
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_dropout_is_the_seeds_and_leaves_the_global_generator_alone():
    tasks, losses = taskset(), []
    torch.manual_seed(3)
    start = with_dropout().state_dict()
    for before, seed in ((0, 0), (1, 0), (1, 1)):
        torch.manual_seed(before)
        method = with_dropout()
        method.load_state_dict(start)
        state = torch.get_rng_state()
        losses.append(fit(method, tasks, steps=4, seed=seed, device="cpu").loss)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])  # full batches: nothing but dropout differs


def test_dropout_does_not_depend_on_what_a_probe_draws():
    start, losses = with_dropout().state_dict(), []
    for probe in (lambda method: {}, lambda method: {"x": float(torch.rand(7)[0])}):
        method = with_dropout()
        method.load_state_dict(start)
        history = fit(method, taskset_of_ones(), steps=4, device="cpu", probe=probe, probe_at=[1])
        losses.append(history.loss)
    assert torch.equal(*losses)


def taskset_of_ones():
    one = Task("one", torch.ones(6, 4), torch.arange(6) % 3, classes=3)
    return TaskSet("ones", [one] * 3)


def test_padding_never_enters_batch_norm():
    """One task of 9 samples and one of 2: the statistics are those of 11 samples."""
    tasks = TaskSet("ragged", [task("mse", n, 1) for n in (9, 2)])
    norm = torch.nn.BatchNorm1d(4, momentum=1.0)
    method = SharedTrunk(norm, TaskHeads(4, [1, 1], seed=0))
    samples = torch.cat([t.inputs for t in tasks])
    outputs = method(Ragged.stack([t.inputs for t in tasks]))
    torch.testing.assert_close(norm.running_mean, samples.mean(0))
    torch.testing.assert_close(norm.running_var, samples.var(0))
    normal = F.batch_norm(samples, None, None, training=True).split([9, 2])
    for t, x in enumerate(normal):
        torch.testing.assert_close(method.batch.per_task[t, : len(x)], x)
        assert outputs[t].shape == (len(x), 1)
    torch.testing.assert_close(method.batch.features, torch.cat(normal))


def test_networks_with_a_task_axis_refuse_batch_norm_with_padding():
    class Norm(torch.nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    network = TaskNetwork([("norm", Norm(4))], TaskLinear(2, 4, 1)).reset(std=1, seed=0)
    ragged = Ragged.stack([torch.randn(5, 4), torch.randn(2, 4)])
    with pytest.raises(ValueError, match=r"inputs: expected as many .* BatchNorm .* \[5, 2\]"):
        network(ragged)
    network([torch.randn(5, 4)] * 2)
    network.eval()(ragged)  # what it has learned counts nothing


def test_the_check_for_finite_numbers_reads_counters_that_stayed_on_the_cpu(monkeypatch):
    """Found on a GPU: weights there and a counter here do not go into one tensor."""
    seen, stack = [], torch.stack

    def recorded(tensors):
        seen.append([x.device.type for x in tensors])
        return stack([torch.zeros(()) for _ in tensors])

    monkeypatch.setattr(training.torch, "stack", recorded)
    state = {"weight": torch.zeros(3, device="meta"), "_extra_state": torch.tensor(4)}
    assert training._not_finite(state) == {}
    assert seen == [["meta", "meta"]]
