"""The callback inside `lightning.Trainer`: what it collects and when, at which rate, what it leaves alone."""

import importlib
import logging
import math
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import swag
from swag.errors import InputError, StateError

pl = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import (  # noqa: E402
    Callback,
    EarlyStopping,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers.logger import Logger  # noqa: E402

from swag.integrations.lightning import Steps, SWAGCallback, ensemble  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
]


class Module(pl.LightningModule):
    """A small classifier; `norm` puts a batch-norm layer between."""

    def __init__(self, norm=False, lr=0.1):
        super().__init__()
        middle = [nn.BatchNorm1d(6)] if norm else []
        self.net = nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Linear(6, 3))
        self.lr = lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Manual(Module):
    """Two optimizer steps a batch, by hand; or none."""

    automatic_optimization = False

    def __init__(self, steps=2):
        super().__init__()
        self.steps = steps
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for _ in range(self.steps):
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()


class Trail(Callback):
    """θ after every batch and epoch, the rates that batches trained at, what validation and test saw."""

    def __init__(self):
        self.steps, self.epochs, self.rates, self.validated, self.tested = [], [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step > len(self.steps):
            self.steps.append(theta_of(module))

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append(theta_of(module))

    def on_validation_batch_end(self, trainer, module, *args):
        self.validated.append((trainer.sanity_checking, theta_of(module)))

    def on_test_batch_end(self, trainer, module, *args):
        self.tested.append(theta_of(module))


def theta_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad]).clone()


def data(n=24, batch_size=4, shuffle=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    y = torch.randint(0, 3, (n,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=shuffle, generator=generator)


def trainer_with(*callbacks, epochs=4, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"accelerator": "cpu", "enable_checkpointing": False, **quiet, **options}
    return pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), **options)


def fitted(callback, *, epochs=4, module=None, validation=None, loader=None, **options):
    """The callback, the trail and the module after a run."""
    torch.manual_seed(0)
    trail, module = Trail(), module or Module()
    trainer = trainer_with(callback, trail, epochs=epochs, **options)
    trainer.fit(module, loader if loader is not None else data(), validation)
    return trail, module, trainer


def moments(rows):
    rows = torch.stack(rows).double()
    return rows.mean(0), (rows - rows.mean(0)).square().sum(0)


