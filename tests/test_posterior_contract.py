"""What every posterior promises, whichever it is: shapes, seeds, prefixes, and what it takes from whom."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from swag import Empirical, InputError, Layout, LowRankGaussian, Mixture, PointMass, Posterior
from tests.cases import plain
from tests.runs import seeded

LAYOUT = Layout.of(plain())
SIZE = LAYOUT.size


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian(seed: int, rank: int = 3) -> LowRankGaussian:
    diag = random(SIZE, seed=seed).square() + 0.1
    return LowRankGaussian(
        random(SIZE, seed=seed + 1), diag, random(SIZE, rank, seed=seed + 2), layout=LAYOUT
    )


def point(seed: int) -> PointMass:
    return PointMass(random(SIZE, seed=seed), layout=LAYOUT)


def bf16_gaussian() -> LowRankGaussian:
    exact = gaussian(1)
    return LowRankGaussian.from_rows(
        exact.mean, exact.cov_diag, exact.rows.bfloat16(), row_scale=0.5, layout=LAYOUT
    )


POSTERIORS: dict[str, Posterior] = {
    "PointMass": point(0),
    "LowRankGaussian": gaussian(0),
    "diagonal": gaussian(0, rank=0),
    "bfloat16 rows": bf16_gaussian(),
    "rank above D": gaussian(0, rank=60),
    "Empirical": Empirical(random(5, SIZE, seed=0), LAYOUT),
    "MultiSWA": Mixture([point(0), point(1), point(2)]),
    "MultiSWAG": Mixture([gaussian(0), gaussian(9), gaussian(18)]),
    "weighted": Mixture([gaussian(0), gaussian(9)], [0.3, 0.7]),
    "all kinds": Mixture([point(0), gaussian(0), Empirical(random(5, SIZE, seed=0))], [0.2, 0.5, 0.3]),
    "nested": Mixture([Mixture([gaussian(0), point(3)]), gaussian(9, rank=0)]),
}
SAMPLERS = {name: posterior for name, posterior in POSTERIORS.items() if name != "PointMass"}


@pytest.fixture(params=POSTERIORS, ids=str)
def posterior(request: pytest.FixtureRequest) -> Posterior:
    return POSTERIORS[request.param]


def test_the_protocol(posterior: Posterior) -> None:
    assert isinstance(posterior, Posterior)
    assert posterior.layout == LAYOUT
    assert posterior.mean.shape == (SIZE,) and posterior.variance.shape == (SIZE,)
    assert posterior.covariance_matrix().shape == (SIZE, SIZE)
    torch.testing.assert_close(
        posterior.covariance_matrix().diagonal(), posterior.variance, rtol=1e-4, atol=1e-6
    )
    one, many = posterior.sample(generator=seeded()), posterior.sample(4, generator=seeded())
    assert one.shape == (1, SIZE) and many.shape == (4, SIZE)
    assert one.dtype == many.dtype == posterior.mean.dtype and one.device == posterior.mean.device
    assert not many.requires_grad and many.is_contiguous()


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 7, 16])
def test_the_first_m_of_n_samples(posterior: Posterior, m: int) -> None:
    assert torch.equal(posterior.sample(m, generator=seeded()), posterior.sample(17, generator=seeded())[:m])


def test_same_seed_same_samples(posterior: Posterior) -> None:
    again = [posterior.sample(6, generator=seeded(4)) for _ in range(2)]
    assert torch.equal(*again)
    torch.manual_seed(4)
    by_global_seed = posterior.sample(6)
    assert torch.equal(by_global_seed, again[0])


@pytest.mark.parametrize(
    "carry", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"]
)
def test_copies_draw_the_same(posterior: Posterior, carry: Any) -> None:
    assert torch.equal(
        carry(posterior).sample(6, generator=seeded()), posterior.sample(6, generator=seeded())
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_other_seeds_other_samples(name: str) -> None:
    drawn = [SAMPLERS[name].sample(6, generator=seeded(seed)) for seed in range(5)]
    assert len({tuple(x.flatten().tolist()) for x in drawn}) == 5 if name != "MultiSWA" else True
    generator = seeded()
    assert not torch.equal(*[SAMPLERS[name].sample(12, generator=generator) for _ in range(2)])


@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("name", SAMPLERS)
def test_one_number_is_taken_from_the_generator(name: str, n: int) -> None:
    """Whatever n is, and whatever the posterior is made of: the next user of the generator sees the same."""
    ours, theirs = seeded(), seeded()
    SAMPLERS[name].sample(n, generator=ours)
    torch.randint(2**63 - 1, (), generator=theirs)
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_torch_s_own_generator_is_left_alone_where_one_is_given(posterior: Posterior) -> None:
    before = torch.get_rng_state()
    posterior.sample(5, generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SAMPLERS)
def test_torch_s_own_generator_is_moved_on_where_none_is_given(name: str) -> None:
    """By one number; two calls in a row give different samples."""
    torch.manual_seed(0)
    SAMPLERS[name].sample(5)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randint(2**63 - 1, ())
    assert torch.equal(torch.get_rng_state(), after)


def test_a_point_mass_takes_nothing() -> None:
    before, generator = torch.get_rng_state(), seeded()
    POSTERIORS["PointMass"].sample(5)
    POSTERIORS["PointMass"].sample(5, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_samples_are_the_caller_s(posterior: Posterior) -> None:
    """Writing into them changes neither the posterior nor the next samples."""
    mean, first = posterior.mean.clone(), posterior.sample(3, generator=seeded())
    kept = first.clone()
    first.fill_(float("nan"))
    assert torch.equal(posterior.mean, mean)
    assert torch.equal(posterior.sample(3, generator=seeded()), kept)


def test_the_surroundings_do_not_matter(posterior: Posterior) -> None:
    """Neither autocast, nor a default device ("meta" stands for an accelerator), nor inference mode."""
    expected, generator = posterior.sample(5, generator=seeded()), seeded()
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"), torch.inference_mode():
        got = posterior.sample(5, generator=generator)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("n_samples", [0, -1, 1.0, True, None, "3"])
def test_bad_numbers_of_samples(posterior: Posterior, n_samples: Any) -> None:
    generator = seeded()
    with pytest.raises(InputError, match=r"n_samples: got .*; pass an integer of at least 1"):
        posterior.sample(n_samples, generator=generator)
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_a_point_of_a_model_is_a_copy_of_the_selected_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).bfloat16()
    model[0].bias.requires_grad_(False)
    point = PointMass.of(model)
    assert point.layout == Layout.of(model) and point.mean.dtype == torch.float32
    assert point.layout.names == ("0.weight", "1.weight", "1.bias")
    before = point.mean.clone()
    nn.init.zeros_(model[0].weight)
    assert torch.equal(point.mean, before) and bool(before[:6].any())
    assert PointMass.of(model, ["1"]).layout.names == ("1.weight", "1.bias")
    nn.init.constant_(model[1].bias, float("nan"))
    with pytest.raises(InputError, match=r"1\.bias"):
        PointMass.of(model)
