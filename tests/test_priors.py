"""Matrix and tensor normals against scipy, explicit Kronecker products and their theory."""

import math
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import MultivariateNormal, kl_divergence

from mtlbook.priors import (
    Cholesky,
    LowRankPlusDiagonal,
    MatrixNormal,
    TensorNormal,
    apply_precisions,
    check_covariance,
    decompose,
    flip_flop,
    log_determinant_term,
    mode_covariance,
    normalise_trace,
    quadratic_form,
    reciprocal,
    sqrt_relation,
    whiten,
)
from mtlbook.tensors import unfold

SHAPES = [(5,), (3, 4), (1, 6), (3, 4, 2), (2, 3, 2, 2)]
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def spd(*shape):
    """Random positive definite matrices, shape ``(..., d, d)``, in float64."""
    x = torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.float64)
    return x @ x.mT / shape[-1] + 0.1 * torch.eye(shape[-1], dtype=torch.float64)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def kronecker(covariances):
    """Explicitly, for vec with the last index fastest, which is ``reshape(-1)``."""
    return reduce(torch.kron, covariances)


def dense_normal(loc, covariances):
    return MultivariateNormal(loc.reshape(-1), kronecker(covariances))


def reference():
    """Tensor and covariances of the hand-checked values."""
    i, j, t = torch.meshgrid(*(torch.arange(d).double() for d in (3, 2, 2)), indexing="ij")
    s1 = 0.7 * torch.eye(3).double() + 0.3
    s2 = torch.tensor([[1, 0.2], [0.2, 2]], dtype=torch.float64)
    s3 = torch.tensor([[1, -0.4], [-0.4, 1.5]], dtype=torch.float64)
    return torch.sin(1 + i + 2 * j + 5 * t), [s1, s2, s3]


def close(got, expected, atol):
    torch.testing.assert_close(got, torch.tensor(expected, dtype=got.dtype), rtol=0, atol=atol)


# Weights on which inverses, logarithms or traces may fail
DEGENERATE = {
    "zero": lambda: torch.zeros(5, 3, 4),
    "identical tasks": lambda: torch.randn(5, 3, 1).expand(5, 3, 4).clone(),
    "opposite tasks": lambda: torch.randn(5, 3, 1) * torch.tensor([1.0, -1, 1, -1]),
    "a zero task": lambda: torch.randn(5, 3, 4) * torch.tensor([1.0, 0, 1, 1]),
    "one task": lambda: torch.randn(5, 3, 1),
    "one class": lambda: torch.randn(30, 1, 4),
    "one feature": lambda: torch.randn(1, 3, 4),
    "one number": lambda: torch.randn(1, 1, 1),
    "many features": lambda: torch.randn(60, 2, 3),
    "rank one": lambda: torch.einsum("i,j,k->ijk", *(torch.randn(d) for d in (30, 3, 4))),
    "tiny": lambda: 1e-12 * torch.randn(5, 3, 4),
    "huge": lambda: 1e12 * torch.randn(5, 3, 4),
}


