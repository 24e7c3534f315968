"""What one member of an ensemble says for observations, as one tensor that vmap can carry.

`model.predict` goes through numpy and through distributions that look at values, neither of which vmap
follows; so the networks are called here, and the tests hold the results against `model.predict`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from swag.errors import InputError

# forward(policy, observations as `policy.obs_to_tensor` gives them) → one tensor.
Head = Callable[[Any, Any], Tensor]


def probabilities(model: BaseAlgorithm) -> Head:
    """forward(policy, observations) → probabilities (N, A) of a discrete policy's actions.

    A stochastic policy's own; DQN's are 1 for the greedy action.

    Raises:
        InputError: no policy that is known here.
    """
    if _acts_as(model.policy, ActorCriticPolicy):
        return lambda policy, x: _head(policy, x).softmax(-1)
    if _acts_as(model.policy, DQNPolicy):
        n = int(cast(spaces.Discrete, model.action_space).n)
        choices = torch.arange(n, device=model.device)
        return lambda policy, x: (policy.q_net(x).argmax(-1, keepdim=True) == choices).float()
    raise _unknown(model)


def actions(model: BaseAlgorithm) -> Head:
    """forward(policy, observations) → deterministic actions (N, …), bounded and in the environment's units.

    Raises:
        InputError: no policy that is known here.
    """
    space = cast(spaces.Box, model.action_space)
    low, high = (torch.as_tensor(bound, device=model.device) for bound in (space.low, space.high))

    def clipped(raw: Tensor) -> Tensor:
        return raw.reshape(-1, *space.shape).clamp(low, high)

    def scaled(raw: Tensor) -> Tensor:
        return low + 0.5 * (raw.reshape(-1, *space.shape) + 1.0) * (high - low)

    policy = model.policy
    if _acts_as(policy, ActorCriticPolicy) and policy.squash_output:
        return lambda policy, x: scaled(_head(policy, x).tanh())
    if _acts_as(policy, ActorCriticPolicy):
        return lambda policy, x: clipped(_head(policy, x))
    if _acts_as(policy, TD3Policy):  # DDPG's too
        return lambda policy, x: scaled(policy.actor(x))
    if _acts_as(policy, SACPolicy):
        return lambda policy, x: scaled(policy.actor.get_action_dist_params(x)[0].tanh())
    raise _unknown(model)


def choosing(policy: Any) -> list[nn.Module]:
    """The parts of a policy that `actions` or `probabilities` depend on."""
    if isinstance(policy, ActorCriticPolicy):
        layers = getattr(policy.mlp_extractor, "policy_net", policy.mlp_extractor)
        return [policy.pi_features_extractor, layers, policy.action_net]
    return [policy.q_net if isinstance(policy, DQNPolicy) else policy.actor]


def _acts_as(policy: Any, kind: type) -> bool:
    """Whether a policy is of this kind, and acts in the way of this kind (a recurrent one does not)."""
    ways = ("predict", "_predict", "get_distribution", "_get_action_dist_from_latent")
    own = type(policy)
    return isinstance(policy, kind) and all(
        getattr(own, way, None) is getattr(kind, way, None) for way in ways
    )


def _head(policy: Any, x: Any) -> Tensor:
    """The last layer of an actor-critic's actor: logits, or the mean of a Gaussian."""
    extractor = policy.pi_features_extractor
    features = super(ActorCriticPolicy, policy).extract_features(x, extractor)
    return cast(Tensor, policy.action_net(policy.mlp_extractor.forward_actor(features)))


def _unknown(model: BaseAlgorithm) -> InputError:
    return InputError(
        f"model: the policy of {type(model).__name__} is a {type(model.policy).__name__}; pass a model of "
        "A2C, PPO, DQN, DDPG, TD3 or SAC with a policy of stable-baselines3"
    )
