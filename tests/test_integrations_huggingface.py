"""SWAG in the Hugging Face Trainer: what is collected, written, read on resume, and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("peft")

from peft import LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import swag
from swag.errors import FileError, InputError, StateError
from swag.integrations import requirements
from swag.integrations.huggingface import SWAGTrainerCallback
from swag.integrations.huggingface.plan import Plan

ROOT = Path(__file__).resolve().parent.parent


def bert(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    return BertForSequenceClassification(config)


def gpt2(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=24, n_embd=8, n_layer=2, n_head=2))


def llama(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    sizes = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, max_position_embeddings=24, **sizes))


def lora(model: nn.Module, targets: str | list[str] = "all-linear", **more: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets, **more))


def lora_bert(seed: int = 0) -> Any:
    return lora(bert(seed), ["query", "value"], modules_to_save=["classifier"])


def rows(n: int = 32, seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 20, (n, 6), generator=generator)
    return [{"input_ids": row, "labels": int(row[0] > 10)} for row in ids]


class Watch(TrainerCallback):
    """The flat weights after every step, and the rate the next step will have."""

    def __init__(self, layout: swag.Layout) -> None:
        self.layout = layout
        self.thetas: dict[int, torch.Tensor] = {}
        self.rates: dict[int, float] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates[state.global_step + 1] = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.thetas[state.global_step] = self.layout.flatten(kwargs["model"])


def trainer(
    model: nn.Module, folder: Path, callbacks: list[Any], eval_dataset: Any = None, **more: Any
) -> Trainer:
    settings: dict[str, Any] = dict(
        output_dir=str(folder),
        max_steps=12,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        logging_strategy="no",
    )
    args = TrainingArguments(**{**settings, **more})
    return Trainer(
        model=model, args=args, train_dataset=rows(), eval_dataset=eval_dataset, callbacks=callbacks
    )


def states_equal(a: swag.Collector, b: swag.Collector) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key])
        if isinstance(first[key], torch.Tensor)
        else first[key] == second[key]
        for key in first
    )


def test_snapshots_are_the_weights_after_the_planned_steps(tmp_path: Path) -> None:
    model = lora_bert()
    layout = swag.Layout.of(model)
    watch, callback = Watch(layout), SWAGTrainerCallback(rank=3, swa_start=4, every=2)
    trainer(model, tmp_path, [watch, callback], gradient_accumulation_steps=2).train()
    assert set(watch.thetas) == set(range(1, 13))  # optimizer steps, not the 24 backward passes
    taken = torch.stack([watch.thetas[step] for step in (6, 8, 10, 12)]).double()
    assert callback.collector.n_collected == 4
    torch.testing.assert_close(callback.collector.mean.double(), taken.mean(0), rtol=0, atol=1e-6)
    expected = (taken - taken.mean(0)).square().sum(0)
    torch.testing.assert_close(callback.collector.sq_dev.double(), expected, rtol=1e-3, atol=1e-10)
    assert callback.posterior.mean.numel() == layout.size


def test_only_what_trains_is_kept() -> None:
    """(2 + K) vectors over LoRA's parameters and the saved head, whatever the base model's size is."""
    model = lora_bert()
    names = swag.Layout.of(model).names
    assert all(".lora_" in name or ".modules_to_save." in name for name in names)
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    kept = swag.Collector.forecast(model, rank=5)
    assert swag.Layout.of(model).size == size < sum(p.numel() for p in model.parameters()) / 3
    assert kept.collecting >= 4 * (2 + 5) * size


def test_shares_of_all_steps_and_a_tied_head(tmp_path: Path) -> None:
    model = gpt2()
    callback = SWAGTrainerCallback(rank=2, swa_start=0.5, every=0.25)
    data = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows()]
    run = trainer(model, tmp_path, [callback])
    run.train_dataset = data
    run.train()
    assert callback.collector.n_collected == 2  # after steps 9 and 12 of 12
    names = callback.collector.layout.names
    assert "transformer.wte.weight" in names and "lm_head.weight" not in names


def test_the_rate_is_swa_lr_from_swa_start_on(tmp_path: Path) -> None:
    model = lora_bert()
    watch = Watch(swag.Layout.of(model))
    trainer(model, tmp_path, [watch, SWAGTrainerCallback(2, 6, 1, swa_lr=0.004)]).train()
    assert [watch.rates[step] for step in range(7, 13)] == [0.004] * 6
    assert watch.rates[1] == 0.01 and 0.004 < watch.rates[6] < 0.01  # the Trainer's linear decay until then


SCRIPT = """
    import os, signal, sys
    from tests.test_integrations_huggingface import *

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 8:
                os.kill(os.getpid(), signal.SIGKILL)

    callback = SWAGTrainerCallback(rank=3, swa_start=2, every=1, swa_lr=0.005)
    run = trainer(lora_bert(), Path(sys.argv[1]), [callback, Kill()], save_strategy="steps", save_steps=3,
                  save_total_limit=1)
    run.train()
