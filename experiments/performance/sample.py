"""Drawing weights from the posterior: diagonal and rank 20, S at once.

    python -m experiments.performance --only sample

Two limits: reading what a sample is made of (K rows, mean and variance), once for all S, and writing the S
samples (memory alone); and torch's own normal numbers in place, of which a sample needs one a parameter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import swag

from .collect import RANK, _fill
from .models import MODELS
from .results import Goal, Results, Settings, Table
from .rivals import SwaGaussian, rivals
from .timing import Row, interleaved

MANY = 30
ONE, OURS = "swag, S = 1", f"swag, S = {MANY}"
BFLOAT16 = f"swag, S = {MANY}, bfloat16 rows"
COMPILED = f"swag, S = {MANY}, compiled"
BLOCK = "swa_gaussian, a z₂ for each tensor (not the posterior)"
READ, READ_ONCE = "memory alone, S = 1", f"memory alone, S = {MANY}"
NORMAL = "torch normal_ of as many numbers"
WHAT_THEY_DRAW = {"torch-uncertainty": "torch-uncertainty (a z₂ for each tensor)"}


def run(settings: Settings) -> Results:
    """Times every network."""
    results = Results("sample", settings)
    names = ["m2"] if settings.smoke else ["m1", "m2"] if settings.quick else ["m1", "m2", "m3"]
    rank = 4 if settings.smoke else RANK
    table = Table(
        f"One sample of the weights, diagonal + rank {rank}; S samples drawn together",
        names,
        limit=READ_ONCE,
        note=f"In brackets: times memory alone at S = {MANY}. Ours are counter-based: sample i of a seed "
        "is the same however many are drawn. bfloat16 rows are on the scale of the float32 ones.",
    )
    for name in names:
        _one(table, name, rank, settings, results.skipped)
    results.tables = [table]
    if "m3" in names:
        gain = table.ratio("swa_gaussian", OURS, "m3")
        results.goals = [
            Goal.above("draw", f"draws m3, eager, S = {MANY}, against swa_gaussian", gain, 10),
            Goal.above(
                "draw-fast",
                "draws m3, with a fast generator, against swa_gaussian",
                table.ratio("swa_gaussian", COMPILED, "m3"),
                50,
            ),
        ]
    return results


def _one(table: Table, name: str, rank: int, settings: Settings, skipped: list[str]) -> None:
    make = MODELS[name]
    torch.manual_seed(settings.seed)
    model = make()
    many = 2 if settings.smoke else MANY
    collector = swag.Collector(model, rank=rank)
    _fill(lambda: collector.collect(model), model, rank, settings.seed)
    posterior = collector.swag()
    halved = swag.LowRankGaussian.from_rows(
        posterior.mean,
        posterior.cov_diag,
        posterior.rows.to(torch.bfloat16),
        row_scale=posterior.row_scale,
        layout=posterior.layout,
    )
    rows: dict[str, Row | Callable[[], object]] = {
        ONE: lambda: posterior.sample(1),
        OURS: Row(lambda: posterior.sample(many), many),
        BFLOAT16: Row(lambda: halved.sample(many), many),
    }
    if not settings.smoke:
        compiled = posterior.compiled()
        rows[COMPILED] = Row(lambda: compiled.sample(many), many)
    roles = dict.fromkeys(rows, "ours")
    only = ("swa_gaussian",) if name == "m3" else ()
    for rival, own in rivals(make, rank, settings.swa_gaussian, skipped, only=only):
        _fill(rival.collect, own, rank, settings.seed)
        rows[WHAT_THEY_DRAW.get(rival.name, rival.name)] = rival.draw
        if isinstance(rival, SwaGaussian):
            rows[BLOCK] = rival.draw_blockwise
    roles |= dict.fromkeys(rows.keys() - roles.keys(), "peer")
    size = posterior.mean.numel()
    source = torch.randn((rank + 2) * size)
    numbers, target = torch.empty(size), torch.empty(many, size).zero_()
    rows[READ] = lambda: (source.sum(), target[0].fill_(1.0))
    rows[READ_ONCE] = Row(lambda: (source.sum(), target.fill_(1.0)), many)
    rows[NORMAL] = numbers.normal_
    roles |= dict.fromkeys(rows.keys() - roles.keys(), "limit")
    for label, timing in interleaved(rows, repeats=settings.repeats, seconds=30).items():
        table.add(label, roles[label], name, timing)
