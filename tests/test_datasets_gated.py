"""Sets that the user must obtain, on tiny made-up folders in the layout of the real ones."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtlbook import datasets
from mtlbook.datasets import DataError, cache, efficientnet, gated, registry

PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("yaml")
pytestmark = pytest.mark.disable_socket

GATED = ("office_home", "imageclef_da", "celeba", "coco")


def draw(path, grey, size=(12, 8)):
    """An image of one shade, lossless but for the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL_Image.new("RGB", size, (grey, grey, grey)).save(path, quality=95)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(cache, "_checked", {})
    return tmp_path


def expect(monkeypatch, name, **values):
    """Of a tiny set other counts are known than of the real one."""
    monkeypatch.setitem(registry.entries(), name, replace(registry.entry(name), **values))


@pytest.mark.parametrize("name", GATED)
def test_what_is_missing_is_said_with_its_source(folder, name):
    assert datasets.status(name) == "missing" and not datasets.available(name)
    source = datasets.info(name)["source"]
    with pytest.raises(DataError) as caught:
        datasets.load(name)
    assert f"{folder / name} is missing: expected a folder, found no such folder" in str(
        caught.value
    )
    assert f"obtain it and put it in {folder / name}: {source}" in str(caught.value)
    (row,) = datasets.verify(name)
    assert row["ok"] is None and row["state"] == "missing"
    with pytest.raises(ValueError, match=f"got '{name}', which is had by hand"):
        datasets.fetch(name)


# ---------------------------------------------------------------- Office-Home


@pytest.fixture
def home(folder, monkeypatch):
    """Two classes; two images a class, one more in Art; a file that is no image."""
    for domain, name in enumerate(("Art", "Clipart", "Product", "Real World")):
        for kind in ("Bed", "Alarm_Clock"):
            for number in (1, 2):
                grey = 100 * (kind == "Bed") + 10 * domain + number
                draw(folder / "office_home" / name / kind / f"{number:05d}.jpg", grey)
    draw(folder / "office_home" / "Art" / "Bed" / "00003.jpg", 103)
    (folder / "office_home" / "Art" / "Bed" / "notes.txt").write_text("not an image")
    counts = {"Art": 5, "Clipart": 4, "Product": 4, "Real_World": 4}
    expect(monkeypatch, "office_home", counts=counts, classes=2)
    return folder / "office_home"


def test_office_home(home):
    assert datasets.status("office_home") == "cached" and datasets.verify("office_home")[0]["ok"]
    loaded = datasets.load("office_home", size=6)
    assert loaded.names == ["Art", "Clipart", "Product", "Real_World"] and loaded.tier == "gated"
    assert [len(task) for task in loaded] == [5, 4, 4, 4] and loaded.outputs == [2] * 4
    art = loaded[0]
    assert art.inputs.shape == (5, 3, 6, 6) and art.targets.tolist() == [0, 0, 1, 1, 1]
    expected = torch.tensor([1, 2, 101, 102, 103]) / 255  # classes and images in order of names
    torch.testing.assert_close(art.inputs.mean((1, 2, 3)), expected, atol=0.01, rtol=0)
    (real,) = datasets.load("office_home", domains=["Real_World"], size=6)
    torch.testing.assert_close(real.inputs, loaded[3].inputs)
    with pytest.raises(ValueError, match=r"domains: expected one of Art.*got 'Sketch'"):
        datasets.load("office_home", domains=["Sketch"], size=6)
    with pytest.raises(ValueError, match="size: expected a positive number of pixels, got 0"):
        datasets.load("office_home", size=0)


def test_office_home_hash_sees_names_labels_and_sizes(home):
    before = datasets.load("office_home", size=4).sha256
    assert datasets.verify("office_home")[0]["found"] == before
    with (home / "Art" / "Bed" / "00001.jpg").open("ab") as image:
        image.write(b"longer")
    assert datasets.load("office_home", size=4).sha256 != before


def test_incomplete_office_home(home):
    (home / "Clipart" / "Bed" / "00002.jpg").unlink()
    with pytest.raises(DataError, match="is corrupt: expected 4 images in Clipart, found 3"):
        datasets.load("office_home")
    assert datasets.status("office_home") == "corrupt" and not datasets.available("office_home")
    (row,) = datasets.verify("office_home")
    assert row["ok"] is False and row["found"] == "3"
    (home / "Clipart" / "Bed" / "00001.jpg").unlink()
    (home / "Clipart" / "Bed").rmdir()
    with pytest.raises(DataError, match="expected 2 folders of classes in Clipart, found 1"):
        datasets.load("office_home")


def test_office_home_of_other_folders(home):
    (home / "Real World").rename(home / "Real_World")  # either name is right
    assert datasets.status("office_home") == "cached"
    (home / "Art" / "Bed" / "00001.jpg").write_text("not an image")
    with pytest.raises(DataError, match=r"expected an image .*00001\.jpg, found cannot identify"):
        datasets.load("office_home", size=4)
    (home / "Product").rename(home / "Products")
    with pytest.raises(DataError, match="expected a folder Product, found no such folder"):
        datasets.load("office_home")


