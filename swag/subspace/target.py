"""The density that every method works on: p(z) p(D|z)^{1/T}, for many z at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.subspace.calls import BatchLikelihood, OneByOne, shape_of_z
from swag.subspace.space import Subspace


class DensityError(InputError):
    """A log-likelihood was NaN or +∞ at some z, or a chain could not move.

    Attributes:
        z: the point (k,), or None.
        step: the transition (or optimisation step) it happened in, counted from 0 with the burn-in.
        chain: the samples (m, k) of that chain before it, as they would have been returned.
    """

    def __init__(
        self, message: str, *, z: Tensor | None = None, step: int | None = None, chain: Tensor | None = None
    ) -> None:
        super().__init__(message)
        self.z, self.step, self.chain = z, step, chain


@final
class Target:
    """log p(z) + log p(D|z)/T for rows z (n, k), the prior with its normalising constant.

    Args:
        likelihood: z (n, k) → (n,).
        prior_std: broadcasts against (n, k).
        temperature: broadcasts against (n,).
        k: the dimension of z.
        dtype: of z.
        device: of z.
    """

    def __init__(
        self,
        likelihood: Callable[[Tensor], Tensor],
        prior_std: Any,
        temperature: Any,
        *,
        k: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._likelihood = likelihood
        self.prior_std = checked_std(prior_std, dtype, device)
        self.temperature = checked_temperature(temperature, device)
        self._untempered = bool((self.temperature == 1).all())
        if self.prior_std.ndim and self.prior_std.shape[-1] not in (1, k):
            raise InputError(
                f"prior_std: got shape {tuple(self.prior_std.shape)} for k={k}; pass a number or (k,)"
            )
        self.k, self.dtype, self.device = k, dtype, device

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log p(D|z)/T (n,) in float64; z (n, k)."""
        # A copy, for functions that write into what they are given: chains and priors go on with z.
        value = self._likelihood(z.clone())
        if not isinstance(value, Tensor) or value.shape != z.shape[:1]:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"log_likelihood: returned {came} for z {tuple(z.shape)}; a batched one returns ({len(z)},), "
                "a number for each row"
            )
        value = value.to(device=z.device, dtype=torch.float64)  # the model may live elsewhere than z
        return value if self._untempered else value / self.temperature

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, prior_std² I) (n,) in float64."""
        std = self.prior_std.double()
        per_entry = -0.5 * (z.double() / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
        return per_entry.sum(-1)

    def __call__(self, z: Tensor) -> Tensor:
        """The log-density (n,), in float64, up to the evidence."""
        return self.log_likelihood(z) + self.log_prior(z)

    def std(self, n: int) -> Tensor:
        """prior_std as (n, k)."""
        return self.prior_std.expand(n, self.k)


def target_of(
    log_likelihood: Any,
    prior_std: Any,
    temperature: Any,
    subspace: Subspace | None,
    z0: Tensor | None = None,
) -> Target:
    """The target of one problem, whatever kind of log-likelihood it was given as.

    Raises:
        InputError: what cannot be called, or a k that nothing tells.
    """
    if not callable(log_likelihood) and not isinstance(log_likelihood, BatchLikelihood):
        raise InputError(
            f"log_likelihood: got a {type(log_likelihood).__name__}; pass a swag.subspace.LogLikelihood, or "
            "a function of z (k,) that returns a scalar"
        )
    rows = log_likelihood if isinstance(log_likelihood, BatchLikelihood) else OneByOne(log_likelihood)
    if subspace is not None:
        # Chains run in float64: the map to the weights casts, and a bracket can shrink far.
        k, dtype, device = subspace.k, torch.float64, subspace.offset.device
        if not hasattr(log_likelihood, "subspace"):  # a user's own function, which may mix z with its tensors
            dtype = subspace.offset.dtype
    else:
        k, dtype, device = shape_of_z(rows, prior_std, z0)
    return Target(rows.batch, prior_std, temperature, k=k, dtype=dtype, device=device)


def stack_target(
    log_likelihood: Callable[[Tensor], Tensor], prior_std: Any, temperature: Any, z0: Tensor
) -> tuple[int, Target]:
    """n and the target of n problems with z (n, k)."""
    if not callable(log_likelihood):
        raise InputError("log_likelihood: pass a function of z (n, k) that returns (n,)")
    if not isinstance(z0, Tensor) or z0.ndim != 2 or not z0.is_floating_point():
        raise InputError("z0: pass a floating-point tensor (n, k): n problems, k dimensions")
    n, k = z0.shape
    target = Target(log_likelihood, prior_std, temperature, k=k, dtype=z0.dtype, device=z0.device)
    for name, value, fits in (
        ("prior_std", target.prior_std, target.prior_std.ndim < 2 or len(target.prior_std) in (1, n)),
        ("temperature", target.temperature, target.temperature.shape in {(), (1,), (n,)}),
    ):
        if not fits:
            raise InputError(f"{name}: got shape {tuple(value.shape)} for {n} problems and k={k}")
    return n, target


def refuse_random(log_likelihood: Any) -> None:
    """Raises InputError for a minibatched log-likelihood: no sampler here may be given a random one."""
    if getattr(log_likelihood, "is_random", False):
        raise InputError(
            "log_likelihood: gives another value at every call (a new minibatch each time), and this method "
            "needs one density; pass the whole data, or .subsample(n_rows, seed=0), which is labelled as an "
            "approximation"
        )


def subspace_of(log_likelihood: Any, subspace: Subspace | None) -> Subspace | None:
    """The subspace given, else the log-likelihood's own."""
    if subspace is not None and not isinstance(subspace, Subspace):
        raise InputError(f"subspace: got a {type(subspace).__name__}; pass a swag.Subspace")
    own = getattr(log_likelihood, "subspace", None)
    return subspace if subspace is not None else own


