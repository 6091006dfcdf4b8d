"""Office-Caltech10: three views of the same images, and the published splits."""

import io
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtlbook import datasets
from mtlbook.datasets import DataError, cache, office, prints, registry

PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("yaml")
pytestmark = pytest.mark.disable_socket

DOMAINS = ["amazon", "caltech10", "dslr", "webcam"]


@pytest.fixture(scope="module")
def arrays():
    """Eight made-up images of 16 px, the last of them not grey, four domains of two classes."""
    rng = np.random.default_rng(0)
    blobs, offsets = [], [0]
    for row in range(8):
        picture = np.full((16, 16, 3), 30 * row, dtype=np.uint8)
        if row == 7:
            picture[:8, :, 0] = 250  # the upper half is red
        file = io.BytesIO()
        PIL_Image.fromarray(picture).save(file, format="JPEG", quality=95, subsampling=0)
        blobs.append(file.getvalue())
        offsets.append(offsets[-1] + len(blobs[-1]))
    made = {
        "jpeg": np.frombuffer(b"".join(blobs), dtype=np.uint8),
        "jpeg_offsets": np.array(offsets),
        "label": np.array([0, 1] * 4, dtype=np.uint8),
        "domain": np.repeat(np.arange(4, dtype=np.uint8), 2),
        "domains": np.array(DOMAINS),
        "classes": np.array(["mug", "mouse"]),
        "surf800": rng.integers(0, 9, (8, 800), dtype=np.uint8),
        "feat": rng.random((8, 1280)).astype(np.float16),
    }
    for first, name in zip(range(0, 8, 2), DOMAINS, strict=True):
        made[f"mrn_train5_{name}"] = np.array([first, first], dtype=np.int32)
        made[f"mrn_test5_{name}"] = np.array([first + 1], dtype=np.int32)
    return made


@pytest.fixture
def cached(arrays, tmp_path, monkeypatch):
    """A cache that holds them, and a registry that expects just that."""
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(cache, "_checked", {})
    for name in ("office_caltech10", "office_caltech10_efflite0", "office_caltech10_surf800"):
        entry = registry.entry(name)
        np.savez_compressed(tmp_path / entry.file, **arrays)
        known = replace(entry, sha256=None, content_sha256=cache.content_sha256(arrays))
        monkeypatch.setitem(registry.entries(), name, known)
    return tmp_path


def test_images(cached):
    loaded = datasets.load("office_caltech10")
    assert loaded.names == DOMAINS and loaded.outputs == [2] * 4
    assert loaded[0].inputs.shape == (2, 3, 16, 16)
    for domain, task in enumerate(loaded):
        assert task.targets.tolist() == [0, 1]
        expected = torch.tensor([60 * domain, 60 * domain + 30]) / 255
        below = task.inputs[:, :, 9:].mean((1, 2, 3))
        torch.testing.assert_close(below, expected, atol=0.01, rtol=0)
    red, green, blue = loaded[3].inputs[1, :, :8].mean((1, 2))
    assert red > 0.95 and max(green, blue) < 0.85


def test_images_resized_and_chosen(cached):
    (webcam,) = datasets.load("office_caltech10", domains=["webcam"], size=9)
    assert webcam.name == "webcam" and webcam.inputs.shape == (2, 3, 9, 9)
    with pytest.raises(ValueError, match="size: expected a positive number of pixels, got 0"):
        datasets.load("office_caltech10", size=0)
    with pytest.raises(ValueError, match=r"domains: expected one of amazon.*got 'dslr2'"):
        datasets.load("office_caltech10", domains=["dslr2"])


def test_features_are_those_of_the_file(cached, arrays):
    loaded = datasets.load("office_caltech10_efflite0", domains=["dslr", "amazon"])
    assert loaded.names == ["dslr", "amazon"] and loaded[0].inputs.dtype == torch.float32
    assert np.array_equal(loaded[0].inputs.numpy(), arrays["feat"][4:6].astype(np.float32))


def test_histograms(cached, arrays):
    raw = datasets.load("office_caltech10_surf800", normalise="none")
    assert np.array_equal(raw[1].inputs.numpy(), arrays["surf800"][2:4])
    default = datasets.load("office_caltech10_surf800")
    for counts, unit in zip(raw, default, strict=True):
        torch.testing.assert_close(unit.inputs.norm(dim=1), torch.ones(2))
        cosine = torch.cosine_similarity(unit.inputs, counts.inputs)
        torch.testing.assert_close(cosine, torch.ones(2))  # the direction stays
    for task in datasets.load("office_caltech10_surf800", normalise="zscore"):
        shown = task.inputs.any(0)
        torch.testing.assert_close(task.inputs.mean(0), torch.zeros(800), atol=1e-5, rtol=0)
        deviation = task.inputs.std(0, correction=0)
        torch.testing.assert_close(deviation, shown.float(), atol=1e-4, rtol=0)
    shares = raw[1].inputs / raw[1].inputs.sum(1, keepdim=True)  # long histograms count no more
    centred = shares - shares.mean(0)
    expected = centred / shares.std(0, correction=0).where(centred.any(0), torch.ones(()))
    found = datasets.load("office_caltech10_surf800", normalise="zscore")[1].inputs
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="normalise: expected one of l2, zscore, none; got 'l1'"):
        datasets.load("office_caltech10_surf800", normalise="l1")


