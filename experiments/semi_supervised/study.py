"""One unit of work: one setting by one method from one seed, or the choice of its rate and weight."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments import record
from experiments.semi_supervised.domains import Batches, Drawn, Parts, Pool, Repeated, Rows
from experiments.semi_supervised.networks import seeded
from experiments.semi_supervised.settings import Setting
from swag import refresh_batchnorm_
from swag.batchnorm import eval_mode
from swag.training.semi_supervised import (
    UNLABELLED,
    Consistency,
    MeanTeacher,
    Method,
    PiModel,
    SemiSupervised,
    Supervised,
    TwoStreamSampler,
    flipped,
    noisy,
    shifted,
    train_semi_supervised,
)

KIND = "semi_supervised"
METHODS = ("supervised", "pi", "teacher")
# Labelled rows of its own: the seeds that are reported have no part in the choice.
CHOICE_SEED = 100


class Study:
    """A setting with its data, and where its results go."""

    def __init__(self, name: str, setting: Setting, data_dir: Path | None, out: Path, device: str) -> None:
        self.name, self.setting, self.out, self.device = name, setting, out, device
        self.data_dir = data_dir
        self._pool: Pool | None = None

    @property
    def pool(self) -> Pool:
        if self._pool is None:
            self._pool = Pool(self.setting, self.data_dir, self.device)
        return self._pool

    def path(self, method: str, seed: int | str) -> Path:
        return self.out / f"{self.name}-{method}-{seed}.json"

    def settings(self, method: str, seed: int | str) -> dict[str, Any]:
        return {"setting": dataclasses.asdict(self.setting), "method": method, "seed": seed}

    def chosen(self, method: str) -> tuple[float, float]:
        """The rate and the weight with the smallest validation error; found out where no file has them."""
        path = self.path(method, "choice")
        if not record.done(path, KIND, self.settings(method, "choice")):
            self.choose(method, path)
        found = record.read(path, KIND)["chosen"]
        return found["rate"], found["weight"]

    def choose(self, method: str, path: Path) -> None:
        """Tries the candidates over the first descent alone, with labelled rows of their own.

        Labels alone have no weight to choose. The other methods take the rate that labels alone chose.
        """
        if method == "supervised":
            candidates = [(rate, 0.0) for rate in self.setting.rates]
        else:
            rate, _ = self.chosen("supervised")
            candidates = [(rate, weight) for weight in self.setting.weights]
        short = dataclasses.replace(self.setting, epochs=round(self.setting.first_end))
        parts = self.pool.parts(CHOICE_SEED)
        tried = []
        began = time.process_time()
        for rate, weight in candidates:
            started = time.process_time()
            run = self.trained(short, parts, method, CHOICE_SEED, rate, weight)
            error = error_of(run.model, parts.validation)
            tried.append({"rate": rate, "weight": weight, "validation_error": error})
            spent = time.process_time() - started
            self.say(f"{path.stem}: rate {rate:g}, weight {weight:g}: {100 * error:.2f} % in {spent:.0f} s")
        best = min(tried, key=lambda row: row["validation_error"])
        content = {"settings": self.settings(method, "choice"), "tried": tried, "chosen": best}
        content["seconds"] = time.process_time() - began
        record.write(path, KIND, content, device=self.device)

    def run(self, method: str, seed: int) -> None:
        """Trains once, and scores every average of that one trajectory."""
        rate, weight = self.chosen(method)
        parts = self.pool.parts(seed)
        started = time.process_time()
        run = self.trained(self.setting, parts, method, seed, rate, weight)
        networks = {"sgd": run.model, "swa": run.averaged(run.swa), "fast-swa": run.averaged(run.fast_swa)}
        if isinstance(run.method, MeanTeacher):
            networks["teacher"] = run.method.teacher
        # All by the same rows, so that averages differ in their weights alone.
        for key in ("sgd", "teacher"):
            if key in networks:
                refresh_batchnorm_(networks[key].eval(), run.trained.train_loader)
        content = {
            "settings": self.settings(method, seed),
            "rate": rate,
            "weight": weight,
            "error": {key: error_of(network, parts.test) for key, network in networks.items()},
            "validation_error": {
                key: error_of(network, parts.validation) for key, network in networks.items()
            },
            "snapshots": {"swa": run.swa.n_collected, "fast-swa": run.fast_swa.n_collected},
            "steps": run.history[-1]["step"],
            "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        }
        if self.setting.second_domain is not None:
            content["error_target_statistics"] = {
                key: self.adapted_error(network, parts) for key, network in networks.items()
            }
        content["seconds"] = time.process_time() - started
        record.write(self.path(method, seed), KIND, content, device=self.device)
        found = ", ".join(f"{key} {100 * value:.2f} %" for key, value in content["error"].items())
        self.say(f"{self.path(method, seed).stem}: {found} in {content['seconds']:.0f} s")

    def adapted_error(self, network: nn.Module, parts: Parts) -> float:
        """The test error with batch-norm statistics of the target's unlabelled rows instead of its own."""
        rows = parts.train.images[parts.train.labels == UNLABELLED]
        refresh_batchnorm_(network, list(rows.split(500)))
        return error_of(network, parts.test)

    def trained(
        self, setting: Setting, parts: Parts, method: str, seed: int, rate: float, weight: float
    ) -> SemiSupervised:
        torch.manual_seed(seed)  # dropout
        model = seeded(setting.network, parts.n_classes, seed).to(self.device)
        return train_semi_supervised(
            model,
            self.batches(setting, parts, method, seed),
            self.method(setting, model, method, seed, weight),
            epochs=setting.epochs,
            first_end=setting.first_end,
            cycle=setting.cycle,
            fast_every=setting.fast_every,
            rank=0,
            optimizer=lambda parameters: torch.optim.SGD(
                parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=setting.decay
            ),
            autocast=torch.bfloat16 if setting.bfloat16 else None,
        )

    def batches(self, setting: Setting, parts: Parts, method: str, seed: int) -> Drawn:
        """Labelled and unlabelled rows; labels alone get as many steps, of labelled rows only."""
        generator = torch.Generator().manual_seed(2_000 + seed)
        labels = parts.train.labels.cpu()
        n, m = setting.n_labelled, setting.n_unlabelled
        mixed = TwoStreamSampler.from_labels(labels, n, m, generator=generator)
        sampler: Batches = mixed
        if method == "supervised":
            sampler = Repeated(mixed.labelled, n + m, len(mixed), generator)
        return Drawn(parts.train, sampler)

    def method(self, setting: Setting, model: nn.Module, method: str, seed: int, weight: float) -> Method:
        def augment(x: Tensor, generator: torch.Generator | None) -> Tensor:
            x = shifted(x, setting.pixels, generator=generator)
            x = flipped(x, generator=generator) if setting.mirrored else x
            return noisy(x, setting.noise, generator=generator) if setting.noise else x

        generator = torch.Generator(self.device).manual_seed(3_000 + seed)
        if method == "supervised":
            return Supervised(augment=augment, generator=generator)
        consistency = Consistency(weight, setting.ramp, coupling=setting.coupling)
        if method == "pi":
            return PiModel(consistency, augment=augment, generator=generator)
        decay = setting.teacher_decay
        return MeanTeacher(model, consistency, decay=decay, augment=augment, generator=generator)

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@torch.no_grad()
def error_of(model: nn.Module, rows: Rows) -> float:
    """The part of the rows that the largest logit gets wrong."""
    with eval_mode(model):
        wrong = sum(int((model(x).argmax(1) != y).sum()) for x, y in rows.batches())
    return wrong / len(rows)
