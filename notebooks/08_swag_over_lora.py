# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # SWAG over LoRA
#
# A language model is fine-tuned by adapters: a few thousand numbers beside a large model that stays as it
# is. SWAG over *them* costs (2 + K) times the adapters, not the model, and afterwards every generated token
# comes with how much the samples disagree about it. To see what that is worth, the language here is one where
# it is known what can be known.

# %%
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging

import swag
from swag.integrations.huggingface import SWAGTrainerCallback, generate, next_token, predict, save_adapters

torch.set_num_threads(1)
torch.manual_seed(0)
logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
temporary = tempfile.TemporaryDirectory()  # gone with the kernel
folder = Path(temporary.name)

# %% [markdown]
# ## A base model that knows the alphabet
#
# Texts of twelve letters; each is the next of the alphabet (after z comes a), but one in ten is a slip of
# the pen.

# %%
LETTERS, LENGTH, SLIP = 26, 12, 0.1
generator = torch.Generator().manual_seed(0)


def texts(n, step, first, last):
    """n texts (n, 12) that go on by `step`, on the letters from `first` to `last` alone."""
    size = last - first + 1
    start = torch.randint(size, (n, 1), generator=generator)
    letters = (start + step * torch.arange(LENGTH)) % size
    slips = torch.rand(n, LENGTH, generator=generator) < SLIP
    return first + torch.where(slips, torch.randint(size, (n, LENGTH), generator=generator), letters)


def spelled(tokens):
    return "".join(chr(ord("a") + int(token)) for token in tokens)


sizes = {"n_embd": 48, "n_layer": 2, "n_head": 2, "n_positions": 24}
config = GPT2Config(vocab_size=LETTERS, eos_token_id=None, bos_token_id=None, **sizes)
base = GPT2LMHeadModel(config)
optimizer = torch.optim.AdamW(base.parameters(), lr=3e-3)
for _ in range(250):
    batch = texts(32, step=1, first=0, last=25)
    optimizer.zero_grad()
    base(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
print(spelled(texts(1, 1, 0, 25)[0]), "loss", round(base(input_ids=batch, labels=batch).loss.item(), 2))

# %% [markdown]
# ## A dialect that skips every other letter, seen in the first half of the alphabet only
#
# Fine-tuning shows it a c e g …, on the letters a to m. What should follow after n to z? Nobody has said.
# Over its second half the rate is twice the first one's peak: the adapters shall wander about, and not
# settle.

# %%
model = get_peft_model(
    base,
    LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True),
)
rows = [{"input_ids": text, "labels": text} for text in texts(400, step=2, first=0, last=12)]
callback = SWAGTrainerCallback(rank=15, swa_start=0.5, every=4, swa_lr=2e-2)
settings = {"num_train_epochs": 5, "per_device_train_batch_size": 16, "learning_rate": 1e-2}
arguments = TrainingArguments(
    str(folder / "run"),
    **settings,
    use_cpu=True,
    disable_tqdm=True,
    report_to=[],
    logging_strategy="no",
    seed=0,
)
trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[callback])
trainer.remove_callback(PrinterCallback)
_ = trainer.train()

posterior = callback.posterior
n_adapters, n_all = posterior.layout.size, sum(p.numel() for p in model.parameters())
print(f"{callback.collector.n_collected} snapshots of {n_adapters:,} of {n_all:,} parameters")
print(f"{2 + posterior.rank} vectors: {(2 + posterior.rank) * n_adapters / n_all:.1f} times the model's size")
assert n_adapters < n_all / 4
assert all("lora" in name for name in posterior.layout.names)

# %% [markdown]
# Here the model is tiny, so that the vectors weigh as much as it does. For a model of seven billion
# parameters with ten million in its adapters they are a fortieth of its numbers.
#
# ## What does it know?
#
# `predict` gives, for each token of each text, the averaged log-probability and the parts of its
# uncertainty. On the letters of the fine-tuning the samples agree, and what uncertainty there is are the
# slips. On the others, what should come next nobody has said; the dialect is taken for the answer here.

