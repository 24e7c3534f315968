"""Checkpoints of N ranks on M, and one whole file: the same bytes, whoever writes, whoever reads."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

import swag
import swag.distributed
from swag.distributed import ShardedCollector, ShardedGaussian, ShardedPointMass
from swag.distributed.ranks import Ranks
from swag.errors import FileError, InputError, StateError, SwagError
from tests.cases import walk
from tests.distributed_models import Wire, both, divided, generator, local_part, set_, whole
from tests.distributed_runs import run

SETTINGS = {"rank": 4, "n": 6}


def saved(rank: int, size: int, folder: Path) -> None:
    """After 6 snapshots: by DCP, in the background too, and as whole files."""
    model = divided()
    sharded, _ = both(model, **SETTINGS)
    dcp.save({"collector": sharded}, checkpoint_id=folder / "checkpoint")
    pending = dcp.async_save({"collector": sharded}, checkpoint_id=folder / "later")
    sharded.collect(model)  # changes the statistics, not what is being written
    pending.result()
    for name, obj in (("collector", sharded), ("swag", sharded.swag(0.7)), ("swa", sharded.swa())):
        with Wire() as wire:
            swag.distributed.save(folder / f"{name}.safetensors", obj, provenance={"by": "four"})
        assert {call for call, _ in wire.calls} <= {"allgather_", "send", "recv_"}
    swag.distributed.save(folder / "diagonal.safetensors", sharded.swag_diag())
    swag.distributed.save(folder / "empty.safetensors", ShardedCollector(model, rank=2))
    # The same by the library's own `save`, which all ranks call.
    for name, obj in (("collector", sharded), ("swag", sharded.swag(0.7)), ("swa", sharded.swa())):
        swag.save(folder / "again.safetensors", obj, provenance={"by": "four"})
        expected = (folder / f"{name}.safetensors").read_bytes()
        assert (folder / "again.safetensors").read_bytes() == expected, name


def resumed(rank: int, size: int, folder: Path) -> None:
    """Any number of ranks goes on where the others were."""
    for name in ("checkpoint", "later"):
        model, reference = divided(seed=99), whole()
        fresh = ShardedCollector(model, rank=SETTINGS["rank"])
        dcp.load({"collector": fresh}, checkpoint_id=folder / name)
        plain = swag.Collector(reference, rank=SETTINGS["rank"])
        for number, step in enumerate(walk(reference, 8)):
            plain.collect(step)
            if number >= SETTINGS["n"]:
                set_(model, step)
                fresh.collect(model)
        assert fresh.n_collected == plain.n_collected == 8
        for key in ("mean", "sq_dev", "deviations"):
            expected = local_part(model, plain.layout, getattr(plain, key))
            assert torch.equal(getattr(fresh, key), expected), key


def opened(rank: int, size: int, folder: Path) -> None:
    """Whole files, read in slices by any number of ranks."""
    model = divided()
    collector = swag.distributed.load(folder / "collector.safetensors", model)
    plain = swag.load(folder / "collector.safetensors")
    assert isinstance(collector, ShardedCollector) and collector.n_collected == 7
    for key in ("mean", "sq_dev", "deviations"):
        assert torch.equal(getattr(collector, key), local_part(model, plain.layout, getattr(plain, key))), key
    collector.collect(model)
    # The ring goes on where it was: the oldest row is the one that is lost.
    assert torch.equal(collector.deviations[:-1], local_part(model, plain.layout, plain.deviations[1:]))
    posterior = swag.distributed.load(folder / "swag.safetensors", model)
    expected = swag.load(folder / "swag.safetensors")
    assert isinstance(posterior, ShardedGaussian)
    assert (posterior.local.scale, posterior.local.n_collected) == (0.7, 7)
    wanted = local_part(model, plain.layout, expected.sample(3, generator=generator(1)))
    torch.testing.assert_close(posterior.sample(3, generator=generator(1)), wanted, rtol=1e-6, atol=1e-6)
    point = swag.distributed.load(folder / "swa.safetensors", model)
    assert isinstance(point, ShardedPointMass)
    assert torch.equal(point.mean, local_part(model, plain.layout, plain.mean))
    assert swag.distributed.load(folder / "diagonal.safetensors", model).rank == 0
    assert swag.distributed.load(folder / "empty.safetensors", model).n_collected == 0
    # And back: what was read is written as it was.
    swag.distributed.save(folder / f"again{size}.safetensors", posterior, provenance={"by": "four"})
    written = (folder / f"again{size}.safetensors").read_bytes()
    assert written == (folder / "swag.safetensors").read_bytes()


def unsharded(rank: int, size: int, folder: Path) -> None:
    """What an ordinary process has written, a collector whose ring is not full among it, goes to ranks."""
    model = divided()
    collector = swag.distributed.load(folder / "plain.safetensors", model)
    plain = swag.load(folder / "plain.safetensors")
    assert collector.n_collected == 3
    assert torch.equal(collector.deviations, local_part(model, plain.layout, plain.deviations))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_files_of_any_number_of_ranks_are_read_by_any_other(size: int, tmp_path: Path) -> None:
    run(saved, size, tmp_path)
    # The whole files are, byte for byte, those of one process with the whole model.
    reference, plain = whole(), None
    plain = swag.Collector(reference, rank=SETTINGS["rank"])
    for step in walk(reference, SETTINGS["n"]):
        plain.collect(step)
    plain.collect(reference)
    for name, obj in (("collector", plain), ("swag", plain.swag(0.7)), ("swa", plain.swa())):
        swag.save(tmp_path / "whole.safetensors", obj, provenance={"by": "four"})
        expected = (tmp_path / "whole.safetensors").read_bytes()
        assert (tmp_path / f"{name}.safetensors").read_bytes() == expected, name
    few = swag.Collector(reference, rank=5)
    for step in walk(reference, 3):
        few.collect(step)
    swag.save(tmp_path / "plain.safetensors", few)
    for other in {1: [2], 2: [1, 4], 4: [2]}[size]:
        run(resumed, other, tmp_path)
    run(opened, {1: 2, 2: 4, 4: 1}[size], tmp_path)
    if size == 2:
        run(unsharded, 4, tmp_path)


def refused(rank: int, size: int, folder: Path) -> None:
    model = divided()
    sharded, plain = both(model, n=3, rank=2)
    dcp.save({"collector": sharded}, checkpoint_id=folder / "checkpoint")
    # Another K or dtype of rows.
    other = ShardedCollector(model, rank=1)
    with pytest.raises(InputError, match="rank 2 and this collector has 1"):
        dcp.load({"collector": other}, checkpoint_id=folder / "checkpoint")
    assert other.n_collected == 0
    with pytest.raises(InputError, match="lacks 'counters'"):
        other.load_state_dict({})
    # Copies of one whole model each, that do not know of each other: their parts overlap.
    alone = [dist.new_group([other]) for other in range(size)][rank]
    copies = divided(DeviceMesh.from_group(alone, "cpu"))
    twice, _ = both(copies, n=3, rank=2)
    with pytest.raises(StateError, match="group="):
        swag.save(folder / "x.safetensors", twice.swa())
    # Rank 0 cannot write: everyone hears of it, and can go on.
    for name in ("missing/folder.safetensors", "."):
        with pytest.raises(FileError, match="missing|written" if rank == 0 else "failed on rank 0"):
            swag.distributed.save(folder / name, sharded)
    for bad in ({"made": [1]}, "text"):  # on one rank, too
        given = bad if rank == 0 else None
        with pytest.raises((InputError, StateError), match="provenance: got"):
            swag.distributed.save(folder / "x.safetensors", sharded, provenance=given)
    with pytest.raises(FileError, match=r"failed on rank 0 \(TypeError.*NoneType"):
        swag.distributed.save(None, sharded)
    with pytest.raises(InputError, match="obj: got a Collector"):
        swag.distributed.save(folder / "x.safetensors", plain)
    (folder / "kept.safetensors").write_bytes(b"before") if rank == 0 else None
    if rank == 0:
        # As a full disk does, in the middle of the file.
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with pytest.raises(FileError, match=r"could not be written|failed on rank 0"):
        swag.distributed.save(folder / "kept.safetensors", sharded)
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert (folder / "kept.safetensors").read_bytes() == b"before"
        assert not [name for name in os.listdir(folder) if name.startswith(".kept")]
    if rank == 1:
        sharded.collect(model)
    with pytest.raises(StateError, match=r"\"n_collected\": 3.*\"n_collected\": 4"):
        swag.distributed.save(folder / "x.safetensors", sharded)
    if rank == 1:  # as on an accelerator, which tells of a bad snapshot later
        sharded.local._pending = torch.tensor([True])
    with pytest.raises(SwagError, match="'first.weight' holds NaN" if rank else "obj: failed on rank 1"):
        swag.save(folder / "x.safetensors", sharded)
    assert sharded.n_collected == 3 and not (folder / "x.safetensors").exists()
    # Reading: missing, not ours, another model, one rank that sees another file.
    with pytest.raises(FileError, match="no such file"):
        swag.distributed.load(folder / "nothing.safetensors", model)
    if rank == 0:
        swag.save(folder / "mixture.safetensors", swag.Mixture([plain.swa(), plain.swa()]))
        swag.save(folder / "plain.safetensors", plain)
        swag.save(folder / "nameless.safetensors", swag.PointMass(torch.zeros(3)))
        for name, n in (("damaged", 100),):
            data = bytearray((folder / "plain.safetensors").read_bytes())
            (folder / f"{name}.safetensors").write_bytes(data[:-n])
    Ranks().numbers(0)
    with pytest.raises(FileError, match="holds a mixture"):
        swag.distributed.load(folder / "mixture.safetensors", model)
    with pytest.raises(FileError, match="names no parameters"):
        swag.distributed.load(folder / "nameless.safetensors", model)
    with pytest.raises(FileError, match="not a whole safetensors file"):
        swag.distributed.load(folder / "damaged.safetensors", model)
    with pytest.raises(InputError, match="has no parameter"):
        swag.distributed.load(folder / "plain.safetensors", nn.Linear(2, 2))
    mine = folder / ("plain.safetensors" if rank else "nothing.safetensors")
    with pytest.raises((FileError, InputError), match="no such file"):
        swag.distributed.load(mine, model)
    assert Ranks().numbers(rank) == [0, 1]


def test_bad_input_is_refused_on_all_ranks(tmp_path: Path) -> None:
    run(refused, 2, tmp_path)


def memory(rank: int, size: int, folder: Path) -> list[int]:
    """What this rank's peak of memory grew by while 64 MB were written, in small pieces and in large."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from swag.distributed import streams

    with torch.device("meta"):
        model = nn.Sequential(*[nn.Linear(2048, 2048, bias=False) for _ in range(4)])
    for layer in model:
        fully_shard(layer, mesh=init_device_mesh("cpu", (size,)))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.to_local().fill_(rank)
    collector = ShardedCollector(model, rank=0)
    collector.collect(model)
    point, grown = collector.swa(), []
    for piece in (1 << 18, 1 << 30):
        streams.PIECE = piece
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        swag.distributed.save(folder / "large.safetensors", point)
        grown.append(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
    return grown


def test_rank_0_never_holds_what_others_send(tmp_path: Path) -> None:
    (in_pieces, at_once), _ = run(memory, 2, tmp_path)
    size = 4 * 2048 * 2048 * 4
    assert (tmp_path / "large.safetensors").stat().st_size > size
    # The other half is 32 MiB in 4 runs of 8 MiB, and those the second way must see.
    assert in_pieces < 4 << 20 < at_once
