"""What batch-norm layers see, in float64 numpy, and data on which averaging by batches would show."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.checks import Array, array, assert_close

# float32 statistics of a float32 network: a handful of roundings of 6e-8 a layer.
RTOL = 1e-5
EPSILON = float(torch.finfo(torch.float32).eps)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net() -> nn.Sequential:
    """Two batch-norm layers, '1' and '5', with dropout between them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(3, 4),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4, 5),
            nn.BatchNorm1d(5),
            nn.Linear(5, 2),
        )


def unsorted(sizes: Iterable[int] = (20, 30, 7)) -> list[Tensor]:
    """Batches (n, 3) that differ a lot from each other, as unshuffled data do."""
    return [normal(n, 3, seed=n) * (1 + i) + 3 * i for i, n in enumerate(sizes)]


def oracle(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    frozen: Iterable[str] = (),
    forward: Callable[[nn.Module, Any], Any] = lambda model, batch: model(batch),
) -> dict[str, tuple[Array, Array]]:
    """Mean and variance (n − 1) of all that each layer sees in train mode, in float64, without dropout."""
    model = copy.deepcopy(model).double().train()
    seen: dict[str, list[Array]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) or name in set(frozen):
            module.eval()
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            seen[name] = []
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(rows(inputs[0])))
    with torch.no_grad():
        for batch in batches:
            forward(model, batch.double() if isinstance(batch, Tensor) else batch)
    pooled = {name: np.concatenate(parts) for name, parts in seen.items()}
    return {name: (x.mean(0), x.var(0, ddof=1)) for name, x in pooled.items()}


def rows(x: Tensor) -> Array:
    """(n, C): every position of every row."""
    return array(x.movedim(1, -1).reshape(-1, x.shape[1]))


def assert_statistics(model: nn.Module, expected: dict[str, tuple[Array, Array]], rtol: float = RTOL) -> None:
    modules = dict(model.named_modules())
    for name, (mean, variance) in expected.items():
        layer = modules[name]
        assert_close(layer.running_mean, mean, rtol=rtol, scale=np.sqrt(variance) + np.abs(mean))
        assert_close(layer.running_var, variance, rtol=rtol)


def statistics_of(model: nn.Module) -> list[str]:
    return [name for name in model.state_dict() if name.endswith(("_mean", "_var", "_tracked"))]
