"""Bayesian model averaging: weights drawn from a posterior, each with its own batch-norm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.batches import Forward, check_loader, device_of, length
from swag.batchnorm import BatchNormPolicy, ExactBatchNorm, batchnorm_modules
from swag.errors import InputError
from swag.forwarding import Forwarding, peeked
from swag.members import MemberStack, draw
from swag.parameters import Layout, clean_name, unwrap
from swag.posterior import Posterior
from swag.posterior.protocol import check_n_samples
from swag.predictive import Categorical, Likelihood, Predictive
from swag.progress import track
from swag.shadow import Shadow


@final
class Ensemble:
    r"""The model average p(y|x) ≈ (1/S) Σ_s p(y|x, θ_s), θ_s ~ posterior.

    Weights are drawn once, at construction, as `posterior.sample(n_samples, generator=…)` with a CPU
    generator seeded by `seed`, and kept: S·D floats. Batch-norm layers get fresh statistics for every
    sample. A posterior that is a few points (`PointMass`, a uniform `Mixture` of them, `Empirical`) is
    predicted once a point where n_samples is a multiple of their number: the average is the same.
    The work is done in a private copy: the model you pass is never touched.

    Args:
        model: gives the architecture, and the values of what the posterior does not cover.
        posterior: anything with `sample`, `mean` and `layout`; meets the model by parameter name.
        n_samples: S; 30 is usual.
        bn_loader: training batches for the batch-norm statistics; needed where the model has batch norm.
        batchnorm: `ExactBatchNorm()` (the default: all rows for every sample, the loader read once),
            `ControlVariateBatchNorm()` (a few rows, corrected; far cheaper), or `KeepBatchNorm()`.
        seed: makes the draws reproducible; None takes one from torch's global generator.
        likelihood: what outputs mean: `Categorical()` (the default), `HeteroscedasticGaussian()`, ….
        forward: forward(model, batch) → outputs; by default the first element of a tuple, a dict by keyword.
        keep_members: keep each member's probabilities (classification; default no), or its means and
            variances (regression; default yes).
        autocast: run members under `torch.autocast` with this dtype (torch.bfloat16); statistics stay in
            float32. `autocast_error` says what it costs.
        fast: on the CPU, try channels_last memory and batch norm folded into convolutions, each kept only
            if the first batch's outputs agree with the plain way to rounding.

    Raises:
        InputError: n_samples < 1, a posterior for another model or something that cannot be sampled, batch
            norm without `bn_loader`.

    Source: Wilson & Izmailov 2020, arXiv:2002.08791.

    >>> import swag
    >>> model = nn.Linear(4, 3)
    >>> posterior = swag.PointMass(swag.Layout.of(model).flatten(model), layout=swag.Layout.of(model))
    >>> ensemble = Ensemble(model, posterior, n_samples=30, seed=0)
    >>> ensemble(torch.zeros(2, 4)).probs.shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        posterior: Posterior,
        n_samples: int = 30,
        *,
        bn_loader: Iterable[Any] | None = None,
        batchnorm: BatchNormPolicy | None = None,
        seed: int | None = None,
        likelihood: Likelihood | None = None,
        forward: Forward | None = None,
        keep_members: bool | None = None,
        autocast: torch.dtype | None = None,
        fast: bool = True,
    ) -> None:
        check_n_samples(n_samples)
        layout = _layout_for(model, posterior)
        policy = batchnorm if batchnorm is not None else ExactBatchNorm()
        refreshed = _to_refresh(model, policy, bn_loader)
        members = MemberStack(Shadow(model, layout), *draw(posterior, n_samples, seed))
        self._set_up(
            members, likelihood, Forwarding(members, forward, autocast=autocast, fast=fast), keep_members
        )
        if refreshed:
            assert bn_loader is not None
            check_loader("bn_loader", bn_loader)
            found = batchnorm_modules(members.module)
            layers = {name: layer for name, layer in found.items() if name in refreshed}
            first, batches = peeked(bn_loader)
            self._forwarding.try_memory_format(first)
            members.buffers = policy.statistics(members, layers, batches, self._forwarding.run)

    @classmethod
    def from_models(
        cls,
        models: Sequence[nn.Module],
        *,
        likelihood: Likelihood | None = None,
        forward: Forward | None = None,
        keep_members: bool | None = None,
        autocast: torch.dtype | None = None,
        fast: bool = True,
    ) -> Ensemble:
        """A deep ensemble: each model as it is, with its own buffers; one architecture.

        Raises:
            InputError: no model, or models of differing architectures.
        """
        if len(models) == 0:
            raise InputError("models: the list is empty; pass at least one model")
        layout = Layout.of(models[0], select=_floating_point)
        for index, model in enumerate(models):
            _check_architecture(layout, model, index)
        thetas = torch.stack([layout.flatten(model).to(device_of(models[0])) for model in models])
        members = MemberStack(Shadow(models[0], layout), thetas, list(thetas), list(range(len(models))))
        members.buffers = [
            {
                clean_name(name): buffer.detach().clone().to(thetas.device)
                for name, buffer in unwrap(model).named_buffers(remove_duplicate=False)
            }
            for model in models
        ]
        ensemble = cls.__new__(cls)
        forwarding = Forwarding(members, forward, autocast=autocast, fast=fast)
        ensemble._set_up(members, likelihood, forwarding, keep_members)
        return ensemble

    def __call__(self, batch: Any) -> Any:
        """The predictive for one batch: x, or whatever `forward` takes.

        Returns:
            A `CategoricalPredictive`, or a `GaussianPredictive` for the Gaussian likelihoods.
        """
        accumulator = self._likelihood.accumulator(keep_members=self._keep_members)
        self._forwarding.each(batch, accumulator.update)
        return accumulator.compute()

    def predict(self, loader: Iterable[Any]) -> Any:
        """The predictive for all the rows of a loader, in its order; the loader is read once.

        Raises:
            InputError: the loader is empty.
        """
        check_loader("loader", loader)
        batches = track(loader, "predict", total=length(loader))
        parts: list[Predictive] = [self(batch) for batch in batches]
        if not parts:
            raise InputError("loader: gave no batch; pass a loader with at least one batch")
        return type(parts[0]).concatenate(parts)

    @property
    def n_samples(self) -> int:
        """S, the members."""
        return len(self._members)

    @property
    def layout(self) -> Layout:
        """The parameters that differ between members."""
        return self._members.layout

    @property
    def thetas(self) -> Tensor:
        """The members' weights (S, D)."""
        return self._members.thetas

    def member(self, index: int) -> nn.Module:
        """A copy of member `index` as an ordinary model in eval mode, with its batch-norm statistics."""
        if not 0 <= index < self.n_samples:
            raise InputError(f"index: got {index}, the ensemble has members 0 to {self.n_samples - 1}")
        return self._members.copy_of(index)

    def _set_up(
        self,
        members: MemberStack,
        likelihood: Likelihood | None,
        forwarding: Forwarding,
        keep_members: bool | None,
    ) -> None:
        self._members = members
        self._forwarding = forwarding
        self._likelihood: Likelihood = likelihood if likelihood is not None else Categorical()
        self._keep_members = keep_members

    def __repr__(self) -> str:
        return f"Ensemble({self.n_samples} members, D={self.layout.size:,})"