"""


def test_killed_and_resumed_the_posterior_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    whole = SWAGTrainerCallback(rank=3, swa_start=2, every=1, swa_lr=0.005)
    trainer(lora_bert(), tmp_path / "whole", [whole], save_strategy="steps", save_steps=3).train()

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "run")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (left,) = (tmp_path / "run").glob("checkpoint-*")  # save_total_limit=1
    assert left.name == "checkpoint-6" and (left / "swag.safetensors").is_file()
    assert swag.load(left / "swag.safetensors").n_collected == 4

    resumed = SWAGTrainerCallback(rank=3, swa_start=2, every=1, swa_lr=0.005)
    again = trainer(
        lora_bert(), tmp_path / "run", [resumed], save_strategy="steps", save_steps=3, save_total_limit=1
    )
    again.train(resume_from_checkpoint=True)
    assert resumed.collector.n_collected == 10
    assert states_equal(resumed.collector, whole.collector)
    draws = [c.posterior.sample(2, generator=torch.Generator().manual_seed(0)) for c in (resumed, whole)]
    assert torch.equal(*draws)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-12"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints at steps 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("saved")
    callback = SWAGTrainerCallback(rank=3, swa_start=2, every=1)
    trainer(lora_bert(), folder, [callback], save_strategy="steps", save_steps=4).train()
    return folder


def test_the_state_is_json_and_the_tensors_lie_beside_it(saved: Path) -> None:
    state = json.loads((saved / "checkpoint-8" / "trainer_state.json").read_text())
    arguments = state["stateful_callbacks"]["SWAGTrainerCallback"]["args"]
    assert SWAGTrainerCallback(**arguments).state() == SWAGTrainerCallback(3, 2, 1).state()
    assert swag.load(saved / "checkpoint-8" / "swag.safetensors").n_collected == 6


def test_a_callback_that_the_trainer_replaces_goes_on(saved: Path, tmp_path: Path) -> None:
    mine = SWAGTrainerCallback(rank=3, swa_start=2, every=1)
    run = trainer(lora_bert(), tmp_path, [mine], restore_callback_states_from_checkpoint=True)
    with pytest.raises(StateError, match="no training has begun"):
        _ = mine.posterior
    # From a checkpoint outside output_dir, the callback must be told of.
    named = str(saved / "checkpoint-8")
    run.args.resume_from_checkpoint = named
    run.train(resume_from_checkpoint=named)
    used = SWAGTrainerCallback.of(run)
    assert used is not mine and used.collector.n_collected == 10
    assert states_equal(used.collector, swag.load(saved / "checkpoint-12" / "swag.safetensors"))


def test_joining_a_run_that_began_without_the_callback(tmp_path: Path) -> None:
    trainer(lora_bert(), tmp_path, [], save_strategy="steps", save_steps=4, max_steps=4).train()
    late = SWAGTrainerCallback(rank=3, swa_start=4, every=2)
    run = trainer(lora_bert(), tmp_path, [late], save_strategy="steps", save_steps=4)
    run.train(resume_from_checkpoint=True)
    assert late.collector.n_collected == 4
    too_late = trainer(lora_bert(), tmp_path, [SWAGTrainerCallback(rank=3, swa_start=1, every=2)])
    with pytest.raises(FileError, match=r"checkpoint-4/swag.safetensors: is missing.*checkpoint-12"):
        too_late.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"rank": 4}, r"rank: got 4, the run that .* had 3; resume with SWAGTrainerCallback\(rank=3"),
        ({"every": 2}, r"every: got 2, the run in .* had 1"),
        ({"swa_start": 0}, r"swa_start: got 0, the run in .* had 2"),
        ({"deviation_dtype": "bfloat16"}, r"does not fit this run .*bfloat16"),
        ({"select": ["*lora_A*"]}, r"does not fit this run"),
    ],
)
def test_a_resumed_run_must_have_the_same_settings(
    saved: Path, changed: dict[str, Any], complaint: str
) -> None:
    arguments = {"rank": 3, "swa_start": 2, "every": 1, **changed}
    run = trainer(lora_bert(), saved, [SWAGTrainerCallback(**arguments)])
    with pytest.raises(InputError, match=complaint):
        run.train(resume_from_checkpoint=str(saved / "checkpoint-8"))


def test_resuming_before_the_first_snapshot_and_for_longer(tmp_path: Path) -> None:
    """Shares of all steps mean what they meant when the run began."""
    first = SWAGTrainerCallback(rank=3, swa_start=0.5, every=0.25)
    trainer(lora_bert(), tmp_path, [first], save_strategy="steps", save_steps=2, max_steps=8).train()
    assert first.collector.n_collected == 2  # after steps 6 and 8
    again = SWAGTrainerCallback(rank=3, swa_start=0.5, every=0.25)
    run = trainer(lora_bert(), tmp_path, [again], max_steps=12)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.collector.n_collected == 4  # after steps 6, 8, 10 and 12


def test_process_zero_alone_writes_or_the_first_of_each_node(tmp_path: Path) -> None:
    callback = SWAGTrainerCallback(rank=3, swa_start=2, every=1)
    run = trainer(lora_bert(), tmp_path, [callback], max_steps=4)
    run.train()
    folder = tmp_path / "checkpoint-4"
    for of_world, on_each_node, writes in ((False, False, False), (False, True, True), (True, False, True)):
        folder.mkdir()
        run.state.is_world_process_zero, run.args.save_on_each_node = of_world, on_each_node
        callback.on_save(run.args, run.state, run.control, model=run.model)
        assert [path.name for path in folder.iterdir()] == ["swag.safetensors"] * writes
        shutil.rmtree(folder)


def test_a_search_leaves_the_files_of_an_earlier_run_alone(saved: Path) -> None:
    """Its checkpoints are in folders of their own, while checkpoint-12 beside them is another run's."""
    kept = (saved / "checkpoint-12" / "swag.safetensors").read_bytes()
    callback = SWAGTrainerCallback(rank=2, swa_start=2, every=2)
    run = trainer(lora_bert(1), saved, [callback])
    run.train()
    run.state.is_hyper_param_search = True
    callback.on_save(run.args, run.state, run.control, model=run.model)
    assert (saved / "checkpoint-12" / "swag.safetensors").read_bytes() == kept


