"""Pictures that pages share: what is drawn is what was given."""

import numpy as np
import pytest
import torch

from mtlbook.ledger.statistics import Interval
from mtlbook.relations import Relation

plt = pytest.importorskip("matplotlib.pyplot")
plots = pytest.importorskip("mtlbook.plots")


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_heatmap_shows_every_entry_with_its_names(ax):
    matrix = torch.tensor([[1.0, 0.5], [-0.25, 1.0]])
    plots.relation_heatmap(Relation(matrix, "correlation", ("a", "b")), ax=ax)
    (mesh, *_) = ax.collections
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(2, 2), matrix.numpy())
    assert mesh.get_clim() == (-1, 1)
    for axis in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in axis] == ["a", "b"]


def test_forest_shows_every_repeat_and_draws_nothing_at_random(ax):
    state = np.random.get_state()[1].copy()
    values = {"one": [0.5, -1.0, 2.0], "two": [3.0]}
    intervals = {label: Interval(1.0, 0.0, 2.0, 3) for label in values}
    plots.forest(intervals, values=values, ax=ax)
    shown = [dots.get_offsets()[:, 0].tolist() for dots in ax.collections]
    assert shown == list(values.values())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert (np.random.get_state()[1] == state).all()
