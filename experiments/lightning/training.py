"""The run that is killed: a convnet with batch norm and dropout, trained by `lightning.Trainer`."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import swag
from experiments import data
from swag.integrations.lightning import RandomStates, SWAGCallback
from swag.metrics import accuracy, nll

warnings.filterwarnings("ignore")
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Recipe:
    """How long and on how many rows."""

    train_rows: int
    test_rows: int
    epochs: int
    swa_start: int
    rank: int = 4
    batch_size: int = 100
    lr: float = 0.1
    swa_lr: float = 0.05
    seed: int = 0


FULL = Recipe(train_rows=10_000, test_rows=10_000, epochs=8, swa_start=3)
QUICK = Recipe(train_rows=600, test_rows=200, epochs=4, swa_start=1)


class Classifier(pl.LightningModule):
    """Three strided convolutions with batch norm, dropout, one linear layer."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in ((1, 16), (16, 32), (32, 64)):
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 16, 10))
        self.recipe = recipe

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.recipe.lr, momentum=0.9, nesterov=True)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.recipe.epochs)]


class Tell(Callback):
    """Prints where the run is, line by line, and waits at one moment to be killed from outside.

    Args:
        moment: such as "epoch 2 train"; None to wait nowhere.
    """

    def __init__(self, moment: str | None) -> None:
        self.moment = moment

    def on_train_batch_start(self, trainer, module, batch, batch_idx: int) -> None:
        if batch_idx == trainer.num_training_batches // 2:
            self.say(f"epoch {trainer.current_epoch} train")

    def on_validation_batch_start(self, trainer, module, batch, batch_idx: int, *rest) -> None:
        if batch_idx == 0 and not trainer.sanity_checking:
            self.say(f"epoch {trainer.current_epoch} validate")

    def say(self, moment: str) -> None:
        print(moment, flush=True)
        if moment == self.moment:
            time.sleep(600)


def rows(recipe: Recipe, data_dir: Path | None, *, made_up: bool) -> tuple[TensorDataset, TensorDataset]:
    """Training and test rows, standardised."""
    if made_up:
        generator = torch.Generator().manual_seed(0)
        n = recipe.train_rows + recipe.test_rows
        labels = torch.randint(10, (n,), generator=generator)
        patterns = torch.randn(10, 1, 28, 28, generator=generator)
        images = patterns[labels] + torch.randn(n, 1, 28, 28, generator=generator)
        cut = recipe.train_rows
        return TensorDataset(images[:cut], labels[:cut]), TensorDataset(images[cut:], labels[cut:])
    found = data.fashion_mnist(data.folder(data_dir))
    train = found.train[: recipe.train_rows].float() / 255
    mean, std = train.mean(), train.std()
    test = found.test[: recipe.test_rows].float() / 255
    return (
        TensorDataset((train - mean) / std, found.train_labels[: recipe.train_rows].long()),
        TensorDataset((test - mean) / std, found.test_labels[: recipe.test_rows].long()),
    )


def run(
    recipe: Recipe, folder: Path, data_dir: Path | None, *, made_up: bool, wait_at: str | None = None
) -> None:
    """Trains to the end from wherever the folder's checkpoint is; leaves `posterior.safetensors` there."""
    torch.manual_seed(recipe.seed)
    train, test = rows(recipe, data_dir, made_up=made_up)
    module = Classifier(recipe)
    # The posterior is of the plain network: nothing of Lightning is needed to use it.
    callback = SWAGCallback(
        recipe.rank, recipe.swa_start, swa_lr=recipe.swa_lr, part="net", validate_average=True
    )
    last = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    trainer = pl.Trainer(
        max_epochs=recipe.epochs,
        callbacks=[callback, RandomStates(), Tell(wait_at), last],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    checkpoint = folder / "last.ckpt"
    trainer.fit(
        module,
        DataLoader(train, recipe.batch_size, shuffle=True),
        DataLoader(test, 1000),
        ckpt_path=checkpoint if checkpoint.exists() else None,
        weights_only=True,
    )
    torch.save(module.net.state_dict(), folder / "net.pt")
    swag.save(folder / "posterior.safetensors", callback.posterior)


def scores(
    recipe: Recipe, folder: Path, data_dir: Path | None, *, made_up: bool
) -> dict[str, dict[str, float]]:
    """Test scores of the last weights, SWA and SWAG (10 members), by the plain network alone."""
    train, test = rows(recipe, data_dir, made_up=made_up)
    net = Classifier(recipe).net
    net.load_state_dict(torch.load(folder / "net.pt", weights_only=True))
    posterior = swag.load(folder / "posterior.safetensors")
    loader, labels = DataLoader(test, 1000), test.tensors[1]
    training = DataLoader(train, 500)
    ensembles = {
        "last weights": swag.Ensemble.from_models([net]),
        "SWA": swag.Ensemble(
            net, swag.PointMass(posterior.mean, layout=posterior.layout), bn_loader=training
        ),
        "SWAG": swag.Ensemble(net, posterior, 10, bn_loader=training, seed=0),
    }
    found = {}
    for name, ensemble in ensembles.items():
        probs = ensemble.predict(loader).probs
        found[name] = {"accuracy": float(accuracy(probs, labels)), "nll": float(nll(probs, labels))}
    return found
