"""Checks of a method on devices that are not there.

The ``meta`` device has no numbers, so whatever waits for one (``.item()``, a branch on a value)
fails there: a step that passes never makes the host wait for the device. It does not mind copies
from the host, for which the host waits, too: ``NoCopies`` refuses them. Fake CUDA tensors know
their device, so a tensor that is made on the CPU by mistake fails where it meets them.
"""

import pytest
import torch
from packaging.version import Version
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mtlbook.tasks import TaskSet
from mtlbook.tensors import Ragged
from mtlbook.training import Batches, TaskLoss, sgd, step

#: Torch 2.6, the lower bound, fails what 2.11 and 2.14 do; none between was tried.
OLD = Version(torch.__version__) < Version("2.11")


class NoCopies(TorchDispatchMode):
    """Refuses to copy a tensor from the CPU to another device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            here = [a for a in args if isinstance(a, torch.Tensor) and a.device.type == "cpu"]
            if here and out.device.type != "cpu":
                raise RuntimeError(f"a copy of {tuple(here[0].shape)} from the host: a wait")
        return out


def check_step_on_meta(method, tasks: TaskSet, batch_size: int | None = 4) -> None:
    """Forward, penalty, backward, optimiser and update, twice, without a single number."""
    method = method.to("meta")
    batches = Batches(tasks, batch_size=batch_size, steps=2, seed=0, device="meta")
    loss, optimizer = TaskLoss(tasks, "meta"), sgd(method.parameters())
    for i in range(2):
        with NoCopies():
            losses, penalty = step(method, loss, optimizer, *batches[i])
            method.update()
    assert losses.shape == (len(tasks),) and penalty.shape == ()
    assert losses.device.type == penalty.device.type == "meta"
    relation = method.relation()
    assert relation is None or relation.matrix.device.type == "meta"


def check_forward_on_fake_cuda(method, tasks: TaskSet, batch_size: int = 4) -> None:
    """Forward, losses, penalty, update and relation; backward needs a driver even when fake."""
    if OLD and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} asks for a driver even when the device is fake")
    loss, fake = TaskLoss(tasks), FakeTensorMode()
    with fake:

        def on_cuda(x):
            return fake.from_tensor(x).detach().to("cuda")

        inputs = [torch.empty(batch_size, *t.inputs.shape[1:], device="cuda") for t in tasks]
        if tasks.shared_inputs:
            inputs = [inputs[0]] * len(tasks)
        targets = [
            torch.empty(batch_size, *t.targets.shape[1:], dtype=t.targets.dtype, device="cuda")
            for t in tasks
        ]
        for module in method.modules():
            for key, parameter in module._parameters.items():
                module._parameters[key] = torch.nn.Parameter(on_cuda(parameter))
            for key, buffer in module._buffers.items():
                module._buffers[key] = on_cuda(buffer)
        loss.valid, loss.widths = on_cuda(loss.valid), on_cuda(loss.widths)
        outputs, penalty = method(inputs), method.penalty()
        assert all(out.device.type == "cuda" for out in outputs)
        assert penalty.device.type == "cuda"
        one_shape = len({tuple(y.shape[1:]) for y in targets}) == 1
        losses = loss(outputs, Ragged.stack(targets) if one_shape else targets)
        assert losses.device.type == "cuda"
        method.update()
        relation = method.relation()
        assert relation is None or relation.matrix.device.type == "cuda"