class TestTensorNormal:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_is_the_dense_normal(self, shape):
        loc, covariances = randn(*shape), [spd(d, d) for d in shape]
        ours, dense = TensorNormal(loc, covariances), dense_normal(loc, covariances)
        x = randn(7, *shape)
        torch.testing.assert_close(ours.log_prob(x), dense.log_prob(x.reshape(7, -1)), **EXACT)
        torch.testing.assert_close(ours.entropy(), dense.entropy(), **EXACT)
        torch.testing.assert_close(ours.variance.reshape(-1), dense.variance, **EXACT)
        torch.testing.assert_close(ours.stddev.reshape(-1), dense.stddev, **EXACT)
        assert torch.equal(ours.mean, loc) and torch.equal(ours.mode, loc)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_divergence_is_the_dense_one(self, shape):
        pairs = [(randn(*shape), [spd(d, d) for d in shape]) for _ in range(2)]
        ours = kl_divergence(*(TensorNormal(*pair) for pair in pairs))
        dense = kl_divergence(*(dense_normal(*pair) for pair in pairs))
        torch.testing.assert_close(ours, dense, **EXACT)
        assert ours > 0

    @pytest.mark.parametrize("shape", SHAPES)
    def test_samples_are_a_linear_map_of_noise(self, shape):
        """Fed with every unit tensor, ``rsample`` gives a root of the Kronecker product."""
        loc, covariances = randn(*shape), [spd(d, d) for d in shape]
        ours, d = TensorNormal(loc, covariances), math.prod(shape)
        with pytest.MonkeyPatch.context() as patch:
            units = torch.eye(d).double().reshape(d, *shape)
            patch.setattr(torch, "randn", lambda *_, **__: units)
            root = (ours.rsample((d,)) - loc).reshape(d, d)
        torch.testing.assert_close(root.mT @ root, kronecker(covariances), **EXACT)

    def test_samples_have_mean_and_covariance(self):
        shape = (2, 3, 2)
        loc, covariances = randn(*shape), [spd(d, d) for d in shape]
        ours = TensorNormal(loc, covariances)
        x = ours.sample((200_000,)).reshape(200_000, -1)
        scale = float(ours.stddev.max())
        torch.testing.assert_close(x.mean(0), loc.reshape(-1), rtol=0, atol=0.015 * scale)
        torch.testing.assert_close(
            torch.cov(x.mT), kronecker(covariances), rtol=0, atol=0.025 * scale**2
        )

    @pytest.mark.parametrize(
        "batches",
        [((), (), ()), ((2,), (), ()), ((), (3,), ()), ((2, 1), (3,), (1, 3)), ((), (1,), (4, 1))],
    )
    def test_a_batch_is_a_loop(self, batches):
        a, b, c = batches
        loc, rows, columns = randn(*a, 3, 2), spd(*b, 3, 3), spd(*c, 2, 2)
        ours = TensorNormal(loc, [rows, columns])
        batch = torch.broadcast_shapes(a, b, c)
        assert ours.batch_shape == batch and ours.event_shape == (3, 2)
        x = ours.rsample((5,))
        assert x.shape == (5, *batch, 3, 2)
        loc = loc.expand(*batch, 3, 2)
        rows, columns = rows.expand(*batch, 3, 3), columns.expand(*batch, 2, 2)
        other = TensorNormal(randn(3, 2), [spd(3, 3), spd(2, 2)])
        assert ours.log_prob(x).shape == (5, *batch)
        assert ours.log_prob(torch.zeros(3, 2).double()).shape == batch
        assert ours.variance.shape == (*batch, 3, 2) and ours.entropy().shape == batch
        for index in np.ndindex(*batch):
            one = TensorNormal(loc[index], [rows[index], columns[index]])
            place = (slice(None), *index)
            torch.testing.assert_close(ours.log_prob(x)[place], one.log_prob(x[place]), **EXACT)
            torch.testing.assert_close(ours.entropy()[index], one.entropy(), **EXACT)
            torch.testing.assert_close(ours.variance[index], one.variance, **EXACT)
            for p, q, p1, q1 in [(ours, other, one, other), (other, ours, other, one)]:
                both, single = kl_divergence(p, q), kl_divergence(p1, q1)
                torch.testing.assert_close(both.expand(batch)[index], single, **EXACT)

    @pytest.mark.parametrize("kind", ["matrix", "tensor"])
    def test_expand(self, kind):
        parts = randn(3, 2), spd(3, 3), spd(4, 1, 2, 2)
        ours = MatrixNormal(*parts) if kind == "matrix" else TensorNormal(parts[0], parts[1:])
        wide = ours.expand((5, 4, 6))
        assert type(wide) is type(ours) and wide.batch_shape == (5, 4, 6)
        assert wide.mean.shape == wide.variance.shape == wide.rsample().shape == (5, 4, 6, 3, 2)
        x = randn(5, 4, 6, 3, 2)
        torch.testing.assert_close(wide.log_prob(x), ours.log_prob(x), **EXACT)
        assert wide.entropy().shape == (5, 4, 6)
        assert kl_divergence(wide, ours).abs().max() < 1e-9
        again = wide.expand((2, 5, 4, 6))
        assert again.covariances[1].shape == (2, 5, 4, 6, 2, 2)

    def test_gradients(self):
        def parts(loc, *roots):
            eye = [torch.eye(root.shape[-1]).double() for root in roots]
            return loc, [r @ r.mT + e for r, e in zip(roots, eye, strict=True)]

        leaves = [
            randn(*s).requires_grad_() for s in [(2, 3, 2), (2, 2), (3, 3), (2, 2), (2, 3, 2)]
        ]
        fixed = TensorNormal(*parts(*(x.detach() for x in leaves[:4])))

        def density(*x):
            return TensorNormal(*parts(*x[:4])).log_prob(x[4])

        def sample(*x):
            torch.manual_seed(1)
            return TensorNormal(*parts(*x[:4])).rsample()

        def divergences(*x):
            ours = TensorNormal(*parts(*x[:4]))
            return kl_divergence(ours, fixed), kl_divergence(fixed, ours), ours.entropy()

        for function in (density, sample, divergences):
            assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(density, leaves)

    def test_only_the_product_is_identifiable(self):
        x, covariances = randn(3, 4, 2), [spd(3, 3), spd(4, 4), spd(2, 2)]
        a, b, c = covariances
        ours = TensorNormal(torch.zeros_like(x), covariances)
        same = TensorNormal(torch.zeros_like(x), [5 * a, b / 10, 2 * c])
        torch.testing.assert_close(ours.log_prob(x), same.log_prob(x), **EXACT)
        assert abs(float(kl_divergence(ours, same))) < 1e-9

    def test_one_mode_and_no_batch_is_a_multivariate_normal_in_float32(self):
        covariance = spd(4, 4).float()
        ours = TensorNormal(torch.zeros(4), [covariance])
        theirs = MultivariateNormal(torch.zeros(4), covariance)
        x = torch.randn(6, 4)
        torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
        assert ours.rsample().dtype == torch.float32

    def test_kl_of_two_shapes_and_constraints(self):
        ours = TensorNormal(torch.zeros(2, 2), [torch.eye(2), torch.eye(2)])
        with pytest.raises(ValueError, match=r"q: expected event shape \(2, 2\).* got \(2,\)"):
            kl_divergence(ours, TensorNormal(torch.zeros(2), [torch.eye(2)]))
        with pytest.raises(ValueError, match="within the support"):
            ours.log_prob(torch.full((2, 2), math.nan))
        assert ours.support.check(torch.zeros(3, 2, 2)).tolist() == [True] * 3
        for bad in (-torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])):
            with pytest.raises(ValueError, match="covariance_1"):
                TensorNormal(torch.zeros(2, 2), [torch.eye(2), bad])
            with pytest.raises(ValueError, match="column_covariance"):
                MatrixNormal(torch.zeros(2, 2), torch.eye(2), bad)
        with pytest.raises(ValueError, match="loc"):
            TensorNormal(torch.full((2,), math.nan), [torch.eye(2)])
        TensorNormal(torch.full((2,), math.nan), [torch.eye(2)], validate_args=False)

    def test_shows_its_shapes(self):
        ours = MatrixNormal(torch.zeros(5, 3, 2), torch.eye(3), torch.eye(2))
        assert repr(ours) == (
            "MatrixNormal(loc: torch.Size([5, 3, 2]), row_covariance: torch.Size([5, 3, 3]), "
            "column_covariance: torch.Size([5, 2, 2]))"
        )
        ours = TensorNormal(torch.zeros(3), [torch.eye(3)])
        assert repr(ours) == "TensorNormal(loc: torch.Size([3]), covariance_0: torch.Size([3, 3]))"


