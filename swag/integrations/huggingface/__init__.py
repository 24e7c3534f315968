"""Hugging Face: SWAG in the Trainer, over a whole model or over PEFT's adapters alone.

    callback = SWAGTrainerCallback(rank=20, swa_start=0.75, every=10, swa_lr=1e-4)
    Trainer(model, args, train_dataset=…, callbacks=[callback]).train()
    predictive = predict(model, callback.posterior, test_dataset)

Collected is what trains: with LoRA, (2 + K)·d numbers for d adapter parameters. No model's class is known
here: names of parameters, the forward's signature and the shape of its logits say all.
"""

from swag.integrations.requirements import require

require("transformers", "5.0", "hf")

from swag.integrations.huggingface.callback import SWAGTrainerCallback  # noqa: E402
from swag.integrations.huggingface.choices import Greedy, Sampling  # noqa: E402
from swag.integrations.huggingface.export import save_adapters  # noqa: E402
from swag.integrations.huggingface.generation import Generation, generate, next_token  # noqa: E402
from swag.integrations.huggingface.predict import predict  # noqa: E402
from swag.integrations.huggingface.tokens import TokenPredictive  # noqa: E402

__all__ = [
    "Generation",
    "Greedy",
    "SWAGTrainerCallback",
    "Sampling",
    "TokenPredictive",
    "generate",
    "next_token",
    "predict",
    "save_adapters",
]
