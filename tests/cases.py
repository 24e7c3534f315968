"""Odd models: whatever has broken weight averaging somewhere before.

Each `Case` builds a classifier that takes `features(n)` (n, 8) and returns logits (n, 3), so that any of
them can be collected, sampled, refreshed and averaged by the same test:

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_something(case): model = case.build() …

`WRAPPERS` wraps any of them as training scripts do (DDP needs the fixture `process_group`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

N_FEATURES, N_CLASSES = 8, 3


@dataclass(frozen=True)
class Case:
    """An odd model by name; `build()` gives the same weights for the same seed."""

    name: str
    factory: Callable[[], nn.Module]
    has_batchnorm: bool = False

    def build(self, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.factory()

    def __str__(self) -> str:
        return self.name


def features(n: int = 5, *, seed: int = 0) -> Tensor:
    """Inputs (n, 8) for every case."""
    return torch.randn(n, N_FEATURES, generator=torch.Generator().manual_seed(seed))


def perturb_(model: nn.Module, generator: torch.Generator, *, size: float = 0.05) -> None:
    """One made-up training step: noise of standard deviation `size` on every trainable parameter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * size
                parameter.add_(noise.to(parameter.dtype))


def walk(model: nn.Module, n: int, *, seed: int = 0, size: float = 0.05) -> Iterator[nn.Module]:
    """The model along a made-up training run of n steps: the same object, with other weights each time."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        perturb_(model, generator, size=size)
        yield model


class Tied(nn.Module):
    """Encoder and decoder share one matrix, as language models' embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(N_FEATURES, N_FEATURES, bias=False)
        self.decoder = nn.Linear(N_FEATURES, N_FEATURES)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(N_FEATURES, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(torch.tanh(self.encoder(x))))


class Attention(nn.Module):
    """MultiheadAttention owns `in_proj_weight` itself and a child `out_proj`."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(N_FEATURES, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(len(x), 2, 4)
        return self.head(self.attention(tokens, tokens, tokens)[0].flatten(1))


class Transformer(nn.Module):
    """A TransformerEncoderLayer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, dropout=0.1, batch_first=True)
        self.head = nn.Linear(N_FEATURES, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.reshape(len(x), 2, 4)).flatten(1))


class VectorAndChild(nn.Module):
    """A module that owns a vector of its own besides its child."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(N_FEATURES) + 0.5)
        self.child = nn.Linear(N_FEATURES, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x * self.gain)


class Scalars(nn.Module):
    """Parameters without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(0.3))
        self.linear = nn.Linear(N_FEATURES, N_CLASSES)
        self.shift = nn.Parameter(torch.tensor(-0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + self.shift) / self.log_temperature.exp()


class Empties(nn.Module):
    """Parameters without elements: first, in the middle and last."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(0))
        self.one = nn.Linear(N_FEATURES, 4)
        self.middle = nn.Parameter(torch.empty(0, 3))
        self.two = nn.Linear(4, N_CLASSES)
        self.last = nn.Parameter(torch.empty(2, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))


class MixedDtypes(nn.Module):
    """bfloat16, float32 and float64 in one model."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Linear(N_FEATURES, 4, dtype=torch.bfloat16)
        self.middle = nn.Linear(4, 4)
        self.high = nn.Linear(4, N_CLASSES, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.low(x.bfloat16())).float()
        return self.high(torch.relu(self.middle(hidden)).double()).float()


class NonContiguous(nn.Module):
    """A transposed matrix, and a convolution in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(N_FEATURES, 16).t() * 0.3)
        self.conv = nn.Conv2d(4, 3, 2).to(memory_format=torch.channels_last)
        self.head = nn.Linear(3, N_CLASSES)
        if self.matrix.is_contiguous() or self.conv.weight.is_contiguous():
            raise AssertionError("this case should have non-contiguous parameters")

    def forward(self, x: Tensor) -> Tensor:
        image = (x @ self.matrix.t()).reshape(len(x), 4, 2, 2)
        return self.head(torch.relu(self.conv(image)).flatten(1))


class Convolutional(nn.Module):
    """Batch norm over images and volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(2, 3, 2, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.volume = nn.Sequential(nn.Conv3d(3, 2, (1, 2, 2)), nn.BatchNorm3d(2), nn.ReLU())
        self.head = nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(x.reshape(len(x), 2, 2, 2))
        return self.head(self.volume(image[:, :, None]).flatten(1))


class SharedBatchNorm(nn.Module):
    """One batch-norm module used twice in a forward pass, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(N_FEATURES, 4)
        self.norm = nn.BatchNorm1d(4)
        self.two = nn.Linear(4, 4)
        self.norm_again = self.norm
        self.head = nn.Linear(4, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.one(x)))
        return self.head(torch.relu(self.norm_again(self.two(x))))


def plain() -> nn.Module:
    """Two layers, nothing odd: D = 8·4 + 4 + 4·3 + 3 = 51."""
    return nn.Sequential(nn.Linear(N_FEATURES, 4), nn.Tanh(), nn.Linear(4, N_CLASSES))


def frozen() -> nn.Module:
    """The first layer does not train."""
    model = plain()
    model[0].requires_grad_(False)
    return model


def batchnorm_1d() -> nn.Module:
    """Batch norm after a linear layer, and dropout."""
    return nn.Sequential(
        nn.Linear(N_FEATURES, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, N_CLASSES)
    )


def weight_norm_parametrization() -> nn.Module:
    """The weight is computed from two parametrizations."""
    model = plain()
    nn.utils.parametrizations.weight_norm(model[0])
    return model


def weight_norm_old() -> nn.Module:
    """The older weight norm: `weight_g`, `weight_v`, and a plain attribute `weight` set by a hook."""
    model = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model[0])
    return model


def compiled_part() -> nn.Module:
    """One submodule is torch.compile'd; the backend does nothing."""
    model = plain()
    model[0] = torch.compile(model[0], backend="eager")
    return model


def lazy() -> nn.Module:
    """Has no shapes before its first forward pass."""
    return nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.Linear(4, N_CLASSES))


CASES = [
    Case("plain", plain),
    Case("tied", Tied),
    Case("frozen", frozen),
    Case("attention", Attention),
    Case("transformer", Transformer),
    Case("vector_and_child", VectorAndChild),
    Case("scalars", Scalars),
    Case("empties", Empties),
    Case("mixed_dtypes", MixedDtypes),
    Case("non_contiguous", NonContiguous),
    Case("weight_norm_parametrization", weight_norm_parametrization),
    Case("weight_norm_old", weight_norm_old),
    Case("batchnorm_1d", batchnorm_1d, has_batchnorm=True),
    Case("batchnorm_2d_3d", Convolutional, has_batchnorm=True),
    Case("shared_batchnorm", SharedBatchNorm, has_batchnorm=True),
]
BATCHNORM_CASES = [case for case in CASES if case.has_batchnorm]


def _compile(model: nn.Module) -> nn.Module:
    """Wrapped, but compiled at the first forward pass only, which these tests leave alone."""
    return torch.compile(model)  # type: ignore[return-value]


def _ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": _compile,
    "DataParallel": nn.DataParallel,
    "DDP": _ddp,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "compile(DDP)": lambda model: _compile(_ddp(model)),
    "DDP(compile)": lambda model: _ddp(_compile(model)),
}
