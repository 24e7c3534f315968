"""The callback for stable-baselines3 against trajectories kept by hand, its statistics against `predict`."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("stable_baselines3")

import gymnasium
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnvMultiBinary, SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import swag
from swag.errors import FileError, InputError, StateError
from swag.integrations.stable_baselines3 import (
    ContinuousActions,
    DiscreteActions,
    Evaluation,
    PolicyEnsemble,
    SWAGCallback,
    action_statistics,
)
from swag.integrations.stable_baselines3.networks import selected
from swag.training import EMA

OFF_POLICY: dict[str, Any] = {"learning_starts": 10, "batch_size": 8, "buffer_size": 500}
NARROW: dict[str, Any] = {"net_arch": [8]}


def a2c(env: Any = "CartPole-v1", seed: int = 0, **options: Any) -> A2C:
    return A2C("MlpPolicy", env, seed=seed, device="cpu", policy_kwargs=dict(NARROW), **options)


def off_policy(kind: Any, env: Any = "Pendulum-v1", **options: Any) -> Any:
    settings = {**OFF_POLICY, "policy_kwargs": dict(NARROW), **options}
    return kind("MlpPolicy", env, seed=0, device="cpu", **settings)


class Trajectory(BaseCallback):
    """Weights by name after every update, with the steps done: what a collector should have seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, dict[str, Tensor]]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        weights = {name: p.detach().clone() for name, p in self.model.policy.named_parameters()}
        self.seen.append((self.model.num_timesteps, int(self.model._n_updates), weights))

    _on_training_end = _on_rollout_start

    def thetas(self, steps: list[int], names: tuple[str, ...]) -> Tensor:
        chosen = {t: weights for t, _, weights in self.seen}
        return torch.stack([torch.cat([chosen[t][n].flatten() for n in names]) for t in steps])