def _layout_for(model: nn.Module, posterior: Posterior) -> Layout:
    if not callable(getattr(posterior, "sample", None)):
        raise InputError(
            f"posterior: a {type(posterior).__name__} cannot be sampled; pass a posterior, such as "
            "collector.swag() or collector.swa()"
        )
    if posterior.layout is not None:
        return posterior.layout
    layout = Layout.of(model)
    if layout.size != posterior.mean.numel():
        raise InputError(
            f"posterior: has D={posterior.mean.numel()} and no layout, the model's trainable parameters are "
            f"D={layout.size}; give the posterior the layout it was collected with"
        )
    return layout


def _floating_point(name: str, parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point()


def _check_architecture(layout: Layout, model: nn.Module, index: int) -> None:
    """Raises InputError where the model lacks parameters of the layout, or has others besides."""
    try:
        layout.tensors(model)
    except InputError as error:
        raise InputError(f"models: number {index} does not fit number 0 ({error})") from error
    more = [name for name in Layout.of(model, select=_floating_point).names if name not in layout.names]
    if more:
        raise InputError(
            f"models: number {index} has the parameter '{more[0]}', which number 0 lacks; pass models of one "
            "architecture"
        )


def _to_refresh(model: nn.Module, policy: BatchNormPolicy, bn_loader: Iterable[Any] | None) -> set[str]:
    """Names of the layers that get statistics of their own for every member."""
    if not isinstance(policy, BatchNormPolicy):
        raise InputError(
            f"batchnorm: got {policy!r}; pass swag.ExactBatchNorm(), swag.ControlVariateBatchNorm() or "
            "swag.KeepBatchNorm()"
        )
    if not policy.needs_loader:
        return set()
    layers = batchnorm_modules(model, policy.frozen)
    if layers and bn_loader is None:
        raise InputError(
            f"bn_loader: the model has {len(layers)} batch-norm layer(s) ('{next(iter(layers))}', …), whose "
            "statistics do not fit drawn weights; pass bn_loader=train_loader, or "
            "batchnorm=swag.KeepBatchNorm() where they were frozen in training"
        )
    return set(layers)
