"""Affine maps of log-probabilities, softmax(W ln p + b): vector scaling (W diagonal) and Dirichlet scaling.

Fitting is multinomial logistic regression: convex, solved by L-BFGS in float64 with exact gradients.
Logarithms of probabilities below 1e-12 are taken at 1e-12, so these maps can give a class back some of its
probability.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch

from swag.calibrators.inputs import labels_of, log_probs_of, returned, same_classes
from swag.errors import InputError

logger = logging.getLogger(__name__)

LOG_FLOOR = math.log(1e-12)
MAX_ITERATIONS = 1000

Objective = Callable[[torch.Tensor], tuple[float, torch.Tensor]]


def features_of(probs: Any) -> torch.Tensor:
    """ln max(p, 1e-12), (N, C) float64."""
    return log_probs_of(probs).clamp_min(LOG_FLOOR)


def nll_and_residuals(scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Mean −ln softmax(scores)[label] in nats, and its gradient (N, C) by the scores."""
    logs = torch.log_softmax(scores, dim=1)
    own = logs.gather(1, labels.unsqueeze(1))
    residuals = logs.exp().scatter_add_(1, labels.unsqueeze(1), torch.full_like(own, -1.0))
    return -float(own.mean()), residuals / len(scores)


def minimised(objective: Objective, start: torch.Tensor) -> torch.Tensor:
    """The minimiser of a smooth convex function of a float64 vector, by L-BFGS from `start`."""
    theta = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-8,
        tolerance_change=1e-11,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        value, gradient = objective(theta.detach())
        theta.grad = gradient  # replaces the last one, so there is nothing to zero
        return value

    optimizer.step(closure)
    if optimizer.state[theta]["n_iter"] >= MAX_ITERATIONS:
        logger.warning("the calibrator's fit stopped at %d iterations, before it settled", MAX_ITERATIONS)
    return theta.detach()


def as_penalty(name: str, value: float) -> float:
    """A finite number ≥ 0."""
    if not 0 <= value < math.inf:
        raise InputError(f"{name} is {value!r}; give a number ≥ 0")
    return float(value)


@final
@dataclass(frozen=True, eq=False)
class VectorScaling:
    r"""softmax(scale_c ln p_c + shift_c): a temperature and an offset for every class (Guo et al., 2017).

    Attributes:
        scale: (C,) float64, 1 leaves a class as it is.
        shift: (C,) float64, in nats.

    Example:
        >>> import torch
        >>> VectorScaling(torch.ones(2), torch.tensor([0.0, 1.0986]))(torch.tensor([[0.75, 0.25]]))
        tensor([[0.5000, 0.5000]])
    """

    scale: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def fit(cls, probs: Any, labels: Any, *, l2: float = 1e-4) -> "VectorScaling":
        r"""Least mean NLL + l2 · (mean_c (scale_c − 1)² + mean_c shift_c²).

        Args:
            probs: (N, C) probabilities of validation rows, or a predictive.
            labels: (N,) integer class indices.
            l2: pull towards no change, in nats; above 0 keeps a class that is never seen finite.

        Returns:
            The fitted calibrator.

        Raises:
            InputError: shapes, dtypes or labels are wrong, a row is not a distribution, or `l2` < 0.
        """
        x, penalty = features_of(probs), as_penalty("l2", l2)
        targets, n_classes = labels_of(labels, x), x.shape[1]
        identity = torch.cat([x.new_ones(n_classes), x.new_zeros(n_classes)])

        def objective(theta: torch.Tensor) -> tuple[float, torch.Tensor]:
            scale, shift = theta.split(n_classes)
            value, residuals = nll_and_residuals(x * scale + shift, targets)
            gradient = torch.cat([(residuals * x).sum(0), residuals.sum(0)])
            moved = theta - identity
            return (
                value + penalty * float(moved.square().sum()) / n_classes,
                gradient + 2 * penalty / n_classes * moved,
            )

        scale, shift = minimised(objective, identity).split(n_classes)
        return cls(scale, shift)

    def __call__(self, probs: Any) -> Any:
        """Calibrated probabilities (N, C), of the kind that came (of a predictive, a tensor)."""
        x = features_of(probs)
        same_classes(x, len(self.scale))
        return returned(torch.softmax(x * self.scale.to(x) + self.shift.to(x), dim=1), probs)


