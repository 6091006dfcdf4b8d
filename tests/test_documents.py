"""YAML read by the C parser is what the plain one reads."""

import pytest

yaml = pytest.importorskip("yaml")

from mtlbook.documents import read_yaml  # noqa: E402

FILES = ("data/datasets.yaml", "data/claims/drn.yaml", "notebooks/experiments.yaml")


@pytest.mark.parametrize("name", FILES)
def test_both_parsers_read_the_same(root, name, monkeypatch):
    fast = read_yaml(root / name)
    assert fast == yaml.safe_load((root / name).read_text(encoding="utf-8"))
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert read_yaml(root / name) == fast


def test_what_is_not_yaml_is_an_error_of_yaml(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1, 2")
    with pytest.raises(yaml.YAMLError):
        read_yaml(path)
