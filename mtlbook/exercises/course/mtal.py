"""Exercises of the chapter on MTAL."""

from functools import partial

import torch

from mtlbook.exercises.model import DERIVE, PROJECT, WARM_UP, Exercise, Mistake, close, randn
from mtlbook.kernels import aggregate, chance_tail, chance_threshold, cosine_similarity

exercise = partial(Exercise, chapter="methods/mtal")

_KERNELS = torch.cat([randn(4, 9), randn(4, 9) + 0.5 * randn(4, 9, seed=1), -randn(2, 9)])

# ---------------------------------------------------------------------------------------- sharing


def nothing_is_shared(f):
    """With rho = 1 every kernel stays what it is

    A kernel's cosine with itself is 1. Is it its own partner?
    """
    close(f(_KERNELS, 1.0), _KERNELS, "the kernels")


def means_of_partners(f):
    """With rho = 0.5 each becomes the weighted mean of itself and its partners

    Its own weight is 1, a partner's is the cosine, and the weights are divided by their sum.
    """
    close(f(_KERNELS, 0.5), aggregate(_KERNELS, 0.5), "the kernels")


def _share(above, weigh, divide=True):
    def answer(kernels, rho):
        s = cosine_similarity(kernels)
        m = torch.where(above(s, rho), weigh(s), 0.0)
        m = m.fill_diagonal_(1.0)
        return (m / m.sum(1, keepdim=True) if divide else m) @ kernels

    return answer


# -------------------------------------------------------------------------------------- two kernels


def at_the_ends(f):
    """Orthogonal kernels stay orthogonal, equal ones equal

    Insert s = 0 and s = 1 into your formula.
    """
    s = torch.tensor([0.0, 1.0], dtype=torch.float64)
    close(f(s), s, "the cosines")


def in_between(f):
    """In between they come nearer to each other

    Both kernels are replaced at once, and the inner product of the two has four terms.
    """
    s = torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64)
    pairs = [torch.tensor([[1, 0], [x, (1 - x**2) ** 0.5]]).double() for x in s.tolist()]
    expected = torch.stack([cosine_similarity(aggregate(pair, 0.2))[0, 1] for pair in pairs])
    close(f(s), expected, "the cosines")


# ----------------------------------------------------------------------- a similarity that learns


def of_one_direction(f):
    """Where both kernels have one direction, the similarity does not move

    A cosine of 1 is at its largest, and what is at its largest has no slope.
    """
    k = torch.stack([randn(4), 3 * randn(4)])
    g = randn(2, 4, seed=1)
    close(f(k, g), g.mean(0).expand(2, 4), "the gradient")


def of_two_directions(f):
    """Elsewhere it is what autograd gives through the similarity

    The similarity of the pair stands in *both* shared kernels: in how many terms?
    """
    k = randn(2, 4) + 2 * randn(1, 4, seed=2)
    g = randn(2, 4, seed=1)
    at = k.clone().requires_grad_()
    (expected,) = torch.autograd.grad(aggregate(at, 0.1, detach=False), at, g)
    close(f(k, g), expected, "the gradient")


def _attached(both=True, divide=True, slope=True):
    def answer(k, g):
        length = k.norm(dim=1, keepdim=True)
        unit = k / length
        s = unit[0] @ unit[1]
        shared = (k + s * k.flip(0)) / (1 + s)
        moves = (g * (k.flip(0) - shared)).sum(1) / (1 + s)
        if both:
            moves = moves.sum().expand(2)
        turn = (unit.flip(0) - s * unit) / (length if divide else 1)
        return (g + s * g.flip(0)) / (1 + s) + (moves[:, None] * turn if slope else 0)

    return answer


# -------------------------------------------------------------------------------- threshold