def check_collected(collector, rows):
    """The collector against the plain formulas on the weights that were seen."""
    mean, sq_dev = moments(rows)
    assert collector.n_collected == len(rows)
    torch.testing.assert_close(collector.mean.double(), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(collector.sq_dev.double(), sq_dev, rtol=1e-4, atol=1e-9)


# What is collected


def test_epochs_from_swa_start_on():
    callback = SWAGCallback(3, 2, 1)
    trail, _, _ = fitted(callback, epochs=6)
    check_collected(callback.collector, trail.epochs[2:])


def test_every_second_epoch():
    callback = SWAGCallback(3, 1, 2)
    trail, _, _ = fitted(callback, epochs=7)
    check_collected(callback.collector, [trail.epochs[i] for i in (2, 4, 6)])


def test_a_fraction_of_the_run():
    callback = SWAGCallback(3, 0.5)
    trail, _, _ = fitted(callback, epochs=6)
    check_collected(callback.collector, trail.epochs[3:])


def test_steps_under_gradient_accumulation():
    # 6 batches, 4 of them a step: the epoch's last 2 make a step of their own.
    callback = SWAGCallback(3, Steps(2), Steps(3))
    trail, _, trainer = fitted(callback, epochs=5, accumulate_grad_batches=4)
    assert trainer.global_step == 10
    check_collected(callback.collector, [trail.steps[i] for i in (4, 7)])


def test_epochs_then_steps():
    callback = SWAGCallback(3, 1, Steps(4))
    trail, _, _ = fitted(callback, epochs=3)  # steps 0–5, 6–11, 12–17; averaging begins at step 6
    check_collected(callback.collector, [trail.steps[i] for i in (9, 13, 17)])


def test_a_fraction_of_max_steps():
    callback = SWAGCallback(3, 0.5, Steps(2))
    trail, _, trainer = fitted(callback, epochs=-1, max_steps=8)
    assert trainer.global_step == 8
    check_collected(callback.collector, [trail.steps[i] for i in (5, 7)])


@pytest.mark.parametrize("steps", [0, 2])
def test_manual_optimisation(steps):
    callback = SWAGCallback(3, 0, Steps(3))
    _, _, trainer = fitted(callback, epochs=1, module=Manual(steps))
    assert trainer.global_step == 6 * steps
    # Two steps a batch: steps 3, 6, 9, 12 are over after batches 2, 3, 5, 6.
    assert callback.n_collected == (4 if steps else 0)


def test_the_same_weights_are_not_collected_twice():
    callback = SWAGCallback(3, should_update=lambda step_idx, epoch_idx: True)
    trail, _, _ = fitted(callback, epochs=2)
    check_collected(callback.collector, trail.steps)


def test_a_rule_of_ones_own_by_overriding():
    asked = []

    class Third(SWAGCallback):
        def should_update(self, step_idx=None, epoch_idx=None):
            asked.append((step_idx, epoch_idx))
            return step_idx is not None and step_idx % 3 == 2

    callback = Third(3)
    trail, _, _ = fitted(callback, epochs=1)
    check_collected(callback.collector, [trail.steps[2], trail.steps[5]])
    assert asked == [(step, None) for step in range(6)] + [(None, 0)]


def test_an_epoch_cut_short_is_none():
    callback = SWAGCallback(3, 0)
    fitted(callback, epochs=5, max_steps=8)
    assert callback.n_collected == 1


def test_an_epoch_that_the_module_ends_counts():
    class Ends(Module):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 3 else None

    callback = SWAGCallback(3, 0)
    trail, _, _ = fitted(callback, epochs=2, module=Ends())
    check_collected(callback.collector, trail.epochs)


def test_a_stream_without_length():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from data(shuffle=False).dataset

    callback = SWAGCallback(3, 1, swa_lr=0.05)
    trail, _, _ = fitted(callback, epochs=3, loader=DataLoader(Stream(), batch_size=4))
    check_collected(callback.collector, trail.epochs[1:])


def test_frozen_parameters_are_left_out():
    module = Module()
    module.net[0].weight.requires_grad_(False)
    callback = SWAGCallback(3, 0)
    trail, _, _ = fitted(callback, module=module)
    assert "net.0.weight" not in callback.collector.layout.names
    check_collected(callback.collector, trail.epochs)


def test_compiled_modules_have_clean_names():
    module = Module()
    module.net[0] = torch.compile(module.net[0], backend="eager")
    assert any("_orig_mod" in name for name, _ in module.named_parameters())
    callback = SWAGCallback(3, 0)
    trail, _, _ = fitted(callback, module=module)
    check_collected(callback.collector, trail.epochs)
    assert ensemble(Module(), callback.posterior, 3, seed=0)(torch.randn(5, 4)).probs.shape == (5, 3)


@pytest.mark.parametrize("how", ["torch.compile(module)", "module.compile()"])
def test_modules_compiled_as_a_whole(how):
    """Their copies must not go on with the original's weights, nor statistics be read by hooks of before."""
    module, callback, trail = norm_module(), SWAGCallback(3, 1, validate_average=True), Trail()
    trained = torch.compile(module, backend="eager") if how == "torch.compile(module)" else module
    if trained is module:
        module.compile(backend="eager")
    trainer_with(callback, trail).fit(trained, data(), data(8, 8))
    torch.testing.assert_close(trail.validated[-1][1], callback.collector.mean)
    x, rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), data(shuffle=False)
    before = dict(vars(module))
    members = callback.ensemble(module, 3, bn_loader=rows, seed=0)(x)
    assert vars(module) == before  # still compiled, still the trainer's
    plain = ensemble(norm_module(), callback.posterior, 3, bn_loader=rows, seed=0)(x)
    assert torch.equal(members.probs, plain.probs) and members.mutual_information.min() > 1e-6
    with callback.applied(module, bn_loader=rows):
        once = module.net[1].running_mean.clone()
    with callback.applied(module, bn_loader=rows):
        assert torch.equal(module.net[1].running_mean, once)