class Raising(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that raises in its n-th step."""

    def __init__(self, env: gymnasium.Env[Any, Any], n: int) -> None:
        super().__init__(env)
        self.left = n

    def step(self, action: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the simulator has lost its state")
        return super().step(action)


def same(one: Any, other: Any) -> bool:
    """Whether two states agree, tensors bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


class TestCollecting:
    def test_snapshots_of_a_policy_are_those_of_the_trajectory(self) -> None:
        """Rollouts of 5 steps: from 20 on and every 12, at the first update after 20, 32, 44, …."""
        callback, trajectory = SWAGCallback(3, 20, 12, also={"ema": EMA(0.5)}), Trajectory()
        model = a2c().learn(75, callback=[callback, trajectory])
        layout = callback.collector.layout
        thetas = trajectory.thetas([20, 35, 45, 60, 70], layout.names)
        assert layout.size == sum(p.numel() for p in model.policy.parameters())
        assert callback.n_collected == 5
        torch.testing.assert_close(callback.posterior.mean, thetas.mean(0))
        variance = thetas.var(0, unbiased=False)
        torch.testing.assert_close(callback.collector.sq_dev / 5, variance, rtol=1e-4, atol=1e-9)
        means = torch.stack([thetas[: i + 1].mean(0) for i in range(5)])
        torch.testing.assert_close(callback.collector.deviations, (thetas - means)[2:], rtol=1e-4, atol=1e-6)
        ema = thetas[0]
        for theta in thetas[1:]:
            ema = 0.5 * ema + 0.5 * theta
        with callback.applied("ema"):
            torch.testing.assert_close(layout.flatten(model.policy), ema)

    def test_the_last_update_counts_and_no_weights_are_taken_twice(self) -> None:
        callback, trajectory = SWAGCallback(0, 0, 1), Trajectory()
        a2c().learn(40, callback=[callback, trajectory])
        updated = [steps for steps, updates, _ in trajectory.seen if updates]
        assert updated == list(range(5, 45, 5)) and callback.n_collected == len(updated)
        thetas = trajectory.thetas(updated, callback.collector.layout.names)
        torch.testing.assert_close(callback.collector.mean, thetas.mean(0))

    def test_actor_and_critic_by_name_and_never_their_targets(self) -> None:
        callback, trajectory = SWAGCallback(2, 20, 7, networks=("actor", "critic")), Trajectory()
        off_policy(DDPG).learn(45, callback=[callback, trajectory])
        names = callback.collector.layout.names
        assert {name.split(".")[0] for name in names} == {"actor", "critic"}
        thetas = trajectory.thetas([20, 27, 34, 41], names)
        torch.testing.assert_close(callback.posterior.mean, thetas.mean(0))

    @pytest.mark.parametrize(
        ("kind", "env", "networks"),
        [
            (TD3, "Pendulum-v1", {"actor", "critic"}),
            (SAC, "Pendulum-v1", {"actor", "critic"}),
            (DQN, "CartPole-v1", {"q_net"}),
        ],
    )
    def test_by_default_all_networks_but_targets(self, kind: Any, env: str, networks: set[str]) -> None:
        callback = SWAGCallback(2, 0, 4)
        off_policy(kind, env).learn(20, callback=callback)
        assert {name.split(".")[0] for name in callback.collector.layout.names} == networks
        assert callback.n_collected >= 2

    def test_ppo_is_followed_once_an_update(self) -> None:
        callback = SWAGCallback(2, 0, 1)
        PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=8, n_epochs=2, seed=0, device="cpu").learn(
            48, callback=callback
        )
        assert callback.n_collected == 3

    def test_frozen_weights_are_left_out(self) -> None:
        model = a2c()
        model.policy.value_net.requires_grad_(False)
        callback = SWAGCallback(2, 0, 5)
        model.learn(20, callback=callback)
        assert not any(name.startswith("value_net") for name in callback.collector.layout.names)
        with pytest.raises(InputError, match="'value_net' has no parameter that requires"):
            model.learn(20, callback=SWAGCallback(2, 0, 5, networks=("value_net",)))

    def test_a_shared_features_extractor_belongs_to_each_network_that_uses_it(self) -> None:
        env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=False)
        small = {"net_arch": [4], "features_extractor_kwargs": {"features_dim": 3}}
        model = SAC(
            "CnnPolicy",
            env,
            policy_kwargs={**small, "share_features_extractor": True},
            device="cpu",
            seed=0,
            **OFF_POLICY,
        )
        callback = SWAGCallback(2, 0, 5, networks=("critic",))
        model.learn(12, callback=callback)
        names = callback.collector.layout.names
        assert any("features_extractor" in name for name in names)
        assert all("features_extractor" in name or name.startswith("critic.") for name in names)

    def test_training_is_the_same_without_it(self) -> None:
        """Bit for bit: evaluations draw no random number of training's and leave the weights alone."""
        for make, steps in ((a2c, 60), (lambda: off_policy(DDPG), 40)):
            alone, followed = make().learn(steps), make()
            env = gymnasium.make("CartPole-v1" if isinstance(alone, A2C) else "Pendulum-v1")
            callback = SWAGCallback(2, 10, 5, eval_env=env, eval_every=20, n_eval_episodes=1)
            followed.learn(steps, callback=callback)
            assert callback.n_collected > 3 and len(callback.evaluations) == steps // 20
            found = followed.policy.state_dict()
            assert all(torch.equal(value, found[key]) for key, value in alone.policy.state_dict().items())

    def test_averages_go_on_over_calls_of_learn(self) -> None:
        callback = SWAGCallback(2, 10, 10)
        model = a2c().learn(20, callback=callback)
        model.learn(20, callback=callback, reset_num_timesteps=False)
        assert callback.n_collected == 4  # 10, 20, 30, 40
        model.learn(20, callback=callback)
        assert callback.n_collected == 6  # steps begin anew, and so do turns

    def test_training_that_ends_before_swa_start_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        callback = SWAGCallback(2, 100, 5)
        with caplog.at_level(logging.WARNING):
            a2c().learn(20, callback=callback)
        assert "training ended at 20 steps, swa_start=100" in caplog.text
        with pytest.raises(StateError):
            _ = callback.posterior

    def test_rank_below_two_gives_the_diagonal(self) -> None:
        callback = SWAGCallback(0, 0, 5, scale=0.25)
        a2c().learn(20, callback=callback)
        variance = callback.collector.sq_dev / callback.n_collected
        torch.testing.assert_close(callback.posterior.cov_diag, 0.25 * variance)


