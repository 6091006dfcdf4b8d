"""Priors, proximal steps and training where numbers are extreme, frozen, tied or half as wide.

Each of these once came out wrong without a word; the reference is dense and in double precision.
"""

import math

import pytest
import torch
from torch import nn

from mtlbook.backbones import attach, mlp
from mtlbook.methods import DRN, MRN, STL, TNRDMTL, CrossStitch, FixedRelation
from mtlbook.methods.srdml import project
from mtlbook.priors import LowRankPlusDiagonal, proximal_step, quadratic_form
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import fit


def linear(tasks, inputs=8, outputs=8, dtype=torch.float32):
    """Networks of one layer."""
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(inputs, outputs)).to(dtype) for _ in range(tasks)]


def rows(networks):
    """The tasks' weights, shape ``(T, d)``, in double precision."""
    return torch.stack([n[0].weight.detach().double().flatten() for n in networks])


@pytest.mark.parametrize(
    "switches",
    [{"scale": "none"}, {"relative": False, "scale": "none"}, {"relative": False}, {}],
)
def test_a_small_eps_is_no_rounding_error(switches):
    """Of tasks that are nearly one its inverse is the largest precision, and couples them."""
    networks = linear(20)
    with torch.no_grad():
        for network in networks:
            network[0].weight.copy_(networks[0][0].weight)
    options = {"learn": ("task",), "eps": 1e-5, "weight": 1.0, "log_determinant": False}
    method = MRN(attach(networks, ["0.weight"]), **options, **switches)
    method.update()
    with torch.no_grad():
        for network in networks:
            network[0].weight.add_(1e-2 * torch.randn(8, 8))
    w, covariance = rows(networks), method.covariance("0", "task").dense().double()
    expected = (w * torch.linalg.solve(covariance, w)).sum() / 2
    assert method.penalty().item() == pytest.approx(expected.item(), rel=2e-2) and expected > 100


@pytest.mark.parametrize(("tasks", "rho"), [(20, 0.9999), (20, 0.99999), (3, 0.9999999)])
def test_a_fixed_relation_near_one_ties_the_tasks(tasks, rho):
    networks = linear(tasks, 4, 4)
    method = FixedRelation(attach(networks, ["0.weight"]), rho=rho, weight=1.0)
    w, eye = rows(networks), torch.eye(tasks, dtype=torch.float64)
    expected = (w * torch.linalg.solve((1 - rho) * eye + rho, w)).sum()
    found = quadratic_form(method.tensor("0"), method.covariances("0"))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 1), (1, 1), (8, 8)])
def test_the_trace_one_form_shrinks_where_tasks_outnumber_weights(inputs, outputs):
    networks = linear(6, inputs, outputs)
    method = DRN(attach(networks, ["0.weight"]), form="trace-one", eps=0.1, weight=1.0)
    method.update()
    w = rows(networks)
    values, vectors = torch.linalg.eigh(w @ w.mT)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.mT
    expected = 0.9 * root / root.trace() + 0.1 * torch.eye(6) / 6
    found = method.covariance("0", "task").dense().double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        for network in networks:
            network[0].weight.zero_()
    method.update()
    torch.testing.assert_close(method.covariance("0", "task").dense(), torch.eye(6) / 6)


def test_what_was_wide_is_loaded_as_wide():
    made = [MRN(attach(linear(3), ["0.weight"]), learn=("task",), max_updates=0) for _ in range(2)]
    near = torch.ones(3, 3).double() + 1e-8 * torch.eye(3).double()
    made[0].set_covariance("0", "task", near)
    made[1].load_state_dict(made[0].state_dict())
    assert made[1].penalty().item() == made[0].penalty().item()
    assert made[1].covariance("0", "task").dense().dtype == torch.float64


def test_a_proximal_step_leaves_alone_what_a_singular_covariance_does_not_see():
    basis, values = torch.eye(3)[:, :1], torch.tensor([2.0])
    covariances = [LowRankPlusDiagonal(basis, values, torch.tensor(0.0)), None]
    w = torch.ones(3, 2)
    expected = torch.tensor([[2 / 3], [1.0], [1.0]]).expand(3, 2)
    torch.testing.assert_close(proximal_step(w, covariances, 1.0), expected)
    torch.testing.assert_close(proximal_step(w, covariances, 0.0), w)