def test_a_part_fits_the_plain_network():
    callback = SWAGCallback(3, 0, part="net")
    trail, module, _ = fitted(callback)
    check_collected(callback.collector, trail.epochs)
    plain = Module().net
    x = torch.randn(5, 4)
    by_name = swag.Ensemble(plain, callback.posterior, 4, seed=1)(x).probs
    assert torch.equal(callback.ensemble(module, 4, seed=1)(x).probs, by_name)


def test_the_run_is_the_same_as_without():
    with_it, _, _ = fitted(SWAGCallback(3, 1, validate_average=True), module=norm_module(), validation=data())
    torch.manual_seed(0)
    trail, module = Trail(), norm_module()
    trainer_with(trail).fit(module, data(), data())
    assert torch.equal(torch.stack(trail.steps), torch.stack(with_it.steps))


def norm_module():
    generator_state = torch.get_rng_state()
    torch.manual_seed(7)
    module = Module(norm=True)
    torch.set_rng_state(generator_state)
    return module


# Rates


def test_the_rate_is_swa_lr_whatever_schedulers_say():
    class Scheduled(Module):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    callback = SWAGCallback(3, 2, swa_lr=0.03)
    trail, _, trainer = fitted(callback, epochs=4, module=Scheduled())
    # The trail comes after the callback, so it sees what batches train at.
    assert trail.rates == pytest.approx([0.1] * 6 + [0.05] * 6 + [0.03] * 12)
    assert trainer.callback_metrics["swag/lr"] == pytest.approx(0.03)


def test_the_way_to_swa_lr_is_a_straight_line():
    trail, _, _ = fitted(SWAGCallback(3, 3, swa_lr=0.02, anneal=2), epochs=4)
    line = [0.1 + (0.02 - 0.1) * batch / 12 for batch in range(12)]
    assert trail.rates == pytest.approx([0.1] * 6 + line + [0.02] * 6)


def test_groups_have_rates_of_their_own_and_others_keep_theirs():
    class Grouped(Module):
        def configure_optimizers(self):
            groups = [{"params": layer.parameters()} for layer in (self.net[0], self.net[2])]
            return torch.optim.SGD(groups, lr=0.1)

    _, _, trainer = fitted(SWAGCallback(3, 1, swa_lr=[0.01, 0.02]), module=Grouped())
    assert [g["lr"] for g in trainer.optimizers[0].param_groups] == [0.01, 0.02]
    _, _, trainer = fitted(SWAGCallback(3, 1, swa_lr=0.01, part="net.2"), module=Grouped())
    assert [g["lr"] for g in trainer.optimizers[0].param_groups] == [0.1, 0.01]
    with pytest.raises(InputError, match="has 3 rates, and 2 parameter groups"):
        fitted(SWAGCallback(3, 1, swa_lr=[0.1, 0.1, 0.1]), module=Grouped())


def test_a_rate_that_is_a_tensor():
    class OnDevice(Module):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=torch.tensor(0.1))

    _, _, trainer = fitted(SWAGCallback(3, 1, swa_lr=0.01), module=OnDevice())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(torch.tensor(0.01))


# Validation


