"""The ensemble against the loop one would write by hand, and the user's model against itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import swag
from swag.parameters import Layout, unwrap
from tests.cases import CASES, WRAPPERS, Case, Tied, batchnorm_1d, features, lazy, plain
from tests.checks import Array, array, assert_close

# Probabilities from float32 networks: other memory formats and batch sizes take other kernels.
RTOL = 5e-6
CASE = {case.name: case for case in CASES}


def trainable(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def gaussian(model: nn.Module, *, std: float = 0.2, seed: int = 0) -> swag.LowRankGaussian:
    """A posterior around the model's weights, with a diagonal and two rows."""
    layout = Layout.of(model)
    mean = layout.flatten(model)
    generator = torch.Generator().manual_seed(seed)
    rows = std * torch.randn(layout.size, 2, generator=generator, dtype=mean.dtype)
    return swag.LowRankGaussian(mean, torch.full_like(mean, std**2), rows, layout=layout)


def write(model: nn.Module, names: Iterable[str], theta: Tensor) -> None:
    found, at = dict(model.named_parameters()), 0
    for name in names:
        found[name].data.copy_(theta[at : at + found[name].numel()].reshape(found[name].shape))
        at += found[name].numel()
    assert at == len(theta)


def softmax(logits: Tensor) -> Array:
    return array(torch.softmax(logits.double(), -1))


def by_hand(
    build: Callable[[], nn.Module],
    thetas: Tensor,
    x: Any,
    *,
    names: list[str] | None = None,
    bn_loader: list[Any] | None = None,
    forward: Callable[[nn.Module, Any], Tensor] = lambda model, batch: model(batch),
) -> Array:
    """Members' probabilities (S, N, C): a fresh model each, weights written in, statistics refreshed."""
    members = []
    for theta in thetas:
        model = build()
        write(model, trainable(model) if names is None else names, theta)
        if bn_loader is not None:
            swag.refresh_batchnorm_(model, bn_loader, forward=forward)
        with torch.no_grad():
            members.append(softmax(forward(model.eval(), x)))
    return np.stack(members)


def draws(posterior: swag.Posterior, n_samples: int, seed: int) -> Tensor:
    return posterior.sample(n_samples, generator=torch.Generator().manual_seed(seed))


def training_batches() -> list[Tensor]:
    return [features(20, seed=5) * 2 + 1, features(13, seed=6) - 1, features(1, seed=7)]


def state(model: nn.Module) -> dict[str, Any]:
    """All there is to see of a model, and where it lies in memory."""
    return {
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "where": [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]],
        "objects": [id(tensor) for tensor in [*model.parameters(), *model.buffers(), *model.modules()]],
        "modes": [module.training for module in model.modules()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()],
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    now = state(model)
    for key in ("where", "objects", "modes", "trainable", "hooks"):
        assert now[key] == before[key], key
    for name, value in before["tensors"].items():
        assert torch.equal(now["tensors"][name], value), name
    for mine, theirs in zip(now["gradients"], before["gradients"], strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or torch.equal(mine, theirs))


def lived_in(case: str = "batchnorm_1d") -> nn.Module:
    """A model in the middle of training: gradients, statistics, mixed modes, a frozen bias."""
    model = CASE[case].build().train()
    model(features(9)).square().sum().backward()
    list(model.parameters())[-1].requires_grad_(False)
    next(module for module in model.modules() if isinstance(module, nn.ReLU)).eval()
    return model


# --- the same as by hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_odd_model_is_predicted_as_by_hand(case: Case) -> None:
    model, x = case.build(), features(7)
    posterior = gaussian(model)
    bn_loader = training_batches() if case.has_batchnorm else None
    ensemble = swag.Ensemble(model, posterior, 4, seed=3, bn_loader=bn_loader)
    members = by_hand(case.build, draws(posterior, 4, 3), x, bn_loader=bn_loader)
    assert ensemble.n_samples == ensemble(x).n_samples == 4
    assert_close(ensemble(x).probs, members.mean(0), rtol=RTOL, scale=1)
    assert_close(ensemble(x).variance, members.var(0), rtol=RTOL, scale=1)
    assert members.var(0).max() > 1e-3  # the members do differ


