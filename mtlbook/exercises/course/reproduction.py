"""Exercises of the pages on reproduction."""

import torch

from mtlbook.exercises.model import (
    DERIVE,
    PROJECT,
    WARM_UP,
    Exercise,
    Mistake,
    close,
    randn,
)

# ------------------------------------------------------------------------------------ null space


def fits(f):
    """It fits every sample

    With fewer samples than weights, gradient descent reaches an error of zero.
    """
    x, y, start = randn(5, 8), randn(5, seed=1), randn(8, seed=2)
    close(x @ f(x, y, start), y, "the predictions")


def stays_where_no_sample_is(f):
    """Where no sample lies, it is what it was at the start

    Every gradient is a combination of the samples. Which part of the start does none of them move?
    """
    x, y, start = randn(5, 8), randn(5, seed=1), randn(8, seed=2)
    rest = torch.eye(8).double() - torch.linalg.pinv(x) @ x
    close(rest @ f(x, y, start), rest @ start, "the part that no sample reaches")


# --------------------------------------------------------------------------------- one confusion


def of_no_mistakes(f):
    """Perfect precision and recall are perfect accuracy

    Whatever the share of positives.
    """
    close(f(1.0, 1.0, 0.1), 1.0, "the accuracy")


def of_counts(f):
    """Of 30 true and 20 false positives, 10 false and 140 true negatives it is 0.85

    Count, out of 200, what is right and what is wrong; the share of positives gives the unit.
    """
    close(f(30 / 50, 30 / 40, 40 / 200), 170 / 200, "the accuracy")


# ------------------------------------------------------------------- repeats or replications


def of_equal_spreads(f):
    """Where replications differ as much as repeats do, it is the root of what tuning costs

    Write the variance of the mean for N trainings, and set its derivative in m to zero.
    """
    close(f(3.0, 3.0, 25), 5.0, "the number of repeats")


def no_number_is_better(f):
    """No other number of repeats gives a smaller variance at the same cost

    The variance is that of a replication's mean over the number of replications that there are.
    """
    within, between, tuning = 4.0, 1.6, 20

    def variance(m):
        return (between**2 + within**2 / m) * (tuning + m)

    best = float(f(within, between, tuning))
    least = min(variance(m / 10) for m in range(1, 2000))
    close(variance(best), least, "the variance at a given cost", atol=1e-2)


EXERCISES = (
    Exercise("ex-mrn-flattery", "The best iteration", PROJECT, "reproduction/mrn"),
    Exercise(
        "ex-srdml-null-space",
        "Where the gain comes from",
        DERIVE,
        "reproduction/srdml",
        signature="converged(x, y, start)",
        shapes="x (n, D) of full row rank, n < D, y (n,), start (D,) -> (D,), where gradient "
        "descent on the squared error ends",
        checks=(fits, stays_where_no_sample_is),
        mistakes=(
            Mistake(
                "The start has predictions of its own: what has to be added is the solution for "
                "what they leave.",
                lambda x, y, start: start + torch.linalg.pinv(x) @ y,
            ),
            Mistake(
                "That is the end of descent from zero, the shortest solution. From another start "
                "it is another one.",
                lambda x, y, start: torch.linalg.pinv(x) @ y,
            ),
        ),
    ),
    Exercise("ex-srdml-second-stage", "A fair second stage", WARM_UP, "reproduction/srdml"),
    Exercise("ex-mtal-joined", "Joined by chance", PROJECT, "reproduction/mtal"),
    Exercise("ex-study-signs", "Signs", DERIVE, "reproduction/which-method-when"),
    Exercise(
        "ex-study-replications",
        "Repeats or replications?",
        DERIVE,
        "reproduction/which-method-when",
        signature="best_repeats(within, between, tuning)",
        shapes="numbers: two standard deviations, and the trainings that a search takes -> m",
        checks=(of_equal_spreads, no_number_is_better),
        mistakes=(
            Mistake(
                "Set the derivative of the product to zero: what tuning costs comes under a root.",
                lambda within, between, tuning: tuning * within / between,
            ),
            Mistake(
                "These are variances; m has the ratio of the standard deviations.",
                lambda within, between, tuning: tuning**0.5 * (within / between) ** 2,
            ),
            Mistake(
                "The more replications differ, the fewer repeats each should have.",
                lambda within, between, tuning: tuning**0.5 * between / within,
            ),
        ),
    ),
    Exercise("ex-study-budget", "Forty settings", WARM_UP, "reproduction/which-method-when"),
    Exercise(
        "ex-printed-accuracy",
        "A table against its own arithmetic",
        DERIVE,
        "reproduction/printed-numbers",
        signature="implied_accuracy(precision, recall, rate)",
        shapes="three numbers in (0, 1]; rate is the share of positives -> the accuracy",
        checks=(of_no_mistakes, of_counts),
        mistakes=(
            Mistake(
                "These are the true positives alone; true negatives are right, too.",
                lambda p, r, rate: r * rate,
            ),
            Mistake(
                "The positives that are missed are counted, and the false alarms are not.",
                lambda p, r, rate: 1 - rate * (1 - r),
            ),
            Mistake(
                "That is the F measure, which does not see true negatives.",
                lambda p, r, rate: 2 * p * r / (p + r),
            ),
        ),
    ),
)
