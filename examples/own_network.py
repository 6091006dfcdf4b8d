"""A norm of this package in a training loop of your own: plain PyTorch.

Four small networks, one for each task, written by nobody here. Run: python examples/own_network.py
"""

import torch
import torch.nn.functional as F
from torch import nn

from mtlbook.backbones import attach
from mtlbook.methods import TNRDMTL


def tasks(count=4, samples=64):
    """Inputs and labels of tasks that have half of their weights in common."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(10, generator=generator)
    for _ in range(count):
        x = torch.randn(samples, 10, generator=generator)
        yield x, (x @ (common + torch.randn(10, generator=generator)) > 0).long()


def networks(count=4):
    """What you have: modules, one for each task. Their heads may differ."""
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2)) for _ in range(count)]


def main(steps=50):
    data = list(tasks())
    method = TNRDMTL(attach(networks(), ["0.weight"]), kind="laf", gamma=0.01)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for step in range(1, steps + 1):
        outputs = method([x for x, _ in data])
        losses = [F.cross_entropy(out, y) for out, (_, y) in zip(outputs, data, strict=True)]
        loss = torch.stack(losses).sum() + method.penalty()  # the one line that is added
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % method.update_every == 0:
            method.update()  # what a method learns beside its weights; of a norm nothing
    return method, float(loss.detach())


if __name__ == "__main__":
    method, loss = main()
    print(f"loss {loss:.3f}")
    print(method.relation().matrix)
