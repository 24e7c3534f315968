"""Batch-norm statistics against float64 numpy: pooled over rows, and everything else left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import swag
from swag.batchnorm import batch_statistics, batchnorm_modules, eval_mode
from tests.cases import BATCHNORM_CASES, CASES, WRAPPERS, Case, features
from tests.checks import Array, array, assert_close

# float32 statistics of a float32 network: a handful of roundings of 6e-8 a layer.
RTOL = 1e-5
EPSILON = float(torch.finfo(torch.float32).eps)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net() -> nn.Sequential:
    """Two batch-norm layers, '1' and '5', with dropout between them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(3, 4),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4, 5),
            nn.BatchNorm1d(5),
            nn.Linear(5, 2),
        )


def unsorted(sizes: Iterable[int] = (20, 30, 7)) -> list[Tensor]:
    """Batches (n, 3) that differ a lot from each other, as unshuffled data do."""
    return [normal(n, 3, seed=n) * (1 + i) + 3 * i for i, n in enumerate(sizes)]


def oracle(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    frozen: Iterable[str] = (),
    forward: Callable[[nn.Module, Any], Any] = lambda model, batch: model(batch),
) -> dict[str, tuple[Array, Array]]:
    """Mean and variance (n − 1) of all that each layer sees in train mode, in float64, without dropout."""
    model = copy.deepcopy(model).double().train()
    seen: dict[str, list[Array]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) or name in set(frozen):
            module.eval()
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            seen[name] = []
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(rows(inputs[0])))
    with torch.no_grad():
        for batch in batches:
            forward(model, batch.double() if isinstance(batch, Tensor) else batch)
    pooled = {name: np.concatenate(parts) for name, parts in seen.items()}
    return {name: (x.mean(0), x.var(0, ddof=1)) for name, x in pooled.items()}


def rows(x: Tensor) -> Array:
    """(n, C): every position of every row."""
    return array(x.movedim(1, -1).reshape(-1, x.shape[1]))


def assert_statistics(model: nn.Module, expected: dict[str, tuple[Array, Array]], rtol: float = RTOL) -> None:
    modules = dict(model.named_modules())
    for name, (mean, variance) in expected.items():
        layer = modules[name]
        assert_close(layer.running_mean, mean, rtol=rtol, scale=np.sqrt(variance) + np.abs(mean))
        assert_close(layer.running_var, variance, rtol=rtol)


def state(model: nn.Module) -> dict[str, Any]:
    """All that a refresh leaves alone, or puts back after an exception."""
    return {
        "modes": [module.training for module in model.modules()],
        "momenta": [getattr(module, "momentum", None) for module in model.modules()],
        "hooks": [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()],
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "buffers": [id(buffer) for buffer in model.buffers()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "trainable": [p.requires_grad for p in model.parameters()],
    }


def assert_same(now: dict[str, Any], before: dict[str, Any], *, but: Iterable[str] = ()) -> None:
    """Bit for bit, leaving out the tensors whose names are in `but`."""
    for key in ("modes", "momenta", "hooks", "buffers", "trainable"):
        assert now[key] == before[key], key
    assert now["tensors"].keys() == before["tensors"].keys()
    for name, value in before["tensors"].items():
        assert name in set(but) or torch.equal(now["tensors"][name], value), name
    for mine, theirs in zip(now["gradients"], before["gradients"], strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)


def statistics_of(model: nn.Module) -> list[str]:
    return [name for name in model.state_dict() if name.endswith(("_mean", "_var", "_tracked"))]


# --- what is computed ------------------------------------------------------------------------------------


def test_batches_of_100_and_4_rows_are_pooled_by_rows() -> None:
    layer, large, small = nn.BatchNorm1d(2), normal(100, 2), normal(4, 2, seed=1) + 10
    swag.refresh_batchnorm_(layer, [large, small])
    pooled = array(torch.cat([large, small]))
    assert_close(layer.running_mean, pooled.mean(0), rtol=1e-6, scale=1)
    assert_close(layer.running_var, pooled.var(0, ddof=1), rtol=1e-6)
    by_batches = (large.mean(0) + small.mean(0)) / 2
    assert (by_batches - layer.running_mean).min() > 4  # averaged by batches, the mean would be about 5


def test_variance_has_the_part_between_batches() -> None:
    layer, data = nn.BatchNorm1d(1), normal(300, 1) + torch.arange(3).repeat_interleave(100)[:, None] * 3.7
    swag.refresh_batchnorm_(layer, data.split(100))
    assert_close(layer.running_var, array(data).var(0, ddof=1), rtol=1e-6)
    assert layer.running_var.item() > 9 > 5 * np.mean([part.var().item() for part in data.split(100)])


@pytest.mark.parametrize("batches", [[[0.0, 2.0]], [[0.0], [2.0]]])
def test_variance_is_divided_by_n_minus_1(batches: list[list[float]]) -> None:
    layer = nn.BatchNorm1d(1)
    swag.refresh_batchnorm_(layer, [torch.tensor(values)[:, None] for values in batches])
    assert (layer.running_mean.item(), layer.running_var.item()) == (1.0, 2.0)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 9))
