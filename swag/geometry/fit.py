"""Training a curve: its inner control points, so that the loss stays low all along it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any, SupportsFloat, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from swag.batches import Forward, as_tensor, check_loader, feed, length
from swag.errors import InputError, StateError
from swag.geometry.bases import basis_name
from swag.geometry.curve import Curve
from swag.geometry.targets import Targets, targets_of
from swag.parameters import Layout, unwrap
from swag.progress import track
from swag.shadow import Shadow

Loss = Callable[[Any, Any], Tensor]
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@final
class CurveFit:
    r"""Minimises E_{t~U(0,1)} [loss(θ(t))] + ½·weight_decay·E ‖θ(t)‖² over a curve's inner points.

    One t for each step, from a generator of its own; the ends stay fixed. θ(t) goes through the model by
    `torch.func.functional_call`, so any module works as it is: tied weights, batch norm, buffers. The model
    is copied and runs in train mode: batch norm by each batch's own statistics; modules that are in eval mode
    in a model in train mode stay so. Running statistics are of no use along a curve: `evaluate_along`
    recomputes them for every t.

    Args:
        model: gives the architecture and what the curve does not cover; it is not touched.
        curve: where to start, with at least one inner point; usually `Curve.between(first, second)`.
        loss: loss(outputs, targets) → a scalar, the mean over the batch, such as `F.cross_entropy`.
        optimizer: makes any torch optimizer for the inner points, one parameter (D,) each, such as
            `lambda points: torch.optim.SGD(points, lr=0.05, momentum=0.9)`; a scheduler may be put on
            `fit.optimizer`.
        weight_decay: multiplies ½‖θ(t)‖², as in training the ends (the optimizer's own would act on the
            control points instead).
        seed: of the draws of t.
        forward: forward(model, batch) → outputs; by default the first element of a tuple, a dict by keyword.
        targets: targets(batch); by default the second element of a tuple, a dict's "labels".

    Raises:
        InputError: a curve without inner points or of another architecture, a negative weight decay.

    Source: Garipov et al. 2018, arXiv:1802.10026, section 3.

    >>> from torch.nn import functional as F
    >>> first, second = nn.Linear(2, 3), nn.Linear(2, 3)
    >>> fit = CurveFit(first, Curve.between(first, second), F.cross_entropy,
    ...                optimizer=lambda points: torch.optim.SGD(points, lr=0.1))
    >>> losses = fit.train([(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))], epochs=3)
    >>> len(losses), fit.n_steps, fit.curve.n_points
    (3, 3, 3)
    """

    def __init__(
        self,
        model: nn.Module,
        curve: Curve,
        loss: Loss,
        *,
        optimizer: MakeOptimizer,
        weight_decay: float = 0.0,
        seed: int = 0,
        forward: Forward | None = None,
        targets: Targets | None = None,
    ) -> None:
        if not isinstance(curve, Curve):
            raise InputError(f"curve: got a {type(curve).__name__}; pass Curve.between(first, second)")
        if curve.n_points < 3:
            raise InputError("curve: has no inner point to train; pass Curve.between(..., n_inner=1) or more")
        if not isinstance(weight_decay, SupportsFloat) or not 0 <= float(weight_decay) < math.inf:
            raise InputError(f"weight_decay: got {weight_decay!r}; pass a finite number ≥ 0")
        layout = curve.layout or Layout.of(model)
        if layout.size != curve.points.shape[1]:
            raise InputError(
                f"curve: has D={curve.points.shape[1]}, the model's trainable parameters are "
                f"D={layout.size}: give the curve the layout it belongs to, or pass the model of its ends"
            )
        shadow = Shadow(model, layout)
        _copy_modes(unwrap(model), shadow.module)
        self._names = _names_in(shadow.module, layout)
        self._caller = _Caller(shadow.module, loss, forward or feed, targets or targets_of)
        self._layout, self._basis, self._of = layout, curve.basis, curve.layout
        device = next(shadow.module.parameters()).device
        points = curve.points.to(device)
        self._start, self._end = points[0].clone(), points[-1].clone()
        self._inner = [nn.Parameter(point.clone()) for point in points[1:-1]]
        self._weight_decay = float(weight_decay)
        self._generator = torch.Generator().manual_seed(seed)
        self.optimizer: torch.optim.Optimizer = optimizer(list(self._inner))
        self.n_steps: int = 0

    @property
    def curve(self) -> Curve:
        """The curve as it is now: a copy."""
        inner = [point.detach().clone() for point in self._inner]
        return Curve(torch.stack([self._start, *inner, self._end]), self._basis, layout=self._of)

    def step(self, batch: Any) -> float:
        """One step of the optimizer at one new t; an optimizer that evaluates often (LBFGS) keeps that t.

        Returns:
            The loss at θ(t) before the step, without the weight decay.

        Raises:
            StateError: the loss is not finite; the points are as before where the optimizer evaluates once.
        """
        before = self._generator.get_state()
        t = torch.rand(1, generator=self._generator, dtype=torch.float64, device="cpu")
        coefficients = self._basis.coefficients(t, len(self._inner) + 2)[0].tolist()
        losses: list[float] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            with torch.enable_grad():
                theta = self._theta(coefficients)
                loss = self._loss(theta, batch)
                losses.append(float(loss.detach()))
                if not math.isfinite(losses[-1]):
                    raise StateError(
                        f"loss: {losses[-1]} at step {self.n_steps + 1}, t = {float(t):.4f}; the step was "
                        "not taken: lower the learning rate, or check the batch"
                    )
                total = loss + 0.5 * self._weight_decay * theta.square().sum()
                total.backward()
            return total

        try:
            self.optimizer.step(closure)  # type: ignore[arg-type]
        except BaseException:
            self._generator.set_state(before)
            raise
        self.n_steps += 1
        return losses[0]

    def epoch(self, loader: Iterable[Any]) -> float:
        """One step for each batch of the loader; returns the mean of their losses.

        Raises:
            InputError: the loader is empty.
        """
        check_loader("loader", loader)
        losses = [self.step(batch) for batch in track(loader, "curve", total=length(loader))]
        if not losses:
            raise InputError("loader: gave no batch; pass a loader with at least one batch of training data")
        return math.fsum(losses) / len(losses)

    def train(self, loader: Iterable[Any], epochs: int) -> list[float]:
        """`epoch` several times, at a constant rate; for a schedule call `epoch` in a loop of your own.

        Returns:
            The mean loss of each epoch.
        """
        if isinstance(epochs, bool) or not isinstance(epochs, Integral) or epochs < 1:
            raise InputError(f"epochs: got {epochs!r}; pass an integer of at least 1")
        return [self.epoch(loader) for _ in range(epochs)]

    def state_dict(self) -> dict[str, Any]:
        """Points, optimizer, generator and steps: all that an exact resumption takes, but for dropout."""
        return {
            "basis": basis_name(self._basis),
            "layout": self._layout.to_list(),
            "points": self.curve.points,
            "generator": self._generator.get_state(),
            "optimizer": self.optimizer.state_dict(),
            "n_steps": self.n_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where `state_dict` was taken.

        Raises:
            InputError: the state of another kind of curve or another model; nothing was changed.
        """
        wanted = {"basis", "layout", "points", "generator", "optimizer", "n_steps"}
        if not isinstance(state, dict) or state.keys() != wanted:
            raise InputError(f"state: expected a dict with {sorted(wanted)}; pass what state_dict() gave")
        difference = self._layout.first_difference(Layout.from_list(state["layout"]))
        if difference is not None:
            raise InputError(f"state: belongs to another model ({difference})")
        points, shape = state["points"], (len(self._inner) + 2, self._layout.size)
        if state["basis"] != basis_name(self._basis) or tuple(points.shape) != shape:
            raise InputError(
                f"state: of a {state['basis']} with points {tuple(points.shape)}, this is a "
                f"{basis_name(self._basis)} with points {shape}"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())
        with torch.no_grad():
            self._start.copy_(points[0])
            self._end.copy_(points[-1])
            for point, saved in zip(self._inner, points[1:-1], strict=True):
                point.copy_(saved)
        self.n_steps = int(state["n_steps"])

    def _theta(self, coefficients: list[float]) -> Tensor:
        theta = coefficients[0] * self._start + coefficients[-1] * self._end
        for coefficient, point in zip(coefficients[1:-1], self._inner, strict=True):
            theta = theta.add(point, alpha=coefficient)
        return theta

    def _loss(self, theta: Tensor, batch: Any) -> Tensor:
        pieces = self._layout.unflatten(theta)
        values = {
            f"module.{self._names[entry.name]}": pieces[entry.name].to(entry.dtype)
            for entry in self._layout.entries
        }
        loss = functional_call(self._caller, values, (batch,))
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            came = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"loss: returned {came}; return a scalar, the mean over the batch")
        return loss.reshape(())

    def __repr__(self) -> str:
        return f"CurveFit({self._basis!r}, {len(self._inner)} inner points, {self.n_steps} steps)"


class _Caller(nn.Module):
    """A module whose call is the loss of a batch, so that a functional call reaches the user's ways."""

    def __init__(self, module: nn.Module, loss: Loss, forward: Forward, targets: Targets) -> None:
        super().__init__()
        self.module = module
        self._loss, self._run, self._targets = loss, forward, targets

    def forward(self, batch: Any) -> Tensor:
        outputs = self._run(self.module, batch)
        targets = self._targets(batch)
        if isinstance(outputs, Tensor) or hasattr(outputs, "logits"):
            outputs = as_tensor(outputs)
            if isinstance(targets, Tensor):
                targets = targets.to(outputs.device)
        return self._loss(outputs, targets)


def _copy_modes(model: nn.Module, copy: nn.Module) -> None:
    """Train mode, but for what the user holds in eval mode inside a model in train mode."""
    copy.train()
    if model.training:
        for theirs, ours in zip(model.modules(), copy.modules(), strict=True):
            ours.training = theirs.training


def _names_in(module: nn.Module, layout: Layout) -> dict[str, str]:
    """A functional call's names for the layout's parameters: those of compiled submodules differ."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    tensors = layout.tensors(module)
    return {entry.name: names[id(tensor)] for entry, tensor in zip(layout.entries, tensors, strict=True)}