class TestMatrixNormal:
    @pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 5), (5, 1)])
    def test_is_scipys(self, shape):
        loc, rows, columns = randn(*shape), spd(shape[0], shape[0]), spd(shape[1], shape[1])
        ours = MatrixNormal(loc, rows, columns)
        assert torch.equal(ours.row_covariance, rows)
        assert torch.equal(ours.column_covariance, columns)
        theirs = scipy.stats.matrix_normal(loc.numpy(), rows.numpy(), columns.numpy())
        x = randn(6, *shape)
        np.testing.assert_allclose(ours.log_prob(x), theirs.logpdf(x.numpy()), rtol=1e-10)
        np.testing.assert_allclose(ours.entropy(), theirs.entropy(), rtol=1e-10)

    def test_is_the_tensor_normal_of_two_modes(self):
        loc, rows, columns, x = randn(3, 2), spd(3, 3), spd(2, 2), randn(5, 3, 2)
        matrix, tensor = MatrixNormal(loc, rows, columns), TensorNormal(loc, [rows, columns])
        assert torch.equal(matrix.log_prob(x), tensor.log_prob(x))
        assert float(kl_divergence(matrix, tensor)) == pytest.approx(0, abs=1e-12)

    def test_trace_form_of_the_density(self):
        x, f, omega = randn(4, 3), spd(4, 4), spd(3, 3)
        quadratic = torch.trace(f.inverse() @ x @ omega.inverse() @ x.mT)
        expected = -0.5 * (
            quadratic + 12 * math.log(2 * math.pi) + 3 * f.logdet() + 4 * omega.logdet()
        )
        ours = MatrixNormal(torch.zeros_like(x), f, omega).log_prob(x)
        torch.testing.assert_close(ours, expected, **EXACT)


class TestReferenceValues:
    """Values checked by hand in two index conventions."""

    def test_density(self):
        w, covariances = reference()
        assert float(quadratic_form(w, covariances)) == pytest.approx(4.758573699, abs=1e-9)
        log_determinants = log_determinant_term(w.shape, covariances)
        assert float(log_determinants) == pytest.approx(4.820299489, abs=1e-9)
        density = TensorNormal(torch.zeros_like(w), covariances).log_prob(w)
        assert float(density) == pytest.approx(-15.816698992, abs=1e-9)

    def test_the_wrong_order_of_the_product_is_another_number(self):
        w, covariances = reference()
        first_fastest = w.permute(2, 1, 0).reshape(-1)
        trap = first_fastest @ kronecker(covariances).inverse() @ first_fastest
        assert float(trap) == pytest.approx(8.567673258, abs=1e-9)

    def test_gradient(self):
        w, covariances = reference()
        w.requires_grad_()
        (quadratic_form(w, covariances) / 2).backward()
        close(
            w.grad[:, :, 0],
            [[0.453885525, 0.480183031], [1.143671070, -0.429829457], [0.109388820, -0.691880181]],
            1e-8,
        )

    @pytest.mark.parametrize("structure", ["dense", "low-rank"])
    def test_updates(self, structure):
        w, covariances = reference()
        expected = [
            [
                [0.27957566, 0.19609942, -0.06765973],
                [0.19609942, 0.51432645, 0.35967332],
                [-0.06765973, 0.35967332, 0.45633437],
            ],
            [[0.44019273, -0.19280978], [-0.19280978, 0.59698803]],
            [[0.34903698, 0.08353488], [0.08353488, 0.47238976]],
        ]
        options = {"eps": 1e-5, "structure": structure}
        together = flip_flop(w[None], covariances, order="simultaneous", **options)
        for mode, printed in enumerate(expected):
            one = mode_covariance(w, covariances, mode, relative=False, **options)
            for got in (one, together[mode]):
                close(got if structure == "dense" else got.dense(), printed, 1e-8)


def naive_update(samples, covariances, mode, eps):
    """Eq. 5 in so many words, other modes' Kronecker product inverted."""
    others = kronecker([c for i, c in enumerate(covariances) if i != mode])
    total = sum(unfold(x, mode) @ others.inverse() @ unfold(x, mode).mT for x in samples)
    d = samples.shape[1 + mode]
    return total * d / samples.numel() + eps * torch.eye(d).double()


def dense(covariances):
    return [c.dense() if isinstance(c, LowRankPlusDiagonal) else c for c in covariances]


