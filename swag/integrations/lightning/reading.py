"""From a Lightning checkpoint, or a module that a trainer still holds, to predictions without either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.compile import to_uncompiled
from torch import nn

from swag.collector import Collector
from swag.ensemble import Ensemble
from swag.errors import FileError
from swag.integrations.lightning.collecting import collector_of
from swag.posterior import Posterior

KEY = "SWAGCallback"


def read_collector(checkpoint: str | os.PathLike[str], *, state_key: str | None = None) -> Collector:
    """The collector inside a Lightning checkpoint; needs neither Trainer nor module. Nothing is unpickled.

    Args:
        checkpoint: a `.ckpt` file, or the folder that a sharded run writes.
        state_key: `callback.state_key`, where the checkpoint holds several such callbacks.

    Raises:
        FileError: no such file, not readable with weights_only=True, or no (or more than one) such callback.
        InputError: the state inside is damaged.

    >>> import tempfile, lightning.pytorch as pl
    >>> from lightning.pytorch.demos.boring_classes import BoringModel
    >>> from swag.integrations.lightning import SWAGCallback
    >>> callback = SWAGCallback(rank=2, swa_start=0)
    >>> quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    >>> trainer = pl.Trainer(max_epochs=3, limit_train_batches=2, limit_val_batches=0, callbacks=callback,
    ...     enable_checkpointing=False, **quiet)
    >>> trainer.fit(BoringModel())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer.save_checkpoint(f"{folder}/last.ckpt")
    ...     read_collector(f"{folder}/last.ckpt")
    Collector(3 snapshots, rank=2, D=66)
    """
    path = Path(checkpoint)
    file = path / "meta.pt" if path.is_dir() else path
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FileError(f"checkpoint: there is no {file}") from error
    except Exception as error:
        raise FileError(
            f"checkpoint: {file} cannot be read as tensors and plain data alone ({type(error).__name__}); "
            "save hyperparameters that are plain data; nothing else is ever loaded"
        ) from error
    states = content.get("callbacks", {}) if isinstance(content, dict) else {}
    found = [
        key
        for key, state in states.items()
        if (key == state_key if state_key else isinstance(state, dict) and state.get("kind") == KEY)
    ]
    if len(found) != 1:
        raise FileError(
            f"checkpoint: {file} holds the state of {len(found)} SWAGCallbacks"
            + (f" ({', '.join(found)}); pass state_key= one of them" if found else "")
        )
    return collector_of(states[found[0]].get("collector") or {})


def ensemble(module: nn.Module, posterior: Posterior, n_samples: int = 30, **options: Any) -> Ensemble:
    """`swag.Ensemble` of a LightningModule, in whose copy there is no trainer and nothing compiled.

    Batches are fed as everywhere: the first element of a tuple or list, a dict by keyword, or `forward=`.

    Args:
        module: as it was collected (for `SWAGCallback(part="net")` that submodule).
        posterior: `callback.posterior`, or any other for these names.
        n_samples: S.
        options: of `swag.Ensemble`: bn_loader, seed, likelihood, ….

    Raises:
        InputError: as `swag.Ensemble`, such as for a posterior of another model.
    """
    with ExitStack() as stack:
        for m in module.modules():
            if isinstance(m, LightningModule):
                stack.enter_context(_as_written(m))
        return Ensemble(module, posterior, n_samples, **options)


@contextmanager
def _as_written(module: LightningModule) -> Iterator[None]:
    """Without trainer and without what `torch.compile` put in the place of its methods.

    That, of the whole module or by `module.compile()`, would run the original's weights in a copy.
    """
    before = dict(vars(module))
    module._trainer = None
    vars(module).pop("_compiled_call_impl", None)
    if module._compiler_ctx is not None:
        to_uncompiled(module)
    try:
        yield
    finally:
        vars(module).clear()
        vars(module).update(before)
