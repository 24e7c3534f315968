r"""What a posterior's deviations say about the run they come from: correlation, rank, spread, and warnings.

Row i is r_i = θ_i − θ̄_i with θ̄_i the mean after snapshot i, and θ̄_i = θ̄_{i−1} + r_i/(i−1), so the last k
rows give the last k snapshots around the final mean,

    θ_i − θ̄_n = r_i − Σ_{j>i} r_j/(j−1),

and everything below needs their Gram matrix (k, k) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from swag.parameters import Layout

_PIECE = 1 << 20
# Spread over size below which float32 weights differ by little more than rounding.
_COLLAPSED = 1e-6
_FEW = 10
_CORRELATED = 0.25


@final
@dataclass(frozen=True)
class Spread:
    """One parameter's spread: the root mean square of its standard deviations over that of its weights."""

    name: str
    relative_std: float


@final
@dataclass(frozen=True)
class Diagnosis:
    """What `posterior.diagnose()` finds.

    Attributes:
        n_snapshots: n, where it is known.
        n_rows: k, the deviations kept.
        autocorrelation: ρ_1, ρ_2, … between snapshots that many apart, over all weights at once.
        n_effective: the k last snapshots are worth this many independent ones; NaN below three rows.
        effective_rank: exp of the entropy of the shares of D̂D̂ᵀ's eigenvalues [Roy & Vetterli 2007].
        low_rank_share: of the total variance, in the low-rank part.
        between_share: of the total variance, between a mixture's components; 0 for others.
        relative_std: √(Σ variances) over ‖mean‖.
        layers: the same for each parameter.
        components: of a mixture.
        warnings: what looks wrong, in words; empty is good.
    """

    n_snapshots: int | None
    n_rows: int
    autocorrelation: tuple[float, ...]
    n_effective: float
    effective_rank: float
    low_rank_share: float
    between_share: float
    relative_std: float
    layers: tuple[Spread, ...]
    components: tuple[Diagnosis, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"snapshots            {'unknown' if self.n_snapshots is None else self.n_snapshots}",
            f"deviation rows       {self.n_rows}",
        ]
        if self.autocorrelation:
            shown = " ".join(f"{value:.2f}" for value in self.autocorrelation[:5])
            lines += [f"autocorrelation      {shown}  (1, 2, … snapshots apart)"]
            lines += [f"effective snapshots  {self.n_effective:.1f} of the last {self.n_rows}"]
        if self.n_rows:
            lines += [f"effective rank       {self.effective_rank:.1f}"]
        lines += [f"low-rank share       {self.low_rank_share:.0%} of the variance"]
        if self.components:
            lines += [f"between components   {self.between_share:.0%} of the variance"]
        lines += [f"std / weight norm    {self.relative_std:.2g}"]
        most = sorted(self.layers, key=lambda spread: -spread.relative_std)
        if len(most) > 1:
            lines += ["  most   " + ", ".join(f"{s.name} {s.relative_std:.2g}" for s in most[:3])]
            lines += ["  least  " + ", ".join(f"{s.name} {s.relative_std:.2g}" for s in most[-3:])]
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])


def diagnose_gaussian(
    mean: Tensor, cov_diag: Tensor, rows: Tensor, row_scale: float, layout: Layout | None, n: int | None
) -> Diagnosis:
    """The diagnosis of N(mean, diag(cov_diag) + row_scale²·rowsᵀ rows), rows (k, D) as collected."""
    k = len(rows)
    gram = torch.zeros(k, k, dtype=torch.float64, device="cpu")
    diagonal = low_rank = norm = 0.0
    layers = []
    for name, start, stop in _parts(layout, mean.numel()):
        own = own_norm = own_low_rank = 0.0
        for at in _pieces(start, stop):
            block = rows[:, at].double().cpu()
            product = block @ block.T
            gram += product
            own_low_rank += row_scale**2 * float(product.trace())
            own += float(cov_diag[at].sum(dtype=torch.float64))
            own_norm += float(mean[at].double().square().sum())
        layers.append(Spread(name, _ratio(own + own_low_rank, own_norm)))
        diagonal, low_rank, norm = diagonal + own, low_rank + own_low_rank, norm + own_norm
    total = diagonal + low_rank
    correlations = autocorrelation(snapshot_gram(gram, n if n is not None else k)) if k >= 3 else ()
    found = Diagnosis(
        n_snapshots=n,
        n_rows=k,
        autocorrelation=correlations,
        n_effective=effective_number(correlations, k),
        effective_rank=effective_rank(gram),
        low_rank_share=low_rank / total if total else 0.0,
        between_share=0.0,
        relative_std=_ratio(total, norm),
        layers=tuple(layers) if layout is not None else (),
    )
    return _with(found, warnings=tuple(_warnings(found)))


def diagnose_points(samples: Tensor, layout: Layout | None) -> Diagnosis:
    """The diagnosis of equal mass on samples (S, D), in their order."""
    n, mean = len(samples), samples.mean(0)
    gram = torch.zeros(n, n, dtype=torch.float64, device="cpu")
    layers, total, norm = [], 0.0, 0.0
    for name, start, stop in _parts(layout, mean.numel()):
        own = own_norm = 0.0
        for at in _pieces(start, stop):
            block = (samples[:, at] - mean[at]).double().cpu()
            gram += block @ block.T
            own += float(block.square().sum()) / n
            own_norm += float(mean[at].double().square().sum())
        layers.append(Spread(name, _ratio(own, own_norm)))
        total, norm = total + own, norm + own_norm
    correlations = autocorrelation(gram) if n >= 3 else ()
    found = Diagnosis(
        n_snapshots=n,
        n_rows=n,
        autocorrelation=correlations,
        n_effective=effective_number(correlations, n),
        effective_rank=effective_rank(gram),
        low_rank_share=1.0 if total else 0.0,
        between_share=0.0,
        relative_std=_ratio(total, norm),
        layers=tuple(layers) if layout is not None else (),
    )
    return _with(found, warnings=tuple(_warnings(found)) if n > 1 else ())


