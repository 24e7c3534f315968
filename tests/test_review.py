"""Threads, default devices, folding that one member cannot show, and arguments of the wrong kind."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

import swag


def trained(model, n=4, rank=3):
    """A collector over n random steps."""
    generator = torch.Generator().manual_seed(0)
    collector = swag.Collector(model, rank=rank)
    for _ in range(n):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        collector.collect(model)
    return collector


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))


IMAGES = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Gated(nn.Module):
    """The convolution's output is used twice; with g = 0 the second use changes nothing."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4)
        self.g = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        h = self.conv(x)
        return self.head((self.norm(h) + self.g * h).mean((2, 3)))


class TestFolding:
    def test_a_second_use_that_the_first_member_does_not_show(self):
        model = Gated()
        layout = swag.Layout.of(model)
        first = layout.flatten(model)
        second = first.clone()
        second[[e.start for e in layout.entries if e.name == "g"]] = 5.0
        posterior = swag.Empirical(torch.stack([first, second]), layout)
        fast, plain = (
            swag.Ensemble(model, posterior, 2, bn_loader=[IMAGES], keep_members=True, strategy=strategy)
            for strategy in (swag.Loop(), swag.Loop(fast=False))
        )
        torch.testing.assert_close(fast(IMAGES).member_probs, plain(IMAGES).member_probs)

    def test_an_empty_first_batch_decides_nothing(self):
        model = convolutional()
        ensembles = [
            swag.Ensemble(model, trained(copy.deepcopy(model)).swag(), 2, bn_loader=[IMAGES], seed=0)
            for _ in range(2)
        ]
        assert ensembles[0](IMAGES[:0]).n_rows == 0
        assert torch.equal(ensembles[0](IMAGES).probs, ensembles[1](IMAGES).probs)

    def test_auto_with_an_empty_first_batch(self):
        ensemble = swag.Ensemble(nn.Linear(2, 3), trained(nn.Linear(2, 3)).swag(), "auto", seed=0)
        with pytest.raises(swag.InputError, match="first batch"):
            ensemble(torch.zeros(0, 2))


