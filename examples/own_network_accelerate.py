"""A trace norm under Accelerate, with bfloat16: pip install accelerate."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from own_network import networks, tasks

from mtlbook.backbones import attach
from mtlbook.methods import TNRDMTL


def main(epochs=5, precision="bf16"):
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    method = TNRDMTL(attach(networks(), ["0.weight"]), kind="tucker", gamma=0.01)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    data = torch.utils.data.TensorDataset(*(tensor for task in tasks() for tensor in task))
    loader = torch.utils.data.DataLoader(data, batch_size=16)
    model, optimizer, loader = accelerator.prepare(method, optimizer, loader)
    for _ in range(epochs):
        for batch in loader:
            inputs, targets = batch[0::2], batch[1::2]
            pairs = zip(model(inputs), targets, strict=True)
            losses = [F.cross_entropy(x, y) for x, y in pairs]
            optimizer.zero_grad()
            # what the network computes is rounded to bfloat16, the norm is not
            accelerator.backward(torch.stack(losses).sum() + method.penalty())
            optimizer.step()
            method.update()
    return accelerator.unwrap_model(model)


if __name__ == "__main__":
    print(main().relation().matrix)