def whitened(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean μ (C,) of rows (N, C), and symmetric R and R⁻¹ (C, C) such that (x − μ) R has unit covariance."""
    centre = x.mean(0)
    values, vectors = torch.linalg.eigh((x - centre).T @ (x - centre) / len(x))
    spread = values.clamp_min(max(1e-6 * float(values.amax()), 1e-12)).sqrt()
    return centre, vectors / spread @ vectors.T, vectors * spread @ vectors.T


@final
@dataclass(frozen=True, eq=False)
class DirichletScaling:
    r"""softmax(W ln p + b), the calibration map of Dirichlet-distributed probabilities (Kull et al., 2019).

    Attributes:
        weight: (C, C) float64 W, the identity leaves rows as they are.
        bias: (C,) float64 b, in nats.

    Example:
        >>> import torch
        >>> DirichletScaling(2 * torch.eye(2), torch.zeros(2))(torch.tensor([[0.75, 0.25]]))
        tensor([[0.9000, 0.1000]])
    """

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def fit(
        cls, probs: Any, labels: Any, *, off_diagonal_l2: float = 1e-2, bias_l2: float = 1e-2
    ) -> "DirichletScaling":
        r"""Least mean NLL + off_diagonal_l2 · mean_{c≠c'} W_cc'² + bias_l2 · mean_c b_c² (ODIR).

        Args:
            probs: (N, C) probabilities of validation rows, or a predictive.
            labels: (N,) integer class indices.
            off_diagonal_l2: pull of the off-diagonal weights to 0, in nats. C (C + 1) numbers are fitted, so
                with many classes raise it, choosing by cross-validation on the validation rows.
            bias_l2: pull of the biases to 0, in nats.

        Returns:
            The fitted calibrator.

        Raises:
            InputError: shapes, dtypes or labels are wrong, a row is not a distribution, or a penalty is < 0.
        """
        x = features_of(probs)
        penalties = as_penalty("off_diagonal_l2", off_diagonal_l2), as_penalty("bias_l2", bias_l2)
        targets, n_classes = labels_of(labels, x), x.shape[1]
        identity = torch.eye(n_classes, dtype=x.dtype, device=x.device)
        per_weight = penalties[0] / max(1, n_classes * (n_classes - 1)) * (1 - identity)
        per_bias = penalties[1] / n_classes
        # Solved for V = W R⁻¹ and a = b + W μ, with (x − μ) R white: the classes' logarithms are correlated.
        centre, whitening, colouring = whitened(x)
        white = (x - centre) @ whitening

        def objective(theta: torch.Tensor) -> tuple[float, torch.Tensor]:
            weight, bias = unpacked(theta)
            value, residuals = nll_and_residuals(
                white @ theta.view(-1, n_classes)[:-1].T + theta[-n_classes:], targets
            )
            value += float((per_weight * weight.square()).sum() + per_bias * bias.square().sum())
            by_bias = 2 * per_bias * bias
            by_weight = 2 * per_weight * weight - torch.outer(by_bias, centre)
            return value, torch.cat(
                [(residuals.T @ white + by_weight @ whitening).flatten(), residuals.sum(0) + by_bias]
            )

        def unpacked(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            weight = theta.view(-1, n_classes)[:-1] @ whitening
            return weight, theta[-n_classes:] - weight @ centre

        return cls(*unpacked(minimised(objective, torch.cat([colouring.flatten(), centre]))))

    def __call__(self, probs: Any) -> Any:
        """Calibrated probabilities (N, C), of the kind that came (of a predictive, a tensor)."""
        x = features_of(probs)
        same_classes(x, len(self.bias))
        return returned(torch.softmax(x @ self.weight.to(x).T + self.bias.to(x), dim=1), probs)
