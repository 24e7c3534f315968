"""The tasks: an environment, an algorithm with its settings, and how long it trains."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3 import A2C, DDPG
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

# Where the evaluation environments' seeds begin: far from those of training, which are the run's and few.
EVAL_SEED = 10_000


@dataclass(frozen=True)
class Task:
    """One environment, one algorithm; what is not here is stable-baselines3's default.

    `normalise`: observations and rewards of training are divided by running statistics (VecNormalize).
    """

    env: str
    algorithm: str
    timesteps: int
    n_envs: int = 1
    normalise: bool = False
    noise: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    # Shares of `timesteps`.
    swa_start: float = 0.5
    every: float = 0.01
    eval_every: float = 0.04
    n_eval_episodes: int = 10
    rank: int = 10
    ema_decay: float = 0.9

    @property
    def name(self) -> str:
        return f"{self.env}-{self.algorithm}"

    def steps(self, share: float) -> int:
        """A share of training in environment steps."""
        return round(share * self.timesteps)


_SMALL = {"net_arch": [64, 64]}  # the default is [400, 300]
_DDPG: dict[str, Any] = {"learning_starts": 500, "policy_kwargs": _SMALL}

TASKS = (
    Task("CartPole-v1", "A2C", 100_000, n_envs=8),
    Task("Acrobot-v1", "A2C", 100_000, n_envs=16, normalise=True),
    Task("Hopper-v5", "A2C", 100_000, n_envs=8, normalise=True),
    Task("Pendulum-v1", "DDPG", 15_000, noise=0.1, options={**_DDPG, "gamma": 0.98}),
    Task("InvertedPendulum-v5", "DDPG", 12_000, noise=0.1, options=_DDPG),
    Task("Hopper-v5", "DDPG", 40_000, noise=0.1, options=_DDPG),
)
QUICK = (
    Task("CartPole-v1", "A2C", 3_000, n_envs=8, eval_every=0.2, n_eval_episodes=2),
    Task(
        "Pendulum-v1",
        "DDPG",
        500,
        noise=0.1,
        eval_every=0.2,
        n_eval_episodes=2,
        options={**_DDPG, "learning_starts": 100},
    ),
)


def build(task: Task, seed: int, device: str) -> tuple[BaseAlgorithm, VecEnv]:
    """The untrained model with its environments, and environments for evaluation, one an episode."""
    env: VecEnv = make_vec_env(task.env, n_envs=task.n_envs, seed=seed)
    evaluated: VecEnv = make_vec_env(task.env, n_envs=task.n_eval_episodes)
    if task.normalise:
        env = VecNormalize(env)
        evaluated = VecNormalize(evaluated, training=False, norm_reward=False)
    options = copy.deepcopy(task.options)  # algorithms write into their policy_kwargs
    if task.noise:
        n = env.action_space.shape[0]
        options["action_noise"] = NormalActionNoise([0.0] * n, [task.noise] * n)
    kind = {"A2C": A2C, "DDPG": DDPG}[task.algorithm]
    return kind("MlpPolicy", env, seed=seed, device=device, **options), evaluated