def diagnose_mixture(
    components: list[Diagnosis], weights: list[float], means: list[Tensor], variances: list[float]
) -> Diagnosis:
    """The diagnosis of Σ w_m p_m from its components', their means (D,) and total variances."""
    centre = sum((w * m.double() for w, m in zip(weights, means, strict=True)), torch.zeros((), device="cpu"))
    between = sum(
        w * float((m.double() - centre).square().sum()) for w, m in zip(weights, means, strict=True)
    )
    within = sum(w * v for w, v in zip(weights, variances, strict=True))
    low_rank = sum(w * v * c.low_rank_share for w, v, c in zip(weights, variances, components, strict=True))
    counts = [c.n_snapshots for c in components]
    total = within + between
    return Diagnosis(
        n_snapshots=sum(c for c in counts if c is not None) if None not in counts else None,
        n_rows=sum(c.n_rows for c in components),
        autocorrelation=(),
        n_effective=sum(c.n_effective for c in components),
        effective_rank=sum(c.effective_rank for c in components),
        low_rank_share=low_rank / total if total else 0.0,
        between_share=between / total if total else 0.0,
        relative_std=_ratio(total, float(centre.square().sum())),
        layers=(),
        components=tuple(components),
        warnings=tuple(f"component {i}: {text}" for i, c in enumerate(components) for text in c.warnings),
    )


def snapshot_gram(gram: Tensor, n: int) -> Tensor:
    """The Gram matrix (k, k) of θ_i − θ̄_n from that of the last k of n rows r_i."""
    k = len(gram)
    number = torch.arange(n - k + 1, n + 1, dtype=torch.float64, device="cpu")
    back = torch.eye(k, dtype=torch.float64, device="cpu")
    back -= torch.triu(torch.ones(k, k, dtype=torch.float64, device="cpu"), 1) / (number - 1).clamp(min=1)
    return back @ gram @ back.T


def autocorrelation(gram: Tensor) -> tuple[float, ...]:
    r"""ρ_l = Σ_i ⟨x_i, x_{i+l}⟩ / Σ_i ⟨x_i, x_i⟩ of snapshots x_i around their own mean, l = 1 … k − 1."""
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    total = float(centred.trace())
    if total <= 0:
        return ()
    return tuple(float(centred.diagonal(lag).sum()) / total for lag in range(1, len(gram)))


def effective_number(correlations: tuple[float, ...], k: int) -> float:
    r"""k / (1 + 2 Σ ρ_l), summed while pairs of neighbours stay positive [Geyer 1992]; between 1 and k."""
    if not correlations:
        return math.nan
    # Geyer's pairs are (ρ_0, ρ_1), (ρ_2, ρ_3), …
    values, total = (1.0, *correlations), 0.0
    for i in range(0, len(values) - 1, 2):
        pair = values[i] + values[i + 1]
        if pair <= 0:
            break
        total += pair
    return min(float(k), max(1.0, k / max(2 * total - 1, 1e-9)))


def effective_rank(gram: Tensor) -> float:
    """exp(−Σ p log p) with p the shares of the eigenvalues; 0 where nothing moved."""
    if len(gram) == 0:
        return 0.0
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    if float(values.sum()) == 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def _warnings(found: Diagnosis) -> Iterator[str]:
    if not found.relative_std > _COLLAPSED:
        yield (
            f"posterior collapsed: the weights spread by {found.relative_std:.1g} of their size, which is "
            "rounding; raise the learning rate while collecting, or the scale"
        )
    still = [spread.name for spread in found.layers if spread.relative_std == 0]
    if still and found.relative_std > 0:
        yield (
            f"{len(still)} of {len(found.layers)} parameters never moved ('{still[0]}', …); leave them out "
            "with select="
        )
    if found.n_snapshots is not None and found.n_snapshots < _FEW:
        yield f"fewer than {_FEW} snapshots ({found.n_snapshots}): a rough covariance; 20 and more are usual"
    if found.n_effective < _CORRELATED * found.n_rows:
        yield (
            f"steps too correlated: the last {found.n_rows} snapshots are worth {found.n_effective:.1f} "
            "independent ones; collect less often, longer, or at a higher rate"
        )


def _with(found: Diagnosis, *, warnings: tuple[str, ...]) -> Diagnosis:
    return Diagnosis(**{**vars(found), "warnings": warnings})


def _parts(layout: Layout | None, size: int) -> list[tuple[str, int, int]]:
    if layout is None:
        return [("", 0, size)]
    return [(entry.name, entry.start, entry.stop) for entry in layout.entries if entry.stop > entry.start]


def _pieces(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, _PIECE):
        yield slice(first, min(first + _PIECE, stop))


def _ratio(variance: float, square_norm: float) -> float:
    if variance == 0:
        return 0.0
    return math.sqrt(variance / square_norm) if square_norm > 0 else math.inf
