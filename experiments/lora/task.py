"""Sentences of Wikipedia, half of them with words in disorder: who knows the language a little can tell.

No sentence is there twice, and training, validation and test sentences come from different articles.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from experiments import data
from experiments.lora.settings import Settings, Task

N_CLASSES = 2
_WINDOW = 3  # words; a word moves by two places at most
_TITLE = re.compile(r"^ = [^=].* = $", re.MULTILINE)


@dataclass(frozen=True)
class Rows:
    """Sentences and labels: 1 where words are in disorder."""

    texts: list[str]
    labels: list[int]


@dataclass(frozen=True)
class Corpus:
    """The base model's text, a held-out text for its perplexity, and the task's sentences."""

    text: str
    held_out: str
    train: list[str]
    validation: list[str]
    test: list[str]


def corpus(settings: Settings, data_dir: Path | None) -> Corpus:
    """WikiText-2, or a made-up language where the settings say so."""
    parts = made_up() if settings.task.data == "made up" else data.wikitext2(data.folder(data_dir))
    articles = [text for text in _TITLE.split(parts["train"]) if text.strip()]
    cut = int(settings.base.share * len(articles))
    task = settings.task
    return Corpus(
        "".join(articles[:cut]),
        parts["valid"],
        sentences("".join(articles[cut:]), task),
        sentences(parts["valid"], task),
        sentences(parts["test"], task),
    )


def sentences(text: str, task: Task) -> list[str]:
    """Sentences of a fitting length with a full stop and no more than one unknown word, each once."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        if not line.startswith(" ="):
            for sentence in re.split(r"(?<= [.?!]) ", line.strip()):
                words = sentence.split()
                fits = task.shortest <= len(words) <= task.longest and words.count("<unk>") <= 1
                if fits and words[-1] == ".":
                    found[sentence] = None
    return list(found)


def rows(found: list[str], n: int, seed: int) -> Rows:
    """n sentences by a seed, half of them in disorder, the shortest first: so batches hold little padding.

    Raises:
        SystemExit: there are fewer.
    """
    if len(found) < n:
        raise SystemExit(f"the text has {len(found)} fitting sentences, {n} are wanted; pass more text")
    source = random.Random(seed)
    chosen = [(text, index % 2) for index, text in enumerate(source.sample(found, n))]
    chosen = [(disordered(text, source) if label else text, label) for text, label in chosen]
    chosen.sort(key=lambda row: len(row[0]))
    return Rows([text for text, _ in chosen], [label for _, label in chosen])


def disordered(text: str, source: random.Random) -> str:
    """The same words but for the full stop, shuffled inside of each three that follow each other."""
    *words, stop = text.split()
    mixed = words
    while mixed == words:
        parts = [words[start : start + _WINDOW] for start in range(0, len(words), _WINDOW)]
        mixed = [word for part in parts for word in source.sample(part, len(part))]
    return " ".join([*mixed, stop])


def made_up() -> dict[str, str]:
    """Sentences of a small grammar, for trying the path without data."""
    source = random.Random(0)
    nouns = ["cat", "dog", "bird", "king", "river", "ship", "town", "song"]
    verbs = ["sees", "finds", "likes", "follows", "leaves"]
    ends = ["in the old house", "near a small river", "with the first song", "before the long war"]

    def sentence() -> str:
        who, what = source.choice(nouns), source.choice(nouns)
        return f" the {who} {source.choice(verbs)} a {what} {source.choice(ends)} .\n"

    def article(name: int) -> str:
        return f"\n = Article {name} = \n" + "".join(sentence() for _ in range(40))

    return {
        part: "".join(article(i) for i in range(n)) for part, n in (("train", 10), ("valid", 3), ("test", 3))
    }
