"""Checkpoints of the callback: resumed bit for bit, on several ranks too, or refused.

After SIGKILL: `test_experiments_lightning.py`.
"""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from swag.errors import FileError, InputError

pl = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import Callback, ModelCheckpoint  # noqa: E402

from swag.distributed import torchrun  # noqa: E402
from swag.integrations.lightning import RandomStates, Steps, SWAGCallback, read_collector  # noqa: E402
from tests.lightning_run import Module, Trail, data, trainer  # noqa: E402
from tests.runs import assert_same_state  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
]
SCRIPT = Path(__file__).with_name("lightning_run.py")


def callback_with(**changes):
    return SWAGCallback(**({"rank": 3, "swa_start": 1, "swa_lr": 0.05, "anneal": 1} | changes))


def fitted(epochs, *, callback=None, checkpoint=None, callbacks=(), loader=None, validation=None, **options):
    """The callback after a run, resumed where there is a checkpoint."""
    torch.manual_seed(5)
    callback = callback or callback_with()
    run = trainer(epochs, callback, RandomStates(), *callbacks, **options)
    run.fit(Module(), loader or data(), validation, ckpt_path=checkpoint, weights_only=True)
    return callback, run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """After three of five epochs."""
    path = tmp_path_factory.mktemp("checkpoint") / "three.ckpt"
    _, run = fitted(3)
    run.save_checkpoint(path)
    return path


def altered(checkpoint, folder, change):
    """The checkpoint with a change made to the callback's state."""
    content = torch.load(checkpoint, weights_only=True)
    change(content["callbacks"]["SWAGCallback"])
    torch.save(content, folder / "altered.ckpt")
    return folder / "altered.ckpt"


# Exactly the same


def test_resumed_is_the_same_bit_for_bit(checkpoint):
    straight, _ = fitted(5)
    resumed, _ = fitted(5, checkpoint=checkpoint)
    assert_same_state(resumed.collector, straight.collector)
    assert torch.equal(resumed.posterior.cov_factor, straight.posterior.cov_factor)


def test_resumed_before_the_first_snapshot_and_on_the_way_to_the_rate(tmp_path):
    settings = {"swa_start": 3, "anneal": 3}
    straight, _ = fitted(5, callback=callback_with(**settings))
    _, run = fitted(2, callback=callback_with(**settings))
    run.save_checkpoint(tmp_path / "two.ckpt")
    resumed, _ = fitted(5, callback=callback_with(**settings), checkpoint=tmp_path / "two.ckpt")
    assert straight.n_collected == 2
    assert_same_state(resumed.collector, straight.collector)


def test_a_checkpoint_written_after_validation_and_before_the_epochs_end(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=False)
    average = {"validate_average": True}
    straight, _ = fitted(
        5, callback=callback_with(**average), callbacks=[keep], enable_checkpointing=True, validation=data()
    )
    resumed, _ = fitted(
        5,
        callback=callback_with(**average),
        checkpoint=tmp_path / "epoch=2.ckpt",
        validation=data(),
    )
    assert read_collector(tmp_path / "epoch=2.ckpt").n_collected == 2
    assert_same_state(resumed.collector, straight.collector)


def test_a_checkpoint_from_the_middle_of_an_epoch_counts_no_step_twice(tmp_path):
    settings = {"every": Steps(3), "anneal": 0}
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=11)
    straight, _ = fitted(
        3, callback=callback_with(**settings), callbacks=[keep], enable_checkpointing=True
    )  # 8 steps an epoch, averaging from step 8 on: steps 11, 14, 17, 20, 23 (from 1)
    saved = tmp_path / "step=11.ckpt"
    assert (straight.n_collected, read_collector(saved).n_collected) == (5, 1)
    resumed, _ = fitted(3, callback=callback_with(**settings), checkpoint=saved)
    assert resumed.n_collected == 5


