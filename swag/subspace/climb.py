"""Gradient ascent on an evidence lower bound, and what is reached in the end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from swag.errors import InputError
from swag.progress import track

# The learning rate falls by this factor from the first step to the last, evenly in its logarithm.
_DECAY = 1e-3
_BETAS = (0.9, 0.99)


def climb(
    parameters: list[Tensor],
    bound: Callable[[int], Tensor],
    n_steps: int,
    lr: float,
    name: str,
    *,
    slower: list[Tensor] | None = None,
) -> Tensor:
    """Adam upwards on bound(step) (S, n), averaged over draws and summed over problems; returns (n_steps, n).

    `slower` are parameters that go at a fifth of the rate.

    Raises:
        InputError: the bound has no gradient, or one that is not finite.
    """
    rates = [(parameters, lr), *([(slower, lr / 5)] if slower else [])]
    optimizer = torch.optim.Adam([{"params": own, "lr": rate} for own, rate in rates], betas=_BETAS)
    every = [parameter for own, _ in rates for parameter in own]
    history = []
    for step in track(range(n_steps), name):
        for group, (_, rate) in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * _DECAY ** (step / max(n_steps - 1, 1))
        with torch.enable_grad():
            value = bound(step).mean(0)
            gradients = torch.autograd.grad(-value.sum(), every)
        if not all(bool(g.isfinite().all()) for g in gradients):
            raise InputError(
                f"log_likelihood: its gradient was NaN or infinite at step {step}; look for square roots or "
                "logarithms at zero, or lower lr"
            )
        for parameter, gradient in zip(every, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        history.append(value.detach())
    return torch.stack(history)


@torch.no_grad()
def reached(
    bound: Callable[[int], Tensor], n_draws: int, n_elbo: int, *, is_random: bool
) -> tuple[Tensor, Tensor]:
    """The bound (n,) over n_elbo draws or a few more, and its standard error (n,).

    bound(S) gives (S, n), its second half from draws that mirror the first: on a Gaussian's quadratic the two
    of a pair are equal, so a pair is one independent number. Where each call takes a minibatch, all its draws
    share the rows, and a call is one.
    """
    each = n_draws + n_draws % 2
    n_calls = max(-(-n_elbo // each), 2 if is_random or each == 2 else 1)
    calls = [bound(each) for _ in range(n_calls)]
    if is_random:
        units = torch.stack([values.mean(0) for values in calls])
    else:
        units = torch.cat([(values[: each // 2] + values[each // 2 :]) / 2 for values in calls])
    return units.mean(0), units.std(0) / len(units) ** 0.5
