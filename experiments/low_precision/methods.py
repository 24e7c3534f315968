"""One seed of the comparison: every method from the same initial weights, in the same batches."""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from swag import lowprecision as lp

from .networks import NETWORKS

# The rate of an epoch at a share of it that is done.
Rate = Callable[[float], float]


@dataclass(frozen=True)
class Settings:
    """All that a result depends on besides the seed."""

    data: str = "fashion_mnist"
    network: str = "convnet"
    train_rows: int = 10_000
    test_rows: int = 10_000
    word_length: int = 8
    warm_up_epochs: int = 5
    tail_epochs: int = 3  # of decay for SGD, of constant rate and averaging for SWA
    snapshots_per_epoch: int = 4
    rate: float = 0.1
    swa_rate: float = 0.05
    weight_decay: float = 5e-4
    batch: int = 64
    augment: bool = False
    bits: int = 2
    captures: int = 5
    capture_epochs: int = 1  # in a cycle
    tune_epochs: int = 2
    capture_rates: tuple[float, float] = (0.05, 0.005)
    tune_rate: float = 0.01


@dataclass(frozen=True)
class Data:
    """Images as floats, mean 0 and variance 1, and labels."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass
class Batches:
    """Shuffled batches, another order each time they are read; with the paper's crops and flips if asked."""

    images: Tensor
    labels: Tensor
    size: int
    augment: bool
    generator: torch.Generator

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=self.generator).to(self.images.device)
        for chosen in order.split(self.size):
            x = self.images[chosen]
            yield (self._augmented(x) if self.augment else x), self.labels[chosen]

    def _augmented(self, x: Tensor) -> Tensor:
        n, side = len(x), x.shape[-1]
        padded = F.pad(x, (4, 4, 4, 4))
        top, left = torch.randint(9, (2, n, 1, 1), generator=self.generator).to(x.device)
        rows = top + torch.arange(side, device=x.device)[:, None]
        columns = left + torch.arange(side, device=x.device)
        cropped = padded[torch.arange(n, device=x.device)[:, None, None], :, rows, columns].movedim(-1, 1)
        flip = torch.rand(n, 1, 1, 1, generator=self.generator).to(x.device) < 0.5
        return torch.where(flip, cropped.flip(-1), cropped)


def run_seed(settings: Settings, data: Data, seed: int) -> dict[str, Any]:
    """Test errors (percent), sizes and seconds of every method."""
    torch.manual_seed(seed)
    channels, n_classes = data.train.shape[1], int(data.train_labels.max()) + 1
    initial = NETWORKS[settings.network](channels, n_classes).to(data.train.device)
    errors: dict[str, float] = {}
    seconds: dict[str, float] = {}
    clock = _Clock(seconds, seed)

    def batches() -> Batches:
        generator = torch.Generator().manual_seed(seed)
        return Batches(data.train, data.train_labels, settings.batch, settings.augment, generator)

    def error(model: nn.Module) -> float:
        return test_error(model, data)

    for name, form in {"FP": lp.Precision(), "LP": lp.Precision.block(settings.word_length)}.items():
        model, average = _two_tails(initial, settings, form, seed, batches, clock, name)
        errors[f"SGD-{name}"] = error(model)
        errors["SWA-FP" if name == "FP" else "SWALP"] = error(average)
        if name == "FP":
            trained = model

    eight = lp.BlockFloatingPoint(settings.word_length, dim=0, rounding="nearest")
    data_format = lp.BlockFloatingPoint(settings.word_length, dim=1, rounding="nearest")
    rounded = lp.quantize_model(average, weights=eight, activations=data_format, seed=seed)
    errors["SWALP, average rounded"] = error(rounded)
    integers = _integers(average, eight, data)
    clock("int8")
    few = lp.SymmetricUniform(settings.bits, dim=0)
    direct = lp.quantize_model(trained, weights=few, keep_grid=True)
    errors["2 bits, direct, no refresh"] = error(direct)
    swag.refresh_batchnorm_(direct, batches())
    errors["2 bits, direct"] = error(direct)

    epochs = settings.captures * settings.capture_epochs + settings.tune_epochs
    retrained = lp.quantize_model(trained, weights=few, keep_grid=True)
    optimizer = _sgd(settings)(retrained.parameters())
    _train(retrained, optimizer, batches(), falling(settings.capture_rates[0], epochs))
    errors["2 bits, retrained"] = error(retrained)
    clock("2 bits, retrained")
    recipe = lp.sqwa(
        trained,
        batches(),
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        _sgd(settings),
        bits=settings.bits,
        lr_max=settings.capture_rates[0],
        lr_min=settings.capture_rates[1],
        tune_lr=settings.tune_rate,
        cycle=settings.capture_epochs,
        n_captures=settings.captures,
        tune_epochs=settings.tune_epochs,
        seed=seed,
    )
    errors["SQWA"] = error(recipe.model)
    errors["SQWA, average in float"] = error(recipe.averaged)
    clock("SQWA")
    with tempfile.TemporaryDirectory() as folder:
        size = lp.save_integers(Path(folder, "sqwa.safetensors"), recipe.model)
        size8 = lp.save_integers(Path(folder, "swalp.safetensors"), average, eight)
    sizes = {"SQWA": size.file, "SWALP, average rounded": size8.file, "SGD-FP": size.unquantized}
    found = {"errors": errors, "bytes": sizes, "int8": integers, "losses": recipe.losses}
    return {**found, "cpu_seconds": seconds}