def test_published_rows_count_within_the_task_and_repeat(cached):
    splits = datasets.published_splits(5)
    assert list(splits) == DOMAINS
    for train, test in splits.values():
        assert train.tolist() == [0, 0] and test.tolist() == [1]
    with pytest.raises(ValueError, match=r"percent: expected one of \(5, 10, 20\), got 15"):
        datasets.published_splits(15)


def test_published_splits_need_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=r"office_caltech10\.npz is missing.*mtlbook data fetch office_caltech10"
    ):
        datasets.published_splits(5)


@pytest.mark.skipif(
    not all(
        datasets.available(f"office_caltech10{view}") for view in ("", "_efflite0", "_surf800")
    ),
    reason="Office-Caltech10 is not in the cache",
)
def test_three_views_of_the_same_images():
    images = datasets.load("office_caltech10", size=8)
    features = datasets.load("office_caltech10_efflite0")
    histograms = datasets.load("office_caltech10_surf800", normalise="none")
    assert [len(task) for task in images] == [958, 1123, 157, 295]
    assert [tuple(t.inputs.shape[1:]) for t in (images[0], features[0], histograms[0])] == [
        (3, 8, 8),
        (1280,),
        (800,),
    ]
    for views in zip(images, features, histograms, strict=True):
        assert len({task.name for task in views}) == 1
        assert all(torch.equal(task.targets, views[0].targets) for task in views)
        assert len(views[0].targets.unique()) == views[0].classes == 10
    for percent in office.PERCENT:
        for task, (train, test) in zip(
            images, datasets.published_splits(percent).values(), strict=True
        ):
            assert len(task.select(train)) == len(train) and max(train.max(), test.max()) < len(
                task
            )


FEATURES = ("office_caltech10_efflite0", "pacs_efflite0")


def test_what_is_made_here_is_close_to_its_fingerprint_or_is_refused(arrays, monkeypatch):
    entry = registry.entry("office_caltech10_efflite0")
    held = {key: arrays[key] for key in ("feat", "label", "domain", "domains", "classes")}
    about = {
        "derived": ["feat"],
        "exact": cache.content_sha256({k: a for k, a in held.items() if k != "feat"}),
        "tolerance": 0.005,
        "tasks": prints.measure(entry.name, held),
    }
    monkeypatch.setattr(prints, "known", lambda: {entry.name: about})
    for factor, why in ((1, None), (1.003, None), (1.02, "amazon by"), (np.nan, "amazon by")):
        found = prints.differs(entry, held | {"feat": held["feat"].astype(np.float32) * factor})
        assert found == why if why is None else why in found
    other = prints.differs(entry, held | {"label": 1 - held["label"]})
    assert other == "other values than in feat alone"


@pytest.mark.parametrize("name", FEATURES)
def test_features_made_elsewhere_are_accepted_by_fingerprint(name, tmp_path, monkeypatch):
    """Last digits may differ; a picture in the place of another one, or another label, may not."""
    if not datasets.available(name):
        pytest.skip(f"{name} is not in the cache")
    entry = registry.entry(name)
    arrays = cache.read(datasets.cache_dir() / entry.file)
    assert max(prints.distance(name, arrays).values()) < 1e-5
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(cache, "_checked", {})
    noise = np.random.default_rng(0).standard_normal(arrays["feat"].shape)
    near = {**arrays, "feat": (arrays["feat"] * (1 + 1e-3 * noise)).astype(np.float16)}
    np.savez(tmp_path / entry.file, **near)  # as copied, with no hash beside it
    assert datasets.load(name).sha256 == cache.content_sha256(near) != entry.sha256
    cache.publish(entry, near)
    assert datasets.verify(name)[0]["ok"] and datasets.identity(name) == cache.content_sha256(near)
    swapped = {**arrays, "feat": arrays["feat"].copy()}
    swapped["feat"][:5] = arrays["feat"][-5:]
    relabelled = {**arrays, "label": arrays["label"].copy()}
    relabelled["label"][0] += 1
    for wrong in (swapped, relabelled):
        assert prints.differs(entry, wrong)
        with pytest.raises(DataError, match="wrote nothing"):
            cache.publish(entry, wrong)


@pytest.mark.skipif(
    not datasets.available("office_caltech10") or "MTLBOOK_MIRROR" not in os.environ,
    reason="needs the canonical file, and a mirror of the sources",
)
def test_pictures_made_here_are_those_of_the_canonical_file(tmp_path, monkeypatch):
    path = datasets.cache_dir() / registry.entry("office_caltech10").file
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(cache, "_checked", {})
    made, known = cache.read(datasets.fetch("office_caltech10")), cache.read(path)
    assert max(prints.distance("office_caltech10", made).values()) < 0.005
    exact = set(known) - {"jpeg", "jpeg_offsets"}
    assert all(np.array_equal(made[key], known[key]) for key in exact)
