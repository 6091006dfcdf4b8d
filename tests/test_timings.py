"""Times that were measured: rules follow them, and what README and pages say of them is so."""

import json
from pathlib import Path

import pytest
import torch

from mtlbook import choices
from mtlbook.ledger import timings
from mtlbook.norms import trace_norm
from mtlbook.tensors import symmetric_product

ROOT = Path(__file__).resolve().parents[1]
FOUND = timings.recorded(ROOT)


@pytest.mark.parametrize("row", FOUND["choices"], ids=lambda row: f"{row['rule']}-{row['shape']}")
def test_a_rule_takes_the_side_that_was_measured_to_be_faster(row):
    assert getattr(choices, row["rule"])(*row["shape"]) == (row["yes"] < row["no"])


def test_every_rule_of_shape_was_measured_on_both_sides():
    sides = {(row["rule"], row["yes"] < row["no"]) for row in FOUND["choices"]}
    rules = {"dense_covariance", "transposed_svd", "split_symmetric"}
    assert sides == {(rule, side) for rule in rules for side in (True, False)}


@pytest.mark.parametrize("rule", ["transposed_svd", "gram_decomposition"])
def test_both_sides_give_the_same_norm_and_gradient(rule, monkeypatch):
    found = []
    for side in (True, False):
        monkeypatch.setattr(f"mtlbook.norms.{rule}", lambda *_, side=side: side)
        x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        value = trace_norm(x.requires_grad_())
        found.append((value.detach(), *torch.autograd.grad(value, x)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("rows", [1, 5, 127, 128, 131, 260])
def test_a_symmetric_product_is_the_product(rows):
    x = torch.randn(rows, 7, dtype=torch.float64)
    torch.testing.assert_close(symmetric_product(x), x @ x.mT)


def test_the_readme_says_what_was_measured():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    inside = text.split("<!-- benchmarks:begin")[1].split("-->", 1)[1]
    assert inside.split("<!-- benchmarks:end")[0].strip() == timings.readme(FOUND)
    ratios = [FOUND["ratios"][name]["ratio"] for name in timings.README]
    assert ratios[0] > 1 and ratios[1] > 1 and ratios[2] < 1  # two gains and a loss


def test_costs_grow_as_the_page_says():
    off = [abs(row["exponent"] - row["exponent_theory"]) for row in FOUND["laws"].values()]
    assert 0.4 < max(off) < 0.7 and sum(x < 0.25 for x in off) == 5 and len(off) == 7


@pytest.mark.parametrize("content", ["[]", '{"ratios": {}}', '{"ratios": NaN}', "{"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "data").mkdir()
    (tmp_path / timings.FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"data/benchmarks\.json: expected"):
        timings.recorded(tmp_path)


def test_the_file_is_as_it_was_written():
    text = (ROOT / timings.FILE).read_text(encoding="utf-8")
    assert json.dumps(FOUND, indent=1) + "\n" == text and FOUND["clock"] == "CPU seconds"
