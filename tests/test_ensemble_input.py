"""What models may return and batches may be, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import swag
from swag.parameters import unwrap
from tests.by_hand import RTOL, by_hand, draws, gaussian, training_batches
from tests.cases import Tied, batchnorm_1d, features, lazy, plain
from tests.checks import assert_close
from tests.untouched import assert_untouched, state


@dataclass
class Output:
    logits: Tensor
    loss: float = 0.0


class LanguageModelLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = batchnorm_1d()

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> Output:
        return Output(self.body(input_values))


def test_output_objects_with_logits_and_batches_of_keywords() -> None:
    model, x = LanguageModelLike(), features(7)
    posterior = gaussian(model)
    loader = [{"input_values": batch, "labels": torch.zeros(len(batch))} for batch in training_batches()]
    ensemble = swag.Ensemble(model, posterior, 3, seed=0, bn_loader=loader)
    members = by_hand(
        LanguageModelLike,
        draws(posterior, 3, 0),
        x,
        bn_loader=training_batches(),
        forward=lambda model, batch: model(batch).logits,
    )
    assert_close(ensemble.predict([{"input_values": x}]).probs, members.mean(0), rtol=RTOL, scale=1)
    assert torch.equal(ensemble(x).probs, ensemble({"input_values": x, "labels": None}).probs)


def test_the_callers_forward() -> None:
    model, x = plain(), features(7)
    ensemble = swag.Ensemble(model, gaussian(model), 3, seed=0, forward=lambda model, batch: model(-batch[1]))
    expected = swag.Ensemble(model, gaussian(model), 3, seed=0)(-x)
    assert torch.equal(ensemble(("ignored", x)).probs, expected.probs)
    assert torch.equal(ensemble.predict([("ignored", x)]).probs, expected.probs)


@pytest.mark.parametrize("n_samples", [0, -1, True, 3.0, "3", None])
def test_bad_numbers_of_samples(n_samples: Any) -> None:
    model = plain()
    with pytest.raises(swag.InputError, match=r"n_samples: got .*; pass an integer of at least 1"):
        swag.Ensemble(model, gaussian(model), n_samples)


def unsampled() -> swag.Collector:
    return swag.Collector(plain())


@pytest.mark.parametrize(
    ("model", "arguments", "complaint"),
    [
        (plain, {"posterior": gaussian(Tied())}, r"model: has no parameter 'encoder.weight'"),
        (
            lambda: nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)),
            {"posterior": gaussian(plain())},
            r"model: parameter '0.weight' has shape \(5, 8\), expected \(4, 8\)",
        ),
        (plain, {"posterior": unsampled()}, r"posterior: a Collector cannot be sampled.*collector.swag\(\)"),
        (plain, {"posterior": plain()}, r"posterior: a Sequential cannot be sampled"),
        (lambda: "model", {"posterior": gaussian(plain())}, r"model: got a str; pass a torch.nn.Module"),
        (lazy, {"posterior": gaussian(plain())}, r"model: parameter '0.weight' belongs to a lazy module"),
        (plain, {"batchnorm": "exact"}, r"batchnorm: got 'exact'; pass swag.ExactBatchNorm\(\)"),
        (plain, {"batchnorm": swag.ExactBatchNorm(("1",))}, r"frozen: '1' is no batch-norm layer"),
        (batchnorm_1d, {"bn_loader": []}, r"bn_loader: is empty"),
        (batchnorm_1d, {"bn_loader": [torch.ones(1, 8)]}, r"loader: gave the layer '1' one value"),
        (batchnorm_1d, {"bn_loader": torch.ones(4, 8)}, r"bn_loader: got a Tensor"),
        (batchnorm_1d, {"bn_loader": ["abc"]}, r"batch: cannot feed a str.*forward="),
    ],
)
def test_bad_arguments(model: Callable[[], nn.Module], arguments: dict[str, Any], complaint: str) -> None:
    built = model()
    arguments = {"posterior": None, **arguments}
    arguments["posterior"] = arguments["posterior"] or gaussian(built)
    before = state(built) if isinstance(built, nn.Module) and model is not lazy else None
    with pytest.raises(swag.InputError, match=complaint):
        swag.Ensemble(built, n_samples=2, **arguments)
    if before is not None:
        assert_untouched(built, before)


@pytest.mark.parametrize(
    ("loader", "complaint"),
    [
        ([], "loader: is empty"),
        (iter([]), "loader: gave no batch"),
        (features()[:0], "loader: got a tensor without rows"),
        (torch.tensor(1.0), "loader: got a tensor without rows"),
        ({"x": features()}, r"loader: got a dict; .*\[x\]"),
        (None, "loader: got a NoneType"),
        ([None], "batch: cannot feed a NoneType"),
    ],
)
def test_bad_loaders(loader: Any, complaint: str) -> None:
    model = plain()
    with pytest.raises(swag.InputError, match=complaint):
        swag.Ensemble(model, gaussian(model), 2).predict(loader)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_bad_batch_sizes(batch_size: Any) -> None:
    model = plain()
    with pytest.raises(swag.InputError, match="batch_size: got"):
        swag.Ensemble(model, gaussian(model), 2).predict(features(), batch_size=batch_size)


@pytest.mark.parametrize(
    ("outputs", "complaint"),
    [
        (lambda y: y[:, 0], r"outputs: classification takes logits \(N, C\), the model gave shape \(5,\)"),
        (lambda y: y[None], r"outputs: .* shape \(1, 5, 3\)"),
        (lambda y: y.argmax(1, keepdim=True), r"outputs: .*int64"),
        (lambda y: (y, y), r"model: its forward returned a tuple, not a tensor; pass forward="),
        (lambda y: None, r"model: its forward returned a NoneType"),
    ],
)
def test_outputs_that_are_no_logits(outputs: Callable[[Tensor], Any], complaint: str) -> None:
    model = plain()
    ensemble = swag.Ensemble(model, gaussian(model), 2, forward=lambda model, x: outputs(model(x)))
    with pytest.raises(swag.InputError, match=complaint):
        ensemble(features())


@pytest.mark.parametrize(
    ("likelihood", "complaint"),
    [
        (swag.HeteroscedasticGaussian(), r"HeteroscedasticGaussian takes \(N, 2\).*gave \(5, 3\)"),
        (swag.HomoscedasticGaussian(1.0), r"HomoscedasticGaussian takes .*\(N, 1\).*gave \(5, 3\)"),
    ],
)
def test_outputs_that_are_no_regression(likelihood: Any, complaint: str) -> None:
    model = plain()
    with pytest.raises(swag.InputError, match=complaint):
        swag.Ensemble(model, gaussian(model), 2, likelihood=likelihood)(features())


def test_members_that_predict_other_rows() -> None:
    model = plain()
    sizes = iter([5, 4])
    ensemble = swag.Ensemble(model, gaussian(model), 2, forward=lambda model, x: model(x)[: next(sizes)])
    with pytest.raises(swag.InputError, match=r"this member gave \(4, 3\), the ones before \(5, 3\)"):
        ensemble(features())


def test_inference_mode() -> None:
    model, x = batchnorm_1d(), features(7)
    expected = swag.Ensemble(model, gaussian(model), 3, seed=0, bn_loader=training_batches())(x)
    with torch.inference_mode():
        ensemble = swag.Ensemble(model, gaussian(model), 3, seed=0, bn_loader=training_batches())
        inside = ensemble(x)
    assert torch.equal(inside.probs, expected.probs)
    assert torch.equal(ensemble(x).probs, expected.probs)


def test_predictions_carry_no_gradient() -> None:
    model = plain()
    ensemble = swag.Ensemble(model, gaussian(model), 2)
    assert not ensemble(features().requires_grad_()).log_probs.requires_grad


def test_a_shadow_does_not_wrap() -> None:
    """`member` gives the plain architecture, whatever wrapped the model."""
    model = nn.DataParallel(plain())
    assert type(swag.Ensemble(model, gaussian(model), 2).member(0)) is type(unwrap(model))
