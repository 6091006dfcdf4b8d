"""Every method on devices that are not there, and on CUDA where it is.

The ``meta`` device has no numbers, so whatever waits for one (``.item()``, a branch on a value)
fails there: a step that passes never makes the host wait for the device. Fake CUDA tensors know
their device, so a tensor that is made on the CPU by mistake fails where it meets them.
"""

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mtlbook.backbones import convnet
from mtlbook.methods import STL, TNRDMTL, HardSharing, Pooled
from mtlbook.tasks import Task, TaskSet
from mtlbook.tensors import Ragged
from mtlbook.training import Batches, TaskLoss, evaluate, fit, sgd, step

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
        for kind in ("laf", "tucker", "tt", "uncoupled")
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
    method, tasks = METHODS[name]().to("meta"), tasks_for(name, (8, 5, 8))
    batches = Batches(tasks, batch_size=batch_size, steps=2, seed=0, device="meta")
    loss, optimizer = TaskLoss(tasks, "meta"), sgd(method.parameters())
    for i in range(2):
        losses, penalty = step(method, loss, optimizer, *batches[i])
        method.update()
    assert losses.shape == (3,) and penalty.shape == ()
    assert losses.device.type == penalty.device.type == "meta"
    relation = method.relation()
    assert relation is None or relation.matrix.device.type == "meta"


def test_the_meta_device_would_notice():
    with pytest.raises(RuntimeError, match="meta"):
        METHODS["STL"]().to("meta").network.head.weight.detach().sum().item()


@pytest.mark.parametrize("name", METHODS)
def test_forward_and_penalty_stay_on_cuda(name):
    method, tasks = METHODS[name](), tasks_for(name)
    loss, fake = TaskLoss(tasks), FakeTensorMode()
    with fake:
        with torch.device("cuda"):
            inputs = [torch.empty(4, 1, 9, 9) for _ in range(3)]
            targets = [torch.empty(4, dtype=torch.int64) for _ in range(3)]

        def on_cuda(x):
            return fake.from_tensor(x).detach().to("cuda")

        for module in method.modules():
            for key, parameter in module._parameters.items():
                module._parameters[key] = torch.nn.Parameter(on_cuda(parameter))
            for key, buffer in module._buffers.items():
                module._buffers[key] = on_cuda(buffer)
        loss.valid, loss.widths = on_cuda(loss.valid), on_cuda(loss.widths)
        outputs, penalty = method(inputs), method.penalty()
        assert all(out.device.type == "cuda" for out in outputs)
        assert penalty.device.type == "cuda"
        losses = loss(outputs, Ragged.stack(targets))
        assert losses.device.type == "cuda"
        method.update()  # backward itself needs a driver, even for fake tensors
        relation = method.relation()
        assert relation is None or relation.matrix.device.type == "cuda"


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
