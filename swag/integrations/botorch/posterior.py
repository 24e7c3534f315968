"""What an ensemble says at q points, as a BoTorch posterior, and the sampler that goes with it."""

from __future__ import annotations

from typing import Any, final

import torch
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from botorch.sampling.base import MCSampler
from botorch.sampling.get_sampler import GetSampler
from torch import Tensor

from swag.errors import InputError
from swag.noise import balanced_uniform


@final
class SWAGPosterior(EnsemblePosterior):
    r"""S functions at q points, all of one weight, with or without observation noise.

    A sample is a member: its values at the q points together. With noise, sample s at point j is
    f_s(x_j) + σ_s(x_j)·ε_sj for ε that are the same at every call; `mean` and `variance` are exact:

        mean      (1/S) Σ f_s                                  (b, q, 1)
        variance  Σ (f_s − mean)² / (S − 1) + (1/S) Σ σ_s²     (b, q, 1)

    Args:
        values: f (b, S, q, 1), b any number of batch dimensions.
        noise_variance: σ², broadcasts to `values`; None for the functions themselves.
        noise: ε (S, q, 1), standard normal numbers.
    """

    def __init__(
        self, values: Tensor, noise_variance: Tensor | None = None, noise: Tensor | None = None
    ) -> None:
        self._functions, self._noise_variance = values, noise_variance
        noisy = values
        if noise_variance is not None and noise is not None:
            noisy = values + noise_variance.sqrt() * noise
        super().__init__(noisy)

    @property
    def mean(self) -> Tensor:
        """The members' mean (b, q, 1)."""
        return self._functions.mean(dim=-3)

    @property
    def variance(self) -> Tensor:
        """The members' variance, unbiased, and with noise its mean variance (b, q, 1)."""
        if self.ensemble_size == 1:
            spread = torch.zeros_like(self._functions[..., 0, :, :])
        else:
            spread = self._functions.var(dim=-3)
        if self._noise_variance is None:
            return spread
        return spread + self._noise_variance.expand_as(self._functions).mean(dim=-3)

    def rsample(self, sample_shape: torch.Size | None = None) -> Tensor:
        """Members chosen at random (sample_shape, b, q, 1), by torch's global generator."""
        shape = sample_shape if sample_shape else torch.Size([1])
        chosen = torch.randint(self.ensemble_size, tuple(shape), device="cpu")
        return self.rsample_from_base_samples(shape, chosen)

    def rsample_from_base_samples(self, sample_shape: torch.Size, base_samples: Tensor) -> Tensor:
        """The members of these numbers (sample_shape, b, q, 1).

        Args:
            sample_shape: how many.
            base_samples: integers of that shape: for every element of the batch the same; or of
                sample_shape + b, as botorch's `IndexSampler` gives them.

        Raises:
            InputError: another shape.
        """
        if base_samples.shape == sample_shape + self.batch_shape and self.batch_shape:
            return super().rsample_from_base_samples(sample_shape, base_samples)
        if base_samples.shape != sample_shape:
            raise InputError(
                f"base_samples: got shape {tuple(base_samples.shape)}; pass member numbers of shape "
                f"{tuple(sample_shape)}"
            )
        picked = self.values.index_select(-3, base_samples.reshape(-1).to(self.values.device))
        return picked.movedim(-3, 0).reshape(self._extended_shape(sample_shape))


@final
class MemberSampler(MCSampler):
    r"""Picks members evenly, the same ones for every element of a batch and at every call.

    The first S of the samples are the S members in a random order, so are the next S, and so on: where their
    number is a multiple of S, an average over them is the average over the ensemble. (botorch's own
    `IndexSampler` draws with replacement, and anew for every batch size.) `get_sampler`, and so every
    acquisition function, takes this one for a `SWAGPosterior`.

    Args:
        sample_shape: how many samples.
        seed: of the order.
    """

    base_samples: Tensor | None
    _n_members = 0

    def forward(self, posterior: Posterior) -> Tensor:
        """Samples (sample_shape, b, q, 1) of a `SWAGPosterior`."""
        assert isinstance(posterior, SWAGPosterior)
        if self.base_samples is None or self._n_members != posterior.ensemble_size:
            self._n_members = posterior.ensemble_size
            chosen = balanced_uniform(self.sample_shape.numel(), self._n_members, int(self.seed))
            self.base_samples = chosen.reshape(self.sample_shape)
        return posterior.rsample_from_base_samples(self.sample_shape, self.base_samples)

    def _update_base_samples(self, posterior: Any, base_sampler: MCSampler) -> None:
        """There is nothing to carry over: every call has the same members."""


@GetSampler.register(SWAGPosterior)
def _sampler_for(
    posterior: SWAGPosterior, sample_shape: torch.Size, seed: int | None = None
) -> MemberSampler:
    return MemberSampler(sample_shape, seed=seed)
