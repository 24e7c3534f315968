"""Batch-norm statistics against float64 numpy: pooled over rows, for the layers that are not frozen."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import swag
from swag.batchnorm import batchnorm_modules
from swag.parameters import unwrap
from tests.batchnorm_truth import (
    assert_statistics,
    net,
    normal,
    oracle,
    rows,
    statistics_of,
    unsorted,
)
from tests.cases import BATCHNORM_CASES, WRAPPERS, Case, features
from tests.checks import array, assert_close
from tests.untouched import assert_untouched, state

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


# --- which layers ----------------------------------------------------------------------------------------


def test_a_layer_in_eval_mode_in_a_model_in_train_mode_is_frozen() -> None:
    model, batches = net().train(), unsorted()
    model[1].eval()
    before, expected = state(model), oracle(model, batches, frozen=["1"])
    swag.refresh_batchnorm_(model, batches)
    assert_statistics(model, expected)
    assert_untouched(model, before, but=[n for n in statistics_of(model) if n.startswith("5.")])


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_named_by_the_caller_is_frozen(training: bool) -> None:
    model, batches = net().train(training), unsorted()
    before, expected = state(model), oracle(model, batches, frozen=["1"])
    swag.refresh_batchnorm_(model, batches, frozen=["1"])
    assert_statistics(model, expected)
    assert_untouched(model, before, but=[n for n in statistics_of(model) if n.startswith("5.")])


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
    assert_untouched(model, before)


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
    inner = unwrap(wrapped)
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
