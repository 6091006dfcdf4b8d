"""Exercises of the chapter on saliency."""

from functools import partial

import torch

from mtlbook.exercises.model import (
    DERIVE,
    WARM_UP,
    Exercise,
    Mistake,
    close,
    randn,
    require,
    shaped,
)
from mtlbook.saliency import pairwise_distances

exercise = partial(Exercise, chapter="foundations/saliency")

# ------------------------------------------------------------------------------------- distances


def on_one_sample(f):
    """On one sample it is the l1 distance of two vectors

    Every pair of tasks has one, and a task is at no distance from itself.
    """
    s = randn(4, 1, 3)
    expected = (s[:, None, 0] - s[None, :, 0]).abs().sum(-1)
    close(f(s), expected, "the distances")


def on_a_batch(f):
    """On a batch it is the sum of the samples' distances

    Two tasks may differ by +1 on one sample and by -1 on another.
    """
    s = randn(4, 6, 3)
    close(f(s), pairwise_distances(s), "the distances")


# ---------------------------------------------------------------------------- through a sigmoid


def where_undecided(f):
    """At a score of zero the saliency is divided by four

    What is the slope of the sigmoid in the middle?
    """
    s = randn(5, 3)
    close(f(torch.zeros(5).double(), s), s / 4, "the saliency of the probability")


def where_certain(f):
    """At other scores it is the gradient by autograd

    The slope of the sigmoid at f is the probability of a yes times that of a no.
    """
    w, a = randn(3), 3 * randn(5, 3, seed=1)
    at = a.clone().requires_grad_()
    (expected,) = torch.autograd.grad(torch.sigmoid(at @ w).sum(), at)
    close(f(a @ w, w.expand(5, 3)), expected, "the saliency of the probability")


# ---------------------------------------------------------------------------- a domain in pieces

_PIECES = [torch.linspace(low, high, 9).double() for low, high in ((-2, -1), (-0.5, 0.5), (1, 2))]


def is_zero_at_zero(f):
    """f(0) = 0, and there is a value for each place

    Both functions are in the class of the theorem.
    """
    a = torch.linspace(-2, 2, 9).double()
    shaped(f(a), (9,), "the values", a)
    close(f(a)[4], 0.0, "f(0)")


def is_flat_on_the_pieces(f):
    """On each of the three pieces it does not change

    A gradient of zero on a connected piece means one value on all of it; the piece in the middle
    has the zero.
    """
    for piece in _PIECES:
        values = f(piece[1:-1])
        spread = float(values.max() - values.min())
        require(
            spread < 1e-9, f"one value from {piece[0]:g} to {piece[-1]:g}", f"{spread:.3g} apart"
        )


def is_another_function(f):
    """It is not zero everywhere on the domain

    Where may the value jump without anybody seeing a gradient?
    """
    values = torch.cat([f(piece[1:-1]) for piece in _PIECES])
    require(values.abs().max() > 1e-3, "a value that is not zero", "zeros only")


# ---------------------------------------------------------------------------------- the Hessian


def of_a_straight_place(f):
    """Where V a + beta = 0 the tanh is straight, and nothing arrives

    The second derivative of tanh: is it even or odd?
    """
    hidden, out = randn(6, 4), randn(6, seed=1)
    a = randn(4, seed=2)
    close(f(hidden, out, -hidden @ a, a), torch.zeros(4, 4).double(), "the Hessian")


def of_any_place(f):
    """Elsewhere it is the derivative of the saliency, by autograd

    Differentiate the saliency once more by the chain rule. On which sides does V stand?
    """
    hidden, out, bias, a = randn(6, 4), randn(6, seed=1), randn(6, seed=3), randn(4, seed=2)
    expected = torch.autograd.functional.hessian(lambda x: out @ torch.tanh(hidden @ x + bias), a)
    close(f(hidden, out, bias, a), expected, "the Hessian")


def _hessian(second):
    def answer(hidden, out, bias, a):
        t = torch.tanh(hidden @ a + bias)
        return hidden.mT @ torch.diag(out * second(t)) @ hidden

    return answer


EXERCISES = (
    exercise(
        "ex-saliency-distances",
        "Distances of saliencies",
        WARM_UP,
        signature="distances(g)",
        shapes="g (T, B, d), the saliencies of T tasks on B samples -> (T, T), l1, summed over the "
        "batch",
        checks=(on_one_sample, on_a_batch),
        mistakes=(
            Mistake(
                "This is the Euclidean distance, and l1 is asked for.",
                lambda s: pairwise_distances(s, 2),
            ),
            Mistake(
                "The saliencies are added over the batch first, and then compared: differences of "
                "opposite sign cancel. Compare sample by sample, then add.",
                lambda s: pairwise_distances(s.sum(1, keepdim=True)),
            ),
            Mistake(
                "A mean over the batch is B times smaller than the sum.",
                lambda s: pairwise_distances(s) / s.shape[1],
            ),
        ),
    ),
    exercise(
        "ex-saliency-saturation",
        "A sigmoid in the way",
        WARM_UP,
        signature="saliency_of_probability(score, g)",
        shapes="score (B,), g (B, d), the saliency of the score -> (B, d), that of its sigmoid",
        checks=(where_undecided, where_certain),
        mistakes=(
            Mistake(
                "That is the probability times the saliency; what is asked for is a slope.",
                lambda score, s: torch.sigmoid(score)[:, None] * s,
            ),
            Mistake(
                "A quarter is the slope in the middle only.",
                lambda score, s: s / 4,
            ),
        ),
    ),
    exercise("ex-saliency-scale", "One network, any scale", DERIVE),
    exercise(
        "ex-saliency-domain",
        "Two functions, one gradient",
        DERIVE,
        signature="another_zero(a)",
        shapes="a (n,) -> (n,), the values at a of a function other than zero with zero gradient "
        "on (-2, -1), (-1/2, 1/2) and (1, 2), and zero at zero",
        checks=(is_zero_at_zero, is_flat_on_the_pieces, is_another_function),
        mistakes=(
            Mistake("A constant other than zero is not zero at zero.", torch.ones_like),
            Mistake(
                "The sign jumps at zero, inside the piece in the middle: no gradient is there at "
                "that place, and autograd does not say so.",
                torch.sign,
            ),
            Mistake("That is the first of the two functions.", torch.zeros_like),
        ),
    ),
    exercise(
        "ex-saliency-tanh",
        "Who hears of the regulariser?",
        DERIVE,
        signature="slope_of_saliency(hidden, out, bias, a)",
        shapes="V (m, d), v (m,), beta (m,), a (d,): f(a) = <v, tanh(V a + beta)> -> its Hessian",
        checks=(of_a_straight_place, of_any_place),
        mistakes=(
            Mistake(
                "The first derivative of tanh is in the saliency; its derivative is the second.",
                _hessian(lambda t: 1 - t**2),
            ),
            Mistake("The sign of the second derivative.", _hessian(lambda t: 2 * t * (1 - t**2))),
            Mistake(
                "A factor is missing: differentiate 1 - tanh^2 by the chain rule.",
                _hessian(lambda t: -2 * t),
            ),
        ),
    ),
)
