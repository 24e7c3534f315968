"""Sharded statistics, samples and densities are those of one process that holds the whole model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import swag
from swag.distributed import ShardedCollector, applied
from swag.distributed.cost import cost
from swag.distributed.ranks import Ranks
from swag.errors import InputError, StateError
from swag.noise import NormalSource, key_for
from swag.parameters import Layout
from swag.posterior.drawing import draw
from tests.cases import features, walk
from tests.checks import assert_covariance_close
from tests.distributed_models import (
    Wire,
    assert_rounding,
    both,
    divided,
    generator,
    local_part,
    set_,
    whole,
)
from tests.distributed_runs import run

SIZES = [2, 4]


def gathered(posterior: swag.distributed.ShardedGaussian, local: torch.Tensor) -> torch.Tensor:
    """(n, D) from every rank's (n, D_local), by the runs the ranks claim."""
    shards = posterior.shards
    found = torch.full((len(local), shards.layout.size), torch.nan)
    runs = torch.tensor(shards.runs, dtype=torch.int64).view(-1, 3)
    for theirs in shards.ranks.exchange({"runs": runs, "values": local}):
        for start, stop, first in theirs["runs"].tolist():
            found[:, first : first + stop - start] = theirs["values"][:, start:stop]
    assert not found.isnan().any()
    return found


def statistics(rank: int, size: int, folder: Path) -> int:
    model = divided()
    sharded, plain_ = both(model)
    assert sharded.n_collected == plain_.n_collected == 7
    for name in ("mean", "sq_dev", "deviations"):
        mine, expected = getattr(sharded, name), local_part(model, plain_.layout, getattr(plain_, name))
        assert torch.equal(mine, expected), name
    # The names and their order are those of the whole model: ties once, frozen parameters left out.
    assert sharded.shards.layout == plain_.layout
    assert "again.weight" not in sharded.shards.layout.names
    return sharded.shards.local.size


@pytest.mark.parametrize("size", SIZES)
def test_statistics_are_the_unsharded_ones_bit_for_bit(size: int, tmp_path: Path) -> None:
    held = run(statistics, size, tmp_path)
    assert sum(held) == Layout.of(whole()).size
    # torch.chunk gives 5 rows to four ranks as 2, 2, 1, 0.
    assert held == sorted(held, reverse=True) and (held[-1] < held[0])


def samples(rank: int, size: int, folder: Path) -> torch.Tensor:
    model = divided()
    sharded, plain_ = both(model)
    mine, expected = sharded.swag(0.7), plain_.swag(0.7)
    scale = expected.mean.abs() + expected.variance.sqrt()
    limit = local_part(model, plain_.layout, scale)
    drawn = mine.sample(6, generator=generator(3))
    wanted = local_part(model, plain_.layout, expected.sample(6, generator=generator(3)))
    assert_rounding(drawn, wanted, limit)
    assert torch.equal(drawn[:2], mine.sample(2, generator=generator(3)))
    assert torch.equal(drawn[2:5], mine.sample_range(2, 5, generator=generator(3)))
    # Ranks whose generators have come apart still draw one sample: rank 0's.
    assert torch.equal(mine.sample(6, generator=generator(3 if rank == 0 else 100 + rank)), drawn)
    torch.manual_seed(rank)
    twice = [mine.sample(2), mine.sample(2)]
    assert not torch.equal(*twice) or twice[0].numel() == 0
    diagonal = sharded.swag_diag().sample(2, generator=generator(1))
    expected_diagonal = local_part(model, plain_.layout, plain_.swag_diag().sample(2, generator=generator(1)))
    assert_rounding(diagonal, expected_diagonal, limit)
    assert torch.equal(sharded.swa().sample(2)[1], sharded.mean)
    return gathered(mine, torch.cat([drawn, *twice]))


def test_samples_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    found = [run(samples, size, tmp_path) for size in (1, *SIZES)]
    alone = found[0][0]
    for group in found:
        for whole_sample in group:
            assert_rounding(whole_sample[:6], alone[:6], alone[:6].abs() + 1)


def covariance(rank: int, size: int, folder: Path) -> None:
    model = divided()
    sharded, plain_ = both(model, rank=5)
    posterior = sharded.swag(0.5)
    drawn = gathered(posterior, posterior.sample(1200, generator=generator(0)))
    if rank == 0:
        expected = plain_.swag(0.5)
        # Some weights of each of the layers, which lie on different ranks.
        chosen = torch.linspace(0, len(expected.mean) - 1, 40).long()
        dense = expected.covariance_matrix()[chosen][:, chosen]
        correlation = dense / dense.diagonal().outer(dense.diagonal()).sqrt()
        assert (correlation - torch.eye(40)).abs().max() > 0.3  # the test could tell
        assert_covariance_close(drawn[:, chosen], dense, mean=expected.mean[chosen])


def test_layers_on_different_ranks_move_together(tmp_path: Path) -> None:
    run(covariance, 2, tmp_path)


