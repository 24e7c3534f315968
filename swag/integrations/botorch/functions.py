"""S networks as one function of X, evaluated together and differentiable in X."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import vmap

from swag.batches import Forward, as_tensor, feed
from swag.errors import InputError
from swag.functional import Caller, called
from swag.members import MemberStack

_log = logging.getLogger(__name__)


@final
class Functions(nn.Module):
    """Members of an ensemble, run on the same rows: (N, d) → (S, N, m).

    Their weights are buffers, so that `.to(device)` and pickling take them along. Gradients go to the rows,
    not to the weights. Members run together by `torch.func.vmap`; a network that it cannot run, one after the
    other (logged).

    Args:
        members: who is run; their module becomes this one's.
        forward: how rows are fed to the module; by default module(rows).
    """

    def __init__(self, members: MemberStack, forward: Forward | None) -> None:
        super().__init__()
        self.n_members = len(members)
        self._caller = Caller(members.module, partial(_tensor, forward or feed))
        stacked = dict(members.stacked_weights(0, len(members))) | dict(
            members.stacked_buffers(0, len(members))
        )
        self._names = list(stacked)
        for index, values in enumerate(stacked.values()):
            self.register_buffer(f"stacked_{index}", values.detach().contiguous())
        self._together = True

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        floating = (value.dtype for value in self.buffers() if value.is_floating_point())
        return next(floating, torch.get_default_dtype())

    def forward(self, rows: Tensor) -> Tensor:
        """What every member gives (S, N, m); (S, N) becomes (S, N, 1).

        Raises:
            InputError: the network's outputs are not one vector a row.
        """
        outputs = self._run(rows.to(self.dtype))
        if outputs.ndim == 2:
            outputs = outputs.unsqueeze(-1)
        if outputs.ndim != 3 or outputs.shape[:2] != (self.n_members, len(rows)):
            raise InputError(
                f"model: gave outputs of shape {tuple(outputs.shape[1:])} for {len(rows)} rows; pass a "
                "network of (N, d) → (N, 1), or say how to run it with forward="
            )
        return outputs

    def _run(self, rows: Tensor) -> Tensor:
        values = {f"module.{name}": getattr(self, f"stacked_{i}") for i, name in enumerate(self._names)}
        if self._together:
            try:
                return vmap(lambda own: called(self._caller, own, rows))(values)
            except InputError:
                raise
            except Exception as error:  # what vmap lacks comes in many classes
                outputs = self._in_turn(values, rows)  # an error of the network's own comes from here
                _log.warning("vmap cannot run this network (%s); members run one after the other", error)
                self._together = False
                return outputs
        return self._in_turn(values, rows)

    def _in_turn(self, values: dict[str, Tensor], rows: Tensor) -> Tensor:
        own = ({name: value[s] for name, value in values.items()} for s in range(self.n_members))
        return torch.stack([called(self._caller, each, rows) for each in own])


def _tensor(forward: Forward, module: nn.Module, batch: Any) -> Tensor:
    return as_tensor(forward(module, batch))
