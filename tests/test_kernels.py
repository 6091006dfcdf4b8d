"""Similarity, sharing and chance, each against a slow plain version, theory or sampling."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtlbook.kernels import (
    aggregate,
    chance_density,
    chance_tail,
    chance_threshold,
    cosine_similarity,
    gaussian_similarity,
    mix,
    pair_share,
    pair_weights,
    pearson_similarity,
    random_order,
    sharing,
)

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
MEASURES = {
    "cosine": cosine_similarity,
    "pearson": pearson_similarity,
    "gaussian": gaussian_similarity,
}


# The definitions, one pair at a time


def slow_cosine(p, q):
    lengths = math.sqrt(float(p @ p)) * math.sqrt(float(q @ q))
    return float(p @ q) / lengths if lengths else 0.0


def slow_similarity(kernels, measure):
    rows = kernels.double().flatten(1)
    if measure == "pearson":
        rows = torch.stack([row - row.mean() for row in rows])
    sigma = sum(float(row @ row) for row in rows) / len(rows)
    s = torch.eye(len(rows), dtype=torch.float64)
    for p in range(len(rows)):
        for q in range(len(rows)):
            if p != q and measure == "gaussian":
                s[p, q] = math.exp(-float((rows[p] - rows[q]).square().sum()) / sigma)
            elif p != q:
                s[p, q] = slow_cosine(rows[p], rows[q])
    return s


def slow_aggregate(kernels, s, rho, tasks=None, cross_task_only=False, mutual_best=False):
    """The formula of the docstring, in loops; any matrix of similarities."""

    def allowed(p, q):
        return p != q and not (cross_task_only and tasks[p] == tasks[q])

    def best(p):
        others = [q for q in range(len(kernels)) if allowed(p, q)]
        return max(others, key=lambda q: float(s[p, q]), default=None)

    out = []
    for p in range(len(kernels)):
        total, weight = kernels[p].clone(), 1.0
        for q in range(len(kernels)):
            paired = allowed(p, q) and float(s[p, q]) > rho
            if mutual_best:
                paired = paired and best(p) == q and best(q) == p
            if paired:
                total, weight = total + s[p, q] * kernels[q], weight + s[p, q]
        out.append(total / weight)
    return torch.stack(out)


def related(number=12, shape=(3, 2, 2), dtype=torch.float64):
    """Kernels in three loose groups, so that some are alike."""
    centres = torch.randn(3, *shape, dtype=dtype)
    return centres[torch.arange(number) % 3] + 0.5 * torch.randn(number, *shape, dtype=dtype)


TASKS = [0] * 5 + [1] * 4 + [2] * 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("measure", MEASURES)
class TestSimilarity:
    def test_against_pairs_one_by_one(self, measure, dtype):
        kernels = related(dtype=dtype)
        s = MEASURES[measure](kernels)
        assert s.dtype == dtype and s.shape == (12, 12)
        expected = slow_similarity(kernels, measure).to(dtype)
        torch.testing.assert_close(s, expected, rtol=0, atol=TOLERANCE[dtype])

    def test_symmetric_bounded_diagonal_one(self, measure, dtype):
        s = MEASURES[measure](related(40, dtype=dtype))
        torch.testing.assert_close(s, s.mT)
        assert s.diagonal().tolist() == [1] * 40
        assert float(s.abs().max()) <= 1

    @pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e15])
    def test_scaling_all_kernels_changes_nothing(self, measure, dtype, scale):
        kernels = related(dtype=dtype)
        similarity = MEASURES[measure]
        torch.testing.assert_close(
            similarity(kernels * scale), similarity(kernels), rtol=0, atol=TOLERANCE[dtype]
        )

    def test_order_of_kernels(self, measure, dtype):
        kernels, order = related(dtype=dtype), torch.randperm(12)
        s = MEASURES[measure](kernels)
        torch.testing.assert_close(MEASURES[measure](kernels[order]), s[order][:, order])

    def test_equal_kernels(self, measure, dtype):
        s = MEASURES[measure](torch.randn(1, 3, 3, dtype=dtype).expand(4, 3, 3))
        torch.testing.assert_close(s, torch.ones(4, 4, dtype=dtype))

    @pytest.mark.parametrize("shape", [(0, 3, 3), (1, 2, 3, 3), (4, 1), (3, 1, 1)])
    def test_few_kernels_and_few_entries(self, measure, dtype, shape):
        s = MEASURES[measure](torch.randn(shape, dtype=dtype))
        assert s.shape == (shape[0], shape[0]) and bool(s.isfinite().all())
        assert s.diagonal().tolist() == [1] * shape[0]

    def test_gradient(self, measure, dtype):
        kernels = related(5).requires_grad_()  # in float64, which finite differences need
        assert torch.autograd.gradcheck(MEASURES[measure], kernels)

    def test_gradient_at_zero_is_finite(self, measure, dtype):
        kernels = related(5, dtype=dtype)
        kernels[2] = 0
        kernels.requires_grad_()
        MEASURES[measure](kernels).sum().backward()
        assert bool(kernels.grad.isfinite().all())


def test_similarity_by_hand():
    kernels = torch.tensor([[2.0, 0], [1, 1], [0, -3], [0, 0]])
    half = math.sqrt(0.5)
    expected = [[1, half, 0, 0], [half, 1, -half, 0], [0, -half, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(cosine_similarity(kernels), torch.tensor(expected))
    assert pearson_similarity(kernels)[0].tolist() == [1, 0, 1, 0]  # (1, -1), and no (1, 1)
    distances = gaussian_similarity(kernels, sigma=2.0)[0]
    torch.testing.assert_close(distances, torch.tensor([0, 2.0, 13, 4]).div(-2).exp())


@pytest.mark.parametrize("dtype", DTYPES)
def test_pearson_does_not_compare_the_rounding_of_constants(dtype):
    kernels = torch.stack([torch.full((3, 3), c, dtype=dtype) for c in (0.1, 0.3, 1e-3, 7e5)])
    assert torch.equal(pearson_similarity(kernels), torch.eye(4, dtype=dtype))


def test_gaussian_zeros_are_equal_to_each_other():
    assert gaussian_similarity(torch.zeros(3, 4)).tolist() == [[1] * 3] * 3


@pytest.mark.parametrize("dtype", DTYPES)
class TestAggregate:
    @pytest.mark.parametrize("cross_task_only", [False, True])
    @pytest.mark.parametrize("pairs", ["all", "mutual-best"])
    @pytest.mark.parametrize("measure", MEASURES)
    @pytest.mark.parametrize("rho", [0.0, 0.3, 0.8])
    def test_against_loops(self, rho, measure, pairs, cross_task_only, dtype):
        kernels = related(dtype=dtype)
        got = aggregate(kernels, rho, TASKS, cross_task_only, pairs=pairs, similarity=measure)
        s = slow_similarity(kernels, measure)
        expected = slow_aggregate(
            kernels.double(), s, rho, TASKS, cross_task_only, pairs == "mutual-best"
        )
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=5 * TOLERANCE[dtype])
        assert not torch.equal(got, kernels)  # there was something to share

    @pytest.mark.parametrize("rho", [1, 1.0, 2.5, math.inf])
    def test_from_one_on_the_kernels_themselves(self, rho, dtype):
        kernels = torch.tensor([[0.1, -0.0], [0.1, 0.0], [math.inf, 1]], dtype=dtype)
        assert aggregate(kernels, rho) is kernels

    def test_order_of_kernels(self, dtype):
        kernels, order = related(dtype=dtype), torch.randperm(12)
        tasks = torch.tensor(TASKS)
        for options in ({}, {"cross_task_only": True}, {"pairs": "mutual-best"}):
            got = aggregate(kernels[order], 0.3, tasks[order], **options)
            torch.testing.assert_close(got, aggregate(kernels, 0.3, tasks, **options)[order])

    def test_equal_kernels_stay(self, dtype):
        kernels = related(6, dtype=dtype).repeat(2, 1, 1, 1)
        tasks = [0] * 6 + [1] * 6
        got = aggregate(kernels, 0.99, tasks, cross_task_only=True)
        torch.testing.assert_close(got, kernels)

    def test_zero_kernels_have_no_part(self, dtype):
        kernels = related(dtype=dtype)
        kernels[4] = 0
        got, rest = aggregate(kernels, 0.2), [p for p in range(12) if p != 4]
        assert not bool(got[4].any())
        torch.testing.assert_close(got[rest], aggregate(kernels[rest], 0.2))

    def test_a_convex_combination(self, dtype):
        kernels = related(dtype=dtype)
        got = aggregate(kernels, 0.0)
        assert bool((got <= kernels.amax(0) + 1e-6).all() & (got >= kernels.amin(0) - 1e-6).all())
        constant = torch.ones(5, 9, dtype=dtype)
        torch.testing.assert_close(aggregate(constant, 0.0), constant)

    @pytest.mark.parametrize("shape", [(0, 3, 3), (1, 2, 3, 3), (4, 5, 1, 1), (3, 1), (2, 0)])
    def test_degenerate_shapes(self, shape, dtype):
        kernels = torch.randn(shape, dtype=dtype)
        for pairs in ("all", "mutual-best"):
            got = aggregate(kernels, 0.5, torch.arange(shape[0]), True, pairs=pairs)
            assert got.shape == shape and bool(got.isfinite().all())
            if shape[0] == 1:
                assert torch.equal(got, kernels)

    def test_kernels_of_one_task_have_no_partner_in_another(self, dtype):
        kernels = related(dtype=dtype)
        for pairs in ("all", "mutual-best"):
            assert torch.equal(aggregate(kernels, 0.0, [0] * 12, True, pairs=pairs), kernels)

    @settings(max_examples=40, deadline=None)
    @given(
        number=st.integers(1, 9),
        entries=st.integers(1, 6),
        rho=st.floats(0, 0.999),
        seed=st.integers(0, 10**6),
        cross=st.booleans(),
        mutual=st.booleans(),
    )
    def test_rows_are_stochastic(self, dtype, number, entries, rho, seed, cross, mutual):
        generator = torch.Generator().manual_seed(seed)
        # whole numbers, so that equal and opposite kernels and zeros are frequent
        kernels = torch.randint(-1, 2, (number, entries), generator=generator).to(dtype)
        tasks = torch.randint(0, 3, (number,), generator=generator)
        pairs = "mutual-best" if mutual else "all"
        w = pair_weights(kernels, rho, tasks, cross, pairs=pairs)
        torch.testing.assert_close(w.sum(1), torch.ones(number, dtype=dtype))
        assert bool((w >= 0).all() & (w <= w.diagonal()[:, None] + 1e-6).all())
        assert torch.equal(w > 0, (w > 0).mT)  # partners are partners of each other


class TestManyKernels:
    """More than ``BLOCK``: rows in blocks, and no more memory than there is."""

    @pytest.mark.parametrize("rho", [0.0, 0.3])
    @pytest.mark.parametrize("cross", [False, True])
    def test_blocks_of_rows_are_the_rows(self, rho, cross, monkeypatch):
        kernels, tasks = related(11), torch.arange(11) % 3
        kernels[4] = 0
        order = random_order(tasks, generator=torch.Generator().manual_seed(0))
        whole = pair_weights(kernels, rho, tasks, cross)
        monkeypatch.setattr(sharing, "BLOCK", 4)
        made = []
        monkeypatch.setitem(sharing.MEASURES, "cosine", lambda rows: made.append(rows))
        torch.testing.assert_close(pair_weights(kernels, rho, tasks, cross), whole)
        found = pair_weights(kernels, rho, tasks, cross, order=order)
        torch.testing.assert_close(found, whole[order][:, order])
        assert made == []  # never all pairs at once besides W

    def test_what_does_not_fit_says_how_much_it_would_take(self, monkeypatch):
        kernels = torch.randn(5000, 2)
        monkeypatch.setattr(sharing, "_free_memory", lambda device: 10**8 - 1)
        with pytest.raises(ValueError, match=r"kernels: .* 5,000 .* take 0.1 GB where 0.1 GB are"):
            pair_weights(kernels, 0.5)
        with pytest.raises(ValueError, match=r"25,000,000 pairs, which take 0.4 GB"):
            pair_weights(kernels, 0.5, pairs="mutual-best")

    def test_the_memory_of_this_machine_is_known_or_not(self):
        free = sharing._free_memory(torch.device("cpu"))
        assert free is None or free > 10**6
        assert sharing._free_memory(torch.device("meta")) is None


class TestGradient:
    @pytest.mark.parametrize("options", [{}, {"cross_task_only": True}, {"pairs": "mutual-best"}])
    def test_finite_differences_through_the_similarities(self, options):
        kernels = related(6).requires_grad_()
        tasks = [0, 0, 1, 1, 2, 2]
        assert torch.autograd.gradcheck(
            lambda k: aggregate(k, 0.3, tasks, detach=False, **options), kernels
        )

    def test_detached_weights_are_constants(self):
        kernels = related(6).requires_grad_()
        w = pair_weights(kernels.detach(), 0.3)
        upstream = torch.randn_like(kernels)
        (gradient,) = torch.autograd.grad(aggregate(kernels, 0.3), kernels, upstream)
        torch.testing.assert_close(gradient, mix(w.mT, upstream))
        (full,) = torch.autograd.grad(aggregate(kernels, 0.3, detach=False), kernels, upstream)
        assert not torch.allclose(full, gradient)

    @pytest.mark.parametrize("detach", [True, False])
    def test_it_reaches_a_partner_and_nobody_else(self, detach):
        kernels = related().requires_grad_()
        paired = pair_weights(kernels.detach(), 0.5) > 0
        assert 12 < int(paired.sum()) < 144
        for p in range(12):
            out = aggregate(kernels, 0.5, detach=detach)[p].sum()
            (gradient,) = torch.autograd.grad(out, kernels)
            assert torch.equal(gradient.flatten(1).abs().sum(1) > 0, paired[p])


class TestLearnedWeights:
    def test_zero_logits_are_the_plain_mean(self):
        kernels = related()
        got = aggregate(kernels, 0.3, weights=torch.zeros(12, 12).double())
        paired = (pair_weights(kernels, 0.3) > 0).double()
        expected = mix(paired / paired.sum(1, keepdim=True), kernels)
        torch.testing.assert_close(got, expected)

    def test_a_row_is_a_softmax(self):
        kernels, logits = related(), torch.randn(12, 12).double()
        w = pair_weights(kernels, 0.3, logits=logits)
        logits.fill_diagonal_(0)
        paired = pair_weights(kernels, 0.3) > 0
        torch.testing.assert_close(w, logits.masked_fill(~paired, -torch.inf).softmax(1))

    def test_gradient(self):
        kernels, logits = related(6), torch.randn(6, 6).double()
        leaves = (kernels.requires_grad_(), logits.requires_grad_())
        assert torch.autograd.gradcheck(lambda k, a: aggregate(k, 0.3, weights=a), leaves)


class TestRandomPairs:
    def test_order_stays_within_tasks(self):
        tasks = torch.tensor(TASKS)
        order = random_order(tasks, generator=torch.Generator().manual_seed(1))
        assert sorted(order.tolist()) == list(range(12))
        assert torch.equal(tasks[order], tasks)
        assert order.tolist() != list(range(12))
        again = random_order(TASKS, generator=torch.Generator().manual_seed(1))
        assert torch.equal(order, again)

    def test_as_many_pairs_of_the_same_weights_between_the_same_tasks(self):
        kernels = related()
        order = random_order(TASKS, generator=torch.Generator().manual_seed(0))
        similar = pair_weights(kernels, 0.5, TASKS)
        control = pair_weights(kernels, 0.5, TASKS, order=order)
        assert not torch.equal(control > 0, similar > 0)
        own = torch.nn.functional.one_hot(torch.tensor(TASKS)).double()
        for found in (similar, (similar > 0).double()):
            other = control if found is similar else (control > 0).double()
            torch.testing.assert_close(own.mT @ found @ own, own.mT @ other @ own)
        torch.testing.assert_close(control.flatten().sort().values, similar.flatten().sort().values)
        # a kernel stays its own, with the weight of the one whose place among partners it takes
        torch.testing.assert_close(control.diagonal(), similar.diagonal()[order])
        expected = mix(control, kernels)
        torch.testing.assert_close(aggregate(kernels, 0.5, TASKS, order=order), expected)


class TestPairShare:
    def test_by_hand(self):
        s = torch.tensor([[1, 0.9, 0.2], [0.9, 1, 0.8], [0.2, 0.8, 1]])
        assert float(pair_share(s, 0.5)) == pytest.approx(2 / 3)
        assert float(pair_share(s, 0.5, [0, 0, 1], "within")) == 1
        assert float(pair_share(s, 0.5, [0, 0, 1], "across")) == 0.5
        assert float(pair_share(s, 0.9)) == 0  # strictly above
        assert float(pair_share(s, 0.0, [0, 1, 2], "within")) == 0  # no such pair

    @pytest.mark.parametrize("number", [0, 1])
    def test_without_a_pair(self, number):
        assert float(pair_share(torch.ones(number, number), 0.5)) == 0


DIMENSIONS = [2, 3, 4, 9, 27, 108, 216, 5000]


class TestChance:
    @pytest.mark.parametrize("k", [1, *DIMENSIONS])
    def test_tail_against_scipy(self, k):
        """s^2 is Beta(1/2, (k - 1)/2); near the ends too, where the tail is small or nearly 1/2."""
        r = torch.linspace(-1, 1, 401, dtype=torch.float64)
        if k == 1:
            expected = torch.where(r >= 1, 0.0, 0.5).double()
        else:
            half = torch.from_numpy(stats.beta.sf(r.square().numpy(), 0.5, (k - 1) / 2)) / 2
            expected = torch.where(r >= 0, half, 1 - half)
        torch.testing.assert_close(chance_tail(r, k), expected, rtol=1e-10, atol=1e-300)

    @pytest.mark.parametrize("k", DIMENSIONS[1:])
    def test_density_is_the_slope_of_the_tail(self, k):
        s = torch.linspace(-0.95, 0.95, 39, dtype=torch.float64) / max(1, k / 50) ** 0.5
        h = 1e-6
        slope = (chance_tail(s - h, k) - chance_tail(s + h, k)) / (2 * h)
        torch.testing.assert_close(chance_density(s, k), slope, rtol=1e-5, atol=1e-7)

    def test_special_cases(self):
        s = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
        torch.testing.assert_close(chance_density(s, 3), torch.full_like(s, 0.5))  # Archimedes
        torch.testing.assert_close(chance_tail(s, 3), (1 - s) / 2)
        torch.testing.assert_close(chance_tail(s, 2), torch.arccos(s) / math.pi)
        for k in DIMENSIONS:
            ends = chance_tail(torch.tensor([-2.0, -1, 0, 1, 2]), k)
            torch.testing.assert_close(ends, torch.tensor([1, 1, 0.5, 0, 0]).double())

    @pytest.mark.parametrize("k", [2, 9, 25, 108])
    def test_against_sampling(self, k):
        """The largest distance of two distributions, Kolmogorov and Smirnov's, on 20,000 draws."""
        a, b = torch.randn(2, 20_000, k)
        cosines = torch.cosine_similarity(a, b, dim=1)
        found = stats.kstest(cosines.numpy(), lambda x: 1 - chance_tail(torch.tensor(x), k).numpy())
        assert found.pvalue > 0.001

    @pytest.mark.parametrize("measure", ["cosine", "pearson"])
    def test_share_of_random_kernels_above_rho(self, measure):
        """9-dimensional slices; Pearson's correlation has one dimension less."""
        kernels = torch.randn(1000, 3, 3)
        share = float(pair_share(MEASURES[measure](kernels), 0.6))
        of_nine, of_eight = (float(chance_tail(0.6, k)) for k in (9, 8))
        assert of_eight > 1.2 * of_nine
        expected = of_nine if measure == "cosine" else of_eight
        assert share == pytest.approx(expected, rel=0.05)

    def test_variance_is_one_over_k(self):
        s = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
        for k in DIMENSIONS[1:]:
            moment = torch.trapezoid(s.square() * chance_density(s, k), s)
            assert float(moment) == pytest.approx(1 / k, rel=1e-4)

    @pytest.mark.parametrize("k", DIMENSIONS)
    @pytest.mark.parametrize("tail", [1e-6, 0.003, 0.5, 0.9])
    def test_threshold_is_the_inverse(self, k, tail):
        assert float(chance_tail(chance_threshold(k, tail), k)) == pytest.approx(tail, rel=1e-4)


