"""Tasks, sets of tasks and splits."""

import cmath
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlbook.ledger.currency import fingerprints_agree
from mtlbook.tasks import Task, TaskSet, split_per_class
from mtlbook.training import Batches


def classification(classes=3, each=6, name="c"):
    """``classes * each`` samples, whose only input is their own number."""
    targets = torch.arange(classes * each) % classes
    inputs = torch.arange(len(targets), dtype=torch.float32)[:, None]
    return Task(
        name, inputs, targets, classes=classes, groups=torch.arange(len(targets)) // classes
    )


def regression(outputs=2):
    return Task("r", torch.randn(5, 3), torch.randn(5, outputs), "mse")


def test_a_task_knows_its_size_and_its_head():
    assert len(classification()) == 18 and classification(4).outputs == 4
    assert len(regression()) == 5 and regression(7).outputs == 7


def test_select_takes_inputs_targets_and_groups_together():
    part = classification().select(torch.tensor([4, 0, 17]))
    assert part.inputs.flatten().tolist() == [4, 0, 17]
    assert part.targets.tolist() == [1, 0, 2]
    assert part.groups.tolist() == [1, 0, 5]
    assert regression().select(torch.tensor([1])).groups is None


@pytest.fixture
def three():
    tasks = [classification(classes, name=f"task {classes}") for classes in (2, 3, 4)]
    return TaskSet("three", tasks, tier="fetched", licence="MIT", sha256="00")


def test_a_set_is_a_sequence(three):
    assert len(three) == 3 and three.samples == 12 + 18 + 24
    assert three.names == ["task 2", "task 3", "task 4"]
    assert three.outputs == [2, 3, 4]
    assert [task.name for task in three] == three.names and three[-1].name == "task 4"


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.subset([2, 0]),
        lambda s: s.select([torch.arange(2)] * 3),
        lambda s: s.map_inputs(lambda x: x + 1),
        lambda s: s.to("cpu"),
    ],
)
def test_provenance_survives(three, change):
    changed = change(three)
    for name in ("name", "tier", "stand_in_for", "licence", "sha256"):
        assert getattr(changed, name) == getattr(three, name)


def test_subset_select_map_and_to(three):
    assert three.subset([2, 0]).names == ["task 4", "task 2"]
    picked = three.select([torch.tensor([t]) for t in range(3)])
    assert [float(task.inputs) for task in picked] == [0, 1, 2]
    doubled = three.map_inputs(lambda x: 2 * x)
    assert torch.equal(doubled[1].inputs, 2 * three[1].inputs)
    assert doubled[1].targets is three[1].targets
    moved = three.to("meta")
    assert moved[0].inputs.device.type == moved[0].targets.device.type == "meta"


@given(
    classes=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    train=st.integers(0, 3),
    validation=st.integers(0, 2),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=40)
def test_split_takes_a_number_of_every_class_and_loses_nothing(classes, train, validation, seed):
    taskset = TaskSet("s", [classification(c) for c in classes])
    counts = {"train": train, "validation": validation}
    parts = split_per_class(taskset, counts, seed=seed)
    assert list(parts) == ["train", "validation", "test"]
    for t, task in enumerate(taskset):
        for name, count in (counts | {"test": 6 - train - validation}).items():
            part = parts[name][t]
            assert (
                torch.bincount(part.targets, minlength=task.classes).tolist()
                == [count] * task.classes
            )
            # the number of a sample is its input: the class must have come along
            assert torch.equal(part.inputs.flatten().long() % task.classes, part.targets)
        seen = torch.cat([part[t].inputs.flatten() for part in parts.values()])
        assert seen.sort().values.tolist() == list(range(len(task)))


