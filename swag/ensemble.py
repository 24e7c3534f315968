"""Bayesian model averaging: weights drawn from a posterior, each with its own batch-norm statistics."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from swag.approximation import ApproximationError, autocast_error, bn_error
from swag.arguments import whole
from swag.batches import Forward, check_loader, device_of, length, n_bytes
from swag.batchnorm import BatchNormPolicy, UsualBatchNorm, batchnorm_modules
from swag.draws import PILOT, Source, Stopping, layers_to_refresh, layout_for
from swag.errors import InputError
from swag.forwarding import Forwarding
from swag.members import MemberStack
from swag.noise import checked_seed, take_seed
from swag.parameters import Layout, clean_name, unwrap
from swag.posterior import Posterior
from swag.posterior.protocol import check_n_samples
from swag.predictive import Categorical, Likelihood, Predictive
from swag.progress import track
from swag.shadow import Shadow
from swag.strategy import Strategy
from swag.tuning import tune
from swag.weights import Kept


@final
class Ensemble:
    r"""The model average p(y|x) ≈ (1/S) Σ_s p(y|x, θ_s), θ_s ~ posterior.

    Weights are drawn once, at construction, as `posterior.sample(n_samples, generator=…)` with a CPU
    generator seeded by `seed`, and kept: S·D floats (or drawn again, see `memory_budget`). Batch-norm layers
    get fresh statistics for every sample. A posterior that is a few points (`PointMass`, a uniform `Mixture`
    of them, `Empirical`) is predicted once a point where n_samples is a multiple of their number: the average
    is the same.
    The work is done in a private copy: the model you pass is never touched. Calls from several threads take
    turns.

    Args:
        model: gives the architecture, and the values of what the posterior does not cover.
        posterior: anything with `sample`, `mean` and `layout`; meets the model by parameter name.
        n_samples: S; 30 is usual. "auto" draws 8, looks at their spread on the first batch that is predicted,
            and draws as many more as `tolerance` takes (a posterior of points: each once).
        bn_loader: training batches for the batch-norm statistics; needed where the model has batch norm.
        batchnorm: `ExactBatchNorm()` (all rows for every sample, the loader read once),
            `ControlVariateBatchNorm()` (a few rows, corrected; far cheaper), or `KeepBatchNorm()`. By default
            exact below 8,192 training rows, the control variate from there on: see experiments/batchnorm.
        seed: makes the draws reproducible; None takes one from torch's global generator.
        likelihood: what outputs mean: `Categorical()` (the default), `HeteroscedasticGaussian()`, ….
        forward: forward(model, batch) → outputs; by default the first element of a tuple, a dict by keyword.
        keep_members: keep each member's probabilities (classification; default no), or its means and
            variances (regression; default yes).
        autocast: run members under `torch.autocast` with this dtype (torch.bfloat16); statistics stay in
            float32. `autocast_error` says what it costs.
        strategy: how members are run: `Loop()`, `Vmapped(chunk)` or `Compiled()`; by default a fixed rule
            from device and model. `tune` measures them.
        tolerance: with n_samples="auto", the Monte-Carlo error wanted (`predictive.monte_carlo_error`): for
            classes the standard error of the mean probability, largest over classes, mean over rows.
        max_samples: with n_samples="auto", the most members.
        memory_budget: bytes for the members' weights; None keeps all. Where they take more, as many as fit
            are drawn at a time, again for every pass (so the posterior must not change), and exact batch
            norm reads the loader once for each such block. The predictions are the same.

    Raises:
        InputError: n_samples < 1, a posterior for another model or something that cannot be sampled, batch
            norm without `bn_loader`.

    Source: Wilson & Izmailov 2020, arXiv:2002.08791.

    >>> import swag
    >>> model = nn.Linear(4, 3)
    >>> posterior = swag.PointMass.of(model)
    >>> ensemble = Ensemble(model, posterior, n_samples=30, seed=0)
    >>> ensemble(torch.zeros(2, 4)).probs.shape
    torch.Size([2, 3])
    """

    _members: MemberStack
    _forwarding: Forwarding
    _likelihood: Likelihood
    _keep_members: bool | None
    # The layers that exact statistics would replace, for `bn_error_estimate`.
    _bn_layers: frozenset[str]
    # One module holds every member's weights in turn: a second thread would run it with another's.
    _turn: threading.RLock
    # With n_samples="auto", until the first batch has shown how many members are enough.
    _growth: tuple[Stopping, Source] | None

    def __init__(
        self,
        model: nn.Module,
        posterior: Posterior,
        n_samples: int | Literal["auto"] = 30,
        *,
        bn_loader: Iterable[Any] | None = None,
        batchnorm: BatchNormPolicy | None = None,
        seed: int | None = None,
        likelihood: Likelihood | None = None,
        forward: Forward | None = None,
        keep_members: bool | None = None,
        autocast: torch.dtype | None = None,
        strategy: Strategy | None = None,
        tolerance: float = 0.005,
        max_samples: int = 100,
        memory_budget: int | None = None,
    ) -> None:
        stopping = Stopping(tolerance, max_samples) if n_samples == "auto" else None
        n_first = PILOT if n_samples == "auto" else n_samples
        atoms = getattr(posterior, "atoms", None)
        if stopping is not None and atoms is not None:  # each point once is the whole average
            stopping, n_first = None, len(atoms)
        check_n_samples(n_first)
        layout = layout_for(model, posterior)
        policy = batchnorm if batchnorm is not None else UsualBatchNorm()
        refreshed = layers_to_refresh(model, policy, bn_loader)
        own_seed = take_seed() if seed is None else checked_seed(seed)
        source = Source(posterior, own_seed, policy, refreshed, bn_loader, memory_budget)
        if stopping is not None:
            source.check_rereadable('n_samples="auto"')
        members = source.first(Shadow(model, layout), n_first)
        forwarding = Forwarding(members, forward, autocast=autocast, strategy=strategy)
        self._set_up(members, likelihood, forwarding, keep_members)
        source.refresh_(members, forwarding)
        self._bn_layers = frozenset(batchnorm_modules(model, policy.frozen))
        if stopping is not None:
            self._growth = (stopping, source)

    @classmethod
    def from_models(
        cls,
        models: Sequence[nn.Module],
        *,
        likelihood: Likelihood | None = None,
        forward: Forward | None = None,
        keep_members: bool | None = None,
        autocast: torch.dtype | None = None,
        strategy: Strategy | None = None,
    ) -> Ensemble:
        """A deep ensemble: each model as it is, with its own buffers; one architecture.

        Raises:
            InputError: no model, or models of differing architectures.
        """
        if isinstance(models, nn.Module) or not isinstance(models, Iterable):
            raise InputError(f"models: got a {type(models).__name__}; pass a list of models, as in [m1, m2]")
        models = list(models)
        if len(models) == 0:
            raise InputError("models: the list is empty; pass at least one model")
        layout = Layout.of(models[0], select=_floating_point)
        for index, model in enumerate(models):
            _check_architecture(layout, model, index)
        thetas = torch.stack([layout.flatten(model).to(device_of(models[0])) for model in models])
        members = MemberStack(Shadow(models[0], layout), Kept(thetas), list(thetas), range(len(models)))
        members.buffers = [
            {
                clean_name(name): buffer.detach().clone().to(thetas.device)
                for name, buffer in unwrap(model).named_buffers(remove_duplicate=False)
            }
            for model in models
        ]
        ensemble = cls.__new__(cls)
        forwarding = Forwarding(members, forward, autocast=autocast, strategy=strategy)
        ensemble._set_up(members, likelihood, forwarding, keep_members)
        return ensemble

    @classmethod
    def from_stack(
        cls, members: MemberStack, forwarding: Forwarding, likelihood: Likelihood, keep_members: bool | None
    ) -> Ensemble:
        """An ensemble of members that are there already, as `swag.load` finds them in a file."""
        ensemble = cls.__new__(cls)
        ensemble._set_up(members, likelihood, forwarding, keep_members)
        return ensemble

    def __call__(self, batch: Any) -> Any:
        """The predictive for one batch: x, or whatever `forward` takes.

        Returns:
            A `CategoricalPredictive`, or what the likelihood makes: a `GaussianPredictive`, a
            `PointwisePredictive`.
        """
        with self._turn:
            self._grow(batch)
            return self._predict([batch])[0]

    def _grow(self, batch: Any) -> None:
        """With n_samples="auto", at the first batch: draws as many members as it takes."""
        if self._growth is not None:
            stopping, source = self._growth
            wanted = stopping.needed(self._predict([batch])[0])
            source.extend_(self._members, self._forwarding, wanted)
            self._growth = None

    def _predict(self, batches: Sequence[Any]) -> list[Any]:
        accumulators = [self._likelihood.accumulator(keep_members=self._keep_members) for _ in batches]
        at_once = self._members.at_once
        for start in range(0, self.n_samples, at_once):
            block = range(start, min(start + at_once, self.n_samples))
            for batch, accumulator in zip(batches, accumulators, strict=True):
                self._forwarding.each(batch, accumulator.update, block)
        return [accumulator.compute() for accumulator in accumulators]

    def predict(self, loader: Iterable[Any], *, batch_size: int = 500) -> Any:
        """The predictive for all the rows of a loader, in its order; the loader is read once.

        Args:
            loader: batches; or all the inputs as one tensor (N, …), which is read in parts.
            batch_size: rows in a part of such a tensor; a loader has its own.

        Raises:
            InputError: the loader is empty.
        """
        if isinstance(loader, Tensor):
            batch_size = whole("batch_size", batch_size)
            if loader.ndim == 0 or not len(loader):
                raise InputError("loader: got a tensor without rows; pass inputs (N, …), or batches of them")
            loader = loader.split(batch_size)
        check_loader("loader", loader)
        batches = track(loader, "predict", total=length(loader))
        parts: list[Predictive] = []
        for group in self._groups(batches):
            with self._turn:
                self._grow(group[0])
                parts += self._predict(group)
        if not parts:
            raise InputError("loader: gave no batch; pass a loader with at least one batch")
        return type(parts[0]).concatenate(parts)

    def _groups(self, batches: Iterable[Any]) -> Iterator[list[Any]]:
        """Batches one by one; where members are drawn again for each, as many as weigh a block of those."""
        group: list[Any] = []
        for batch in batches:
            group.append(batch)
            members = self._members
            block = 0 if members.at_once >= len(members) else members.at_once * 4 * members.layout.size
            if sum(map(n_bytes, group)) >= block:
                yield group
                group = []
        if group:
            yield group

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
        with self._turn:
            return self._members.copy_of(index)

    def bn_error_estimate(
        self, batch: Any, bn_loader: Iterable[Any], n_samples: int = 4
    ) -> ApproximationError:
        """What the batch-norm policy costs against exact statistics, on the first members and one batch.

        Args:
            batch: what to predict.
            bn_loader: the training batches for the exact statistics.
            n_samples: members compared; each takes a full pass.
        """
        check_n_samples(n_samples)
        with self._turn:
            return bn_error(self._members, self._forwarding, batch, bn_loader, self._bn_layers, n_samples)

    def autocast_error(self, batch: Any, n_samples: int = 4) -> ApproximationError:
        """What `autocast` costs against the model's own precision, on the first members and one batch."""
        check_n_samples(n_samples)
        with self._turn:
            return autocast_error(self._members, self._forwarding, batch, n_samples)

    def tune(self, batch: Any, *, repeats: int = 3) -> dict[str, float]:
        """Measures the strategies on a batch of yours, goes on with the fastest, and says what each took.

        The outputs of strategies differ by rounding, so a tuned ensemble is reproducible to rounding only.

        Returns:
            Seconds for all members, the median of `repeats`, by strategy, fastest first.
        """
        with self._turn:
            fastest, seconds = tune(self._forwarding, batch, repeats)
            self._forwarding, self._members = fastest, fastest.members
            return seconds

    def _set_up(
        self,
        members: MemberStack,
        likelihood: Likelihood | None,
        forwarding: Forwarding,
        keep_members: bool | None,
    ) -> None:
        self._members = members
        self._forwarding = forwarding
        self._bn_layers = frozenset(batchnorm_modules(members.module))
        self._growth = None
        self._turn = threading.RLock()
        self._likelihood = likelihood if likelihood is not None else Categorical()
        if isinstance(self._likelihood, type) or not hasattr(self._likelihood, "accumulator"):
            raise InputError(
                f"likelihood: got {likelihood!r}; pass swag.Categorical(), swag.HeteroscedasticGaussian(), "
                "swag.HomoscedasticGaussian(variance) or swag.Pointwise()"
            )
        self._keep_members = keep_members

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_turn"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _turn=threading.RLock())

    def __repr__(self) -> str:
        return f"Ensemble({self.n_samples} members, D={self.layout.size:,})"


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
