"""Trace norms against full singular value decompositions, finite differences and their theory."""

import math

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.tenalg.proximal import svd_thresholding

from mtlbook.backbones import convnet
from mtlbook.methods import TNRDMTL
from mtlbook.norms import (
    alignment,
    singular_value_threshold,
    tensor_trace_norms,
    tensorflow_order,
    trace_norm,
    uncoupled_norm,
    uncoupled_norms,
)

KINDS = ["laf", "tucker", "tt"]
METHODS = ["gram", "svd"]
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
SHAPES = [(7, 4), (4, 7), (5, 5), (1, 6), (6, 1), (3, 6, 4), (2, 2, 4, 3)]


def subgradient(x, **options):
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(trace_norm(x, **options).sum(), x)
    return gradient


def minimal_subgradient(x):
    """U_r V_r^T of a full decomposition in float64, the rank judged generously."""
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=True)
    rank = int((s > 1e-5 * s.max()).sum()) if s.numel() else 0
    return u[:, :rank] @ vh[:rank]


def conditioned(m, n, condition):
    """A matrix with singular values from 1 down to 1 / condition, in float32."""
    k = min(m, n)
    u, _ = torch.linalg.qr(torch.randn(m, k).double())
    v, _ = torch.linalg.qr(torch.randn(n, k).double())
    return ((u * torch.logspace(0, -math.log10(condition), k).double()) @ v.mT).float()


DEGENERATE = {
    "zero": lambda: torch.zeros(6, 4),
    "rank one": lambda: torch.outer(torch.randn(6).double(), torch.randn(4).double()),
    "rank two, wide": lambda: torch.randn(4, 2).double() @ torch.randn(2, 9).double(),
    "tied values": lambda: torch.linalg.qr(torch.randn(6, 4).double())[0],
    "identity": lambda: torch.eye(5),
    "identical tasks": lambda: torch.randn(6, 1).double().expand(6, 4).clone(),
    "a zero task": lambda: torch.randn(6, 4) * torch.tensor([1.0, 0, 1, 1]),
    "opposite tasks": lambda: torch.randn(6, 1) * torch.tensor([1.0, -1, 1, -1]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
class TestTraceNorm:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_value_is_torchs_nuclear_norm(self, shape, method, dtype):
        x = torch.randn(shape, dtype=dtype)
        expected = torch.linalg.matrix_norm(x.double(), ord="nuc").to(dtype)
        got = trace_norm(x, method=method)
        assert got.dtype == dtype and got.shape == shape[:-2]
        torch.testing.assert_close(got, expected, rtol=TOLERANCE[dtype], atol=0)

    @pytest.mark.parametrize("shape", SHAPES[:5])
    def test_subgradient_is_uv(self, shape, method, dtype):
        x = torch.randn(shape, dtype=dtype)
        torch.testing.assert_close(
            subgradient(x, method=method).double(),
            minimal_subgradient(x),
            rtol=0,
            atol=TOLERANCE[dtype],
        )

    @pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
    def test_scaling_scales_the_value_and_not_the_subgradient(self, scale, method, dtype):
        if method == "svd" and dtype == torch.float32:
            pytest.skip("an SVD in float32 is only as good as LAPACK's")
        x = torch.randn(7, 4, dtype=dtype)
        scaled = x * scale
        assert float(trace_norm(scaled, method=method) / scale) == pytest.approx(
            float(trace_norm(x)), rel=1e-5
        )
        torch.testing.assert_close(
            subgradient(scaled, method=method), subgradient(x), rtol=0, atol=1e-5
        )

    @pytest.mark.parametrize("case", DEGENERATE)
    def test_minimal_choice_where_it_is_not_differentiable(self, case, method, dtype):
        x = DEGENERATE[case]().to(dtype)
        got = subgradient(x, method=method).double()
        torch.testing.assert_close(got, minimal_subgradient(x), rtol=0, atol=2e-5)

    @pytest.mark.parametrize("case", DEGENERATE)
    def test_subgradient_inequality(self, case, method, dtype):
        x = DEGENERATE[case]().to(dtype)
        g, x = subgradient(x, method=method).double(), x.double()
        base = torch.linalg.matrix_norm(x, ord="nuc")
        for size in (1e-3, 1.0, 1e3):
            y = x + size * torch.randn(50, *x.shape).double()
            bound = base + (g * (y - x)).sum((-2, -1))
            slack = torch.linalg.matrix_norm(y, ord="nuc") - bound
            assert float(slack.min()) > -1e-4 * max(size, 1)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 3, 0), (0, 3, 2)])
    def test_empty(self, shape, method, dtype):
        x = torch.zeros(shape, dtype=dtype)
        assert trace_norm(x, method=method).tolist() == torch.zeros(shape[:-2]).tolist()
        assert subgradient(x, method=method).shape == shape

    def test_a_batch_is_a_loop(self, method, dtype):
        x = torch.randn(2, 3, 5, 4, dtype=dtype)
        x[0, 1] = 0
        values, gradients = trace_norm(x, method=method), subgradient(x, method=method)
        for i in range(2):
            for j in range(3):
                one = trace_norm(x[i, j], method=method)
                torch.testing.assert_close(values[i, j], one)
                torch.testing.assert_close(gradients[i, j], subgradient(x[i, j], method=method))

    def test_the_chain_rule_and_a_second_use(self, method, dtype):
        x = torch.randn(5, 3, dtype=dtype, requires_grad=True)
        (2 * trace_norm(x, method=method) - 0.5 * trace_norm(x.mT, method=method)).backward()
        torch.testing.assert_close(x.grad, 1.5 * subgradient(x, method=method))

    def test_a_nan_does_not_disappear(self, method, dtype):
        for n in (2, 3, 8, 50):
            x = torch.randn(60, n, dtype=dtype)
            x[0, 0] = math.nan
            try:
                value = trace_norm(x, method=method)
            except torch.linalg.LinAlgError:
                continue  # loud enough; fit turns it into a FloatingPointError
            assert not value.isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_halves(dtype, method):
    x = torch.randn(6, 4).to(dtype)
    value, gradient = trace_norm(x, method=method), subgradient(x, method=method)
    assert value.dtype == gradient.dtype == dtype
    assert float(value) == pytest.approx(float(trace_norm(x.double())), rel=1e-2)
    torch.testing.assert_close(gradient.double(), minimal_subgradient(x), rtol=0, atol=1e-2)


