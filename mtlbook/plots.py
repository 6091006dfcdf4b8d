"""Pictures that several pages of the book share (matplotlib and seaborn).

Every function but `cluster_map` draws into ``ax`` (the current axes where none is given) and
returns it. Colours are those of Okabe and Ito, which colour-blind readers can tell apart; sizes are
made for the column of a page, and for a phone, on which panels come below each other
(``mtlbook.narrow``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mtlbook import narrow
from mtlbook.ledger.statistics import Interval

if TYPE_CHECKING:  # with it would come torch, and a page on results needs none
    from seaborn.matrix import ClusterGrid

    from mtlbook.relations import Relation

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PINK = "#0072B2", "#D55E00", "#CC79A7"
GREY, BROWN = "#767676", "#8C510A"

#: Arm of an experiment -> its name in text, its colour.
ARMS = {
    "stl": ("STL", BLACK),
    "laf": ("LAF", BLUE),
    "tucker": ("Tucker", RED),
    "tt": ("TT", GREEN),
    "laf-tuned": ("LAF, tuned", BLUE),
    "tucker-tuned": ("Tucker, tuned", RED),
    "tt-tuned": ("TT, tuned", GREEN),
    "uncoupled-tuned": ("uncoupled, tuned", ORANGE),
    "uncoupled-tucker-tuned": ("own Tucker, tuned", ORANGE),
    "uncoupled-tt-tuned": ("own TT, tuned", SKY),
    "stl-again": ("STL, again", BLACK),
    "laf-again": ("LAF from STL", BLUE),
    "uncoupled-again": ("uncoupled from STL", ORANGE),
    "weight-decay-tuned": ("weight decay, tuned", PINK),
    "proximal-tuned": ("proximal LAF, tuned", SKY),
    "hard-sharing": ("hard sharing", GREY),
    "pooled": ("one model for all", BROWN),
    "laf-averaged": ("LAF, averaged", BLUE),
    "tucker-averaged": ("Tucker, averaged", RED),
    "tt-averaged": ("TT, averaged", GREEN),
    "uncoupled-averaged": ("uncoupled, averaged", ORANGE),
}


def arm_name(arm: str) -> str:
    """The arm's name in text; an arm without one keeps its own."""
    return ARMS.get(arm, (arm, GREY))[0]


def arm_colour(arm: str) -> str:
    """The arm's colour, the same on all pages; grey where it has none."""
    return ARMS.get(arm, (arm, GREY))[1]