KERNELS = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cosine_similarity(torch.ones(3)), r"kernels: .*\(P, \.\.\.\), got .* \(3,\)"),
        (lambda: pearson_similarity(torch.ones(3)), "kernels: expected a floating tensor"),
        (lambda: cosine_similarity(KERNELS.long()), "kernels: expected a floating .* torch.int64"),
        (lambda: gaussian_similarity(KERNELS, 0.0), "sigma: expected a number > 0, got 0.0"),
        (lambda: aggregate(KERNELS, -0.1), "rho: expected a number >= 0, .* got -0.1"),
        (lambda: aggregate(KERNELS, math.nan), "rho: expected a number >= 0, .* got nan"),
        (lambda: aggregate(KERNELS, 0.5, pairs="best"), "pairs: expected one of .* got 'best'"),
        (
            lambda: aggregate(KERNELS, 0.5, similarity="dot"),
            "similarity: expected one of .*cosine.* or a function, got 'dot'",
        ),
        (
            lambda: aggregate(KERNELS, 0.5, cross_task_only=True),
            "tasks: expected the task of each kernel with cross_task_only, got None",
        ),
        (
            lambda: aggregate(KERNELS, 0.5, [0, 1], True),
            r"tasks: expected one for each of 3 kernels, got shape \(2,\)",
        ),
        (
            lambda: pair_share(KERNELS[:, :1], 0.5, which="between"),
            "which: expected 'all', 'within' or 'across', got 'between'",
        ),
        (
            lambda: pair_share(torch.eye(3), 0.5, which="across"),
            "tasks: expected the task of each kernel with which='across', got None",
        ),
        (lambda: chance_tail(0.5, 0), "dimension: expected at least 1, got 0"),
        (lambda: chance_density(0.5, 1), "dimension: expected at least 2, got 1"),
        (lambda: chance_threshold(9, 1.0), r"tail: expected a probability in \(0, 1\), got 1.0"),
    ],
)
def test_errors_name_argument_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_large_logits_do_not_overflow():
    bank = torch.randn(6, 2, 3, 3).abs()
    logits = torch.randn(6, 6)
    small = pair_weights(bank, 0.0, logits=logits)
    close = pair_weights(bank, 0.0, logits=1000 + 0 * logits)
    assert small.isfinite().all() and close.isfinite().all()
    torch.testing.assert_close(close.sum(1), torch.ones(6))
    expected = logits.clone().fill_diagonal_(0).softmax(1)  # all of them are partners
    torch.testing.assert_close(small, expected)


@pytest.mark.parametrize("logits", [None, torch.zeros(4, 4)])
def test_a_kernel_that_is_not_a_number_has_no_finite_weights(logits):
    kernels = torch.randn(4, 3)
    kernels[1] = torch.nan
    w = pair_weights(kernels, 0.1, logits=logits)
    assert not w[1, [0, 2, 3]].isfinite().any()
    assert pair_share(cosine_similarity(kernels), 0.1).isnan()
