"""Unfoldings and mode products against literals, TensorLy and einsum; ragged batches."""

import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtlbook.tensors import Ragged, fold, mode_product, unfold

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=5)


def counted(*shape: int) -> torch.Tensor:
    """0, 1, 2, ... in row-major order."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


LITERAL = {
    0: [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]],
    1: [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]],
    2: [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]],
}


@pytest.mark.parametrize("mode", LITERAL)
def test_unfold_a_literal(mode):
    # the last remaining axis varies fastest
    assert unfold(counted(3, 2, 2), mode).tolist() == LITERAL[mode]


@given(shape=SHAPES, data=st.data())
def test_unfold_fold_and_tensorly(shape, data):
    x = counted(*shape)
    mode = data.draw(st.integers(-len(shape), len(shape) - 1))
    matrix = unfold(x, mode)
    assert torch.equal(fold(matrix, mode, shape), x)
    assert (matrix.numpy() == tensorly.unfold(x.numpy(), mode % len(shape))).all()


@given(shape=SHAPES, rows=st.integers(1, 4), data=st.data())
def test_mode_product_is_unfold_multiply_fold(shape, rows, data):
    x = counted(*shape)
    mode = data.draw(st.integers(-len(shape), len(shape) - 1))
    matrix = counted(rows, shape[mode]) - 3
    product = mode_product(x, matrix, mode)
    new_shape = list(shape)
    new_shape[mode] = rows
    assert torch.equal(product, fold(matrix @ unfold(x, mode), mode, new_shape))


@pytest.mark.parametrize(("mode", "letters"), [(0, "zbc"), (1, "azc"), (2, "abz"), (-1, "abz")])
def test_mode_product_is_einsum(mode, letters):
    x, matrix = torch.randn(4, 4, 4), torch.randn(5, 4)
    expected = torch.einsum(f"abc,z{'abc'[mode]}->{letters}", x, matrix)
    torch.testing.assert_close(mode_product(x, matrix, mode), expected)


def test_mode_products_of_two_modes_commute():
    x, a, b = torch.randn(2, 3, 4).double(), torch.randn(5, 2).double(), torch.randn(6, 3).double()
    torch.testing.assert_close(
        mode_product(mode_product(x, a, 0), b, 1), mode_product(mode_product(x, b, 1), a, 0)
    )


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_unfold_of_an_empty_axis_keeps_the_other_sizes(mode):
    x = torch.zeros(2, 0, 3)
    others = 0 if mode != 1 else 6
    assert unfold(x, mode).shape == (x.shape[mode], others)
    assert fold(unfold(x, mode), mode, x.shape).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_unfold_keeps_the_dtype_and_the_gradient(dtype):
    x = torch.ones(2, 3, dtype=dtype)
    assert unfold(x, 1).dtype == dtype
    if dtype.is_floating_point:
        x.requires_grad_()
        (unfold(x, 1) * torch.tensor([[1, 2]], dtype=dtype)).sum().backward()
        assert x.grad.tolist() == [[1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unfold(torch.zeros(2, 3), 2), r"mode: expected an axis in \[-2, 2\), got 2"),
        (lambda: fold(torch.zeros(2, 3), -4, (1, 2, 3)), r"mode: .* got -4"),
        (lambda: fold(torch.zeros(2, 3), 0, (3, 2)), r"matrix: expected shape \(3, 2\)"),
        (lambda: fold(torch.zeros(2, 3), 0, (2, 4)), r"\(2, 4\).* got \(2, 3\)"),
        (
            lambda: mode_product(torch.zeros(2, 3), torch.zeros(4, 2), 1),
            r"matrix: expected shape \(m, 3\) for mode 1 .* got \(4, 2\)",
        ),
        (lambda: mode_product(torch.zeros(2), torch.zeros(2), 0), r"matrix: .* got \(2,\)"),
    ],
)
def test_errors_name_argument_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Ragged


TENSORS = [counted(2, 3), counted(4, 3) + 10, counted(1, 3) + 50]


def test_ragged_is_a_list_to_the_reader_and_one_tensor_to_the_computer():
    ragged = Ragged.stack(TENSORS)
    assert ragged.padded.shape == (3, 4, 3)
    assert ragged.lengths == [2, 4, 1]
    assert len(ragged) == 3
    for got, expected in zip(ragged, TENSORS, strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(ragged[-1], TENSORS[-1])
    assert ragged.padded[2, 1:].abs().sum() == 0
    with pytest.raises(IndexError):
        ragged[3]


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_ragged_round_trip_and_mask(lengths):
    tensors = [torch.full((n, 2), float(n)) for n in lengths]
    ragged = Ragged.stack(tensors)
    assert all(torch.equal(a, b) for a, b in zip(ragged, tensors, strict=True))
    assert ragged.mask.sum(1).tolist() == lengths
    assert [row.tolist() for row in ragged.mask] == [
        [i < n for i in range(max(lengths))] for n in lengths
    ]


def test_ragged_of_equal_lengths_has_none_and_a_full_mask():
    ragged = Ragged.stack([torch.zeros(2, 3), torch.ones(2, 3)])
    assert ragged.lengths is None and ragged.widths is None
    assert ragged.mask.shape == (2, 2) and bool(ragged.mask.all())


def test_ragged_stack_of_a_ragged_is_itself():
    ragged = Ragged.stack(TENSORS)
    assert Ragged.stack(ragged) is ragged


def test_ragged_widths_cut_the_last_axis_and_like_keeps_the_lengths():
    ragged = Ragged.stack(TENSORS).like(counted(3, 4, 5), widths=[1, 2, 5])
    assert [tuple(x.shape) for x in ragged] == [(2, 1), (4, 2), (1, 5)]
    assert ragged[0].tolist() == [[0], [5]]
    assert [tuple(x.shape) for x in ragged.to("meta")] == [(2, 1), (4, 2), (1, 5)]
    assert ragged.to("meta")[0].device.type == "meta"


def test_ragged_hands_gradients_through():
    tensors = [torch.ones(2, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)]
    Ragged.stack(tensors).padded.sum().backward()
    assert all(bool((x.grad == 1).all()) for x in tensors)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ragged(torch.zeros(3, 2), [1, 2]), "lengths: expected one for each of 3 .* got 2"),
        (lambda: Ragged(torch.zeros(1, 2), None, [1, 2]), "widths: expected one .* got 2"),
        (lambda: Ragged.stack([]), "tensors: expected at least one task, got none"),
        (lambda: Ragged.stack([torch.zeros(2, 3), torch.zeros(2, 4)]), "tensors: expected one sh"),
    ],
)
def test_ragged_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
