"""SWAG inside `lightning.Trainer`: a callback, and ways from its checkpoints to predictions."""

from swag.integrations.requirements import require

require("lightning", "2.6", "lightning")

from swag.integrations.lightning.callback import SWAGCallback  # noqa: E402
from swag.integrations.lightning.random_states import RandomStates  # noqa: E402
from swag.integrations.lightning.reading import ensemble, read_collector  # noqa: E402
from swag.integrations.lightning.timing import Steps  # noqa: E402

__all__ = ["RandomStates", "SWAGCallback", "Steps", "ensemble", "read_collector"]