class TestEvaluation:
    def test_current_and_average_play_the_same_starts(self) -> None:
        """Against `evaluate_policy` by hand with the average written into the policy."""
        env, again = (make_vec_env("CartPole-v1", n_envs=3) for _ in range(2))
        callback = SWAGCallback(2, 100, 20, eval_env=env, eval_every=100, n_eval_episodes=3, eval_seed=7)
        model = a2c().learn(300, callback=callback)
        assert [e.timesteps for e in callback.evaluations] == [100, 200, 300]
        assert [e.n_collected for e in callback.evaluations] == [1, 6, 11]
        last = callback.evaluations[-1]

        def played() -> Any:
            again.seed(7)
            return evaluate_policy(model, again, 3, return_episode_rewards=True)[0]

        assert last.returns["current"] == played()
        weights = callback.collector.layout.flatten(model.policy)
        callback.collector.layout.write_(model.policy, callback.collector.mean)
        assert last.returns["swa"] == played()
        callback.collector.layout.write_(model.policy, weights)
        assert last.mean("swa") == np.mean(last.returns["swa"])
        first = callback.evaluations[0]  # one snapshot: the average is the current policy
        assert first.returns["swa"] == first.returns["current"]

    def test_before_the_first_snapshot_the_current_policy_plays_alone(self) -> None:
        env = gymnasium.make("CartPole-v1")
        callback = SWAGCallback(2, 50, 5, eval_env=env, eval_every=20, n_eval_episodes=1)
        a2c().learn(60, callback=callback)
        assert [set(e.returns) for e in callback.evaluations] == [
            {"current"},
            {"current"},
            {"current", "swa"},
        ]
        with pytest.raises(InputError, match="got 'swa'; this evaluation has 'current'"):
            callback.evaluations[0].mean("swa")

    def test_both_go_through_the_logger(self, tmp_path: Path) -> None:
        callback = SWAGCallback(
            2, 0, 5, also={"ema": EMA(0.9)}, eval_env=gymnasium.make("CartPole-v1"), eval_every=20
        )
        model = a2c()
        model.set_logger(configure(str(tmp_path), ["json"]))
        model.learn(40, callback=callback)
        lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
        logged = [line for line in lines if "eval/swa_mean_return" in line]
        assert len(logged) == 2
        for line, evaluation in zip(logged, callback.evaluations, strict=True):
            assert line["time/total_timesteps"] == evaluation.timesteps
            assert line["eval/n_collected"] == evaluation.n_collected
            for name in ("current", "swa", "ema"):
                assert line[f"eval/{name}_mean_return"] == pytest.approx(evaluation.mean(name))

    def test_normalised_training_hands_its_statistics_on(self) -> None:
        training = VecNormalize(make_vec_env("CartPole-v1", n_envs=2, seed=0))
        plain = make_vec_env("CartPole-v1", n_envs=2)
        model = a2c(training)
        with pytest.raises(InputError, match="training normalises observations"):
            model.learn(20, callback=SWAGCallback(2, 0, 5, eval_env=plain, eval_every=10))
        with pytest.raises(InputError, match="training=False, norm_reward=False"):
            SWAGCallback(2, 0, 5, eval_env=VecNormalize(plain), eval_every=10)
        own = VecNormalize(plain, training=False, norm_reward=False)
        callback = SWAGCallback(2, 0, 10, eval_env=own, eval_every=10, n_eval_episodes=2)
        model.learn(20, callback=callback)
        assert own.obs_rms.count > 1 and np.array_equal(own.obs_rms.mean, training.obs_rms.mean)
        assert callback.evaluations[-1].mean("current") >= 1  # returns of the task, not normalised ones
        with pytest.raises(InputError, match=r"normalises observations .*, which training does not"):
            a2c().learn(20, callback=SWAGCallback(2, 0, 5, eval_env=own, eval_every=10))

    def test_training_may_be_wrapped_in_another_way(self) -> None:
        """Rewards normalised alone, and a monitor outside of the normalisation."""
        plain = make_vec_env("CartPole-v1", n_envs=2)
        rewards = VecNormalize(make_vec_env("CartPole-v1", n_envs=2, seed=0), norm_obs=False)
        monitored = VecMonitor(VecNormalize(make_vec_env("CartPole-v1", n_envs=2, seed=0)))
        own = VecNormalize(make_vec_env("CartPole-v1", n_envs=2), training=False, norm_reward=False)
        for training, env in ((rewards, plain), (monitored, own)):
            callback = SWAGCallback(2, 0, 10, eval_env=env, eval_every=10, n_eval_episodes=2)
            a2c(training).learn(20, callback=callback)
            assert len(callback.evaluations) == 2
        assert np.array_equal(own.obs_rms.mean, monitored.venv.obs_rms.mean)

    def test_an_environment_that_raises(self) -> None:
        callback = SWAGCallback(
            2, 0, 5, eval_env=Raising(gymnasium.make("CartPole-v1"), 30), eval_every=20, n_eval_episodes=1
        )
        model = a2c()
        with pytest.raises(
            StateError, match=r"eval_env: raised RuntimeError \(the simulator has lost"
        ) as raised:
            model.learn(200, callback=callback)
        assert isinstance(raised.value.__cause__, RuntimeError)
        n = callback.n_collected
        assert n > 0
        # The weights are training's and not the average's: it goes on with them, without evaluations.
        assert not torch.equal(callback.collector.layout.flatten(model.policy), callback.collector.mean)
        without = SWAGCallback(2, 0, 5)
        without.load_state_dict(callback.state_dict(), model)
        model.learn(20, callback=without, reset_num_timesteps=False)
        assert without.n_collected > n

    def test_a_training_environment_that_raises_leaves_the_averages(self) -> None:
        callback = SWAGCallback(2, 0, 5)
        model = a2c(Raising(gymnasium.make("CartPole-v1"), 33))
        with pytest.raises(RuntimeError, match="lost its state"):
            model.learn(100, callback=callback)
        assert callback.n_collected == 6
        callback.posterior.sample(2)