def test_validation_sees_the_average_and_training_its_own_weights():
    callback = SWAGCallback(3, 1, validate_average=True)
    trail, module, _ = fitted(callback, epochs=4, validation=data(8, 8))
    sanity, *seen = trail.validated
    assert sanity[0] and len(seen) == 4
    assert torch.equal(seen[0][1], trail.epochs[0])  # no average yet
    for epoch in (1, 2, 3):
        torch.testing.assert_close(seen[epoch][1], moments(trail.epochs[1 : epoch + 1])[0].float())
    assert torch.equal(theta_of(module), trail.steps[-1])
    assert module.training


def test_without_the_request_validation_sees_the_weights_themselves():
    trail, _, _ = fitted(SWAGCallback(3, 1), validation=data(8, 8))
    assert torch.equal(torch.stack([theta for _, theta in trail.validated[1:]]), torch.stack(trail.epochs))


def test_several_validations_an_epoch_read_the_training_data_once_a_snapshot():
    class Counted(DataLoader):
        reads = 0

        def __iter__(self):
            Counted.reads += 1
            return super().__iter__()

    loader = Counted(data().dataset, batch_size=4)
    callback = SWAGCallback(3, 0, validate_average=True, bn_loader=loader)
    fitted(callback, epochs=3, module=norm_module(), validation=data(8, 8), val_check_interval=1 / 3)
    assert callback.n_collected == 3 and Counted.reads == 3


def test_the_average_has_batch_norm_statistics_of_its_own():
    seen = []

    class Look(Callback):
        def on_validation_batch_end(self, trainer, module, *args):
            seen.append({k: b.clone() for k, b in module.named_buffers()})

    torch.manual_seed(0)
    loader = data(shuffle=False)
    callback, module = SWAGCallback(3, 1, validate_average=True, bn_loader=loader), norm_module()
    trainer_with(callback, Look(), epochs=3).fit(module, data(), data(8, 8))
    expected = norm_module()
    callback.collector.layout.write_(expected, callback.collector.mean)
    swag.refresh_batchnorm_(expected, loader)
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(seen[-1][name], buffer)
    own = dict(module.named_buffers())
    assert not torch.allclose(own["net.1.running_mean"], seen[-1]["net.1.running_mean"])


def test_frozen_batch_norm_stays():
    class Frozen(Module):
        def on_train_batch_start(self, batch, batch_idx):
            self.net[1].eval()

        def on_train_epoch_start(self):
            self.net[1].eval()

    module = Frozen(norm=True)
    module.net[1].running_mean.fill_(0.25)
    seen = []

    class Look(Callback):
        def on_validation_batch_end(self, trainer, module, *args):
            seen.append(module.net[1].running_mean.clone())

    trainer_with(SWAGCallback(3, 0, validate_average=True), Look()).fit(module, data(), data(8, 8))
    assert all(torch.equal(mean, torch.full((6,), 0.25)) for mean in seen)


def test_after_an_error_in_validation_the_module_has_its_own_weights():
    class Fails(Module):
        def validation_step(self, batch, batch_idx):
            if self.trainer.current_epoch == 2:
                raise RuntimeError("in validation")

    trail, module = Trail(), Fails()
    with pytest.raises(RuntimeError, match="in validation"):
        trainer_with(SWAGCallback(3, 0, validate_average=True), trail).fit(module, data(), data(8, 8))
    assert torch.equal(theta_of(module), trail.steps[-1])


def test_a_checkpoint_while_the_average_is_in_the_module_is_refused(tmp_path):
    class Saves(Module):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                self.trainer.save_checkpoint(tmp_path / "no.ckpt")

    with pytest.raises(StateError, match="averaged weights"):
        trainer_with(SWAGCallback(3, 0, validate_average=True)).fit(Saves(), data(), data(8, 8))
    assert not (tmp_path / "no.ckpt").exists()


def loaders_of_ones_own():
    rows = data().dataset

    class Stream(IterableDataset):
        def __iter__(self):
            yield from rows

    weighted = WeightedRandomSampler([1.0] * 24, 24)
    batches = BatchSampler(RandomSampler(rows), 4, drop_last=False)
    return {
        "stream": DataLoader(Stream(), batch_size=4),
        "weighted": DataLoader(rows, batch_size=4, sampler=weighted),
        "subset": DataLoader(rows, batch_size=4, sampler=SubsetRandomSampler(range(12))),
        "batches": DataLoader(rows, batch_sampler=batches),
        "several": [data(), data()],
    }


