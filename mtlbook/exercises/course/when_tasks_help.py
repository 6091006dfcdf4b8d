"""Exercises of chapter 0, on when tasks help each other."""

import torch

from mtlbook.exercises.model import DERIVE, PROJECT, WARM_UP, Exercise, Mistake, close

WHEN = "when-tasks-help"


def nothing_of_equal_tasks(f):
    """Of tasks that are equal nothing is kept

    Then all that the two estimates differ by is noise.
    """
    close(torch.tensor(float(f(0.0, 1.5, 4))), torch.tensor(0.0), "the part")


def half_where_pooling_begins_to_hurt(f):
    """With one sample each, half is kept where the squared difference is twice the variance

    How far apart are two estimates of the same number, on average of the square?
    """
    close(torch.tensor(float(f(2.0, 2.0**0.5, 1))), torch.tensor(0.5), "the part")


def more_with_more_samples(f):
    """The more samples, the more is kept

    What is the variance of a mean of n samples?
    """
    close(torch.tensor(float(f(1.0, 2.0, 24))), torch.tensor(0.75), "the part")


EXERCISES = (
    Exercise(
        "ex-when-kept",
        "What to keep",
        WARM_UP,
        WHEN,
        signature="kept(difference, sigma, n)",
        shapes="numbers: of the truths, of the noise, of samples -> the part of the difference of "
        "the estimates that is kept, 0 to 1",
        checks=(
            nothing_of_equal_tasks,
            half_where_pooling_begins_to_hurt,
            more_with_more_samples,
        ),
        mistakes=(
            Mistake(
                "This is the part that is given up.",
                lambda difference, sigma, n: 2 * sigma**2 / n / (difference**2 + 2 * sigma**2 / n),
            ),
            Mistake(
                "A difference of two estimates has twice the variance of one.",
                lambda difference, sigma, n: difference**2 / (difference**2 + sigma**2 / n),
            ),
            Mistake(
                "sigma is the deviation of a sample; an estimate from n samples is more certain.",
                lambda difference, sigma, n: difference**2 / (difference**2 + 2 * sigma**2),
            ),
        ),
    ),
    Exercise("ex-when-stranger", "One stranger", DERIVE, WHEN),
    Exercise("ex-when-labels", "More labels", PROJECT, WHEN),
)
