"""Which policy is taken where the caller names none."""

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import swag
from swag.batches import n_rows, peeked
from swag.batchnorm.usual import LARGE

EXACT, FEW = swag.ExactBatchNorm(), swag.ControlVariateBatchNorm()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def gaussian(model: nn.Module) -> swag.LowRankGaussian:
    layout = swag.Layout.of(model)
    mean = layout.flatten(model)
    return swag.LowRankGaussian(mean, torch.full_like(mean, 0.01), torch.zeros(len(mean), 0), layout=layout)


def rows(n: int) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(n))


def loader(n: int, **settings: object) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(rows(n)), batch_size=512, **settings)  # type: ignore[arg-type]


def same_as(
    policy: swag.ExactBatchNorm | swag.ControlVariateBatchNorm | None, bn_loader: object, **settings: object
) -> Tensor:
    model = settings.pop("model", None) or net()
    posterior = settings.pop("posterior", None) or gaussian(model)
    ensemble = swag.Ensemble(model, posterior, 6, bn_loader=bn_loader, batchnorm=policy, seed=0, **settings)
    return ensemble(rows(50)).probs


def test_few_rows_are_read_exactly() -> None:
    found = same_as(None, loader(LARGE - 512))
    assert torch.equal(found, same_as(EXACT, loader(LARGE - 512)))
    assert not torch.equal(found, same_as(FEW, loader(LARGE - 512)))


def test_many_rows_go_by_the_control_variate(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "swag"):
        found = same_as(None, loader(LARGE))
    assert torch.equal(found, same_as(FEW, loader(LARGE)))
    assert f"256 of {LARGE} training rows" in caplog.text


def test_a_list_of_batches_is_counted() -> None:
    batches = list(rows(LARGE).split(1024))
    assert torch.equal(same_as(None, batches), same_as(FEW, batches))


class Stream(IterableDataset):
    def __iter__(self):
        yield from rows(LARGE + 5)


@pytest.mark.parametrize("kind", ["iterator", "stream"])
def test_what_has_no_known_length_is_read_exactly(kind: str) -> None:
    def make() -> object:
        return iter(loader(LARGE)) if kind == "iterator" else DataLoader(Stream(), batch_size=4096)

    assert torch.equal(same_as(None, make()), same_as(EXACT, make()))


def test_points_are_their_own_centres_and_read_exactly() -> None:
    model = net()
    posterior = swag.Empirical(
        gaussian(model).sample(6, generator=torch.Generator().manual_seed(1)), swag.Layout.of(model)
    )
    found = same_as(None, loader(LARGE), model=model, posterior=posterior)
    assert torch.equal(found, same_as(EXACT, loader(LARGE), model=model, posterior=posterior))


def test_a_layer_that_runs_twice_is_read_exactly() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.norm(self.first(x)).relu()))

    torch.manual_seed(1)
    model = Twice()
    with pytest.raises(swag.InputError, match="runs more than once"):
        same_as(FEW, loader(LARGE), model=model)
    assert torch.equal(same_as(None, loader(LARGE), model=model), same_as(EXACT, loader(LARGE), model=model))


def test_rows_are_counted_without_reading() -> None:
    class Unread:
        batch_size = 7

        def __len__(self) -> int:
            return 3

        def __iter__(self):
            raise AssertionError("it was read")

    assert n_rows(Unread()) == 21
    assert n_rows([(torch.zeros(4, 2), torch.zeros(9))]) == 4
    assert n_rows([{"ids": torch.zeros(5, 2)}, {"ids": torch.zeros(3, 2)}]) == 8
    assert n_rows([torch.tensor(1.0), "text"]) == 0
    assert n_rows(iter([torch.zeros(4)])) is None
    assert n_rows(DataLoader(Stream(), batch_size=2)) is None


def test_a_peeked_loader_can_be_read_again() -> None:
    batches = [torch.tensor([i]) for i in range(3)]
    first, again = peeked(batches)
    assert first is batches[0]
    assert [list(again), list(again)] == [batches, batches]
