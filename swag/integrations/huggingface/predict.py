"""A data set through all members: sequence and token classification, and the tokens of texts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from swag.batches import as_tensor, length
from swag.errors import InputError
from swag.integrations.huggingface.adapters import base_of, prompt_learning
from swag.integrations.huggingface.inputs import Collator, arguments_of, batches_of, split_labels
from swag.integrations.huggingface.members import Members, no_grad
from swag.integrations.huggingface.tokens import TokenAccumulator, TokenPredictive
from swag.posterior import Posterior
from swag.predictive import CategoricalPredictive
from swag.predictive.categorical import CategoricalAccumulator
from swag.progress import track

IGNORED = -100


def predict(
    model: nn.Module,
    posterior: Posterior,
    dataset: Any,
    *,
    n_samples: int = 30,
    seed: int | None = None,
    batch_size: int = 8,
    data_collator: Collator | None = None,
    keep_members: bool = False,
    autocast: torch.dtype | None = None,
) -> CategoricalPredictive | TokenPredictive:
    r"""The model average over a data set, p̄ = (1/S) Σ_s p(· | θ_s), θ_s ~ posterior.

    What comes back follows from the model's head:

    - logits (B, C), sequence classification: a `CategoricalPredictive` with a row for each of the data set's;
    - logits (B, T, C), token classification: a `CategoricalPredictive` with a row for each token whose label
      is not −100, or, without labels, whose attention mask is 1; text after text;
    - a causal language model: a `TokenPredictive` with log p̄ and entropies of each token from its text's
      second on, as long as it and the one before are not masked (nor its label −100). Members are averaged
      while they stream: S·B·T·V numbers are never there, B·T·V are.

    The model is not touched, and its parameters that the posterior leaves out are shared, not copied. The S
    weight vectors are drawn at once (S·d numbers). One pass over the data serves all members.

    Args:
        model: the model, or the PEFT model, that the posterior belongs to.
        posterior: `callback.posterior`, or any posterior whose layout names the model's parameters.
        dataset: rows as dicts (a list, torch's or datasets' Dataset), a DataLoader of dict batches, or one
            batch as a dict. Columns that the model's forward does not take are left out, as the Trainer does.
        n_samples: S.
        seed: of the draws.
        batch_size: rows in a batch; a DataLoader has its own.
        data_collator: as in the Trainer, e.g. `DataCollatorWithPadding(tokenizer)`.
        keep_members: keep each member's probabilities (S·N·C floats; classification only).
        autocast: run members under `torch.autocast` with this dtype (torch.bfloat16).

    Returns:
        See above; on the model's device.

    Raises:
        InputError: a posterior for another model, adapters merged or inactive, rows that do not fit, or a
            head that is no classifier (regression, multi-label: `swag.Ensemble` takes likelihoods).

    Source: Wilson & Izmailov 2020, arXiv:2002.08791.

    >>> import swag, torch
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    >>> model = BertForSequenceClassification(config)
    >>> posterior = swag.PointMass.of(model)
    >>> predict(model, posterior, [{"input_ids": [5, 6, 7], "text": "never seen"}] * 2)
    CategoricalPredictive(N=2, C=2, n_samples=1)
    """
    base = base_of(model)
    _check_head(base)
    members = Members(model, posterior, n_samples, seed)
    batches = batches_of(model, dataset, batch_size, data_collator)
    is_language_model = _can_generate(base)
    if is_language_model and keep_members:
        raise InputError("keep_members: S whole distributions for each token are not kept; leave it out")
    parts: list[Any] = []
    n_rows = 0
    runner = _Runner(members, arguments_of(model), autocast)
    with no_grad():
        for batch in track(batches, "predict", total=length(batches)):
            inputs, labels = split_labels(batch, members.device)
            if is_language_model:
                check_text(model, inputs)
                parts.append(runner.texts(inputs, labels, n_rows))
                n_rows += len(inputs["input_ids"])
            else:
                parts.append(runner.classes(inputs, labels, keep_members))
    parts = [part for part in parts if part is not None]
    if not parts:
        raise InputError("dataset: gave nothing to predict; pass rows, and texts of two tokens or more")
    return type(parts[0]).concatenate(parts)


class _Runner:
    """Members on a batch."""

    def __init__(self, members: Members, takes: frozenset[str], autocast: torch.dtype | None) -> None:
        self._members, self._takes, self._autocast = members, takes, autocast

    def classes(
        self, inputs: dict[str, Any], labels: Tensor | None, keep_members: bool
    ) -> CategoricalPredictive | None:
        accumulator = CategoricalAccumulator(keep_members=keep_members)
        kept: Tensor | None = None
        for module in self._members.each():
            logits = self._logits(module, inputs)
            if logits.ndim == 3:
                if kept is None:
                    kept = _kept_tokens(logits, inputs, labels)
                logits = logits[kept]
            if logits.shape[0] == 0:
                return None
            accumulator.update(logits)
        return accumulator.compute()

    def texts(self, inputs: dict[str, Any], labels: Tensor | None, first_row: int) -> TokenPredictive | None:
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask", torch.ones_like(ids)).bool()
        # Token t is predicted at t − 1: both must be text.
        scored = mask[:, 1:] & mask[:, :-1]
        targets = ids[:, 1:]
        if labels is not None:
            if labels.shape != ids.shape:
                raise InputError(
                    f"labels: got shape {tuple(labels.shape)} for texts {tuple(ids.shape)}; pass a label for "
                    "each token (the ids, −100 where none counts), or leave them out"
                )
            scored, targets = scored & (labels[:, 1:] != IGNORED), labels[:, 1:]
        row, position = scored.nonzero(as_tuple=True)
        if len(row) == 0:
            return None
        accumulator = TokenAccumulator(targets[row, position])
        inputs = with_positions(inputs, self._takes)
        for module in self._members.each():
            accumulator.update(self._logits(module, inputs)[row, position])
        return accumulator.compute(row + first_row, position + 1)

    def _logits(self, module: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        more = {"use_cache": False} if "use_cache" in self._takes else {}
        with self._casting():
            return as_tensor(module(**inputs, **more))

    def _casting(self) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._members.device.type, dtype=self._autocast)


def with_positions(inputs: dict[str, Any], takes: frozenset[str]) -> dict[str, Any]:
    """The arguments with positions that count from each text's first token, where padding comes before it."""
    mask = inputs.get("attention_mask")
    if mask is None or "position_ids" not in takes or "position_ids" in inputs:
        return inputs
    return {**inputs, "position_ids": positions(mask)}


