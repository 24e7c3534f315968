"""`SWAGCallback`: the weights of a Lightning run, collected along the way.

A callback is a subclass by Lightning's contract, and `should_update` is there to be overridden, so this class
is neither final nor without a base. It has a method for every moment of the trainer, in the order in which
they come, which is why the file is longer than most; what they do is in the modules beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from swag.batches import Forward
from swag.collector import Collector
from swag.distributed import ShardedGaussian
from swag.ensemble import Ensemble
from swag.errors import InputError, StateError
from swag.integrations.lightning.average import Average, frozen_layers, uncompiled
from swag.integrations.lightning.collecting import (
    AnyCollector,
    collector_for,
    collector_of,
    layout_of,
    load_,
    part_of,
    state_of,
)
from swag.integrations.lightning.company import Collecting, check_callbacks, check_strategy
from swag.integrations.lightning.progress import Progress, check_same
from swag.integrations.lightning.rates import Rates, groups_of
from swag.integrations.lightning.reading import KEY, ensemble
from swag.integrations.lightning.timing import Length, Steps, Timing, check_lengths, plain, timing_of
from swag.integrations.lightning.training_data import training_batches
from swag.parameters import Layout
from swag.posterior import LowRankGaussian
from swag.selection import Select

_log = logging.getLogger(__name__)

STATE_VERSION = 1
ShouldUpdate = Callable[[int | None, int | None], bool]


class SWAGCallback(Callback):
    r"""Collects snapshots of the weights while `trainer.fit` runs; `callback.posterior` is SWAG afterwards.

    It follows the trainer: right under gradient accumulation and several optimizers (`trainer.global_step`
    counts), automatic and manual optimisation, compiled modules, DDP, and FSDP2 (ModelParallelStrategy),
    where statistics lie beside each rank's shards. The module keeps its own weights throughout; only while
    validation runs with `validate_average=True` it holds the average. Checkpoints hold the statistics as
    tensors and plain data (`weights_only=True` reads them), and a resumed run goes on with them bit for bit.

    With every snapshot "swag/n_collected", "swag/rows" (deviations held) and "swag/lr" go to the loggers and
    to `trainer.callback_metrics`. With `validate_average=True` what the module logs in validation is the
    average's from the first snapshot on, under the module's own names.

    Args:
        rank: K, the deviations kept; memory is 4·(3 + K) bytes a collected float32 parameter.
        swa_start: when averaging begins: epochs, `Steps(n)`, or a fraction of the whole run.
        every: from snapshot to snapshot, the first that long after swa_start: epochs or `Steps(n)`. An epoch
            that max_steps or early stopping cuts short counts for none.
        swa_lr: the rate from swa_start on, for every parameter group that holds collected weights, or a list
            with one a group. It overrules the module's schedulers from there on. None leaves rates alone.
        anneal: over how many epochs (or `Steps`) before swa_start the rate goes to swa_lr in a straight line.
        should_update: should_update(step_idx, epoch_idx) → whether to take a snapshot now, instead of
            `every`; or override the method.
        part: the name of a submodule ("net"): collect that alone and by its own names, so that the posterior
            fits the plain network without Lightning.
        select: which parameters, as in `swag.Collector`; by default all that require a gradient.
        deviation_dtype: dtype of the deviations; bfloat16 halves their memory.
        device: where the statistics live; "cpu" spares the accelerator's memory.
        scale: of `posterior`'s covariance; 0.5 is the paper's.
        validate_average: run `fit`'s validation with the averaged weights, once there are any.
        bn_loader: training batches for the average's batch-norm statistics; by default the trainer's own
            training data, read by a second loader (each rank its share), once a snapshot.
        forward: forward(model, batch) for these batches; by default the first element of a tuple or list, a
            dict by keyword.
        name: tells several such callbacks of one trainer apart.

    Raises:
        InputError: a value that cannot be used.

    Source: Maddox et al. 2019, arXiv:1902.02476.

    >>> import lightning.pytorch as pl
    >>> from lightning.pytorch.demos.boring_classes import BoringModel
    >>> callback = SWAGCallback(rank=4, swa_start=2, every=Steps(1), swa_lr=0.05)
    >>> trainer = pl.Trainer(max_epochs=4, limit_train_batches=3, limit_val_batches=0, callbacks=callback,
    ...     logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ...     accelerator="cpu")
    >>> trainer.fit(BoringModel())
    >>> callback.n_collected, callback.posterior.sample(10).shape
    (6, torch.Size([10, 66]))
    """

    def __init__(
        self,
        rank: int = 20,
        swa_start: float | Steps = 0.75,
        every: Length = 1,
        swa_lr: float | Sequence[float] | None = None,
        *,
        anneal: Length = 0,
        should_update: ShouldUpdate | None = None,
        part: str | None = None,
        select: Select = None,
        deviation_dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        scale: float = 0.5,
        validate_average: bool = False,
        bn_loader: Iterable[Any] | None = None,
        forward: Forward | None = None,
        name: str | None = None,
    ) -> None:
        check_lengths(swa_start, every, anneal)
        if should_update is not None and not callable(should_update):
            raise InputError(f"should_update: got {should_update!r}; pass a function (step_idx, epoch_idx)")
        # Refuses what is no rank or dtype; without a model, since making one would draw random numbers.
        Collector.for_layout(Layout([("one", (1,), torch.float32)]), rank, deviation_dtype=deviation_dtype)
        self.rank, self.scale, self.part, self.name = rank, scale, part, name
        self.validate_average = validate_average
        self._swa_start, self._every, self._anneal = swa_start, every, anneal
        self._select, self._dtype, self._device = select, deviation_dtype, device
        self._rule, self._bn_loader, self._forward = should_update, bn_loader, forward
        self._rates = Rates(swa_lr)
        self._average = Average()
        self._collector: AnyCollector | None = None
        self._loaded: Mapping[str, Any] | None = None  # a state whose fit has not begun yet
        self._stage: str | None = None
        self._ready = False  # whether the collector is that of the fit under way
        self._frozen: tuple[str, ...] = ()  # batch-norm layers that training leaves alone
        self._groups: list[dict[str, Any]] | None = None  # None: to be looked up at the next batch
        self._rate: float | Tensor | None = None  # what the batch under way trains at
        self._writes = True  # whether this process writes checkpoints
        self._progress = Progress(Timing(0, 1, 0))

    # What users ask for

    @property
    def collector(self) -> AnyCollector:
        """The statistics: a `swag.Collector`, or a `swag.distributed.ShardedCollector` under FSDP2.

        Raises:
            StateError: `fit` has not begun.
        """
        if self._collector is None and self._loaded is not None:
            self._collector = collector_of(self._loaded["collector"])
        if self._collector is None:
            raise StateError("collector: there is none before trainer.fit has begun; call it first")
        return self._collector

    @property
    def posterior(self) -> LowRankGaussian | ShardedGaussian:
        """SWAG: `collector.swag(scale)`, made anew at every call (under FSDP2 collective).

        Raises:
            StateError: fewer than two snapshots.
            InputError: rank below 2; `collector.swag_diag()` and `collector.swa()` need none.
        """
        return self.collector.swag(self.scale)

    @property
    def n_collected(self) -> int:
        """Snapshots so far."""
        return 0 if self._collector is None and self._loaded is None else self.collector.n_collected

    @property
    def sets_rates(self) -> bool:
        """Whether it sets learning rates."""
        return self._rates.swa_lr is not None

    def ensemble(self, module: LightningModule, n_samples: int = 30, **options: Any) -> Ensemble:
        """`swag.Ensemble` of the module (of its `part`) over `posterior`; it needs no trainer from then on.

        Args:
            module: the one that was trained, or another of the same architecture.
            n_samples: S.
            options: of `swag.Ensemble`, such as bn_loader and seed.
        """
        return ensemble(part_of(module, self.part), self._whole().swag(self.scale), n_samples, **options)

    def applied(
        self, module: LightningModule, *, bn_loader: Iterable[Any] | None = None
    ) -> AbstractContextManager[nn.Module]:
        """`with callback.applied(module, bn_loader=…): trainer.test(module, …)` tests the average.

        Afterwards the module has its own weights, bit for bit.
        """
        return self._applied(part_of(module, self.part), bn_loader)

    @contextmanager
    def _applied(self, model: nn.Module, bn_loader: Iterable[Any] | None) -> Iterator[nn.Module]:
        with ExitStack() as stack:
            with uncompiled():
                stack.enter_context(self.collector.applied(model, bn_loader=bn_loader, forward=self._forward))
            yield model

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to take a snapshot now; asked after every optimizer step and at every epoch's end.

        Args:
            step_idx: the step just made, from 0; None at an epoch's end.
            epoch_idx: the epoch that has ended, from 0; None after a step.
        """
        if self._rule is not None:
            return bool(self._rule(step_idx, epoch_idx))
        if step_idx is not None:
            return self._progress.timing.due_after_step(step_idx)
        return epoch_idx is not None and self._progress.timing.due_after_epoch(epoch_idx)

    # What the trainer calls, in its order

    @property
    def state_key(self) -> str:
        """Where the state lies in a checkpoint. Without rank and schedule: so a change of them is noticed."""
        return type(self).__qualname__ if self.name is None else self._generate_state_key(name=self.name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks at the trainer before anything is built."""
        self._stage, self._ready, self._writes = stage, False, trainer.is_global_zero
        if stage != "fit":
            return
        same: list[Collecting] = [c for c in _callbacks(trainer) if isinstance(c, SWAGCallback)]
        same.remove(self)  # once: where it is there twice, it stays in the list
        check_callbacks(self, same, [c for c in _callbacks(trainer) if not isinstance(c, SWAGCallback)])
        check_strategy(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the collector, or goes on with the one that there is."""
        epochs, steps = trainer.max_epochs, trainer.max_steps
        timing = timing_of(self._swa_start, self._every, self._anneal, epochs, steps)
        model = part_of(pl_module, self.part)
        collector = collector_for(model, self.rank, self._select, self._dtype, self._device)
        if self._loaded is not None:
            self._take_over(self._loaded, collector, timing)
        elif self._collector is not None and trainer.global_step > 0:  # fit again, and the trainer counts on
            difference = layout_of(self._collector).first_difference(layout_of(collector))
            if difference is not None:
                raise InputError(
                    f"module: the trainer goes on with another model than was collected ({difference}); use "
                    "a new Trainer for it"
                )
            self._progress = Progress.from_state(timing, self._progress.state())
        else:
            self._begin(collector, Progress(timing), None)
        self._ready = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the parameter groups of another run."""
        self._groups = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has the parameter groups looked up again: finetuning adds some, between epochs."""
        self._groups = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets the rate that this batch trains at."""
        epoch, step = trainer.current_epoch, trainer.global_step
        timing = self._progress.timing
        timing.look(epoch, step)
        if self._groups is None:
            model = part_of(pl_module, self.part)
            self._groups = groups_of(trainer.optimizers, layout_of(self.collector).tensors(model))
            self._frozen = frozen_layers(model)
        share = timing.share(epoch + batch_idx / trainer.num_training_batches, step)
        self._rates.set_(self._groups, share)
        rate = self._groups[0]["lr"] if self._groups else None
        self._rate = rate.clone() if isinstance(rate, Tensor) else rate

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes a snapshot where a step or the epoch's end asks for one: before validation, which sees it."""
        answers = [
            self.should_update(step_idx=step) for step in self._progress.new_steps(trainer.global_step)
        ]
        if self._epoch_over(trainer) or any(answers):
            self._collect(trainer, pl_module, _logged_as(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average in, where that is wanted and there is one."""
        in_fit = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not self.validate_average or not in_fit or self.n_collected == 0:
            return
        loader = self._bn_loader
        self._average.put_(
            trainer,
            part_of(pl_module, self.part),
            self.collector,
            frozen=self._frozen,
            batches=lambda: training_batches(trainer) if loader is None else loader,
            forward=self._forward,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the module's own weights back; checkpoint callbacks have their turn after this."""
        self._average.take_out_()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same as at the last batch's end, for an epoch that a hook of the module ended early."""
        if self._epoch_over(trainer):
            self._collect(trainer, pl_module, _logged_as(trainer) - 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so where nothing was collected."""
        if self.n_collected == 0:
            _log.warning(
                "no snapshot was taken: averaging starts at %s and the run ended at epoch %d, step %d; pass "
                "an earlier swa_start",
                self._progress.timing.start,
                trainer.current_epoch,
                trainer.global_step,
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The module is left with its own weights whatever happens."""
        self._average.take_out_()
        if self._stage == "fit" and not self._ready:
            self._loaded = None  # a checkpoint that did not fit

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The stage is over."""
        self._average.take_out_()
        self._stage, self._ready = None, False

    # The state

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data; with several ranks the first's alone has tensors. Under FSDP2 collective.

        Raises:
            StateError: while the module holds the average, which the checkpoint would take for its own.
        """
        if self._average.applied:
            raise StateError(
                "checkpoint: saved while validation runs with the averaged weights, it would hold those as "
                "the module's own; save after validation, or pass validate_average=False"
            )
        if self._collector is None:
            return dict(self._loaded) if self._loaded is not None else {}
        return {
            "kind": KEY,
            "version": STATE_VERSION,
            "settings": self._settings(),
            "collector": state_of(self._collector, self._writes),
            "progress": self._progress.state(),
            "rates_before": self._rates.before,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a checkpoint's state over; in a fit whose strategy restores early, once it begins.

        A checkpoint loaded for `test`, `validate` or `predict` does not replace statistics that are there.

        Raises:
            InputError: saved with another rank or schedule, of another model, or damaged.
        """
        if not isinstance(state_dict, Mapping) or state_dict.get("version") != STATE_VERSION:
            raise InputError("state: not what SWAGCallback of this version saves")
        if self._stage not in (None, "fit") and self._collector is not None:
            return
        check_same(state_dict.get("settings", {}), self._settings())
        if self._stage not in (None, "fit"):
            self._collector = collector_of(state_dict["collector"])
        elif self._ready and self._collector is not None:
            self._take_over(state_dict, self._collector, self._progress.timing)
        else:
            self._loaded = state_dict
            if self._stage is None:
                self._collector = None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Says so where a run is resumed and the checkpoint knows nothing of this callback."""
        resumed = self._stage == "fit" and checkpoint.get("global_step", 0) > 0  # a tuner's has no step
        if resumed and self.state_key not in checkpoint.get("callbacks", {}):
            _log.warning("the checkpoint has no state of %s: it starts without a snapshot", self.state_key)

    def _take_over(self, state: Mapping[str, Any], collector: AnyCollector, timing: Timing) -> None:
        progress = Progress.from_state(timing, state.get("progress", {}))
        load_(collector, state["collector"])
        self._begin(collector, progress, state.get("rates_before"))

    def _begin(self, collector: AnyCollector, progress: Progress, rates: list[float] | None) -> None:
        self._collector, self._progress, self._loaded = collector, progress, None
        self._rates.before = rates
        self._average.forget()

    def _settings(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "swa_start": plain(self._swa_start),
            "every": plain(self._every),
            "anneal": plain(self._anneal),
            "swa_lr": self._rates.swa_lr,
            "part": self.part,
        }

    # Steps on the way

    def _epoch_over(self, trainer: Trainer) -> bool:
        """Whether a whole epoch ends here that was not asked about yet, and a snapshot is due at its end."""
        epoch = trainer.current_epoch
        over = self._progress.ends_epoch(epoch, last_batch=trainer.is_last_batch)
        return over and self.should_update(epoch_idx=epoch)

    def _collect(self, trainer: Trainer, pl_module: LightningModule, logged_as: int) -> None:
        if not self._progress.moved(trainer.global_step):
            return
        self.collector.collect(part_of(pl_module, self.part))
        self._progress.collected(trainer.global_step)
        n = self.n_collected
        found = {"swag/n_collected": float(n), "swag/rows": float(min(n, self.rank))}
        if self._rate is not None:  # schedulers have moved on from what this step was made with
            found["swag/lr"] = float(self._rate)
        for logger in trainer.loggers:
            logger.log_metrics(found, step=logged_as)
        trainer.callback_metrics.update(
            {key: torch.tensor(value, device="cpu") for key, value in found.items()}
        )

    def _whole(self) -> Collector:
        if not isinstance(self.collector, Collector):
            raise InputError(
                "module: is divided over ranks; predict with swag.distributed.predict(module, posterior, "
                "loader), or read the checkpoint on one machine with read_collector"
            )
        return self.collector

    def __repr__(self) -> str:
        return f"{self.state_key}({self.n_collected} snapshots, rank={self.rank})"


def _logged_as(trainer: Trainer) -> int:
    """The step that loggers see with what is logged now: batches that made steps, however many each."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def _callbacks(trainer: Trainer) -> list[Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]