def test_probabilities_are_averaged_not_logits() -> None:
    model, x = plain(), features(20)
    posterior = gaussian(model, std=2.0)
    thetas = draws(posterior, 30, 0)
    members = by_hand(plain, thetas, x)
    of_logits = np.exp(np.log(members).mean(0))
    of_logits /= of_logits.sum(1, keepdims=True)
    got = swag.Ensemble(model, posterior, 30, seed=0)(x).probs
    assert_close(got, members.mean(0), rtol=RTOL, scale=1)
    assert np.abs(of_logits - members.mean(0)).max() > 0.05


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", ["plain", "batchnorm_1d"])
def test_wrapped_models(case: str, wrapper: str, process_group: None) -> None:
    model, x = CASE[case].build(), features(7)
    posterior, bn_loader = gaussian(model), training_batches() if case != "plain" else None
    expected = swag.Ensemble(model, posterior, 3, seed=0, bn_loader=bn_loader)(x)
    wrapped = WRAPPERS[wrapper](CASE[case].build())
    ensemble = swag.Ensemble(wrapped, posterior, 3, seed=0, bn_loader=bn_loader)
    assert torch.equal(ensemble(x).probs, expected.probs)
    assert swag.Ensemble.from_models([wrapped, model])(x).n_rows == 7


@pytest.mark.parametrize("at", [0, 1])
def test_models_with_a_compiled_part(at: int) -> None:
    """A batch-norm layer may itself be compiled: each member still has its own statistics."""
    model, x = batchnorm_1d(), features(7)
    posterior = gaussian(model)
    expected = swag.Ensemble(model, posterior, 3, seed=0, bn_loader=training_batches())
    model[at] = torch.compile(model[at], backend="eager")
    ensemble = swag.Ensemble(model, posterior, 3, seed=0, bn_loader=training_batches())
    assert_close(ensemble(x).probs, expected(x).probs, rtol=RTOL, scale=1)
    assert_close(
        swag.Ensemble.from_models([ensemble.member(i) for i in range(3)])(x).probs,
        expected(x).probs,
        rtol=RTOL,
        scale=1,
    )


def test_low_precision_models() -> None:
    model, x = plain().bfloat16(), features(7).bfloat16()
    posterior = gaussian(model)
    ensemble = swag.Ensemble(model, posterior, 4, seed=0)
    members = by_hand(lambda: copy.deepcopy(model), draws(posterior, 4, 0), x)
    assert ensemble.thetas.dtype == torch.float32
    assert_close(ensemble(x).probs, members.mean(0), rtol=RTOL, scale=1)


def test_float64_models() -> None:
    model, x = plain().double(), features(7).double()
    posterior = gaussian(model)
    members = by_hand(lambda: copy.deepcopy(model), draws(posterior, 4, 0), x)
    assert_close(swag.Ensemble(model, posterior, 4, seed=0)(x).probs, members.mean(0), rtol=1e-13, scale=1)


def test_regression() -> None:
    model, x = nn.Linear(8, 2), features(7)
    posterior = gaussian(model)
    predictive = swag.Ensemble(model, posterior, 5, seed=0, likelihood=swag.HeteroscedasticGaussian())(x)
    outputs = []
    for theta in draws(posterior, 5, 0):
        member = nn.Linear(8, 2)
        write(member, trainable(member), theta)
        outputs.append(array(member(x)))
    means, variances = np.stack(outputs)[..., 0], np.log1p(np.exp(np.stack(outputs)[..., 1]))
    assert_close(predictive.mean, means.mean(0), rtol=RTOL, scale=1)
    assert_close(predictive.aleatoric, variances.mean(0), rtol=RTOL, scale=1)
    assert_close(predictive.epistemic, means.var(0), rtol=RTOL, scale=1)
    assert_close(predictive.member_means, means, rtol=RTOL, scale=1)


