"""The running example: the study's data, real digits in two codings, and the committed numbers."""

import numpy as np
import pytest
import torch

from mtlbook.comparison import winners
from mtlbook.experiments import running_example as example
from mtlbook.experiments.problems import TEACHERS
from mtlbook.ledger.repository import committed
from mtlbook.ledger.statistics import mean_interval


def test_planted_is_what_the_study_trained_on():
    ours, theirs = example.planted(-0.5, 3), TEACHERS["T8-n20-c-0.5"].parts(3)
    for name, part in ours.items():
        assert all(
            torch.equal(a.targets, b.targets) for a, b in zip(part, theirs[name], strict=True)
        )
    with pytest.raises(ValueError, match=r"expected a problem of .*got 0\.3 and 20"):
        example.planted(0.3, 0)


def test_digits_agree_or_not():
    """The same pictures in both; the second half names them otherwise, or not."""
    same, moved = (example.digits(agree, 0) for agree in (True, False))
    for name, per_class in (("train", 3), ("validation", 5), ("test", 30)):
        assert len(same[name]) == 6
        for a in (*same[name], *moved[name]):
            assert a.targets.bincount().tolist() == [per_class] * 10 and a.inputs.shape[1] == 49
    means = {}
    for which, parts in (("same", same), ("moved", moved)):
        task, twin = parts["test"][0], parts["test"][3]
        means[which] = [t.inputs[t.targets == 0].mean(0) for t in (task, twin)]
    near, far = (float((a - b).norm()) for a, b in means.values())
    assert near < 0.5 * far
    assert same["train"].names[3] == "mnist, again"
    seen = torch.cat([t.inputs for t in same["train"]])
    torch.testing.assert_close(seen.mean(0), torch.zeros(49), atol=1e-5, rtol=0)


def test_stacked():
    problems = [example.planted(0.0, r) for r in (0, 1)]
    x, y = example.stacked(problems)["train"]
    assert x.shape == (2, 8, 20, 10) and y.shape == (2, 8, 20, 2)
    assert torch.equal(x[1, 5], problems[1]["train"][5].inputs)


@pytest.mark.parametrize(("samples", "result"), [(20, "when-planted"), (80, "when-planted-more")])
def test_gains_are_the_committed_ones(samples, result):
    scores = winners.scores_of(committed(result), f"T8-n{samples}-c+1")
    found = example.gains(["fixed"], "pooled", at=[0, 1], samples=samples)["fixed"]
    assert found[1].mean == pytest.approx((scores["fixed"] - scores["pooled"]).mean())
    assert len(found) == 2 and found[0].n == 20


def test_trained_again():
    outcome, score = example.trained("pooled", -1)
    assert score["now"] == pytest.approx(score["committed"], abs=3)
    assert outcome.method.network.head.tasks == 1


def test_replicated_gains_are_over_ten_replications():
    """The mean of ten means, and an interval that holds how much they differ."""
    again = committed("when-again")
    means = []
    for k in range(1, 11):
        of = winners.scores_of(again, f"T8-n20-c+0-again{k}")
        means.append((of["mrn-t"] - of["hard-sharing"]).mean())
    found = example.replicated("mrn-t", "hard-sharing", 0)
    assert found.mean == pytest.approx(np.mean(means)) and found.n == 10
    alone = mean_interval(means)  # as if the repeats of a replication were one number
    assert found.high - found.mean >= 0.9 * (alone.high - alone.mean)
    with pytest.raises(ValueError, match=r"c, samples: expected a problem of"):
        example.replicated("mrn", "stl", 0.25)
