"""SQWA: the five phases happen as published, and the result is a model of low-bit weights that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swag.errors import InputError, StateError
from swag.lowprecision import SymmetricUniform, load_integers, plain_copy, quantize_model, save_integers, sqwa
from tests.runs import seeded

N, CLASSES = 400, 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, CLASSES))


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(N, 6, generator=seeded(1))
    centres = torch.randn(CLASSES, 6, generator=seeded(2))
    return x, (x @ centres.t()).argmax(1)


def batches() -> list[tuple[Tensor, Tensor]]:
    x, y = data()
    return list(zip(x.split(40), y.split(40), strict=True))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


RATES: dict[str, Any] = {"lr_max": 0.1, "lr_min": 0.01, "tune_lr": 0.02}


def accuracy(model: nn.Module) -> float:
    x, y = data()
    return (model.eval()(x).argmax(1) == y).float().mean().item()


def test_the_five_phases(tmp_path: Path) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    phases: list[list[float]] = []

    def watched(parameters: Any) -> torch.optim.Optimizer:
        optimizer, rates = sgd(parameters), []
        optimizer.register_step_post_hook(lambda o, args, kwargs: rates.append(o.param_groups[0]["lr"]))
        phases.append(rates)
        return optimizer

    found = sqwa(
        model, batches(), loss, watched, float_epochs=8, cycle=2, n_captures=4, tune_epochs=2, rank=3, **RATES
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name  # the caller's model is not trained
    # Three optimizers: float (8 epochs), capture (4 cycles of 2), tune (2), of 10 batches each.
    assert [len(rates) for rates in phases] == [80, 80, 20]
    assert phases[0][0] == pytest.approx(0.1) and phases[0][-1] < 0.01
    cycles = torch.tensor(phases[1]).view(4, 20)
    assert torch.allclose(cycles, cycles[:1].expand(4, -1))  # the cyclical rate, four times
    assert (cycles[0].diff() < 0).all() and cycles[0, -1] == pytest.approx(0.01, rel=0.05)
    assert max(phases[2]) <= 0.02 and phases[2][-1] < 0.005
    assert found.collector.n_collected == 4
    assert {name: len(values) for name, values in found.losses.items()} == {
        "float": 8,
        "capture": 8,
        "tune": 2,
    }
    # The average of four models of three levels has up to nine; the result has three again, in each row.
    layout = found.collector.layout
    rows = found.averaged[0].weight
    assert max(len(row.unique()) for row in rows) > 3
    final = plain_copy(found.model)
    for index in (0, 3):
        assert all(len(row.unique()) <= 3 for row in final[index].weight)
    mean = layout.unflatten(found.collector.mean)["0.weight"]
    assert torch.equal(mean, rows)
    # It also yields SWAG.
    assert found.collector.swag().sample(2).shape == (2, layout.size)
    # What it is for: nearly float's accuracy, where rounding directly loses much.
    direct = quantize_model(found.direct, weights=SymmetricUniform(2, dim=0))
    assert accuracy(found.direct) > 0.93
    assert accuracy(found.model) > accuracy(direct) + 0.02
    assert accuracy(found.model) > 0.85
    sizes = save_integers(tmp_path / "w.safetensors", found.model)
    assert sizes.codes == 6 * 32 * 2 // 8 + 32 * CLASSES * 2 // 8
    loaded = network()
    loaded.load_state_dict(load_integers(tmp_path / "w.safetensors"))
    assert accuracy(loaded) == accuracy(found.model)


def test_the_captures_are_low_bit_models() -> None:
    found = sqwa(network(), batches(), loss, sgd, cycle=1, n_captures=1, tune_epochs=0, **RATES)
    assert all(len(row.unique()) <= 3 for row in found.averaged[0].weight)
    assert torch.equal(plain_copy(found.model)[0].weight, found.averaged[0].weight)
    # Without a phase of fine-tuning, batch norm has the rounded weights' statistics.
    x, _ = data()
    with torch.no_grad():
        mean = plain_copy(found.model)[0](x).mean(0)
    torch.testing.assert_close(found.model[1].running_mean, mean, atol=1e-4, rtol=1e-4)


def test_layers_can_be_left_out_and_formats_given() -> None:
    form = SymmetricUniform(4)
    found = sqwa(
        network(), batches(), loss, sgd, form=form, skip=["3"], cycle=1, n_captures=2, tune_epochs=1, **RATES
    )
    final = plain_copy(found.model)
    assert len(final[0].weight.unique()) <= 15 < len(final[3].weight.unique())


def test_bad_input() -> None:
    def run(**changes: Any) -> None:
        settings = {"loader": batches(), **RATES, "n_captures": 1, "cycle": 1, **changes}
        sqwa(network(), settings.pop("loader"), settings.pop("loss", loss), sgd, **settings)

    with pytest.raises(InputError, match="n_captures: got 0; pass a whole number, 1 or more"):
        run(n_captures=0)
    with pytest.raises(InputError, match=r"cycle: got 0.5; pass a whole number"):
        run(cycle=0.5)
    with pytest.raises(InputError, match="loader: a generator has no length"):
        run(loader=(batch for batch in batches()))
    with pytest.raises(InputError, match="loader: is empty"):
        run(loader=[])
    with pytest.raises(InputError, match="bits: got 1; pass a word length of 2 to 8"):
        run(bits=1)
    with pytest.raises(InputError, match="lr_min"):
        run(lr_min=1.0)
    with pytest.raises(InputError, match="loss: got a CrossEntropyLoss; pass a function of the model and a"):
        run(loss=nn.CrossEntropyLoss())
    with pytest.raises(InputError, match="make_optimizer: got a SGD; pass a function"):
        sqwa(network(), batches(), loss, sgd(network().parameters()), **RATES)
    with pytest.raises(StateError, match="sqwa: the loss is nan in epoch 0 of phase 'capture'"):
        run(loss=lambda model, batch: loss(model, batch) * torch.nan)
