"""Exercises of the chapter on heterogeneous tasks."""

from functools import partial
from math import factorial, prod

import torch
import torch.nn.functional as F

from mtlbook.exercises.model import (
    DERIVE,
    WARM_UP,
    Exercise,
    Failed,
    Mistake,
    close,
    describe,
    randn,
)

exercise = partial(Exercise, chapter="foundations/heterogeneous-tasks")

_LAYERS = randn(5, 2, 3, 3), randn(5, seed=1), randn(4, 5, 3, 3, seed=2)
_ORDER = torch.tensor([2, 0, 1, 4, 3])


def filters_are_reordered(f):
    """Filter i of the new first layer is filter order[i] of the old one

    Indexing with a list of numbers takes what stands at these places.
    """
    came = f(*_LAYERS, _ORDER)
    if not isinstance(came, tuple) or len(came) != 3:
        raise Failed("three tensors", describe(came))
    close(came[0], _LAYERS[0][_ORDER], "the new first layer")


def computes_the_same(f):
    """The network computes what it did

    A channel that leaves the first layer at another place must be read there, with its bias.
    """
    x = randn(2, 2, 8, 8, seed=3)

    def run(first, bias, second):
        return F.conv2d(F.conv2d(x, first, bias).relu(), second)

    came = f(*_LAYERS, _ORDER)
    close(came[1], came[1].reshape(5), "the new bias")
    close(came[2], came[2].reshape(4, 5, 3, 3), "the new second layer")
    close(run(*came), run(*_LAYERS), "the outputs")


def of_one_layer(f):
    """Three filters have six orders

    The first place has a choice of three, the second of two.
    """
    close(f([3]), 6, "the number of networks")


def of_layers(f):
    """Layers are reordered independently of each other

    For each order of the first layer there are all orders of the second.
    """
    close(f([2, 3]), 12, "the number of networks for 2 and 3 filters")
    exact = factorial(12) * factorial(24) ** 2
    if (came := f([12, 24, 24])) != exact or not isinstance(came, int):
        raise Failed(f"the integer {exact}", f"{came!r}")


EXERCISES = (
    exercise(
        "ex-hetero-reorder",
        "The same network in another order",
        WARM_UP,
        signature="reorder(first, bias, second, order)",
        shapes="first (F, C, k, k), bias (F,), second (G, F, k, k), order (F,) -> the three, "
        "reordered",
        checks=(filters_are_reordered, computes_the_same),
        mistakes=(
            Mistake(
                "This is the inverse order: what was at place i goes to order[i].",
                lambda a, b, c, o: (a[o.argsort()], b[o.argsort()], c[:, o.argsort()]),
            ),
            Mistake(
                "The second layer still reads its inputs in the old order.",
                lambda a, b, c, o: (a[o], b[o], c),
            ),
            Mistake(
                "The bias of a filter must go with it.",
                lambda a, b, c, o: (a[o], b, c[:, o]),
            ),
            Mistake(
                "The second layer's *inputs* are its axis 1. Its filters keep their order.",
                lambda a, b, c, o: (a[o], b[o], c[o.clamp(max=3)]),
            ),
        ),
    ),
    exercise("ex-hetero-layers", "Which layers?", WARM_UP),
    exercise(
        "ex-hetero-permutations",
        "How many equal networks",
        WARM_UP,
        signature="equal_networks(filters)",
        shapes="filters, a list: how many filters each layer has -> an integer",
        checks=(of_one_layer, of_layers),
        mistakes=(
            Mistake("That is how many filters there are in all, not how many orders.", sum),
            Mistake(
                "Filters never leave their layer: orders of all of them together are too many.",
                lambda filters: factorial(sum(filters)),
            ),
            Mistake(
                "The number is larger than what a float holds exactly; stay with integers "
                "(`math.factorial`).",
                lambda filters: float(prod(factorial(n) for n in filters)),
            ),
        ),
    ),
    exercise("ex-hetero-adapter", "An adapter", DERIVE),
)