@pytest.mark.parametrize("kind", list(loaders_of_ones_own()))
def test_other_training_data_needs_a_loader_for_batch_norm(kind):
    class Either(Module):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch if isinstance(batch[1], torch.Tensor) else batch[0], batch_idx)

    module, loader = Either(norm=True), loaders_of_ones_own()[kind]
    with pytest.raises(InputError, match="bn_loader: the model has batch norm"):
        fitted(SWAGCallback(3, 0, validate_average=True), module=module, loader=loader, validation=data(8))
    callback = SWAGCallback(3, 0, validate_average=True, bn_loader=data())
    fitted(callback, epochs=2, module=Either(norm=True), loader=loader, validation=data(8))
    assert callback.n_collected == 2


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_lower_precision(precision):
    callback = SWAGCallback(3, 1, validate_average=True, deviation_dtype=torch.bfloat16)
    trail, module, _ = fitted(callback, module=norm_module(), validation=data(8), precision=precision)
    assert callback.collector.mean.dtype == torch.float32
    check_collected(callback.collector, trail.epochs[1:])
    assert torch.equal(theta_of(module), trail.steps[-1])


def test_two_optimizers_and_a_part_of_one():
    class Two(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.critic = nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.critic(self(batch[0])).square().mean())
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.net, self.critic)]

    callback = SWAGCallback(3, Steps(4), Steps(4), swa_lr=0.005, part="critic")
    _, _, trainer = fitted(callback, epochs=1, module=Two())
    assert trainer.global_step == 12 and callback.n_collected == 2
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == [0.01, 0.005]


def test_trainer_test_and_validate_see_the_weights_themselves_or_what_is_applied():
    callback = SWAGCallback(3, 1, validate_average=True)
    trail, module, trainer = fitted(callback, module=norm_module())
    own = theta_of(module)
    trainer.test(module, data(8, 8), verbose=False)
    trainer.validate(module, data(8, 8), verbose=False)
    with callback.applied(module, bn_loader=data()):
        trainer.test(module, data(8, 8), verbose=False)
    assert torch.equal(trail.tested[0], own) and torch.equal(trail.validated[-1][1], own)
    torch.testing.assert_close(trail.tested[1], callback.collector.mean)
    assert torch.equal(theta_of(module), own)


# Afterwards


def test_posterior_and_predictions():
    callback = SWAGCallback(3, 1)
    _, module, trainer = fitted(callback, epochs=5, module=norm_module())
    posterior = callback.posterior
    torch.testing.assert_close(posterior.mean, callback.collector.mean)
    members = callback.ensemble(module, 6, bn_loader=data(), seed=0)
    again = ensemble(norm_module(), posterior, 6, bn_loader=data(), seed=0)
    predictive = members.predict(data(8, 4, shuffle=False))
    assert torch.equal(predictive.probs, again.predict(data(8, 4, shuffle=False)).probs)
    assert module._trainer is trainer and all(not isinstance(v, pl.Trainer) for v in vars(members).values())


