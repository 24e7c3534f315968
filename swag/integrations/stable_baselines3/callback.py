"""The callback: snapshots of a policy along training, averages evaluated beside it, and SWAG over policies.

Longer than most files here: a callback is one class by its framework's rules.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import gymnasium
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from swag.arguments import whole
from swag.atomic import replacing
from swag.checkpoints.pickled import load_pickled
from swag.collector import Collector
from swag.errors import FileError, InputError, StateError
from swag.files import save
from swag.integrations.stable_baselines3.evaluation import Evaluation, Evaluator
from swag.integrations.stable_baselines3.networks import selected
from swag.posterior import LowRankGaussian
from swag.training import RunningAverage
from swag.training.rules import Rule

_log = logging.getLogger(__name__)

_KIND, _VERSION = "swag.stable_baselines3", 1
_BEFORE = -1  # no turn taken yet


@final
class SWAGCallback(BaseCallback):
    r"""Averages a policy's weights along `learn`, for any algorithm of stable-baselines3.

    After an update, at the first time that t ≥ swa_start environment steps are done and every `every` steps
    from there, the trainable weights join a `swag.Collector`: θ̄ is SWA's policy, N(θ̄, Σ) SWAG over policies.
    The same weights are never taken twice, so an algorithm that updates more rarely is followed once an
    update. Every `eval_every` steps the current policy and the average play the same episodes,
    deterministically, on environments of their own; both are logged as `eval/current_mean_return`,
    `eval/swa_mean_return`. Training is the same, bit for bit, as without the callback.

    Averages go on over further calls of `learn` (steps are counted anew where those reset them).

    Args:
        rank: K, the deviation rows kept for the posterior; below 2 it is diagonal.
        swa_start: environment steps (as in `total_timesteps`) before the first snapshot.
        every: environment steps from snapshot to snapshot.
        networks: which of the policy's networks, e.g. ("actor", "critic") for DDPG, TD3 and SAC, ("q_net",)
            for DQN; None for all but target networks, which are never averaged.
        scale: multiplies the posterior's covariance; 0.5 is SWAG's.
        also: further averages of the same snapshots by rules of `swag.training`, e.g. {"ema": EMA(0.98)}.
        eval_env: a gymnasium environment or a `VecEnv`; None for no evaluation.
        eval_every: environment steps from evaluation to evaluation.
        n_eval_episodes: episodes of each policy in an evaluation.
        eval_seed: seeds the environments before each policy's turn: all play the same starts, every time.
        save_path: a folder for `save`, written at every evaluation and at the end of training.
        verbose: as in stable-baselines3.

    Raises:
        InputError: a number out of range, an evaluation environment without eval_every; when training
            starts: networks that the policy does not have, an environment that does not fit or is training's
            own, the callback given twice, or to another callback.
        StateError: when training starts, with another model's snapshots inside; the evaluation environment
            raised.

    Source: Nikishin et al., UDL 2018 (Improving stability in deep RL with weight averaging).

    >>> from stable_baselines3 import A2C
    >>> callback = SWAGCallback(rank=5, swa_start=40, every=20)
    >>> model = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu").learn(200, callback=callback)
    >>> callback.n_collected, callback.posterior.mean.shape
    (9, torch.Size([9155]))
    """

    def __init__(
        self,
        rank: int = 20,
        swa_start: int = 0,
        every: int = 1_000,
        *,
        networks: Sequence[str] | None = None,
        scale: float = 0.5,
        also: Mapping[str, Rule] | None = None,
        eval_env: gymnasium.Env[Any, Any] | VecEnv | None = None,
        eval_every: int | None = None,
        n_eval_episodes: int = 10,
        eval_seed: int = 0,
        save_path: str | os.PathLike[str] | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.rank = whole("rank", rank, 0)
        self.swa_start = whole("swa_start", swa_start, 0)
        self.every = whole("every", every, 1)
        if isinstance(networks, str):
            raise InputError(f"networks: got a text; pass a tuple of names, as in ({networks!r},)")
        if networks is not None and not (
            isinstance(networks, Sequence) and all(isinstance(name, str) for name in networks)
        ):
            raise InputError(f"networks: got {networks!r}; pass a tuple of names")
        self.networks = None if networks is None else tuple(networks)
        if self.networks == ():
            raise InputError("networks: is empty; name some, or leave it out for all")
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < float("inf"):
            raise InputError(f"scale: got {scale!r}; pass a finite number, 0 or more (0.5 is SWAG's)")
        self.scale = float(scale)
        if also is not None and not isinstance(also, Mapping):
            raise InputError(f"also: got a {type(also).__name__}; pass a dict, as in {{'ema': EMA(0.98)}}")
        self.also = dict(also or {})
        for name in self.also:
            if name in ("current", "swa"):
                raise InputError(f"also: the name {name!r} is taken; call the average something else")
        self._evaluator: Evaluator | None = None
        self._eval_every = 1
        n_episodes, seed = whole("n_eval_episodes", n_eval_episodes, 1), whole("eval_seed", eval_seed, 0)
        if eval_env is not None:
            if eval_every is None:
                raise InputError("eval_every: missing; pass the steps from evaluation to evaluation")
            self._eval_every = whole("eval_every", eval_every, 1)
            self._evaluator = Evaluator(eval_env, n_episodes, seed)
        elif eval_every is not None:
            raise InputError(f"eval_env: missing, though eval_every={eval_every!r}; pass an environment")
        self.save_path = None if save_path is None else Path(save_path)
        self.evaluations: list[Evaluation] = []
        self._collector: Collector | None = None
        self._averages: dict[str, RunningAverage] = {}
        self._followed: BaseAlgorithm | None = None
        self._begun: dict[str, Any] | None = None
        # The last turns taken, the updates at the last snapshot, and the steps last seen.
        self._turn, self._eval_turn, self._updates, self._steps = _BEFORE, 0, 0, 0

    # What users read

    @property
    def collector(self) -> Collector:
        """The snapshots' moments, for `swag_diag()`, `subspace(k)`, ….

        Raises:
            StateError: training has not started.
        """
        if self._collector is None:
            raise StateError("SWAGCallback: has seen no model yet; pass it to learn(callback=…) first")
        return self._collector

    @property
    def n_collected(self) -> int:
        """The snapshots so far."""
        return 0 if self._collector is None else self._collector.n_collected

    @property
    def posterior(self) -> LowRankGaussian:
        """SWAG over policies, N(θ̄, scale·(Σ_diag + D̂D̂ᵀ/(k−1))); the diagonal alone where rank < 2.

        Raises:
            StateError: fewer than two snapshots.
        """
        collector = self.collector
        return collector.swag(self.scale) if self.rank >= 2 else collector.swag_diag(self.scale)

    @contextmanager
    def applied(self, name: str = "swa") -> Iterator[BaseAlgorithm]:
        """Inside the block the model acts by an average, afterwards by its own weights exactly.

        Args:
            name: "swa", or a name in `also`.

        Raises:
            StateError: no snapshot yet.
        """
        model = self._model()
        if name != "swa" and name not in self._averages:
            raise InputError(
                f"name: got {name!r}; there are {', '.join(map(repr, ('swa', *self._averages)))}"
            )
        average = self.collector if name == "swa" else self._averages[name]
        with average.applied(model.policy):
            yield model

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes what there is into a folder, which is made where it is missing.

        - `current.zip`: the model as it is, for `Algorithm.load`;
        - `averaged.zip`: the model acting by θ̄, for `Algorithm.load`. Its optimizer and target networks are
          the current ones: for acting, not for going on with training;
        - `posterior.safetensors`: SWAG over policies, for `swag.load`; from two snapshots on;
        - `callback.pt`: this callback, for `load`; tensors and plain data.

        Raises:
            StateError: training has not started.
            FileError: the folder cannot be written.
        """
        model, place = self._model(), Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{place}: cannot be made ({error.strerror}); pass another folder") from error
        _save_model(place / "current.zip", model)
        if self.n_collected:
            with self.applied():
                _save_model(place / "averaged.zip", model)
        if self.n_collected > 1:
            save(place / "posterior.safetensors", self.posterior)
        with replacing(place / "callback.pt") as temporary:
            try:
                torch.save({"kind": _KIND, **self.state_dict()}, temporary)
            except RuntimeError as error:  # what torch makes of a full disk
                raise FileError(f"{place}: callback.pt could not be written ({error})") from error

    def load(self, folder: str | os.PathLike[str], model: BaseAlgorithm) -> None:
        """Goes on where `save` was called, with the model that was saved then.

        Args:
            folder: what `save` wrote.
            model: `Algorithm.load(folder / "current.zip", env=…)`; train it by
                `learn(…, reset_num_timesteps=False)`.

        Raises:
            FileError: a file is missing or damaged, or holds something else.
            InputError: another model, or a callback of other settings.
        """
        path = Path(folder) / "callback.pt"
        if not path.is_file():
            raise FileError(f"{path}: there is no such file; pass the folder that save() wrote")
        state = load_pickled(path)
        if not isinstance(state, dict) or state.get("kind") != _KIND:
            raise FileError(f"{path}: holds something else than a SWAGCallback; pass what save() wrote")
        self.load_state_dict(state, model)
        if model.num_timesteps != self._steps:  # killed between two files, or one of another folder
            _log.warning(
                "the model has done %d steps, and what was collected is of step %d: snapshots in between are "
                "missing",
                model.num_timesteps,
                self._steps,
            )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, from which averages and turns go on exactly."""
        return {
            "version": _VERSION,
            "settings": self._settings(),
            "collector": self.collector.state_dict(),
            "averages": {name: average.state_dict() for name, average in self._averages.items()},
            "turns": [self._turn, self._updates, self._steps],
            "evaluations": [evaluation.to_dict() for evaluation in self.evaluations],
        }

    def load_state_dict(self, state: Mapping[str, Any], model: BaseAlgorithm) -> None:
        """Takes over `state_dict()` for a model; checked whole before anything changes.

        The evaluation environment, its period and the covariance's scale may be others than they were.

        Raises:
            InputError: another version or other settings, another model, or a damaged state.
        """
        if state.get("version") != _VERSION:
            raise InputError(
                f"state: got version {state.get('version')!r:.80}, this library reads {_VERSION}"
            )
        theirs = state.get("settings")
        for key, mine in self._settings().items():
            if not isinstance(theirs, Mapping) or theirs.get(key) != mine:
                came = theirs.get(key) if isinstance(theirs, Mapping) else theirs
                raise InputError(f"{key}: the state has {came!r:.80}, this callback {mine!r}; pass the same")
        turns = state.get("turns")
        if not isinstance(turns, list) or [type(turn) for turn in turns] != [int] * 3:
            raise InputError("state: 'turns' is damaged")
        evaluations, averages = state.get("evaluations"), state.get("averages")
        if not isinstance(evaluations, list) or not isinstance(averages, Mapping):
            raise InputError("state: 'evaluations' or 'averages' is damaged")
        found = [Evaluation.from_dict(each) for each in evaluations]
        collector, others = self._fresh(model)
        if set(averages) != set(others):
            raise InputError(f"also: the state has {sorted(averages)}, this callback {sorted(others)}")
        collector.load_state_dict(state.get("collector", {}))
        for name, average in others.items():
            average.load_state_dict(averages[name])
        self._collector, self._averages, self._followed = collector, others, model
        self._turn, self._updates, self._steps = turns
        self._eval_turn = self._steps // self._eval_every  # at another period, or none, as it may be now
        self.evaluations = found

    # What stable-baselines3 calls

    def _init_callback(self) -> None:
        if self.parent is not None:  # which would hand on its own event alone, and never that of an update
            raise InputError(
                f"callback: this SWAGCallback is inside of an {type(self.parent).__name__}; pass it to "
                "learn() itself: `every` and `eval_every` say how often"
            )
        if self._evaluator is not None:
            self._evaluator.check(self.model)
        if self._followed is not self.model:
            if self.n_collected:
                raise StateError(
                    f"SWAGCallback: holds {self.n_collected} snapshots of another model; make a new callback "
                    "for this one, or go on with a saved one by callback.load(folder, model)"
                )
            self._collector, self._averages = self._fresh(self.model)
            self._followed = self.model

    def _on_training_start(self) -> None:
        if self.locals is self._begun:  # learn() hands its own to every callback
            raise InputError("callback: this SWAGCallback was given twice to one learn(); pass it once")
        self._begun = self.locals
        if self.model.num_timesteps < self._steps:  # learn() has begun to count anew
            self._turn, self._eval_turn = _BEFORE, 0

    def _on_rollout_start(self) -> None:
        self._after_update()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        # Rollouts begin after an update; the last update has no rollout after it.
        self._after_update()
        if not self.n_collected:
            _log.warning(
                "no snapshot was taken: training ended at %d steps, swa_start=%d", self._steps, self.swa_start
            )
        if self.save_path is not None:
            self.save(self.save_path)

    # How

    def _after_update(self) -> None:
        model = self.model
        steps = model.num_timesteps
        updates = int(getattr(model, "_n_updates", steps))  # an algorithm from elsewhere may not count them
        self._steps = steps
        turn = (steps - self.swa_start) // self.every
        if turn > self._turn and steps >= self.swa_start and updates != self._updates:
            self.collector.collect(model.policy)
            for average in self._averages.values():
                average.collect(model.policy)
            self._turn, self._updates = turn, updates
        if self._evaluator is not None and steps // self._eval_every > self._eval_turn:
            self._eval_turn = steps // self._eval_every
            self._evaluate(self._evaluator, steps, updates)
            if self.save_path is not None:
                self.save(self.save_path)

    def _evaluate(self, evaluator: Evaluator, steps: int, updates: int) -> None:
        returns = {"current": evaluator.returns(self.model)}
        for name in ("swa", *self._averages) if self.n_collected else ():
            with self.applied(name):
                returns[name] = evaluator.returns(self.model)
        evaluation = Evaluation(steps, updates, self.n_collected, returns)
        self.evaluations.append(evaluation)
        for name in returns:
            self.logger.record(f"eval/{name}_mean_return", evaluation.mean(name))
        self.logger.record("eval/n_collected", self.n_collected)
        self.logger.record("time/total_timesteps", steps, exclude="tensorboard")
        self.logger.dump(steps)

    def _fresh(self, model: BaseAlgorithm) -> tuple[Collector, dict[str, RunningAverage]]:
        if not isinstance(model, BaseAlgorithm):
            raise InputError(f"model: got a {type(model).__name__}; pass an algorithm of stable-baselines3")
        policy: nn.Module = model.policy
        select = selected(policy, self.networks, type(model).__name__)
        averages = {name: RunningAverage(policy, rule, select=select) for name, rule in self.also.items()}
        return Collector(policy, self.rank, select=select), averages

    def _model(self) -> BaseAlgorithm:
        if self._followed is None:
            raise StateError("SWAGCallback: has seen no model yet; pass it to learn(callback=…) first")
        return self._followed

    def _settings(self) -> dict[str, Any]:
        networks = None if self.networks is None else list(self.networks)
        return {"swa_start": self.swa_start, "every": self.every, "networks": networks}


def _save_model(path: Path, model: BaseAlgorithm) -> None:
    with replacing(path) as temporary:
        model.save(temporary)
