"""How a skorch net feeds its module and reads its outputs, for other weights of that module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from sklearn.base import is_classifier
from skorch import NeuralNet
from skorch.dataset import unpack_data
from skorch.utils import to_tensor
from torch import Tensor, nn

from swag.batches import Forward
from swag.errors import InputError

Read = Callable[[Tensor], Tensor]
# Beside CrossEntropyLoss, the criteria that skorch reads outputs by; with NLLLoss they are probabilities.
_TELLING = (nn.BCEWithLogitsLoss, nn.BCELoss, nn.NLLLoss)


def classifies(net: NeuralNet) -> bool:
    """Whether a net is a classifier.

    Raises:
        InputError: it is no skorch net, or was not initialized.
    """
    if not isinstance(net, NeuralNet) or not net.initialized_:
        raise InputError(f"net: got a {type(net).__name__}; pass the skorch net that was trained")
    return is_classifier(net)


def loader(net: NeuralNet, X: Any) -> Iterable[Any]:
    """The batches that the net predicts X in."""
    return net.get_iterator(net.get_dataset(X), training=False)


def forward_of(net: NeuralNet, read: Read) -> Forward:
    """How the net's own `infer` feeds its module, for another module."""

    def forward(module: nn.Module, batch: Any) -> Tensor:
        inputs = to_tensor(unpack_data(batch)[0], device=net.device)
        outputs = module(**inputs) if isinstance(inputs, Mapping) else module(inputs)
        return read(outputs[0] if isinstance(outputs, tuple) else outputs)

    return forward


def as_they_are(outputs: Tensor) -> Tensor:
    """Outputs that need no reading."""
    return outputs


def logits_of(net: NeuralNet) -> Read:
    """Turns a classifier's outputs into logits, by the net's predict_nonlinearity or its criterion.

    Raises:
        InputError: neither does.
    """
    criterion = getattr(net.criterion_, "_orig_mod", net.criterion_)  # of a compiled one, the one inside
    if net.predict_nonlinearity == "auto":
        if isinstance(criterion, nn.CrossEntropyLoss):
            return as_they_are
        if not isinstance(criterion, _TELLING):
            raise InputError(
                f"criterion: a {type(criterion).__name__} does not say what outputs are; give the net "
                "predict_nonlinearity=None where they are probabilities, or what makes them probabilities"
            )
    to_probs = net._get_predict_nonlinearity()
    return lambda outputs: to_probs(outputs).clamp_min(torch.finfo(outputs.dtype).tiny).log()
