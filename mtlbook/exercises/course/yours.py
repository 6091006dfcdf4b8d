"""Exercises of the pages on the reader's own tasks and networks."""

from mtlbook.exercises.model import DERIVE, PROJECT, WARM_UP, Exercise, Mistake, close


def without_overlap(f):
    """Without test samples nothing is widened

    The second term under the root is the one that the correction adds.
    """
    close(f(10, 50, 0), 1.0, "the ratio of the half widths")


def of_halves(f):
    """Of ten splits in halves it is the root of eleven

    Divide one half width by the other, and put the n under the root.
    """
    close(f(10, 50, 50), 11**0.5, "the ratio of the half widths")


EXERCISES = (
    Exercise(
        "ex-yours-splits",
        "How much wider",
        WARM_UP,
        "yours/tasks",
        signature="widening(n, train, test)",
        shapes="numbers: of splits, of training and of test samples -> half width of the corrected "
        "interval over that of the plain one",
        checks=(without_overlap, of_halves),
        mistakes=(
            Mistake(
                "This is the factor before the spread; divide it by that of the plain interval.",
                lambda n, train, test: (1 / n + test / train) ** 0.5,
            ),
            Mistake("A root is missing.", lambda n, train, test: 1 + n * test / train),
            Mistake(
                "The correction grows with the number of splits.",
                lambda n, train, test: (1 + test / train) ** 0.5,
            ),
        ),
    ),
    Exercise("ex-yours-anew", "Whose luck is it?", PROJECT, "yours/tasks"),
    Exercise("ex-yours-attach", "One module twice", WARM_UP, "yours/network"),
    Exercise("ex-paper-level", "A level is another claim", DERIVE, "yours/paper"),
    Exercise("ex-gpu-stack", "Why a stack is fast", WARM_UP, "yours/gpu"),
)
