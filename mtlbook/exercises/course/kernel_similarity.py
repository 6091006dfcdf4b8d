"""Exercises of the chapter on similar kernels."""

from functools import partial

import torch

from mtlbook.exercises.model import DERIVE, PROJECT, WARM_UP, Exercise, Mistake, close, randn
from mtlbook.kernels import chance_tail, cosine_similarity, gaussian_similarity, pair_share

exercise = partial(Exercise, chapter="foundations/kernel-similarity")

# ------------------------------------------------------------------------------- d = 2 and d = 3


def at_the_equator(f):
    """Half of all cosines are positive

    There is no reason for one sign.
    """
    close(f(torch.zeros(1).double()), torch.tensor([0.5]).double(), "the tail at zero")


def on_the_sphere(f):
    """It is the law of chance for three numbers, on both sides of zero

    For d = 3 the density of the cosine is flat on [-1, 1].
    """
    r = torch.linspace(-0.9, 0.9, 7).double()
    close(f(r), chance_tail(r, 3), "the tail")


# ------------------------------------------------------------------------------------ two measures


def with_sigma_the_square(f):
    """With sigma = c^2, c the length of all kernels, a cosine of 0.8 corresponds to exp(-0.4)

    Expand the square of the distance of two vectors of length c.
    """
    close(f(0.8, 1.0, 1.0), torch.tensor(-0.4).double().exp(), "the threshold")


def takes_the_same_pairs(f):
    """It takes the same pairs as the cosine does, whatever length and sigma

    Multiply all kernels by ten: by how much do the distances grow?
    """
    k = torch.nn.functional.normalize(randn(60, 5), dim=1) * 3.0
    rho = float(f(0.3, 3.0, 7.0))
    share = pair_share(gaussian_similarity(k, sigma=7.0), min(max(rho, 0.0), 1.0))
    close(float(share), float(pair_share(cosine_similarity(k), 0.3)), "the share of pairs")


# ----------------------------------------------------------------------------------- chance pairs


def of_three_kernels(f):
    """Three kernels are three pairs

    Each exceeds the threshold with the probability of the tail, and expectations add up.
    """
    close(f(3, 9, 0.5), 3 * float(chance_tail(0.5, 9)), "the expected number")


def of_a_layer(f):
    """Of 24 kernels it is what simulation counts

    Every kernel pairs with every other one, and a pair has no order.
    """
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(3000, 24, 9, generator=generator)
    unit = torch.nn.functional.normalize(kernels, dim=-1)
    above = (unit @ unit.mT > 0.5).sum((1, 2)).double() - 24  # the diagonal, always 1
    close(f(24, 9, 0.5), float(above.mean() / 2), "the expected number", rtol=0.02)


# --------------------------------------------------------------------------------------- Pearson


def on_a_circle(f):
    """Of three numbers without their mean, a circle is left

    Subtracting the mean projects on a subspace. Angles on a circle are uniform.
    """
    expected = float(torch.tensor(0.8).double().acos()) / torch.pi
    close(f(0.8, 3), expected, "the tail")


def of_slices(f):
    """Of nine numbers eight dimensions are left

    The law of chance, in the dimension that is left.
    """
    close(f(0.8, 9), float(chance_tail(torch.tensor(0.8).double(), 8)), "the tail")


EXERCISES = (
    exercise(
        "ex-kernel-expected",
        "How many pairs by chance",
        WARM_UP,
        signature="expected_pairs(kernels, d, rho)",
        shapes="numbers: kernels of d numbers each, a threshold -> how many pairs of independent "
        "kernels exceed it, on average",
        checks=(of_three_kernels, of_a_layer),
        mistakes=(
            Mistake(
                "Each pair is counted twice, once from either side.",
                lambda n, d, rho: n * (n - 1) * float(chance_tail(rho, d)),
            ),
            Mistake(
                "A kernel is no partner of its own.",
                lambda n, d, rho: n**2 / 2 * float(chance_tail(rho, d)),
            ),
            Mistake(
                "One partner for each kernel are not all pairs, unless there are three.",
                lambda n, d, rho: n * float(chance_tail(rho, d)),
            ),
        ),
    ),
    exercise(
        "ex-kernel-archimedes",
        "Archimedes",
        DERIVE,
        signature="tail_of_three(r)",
        shapes="r (n,), numbers in [-1, 1] -> (n,), the probability that the cosine of two random "
        "kernels of three numbers exceeds r",
        checks=(at_the_equator, on_the_sphere),
        mistakes=(
            Mistake(
                "The density is a half, not one: it must integrate to one over [-1, 1].",
                lambda r: 1 - r,
            ),
            Mistake(
                "For negative r more than half of the cosines lie above.",
                lambda r: (1 - r.abs()) / 2,
            ),
            Mistake("The tail is straight, as the density is flat.", lambda r: (1 - r**2) / 2),
        ),
    ),
    exercise("ex-kernel-uniform", "A cube instead of a ball", PROJECT),
    exercise("ex-kernel-effective", "Not all directions alike", DERIVE),
    exercise(
        "ex-kernel-gauss",
        "Gaussian and cosine",
        DERIVE,
        signature="gaussian_threshold(rho, length, sigma)",
        shapes="numbers: a threshold on the cosine, the length of all kernels, sigma -> the "
        "threshold on the Gaussian similarity",
        checks=(with_sigma_the_square, takes_the_same_pairs),
        mistakes=(
            Mistake(
                "The squared distance is 2 c^2 (1 - s): two squares and a double product.",
                lambda rho, m, sigma: torch.tensor(-(m**2) * (1 - rho) / sigma).exp(),
            ),
            Mistake(
                "The squared distance grows with the *square* of the length.",
                lambda rho, m, sigma: torch.tensor(-2 * m * (1 - rho) / sigma).exp(),
            ),
            Mistake(
                "In this book sigma is not squared.",
                lambda rho, m, sigma: torch.tensor(-2 * m**2 * (1 - rho) / sigma**2).exp(),
            ),
        ),
    ),
    exercise(
        "ex-kernel-pearson",
        "One dimension less",
        WARM_UP,
        signature="pearson_tail(rho, d)",
        shapes="numbers -> the probability that Pearson's correlation of two random kernels of d "
        "numbers exceeds rho",
        checks=(on_a_circle, of_slices),
        mistakes=(
            Mistake(
                "That is the cosine's. A correlation is the cosine of what is left without means.",
                lambda rho, d: float(chance_tail(torch.tensor(rho).double(), d)),
            ),
            Mistake(
                "That is the law on a circle, whatever the dimension.",
                lambda rho, d: float(torch.tensor(rho).double().acos()) / torch.pi,
            ),
        ),
    ),
)
