"""Text from the averaged model, with its uncertainty token by token; every member has a cache of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.arguments import tensor_of
from swag.batches import as_tensor
from swag.errors import InputError
from swag.integrations.huggingface.adapters import base_of
from swag.integrations.huggingface.choices import Choice, Greedy
from swag.integrations.huggingface.inputs import arguments_of
from swag.integrations.huggingface.members import Members, no_grad
from swag.integrations.huggingface.predict import check_text, positions
from swag.posterior import Posterior
from swag.predictive import CategoricalPredictive
from swag.predictive.categorical import CategoricalAccumulator
from swag.progress import track


@final
@dataclass(frozen=True, eq=False, repr=False)
class Generation:
    r"""B generated texts, the end token included; L is the longest.

    Attributes:
        tokens: (B, L) ids; the padding id after a text's end.
        log_prob: (B, L) log p̄ of the token chosen, nats; NaN after the end, as all below.
        entropy: (B, L) H[p̄], nats.
        expected_entropy: (B, L) (1/S) Σ_s H[p_s], nats: the aleatoric part.
        lengths: (B,) tokens of each text.
        n_samples: S.
    """

    tokens: Tensor
    log_prob: Tensor
    entropy: Tensor
    expected_entropy: Tensor
    lengths: Tensor
    n_samples: int

    @property
    def mutual_information(self) -> Tensor:
        """H[p̄] − (1/S) Σ_s H[p_s] ≥ 0 (B, L), nats: what the members disagree about."""
        return (self.entropy - self.expected_entropy).clamp(min=0)

    def __repr__(self) -> str:
        b, n = self.tokens.shape
        return f"Generation(B={b}, L={n}, n_samples={self.n_samples})"


def generate(
    model: nn.Module,
    posterior: Posterior,
    inputs: Any,
    *,
    max_new_tokens: int = 20,
    choice: Choice | None = None,
    n_samples: int = 30,
    seed: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> Generation:
    r"""Goes on with prompts, each token chosen from p̄(x_t | x_<t) = (1/S) Σ_s p(x_t | x_<t, θ_s).

    All members read the same text; each has its own cache of keys and values (S caches in memory), so a step
    costs S forward passes of one token. Members weigh alike at every token [Malinin & Gales 2021, token-level
    ensemble]; they are not re-weighted by what they said about the tokens before.

    Args:
        model: a causal language model, or its PEFT model.
        posterior: over its parameters, or over its adapters alone.
        inputs: what a tokenizer gives, `tokenizer(texts, padding=True, return_tensors="pt")`: input_ids
            (B, T) and attention_mask, padded on either side; or input_ids alone, (B, T) or (T,).
        max_new_tokens: the most tokens for each prompt.
        choice: `Greedy()` (the default) or `Sampling(temperature, top_k, top_p, seed)`.
        n_samples: S.
        seed: of the weights.
        eos_token_id: ids that end a text; None takes the model's generation_config, [] is none.
        pad_token_id: what stands after the end; None takes generation_config's, or the end token.

    Returns:
        A `Generation` of the new tokens.

    Raises:
        InputError: an empty prompt, more tokens than the model has positions for, no causal language model,
            or a posterior that does not fit.

    Source: Malinin & Gales 2021, arXiv:2002.07650.

    >>> import swag, torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1, eos_token_id=None))
    >>> posterior = swag.PointMass.of(model)
    >>> generate(model, posterior, torch.tensor([[1, 2, 3]]), max_new_tokens=4)
    Generation(B=1, L=4, n_samples=1)
    """
    is_whole = isinstance(max_new_tokens, int | Integral) and not isinstance(max_new_tokens, bool)
    if not is_whole or max_new_tokens < 1:
        raise InputError(f"max_new_tokens: got {max_new_tokens!r}; pass an integer of at least 1")
    if isinstance(choice, type) or not isinstance(choice, Choice | None):
        raise InputError(f"choice: got {choice!r}; pass Greedy() or Sampling(temperature=…)")
    ends = _ends(model, eos_token_id)
    prompt = _Prompt.of(model, inputs, max_new_tokens)
    steps = _Steps(Members(model, posterior, n_samples, seed), arguments_of(model), prompt)
    choose = (choice or Greedy()).chooser(steps.device)
    pad = _pad(model, pad_token_id, ends)
    running = torch.ones(len(prompt.ids), dtype=torch.bool, device=steps.device)
    columns: list[list[Tensor]] = []
    nan = torch.full((len(prompt.ids),), math.nan, device=steps.device)
    with no_grad():
        for _ in track(range(max_new_tokens), "generate"):
            predictive = steps.predictive()
            chosen = choose(predictive.log_probs)
            log_prob = predictive.log_probs.gather(1, chosen[:, None])[:, 0]
            found = (log_prob, predictive.entropy, predictive.expected_entropy)
            tokens = torch.where(running, chosen, torch.full_like(chosen, pad))
            columns.append(
                [tokens, *(torch.where(running, value, nan.to(value.dtype)) for value in found), running]
            )
            if ends:
                running = running & ~torch.isin(chosen, torch.tensor(ends, device=steps.device))
            if not bool(running.any()):
                break
            # What was chosen, also after a text's end: the padding id may be no token of the model's.
            steps.append(chosen)
    tokens, log_prob, entropy, expected, was_running = (
        torch.stack([column[index] for column in columns], 1) for index in range(5)
    )
    return Generation(tokens, log_prob, entropy, expected, was_running.sum(1), steps.n_samples)


def next_token(
    model: nn.Module, posterior: Posterior, inputs: Any, *, n_samples: int = 30, seed: int | None = None
) -> CategoricalPredictive:
    """The whole averaged distribution of the token after each prompt: N prompts, C the vocabulary.

    Args:
        model: a causal language model, or its PEFT model.
        posterior: over its parameters, or over its adapters alone.
        inputs: as in `generate`.
        n_samples: S.
        seed: of the weights.

    Raises:
        InputError: as in `generate`.
    """
    prompt = _Prompt.of(model, inputs, 0)
    members = Members(model, posterior, n_samples, seed)
    with no_grad():
        return _Steps(members, arguments_of(model), prompt).predictive()


@final
@dataclass(frozen=True)
class _Prompt:
    """Prompts (B, T) that all end in the last column, and their mask."""

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, model: nn.Module, inputs: Any, n_more: int) -> _Prompt:
        base = base_of(model)
        can = getattr(base, "can_generate", None)
        if not callable(can) or not can() or getattr(base.config, "is_encoder_decoder", False):
            raise InputError(
                f"model: a {type(base).__name__} is no causal language model; pass one, such as those of "
                "AutoModelForCausalLM"
            )
        given = _tensors(inputs)
        check_text(model, given)
        ids = given["input_ids"]
        mask = given.get("attention_mask", torch.ones_like(ids)).bool()
        if mask.shape != ids.shape or not bool(mask.any(1).all()) or len(ids) == 0:
            raise InputError(
                "inputs: a prompt has no token, or its mask another shape; pass one token at least"
            )
        # A stable sort puts padding first and leaves the text in its order.
        order = mask.long().argsort(dim=1, stable=True)
        longest = int(mask.sum(1).max())
        ids, mask = (value.gather(1, order)[:, -longest:] for value in (ids, mask))
        limit = getattr(base.config, "max_position_embeddings", None)
        if isinstance(limit, int) and longest + n_more > limit:
            raise InputError(
                f"max_new_tokens: {n_more} after a prompt of {longest} tokens are more than the model's "
                f"{limit} positions; pass fewer, or shorter prompts"
            )
        return cls(ids, mask.long())


def _tensors(inputs: Any) -> dict[str, Tensor]:
    """Ids and mask (B, T) from a tokenizer's output, or from ids alone."""
    given = inputs if isinstance(inputs, Mapping) else {"input_ids": inputs}
    try:
        found = {n: tensor_of(given[n]) for n in ("input_ids", "attention_mask") if n in given}
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"inputs: got a {type(inputs).__name__} that is no tensor of token ids ({error}); pass "
            'tokenizer(texts, padding=True, return_tensors="pt")'
        ) from error
    return {name: value[None] if value.ndim == 1 else value for name, value in found.items()}


