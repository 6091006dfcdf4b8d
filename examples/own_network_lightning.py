"""MRN's prior in a Lightning module: pip install pytorch-lightning."""

import pytorch_lightning as lightning
import torch
import torch.nn.functional as F
from own_network import networks, tasks

from mtlbook.backbones import attach
from mtlbook.methods import MRN


class Together(lightning.LightningModule):
    """T networks with a prior that learns how their tasks are related."""

    def __init__(self, networks, parameters):
        super().__init__()
        stacks = attach(networks, parameters)
        self.method = MRN(stacks, learn=("task",), update_every=5)

    def training_step(self, batch, index):
        inputs, targets = batch[0::2], batch[1::2]
        pairs = zip(self.method(inputs), targets, strict=True)
        losses = [F.cross_entropy(out, y) for out, y in pairs]
        return torch.stack(losses).sum() + self.method.penalty()

    def on_train_batch_end(self, *_):
        if self.global_step % self.method.update_every == 0:
            self.method.update()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main(epochs=5):
    data = torch.utils.data.TensorDataset(*(tensor for task in tasks() for tensor in task))
    model = Together(networks(), ["0.weight", "2.weight"])
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=16))
    return model.method


if __name__ == "__main__":
    print(main().relation().matrix)
