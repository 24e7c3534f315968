"""Any optimizer in low precision: SWALP's training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.lowprecision.formats import Format
from swag.lowprecision.inputs import check_gradients, check_weights
from swag.lowprecision.quantizer import check_format
from swag.noise import checked_seed, key_for, take_seed

_GRADIENTS, _ACCUMULATORS, _WEIGHTS, _MOMENTUM = range(4)
_STATE = "low_precision"


@final
class LowPrecisionOptimizer(torch.optim.Optimizer):
    r"""Rounds gradients, accumulators, weights and momentum around another optimizer's step.

        1.  g ← Q_G(g)
        2.  base.step() on the accumulators w_acc, with g, its momentum v and its rates
        3.  w_acc ← Q_acc(w_acc)
        4.  w ← Q_W(w_acc)
        5.  v ← Q_M(v)

    Without a format for accumulators there are none: the weights themselves are stepped and rounded, as in
    SWALP's algorithm 2. The weights are put on their grid when the optimizer is made, too. The average is
    then taken in full precision by an ordinary `swag.Collector(model)`, which also gives SWAG.

    It shares `param_groups` and `state` with the base optimizer, so that learning-rate schedulers work on
    either. A closure is evaluated at the low-precision weights, each time the base optimizer asks for it.

    It is a subclass of torch's class, which schedulers and training frameworks insist on.

    Args:
        base: any torch optimizer.
        weights: Q_W, or None to leave them.
        gradients: Q_G.
        momentum: Q_M, for the entries of the base optimizer's state named in `momentum_keys`.
        accumulators: Q_acc; of a longer word than the weights.
        momentum_keys: by default SGD's buffer and Adam's first moment. Second moments, whose small values a
            block exponent would turn into zeros, are left.
        skip: parameters to leave in full precision, such as batch norm's.
        seed: of the stochastic roundings; None takes one from torch's global generator.

    Raises:
        InputError: no optimizer, no format at all, a weight or gradient that its format refuses (integers,
            NaN); a bad gradient is named before anything is changed, whether or not gradients are rounded.

    Source: Yang et al. 2019 (SWALP), arXiv:1904.11943, algorithm 2.

    >>> from swag.lowprecision import BlockFloatingPoint
    >>> model = torch.nn.Linear(4, 1)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> eight = BlockFloatingPoint(8, dim=0)
    >>> optimizer = LowPrecisionOptimizer(sgd, weights=eight, gradients=eight, momentum=eight, seed=0)
    >>> model(torch.ones(2, 4)).sum().backward()
    >>> optimizer.step()
    >>> torch.equal(eight.to_nearest()(model.weight), model.weight)
    True
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        *,
        weights: Format | None = None,
        gradients: Format | None = None,
        momentum: Format | None = None,
        accumulators: Format | None = None,
        momentum_keys: Iterable[str] = ("momentum_buffer", "exp_avg"),
        skip: Iterable[Tensor] = (),
        seed: int | None = None,
    ) -> None:
        if not isinstance(base, torch.optim.Optimizer) or isinstance(base, LowPrecisionOptimizer):
            raise InputError(f"base: got a {type(base).__name__}; pass a torch optimizer such as SGD(…)")
        formats = {
            "weights": weights,
            "gradients": gradients,
            "momentum": momentum,
            "accumulators": accumulators,
        }
        for name, form in formats.items():
            check_format(name, form)
        if not any(formats.values()):
            raise InputError("weights: got None, as all other formats; pass at least one")
        if accumulators is not None and weights is None:
            raise InputError("accumulators: got a format without one for the weights; pass weights= too")
        super().__init__(base.param_groups, base.defaults)
        self.base = base
        self._formats = formats
        self._momentum_keys = tuple(momentum_keys)
        self._skipped = list(skip)
        self._seed = take_seed() if seed is None else checked_seed(seed)
        self._n_steps = 0
        self._accumulators: dict[int, Tensor] = {}
        self._share()
        # All of them before the first is rounded.
        forms = [form for form in (weights, accumulators) if form is not None]
        check_weights(self._parameters(), forms)
        self._store(self._parameters())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters to the base optimizer too; their weights are put on the grid."""
        known = sum(len(group["params"]) for group in self.param_groups)
        super().add_param_group(param_group)
        if "base" in self.__dict__:  # torch's constructor adds the base optimizer's own groups
            self._store({index: p for index, p in self._parameters().items() if index >= known})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base optimizer in low precision; returns what it returns.

        Raises:
            InputError: a gradient is sparse, NaN or infinite (the first is named); the weights stay. Or the
                step overflows, and takes the weights with it.
        """
        self._n_steps += 1
        parameters = self._parameters()
        in_use: dict[int, Tensor] = {}
        if closure is not None or self._accumulators:
            in_use = {index: p.clone() for index, p in parameters.items()}
        try:
            if closure is None:
                self._round_gradients()
            self._load_accumulators()
            result = self.base.step(closure and self._at_low_precision(closure, in_use))
        except BaseException:
            self._n_steps -= 1
            for index, weight in in_use.items():
                parameters[index].copy_(weight)
            raise
        self._round_momentum()
        self._store(self._parameters())
        return result

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state with the accumulators and the random numbers' state beside it."""
        accumulators = {index: value.clone() for index, value in self._accumulators.items()}
        own = {"seed": self._seed, "n_steps": self._n_steps, "accumulators": accumulators}
        return {**self.base.state_dict(), _STATE: own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken; the model's weights are restored by the model itself.

        Raises:
            InputError: the state of another optimizer, or of other parameters.
        """
        own = state_dict.get(_STATE)
        if not isinstance(own, Mapping) or not {"seed", "n_steps", "accumulators"} <= own.keys():
            raise InputError(
                "state_dict: has no state of a LowPrecisionOptimizer; pass what one gave, or load the state "
                "of a plain optimizer with optimizer.base.load_state_dict(…)"
            )
        parameters = self._parameters()
        wanted = set(self._accumulators)
        if set(own["accumulators"]) != wanted or any(
            own["accumulators"][index].shape != parameters[index].shape for index in wanted
        ):
            raise InputError("state_dict: its accumulators are of other parameters; pass this model's state")
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != _STATE})
        self._seed, self._n_steps = int(own["seed"]), int(own["n_steps"])
        for index in wanted:
            self._accumulators[index].copy_(own["accumulators"][index])
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        # Schedulers put a `step` on the object that calls the original's: a copy has to step itself.
        return {name: value for name, value in self.__dict__.items() if name != "step"}

    def __repr__(self) -> str:
        formats = ", ".join(f"{name}={form}" for name, form in self._formats.items() if form is not None)
        return f"LowPrecisionOptimizer({formats}, base={self.base!r})"

    def _share(self) -> None:
        # Loading a state puts new lists and dicts into the base optimizer.
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    def _parameters(self) -> dict[int, Tensor]:
        """The parameters to round, by their place in the groups."""
        every = [parameter for group in self.param_groups for parameter in group["params"]]
        skipped = {id(parameter) for parameter in self._skipped}
        return {index: p for index, p in enumerate(every) if id(p) not in skipped}

    def _key(self, role: int, index: int) -> int:
        return key_for(self._seed, self._n_steps, role, index)

    def _round_gradients(self) -> None:
        form = self._formats["gradients"]
        present = {index: p.grad for index, p in self._parameters().items() if p.grad is not None}
        check_gradients(present, form)
        if form is None:
            return
        for index, gradient in present.items():
            gradient.copy_(form.rounded(gradient, self._key(_GRADIENTS, index)))

    def _load_accumulators(self) -> None:
        parameters = self._parameters()
        for index, accumulator in self._accumulators.items():
            parameters[index].copy_(accumulator)

    def _at_low_precision(self, closure: Callable[[], Any], in_use: dict[int, Tensor]) -> Callable[[], Any]:
        """The closure, evaluated first at the weights in use, then at Q_W of what the optimizer tries."""
        form, first = self._formats["weights"], True

        @torch.no_grad()
        def evaluate() -> Any:
            nonlocal first
            parameters = self._parameters()
            stepped = {index: p.clone() for index, p in parameters.items()}
            for index, p in parameters.items():
                if first:
                    p.copy_(in_use[index])
                elif form is not None:
                    p.copy_(form.rounded(p, self._key(_WEIGHTS, index)))
            first = False
            with torch.enable_grad():
                loss = closure()
            self._round_gradients()
            for index, p in parameters.items():
                p.copy_(stepped[index])
            return loss

        return evaluate

    def _store(self, parameters: dict[int, Tensor]) -> None:
        """Rounds what the parameters hold, to accumulators and to weights."""
        longer, form = self._formats["accumulators"], self._formats["weights"]
        if form is None:
            return
        with torch.no_grad():
            for index, p in parameters.items():
                value = p
                try:
                    if longer is not None:
                        value = longer.rounded(p, self._key(_ACCUMULATORS, index))
                        self._accumulators[index] = value
                    p.copy_(form.rounded(value, self._key(_WEIGHTS, index)))
                except InputError as error:
                    raise InputError(
                        f"weights: the step took parameter {index} (shape {tuple(p.shape)}) out of range "
                        f"({error}); lower the learning rate, and start from the last state that was saved"
                    ) from error

    def _round_momentum(self) -> None:
        form = self._formats["momentum"]
        if form is None:
            return
        for index, p in self._parameters().items():
            for place, key in enumerate(self._momentum_keys):
                value = self.state.get(p, {}).get(key)
                if isinstance(value, Tensor) and value.is_floating_point() and value.shape == p.shape:
                    seed = key_for(self._key(_MOMENTUM, index), place)
                    value.copy_(form.rounded(value, seed))