@pytest.mark.parametrize("shape", [(200, 50), (50, 200), (40, 40), (150, 141)])
def test_ill_conditioned_weights_in_single_precision(shape):
    x = conditioned(*shape, 5e3)
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    ours = subgradient(x, method="gram")
    assert float((ours - u @ vh).abs().max()) < 1e-6
    assert float(trace_norm(x)) == pytest.approx(float(s.sum()), rel=1e-6)
    # the same formula without float64, to show that it is not idle
    gram = x.mT @ x if shape[0] >= shape[1] else x @ x.mT
    values, q = torch.linalg.eigh(gram)
    root = (q * values.clamp(min=1e-30).rsqrt()) @ q.mT
    naive = x @ root if shape[0] >= shape[1] else root @ x
    assert float((naive - u @ vh).abs().max()) > 1e-3


@given(m=st.integers(1, 8), n=st.integers(1, 8), rank=st.integers(0, 8), power=st.integers(-20, 20))
@settings(max_examples=60, deadline=None)
def test_svd_and_gram_agree(m, n, rank, power):
    x = (torch.randn(m, rank).double() @ torch.randn(rank, n).double()) * 10.0**power
    values = [trace_norm(x, method=method) for method in METHODS]
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)
    singular = torch.linalg.svdvals(x)
    if min(m, n, rank) and float(singular[min(m, n, rank) - 1] / singular[0]) > 1e-4:
        gradients = [subgradient(x, method=method) for method in METHODS]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (2, 3, 8)])
def test_lapack_always_gets_a_tall_matrix(shape, monkeypatch):
    """It is several times as fast with many rows as with many columns."""
    seen = []
    for name in ("svd", "svdvals"):
        way = getattr(torch.linalg, name)
        monkeypatch.setattr(
            torch.linalg, name, lambda x, way=way, **o: seen.append(x.shape) or way(x, **o)
        )
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    value, (gradient,) = trace_norm(x), torch.autograd.grad(trace_norm(x).sum(), x)
    trace_norm(x.detach())
    assert len(seen) == 3 and all(rows >= columns for *_, rows, columns in seen)
    torch.testing.assert_close(value, trace_norm(x.mT))
    torch.testing.assert_close(gradient, torch.autograd.grad(trace_norm(x.mT).sum(), x)[0])