class TestFlipFlop:
    @pytest.mark.parametrize("structure", ["dense", "auto", "low-rank"])
    @pytest.mark.parametrize("shape", [(1, 3, 4, 2), (5, 3, 2), (2, 9, 2, 2), (3, 2, 2, 3, 2)])
    @pytest.mark.parametrize("order", ["sequential", "simultaneous"])
    def test_is_the_equation(self, shape, order, structure):
        x, covariances = randn(*shape), [spd(d, d) for d in shape[1:]]
        eps, expected = 0.01, list(covariances)
        for _ in range(2):
            seen = expected if order == "sequential" else list(expected)
            for mode in range(len(expected)):
                expected[mode] = naive_update(x, seen, mode, eps)
        start = list(covariances)
        got = flip_flop(x, covariances, eps=eps, sweeps=2, order=order, structure=structure)
        for a, b in zip(dense(got), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
        assert all(a is b for a, b in zip(start, covariances, strict=True))  # left alone

    def test_likelihood_never_falls(self):
        x = TensorNormal(torch.zeros(3, 4, 2).double(), [spd(3, 3), spd(4, 4), spd(2, 2)])
        x = x.sample((30,))
        covariances, last = [spd(3, 3), spd(4, 4), spd(2, 2)], -math.inf
        for _ in range(6):
            for mode in range(3):
                covariances = flip_flop(x, covariances, eps=0, modes=[mode])
                prior = TensorNormal(torch.zeros(3, 4, 2).double(), covariances)
                now = float(prior.log_prob(x).sum())
                assert now >= last - 1e-9
                last = now

    def test_is_stationary_for_a_plus_before_the_determinants(self):
        """The objective of eq. 9, with the sign of eq. 2, has gradient zero at the update."""
        w, covariances = randn(2, 3, 2), [spd(2, 2), spd(3, 3), spd(2, 2)]
        for mode in range(3):
            best = mode_covariance(w, covariances, mode, eps=0).requires_grad_()
            new = [best if i == mode else c for i, c in enumerate(covariances)]
            (gradient,) = torch.autograd.grad(
                TensorNormal(torch.zeros_like(w), new).log_prob(w), best
            )
            assert gradient.abs().max() < 1e-9

    def test_quadratic_form_after_an_exact_update_is_the_dimension(self):
        w = randn(3, 4, 2)
        covariances = flip_flop(w[None], [None] * 3, eps=0)
        assert float(quadratic_form(w, covariances)) == pytest.approx(w.numel())

    def test_simultaneous_order_diverges_in_scale_sequential_does_not(self):
        w, start = 0.1 * randn(12, 10, 4), [None] * 3

        def scales(order):
            """Q / D after 1 .. 4 rounds: the factor by which the product is too small."""
            rounds = [flip_flop(w[None], start, eps=0, sweeps=i, order=order) for i in range(1, 5)]
            return [float(quadratic_form(w, found)) / w.numel() for found in rounds]

        assert scales("sequential") == pytest.approx([1] * 4)
        size = np.log10(scales("simultaneous"))
        # a common factor c of the three turns into c^-2, so that its logarithm doubles
        np.testing.assert_allclose(size[1:] / size[:-1], -2, atol=0.2)
        assert size[-1] < -20
        fixed = flip_flop(w[None], start, eps=0, sweeps=4, order="simultaneous", scale="trace")
        assert [float(c.trace()) for c in fixed] == pytest.approx([12, 10, 4])

    @pytest.mark.parametrize("order", ["sequential", "simultaneous"])
    def test_last_moves_the_scale_and_keeps_the_product(self, order):
        x = randn(6, 3, 4, 2)
        start = [spd(3, 3), spd(4, 4), spd(2, 2)]
        free = flip_flop(x, start, eps=0, order=order)
        last = flip_flop(x, start, eps=0, order=order, scale="last")
        torch.testing.assert_close(kronecker(last), kronecker(free), **EXACT)
        assert [float(c.trace()) for c in last[:2]] == pytest.approx([3, 4])
        first = flip_flop(x, start, eps=0, order=order, scale="last", modes=(2, 1, 0))
        assert [float(c.trace()) for c in first[1:]] == pytest.approx([4, 2])
        loose = flip_flop(x, start, eps=0, order=order, modes=(2, 1, 0))
        torch.testing.assert_close(kronecker(first), kronecker(loose), **EXACT)
        fixed = flip_flop(x, start, eps=0, order=order, scale="trace")
        for a, b in zip(fixed, free, strict=True):
            torch.testing.assert_close(a, normalise_trace(b), **EXACT)

    def test_modes_and_a_ridge_each(self):
        x, start = randn(6, 3, 4, 2), [spd(3, 3), None, spd(2, 2)]
        a, b, c = flip_flop(x, start, eps=[9, 9, 0.3], modes=[-1], relative=True)
        assert torch.equal(a, start[0]) and b is None
        torch.testing.assert_close(c, mode_covariance(x, start, 2, eps=0.3))
        assert flip_flop(x, start, eps=0, sweeps=0)[0] is start[0]

    def test_relative_eps_is_shrinkage(self):
        x = randn(3, 2, 4)
        plain = mode_covariance(x, [None, None], 1, eps=0)
        for eps in (0.0, 0.3, 1.0):
            got = mode_covariance(x, [None, None], 1, eps=eps)
            expected = (1 - eps) * plain + eps * plain.trace() / 4 * torch.eye(4).double()
            torch.testing.assert_close(got, expected, **EXACT)
            assert float(got.trace()) == pytest.approx(float(plain.trace()))

    def test_finds_known_covariances(self):
        truth = [normalise_trace(spd(d, d)) for d in (3, 4)] + [3 * spd(2, 2)]
        prior = TensorNormal(torch.zeros(3, 4, 2).double(), truth)
        errors = []
        for n in (20, 20_000):
            found = flip_flop(prior.sample((n,)), [None] * 3, eps=0, sweeps=5, scale="last")
            errors.append(
                max(float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True))
            )
        assert errors[1] < 0.03 < errors[0]

    @pytest.mark.parametrize("features", [12, 40])
    @pytest.mark.parametrize("structure", ["auto", "dense"])
    def test_many_features_first_leave_nothing_to_the_others(self, features, structure):
        w, start = randn(features, 3, 4), [None, spd(3, 3), spd(4, 4)]
        plain = flip_flop(w[None], start, eps=0, structure=structure)
        torch.testing.assert_close(plain[1], 3 * 4 / features * start[1], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(plain[2], start[2], rtol=1e-6, atol=1e-8)
        shrunk = flip_flop(w[None], start, eps=[0.9, 0, 0], relative=True, structure=structure)
        last = flip_flop(w[None], start, eps=0, modes=[2, 1, 0], structure=structure)
        for found in (shrunk, last):
            assert (normalise_trace(found[2]) - normalise_trace(start[2])).abs().max() > 0.1

    def test_two_modes_and_one_covariance_fixed_is_the_closed_form(self):
        """MTRL: with unit feature covariance the tasks' one is ``W^T W / d``."""
        w = randn(7, 3)
        got = flip_flop(w[None], [None, None], eps=0, modes=[1])[1]
        torch.testing.assert_close(got, w.mT @ w / 7, **EXACT)

    @settings(max_examples=15, deadline=None)
    @given(
        shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
        mode=st.integers(-4, 3),
        factor=st.floats(0.01, 100),
        seed=st.integers(0, 10**6),
    )
    def test_invariances(self, shape, mode, factor, seed):
        torch.manual_seed(seed)
        k = len(shape)
        mode = mode % k
        w, covariances = randn(*shape), [spd(d, d) for d in shape]
        options = {"eps": 0.1, "relative": True}
        plain, *_ = dense([mode_covariance(w, covariances, mode, **options)])
        # positive definite, symmetric, homogeneous of degree two in w
        assert torch.linalg.eigvalsh(plain).min() > 0
        torch.testing.assert_close(plain, plain.mT, **EXACT)
        scaled, *_ = dense([mode_covariance(factor * w, covariances, mode, **options)])
        torch.testing.assert_close(scaled, factor**2 * plain, rtol=1e-8, atol=0)
        # rotating the mode rotates its covariance
        q = torch.linalg.qr(randn(shape[mode], shape[mode]))[0]
        turned = torch.tensordot(q, w, dims=([1], [mode])).movedim(0, mode)
        rotated = dense([mode_covariance(turned, covariances, mode, **options)])[0]
        torch.testing.assert_close(rotated, q @ plain @ q.mT, rtol=1e-7, atol=1e-9)
        # the order of the modes does not matter
        order = torch.randperm(k).tolist()
        moved = mode_covariance(
            w.permute(order), [covariances[i] for i in order], order.index(mode), **options
        )
        torch.testing.assert_close(dense([moved])[0], plain, rtol=1e-8, atol=1e-10)


class TestLowRankPlusDiagonal:
    def parts(self, d=9, r=4):
        basis = torch.linalg.qr(randn(d, r))[0]
        return LowRankPlusDiagonal(basis, torch.rand(r).double() * 5, torch.tensor(0.3).double())

    def test_is_its_dense_twin(self):
        s = self.parts()
        full, x = s.dense(), randn(9, 5)
        assert s.shape == full.shape and s.dtype == torch.float64
        torch.testing.assert_close(s.solve(x), torch.linalg.solve(full, x), **EXACT)
        torch.testing.assert_close(s.root_solve(s.root_solve(x)), s.solve(x), **EXACT)
        torch.testing.assert_close(s.logdet(), full.logdet(), **EXACT)
        torch.testing.assert_close(s.trace(), full.trace(), **EXACT)
        torch.testing.assert_close(s.scale(3).dense(), 3 * full, **EXACT)
        torch.testing.assert_close(normalise_trace(s).dense(), normalise_trace(full), **EXACT)
        assert s.to(torch.float32).solve(x.float()).dtype == torch.float32

    @pytest.mark.parametrize("rank", [2, 4])
    def test_coordinates_in_a_subspace_count_the_rest_of_the_space(self, rank):
        """Four dimensions of nine, also where the basis holds all four."""
        s = replace(self.parts(4, rank), size=9)
        inside = torch.linalg.qr(randn(9, 4))[0]
        full = LowRankPlusDiagonal(inside @ s.basis, s.values, s.eps).dense()
        torch.testing.assert_close(s.trace(), full.trace(), **EXACT)
        torch.testing.assert_close(s.logdet(), full.logdet(), **EXACT)
        torch.testing.assert_close(s.stiffness(), 1 / torch.linalg.eigvalsh(full)[0], **EXACT)
        torch.testing.assert_close(normalise_trace(s).trace(), torch.tensor(9.0).double(), **EXACT)
        x = randn(4, 5)
        torch.testing.assert_close(
            inside @ s.solve(x), torch.linalg.solve(full, inside @ x), **EXACT
        )

    def test_generalised_inverse_where_it_is_singular(self):
        s = self.parts()
        s = LowRankPlusDiagonal(s.basis, s.values, torch.zeros(()).double())
        pinv = torch.linalg.pinv(s.dense(), hermitian=True, rtol=1e-10)
        torch.testing.assert_close(s.solve(torch.eye(9).double()), pinv, **EXACT)
        torch.testing.assert_close(s.logdet(), s.values.log().sum(), **EXACT)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("rank", [0, 1, 3, 6])
    def test_decompose(self, rank, dtype):
        x = randn(6, rank)
        covariance = (x @ x.mT).to(dtype)
        got = decompose(covariance)
        assert got.dtype == dtype and int((got.values > 0).sum()) == rank
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(got.dense(), covariance, rtol=tolerance, atol=10 * tolerance)
        assert decompose(got) is got and decompose(None) is None

    @pytest.mark.parametrize("eps", [1e-3, 1e-2, 0.5])
    @pytest.mark.parametrize("relative", [True, False])
    @pytest.mark.parametrize(
        "shape", [(1, 3, 120, 4), (2, 4, 150, 1), (1, 200, 5), (1, 90, 5, 2, 2)]
    )
    def test_sweep_penalty_and_gradient_are_those_of_the_dense_path(self, shape, relative, eps):
        x = randn(*shape)
        start = [None] * (len(shape) - 1)
        results = {}
        for structure in ("dense", "auto", "low-rank"):
            covariances = flip_flop(
                x, start, eps=eps, relative=relative, sweeps=2, structure=structure
            )
            w = x[0].clone().requires_grad_()
            quadratic_form(w, covariances).backward()
            results[structure] = [
                *dense(covariances),
                w.grad,
                quadratic_form(w, covariances).detach(),
                log_determinant_term(w.shape, covariances),
            ]
            kinds = {type(c) for c in covariances}
            if structure != "dense":
                assert LowRankPlusDiagonal in kinds
        for structure in ("auto", "low-rank"):
            for a, b in zip(results[structure], results["dense"], strict=True):
                assert float((a - b).norm() / b.norm()) < 1e-8

    def test_auto_goes_by_shape(self):
        w = randn(40, 3, 4)
        kinds = [type(mode_covariance(w, [None] * 3, mode, eps=0.1)) for mode in range(3)]
        assert kinds == [LowRankPlusDiagonal, torch.Tensor, torch.Tensor]
        assert isinstance(mode_covariance(randn(4, 40, 3, 4), [None] * 3, 0, eps=0.1), torch.Tensor)


class TestCholesky:
    def test_is_its_dense_twin(self):
        full, x = spd(9, 9), randn(9, 5)
        s = Cholesky.of(full)
        assert s.shape == full.shape and s.dimension == 9 and s.dtype == torch.float64
        torch.testing.assert_close(s.solve(x), torch.linalg.solve(full, x), **EXACT)
        white = s.root_solve(x)
        torch.testing.assert_close(white.mT @ white, x.mT @ s.solve(x), **EXACT)
        torch.testing.assert_close(s.logdet(), full.logdet(), **EXACT)
        torch.testing.assert_close(s.trace(), full.trace(), **EXACT)
        torch.testing.assert_close(s.scale(3).dense(), 3 * full, **EXACT)
        torch.testing.assert_close(s.scale(3).solve(x), s.solve(x) / 3, **EXACT)
        torch.testing.assert_close(normalise_trace(s).dense(), normalise_trace(full), **EXACT)
        assert s.to(torch.float32).solve(x.float()).dtype == torch.float32

    def test_what_is_not_definite_has_none(self):
        assert Cholesky.of(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).precision.isnan().all()
        assert Cholesky.of(torch.full((2, 2), torch.nan)).precision.isnan().all()

    @pytest.mark.parametrize("axis", [0, 1, 2, 3])
    def test_products_leave_the_axes_where_they_are(self, axis):
        w, sizes = randn(4, 3, 5, 2), (4, 3, 5, 2)
        covariances = [spd(n, n) if i == axis else None for i, n in enumerate(sizes)]
        kept = [c if c is None else Cholesky.of(c) for c in covariances]
        expected = apply_precisions(w, covariances)
        torch.testing.assert_close(apply_precisions(w, kept), expected, **EXACT)
        white = whiten(w.mT.contiguous().mT, kept)
        torch.testing.assert_close(white.square().sum(), (w * expected).sum(), **EXACT)


class TestPenalty:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_is_the_dense_form(self, shape):
        w, covariances = randn(*shape), [spd(d, d) for d in shape]
        precision = kronecker(covariances).inverse()
        v = w.reshape(-1)
        torch.testing.assert_close(quadratic_form(w, covariances), v @ precision @ v, **EXACT)
        torch.testing.assert_close(
            apply_precisions(w, covariances).reshape(-1), precision @ v, **EXACT
        )
        log_determinant = kronecker(covariances).logdet()
        torch.testing.assert_close(
            log_determinant_term(shape, covariances), log_determinant, **EXACT
        )

    def test_none_is_the_identity(self):
        w, covariance = randn(3, 4, 2), spd(4, 4)
        eye = [torch.eye(3).double(), covariance, torch.eye(2).double()]
        some = [None, covariance, None]
        torch.testing.assert_close(quadratic_form(w, some), quadratic_form(w, eye), **EXACT)
        torch.testing.assert_close(
            log_determinant_term(w.shape, some), log_determinant_term(w.shape, eye), **EXACT
        )
        assert float(quadratic_form(w, [None] * 3)) == pytest.approx(float(w.square().sum()))
        assert float(log_determinant_term(w.shape, [None] * 3)) == 0

    def test_gradient_and_leading_axes(self):
        covariances = [spd(3, 3), None, decompose(spd(2, 2))]
        w = randn(5, 3, 4, 2).requires_grad_()
        assert quadratic_form(w, covariances).shape == (5,)
        assert torch.autograd.gradcheck(lambda x: quadratic_form(x, covariances), w)
        (gradient,) = torch.autograd.grad(quadratic_form(w, covariances).sum(), w)
        torch.testing.assert_close(gradient, 2 * apply_precisions(w.detach(), covariances), **EXACT)

    def test_a_transposed_view_is_what_layers_hand_out(self):
        stored = randn(2, 3, 4).requires_grad_()  # (T, in, out)
        covariances = [spd(4, 4), spd(3, 3), spd(2, 2)]
        quadratic_form(stored.permute(2, 1, 0), covariances).backward()
        expected = 2 * apply_precisions(stored.detach().permute(2, 1, 0), covariances)
        torch.testing.assert_close(stored.grad, expected.permute(2, 1, 0), **EXACT)

    def test_float64_covariances_save_float32_weights_from_a_small_eps(self):
        w = torch.randn(60, 3, 4)
        covariances = flip_flop(
            w.double()[None], [None] * 3, eps=1e-6, relative=True, structure="low-rank"
        )
        exact = apply_precisions(w.double(), covariances)
        got = apply_precisions(w, covariances)
        assert got.dtype == torch.float32 and quadratic_form(w, covariances).dtype == torch.float32
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)
        rounded = apply_precisions(w, [c.to(torch.float32) for c in covariances])
        assert (rounded - exact).norm() > 10 * (got - exact).norm()

    def test_negative_log_density(self):
        """Half of both terms and a constant: the sign that the paper prints is the other one."""
        w, covariances = randn(3, 4, 2), [spd(3, 3), spd(4, 4), spd(2, 2)]
        half = 0.5 * (quadratic_form(w, covariances) + log_determinant_term(w.shape, covariances))
        constant = 0.5 * w.numel() * math.log(2 * math.pi)
        density = TensorNormal(torch.zeros_like(w), covariances).log_prob(w)
        torch.testing.assert_close(half + constant, -density, **EXACT)


