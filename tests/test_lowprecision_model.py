"""Models in low precision: what each layer sees, what comes back, and that the rest is as before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from swag.errors import InputError
from swag.lowprecision import (
    BlockFloatingPoint,
    FixedPoint,
    Quantizer,
    SymmetricUniform,
    plain_copy,
    quantize_model,
)
from swag.lowprecision.model import weight_quantizers, write_plain_
from tests.cases import CASES, Case, Tied, features
from tests.runs import seeded

ACTIVATIONS, ERRORS = FixedPoint(6, 3), FixedPoint(10, 9)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=seeded(2))


def on_grid(x: Tensor, form: FixedPoint | BlockFloatingPoint) -> bool:
    return torch.equal(form.to_nearest()(x), x)


def test_every_layer_sees_activations_on_the_grid_and_errors_come_back_on_theirs() -> None:
    model = quantize_model(network(), activations=ACTIVATIONS, errors=ERRORS, seed=0)
    seen: list[Tensor] = []
    errors: list[Tensor] = []

    def watch(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])

    for layer in (model[0], model[4], model[6]):
        layer.register_forward_pre_hook(watch)  # after the quantizer's own
    for layer in (model[2], model[5]):  # the outputs that the quantised layers read
        layer.register_forward_hook(lambda layer, args, out: out.register_hook(errors.append) and None)
    loss = F.cross_entropy(model(images()), torch.arange(6) % 3)
    loss.backward()
    assert len(seen) == 3 and all(on_grid(x, ACTIVATIONS) for x in seen)
    assert len(errors) == 2 and all(on_grid(e, ERRORS) and e.abs().sum() > 0 for e in errors)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_nearest_rounding_agrees_with_the_layers_written_out() -> None:
    """In eval mode: output = f(Q_A(a), Q_W(w)) for every layer, Q to nearest."""
    q_w, q_a = BlockFloatingPoint(5, dim=0), FixedPoint(8, 4)
    model = network().eval()
    lowbit = quantize_model(model, weights=q_w, activations=q_a, seed=0)
    w, a = q_w.to_nearest(), q_a.to_nearest()
    x = F.conv2d(a(images()), w(model[0].weight), model[0].bias)
    x = torch.relu(model[1](x)).flatten(1)
    x = torch.relu(F.linear(a(x), w(model[4].weight), model[4].bias))
    expected = F.linear(a(x), w(model[6].weight), model[6].bias)
    torch.testing.assert_close(lowbit(images()), expected)
    assert not torch.allclose(lowbit(images()), model(images()), atol=1e-3)


def test_the_model_is_not_changed_and_weights_get_straight_through_gradients() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    lowbit = quantize_model(model, weights=SymmetricUniform(2, dim=0), seed=0)
    loss = F.cross_entropy(lowbit(images()), torch.arange(6) % 3)
    loss.backward()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in network().named_parameters()]
    # The gradient of the full-precision weight is that of the rounded one.
    plain = plain_copy(lowbit)
    with torch.no_grad():
        plain[1].load_state_dict(model[1].state_dict())
    F.cross_entropy(plain(images()), torch.arange(6) % 3).backward()
    original = lowbit[4].parametrizations["weight"].original
    torch.testing.assert_close(original.grad, plain[4].weight.grad)


def test_plain_copy_has_the_rounded_weights_and_nothing_else() -> None:
    form = SymmetricUniform(2, dim=0)
    model = network().eval()
    lowbit = quantize_model(model, weights=form, activations=FixedPoint(16, 8), seed=0)
    plain = plain_copy(lowbit)
    assert [type(m) for m in plain] == [type(m) for m in model]
    assert plain.state_dict().keys() == model.state_dict().keys()
    for index in (0, 4, 6):
        assert torch.equal(plain[index].weight, form(model[index].weight))
        assert torch.equal(plain[index].bias, model[index].bias)
        assert not plain[index]._forward_pre_hooks
    lowbit(images())  # is as it was
    other = plain_copy(lowbit)
    with torch.no_grad():
        other[0].weight.zero_()
    write_plain_(other, lowbit)
    assert torch.equal(other[0].weight, plain[0].weight)


def test_shared_weights_stay_shared() -> None:
    lowbit = quantize_model(Tied(), weights=SymmetricUniform(2), seed=0)
    plain = plain_copy(lowbit)
    assert plain.encoder.weight is plain.decoder.weight
    assert len(weight_quantizers(lowbit)) == 3


@pytest.mark.parametrize("keep", [True, False])
def test_a_quantised_models_state_round_trips(keep: bool) -> None:
    """The same outputs from the next batch on, stochastic rounding included."""

    def build(seed: int) -> nn.Module:
        form = BlockFloatingPoint(4, dim=0)
        made = quantize_model(
            network(), weights=form, activations=ACTIVATIONS, errors=ERRORS, keep_grid=keep, seed=seed
        )
        return made.train()

    a, b = build(0), build(1)
    for _ in range(3):
        a(images()).sum().backward()
    assert not torch.equal(a(images()), b(images()))
    b.load_state_dict(a.state_dict())
    a.zero_grad()
    b.zero_grad()
    for _ in range(2):
        out_a, out_b = a(images()), b(images())
        assert torch.equal(out_a, out_b)
        out_a.sum().backward()
        out_b.sum().backward()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    with pytest.raises(InputError, match="state_dict: a quantizer's state"):
        Quantizer(ACTIVATIONS).set_extra_state(torch.zeros(2))


def test_a_state_survives_a_file(tmp_path: object) -> None:
    lowbit = quantize_model(network(), activations=ACTIVATIONS, seed=2**64 - 1)
    torch.save(lowbit.state_dict(), f"{tmp_path}/state.pt")
    other = quantize_model(network(), activations=ACTIVATIONS, seed=0)
    other.load_state_dict(torch.load(f"{tmp_path}/state.pt", weights_only=True))
    assert torch.equal(lowbit.train()(images()), other.train()(images()))


def test_train_mode_draws_anew_and_eval_mode_repeats() -> None:
    lowbit = quantize_model(network(), activations=FixedPoint(4, 1), seed=0)
    lowbit.train()
    assert not torch.equal(lowbit(images()), lowbit(images()))
    lowbit.eval()
    assert torch.equal(lowbit(images()), lowbit(images()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_odd_models(case: Case) -> None:
    """Whatever the model: it runs, learns, makes a plain copy, and its average makes an ensemble."""
    model = case.build()
    try:
        lowbit = quantize_model(
            model,
            weights=BlockFloatingPoint(8, dim=0),
            activations=BlockFloatingPoint(8),
            errors=ERRORS,
            seed=0,
        )
    except InputError as error:
        assert "no layer to quantise" in str(error) or "weight norm" in str(error)
        if "weight norm" in str(error):
            lowbit = quantize_model(model, activations=BlockFloatingPoint(8), errors=ERRORS, seed=0)
            assert (lowbit.eval()(features()) - model.eval()(features())).abs().max() < 0.1
        return
    lowbit.train()
    out = lowbit(features(16))
    assert out.shape == (16, 3)
    out.float().square().mean().backward()
    plain = plain_copy(lowbit)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in model.named_parameters()]
    # Eight bits of weights change the outputs little.
    model.eval()
    plain.eval()
    scale = model(features()).float().abs().max()
    assert (plain(features()).float() - model(features()).float()).abs().max() <= 0.2 * scale + 0.05


def test_an_ensemble_of_a_low_precision_model() -> None:
    model = quantize_model(network(), activations=BlockFloatingPoint(8, dim=1), seed=0)
    collector = swag.Collector(model, rank=2)
    for _ in range(3):
        with torch.no_grad():
            model[6].weight.add_(0.01)
        collector.collect(model)
    ensemble = swag.Ensemble(model, collector.swag(), 3, bn_loader=[images()], seed=0)
    assert torch.equal(ensemble(images()).probs, ensemble(images()).probs)
    # Names stay, so that the collector serves the plain model too.
    assert swag.Ensemble(network(), collector.swa(), 1, bn_loader=[images()])(images()).probs.shape == (6, 3)


def test_skipped_layers() -> None:
    lowbit = quantize_model(network(), activations=ACTIVATIONS, skip=["0", "6"], seed=0)
    assert [hasattr(m, "input_quantizer") for m in lowbit] == [False] * 4 + [True] + [False] * 2


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def test_a_quantizer_alone() -> None:
    """Forward Q_A, backward Q_E of what comes back, in train mode with new numbers each time."""
    quantizer = Quantizer(ACTIVATIONS, ERRORS, seed=0)
    x = torch.randn(50, generator=seeded(4), requires_grad=True)
    weight = torch.randn(50, generator=seeded(5))
    drawn = []
    for _ in range(2):
        x.grad = None
        y = quantizer(x)
        (y * weight).sum().backward()
        assert on_grid(y, ACTIVATIONS) and on_grid(x.grad, ERRORS)
        assert ((y - x).abs() <= 2.0**-3).all()
        assert ((x.grad - weight.clamp(-1, 1 - 2.0**-9)).abs() <= 2.0**-9).all()
        drawn.append((y.detach(), x.grad))
    assert not torch.equal(drawn[0][0], drawn[1][0]) and not torch.equal(drawn[0][1], drawn[1][1])
    nothing = Quantizer()
    assert nothing(x) is x
    with pytest.raises(InputError, match="errors: got 'int8'; pass a format"):
        Quantizer(None, "int8")
    with pytest.raises(InputError, match=r"seed: got 0.5"):
        Quantizer(ACTIVATIONS, seed=0.5)


@pytest.mark.parametrize("errors", [BlockFloatingPoint(8), ERRORS], ids=["block", "fixed"])
def test_a_loss_scaler_sees_its_overflows_and_recovers(errors: BlockFloatingPoint | FixedPoint) -> None:
    """Errors that overflow are neither refused nor clamped: the scaler skips a step, and goes on."""
    model = quantize_model(network(), errors=errors, seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-60)
    moved = []
    for _ in range(3):
        before = model[6].weight.detach().clone()
        optimizer.zero_grad()
        loss = 1e6 * F.cross_entropy(model(images()), torch.arange(6) % 3)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved.append(not torch.equal(before, model[6].weight))
    assert moved == [False, True, True]
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_kept_grid_in_half_precision_is_computed_in_single() -> None:
    """The steps follow the model to 16 bits; quotients and products are not rounded to them."""
    lowbit = quantize_model(nn.Linear(64, 8), weights=SymmetricUniform(8, dim=0), keep_grid=True).bfloat16()
    steps = lowbit.parametrizations["weight"][0].steps.float()
    original = lowbit.parametrizations["weight"].original.float()
    expected = (original / steps).round().clamp(-127, 127) * steps
    assert torch.equal(plain_copy(lowbit).weight, expected.bfloat16())


def test_bad_input() -> None:
    with pytest.raises(InputError, match="model: has no layer to quantise"):
        quantize_model(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), activations=ACTIVATIONS)
    with pytest.raises(InputError, match=r"model: layer 'lstm' is a LSTM, a kind that cannot be quantised"):
        quantize_model(Odd(), activations=ACTIVATIONS, strict=True)
    quantize_model(Odd(), activations=ACTIVATIONS, strict=True, skip=["lstm"])
    assert quantize_model(Odd(), activations=ACTIVATIONS)(torch.ones(2, 1, 4)).shape == (2, 1, 2)
    with pytest.raises(InputError, match="weights: got None, as activations and errors"):
        quantize_model(network())
    with pytest.raises(InputError, match="activations: got 8; pass a format"):
        quantize_model(network(), activations=8)
    with pytest.raises(InputError, match="skip: the model has no module 'first'"):
        quantize_model(network(), activations=ACTIVATIONS, skip=["first"])
    renormed = nn.Sequential(nn.Embedding(5, 4, max_norm=0.1), nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"weights: layer '0' rescales its weight in place \(max_norm\)"):
        quantize_model(renormed, weights=ACTIVATIONS)
    lowbit = quantize_model(network(), activations=ACTIVATIONS)
    with pytest.raises(InputError, match="model: is quantised"):
        quantize_model(lowbit, activations=ACTIVATIONS)
    with pytest.raises(InputError, match="model: got a int"):
        quantize_model(3, activations=ACTIVATIONS)
    with pytest.raises(InputError, match="x: holds 1 NaN of"):
        lowbit(nan_at(0))


def nan_at(place: int) -> Tensor:
    x = torch.zeros(1, 1, 8, 8)
    x.view(-1)[place] = torch.nan
    return x
