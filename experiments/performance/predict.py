"""The model average of m2 and m1, a sample: drawing, batch norm, predictions. The batch-norm policy is named.

    python -m experiments.performance --only predict

Whole averages of 30 samples would take a quarter of an hour, so costs are measured by parts, all in one
interleaved table, and added up: exact = pass + predictions; control variate = refresh from 128 rows +
predictions + a 30th of the one pass over all rows that 30 samples share. One whole average is run as a
check of the sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import swag

from .models import digits, jitter_, m1, m2, train_
from .results import Goal, Results, Settings, Table
from .rivals import SwaGaussian, rivals
from .timing import Row, interleaved

S = 30
BF16 = torch.bfloat16
REFERENCE = "swa_gaussian, batch norm over all rows"
SUBSET = "swa_gaussian, its subset=0.1"
REFERENCE_NONE = "swa_gaussian, no batch-norm refresh"
DTYPES: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": BF16}


@dataclass(frozen=True)
class Sizes:
    """Rows, and samples in what is timed at once."""

    bn_rows: int = 10_000
    test_rows: int = 2_000
    train_rows: int = 1_500
    error_rows: int = 1_536
    at_once: int = 8
    samples: int = S
    every: int = 1  # takes every so many pixels of an image
    whole: bool = True
    steps: int = 4  # of training between snapshots

    @classmethod
    def of(cls, settings: Settings) -> Sizes:
        if settings.smoke:
            return cls(128, 16, 64, 64, 1, 2, 4, False, 1)
        if settings.quick:
            return cls(512, 128, 640, 256, 4, 8, 1, False, 1)
        return cls()


def run(settings: Settings) -> Results:
    """m2 with batch norm, its error, and m1 without."""
    results = Results("predict", settings)
    sizes = Sizes.of(settings)
    case = _trained(settings, sizes, results.skipped)
    costs = _costs(case, sizes, settings)
    error = _error(case, sizes)
    plain = _plain(sizes, settings, results.skipped)
    results.tables = [costs, error, plain]
    results.goals = _goals(costs, error, plain)
    return results


@dataclass
class _Case:
    model: nn.Module
    posterior: swag.LowRankGaussian
    reference: SwaGaussian | None
    loader: list[tuple[Tensor, Tensor]]
    test: list[tuple[Tensor, Tensor]]

    def ensemble(
        self, n_samples: int, policy: Any, dtype: torch.dtype | None, rows: int | None = None
    ) -> Any:
        loader = self.loader if rows is None else [tuple(part[:rows] for part in self.loader[0])]
        return swag.Ensemble(
            self.model, self.posterior, n_samples, bn_loader=loader, batchnorm=policy, seed=0, autocast=dtype
        )


def _trained(settings: Settings, sizes: Sizes, skipped: list[str]) -> _Case:
    """m2, trained a little on digits; both posteriors from the same snapshots."""
    torch.manual_seed(settings.seed)
    images, labels = digits(sizes.bn_rows + sizes.test_rows, settings.seed)
    images = images[..., :: sizes.every, :: sizes.every].contiguous()
    model = m2()
    shown, named = images[: sizes.train_rows], labels[: sizes.train_rows]
    more = train_(model, shown, named, epochs=3, steps=sizes.steps, seed=settings.seed)
    rank = 4 if settings.smoke else 20
    collector = swag.Collector(model, rank=rank)
    reference, own = _reference(m2, rank, settings, skipped)
    for _ in range(rank + 1):
        more()
        collector.collect(model)
        if reference is not None and own is not None:
            own.load_state_dict(model.state_dict())
            reference.collect()
    train = (images[: sizes.bn_rows], labels[: sizes.bn_rows])
    test = (images[sizes.bn_rows :], labels[sizes.bn_rows :])
    return _Case(model, collector.swag(), reference, _batches(*train, 128), _batches(*test, 250))


def _reference(
    make: Callable[[], nn.Module], rank: int, settings: Settings, skipped: list[str]
) -> tuple[SwaGaussian | None, nn.Module | None]:
    for rival, own in rivals(make, rank, settings.swa_gaussian, skipped, only=("swa_gaussian",)):
        assert isinstance(rival, SwaGaussian)
        return rival, own
    return None, None


def _batches(images: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(size), labels.split(size), strict=True))


# --- cost ------------------------------------------------------------------------------------------------


def _costs(case: _Case, sizes: Sizes, settings: Settings) -> Table:
    exact, few, keep = (
        swag.ExactBatchNorm(),
        swag.ControlVariateBatchNorm(rows=128, fresh=False),
        swag.KeepBatchNorm(),
    )
    parts: dict[str, Row | Callable[[], object]] = {}
    if case.reference is not None:
        reference = case.reference
        parts[REFERENCE] = lambda: reference.average(case.loader, case.test)
        parts[SUBSET] = lambda: reference.average(case.loader, case.test, subset=0.1)
        parts[REFERENCE_NONE] = lambda: reference.average(None, case.test)
    n = sizes.at_once
    for dtype_name, dtype in DTYPES.items():
        parts[f"pass {dtype_name}"] = lambda d=dtype: case.ensemble(1, exact, d)
        parts[f"few {dtype_name}"] = Row(lambda d=dtype: case.ensemble(n, few, d, rows=128), n)
        built = case.ensemble(n, keep, dtype)
        parts[f"predictions {dtype_name}"] = Row(lambda e=built: e.predict(case.test), n)
        parts[f"none {dtype_name}"] = Row(lambda d=dtype: case.ensemble(n, keep, d).predict(case.test), n)
    timings = interleaved(parts, repeats=settings.repeats, seconds=200)
    table = Table(
        f"m2, one sample of {S}: draw, batch norm from {sizes.bn_rows:,} rows, {sizes.test_rows:,} "
        "predictions",
        ["ms a sample", "gain"],
        unit="",
        note="Gain: over swa_gaussian with batch norm over all rows. * : contended.",
    )
    for name in (REFERENCE, SUBSET, REFERENCE_NONE):
        if name in timings:
            _add(table, name, "peer", [timings[name]])
    for dtype_name in DTYPES:
        whole, cheap, read = (timings[f"{part} {dtype_name}"] for part in ("pass", "few", "predictions"))
        _add(table, _named("the same: exact over all rows", dtype_name), "ours", [whole, read])
        shared = f"control variate, 128 rows, its share of the pass ÷ {S}"
        _add(table, _named(shared, dtype_name), "ours", [cheap, read], (whole.median / S))
        alone = "control variate, 128 rows, without that share"
        _add(table, _named(alone, dtype_name), "ours", [cheap, read])
        _add(table, _named("no batch-norm refresh", dtype_name), "ours", [timings[f"none {dtype_name}"]])
    if sizes.whole:
        started = time.perf_counter()
        case.ensemble(S, few, None).predict(case.test)
        seconds = (time.perf_counter() - started) / S
        table.add(
            _named(f"control variate, one whole run of {S}", "float32"), "ours", "ms a sample", seconds * 1e3
        )
    return table


def _named(policy: str, dtype_name: str) -> str:
    return f"swag, {policy}, {dtype_name}"


def _add(table: Table, name: str, role: str, parts: list[Any], more: float = 0.0) -> None:
    """The sum of the parts, in milliseconds, and its gain over the reference."""
    seconds = sum(part.median for part in parts) + more
    table.add(name, role, "ms a sample", seconds * 1e3)
    table.rows[-1]["cells"]["ms a sample"]["contended"] = any(part.contended for part in parts)
    reference = table.figure(REFERENCE, "ms a sample")
    if reference is not None:
        table.add(name, role, "gain", reference / (seconds * 1e3))


# --- error -----------------------------------------------------------------------------------------------


def _error(case: _Case, sizes: Sizes) -> Table:
    """Mean and largest |Δp| of the averages against exact statistics in float32; the same weights."""
    own = _Case(case.model, case.posterior, None, case.loader[: -(-sizes.error_rows // 128)], case.test[:2])

    def probs(policy: Any, dtype: torch.dtype | None) -> Tensor:
        return own.ensemble(sizes.samples, policy, dtype).predict(own.test).probs.double()

    exact = swag.Ensemble(
        own.model, own.posterior, sizes.samples, bn_loader=own.loader, seed=0, keep_members=True
    ).predict(own.test)
    members = exact.member_probs.double()
    noise = members.std(0, correction=1) / sizes.samples**0.5
    table = Table(
        f"m2, error of the average of {sizes.samples} in probability, against exact float32 statistics over "
        f"{sizes.error_rows:,} rows",
        ["mean", "largest", "mean ÷ Monte-Carlo error"],
        unit="",
        note="The Monte-Carlo error is the standard error of the mean over members. A network trained for "
        "seconds on scikit-learn's digits; experiments/batchnorm has longer training, real data and more "
        "networks.",
    )
    rows = {
        "Monte-Carlo error": ("limit", noise),
        "swag, control variate, 128 rows, float32": (
            "ours",
            (probs(swag.ControlVariateBatchNorm(rows=128, fresh=False), None) - exact.probs).abs(),
        ),
        "swag, control variate, 128 rows, bfloat16": (
            "ours",
            (probs(swag.ControlVariateBatchNorm(rows=128, fresh=False), BF16) - exact.probs).abs(),
        ),
        "swag, exact, bfloat16": ("ours", (probs(swag.ExactBatchNorm(), BF16) - exact.probs).abs()),
        "swag, no batch-norm refresh": ("ours", (probs(swag.KeepBatchNorm(), None) - exact.probs).abs()),
    }
    for name, (role, error) in rows.items():
        table.add(name, role, "mean", error.mean().item())
        table.add(name, role, "largest", error.max().item())
        table.add(name, role, "mean ÷ Monte-Carlo error", (error.mean() / noise.mean()).item())
    return table


# --- without batch norm ----------------------------------------------------------------------------------


def _plain(sizes: Sizes, settings: Settings, skipped: list[str]) -> Table:
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    model, rank = m1(), 4 if settings.smoke else 20
    collector = swag.Collector(model, rank=rank)
    reference, own = _reference(m1, rank, settings, skipped)
    for _ in range(rank + 1):
        jitter_(model, generator)
        collector.collect(model)
        if reference is not None and own is not None:
            own.load_state_dict(model.state_dict())
            reference.collect()
    posterior, n = collector.swag(), 2 if settings.smoke else S
    rows = torch.randn(sizes.test_rows, 784, generator=generator)
    test = _batches(rows, torch.zeros(len(rows), dtype=torch.long), 250)
    calls: dict[str, Row | Callable[[], object]] = {}
    if reference is not None:
        calls["swa_gaussian"] = lambda: reference.average(None, test)

    def average(dtype: torch.dtype | None) -> object:
        return swag.Ensemble(model, posterior, n, seed=0, autocast=dtype).predict(test)

    for dtype_name, dtype in DTYPES.items():
        calls[f"swag, {dtype_name}"] = Row(lambda d=dtype: average(d), n)
    table = Table(
        f"m1, one sample of {n}: draw, {sizes.test_rows:,} predictions (no batch norm)", ["a sample"]
    )
    for name, timing in interleaved(calls, repeats=settings.repeats, seconds=60).items():
        table.add(name, "ours" if name.startswith("swag,") else "peer", "a sample", timing)
    return table


# --- goals -----------------------------------------------------------------------------------------------


def _goals(costs: Table, error: Table, plain: Table) -> list[Goal]:
    goals = []
    exact, few = "the same: exact over all rows", f"control variate, 128 rows, its share of the pass ÷ {S}"
    least = {
        "float32": {exact: 1.5, few: 12.0, "no batch-norm refresh": 1.7},
        "bfloat16": {exact: 3.0, few: 24.0, "no batch-norm refresh": 3.4},
    }
    for dtype_name, policies in least.items():
        for policy, gain in policies.items():
            base = REFERENCE_NONE if policy == "no batch-norm refresh" else REFERENCE
            found = costs.ratio(base, _named(policy, dtype_name), "ms a sample")
            key = f"average-{'exact' if policy == exact else 'few' if policy == few else 'none'}-{dtype_name}"
            goals.append(Goal.above(key, f"m2 average, {policy}, {dtype_name}, against {base}", found, gain))
        found = costs.ratio(SUBSET, _named(few, dtype_name), "ms a sample")
        goals.append(
            Goal.stated(
                "average-subset", f"m2 average, control variate, {dtype_name}, against {SUBSET}", found
            )
        )
    share = error.figure("swag, control variate, 128 rows, float32", "mean ÷ Monte-Carlo error")
    goals.append(
        Goal.below("average-error", "control variate's mean error ÷ Monte-Carlo error", share, 0.15, unit="")
    )
    for dtype_name, gain in (("float32", 4.5), ("bfloat16", 7.5)):
        found = plain.ratio("swa_gaussian", f"swag, {dtype_name}", "a sample")
        goals.append(
            Goal.above(
                f"plain-{dtype_name}",
                f"m1 average, no batch norm, {dtype_name}, against swa_gaussian",
                found,
                gain,
            )
        )
    return goals
