"""Relations: cosines against a loop, normalisation, comparison."""

import itertools

import pytest
import torch

from mtlbook.relations import Relation, cosine_relation

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18, 1e20])
def test_cosines_equal_a_loop_at_any_scale(dtype, scale):
    vectors = torch.randn(5, 7, dtype=torch.float64)
    got = cosine_relation((vectors * scale).to(dtype)).matrix
    assert got.dtype == dtype
    for i, j in itertools.product(range(5), repeat=2):
        expected = vectors[i] @ vectors[j] / (vectors[i].norm() * vectors[j].norm())
        assert float(got[i, j]) == pytest.approx(float(expected), abs=1e-6)


def test_cosines_of_special_vectors():
    matrix = cosine_relation(torch.tensor([[1.0, 0], [-2, 0], [0, 3], [0, 0]])).matrix
    assert matrix.tolist() == [[1, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_normalised_is_the_correlation_of_a_covariance():
    x = torch.randn(4, 50).double()
    relation = Relation(torch.cov(x), "covariance", list("abcd")).normalised()
    torch.testing.assert_close(relation.matrix, torch.corrcoef(x))
    assert relation.meaning == "normalised: covariance"
    assert relation.names == list("abcd")


def test_normalised_of_a_zero_task_is_finite():
    matrix = Relation(torch.tensor([[0.0, 0], [0, 4]]), "covariance").normalised().matrix
    assert matrix.isfinite().all() and matrix[1, 1] == 1


def test_off_diagonal_of_the_symmetric_part():
    relation = Relation(torch.tensor([[0.0, 1, 2], [3, 0, 4], [6, 8, 0]]), "")
    assert relation.off_diagonal().tolist() == [2, 4, 6]


def test_compare_is_pearsons_correlation():
    a, b = cosine_relation(torch.randn(6, 3)), cosine_relation(torch.randn(6, 3))
    assert float(a.compare(a)) == pytest.approx(1)
    assert float(a.compare(Relation(-2 * a.matrix + 5, ""))) == pytest.approx(-1)
    expected = torch.corrcoef(torch.stack([a.off_diagonal(), b.off_diagonal()]))[0, 1]
    assert a.compare(b) == expected == b.compare(a)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Relation(torch.zeros(2, 3), ""), r"matrix: expected shape \(T, T\), got \(2, 3\)"),
        (lambda: Relation(torch.zeros(4), ""), r"matrix: expected shape \(T, T\), got \(4,\)"),
        (lambda: Relation(torch.eye(2), "", ["a"]), "names: expected 2, got 1"),
        (
            lambda: Relation(torch.eye(2), "").compare(Relation(torch.eye(3), "")),
            "other: expected 2 tasks, got 3",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_not_a_number_stays_so_when_normalised():
    matrix = torch.eye(3)
    matrix[1, 1] = torch.nan
    normalised = Relation(matrix, "covariance").normalised().matrix
    assert normalised[1].isnan().all() and normalised[:, 1].isnan().all()
    assert normalised[0, 0] == normalised[2, 2] == 1
