r"""What is minimised: cross-entropy where there are labels, and agreement of two looks at every row.

    L = (1/B)·[ Σ_{labelled} −log p_i(y_i) + λ(e)·Σ_i d(p_i, q_i) + c·Σ_i ‖a_i − b_i‖²/C ]

with B the rows of the whole batch, p the predictions, q those of the other look, λ the weight at epoch e,
and a, b the logits of two heads. All is divided by B, as in the authors' code: with half of a batch labelled,
the first term is half the mean over labelled rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from swag.errors import InputError
from swag.training.semi_supervised.views import Views

UNLABELLED = -1

# distance(logits, target logits) → the mean over rows; gradients may flow into both.
Distance = Callable[[Tensor, Tensor], Tensor]


def softmax_mse(logits: Tensor, target: Tensor) -> Tensor:
    r"""Mean over rows of the squared distance of two distributions, over the classes.

        (1/B) Σ_i ‖softmax(a_i) − softmax(b_i)‖²/C

    Args:
        logits: a (B, C).
        target: b (B, C), logits too.

    Returns:
        One number.

    Source: Tarvainen & Valpola 2017, arXiv:1703.01780; the division by C is their code's.

    >>> softmax_mse(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, float("-inf")]])).item()
    0.25
    """
    return F.mse_loss(logits.softmax(1), target.softmax(1))


def softmax_kl(logits: Tensor, target: Tensor) -> Tensor:
    r"""Mean over rows of KL(softmax(target) ‖ softmax(logits)), in nats; not divided by C.

    Args:
        logits: (B, C).
        target: (B, C), logits too.

    Returns:
        One number.

    >>> round(softmax_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -99.0]])).item(), 4)
    0.6931
    """
    return F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True)


def coupling_cost(first: Tensor, second: Tensor) -> Tensor:
    r"""Mean over rows of ‖a_i − b_i‖²/C, for the logits of two heads; gradients flow into both.

    >>> coupling_cost(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])).item()
    0.5
    """
    return F.mse_loss(first, second)


def labelled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""(1/B) Σ −log softmax(logits_i)[y_i] over the rows with a label, B all rows.

    Args:
        logits: (B, C).
        labels: (B,) whole numbers from 0 to C − 1, or `UNLABELLED`.

    Raises:
        InputError: other shapes, or labels (those on the CPU; elsewhere a look would make the host wait).

    >>> logits = torch.zeros(4, 2)
    >>> round(labelled_cross_entropy(logits, torch.tensor([0, 1, -1, -1])).item(), 4)  # ln 2 / 2
    0.3466
    """
    check_labels(logits, labels)
    return F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum") / len(logits)


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """Raises InputError where labels do not fit the logits."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        came = (
            f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        )
        raise InputError(f"labels: got {came}; pass torch.int64 (B,), with {UNLABELLED} for rows without one")
    if logits.ndim != 2 or len(logits) != len(labels):
        raise InputError(
            f"model: gave outputs {tuple(logits.shape)} for {len(labels)} labels; it should "
            "give logits (B, C)"
        )
    if labels.device.type == "cpu" and len(labels):
        low, high = (int(value) for value in labels.aminmax())
        if low < UNLABELLED or high >= logits.shape[1]:
            raise InputError(
                f"labels: got {low if low < UNLABELLED else high} for {logits.shape[1]} classes; pass 0 to "
                f"{logits.shape[1] - 1}, or {UNLABELLED} for a row without a label"
            )


def check_labels_of(batch: Any, logits: Tensor) -> None:
    """The same for labels that are on the CPU while the logits are not.

    Here a look costs no waiting; there a label out of range would end all work on a CUDA device.
    """
    labels = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    if isinstance(labels, Tensor) and logits.device.type != "cpu":
        check_labels(logits, labels)


def sigmoid_ramp(epoch: float, length: float) -> float:
    r"""exp(−5(1 − t)²) with t = min(1, epoch/length): from 0.0067 up to 1; 1 throughout for length 0.

    Source: Laine & Aila 2017, arXiv:1610.02242.

    >>> [round(sigmoid_ramp(epoch, 5), 4) for epoch in (0, 2.5, 5, 99)]
    [0.0067, 0.2865, 1.0, 1.0]
    """
    if length == 0:
        return 1.0
    return math.exp(-5 * (1 - min(1.0, epoch / length)) ** 2)


@final
@dataclass(frozen=True)
class Consistency:
    r"""How two looks at a row are made to agree: λ(e) = weight·exp(−5(1 − e/ramp)²) times a distance.

    The defaults are those of Athiwaratkun et al. 2019 for CIFAR-10. All is divided by the rows of the whole
    batch, labelled or not.

    Args:
        weight: the largest λ.
        ramp: epochs until λ is there, fractions included; 0 for at once.
        distance: `softmax_mse`, `softmax_kl`, or a function like them.
        coupling: c, for a model that gives a pair of logits, one for labels and one for consistency
            (`TwoHeads`); 0.01 is published. None for one head.

    Raises:
        InputError: a number out of range, or a distance that is no function.

    >>> round(Consistency(weight=100, ramp=5).weight_at(2.5), 2)
    28.65
    """

    weight: float = 100.0
    ramp: float = 5.0
    distance: Distance = softmax_mse
    coupling: float | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "ramp", "coupling"):
            value = getattr(self, name)
            if name == "coupling" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"{name}: got {value!r}; pass a number, 0 or more")
        if not callable(self.distance):
            raise InputError(
                f"distance: got {self.distance!r}; pass softmax_mse, softmax_kl, or a function of "
                "(logits, target logits)"
            )

    def weight_at(self, epoch: float) -> float:
        """λ after so many epochs, fractions included (the authors' code moves it once an epoch)."""
        return self.weight * sigmoid_ramp(epoch, self.ramp)

    def loss(self, views: Views | Tensor, labels: Tensor, epoch: float) -> Tensor:
        """L of a batch; its first term alone where there was one look.

        Args:
            views: what the model gave; logits (B, C) in eval mode.
            labels: (B,).
            epoch: e.

        Raises:
            InputError: labels do not fit, or one head came where two are coupled, or the other way about.
        """
        if isinstance(views, Tensor):
            return labelled_cross_entropy(views, labels)
        if (self.coupling is None) != (views.consistent is None):
            raise InputError(
                "coupling: is None, and the model gave two heads; pass Consistency(coupling=0.01)"
                if self.coupling is None
                else f"coupling: got {self.coupling!r}, and the model gave one head; wrap it in TwoHeads, or "
                "leave coupling out"
            )
        found = labelled_cross_entropy(views.logits, labels)
        looked = views.logits if views.consistent is None else views.consistent
        found = found + self.weight_at(epoch) * self.distance(looked, views.target)
        if self.coupling is not None and views.consistent is not None:
            found = found + self.coupling * coupling_cost(views.logits, views.consistent)
        return found
