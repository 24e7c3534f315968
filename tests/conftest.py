"""One thread, fixed seeds, and one real process group for what needs DDP."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.runs import TwoLayers, seeded

# The tensors here are small: a second thread gains nothing, and waits badly where cores are shared.
torch.set_num_threads(1)

# The same examples on every run; no deadline, since shared runners stall.
settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same state of torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A gloo group of this one process, found through a file, so that DDP can wrap models."""
    dist = torch.distributed
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    store = tmp_path_factory.mktemp("store") / "file"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def two_layers() -> TwoLayers:
    """A training run whose layers move together."""
    torch.manual_seed(0)
    return TwoLayers()


@pytest.fixture(scope="session")
def samples(two_layers: TwoLayers) -> torch.Tensor:
    """4,000 draws of its SWAG posterior at the paper's scale: enough to see a covariance off by a tenth."""
    return two_layers.collector.swag(0.5).sample(4000, generator=seeded())
