"""How a log-likelihood may be given: a function of one z, a marked one of many, or an object for both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from swag.errors import InputError

_log = logging.getLogger(__name__)

# What vmap gives may differ by this much, relative to the size of the value, from one call a row.
_AGREES = 1e-4
# The largest k that is looked for where nothing says what it is.
_LARGEST_K = 64


@runtime_checkable
class BatchLikelihood(Protocol):
    """A log-likelihood of many z at once, as `LogLikelihood` and `Batched` are."""

    def batch(self, z: Tensor) -> Tensor:
        """z (n, k) → (n,)."""


@final
@dataclass(frozen=True)
class Batched:
    """Says that a function takes z (n, k) and returns (n,), each row by itself.

    >>> Batched(lambda z: -z.square().sum(1)).batch(torch.ones(3, 2)).tolist()
    [-2.0, -2.0, -2.0]
    """

    function: Callable[[Tensor], Tensor]

    def batch(self, z: Tensor) -> Tensor:
        """z (n, k) → (n,)."""
        return self.function(z)

    def __call__(self, z: Tensor) -> Tensor:
        """z (k,) → a scalar."""
        return self.function(z[None])[0]


@final
class OneByOne:
    """A function of one z (k,), called for many: by vmap where that is seen to give the same."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self._function = function
        self._way: Callable[[Tensor], Tensor] | None = None

    def batch(self, z: Tensor) -> Tensor:
        """z (n, k) → (n,)."""
        if self._way is None:
            self._way = self._decide(z.detach())
        return self._way(z)

    def _scalar(self, z: Tensor) -> Tensor:
        return scalar(self._function(z), z)

    def _in_turn(self, z: Tensor) -> Tensor:
        return torch.stack([self._scalar(row) for row in z])

    def _together(self, z: Tensor) -> Tensor:
        return vmap(self._scalar)(z)

    def _decide(self, z: Tensor) -> Callable[[Tensor], Tensor]:
        some = z[:2]
        plain = self._in_turn(some.clone())  # an error of the function's own comes from here, unchanged
        try:
            fast = self._together(some.clone())
        except Exception as error:  # what vmap lacks comes in many classes
            _log.info("vmap cannot run this log-likelihood (%s); it is called once for each z", error)
            return self._in_turn
        if torch.allclose(fast, plain, rtol=_AGREES, atol=_AGREES, equal_nan=True):
            return self._together
        _log.info("this log-likelihood is another one under vmap; it is called once for each z")
        return self._in_turn


def scalar(value: Any, z: Tensor) -> Tensor:
    """What a log-likelihood of one z returned, as a 0-dimensional tensor.

    Raises:
        InputError: it is no single number.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, Real):
        return torch.as_tensor(float(value), dtype=z.dtype, device=z.device)
    came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise InputError(
        f"log_likelihood: returned {came} for one z {tuple(z.shape)}; return a scalar, or mark a function of "
        "(n, k) → (n,) with swag.subspace.Batched(function)"
    )


def shape_of_z(
    log_likelihood: BatchLikelihood, prior_std: Any, z0: Tensor | None
) -> tuple[int, torch.dtype, torch.device]:
    """k, dtype and device of z: from z0, else from a vector `prior_std`, else the only k that works.

    Raises:
        InputError: the log-likelihood accepts several k, or none up to 64.
    """
    if z0 is not None:
        if not isinstance(z0, Tensor) or z0.ndim < 1 or not z0.is_floating_point():
            raise InputError("z0: pass a floating-point tensor (k,)")
        return z0.shape[-1], z0.dtype, z0.device
    if isinstance(prior_std, Tensor) and prior_std.ndim:
        return prior_std.shape[-1], prior_std.dtype, prior_std.device
    for dtype in dict.fromkeys((torch.get_default_dtype(), torch.float32, torch.float64)):
        fitting = [k for k in range(1, _LARGEST_K + 1) if _accepts(log_likelihood, k, dtype)]
        # A single number broadcasts against anything, so k = 1 counts only alone.
        fitting = [k for k in fitting if k > 1] or fitting
        if len(fitting) == 1:
            return fitting[0], dtype, torch.device("cpu")
        if fitting:
            break
    raise InputError(
        "z0: nothing says how many dimensions z has (log_likelihood takes "
        f"{'several' if fitting else 'none of 1 to ' + str(_LARGEST_K)}); pass z0=torch.zeros(k)"
    )


def _accepts(log_likelihood: BatchLikelihood, k: int, dtype: torch.dtype) -> bool:
    try:
        with torch.no_grad():
            return log_likelihood.batch(torch.zeros(1, k, dtype=dtype, device="cpu")).shape == (1,)
    except Exception:  # a shape that does not fit shows in many ways
        return False