def test_a_bound_on_the_curvature_bounds_the_proximal_step_too():
    options = {"learn": ("task",), "eps": 1e-4, "weight": 1.0, "proximal": 0.01}
    stepped = []
    for curvature in (None, 2.0):
        networks = linear(4)
        with torch.no_grad():
            for network in networks:
                network[0].weight.copy_(networks[0][0].weight + 1e-3 * torch.randn(8, 8))
        method = MRN(attach(networks, ["0.weight"]), **options, update_every=1, curvature=curvature)
        method.update()
        before, covariances = method.tensor("0").clone(), method.covariances("0")
        weaker = float(method._buffers.get("0_weaker", 1.0))
        method.update()
        expected = proximal_step(before, covariances, 0.01 * weaker)
        torch.testing.assert_close(method.tensor("0"), expected)
        stepped.append(weaker)
    assert stepped[0] == 1 and stepped[1] < 0.1


@pytest.mark.parametrize("kind", ["tnrdmtl", "mrn", "layers"])
def test_frozen_weights_stay_under_a_proximal_step(kind):
    if kind == "layers":
        network = mlp(4, [2, 2, 2], seed=0, hidden=(5,))
        network.requires_grad_(False)
        method = TNRDMTL(network, gamma=0.5, proximal=True, step_size=0.1)
        before = [p.clone() for p in network.parameters()]
        method.update()
        assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
        return
    networks = linear(3)
    networks[0].requires_grad_(False)
    before = rows(networks)
    attached = attach(networks, ["0.weight"])
    if kind == "tnrdmtl":
        method = TNRDMTL(attached, gamma=0.5, proximal=True, step_size=0.1)
    else:
        method = MRN(attached, proximal=0.1, weight=1.0)
    method.update()
    after = rows(networks)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


def test_a_mask_of_minus_infinity_is_no_divergence():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(3, 2)
            self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))

        def forward(self, x):
            return self.l(x + 0 * self.mask.softmax(-1).sum())

        def get_extra_state(self):
            return {"kept": 1}

        def set_extra_state(self, state):
            pass

    tasks = TaskSet("x", [Task(n, torch.randn(9, 3), torch.arange(9) % 2, classes=2) for n in "ab"])
    history = fit(STL(attach([Masked(), Masked()], ["l.weight"])), tasks, steps=2, device="cpu")
    assert bool(history.loss.isfinite().all())


def test_cross_stitch_refuses_to_count_padding_as_samples():
    """As STL does: BatchNorm in the trunk would average over what only fills a batch."""
    network = mlp(4, [2, 2], seed=0, hidden=(5,))
    network.trunk.add_module("norm", nn.BatchNorm1d(5))
    with pytest.raises(ValueError, match="as many samples of every task, since BatchNorm"):
        CrossStitch(network)([torch.randn(5, 4), torch.randn(2, 4)])


def test_the_projection_far_below_zero_keeps_its_sum():
    for low in (-1.0, -1e8, -1e30):
        torch.testing.assert_close(project(torch.full((2,), low), 1.0), torch.full((2,), 0.5))


def test_halves_have_a_stiffness():
    networks = linear(3, dtype=torch.bfloat16)
    method = MRN(attach(networks, ["0.weight"]), weight=1.0, curvature=1.0)
    method.update()
    assert bool(method.stiffness("0").isfinite())


def test_strengths_that_are_no_numbers_are_refused():
    for gamma in (math.nan, [0.1, math.nan]):
        with pytest.raises(ValueError, match="gamma: expected"):
            TNRDMTL(attach(linear(3), ["0.weight"]), gamma=gamma)
    with pytest.raises(ValueError, match="weight_decay: expected a number >= 0, got nan"):
        STL(attach(linear(3), ["0.weight"]), weight_decay=math.nan)


def test_parameters_that_are_tied_across_layers_are_refused():
    networks = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2)]
    networks[1][1].weight = networks[1][0].weight
    with pytest.raises(ValueError, match=r"expected different ones, got '1\.weight', tied to"):
        attach(networks, ["0.weight", "1.weight"])