# %%
known = [{"input_ids": text} for text in texts(150, step=2, first=0, last=12)]
unknown = [{"input_ids": text} for text in texts(150, step=2, first=13, last=25)]
found = {}
for name, dataset in (("a to m", known), ("n to z", unknown)):
    token = predict(model, posterior, dataset, n_samples=20, seed=0)
    found[name] = token
    print(
        f"{name}: NLL {float(token.nll):.2f}, entropy {float(token.entropy.mean()):.2f}, "
        f"of it disagreement {float(token.mutual_information.mean()):.3f} nats"
    )
seen, unseen = found["a to m"], found["n to z"]
assert unseen.mutual_information.mean() > 3 * seen.mutual_information.mean()
assert unseen.entropy.mean() > 2 * seen.entropy.mean()
assert unseen.mutual_information.mean() < 0.2 * unseen.entropy.mean()
assert unseen.nll > 1.5 * unseen.entropy.mean()  # still too sure

# %% [markdown]
# Disagreement is several times as large where nothing was said, and entropy more than twice. But do not read
# the two parts by their names: most of the added entropy each sample has by itself, and an NLL far above the
# entropy says that all of them are too sure there. SWAG's samples lie around ONE solution; several runs
# (MultiSWAG) are the remedy to try.
#
# One network of the trajectory has no such number. And on the dialect the average predicts better than the
# last step:

# %%
last = predict(model, swag.PointMass.of(model), known)
swa = predict(model, callback.collector.swa(), known)
print(f"last step {float(last.nll):.3f}, SWA {float(swa.nll):.3f}, SWAG {float(found['a to m'].nll):.3f}")
assert seen.nll < last.nll
assert float(last.mutual_information.abs().max()) < 1e-5

# %% [markdown]
# ## Writing, with doubts
#
# `generate` goes on with a prompt from the averaged model; each sample has its own cache. Above each
# letter: how much the samples disagree about it.

# %%
prompts = {"aceg": "known", "npr": "unknown"}
disagreement = {}
for prompt, what in prompts.items():
    ids = torch.tensor([[ord(letter) - ord("a") for letter in prompt]])
    written = generate(model, posterior, ids, max_new_tokens=6, n_samples=20, seed=0)
    disagreement[what] = float(written.mutual_information.mean())
    marks = " ".join(
        f"{spelled([t])}:{float(m):.2f}"
        for t, m in zip(written.tokens[0], written.mutual_information[0], strict=True)
    )
    print(f"{prompt} → {marks}")
assert disagreement["unknown"] > disagreement["known"]

# %% [markdown]
# ## Samples as ordinary adapters
#
# Three draws as PEFT folders: any program that reads adapters can use them, without this library.

# %%
paths = save_adapters(model, posterior, folder / "samples", n_samples=3, seed=0)
print([path.name for path in paths])
fresh = GPT2LMHeadModel(config)
fresh.load_state_dict(
    {k.replace(".base_layer", ""): v for k, v in base.state_dict().items() if "lora" not in k}
)
sample = PeftModel.from_pretrained(fresh, paths[0], adapter_name="0")
for name in ("1", "2"):
    sample.load_adapter(paths[int(name)], adapter_name=name)
ids, probs = texts(4, 2, 0, 12), []
for name in ("0", "1", "2"):
    sample.set_adapter(name)
    with torch.no_grad():
        probs.append(sample.eval()(input_ids=ids).logits[:, -1].softmax(1))
averaged = next_token(model, posterior, ids, n_samples=3, seed=0).probs
assert torch.allclose(torch.stack(probs).mean(0), averaged, atol=1e-5)  # the same three draws
assert not torch.allclose(probs[0], probs[1], atol=1e-3)

# %% [markdown]
# And the run can be killed: each `checkpoint-N` of the Trainer holds the statistics beside the weights, and
# `trainer.train(resume_from_checkpoint=True)` goes on from both.

# %%
checkpoint = sorted((folder / "run").glob("checkpoint-*"))[-1]
kept = swag.load(checkpoint / "swag.safetensors")
assert torch.equal(kept.swag().mean, posterior.mean)
kept
