"""Batch norm, predictions and scores over ranks are those of one process with all the rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import swag
import swag.distributed
from swag.distributed import ShardedCollector, cost, gather_rows, merge_members, merge_scores
from swag.distributed.ranks import Ranks
from swag.errors import InputError, StateError
from swag.metrics.streaming import StreamingClassification
from swag.metrics.streaming_regression import StreamingRegression
from tests.cases import features
from tests.distributed_models import Wire, both, divided, generator, set_, whole
from tests.distributed_runs import run
from tests.losses import average_of_losses


def rows(n: int, seed: int) -> Tensor:
    return features(n, seed=seed)[:, :5]


# Ranks with 1, 3, 2 and 1 batches, of differing rows.
SHARES = [[rows(9, 0)], [rows(4, 1), rows(7, 2), rows(3, 3)], [rows(5, 4), rows(6, 5)], [rows(8, 6)]]


def all_batches(size: int) -> list[Tensor]:
    return [batch for share in SHARES[:size] for batch in share]


def refresh(rank: int, size: int, folder: Path) -> None:
    reference, model = whole(), divided()
    set_(model, reference)
    swag.refresh_batchnorm_(reference, all_batches(size))
    model.train()
    with Wire() as wire:
        swag.distributed.refresh_batchnorm_(model, SHARES[rank])
    assert model.training and model.norm.momentum == 0.1
    torch.testing.assert_close(model.norm.running_mean, reference.norm.running_mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model.norm.running_var, reference.norm.running_var, rtol=1e-6, atol=1e-7)
    assert int(model.norm.num_batches_tracked) == len(all_batches(size))
    same = Ranks().exchange({"var": model.norm.running_var})
    assert all(torch.equal(theirs["var"], model.norm.running_var) for theirs in same)
    # One number for each batch of the longest share and one more, and twice the channels' sums.
    small = [name for name, _ in wire.calls if not name.startswith("_allgather_base_")]
    longest = max(len(share) for share in SHARES[:size])
    assert small == ["allgather_"] * (longest + 1) + ["allreduce_"] * 2


@pytest.mark.parametrize("size", [2, 4])
def test_batchnorm_is_pooled_over_the_rows_of_all_ranks(size: int, tmp_path: Path) -> None:
    run(refresh, size, tmp_path)


def classification(rank: int, size: int, folder: Path) -> None:
    model = divided()
    sharded, plain = both(model)
    reference = whole()
    weights = [p.to_local().clone() for p in model.parameters()]
    buffers = [b.clone() for b in model.buffers()]
    settings = {"n_samples": 5, "seed": 3}
    got = swag.distributed.predict(
        model, sharded.swag(), iter(SHARES[rank]), bn_loader=SHARES[rank], keep_members=True, **settings
    )
    ensemble = swag.Ensemble(
        reference,
        plain.swag(),
        bn_loader=all_batches(size),
        batchnorm=swag.ExactBatchNorm(),
        keep_members=True,
        **settings,
    )
    expected = ensemble.predict(SHARES[rank])
    assert got.n_rows == expected.n_rows and got.n_samples == 5
    torch.testing.assert_close(got.member_probs, expected.member_probs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.energy, expected.energy, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(p.to_local(), w) for p, w in zip(model.parameters(), weights, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert model.training
    # All rows on every rank, in rank order; the same bits there as here.
    every = gather_rows(got)
    assert every.n_rows == sum(map(len, all_batches(size)))
    start = sum(len(batch) for share in SHARES[:rank] for batch in share)
    assert torch.equal(every.probs[start : start + got.n_rows], got.probs)
    assert torch.equal(every.member_probs[:, start : start + got.n_rows], got.member_probs)
    # As a DistributedSampler deals: row i to rank i mod size, and row 0 twice.
    mine = torch.tensor([*range(rank, 10, size), 0])
    logits = torch.randn(10, 3, generator=generator(8))
    dealt = gather_rows(swag.CategoricalPredictive.from_logits(logits[mine]), mine)
    assert torch.equal(dealt.probs, swag.CategoricalPredictive.from_logits(logits).probs)
    # A loader that comes in several groups: members change more often, and find their statistics again.
    sys.modules["swag.distributed.predict"]._GROUP_BYTES = 1  # type: ignore[attr-defined]
    again = swag.distributed.predict(
        model, sharded.swag(), SHARES[rank], bn_loader=SHARES[rank], keep_members=True, **settings
    )
    assert torch.equal(again.member_probs, got.member_probs)
    # The mean alone takes one member; and None for a seed is the same seed everywhere.
    one = swag.distributed.predict(model, sharded.swa(), SHARES[rank], 30, bn_loader=SHARES[rank])
    assert one.n_samples == 1
    torch.manual_seed(rank)
    swag.distributed.predict(model, sharded.swag(), SHARES[rank], 2, bn_loader=SHARES[rank])


@pytest.mark.parametrize("size", [2, 4])
def test_predictions_are_those_of_an_ensemble(size: int, tmp_path: Path) -> None:
    run(classification, size, tmp_path)


def regression(rank: int, size: int, folder: Path) -> None:
    model = divided(batchnorm=False)
    sharded, plain = both(model)
    likelihood, forward = swag.HeteroscedasticGaussian(), lambda module, x: module(x)[:, :2]
    settings = {"n_samples": 4, "seed": 0, "likelihood": likelihood, "forward": forward}
    got = swag.distributed.predict(model, sharded.swag(), SHARES[rank], **settings)
    expected = swag.Ensemble(whole(batchnorm=False), plain.swag(), **settings).predict(SHARES[rank])
    torch.testing.assert_close(got.mean, expected.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.variance, expected.variance, rtol=1e-4, atol=1e-5)
    every = gather_rows(got)
    y = torch.randn(every.n_rows, generator=generator(1))
    assert every.log_prob(y).isfinite().all()
    start = sum(len(batch) for share in SHARES[:rank] for batch in share)
    assert torch.equal(every.log_prob(y)[start : start + got.n_rows], got.log_prob(y[start:][: got.n_rows]))


def test_regression_predictives(tmp_path: Path) -> None:
    run(regression, 2, tmp_path)


def merged(rank: int, size: int, folder: Path) -> None:
    """Ranks with members, or rows, of their own: added up by hand on each."""
    logits = [torch.randn(2 + r, 11, 3, generator=generator(r)) for r in range(size)]
    mine = swag.CategoricalPredictive.from_logits(logits[rank], keep_members=True)
    got = merge_members(mine)
    expected = swag.CategoricalPredictive.from_logits(torch.cat(logits))
    assert got.n_samples == expected.n_samples == sum(map(len, logits))
    for name in ("log_probs", "entropy", "mutual_information", "variance", "energy"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    assert torch.equal(got.member_probs, torch.cat([x.softmax(-1) for x in logits])) or torch.allclose(
        got.member_probs, torch.cat([x.softmax(-1) for x in logits]), atol=1e-6
    )

    means = [torch.randn(2 + r, 6, generator=generator(r)) for r in range(size)]
    normal = swag.GaussianPredictive(means[rank], means[rank].exp())
    total = merge_members(normal)
    wanted = swag.GaussianPredictive(torch.cat(means), torch.cat(means).exp())
    for name in ("mean", "aleatoric", "epistemic"):
        torch.testing.assert_close(getattr(total, name), getattr(wanted, name), rtol=1e-5, atol=1e-6)
    assert torch.equal(total.log_prob(torch.zeros(6)), wanted.log_prob(torch.zeros(6)))

    losses = [torch.rand(2 + r, 8, generator=generator(r)) for r in range(size)]
    pointwise = merge_members(average_of_losses(losses[rank]))
    together = average_of_losses(torch.cat(losses))
    assert pointwise.n_samples == together.n_samples
    torch.testing.assert_close(pointwise.log_density, together.log_density, rtol=1e-5, atol=1e-6)
    rows = gather_rows(average_of_losses(losses[0][:2]))
    assert torch.equal(rows.log_density, average_of_losses(losses[0][:2]).log_density.repeat(size))

    scores, regression_scores = [], []
    for r in range(size):
        one, two = StreamingClassification(n_bins=7), StreamingRegression(level=0.9)
        if r != 1:  # a rank may have no rows at all
            one.update(logits[r][0].softmax(-1), torch.arange(11) % 3)
            two.update(means[r][0], means[r][0].exp(), means[r][1])
        scores.append(one)
        regression_scores.append(two)
    by_hand, by_hand_2 = StreamingClassification(n_bins=7), StreamingRegression(level=0.9)
    for one, two in zip(scores, regression_scores, strict=True):
        by_hand.merge(one)
        by_hand_2.merge(two)
    before = scores[rank].state_dict()
    assert merge_scores(scores[rank]).compute() == by_hand.compute()
    assert merge_scores(regression_scores[rank]).compute() == by_hand_2.compute()
    assert scores[rank].n == int(before["counts"].sum())

    # What does not fit is refused everywhere.
    with pytest.raises(InputError, match=r"scores: rank 1 differs .*n_bins"):
        merge_scores(StreamingClassification(n_bins=5 + (rank == 1)))
    with pytest.raises(InputError, match=r"11 rows; rank 1: 10 rows"):
        merge_members(swag.CategoricalPredictive.from_logits(logits[rank][:, : 11 - (rank == 1)]))
    with pytest.raises(InputError, match=r"n_samples=2; rank 1: n_samples=3"):
        gather_rows(mine)
    with pytest.raises(InputError, match="indices"):
        gather_rows(mine, torch.arange(3))
    with pytest.raises(InputError, match=r"indices: got|failed on rank 1"):
        gather_rows(normal, torch.arange(6 if rank == 0 else 5))
    assert Ranks().numbers(rank) == list(range(size))


@pytest.mark.parametrize("size", [2, 4])
def test_members_and_scores_are_merged_exactly(size: int, tmp_path: Path) -> None:
    run(merged, size, tmp_path)


def failing(rank: int) -> Iterator[Tensor]:
    yield rows(3, 0)
    if rank == 1:
        raise OSError("the disk is gone")
    yield rows(3, 1)


def refused(rank: int, size: int, folder: Path) -> None:
    model = divided()
    sharded, _ = both(model)
    before = model.norm.running_mean.clone()
    with pytest.raises(InputError, match="bn_loader: the model has batch norm"):
        swag.distributed.predict(model, sharded.swag(), SHARES[rank])
    with pytest.raises(InputError, match="only once"):
        swag.distributed.predict(model, sharded.swag(), SHARES[rank], bn_loader=iter(SHARES[rank]))
    with pytest.raises(InputError, match="n_samples: got 0"):
        swag.distributed.predict(model, sharded.swag(), SHARES[rank], 0, bn_loader=SHARES[rank])
    # What one rank alone got wrong, or all otherwise: nobody waits for passes that do not come.
    with pytest.raises(InputError, match=r"n_samples=2; rank 1: n_samples=3"):
        swag.distributed.predict(model, sharded.swag(), SHARES[rank], 2 + rank, bn_loader=SHARES[rank])
    with pytest.raises(InputError, match=r"seed=0; rank 1: seed=1"):
        swag.distributed.predict(model, sharded.swag(), SHARES[rank], 2, seed=rank, bn_loader=SHARES[rank])
    with pytest.raises(
        InputError, match=r"bn_loader: the model" if rank else r"failed on rank 1 .*bn_loader"
    ):
        given = None if rank else SHARES[rank]
        swag.distributed.predict(model, sharded.swag(), SHARES[rank], bn_loader=given)
    # A loader that is empty on one rank, that fails on one, or that has one row in all.
    with pytest.raises(InputError, match=r"loader: (gave no batch on rank 1|is empty)") as caught:
        swag.distributed.refresh_batchnorm_(model, iter([rows(3, 0)] if rank == 0 else []))
    assert "rank 1" in str(caught.value)
    with pytest.raises((InputError, StateError), match=r"loader: (is empty|reading failed on rank 1)"):
        swag.distributed.refresh_batchnorm_(model, [rows(3, 0)] if rank == 0 else [])
    with pytest.raises(OSError if rank == 1 else StateError, match=r"disk|reading failed on rank 1"):
        swag.distributed.refresh_batchnorm_(model, failing(rank))
    frozen = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    share = [torch.zeros(1, 3)] if rank == 0 else [torch.zeros(0, 3)]
    with pytest.raises(InputError, match="1 values a channel on all ranks"):
        swag.distributed.refresh_batchnorm_(frozen, share)
    assert torch.equal(model.norm.running_mean, before)
    swag.distributed.refresh_batchnorm_(nn.Linear(2, 2), [])  # without batch norm nothing is read
    assert Ranks().numbers(rank) == [0, 1]


def test_bad_input_is_refused_on_all_ranks(tmp_path: Path) -> None:
    run(refused, 2, tmp_path)


def measured(rank: int, size: int, folder: Path) -> None:
    """The cost model against what goes over the wire, for a model whose sides divide evenly."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    fully_shard(model)
    n_parameters = sum(p.numel() for p in model.parameters())
    collector = ShardedCollector(model, rank=3, deviation_dtype=torch.bfloat16)
    for _ in range(4):
        collector.collect(model)
    expected = cost(n_parameters, size, rank=3, deviation_dtype=torch.bfloat16, gathered_dtype=torch.float32)
    views = collector.local.state_views()
    assert sum(views[name].nbytes for name in ("origin", "offset_mean", "sq_dev")) == expected.statistics
    assert sum(row.nbytes for row in views["deviations"]) == expected.deviations
    posterior = collector.swag()
    own = posterior.local
    assert own.mean.nbytes + own.cov_diag.nbytes + own.rows.nbytes == expected.posterior
    assert posterior.sample(1, generator=generator(0)).nbytes == expected.sample
    model.eval()
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    x = [features(4, seed=rank), features(4, seed=2 + rank), features(2, seed=5 + rank)]
    with Wire() as wire, torch.no_grad():
        model(x[0])
    assert wire.n_bytes == expected.forward
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    # The root keeps what it gathered from pass to pass, so a refresh costs at most what the formula says.
    with Wire() as wire:
        swag.distributed.refresh_batchnorm_(model, x)
    gathers = [size for name, size in wire.calls if name.startswith("_allgather_base_")]
    assert set(gathers) == {expected.forward} and 1 <= len(gathers) <= 3
    left_out = (3 - len(gathers)) * expected.forward
    assert wire.n_bytes == expected.refresh(3, 16) - left_out
    with Wire() as wire:
        swag.distributed.predict(model, collector.swag(), x[:1], 5, bn_loader=x, seed=0)
    refreshes = expected.refresh(3, 16)
    bound = expected.predict(1, 5, refresh=refreshes) + expected.readout + 2 * 8 * (size - 1)
    assert wire.n_bytes <= bound
    with Wire() as wire:
        swag.distributed.save(folder / "collector.safetensors", collector)
    sent = [n for name, n in wire.calls if name in ("send", "recv_")]
    assert sum(sent) == (expected.save if rank == 0 else expected.save // (size - 1))


@pytest.mark.parametrize("size", [2, 4])
def test_the_cost_model_is_what_is_measured(size: int, tmp_path: Path) -> None:
    run(measured, size, tmp_path)


@pytest.mark.parametrize(("n", "m", "k"), [(0, 1, 1), (1, 0, 1), (1, 1, -1), (True, 1, 1), (1.5, 1, 1)])
def test_costs_of_nonsense(n: int, m: int, k: int) -> None:
    with pytest.raises(InputError, match="pass a whole number"):
        cost(n, m, rank=k)
