"""The ensemble against the loop one would write by hand: models, batch norm, batches, seeds."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import swag
from tests.by_hand import CASE, RTOL, by_hand, draws, gaussian, trainable, training_batches, write
from tests.cases import CASES, WRAPPERS, Case, batchnorm_1d, features, plain
from tests.checks import array, assert_close

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
    assert torch.equal(ensemble.predict(x, batch_size=6).probs, expected)
    assert ensemble.predict(x).n_rows == 20


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
