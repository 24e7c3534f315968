"""What the methods of inference share: `run` is `infer` and the posterior over the weights that it gives."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from swag.subspace.space import Subspace

P_co = TypeVar("P_co", covariant=True)


class Result(Protocol[P_co]):
    """What a method finds in z."""

    def posterior(self) -> P_co:
        """It as a posterior over the weights."""


class Method(Protocol[P_co]):
    """Bayesian inference in a subspace."""

    def infer(
        self,
        log_likelihood: Any,
        *,
        prior_std: float | Tensor,
        temperature: float = 1.0,
        subspace: Subspace | None = None,
        z0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Result[P_co]:
        """Finds p(z)·p(D|z)^{1/T}, or comes near it."""


def run(
    self: Method[P_co],
    log_likelihood: Any,
    *,
    prior_std: float | Tensor,
    temperature: float = 1.0,
    subspace: Subspace | None = None,
    z0: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> P_co:
    """`infer(…).posterior()`, with the arguments and errors of `infer`: a posterior over the weights."""
    return self.infer(
        log_likelihood,
        prior_std=prior_std,
        temperature=temperature,
        subspace=subspace,
        z0=z0,
        generator=generator,
    ).posterior()
