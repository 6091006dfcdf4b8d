"""One of the processes of ``tests/test_attached.py``: trains on its half, and saves what it has."""

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from test_attached import METHODS, own_networks, tasks
from torch.nn.parallel import DistributedDataParallel

from mtlbook.backbones import attach


def train(name: str, rank: int, world: int) -> dict:
    """Four steps, on every ``world``-th sample from ``rank`` on."""
    method = METHODS[name](attach(own_networks(), ["0.weight", "3.weight"]))
    model = DistributedDataParallel(method) if world > 1 else method
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    rows = slice(rank, None, world)
    for i in range(4):
        optimizer.zero_grad()
        outputs = model([task.inputs[rows] for task in tasks()])
        losses = [
            F.cross_entropy(x, t.targets[rows]) for x, t in zip(outputs, tasks(), strict=True)
        ]
        (sum(losses) + method.penalty()).backward()
        optimizer.step()
        if (i + 1) % method.update_every == 0:
            method.update()
    return method.state_dict()


if __name__ == "__main__":
    rank, store, out = int(sys.argv[1]), *sys.argv[2:4]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save({name: train(name, rank, 2) for name in sys.argv[4:]}, f"{out}{rank}")
    dist.destroy_process_group()
