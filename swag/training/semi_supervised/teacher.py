"""Mean Teacher: the other look is that of an average of the network's own past."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.batches import device_of
from swag.errors import InputError
from swag.parameters import Layout, unwrap
from swag.training.callbacks import Epoch, Step
from swag.training.model_state import check_model_state, load_model_state_, model_state
from swag.training.semi_supervised.augmentation import Augment
from swag.training.semi_supervised.consistency import Consistency, check_labels_of
from swag.training.semi_supervised.methods import checked_consistency
from swag.training.semi_supervised.progress import Progress
from swag.training.semi_supervised.views import Views, looks, predicted


@final
class MeanTeacher:
    r"""Mean Teacher: a running average θ′ of the weights gives the target for every row.

        θ′_t = α_t·θ′_{t−1} + (1 − α_t)·θ_t,   α_t = min(1 − 1/(t + 1), decay),   t = 1, 2, … steps

    so that at first θ′ is the plain mean of θ_0, …, θ_t. θ′_0 = θ_0, a copy of the model (in the authors'
    code a second random start). The teacher runs in train mode, its batch norm by each batch's own
    statistics, and has running statistics of its own; no gradient flows into it. SWA and fast-SWA average
    the student.

    Args:
        model: the network that will be trained; copied now, so move it to its device before.
        consistency: weight, ramp, distance, coupling.
        decay: the largest α; 0.97 in Athiwaratkun et al., 0.999 in Tarvainen & Valpola (0.99 at first).
        augment: augment(x, generator) → x, of each look.
        generator: what augment is given; None for torch's global one.

    Attributes:
        teacher: the network with the weights θ′; for predictions, `teacher.eval()`.

    Raises:
        InputError: decay outside [0, 1), or as for `PiModel`.

    Source: Tarvainen & Valpola 2017, arXiv:1703.01780.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> method = MeanTeacher(model, decay=0.6)
    >>> _ = nn.init.constant_(method.teacher.weight, 0.0), nn.init.constant_(model.weight, 1.0)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for t in (1, 2, 3):
    ...     method.after_step(Step(t, 0.0, model, optimizer))
    ...     print(round(method.teacher.weight.item(), 4))  # α = 1/2, 0.6, 0.6
    0.5
    0.7
    0.82
    """

    def __init__(
        self,
        model: nn.Module,
        consistency: Consistency | None = None,
        *,
        decay: float = 0.97,
        augment: Augment | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model: got a {type(model).__name__}; pass the module that will be trained")
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
            raise InputError(f"decay: got {decay!r}; pass a number in [0, 1), such as 0.97")
        self.consistency = checked_consistency(consistency)
        self.decay = float(decay)
        self._progress = Progress("mean_teacher", augment, generator)
        self._layout = Layout.of(model)
        self.teacher = copy.deepcopy(unwrap(model)).requires_grad_(False)
        self.teacher.zero_grad(set_to_none=True)
        self._followed: list[Tensor] = [*self._layout.tensors(self.teacher)]
        self._steps = 0

    def forward(self, model: nn.Module, batch: Any) -> Views | Tensor:
        """The student's look and the teacher's; in eval mode the student's logits."""
        if not model.training:
            return predicted(model, batch)
        self._beside(model)
        views = looks(model, self.teacher, batch, self._progress.augmented)
        check_labels_of(batch, views.logits)
        return views

    def loss(self, outputs: Views | Tensor, labels: Tensor) -> Tensor:
        """As `Consistency.loss`; the cross-entropy alone for outputs of eval mode."""
        return self.consistency.loss(outputs, labels, self._progress.epoch)

    def __call__(self, epoch: Epoch, /) -> None:
        """Nothing more: the ramp moves with the steps, and with epochs for loaders without length."""
        self._progress.epoch = epoch.number

    @torch.no_grad()
    def after_step(self, step: Step, /) -> None:
        """The teacher takes its share of the new weights.

        Raises:
            InputError: the model is not the one this was made for.
        """
        students: list[Tensor] = [*self._layout.tensors(step.model)]
        self._beside(step.model)
        self._steps += 1
        alpha = min(1 - 1 / (self._steps + 1), self.decay)
        torch._foreach_lerp_(self._followed, students, 1 - alpha)
        self._progress.epoch = step.epoch

    def state_dict(self) -> dict[str, Any]:
        """The teacher, its steps, and the generator's state."""
        teacher = {name: value.clone() for name, value in model_state(self.teacher).items()}
        return {**self._progress.state(), "steps": self._steps, "teacher": teacher}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken; checked before anything changes.

        Raises:
            InputError: it is another method's, or another model's.
        """
        self._progress.check(state)
        check_model_state(self.teacher, state["teacher"])
        self._progress.load(state)
        load_model_state_(self.teacher, state["teacher"])
        self._steps = int(state["steps"])

    def _beside(self, model: nn.Module) -> None:
        """The teacher on the student's device, and in its modes, layer by layer (frozen ones stay frozen)."""
        place = device_of(model)
        if device_of(self.teacher) != place:
            self.teacher.to(place)
            self._followed = [*self._layout.tensors(self.teacher)]
        for mine, its in zip(self.teacher.modules(), unwrap(model).modules(), strict=False):
            mine.training = its.training
