"""The network that an estimator trains: the caller's module, or a multilayer perceptron."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from swag.errors import InputError
from swag.integrations.sklearn.settings import Settings


def mlp(n_features: int, n_outputs: int, hidden: Sequence[int] = (100,)) -> nn.Sequential:
    """Linear layers with ReLU between them.

    >>> mlp(4, 3, hidden=(8,))
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=3, bias=True)
    )
    """
    layers: list[nn.Module] = []
    for width, following in pairwise([n_features, *hidden]):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear([n_features, *hidden][-1], n_outputs))


def network_of(settings: Settings, n_features: int, n_outputs: int, dtype: torch.dtype) -> nn.Module:
    """A network with fresh weights, or a copy of the caller's instance, on the device and in the dtype.

    Raises:
        InputError: the caller's function fails or gives no module, or outputs are not (N, n_outputs).
    """
    given = settings.module
    if given is None:
        network: nn.Module = mlp(n_features, n_outputs, settings.hidden_layer_sizes)
    elif isinstance(given, nn.Module):
        network = copy.deepcopy(given)
    else:
        try:
            network = given(n_features, n_outputs)
        except TypeError as error:
            raise InputError(
                f"module: calling it with (n_features={n_features}, n_outputs={n_outputs}) failed ({error}); "
                "pass a class or function of these two numbers, or an instance"
            ) from error
        if not isinstance(network, nn.Module):
            raise InputError(f"module: returned a {type(network).__name__}, not a torch.nn.Module")
    network.to(device=settings.device, dtype=dtype)
    _check_outputs(network, n_features, n_outputs, dtype, settings.device)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("module: has no parameter that requires a gradient; unfreeze what is to be trained")
    return network.train()


def _check_outputs(
    network: nn.Module, n_features: int, n_outputs: int, dtype: torch.dtype, device: torch.device
) -> None:
    """One pass in eval mode, which also gives lazy layers their shapes."""
    rows = torch.zeros(3, n_features, dtype=dtype, device=device)
    network.eval()
    try:
        with torch.no_grad():
            outputs = network(rows)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"module: cannot take {n_features} features, a batch {tuple(rows.shape)} ({error}); make it for "
            "as many, or pass a function module(n_features, n_outputs)"
        ) from error
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if shape != (3, n_outputs):
        raise InputError(
            f"module: gave {shape} for a batch of 3 rows, expected (3, {n_outputs}): one logit a class, or "
            "the mean and the raw variance of a regression"
        )
