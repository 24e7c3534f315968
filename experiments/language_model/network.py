"""A language model of one LSTM layer whose output weights are its word vectors."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@final
class LanguageModel(nn.Module):
    """logits = E h_t + b with word vectors E (V, width), h the LSTM's outputs from a state of zeros.

    Args:
        vocabulary: V.
        width: of the word vectors and of the LSTM.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.uniform_(self.words.weight, -0.1, 0.1)

    def forward(self, x: Tensor, last: int) -> Tensor:
        """Logits (rows·last, V) of the words after each of the last `last` words of x (rows, length)."""
        hidden, _ = self.lstm(self.words(x))
        return F.linear(hidden[:, -last:].flatten(0, 1), self.words.weight, self.bias)


def word_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """−log p (rows·length,) of the words y of a batch (x, y): a network's whole output, as seen from outside.

    So nothing of the size of the vocabulary outlives a batch of one member.
    """
    x, y = batch
    device = next(model.parameters()).device
    return F.cross_entropy(model(x.to(device), y.shape[1]), y.to(device).flatten(), reduction="none")
