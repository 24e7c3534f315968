"""Predictions, texts and adapters of posteriors over transformers, against loops that keep everything."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")
pytest.importorskip("peft")

from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch.utils.data import DataLoader
from transformers import (
    BertForTokenClassification,
    DataCollatorWithPadding,
    GPT2ForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

import swag
from swag.errors import FileError, InputError
from swag.integrations.huggingface import (
    Generation,
    Greedy,
    Sampling,
    generate,
    next_token,
    predict,
    save_adapters,
)
from tests.test_integrations_huggingface import bert, gpt2, llama, lora, lora_bert, trainer

S = 3


def posterior_for(model: nn.Module, scale: float = 0.02, seed: int = 5) -> swag.LowRankGaussian:
    """A Gaussian around the model's trainable weights, wide enough that members differ."""
    layout = swag.Layout.of(model)
    generator = torch.Generator().manual_seed(seed)
    collector = swag.Collector.for_layout(layout, rank=3)
    theta = layout.flatten(model)
    for _ in range(4):
        collector.collect_pieces(
            [(0, layout.size, theta + scale**0.5 * torch.randn(theta.shape, generator=generator))]
        )
    return collector.swag(1.0)


def members_of(model: nn.Module, posterior: Any, seed: int = 0) -> list[dict[str, Tensor]]:
    """The weights of each sample by name."""
    thetas = posterior.sample(S, generator=torch.Generator().manual_seed(seed))
    return [posterior.layout.unflatten(theta) for theta in thetas]


@torch.no_grad()
def logits_of(model: nn.Module, weights: dict[str, Tensor], **inputs: Any) -> Tensor:
    model.eval()
    return torch.func.functional_call(model, weights, (), inputs).logits.double()


