"""SWA as an optimizer around an optimizer, in torchcontrib's manner.

Somewhat longer than the house likes: it is one class, and most of it is what torch expects of an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from swag.batches import Forward
from swag.batchnorm import refresh_batchnorm_
from swag.errors import InputError, StateError
from swag.parameters import Layout, named_parameters
from swag.posterior import PointMass
from swag.training.group_averages import GroupAverages
from swag.training.optimizer_settings import automatic

STATE_VERSION = 1


@final
class SWAOptimizer(Optimizer):
    r"""Any torch optimizer, with stochastic weight averaging of its parameters.

    Automatic mode, with swa_start and swa_freq: after the i-th `step()` (i from 1) the iterate joins the
    average if i > swa_start and i % swa_freq == 0; the rate is swa_lr for every step with i > swa_start,
    whatever a scheduler sets. Manual mode, without them: `update_swa()` when the user wants, any scheduler.

    The average is equal, in float32 or better, shifted by its first snapshot; 8 bytes a parameter from then
    on. Parameter groups and state are those of `base` itself, so schedulers may hold either of the two. A
    GradScaler must get this wrapper, for `unscale_` and `step` alike: it keeps books on each optimizer, and a
    step of the base would not be averaged. A step that it skips does not count.

    Args:
        base: the optimizer that takes the steps.
        swa_start: steps before the averaging.
        swa_freq: steps between two snapshots.
        swa_lr: the rate while averaging, one number or one a parameter group; None leaves it alone.

    Raises:
        InputError: one of swa_start and swa_freq without the other, swa_lr without them, or out of range.

    Source: Izmailov et al. 2018, arXiv:1803.05407; torchcontrib.optim.SWA.

    >>> weight = torch.nn.Parameter(torch.tensor([0.0]))
    >>> optimizer = SWAOptimizer(torch.optim.SGD([weight], lr=1.0), swa_start=2, swa_freq=2)
    >>> for _ in range(6):
    ...     weight.grad = torch.tensor([-1.0])          # so that step i leads to i
    ...     optimizer.step()
    >>> optimizer.swap_swa_sgd()                        # the mean of iterates 4 and 6
    >>> weight.item()
    5.0
    >>> optimizer.swap_swa_sgd()
    >>> weight.item()
    6.0
    """

    def __init__(
        self,
        base: Optimizer,
        swa_start: int | None = None,
        swa_freq: int | None = None,
        swa_lr: float | Sequence[float] | None = None,
    ) -> None:
        if not isinstance(base, Optimizer) or isinstance(base, SWAOptimizer):
            raise InputError(f"base: got a {type(base).__name__}; pass a torch.optim.Optimizer, such as SGD")
        settings = automatic(swa_start, swa_freq, swa_lr)
        if settings is not None:
            settings.check_groups(len(base.param_groups))
        # Not Optimizer.__init__, which would make groups and state of its own.
        self._base = base
        self._automatic = settings
        self._n_steps = 0
        self._averages = GroupAverages()
        super().__setstate__({})  # the hooks, and `step` wrapped so that they run

    @property
    def base(self) -> Optimizer:
        """The optimizer that takes the steps."""
        return self._base

    @property
    def optimizer(self) -> Optimizer:
        """The same under torchcontrib's name."""
        return self._base

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's own."""
        return self._base.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self._base.param_groups = value

    @property
    def state(self) -> Any:
        """The base's own."""
        return self._base.state

    @state.setter
    def state(self, value: Any) -> None:
        self._base.state = value

    @property
    def defaults(self) -> dict[str, Any]:
        """The base's own."""
        return self._base.defaults

    @defaults.setter
    def defaults(self, value: dict[str, Any]) -> None:
        self._base.defaults = value

    @property
    def n_steps(self) -> int:
        """i, the steps taken so far."""
        return self._n_steps

    @property
    def n_averaged(self) -> list[int]:
        """The snapshots in the average of each parameter group."""
        return self._averages.counts(self.param_groups)

    @property
    def swapped(self) -> bool:
        """Whether the averages are in the model now, and the iterates aside."""
        return self._averages.swapped

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base, then, in automatic mode, the average.

        Args:
            closure: evaluates the loss again, for optimizers that want it.

        Returns:
            What the base's step returned: the loss, with a closure.

        Raises:
            StateError: the averages are in the model (`swap_swa_sgd()` takes them out).
            InputError: the iterate to be averaged is not finite; the step was taken, the average unchanged.
        """
        self._before_step()
        loss = self._base.step() if closure is None else self._base.step(closure)
        self._after_step()
        return loss

    # Python counters would have a compiled step compiled anew each time, so these two stay outside of it.
    @torch._disable_dynamo
    def _before_step(self) -> None:
        self._averages.check_iterates_are_in("step()")
        if self._automatic is not None:
            self._automatic.set_rates_(self.param_groups, self._n_steps + 1)

    @torch._disable_dynamo
    def _after_step(self) -> None:
        self._n_steps += 1
        if self._automatic is not None and self._automatic.joins(self._n_steps):
            self.update_swa()

    def update_swa(self) -> None:
        """Takes the present iterate into the averages of all groups.

        Raises:
            StateError: the averages are in the model, or the parameters are others than at the first average.
            InputError: a parameter is not finite; the averages are unchanged.
        """
        self._averages.update(self.param_groups, range(len(self.param_groups)))

    def update_swa_group(self, group: Mapping[str, Any]) -> None:
        """Takes the present iterate into the average of one group, one of `param_groups`.

        Raises:
            InputError: not one of the groups; or as for `update_swa`.
            StateError: as for `update_swa`.
        """
        found = [i for i, own in enumerate(self.param_groups) if own is group]
        if not found:
            raise InputError("group: is none of optimizer.param_groups; pass one of them")
        self._averages.update(self.param_groups, found)

    def swap_swa_sgd(self) -> None:
        """Exchanges weights and averages; the second time back again, both bit for bit.

        A group that was never averaged keeps its weights (a warning is logged). What happens to the weights
        between two swaps is lost.

        Raises:
            StateError: there is no average yet.
        """
        self._averages.swap(self.param_groups)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the model holds the averages, afterwards the iterates, also after an exception.

        Raises:
            StateError: there is no average yet, or it is in the model already.
        """
        self._averages.check_iterates_are_in("averaged()")
        self.swap_swa_sgd()
        try:
            yield
        finally:
            if self.swapped:
                self.swap_swa_sgd()

    def reset_swa(self) -> None:
        """Forgets the averages and lets averaging begin anew; the count of steps goes on.

        Raises:
            StateError: the averages are in the model.
        """
        self._averages.check_iterates_are_in("reset_swa()")
        self._averages = GroupAverages()

    def swa(self, model: nn.Module) -> PointMass:
        """The averages as a posterior over a model's parameters, for `swag.Ensemble`.

        Args:
            model: the one whose parameters are optimised.

        Raises:
            StateError: there is no average yet.
            InputError: the model holds none of the averaged parameters.
        """
        means = self._averages.by_parameter(self.param_groups)
        if not means:
            raise StateError("swa: nothing was averaged yet; step beyond swa_start, or call update_swa()")
        names = {name for name, parameter in named_parameters(model) if id(parameter) in means}
        if not names:
            raise InputError("model: holds none of the averaged parameters; pass the optimised model")
        layout = Layout.of(model, lambda name, _: name in names)
        parts = [means[id(tensor)].reshape(-1) for tensor in layout.tensors(model)]
        device = parts[0].device
        theta = torch.cat([part.to(device, layout.statistics_dtype) for part in parts])
        return PointMass(theta, layout=layout)

    @staticmethod
    def bn_update(
        loader: Iterable[Any],
        model: nn.Module,
        device: torch.device | str | None = None,
        *,
        forward: Forward | None = None,
    ) -> None:
        """`swag.refresh_batchnorm_(model, loader)`: exact statistics, where torchcontrib's drifted.

        Args:
            loader: training batches.
            model: gets the statistics.
            device: torchcontrib's argument; without effect, since batches go to the model's device by
                themselves.
            forward: how a batch is fed to the model.
        """
        refresh_batchnorm_(model, loader, forward=forward)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The base's own."""
        self._base.zero_grad(set_to_none=set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the base, before averaging begins.

        Raises:
            StateError: averaging has begun: groups would be averaged over different stretches.
            InputError: swa_lr is a list without a rate for it.
        """
        if self._averages.begun:
            raise StateError(
                "add_param_group: averaging has begun; add parameters before it, or call reset_swa() to "
                "begin the averages anew"
            )
        if self._automatic is not None:
            self._automatic.check_groups(len(self.param_groups) + 1)
        self._base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base's state_dict with the averages and the count of steps under "swa"; resumes bit for bit.

        The base alone can load it, too. Safe for `torch.load(weights_only=True)`.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state = {
            **self._base.state_dict(),
            "swa": {
                "version": STATE_VERSION,
                "n_steps": self._n_steps,
                "averages": self._averages.state(self.param_groups),
            },
        }
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state)
            state = state if changed is None else changed
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken; swa_start, swa_freq and swa_lr stay this optimizer's.

        Raises:
            InputError: no averages in it, or they do not fit these groups. Nothing was changed.
            ValueError: the base's own refusal. Nothing was changed.
        """
        state = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state)
            state = state if changed is None else changed
        if "swa_state" in state and "opt_state" in state:
            raise InputError(
                "state_dict: is torchcontrib's; pass it to swag.training.load_torchcontrib_(optimizer, state)"
            )
        swa = state.pop("swa", None)
        if not isinstance(swa, Mapping) or swa.get("version") != STATE_VERSION:
            raise InputError(
                "state_dict: has no averages of this library; pass what SWAOptimizer.state_dict() returned, "
                "or load a plain optimizer's state with optimizer.base.load_state_dict(…)"
            )
        n_steps = swa.get("n_steps")
        if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 0:
            raise InputError(f"state_dict: 'n_steps' is {n_steps!r}; the state is damaged")
        averages = GroupAverages.loaded(swa.get("averages"), self.param_groups)
        self._base.load_state_dict(state)
        self._n_steps, self._averages = n_steps, averages
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _resume(self, n_steps: int, averages: GroupAverages) -> None:
        """For states of other libraries."""
        self._n_steps, self._averages = n_steps, averages

    def __getstate__(self) -> dict[str, Any]:
        own = ("_base", "_automatic", "_n_steps", "_averages")
        return {name: self.__dict__[name] for name in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        super().__setstate__({})

    def __repr__(self) -> str:
        own = self._automatic
        when = "by hand" if own is None else f"after step {own.start}, every {own.freq}"
        return f"SWAOptimizer({type(self._base).__name__}, {when}, n_averaged={self.n_averaged})"
