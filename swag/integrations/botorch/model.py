"""A BoTorch model whose posterior is an ensemble of networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, cast, final

import torch
from botorch.acquisition.objective import PosteriorTransform, ScalarizedPosteriorTransform
from botorch.models.model import Model
from botorch.models.transforms.input import InputTransform
from botorch.models.transforms.outcome import OutcomeTransform
from botorch.posteriors.posterior import Posterior as BoTorchPosterior
from torch import Tensor, nn
from torch.nn import functional as F

from swag.batches import Forward
from swag.batchnorm import BatchNormPolicy, UsualBatchNorm
from swag.draws import Source, layers_to_refresh, layout_for
from swag.errors import InputError
from swag.forwarding import Forwarding
from swag.integrations.botorch.functions import Functions
from swag.integrations.botorch.posterior import SWAGPosterior
from swag.noise import NormalSource, checked_seed, key_for, take_seed
from swag.posterior import Posterior
from swag.posterior.protocol import check_n_samples
from swag.predictive import HeteroscedasticGaussian, HomoscedasticGaussian
from swag.shadow import Shadow


@final
class SWAGModel(Model):
    r"""S networks drawn from a posterior over weights, as a BoTorch model of one outcome.

    f_s(x) = untransform(network(transform(x); θ_s)), θ_s ~ posterior, drawn once: every acquisition function
    on this model is a fixed function of X, with a gradient. The network that is passed is copied.

    Args:
        model: a network (N, d) → (N, 1), or (N, 2) for a heteroscedastic likelihood.
        posterior: anything with `sample`, `mean` and `layout`; meets the network by parameter name.
        n_samples: S. Acquisition functions see these S functions however many samples they ask for.
        seed: of the draws; None takes one from torch's global generator.
        bn_loader: training batches for batch-norm statistics, in the network's own inputs; needed where it
            has batch norm.
        batchnorm: as in `swag.Ensemble`.
        forward: forward(model, rows) → outputs, where the network is not simply called.
        likelihood: what `observation_noise=True` means: `swag.HomoscedasticGaussian(variance)` or
            `swag.HeteroscedasticGaussian()`, in the network's units of y. None where it is not known.
        input_transform: botorch's, such as `Normalize(d, bounds=bounds)`.
        outcome_transform: botorch's, such as the `Standardize(m=1)` the outcomes were trained with.

    Raises:
        InputError: a posterior for another model, batch norm without `bn_loader`, another likelihood.

    Source: Maddox et al. 2019, arXiv:1902.02476; Balandat et al. 2020 (BoTorch), arXiv:1910.06403.

    >>> import swag
    >>> network = nn.Linear(2, 1)
    >>> collector = swag.Collector(network, rank=2)
    >>> for _ in range(4):
    ...     _ = nn.init.normal_(network.weight)
    ...     collector.collect(network)
    >>> model = SWAGModel(network, collector.swag(), n_samples=8, seed=0)
    >>> model.posterior(torch.rand(5, 4, 2)).variance.shape
    torch.Size([5, 4, 1])
    """

    def __init__(
        self,
        model: nn.Module,
        posterior: Posterior,
        n_samples: int = 64,
        *,
        seed: int | None = None,
        bn_loader: Iterable[Any] | None = None,
        batchnorm: BatchNormPolicy | None = None,
        forward: Forward | None = None,
        likelihood: HomoscedasticGaussian | HeteroscedasticGaussian | None = None,
        input_transform: InputTransform | None = None,
        outcome_transform: OutcomeTransform | None = None,
    ) -> None:
        super().__init__()
        check_n_samples(n_samples)
        if likelihood is not None and not isinstance(
            likelihood, HomoscedasticGaussian | HeteroscedasticGaussian
        ):
            raise InputError(
                f"likelihood: got {likelihood!r}; pass swag.HomoscedasticGaussian(variance), "
                "swag.HeteroscedasticGaussian() or None"
            )
        layout = layout_for(model, posterior)
        policy = batchnorm if batchnorm is not None else UsualBatchNorm()
        refreshed = layers_to_refresh(model, policy, bn_loader)
        self._seed = take_seed() if seed is None else checked_seed(seed)
        source = Source(posterior, self._seed, policy, refreshed, bn_loader)
        members = source.first(Shadow(model, layout), n_samples)
        source.refresh_(members, Forwarding(members, forward, autocast=None, strategy=None))
        self.functions = Functions(members, forward)
        self._likelihood = likelihood
        if input_transform is not None:
            self.input_transform = input_transform
        if outcome_transform is not None:
            self.outcome_transform = outcome_transform
        self.eval()

    @property
    def num_outputs(self) -> int:
        """1."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """Empty: one ensemble, whose members are not a batch."""
        return torch.Size()

    @property
    def n_samples(self) -> int:
        """S; fewer than asked for where the posterior is a few points, each of which is there once."""
        return self.functions.n_members

    def forward(self, X: Tensor) -> Tensor:
        """Every member's mean at X (b, q, d), in the units of the outcome: (b, S, q, 1)."""
        return self._evaluated(X)[0]

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
        **kwargs: Any,
    ) -> BoTorchPosterior:
        """The members' values at X, to be sampled jointly over the q points.

        Args:
            X: (b, q, d), b any number of batch dimensions.
            output_indices: None or [0].
            observation_noise: True adds the likelihood's noise; a tensor is a variance that broadcasts to
                (b, q, 1), in the outcome's units squared.
            posterior_transform: applied last, as everywhere in botorch; `ScalarizedPosteriorTransform` of one
                weight (−1 minimises), or any that takes an ensemble's posterior.

        Raises:
            InputError: another output, a wrong shape, a negative variance, or noise without a likelihood.
        """
        if output_indices is not None and list(output_indices) != [0]:
            raise InputError(f"output_indices: got {output_indices}; this model has one output: pass [0]")
        values, variance = self._evaluated(X)
        noise = None
        if isinstance(observation_noise, Tensor):
            variance = _noise_like(values, observation_noise)
        elif not observation_noise:
            variance = None
        elif variance is None:
            raise InputError(
                "observation_noise: this model does not know its noise; make it with "
                "likelihood=swag.HomoscedasticGaussian(variance), or pass a tensor of variances"
            )
        if isinstance(posterior_transform, ScalarizedPosteriorTransform):  # botorch's own is for Gaussians
            values = posterior_transform.evaluate(values).unsqueeze(-1)
            weights = cast(Tensor, posterior_transform.weights)
            variance = None if variance is None else variance * weights.square()
            posterior_transform = None
        if variance is not None:
            noise = self._noise(values)
        posterior = SWAGPosterior(values, variance, noise)
        return posterior if posterior_transform is None else posterior_transform(posterior, X=X)

    def subset_output(self, idcs: list[int]) -> SWAGModel:
        """This model, for [0].

        Raises:
            InputError: any other output.
        """
        if list(idcs) != [0]:
            raise InputError(f"idcs: got {idcs}; this model has one output: pass [0]")
        return self

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> NoReturn:
        """Refused: networks learn by training."""
        raise InputError(
            "X, Y: an ensemble of networks cannot be conditioned on further observations without training; "
            "fit again on all of them (knowledge gradient and other look-ahead acquisitions need a GP)"
        )

    def fantasize(self, X: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused, as `condition_on_observations` is."""
        self.condition_on_observations(X, X)

    def _evaluated(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means (b, S, q, 1) and noise variances of that shape, or None, in the outcome's units."""
        if not isinstance(X, Tensor) or X.ndim < 2 or not X.is_floating_point():
            came = f"shape {tuple(X.shape)} {X.dtype}" if isinstance(X, Tensor) else f"a {type(X).__name__}"
            raise InputError(f"X: got {came}; pass a floating-point tensor (b, q, d), or (q, d)")
        self.eval()
        inputs = self.transform_inputs(X)
        *batch, q, d = inputs.shape
        outputs = self.functions(inputs.reshape(-1, d)).to(X.dtype)
        outputs = outputs.reshape(self.n_samples, *batch, q, outputs.shape[-1]).movedim(0, -3)
        values, variance = self._split(outputs)
        if hasattr(self, "outcome_transform"):
            return self.outcome_transform.untransform(values, variance, X=X)
        return values, variance

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        wanted = 2 if isinstance(self._likelihood, HeteroscedasticGaussian) else 1
        if outputs.shape[-1] != wanted:
            raise InputError(
                f"model: has {outputs.shape[-1]} outputs and {self._likelihood or 'no likelihood'}, for "
                f"which it must have {wanted}; several outcomes are not supported in one model: make a "
                "SWAGModel for each and join them in botorch.models.model.ModelList"
            )
        values = outputs[..., :1]
        if isinstance(self._likelihood, HeteroscedasticGaussian):
            return values, F.softplus(outputs[..., 1:]) + self._likelihood.min_variance
        if self._likelihood is not None:
            return values, torch.full_like(values, self._likelihood.variance)
        return values, None

    def _noise(self, values: Tensor) -> Tensor:
        """ε (S, q, 1): those of point j do not depend on how many points there are."""
        n_members, q = values.shape[-3:-1]
        source, noise = NormalSource("cpu"), torch.empty(q, n_members, device="cpu")
        for j in range(q):
            source.fill_(noise[j], key=key_for(self._seed, j))
        return noise.T.unsqueeze(-1).to(values)

    def _set_transformed_inputs(self) -> None:
        """There are no training inputs kept here that a transform would have to change."""

    def _revert_to_original_inputs(self) -> None:
        """As above."""


def _noise_like(values: Tensor, variance: Tensor) -> Tensor:
    """Variances (b, q, 1) as those of every member (b, S, q, 1)."""
    shape = (*values.shape[:-3], *values.shape[-2:])
    try:
        noise = variance.to(values).expand(shape).unsqueeze(-3).expand_as(values)
    except RuntimeError as error:
        raise InputError(
            f"observation_noise: got shape {tuple(variance.shape)}; pass variances that broadcast to {shape}"
        ) from error
    if not bool((noise >= 0).all()):
        raise InputError("observation_noise: holds NaN or negative values; pass variances")
    return noise
