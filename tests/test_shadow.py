"""The private copy: the user's model is read once, and weights are exchanged as views."""

from __future__ import annotations

import copy
import functools
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from swag.parameters import Layout, unwrap
from swag.shadow import Shadow
from tests.cases import CASES, WRAPPERS, Case, Tied, features, plain


def everything(layout: Layout, *, seed: int = 0, dtype: torch.dtype | None = None) -> Tensor:
    """A random θ (D,)."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(layout.size, generator=generator, dtype=dtype or layout.statistics_dtype)


def storages(module: nn.Module) -> set[int]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def written_by_hand(model: nn.Module, layout: Layout, theta: Tensor) -> nn.Module:
    """The model itself, its parameters set one by one from slices of θ."""
    found, at = dict(model.named_parameters()), 0
    for name in layout.names:
        parameter = found[name]
        parameter.data.copy_(theta[at : at + parameter.numel()].reshape(parameter.shape))
        at += parameter.numel()
    assert at == len(theta)
    return model.eval()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_shadow_with_new_weights_is_the_model_with_these_weights(case: Case) -> None:
    model, x = case.build().train(), features(6)
    layout = Layout.of(model)
    shadow = Shadow(model, layout)
    for seed in range(2):
        theta = everything(layout, seed=seed)
        shadow.load_(theta)
        with torch.no_grad():
            expected = written_by_hand(case.build(), layout, theta)(x)
            # The same numbers in a model whose parameters are contiguous: other kernels may round otherwise.
            torch.testing.assert_close(shadow.module(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_shared_with_the_users_model(case: Case) -> None:
    model = case.build().train()
    before = copy.deepcopy(model.state_dict())
    layout = Layout.of(model)
    shadow = Shadow(model, layout)
    assert not storages(model) & storages(shadow.module)
    theta = everything(layout)
    shadow.load_(theta)
    shadow.module(features(4))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in shadow.module.modules())
    assert not any(parameter.requires_grad for parameter in shadow.module.parameters())


def test_gradients_are_not_copied() -> None:
    model = plain()
    model(features()).sum().backward()
    shadow = Shadow(model, Layout.of(model))
    assert all(parameter.grad is None for parameter in shadow.module.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_parameters_are_views_of_theta_where_the_dtype_allows_it() -> None:
    model = nn.ModuleDict({"low": nn.Linear(2, 2, dtype=torch.bfloat16), "full": nn.Linear(2, 2)})
    layout = Layout.of(model)
    shadow, theta = Shadow(model, layout), everything(layout)
    shadow.load_(theta)
    start = theta.untyped_storage().data_ptr()
    assert all(p.untyped_storage().data_ptr() == start for p in shadow.module["full"].parameters())
    assert all(p.dtype == torch.bfloat16 for p in shadow.module["low"].parameters())
    assert torch.equal(shadow.module["low"].weight.flatten(), theta[:4].bfloat16())


def test_loading_leaves_theta_and_earlier_thetas_alone() -> None:
    model = plain()
    shadow, first, second = Shadow(model, Layout.of(model)), torch.zeros(51), torch.ones(51)
    shadow.load_(first)
    shadow.load_(second)
    shadow.module(features())
    assert (first == 0).all() and (second == 1).all()


def test_tied_weights_stay_tied() -> None:
    model = Tied()
    layout = Layout.of(model)
    shadow = Shadow(model, layout)
    assert shadow.module.decoder.weight is shadow.module.encoder.weight
    shadow.load_(everything(layout))
    assert shadow.module.decoder.weight is shadow.module.encoder.weight


def test_what_the_layout_leaves_out_keeps_the_models_values() -> None:
    model = plain()
    shadow = Shadow(model, Layout.of(model, select=["2"]))
    shadow.load_(torch.zeros(15))
    assert torch.equal(shadow.module[0].weight, model[0].weight)
    assert (shadow.module[2].weight == 0).all()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_looked_through(wrapper: str, process_group: None) -> None:
    model = plain()
    wrapped = WRAPPERS[wrapper](model)
    shadow = Shadow(wrapped, Layout.of(wrapped))
    assert type(shadow.module) is nn.Sequential
    shadow.load_(torch.zeros(51))
    assert (shadow.module(features()) == 0).all()
    assert (unwrap(wrapped)[0].weight != 0).any()


def test_recurrent_layers() -> None:
    """They keep a second list of their weights."""
    model, x = nn.LSTM(8, 3, num_layers=2, batch_first=True), features(4)[:, None]
    layout = Layout.of(model)
    shadow, theta = Shadow(model, layout), everything(layout)
    shadow.load_(theta)
    expected = written_by_hand(copy.deepcopy(model), layout, theta)(x)[0]
    torch.testing.assert_close(shadow.module(x)[0], expected, rtol=1e-6, atol=1e-6)


class Notes:
    """A plain object; what it holds lies in slots, out of reach of `vars`."""

    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held


class Remembers(nn.Module):
    """Keeps what its last forward pass computed, with its history, wherever one can keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        self.register_buffer("average", torch.zeros(3))
        self.last: Tensor | None = None
        self.kept: list[Any] = []
        self.kept.append(self.kept)

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.linear(x)
        self.average = 0.9 * self.average + 0.1 * self.last.mean(0)
        self.kept.append({"features": (self.last, 1)})
        self.notes = Notes(torch.distributions.Categorical(logits=self.last))
        return self.last