# --- batch norm ------------------------------------------------------------------------------------------


def member_statistics(ensemble: swag.Ensemble) -> list[dict[str, Tensor]]:
    return [dict(ensemble.member(index).named_buffers()) for index in range(ensemble.n_samples)]


def test_each_sample_has_its_own_statistics_those_of_a_refresh_by_hand() -> None:
    model = batchnorm_1d()
    posterior = gaussian(model)
    ensemble = swag.Ensemble(model, posterior, 3, seed=0, bn_loader=training_batches())
    found = member_statistics(ensemble)
    for theta, statistics in zip(draws(posterior, 3, 0), found, strict=True):
        member = copy.deepcopy(model)
        write(member, trainable(member), theta)
        swag.refresh_batchnorm_(member, training_batches())
        for name, value in member.named_buffers():
            assert_close(statistics[name], value, rtol=1e-6, scale=1)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        shift = found[first]["1.running_mean"] - found[second]["1.running_mean"]
        assert shift.abs().max() > 0.05


def test_statistics_of_a_model_in_eval_mode_are_refreshed_too() -> None:
    model, x = batchnorm_1d(), features(7)
    posterior = gaussian(model)
    training = swag.Ensemble(model.train(), posterior, 3, seed=0, bn_loader=training_batches())(x)
    evaluating = swag.Ensemble(model.eval(), posterior, 3, seed=0, bn_loader=training_batches())(x)
    assert torch.equal(training.probs, evaluating.probs)


@pytest.mark.parametrize("how", ["eval mode", "named"])
def test_frozen_layers_keep_the_models_statistics(how: str) -> None:
    model = CASE["batchnorm_2d_3d"].build().train()
    model(features(9))
    policy = swag.ExactBatchNorm(frozen=("image.1",)) if how == "named" else None
    if how == "eval mode":
        model.image[1].eval()
    ensemble = swag.Ensemble(
        model, gaussian(model), 2, seed=0, bn_loader=training_batches(), batchnorm=policy
    )
    for statistics in member_statistics(ensemble):
        assert torch.equal(statistics["image.1.running_mean"], model.image[1].running_mean)
        assert not torch.equal(statistics["volume.1.running_mean"], model.volume[1].running_mean)


def test_kept_statistics() -> None:
    model, x = batchnorm_1d().train(), features(7)
    model(features(9))
    posterior = gaussian(model)
    ensemble = swag.Ensemble(model, posterior, 3, seed=0, batchnorm=swag.KeepBatchNorm())
    members = by_hand(lambda: copy.deepcopy(model), draws(posterior, 3, 0), x)
    assert_close(ensemble(x).probs, members.mean(0), rtol=RTOL, scale=1)


def test_bn_loader_is_not_read_where_there_is_nothing_to_refresh() -> None:
    def unread() -> Iterator[Tensor]:
        raise AssertionError("was read")
        yield

    model = plain()
    swag.Ensemble(model, gaussian(model), 2, bn_loader=unread())


def test_a_model_with_batch_norm_needs_a_bn_loader() -> None:
    model = batchnorm_1d()
    with pytest.raises(swag.InputError, match=r"bn_loader: the model has 1 batch-norm layer.*KeepBatchNorm"):
        swag.Ensemble(model, gaussian(model), 2)
    frozen = batchnorm_1d().train()
    frozen[1].eval()
    swag.Ensemble(frozen, gaussian(frozen), 2)  # all are frozen: none is needed


def test_the_bn_loader_is_read_once_for_all_samples() -> None:
    model = batchnorm_1d()
    once = swag.Ensemble(model, gaussian(model), 3, seed=0, bn_loader=iter(training_batches()))
    again = swag.Ensemble(model, gaussian(model), 3, seed=0, bn_loader=training_batches())
    assert torch.equal(once(features()).probs, again(features()).probs)


