"""What the study's pages read off its committed results, against the records themselves."""

import numpy as np
import pytest

from mtlbook.comparison import winners
from mtlbook.experiments import measured, which_method
from mtlbook.experiments.problems import AGAIN, REAL, TEACHERS
from mtlbook.ledger.repository import committed
from mtlbook.ledger.statistics import mean_interval


@pytest.fixture(scope="module")
def first():
    return measured.first_draw()


def test_the_first_draw_holds_all_of_its_records(first):
    for name in measured.FIRST_DRAW:
        result = committed(name)
        for problem in measured.problems_of(result):
            for arm, own in first.scores[problem].items():
                values = result.values(arm, f"score/{problem}")
                assert own.tolist() == [values[repeat] for repeat in sorted(values)]
    assert len(first.scores) == 26 and {*measured.LABEL} >= {
        a for of in first.scores.values() for a in of
    }


def test_every_arm_and_problem_has_a_name(first):
    """Two arms that the section on UPGrad alone has are named there."""
    without = {"trunk-step", "trunk-decay"}
    assert {*which_method.ARMS, *which_method.LEFT_OUT} - without == {*measured.LABEL}
    assert len({measured.named(p) for p in first.scores}) == len(first.scores)
    assert measured.named("T32-n20-c-1") == "32 tasks, n = 20, c = −1"
    assert measured.named("T8-n20-none") == "8 tasks, n = 20, unrelated"
    with pytest.raises(ValueError, match="expected one of the first draw of settings, got 'T8'"):
        measured.named("T8")


def test_what_was_chosen_is_the_best_of_ten_by_validation(first):
    drawn, place = first.settings["mrn-t", "T8-n20-c+0"]
    result = committed("when-planted")
    means = [
        np.mean(list(result.values(f"mrn-t@{i}", "validation_percent/T8-n20-c+0").values()))
        for i in range(len(drawn))
    ]
    assert len(drawn) == 10 and place == int(np.argmax(means))


def test_differences_are_paired(first):
    found = first.difference("office-1", "laf", "uncoupled")
    scores = first.scores["office-1"]
    expected = mean_interval(scores["laf"] - scores["uncoupled"])
    assert found == expected and found.n == 20
    assert first.difference("office-1", "laf") == mean_interval(scores["laf"] - scores["stl"])


def test_costs_compare_what_one_machine_measured():
    """A ratio of two processors' seconds is no cost of a method."""
    of = measured.FirstDraw(
        scores={"a": {"stl": [], "x": []}, "b": {"stl": [], "x": []}, "c": {"stl": [], "y": []}},
        seconds={"a": {"stl": 1, "x": 2}, "b": {"stl": 1, "x": 50}, "c": {"stl": 1, "y": 3}},
        recovered={},
        relations={},
        settings={},
        processors={
            **{("stl", p): "one" for p in "abc"},
            **{("x", "a"): "one", ("x", "b"): "another", ("y", "c"): "another"},
        },
    )
    assert of.timed("x") == ["a"] and of.timed("y") == []
    assert of.cost("x", ["a", "b"]) == pytest.approx(2) == of.cost("x", ["b"])
    assert of.cost("y", ["c"]) == np.inf


@pytest.mark.parametrize("problem", ["T8-n20-c-1", "office-1"])
def test_draws_are_six_and_the_first_is_the_studys(first, problem):
    found = measured.draws(problem)
    assert len(found) == 6 and len({round(float(of["mrn"].mean()), 6) for of in found}) == 6
    for arm, own in found[0].items():
        assert own.tolist() == first.scores[problem][arm].tolist()


@pytest.mark.parametrize(
    "problem", ["T8-n20-c+0", "T8-n20-none", "office-1", "harmful-3", "pacs-3"]
)
def test_replications_are_ten_of_ten_repeats(problem):
    found = measured.replications(problem)
    assert len(found) == AGAIN and all(len(own) == 10 for of in found for own in of.values())
    means = [(of["mrn-t"] - of["hard-sharing"]).mean() for of in found]
    over = measured.over_replications(problem, "mrn-t", "hard-sharing")
    assert over.mean == pytest.approx(np.mean(means)) and len({*means}) == AGAIN
    assert over.mean == winners.over_draws(found, "mrn-t", "hard-sharing")[0].mean
    assert problem in (*TEACHERS, *REAL)
