"""Derived arrays: made once, never out of date, and what was damaged is made again."""

import os
import shutil

import numpy as np
import pytest

pytest.importorskip("yaml")
pytest.importorskip("matplotlib")

from mtlbook import datasets
from mtlbook.datasets import glyphs
from mtlbook.datasets.derived import derived


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))
    return tmp_path / "derived"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_text("1 2 3")
    return path


class Maker:
    """Counts how often it was asked."""

    def __init__(self, source):
        self.source, self.calls = source, 0

    def __call__(self):
        self.calls += 1
        return {"numbers": np.array(self.source.read_text().split(), dtype=np.int64)}

    def get(self, **given):
        made = derived("numbers", self, files=[self.source], packages=["pyyaml"], **given)
        return made["numbers"].tolist()


def test_made_once(folder, source):
    make = Maker(source)
    assert [make.get() for _ in range(3)] == [[1, 2, 3]] * 3
    assert make.calls == 1
    assert [path.suffix for path in folder.iterdir()] == [".npz"]


def test_other_sources_parameters_or_versions_are_other_entries(folder, source, monkeypatch):
    make = Maker(source)
    make.get(), make.get(size=2), make.get(size=3), make.get(size=2)
    assert make.calls == 3
    source.write_text("4 5 6 7")
    assert make.get() == [4, 5, 6, 7]
    monkeypatch.setattr("importlib.metadata.version", lambda package: "0.0")
    assert make.get() == [4, 5, 6, 7] and make.calls == 5


def poison(path):
    """A good archive with the old hash and another number."""
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["numbers"] = arrays["numbers"] + 1
    np.savez(path, **arrays)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def strip(path):
    """A good archive without any hash."""
    with np.load(path) as archive:
        np.savez(path, numbers=archive["numbers"])


@pytest.mark.parametrize("damage", [poison, truncate, empty, strip])
def test_a_damaged_entry_is_noticed_and_made_again(folder, source, damage):
    make = Maker(source)
    make.get()
    (path,) = folder.iterdir()
    damage(path)
    with pytest.warns(UserWarning, match=f"{path.name}: not what was written"):
        assert make.get() == [1, 2, 3]
    assert make.calls == 2
    assert make.get() == [1, 2, 3] and make.calls == 2


def test_a_folder_that_cannot_be_written_to_costs_time_only(folder, source):
    folder.write_text("a file where the folder would be")
    make = Maker(source)
    assert make.get() == make.get() == [1, 2, 3]
    assert make.calls == 2


@pytest.mark.posix("a folder cannot be made read-only there")
def test_canonical_files_that_are_read_only_are_left_alone(folder, source, tmp_path, monkeypatch):
    monkeypatch.setattr("mtlbook.datasets.registry.DEFAULT", str(tmp_path / "default"))
    make = Maker(source)
    tmp_path.chmod(0o555)
    try:
        make.get()
    finally:
        tmp_path.chmod(0o755)
    assert not folder.exists()


def test_a_poisoned_alphabet_never_becomes_data(folder):
    def load():
        glyphs._task.cache_clear()
        return datasets.load("glyphs", alphabets=["Braille"], drawers=2)

    right = load()
    (path,) = folder.iterdir()
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["inputs"] = arrays["inputs"][::-1]
    np.savez(path, **arrays)
    with pytest.warns(UserWarning, match="not what was written"):
        assert load().sha256 == right.sha256
    assert load().sha256 == right.sha256
    shutil.rmtree(folder)
    assert load().sha256 == right.sha256