def test_models_that_hold_tensors_with_a_history() -> None:
    """Such tensors refuse to be deep-copied."""
    model = Remembers()
    model(features())
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    shadow = Shadow(model, Layout.of(model))
    # The copy keeps the values, and one tensor stays one wherever it is held.
    assert shadow.module.last is shadow.module.kept[1]["features"][0]
    assert torch.equal(shadow.module.notes.held.logits, model.notes.held.logits)
    assert shadow.module.notes.held.logits.grad_fn is None
    shadow.load_(torch.zeros(27))
    assert (shadow.module(features()) == 0).all()
    assert model.last is not None and model.last.grad_fn is not None
    assert len(model.kept) == 2 and model.notes.held.logits.grad_fn is not None


def test_after_a_forward_pass_with_the_old_weight_norm() -> None:
    (case,) = [case for case in CASES if case.name == "weight_norm_old"]
    model = case.build()
    model(features()).sum().backward()
    layout = Layout.of(model)
    shadow, theta = Shadow(model, layout), everything(layout)
    shadow.load_(theta)
    expected = written_by_hand(case.build(), layout, theta)(features())
    torch.testing.assert_close(shadow.module(features()), expected, rtol=1e-6, atol=1e-6)


def test_a_model_of_another_architecture_is_refused() -> None:
    layout = Layout.of(plain())
    with pytest.raises(swag.InputError, match=r"model: has no parameter '0.weight'"):
        Shadow(Tied(), layout)
    with pytest.raises(swag.InputError, match=r"parameter '0.weight' has shape \(4, 7\), expected \(4, 8\)"):
        Shadow(nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 3)), layout)


def test_theta_of_the_wrong_size_changes_nothing() -> None:
    model = plain()
    shadow = Shadow(model, Layout.of(model))
    shadow.load_(torch.ones(51))
    with pytest.raises(swag.InputError, match=r"D=51, got shape \(50,\)"):
        shadow.load_(torch.zeros(50))
    assert all((parameter == 1).all() for parameter in shadow.module.parameters())


def replaced(wrap: Any) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[1].forward = wrap(model[1])
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: torch.compile(layer.forward, backend="eager"),
        lambda layer: lambda x: F.linear(x, layer.weight, layer.bias),
    ],
    ids=["compiled", "closure"],
)
def test_a_forward_that_would_run_the_originals_weights_is_refused(wrap: Any) -> None:
    model = replaced(wrap)
    with pytest.raises(swag.InputError, match="the forward of 1 was replaced"):
        Shadow(model, swag.Layout.of(model))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: MethodType(lambda self, x: F.linear(x, self.weight, self.bias), layer),
        lambda layer: functools.partial(lambda self, x: F.linear(x, self.weight, self.bias), layer),
    ],
    ids=["method", "partial"],
)
def test_a_forward_that_is_copied_along_is_fine(wrap: Any) -> None:
    model = replaced(wrap)
    layout = swag.Layout.of(model)
    shadow = Shadow(model, layout)
    shadow.load_(torch.zeros(layout.size))
    assert not shadow.module(torch.ones(1, 3)).any() and model(torch.ones(1, 3)).any()