class TestThreads:
    def test_calls_from_several_threads_take_turns(self):
        model = nn.Sequential(*[nn.Linear(100, 100) for _ in range(5)])
        ensemble = swag.Ensemble(model, trained(model).swag(scale=1.0), 10, seed=0)
        x = torch.randn(7, 100)
        expected, wrong = ensemble(x).probs, []

        def work():
            for _ in range(25):
                if not torch.equal(ensemble(x).probs, expected):
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    @pytest.mark.parametrize("again", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
    def test_an_ensemble_can_be_copied_and_pickled(self, again):
        model = convolutional()
        ensemble = swag.Ensemble(model, trained(model).swag(), 3, bn_loader=[IMAGES], seed=0)
        assert torch.equal(again(ensemble)(IMAGES).probs, ensemble(IMAGES).probs)


@pytest.fixture
def other_default_device():
    """A default device that data can never come from; stands for CUDA with everything at hand on the CPU."""
    before = torch.get_default_device()
    model = convolutional()
    collector = trained(model)
    torch.set_default_device("meta")
    try:
        yield model, collector
    finally:
        torch.set_default_device(before)


class TestDefaultDevice:
    @pytest.mark.parametrize(
        "policy", [swag.ExactBatchNorm(), swag.ControlVariateBatchNorm(rows=32, fresh=False)]
    )
    def test_ensembles(self, other_default_device, policy):
        model, collector = other_default_device
        collector.collect(model)
        ensemble = swag.Ensemble(model, collector.swag(), 2, bn_loader=[IMAGES], batchnorm=policy, seed=0)
        assert ensemble(IMAGES).probs.device.type == "cpu"

    def test_mixtures(self, other_default_device):
        _, collector = other_default_device
        mixture = swag.Mixture([collector.swag(), collector.swag_diag()], [0.3, 0.7])
        assert mixture.sample(3).device.type == "cpu"
        assert mixture.log_prob(collector.mean).device.type == "cpu"


class TestArguments:
    def make(self, **settings):
        return swag.Ensemble(self.model, trained(self.model).swag(), 2, **{"bn_loader": [IMAGES], **settings})

    @pytest.fixture(autouse=True)
    def _model(self):
        self.model = convolutional()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("seed", 1.5),
            ("seed", "0"),
            ("seed", 1 << 64),
            ("strategy", "loop"),
            ("autocast", "bfloat16"),
            ("likelihood", "gaussian"),
            ("likelihood", swag.HeteroscedasticGaussian),
            ("batchnorm", swag.ExactBatchNorm),
        ],
    )
    def test_the_wrong_kind_is_named_at_construction(self, name, value):
        with pytest.raises(swag.InputError, match=f"^{name}: got"):
            self.make(**{name: value})

    def test_a_list_of_models_is_asked_for(self):
        with pytest.raises(swag.InputError, match=r"^models: got a Sequential"):
            swag.Ensemble.from_models(self.model)

    def test_a_layout_is_asked_for(self):
        with pytest.raises(swag.InputError, match=r"^layout: got a Sequential"):
            swag.PointMass(torch.zeros(3), layout=self.model)

    def test_a_scale_is_asked_for(self):
        with pytest.raises(swag.InputError, match=r"^scale: got 'half'"):
            trained(self.model).swag(scale="half")

    def test_numpy_integers_count(self):
        collector = trained(self.model, rank=np.int64(3))
        samples = collector.swag().sample(np.int64(2), generator=torch.Generator().manual_seed(5))
        ensemble = swag.Ensemble(
            self.model, collector.swag(), np.int64(2), bn_loader=[IMAGES], seed=np.int64(5)
        )
        assert torch.equal(ensemble.thetas, samples)

    def test_arrays_become_predictives(self):
        logits = np.zeros((2, 3))
        assert swag.CategoricalPredictive.from_logits(logits).probs.shape == (2, 3)
        assert swag.GaussianPredictive(logits, logits + 1).mean.shape == (3,)

    def test_predictives_can_be_compared(self):
        one, other = (swag.CategoricalPredictive.from_logits(torch.zeros(2, 3)) for _ in range(2))
        assert one == one and one != other

    def test_a_mixture_of_dtypes_takes_the_widest(self):
        mixture = swag.Mixture([swag.PointMass(torch.zeros(2)), swag.PointMass(torch.ones(2).double())])
        samples = mixture.sample(4, generator=torch.Generator().manual_seed(0))
        assert samples.dtype == torch.float64 and sorted(samples[:, 0].tolist()) == [0, 0, 1, 1]
        part = mixture.sample_range(2, 4, generator=torch.Generator().manual_seed(0))
        assert torch.equal(part, samples[2:])


class TestSurvivors:
    """Lines that could be broken without a test noticing."""

    def test_a_range_of_a_mixture_is_that_of_the_whole_draw(self):
        posterior = trained(nn.Linear(3, 2)).swag()
        mixture = swag.Mixture([posterior, posterior.with_scale(2.0)], [0.3, 0.7])
        samples = mixture.sample(9, generator=torch.Generator().manual_seed(4))
        for start in range(9):
            for stop in range(start + 1, 10):
                part = mixture.sample_range(start, stop, generator=torch.Generator().manual_seed(4))
                assert torch.equal(part, samples[start:stop])

    def test_an_ensemble_of_points_keeps_its_own_copy(self):
        samples = torch.randn(3, 8)
        model = nn.Linear(3, 2)
        ensemble = swag.Ensemble(model, swag.Empirical(samples, swag.Layout.of(model)), 3)
        x = torch.randn(5, 3)
        before = ensemble(x).probs
        samples.zero_()
        assert torch.equal(ensemble(x).probs, before)