# --- the user's model ------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stopping(batches: Iterable[Tensor], error: type[BaseException] = Stop) -> Iterator[Tensor]:
    yield from batches
    raise error


class Counted:
    """A forward that fails at the n-th call."""

    def __init__(self, n: int, error: type[BaseException] = Stop) -> None:
        self.left, self.error = n, error

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return model(batch)


@pytest.mark.parametrize("case", ["batchnorm_1d", "batchnorm_2d_3d", "shared_batchnorm"])
def test_the_users_model_is_bit_identical_after_everything(case: str) -> None:
    model = CASE[case].build().train()
    model(features(9)).square().sum().backward()
    model.eval()
    list(model.modules())[1].train()
    next(model.parameters()).requires_grad_(False)
    before = state(model)
    ensemble = swag.Ensemble(model, gaussian(model), 3, bn_loader=training_batches())
    assert_untouched(model, before)
    ensemble(features())
    ensemble.predict([features(), features()])
    ensemble.member(0).train()(features(5))
    swag.Ensemble.from_models([model, model])(features())
    assert_untouched(model, before)


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_the_users_model_is_bit_identical_after_failures(error: type[BaseException]) -> None:
    model = lived_in()
    posterior, before = gaussian(model), state(model)
    with pytest.raises(error):
        swag.Ensemble(model, posterior, 3, bn_loader=stopping(training_batches(), error))
    assert_untouched(model, before)
    with pytest.raises(error):
        swag.Ensemble(model, posterior, 3, bn_loader=training_batches(), forward=Counted(5, error))
    assert_untouched(model, before)

    bn_passes = 3 * len(training_batches())
    ensemble = swag.Ensemble(
        model, posterior, 3, seed=0, bn_loader=training_batches(), forward=Counted(bn_passes + 2, error)
    )
    with pytest.raises(error):
        ensemble(features())
    assert_untouched(model, before)
    with pytest.raises(error):
        ensemble.predict(stopping([features()], error))
    assert_untouched(model, before)
    # And the ensemble goes on as if nothing had happened.
    fresh = swag.Ensemble(model, posterior, 3, seed=0, bn_loader=training_batches())
    assert torch.equal(ensemble(features()).probs, fresh(features()).probs)


class Fails(nn.Module):
    """A model whose own forward fails on a NaN, having already computed something."""

    def __init__(self) -> None:
        super().__init__()
        self.body = batchnorm_1d()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if x.isnan().any():
            raise Stop
        return y


def test_the_users_model_is_bit_identical_when_its_own_forward_raises() -> None:
    model = Fails().train()
    model(features(9)).sum().backward()
    before = state(model)
    bad = torch.full((3, 8), torch.nan)
    with pytest.raises(Stop):
        swag.Ensemble(model, gaussian(model), 3, bn_loader=[features(), bad])
    assert_untouched(model, before)
    ensemble = swag.Ensemble(model, gaussian(model), 3, bn_loader=training_batches())
    for call in (lambda: ensemble(bad), lambda: ensemble.predict([features(), bad])):
        with pytest.raises(Stop):
            call()
        assert_untouched(model, before)


def test_training_goes_on_and_the_ensemble_does_not_notice() -> None:
    model, x = batchnorm_1d().train(), features(7)
    posterior = gaussian(model)
    ensemble = swag.Ensemble(model, posterior, 3, bn_loader=training_batches())
    deep, first = swag.Ensemble.from_models([model, model]), ensemble(x).probs
    first_deep = deep(x).probs
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = copy.deepcopy(model.state_dict())
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(ensemble(x).probs, first)
    assert torch.equal(deep(x).probs, first_deep)


