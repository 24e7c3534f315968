"""All there is to see of a model, so that tests can say: nothing of it has changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def state(model: nn.Module) -> dict[str, Any]:
    """Values, gradients, modes, momenta, hooks, and where everything lies in memory."""
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "where": [tensor.data_ptr() for tensor in tensors],
        "objects": [id(item) for item in [*tensors, *model.modules()]],
        "modes": [module.training for module in model.modules()],
        "momenta": [getattr(module, "momentum", None) for module in model.modules()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()],
    }


def assert_untouched(model: nn.Module, before: dict[str, Any], *, but: Iterable[str] = ()) -> None:
    """Bit for bit as it was, leaving out the tensors whose names are in `but`."""
    now = state(model)
    for key in ("where", "objects", "modes", "momenta", "trainable", "hooks"):
        assert now[key] == before[key], key
    assert now["tensors"].keys() == before["tensors"].keys()
    for name, value in before["tensors"].items():
        assert name in set(but) or torch.equal(now["tensors"][name], value), name
    for mine, theirs in zip(now["gradients"], before["gradients"], strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or torch.equal(mine, theirs))
