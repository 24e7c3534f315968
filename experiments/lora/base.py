"""The base model: a byte-level BPE vocabulary and a small GPT-2, trained once and kept in one file."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.lora.settings import Base
from swag.atomic import replacing

UNKNOWN, PAD = "<unk>", "<pad>"


@dataclass(frozen=True)
class Trained:
    """Tokenizer, weights, and how it went."""

    tokenizer: Tokenizer
    model: GPT2LMHeadModel
    perplexity: float
    tokens: int
    cpu_s: float


def base(settings: Base, text: str, held_out: str, path: Path) -> Trained:
    """The model in `path`, or a new one, then kept there."""
    if path.exists():
        with safe_open(path, "pt") as file:
            kept = file.metadata()
            if kept.get("settings") == json.dumps(asdict(settings)):
                found_names = file.keys()
                tokenizer, model = Tokenizer.from_str(kept["tokenizer"]), network(settings)
                model.load_state_dict({name: file.get_tensor(name) for name in found_names}, strict=False)
                model.tie_weights()
                found = json.loads(kept["found"])
                return Trained(tokenizer, model, **found)
    started = time.process_time()
    tokenizer = vocabulary(settings, text)
    ids = encoded(tokenizer, text)
    model = trained(settings, ids)
    found = {
        "perplexity": perplexity(model, encoded(tokenizer, held_out), settings),
        "tokens": settings.steps * settings.batch * settings.block,
        "cpu_s": round(time.process_time() - started, 1),
    }
    print(f"base model: {found}", file=sys.stderr, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "settings": json.dumps(asdict(settings)),
        "tokenizer": tokenizer.to_str(),
        "found": json.dumps(found),
    }
    weights = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata)
    return Trained(tokenizer, model, **found)


def vocabulary(settings: Base, text: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[UNKNOWN, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    return tokenizer


def network(settings: Base) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_positions=settings.block,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=1,
    )
    return GPT2LMHeadModel(config)


def encoded(tokenizer: Tokenizer, text: str) -> Tensor:
    """One row of ids (n,)."""
    lines = tokenizer.encode_batch([line for line in text.splitlines() if line.strip()])
    return torch.tensor([token for line in lines for token in line.ids])


def trained(settings: Base, ids: Tensor) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = network(settings).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, settings.steps, pct_start=0.1)
    started = time.perf_counter()
    for step in range(settings.steps):
        starts = torch.randint(len(ids) - settings.block, (settings.batch,), generator=generator)
        rows = torch.stack([ids[start : start + settings.block] for start in starts.tolist()])
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            seconds = time.perf_counter() - started
            print(f"base step {step}: loss {loss.item():.3f}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return model.eval()


@torch.no_grad()
def perplexity(model: GPT2LMHeadModel, ids: Tensor, settings: Base, n_rows: int = 256) -> float:
    """e^loss on windows of a text one after the other."""
    n = min(n_rows, len(ids) // settings.block)
    rows = ids[: n * settings.block].view(n, settings.block)
    losses = [model(input_ids=part, labels=part).loss.item() * len(part) for part in rows.split(32)]
    return math.exp(sum(losses) / n)
