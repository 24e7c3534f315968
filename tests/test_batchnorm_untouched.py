"""How a refresh reads its loader, and what it leaves or puts back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import swag
from swag.batchnorm import eval_mode
from tests.batchnorm_truth import (
    assert_statistics,
    net,
    normal,
    oracle,
    unsorted,
)
from tests.cases import CASES, Case
from tests.checks import array, assert_close
from tests.untouched import assert_untouched, state

# --- how batches are fed ---------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        return self.norm(left if right is None else left + right)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: (x, 0), lambda x: [x, x], lambda x: {"left": x}])
def test_tensors_tuples_lists_and_dicts(make: Callable[[Tensor], Any]) -> None:
    model, batches = TwoInputs(), unsorted()
    swag.refresh_batchnorm_(model, [make(batch) for batch in batches])
    assert_close(model.norm.running_mean, array(torch.cat(batches)).mean(0), rtol=1e-6, scale=1)


def test_dicts_give_every_key_as_a_keyword() -> None:
    model, batches = TwoInputs(), unsorted()
    swag.refresh_batchnorm_(model, [{"left": batch, "right": batch} for batch in batches])
    assert_close(model.norm.running_mean, 2 * array(torch.cat(batches)).mean(0), rtol=1e-6, scale=1)


def test_the_callers_forward_sees_model_and_batch_as_they_are() -> None:
    model, batches = TwoInputs(), [(batch, batch) for batch in unsorted()]
    seen = []

    def forward(given: nn.Module, batch: Any) -> Tensor:
        seen.append(batch)
        return given(batch[0], right=batch[1])

    swag.refresh_batchnorm_(model, batches, forward=forward)
    assert all(mine is theirs for mine, theirs in zip(seen, batches, strict=True))
    assert_close(model.norm.running_mean, 2 * array(torch.cat(unsorted())).mean(0), rtol=1e-6, scale=1)


def test_any_iterable_is_read_once() -> None:
    model, batches = net(), unsorted()
    swag.refresh_batchnorm_(model, iter(batches))
    assert_statistics(model, oracle(model, batches))


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.cat(unsorted())


def test_a_data_loader_over_a_stream_has_no_length() -> None:
    model, loader = net(), torch.utils.data.DataLoader(Stream(), batch_size=10)
    swag.refresh_batchnorm_(model, loader)
    assert_statistics(model, oracle(model, list(loader)))


# --- what is left as it was ------------------------------------------------------------------------------


def lived_in(training: bool) -> nn.Sequential:
    """A network with gradients, statistics, momenta of three kinds and mixed modes and trainabilities."""
    model = net()
    model[1].momentum = None
    model[5].momentum = 0.01
    model.train()(normal(6, 3)).sum().backward()
    model[4].weight.requires_grad_(False)
    model.train(training)
    model[3].train(not training)  # dropout
    return model


def refreshed_statistics(model: nn.Module, training: bool) -> list[str]:
    return [f"{name}.{leaf}" for name in ("1", "5") for leaf, _ in model[int(name)].named_buffers()]


@pytest.mark.parametrize("training", [True, False])
def test_only_the_statistics_change(training: bool) -> None:
    model = lived_in(training)
    before = state(model)
    swag.refresh_batchnorm_(model, unsorted())
    changed = refreshed_statistics(model, training)
    assert_untouched(model, before, but=changed)
    assert all(not torch.equal(model.state_dict()[name], before["tensors"][name]) for name in changed)


class Broken(nn.Module):
    """Fails where it meets an infinity or a NaN."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if not x.isfinite().all():
            raise self.error("the forward pass failed")
        return x


def failing(batches: list[Tensor], error: type[BaseException]) -> Iterator[Tensor]:
    yield from batches
    raise error("the loader failed")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("where", ["forward", "loader"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_everything_is_put_back_after_an_exception(
    where: str, error: type[BaseException], training: bool
) -> None:
    model = lived_in(training)
    model.append(Broken(error))
    loader = failing(unsorted(), error)
    if where == "forward":
        loader = iter([*unsorted(), torch.full((2, 3), torch.inf)])
    before = state(model)
    with pytest.raises(error, match=where):
        swag.refresh_batchnorm_(model, loader)
    assert_untouched(model, before)


@pytest.mark.parametrize(
    ("loader", "complaint"),
    [
        ([], "loader: is empty"),
        (iter([]), "loader: gave no batch"),
        ([torch.ones(1, 3)], "loader: gave the layer '1' one value"),
        ([torch.empty(0, 3)], "loader: .*'1'"),
        (None, "loader: got a NoneType"),
        (torch.ones(2, 3), "loader: got a Tensor"),
        ({"x": torch.ones(2, 3)}, "loader: got a dict"),
        (["abc"], "batch: cannot feed a str"),
        ([()], "batch: cannot feed a tuple"),
        ([(1, 2)], "batch: cannot feed a tuple whose input is a int"),
    ],
)
def test_bad_loaders_change_nothing(loader: Any, complaint: str) -> None:
    model = lived_in(True)
    before = state(model)
    with pytest.raises(swag.InputError, match=complaint):
        swag.refresh_batchnorm_(model, loader)
    assert_untouched(model, before)


def test_a_layer_that_no_pass_reaches_is_named() -> None:
    model = net()
    before = state(model)
    with pytest.raises(swag.InputError, match=r"'5' was never reached.*frozen="):
        swag.refresh_batchnorm_(model, unsorted(), forward=lambda model, batch: model[:3](batch))
    assert_untouched(model, before)
    swag.refresh_batchnorm_(model, unsorted(), forward=lambda model, batch: model[:3](batch), frozen=["5"])


@pytest.mark.parametrize(
    ("frozen", "complaint"),
    [
        (["6"], r"frozen: '6' is no batch-norm layer.*\['1', '5'\]"),
        ("1", r"frozen: got the string '1'.*\['1'\]"),
    ],
)
def test_bad_names_of_frozen_layers(frozen: Any, complaint: str) -> None:
    model = net()
    before = state(model)
    with pytest.raises(swag.InputError, match=complaint):
        swag.refresh_batchnorm_(model, unsorted(), frozen=frozen)
    assert_untouched(model, before)


@pytest.mark.parametrize("affine", [True, False])
def test_lazy_layers_without_shape_are_refused(affine: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LazyBatchNorm1d(affine=affine))
    with pytest.raises(swag.InputError, match=r"'1\.\w+' belongs to a lazy module.*forward pass"):
        swag.refresh_batchnorm_(model, unsorted())
    model.eval()(normal(2, 3))
    swag.refresh_batchnorm_(model, unsorted())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_eval_mode_is_a_parenthesis(case: Case) -> None:
    model = case.build().train()
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
    modes = [module.training for module in model.modules()]
    with pytest.raises(KeyboardInterrupt), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyboardInterrupt
    assert [module.training for module in model.modules()] == modes