def leaves_so_many(f):
    """Above it lie as many chance pairs as were asked for

    Of how many pairs does a share of the tail consist? No order, nobody with himself.
    """
    for kernels, d, pairs in ((24, 9, 1.0), (72, 216, 3.0)):
        rho = torch.tensor(float(f(kernels, d, pairs))).double()
        left = float(chance_tail(rho, d)) * kernels * (kernels - 1) / 2
        close(left, pairs, f"pairs of {kernels} kernels of {d} numbers", rtol=1e-4)


EXERCISES = (
    exercise(
        "ex-mtal-share",
        "Sharing in five lines",
        WARM_UP,
        signature="share(kernels, rho)",
        shapes="kernels (P, d), rho at least 0 -> (P, d), mtal-aggregate",
        checks=(nothing_is_shared, means_of_partners),
        mistakes=(
            Mistake(
                "All kernels are partners in yours: what is not above rho has no weight.",
                _share(lambda s, rho: s == s, lambda s: s),
            ),
            Mistake(
                "Opposite kernels are no partners: the cosine itself must exceed rho.",
                _share(lambda s, rho: s.abs() > rho, lambda s: s.abs()),
            ),
            Mistake(
                "The sum is not divided by the weights: kernels with partners grow.",
                _share(lambda s, rho: s > rho, lambda s: s, divide=False),
            ),
            Mistake(
                "Partners count in full; their weight is the cosine.",
                _share(lambda s, rho: s > rho, torch.ones_like),
            ),
        ),
    ),
    exercise(
        "ex-mtal-two",
        "Two kernels",
        DERIVE,
        signature="next_cosine(s)",
        shapes="s (n,), cosines above the threshold -> (n,), those of the shared kernels",
        checks=(at_the_ends, in_between),
        mistakes=(
            Mistake(
                "The sum of the weights is a common factor of both and drops out of a cosine.",
                lambda s: (3 * s + s**3) / (1 + s) ** 2,
            ),
            Mistake(
                "That is an inner product. A cosine is divided by both lengths.",
                lambda s: (3 * s + s**3) / (1 + s),
            ),
            Mistake(
                "Only one of the two kernels has been replaced here. Both are, at once.",
                lambda s: 2 * s / (1 + 3 * s**2).sqrt(),
            ),
            Mistake("Sharing changes the cosine.", lambda s: s),
        ),
    ),
    exercise("ex-mtal-one", "The check that every implementation owes", PROJECT),
    exercise(
        "ex-mtal-attached",
        "Differentiating the similarity",
        DERIVE,
        signature="gradient_of_pair(kernels, upstream)",
        shapes="kernels (2, d), a pair; upstream (2, d), the gradient at the shared kernels -> "
        "(2, d), the gradient at the kernels, with the cosine differentiated",
        checks=(of_one_direction, of_two_directions),
        mistakes=(
            Mistake("That is the gradient at the *shared* kernels.", lambda k, g: g.clone()),
            Mistake(
                "This holds the similarity fixed: it is A^T G, what `detach=True` gives.",
                _attached(slope=False),
            ),
            Mistake(
                "A similarity moves both shared kernels, and yours sees a kernel's own only.",
                _attached(both=False),
            ),
            Mistake(
                "The direction of a long kernel turns slowly: a length is missing.",
                _attached(divide=False),
            ),
        ),
    ),
    exercise(
        "ex-mtal-threshold",
        "A threshold for each layer",
        DERIVE,
        signature="layer_threshold(kernels, d, pairs)",
        shapes="numbers: kernels of a layer, in all tasks, of d numbers each; chance pairs that "
        "are wanted on average -> rho",
        checks=(leaves_so_many,),
        mistakes=(
            Mistake(
                "Each pair is counted twice.",
                lambda n, d, pairs: chance_threshold(d, pairs / (n * (n - 1))),
            ),
            Mistake(
                "That is a share of the kernels, not of the pairs.",
                lambda n, d, pairs: chance_threshold(d, pairs / n),
            ),
        ),
    ),
    exercise("ex-mtal-redundancy", "Does sharing suppress redundancy?", PROJECT),
)
