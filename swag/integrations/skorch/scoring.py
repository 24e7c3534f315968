"""Finding the callback of a net that was cloned, and scoring the ensemble in a search."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from skorch import NeuralNet

from swag.errors import InputError
from swag.integrations.skorch.callback import SWAGCallback
from swag.metrics import nll


def callback_of(net: NeuralNet | Pipeline) -> SWAGCallback:
    """The SWAGCallback of a net; a cloned one, such as a grid search's `best_estimator_`, has its own.

    Args:
        net: a net, or a pipeline that ends in one.

    Raises:
        InputError: the net has none.
    """
    net = net[-1] if isinstance(net, Pipeline) else net
    found = [callback for _, callback in getattr(net, "callbacks_", []) if isinstance(callback, SWAGCallback)]
    if not found:
        raise InputError(
            "net: has no SWAGCallback; make it with callbacks=[('swag', SWAGCallback())] and fit it"
        )
    return found[0]


def ensemble_log_likelihood(net: NeuralNet | Pipeline, X: Any, y: Any) -> float:
    """The ensemble's mean ln p(y), nats: a `scoring=` for searches, where higher is better.

    A net's own score does not depend on what the callback does.

    Args:
        net: a classifier with a SWAGCallback, or a pipeline that ends in one.
        X: inputs, of the pipeline where it is one.
        y: labels (N,) as the net was trained with: numbers of its outputs, from 0.

    Raises:
        InputError: no SWAGCallback, no classifier, or labels that are no numbers of its outputs.
    """
    callback = callback_of(net)
    if isinstance(net, Pipeline):
        X, net = (net[:-1].transform(X) if len(net) > 1 else X), net[-1]
    probs = callback.predict_proba(net, X)
    given = np.asarray(y)
    # A binary classifier is trained with labels that are floats.
    labels = given.astype(np.int64) if np.issubdtype(given.dtype, np.floating) else given
    if not np.array_equal(labels, given):
        raise InputError("y: holds numbers that are not whole; pass labels from 0")
    return -nll(probs, labels)
