"""The settings of every method, by the NLL on the same validation images, with one seed kept for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from experiments.swa.methods import Methods, score
from experiments.swa.recipes import Choice, Search

TUNING_SEED = 1_000
Try = dict[str, Any]


def baseline(methods: Methods, family: str, search: Search) -> list[Try]:
    """Short cosines: every rate at the first weight decay, then the others at the best of those rates."""

    def tried(choice: Choice) -> Try:
        model = methods.cosine(family, TUNING_SEED, choice, methods.recipe.tuning_epochs)
        found = score(methods.refreshed(model), methods.split.validation)
        return _told({"method": family, "rate": choice[0], "weight_decay": choice[1], **found})

    first, *others = search.decays
    rows = [tried((rate, first)) for rate in search.rates]
    rate = best(rows)["rate"]
    return rows + [tried((rate, decay)) for decay in others]


def averages(methods: Methods, family: str, choice: Choice) -> list[Try]:
    """Whole runs: SWA at every part of the rate; for SGD FGE too, from where the best began to average."""
    recipe, began = methods.recipe, {}

    def swa(part: float) -> Try:
        result, began[part] = methods.averaging(family, TUNING_SEED, choice, part)
        ensemble = methods.swa(result, TUNING_SEED)
        return _told({"method": "swa", "part": part, **score(ensemble, methods.split.validation)})

    def fge(part: float) -> Try:
        ensemble = methods.fge(TUNING_SEED, choice, began[best(rows)["part"]], part)
        return _told({"method": "fge", "part": part, **score(ensemble, methods.split.validation)})

    rows = [swa(part) for part in recipe.swa_lr]
    parts = recipe.fge_lr if recipe.fge_cycle and family == "sgd" else ()
    return rows + [fge(part) for part in parts]


def best(rows: Sequence[Try], method: str | None = None) -> Try:
    """The lowest NLL."""
    return min((row for row in rows if method in (None, row["method"])), key=lambda row: row["nll"])


def _told(row: Try) -> Try:
    print("  " + ", ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr, flush=True)
    return row