@pytest.mark.parametrize("kind", ["point", "empirical", "gaussian"])
def test_posteriors_are_neither_written_nor_followed(kind: str) -> None:
    model, x = plain(), features(7)
    layout = Layout.of(model)
    theta = layout.flatten(model)
    tensors = {
        "point": [theta],
        "empirical": [torch.stack([theta, -theta])],
        "gaussian": [theta, torch.full_like(theta, 0.1), torch.ones(len(theta), 2)],
    }[kind]
    posterior: swag.Posterior = {
        "point": lambda: swag.PointMass(theta, layout=layout),
        "empirical": lambda: swag.Empirical(tensors[0], layout),
        "gaussian": lambda: swag.LowRankGaussian(*tensors, layout=layout),
    }[kind]()
    before = [tensor.clone() for tensor in tensors]
    ensemble = swag.Ensemble(model, posterior, 2, seed=0)
    first = ensemble(x).probs
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(tensors, before, strict=True))
    for tensor in tensors:
        tensor.zero_()
    assert torch.equal(ensemble(x).probs, first)


# --- batches and seeds -----------------------------------------------------------------------------------


def test_batch_size_does_not_matter() -> None:
    model, x = batchnorm_1d(), features(20)
    ensemble = swag.Ensemble(model, gaussian(model), 4, seed=0, bn_loader=training_batches())
    whole = ensemble(x)
    for size in (1, 3, 7, 20):
        predictive = ensemble.predict(x.split(size))
        for name in ("probs", "entropy", "expected_entropy", "variance", "energy", "max_logit"):
            assert_close(getattr(predictive, name), getattr(whole, name), rtol=RTOL, scale=1)
    one_by_one = torch.cat([ensemble(row[None]).probs for row in x])
    assert_close(one_by_one, whole.probs, rtol=RTOL, scale=1)


def test_predict_is_the_calls_one_after_the_other() -> None:
    model, batches = plain(), list(features(20).split(6))
    ensemble = swag.Ensemble(model, gaussian(model), 4, seed=0, keep_members=True)
    predictive, parts = ensemble.predict(iter(batches)), [ensemble(batch) for batch in batches]
    assert predictive.n_rows == 20
    for name in ("log_probs", "expected_entropy", "variance", "energy", "max_logit"):
        assert torch.equal(getattr(predictive, name), torch.cat([getattr(part, name) for part in parts]))
    assert torch.equal(predictive.member_probs, torch.cat([part.member_probs for part in parts], 1))


def test_predict_reads_tuples_dicts_and_data_loaders() -> None:
    model, x = plain(), features(20)
    ensemble = swag.Ensemble(model, gaussian(model), 4, seed=0)
    expected = ensemble.predict(x.split(6)).probs
    labelled = torch.utils.data.TensorDataset(x, torch.zeros(20))
    assert torch.equal(ensemble.predict(torch.utils.data.DataLoader(labelled, 6)).probs, expected)
    by_keyword = [{"input": batch} for batch in x.split(6)]
    assert torch.equal(ensemble.predict(by_keyword).probs, expected)


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Tensor]:
        yield from features(20)


def test_data_loaders_over_streams_have_no_length() -> None:
    model = batchnorm_1d()
    loader = torch.utils.data.DataLoader(Stream(), batch_size=6)
    ensemble = swag.Ensemble(model, gaussian(model), 2, seed=0, bn_loader=loader)
    expected = swag.Ensemble(model, gaussian(model), 2, seed=0, bn_loader=features(20).split(6))
    assert torch.equal(ensemble.predict(loader).probs, expected.predict(features(20).split(6)).probs)


def test_the_same_seed_gives_the_same_predictions() -> None:
    model, x = batchnorm_1d(), features(7)

    def predicted(seed: int | None) -> Tensor:
        return swag.Ensemble(model, gaussian(model), 4, seed=seed, bn_loader=training_batches())(x).probs

    assert torch.equal(predicted(1), predicted(1))
    assert not torch.equal(predicted(1), predicted(2))
    torch.manual_seed(11)
    first, second = predicted(None), predicted(None)
    assert not torch.equal(first, second)
    torch.manual_seed(11)
    assert torch.equal(predicted(None), first)


