"""Pictures that pages share: what is drawn is what was given."""

import io
import itertools
import json
import re

import numpy as np
import pytest
import torch

from mtlbook.ledger.statistics import Interval
from mtlbook.relations import Relation

plt = pytest.importorskip("matplotlib.pyplot")
plots = pytest.importorskip("mtlbook.plots")
narrow = pytest.importorskip("mtlbook.narrow")


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
    assert ax.get_xlabel() == "points\n(mind the 2 scales)"
    assert list(plots.forests(small, unit="points")) and plt.gca().get_xlabel() == "points"
    plt.close("all")
    with pytest.raises(ValueError, match="at least one"):
        plots.forests({})


class TestPieces:
    """What of a figure can stand below each other where it is wider than a phone."""

    def pieces(self, figure, **options):
        figure.canvas.print_figure(io.BytesIO(), format="svg", bbox_inches="tight")
        found = narrow.pieces(figure, **options)
        plt.close(figure)
        return found

    @pytest.fixture(autouse=True)
    def style(self):
        with plt.rc_context():
            plots.use_style()
            yield

    def test_one_panel_and_what_is_narrow_stay_whole(self):
        assert self.pieces(plt.subplots(figsize=(9, 3))[0]) == narrow.WHOLE
        assert self.pieces(plt.subplots(1, 2, figsize=(4, 3))[0]) == narrow.WHOLE
        assert self.pieces(plt.subplots(3, figsize=(6, 6))[0]) == narrow.WHOLE

    def test_panels_come_apart_where_nothing_is_drawn(self):
        figure, axes = plt.subplots(2, 3, figsize=(7, 4))
        found = self.pieces(figure)
        assert len(found) == 3 and all(len(parts) == 1 for parts in found)
        (whole,) = figure.get_tightbbox().padded(0.1).bounds[2:3]
        left = figure.get_tightbbox().x0 - 0.1
        for column, ((x, y, width, height),) in enumerate(found):
            assert y < 0.1 and height > 0.9
            for ax in axes[:, column]:
                box = ax.get_tightbbox()
                assert left + x * whole < box.x0 / figure.dpi
                assert box.x1 / figure.dpi < left + (x + width) * whole
        assert all(a[0][0] + a[0][2] < b[0][0] + 0.01 for a, b in itertools.pairwise(found))

    def test_labels_that_panels_share_come_again(self):
        figure, axes = plt.subplots(1, 3, figsize=(7, 3), sharey=True)
        axes[0].set_ylabel("error")
        first, *others = self.pieces(figure)
        assert len(first) == 1 and len(others) == 2
        for labels, panel in others:
            assert labels[0] == pytest.approx(first[0][0], abs=0.01)
            assert labels[2] < first[0][2] / 2 < panel[2]
        figure, axes = plt.subplots(1, 3, figsize=(7, 3), sharey=True)
        axes[1].tick_params(labelleft=True)  # its own
        assert [len(parts) for parts in self.pieces(figure)] == [1, 1, 2]

    def test_legends_and_titles_of_the_figure_stand_apart(self):
        figure, axes = plt.subplots(1, 2, figsize=(7, 3))
        axes[0].plot([1, 2], label="a")
        figure.legend(loc="outside upper center")
        figure.supxlabel("steps")
        found = [parts[0] for parts in self.pieces(figure)]
        assert len(found) == 4
        legend, *panels, label = found
        assert legend[1] == 0 and label[1] + label[3] == pytest.approx(1)
        for _, y, _, height in panels:
            assert legend[3] - 0.01 < y < y + height < label[1] + 0.01
        renderer = narrow.RendererAgg(*figure.bbox.size, figure.dpi)
        text = figure.texts[0].get_window_extent(renderer)
        assert text.width / figure.get_tightbbox().width / figure.dpi < label[2] < 0.15

    def test_what_crosses_a_cut_forbids_it(self):
        figure, _ = plt.subplots(1, 2, figsize=(7, 3))
        assert len(self.pieces(figure)) == 2
        figure, _ = plt.subplots(1, 2, figsize=(7, 3))
        figure.text(0.3, 0.5, "a sentence that is written over both")
        assert self.pieces(figure) == narrow.WHOLE

    def test_a_colour_bar_stays_with_its_panel(self):
        figure, axes = plt.subplots(1, 2, figsize=(7, 3))
        for ax in axes:
            figure.colorbar(ax.imshow(np.eye(3)), ax=ax)
        assert len(self.pieces(figure)) == 2

    def test_pictures_become_smaller_before_they_come_apart(self):
        for inches, expected in ((5.5, 1), (7, 2)):
            figure, axes = plt.subplots(2, 6, figsize=(inches, 3))
            for ax in axes.flat:
                ax.set(xticks=[], yticks=[])
            axes[0, 0].set_title("before")
            assert len(self.pieces(figure)) == expected

    def test_the_root_of_the_drawing_says_it(self):
        figure, axes = plt.subplots(1, 2, figsize=(7, 3))
        axes[0].set_title("small", fontsize=8.5)
        text = narrow.svg(figure)
        root = re.search(r'<svg data-letters="8.5" data-pieces="([^"]*)" ', text)
        assert np.shape(json.loads(root[1])) == (2, 1, 4)
        plt.close(figure)
        assert narrow.svg(plt.figure()) is None