def test_the_division_into_batches_does_not_matter(sizes: list[int], seed: int) -> None:
    data = normal(sum(sizes) + 1, 3, seed=seed) * torch.tensor([1.0, 1e-3, 1e3]) + torch.tensor(
        [0.0, 1.0, 5.0]
    )
    layer = nn.BatchNorm1d(3)
    swag.refresh_batchnorm_(layer, data.split([1, *sizes]))
    scale = array(data).std(0, ddof=1) + np.abs(array(data).mean(0))
    assert_close(layer.running_mean, array(data).mean(0), rtol=1e-6, scale=scale)
    # The deviations of channel 1 (1 ± 1e-3) are exact in float32 to 1e-7 / 1e-3.
    assert_close(layer.running_var, array(data).var(0, ddof=1), rtol=1e-3)
    assert_close(layer.running_var[[0, 2]], array(data).var(0, ddof=1)[[0, 2]], rtol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_equal_float64_in_each_memory_format(memory_format: torch.memory_format) -> None:
    images = (normal(64, 3, 8, 8) + 100 * torch.arange(3)[:, None, None]).to(memory_format=memory_format)
    layer = nn.BatchNorm2d(3)
    swag.refresh_batchnorm_(layer, images.split([40, 1, 23]))
    # Half a unit in the last place of the result. (Torch's own kernel in train mode is off by ten times
    # as much in channels_last.)
    assert_close(layer.running_mean, rows(images).mean(0), rtol=6.1e-8, scale=rows(images).mean(0) + 1)
    assert_close(layer.running_var, rows(images).var(0, ddof=1), rtol=5e-7)


@pytest.mark.parametrize("case", BATCHNORM_CASES, ids=str)
def test_layers_see_batches_normalised_by_their_own_statistics(case: Case) -> None:
    model = case.build()
    batches = [features(6), features(9, seed=1) + 2, features(2, seed=2) - 3]
    expected = oracle(model, batches)
    swag.refresh_batchnorm_(model, batches)
    assert_statistics(model, expected)


def test_statistics_are_cumulative_over_layers() -> None:
    """The second layer's are not those behind a first layer that already has the pooled statistics."""
    model, batches = net(), unsorted()
    expected = oracle(model, batches)
    swag.refresh_batchnorm_(model, batches)
    assert_statistics(model, expected)
    layer_by_layer = rows(model.eval()[:5](torch.cat(batches)))
    assert (layer_by_layer.var(0, ddof=1) / expected["5"][1]).min() > 1.2  # with the part between batches


def test_a_refresh_depends_on_nothing_but_weights_and_data() -> None:
    batches = unsorted()
    model, other = net(), net()
    for _ in range(3):
        other.train()(normal(50, 3) * 7 + 2)
    swag.refresh_batchnorm_(model, batches)
    swag.refresh_batchnorm_(other.eval(), batches)
    again = copy.deepcopy(other)
    swag.refresh_batchnorm_(again, batches)
    for name in statistics_of(model):
        assert torch.equal(model.state_dict()[name], other.state_dict()[name])
        assert torch.equal(again.state_dict()[name], other.state_dict()[name])


def test_dropout_is_off() -> None:
    model, batches = net().train(), unsorted()
    state_before = torch.get_rng_state()
    swag.refresh_batchnorm_(model, batches)
    assert_statistics(model, oracle(model, batches))
    assert torch.equal(torch.get_rng_state(), state_before)


def test_num_batches_tracked_is_the_number_of_batches() -> None:
    model = net()
    model.train()(normal(5, 3))
    swag.refresh_batchnorm_(model, unsorted((4, 5, 6)))
    assert model[1].num_batches_tracked.item() == model[5].num_batches_tracked.item() == 3


def test_a_module_used_twice_pools_both_uses() -> None:
    """BATCHNORM_CASES has it in a network; here by hand."""
    layer = nn.BatchNorm1d(1)
    model = nn.Sequential(layer, nn.Linear(1, 1, bias=False), layer)
    nn.init.constant_(model[1].weight, 2.0)
    x = torch.tensor([[0.0], [4.0]])  # normalised ∓1 up to eps, doubled ∓2: the layer sees 0, 4, −2, 2
    swag.refresh_batchnorm_(model, [x])
    assert layer.running_mean.item() == pytest.approx(1.0, abs=1e-5)
    assert layer.running_var.item() == pytest.approx(20 / 3, rel=1e-5)
    assert layer.num_batches_tracked.item() == 1


def test_one_row_batches_and_a_last_batch_of_one_row() -> None:
    layer, data = nn.BatchNorm1d(3), normal(9, 3)
    for sizes in ([1] * 9, [4, 4, 1]):
        swag.refresh_batchnorm_(layer, data.split(sizes))
        assert_close(layer.running_mean, array(data).mean(0), rtol=1e-6, scale=1)
        assert_close(layer.running_var, array(data).var(0, ddof=1), rtol=1e-6)


def test_a_row_alone_is_normalised_to_the_layers_bias() -> None:
    """Its variance over one row is 0, so the next layers see the bias; torch's train mode would refuse it."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    nn.init.constant_(model[0].bias, 5.0)
    swag.refresh_batchnorm_(model, normal(4, 2).split(1))
    # The kernel computes x/√eps − mean/√eps + bias: 1/√eps ≈ 316 times the rounding of x.
    assert_close(model[1].running_mean, [5.0, 5.0], rtol=1e-4)
    assert_close(model[1].running_var, [0.0, 0.0], rtol=1e-6, scale=1)


def test_batches_without_rows_count_for_nothing() -> None:
    model, batches = net(), unsorted()
    expected = oracle(model, batches)
    empty = torch.empty(0, 3)
    swag.refresh_batchnorm_(model, [empty, batches[0], empty, *batches[1:], empty])
    assert_statistics(model, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    data = (normal(200, 3, 4) * 3 + 50).to(dtype)
    epsilon = torch.finfo(dtype).eps
    low, mixed = nn.BatchNorm1d(3).to(dtype), nn.BatchNorm1d(3)
    for layer, rtol in ((low, epsilon), (mixed, 1e-6)):
        swag.refresh_batchnorm_(layer, data.split([3, 150, 47]))
        # The statistics are those of the rounded data; only their storage is in half precision.
        assert_close(layer.running_mean, rows(data).mean(0), rtol=rtol)
        assert_close(layer.running_var, rows(data).var(0, ddof=1), rtol=rtol)
        assert layer.running_mean.dtype == (dtype if layer is low else torch.float32)


def test_float64_models() -> None:
    model, batches = net().double(), [batch.double() for batch in unsorted()]
    swag.refresh_batchnorm_(model, batches)
    assert_statistics(model, oracle(model, batches), rtol=1e-12)


# Two-dimensional, short and long, images small and large enough to be read in several pieces, volumes.
SHAPES = [(7, 5), (64, 5), (5000, 40), (63, 3, 4, 4), (70, 3, 4, 4), (300, 8, 16, 16), (65, 4, 3, 5, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels last", "sliced"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_statistics_equal_float64(
    shape: tuple[int, ...], memory_format: str, dtype: torch.dtype
) -> None:
    """Channels far from zero, and a first row unlike all others: what sums around a shift could get wrong."""
    channels = torch.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    x = normal(*shape) * 0.1 ** (channels % 3) + 10 * channels
    x[:1] += 5
    x = x.to(dtype)
    if memory_format == "channels last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    elif memory_format == "sliced":
        x = torch.stack([x, -x], -1)[..., 0]
    mean, variance, n = batch_statistics(x)
    assert (mean.dtype, variance.dtype) == (torch.promote_types(dtype, torch.float32),) * 2
    assert n == x.numel() // shape[1]
    epsilon = torch.finfo(mean.dtype).eps
    exact = rows(x)
    assert_close(mean, exact.mean(0), rtol=epsilon, scale=np.abs(exact).max(0))
    # Sums of squares around a shift that is up to 10 standard deviations off, which costs 10² roundings.
    # (In float64 the oracle is no better: numpy adds up 5,000 rows one after the other.)
    assert_close(variance, exact.var(0), rtol=max(100 * epsilon, 1e-12))


@pytest.mark.parametrize("jump", [1.0, 30.0, 1e3, 1e6])
def test_batch_statistics_when_the_first_rows_say_nothing_about_the_others(jump: float) -> None:
    """Sorted data: the first rows' mean lies `jump` standard deviations away from all the rest."""
    x = normal(20_000, 3)
    x[:64] += jump
    mean, variance, _ = batch_statistics(x)
    assert_close(mean, rows(x).mean(0), rtol=EPSILON, scale=np.abs(rows(x)).mean(0) + 1)
    # A shift that is more than 10 standard deviations off is replaced by a better one.
    assert_close(variance, rows(x).var(0), rtol=100 * EPSILON)


def test_batch_statistics_of_constant_channels() -> None:
    for value in (0.0, 0.1, 1e6, -3e-30):
        mean, variance, _ = batch_statistics(torch.full((1000, 2, 3), value))
        assert_close(mean, [value, value], rtol=EPSILON)
        assert (variance >= 0).all()
        assert_close(variance, [0.0, 0.0], rtol=EPSILON**2, scale=value**2)


def test_batch_statistics_by_hand() -> None:
    mean, variance, n = batch_statistics(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert (mean.tolist(), variance.tolist(), n) == ([2.0, 5.0], [1.0, 0.0], 2)
    mean, _, n = batch_statistics(torch.arange(12.0).reshape(2, 3, 2))
    assert (mean.tolist(), n) == ([3.5, 5.5, 7.5], 4)


# --- which layers ----------------------------------------------------------------------------------------


def test_a_layer_in_eval_mode_in_a_model_in_train_mode_is_frozen() -> None:
    model, batches = net().train(), unsorted()
    model[1].eval()
    before, expected = state(model), oracle(model, batches, frozen=["1"])
    swag.refresh_batchnorm_(model, batches)
    assert_statistics(model, expected)
    assert_same(state(model), before, but=[n for n in statistics_of(model) if n.startswith("5.")])


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_named_by_the_caller_is_frozen(training: bool) -> None:
    model, batches = net().train(training), unsorted()
    before, expected = state(model), oracle(model, batches, frozen=["1"])
    swag.refresh_batchnorm_(model, batches, frozen=["1"])
    assert_statistics(model, expected)
    assert_same(state(model), before, but=[n for n in statistics_of(model) if n.startswith("5.")])


def test_a_model_wholly_in_eval_mode_has_none_frozen() -> None:
    model, batches = net().eval(), unsorted()
    expected = oracle(model, batches)
    assert set(expected) == {"1", "5"} == set(batchnorm_modules(model))
    swag.refresh_batchnorm_(model, batches)
    assert_statistics(model, expected)
    assert not any(module.training for module in model.modules())


def test_layers_without_running_statistics_are_left_alone() -> None:
    model = net()
    model[1] = nn.BatchNorm1d(4, track_running_stats=False)
    batches = unsorted()
    swag.refresh_batchnorm_(model, batches)
    assert model[1].running_mean is None
    assert_statistics(model, oracle(model, batches))
    assert set(batchnorm_modules(model)) == {"5"}


def test_other_normalisations_and_models_without_batch_norm_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.InstanceNorm1d(4, track_running_stats=True))
    before = state(model)
    swag.refresh_batchnorm_(model, [normal(5, 3)])
    assert_same(state(model), before)


def test_sync_batchnorm_on_one_cpu() -> None:
    batches = unsorted()
    expected = oracle(net(), batches)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    assert isinstance(model[1], nn.SyncBatchNorm)
    swag.refresh_batchnorm_(model, batches)
    assert_statistics(model, expected)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_models(wrapper: str, process_group: None) -> None:
    plain, batches = net(), unsorted()
    swag.refresh_batchnorm_(plain, batches)
    wrapped = WRAPPERS[wrapper](net())
    assert set(batchnorm_modules(wrapped)) == {"1", "5"}
    swag.refresh_batchnorm_(wrapped, batches)
    inner = swag.parameters.unwrap(wrapped)
    for name, value in plain.state_dict().items():
        assert torch.equal(inner.state_dict()[name], value)


@pytest.mark.parametrize("part", ["block", "layer"])
def test_compiled_parts(part: str) -> None:
    plain, batches = net(), unsorted()
    swag.refresh_batchnorm_(plain, batches)
    model = net()
    at = 1 if part == "layer" else 0
    model[at] = torch.compile(model[at] if part == "layer" else nn.Sequential(model[0]), backend="eager")
    swag.refresh_batchnorm_(model, batches)
    assert "1" in batchnorm_modules(model)
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        assert_close(ours, theirs, rtol=1e-6, scale=1)


def test_a_layer_called_by_keyword() -> None:
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(input=x)

    model, batches = ByKeyword(), unsorted()
    swag.refresh_batchnorm_(model, batches)
    assert_close(model.norm.running_var, array(torch.cat(batches)).var(0, ddof=1), rtol=1e-6)


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
    after = state(model)
    changed = refreshed_statistics(model, training)
    assert_same(after, before, but=changed)
    assert all(not torch.equal(after["tensors"][name], before["tensors"][name]) for name in changed)


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
    assert_same(state(model), before)


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
    assert_same(state(model), before)


def test_a_layer_that_no_pass_reaches_is_named() -> None:
    model = net()
    before = state(model)
    with pytest.raises(swag.InputError, match=r"'5' was never reached.*frozen="):
        swag.refresh_batchnorm_(model, unsorted(), forward=lambda model, batch: model[:3](batch))
    assert_same(state(model), before)
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
    assert_same(state(model), before)


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
