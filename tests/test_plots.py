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


def test_a_cluster_map_shows_every_entry_in_the_order_of_its_tree():
    groups = np.array([0, 1, 0, 1, 0])
    matrix = np.where(groups[:, None] == groups, 0.6, -0.25) + 0.01 * np.arange(5)
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 1)
    grid = plots.cluster_map(Relation(torch.from_numpy(matrix), "correlation", tuple("abcde")))
    order = grid.dendrogram_row.reordered_ind
    assert sorted(order) == list(range(5))
    assert (np.diff(groups[order]) != 0).sum() == 1, "a group's tasks stand side by side"
    (mesh, *_) = grid.ax_heatmap.collections
    shown = np.asarray(mesh.get_array()).reshape(5, 5)
    assert np.allclose(shown, matrix[np.ix_(order, order)]) and mesh.get_clim() == (-1, 1)
    names = [label.get_text() for label in grid.ax_heatmap.get_yticklabels()]
    assert names == ["abcde"[i] for i in order]
    # average linkage: the two groups are joined at the mean distance of their pairs
    across = 1 - matrix[groups == 0][:, groups == 1].mean()
    assert grid.dendrogram_row.linkage[-1, 2] == pytest.approx(across)
    plt.close(grid.figure)
    with pytest.raises(ValueError, match="expected two tasks or more, got 1"):
        plots.cluster_map(Relation(torch.eye(1), "correlation"))


def test_forest_shows_every_repeat_and_draws_nothing_at_random(ax):
    state = np.random.get_state()[1].copy()
    values = {"one": [0.5, -1.0, 2.0], "two": [3.0]}
    intervals = {label: Interval(1.0, 0.0, 2.0, 3) for label in values}
    plots.forest(intervals, values=values, ax=ax)
    shown = [dots.get_offsets()[:, 0].tolist() for dots in ax.collections]
    assert shown == list(values.values())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert (np.random.get_state()[1] == state).all()


def test_rows_of_one_axis_reach_a_fifth_as_far_as_each_other():
    reaches = {"a": 12.0, "b": 0.3, "c": 2.4, "d": 0.2, "e": 0.01, "f": 0.0}
    groups = plots.scales(reaches)
    assert groups == [["a", "c"], ["b", "d"], ["e"], ["f"]]
    assert plots.scales({"a": 1.0, "b": 0.2}) == [["a", "b"]]
    assert plots.scales({"a": 0.19, "b": 1.0}) == [["a"], ["b"]]
    assert plots.scales({}) == []


def test_forests_hide_no_effect_beside_a_large_one():
    large = {"large": Interval(12.0, 11.0, 13.0, 5), "fair": Interval(-4.0, -5.0, -3.0, 5)}
    small = {"small": Interval(0.2, 0.1, 0.3, 5)}
    values = {"small": [0.1, 0.3], "large": [11.0, 13.0]}
    found = plots.forests({**large, **small}, values=values, unit="points", row=0.5)
    assert list(found.values()) == [["large", "fair"], ["small"]]
    for ax, labels in found.items():
        assert [label.get_text() for label in ax.get_yticklabels()] == labels
        low, high = ax.get_xlim()
        for label in labels:
            i = {**large, **small}[label]
            assert low <= i.low and i.high <= high
            assert max(abs(i.low), abs(i.high)) >= max(-low, high) / 6
    assert ax.get_xlabel() == "points (mind the 2 scales)"
    assert list(plots.forests(small, unit="points")) and plt.gca().get_xlabel() == "points"
    plt.close("all")
    with pytest.raises(ValueError, match="at least one"):
        plots.forests({})