class TestDegenerate:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("structure", ["dense", "auto", "low-rank"])
    @pytest.mark.parametrize("case", DEGENERATE)
    def test_everything_is_finite(self, case, structure, dtype):
        w = DEGENERATE[case]().to(dtype).requires_grad_()
        for eps in (0.0, 1e-5, 0.5):
            for relative in (True, False):
                for scale in ("none", "last", "trace"):
                    for order in ("sequential", "simultaneous"):
                        if scale != "trace" and (order, case) != ("sequential", "zero"):
                            continue  # a free scale leaves the range of float32, as it must
                        covariances = flip_flop(
                            w[None],
                            [None] * 3,
                            eps=eps,
                            relative=relative,
                            scale=scale,
                            structure=structure,
                            order=order,
                            sweeps=3,
                        )
                        self.check(w, covariances)

    @staticmethod
    def check(w, covariances):
        assert all(c.dtype == w.dtype for c in covariances)
        penalty = quadratic_form(w, covariances)
        (gradient,) = torch.autograd.grad(penalty, w)
        finite = [
            penalty,
            gradient,
            log_determinant_term(w.shape, covariances),
            *dense(covariances),
        ]
        assert all(bool(x.isfinite().all()) for x in finite)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("structure", ["dense", "low-rank"])
    def test_rank_of_identical_tasks(self, structure, dtype):
        """Identical tasks: covariance of rank one, its inverse 1 on them and 0 elsewhere."""
        w = DEGENERATE["identical tasks"]().to(dtype)
        options = {"eps": 0.0, "structure": structure}
        covariance = normalise_trace(mode_covariance(w, [None] * 3, 2, **options))
        full = dense([covariance])[0]
        torch.testing.assert_close(full, torch.ones(4, 4, dtype=dtype))
        pinv = decompose(covariance).solve(torch.eye(4, dtype=dtype))
        torch.testing.assert_close(pinv, torch.full((4, 4), 1 / 16, dtype=dtype))

    def test_zero_weights_give_no_relation(self):
        w = torch.zeros(5, 3, 4)
        for structure in ("dense", "low-rank"):
            (*_, task) = flip_flop(w[None], [None] * 3, eps=0.1, scale="trace", structure=structure)
            assert torch.equal(dense([task])[0], torch.eye(4))
        assert torch.equal(normalise_trace(torch.zeros(4, 4)), torch.eye(4))

    def test_a_nan_does_not_disappear(self):
        w = torch.randn(5, 3, 4)
        w[0, 0, 0] = math.nan
        assert quadratic_form(w, [None, None, torch.eye(4)]).isnan()
        for structure in ("dense", "low-rank"):
            try:
                covariance = mode_covariance(w, [None] * 3, 2, eps=0.1, structure=structure)
            except torch.linalg.LinAlgError:
                continue
            assert dense([covariance])[0].isnan().any()
        assert decompose(torch.diag(torch.tensor([1.0, 2.0]))).values.isfinite().all()
        s = LowRankPlusDiagonal(torch.eye(2), torch.tensor([1.0, math.nan]), torch.tensor(0.1))
        assert s.solve(torch.ones(2, 1)).isnan().any() and s.logdet().isnan()
        assert normalise_trace(torch.full((2, 2), math.nan)).isnan().all()