def test_beside_evaluation_and_the_best_model(tmp_path: Path) -> None:
    """The posterior is the trajectory's, whatever is loaded in the end; the Trainer evaluates the average."""
    model = lora_bert()
    watch, callback = Watch(swag.Layout.of(model)), SWAGTrainerCallback(rank=3, swa_start=2, every=1)
    settings = {"eval_steps": 3, "save_steps": 3, "eval_strategy": "steps", "save_strategy": "steps"}
    run = trainer(
        model,
        tmp_path,
        [watch, callback],
        eval_dataset=rows(8, seed=1),
        load_best_model_at_end=True,
        save_total_limit=1,
        **settings,
    )
    run.train()
    taken = torch.stack([watch.thetas[step] for step in range(3, 13)]).mean(0)
    torch.testing.assert_close(callback.collector.mean, taken, rtol=0, atol=1e-6)
    left = {int(path.name[11:]): path for path in tmp_path.glob("checkpoint-*")}
    assert len(left) == 1
    for step, path in left.items():
        assert swag.load(path / "swag.safetensors").n_collected == step - 2
    best = callback.collector.layout.flatten(run.model)
    assert torch.equal(best, watch.thetas[int(run.state.best_model_checkpoint.rpartition("-")[2])])
    with callback.collector.applied(run.model):
        assert torch.equal(callback.collector.layout.flatten(run.model), callback.collector.mean)
        averaged = run.evaluate()["eval_loss"]
    assert averaged != run.evaluate()["eval_loss"]
    assert torch.equal(callback.collector.layout.flatten(run.model), best)


@pytest.mark.parametrize(("share", "n", "steps"), [(0.29, 100, 29), (0.57, 100, 57), (0.75, 10, 7)])
def test_shares_in_steps(share: float, n: int, steps: int) -> None:
    """0.29 · 100 is 28.999999999999996 in floats."""
    assert Plan.of(share, 1, n).start == steps
    assert Plan.of(0, share, n).every == steps


