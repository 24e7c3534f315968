"""The log-likelihood of the training data at points of a subspace, for many z at once.

One class and a little more than 250 lines: weights, buffers, rows and the way they are run meet in one sum.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import vmap

from swag.batches import Forward, as_tensor, check_loader, device_of, feed
from swag.batchnorm import BatchNormPolicy, ExactBatchNorm, batchnorm_modules
from swag.errors import InputError
from swag.functional import Caller, called
from swag.noise import checked_seed
from swag.parameters import Layout, unwrap
from swag.predictive import Likelihood
from swag.shadow import Shadow
from swag.subspace.drawn import Drawn
from swag.subspace.kept_rows import joined, moved, rows_of
from swag.subspace.observation import RowLogProb, row_log_prob, target_in
from swag.subspace.space import Subspace

_log = logging.getLogger(__name__)

# Weights stacked at once, and z at most; smaller where D is large.
_WEIGHTS_AT_ONCE = 1 << 26
_MOST_AT_ONCE = 64
# Rounding lets vmap's sums differ from the loop's by this share of their size.
_AGREES = {torch.float64: 1e-8}

Values = dict[str, Tensor]


@final
class LogLikelihood:
    r"""log p(D | ŵ + P z) = Σ_n log p(y_n | x_n, ŵ + P z) over training data, without prior and temperature.

    Many z are evaluated together (`torch.func.vmap` over a functional call, in chunks) where the model allows
    it and gives the same so, else one after the other. The model runs in eval mode, in a private copy: yours
    is not touched. Differentiable in z, backwards and forwards.

    Batch norm: at every z the statistics are those of `batches` under the weights of that z, by the policy,
    as an ensemble's would be; gradients treat them as constants.

    Args:
        model: gives the architecture, and the values of what the subspace does not cover.
        subspace: where z lives.
        batches: the training data, as an iterable of (x, y); read once and kept. A random augmentation is
            thus drawn once: a sampler needs one fixed density.
        likelihood: what outputs mean: `swag.Categorical()`, `swag.HeteroscedasticGaussian()`,
            `swag.HomoscedasticGaussian(variance)`, or a function (outputs, targets) → log-densities (N,).
        batchnorm: the policy; `swag.ExactBatchNorm()` by default.
        forward: forward(model, batch) → outputs; by default the first element of a tuple, a dict by keyword.
        target: target(batch) → y; by default the second element of a tuple, or a dict's "labels".
        chunk: z evaluated together at most; by default 64, fewer where D is large.

    Raises:
        InputError: a subspace of another model, batches that are empty or have no targets.

    >>> model = nn.Linear(2, 3)
    >>> layout = Layout.of(model)
    >>> plane = Subspace.random(layout.flatten(model), 2, layout=layout)
    >>> data = [(torch.randn(8, 2), torch.zeros(8, dtype=torch.long))]
    >>> import swag
    >>> log_likelihood = LogLikelihood(model, plane, data, swag.Categorical())
    >>> log_likelihood(torch.zeros(2)).shape, log_likelihood.batch(torch.zeros(5, 2)).shape
    (torch.Size([]), torch.Size([5]))
    """

    def __init__(
        self,
        model: nn.Module,
        subspace: Subspace,
        batches: Iterable[Any],
        likelihood: Likelihood | RowLogProb,
        *,
        batchnorm: BatchNormPolicy | None = None,
        forward: Forward | None = None,
        target: Callable[[Any], Tensor] | None = None,
        chunk: int | None = None,
    ) -> None:
        if not isinstance(subspace, Subspace):
            raise InputError(f"subspace: got a {type(subspace).__name__}; pass a swag.Subspace")
        layout = subspace.layout or Layout.of(model)
        if layout.size != subspace.size:
            raise InputError(
                f"subspace: has D={subspace.size} and no layout, the model has D={layout.size} parameters; "
                "pass layout= when you make it"
            )
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise InputError(f"chunk: got {chunk!r}; pass an integer of at least 1")
        self._log_prob = row_log_prob(likelihood)
        policy = batchnorm if batchnorm is not None else ExactBatchNorm()
        if isinstance(policy, type) or not isinstance(policy, BatchNormPolicy):
            raise InputError(f"batchnorm: got {policy!r}; pass swag.ExactBatchNorm() or another policy")
        check_loader("batches", batches)
        self._shadow = Shadow(model, layout)
        device = device_of(self._shadow.module)
        self._batches = [moved(batch, device) for batch in batches]
        if not self._batches:
            raise InputError("batches: gave no batch; pass the training data")
        self._target = target or target_in
        self.n_rows = sum(len(self._target(batch)) for batch in self._batches)
        if self.n_rows == 0:
            raise InputError("batches: hold no rows; pass the training data")
        self.subspace = subspace
        self._forward = forward or feed
        self._policy = policy
        layers = batchnorm_modules(unwrap(model), policy.frozen) if policy.needs_loader else {}
        found = batchnorm_modules(self._shadow.module)
        self._layers = {name: found[name] for name in layers}
        self._caller = Caller(self._shadow.module, self._forward)
        self._chunk = chunk or max(1, min(_MOST_AT_ONCE, _WEIGHTS_AT_ONCE // layout.size))
        self._together: bool | None = None
        self._held: Values | None = None
        self._seed: int | None = None
        self._draws: torch.Generator | None = None
        self._n_drawn = 0
        self._factor = 1.0
        self.approximation = ""

    def __call__(self, z: Tensor) -> Tensor:
        """z (k,) → a float64 scalar, in nats."""
        return self.batch(z[None])[0]

    def batch(self, z: Tensor) -> Tensor:
        """z (n, k) → (n,) float64, in nats.

        Raises:
            InputError: z of another shape.
        """
        if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != self.subspace.k:
            came = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise InputError(f"z: got {came}; pass (n, k={self.subspace.k})")
        batches = self._batches if self._draws is None else [self._minibatch()]
        parts = [self._some(z[at : at + self._chunk], batches) for at in range(0, len(z), self._chunk)]
        return torch.cat(parts) * self._factor

    @property
    def is_random(self) -> bool:
        """Whether every call takes a new minibatch, so that samplers refuse it."""
        return self._draws is not None

    def subsample(self, n_rows: int, *, seed: int) -> LogLikelihood:
        """An approximation: n_rows of the N rows, chosen once, their sum times N/n_rows.

        It is one fixed density, so samplers take it, but another one than the data's: the result says so.

        Raises:
            InputError: more rows than there are, or batches that are not tuples, lists or dicts of tensors.
        """
        other = self._with_rows(n_rows, seed)
        generator = torch.Generator().manual_seed(checked_seed(seed))
        chosen = torch.randperm(self.n_rows, generator=generator, device="cpu")[:n_rows].sort().values
        other._batches = [rows_of(other._batches[0], chosen)]
        other.n_rows = n_rows
        other.approximation = f"{n_rows} of {self.n_rows} rows, chosen once"
        return other

    def minibatch(self, n_rows: int, *, seed: int) -> LogLikelihood:
        """An unbiased estimate, for variational inference: at every call n_rows rows drawn anew, with
        replacement, their sum times N/n_rows.

        All z of one call see the same rows. Samplers refuse it.

        Raises:
            InputError: as `subsample`.
        """
        other = self._with_rows(n_rows, seed)
        other._draws = torch.Generator().manual_seed(checked_seed(seed))
        other._n_drawn = n_rows
        other.approximation = f"minibatches of {n_rows} of {self.n_rows} rows"
        return other

    def held_at(self, z: Tensor) -> LogLikelihood:
        """The same with batch-norm statistics held at those of z (k,), for second derivatives there."""
        if not self._layers:
            return self
        other = copy.copy(self)
        other._held = {name: value[0] for name, value in self._buffers(z.detach()[None]).items()}
        return other

    def _with_rows(self, n_rows: int, seed: int) -> LogLikelihood:
        if self.approximation:
            raise InputError("n_rows: this log-likelihood is an approximation already; start from the whole")
        if isinstance(n_rows, bool) or not isinstance(n_rows, int) or not 1 <= n_rows <= self.n_rows:
            raise InputError(f"n_rows: got {n_rows!r}; there are {self.n_rows} rows: pass 1 to {self.n_rows}")
        checked_seed(seed)
        other = copy.copy(self)
        other._batches = [joined(self._batches)]
        other._factor = self.n_rows / n_rows
        return other

    def _minibatch(self) -> Any:
        chosen = torch.randint(self.n_rows, (self._n_drawn,), generator=self._draws, device="cpu")
        return rows_of(self._batches[0], chosen)

    def _some(self, z: Tensor, batches: list[Any]) -> Tensor:
        values = self._weights(z) | self._buffers(z)
        if self._together is None:
            self._together = self._decide(values, batches[0])
        if self._together:
            parts = [vmap(self._sum_of, in_dims=(0, None))(values, batch) for batch in batches]
        else:
            parts = [self._in_turn(values, len(z), batch) for batch in batches]
        return torch.stack(parts).sum(0)

    def _in_turn(self, values: Values, n: int, batch: Any) -> Tensor:
        own = [{name: value[i] for name, value in values.items()} for i in range(n)]
        return torch.stack([self._sum_of(one, batch) for one in own])

    def _sum_of(self, values: Values, batch: Any) -> Tensor:
        """Σ log p over a batch's rows, in float64, for one set of weights and buffers."""
        outputs = as_tensor(called(self._caller, values, batch))
        rows = self._log_prob(outputs, self._target(batch))
        return rows.double().sum()

    def _weights(self, z: Tensor) -> Values:
        """The weights of each z by their names in the caller, (n, …)."""
        module, layout = self._shadow.module, self._shadow.layout
        names = {id(p): name for name, p in module.named_parameters()}
        stacked = layout.unflatten(self.subspace.lift(z.to(self.subspace.offset.device)))
        return {
            f"module.{names[id(parameter)]}": stacked[entry.name].to(parameter)
            for entry, parameter in zip(layout.entries, layout.tensors(module), strict=True)
        }

    def _buffers(self, z: Tensor) -> Values:
        """The batch-norm statistics of each z by their names in the caller, (n, …)."""
        if not self._layers:
            return {}
        if self._held is not None:
            return {name: value.expand(len(z), *value.shape) for name, value in self._held.items()}
        with torch.no_grad():
            members = Drawn(self._shadow, self.subspace.lift(z.detach()), self.subspace.offset)
            with members.scratch_buffers():
                found = self._policy.statistics(members, self._layers, self._batches, self._forward)
        return {f"module.{name}": torch.stack([own[name] for own in found]) for name in found[0]}

    def _decide(self, values: Values, batch: Any) -> bool:
        """Whether vmap can run this model and gives what the loop gives, seen on one batch and two z."""
        some = {name: value[:2].detach() for name, value in values.items()}
        n = len(next(iter(some.values())))
        with torch.no_grad():
            plain = self._in_turn(some, n, batch)  # an error of the model's own comes from here, unchanged
            try:
                fast = vmap(self._sum_of, in_dims=(0, None))(some, batch)
            except Exception as error:  # what vmap lacks comes in many classes
                _log.warning("vmap cannot run this model (%s); each z is run by itself", error)
                return False
        tolerance = _AGREES.get(self.subspace.offset.dtype, 1e-4)
        if torch.allclose(fast, plain, rtol=tolerance, atol=tolerance * self.n_rows, equal_nan=True):
            return True
        _log.warning("vmap changes this model's outputs; each z is run by itself")
        return False

    def __repr__(self) -> str:
        note = f", approximate: {self.approximation}" if self.approximation else ""
        return f"LogLikelihood({self.n_rows:,} rows, k={self.subspace.k}{note})"