class TestSquareRootRelation:
    def test_is_the_root(self):
        w = randn(6, 2, 3)
        omega = sqrt_relation(w)
        flat = w.reshape(-1, 3)
        assert float(omega.trace()) == pytest.approx(1)
        square = flat.mT @ flat
        torch.testing.assert_close(
            omega @ omega / (omega @ omega).trace(), square / square.trace(), **EXACT
        )

    def test_minimises_its_objective(self):
        w = randn(8, 3)
        best = torch.trace(w @ sqrt_relation(w).inverse() @ w.mT)
        # the minimum is the squared trace norm
        assert float(best) == pytest.approx(float(torch.linalg.matrix_norm(w, "nuc")) ** 2)
        for _ in range(50):
            other = spd(3, 3)
            other = other / other.trace()
            assert torch.trace(w @ other.inverse() @ w.mT) >= best - 1e-9

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("case", DEGENERATE)
    def test_degenerate(self, case, dtype):
        w = DEGENERATE[case]().to(dtype)
        omega = sqrt_relation(w)
        assert omega.dtype == dtype and bool(omega.isfinite().all())
        assert float(omega.trace()) == pytest.approx(1, abs=1e-5)
        if case == "zero":
            torch.testing.assert_close(omega, torch.eye(4, dtype=dtype) / 4)