def positions(mask: Tensor) -> Tensor:
    """0, 1, 2, … from the first 1 of a mask (B, T) on; 0 before it."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def check_text(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Raises InputError where these inputs are no texts for a causal language model."""
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        raise InputError(
            "input_ids: a language model is fed by whole numbers (B, T); got "
            + (
                f"{ids.dtype}, shape {tuple(ids.shape)}"
                if isinstance(ids, Tensor)
                else f"{', '.join(map(repr, inputs)) or 'nothing'}"
            )
            + '; pass tokenizer(texts, padding=True, return_tensors="pt")'
        )
    if prompt_learning(model):
        raise InputError(
            "model: prompt and prefix tuning put virtual tokens before the text; such a language model is "
            "not supported here: use LoRA"
        )


def _check_head(base: nn.Module) -> None:
    config = getattr(base, "config", None)
    problem = getattr(config, "problem_type", None)
    if problem in ("regression", "multi_label_classification") or (
        getattr(config, "num_labels", None) == 1 and not _can_generate(base)
    ):
        raise InputError(
            f"model: its head is for {problem or 'one number'}, not for classes; use swag.Ensemble(model, "
            "posterior, likelihood=swag.HomoscedasticGaussian(variance)) for a regression"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            "model: encoder-decoder models are not supported here; use swag.Ensemble with forward="
        )


def _can_generate(base: nn.Module) -> bool:
    can = getattr(base, "can_generate", None)
    return bool(can()) if callable(can) else False


def _kept_tokens(logits: Tensor, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
    """Which tokens (B, T) count."""
    if labels is not None and labels.shape == logits.shape[:2]:
        return labels != IGNORED
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == logits.shape[:2]:
        return mask.bool()
    return logits.new_ones(logits.shape[:2], dtype=torch.bool)
