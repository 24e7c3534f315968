"""What a model's outputs mean: the likelihood turns them into a predictive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, SupportsFloat, final

import torch
from torch import Tensor
from torch.nn import functional as F

from swag.errors import InputError
from swag.predictive.categorical import CategoricalAccumulator
from swag.predictive.gaussian import GaussianAccumulator, GaussianPredictive
from swag.predictive.protocol import Accumulator


class Likelihood(Protocol):
    """Makes the accumulator that takes the members' outputs."""

    def accumulator(self, *, keep_members: bool | None = None) -> Accumulator:
        """A fresh accumulator; None for `keep_members` means the likelihood's own default."""


@final
@dataclass(frozen=True)
class Categorical:
    """Outputs are logits (N, C); members are not kept by default."""

    def accumulator(self, *, keep_members: bool | None = None) -> CategoricalAccumulator:
        return CategoricalAccumulator(keep_members=bool(keep_members))


@final
@dataclass(frozen=True)
class HeteroscedasticGaussian:
    """Outputs are (N, 2): the mean, and the raw variance v with σ² = softplus(v) + `min_variance`.

    Args:
        min_variance: added to σ², in the squared unit of y; the default keeps σ² positive in float32.
    """

    min_variance: float = 1e-12

    def accumulator(self, *, keep_members: bool | None = None) -> _GaussianOutputs:
        return _GaussianOutputs(self._split, keep_members)

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        if outputs.ndim != 2 or outputs.shape[1] != 2:
            raise InputError(
                f"outputs: HeteroscedasticGaussian takes (N, 2), mean and raw variance; the model gave "
                f"{tuple(outputs.shape)}: use forward= to pick them, or HomoscedasticGaussian(variance)"
            )
        outputs = _float(outputs)
        return outputs[:, 0], F.softplus(outputs[:, 1]) + self.min_variance


@final
@dataclass(frozen=True)
class HomoscedasticGaussian:
    """Outputs are means, (N,) or (N, 1); every row has the same `variance`.

    Args:
        variance: σ² > 0, in the squared unit of y.
    """

    variance: float

    def __post_init__(self) -> None:
        if not isinstance(self.variance, SupportsFloat) or not 0 < self.variance < float("inf"):
            raise InputError(
                f"variance: got {self.variance!r}; pass a positive number (a variance, not a std)"
            )

    def accumulator(self, *, keep_members: bool | None = None) -> _GaussianOutputs:
        return _GaussianOutputs(self._split, keep_members)

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        if outputs.ndim == 2 and outputs.shape[1] == 1:
            outputs = outputs[:, 0]
        if outputs.ndim != 1:
            raise InputError(
                "outputs: HomoscedasticGaussian takes means (N,) or (N, 1); the model gave "
                f"{tuple(outputs.shape)}"
            )
        outputs = _float(outputs)
        return outputs, torch.full_like(outputs, self.variance)


class _GaussianOutputs:
    def __init__(self, split, keep_members: bool | None) -> None:  # type: ignore[no-untyped-def]
        self._split = split
        self._inner = GaussianAccumulator(keep_members=keep_members is not False)

    def update(self, outputs: Tensor) -> None:
        self._inner.add(*self._split(outputs))

    def compute(self) -> GaussianPredictive:
        return self._inner.compute()


def _float(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