def test_a_run_that_goes_on_for_longer_stays_at_swa_lr(tmp_path):
    settings = {"swa_start": 0.5, "anneal": 0}
    _, run = fitted(4, callback=callback_with(**settings))
    run.save_checkpoint(tmp_path / "four.ckpt")
    rates = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, *args):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    class Falling(Module):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    callback = callback_with(**settings)
    trainer(8, callback, Look()).fit(Falling(), data(), ckpt_path=tmp_path / "four.ckpt")
    assert callback.n_collected == 6 and set(rates) == {0.05}


def test_random_states_make_the_difference(checkpoint):
    straight, _ = fitted(5)
    torch.manual_seed(5)
    resumed = callback_with()
    trainer(5, resumed).fit(Module(), data(), ckpt_path=checkpoint)
    assert resumed.n_collected == straight.n_collected
    assert not torch.equal(resumed.collector.mean, straight.collector.mean)


# Other ranks


@pytest.mark.slow
def test_on_two_ranks(tmp_path):
    code = torchrun([str(SCRIPT), str(tmp_path)], workers=2, max_restarts=0, timeout=150)
    assert code == 0
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for strategy, kind in (("ddp", "Collector"), ("fsdp2", "ShardedCollector")):
        first, second = (rank[strategy] for rank in ranks)
        rows = torch.stack(first["epochs"])
        assert torch.equal(rows, torch.stack(second["epochs"])) and first["kind"] == kind
        check_kept(first["kept"], rows[1:])
        torch.testing.assert_close(first["applied"], rows[1:].mean(0))
        assert torch.equal(first["own"], rows[-1])
        # Validation: no average after the first epoch, then those so far, with statistics over all rows.
        torch.testing.assert_close(first["validated"][-1], rows[1:].mean(0))
        torch.testing.assert_close(first["statistics"][-1], second["statistics"][-1])
        torch.testing.assert_close(first["statistics"][-1], input_mean(rows[1:].mean(0)))
        assert first["sample"][0] == 2
    # The ranks' shares of a sharded sample make up the whole.
    d = ranks[0]["fsdp2"]["epochs"][0].numel()
    assert sum(rank["fsdp2"]["sample"][1] for rank in ranks) >= d
    check_kept(
        ranks[0]["resumed"]["kept"],
        torch.stack([*ranks[0]["fsdp2"]["epochs"][1:], *ranks[0]["resumed"]["epochs"]]),
    )


def check_kept(state, rows):
    assert state["n_collected"] == len(rows)
    rows = rows.double()
    mean = state["origin"] + state["offset_mean"]
    torch.testing.assert_close(mean.double(), rows.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        state["sq_dev"].double(), (rows - rows.mean(0)).square().sum(0), rtol=1e-4, atol=1e-9
    )


def input_mean(theta):
    """What the batch-norm layer's running mean must be: the mean of the first layer's outputs."""
    module = Module()
    nn.utils.vector_to_parameters(theta, module.parameters())
    (x, _) = data().dataset.tensors
    return module.net[0](x).mean(0).detach()


# Reading


def test_a_checkpoint_is_tensors_and_plain_data(checkpoint):
    state = torch.load(checkpoint, weights_only=True)["callbacks"]["SWAGCallback"]
    assert state["collector"]["n_collected"] == 2 and state["settings"]["rank"] == 3


def test_read_collector_gives_the_posterior_without_lightning(checkpoint):
    straight, _ = fitted(3)
    collector = read_collector(checkpoint)
    assert_same_state(collector, straight.collector)
    assert torch.equal(collector.swag().mean, straight.posterior.mean)


def test_read_collector_by_key(tmp_path):
    callbacks = [callback_with(name="a"), callback_with(name="b", swa_lr=None, swa_start=0)]
    run = trainer(3, *callbacks)
    run.fit(Module(), data())
    run.save_checkpoint(tmp_path / "two.ckpt")
    with pytest.raises(FileError, match=r"2 SWAGCallbacks .*pass state_key="):
        read_collector(tmp_path / "two.ckpt")
    assert read_collector(tmp_path / "two.ckpt", state_key=callbacks[1].state_key).n_collected == 3


