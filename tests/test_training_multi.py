"""`swag.training.train_multi`: independent runs, one mixture, each run's checkpoint apart."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import swag
from swag import InputError
from swag.training import Epoch, train, train_multi
from tests.training_cases import N_CLASSES, N_FEATURES, Augmented, N, batches, network, same, shuffled, task


def fresh(seed: int) -> nn.Module:
    """Takes its weights from torch's global generator, as `nn.Linear` does."""
    return nn.Sequential(
        nn.Linear(N_FEATURES, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, N_CLASSES)
    )


def run(seeds: list[int], **changes: Any) -> swag.training.TrainedMembers:
    given: dict[str, Any] = {"epochs": 4, "swa_start": 0.5, **changes}
    loader = given.pop("loader", None) or shuffled()
    return train_multi(fresh, seeds, loader, F.cross_entropy, **given)


def test_a_run_depends_on_its_seed_alone_and_the_world_is_not_reseeded() -> None:
    augmented = Augmented()
    augmented.generator = None  # type: ignore[assignment]
    augmented.__class__ = type(
        "GloballyAugmented",
        (Augmented,),
        {"__getitem__": lambda self, i: (self.x[i] + random.gauss(0, 0.1) + np.random.rand() / 9, self.y[i])},
    )
    loader = DataLoader(augmented, batch_size=11, shuffle=True)
    torch.manual_seed(4)
    random.seed(4)
    np.random.seed(4)
    both = run([3, 8], loader=loader)
    after = (torch.rand(1).item(), random.random(), np.random.rand())
    torch.manual_seed(4)
    random.seed(4)
    np.random.seed(4)
    assert after == (torch.rand(1).item(), random.random(), np.random.rand())
    alone = run([8], loader=loader)
    assert torch.equal(alone[0].collector.mean, both[1].collector.mean)
    assert torch.equal(alone[0].collector.deviations, both[1].collector.deviations)
    assert not torch.equal(both[0].collector.mean, both[1].collector.mean)
    assert both.seeds == (3, 8) and len(both) == 2


def test_a_member_is_what_train_gives_after_seeding() -> None:
    members = run([5])
    torch.manual_seed(5)
    single = train(fresh(5), shuffled(), F.cross_entropy, epochs=4, swa_start=0.5)
    assert torch.equal(members[0].collector.mean, single.collector.mean)


def test_mixtures_and_ensembles() -> None:
    members = run([0, 1, 2])
    multiswa, multiswag = members.multiswa(), members.multiswag(scale=1.0)
    assert isinstance(multiswa, swag.Mixture) and multiswa.is_uniform and multiswag.is_uniform
    for index, result in enumerate(members.results):
        assert torch.equal(multiswa.posteriors[index].mean, result.collector.mean)
        torch.testing.assert_close(multiswag.posteriors[index].variance, result.swag(1.0).variance)
    x, _ = task()
    probs = members.ensemble(multiswa, 3, seed=0, bn_loader=batches())(x).probs
    apart = [result.ensemble(result.swa(), 1, bn_loader=batches())(x).probs for result in members.results]
    torch.testing.assert_close(probs, torch.stack(apart).mean(0), rtol=1e-5, atol=1e-6)
    assert members.ensemble(n_samples=6, seed=0).predict(batches()).probs.shape == (N, N_CLASSES)


def test_goes_on_with_the_run_that_was_stopped(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    trained: list[int] = []
    limit = 6

    def count(epoch: Epoch) -> None:
        trained.append(epoch.number)
        if len(trained) == limit:
            raise Stop

    whole = run([7, 9, 11], checkpoint_folder=tmp_path / "whole")
    with pytest.raises(Stop):
        run([7, 9, 11], checkpoint_folder=tmp_path / "a" / "b", callbacks=[count])
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"seed-7.pt", "seed-9.pt"}
    limit = 99
    torch.manual_seed(123)
    trained.clear()
    resumed = run([7, 9, 11], checkpoint_folder=tmp_path / "a" / "b", callbacks=[count])
    assert trained == [2, 3, 4, 1, 2, 3, 4]
    for mine, theirs in zip(resumed.results, whole.results, strict=True):
        same(mine.model.state_dict(), theirs.model.state_dict())
        assert torch.equal(mine.collector.deviations, theirs.collector.deviations)
        assert mine.history == theirs.history


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": 3}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [0.5]}, "seed"),
        ({"checkpoint": "x.pt"}, "checkpoint_folder"),
        ({"optimizer": torch.optim.SGD(network().parameters(), lr=0.1)}, "optimizer"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_refuses(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(InputError, match=names):
        run(**{"seeds": [0, 1], **changes})


def test_refuses_callbacks_whose_state_would_pass_from_run_to_run() -> None:
    class Stateful:
        def __call__(self, epoch: Epoch) -> None:
            pass

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    with pytest.raises(InputError, match="callbacks"):
        run([0, 1], callbacks=[Stateful()])
    assert run([0], epochs=2, callbacks=[Stateful()])[0].collector.n_collected == 1


def test_refuses_a_function_that_makes_no_model() -> None:
    with pytest.raises(InputError, match="make_model"):
        train_multi(lambda seed: 3, [0], batches(), F.cross_entropy, epochs=2)  # type: ignore[arg-type, return-value]


def test_an_optimizer_class_is_a_function() -> None:
    members = run([0, 1], epochs=2, optimizer=torch.optim.AdamW)
    assert [result.history[-1]["rates"] for result in members.results] == [[5e-4], [5e-4]]
