"""A Lightning run made by two processes together, and the module of the tests of resuming.

torchrun … tests/lightning_run.py FOLDER      DDP and FSDP2 on the CPU
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset

from swag.integrations.lightning import SWAGCallback, read_collector


class Module(pl.LightningModule):
    """A classifier with batch norm and dropout; divided over ranks where the strategy says so."""

    def __init__(self, sharded: bool = False):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3)
        )
        for parameter in self.net.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        self.sharded = sharded

    def configure_model(self):
        if self.sharded and not isinstance(next(self.parameters()), DTensor):
            mesh = self.device_mesh["data_parallel"]
            torch.distributed.fsdp.fully_shard(self.net, mesh=mesh)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


class Trail(Callback):
    """The whole θ after every epoch, and what validation saw."""

    def __init__(self) -> None:
        self.epochs: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []
        self.statistics: list[torch.Tensor] = []

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append(whole(module))

    def on_validation_batch_end(self, trainer, module, *args):
        if not trainer.sanity_checking:
            self.validated.append(whole(module))
            self.statistics.append(module.net[1].running_mean.clone())


def whole(module):
    parts = [p.full_tensor() if isinstance(p, DTensor) else p for p in module.parameters()]
    return torch.cat([part.detach().flatten() for part in parts]).clone()


def data(batch_size=4):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 4, generator=generator), torch.randint(0, 3, (32,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)


def trainer(epochs, *callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"accelerator": "cpu", "enable_checkpointing": False, **quiet, **options}
    return pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), **options)


def ranks(folder: Path) -> None:
    """DDP, then FSDP2 straight and resumed; rank 0 compares with the weights that were seen."""
    found = {}
    for name in ("ddp", "fsdp2"):
        torch.manual_seed(5)
        sharded = name == "fsdp2"
        strategy = "ddp"
        if sharded:
            strategy = pl.strategies.ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
        callback, trail = SWAGCallback(3, 1, swa_lr=0.05, validate_average=True), Trail()
        run = trainer(3, callback, trail, strategy=strategy, devices=2)
        module = Module(sharded)
        run.fit(module, data(), data())
        run.save_checkpoint(folder / f"{name}.ckpt")
        own = whole(module)
        with callback.applied(module):
            applied = whole(module)
        assert torch.equal(whole(module), own)
        kept = read_collector(folder / f"{name}.ckpt")
        found[name] = {
            "epochs": trail.epochs,
            "validated": trail.validated,
            "statistics": trail.statistics,
            "own": own,
            "applied": applied,
            "kept": kept.state_dict(),
            "kind": type(callback.collector).__name__,
            "sample": callback.posterior.sample(2, generator=torch.Generator().manual_seed(0)).shape,
        }
    # Resumed from the end of epoch 3 and run to 5, by fresh objects.
    strategy = pl.strategies.ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    callback, trail = SWAGCallback(3, 1, swa_lr=0.05), Trail()
    run = trainer(5, callback, trail, strategy=strategy, devices=2)
    run.fit(Module(True), data(), ckpt_path=folder / "fsdp2.ckpt")
    run.save_checkpoint(folder / "later.ckpt")
    found["resumed"] = {"epochs": trail.epochs, "kept": read_collector(folder / "later.ckpt").state_dict()}
    torch.save(found, folder / f"rank{run.global_rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks(Path(sys.argv[1]))
