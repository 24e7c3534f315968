"""A policy's returns on environments of their own, from the same starts every time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, final

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from swag.errors import InputError, StateError


@final
@dataclass(frozen=True)
class Evaluation:
    """What policies earned at one time of training.

    Args:
        timesteps: the environment steps trained for.
        n_updates: the algorithm's own count of updates.
        n_collected: the snapshots in the average; 0 where there is none yet.
        returns: "current", "swa" (from the first snapshot on) and further averages ↦ undiscounted returns,
            one an episode; episode i begins alike for all of them.
    """

    timesteps: int
    n_updates: int
    n_collected: int
    returns: dict[str, list[float]]

    def mean(self, name: str) -> float:
        """The mean return of one of the policies."""
        if name not in self.returns:
            raise InputError(f"name: got {name!r}; this evaluation has {', '.join(map(repr, self.returns))}")
        return fmean(self.returns[name])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_dict`."""
        try:
            returns = {str(k): [float(x) for x in values] for k, values in found["returns"].items()}
            times = (int(found["timesteps"]), int(found["n_updates"]), int(found["n_collected"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"state: an evaluation is damaged ({error!r})") from error
        return cls(*times, returns)


@final
class Evaluator:
    """Deterministic episodes on environments that training does not use.

    Args:
        env: a gymnasium environment, or a vectorised one (episodes are divided among its parts).
        n_episodes: episodes for each policy.
        seed: the environments are seeded with seed, seed + 1, … before every evaluation.

    Raises:
        InputError: no environment, or normalisation that would go on learning.
    """

    def __init__(self, env: gymnasium.Env[Any, Any] | VecEnv, n_episodes: int, seed: int) -> None:
        if not isinstance(env, gymnasium.Env | VecEnv):
            raise InputError(
                f"eval_env: got a {type(env).__name__}; pass an environment, as in "
                "gymnasium.make('CartPole-v1') or make_vec_env('CartPole-v1', n_envs=10)"
            )
        normalised = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
        if normalised is not None and (normalised.training or normalised.norm_reward):
            raise InputError(
                "eval_env: its VecNormalize would learn from evaluations or change returns; pass "
                "VecNormalize(env, training=False, norm_reward=False)"
            )
        self._given = env
        # Monitors single environments: returns are then the environment's own, whatever wrappers do.
        self._env: VecEnv = BaseAlgorithm._wrap_env(env, verbose=0)
        self._n_episodes = n_episodes
        self._seed = seed

    def check(self, model: BaseAlgorithm) -> None:
        """Raises InputError where the model has other spaces, or trains on these very environments."""
        try:
            check_for_correct_spaces(self._env, model.observation_space, model.action_space)
        except ValueError as error:
            raise InputError(
                f"eval_env: does not fit the model ({error}); pass the training's task"
            ) from error
        training = model.get_env()
        shared = {id(part) for part in _parts(training)} & {id(part) for part in _parts(self._env)}
        if shared:
            raise InputError(
                "eval_env: is the environment of training, whose episodes would be cut; pass one of its own"
            )
        theirs, mine = _normaliser(training), _normaliser(self._env)
        if theirs is not None and mine is None:
            raise InputError(
                "eval_env: training normalises observations (VecNormalize); pass "
                "VecNormalize(env, training=False, norm_reward=False), which takes over its statistics"
            )
        if mine is not None and theirs is None:
            raise InputError(
                "eval_env: normalises observations (VecNormalize), which training does not; pass it without"
            )

    def returns(self, model: BaseAlgorithm) -> list[float]:
        """The return of each episode, with the weights that the model holds now.

        Raises:
            StateError: the environment raised.
        """
        theirs, mine = _normaliser(model.get_env()), _normaliser(self._env)
        # Not by sync_envs_normalization, which wants the same wrappers around both.
        if theirs is not None and mine is not None:
            mine.obs_rms = copy.deepcopy(theirs.obs_rms)
        try:
            self._env.seed(self._seed)
            found, _ = evaluate_policy(
                model,
                self._env,
                self._n_episodes,
                deterministic=True,
                return_episode_rewards=True,
                warn=False,
            )
        except Exception as error:  # an environment may raise anything
            raise StateError(
                f"eval_env: raised {type(error).__name__} ({error}) after {model.num_timesteps} steps of "
                "training; the model has its own weights, the averages are kept: mend the environment, or "
                "train without eval_env"
            ) from error
        assert isinstance(found, list)
        return [float(value) for value in found]


def _normaliser(env: VecEnv | None) -> VecNormalize | None:
    """What normalises the observations of an environment, if anything does."""
    found = None if env is None else unwrap_vec_normalize(env)
    return found if found is not None and found.norm_obs else None


def _parts(env: VecEnv | None) -> list[Any]:
    """A vectorised environment and what it is wrapped around."""
    found: list[Any] = []
    pending: list[Any] = [] if env is None else [env]
    while pending:
        part = pending.pop()
        found.append(part)
        own = vars(part)
        pending += [own[key] for key in ("venv", "env") if key in own] + list(own.get("envs", ()))
    return found