def checked_std(prior_std: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`prior_std` as a tensor; a standard deviation > 0.

    Raises:
        InputError: it is not positive and finite.
    """
    try:
        std = torch.as_tensor(prior_std, dtype=dtype, device=device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"prior_std: got {prior_std!r}; pass a positive number") from error
    if not bool((std > 0).all()) or not bool(std.isfinite().all()):
        raise InputError(
            f"prior_std: got {prior_std!r}; it is the prior's standard deviation: pass a positive number"
        )
    return std


def checked_temperature(temperature: Any, device: torch.device) -> Tensor:
    """T as a float64 tensor, > 0.

    Raises:
        InputError: it is not positive and finite.
    """
    try:
        value = torch.as_tensor(temperature, dtype=torch.float64, device=device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"temperature: got {temperature!r}; pass a positive number") from error
    if not bool((value > 0).all()) or not bool(value.isfinite().all()):
        raise InputError(
            f"temperature: got {temperature!r}; the likelihood is raised to 1/T: pass a positive number (1 "
            "leaves it as it is, more flattens it)"
        )
    return value


def check_values(value: Tensor, z: Tensor, step: Any, chain: Callable[[int], Tensor | None]) -> None:
    """Raises DensityError for NaN or +∞ in `value` (n,) at z (n, k); −∞ is a point the data excludes.

    Args:
        value: the log-likelihoods.
        z: where.
        step: the step of every row (n,), or one number for all.
        chain: the samples of a row so far.
    """
    # A sum is NaN or +∞ where an entry is (−∞ alone stays −∞), and one look at the device is enough.
    if float(value.detach().sum()) < math.inf:
        return
    bad = ~(value.detach() < math.inf)
    if not bool(bad.any()):
        return
    row = int(bad.nonzero()[0, 0])
    at = int(step[row]) if isinstance(step, Tensor) else int(step)
    where = f" of chain {row}" if len(value) > 1 else ""
    raise DensityError(
        f"log_likelihood: was {float(value.detach()[row])} at step {at}{where}, z = {shown(z[row])}; return "
        "−inf for impossible points, and look for overflow at large z (a smaller prior_std keeps away from "
        "them). The samples before it are in this error's `chain`",
        z=z[row].detach().clone(),
        step=at,
        chain=chain(row),
    )


def shown(z: Tensor) -> str:
    """z in an error's text."""
    entries = [f"{value:.6g}" for value in z.detach().flatten()[:8].tolist()]
    return f"[{', '.join(entries)}{', …' if z.numel() > 8 else ''}]"


def start_of(z0: Any, n: int, target: Target) -> Tensor:
    """The first points (n, k): zeros, the offset, unless given as (k,) or (n, k).

    Raises:
        InputError: another shape, or values that are not finite.
    """
    if z0 is None:
        return torch.zeros(n, target.k, dtype=target.dtype, device=target.device)
    if not isinstance(z0, Tensor) or z0.shape not in {(target.k,), (n, target.k)}:
        came = f"shape {tuple(z0.shape)}" if isinstance(z0, Tensor) else type(z0).__name__
        raise InputError(f"z0: got {came}; pass a tensor (k={target.k},) or ({n}, {target.k})")
    if not bool(z0.isfinite().all()):
        raise InputError("z0: holds NaN or infinite values; start at a finite point, such as zeros")
    return z0.detach().to(dtype=target.dtype, device=target.device).expand(n, target.k).clone()