def test_rows_of_a_released_list(home, tmp_path):
    lines = ["/theirs/Real_World/Bed/00002.jpg 1", "/theirs/Real_World/Alarm_Clock/00001.jpg 0"]
    path = tmp_path / "train_5.txt"
    path.write_text("\n".join(lines))
    rows = gated.list_rows("office_home", "Real_World", path)
    assert rows.tolist() == [3, 0]
    path.write_text(lines[0].replace(" 1", " 0"))
    with pytest.raises(ValueError, match=r"got 'Bed/00002\.jpg' as 0"):
        gated.list_rows("office_home", "Real_World", path)


def test_features_of_office_home(home, monkeypatch):
    shade = torch.arange(1280) / 1280
    monkeypatch.setattr(efficientnet, "installed", lambda: True)
    monkeypatch.setattr(
        efficientnet, "features", lambda images: images.mean((1, 2, 3))[:, None] + shade
    )
    assert datasets.status("office_home_efflite0") == "makeable"
    loaded = datasets.load("office_home_efflite0")
    images = datasets.load("office_home", size=8)
    assert loaded.names == images.names and loaded.outputs == [2] * 4 and loaded.tier == "gated"
    for of_features, of_images in zip(loaded, images, strict=True):
        assert torch.equal(of_features.targets, of_images.targets)
        expected = of_images.inputs.mean((1, 2, 3))
        torch.testing.assert_close(of_features.inputs[:, 0], expected, atol=1e-2, rtol=0)


# ---------------------------------------------------------------- ImageCLEF-DA


@pytest.fixture
def clef(folder, monkeypatch):
    """Two classes; of two lists the paths begin with the domain's folder, of two they do not."""
    root = folder / "imageclef_da"
    for domain, letter in enumerate("cipb"):
        lines = []
        for number, label in ((7, 1), (3, 0), (5, 1)):
            draw(root / letter / f"{number:04d}.jpg", 40 * domain + number)
            prefix = f"{letter}/" if letter in "ci" else ""
            lines.append(f"{prefix}{number:04d}.jpg {label}\n")
        (root / f"{letter}List.txt").write_text("".join(lines))
    expect(monkeypatch, "imageclef_da", classes=2)
    return root


def test_imageclef(clef):
    loaded = datasets.load("imageclef_da", size=4)
    assert loaded.names == ["caltech256", "imagenet", "voc2012", "bing"]
    for domain, task in enumerate(loaded):
        assert task.targets.tolist() == [1, 0, 1]  # in the order of the list
        expected = (40 * domain + torch.tensor([7, 3, 5])) / 255
        torch.testing.assert_close(task.inputs.mean((1, 2, 3)), expected, atol=0.01, rtol=0)


def test_incomplete_imageclef(clef):
    (clef / "p" / "0003.jpg").unlink()
    with pytest.raises(DataError, match=r"expected the image 0003\.jpg of pList\.txt, found no"):
        datasets.load("imageclef_da")
    (clef / "iList.txt").write_text("i/0007.jpg 1\n")
    with pytest.raises(DataError, match=r"expected labels 0 to 1 in iList\.txt, found \[1\]"):
        datasets.load("imageclef_da")
    (clef / "cList.txt").unlink()
    with pytest.raises(DataError, match=r"expected a list cList\.txt"):
        datasets.load("imageclef_da")


# ---------------------------------------------------------------- CelebA


@pytest.fixture
def celeba(folder, monkeypatch):
    """Six faces with three attributes, two in each part."""
    torchvision = pytest.importorskip("torchvision.datasets")
    root = folder / "celeba"
    names = [f"{number:06d}.jpg" for number in range(1, 7)]
    for number, name in enumerate(names):
        draw(root / "img_align_celeba" / name, 40 * number, size=(17, 21))
    part = dict(zip(names, (0, 0, 1, 1, 2, 2), strict=True))
    lines = ("-1 1 1", "1 1 -1", "-1 -1 -1", "-1 -1 1", "1 -1 1", "1 1 1")
    answers = dict(zip(names, lines, strict=True))
    tables = {
        "list_eval_partition.txt": [f"{name} {part[name]}" for name in names],
        "identity_CelebA.txt": [f"{name} 1" for name in names],
        "list_bbox_celeba.txt": ["6", "image_id x_1 y_1 width height"]
        + [f"{name} 0 0 1 1" for name in names],
        "list_landmarks_align_celeba.txt": ["6", "lefteye_x lefteye_y"]
        + [f"{name} 0 0" for name in names],
        "list_attr_celeba.txt": ["6", "Bald Smiling Young "]
        + [f"{name}  {answers[name]}" for name in names],
    }
    for name, lines in tables.items():
        (root / name).write_text("\n".join(lines) + "\n")
    known = [(None, hashlib.md5((root / n).read_bytes()).hexdigest(), n) for n in tables]
    monkeypatch.setattr(torchvision.CelebA, "file_list", known)
    return root


