"""Weights drawn from a posterior, run in turn in a copy that shares all else with the user's model.

`swag.Ensemble` copies the whole model. Here only what the posterior covers is the copy's own: with adapters,
a large base model is in memory once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import nn

from swag.batches import device_of
from swag.batchnorm import batchnorm_modules
from swag.draws import layout_for
from swag.errors import InputError
from swag.integrations.huggingface.adapters import check_adapters
from swag.noise import checked_seed, take_seed
from swag.parameters import Layout, named_parameters, unwrap
from swag.posterior import Posterior
from swag.posterior.protocol import check_n_samples
from swag.weights import draw


@final
class Members:
    """S weight vectors of a posterior, and one module in eval mode to run them in.

    Args:
        model: the user's; never changed. Parameters that the posterior leaves out are shared, not copied.
        posterior: anything with `sample`, `mean` and `layout`.
        n_samples: S.
        seed: of the draws; None takes one from torch's global generator.

    Raises:
        InputError: n_samples < 1, a posterior for another model, adapters that are merged, disabled or not
            active, or batch norm, whose statistics would not fit.
    """

    def __init__(self, model: nn.Module, posterior: Posterior, n_samples: int, seed: int | None) -> None:
        check_n_samples(n_samples)
        self.layout: Layout = layout_for(model, posterior)
        check_adapters(model, self.layout)
        if batchnorm_modules(unwrap(model)):
            raise InputError(
                "model: has batch-norm layers, whose statistics do not fit drawn weights; use "
                "swag.Ensemble(model, posterior, bn_loader=…)"
            )
        self.module = _sharing_copy(model, self.layout)
        self._parameters = self.layout.tensors(self.module)
        self.device = device_of(self.module)
        own_seed = take_seed() if seed is None else checked_seed(seed)
        self._weights, _, _ = draw(posterior, n_samples, own_seed, device=self.device)

    def __len__(self) -> int:
        """S; 1 for a posterior of one point."""
        return len(self._weights)

    def load_(self, index: int) -> nn.Module:
        """Makes member `index` the module's weights, in each parameter's dtype and on its device."""
        theta = self._weights[index]
        for entry, parameter in zip(self.layout.entries, self._parameters, strict=True):
            piece = theta[entry.start : entry.stop].view(entry.shape)
            parameter.data = piece.to(device=parameter.device, dtype=parameter.dtype)
        return self.module

    def each(self) -> Iterator[nn.Module]:
        """The module with each member's weights in turn."""
        for index in range(len(self)):
            yield self.load_(index)


@contextmanager
def no_grad() -> Iterator[None]:
    """Without gradients, and outside of inference mode, whose tensors cannot be parameters."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _sharing_copy(model: nn.Module, layout: Layout) -> nn.Module:
    memo: dict[int, object] = {id(parameter): parameter for _, parameter in named_parameters(model)}
    for parameter in layout.tensors(model):
        # Own objects over the same memory, until a member's weights take its place.
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    with torch.no_grad():
        return copy.deepcopy(unwrap(model), memo).eval()