@final
class _Steps:
    """All members before the next token: each with its cache, or without one where the model has none."""

    def __init__(self, members: Members, takes: frozenset[str], prompt: _Prompt) -> None:
        self._members, self._takes, self.device = members, takes, members.device
        self._ids, self._mask = prompt.ids.to(self.device), prompt.mask.to(self.device)
        self._caches: list[Any] = [None] * len(members)

    @property
    def n_samples(self) -> int:
        return len(self._members)

    def predictive(self) -> CategoricalPredictive:
        """Reads what is new since the last call, with every member."""
        accumulator = CategoricalAccumulator()
        for index, module in enumerate(self._members.each()):
            accumulator.update(self._last_logits(index, module))
        return accumulator.compute()

    def append(self, tokens: Tensor) -> None:
        """Goes on with one token (B,) for each text."""
        self._ids = torch.cat([self._ids, tokens[:, None]], 1)
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)[:, None]], 1)

    def _last_logits(self, index: int, module: nn.Module) -> Tensor:
        cache = self._caches[index]
        new = slice(-1, None) if cache is not None else slice(None)
        arguments: dict[str, Any] = {"input_ids": self._ids[:, new], "attention_mask": self._mask}
        if "position_ids" in self._takes:
            arguments["position_ids"] = positions(self._mask)[:, new]
        if "logits_to_keep" in self._takes:
            arguments["logits_to_keep"] = 1
        if "past_key_values" in self._takes:
            arguments |= {"past_key_values": cache, "use_cache": True}
        output = module(**arguments)
        self._caches[index] = getattr(output, "past_key_values", None)
        return as_tensor(output)[:, -1]


def _ends(model: nn.Module, given: int | Sequence[int] | None) -> list[int]:
    if given is None:
        given = getattr(getattr(base_of(model), "generation_config", None), "eos_token_id", None)
    if given is None:
        return []
    return [int(token) for token in given] if isinstance(given, Iterable) else [int(given)]


def _pad(model: nn.Module, given: int | None, ends: Sequence[int]) -> int:
    if given is None:
        given = getattr(getattr(base_of(model), "generation_config", None), "pad_token_id", None)
    return int(given) if given is not None else (ends[0] if ends else 0)
