"""Equations, the code that relies on them and its tests know each other."""

import pytest


@pytest.fixture(scope="module")
def equations(script):
    return script("equations")


GOOD = {
    "page": "foundations/trace-norm",
    "equations": ("eq-one",),
    "code": ("mtlbook.norms.trace_norm",),
    "tests": ("tests/test_equations.py::test_no_orphan",),
}
LINKED = {"norms.trace_norm": {"eq-one"}}


def test_no_orphan(equations, root):
    table = equations.rows(root / "book")
    assert len(table) > 25
    found = list(equations.problems(table, equations.labels(root / "book"), equations.public()))
    assert found == []


@pytest.mark.parametrize(
    ("change", "code", "problem"),
    [
        ({}, LINKED, None),
        ({"equations": ("eq-two",)}, {"norms.trace_norm": {"eq-two"}}, "no equation eq-two"),
        (
            {"tests": ("tests/test_equations.py::test_lost",)},
            LINKED,
            "no test tests/test_equations",
        ),
        ({"tests": ("tests/test_lost.py::test_one",)}, LINKED, "no test tests/test_lost"),
        ({"tests": ()}, LINKED, "a line needs an equation, code and a test"),
        ({}, {"norms.trace_norm": set()}, "does not link back to eq-one"),
        ({}, {"norms.trace_norm": {"eq-one", "eq-two"}}, "no chapter links eq-two to it"),
        ({}, {}, "not public code of the mathematics"),
        ({}, {**LINKED, "norms.new": set()}, "norms.new: names no equation of the book"),
        ({}, {**LINKED, "tensors.Ragged": set()}, None),  # a container
    ],
)
def test_an_orphan_is_named(equations, change, code, problem):
    table = [equations.Row(**{**GOOD, **change})]
    found = " ".join(equations.problems(table, {"eq-one"}, code))
    assert (problem in found) if problem else not found


def test_what_is_excused_is_there(equations):
    assert set(equations.WITHOUT) <= set(equations.public())
