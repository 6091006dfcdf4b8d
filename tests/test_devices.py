"""Every method on devices that are not there (``device_checks``), and on CUDA where it is."""

from functools import partial

import pytest
import torch
from device_checks import check_forward_on_fake_cuda, check_step_on_meta

from mtlbook.backbones import convnet
from mtlbook.methods import STL, TNRDMTL, HardSharing, Pooled
from mtlbook.tasks import Task, TaskSet
from mtlbook.training import evaluate, fit

TRUNK = ("conv1", "conv2", "conv3", "fc1")
OUTPUTS = [3, 2, 3]


def network(outputs=OUTPUTS, **options):
    return convnet((1, 9, 9), outputs, seed=0, channels=(2, 3, 4), hidden=6, **options)


METHODS = {
    "STL": lambda: STL(network()),
    "STL, weight decay": lambda: STL(network(), weight_decay=0.01),
    "hard sharing": lambda: HardSharing(network(shared=TRUNK)),
    "pooled": lambda: Pooled(network([3, 3, 3], shared=True), tasks=3),
    **{
        f"TNRDMTL {kind}": partial(lambda kind: TNRDMTL(network(), kind=kind), kind)
        for kind in ("laf", "tucker", "tt", "uncoupled", "uncoupled-tucker", "uncoupled-tt")
    },
    "TNRDMTL proximal": lambda: TNRDMTL(network(), proximal=True, step_size=0.05),
}


def tasks_for(name, samples=(8, 8, 8)):
    outputs = [3, 3, 3] if name == "pooled" else OUTPUTS
    return TaskSet(
        "made up",
        [
            Task(str(t), torch.randn(n, 1, 9, 9), torch.arange(n) % k, classes=k)
            for t, (n, k) in enumerate(zip(samples, outputs, strict=True))
        ],
    )


@pytest.mark.parametrize("batch_size", [4, None])
@pytest.mark.parametrize("name", METHODS)
def test_a_whole_step_never_waits_for_the_device(name, batch_size):
    check_step_on_meta(METHODS[name](), tasks_for(name, (8, 5, 8)), batch_size)


def test_the_meta_device_would_notice():
    with pytest.raises(RuntimeError, match="meta"):
        METHODS["STL"]().to("meta").network.head.weight.detach().sum().item()


@pytest.mark.parametrize("name", METHODS)
def test_forward_and_penalty_stay_on_cuda(name):
    check_forward_on_fake_cuda(METHODS[name](), tasks_for(name))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("samples", [(8, 8, 8), (8, 5, 8)], ids=["equal", "ragged"])
@pytest.mark.parametrize("batch_size", [4, None])
@pytest.mark.parametrize("name", METHODS)
def test_cuda_trains_like_the_cpu(name, batch_size, samples, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    tasks, results = tasks_for(name, samples), []
    for device in ("cpu", "cuda"):
        method = METHODS[name]()
        history = fit(method, tasks, steps=3, batch_size=batch_size, device=device)
        assert all(p.device.type == device for p in method.parameters())
        scores = evaluate(method, tasks)
        results.append((history.loss, history.penalty, scores.loss, method.state_dict()))
    for a, b in zip(results[0][:2], results[1][:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert results[1][2] == pytest.approx(results[0][2], rel=1e-4)
    for key, value in results[0][3].items():
        torch.testing.assert_close(value, results[1][3][key].cpu(), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_deterministic_and_picked_by_itself():
    losses = []
    for _ in range(2):
        method = METHODS["TNRDMTL laf"]()
        losses.append(fit(method, tasks_for(""), steps=3, batch_size=4).loss)
        assert next(method.parameters()).device.type == "cuda"
        torch.manual_seed(0)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
