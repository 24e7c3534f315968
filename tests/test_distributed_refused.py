"""What cannot be sharded is refused on every rank, at construction; lost ranks are errors in time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import swag
from swag.distributed import ShardedCollector
from swag.distributed.ranks import Ranks
from swag.errors import InputError, StateError
from tests.cases import plain
from tests.distributed_models import divided, whole
from tests.distributed_runs import run, run_each


def other_layout(rank: int, size: int, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (size,))
    width = 8 if rank != 1 else 9
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, width))
    with pytest.raises(InputError, match=r"rank 1 differs from rank 0 .*'1.weight' \(8, 4\).*\(9, 4\)"):
        ShardedCollector(model)
    with pytest.raises(InputError, match=r"rank=5; rank 1: rank=6"):
        ShardedCollector(nn.Linear(2, 2), rank=5 + rank)
    # One rank cannot even begin: it says why, and the others hear of it.
    model = nn.Linear(2, 2).requires_grad_(rank != 1)
    with pytest.raises(
        InputError, match="select: none of" if rank == 1 else "failed on rank 1 .InputError: select"
    ):
        ShardedCollector(model)
    along = nn.Linear(4, 4, bias=False)
    along.weight = nn.Parameter(distribute_tensor(along.weight.detach(), mesh, [Shard(1)]))
    with pytest.raises(InputError, match=r"'weight' is placed as \(Shard\(dim=1\),\)"):
        ShardedCollector(along)
    flat = torch.distributed.fsdp.FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu"))
    with pytest.raises(InputError, match="fully_shard"):
        ShardedCollector(flat)
    with pytest.raises(InputError, match="rank: got -1"):
        ShardedCollector(nn.Linear(2, 2), rank=-1)
    # All of that left the ranks in step.
    assert Ranks().numbers(rank) == list(range(size))


def test_a_differing_rank_raises_on_all_ranks(tmp_path: Path) -> None:
    run(other_layout, 2, tmp_path)


def ordinary(rank: int, size: int, folder: Path) -> None:
    """`swag.Collector` reads whole parameters: of a divided model it must not take a part for the whole."""
    model = divided()
    with pytest.raises(InputError, match=r"swag\.distributed\.ShardedCollector"):
        swag.Collector(model, rank=2).collect(model)
    with torch.no_grad():
        model(torch.zeros(2, 5))  # which leaves some of its parameters whole
    with pytest.raises(InputError, match=r"swag\.distributed\.ShardedCollector"):
        swag.Collector(model, rank=2).collect(model)


def test_an_ordinary_collector_of_a_divided_model_is_an_error(tmp_path: Path) -> None:
    run(ordinary, 2, tmp_path)


def other_counts(rank: int, size: int, folder: Path) -> None:
    model = divided()
    collector = ShardedCollector(model, rank=3)
    with pytest.raises(StateError, match="needs 2 snapshots"):
        collector.swag()
    for _ in range(3 + (rank == 1)):
        collector.collect(model)
    for read in (collector.swa, collector.swag, collector.swag_diag):
        with pytest.raises(StateError, match=r"rank 0: 3 snapshots collected; rank 1: 4 snapshots"):
            read()
    other = nn.Linear(5, 8)
    fully_shard(other)
    with pytest.raises(InputError, match="has no parameter"):
        collector.collect(other)
    with torch.no_grad():
        model.first.weight.to_local().fill_(torch.nan)
    with pytest.raises(InputError, match=r"'first.weight' holds NaN"):
        collector.collect(model)
    assert collector.n_collected == 3 + (rank == 1)
    with pytest.raises(InputError, match="at construction; pass a model that is divided alike"):
        collector.collect(whole())


def test_ranks_that_took_differing_snapshots_are_told(tmp_path: Path) -> None:
    run(other_counts, 2, tmp_path)


def waiting(rank: int, size: int, folder: Path) -> None:
    # The short timeout begins when all are there, however slowly they started.
    Ranks().numbers(rank)
    group = dist.new_group(timeout=timedelta(seconds=3))
    Ranks().numbers(rank)
    if rank == 0:
        with pytest.raises(StateError, match=r"model: this rank lost the others .*timeout"):
            ShardedCollector(plain(), group=group)


def test_a_rank_that_does_not_come_is_an_error_in_time(tmp_path: Path) -> None:
    run(waiting, 2, tmp_path)


def absent(rank: int, size: int, folder: Path) -> None:
    raise AssertionError("a group without its last rank came into being")


def test_the_harness_itself_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"failed|in time"):
        run_each(absent, range(1), 2, tmp_path, timeout=10, patience=1)


def outside(rank: int, size: int, folder: Path) -> None:
    group = dist.new_group([0])
    if rank == 1:
        with pytest.raises(InputError, match="group: this process is not in it"):
            ShardedCollector(plain(), group=group)
    else:
        assert ShardedCollector(plain(), group=group).shards.ranks.size == 1


def test_a_process_outside_of_the_group(tmp_path: Path) -> None:
    run(outside, 2, tmp_path)
