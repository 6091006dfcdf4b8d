"""Pictures that a reader of the book moves, and the numbers of the package that drive them.

Each function computes what one of them shows and returns a `Box` that a cell displays. Its script
is ``book/_static/explorables/NAME.js``. Where a browser runs none, the box says which figure of the
page stands for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

from mtlbook.kernels import cosine_similarity
from mtlbook.priors import flip_flop, quadratic_form
from mtlbook.tensors import unfold

SCRIPTS = "../_static/explorables"  # from a page in a folder of the book


@dataclass(frozen=True)
class Box:
    """One explorable: its name, what it is about, and its data.

    Parameters
    ----------
    name : str
        Of its script.
    about : str
        What can be moved, in words: the name of the box for those who do not see it.
    data : mapping
        Numbers for the script, as JSON can hold them.
    """

    name: str
    about: str
    data: Mapping

    def _repr_html_(self) -> str:
        # "<" would end the script element that holds the data
        data = json.dumps(self.data, allow_nan=False).replace("<", "\\u003c")
        return (
            f'<div class="explorable" data-explorable="{escape(self.name)}" role="group" '
            f'aria-label="{escape(self.about)}">'
            f'<p class="still">{escape(self.about)}. This needs scripts, which run in the built '
            "book; without them the figure above stands for it.</p>"
            f'<script type="application/json">{data}</script></div>'
            f'<script src="{SCRIPTS}/core.js"></script>'
            f'<script src="{SCRIPTS}/{self.name}.js"></script>'
        )


def hover(matrix: Tensor) -> Box:
    r"""Sub-gradient against proximal steps on :math:`\frac12 \|X - A\|_F^2 + \gamma \|X\|_*`.

    Parameters
    ----------
    matrix : Tensor, shape ``(m, n)``
        A, where both start.
    """
    values = torch.linalg.svdvals(matrix)
    return Box(
        "hover",
        "Sub-gradient steps beside proximal steps, for any step size, penalty and number of steps",
        {"values": _rounded(values)},
    )


def shrinkage(matrix: Tensor) -> Box:
    r"""What time leaves of singular values under four penalties: the laws of shrinkage.

    Parameters
    ----------
    matrix : Tensor, shape ``(m, n)``
        Where descent along a penalty starts.
    """
    return Box(
        "shrinkage",
        "Four laws of shrinkage: singular values before and after a time of descent",
        {"values": _rounded(torch.linalg.svdvals(matrix))},
    )


def two_tasks(estimates: Sequence[float], samples: Sequence[int]) -> Box:
    """Two tasks with one weight each under a prior with correlation rho.

    Parameters
    ----------
    estimates : sequence of 2 floats
        Of the weights, each from the task's own samples with noise of variance 1.
    samples : sequence of 2 ints
    """
    return Box(
        "twotasks",
        "The prior of two tasks with correlation rho, the estimates of both, and the posterior",
        {"estimates": [round(float(y), 2) for y in estimates], "samples": list(samples)},
    )


def flip_flop_runs(samples: Mapping[int, Tensor], *, sweeps: int = 6) -> Box:
    r"""Flip-flop from identities: :math:`\log_{10} Q / D` after each sweep, per order and scale.

    Parameters
    ----------
    samples : mapping of the number N of modes to Tensor, shape ``(n, D_1, ..., D_N)``
    sweeps : int
    """

    def logs(x: Tensor, order: str, scale: str) -> list[float]:
        found, values = [None] * (x.ndim - 1), []
        for _ in range(sweeps + 1):
            values.append(quadratic_form(x, found).sum() / x.numel())
            found = flip_flop(x, found, eps=0, order=order, scale=scale)
        return _rounded(torch.stack(values).log10())

    runs = {
        str(k): {
            order: {"free": logs(x, order, "none"), "fixed": logs(x, order, "trace")}
            for order in ("sequential", "simultaneous")
        }
        for k, x in samples.items()
    }
    return Box(
        "flipflop",
        "Flip-flop in either order, from any scale: the quadratic form after each sweep",
        {"runs": runs, "sweeps": sweeps},
    )


def chance(dimensions: Sequence[int], *, kernels: int = 400, bars: int = 50, seed: int = 0) -> Box:
    """The law of the cosine of random kernels over counts of drawn ones.

    Parameters
    ----------
    dimensions : sequence of int
        Numbers of entries that can be chosen.
    kernels : int
        Drawn for each; all their pairs are counted.
    bars : int
        Of the histogram, over [-1, 1].
    seed : int
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.triu_indices(kernels, kernels, 1)
    counts = []
    for d in dimensions:
        drawn = torch.randn(kernels, d, generator=generator, dtype=torch.float64)
        cosines = cosine_similarity(drawn)[rows, columns].clamp(-1, 1)
        counts.append(torch.histc(cosines, bars, -1, 1).int().tolist())
    return Box(
        "chance",
        "The law of the cosine of random kernels, its tail, and pairs expected above a threshold",
        {"dimensions": list(dimensions), "counts": counts, "pairs": len(rows)},
    )


def unfoldings(stacks: Mapping[str, Tensor]) -> Box:
    """All unfoldings of stacks: where an entry goes, and the singular values.

    Parameters
    ----------
    stacks : mapping of a name to Tensor, shape ``(d_1, ..., d_{N-1}, T)``, one shape for all
    """
    shapes = {tuple(w.shape) for w in stacks.values()}
    if len(shapes) != 1:
        raise ValueError(f"stacks: expected one shape for all, got {sorted(shapes)}")
    (shape,) = shapes
    n = len(shape)
    names = [(f"mode-{i}", f"W({i})") for i in range(1, n + 1)]
    names += [(f"cut-{i}", f"W[{i}]") for i in range(1, n)]

    def matrix(w: Tensor, name: str) -> Tensor:
        kind, at = name.split("-")
        return unfold(w, int(at) - 1) if kind == "mode" else w.flatten(0, int(at) - 1).flatten(1)

    spectra = {
        label: {name: _rounded(torch.linalg.svdvals(matrix(w, name))) for name, _ in names}
        for label, w in stacks.items()
    }
    return Box(
        "unfoldings",
        "Unfoldings and cuts of a stack: where an entry goes, and the singular values",
        {
            "shape": list(shape),
            "unfoldings": names,
            "stacks": {label: {"spectra": of} for label, of in spectra.items()},
        },
    )


def _rounded(values: Tensor) -> list[float]:
    """Nine digits, which a page need not exceed; rounding errors about zero become zero."""
    return [float(f"{value:.9g}") if abs(value) > 1e-12 else 0.0 for value in values.tolist()]