def test_a_gram_matrix_by_blocks_is_the_gram_matrix():
    x = torch.randn(300, 131).double()  # larger than one block, and odd
    torch.testing.assert_close(trace_norm(x, method="gram"), trace_norm(x, method="svd"))
    torch.testing.assert_close(subgradient(x, method="gram"), subgradient(x, method="svd"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck_of_the_matrix_norm(shape, method):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: trace_norm(x, method=method), x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (3, 2, 2, 3), (2, 2, 3, 2, 3)])
def test_gradcheck_of_the_tensor_norms(shape, kind, method):
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: tensor_trace_norms(w, kind, method=method), w)


def test_gradcheck_of_the_controls():
    w = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(uncoupled_norm, w)
    assert torch.autograd.gradcheck(alignment, w)


# Tensors


def dense_norms(w, kind):
    """The paper's definitions, word for word."""
    w = w.double().numpy()
    if kind == "laf":
        matrices = [tensorly.unfold(w, w.ndim - 1)]
    elif kind == "tucker":
        matrices = [tensorly.unfold(w, mode) for mode in range(w.ndim)]
    else:
        sizes = [math.prod(w.shape[:i]) for i in range(1, w.ndim)]
        matrices = [w.reshape(size, -1) for size in sizes]
    return torch.stack([torch.linalg.svdvals(torch.from_numpy(m)).sum() for m in matrices])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (3, 2, 2, 3), (3, 3, 2, 4, 5)])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_tensor_norms_equal_their_definition(shape, kind, dtype, scale):
    w = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(
        tensor_trace_norms((w * scale).to(dtype), kind).double() / scale,
        dense_norms(w, kind),
        rtol=TOLERANCE[dtype],
        atol=0,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_tensor_subgradient_inequality_at_identical_tasks(kind):
    w = torch.randn(3, 4, 1).expand(3, 4, 5).double().clone().requires_grad_()
    total = tensor_trace_norms(w, kind).sum()
    (g,) = torch.autograd.grad(total, w)
    for _ in range(50):
        y = w.detach() + torch.randn(w.shape).double()
        assert dense_norms(y, kind).sum() >= total + (g * (y - w)).sum() - 1e-9


@given(shape=st.lists(st.integers(1, 4), min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_structure_shared_by_the_norms(shape):
    w = torch.randn(shape).double()
    laf, tucker, tt = (tensor_trace_norms(w, kind) for kind in KINDS)
    assert (len(laf), len(tucker), len(tt)) == (1, len(shape), len(shape) - 1)
    torch.testing.assert_close(tt[-1], laf[0])
    torch.testing.assert_close(tucker[-1], laf[0])
    torch.testing.assert_close(tt[0], tucker[0])
    bound = uncoupled_norm(w)
    assert laf[0] <= bound * (1 + 1e-9)
    assert 1 / math.sqrt(shape[-1]) - 1e-9 <= float(alignment(w)) <= 1 + 1e-9


def test_only_tt_depends_on_the_order_of_axes():
    w = torch.randn(4, 5, 6, 3).double()
    turned = w.permute(2, 0, 1, 3)
    torch.testing.assert_close(tensor_trace_norms(w, "laf"), tensor_trace_norms(turned, "laf"))
    torch.testing.assert_close(
        tensor_trace_norms(w, "tucker").sort().values,
        tensor_trace_norms(turned, "tucker").sort().values,
    )
    tt, turned_tt = tensor_trace_norms(w, "tt"), tensor_trace_norms(turned, "tt")
    assert float((tt.sum() - turned_tt.sum()).abs()) > 1e-2


def test_the_norm_does_not_care_which_task_is_which():
    w = torch.randn(3, 4, 5).double()
    for kind in KINDS:
        torch.testing.assert_close(
            tensor_trace_norms(w, kind), tensor_trace_norms(w[..., torch.randperm(5)], kind)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
def test_identical_and_orthogonal_tasks(tasks, scale, dtype):
    one = torch.randn(3, 4).double()
    same = (one[..., None].expand(3, 4, tasks) * scale).to(dtype)
    apart = (torch.linalg.qr(torch.randn(12, tasks).double())[0] * 2 * scale).to(dtype)
    tolerance = dict(rel=1e-5)
    laf = float(tensor_trace_norms(same, "laf")[0])
    assert laf == pytest.approx(math.sqrt(tasks) * float(one.norm()) * scale, **tolerance)
    assert float(alignment(same)) == pytest.approx(1 / math.sqrt(tasks), **tolerance)
    laf = float(tensor_trace_norms(apart, "laf")[0])
    assert laf == pytest.approx(2 * tasks * scale, **tolerance)
    assert laf == pytest.approx(float(uncoupled_norm(apart)), **tolerance)
    assert float(alignment(apart)) == pytest.approx(1, **tolerance)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_the_controls_at_any_scale(scale):
    w = torch.randn(3, 4, 5)
    scaled = (w * scale).requires_grad_()
    value = uncoupled_norm(scaled)
    assert float(value.detach() / scale) == pytest.approx(float(uncoupled_norm(w)), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, scaled)
    torch.testing.assert_close(gradient, w / w.square().sum((0, 1)).sqrt())
    assert float(alignment(scaled.detach())) == pytest.approx(float(alignment(w)), rel=1e-5)


def test_uncoupled_norm_is_the_sum_of_the_tasks_lengths():
    w = torch.randn(2, 3, 4)
    w[..., 1] = 0
    w.requires_grad_()
    value = uncoupled_norm(w)
    torch.testing.assert_close(value, sum(w[..., t].norm() for t in range(4)))
    value.backward()
    assert w.grad.isfinite().all() and w.grad[..., 1].abs().sum() == 0
    assert float(w.grad[..., 0].norm()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (3, 3, 2, 4, 5)])
def test_uncoupled_norms_are_the_sum_of_the_tasks_own(shape, kind):
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    value = uncoupled_norms(w, kind)
    alone = [dense_norms(w[..., t : t + 1].detach(), kind) for t in range(shape[-1])]
    torch.testing.assert_close(value, sum(alone))
    torch.testing.assert_close(value[-1], uncoupled_norm(w))
    coupled = tensor_trace_norms(w, kind)
    assert value.shape == coupled.shape and (coupled <= value * (1 + 1e-9)).all()
    # of each task the gradient that it has alone
    (gradient,) = torch.autograd.grad(value.sum(), w)
    for t in range(shape[-1]):
        own = w[..., t : t + 1].detach().requires_grad_()
        (expected,) = torch.autograd.grad(tensor_trace_norms(own, kind).sum(), own)
        torch.testing.assert_close(gradient[..., t : t + 1], expected)


def test_a_norm_equals_its_control_where_nothing_is_shared():
    """Tasks that live in filters, channels and columns of their own."""
    w = torch.zeros(6, 6, 3, dtype=torch.float64)
    for t in range(3):
        w[2 * t : 2 * t + 2, 2 * t : 2 * t + 2, t] = torch.randn(2, 2, dtype=torch.float64)
    for kind in KINDS:
        torch.testing.assert_close(tensor_trace_norms(w, kind), uncoupled_norms(w, kind))
    alike = torch.randn(6, 6, 1, dtype=torch.float64).expand(6, 6, 3)
    for kind in KINDS:
        ratio = tensor_trace_norms(alike, kind) / uncoupled_norms(alike, kind)
        torch.testing.assert_close(ratio, torch.full_like(ratio, 3**-0.5))


def test_uncoupled_norms_of_an_unknown_kind():
    with pytest.raises(ValueError, match="kind: expected 'laf', 'tucker' or 'tt', got 'cp'"):
        uncoupled_norms(torch.randn(2, 3), "cp")


def test_alignment_of_nothing_is_one():
    assert float(alignment(torch.zeros(3, 4))) == 1


def test_alignment_sees_sign_but_not_size_of_all():
    w = torch.randn(6, 2).double()
    torch.testing.assert_close(alignment(w), alignment(-3 * w))
    torch.testing.assert_close(alignment(w), alignment(w * torch.tensor([1, -1])))
    assert float(alignment(w * torch.tensor([1, 100]))) > float(alignment(w))


def test_tensorflow_order():
    kernel = torch.randn(2, 3, 5, 6, 4)  # (out, in, kh, kw, T)
    assert tensorflow_order(kernel).shape == (5, 6, 3, 2, 4)
    assert tensorflow_order(kernel)[4, 5, 1, 0, 3] == kernel[0, 1, 4, 5, 3]
    dense = torch.randn(2, 3, 4)
    assert torch.equal(tensorflow_order(dense), dense.transpose(0, 1))


# Table of figure 1 at step 0: weights drawn with deviation 0.1, 50 tasks, 28 x 28 images. They fix
# the initialisation, the reduction, the padding and the order of axes at once.
@pytest.mark.parametrize(("kind", "norm"), [("laf", 233.2), ("tucker", 250.1), ("tt", 296.7)])
def test_initial_norms_of_the_omniglot_network(kind, norm):
    network = convnet((1, 28, 28), [2] * 50, seed=0)
    assert float(TNRDMTL(network, kind=kind).mean_norm().detach()) == pytest.approx(norm, rel=6e-3)


def test_the_order_of_axes_shows_in_the_initial_norm_of_tt():
    network = convnet((1, 28, 28), [2] * 50, seed=0)
    norm = float(TNRDMTL(network, kind="tt", axis_order="torch").mean_norm().detach())
    assert abs(norm / 296.7 - 1) > 6e-3


# The proximal map


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (2, 6, 3)])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.5, 100.0])
def test_threshold_equals_the_decomposition(shape, threshold, dtype):
    x = torch.randn(shape, dtype=dtype)
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    expected = (u * (s - threshold).clamp(min=0).unsqueeze(-2)) @ vh
    got = singular_value_threshold(x, threshold)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=TOLERANCE[dtype])
    if threshold == 100:
        assert got.abs().max() == 0


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_threshold_equals_tensorlys(shape):
    x = torch.randn(shape).double()
    expected = torch.from_numpy(svd_thresholding(x.numpy(), 0.7))
    torch.testing.assert_close(singular_value_threshold(x, 0.7), expected)


