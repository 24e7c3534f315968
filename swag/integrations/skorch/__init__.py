"""SWAG in a skorch net: a callback that collects while the net trains, and predictions over the ensemble.

net = NeuralNetClassifier(Network, max_epochs=40, callbacks=[("swag", SWAGCallback(swa_lr=0.05))])
net.fit(X, y)
callback_of(net).predict_proba(net, X_test)
"""

from __future__ import annotations

from swag.integrations.requirements import require

require("skorch", "1.1", "skorch")

from swag.integrations.skorch.callback import NotCollected, SWAGCallback  # noqa: E402
from swag.integrations.skorch.scoring import callback_of, ensemble_log_likelihood  # noqa: E402

__all__ = ["NotCollected", "SWAGCallback", "callback_of", "ensemble_log_likelihood"]