class Terminate(TrainerCallback):
    """What SIGTERM leads to after its grace period, at a given event."""

    def __init__(self, event: str) -> None:
        setattr(self, event, self.request)

    def request(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            self.manager.is_checkpoint_requested = True


@pytest.mark.parametrize("event", ["on_step_begin", "on_step_end"])
def test_a_checkpoint_made_on_sigterm_has_the_statistics_too(tmp_path: Path, event: str) -> None:
    callback, stop = SWAGTrainerCallback(rank=3, swa_start=2, every=1), Terminate(event)
    before = signal.getsignal(signal.SIGTERM)
    run = trainer(lora_bert(), tmp_path, [callback, stop], enable_jit_checkpoint=True)
    callbacks = run.callback_handler.callbacks
    stop.manager = next(c.jit_manager for c in callbacks if hasattr(c, "jit_manager"))
    run.train()
    signal.signal(signal.SIGTERM, before)
    (folder,) = tmp_path.glob("checkpoint-*")
    resumed = SWAGTrainerCallback(rank=3, swa_start=2, every=1)
    again = trainer(lora_bert(), tmp_path, [resumed])
    again.train(resume_from_checkpoint=str(folder))
    assert resumed.collector.n_collected == 10


def test_another_runs_statistics_are_refused(saved: Path, tmp_path: Path) -> None:
    callback = SWAGTrainerCallback(rank=3, swa_start=2, every=1, resume_from=str(saved / "checkpoint-4"))
    run = trainer(lora_bert(), tmp_path, [callback])
    with pytest.raises(FileError, match="belongs to other weights"):
        run.train(resume_from_checkpoint=str(saved / "checkpoint-8"))


def test_a_damaged_file_is_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "checkpoint-8", tmp_path / "checkpoint-8")
    path = tmp_path / "checkpoint-8" / "swag.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    run = trainer(lora_bert(), tmp_path, [SWAGTrainerCallback(rank=3, swa_start=2, every=1)])
    with pytest.raises(FileError, match=r"swag\.safetensors"):
        run.train(resume_from_checkpoint=True)


def test_two_callbacks_and_nothing_to_train_are_refused(tmp_path: Path) -> None:
    two = [SWAGTrainerCallback(2, 2, 1), SWAGTrainerCallback(3, 2, 1)]
    with pytest.raises(InputError, match="two SWAGTrainerCallbacks"):
        trainer(lora_bert(), tmp_path, two).train()
    same = SWAGTrainerCallback(2, 2, 1)
    with pytest.raises(InputError, match="two SWAGTrainerCallbacks"):
        trainer(lora_bert(), tmp_path, [same, same]).train()
    frozen = bert()
    frozen.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter requires a gradient"):
        SWAGTrainerCallback(2, 2, 1).on_train_begin(
            None,
            type("State", (), dict(global_step=0, max_steps=9, stateful_callbacks={}))(),
            None,
            model=frozen,
        )


class Merge(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            kwargs["model"].merge_adapter()


def test_adapters_merged_during_training_are_refused(tmp_path: Path) -> None:
    run = trainer(lora_bert(), tmp_path, [Merge(), SWAGTrainerCallback(2, 4, 1)])
    with pytest.raises(InputError, match=r"are merged into its weights.*unmerge_adapter"):
        run.train()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"rank": -1}, "rank: got -1"),
        ({"rank": 2.0}, "rank: got 2.0"),
        ({"swa_start": 1.5}, "swa_start: got 1.5"),
        ({"swa_start": -1}, "swa_start: got -1"),
        ({"every": 0}, "every: got 0"),
        ({"every": 0.0}, "every: got 0.0"),
        ({"swa_lr": -0.1}, "swa_lr: got -0.1"),
        ({"select": "lora"}, "select: got 'lora'"),
        ({"select": [print]}, "select: got"),
        ({"deviation_dtype": "no dtype"}, "deviation_dtype: got 'no dtype'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        SWAGTrainerCallback(**arguments)


def test_a_missing_or_old_framework_is_named() -> None:
    with pytest.raises(ImportError, match=r"version 99.0 or later is wanted.*swag-torch\[hf\]"):
        requirements.require("transformers", "99.0", "hf")
    code = "import sys; sys.modules['transformers'] = None; import swag.integrations.huggingface"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "transformers: " in done.stderr and 'pip install "swag-torch[hf]"' in done.stderr