def test_metrics_are_logged(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    callback = SWAGCallback(2, 1, swa_lr=0.03)
    _, _, trainer = fitted(callback, logger=logger, log_every_n_steps=1)
    assert trainer.callback_metrics["swag/n_collected"] == 3 and trainer.callback_metrics["swag/rows"] == 2
    text = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "swag/n_collected" in text.splitlines()[0] and len(text.splitlines()) == 4


def test_a_rate_finder_before_the_run_leaves_no_trace(tmp_path, caplog):
    callback, trail = SWAGCallback(3, 1), Trail()
    finder = LearningRateFinder(num_training_steps=4)
    with caplog.at_level(logging.WARNING, logger="swag"):
        trainer_with(finder, callback, trail, default_root_dir=tmp_path).fit(Module(), data())
    check_collected(callback.collector, trail.epochs[1:])
    assert "no state of SWAGCallback" not in caplog.text


def test_metrics_lie_beside_the_modules_own_in_loggers():
    class Kept(Logger):
        name, version = "kept", 0

        def __init__(self):
            super().__init__()
            self.steps = {}

        def log_hyperparams(self, *args, **kwargs): ...

        def log_metrics(self, metrics, step=None):
            for key in metrics:
                self.steps.setdefault(key, []).append(step)

    class Logs(Manual):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.log("loss", 0.0)

    class Ends(Module):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 3 else None

    logger = Kept()  # two steps a batch: Lightning's loggers count batches
    fitted(SWAGCallback(3, 0), epochs=2, module=Logs(), logger=logger, log_every_n_steps=1)
    assert logger.steps["loss"] == list(range(12)) and logger.steps["swag/n_collected"] == [5, 11]
    logger = Kept()
    fitted(SWAGCallback(3, 0), epochs=2, module=Ends(), logger=logger)
    assert logger.steps["swag/n_collected"] == [2, 5]


def test_nothing_collected_is_said(caplog):
    with caplog.at_level(logging.WARNING, logger="swag"):
        fitted(SWAGCallback(3, 9))
    assert "no snapshot was taken: averaging starts at 9" in caplog.text


def test_fit_again_goes_on_and_a_new_trainer_begins_anew():
    callback = SWAGCallback(3, 1)
    trail, module, trainer = fitted(callback, epochs=3)
    trainer.fit_loop.max_epochs = 5
    trainer.fit(module, data())
    check_collected(callback.collector, trail.epochs[1:])
    other, _, _ = fitted(callback, epochs=4)
    check_collected(callback.collector, other.epochs[1:])


def test_fit_again_with_another_model():
    callback = SWAGCallback(3, 1)
    _, _, trainer = fitted(callback, epochs=3)
    trainer.fit_loop.max_epochs = 5
    with pytest.raises(InputError, match="another model than was collected"):
        trainer.fit(Module(norm=True), data())
    assert callback.n_collected == 2


def test_early_stopping_leaves_what_was_collected():
    callback = SWAGCallback(3, 0)
    stop = EarlyStopping("val_loss", patience=1, min_delta=math.inf)
    trail, module = Trail(), Module()
    trainer_with(callback, stop, trail, epochs=9).fit(module, data(), data(8, 8))
    check_collected(callback.collector, trail.epochs)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": -1}, "rank: got -1"),
        ({"rank": 2.5}, "rank: got 2.5"),
        ({"swa_start": 1.5}, "swa_start: got 1.5"),
        ({"swa_start": -1}, "swa_start: got -1"),
        ({"swa_start": "late"}, "swa_start: got 'late'"),
        ({"every": 0}, "every: got 0"),
        ({"every": Steps(0)}, r"every: got Steps\(0\)"),
        ({"every": 0.5}, "every: got 0.5"),
        ({"swa_lr": 0}, "swa_lr: got 0"),
        ({"swa_lr": [0.1, -1]}, "swa_lr: got"),
        ({"anneal": -1}, "anneal: got -1"),
        ({"should_update": 3}, "should_update: got 3"),
        ({"deviation_dtype": torch.int8}, "deviation_dtype: got torch.int8"),
    ],
)
def test_refused_at_construction(arguments, message):
    with pytest.raises(InputError, match=message):
        SWAGCallback(**arguments)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"part": "body"}, {}, "part: the module has no submodule 'body'; it has net"),
        ({"select": ["nothing"]}, {}, "select"),
        ({"swa_start": 0.5}, {"epochs": -1, "max_steps": -1}, "fraction of a run without end"),
        ({"swa_start": 2, "anneal": Steps(4)}, {}, "pass both in epochs"),
    ],
)
def test_refused_when_fit_begins(arguments, options, message):
    with pytest.raises(InputError, match=message):
        fitted(SWAGCallback(3, **arguments), **options)