class TestFiles:
    @pytest.fixture
    def trained(self, tmp_path: Path) -> tuple[A2C, SWAGCallback, Path]:
        callback = SWAGCallback(
            3,
            10,
            5,
            also={"ema": EMA(0.9)},
            eval_env=gymnasium.make("CartPole-v1"),
            eval_every=30,
            n_eval_episodes=1,
            save_path=tmp_path / "new" / "run",
        )
        return a2c().learn(60, callback=callback), callback, tmp_path / "new" / "run"

    def test_both_policies_and_the_posterior(self, trained: tuple[A2C, SWAGCallback, Path]) -> None:
        model, callback, folder = trained
        files = {path.name for path in folder.iterdir()}
        assert files == {"current.zip", "averaged.zip", "posterior.safetensors", "callback.pt"}
        layout = callback.collector.layout
        current, averaged = (
            A2C.load(folder / name, device="cpu") for name in ("current.zip", "averaged.zip")
        )
        assert torch.equal(layout.flatten(current.policy), layout.flatten(model.policy))
        assert torch.equal(layout.flatten(averaged.policy), callback.collector.mean)
        observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        with callback.applied():
            expected = model.predict(observations, deterministic=True)[0]
        assert np.array_equal(averaged.predict(observations, deterministic=True)[0], expected)
        posterior = swag.load(folder / "posterior.safetensors")
        assert torch.equal(posterior.mean, callback.posterior.mean)
        assert torch.equal(posterior.cov_factor, callback.posterior.cov_factor)

    def test_a_saved_callback_goes_on_exactly(self, trained: tuple[A2C, SWAGCallback, Path]) -> None:
        model, callback, folder = trained
        again = SWAGCallback(
            3,
            10,
            5,
            also={"ema": EMA(0.9)},
            eval_env=gymnasium.make("CartPole-v1"),
            eval_every=30,
            n_eval_episodes=1,
        )
        again.load(folder, model)
        assert again.evaluations == callback.evaluations and again.n_collected == callback.n_collected
        model.learn(60, callback=[callback, again], reset_num_timesteps=False)
        ours, theirs = callback.state_dict(), again.state_dict()
        assert ours["turns"] == theirs["turns"] and ours["evaluations"] == theirs["evaluations"]
        assert len(ours["evaluations"]) == 4 and callback.n_collected == 23
        assert same(ours["collector"], theirs["collector"]) and same(ours["averages"], theirs["averages"])

    def test_a_loaded_model_goes_on_with_its_average(
        self, trained: tuple[A2C, SWAGCallback, Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        _, callback, folder = trained
        model = A2C.load(folder / "current.zip", env=make_vec_env("CartPole-v1"), device="cpu")
        again = SWAGCallback(
            3, 10, 5, also={"ema": EMA(0.9)}, eval_env=gymnasium.make("CartPole-v1"), eval_every=30
        )
        again.load(folder, model)
        assert not caplog.text
        trajectory, mean, n = Trajectory(), callback.collector.mean, callback.n_collected
        model.learn(20, callback=[again, trajectory], reset_num_timesteps=False)
        assert n == 11 and again.n_collected == n + 4 and model.num_timesteps == 80
        thetas = trajectory.thetas([65, 70, 75, 80], again.collector.layout.names)
        expected = (n * mean + thetas.sum(0)) / (n + 4)
        torch.testing.assert_close(again.collector.mean, expected, atol=1e-6, rtol=1e-5)
        again.load(folder, model)  # a model of a later time than the callback's file
        assert "has done 80 steps, and what was collected is of step 60" in caplog.text

    def test_states_that_do_not_fit(self, trained: tuple[A2C, SWAGCallback, Path]) -> None:
        model, callback, folder = trained
        state = callback.state_dict()
        env = gymnasium.make("CartPole-v1")

        def fresh(rank: int = 3, every: int = 5, **more: Any) -> SWAGCallback:
            settings = {"also": {"ema": EMA(0.9)}, "eval_env": env, "eval_every": 30, **more}
            return SWAGCallback(rank, 10, every, **settings)

        for other, message in (
            (fresh(every=6), "every: the state has 5, this callback 6"),
            (fresh(networks=("action_net",)), "networks: the state has None"),
            (fresh(also={}), "also: the state has"),
            (fresh(rank=4), "rank"),
        ):
            with pytest.raises(InputError, match=message):
                other.load_state_dict(state, model)
            assert other.n_collected == 0 and not other.evaluations
        with pytest.raises(InputError, match="'evaluations'"):
            fresh().load_state_dict({**state, "evaluations": None}, model)
        with pytest.raises(InputError, match="an evaluation is damaged"):
            fresh().load_state_dict({**state, "evaluations": [{"timesteps": 1}]}, model)
        with pytest.raises(InputError, match="'turns'"):
            fresh().load_state_dict({**state, "turns": [1]}, model)
        with pytest.raises(InputError, match="version 99"):
            fresh().load_state_dict({**state, "version": 99}, model)
        with pytest.raises(InputError):
            fresh().load_state_dict(state, off_policy(DDPG))
        with pytest.raises(FileError, match="no such file"):
            fresh().load(folder / "none", model)
        (folder / "callback.pt").write_bytes((folder / "callback.pt").read_bytes()[:-200])
        with pytest.raises(FileError):
            fresh().load(folder, model)
        torch.save({"weights": torch.zeros(2)}, folder / "callback.pt")
        with pytest.raises(FileError, match="something else than a SWAGCallback"):
            fresh().load(folder, model)


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"rank": -1}, "rank: got -1"),
            ({"rank": 2.5}, "rank: got 2.5"),
            ({"swa_start": -1}, "swa_start: got -1"),
            ({"swa_start": 0.5}, "swa_start: got 0.5"),
            ({"every": 0}, "every: got 0"),
            ({"scale": -1.0}, "scale: got -1.0"),
            ({"networks": "actor"}, "got a text"),
            ({"networks": ()}, "networks: is empty"),
            ({"networks": (1,)}, "networks: got"),
            ({"networks": 1}, "networks: got 1"),
            ({"also": ["ema"]}, "also: got a list"),
            ({"also": {"swa": EMA(0.9)}}, "'swa' is taken"),
            ({"eval_every": 10}, "eval_env: missing"),
            ({"eval_env": "CartPole-v1", "eval_every": 10}, "eval_env: got a str"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            SWAGCallback(**settings)

    def test_evaluation_without_its_period_or_episodes(self) -> None:
        env = gymnasium.make("CartPole-v1")
        with pytest.raises(InputError, match="eval_every: missing"):
            SWAGCallback(eval_env=env)
        with pytest.raises(InputError, match="n_eval_episodes: got 0"):
            SWAGCallback(eval_env=env, eval_every=10, n_eval_episodes=0)

    def test_networks_that_the_algorithm_does_not_have(self) -> None:
        with pytest.raises(InputError, match=r"'actor', which the policy of A2C does .*'action_net'"):
            a2c().learn(10, callback=SWAGCallback(2, 0, 5, networks=("actor",)))
        with pytest.raises(InputError, match=r"'actor_target', a target network.*pass 'actor'"):
            off_policy(DDPG).learn(10, callback=SWAGCallback(2, 0, 5, networks=("actor_target",)))

    def test_twice_in_one_learn(self) -> None:
        callback, model = SWAGCallback(2, 0, 5), a2c()
        with pytest.raises(InputError, match="given twice"):
            model.learn(10, callback=[callback, callback])
        with pytest.raises(InputError, match="given twice"):
            model.learn(10, callback=[callback, CallbackList([callback])])
        model.learn(10, callback=callback)  # once is right, afterwards too
        assert callback.n_collected == 2

    def test_inside_of_another_callback(self) -> None:
        """It would hear of no update and collect nothing."""
        with pytest.raises(InputError, match=r"inside of an EveryNTimesteps; .*learn\(\) itself"):
            a2c().learn(20, callback=EveryNTimesteps(5, SWAGCallback(2, 0, 5)))

    def test_a_start_that_failed_is_no_second_one(self) -> None:
        """Another callback refuses to start; with that mended, this one is not taken for given twice."""
        callback, model = SWAGCallback(2, 0, 5), a2c()
        with pytest.raises(InputError, match="actor"):
            model.learn(10, callback=[callback, SWAGCallback(networks=("actor",))])
        model.learn(10, callback=callback)
        assert callback.n_collected == 2

    def test_another_model_midway(self) -> None:
        callback = SWAGCallback(2, 0, 5)
        a2c().learn(10, callback=callback)
        mean = callback.collector.mean
        with pytest.raises(StateError, match="holds 2 snapshots of another model"):
            a2c(seed=1).learn(10, callback=callback)
        assert torch.equal(callback.collector.mean, mean)

    def test_evaluation_environments_that_do_not_fit(self) -> None:
        with pytest.raises(InputError, match="eval_env: does not fit the model"):
            a2c().learn(10, callback=SWAGCallback(eval_env=gymnasium.make("Acrobot-v1"), eval_every=5))
        env = gymnasium.make("CartPole-v1")
        with pytest.raises(InputError, match="is the environment of training"):
            a2c(env).learn(10, callback=SWAGCallback(eval_env=env, eval_every=5))

    def test_before_training(self) -> None:
        callback = SWAGCallback()
        assert callback.n_collected == 0
        for read in (
            lambda: callback.posterior,
            lambda: callback.collector,
            lambda: callback.save("nowhere"),
            lambda: callback.applied().__enter__(),
        ):
            with pytest.raises(StateError, match="no model yet"):
                read()

    def test_averages_that_are_not_there(self) -> None:
        callback = SWAGCallback(2, 0, 5)
        a2c().learn(10, callback=callback)
        with pytest.raises(InputError, match="got 'ema'; there are 'swa'"), callback.applied("ema"):
            pass


def spread_posterior(model: BaseAlgorithm, std: float = 0.3) -> swag.Posterior:
    """Independent normal weights around the model's."""
    layout = swag.Layout.of(model.policy)
    theta = layout.flatten(model.policy)
    return swag.posterior.LowRankGaussian(
        theta, torch.full_like(theta, std**2), torch.zeros(len(theta), 0), layout=layout
    )


def acted(model: BaseAlgorithm, posterior: swag.Posterior, x: Any, n: int, seed: int) -> np.ndarray:
    """(n, N, …): what `model.predict` does with each sample written into the policy."""
    layout = swag.Layout.of(model.policy)
    before = layout.flatten(model.policy)
    found = []
    for theta in posterior.sample(n, generator=torch.Generator().manual_seed(seed)):
        layout.write_(model.policy, theta)
        found.append(model.predict(x, deterministic=True)[0])
    layout.write_(model.policy, before)
    return np.stack(found)


def observed(model: BaseAlgorithm, n: int = 6) -> np.ndarray:
    space = model.observation_space
    space.seed(3)
    clip = [np.clip(space.sample(), -3, 3) if space.dtype != np.uint8 else space.sample() for _ in range(n)]
    return np.stack(clip).astype(space.dtype)


class OwnWay(ActorCriticPolicy):
    """Chooses actions in a way of its own, as a recurrent policy does."""

    def get_distribution(self, obs: Any) -> Any:
        return super().get_distribution(-obs)


class TestActions:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: a2c("Pendulum-v1"),
            lambda: a2c("Pendulum-v1", use_sde=True),
            lambda: A2C(
                "MlpPolicy",
                "Pendulum-v1",
                use_sde=True,
                policy_kwargs={**NARROW, "squash_output": True},
                device="cpu",
            ),
            lambda: off_policy(DDPG),
            lambda: off_policy(TD3),
            lambda: off_policy(SAC),
            lambda: PPO(
                "MlpPolicy",
                "Pendulum-v1",
                n_steps=12,
                batch_size=6,
                n_epochs=1,
                policy_kwargs=dict(NARROW),
                device="cpu",
            ),
        ],
        ids=["A2C", "A2C, gSDE", "A2C, squashed", "DDPG", "TD3", "SAC", "PPO"],
    )
    def test_continuous_actions_are_those_of_predict(
        self, make: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = make()
        # Distributions of the last forward pass, with their history, hang on a trained policy.
        model.learn(12)
        posterior, x = spread_posterior(model), observed(model)
        before = swag.Layout.of(model.policy).flatten(model.policy)
        with caplog.at_level(logging.INFO):
            found = action_statistics(model, posterior, x, 7, seed=5)
        assert "vmap" not in caplog.text  # all seven at once, no way back to the loop
        assert torch.equal(swag.Layout.of(model.policy).flatten(model.policy), before)
        assert isinstance(found, ContinuousActions) and found.n_samples == 7
        each = acted(model, posterior, x, 7, 5)
        np.testing.assert_allclose(found.mean.numpy(), each.mean(0), atol=2e-5)
        np.testing.assert_allclose(found.variance.numpy(), each.var(0), atol=5e-5)
        np.testing.assert_allclose(found.disagreement.numpy(), each.var(0).mean(1) / 4, atol=2e-5)
        assert found.variance.max() > 1e-3 and torch.equal(found.action, found.mean)

    def test_probabilities_of_a_stochastic_policy(self, caplog: pytest.LogCaptureFixture) -> None:
        model = a2c("Acrobot-v1").learn(10)
        posterior, x = spread_posterior(model), observed(model)
        with caplog.at_level(logging.INFO):
            found = action_statistics(model, posterior, x, 9, seed=1)
        assert "vmap" not in caplog.text
        layout, rows = swag.Layout.of(model.policy), []
        for theta in posterior.sample(9, generator=torch.Generator().manual_seed(1)):
            layout.write_(model.policy, theta)
            distribution = model.policy.get_distribution(torch.from_numpy(x)).distribution
            rows.append((distribution.probs.detach(), distribution.entropy().detach()))
        probs, entropies = (torch.stack(part) for part in zip(*rows, strict=True))
        assert isinstance(found, DiscreteActions)
        torch.testing.assert_close(found.probs, probs.mean(0))
        torch.testing.assert_close(found.variance, probs.var(0, unbiased=False), atol=1e-6, rtol=1e-4)
        entropy = torch.distributions.Categorical(probs.mean(0)).entropy()
        torch.testing.assert_close(found.entropy, entropy)
        torch.testing.assert_close(found.expected_entropy, entropies.mean(0))
        information = entropy - entropies.mean(0)
        torch.testing.assert_close(found.mutual_information, information, atol=1e-6, rtol=1e-3)
        assert (found.disagreement > 0).all() and torch.equal(found.action, probs.mean(0).argmax(-1))

    def test_dqn_votes(self) -> None:
        model = off_policy(DQN, "CartPole-v1").learn(16)
        posterior, x = spread_posterior(model), observed(model)
        found = action_statistics(model, posterior, x, 11, seed=2)
        each = acted(model, posterior, x, 11, 2)
        assert isinstance(found, DiscreteActions)
        votes = np.stack([(each == action).mean(0) for action in (0, 1)], -1)
        np.testing.assert_allclose(found.probs.numpy(), votes, atol=1e-6)
        assert found.expected_entropy.abs().max() == 0  # each sample is certain
        torch.testing.assert_close(found.mutual_information, found.entropy)
        assert 0 < votes.min(1).max() < 1  # they do differ

    def test_images_and_a_single_observation(self) -> None:
        env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, action_dim=3)
        kwargs = {"features_extractor_kwargs": {"features_dim": 4}}
        model = A2C("CnnPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu")
        posterior = spread_posterior(model, 0.02)
        ask = PolicyEnsemble(model, posterior, 3, seed=0)
        images = np.stack([env.observation_space.sample() for _ in range(2)])
        both, alone = ask(images), ask(images[1])
        assert isinstance(both, DiscreteActions) and isinstance(alone, DiscreteActions)
        assert both.probs.shape == (2, 3) and alone.probs.shape == (1, 3) and ask.n_samples == 3
        torch.testing.assert_close(alone.probs[0], both.probs[1])

    def test_a_trained_policy_in_an_ensemble_of_ones_own(self) -> None:
        """Its last distribution has a history, inside of a plain object, and refuses to be deep-copied."""
        model = a2c("Pendulum-v1").learn(10)
        with pytest.raises(RuntimeError, match="deepcopy"):
            copy.deepcopy(model.policy)
        ensemble = swag.Ensemble(
            model.policy,
            spread_posterior(model),
            5,
            seed=0,
            likelihood=swag.HomoscedasticGaussian(1.0),
            forward=lambda policy, x: policy(x, deterministic=True)[0],
        )
        x = observed(model)
        layout, values = swag.Layout.of(model.policy), []
        found = ensemble(torch.from_numpy(x))
        for theta in spread_posterior(model).sample(5, generator=torch.Generator().manual_seed(0)):
            layout.write_(model.policy, theta)
            values.append(model.policy(torch.from_numpy(x), deterministic=True)[0].detach()[:, 0])
        torch.testing.assert_close(found.mean, torch.stack(values).mean(0), atol=1e-5, rtol=1e-5)

    def test_observations_that_are_dicts(self) -> None:
        env = SimpleMultiObsEnv(random_start=False)
        settings = {"cnn_output_dim": 4}
        kwargs = {"features_extractor_kwargs": settings, "net_arch": [4]}
        model = A2C("MultiInputPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu")
        posterior = spread_posterior(model, 0.05)
        x = {key: np.stack([part] * 3) for key, part in env.reset()[0].items()}
        found = action_statistics(model, posterior, x, 3, seed=0)
        assert isinstance(found, DiscreteActions) and found.probs.shape == (3, 4)
        votes = acted(model, posterior, x, 3, 0)
        assert votes.shape == (3, 3) and (found.disagreement > 0).all()

    def test_a_posterior_over_the_actor_alone(self) -> None:
        callback = SWAGCallback(3, 10, 3, networks=("actor",))
        model = off_policy(DDPG).learn(30, callback=callback)
        found = action_statistics(model, callback.posterior, observed(model), 5, seed=0)
        assert isinstance(found, ContinuousActions) and found.variance.min() > 0
        same = action_statistics(model, callback.posterior, observed(model), 5, seed=0)
        assert torch.equal(found.mean, same.mean)

    def test_a_point_agrees_with_itself(self) -> None:
        model = a2c()
        layout = swag.Layout.of(model.policy)
        point = swag.PointMass(layout.flatten(model.policy), layout=layout)
        found = action_statistics(model, point, observed(model), 4)
        assert found.disagreement.abs().max() == 0 and found.variance.abs().max() == 0

    def test_what_is_refused(self) -> None:
        model = a2c()
        posterior = spread_posterior(model)
        with pytest.raises(InputError, match="observations: "):
            action_statistics(model, posterior, np.zeros((2, 7), np.float32), 2)
        with pytest.raises(InputError, match="n_samples"):
            PolicyEnsemble(model, posterior, 0)
        with pytest.raises(InputError, match="model: got a Linear"):
            PolicyEnsemble(torch.nn.Linear(2, 2), posterior)
        with pytest.raises(InputError):
            PolicyEnsemble(off_policy(DDPG), posterior)
        # All would agree, everywhere: no signal of safety.
        for other, part in ((model, "value_net"), (off_policy(DDPG), "critic"), (off_policy(SAC), "critic")):
            weights = swag.Layout.of(other.policy, select=selected(other.policy, (part,), "it"))
            point = swag.PointMass(weights.flatten(other.policy), layout=weights)
            with pytest.raises(InputError, match="posterior: has no weight that actions depend on"):
                PolicyEnsemble(other, point)
        own = A2C(OwnWay, "CartPole-v1", device="cpu")
        with pytest.raises(InputError, match="is a OwnWay; pass a model of"):
            PolicyEnsemble(own, spread_posterior(own))
        binary = A2C("MlpPolicy", IdentityEnvMultiBinary(2), device="cpu")
        with pytest.raises(InputError, match=r"MultiBinary.*statistics are for Discrete and Box"):
            PolicyEnsemble(binary, spread_posterior(binary))


def test_evaluations_are_plain_data() -> None:
    one = Evaluation(10, 2, 1, {"current": [1.0, 3.0]})
    assert Evaluation.from_dict(json.loads(json.dumps(one.to_dict()))) == one and one.mean("current") == 2
