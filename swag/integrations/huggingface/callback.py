"""SWAG in the Trainer: collected after steps, written into checkpoints, read on resume."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from transformers.trainer_callback import ExportableState, TrainerCallback

from swag.collector import Collector
from swag.errors import InputError, StateError
from swag.integrations.huggingface import checkpoint
from swag.integrations.huggingface.adapters import check_adapters
from swag.integrations.huggingface.followed import collector_for, dtype_of
from swag.integrations.huggingface.plan import Plan, check_every, check_swa_start
from swag.posterior import LowRankGaussian

_log = logging.getLogger(__name__)

# On a Trainer's state of one run, which callback collects.
_MARK = "_swag_callback"


@final
class SWAGTrainerCallback(TrainerCallback, ExportableState):
    r"""Collects SWAG's moments while a `transformers.Trainer` trains.

    A snapshot is taken after optimizer step i where i > swa_start and i − swa_start is a multiple of `every`
    (steps of the optimizer: gradient accumulation counts once). Followed is what requires a gradient when
    training begins, tied tensors once; with PEFT the adapters, at (2 + K)·d float32 numbers for d adapter
    parameters (and one vector more while collecting). Every process collects; process zero (of each node with
    save_on_each_node) writes `checkpoint-N/swag.safetensors` whenever the Trainer saves, and
    `train(resume_from_checkpoint=…)` goes on from it bit for bit. `train()` from step 0 begins afresh.

    Args:
        rank: K, the deviation rows kept.
        swa_start: steps before averaging, or as a float their share of all steps.
        every: steps between snapshots, or as a float their share of all steps.
        swa_lr: the constant rate of all parameter groups from swa_start on; None leaves the Trainer's
            schedule, whose rate near 0 at the end makes snapshots that hardly differ. The Trainer's log goes
            on showing its own schedule's rate.
        select: names, module names or globs of the parameters to follow; None for all that train.
        deviation_dtype: dtype of the rows, or its name ("bfloat16" halves their memory).
        device: where the statistics live; None for beside the parameters.
        resume_from: the checkpoint folder, where a run resumes from one outside its output_dir.

    Raises:
        InputError: a bad argument; when training begins: nothing trains, two such callbacks in one Trainer,
            a model divided over processes, or a resumed run whose rank, start or stride changed.
        FileError: when training resumes from a checkpoint without, or with another run's, statistics.

    Source: Maddox et al. 2019, arXiv:1902.02476.

    >>> callback = SWAGTrainerCallback(rank=5, swa_start=0.5, every=1)
    >>> callback
    SWAGTrainerCallback(rank=5, swa_start=0.5, every=1, no training yet)
    """

    def __init__(
        self,
        rank: int = 20,
        swa_start: int | float = 0.75,
        every: int | float = 0.0125,
        *,
        swa_lr: float | None = None,
        select: Sequence[str] | None = None,
        deviation_dtype: torch.dtype | str = torch.float32,
        device: str | None = None,
        resume_from: str | None = None,
    ) -> None:
        check_swa_start(swa_start)
        check_every(every)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
            raise InputError(f"rank: got {rank!r}; pass the number of deviations to keep (20 is usual)")
        if swa_lr is not None and (isinstance(swa_lr, bool) or not 0 <= swa_lr < float("inf")):
            raise InputError(f"swa_lr: got {swa_lr!r}; pass a learning rate ≥ 0, or None")
        if select is not None and (isinstance(select, str) or not all(isinstance(s, str) for s in select)):
            raise InputError(
                f"select: got {select!r}; pass a list of names, module names or globs: the Trainer keeps a "
                "callback's arguments as JSON, where no function fits"
            )
        self.rank, self.swa_start, self.every, self.swa_lr = rank, swa_start, every, swa_lr
        self._select = None if select is None else list(select)
        self._dtype = dtype_of(deviation_dtype)
        self._device = None if device is None else str(device)
        self._resume_from = None if resume_from is None else str(resume_from)
        self._collector: Collector | None = None
        self._plan: Plan | None = None

    @property
    def collector(self) -> Collector:
        """What was collected: `swag(scale)`, `swag_diag()`, `swa()`, `subspace(k)`, `applied(model)`.

        Raises:
            StateError: no training has begun with this object.
        """
        if self._collector is None:
            raise StateError(
                "collector: no training has begun with this callback; call trainer.train() first (with "
                "restore_callback_states_from_checkpoint=True the Trainer puts a copy in its place: get that "
                "by SWAGTrainerCallback.of(trainer))"
            )
        return self._collector

    @property
    def posterior(self) -> LowRankGaussian:
        """SWAG with the paper's scale ½; others by `callback.collector.swag(scale)`.

        Raises:
            StateError: fewer than two snapshots, or no training yet.
            InputError: the rank is below 2.
        """
        return self.collector.swag()

    @classmethod
    def of(cls, trainer: Any) -> SWAGTrainerCallback:
        """The callback that a Trainer runs with.

        Raises:
            StateError: it has none.
        """
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, cls):
                return callback
        raise StateError("trainer: has no SWAGTrainerCallback; pass callbacks=[SWAGTrainerCallback(…)]")

    def state(self) -> dict[str, Any]:
        """Arguments as JSON; the tensors are in each checkpoint's swag.safetensors."""
        return {
            "args": {
                "rank": self.rank,
                "swa_start": self.swa_start,
                "every": self.every,
                "swa_lr": self.swa_lr,
                "select": self._select,
                "deviation_dtype": str(self._dtype).removeprefix("torch."),
                "device": self._device,
                "resume_from": None,
            },
            "attributes": {},
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        if getattr(state, _MARK, None) is not None:
            raise InputError(
                "callbacks: this Trainer has two SWAGTrainerCallbacks, which would write one file; keep one "
                "(trainer.remove_callback(…))"
            )
        setattr(state, _MARK, self)
        # A checkpoint of a run without this callback does not list it, and the Trainer would look for it.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        plan = Plan.of(self.swa_start, self.every, state.max_steps)
        collector = collector_for(model, self.rank, self._select, self._dtype, self._device)
        if state.global_step > 0:
            plan = self._resume(plan, collector, model, args, state)
        elif plan.n_due(state.max_steps) < 2:
            _log.warning(
                "SWAG will have %d snapshots: training is %d steps long, swa_start=%d, every=%d",
                plan.n_due(state.max_steps),
                state.max_steps,
                plan.start,
                plan.every,
            )
        self._collector, self._plan = collector, plan
        self._set_rate(state.global_step, kwargs.get("optimizer"))
        if getattr(args, "load_best_model_at_end", False):
            _log.info(
                "load_best_model_at_end: the model will hold the best checkpoint, the posterior is unaffected"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self._plan is not None
        if self._plan.is_due(state.global_step):
            check_adapters(kwargs["model"], self.collector.layout)
            self.collector.collect(kwargs["model"])
        self._set_rate(state.global_step, kwargs.get("optimizer"))
        self._complete(args, state, control, kwargs["model"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._complete(args, state, control, kwargs["model"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._complete(args, state, control, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._complete(args, state, control, kwargs["model"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_each_node = getattr(args, "save_on_each_node", False)
        if not (state.is_local_process_zero if on_each_node else state.is_world_process_zero):
            return
        folder = _own_folder(args, state)
        # A hyperparameter search has folders of its own, and resumes nothing; this one is another run's.
        if getattr(state, "is_hyper_param_search", False) or not folder.is_dir():
            _log.warning("%s is not this checkpoint's; it goes without SWAG's statistics", folder)
            return
        assert self._plan is not None
        checkpoint.write(
            folder, self.collector, kwargs["model"], self._settings(self._plan, state.global_step)
        )

    def _settings(self, plan: Plan, step: int) -> dict[str, int | float]:
        given = {"swa_start": self.swa_start, "every": self.every}
        return {**given, "start": plan.start, "stride": plan.every, "global_step": step}

    def _resume(self, plan: Plan, collector: Collector, model: nn.Module, args: Any, state: Any) -> Plan:
        """Reads the checkpoint's statistics; the plan that goes on."""
        folder = self._folder(args, state)
        if plan.n_due(state.global_step) == 0 and not (folder / checkpoint.FILE).is_file():
            return plan  # nothing was due, so nothing is missing
        settings = checkpoint.read_(folder, collector, model)
        for name, value in self._settings(plan, state.global_step).items():
            if name in ("swa_start", "every", "global_step") and settings.get(name) != value:
                raise InputError(
                    f"{name}: got {value!r}, the run in {folder} had {settings.get(name)!r}; resume with "
                    "the same"
                )
        # Shares of all steps mean what they meant when the run began, however long it is now.
        return Plan(int(settings["start"] or 0), int(settings["stride"] or 1))

    def _folder(self, args: Any, state: Any) -> Path:
        if self._resume_from is not None:
            return Path(self._resume_from)
        named = getattr(args, "resume_from_checkpoint", None)
        if isinstance(named, str) and Path(named).is_dir():
            return Path(named)
        return _own_folder(args, state)

    def _complete(self, args: Any, state: Any, control: Any, model: nn.Module) -> None:
        """Writes into a checkpoint that the Trainer made on SIGTERM, which it does without `on_save`."""
        if control.should_training_stop and getattr(args, "enable_jit_checkpoint", False):
            folder = _own_folder(args, state)
            if folder.is_dir() and not (folder / checkpoint.FILE).is_file():
                self.on_save(args, state, control, model=model)

    def _set_rate(self, step: int, optimizer: Any) -> None:
        """The rate of step + 1: after the scheduler, which computes its own from the initial one."""
        assert self._plan is not None
        if self.swa_lr is not None and optimizer is not None and step >= self._plan.start:
            for group in optimizer.param_groups:
                group["lr"] = self.swa_lr

    def __repr__(self) -> str:
        now = "no training yet" if self._collector is None else f"{self._collector.n_collected} snapshots"
        return f"SWAGTrainerCallback(rank={self.rank}, swa_start={self.swa_start}, every={self.every}, {now})"


def _own_folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
