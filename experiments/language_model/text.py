"""Words as numbers, and the windows of text that are fed to a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from experiments import data

END, UNKNOWN = "<eos>", "<unk>"


@final
@dataclass(frozen=True)
class Corpus:
    """Word numbers (n,) of three texts.

    Attributes:
        vocabulary: the words that have a number; all others are read as <unk>.
        unknown: the share of test words read as <unk>.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: int
    unknown: float


def wikitext2(data_dir: Path | None, vocabulary: int) -> Corpus:
    """WikiText-2 with the `vocabulary` most frequent words of its training text."""
    return numbered(data.wikitext2(data.folder(data_dir)), vocabulary)


def made_up(vocabulary: int) -> Corpus:
    """A text in which every word says which few may follow; for a look in seconds."""
    generator = torch.Generator().manual_seed(0)
    follows = torch.randint(2 * vocabulary, (2 * vocabulary, 3), generator=generator).tolist()
    texts, word = {}, 0
    for part, n in (("train", 6_000), ("valid", 1_000), ("test", 1_000)):
        words = []
        for choice in torch.randint(3, (n,), generator=generator).tolist():
            word = follows[word][choice]
            words.append(f"w{word}")
        texts[part] = " ".join(words) + "\n"
    return numbered(texts, vocabulary)


def numbered(texts: dict[str, str], vocabulary: int) -> Corpus:
    """Words, and an <eos> for every line's end, as numbers by frequency in the training text."""
    words = {
        part: [word for line in text.splitlines() for word in [*line.split(), END]]
        for part, text in texts.items()
    }
    counts = Counter(words["train"])
    for always in (END, UNKNOWN):
        counts[always] += len(words["train"])  # they have a number, however rare
    number = {word: n for n, (word, _) in enumerate(counts.most_common(vocabulary))}
    ids = {
        part: torch.tensor([number.get(word, number[UNKNOWN]) for word in found])
        for part, found in words.items()
    }
    unknown = float((ids["test"] == number[UNKNOWN]).double().mean())
    return Corpus(ids["train"], ids["valid"], ids["test"], len(number), unknown)


@final
class Windows:
    """An epoch of training: `steps` batches of windows that begin anywhere in the text.

    Args:
        ids: (n,) the text.
        rows: windows in a batch.
        length: words predicted in each.
        steps: batches in an epoch; every pass draws others.
        seed: of the places.
    """

    def __init__(self, ids: Tensor, *, rows: int, length: int, steps: int, seed: int) -> None:
        self._ids, self._shape, self._steps = ids, (rows, 1), steps
        self._span = torch.arange(length + 1, device=ids.device)
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        last = len(self._ids) - len(self._span)
        for _ in range(self._steps):
            places = torch.randint(last + 1, self._shape, generator=self._generator)
            window = self._ids[places.to(self._ids.device) + self._span]
            yield window[:, :-1], window[:, 1:]


def held(ids: Tensor, *, length: int, rows: int) -> list[tuple[Tensor, Tensor]]:
    """Batches that predict every word once, each after `length` to 2·length − 1 words that came before it.

    Returns:
        x (rows, 2·length − 1) and the words y (rows, length) that follow its last `length` ones. The first
        `length` words, which have too little before them, are not predicted.
    """
    starts = range(0, len(ids) - 2 * length + 1, length)
    windows = torch.stack([ids[start : start + 2 * length] for start in starts])
    return [(part[:, :-1], part[:, length:]) for part in windows.split(rows)]
