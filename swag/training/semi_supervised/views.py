"""What a model says about one batch, looked at twice; models with one head and with two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from swag.batches import device_of
from swag.errors import InputError


class Views(NamedTuple):
    """Outputs of one step.

    Attributes:
        logits: (B, C) of the first look, for the labels.
        target: (B, C) logits of the other look, which the first is to agree with.
        consistent: (B, C) of the first look's second head; None for a model with one head.
    """

    logits: Tensor
    target: Tensor
    consistent: Tensor | None = None


def heads(outputs: Any) -> tuple[Tensor, Tensor | None]:
    """The logits of a model with one head, or with two.

    Raises:
        InputError: something else.
    """
    if isinstance(outputs, Tensor):
        return outputs, None
    if (
        isinstance(outputs, tuple | list)
        and len(outputs) == 2
        and all(isinstance(o, Tensor) for o in outputs)
    ):
        return outputs[0], outputs[1]
    if isinstance(getattr(outputs, "logits", None), Tensor):
        return outputs.logits, None
    raise InputError(
        f"model: gave a {type(outputs).__name__}; it should give logits (B, C), or a pair of them (TwoHeads)"
    )


def inputs_of(model: nn.Module, batch: Any) -> Tensor:
    """The inputs of a batch, where the model is.

    Raises:
        InputError: the batch is no tensor, and no tuple that begins with one.
    """
    x = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(x, Tensor):
        raise InputError(f"batch: begins with a {type(x).__name__}; pass (inputs, labels), both tensors")
    return x.to(device_of(model), non_blocking=True)


@final
class TwoHeads(nn.Module):
    """A model with one head for labels and one for consistency, which a coupling cost holds together.

    In train mode it gives the logits of both, in eval mode those for labels alone, so that it predicts like
    any other model.

    Args:
        body: inputs → features.
        labels: features → logits.
        consistency: features → logits; a layer of its own, such as another `nn.Linear`.

    Source: Tarvainen & Valpola 2017 (their residual networks).

    >>> model = TwoHeads(nn.Flatten(), nn.Linear(4, 3), nn.Linear(4, 3))
    >>> len(model(torch.ones(2, 4))), model.eval()(torch.ones(2, 4)).shape
    (2, torch.Size([2, 3]))
    """

    def __init__(self, body: nn.Module, labels: nn.Module, consistency: nn.Module) -> None:
        super().__init__()
        self.body, self.labels, self.consistency = body, labels, consistency

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, C), or a pair of them while training."""
        features = self.body(x)
        if not self.training:
            return self.labels(features)
        return self.labels(features), self.consistency(features)


def predicted(model: nn.Module, batch: Any) -> Tensor:
    """The logits for labels from one look, nothing augmented: for evaluation and batch-norm statistics."""
    return heads(model(inputs_of(model, batch)))[0]


def looks(model: nn.Module, target: nn.Module, batch: Any, augment: Callable[[Tensor], Tensor]) -> Views:
    """The model's look at a batch, and the target's, each augmented on its own.

    No gradient flows into the target, which looks first.

    Raises:
        InputError: no inputs in the batch, or an augmentation that loses rows.
    """
    x = inputs_of(model, batch)
    with torch.no_grad():
        other = heads(target(augment(x)))[0]
    logits, consistent = heads(model(augment(x)))
    return Views(logits, other, consistent)
