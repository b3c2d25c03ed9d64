# examples/lightning_digits.py
import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from thalweg.integrations.lightning import SAMCallback


class Digits(pl.LightningModule):  # nothing in it knows of SAM
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def train(rho=0.05, accumulation="micro", pieces=2, epochs=3, **settings):
    torch.manual_seed(0)
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    loader = DataLoader(TensorDataset(x.float() / 8 - 1, y), 32, shuffle=True, drop_last=True)
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False} | settings
    callback = SAMCallback(rho=rho, accumulation=accumulation)  # the one line
    settings |= {"max_epochs": epochs, "accumulate_grad_batches": pieces}
    module = Digits()
    pl.Trainer(callbacks=[callback], **settings).fit(module, loader)
    return module.net, callback.sam


if __name__ == "__main__":
    print(train()[1].last)
