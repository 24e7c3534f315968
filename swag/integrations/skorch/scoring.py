"""Finding the callback of a net that was cloned, and scoring the ensemble in a search."""

from __future__ import annotations

from typing import Any

import numpy as np
from skorch import NeuralNet

from swag.errors import InputError
from swag.integrations.skorch.callback import SWAGCallback
from swag.metrics import nll


def callback_of(net: NeuralNet) -> SWAGCallback:
    """The SWAGCallback of a net; a cloned one, such as a grid search's `best_estimator_`, has its own.

    Raises:
        InputError: the net has none.
    """
    found = [callback for _, callback in getattr(net, "callbacks_", []) if isinstance(callback, SWAGCallback)]
    if not found:
        raise InputError(
            "net: has no SWAGCallback; make it with callbacks=[('swag', SWAGCallback())] and fit it"
        )
    return found[0]


def ensemble_log_likelihood(net: NeuralNet, X: Any, y: Any) -> float:
    """The ensemble's mean ln p(y), nats: a `scoring=` for searches, where higher is better.

    A net's own score does not depend on what the callback does.

    Raises:
        InputError: no SWAGCallback, no classifier, or a label that was not seen in training.
    """
    probs = callback_of(net).predict_proba(net, X)
    classes = np.asarray(net.classes_)
    labels = np.searchsorted(classes, np.asarray(y)).clip(0, len(classes) - 1)
    if not (classes[labels] == np.asarray(y)).all():
        raise InputError("y: holds a label that the net was not trained with; stratify the split")
    return -nll(probs, labels)
