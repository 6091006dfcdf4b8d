"""Figures for narrow screens: where a picture of several panels may be taken apart.

A figure of the book is one picture. As SVG it also says, in two attributes of its root, how high
its smallest letters are and which rectangles of it can stand below each other.
``book/_static/fit.js`` puts them so on a phone, where of a wide figure only a part would be seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

COLUMN = 4.4  # inches of a picture that a phone shows at 0.85 of its size
LOWEST = 6.75  # points: letters that are 9 pixels high
GAP = 0.05  # inches around a piece

Rectangle = tuple[float, float, float, float]  # left, top, width, height, as parts of the picture
WHOLE: list[list[Rectangle]] = [[(0.0, 0.0, 1.0, 1.0)]]


def svg(figure: Figure) -> str | None:
    """A figure as SVG, whose root has ``data-letters`` (points) and ``data-pieces`` (`pieces`)."""
    from IPython.core.pylabtools import print_figure

    if (text := print_figure(figure, "svg", metadata={"Date": None})) is None:
        return None  # nothing is drawn
    rounded = [[[round(x, 4) for x in part] for part in piece] for piece in pieces(figure)]
    found = json.dumps(rounded, separators=(",", ":"))
    root = f'<svg data-letters="{letters(figure):g}" data-pieces="{found}" '
    return text.replace("<svg ", root, 1)


def letters(figure: Figure) -> float:
    """How high the smallest letters of a figure are, in points."""
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return min((t.get_fontsize() for t in texts), default=rcParams["font.size"])


def pieces(figure: Figure, *, column: float = COLUMN) -> list[list[Rectangle]]:
    """The pieces that a figure is divided into, first to last, where it is wider than a column.

    Cuts go from top to bottom where nothing is drawn, and a piece has as many columns of panels as
    fit. Titles and legends of the whole figure are pieces of their own, above or below. Colour bars
    stay with what is to the left of them. Panels without numbers at their axes, as pictures are,
    become smaller before they are divided.

    Parameters
    ----------
    figure : Figure
        Drawn before, so that its layout is made.
    column : float
        Inches.

    Returns
    -------
    list of list of (left, top, width, height)
        Of each piece the rectangles that stand side by side, as parts of the picture that
        ``bbox_inches="tight"`` makes. There are two where panels share the labels of one to the
        left of them, which come again. One rectangle, the picture, where nothing is divided.
    """
    if len(figure.axes) < 2:
        return WHOLE
    renderer = RendererAgg(*figure.bbox.size, figure.dpi)  # texts remember that of another size
    boxes = {ax: ax.get_tightbbox(renderer) for ax in figure.axes if ax.get_visible()}
    columns = _columns(boxes)
    spans = [Bbox.union([boxes[ax] for ax in of]) for of in columns]
    cuts = [(a.x1 + b.x0) / 2 for a, b in pairwise(spans)]
    extra = [a for a in [*figure.texts, *figure.legends] if a.get_visible()]
    extra = [artist.get_tightbbox(renderer) for artist in extra]
    high, low = max((b.y1 for b in spans), default=0), min((b.y0 for b in spans), default=0)
    above = [box for box in extra if box.y0 >= high - 1]
    below = [box for box in extra if box.y1 <= low + 1]
    beside = [box for box in extra if box not in above and box not in below]
    if any(box.x0 < cut < box.x1 for box in beside for cut in cuts):
        return WHOLE
    for box in beside:  # to the left of the first column, or to the right of the last
        at = sum(cut < box.x0 for cut in cuts)
        spans[at] = Bbox.union([spans[at], box])

    shared = [_shared(columns, spans, i, renderer) for i in range(len(columns))]
    if not any(t.get_text() for ax in boxes for t in ax.get_xticklabels()):
        column = max(column, column * 0.85 * letters(figure) / LOWEST)
    gap, column = GAP * figure.dpi, column * figure.dpi
    widths, again = [b.width + 2 * gap for b in spans], [b.width if b else 0.0 for b in shared]
    tries = (list(_fill(widths, again, part * column)) for part in np.linspace(0.3, 1, 15))
    groups = min(tries, key=len)  # the first, whose pieces are the most alike
    if len(groups) < 2:
        return WHOLE

    picture = Bbox.union([*spans, *extra]).padded(rcParams["savefig.pad_inches"] * figure.dpi)
    left, bottom, right, top = picture.extents
    upper = min([top, *((high + box.y0) / 2 for box in above)])
    lower = max([bottom, *((low + box.y1) / 2 for box in below)])

    def part(x0: float, x1: float, y0: float, y1: float) -> Rectangle:
        x0, x1 = max(x0, left), min(x1, right)
        wide, tall = picture.size
        return (x0 - left) / wide, (top - y1) / tall, (x1 - x0) / wide, (y1 - y0) / tall

    def band(of: list[Bbox], y0: float, y1: float) -> list[list[Rectangle]]:
        return (
            [[part(min(b.x0 for b in of) - gap, max(b.x1 for b in of) + gap, y0, y1)]] if of else []
        )

    found = band(above, upper, top)
    for start, stop in groups:
        box, labels = Bbox.union(spans[start:stop]), shared[start]
        again = [part(labels.x0 - gap, labels.x1, labels.y0, labels.y1)] if labels else []
        low, high = max(box.y0 - gap, lower), min(box.y1 + gap, upper)
        found.append([*again, part(box.x0 - gap, box.x1 + gap, low, high)])
    return found + band(below, bottom, lower)


def _columns(boxes: dict[Axes, Bbox]) -> list[list[Axes]]:
    """Panels from left to right; those that no line from top to bottom divides stand together."""
    found: list[list[Axes]] = []
    end = -np.inf
    for ax in sorted(boxes, key=lambda ax: boxes[ax].x0):
        if found and (boxes[ax].x0 < end or _is_colour_bar(ax)):
            found[-1].append(ax)
        else:
            found.append([ax])
        end = max(end, boxes[ax].x1)
    return found


def _shared(
    columns: list[list[Axes]], spans: list[Bbox], at: int, renderer: RendererAgg
) -> Bbox | None:
    """Where the labels are that a column has from one to the left of it; None: it has its own."""

    def labels(ax: Axes) -> Bbox | None:
        box = ax.yaxis.get_tightbbox(renderer) if ax.axison and not _is_colour_bar(ax) else None
        return box if box is not None and box.width > 1 else None

    if any(map(labels, columns[at])):
        return None
    for earlier in reversed(range(at)):
        named = {ax: box for ax in columns[earlier] if (box := labels(ax))}
        if any(_in_one_row(ax, other) for ax in named for other in columns[at]):
            box = Bbox.union(list(named.values()))
            return Bbox.from_extents(spans[earlier].x0, box.y0, box.x1, box.y1)
    return None


def _is_colour_bar(ax: Axes) -> bool:
    return ax.get_label() == "<colorbar>"


def _in_one_row(ax: Axes, other: Axes) -> bool:
    places = [(a.bbox.y0, a.bbox.y1) for a in (ax, other)]
    return np.allclose(*places, atol=1) and np.allclose(ax.get_ylim(), other.get_ylim())


def _fill(widths: list[float], again: list[float], limit: float) -> Iterator[tuple[int, int]]:
    """Groups of neighbours that are no wider than a limit, where one alone is not."""
    start, filled = 0, 0.0
    for i, width in enumerate(widths):
        if i > start and filled + width > limit:
            yield start, i
            start, filled = i, again[i]
        filled += width
    yield start, len(widths)