@pytest.mark.parametrize("case", DEGENERATE)
def test_threshold_minimises_its_objective(case):
    x = DEGENERATE[case]()
    tau = 0.5
    best = singular_value_threshold(x, tau)

    def objective(y):
        return (y - x).square().sum((-2, -1)) / 2 + tau * torch.linalg.matrix_norm(y, ord="nuc")

    for size in (1e-3, 1e-1, 1.0):
        others = best + size * torch.randn(200, *x.shape).double()
        # strong convexity: at least half of the squared distance more
        distance = (others - best).square().sum((-2, -1)) / 2
        assert bool((objective(others) >= objective(best) + distance - 1e-7).all())


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_threshold_scales(scale):
    x = torch.randn(6, 4)
    torch.testing.assert_close(
        singular_value_threshold(x * scale, 0.5 * scale) / scale,
        singular_value_threshold(x, 0.5),
        rtol=1e-5,
        atol=1e-6,
    )


def test_threshold_takes_a_tensor():
    x = torch.randn(6, 4)
    expected = singular_value_threshold(x, 0.5)
    assert torch.equal(singular_value_threshold(x, torch.tensor([0.5])), expected)


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trace_norm(torch.zeros(3)), r"matrix: expected a floating .* shape \(3,\)"),
        (lambda: trace_norm(torch.zeros(3, 2, dtype=torch.int64)), r"matrix: .* got torch.int64"),
        (
            lambda: trace_norm(torch.zeros(3, 2), method="qr"),
            "method: expected 'auto', 'gram' or 'svd', got 'qr'",
        ),
        (
            lambda: tensor_trace_norms(torch.zeros(3), "laf"),
            r"w: expected at least 2 axes.* got shape \(3,\)",
        ),
        (
            lambda: tensor_trace_norms(torch.zeros(3, 2), "cp"),
            "kind: expected 'laf', 'tucker' or 'tt', got 'cp'",
        ),
        (lambda: tensorflow_order(torch.zeros(3, 2, 2, 1)), r"w: expected .* \(3, 2, 2, 1\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