def test_with_a_seed_the_global_generator_is_not_used() -> None:
    model = batchnorm_1d().train()
    before = torch.get_rng_state()
    ensemble = swag.Ensemble(model, gaussian(model), 4, seed=1, bn_loader=training_batches())
    ensemble.predict([features()])
    assert torch.equal(torch.get_rng_state(), before)


def test_fewer_samples_are_the_first_of_more() -> None:
    model = batchnorm_1d()
    few, many = (
        swag.Ensemble(model, gaussian(model), n, seed=1, bn_loader=training_batches()) for n in (2, 5)
    )
    assert torch.equal(few.thetas, many.thetas[:2])
    assert torch.equal(few.thetas, draws(gaussian(model), 5, 1)[:2])


# --- posteriors that are a few points --------------------------------------------------------------------


class Calls:
    """The default way of feeding a batch, counted."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, model: nn.Module, batch: Tensor) -> Tensor:
        self.n += 1
        return model(batch)


class OnlySamples:
    """A user's own posterior: nothing but what the protocol asks for."""

    def __init__(self, inner: swag.Posterior) -> None:
        self.layout, self.mean, self._inner = inner.layout, inner.mean, inner

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        return self._inner.sample(n_samples, generator=generator)


def points(n: int, model: nn.Module) -> list[swag.PointMass]:
    layout = Layout.of(model)
    thetas = draws(gaussian(model, std=0.5), n, 0)
    return [swag.PointMass(theta, layout=layout) for theta in thetas]


@pytest.mark.parametrize("kind", ["point", "mixture", "nested", "empirical"])
def test_points_are_predicted_once_with_the_average_of_many_samples(kind: str) -> None:
    model, x = batchnorm_1d(), features(7)
    three = points(3, model)
    posterior, n_points = {
        "point": (three[0], 1),
        "mixture": (swag.Mixture(three), 3),
        "nested": (swag.Mixture([swag.Mixture(three[:1]), swag.Mixture(three[1:2]), three[2]]), 3),
        "empirical": (swag.Empirical(torch.stack([p.mean for p in three]), three[0].layout), 3),
    }[kind]
    calls = Calls()
    ensemble = swag.Ensemble(
        model, posterior, 30, seed=0, bn_loader=training_batches(), forward=calls, keep_members=True
    )
    assert calls.n == n_points * len(training_batches())
    predictive = ensemble(x)
    assert calls.n == n_points * (1 + len(training_batches()))
    assert ensemble.n_samples == predictive.n_samples == n_points

    sampled = swag.Ensemble(model, OnlySamples(posterior), 30, seed=0, bn_loader=training_batches())
    assert sampled.n_samples == 30
    assert_close(predictive.probs, sampled(x).probs, rtol=RTOL, scale=1)
    assert_close(predictive.variance, sampled(x).variance, rtol=RTOL, scale=1)


def test_points_in_another_number_or_of_other_weights_are_sampled() -> None:
    model = plain()
    three = points(3, model)
    assert swag.Ensemble(model, swag.Mixture(three), 31, seed=0).n_samples == 31
    assert swag.Ensemble(model, swag.Mixture(three), 2, seed=0).n_samples == 2
    uneven = swag.Ensemble(model, swag.Mixture(three, [0.5, 0.25, 0.25]), 30, seed=0)
    assert uneven.n_samples == 30
    assert torch.equal(uneven.thetas, draws(swag.Mixture(three, [0.5, 0.25, 0.25]), 30, 0))


def test_multiswag() -> None:
    model, x = batchnorm_1d(), features(7)
    mixture = swag.Mixture([gaussian(CASE["batchnorm_1d"].build(seed), seed=seed) for seed in range(3)])
    ensemble = swag.Ensemble(model, mixture, 9, seed=4, bn_loader=training_batches())
    members = by_hand(CASE["batchnorm_1d"].build, draws(mixture, 9, 4), x, bn_loader=training_batches())
    assert_close(ensemble(x).probs, members.mean(0), rtol=RTOL, scale=1)


# --- separate models -------------------------------------------------------------------------------------