def run_word_length(settings: Settings, data: Data, seed: int) -> dict[str, Any]:
    """Test errors of SGD-LP and SWALP alone, at the settings' word length."""
    torch.manual_seed(seed)
    channels, n_classes = data.train.shape[1], int(data.train_labels.max()) + 1
    initial = NETWORKS[settings.network](channels, n_classes).to(data.train.device)
    seconds: dict[str, float] = {}

    def batches() -> Batches:
        generator = torch.Generator().manual_seed(seed)
        return Batches(data.train, data.train_labels, settings.batch, settings.augment, generator)

    form = lp.Precision.block(settings.word_length)
    name = f"{settings.word_length} bits"
    model, average = _two_tails(initial, settings, form, seed, batches, _Clock(seconds, seed), name)
    errors = {"SGD-LP": test_error(model, data), "SWALP": test_error(average, data)}
    return {"errors": errors, "cpu_seconds": seconds}


def _two_tails(
    initial: nn.Module,
    settings: Settings,
    form: lp.Precision,
    seed: int,
    batches: Callable[[], Batches],
    clock: _Clock,
    name: str,
) -> tuple[nn.Module, nn.Module]:
    """From one warm-up: the model whose rate fell to zero, and the average at a constant rate."""
    model, optimizer = _trained(initial, settings, form, seed)
    shuffled = batches()
    _train(model, optimizer, shuffled, constant(settings.rate, settings.warm_up_epochs))
    warm = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    clock(f"{name}: warm-up")
    _train(model, optimizer, shuffled, falling(settings.rate, settings.tail_epochs))
    clock(f"{name}: falling rate")

    averaged, optimizer = _trained(initial, settings, form, seed)
    averaged.load_state_dict(warm[0])
    optimizer.load_state_dict(warm[1])
    collector = swag.Collector(averaged, rank=0)
    rates = constant(settings.swa_rate, settings.tail_epochs)
    _train(averaged, optimizer, shuffled, rates, collector, settings.snapshots_per_epoch)
    average = copy.deepcopy(initial)
    collector.layout.write_(average, collector.mean)
    swag.refresh_batchnorm_(average, batches())
    clock(f"{name}: averaging")
    return model, average


class _Clock:
    def __init__(self, seconds: dict[str, float], seed: int) -> None:
        self._seconds, self._seed, self._last = seconds, seed, time.process_time()

    def __call__(self, what: str) -> None:
        now = time.process_time()
        self._seconds[what], self._last = round(now - self._last, 1), now
        print(f"seed {self._seed}: {what} {self._seconds[what]} s", file=sys.stderr, flush=True)


def _sgd(settings: Settings) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(
        parameters, lr=settings.rate, momentum=0.9, weight_decay=settings.weight_decay
    )


def _trained(
    initial: nn.Module, settings: Settings, precision: lp.Precision, seed: int
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A copy of the initial model with its optimizer, in full or in low precision."""
    if precision == lp.Precision():
        model = copy.deepcopy(initial)
        return model, _sgd(settings)(model.parameters())
    return lp.low_precision(initial, _sgd(settings), precision, seed=seed)


def constant(rate: float, epochs: int) -> list[Rate]:
    """The same rate for so many epochs."""
    return [lambda share: rate] * epochs


def falling(rate: float, epochs: int) -> list[Rate]:
    """A rate that falls linearly to zero, batch by batch, over so many epochs."""
    return [lambda share, epoch=epoch: rate * (1 - (epoch + share) / epochs) for epoch in range(epochs)]


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    rates: Sequence[Rate],
    collector: swag.Collector | None = None,
    per_epoch: int = 1,
) -> None:
    """One epoch for each of `rates`; the collector takes `per_epoch` snapshots in each."""
    model.train()
    marks = {round((i + 1) * len(batches) / per_epoch) - 1 for i in range(per_epoch)}
    for rate in rates:
        for index, (x, labels) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = rate(index / len(batches))
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()
            if collector is not None and index in marks:
                collector.collect(model)


def _integers(average: nn.Module, form: lp.Format, data: Data) -> dict[str, Any] | None:
    """The average in integer arithmetic on the CPU: error, and rows a second beside float32's."""
    if not lp.has_int8():
        return None
    average = copy.deepcopy(average).cpu().eval()
    small = lp.int8_model(average, list(data.train[:512].cpu().split(128)), form)
    on_cpu = Data(*(tensor.cpu() for tensor in (data.train, data.train_labels, data.test, data.test_labels)))
    rows = on_cpu.test[:1024]
    found: dict[str, Any] = {"error": test_error(small, on_cpu)}
    seconds: dict[str, list[float]] = {"float32": [], "int8": []}
    with torch.no_grad():
        for repeat in range(9):
            for name, model in {"float32": average, "int8": small}.items():
                started = time.perf_counter()
                for x in rows.split(128):
                    model(x)
                if repeat:
                    seconds[name].append(time.perf_counter() - started)
    for name, own in seconds.items():
        found[f"{name} rows per second"] = round(len(rows) / sorted(own)[len(own) // 2])
    return found


@torch.no_grad()
def test_error(model: nn.Module, data: Data) -> float:
    """Percent of the test rows that are misclassified."""
    training = model.training
    model.eval()
    pairs = zip(data.test.split(500), data.test_labels.split(500), strict=True)
    wrong = sum(int((model(x).argmax(1) != labels).sum()) for x, labels in pairs)
    model.train(training)
    return 100.0 * wrong / len(data.test)
