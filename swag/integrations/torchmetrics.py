"""The streaming scores as torchmetrics metrics, synchronised across processes as its own are.

    metrics = MetricCollection({"scores": ClassificationMetric()})
    metrics.update(probs, labels); metrics.compute()        {"nll": …, "ece": …, …}

They add the same sums as `swag.metrics.StreamingClassification` and `StreamingRegression`, so all agree to
the last bit; every state is a sum, so any division of rows between processes gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from swag.arguments import tensor_of
from swag.integrations.requirements import require
from swag.metrics import ClassificationScores, RegressionScores, StreamingClassification, StreamingRegression

require("torchmetrics", "1.6", "torchmetrics")

from torchmetrics import Metric  # noqa: E402

_CLASSIFICATION = ("accuracy", "nll", "brier", "ece", "mce", "rmsce")
_LEVEL = "claimed"
_REGRESSION = ("rmse", "nll", "crps", "coverage", "sharpness")


class _Sums(Metric):
    """What both have in common: their states are the sums of a stream, and add up."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def _add_states(self, states: dict[str, Any]) -> None:
        for name, value in states.items():
            self.add_state(name, tensor_of(value).clone(), dist_reduce_fx="sum", persistent=True)

    def _states(self) -> dict[str, Any]:
        return {name: getattr(self, name).cpu() for name in self._defaults}

    def _take(self, states: dict[str, Any]) -> None:
        for name in self._defaults.keys() & states.keys():
            own = getattr(self, name)
            setattr(self, name, torch.as_tensor(states[name], dtype=own.dtype, device=own.device))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # torchmetrics takes any shape, and sums over other bins or another interval would be read as these.
        found = {name: state_dict.get(prefix + name) for name in self._defaults}
        unfit = [name for name, value in found.items() if value is not None and not self._fits(name, value)]
        if unfit:
            args[-1].append(f"{prefix}{unfit[0]}: is of a {type(self).__name__} with other arguments")
            return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _fits(self, name: str, value: Tensor) -> bool:
        default = tensor_of(self._defaults[name])
        return value.shape == default.shape and (name != _LEVEL or value.item() == default.item())

    def _output(self, values: dict[str, float]) -> dict[str, Tensor]:
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in values.items()
        }

    def set_dtype(self, dst_type: str | torch.dtype) -> _Sums:
        """Does nothing: counts and sums stay whole numbers and float64, or they would not add up."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> _Sums:
        # Of `.to(device, dtype)` the device alone, for the same reason.
        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor.new_empty(0)).device)

        super()._apply(moved, exclude_state)
        return self


@final
class ClassificationMetric(_Sums):
    r"""Accuracy, NLL (nats), Brier score and binned calibration errors of probabilities.

    Update it with probabilities (N, C), such as `predictive.probs`, and labels (N,), in any precision; sums
    are float64.

    Args:
        n_bins: equal-width bins of confidence.
        **kwargs: torchmetrics' own, such as `dist_sync_on_step` or `sync_on_compute`.

    `compute()` gives a dict of float64 scalars: accuracy, nll, brier, ece, mce, rmsce; `scores()` the whole
    `swag.metrics.ClassificationScores`, with the reliability curve.

    Raises:
        InputError: rows that are no distributions, or labels out of range; the states are then unchanged.

    >>> metric = ClassificationMetric()
    >>> metric.update(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]))
    >>> metric.compute()["accuracy"].item()
    0.5
    """

    def __init__(self, n_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        stream = StreamingClassification(n_bins)
        self.n_bins = stream.n_bins
        self._add_states({key: value for key, value in stream.state_dict().items() if key != "n_bins"})

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Adds rows; if one of them is refused, none is added."""
        stream = self._stream()
        stream.update(probs, labels)
        self._take(stream.state_dict())

    def compute(self) -> dict[str, Tensor]:
        """The scores of all rows, of all processes."""
        scores = self.scores()
        return self._output({name: getattr(scores, name) for name in _CLASSIFICATION})

    def scores(self) -> ClassificationScores:
        """All of it as plain numbers, with the reliability curve; of this process's rows.

        Raises:
            InputError: there are no rows.
        """
        return self._stream().compute()

    def _stream(self) -> StreamingClassification:
        stream = StreamingClassification(self.n_bins)
        stream.load_state_dict({"n_bins": self.n_bins, **self._states()})
        return stream


@final
class RegressionMetric(_Sums):
    r"""RMSE, NLL (nats), CRPS, coverage and sharpness of Gaussian predictions.

    Update it with means, VARIANCES and outcomes (N,), such as `predictive.mean`, `predictive.variance`, y.

    Args:
        level: the probability that the counted interval claims, a fraction.
        n_bins: bins of the histogram of F(y) in `scores()`.
        **kwargs: torchmetrics' own.

    `compute()` gives a dict of float64 scalars: rmse, nll, crps, coverage, sharpness; `scores()` the whole
    `swag.metrics.RegressionScores`.

    Raises:
        InputError: shapes differ, a value is not finite, a variance is not above 0; the states are unchanged.

    >>> metric = RegressionMetric()
    >>> metric.update(torch.zeros(2), torch.ones(2), torch.tensor([3.0, 0.0]))
    >>> metric.compute()["coverage"].item()
    0.5
    """

    def __init__(self, level: float = 0.95, n_bins: int = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        stream = StreamingRegression(level, n_bins)
        self.level, self.n_bins = stream.level, stream.n_bins
        self._add_states({key: stream.state_dict()[key] for key in ("sums", "n_covered", "pit_counts")})
        # A MetricCollection lets metrics of equal states share them, and another level must not.
        claimed = torch.tensor(self.level, dtype=torch.float64, device="cpu")
        self.add_state(_LEVEL, claimed, dist_reduce_fx="max", persistent=True)

    def update(self, mean: Tensor, variance: Tensor, y: Tensor) -> None:
        """Adds rows; if one of them is refused, none is added."""
        stream = self._stream()
        stream.update(mean, variance, y)
        self._take(stream.state_dict())

    def compute(self) -> dict[str, Tensor]:
        """The scores of all rows, of all processes."""
        scores = self.scores()
        return self._output({name: getattr(scores, name) for name in _REGRESSION})

    def scores(self) -> RegressionScores:
        """All of it as plain numbers; of this process's rows.

        Raises:
            InputError: there are no rows.
        """
        return self._stream().compute()

    def _stream(self) -> StreamingRegression:
        stream = StreamingRegression(self.level, self.n_bins)
        stream.load_state_dict({"level": self.level, "n_bins": self.n_bins, **self._states()})
        return stream
