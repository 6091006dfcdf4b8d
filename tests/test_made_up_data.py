"""The made-up data covers every loader, and its fingerprints notice what loaders must not do."""

import pytest
import torch

from mtlbook import datasets
from mtlbook.datasets import efficientnet, office, omniglot
from mtlbook.ledger.currency import fingerprints_agree
from tests import made_up_data

for module in ("PIL", "yaml", "torchvision", "sklearn", "mlxtend", "matplotlib"):
    pytest.importorskip(module)
pytestmark = pytest.mark.disable_socket


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return made_up_data.task_sets(tmp_path_factory.mktemp("made-up"))


def test_every_loader_is_covered(loaded):
    assert {label.partition(" ")[0] for label in loaded} == set(datasets.LOADERS)


def test_options_give_other_inputs(loaded):
    for label, tasks in loaded.items():
        name, _, option = label.partition(" ")
        if option:
            assert not fingerprints_agree(tasks.fingerprint(), loaded[name].fingerprint()), label


def _hundredths(images):
    return torch.from_numpy(images).float().div_(100).unsqueeze(1)


CHANGES = {
    "Omniglot's inputs divided by 100": (omniglot, "_unit", _hundredths, "omniglot_28"),
    "another normalisation of SURF": (
        office,
        "normalize",
        lambda x, p=2: torch.nn.functional.normalize(x, p=3 - p),
        "office_caltech10_surf800",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_loader_is_noticed(loaded, change, monkeypatch, tmp_path):
    module, function, changed, name = CHANGES[change]
    monkeypatch.setattr(module, function, changed)
    with made_up_data.made_up_cache(tmp_path):
        now = datasets.load(name)
    assert not fingerprints_agree(now.fingerprint(), loaded[name].fingerprint())


@pytest.mark.parametrize("label", ["omniglot_28", "notmnist", "office_home size=8", "digits"])
def test_the_sign_of_one_image_is_noticed(loaded, label):
    tasks = loaded[label]
    before = tasks.fingerprint()
    inputs = tasks[0].inputs
    inputs[1] *= -1
    try:
        assert not fingerprints_agree(tasks.fingerprint(), before)
    finally:
        inputs[1] *= -1


@pytest.mark.skipif(not efficientnet.installed(), reason="the package with the weights is missing")
def test_another_clamp_in_the_network_is_noticed(monkeypatch):
    before = made_up_data.features()
    assert len(before) == 16 and max(before) > 0
    assert made_up_data.features() == before
    clamp = torch.Tensor.clamp_
    monkeypatch.setattr(torch.Tensor, "clamp_", lambda x, low, high: clamp(x, low, min(high, 255)))
    assert made_up_data.features() == before
    seven = {6: 7}
    monkeypatch.setattr(
        torch.Tensor, "clamp_", lambda x, low, high: clamp(x, low, seven.get(high, high))
    )
    assert made_up_data.features() != pytest.approx(before, rel=1e-4)