def density(rank: int, size: int, folder: Path) -> None:
    model = divided()
    sharded, plain_ = both(model)
    mine, expected = sharded.swag(0.5), plain_.swag(0.5)
    thetas = expected.sample(3, generator=generator(0))
    got = mine.log_prob(local_part(model, plain_.layout, thetas))
    torch.testing.assert_close(got, expected.log_prob(thetas), rtol=1e-10, atol=0)
    torch.testing.assert_close(mine.entropy(), expected.entropy(), rtol=1e-10, atol=0)
    one = mine.log_prob(local_part(model, plain_.layout, thetas)[0])
    assert one.shape == () and torch.equal(one, got[0])
    diagonal = sharded.swag_diag().log_prob(local_part(model, plain_.layout, thetas))
    torch.testing.assert_close(diagonal, plain_.swag_diag().log_prob(thetas), rtol=1e-10, atol=0)
    scaled = mine.with_scale(2.0)
    torch.testing.assert_close(scaled.entropy(), expected.with_scale(2.0).entropy(), rtol=1e-7, atol=0)
    with pytest.raises(InputError, match="variances are zero"):
        sharded.swag(0.0).entropy()


@pytest.mark.parametrize("size", SIZES)
def test_densities_are_the_unsharded_ones(size: int, tmp_path: Path) -> None:
    run(density, size, tmp_path)


def silence(rank: int, size: int, folder: Path) -> None:
    model = divided()
    with Wire() as wire:
        collector = ShardedCollector(model, rank=2)
    assert [name for name, _ in wire.calls] == ["allgather_"]  # the comparison of layouts
    model.eval()
    x = features(4)[:, :5]
    for step in range(4):
        with Wire() as wire, torch.no_grad():
            model(x + step)
        assert wire.calls, "the instrument sees FSDP's gathers"
        # Here parameters are unsharded, as after any forward pass without a backward.
        with Wire() as wire:
            collector.collect(model)
        assert wire.calls == []
    with Wire() as wire:
        posterior = collector.swag()
    assert wire.calls == [("allgather_", cost(1, size).readout)]
    with Wire() as wire:
        posterior.sample(3, generator=generator(0))
    assert wire.calls == [("broadcast_", cost(1, size).draw)]
    # One rank may be steps ahead of the others.
    if rank == 0:
        collector.collect(model)


def test_collect_issues_no_collective(tmp_path: Path) -> None:
    run(silence, 2, tmp_path)


def exchange_of_weights(rank: int, size: int, folder: Path) -> None:
    model, reference = divided(), whole()
    sharded, plain_ = both(model, reference=reference)
    model.eval(), reference.eval()
    x = features(6)[:, :5]
    local = list(sharded.shards.module(model).named_parameters())
    before = [(name, value.clone()) for name, value in local]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    theta = plain_.swag().sample(1, generator=generator(0))[0]
    mine = local_part(model, plain_.layout, theta)
    with torch.no_grad():
        outside = model(x)
        with applied(model, sharded.shards, mine):
            inside = model(x)
            model.norm.running_mean.add_(1)
        with pytest.raises(ZeroDivisionError), applied(model, sharded.shards, 0 * mine):
            model(x)
            raise ZeroDivisionError
        with sharded.applied(model):
            mean = model(x)
        assert torch.equal(model(x), outside)
        plain_.layout.write_(reference, theta)
        torch.testing.assert_close(inside, reference(x), rtol=1e-5, atol=1e-6)
        plain_.layout.write_(reference, plain_.mean)
        torch.testing.assert_close(mean, reference(x), rtol=1e-5, atol=1e-6)
    for name, value in sharded.shards.module(model).named_parameters():
        assert torch.equal(value, dict(before)[name]), name
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_a_sample_is_applied_and_the_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    run(exchange_of_weights, 2, tmp_path)


