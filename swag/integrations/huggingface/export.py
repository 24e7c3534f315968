"""Samples as PEFT's own folders, for everything that reads adapters."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import cast

from torch import nn

from swag.errors import FileError, InputError
from swag.integrations.huggingface.adapters import adapters_of
from swag.integrations.huggingface.members import Members
from swag.integrations.requirements import require
from swag.parameters import Layout, unwrap
from swag.posterior import Posterior
from swag.progress import track


def save_adapters(
    model: nn.Module,
    posterior: Posterior,
    folder: str | os.PathLike[str],
    *,
    n_samples: int = 30,
    seed: int | None = None,
) -> list[Path]:
    """Writes each of S samples as an adapter: FOLDER/sample_0000 with adapter_config.json and its weights.

    `PeftModel.from_pretrained(base, path)` loads each. The folder appears whole or not at all. The samples
    are those of `predict` and `generate` with the same seed.

    Args:
        model: the PEFT model that the posterior belongs to.
        posterior: over one adapter's parameters; `collector.swa()` gives one folder, the average.
        folder: a new folder.
        n_samples: S.
        seed: of the draws.

    Returns:
        The samples' folders.

    Raises:
        InputError: no PEFT model, parameters besides one adapter's (which its folder could not hold), or a
            posterior that does not fit.
        FileError: the folder exists, or cannot be written.
        MissingPackage: PEFT is not installed, or too old.
    """
    require("peft", "0.17", "hf")
    from peft import PeftModel

    if not isinstance(unwrap(model), PeftModel):
        raise InputError(
            f"model: a {type(unwrap(model)).__name__} has no adapters to save; pass a PEFT model (whole "
            "models: swag.checkpoints.write_checkpoint, or the command swag sample)"
        )
    target = Path(folder)
    if target.exists():
        raise FileError(f"{target}: exists; pass a new folder")
    members = Members(model, posterior, n_samples, seed)
    adapter = _only_adapter(members.module, members.layout)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise FileError(
            f"{target}: cannot be written ({error.strerror}); pass a path in a writable folder"
        ) from error
    try:
        names = [f"sample_{index:04d}" for index in range(len(members))]
        for name, module in track(zip(names, members.each(), strict=True), "save", total=len(names)):
            # Without looking at the hub for what the base model's embeddings were.
            save = cast(PeftModel, module).save_pretrained
            save(str(partial / name), selected_adapters=[adapter], save_embedding_layers=False)
            if adapter != "default":  # PEFT puts others one folder deeper
                for file in (partial / name / adapter).iterdir():
                    file.replace(partial / name / file.name)
                (partial / name / adapter).rmdir()
        os.chmod(partial, 0o777 & ~_umask())
        os.replace(partial, target)
    except OSError as error:
        raise FileError(f"{target}: could not be written ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [target / name for name in names]


def _only_adapter(module: nn.Module, layout: Layout) -> str:
    """The one adapter that the layout's parameters belong to, and nothing besides."""
    from peft import get_peft_model_state_dict

    adapters = sorted(adapters_of(module, layout))
    if not adapters:
        raise InputError(
            "posterior: none of its parameters belongs to an adapter of a layer, such as LoRA's; prompts and "
            "prefixes cannot be saved this way"
        )
    if len(adapters) != 1:
        raise InputError(
            f"posterior: its parameters belong to the adapters {adapters}; a folder holds one: collect with "
            "select= for one adapter"
        )
    saved = get_peft_model_state_dict(module, adapter_name=adapters[0], save_embedding_layers=False)
    # By place in memory: each kind of adapter has names of its own in PEFT's files.
    places = {tensor.data_ptr() for tensor in saved.values()}
    for name, parameter in zip(layout.names, layout.tensors(module), strict=True):
        if parameter.data_ptr() not in places:
            raise InputError(
                f"posterior: the parameter '{name}' trained outside of the adapter, whose folder could not "
                "hold it; name its module in modules_to_save, or collect with select="
            )
    return adapters[0]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
