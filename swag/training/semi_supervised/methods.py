"""Labels alone, and the Pi model: how a mixed batch becomes one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from swag.errors import InputError
from swag.training.callbacks import Epoch, Step
from swag.training.semi_supervised.augmentation import Augment
from swag.training.semi_supervised.consistency import Consistency, check_labels_of, labelled_cross_entropy
from swag.training.semi_supervised.progress import Progress
from swag.training.semi_supervised.views import Views, heads, inputs_of, looks, predicted


class Method(Protocol):
    """What `train_semi_supervised` trains by: `Supervised`, `PiModel`, `MeanTeacher`.

    It is a callback of `train`, with a state, and works in a loop of the user's own: `forward`, `loss`,
    backward, step, `after_step`.
    """

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """What `loss` wants in train mode; in eval mode the logits (B, C) of the inputs as they came."""

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """One number, divided by the rows of the batch."""

    def __call__(self, epoch: Epoch, /) -> object:
        """Told of every epoch."""

    def after_step(self, step: Step, /) -> object:
        """Told of every step."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""


@final
class Supervised:
    """Labels alone, under the same augmentation and schedule: what the others are compared with.

    Args:
        augment: augment(x, generator) → x, of every training batch; None for none.
        generator: what augment is given; None for torch's global one.

    >>> method = Supervised()
    >>> model = nn.Linear(2, 2)
    >>> labels = torch.tensor([0, -1])
    >>> method.loss(method.forward(model, (torch.ones(2, 2), labels)), labels).shape
    torch.Size([])
    """

    def __init__(self, *, augment: Augment | None = None, generator: torch.Generator | None = None) -> None:
        self._progress = Progress("supervised", augment, generator)

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        """Logits (B, C)."""
        if not model.training:
            return predicted(model, batch)
        logits = heads(model(self._progress.augmented(inputs_of(model, batch))))[0]
        check_labels_of(batch, logits)
        return logits

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(1/B) Σ −log p over the labelled rows, B all rows."""
        return labelled_cross_entropy(outputs, labels)

    def __call__(self, epoch: Epoch, /) -> None:
        """Nothing."""

    def after_step(self, step: Step, /) -> None:
        """Nothing but where the run is."""
        self._progress.epoch = step.epoch

    def state_dict(self) -> dict[str, Any]:
        """The generator's state."""
        return self._progress.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken."""
        self._progress.load(state)


@final
class PiModel:
    r"""The Pi model: one network looks at every row twice, each time augmented anew, and should agree.

    Dropout and batch norm act in both looks. No gradient flows into the second one, the target: so it is in
    the code of Athiwaratkun et al. In Laine & Aila 2017 it flows into both, which for a symmetric distance
    doubles the consistency's gradient in expectation.

    Args:
        consistency: weight, ramp, distance, coupling.
        augment: augment(x, generator) → x; without one, only dropout tells the looks apart.
        generator: what augment is given; None for torch's global one.

    Raises:
        InputError: no `Consistency`, or an augment that is no function.

    Source: Laine & Aila 2017, arXiv:1610.02242; Athiwaratkun et al. 2019, arXiv:1806.05594.

    >>> method = PiModel(Consistency(weight=1, ramp=0), augment=lambda x, generator: x)
    >>> model, labels = nn.Linear(2, 2), torch.tensor([0, -1])
    >>> views = method.forward(model, (torch.ones(2, 2), labels))
    >>> torch.equal(views.logits, views.target), views.target.requires_grad
    (True, False)
    """

    def __init__(
        self,
        consistency: Consistency | None = None,
        *,
        augment: Augment | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.consistency = checked_consistency(consistency)
        self._progress = Progress("pi_model", augment, generator)

    def forward(self, model: nn.Module, batch: Any) -> Views | Tensor:
        """Both looks; in eval mode the logits."""
        if not model.training:
            return predicted(model, batch)
        views = looks(model, model, batch, self._progress.augmented)
        check_labels_of(batch, views.logits)
        return views

    def loss(self, outputs: Views | Tensor, labels: Tensor) -> Tensor:
        """As `Consistency.loss`; the cross-entropy alone for outputs of eval mode."""
        return self.consistency.loss(outputs, labels, self._progress.epoch)

    def __call__(self, epoch: Epoch, /) -> None:
        """Nothing more: the ramp moves with the steps, and with epochs for loaders without length."""
        self._progress.epoch = epoch.number

    def after_step(self, step: Step, /) -> None:
        """Moves the ramp."""
        self._progress.epoch = step.epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the ramp is, and the generator's state."""
        return self._progress.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken.

        Raises:
            InputError: it is another method's.
        """
        self._progress.load(state)


def checked_consistency(consistency: Consistency | None) -> Consistency:
    """The one that was meant; the published one for None."""
    if consistency is not None and not isinstance(consistency, Consistency):
        raise InputError(
            f"consistency: got a {type(consistency).__name__}; pass Consistency(weight=100, ramp=5)"
        )
    return Consistency() if consistency is None else consistency