def padded(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A collator: padding on the right, with labels for each row or for each token."""
    longest = max(len(row["input_ids"]) for row in rows)

    def wide(values: Any, fill: int) -> Tensor:
        return torch.cat([torch.as_tensor(values), torch.full((longest - len(values),), fill)])

    batch = {
        "input_ids": torch.stack([wide(row["input_ids"], 0) for row in rows]),
        "attention_mask": torch.stack([wide([1] * len(row["input_ids"]), 0) for row in rows]),
    }
    if "labels" in rows[0]:
        labels = [row["labels"] for row in rows]
        batch["labels"] = (
            torch.stack([wide(row, -100) for row in labels])
            if isinstance(labels[0], list)
            else torch.tensor(labels)
        )
    return batch


def texts(lengths: tuple[int, ...] = (5, 3, 6, 2, 4), seed: int = 1) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"input_ids": torch.randint(2, 20, (n,), generator=generator).tolist(), "text": "a column more"}
        for n in lengths
    ]


def alone(row: dict[str, Any]) -> Tensor:
    return torch.tensor([row["input_ids"]])


def classifier(name: str) -> Any:
    if name == "bert":
        return lora_bert()
    config = gpt2().config
    config.pad_token_id, config.num_labels = 0, 2
    return lora(GPT2ForSequenceClassification(config), fan_in_fan_out=True, task_type="SEQ_CLS")


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_classification_is_the_mean_of_softmax_over_samples_each_row_alone(name: str) -> None:
    model = classifier(name).train()
    posterior = posterior_for(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = texts()
    found = predict(
        model, posterior, data, n_samples=S, seed=0, batch_size=2, data_collator=padded, keep_members=True
    )
    expected = torch.stack(
        [
            torch.cat([logits_of(model, weights, input_ids=alone(row)) for row in data]).softmax(1)
            for weights in members_of(model, posterior)
        ]
    )
    torch.testing.assert_close(found.member_probs.double(), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.probs.double(), expected.mean(0), rtol=0, atol=2e-6)
    assert expected.std(0).max() > 1e-3  # the members do differ
    model.train()
    again = predict(model, posterior, DataLoader(data, 2, collate_fn=padded), n_samples=S, seed=0)
    assert torch.equal(again.probs, found.probs)
    assert model.training and all(
        torch.equal(before[key], value) for key, value in model.state_dict().items()
    )


def test_a_tokenizers_padding_and_mixed_precision(tmp_path: Path) -> None:
    """After the Trainer put another forward on the object, the members still run with their own weights."""
    words = {f"w{index}": index for index in range(20)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")), pad_token="w0"
    )
    model = lora_bert()
    trainer(model, tmp_path, [], max_steps=1, bf16=True, gradient_checkpointing=True).train()
    posterior = posterior_for(model, scale=0.5)
    data = [{**row, "label": 1} for row in texts()]
    collate = DataCollatorWithPadding(tokenizer)
    found = predict(
        model, posterior, data, n_samples=S, seed=0, batch_size=2, data_collator=collate, keep_members=True
    )
    for weights, probs in zip(members_of(model, posterior), found.member_probs, strict=True):
        expected = torch.cat([logits_of(model, weights, input_ids=alone(row)) for row in data]).softmax(1)
        torch.testing.assert_close(probs.double(), expected, rtol=0, atol=5e-3)
    assert found.member_probs.std(0).max() > 0.05


def test_only_what_the_posterior_covers_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    from swag.integrations.huggingface.members import Members

    model = lora_bert()
    members = Members(model, posterior_for(model), S, 0)
    own = dict(members.module.named_parameters())
    for name, parameter in model.named_parameters():
        assert (own[name] is parameter) != parameter.requires_grad
    members.load_(1)
    assert not members.module.training


def test_token_classification_has_a_row_for_each_token_that_counts() -> None:
    config = bert().config
    config.num_labels = 3
    model = BertForTokenClassification(config)
    posterior = posterior_for(model)
    data = texts((4, 2, 3))
    found = predict(model, posterior, data, n_samples=S, seed=0, batch_size=2, data_collator=padded)
    expected = torch.stack(
        [
            torch.cat([logits_of(model, weights, input_ids=alone(row))[0] for row in data]).softmax(1)
            for weights in members_of(model, posterior)
        ]
    ).mean(0)
    torch.testing.assert_close(found.probs.double(), expected, rtol=0, atol=2e-6)
    labelled = [{**row, "labels": [-100] + [1] * (len(row["input_ids"]) - 1)} for row in data]
    fewer = predict(model, posterior, labelled, n_samples=S, seed=0, batch_size=2, data_collator=padded)
    keep = torch.cat([torch.tensor(row["labels"]) for row in labelled]) != -100
    torch.testing.assert_close(fewer.probs.double(), expected[keep], rtol=0, atol=2e-6)


def per_token(model: nn.Module, posterior: Any, data: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Log p̄ and entropies, from S·T·V numbers for each text alone."""
    columns: dict[str, list[Tensor]] = {"log_prob": [], "entropy": [], "expected_entropy": [], "row": []}
    for index, row in enumerate(data):
        ids = alone(row)
        logs = torch.stack(
            [logits_of(model, w, input_ids=ids)[0, :-1].log_softmax(1) for w in members_of(model, posterior)]
        )
        mean = logs.exp().mean(0)
        columns["log_prob"].append(mean.gather(1, ids[0, 1:, None])[:, 0].log())
        columns["entropy"].append(-(mean * mean.log()).sum(1))
        columns["expected_entropy"].append(-(logs.exp() * logs).sum(2).mean(0))
        columns["row"].append(torch.full((ids.shape[1] - 1,), index))
    return {name: torch.cat(values) for name, values in columns.items()}


@pytest.mark.parametrize("make", [gpt2, llama, lambda: lora(llama())])
@pytest.mark.parametrize("left", [False, True])
def test_each_token_of_a_text_as_if_it_were_alone(make: Any, left: bool) -> None:
    model = make()
    posterior = posterior_for(model)
    data = texts((5, 3, 6, 1, 4))

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = padded(rows)
        return (
            {name: value.flip(1) for name, value in padded([flipped(row) for row in rows]).items()}
            if left
            else batch
        )

    def flipped(row: dict[str, Any]) -> dict[str, Any]:
        return {"input_ids": row["input_ids"][::-1]}

    found = predict(model, posterior, data, n_samples=S, seed=0, batch_size=3, data_collator=collate)
    expected = per_token(model, posterior, data)
    for name in ("log_prob", "entropy", "expected_entropy"):
        torch.testing.assert_close(getattr(found, name).double(), expected[name], rtol=0, atol=1e-5)
    assert torch.equal(found.row, expected["row"]) and found.n_samples == S
    assert found.tokens.tolist() == [token for row in data for token in row["input_ids"][1:]]
    assert found.nll == pytest.approx(-expected["log_prob"].mean().item(), abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.nll))
    assert bool((found.mutual_information >= 0).all()) and found.mutual_information.max() > 1e-3


