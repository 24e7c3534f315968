"""What policies drawn from a posterior would do: their average, and how far they differ.

Where they agree the data of training speak; where they differ an agent explores, or hands over to safety.
"""

from __future__ import annotations

from typing import Any, cast, final

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from swag.batchnorm import KeepBatchNorm
from swag.draws import layout_for
from swag.ensemble import Ensemble
from swag.errors import InputError
from swag.integrations.stable_baselines3.heads import actions, choosing, probabilities
from swag.integrations.stable_baselines3.statistics import Actions, ActionStatistics
from swag.posterior import Posterior
from swag.predictive import Likelihood
from swag.strategy import Vmapped

# Members run together: small networks on few observations are all overhead one by one.
_CHUNK = 32


@final
class PolicyEnsemble:
    """Policies drawn once from a posterior, asked as often as wanted.

    The work is done in a private copy of the policy; S·D floats are kept.

    Args:
        model: a model of A2C, PPO, DQN, DDPG, TD3 or SAC; actions are Discrete or Box.
        posterior: over its policy's weights, e.g. `callback.posterior`; the model's own elsewhere.
        n_samples: S.
        seed: makes the draws reproducible; None takes one from torch's global generator.

    Raises:
        InputError: another action space or policy, n_samples < 1, or a posterior over other networks, or over
            none that choose actions.

    >>> import swag
    >>> from stable_baselines3 import A2C
    >>> model = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    >>> layout = swag.Layout.of(model.policy)
    >>> point = swag.PointMass(layout.flatten(model.policy), layout=layout)
    >>> statistics = PolicyEnsemble(model, point, n_samples=4, seed=0)(model.get_env().reset())
    >>> statistics.probs.shape, statistics.disagreement.tolist()
    (torch.Size([1, 2]), [0.0])
    """

    def __init__(
        self, model: BaseAlgorithm, posterior: Posterior, n_samples: int = 30, *, seed: int | None = None
    ) -> None:
        if not isinstance(model, BaseAlgorithm):
            raise InputError(f"model: got a {type(model).__name__}; pass an algorithm of stable-baselines3")
        space = model.action_space
        if not isinstance(space, spaces.Discrete | spaces.Box):
            raise InputError(f"model: its actions are {space}; statistics are for Discrete and Box actions")
        head = probabilities(model) if isinstance(space, spaces.Discrete) else actions(model)
        drawn = {id(parameter) for parameter in layout_for(model.policy, posterior).tensors(model.policy)}
        if not any(
            id(parameter) in drawn for part in choosing(model.policy) for parameter in part.parameters()
        ):
            raise InputError(
                "posterior: has no weight that actions depend on, so all samples would agree; collect the "
                "actor's as well (networks=)"
            )
        self._policy = model.policy
        self._ensemble = Ensemble(
            model.policy,
            posterior,
            n_samples,
            seed=seed,
            forward=head,
            # Its result lacks what predictives need for being cut into batches: it is asked for one.
            likelihood=cast(Likelihood, Actions(space, model.device)),
            batchnorm=KeepBatchNorm(),
            strategy=Vmapped(_CHUNK),
        )

    @property
    def n_samples(self) -> int:
        """S."""
        return self._ensemble.n_samples

    def __call__(self, observations: Any) -> ActionStatistics:
        """The statistics for observations.

        Args:
            observations: what `model.predict` takes: an array (N, …) as a `VecEnv` gives it, or one
                observation (N is 1), or a dict of such; normalised where training's were.

        Raises:
            InputError: they do not fit the observation space.
        """
        try:
            batch, _ = self._policy.obs_to_tensor(observations)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(
                f"observations: {error}; pass them as to model.predict, for {self._policy.observation_space}"
            ) from error
        return cast(ActionStatistics, self._ensemble(batch))


def action_statistics(
    model: BaseAlgorithm,
    posterior: Posterior,
    observations: Any,
    n_samples: int = 30,
    *,
    seed: int | None = None,
) -> ActionStatistics:
    """What `n_samples` policies drawn from a posterior would do; `PolicyEnsemble` asked once.

    Args:
        model: a model of A2C, PPO, DQN, DDPG, TD3 or SAC.
        posterior: over its policy's weights, e.g. `callback.posterior`.
        observations: what `model.predict` takes.
        n_samples: S.
        seed: makes the draws reproducible.

    Returns:
        `DiscreteActions` (mean probabilities, their variance over samples, entropy, mutual information) or
        `ContinuousActions` (mean action, variance over samples).

    Raises:
        InputError: another action space or policy, or observations that do not fit.
    """
    return PolicyEnsemble(model, posterior, n_samples, seed=seed)(observations)