def test_the_callback_twice():
    with pytest.raises(RuntimeError, match="more than one stateful callback"):  # Lightning's own words
        trainer_with(SWAGCallback(3), SWAGCallback(4))
    trainer = trainer_with(SWAGCallback(3))
    trainer.callbacks.append(SWAGCallback(4))
    with pytest.raises(InputError, match="SWAGCallback is there twice"):
        trainer.fit(Module(), data())


def test_two_by_name():
    first, second = SWAGCallback(3, 1, name="a"), SWAGCallback(2, 0, Steps(1), name="b", part="net.0")
    trail, module = Trail(), Module()
    trainer_with(first, second, trail).fit(module, data())
    assert (first.n_collected, second.n_collected) == (3, 24)


@pytest.mark.parametrize(
    ("arguments", "other", "message"),
    [
        ({"validate_average": True}, lambda: WeightAveraging(), "WeightAveraging puts its average"),
        (
            {"validate_average": True},
            lambda: SWAGCallback(2, validate_average=True, name="b"),
            "SWAGCallback puts its average",
        ),
        ({"swa_lr": 0.1}, lambda: StochasticWeightAveraging(0.1), "StochasticWeightAveraging sets the learn"),
        (
            {"swa_lr": 0.1},
            lambda: SWAGCallback(2, swa_lr=0.1, name="b"),
            "SWAGCallback sets the learning rate",
        ),
    ],
)
def test_company_that_works_against_it(arguments, other, message):
    with pytest.raises(InputError, match=message):
        trainer_with(SWAGCallback(3, 1, **arguments), other()).fit(Module(), data())


def test_too_early():
    callback = SWAGCallback(3)
    assert callback.n_collected == 0
    with pytest.raises(StateError, match=r"before trainer\.fit has begun"):
        callback.posterior  # noqa: B018
    fitted(callback, epochs=2)
    with pytest.raises(StateError, match="needs 2 snapshots"):
        callback.posterior  # noqa: B018


def test_a_posterior_for_another_model():
    callback = SWAGCallback(3, 1)
    fitted(callback)
    with pytest.raises(InputError, match=r"no parameter 'net\.0\.weight'"):
        ensemble(nn.Linear(4, 3), callback.posterior)
    wider = Module()
    wider.net[2] = nn.Linear(6, 5)
    with pytest.raises(InputError, match=r"'net\.2\.weight' has shape \(5, 6\), expected \(3, 6\)"):
        callback.ensemble(wider)
    with pytest.raises(InputError, match=r"'net\.2\.weight' has shape"), callback.applied(wider):
        pass


def test_weights_that_are_not_finite():
    class Explodes(Module):
        def on_train_batch_end(self, *args):
            with torch.no_grad():
                self.net[0].weight.fill_(float("nan"))

    callback = SWAGCallback(3, 0)
    with pytest.raises(InputError, match=r"net\.0\.weight' holds NaN"):
        fitted(callback, module=Explodes())


def test_making_a_callback_draws_no_random_number():
    before = torch.get_rng_state()
    SWAGCallback(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("version", "message"), [("2.5.6", "found version 2.5.6"), (None, "not installed")])
def test_another_lightning_or_none(monkeypatch, version, message):
    import lightning

    monkeypatch.delitem(sys.modules, "swag.integrations.lightning")
    if version is None:
        monkeypatch.setitem(sys.modules, "lightning", None)
    else:
        monkeypatch.setattr(lightning, "__version__", version)
    with pytest.raises(ImportError, match=rf'{message}, version 2\.6 or later .*"swag-torch\[lightning\]"'):
        importlib.import_module("swag.integrations.lightning")