def test_celeba(celeba):
    loaded = datasets.load("celeba", size=8)
    assert loaded.names == ["Bald", "Smiling", "Young"] and loaded.shared_inputs
    assert loaded[0].inputs.shape == (6, 3, 8, 8) and loaded[0].loss == "bce"
    assert loaded[0].groups.tolist() == [0, 0, 1, 1, 2, 2]
    answers = torch.cat([task.targets for task in loaded], 1)
    assert answers.tolist() == [
        [0, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1],
    ]  # fmt: skip
    expected = torch.arange(6) * 40 / 255
    torch.testing.assert_close(loaded[0].inputs.mean((1, 2, 3)), expected, atol=0.01, rtol=0)
    first = datasets.load("celeba", size=8, split="test", limit=1)
    torch.testing.assert_close(first[0].inputs, loaded[0].inputs[4:5])
    assert [float(task.targets) for task in first] == [1, 0, 1]
    with pytest.raises(ValueError, match="limit: expected a positive number of images, got 0"):
        datasets.load("celeba", limit=0)
    with pytest.raises(ValueError, match="split: expected one of train, valid, test, all"):
        datasets.load("celeba", split="dev")


def test_celeba_shows_the_middle(celeba):
    """Of 17 x 21 pixels the square between 2 px at the top and at the bottom."""
    pixels = np.zeros((21, 17, 3), dtype=np.uint8)
    pixels[2:19] = 255
    path = celeba / "img_align_celeba" / "000001.jpg"
    PIL_Image.fromarray(pixels).save(path, format="PNG")
    loaded = datasets.load("celeba", size=17, split="train", limit=1)
    assert torch.equal(loaded[0].inputs, torch.ones(1, 3, 17, 17))


def test_wrong_celeba(celeba):
    (celeba / "list_eval_partition.txt").write_text("000001.jpg 2\n")
    with pytest.raises(DataError, match=r"is corrupt: expected lists with the MD5.*found others"):
        datasets.load("celeba")
    (celeba / "identity_CelebA.txt").unlink()
    with pytest.raises(DataError, match=r"expected identity_CelebA\.txt, found nothing"):
        datasets.load("celeba")


# ---------------------------------------------------------------- COCO


@pytest.fixture
def coco(folder):
    """Three images in val, one in train; ids not in the order of the files."""
    root = folder / "coco"
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
    images = {"val": [(9, "nine.jpg"), (4, "four.jpg"), (6, "six.jpg")], "train": [(1, "one.jpg")]}
    things = {
        "val": [(9, 17, 0), (9, 17, 0), (4, 18, 1), (9, 18, 0)],  # two cats; a crowd of dogs
        "train": [(1, 18, 0)],
    }
    (root / "annotations").mkdir(parents=True)
    for part, listed in images.items():
        for number, name in listed:
            draw(root / f"{part}2017" / name, 20 * number)
        made = {
            "categories": categories,
            "images": [{"id": number, "file_name": name} for number, name in listed],
            "annotations": [
                {"image_id": image, "category_id": category, "iscrowd": crowd}
                for image, category, crowd in things[part]
            ],
        }
        path = root / "annotations" / f"instances_{part}2017.json"
        path.write_text(json.dumps(made))
    return root


def test_coco(coco):
    loaded = datasets.load("coco", size=4)
    assert loaded.names == ["cat", "dog"] and loaded.shared_inputs and loaded[0].loss == "bce"
    answers = torch.cat([task.targets for task in loaded], 1)
    assert answers.tolist() == [[0, 1], [0, 0], [1, 1]]  # images 4, 6 and 9
    expected = torch.tensor([80, 120, 180]) / 255
    torch.testing.assert_close(loaded[0].inputs.mean((1, 2, 3)), expected, atol=0.01, rtol=0)
    assert loaded[0].groups.tolist() == [1, 1, 1]


def test_part_of_coco(coco):
    (dog,) = datasets.load("coco", size=4, split="all", categories=["dog"], limit=2)
    assert dog.targets.tolist() == [[1], [1], [0]] and dog.groups.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="categories: expected one of cat, dog; got 'cow'"):
        datasets.load("coco", categories=["cow"])


def test_incomplete_coco(coco):
    for part in ("train", "val"):
        (coco / f"{part}2017").rename(coco / f"{part}_elsewhere")
    with pytest.raises(DataError, match="expected a folder train2017, found no such folder"):
        datasets.load("coco")
    (coco / "train_elsewhere").rename(coco / "train2017")
    (coco / "val_elsewhere").rename(coco / "val2017")
    (coco / "annotations" / "instances_val2017.json").rename(coco / "kept.json")
    with pytest.raises(DataError, match=r"expected annotations/instances_val2017\.json, found no"):
        datasets.load("coco")
    (coco / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(DataError, match=r"expected annotations/instances_val2017\.json or"):
        datasets.load("coco")
