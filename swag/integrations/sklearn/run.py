"""One network on its way: epochs, learning rates, snapshots; it can be stored between any two epochs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.collector import Collector
from swag.errors import InputError, StateError
from swag.integrations.sklearn.network import network_of
from swag.integrations.sklearn.objectives import Objective
from swag.integrations.sklearn.rows import Rows, parts
from swag.integrations.sklearn.settings import Settings
from swag.integrations.sklearn.state import plain, tensors
from swag.posterior import PointMass, Posterior
from swag.schedules.rates import swa_paper
from swag.training.losses import DivergedError
from swag.training.random_states import lent_to

_SEEDS = 1 << 62


@final
class Run:
    """A network, its optimizer, its snapshots and its randomness.

    An epoch draws from the run's generator alone, whatever the global ones hold: it says how rows are
    shuffled, and the seed that torch's global generator has (for dropout) while the epoch lasts.

    Args:
        settings: the estimator's.
        n_features: F.
        n_outputs: C logits, or 2 for a regression.
        dtype: of weights and rows.
        seed: of the run.
    """

    def __init__(
        self, settings: Settings, n_features: int, n_outputs: int, dtype: torch.dtype, seed: int
    ) -> None:
        self._made_of = (settings, n_features, n_outputs, dtype, seed)
        self.settings = settings
        with lent_to(seed, settings.device):
            self.network = network_of(settings, n_features, n_outputs, dtype)
        self._trained = trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = _optimizer(settings, trained)
        self.collector = Collector(self.network, settings.rank, deviation_dtype=dtype)
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = 0
        self.start = settings.start  # averaging begins after this epoch
        self.losses: list[float] = []
        self.validation_losses: list[float] = []

    @property
    def rate(self) -> float:
        """The learning rate of the next epoch: the SWA paper's schedule."""
        if self.epoch >= self.start:
            return self.settings.swa_lr
        settings = self.settings
        return swa_paper(self.epoch, lr=settings.lr, swa_start=self.start, swa_lr=settings.swa_lr)

    def step_(self, rows: Rows, objective: Objective) -> None:
        """One epoch over the rows, and a snapshot at its end where averaging has begun.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        with _torch_lent_to(self._drawn_seed(), self.settings.device):
            mean = self._steps(rows, objective)
        if not math.isfinite(mean):
            raise DivergedError(
                f"fit: the loss is {mean} in epoch {self.epoch + 1}; pass a smaller lr (it was "
                f"{self.rate:g}), or standardize=True",
                epoch=self.epoch + 1,
                step=self.epoch * -(-len(rows) // self.settings.batch_size) + 1,
                loss=mean,
            )
        self.losses.append(mean)
        self.epoch += 1
        if self.epoch > self.start:
            self.collector.collect(self.network)

    def _steps(self, rows: Rows, objective: Objective) -> float:
        """One pass over the shuffled rows; the mean loss."""
        network, optimizer = self.network.train(), self.optimizer
        order = torch.randperm(len(rows), generator=self.generator, device="cpu").to(rows.x.device)
        total = torch.zeros((), dtype=rows.x.dtype, device=rows.x.device)
        for chosen in parts(order, self.settings.batch_size):
            x, y = rows.x.index_select(0, chosen), rows.y.index_select(0, chosen)
            weights = None if rows.weights is None else rows.weights.index_select(0, chosen)
            loss = objective(network(x), y, weights)
            loss.backward()
            optimizer.step()
            for parameter in self._trained:  # `zero_grad` takes as long as a small layer
                parameter.grad = None
            total += loss.detach() * (len(chosen) / len(rows))
        return float(total)

    def train_(self, rows: Rows, validation: Rows | None, objective: Objective) -> Run:
        """All epochs. With early stopping the averaging begins, from the best weights so far, as soon as the
        validation loss has not fallen for `n_iter_no_change` epochs; its own epochs are never cut short.
        """
        n_averaged = self.settings.epochs - self.start
        best, best_at, weights = math.inf, 0, self.network.state_dict()
        while self.epoch < self.start + n_averaged:
            self.step_(rows, objective)
            if validation is None or not self.settings.early_stopping:
                continue
            loss = self._loss(validation, objective)
            self.validation_losses.append(loss)
            if self.epoch >= self.start:
                continue
            if loss < best:
                best, best_at, weights = loss, self.epoch, copy.deepcopy(self.network.state_dict())
            elif self.epoch - best_at >= self.settings.n_iter_no_change:
                self.network.load_state_dict(weights)
                self.start = self.epoch
        return self

    @torch.no_grad()
    def _loss(self, rows: Rows, objective: Objective) -> float:
        network: nn.Module = self.network.eval()
        outputs: Tensor = torch.cat([network(batch) for batch in rows.batches(8192)])
        return float(objective(outputs, rows.y, rows.weights))

    def posterior(self, scale: float) -> Posterior:
        """What the snapshots so far say: SWAG, SWAG-diag for rank 0, SWA for scale 0 or one snapshot, and
        the weights as they are before the first.
        """
        n = self.collector.n_collected
        if n == 0:
            return PointMass(self.collector.layout.flatten(self.network), layout=self.collector.layout)
        if n == 1 or scale == 0:
            return self.collector.swa()
        return self.collector.swag(scale) if self.collector.rank else self.collector.swag_diag(scale)

    def _drawn_seed(self) -> int:
        return int(torch.randint(_SEEDS, (), generator=self.generator, device="cpu"))

    def state_dict(self) -> dict[str, Any]:
        """Numbers, lists and NumPy arrays."""
        return {
            "network": plain(dict(self.network.state_dict())),
            "optimizer": plain(self.optimizer.state_dict()),
            "collector": plain(self.collector.state_dict()),
            "generator": plain(self.generator.get_state()),
            "epoch": self.epoch,
            "start": self.start,
            "losses": list(self.losses),
            "validation_losses": list(self.validation_losses),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the other was, bit for bit."""
        self.network.load_state_dict(tensors(state["network"]))
        self.optimizer.load_state_dict(tensors(state["optimizer"]))
        self.collector.load_state_dict(tensors(state["collector"]))
        self.generator.set_state(tensors(state["generator"]))
        self.epoch, self.start = state["epoch"], state["start"]
        self.losses, self.validation_losses = list(state["losses"]), list(state["validation_losses"])

    def __getstate__(self) -> dict[str, Any]:
        return {"made_of": self._made_of, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["made_of"])
        self.load_state_dict(state["state"])


def _optimizer(settings: Settings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The caller's, or Adam.

    Raises:
        InputError: the caller's function does not take the arguments.
    """
    lr, weight_decay = settings.lr, settings.weight_decay
    if settings.optimizer is None:
        # Fused: one call a step and not one a tensor, which is what small networks spend their time on.
        fused = settings.device.type in ("cpu", "cuda")
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
    try:
        return settings.optimizer(parameters, lr=lr, weight_decay=weight_decay)
    except TypeError as error:
        raise InputError(
            f"optimizer: calling it with (parameters, lr={lr:g}, weight_decay={weight_decay:g}) failed "
            f"({error}); pass a class or function of these, such as torch.optim.AdamW"
        ) from error


@contextmanager
def _torch_lent_to(seed: int, device: torch.device) -> Iterator[None]:
    """`lent_to` for torch's generators alone, which is far cheaper, and paid every epoch."""
    if device.type != "cpu":
        with lent_to(seed, device):
            yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def check_same_kind(runs: list[Run], settings: Settings) -> None:
    """Raises StateError where runs that are to go on were begun with other settings."""
    if len(runs) != settings.n_members:
        raise StateError(
            f"n_members: is {settings.n_members} now, and {len(runs)} were begun; call fit, which begins anew"
        )