def test_split_is_random_and_repeatable():
    taskset = TaskSet("s", [classification(each=20)])
    a, b, c = (split_per_class(taskset, {"train": 5}, seed=seed)["train"] for seed in (0, 0, 1))
    assert torch.equal(a[0].inputs, b[0].inputs)
    assert not torch.equal(a[0].inputs, c[0].inputs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Task("a", torch.zeros(2), torch.zeros(2), "hinge"),
            "loss: expected one of .* got 'hinge'",
        ),
        (
            lambda: Task("a", torch.zeros(2, 1), torch.zeros(3, 1), "mse"),
            "targets: expected one for each of 2 inputs of task 'a', got 3",
        ),
        (
            lambda: Task("a", torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)),
            "classes: expected a number .* got None",
        ),
        (
            lambda: Task("a", torch.zeros(2, 1), torch.zeros(2, 1), "bce", classes=2),
            "classes: .* got 2 with 'bce'",
        ),
        (lambda: Task("a", torch.zeros(2, 1), torch.zeros(2), "mse").outputs, "targets: expected"),
        *(
            (
                lambda y=y: Task("a", torch.zeros(2, 1), torch.tensor([0, y]), classes=2),
                "targets: expected whole numbers of 0 to 1, .* of task 'a', got torch.* shape",
            )
            for y in (2, -1, -100, 0.5, math.nan)
        ),
        (
            lambda: Task("a", torch.zeros(2, 1), torch.zeros(2, 1).long(), classes=2),
            r"targets: expected whole numbers .* shape \(2, 1\)",
        ),
        *(
            (
                lambda y=y: Task("a", torch.zeros(2, 1), torch.tensor([[0], [y]]), "bce"),
                "targets: expected numbers of 0 to 1 with loss 'bce'",
            )
            for y in (-1.0, 2.0, math.nan)
        ),
        *(
            (
                lambda y=y: Task("a", torch.zeros(2, 1), torch.tensor([[0], [y]]), "mse"),
                "targets: expected finite numbers with loss 'mse'",
            )
            for y in (math.inf, math.nan)
        ),
        (lambda: TaskSet("nothing", []), "tasks: expected at least one .* 'nothing'"),
        (
            lambda: TaskSet("one", [classification()]).select([]),
            "indices: expected one tensor for each of 1 tasks, got 0",
        ),
        (
            lambda: split_per_class(TaskSet("s", [classification()]), {"train": 7}, seed=0),
            "counts: expected at most 6 samples of class 0 of task 'c', got 7",
        ),
        (
            lambda: split_per_class(TaskSet("s", [classification()]), {"test": 1}, seed=0),
            "rest: expected a name not in counts .* got 'test'",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class TestSharedInputs:
    """Several targets of the same samples: one tensor, held once and looked at once."""

    def tasks(self):
        x, y = torch.randn(9, 4), torch.rand(3, 9, 1).round()
        return TaskSet("shared", [Task(str(t), x, y[t], loss="bce") for t in range(3)])

    def test_selection_moving_and_mapping_keep_them_shared(self):
        tasks, rows = self.tasks(), torch.tensor([4, 1, 7])
        for part in (tasks.select([rows] * 3), tasks.to("cpu"), tasks.map_inputs(lambda x: 2 * x)):
            assert part.shared_inputs
        meta = tasks.to("meta")
        assert meta.shared_inputs and meta[2].inputs.device.type == "meta"
        assert not tasks.select([rows, rows, rows.flip(0)]).shared_inputs
        assert not tasks.subset([1]).shared_inputs

    def test_selection_copies_what_is_shared_once(self):
        tasks, rows, copied = self.tasks(), torch.tensor([4, 1, 7]), []

        class Counted(torch.Tensor):
            def __getitem__(self, key):
                copied.append(key)
                return torch.Tensor.__getitem__(self, key)

        counted = tasks.map_inputs(lambda x: x.as_subclass(Counted))
        part = counted.select([rows] * 3)
        assert part.shared_inputs and torch.equal(part[2].inputs, tasks[0].inputs[rows])
        assert len(copied) == 1

    def test_batches_show_all_tasks_the_same_samples(self):
        tasks = self.tasks()
        batches = Batches(tasks, batch_size=4, steps=5, seed=1)
        for i in range(5):
            inputs, targets = batches[i]
            assert all(x is inputs[0] for x in inputs)
            rows = [int((tasks[0].inputs == x).all(1).nonzero()) for x in inputs[0]]
            for t in range(3):
                assert torch.equal(targets[t], tasks[t].targets[rows])
        inputs, _ = Batches(tasks, batch_size=None, steps=1, seed=1)[0]
        assert all(x is tasks[0].inputs for x in inputs)

    def test_equal_targets_do_not_make_inputs_shared(self):
        y = torch.zeros(9, 1)
        tasks = TaskSet("own", [Task(str(t), torch.randn(9, 4), y, loss="bce") for t in range(3)])
        inputs, _ = Batches(tasks, batch_size=4, steps=1, seed=1)[0]
        assert not torch.equal(inputs[0], inputs[1])


CHANGES = {
    "one image's sign": lambda x: (
        x * torch.where(torch.arange(len(x)) == 7, -1, 1)[:, None, None, None]
    ),
    "scale": lambda x: x / 100,
    "a sample's shift by one pixel": lambda x: torch.cat([x[:1].roll(1, -1), x[1:]]),
    "two samples swapped": lambda x: x[[1, 0, *range(2, len(x))]],
}


class TestFingerprint:
    def tasks(self, shared=False, kind="cross_entropy"):
        x = torch.rand(3, 200, 1, 6, 6)
        y = torch.randint(0, 4, (3, 200))
        return TaskSet(
            "f",
            [
                Task(str(t), x[0] if shared else x[t], y[t], classes=4, groups=y[t] + t)
                if kind == "cross_entropy"
                else Task(str(t), x[t], torch.randn(200, 2), kind)
                for t in range(3)
            ],
        )

    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("change", CHANGES)
    def test_notices_other_inputs(self, change, shared):
        tasks = self.tasks(shared)
        if shared:
            changed = tasks.map_inputs(CHANGES[change])
        else:
            other = replace(tasks[1], inputs=CHANGES[change](tasks[1].inputs))
            changed = replace(tasks, tasks=(tasks[0], other, tasks[2]))
        assert not fingerprints_agree(tasks.fingerprint(), changed.fingerprint())

    @pytest.mark.parametrize("name", ["targets", "groups"])
    def test_notices_one_label_or_group(self, name):
        tasks = self.tasks()
        values = getattr(tasks[2], name).clone()
        values[-1] = (values[-1] + 1) % 4
        changed = replace(tasks, tasks=(*tasks[:2], replace(tasks[2], **{name: values})))
        assert not fingerprints_agree(tasks.fingerprint(), changed.fingerprint())

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: s.subset([1, 0, 2]),
            lambda s: s.subset([0, 1]),
            lambda s: s.select([torch.arange(199)] * 3),
            lambda s: replace(s, tasks=[replace(t, groups=None) for t in s]),
        ],
    )
    @pytest.mark.parametrize("shared", [False, True])
    def test_notices_other_tasks_and_samples(self, change, shared):
        tasks = self.tasks(shared)
        assert not fingerprints_agree(tasks.fingerprint(), change(tasks).fingerprint())

    @pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
    def test_agrees_up_to_rounding_in_any_dtype_and_however_inputs_are_held(self, kind):
        tasks = self.tasks(kind=kind)
        own = tasks.fingerprint()
        assert own == tasks.fingerprint() and len(own) == 11
        assert all(isinstance(x, float) for x in own)
        noise = tasks.map_inputs(lambda x: x * (1 + 1e-7 * torch.randn_like(x)))
        for same in (noise, tasks.map_inputs(lambda x: x.double())):
            assert fingerprints_agree(own, same.fingerprint())
        shared = self.tasks(shared=True)
        copies = replace(shared, tasks=[replace(t, inputs=t.inputs.clone()) for t in shared])
        assert not copies.shared_inputs
        assert fingerprints_agree(shared.fingerprint(), copies.fingerprint())

    def test_neither_draws_nor_depends_on_a_generator(self):
        tasks, state = self.tasks(), torch.get_rng_state()
        tasks.fingerprint()
        assert torch.equal(state, torch.get_rng_state())

    def test_literals_of_whole_numbers_and_of_nothing(self):
        """By a plain loop over integers; an empty task and groups of zeros are no trouble."""
        task = Task("t", torch.tensor([[1, 2], [3, 0]]), torch.tensor([1, 0]), classes=2)
        nothing = replace(task, inputs=task.inputs[:0], targets=task.targets[:0])
        found = TaskSet("s", [replace(task, groups=torch.zeros(2)), nothing]).fingerprint()
        z = sum(
            x * cmath.exp(1j * (n**2 + math.sqrt(2) * m**2))
            for x, n, m in [(1, 1, 1), (2, 1, 2), (3, 2, 1)]
        ) / math.sqrt(14)
        y = cmath.exp(1j * (1 + math.sqrt(2)))
        expected = [2, 2, math.log(14) / 2, z.real, z.imag, 0, y.real, y.imag, 0, 0, 0]
        assert found == pytest.approx(expected, abs=1e-12)

    def test_nothing_agrees_with_what_is_not_a_number(self):
        own = self.tasks().fingerprint()
        broken = [*own[:-1], math.nan]
        assert not fingerprints_agree(broken, broken)
        assert not fingerprints_agree(own, own[:-1])
