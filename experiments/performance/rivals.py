"""The peers behind one form: take a snapshot, draw weights. What each does is its own code."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from . import peers
from .peers import Missing


class Rival(Protocol):
    """A library that collects snapshots and draws weights."""

    name: str

    def collect(self) -> None:
        """Takes a snapshot of the model it was made for."""

    def draw(self) -> Any:
        """Draws one set of weights into a model."""


class SwaGaussian:
    """The SWAG paper's code. `.cuda()` gives the tensor itself while it runs."""

    name = "swa_gaussian"

    def __init__(
        self, model: nn.Module, make: Callable[[], nn.Module], rank: int, checkout: str | None
    ) -> None:
        module = peers.swa_gaussian(checkout)
        self.utils = importlib.import_module("swa_gaussian.utils")
        self._model = model
        self.swag = module.SWAG(make, no_cov_mat=False, max_num_models=rank)

    def collect(self) -> None:
        self.swag.collect_model(self._model)

    def draw(self) -> None:
        with peers.cuda_is_here():
            self.swag.sample(scale=0.5, cov=True)

    def draw_blockwise(self) -> None:
        """One z₂ a tensor: another distribution than the paper's."""
        self.swag.sample(scale=0.5, cov=True, block=True)

    def average(self, loader: Any, test: Any, subset: float | None = None) -> Any:
        """One sample of its model average: draw, batch norm over the loader where there is one, "
        "predictions."""
        with peers.cuda_is_here():
            self.swag.sample(scale=0.5, cov=True)
            if loader is not None:
                self.utils.bn_update(loader, self.swag, subset=subset)
            return self.utils.predict(test, self.swag)


class TorchUncertainty:
    """torch_uncertainty's SWAG, without the 16 models it also draws at every snapshot as shipped."""

    name = "torch-uncertainty"

    def __init__(self, model: nn.Module, rank: int) -> None:
        module = peers.torch_uncertainty()
        self._swag = module.SWAG(model, 0, 1, scale=0.5, max_num_models=rank, num_estimators=0)
        self._epoch = 0

    def collect(self) -> None:
        self._epoch += 1
        self._swag.update_wrapper(self._epoch)

    def draw(self) -> nn.Module:
        """With a z₂ of its own for every tensor."""
        return self._swag.sample(0.5)


class LightningUqBox:
    """lightning_uq_box's SWAG; its mean counts the first weights twice."""

    name = "lightning-uq-box"

    def __init__(self, model: nn.Module, rank: int) -> None:
        module = peers.lightning_uq_box()
        self._swag = module.SWAGRegression(model, rank, 1, 1, 0.1, nn.MSELoss())

    def collect(self) -> None:
        self._swag.update_uncertainty_buffers()

    def draw(self) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return self._swag._sample_state_dict()


def rivals(
    make: Callable[[], nn.Module],
    rank: int,
    checkout: str | None,
    skipped: list[str],
    *,
    only: tuple[str, ...] = (),
) -> Iterator[tuple[Rival, nn.Module]]:
    """Those that are here, each with a model of its own to follow; reasons for the others go into "
    "`skipped`."""
    for kind in (SwaGaussian, TorchUncertainty, LightningUqBox):
        if only and kind.name not in only:
            continue
        model = make().eval()
        try:
            rival: Rival = (
                SwaGaussian(model, make, rank, checkout) if kind is SwaGaussian else kind(model, rank)  # type: ignore[call-arg]
            )
        except Missing as error:
            if str(error) not in skipped:
                skipped.append(str(error))
            continue
        yield rival, model
