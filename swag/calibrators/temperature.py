"""Temperature scaling: one number that sharpens or flattens every row and changes no prediction."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch

from swag.calibrators.inputs import labels_of, log_probs_of, returned
from swag.errors import InputError
from swag.metrics.temperature import fit_temperature_to_logs


@final
@dataclass(frozen=True)
class TemperatureScaling:
    r"""p_c^{1/T} / Σ_c' p_c'^{1/T}: softmax of the log-probabilities divided by T (Guo et al., 2017).

    Of an ensemble the mean probabilities are scaled, not each member's. A probability of 0 stays 0.

    Attributes:
        temperature: T > 0; above 1 flattens.

    Raises:
        InputError: `temperature` is not a number above 0.

    Example:
        >>> import torch
        >>> TemperatureScaling(0.5)(torch.tensor([[0.75, 0.25]]))
        tensor([[0.9000, 0.1000]])
    """

    temperature: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature!r}; give a number above 0")

    @classmethod
    def fit(cls, probs: Any, labels: Any) -> "TemperatureScaling":
        r"""The temperature of least NLL, in float64; see `swag.metrics.fit_temperature`.

        Args:
            probs: (N, C) probabilities of validation rows, or a predictive.
            labels: (N,) integer class indices.

        Returns:
            T in [0.01, 100]; an end that is reached is logged as a warning.

        Raises:
            InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.
        """
        logs = log_probs_of(probs)
        return cls(fit_temperature_to_logs(logs, labels_of(labels, logs)))

    def __call__(self, probs: Any) -> Any:
        """Calibrated probabilities (N, C), of the kind that came (of a predictive, a tensor)."""
        return returned(torch.softmax(log_probs_of(probs) / self.temperature, dim=1), probs)