def test_read_collector_refuses(tmp_path, checkpoint):
    with pytest.raises(FileError, match="there is no"):
        read_collector(tmp_path / "none.ckpt")
    torch.save({"callbacks": {"SWAGCallback": nn.Linear(2, 2)}}, tmp_path / "pickled.ckpt")
    with pytest.raises(FileError, match="tensors and plain data alone"):
        read_collector(tmp_path / "pickled.ckpt")
    torch.save({"callbacks": {}}, tmp_path / "empty.ckpt")
    with pytest.raises(FileError, match="the state of 0 SWAGCallbacks"):
        read_collector(tmp_path / "empty.ckpt")
    damaged = altered(checkpoint, tmp_path, lambda state: state["collector"].pop("sq_dev"))
    with pytest.raises(InputError, match="'sq_dev' should be a tensor"):
        read_collector(damaged)


def test_testing_an_older_checkpoint_keeps_the_statistics(checkpoint):
    callback, run = fitted(5)
    before = callback.collector.state_dict()
    run.validate(Module(), data(), ckpt_path=checkpoint, verbose=False)
    assert callback.n_collected == 4 and torch.equal(callback.collector.mean, collector_mean(before))
    fresh = callback_with()
    trainer(5, fresh).validate(Module(), data(), ckpt_path=checkpoint, verbose=False)
    assert fresh.n_collected == 2 and fresh.posterior.sample(3).shape[0] == 3
    wider = callback_with(rank=4)
    _, run = fitted(4, callback=wider)
    run.validate(Module(), data(), ckpt_path=checkpoint, verbose=False)  # its settings do not matter here
    assert wider.n_collected == 3
    fitted(3, callback=fresh)  # what was read for validation is no beginning of another run
    assert fresh.n_collected == 2


def collector_mean(state):
    return state["origin"] + state["offset_mean"]


# Refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 4}, "rank: the checkpoint was saved with 3 and this callback has 4"),
        ({"swa_start": 2}, "swa_start: the checkpoint was saved with 1 and this callback has 2"),
        ({"swa_start": Steps(8), "anneal": 0}, "swa_start: the checkpoint was saved with 1"),
        ({"every": 2}, "every: the checkpoint was saved with 1 and this callback has 2"),
        ({"swa_lr": 0.1}, "swa_lr: the checkpoint was saved with 0.05 and this callback has 0.1"),
        ({"part": "net"}, "part: the checkpoint was saved with None and this callback has 'net'"),
        ({"select": ["*.bias"]}, "belongs to another model"),
        ({"deviation_dtype": torch.bfloat16}, "with bfloat16"),
    ],
)
def test_a_resumed_run_of_other_settings(checkpoint, changes, message):
    callback = callback_with(**changes)
    with pytest.raises(InputError, match=message):
        fitted(5, callback=callback, checkpoint=checkpoint)
    fitted(3, callback=callback)  # what was refused is forgotten
    assert callback.n_collected > 0


def test_a_damaged_state(checkpoint, tmp_path):
    def spoil(state):
        state["collector"]["sq_dev"][0] = float("nan")

    with pytest.raises(InputError, match="the state is damaged"):
        fitted(5, checkpoint=altered(checkpoint, tmp_path, spoil))
    with pytest.raises(InputError, match="not what SWAGCallback"):
        fitted(5, checkpoint=altered(checkpoint, tmp_path, lambda state: state.update(version=99)))


def test_a_checkpoint_without_the_callback_is_said(tmp_path, caplog):
    run = trainer(2)
    run.fit(Module(), data())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    with caplog.at_level(logging.WARNING, logger="swag"):
        callback = callback_with()
        torch.manual_seed(5)
        trainer(4, callback, Trail()).fit(Module(), data(), ckpt_path=tmp_path / "plain.ckpt")
    assert "has no state of SWAGCallback" in caplog.text and callback.n_collected == 2
    caplog.clear()
    trainer(4, callback).validate(Module(), data(), ckpt_path=tmp_path / "plain.ckpt", verbose=False)
    assert "has no state" not in caplog.text
