"""The rendered alphabets."""

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("yaml")

from mtlbook import datasets
from mtlbook.datasets import glyphs

pytestmark = pytest.mark.disable_socket
SOME = ["Latin capitals", "Braille", "Canadian syllabics K and C"]


@pytest.fixture(scope="module")
def some():
    return datasets.load("glyphs", alphabets=SOME)


def test_coverage_resembles_omniglot():
    sizes = {name: len(glyphs.coverage(name)[0]) for name in glyphs.ALPHABETS}
    assert len(sizes) == 50
    assert min(sizes.values()) >= 14 and max(sizes.values()) <= 55
    for name in glyphs.ALPHABETS:
        characters, faces = glyphs.coverage(name)
        assert faces and len(set(characters)) == len(characters), name
        assert set(characters) <= set(glyphs.ALPHABETS[name])


def test_shapes_ranges_and_order(some):
    assert some.names == SOME and some.tier == "embedded" and some.stand_in_for == "Omniglot"
    for task in some:
        assert task.inputs.shape == (20 * task.classes, 1, 28, 28)
        assert task.inputs.dtype == torch.float32
        assert task.inputs.min() == 0 and 0.5 < task.inputs.max() <= 1
        assert task.targets.tolist() == [c for c in range(task.classes) for _ in range(20)]
        assert task.groups.tolist() == list(range(20)) * task.classes
    assert some[0].classes == some[1].classes == 26


def test_every_image_has_ink_and_a_margin_of_paper(some):
    for task in some:
        assert (task.inputs.amax((1, 2, 3)) > 0.3).all()
        assert task.inputs.mean() < 0.35


def test_nothing_changes_between_calls(some, tmp_path, monkeypatch):
    glyphs._task.cache_clear()
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path))  # an empty data cache: drawn again
    again = datasets.load("glyphs", alphabets=SOME)
    assert again[0].inputs is not some[0].inputs
    assert again.sha256 == some.sha256
    alone = datasets.load("glyphs", alphabets=["Braille"])
    assert torch.equal(alone[0].inputs, some[1].inputs)


def test_fewer_drawers_are_the_first_ones(some):
    few = datasets.load("glyphs", alphabets=["Braille"], drawers=3)[0]
    full = some[1].select(torch.nonzero(some[1].groups < 3).flatten())
    assert torch.equal(few.inputs, full.inputs) and torch.equal(few.groups, full.groups)


def test_another_seed_gives_other_drawers(some):
    other = datasets.load("glyphs", alphabets=["Braille"], seed=1)[0]
    assert (other.inputs - some[1].inputs).abs().mean() > 0.01


def test_size():
    task = datasets.load("glyphs", alphabets=["Braille"], drawers=1, size=40)[0]
    assert task.inputs.shape == (26, 1, 40, 40)


def test_drawers_differ_less_within_a_character_than_between_characters(some):
    images = some[0].inputs.view(26, 20, -1)
    within = (images - images.mean(1, keepdim=True)).square().sum((1, 2)).mean() / 20
    means = images.mean(1)
    between = (means - means.mean(0)).square().sum() / 26
    assert within > 10  # squared ink: the drawers do differ,
    nearest = torch.cdist(images[:, 10:].flatten(0, 1), means).argmin(1)
    right = (nearest == torch.arange(26).repeat_interleave(10)).float().mean()
    assert right > 0.5 and between > 5  # and the characters can still be told apart


def test_a_drawer_has_a_style(some):
    """The amount of ink varies more between drawers than the noise within a drawer explains."""
    ink = some[0].inputs.sum((1, 2, 3)).view(26, 20)
    relative = ink / ink.mean(1, keepdim=True)
    assert relative.mean(0).var() > 3 * relative.var(1, correction=0).mean() / 26


def test_lookalikes_and_blanks_are_left_out():
    face = "DejaVuSans"
    assert glyphs._distinct("AΑА", face) == "A"  # Latin, Greek, Cyrillic
    assert glyphs._distinct("OQ \u00a0CG", face) == "OQCG"


def test_missing_characters_are_left_out(monkeypatch):
    monkeypatch.setitem(glyphs.ALPHABETS, "Tofu", "AB\u4e00\U0010ffffC")
    assert glyphs.coverage.__wrapped__("Tofu")[0] == "ABC"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"alphabets": ["Klingon"]}, "alphabets: expected one of Latin capitals, .*got 'Klingon'"),
        ({"drawers": 0}, "drawers: expected an int of at least 1, got 0"),
        ({"size": 4}, "size: expected an int of at least 8, got 4"),
        ({"seed": -1}, "seed: expected an int of at least 0, got -1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        datasets.load("glyphs", **options)