def use_style() -> None:
    """Set the book's look: 4.8 inches wide, 11 points, light grid, no frame at top and right.

    In a notebook figures become SVG, sharp at any size. Letters are outlines, since a picture has
    no font of the page's, and equal figures are equal files.
    """
    plt.rcParams.update(
        {
            "figure.figsize": (4.8, 3.2),
            "figure.dpi": 130,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.prop_cycle": plt.cycler(color=[BLUE, RED, GREEN, ORANGE, PINK, SKY, BLACK]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E5E5E5",
            "legend.frameon": False,
            "lines.linewidth": 2,
            "svg.fonttype": "path",
            "svg.hashsalt": "mtlbook",
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # no notebook
        return
    if (shell := get_ipython()) is not None:
        set_matplotlib_formats("svg")
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, narrow.svg)


def hinton(
    matrix: ArrayLike,
    *,
    names: Sequence[str] = (),
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Hinton diagram: the area of a square is the size of an entry, blue positive, orange negative.

    Parameters
    ----------
    matrix : array_like, shape ``(m, n)``
    names : sequence of str, optional
        Of the rows, and of the columns where the matrix is square.
    limit : float, optional
        The size that fills a cell; by default the largest entry.
    ax : Axes, optional
    """
    ax = ax or plt.gca()
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2:
        raise ValueError(f"matrix: expected shape (m, n), got {matrix.shape}")
    rows, columns = matrix.shape
    limit = limit or float(np.abs(matrix).max()) or 1.0
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal")
    ax.grid(False)
    for (i, j), value in np.ndenumerate(matrix):
        side = 0.95 * np.sqrt(min(abs(value) / limit, 1))
        colour = BLUE if value > 0 else ORANGE
        ax.add_patch(plt.Rectangle((j - side / 2, i - side / 2), side, side, color=colour, lw=0))
    _name_cells(ax, names, rows, columns)
    return ax


def cluster_map(relation: Relation) -> ClusterGrid:
    """A relation with its tasks in the order of a tree that joins the closest first.

    The tree joins by average linkage of the distance ``1 - m_ij``, so that ``matrix`` should be a
    correlation or a cosine. It is always a tree: what has no groups is put in some order, too.

    Parameters
    ----------
    relation : Relation
        Of two tasks or more.

    Returns
    -------
    seaborn.matrix.ClusterGrid
        A figure of its own; ``dendrogram_row.linkage`` is the tree, ``reordered_ind`` its order.
    """
    import seaborn  # where it is used: it takes seconds, and most pages need none
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    matrix = relation.matrix.detach().cpu().numpy()
    if len(matrix) < 2:
        raise ValueError(f"relation: expected two tasks or more, got {len(matrix)}")
    distance = 1 - (matrix + matrix.T) / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance), "average")
    limit = float(np.abs(matrix).max()) or 1.0
    shown = {"cmap": "RdBu", "vmin": -limit, "vmax": limit, "cbar_pos": None, "figsize": (3.4, 3.4)}
    shown |= {"xticklabels": False, "yticklabels": list(relation.names) or True}
    with plt.rc_context({"figure.constrained_layout.use": False}):  # seaborn places the axes
        grid = seaborn.clustermap(matrix, row_linkage=tree, col_linkage=tree, **shown)
    grid.ax_heatmap.tick_params(axis="y", rotation=0)
    return grid


def forest(
    intervals: Mapping[str, Interval],
    *,
    values: Mapping[str, Sequence[float]] | None = None,
    printed: Mapping[str, tuple[float, float]] | None = None,
    colours: Mapping[str, str] | None = None,
    unit: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Intervals, one below the other: those that cross the line at zero decide nothing.

    Parameters
    ----------
    intervals : mapping of label to Interval
        Ours: a mean with its 95 % interval, drawn as a dot on a line.
    values : mapping of label to sequence of float, optional
        Single repeats, as faint dots.
    printed : mapping of label to (value, margin), optional
        The paper's value with the half-width of its interval, as a hollow diamond.
    colours : mapping of label to colour, optional
    unit : str
        Of the horizontal axis.
    ax : Axes, optional
    """
    ax = ax or plt.gca()
    if not intervals:
        raise ValueError("intervals: expected at least one, got none")
    values, printed, colours = values or {}, printed or {}, colours or {}
    for row, (label, ours) in enumerate(intervals.items()):
        colour = colours.get(label, BLUE)
        if label in values:
            dots = list(values[label])
            ax.scatter(dots, [row - 0.22] * len(dots), s=16, color=colour, alpha=0.35, lw=0)
        ax.plot([ours.low, ours.high], [row, row], color=colour, lw=3, solid_capstyle="butt")
        ax.plot(ours.mean, row, "o", color=colour, ms=8)
        if label in printed:
            value, margin = printed[label]
            ax.errorbar(
                value, row + 0.24, xerr=margin, fmt="D", color=GREY, mfc="white", ms=7, lw=1.5
            )
    ax.axvline(0, color=BLACK, lw=1)
    ax.set_yticks(range(len(intervals)), list(intervals))
    ax.set_ylim(len(intervals) - 0.5, -0.6)
    ax.set_xlabel(unit)
    ax.grid(axis="y", visible=False)
    return ax


def scales(reaches: Mapping[str, float], *, ratio: float = 5.0) -> list[list[str]]:
    """Group rows that one axis can show: none reaches less than one fifth as far as another.

    Parameters
    ----------
    reaches : mapping of label to float
        How far from zero a row goes.
    ratio : float
        Between the farthest and the nearest row of a group.

    Returns
    -------
    list of list of str
        Each label once, in the given order within a group; groups in the order of their first row.
    """
    groups: list[list[str]] = []
    farthest = 0.0
    for label in sorted(reaches, key=reaches.__getitem__, reverse=True):
        if not groups or reaches[label] * ratio < farthest:
            groups.append([])
            farthest = reaches[label]
        groups[-1].append(label)
    order = {label: place for place, label in enumerate(reaches)}
    groups = [sorted(group, key=order.__getitem__) for group in groups]
    return sorted(groups, key=lambda group: order[group[0]])


def panels(reaches: Mapping[str, float], *, row: float = 0.5) -> dict[Axes, list[str]]:
    """Start a figure with one axis below the other, each for rows of a like size (`scales`).

    Parameters
    ----------
    reaches : mapping of label to float
        How far from zero a row goes.
    row : float
        Its height in inches.

    Returns
    -------
    dict of Axes to list of str
        The rows of each axis.
    """
    groups = scales(reaches)
    heights = [row * len(group) + 0.7 for group in groups]
    size = plt.rcParams["figure.figsize"][0], sum(heights) + 0.1
    _, axes = plt.subplots(len(groups), figsize=size, squeeze=False, height_ratios=heights)
    return dict(zip(axes[:, 0], groups, strict=True))


def forests(
    intervals: Mapping[str, Interval],
    *,
    values: Mapping[str, Sequence[float]] | None = None,
    unit: str = "",
    row: float = 0.5,
    **options,
) -> dict[Axes, list[str]]:
    """A `forest` for each size of effect, so that no axis hides the small ones beside the large.

    Parameters are those of `forest`; ``row`` is the height of a row in inches.
    """
    if not intervals:
        raise ValueError("intervals: expected at least one, got none")
    reaches = {label: max(abs(i.low), abs(i.high)) for label, i in intervals.items()}
    found = panels(reaches, row=row)
    for ax, labels in found.items():
        of = {label: intervals[label] for label in labels}
        dots = {label: values[label] for label in labels if values and label in values}
        forest(of, values=dots, ax=ax, **options)
        ax.locator_params(axis="x", nbins=5)  # beside long labels there is no room for more numbers
    ax.set_xlabel(unit if len(found) == 1 else f"{unit}\n(mind the {len(found)} scales)".strip())
    return found


def curve(
    steps: Sequence[int],
    values: ArrayLike,
    *,
    label: str,
    colour: str | None = None,
    printed: Mapping[int, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A curve: mean over repeats as a line, their range as a band, printed points over both.

    Parameters
    ----------
    steps : sequence of int, shape ``(n,)``
    values : array_like, shape ``(repeats, n)``
    label : str
    colour : str, optional
    printed : mapping of step to float, optional
        The paper's points, as rings in the same colour.
    ax : Axes, optional
    """
    ax = ax or plt.gca()
    values = np.atleast_2d(np.asarray(values, dtype=float))
    if values.shape[1] != len(steps):
        raise ValueError(
            f"values: expected shape (repeats, {len(steps)}), a column per step, got {values.shape}"
        )
    (line,) = ax.plot(steps, values.mean(0), color=colour, label=label)
    ax.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, lw=0)
    if printed:
        x, y = list(printed), list(printed.values())
        ax.plot(x, y, "o", mfc="white", mec=line.get_color(), ms=6, zorder=3)
    return ax


def along(
    at: Sequence[float],
    found: Mapping[str, Sequence[Interval]],
    *,
    colours: Mapping[str, str],
    lines: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Intervals along an axis, a line with a band for each label, over the line at zero.

    Parameters
    ----------
    at : sequence of float, shape ``(n,)``
    found : mapping of label to n Interval
    colours : mapping of label to colour
    lines : mapping of label to line style, optional
        Solid where there is none.
    ax : Axes, optional
    """
    ax = ax or plt.gca()
    for label, of in found.items():
        style = (lines or {}).get(label, "-")
        ax.plot(at, [i.mean for i in of], style, color=colours[label], label=label)
        low, high = [i.low for i in of], [i.high for i in of]
        ax.fill_between(at, low, high, color=colours[label], alpha=0.13, lw=0)
    ax.axhline(0, color=BLACK, lw=1)
    ax.set_xticks(at, [f"{x:g}".replace("-", "−") for x in at])
    return ax


def spectra(
    singular_values: Mapping[str, ArrayLike],
    *,
    relative: bool = False,
    colours: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Singular values against their rank, on a logarithmic axis, one line a label.

    Parameters
    ----------
    singular_values : mapping of label to array_like, shape ``(k,)``, in falling order
    relative : bool
        Divide by the largest one.
    colours : mapping of label to colour, optional
    ax : Axes, optional
    """
    ax = ax or plt.gca()
    for (label, values), marker in zip(singular_values.items(), "osD^vXP*" * 9, strict=False):
        values = np.asarray(values, dtype=float)
        values = values / values[0] if relative else values
        colour = (colours or {}).get(label)
        ax.plot(range(1, len(values) + 1), values, marker=marker, ms=5, color=colour, label=label)
    ax.set(yscale="log", xlabel="number of the singular value")
    ax.set_ylabel("singular value / largest" if relative else "singular value")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def _name_cells(ax: Axes, names: Sequence[str], rows: int, columns: int) -> None:
    """Names at rows and, of a square matrix, at columns; without names no ticks."""
    ax.set_yticks(range(rows) if names else [], names or [])
    square = bool(names) and rows == columns
    ax.set_xticks(range(columns) if square else [], names if square else [], rotation=90)