def replicas(rank: int, size: int, folder: Path) -> None:
    """HSDP: two copies of the model, each over two ranks."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
    model = divided(mesh)
    sharded, plain_ = both(model)
    assert torch.equal(sharded.mean, local_part(model, plain_.layout, plain_.mean))
    mine, expected = sharded.swag(), plain_.swag()
    torch.testing.assert_close(mine.entropy(), expected.entropy(), rtol=1e-10, atol=0)
    wanted = local_part(model, plain_.layout, expected.sample(2, generator=generator(0)))
    assert_rounding(mine.sample(2, generator=generator(0)), wanted, wanted.abs() + 1)
    swag.distributed.save(folder / "hsdp.safetensors", mine)
    swag.save(folder / f"plain{rank}.safetensors", expected)
    written = (folder / "hsdp.safetensors").read_bytes()
    assert written == (folder / f"plain{rank}.safetensors").read_bytes()
    # A group that holds two copies which do not know of each other is seen where ranks add up.
    halves = divided(mesh["shards"])
    twice = ShardedCollector(halves, rank=2)
    for step in walk(whole(), 3):
        set_(halves, step)
        twice.collect(halves)
    with pytest.raises(StateError, match="group="):
        twice.swag().entropy()
    with pytest.raises(StateError, match="group="):
        swag.distributed.save(folder / "twice.safetensors", twice)
    right = ShardedCollector(halves, rank=2, group=mesh["shards"].get_group())
    for step in walk(whole(), 3):
        set_(halves, step)
        right.collect(halves)
    assert right.swag().entropy().isfinite()


def test_hybrid_sharding_counts_each_weight_once(tmp_path: Path) -> None:
    run(replicas, 4, tmp_path)


def ddp(rank: int, size: int, folder: Path) -> None:
    torch.manual_seed(rank)  # DDP broadcasts rank 0's weights
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ordinary, sharded = swag.Collector(model, rank=3), ShardedCollector(model, rank=3)
    for step in range(5):
        optimizer.zero_grad()
        model(features(16, seed=10 * step + rank)).square().mean().backward()
        optimizer.step()
        with Wire() as wire:
            ordinary.collect(model)
            sharded.collect(model)
        assert wire.calls == []
    for mine in (ordinary.mean, ordinary.deviations):
        theirs = Ranks().exchange({"mine": mine})
        assert all(torch.equal(t["mine"], mine) for t in theirs), "identical on all ranks"
    assert torch.equal(sharded.sq_dev, ordinary.sq_dev)
    wanted = ordinary.swag().sample(2, generator=generator(0))
    assert torch.equal(sharded.swag().sample(2, generator=generator(0)), wanted)
    torch.testing.assert_close(sharded.swag().entropy(), ordinary.swag().entropy(), rtol=1e-10, atol=0)


def test_under_ddp_every_rank_holds_the_same(tmp_path: Path) -> None:
    run(ddp, 2, tmp_path)


def narrow(rank: int, size: int, folder: Path) -> None:
    """bfloat16 weights, bfloat16 rows, statistics on a device of their own, a selection."""
    model = divided(batchnorm=False, dtype=torch.bfloat16)
    reference = whole(batchnorm=False).to(torch.bfloat16)
    settings = {"deviation_dtype": torch.bfloat16, "device": "cpu", "select": ["middle", "odd.bias"]}
    sharded, plain_ = both(model, reference=reference, **settings)
    assert sharded.device.type == "cpu" and sharded.deviations.dtype == torch.bfloat16
    assert sharded.mean.dtype == torch.float32
    assert sharded.shards.layout.names == ("middle.weight", "odd.bias")
    assert torch.equal(sharded.deviations, local_part(model, plain_.layout, plain_.deviations))
    theta = sharded.swag().sample(1, generator=generator(0))[0]
    with applied(model, sharded.shards, theta):
        assert torch.equal(
            model.middle.weight.to_local().flatten(), theta[: len(theta)].bfloat16()[: 64 // size]
        )


def test_narrow_dtypes_and_selections(tmp_path: Path) -> None:
    run(narrow, 2, tmp_path)


def without_a_group() -> tuple[ShardedCollector, swag.Collector]:
    return both(whole(), reference=whole())


def test_one_process_without_a_group() -> None:
    sharded, plain_ = without_a_group()
    drawn = sharded.swag().sample(3, generator=generator(0))
    assert torch.equal(drawn, plain_.swag().sample(3, generator=generator(0)))
    torch.testing.assert_close(sharded.swag().entropy(), plain_.swag().entropy(), rtol=1e-12, atol=0)


def test_a_state_that_is_not_read_in_place_is_copied() -> None:
    sharded, _ = without_a_group()
    state = copy.deepcopy(sharded.state_dict())
    fresh = ShardedCollector(whole(), rank=4)
    fresh.load_state_dict(state)
    assert fresh.n_collected == 7 and torch.equal(fresh.deviations, sharded.deviations)
    assert torch.equal(fresh.mean, sharded.mean) and torch.equal(fresh.sq_dev, sharded.sq_dev)


@pytest.mark.parametrize("at", [1, 1000, 1024, 70_000])
def test_noise_by_runs_is_the_noise_of_the_whole(at: int) -> None:
    """A part of θ drawn by its runs, in any division, has the normals of its positions."""
    size = 150_000
    mean, diag, none = torch.zeros(size), torch.ones(size), torch.empty(0, size)
    expected = draw(mean, diag, none, 1.0, range(2), 5)
    kept = torch.cat([torch.arange(0, 17), torch.arange(at, at + 2000), torch.arange(140_000, size)])
    kept = kept.unique()
    breaks = (kept.diff() != 1).nonzero().flatten() + 1
    runs, start = [], 0
    for part in torch.tensor_split(kept, breaks):
        runs.append((start, start + len(part), int(part[0])))
        start += len(part)
    own = len(kept)
    got = draw(mean[:own], diag[:own], none[:, :own], 1.0, range(2), 5, None, runs)
    assert torch.equal(got, expected[:, kept])
    source, alone = NormalSource("cpu"), torch.empty(1)
    source.fill_(alone, key=key_for(5, 1, 0), start=140_000)
    assert torch.equal(alone[0], got[1, (kept == 140_000).nonzero()[0, 0]])