def test_labels_say_which_tokens_are_scored() -> None:
    model = gpt2()
    posterior = posterior_for(model)
    data = texts((5, 4))
    labelled = [{**row, "labels": [-100, -100, *row["input_ids"][2:]]} for row in data]
    every = predict(model, posterior, data, n_samples=S, seed=0, data_collator=padded)
    some = predict(model, posterior, labelled, n_samples=S, seed=0, data_collator=padded)
    keep = every.position >= 2
    assert torch.equal(some.position, every.position[keep])
    torch.testing.assert_close(some.log_prob, every.log_prob[keep])


def mixture_step(model: nn.Module, posterior: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Members' log-probabilities (S, V) after ids (1, T), recomputed from the start, and their mean's."""
    logs = torch.stack(
        [logits_of(model, w, input_ids=ids)[0, -1].log_softmax(0) for w in members_of(model, posterior)]
    )
    return logs, logs.exp().mean(0).log()


@pytest.mark.parametrize("make", [gpt2, llama, lambda: lora(gpt2(), fan_in_fan_out=True)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy_generation_of_a_padded_batch_is_that_of_each_prompt_without_a_cache(
    make: Any, side: str
) -> None:
    model = make()
    posterior = posterior_for(model, scale=0.05)
    prompts = [[5, 6, 7, 8], [9, 3], [11, 4, 2]]
    batch = padded([{"input_ids": p if side == "right" else p[::-1]} for p in prompts])
    if side == "left":
        batch = {name: value.flip(1) for name, value in batch.items()}
    found = generate(model, posterior, batch, max_new_tokens=5, n_samples=S, seed=0, eos_token_id=[])
    for index, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        for step in range(5):
            logs, mean = mixture_step(model, posterior, ids)
            chosen = int(mean.argmax())
            assert int(found.tokens[index, step]) == chosen
            assert float(found.log_prob[index, step]) == pytest.approx(float(mean[chosen]), abs=1e-5)
            entropy = -float((mean.exp() * mean).sum())
            expected = -float((logs.exp() * logs).sum(1).mean())
            assert float(found.entropy[index, step]) == pytest.approx(entropy, abs=1e-5)
            assert float(found.mutual_information[index, step]) == pytest.approx(entropy - expected, abs=1e-5)
            ids = torch.cat([ids, torch.tensor([[chosen]])], 1)
    whole = next_token(model, posterior, batch, n_samples=S, seed=0)
    for index, prompt in enumerate(prompts):
        _, mean = mixture_step(model, posterior, torch.tensor([prompt]))
        torch.testing.assert_close(whole.probs[index].double(), mean.exp(), rtol=0, atol=1e-6)


def test_a_model_of_one_point_generates_what_transformers_does() -> None:
    model = gpt2().eval()
    point = swag.PointMass.of(model)
    ids = torch.tensor([[5, 6, 7], [3, 9, 2]])
    theirs = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    ours = generate(model, point, ids, max_new_tokens=6, eos_token_id=[])
    assert torch.equal(ours.tokens, theirs[:, 3:])
    assert ours.n_samples == 1 and float(ours.mutual_information.max()) < 1e-6


def test_a_text_ends_with_its_end_token() -> None:
    model = gpt2()
    posterior = posterior_for(model, scale=0.05)
    prompts = torch.tensor([[5, 6], [9, 3]])

    def written(**ends: Any) -> Generation:
        return generate(
            model, posterior, prompts, max_new_tokens=8, choice=Sampling(seed=0), n_samples=S, seed=0, **ends
        )

    free = written(eos_token_id=[])
    end = int(free.tokens[0, 2])
    stop = [int((row == end).nonzero()[0]) + 1 if bool((row == end).any()) else 8 for row in free.tokens]
    assert stop[0] == 3 < stop[1]  # one text goes on beside one that has ended
    # A padding id that is no token of the model's is shown, and never read by it.
    for pad in (19, -100):
        found = written(eos_token_id=end, pad_token_id=pad)
        assert found.lengths.tolist() == stop and found.tokens.shape[1] == max(stop)
        for index, length in enumerate(stop):
            assert torch.equal(found.tokens[index, :length], free.tokens[index, :length])
            assert bool((found.tokens[index, length:] == pad).all())
            assert bool(found.entropy[index, length:].isnan().all())
            torch.testing.assert_close(found.log_prob[index, :length], free.log_prob[index, :length])


def test_a_model_without_keys_and_values_reads_everything_again() -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=8, state_size=4, num_hidden_layers=1))
    posterior = posterior_for(model, scale=0.05)
    ids = torch.tensor([[5, 6, 7]])
    found = generate(model, posterior, ids, max_new_tokens=3, n_samples=S, seed=0, eos_token_id=[])
    for step in range(3):
        _, mean = mixture_step(model, posterior, ids)
        assert int(found.tokens[0, step]) == int(mean.argmax())
        ids = torch.cat([ids, found.tokens[:, step : step + 1]], 1)


def test_sampling_draws_from_the_mixture() -> None:
    """Frequencies of the first token over 4,000 prompts alike: 5σ of a binomial count."""
    model = gpt2()
    posterior = posterior_for(model, scale=0.05)
    n = 4000
    prompts = torch.tensor([[5, 6, 7]]).expand(n, -1)
    found = generate(
        model, posterior, prompts, max_new_tokens=1, choice=Sampling(seed=3), n_samples=S, seed=0
    )
    probs = next_token(model, posterior, prompts[:1], n_samples=S, seed=0).probs[0]
    shares = found.tokens[:, 0].bincount(minlength=20) / n
    assert bool(((shares - probs).abs() < 5 * (probs * (1 - probs) / n).sqrt()).all())
    again = generate(
        model, posterior, prompts, max_new_tokens=1, choice=Sampling(seed=3), n_samples=S, seed=0
    )
    assert torch.equal(again.tokens, found.tokens)


def test_cuts_of_the_distribution() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert Sampling(top_k=2).cut(probs).nonzero()[:, 1].tolist() == [1, 3]
    assert Sampling(top_p=0.65).cut(probs).nonzero()[:, 1].tolist() == [1, 3]
    assert Sampling(top_p=0.75).cut(probs).nonzero()[:, 1].tolist() == [1, 2, 3]
    assert Sampling(top_p=0.01).cut(probs).nonzero()[:, 1].tolist() == [1]
    assert Sampling(top_k=1, top_p=1.0).cut(probs).nonzero()[:, 1].tolist() == [1]
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    for k, p in ((4, 0.6), (20, 0.6), (4, 1.0)):  # the cuts of transformers' own generate
        theirs = TopPLogitsWarper(p)(None, TopKLogitsWarper(k)(None, logits)).softmax(1)
        ours = Sampling(top_k=k, top_p=p).cut(logits.softmax(1))
        torch.testing.assert_close(ours / ours.sum(1, keepdim=True), theirs)
    for bad in ({"temperature": 0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": "x"}):
        with pytest.raises(InputError, match=next(iter(bad))):
            Sampling(**bad)


@pytest.mark.parametrize("adapter", ["default", "mine"])
def test_samples_as_adapter_folders_that_peft_loads(tmp_path: Path, adapter: str) -> None:
    config = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"])
    model = get_peft_model(bert(), config, adapter_name=adapter)
    posterior = posterior_for(model)
    paths = save_adapters(model, posterior, tmp_path / "samples", n_samples=S, seed=0)
    assert [path.name for path in paths] == ["sample_0000", "sample_0001", "sample_0002"]
    ids = torch.tensor([[5, 6, 7]])
    for path, weights in zip(paths, members_of(model, posterior), strict=True):
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {file.name for file in path.iterdir()}
        loaded = PeftModel.from_pretrained(bert(), path).eval()
        with torch.no_grad():
            theirs = loaded(input_ids=ids).logits.double()
        torch.testing.assert_close(theirs, logits_of(model, weights, input_ids=ids), rtol=0, atol=1e-6)
    assert json.loads((paths[0] / "adapter_config.json").read_text())["r"] == 2
    with pytest.raises(FileError, match="exists"):
        save_adapters(model, posterior, tmp_path / "samples")
    assert {path.name for path in tmp_path.iterdir()} == {"samples"}


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["dense"], use_dora=True, bias="lora_only"),
        LoraConfig(r=2, target_modules=["query"], trainable_token_indices={"word_embeddings": [5, 6]}),
        LoraConfig(r=2, target_modules=["query", "word_embeddings"]),
        IA3Config(target_modules=["dense"], feedforward_modules=[]),
    ],
    ids=["DoRA with biases", "new tokens", "embeddings", "IA3"],
)
def test_other_kinds_of_adapters_are_saved_too(tmp_path: Path, config: Any) -> None:
    model = get_peft_model(bert(), config)
    posterior = posterior_for(model, scale=0.5)
    paths = save_adapters(model, posterior, tmp_path / "samples", n_samples=S, seed=0)
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    found = predict(model, posterior, inputs, n_samples=S, seed=0, keep_members=True).member_probs
    assert found.std(0).max() > 1e-5
    for path, probs in zip(paths, found, strict=True):
        with torch.no_grad():
            theirs = PeftModel.from_pretrained(bert(), path).eval()(**inputs).logits.softmax(1)
        torch.testing.assert_close(theirs, probs, rtol=0, atol=1e-6)


def test_what_an_adapter_folder_cannot_hold_is_refused(tmp_path: Path) -> None:
    plain = bert()
    with pytest.raises(InputError, match="has no adapters to save"):
        save_adapters(plain, posterior_for(plain), tmp_path / "a")
    model = lora_bert()
    model.base_model.model.bert.pooler.dense.bias.requires_grad_(True)
    with pytest.raises(InputError, match=r"pooler\.dense\.bias' trained outside of the adapter"):
        save_adapters(model, posterior_for(model), tmp_path / "b", n_samples=1)
    with pytest.raises(FileError, match="writable folder"):
        save_adapters(lora_bert(), posterior_for(lora_bert()), tmp_path / "none" / "c", n_samples=1)
    prompted = get_peft_model(gpt2(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(InputError, match="prompts and prefixes cannot"):
        save_adapters(prompted, posterior_for(prompted), tmp_path / "d", n_samples=1)
    assert list(tmp_path.iterdir()) == []


def test_adapters_that_do_not_act_are_refused() -> None:
    model = lora_bert()
    posterior = posterior_for(model)
    data = texts((3, 3))
    model.merge_adapter()
    with pytest.raises(InputError, match="are merged into its weights"):
        predict(model, posterior, data, n_samples=1)
    model.unmerge_adapter()
    with model.disable_adapter(), pytest.raises(InputError, match="are disabled"):
        predict(model, posterior, data, n_samples=1)
    model.add_adapter("other", model.peft_config["default"])
    model.set_adapter("other")
    with pytest.raises(InputError, match="set_adapter"):
        predict(model, posterior, data, n_samples=1)
    model.set_adapter("default")
    assert predict(model, posterior, data, n_samples=1).n_rows == 2
    merged = model.merge_and_unload()
    with pytest.raises(InputError, match="merge_and_unload"):
        predict(merged, posterior, data, n_samples=1)


def test_of_two_adapters_both_must_act() -> None:
    model = lora(bert(), ["query", "value"])
    model.add_adapter("other", model.peft_config["default"])
    model.base_model.set_adapter(["default", "other"])
    posterior = posterior_for(model)
    data = texts((3, 3))
    assert predict(model, posterior, data, n_samples=1).n_rows == 2
    model.set_adapter("default")  # draws for the other would change nothing
    with pytest.raises(InputError, match=r"base_model\.set_adapter\(\['default', 'other'\]\)"):
        predict(model, posterior, data, n_samples=1)


def test_input_that_does_not_fit_is_refused() -> None:
    model, language = lora_bert(), gpt2()
    posterior, text = posterior_for(model), posterior_for(language)
    data = texts((3, 3))
    cases: list[tuple[Any, str]] = [
        (lambda: predict(bert(), posterior, data), "merged meanwhile"),
        (lambda: predict(language, posterior, data), "merged meanwhile"),
        (lambda: predict(llama(), text, data), "has no parameter"),
        (lambda: predict(model, posterior, data, n_samples=0), "n_samples"),
        (lambda: predict(model, posterior, []), "dataset"),
        (lambda: predict(model, posterior, 3), "dataset: got a int"),
        (lambda: predict(model, posterior, [(1, 2)]), "a row is a tuple"),
        (lambda: predict(model, posterior, [{"text": "raw"}]), "tokenize it first"),
        (lambda: predict(model, posterior, data, batch_size=0), "batch_size"),
        (lambda: predict(model, posterior, texts((3, 4))), "DataCollatorWithPadding"),
        (lambda: predict(language, text, data, keep_members=True), "keep_members"),
        (lambda: predict(model, posterior, {"input_ids": [[1, 2]]}), "'input_ids' is a list"),
        (lambda: generate(language, text, ["raw text"]), "inputs: got a list"),
        (lambda: generate(language, text, {"input_ids": [[1, 2], [3]]}), "padding=True"),
        (lambda: generate(language, text, torch.rand(1, 3)), "input_ids: .*float32"),
        (lambda: generate(language, text, {"text": "raw"}), "input_ids: .*nothing"),
        (lambda: predict(language, text, texts((1, 1))), "two tokens"),
        (lambda: predict(language, text, [{**row, "labels": 1} for row in data]), "labels: got shape"),
        (lambda: generate(model, posterior, torch.tensor([[1]])), "no causal language model"),
        (lambda: generate(language, text, torch.tensor([[1]]), max_new_tokens=0), "max_new_tokens"),
        (lambda: generate(language, text, torch.tensor([[1]]), max_new_tokens=24), "24 positions"),
        (lambda: generate(language, text, torch.tensor([[1]]), choice=Greedy), "choice"),
        (
            lambda: generate(
                language, text, {"input_ids": torch.ones(1, 2).long(), "attention_mask": torch.zeros(1, 2)}
            ),
            "a prompt has no token",
        ),
    ]
    for call, complaint in cases:
        with pytest.raises(InputError, match=complaint):
            call()
    one = bert()
    one.config.num_labels = 1
    with pytest.raises(InputError, match="regression"):
        predict(one, posterior_for(one), data)
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    with pytest.raises(InputError, match="encoder-decoder"):
        predict(t5, posterior_for(t5), data)
    prompted = get_peft_model(gpt2(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(InputError, match="virtual tokens"):
        predict(prompted, posterior_for(prompted), data, n_samples=1)
    with pytest.raises(InputError, match="batch-norm"):
        normed = bert()
        normed.extra = nn.BatchNorm1d(3)
        predict(normed, posterior_for(normed), data)
