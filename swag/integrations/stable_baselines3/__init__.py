"""stable-baselines3: averages of policies along training, SWAG over policies, what its samples say.

    callback = SWAGCallback(rank=20, swa_start=50_000, every=1_000, eval_env=env, eval_every=5_000)
    model.learn(100_000, callback=callback)
    statistics = action_statistics(model, callback.posterior, observations, n_samples=30, seed=0)

See docs/integrations/stable_baselines3.md. Needs the extra `rl`.
"""

from swag.integrations.requirements import require

require("stable_baselines3", "2.6", "rl")

from swag.integrations.stable_baselines3.actions import PolicyEnsemble, action_statistics  # noqa: E402
from swag.integrations.stable_baselines3.callback import SWAGCallback  # noqa: E402
from swag.integrations.stable_baselines3.evaluation import Evaluation  # noqa: E402
from swag.integrations.stable_baselines3.statistics import (  # noqa: E402
    ActionStatistics,
    ContinuousActions,
    DiscreteActions,
)

__all__ = [
    "ActionStatistics",
    "ContinuousActions",
    "DiscreteActions",
    "Evaluation",
    "PolicyEnsemble",
    "SWAGCallback",
    "action_statistics",
]
