"""Labels for some rows, and consistency for all: Pi model, Mean Teacher, and fast-SWA over both.

    batches = TwoStreamSampler.from_labels(labels, n_labelled=50, n_unlabelled=50)
    loader = DataLoader(data, batch_sampler=batches)
    run = train_semi_supervised(model, loader, PiModel(augment=moved), epochs=240)
    run.averaged(run.fast_swa)                           # a network with batch-norm statistics of its own

A batch is (inputs, labels), and the label of a row without one is `UNLABELLED`, −1.
"""

from swag.training.semi_supervised.augmentation import Augment, flipped, noisy, shifted
from swag.training.semi_supervised.collect_at import CollectAt
from swag.training.semi_supervised.consistency import (
    UNLABELLED,
    Consistency,
    coupling_cost,
    labelled_cross_entropy,
    sigmoid_ramp,
    softmax_kl,
    softmax_mse,
)
from swag.training.semi_supervised.methods import Method, PiModel, Supervised
from swag.training.semi_supervised.recipe import SemiSupervised, train_semi_supervised
from swag.training.semi_supervised.sampler import TwoStreamSampler
from swag.training.semi_supervised.streams import TwoStreams
from swag.training.semi_supervised.teacher import MeanTeacher
from swag.training.semi_supervised.views import TwoHeads, Views

__all__ = [
    "UNLABELLED",
    "Augment",
    "CollectAt",
    "Consistency",
    "MeanTeacher",
    "Method",
    "PiModel",
    "SemiSupervised",
    "Supervised",
    "TwoHeads",
    "TwoStreamSampler",
    "TwoStreams",
    "Views",
    "coupling_cost",
    "flipped",
    "labelled_cross_entropy",
    "noisy",
    "shifted",
    "sigmoid_ramp",
    "softmax_kl",
    "softmax_mse",
    "train_semi_supervised",
]