def test_from_models_is_the_average_of_the_models_with_their_own_buffers() -> None:
    models, x = [CASE["batchnorm_1d"].build(seed).train() for seed in range(3)], features(7)
    for seed, model in enumerate(models):
        model(features(30, seed=seed) * (seed + 1))
        model[0].requires_grad_(seed == 1)  # frozen or not, weights count
    before = [state(model) for model in models]
    ensemble = swag.Ensemble.from_models(models, keep_members=True)
    predictive = ensemble(x)
    for model, own in zip(models, before, strict=True):
        assert_untouched(model, own)
    expected = np.stack([softmax(copy.deepcopy(model).eval()(x)) for model in models])
    assert_close(predictive.member_probs, expected, rtol=RTOL, scale=1)
    assert_close(predictive.probs, expected.mean(0), rtol=RTOL, scale=1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_from_models_with_every_odd_model(case: Case) -> None:
    models, x = [case.build(seed) for seed in range(2)], features(7)
    for model in models:
        model.train()(features(30))
    predictive = swag.Ensemble.from_models(models)(x)
    with torch.no_grad():
        expected = np.stack([softmax(model.eval()(x)) for model in models])
    assert_close(predictive.probs, expected.mean(0), rtol=RTOL, scale=1)


class SharedBuffer(nn.Module):
    """One tensor registered as a buffer by two modules."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        for name in ("one", "two"):
            self.add_module(name, nn.Module())
        self.one.register_buffer("shift", torch.tensor([shift, 0.0, 0.0]))
        self.two.register_buffer("shift", self.one.shift, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.two.shift


def test_from_models_takes_buffers_under_all_their_names() -> None:
    models, x = [SharedBuffer(0.0), SharedBuffer(5.0)], features(7)
    expected = np.stack([softmax(model(x)) for model in models])
    predictive = swag.Ensemble.from_models(models, keep_members=True)(x)
    assert_close(predictive.member_probs, expected, rtol=RTOL, scale=1)


def test_from_models_wants_one_architecture() -> None:
    deeper = nn.Sequential(*plain(), nn.Linear(3, 3))
    wider = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    with pytest.raises(swag.InputError, match=r"models: the list is empty"):
        swag.Ensemble.from_models([])
    with pytest.raises(
        swag.InputError, match=r"models: number 1 has the parameter '3.weight', which number 0"
    ):
        swag.Ensemble.from_models([plain(), deeper])
    with pytest.raises(swag.InputError, match=r"models: number 1 does not fit number 0.*'3.weight'"):
        swag.Ensemble.from_models([deeper, plain()])
    with pytest.raises(swag.InputError, match=r"number 2 .*shape \(5, 8\), expected \(4, 8\)"):
        swag.Ensemble.from_models([plain(), plain(), wider])


# --- members ---------------------------------------------------------------------------------------------


def test_members_reproduce_their_predictions() -> None:
    model, x = batchnorm_1d(), features(7)
    ensemble = swag.Ensemble(
        model, gaussian(model), 3, seed=0, bn_loader=training_batches(), keep_members=True
    )
    predictive = ensemble(x)
    for index in range(3):
        member = ensemble.member(index)
        assert not any(module.training for module in member.modules())
        assert_close(softmax(member(x)), predictive.member_probs[index], rtol=RTOL, scale=1)
        assert torch.equal(Layout.of(model).flatten(member), ensemble.thetas[index])
    assert_close(
        swag.Ensemble.from_models([ensemble.member(index) for index in range(3)])(x).probs,
        predictive.probs,
        rtol=RTOL,
        scale=1,
    )


def test_members_are_copies() -> None:
    model, x = batchnorm_1d(), features(7)
    ensemble = swag.Ensemble(model, gaussian(model), 2, seed=0, bn_loader=training_batches())
    first = ensemble(x).probs
    member = ensemble.member(1).requires_grad_().train()
    optimizer = torch.optim.SGD(member.parameters(), lr=1.0)
    member(x).square().sum().backward()
    optimizer.step()
    assert torch.equal(ensemble(x).probs, first)


@pytest.mark.parametrize("index", [2, -1])
def test_there_is_no_such_member(index: int) -> None:
    model = plain()
    with pytest.raises(swag.InputError, match=rf"index: got {index}, .* members 0 to 1"):
        swag.Ensemble(model, gaussian(model), 2).member(index)


def test_tied_weights_stay_tied() -> None:
    model = Tied()
    member = swag.Ensemble(model, gaussian(model), 2, seed=0).member(1)
    assert member.decoder.weight is member.encoder.weight
    assert not torch.equal(member.encoder.weight, model.encoder.weight)


# --- a posterior meets a model by name -------------------------------------------------------------------


class Pair(nn.Module):
    """Two layers, declared in either order; they are used in one."""

    def __init__(self, order: tuple[str, str], *, extra: bool = False) -> None:
        super().__init__()
        layers = {"first": nn.Linear(8, 3), "second": nn.Linear(3, 3)}
        if extra:
            self.before = nn.Linear(2, 2)
        for name in order:
            self.add_module(name, layers[name])
        if extra:
            self.after = nn.Parameter(torch.ones(3))
            self.before.requires_grad_(False)
            self.after.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_parameters_declared_in_another_order() -> None:
    model, other, x = Pair(("first", "second")), Pair(("second", "first")), features(7)
    posterior = gaussian(model)
    assert trainable(model) != trainable(other)
    expected = swag.Ensemble(model, posterior, 4, seed=0)(x)
    assert torch.equal(swag.Ensemble(other, posterior, 4, seed=0)(x).probs, expected.probs)
    members = by_hand(lambda: Pair(("first", "second")), draws(posterior, 4, 0), x)
    assert_close(expected.probs, members.mean(0), rtol=RTOL, scale=1)


def test_further_parameters_of_the_model_stay_as_they_are() -> None:
    model, x = Pair(("first", "second")), features(7)
    larger = Pair(("second", "first"), extra=True)
    posterior = gaussian(model)
    ensemble = swag.Ensemble(larger, posterior, 4, seed=0)
    assert torch.equal(ensemble(x).probs, swag.Ensemble(model, posterior, 4, seed=0)(x).probs)
    assert torch.equal(ensemble.member(2).before.weight, larger.before.weight)


def test_a_part_of_the_model() -> None:
    model, x = plain(), features(7)
    layout = Layout.of(model, select=["2"])
    posterior = swag.LowRankGaussian(torch.zeros(15), torch.ones(15), torch.zeros(15, 0), layout=layout)
    predictive = swag.Ensemble(model, posterior, 4, seed=0)(x)
    members = by_hand(lambda: copy.deepcopy(model), draws(posterior, 4, 0), x, names=["2.weight", "2.bias"])
    assert_close(predictive.probs, members.mean(0), rtol=RTOL, scale=1)


def test_a_posterior_without_layout_fits_by_size() -> None:
    model, x = plain(), features(7)
    layout = Layout.of(model)
    theta = layout.flatten(model)
    with_layout = swag.Ensemble(model, swag.PointMass(theta, layout=layout))(x)
    assert torch.equal(swag.Ensemble(model, swag.PointMass(theta))(x).probs, with_layout.probs)
    with pytest.raises(swag.InputError, match=r"posterior: has D=50 and no layout.*D=51"):
        swag.Ensemble(model, swag.PointMass(theta[:-1]))


# --- what models return, what is bad ---------------------------------------------------------------------


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
        (features(), r"loader: got a Tensor; .*\[x\]"),
        (None, "loader: got a NoneType"),
        ([None], "batch: cannot feed a NoneType"),
    ],
)
def test_bad_loaders(loader: Any, complaint: str) -> None:
    model = plain()
    with pytest.raises(swag.InputError, match=complaint):
        swag.Ensemble(model, gaussian(model), 2).predict(loader)


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