# Devices


def exercise(device):
    """Every function of a penalty and an update, and both distributions."""
    w = torch.empty(3, 40, 4, device=device, requires_grad=True)
    covariances = [None] * 3
    for structure in ("auto", "dense", "low-rank"):
        for scale in ("trace", "last", "none"):
            covariances = flip_flop(
                w[None], covariances, eps=0.1, relative=True, scale=scale, structure=structure
            )
        penalty = quadratic_form(w, covariances) + log_determinant_term(w.shape, covariances)
        assert penalty.device.type == device
        if device == "meta":  # a backward pass needs a driver even when fake
            penalty.backward()
    assert sqrt_relation(w).device.type == device
    prior = TensorNormal(
        w, [torch.empty(d, d, device=device) for d in w.shape], validate_args=False
    )
    x = prior.rsample((2,))
    for value in (
        x,
        prior.log_prob(x),
        prior.entropy(),
        prior.variance,
        kl_divergence(prior, prior),
    ):
        assert value.device.type == device


def test_nothing_waits_for_a_device():
    exercise("meta")


def test_nothing_is_made_on_the_cpu_by_mistake():
    with FakeTensorMode():
        exercise("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_numbers_of_the_cpu():
    w = torch.randn(3, 40, 4)
    found = []
    for device in ("cpu", "cuda"):
        x = w.to(device)
        covariances = flip_flop(x[None], [None] * 3, eps=0.1, relative=True, structure="auto")
        found.append([*dense(covariances), quadratic_form(x, covariances), sqrt_relation(x)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-4, atol=1e-5)


# Errors

W = torch.zeros(3, 4, 2)
NONE = [None] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quadratic_form(W, [None] * 4), r"w: expected .* covariance, 4, .*\(3, 4, 2\)"),
        (lambda: quadratic_form(W.int(), NONE), r"w: expected a floating tensor .*torch.int32"),
        (lambda: quadratic_form(torch.zeros(3, 0), [None] * 2), r"w: .*none of them empty"),
        (
            lambda: quadratic_form(W, [None, torch.eye(3), None]),
            r"covariances\[1\]: expected shape \(4, 4\) for w .* got \(3, 3\)",
        ),
        (
            lambda: mode_covariance(W, NONE, 3, eps=0.1),
            r"mode: expected an axis in \[-3, 3\), got 3",
        ),
        (lambda: mode_covariance(W, NONE, 0, eps=2), "eps: expected 0 to 1, got 2"),
        (lambda: flip_flop(W[None], NONE, eps=-1), "eps: expected a number >= 0, got -1"),
        (
            lambda: flip_flop(W[None], NONE, eps=[0.1]),
            "eps: expected one number, or one for each of 3",
        ),
        (
            lambda: mode_covariance(W, NONE, 0, eps=0.1, structure="sparse"),
            "structure: expected 'auto', 'dense' or 'low-rank', got 'sparse'",
        ),
        (lambda: flip_flop(W, NONE, eps=0), r"samples: expected shape \(n, d_1, ..., d_3\)"),
        (lambda: flip_flop(W[None], NONE, eps=0, order="random"), "order: expected 'sequential'"),
        (lambda: flip_flop(W[None], NONE, eps=0, scale="first"), "scale: expected 'none', 'last'"),
        (
            lambda: LowRankPlusDiagonal(torch.eye(3), torch.ones(2), torch.tensor(1.0)),
            r"basis, values, eps: expected shapes .* got \(3, 3\), \(2,\), \(\)",
        ),
        (
            lambda: TensorNormal(torch.zeros(3), [torch.eye(3), torch.eye(3)]),
            r"loc: expected one axis a covariance, 2, or more, got shape \(3,\)",
        ),
        (
            lambda: MatrixNormal(torch.zeros(3, 2), torch.eye(2), torch.eye(3)),
            r"covariances\[0\]: expected shape \(..., 3, 3\) .* got \(2, 2\)",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# What is no covariance


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1.0, 0.5], [0.2, 1.0]], r"covariance: expected a symmetric matrix .* differ by 0\.3"),
        ([[1.0, 2.0], [2.0, 1.0]], "covariance: expected a positive semi-definite .* of -1"),
        ([[1.0, torch.nan], [torch.nan, 1.0]], "covariance: expected a symmetric matrix of finite"),
    ],
)
def test_what_is_no_covariance_is_refused_and_not_projected(matrix, message):
    with pytest.raises(ValueError, match=message):
        decompose(torch.tensor(matrix))
    with pytest.raises(ValueError, match=message):
        quadratic_form(torch.randn(2, 3), [torch.tensor(matrix), None])
    with pytest.raises(ValueError):
        MatrixNormal(torch.zeros(2, 3), torch.tensor(matrix), torch.eye(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_flip_flop_makes_is_a_covariance(dtype):
    for scale in (1e-6, 1.0, 1e6):
        samples = scale * torch.randn(2, 4, 9, 5, dtype=dtype)
        for found in flip_flop(samples, [None] * 3, eps=1e-6, relative=True, sweeps=3):
            check_covariance("found", found)
        # nearly of rank one: the vectors of small eigenvalues are not quite orthonormal
        samples = samples[:, :1, :1, :1] + 1e-4 * samples
        for found in flip_flop(samples, [None] * 3, eps=1e-9, relative=True, structure="low-rank"):
            check_covariance("found", found)
    decompose(torch.zeros(3, 3, dtype=dtype))


def test_not_a_number_stays_one_in_every_inverse():
    x = torch.tensor([torch.nan, 0.0, 2.0, -1.0])
    assert reciprocal(x)[1:].tolist() == [0.0, 0.5, 0.0] and bool(reciprocal(x)[0].isnan())


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_distribution_refuses_what_is_not_symmetric_at_any_scale(scale):
    skew = scale * torch.tensor([[1.0, 0.5], [0.4, 1.0]])
    with pytest.raises(ValueError, match="row_covariance: expected a symmetric matrix"):
        MatrixNormal(torch.zeros(2, 3), skew, torch.eye(3))
    with pytest.raises(ValueError, match="covariance_1: expected a symmetric matrix"):
        TensorNormal(torch.zeros(3, 2), [torch.eye(3), skew.expand(4, 2, 2)])
