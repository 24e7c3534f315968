"""One seed of the experiment: fine-tuning with LoRA by the Trainer, and what each method says."""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

import swag
from experiments.lora.base import Trained
from experiments.lora.settings import Settings
from experiments.lora.task import N_CLASSES, Corpus, Rows, rows
from swag import metrics
from swag.integrations.huggingface import SWAGTrainerCallback, predict

METHODS = ("LoRA", "SWA", "SWAG", "SWAG, scale tuned", "LoRA ensemble")
Outputs = dict[str, Tensor]  # probabilities (N, C) on the "validation" and "test" rows


class Study:
    """Data, base model and settings; `seed(s)` is a unit of work."""

    def __init__(self, settings: Settings, corpus: Corpus, base: Trained) -> None:
        logging.set_verbosity_error()
        self.settings, self.base = settings, base
        task = settings.task
        # The same rows for every seed: seeds differ by adapters, batches and draws.
        parts = {
            "train": rows(corpus.train, task.train, 1),
            "validation": rows(corpus.validation, task.validation, 2),
            "test": rows(corpus.test, task.test, 3),
        }
        self.data = {
            name: examples(base.tokenizer, part, settings.base.block) for name, part in parts.items()
        }
        self.labels = {name: torch.tensor(part.labels) for name, part in parts.items()}

    def seed(self, seed: int) -> dict[str, Any]:
        """All methods' scores, and what they cost."""
        tuning, started = self.settings.tuning, time.process_time()
        found: dict[str, Outputs] = {}
        members = []
        for index in range(tuning.members):
            model, _ = self.fine_tuned(1000 * seed + index, averaged=False)
            members.append(self.point(model))
            self.say(seed, f"adapter {index + 1} of {tuning.members}", started)
        found["LoRA"] = members[0]
        found["LoRA ensemble"] = {
            part: torch.stack([member[part] for member in members]).mean(0) for part in ("validation", "test")
        }
        single = time.process_time() - started
        model, collector = self.fine_tuned(1000 * seed, averaged=True)
        assert collector is not None
        self.say(seed, "averaged adapter", started)
        found["SWA"] = self.probs(model, collector.swa(), 1)
        found["SWAG"] = self.probs(model, collector.swag(), tuning.n_samples)
        curve = {scale: self.validation_nll(model, collector.swag(scale)) for scale in tuning.scales}
        best = min(curve, key=lambda scale: curve[scale])
        found["SWAG, scale tuned"] = self.probs(model, collector.swag(best), tuning.n_samples)
        self.say(seed, f"samples, scale {best}", started)
        d, rows_kept = collector.layout.size, len(collector.deviations)
        return {
            "rows": {part: len(labels) for part, labels in self.labels.items()},
            "scores": {method: self.scores(found[method]) for method in METHODS},
            "scale": best,
            "curve": {str(scale): nll for scale, nll in curve.items()},
            "snapshots": collector.n_collected,
            "adapter_parameters": d,
            "base_parameters": sum(parameter.numel() for parameter in model.parameters()) - d,
            "swag_bytes": 4 * (2 + rows_kept) * d,
            "cpu_s": {"three_adapters": round(single, 1), "all": round(time.process_time() - started, 1)},
        }

    def fine_tuned(self, seed: int, *, averaged: bool) -> tuple[nn.Module, swag.Collector | None]:
        """A PEFT model; with a constant rate and a collector from swa_start on, or a rate that falls to 0."""
        tuning, n = self.settings.tuning, len(self.data["train"])
        steps = -(-n // tuning.batch)
        set_seed(seed)
        model = self.adapted()
        callback = SWAGTrainerCallback(
            tuning.swag_rank,
            tuning.swa_start,
            max(1, steps // tuning.snapshots_an_epoch),
            swa_lr=tuning.swa_rate,
        )
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                num_train_epochs=tuning.epochs,
                per_device_train_batch_size=tuning.batch,
                learning_rate=tuning.rate,
                warmup_steps=steps,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                seed=seed,
            )
            trainer = Trainer(
                model=model,
                args=arguments,
                train_dataset=self.data["train"],
                data_collator=self.collate,
                callbacks=[callback] if averaged else [],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return model.eval(), callback.collector if averaged else None

    def adapted(self) -> nn.Module:
        """The base model's transformer with a fresh head and fresh adapters."""
        config = GPT2Config(**{**self.base.model.config.to_dict(), "num_labels": N_CLASSES})
        model = GPT2ForSequenceClassification(config)
        model.transformer.load_state_dict(self.base.model.transformer.state_dict())
        lora = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=self.settings.tuning.rank,
            lora_alpha=2 * self.settings.tuning.rank,
            target_modules=["c_attn", "c_proj", "c_fc"],
            fan_in_fan_out=True,
        )
        return get_peft_model(model, lora)

    def point(self, model: nn.Module) -> Outputs:
        """The model as it is."""
        return self.probs(model, swag.PointMass.of(model), 1)

    def probs(self, model: nn.Module, posterior: swag.Posterior, n_samples: int) -> Outputs:
        return {part: self.predicted(model, posterior, n_samples, part) for part in ("validation", "test")}

    def validation_nll(self, model: nn.Module, posterior: swag.Posterior) -> float:
        probs = self.predicted(model, posterior, self.settings.tuning.tuning_samples, "validation")
        return metrics.nll(probs, self.labels["validation"])

    def predicted(self, model: nn.Module, posterior: swag.Posterior, n_samples: int, part: str) -> Tensor:
        found = predict(
            model,
            posterior,
            self.data[part],
            n_samples=n_samples,
            seed=0,
            batch_size=100,
            data_collator=self.collate,
        )
        assert isinstance(found, swag.CategoricalPredictive)
        return found.probs

    def scores(self, outputs: Outputs) -> dict[str, float]:
        probs, labels = outputs["test"], self.labels["test"]
        temperature = metrics.fit_temperature(outputs["validation"], self.labels["validation"])
        scaled = (probs.double().log() / temperature).softmax(1)
        return {
            "accuracy": metrics.accuracy(probs, labels),
            "nll": metrics.nll(probs, labels),
            "ece": metrics.ece(probs, labels),
            "nll_temperature": metrics.nll(scaled, labels),
        }

    def collate(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Padded on the right to the longest."""
        longest = max(len(row["input_ids"]) for row in batch)
        ids = torch.ones(len(batch), longest, dtype=torch.long)  # the id of the padding
        mask = torch.zeros_like(ids)
        for index, row in enumerate(batch):
            ids[index, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            mask[index, : len(row["input_ids"])] = 1
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.tensor([row["labels"] for row in batch]),
        }

    @staticmethod
    def say(seed: int, what: str, started: float) -> None:
        print(f"seed {seed}: {what}, {time.process_time() - started:.0f} CPU s", file=sys.stderr, flush=True)


def examples(tokenizer: Tokenizer, part: Rows, longest: int) -> list[dict[str, Any]]:
    """Rows for the Trainer."""
    found = tokenizer.encode_batch(part.texts)
    return [
        {"input_ids": text.ids[:longest], "labels": label}
        for text, label in zip(found, part.labels, strict=True)
    ]
