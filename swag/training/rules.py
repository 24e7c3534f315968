r"""Averaging rules: the share of the newest snapshot in the average.

Every rule here is one number for each n:  θ̄_n = θ̄_{n−1} + s_n·(θ_n − θ̄_{n−1}),  s_1 = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Protocol, final

from swag.errors import InputError


class Rule(Protocol):
    """How much of the average the n-th snapshot is. Its fields are numbers, so that a state can hold them."""

    name: ClassVar[str]

    def share(self, n: int) -> float:
        """s_n in (0, 1], n from 1."""


@final
@dataclass(frozen=True)
class Equal:
    """All snapshots alike: s_n = 1/n.

    >>> [Equal().share(n) for n in (1, 2, 4)]
    [1.0, 0.5, 0.25]
    """

    name: ClassVar[str] = "equal"

    def share(self, n: int) -> float:
        return 1.0 / n


@final
@dataclass(frozen=True)
class EMA:
    r"""An exponential moving average that starts at the first snapshot, as torch's:

        θ̄_n = d_n·θ̄_{n−1} + (1 − d_n)·θ_n,   θ̄_1 = θ_1

    with d_n = decay, or with a warm-up d_n = min(decay, n/(n + warmup)): early on, where the weights change
    fast, the average then covers about the last n/warmup snapshots, and the start is soon forgotten.

    Args:
        decay: in [0, 1], near 1; it averages over about 1/(1 − decay) snapshots.
        warmup: 0 for none; 9 is what other libraries have built in ((1 + k)/(10 + k), k = n − 1).

    >>> [round(EMA(0.9).share(n), 3) for n in (1, 2, 100)]
    [1.0, 0.1, 0.1]
    >>> [round(EMA(0.9, warmup=9).share(n), 3) for n in (1, 2, 100)]
    [1.0, 0.818, 0.1]
    """

    decay: float = 0.999
    warmup: float = 0.0
    name: ClassVar[str] = "ema"

    def __post_init__(self) -> None:
        _check("decay", self.decay, 0.0, 1.0)
        _check("warmup", self.warmup, 0.0, 1e12)

    def share(self, n: int) -> float:
        if n == 1:
            return 1.0
        ramp = n / (n + self.warmup) if self.warmup else 1.0
        return 1.0 - min(self.decay, ramp)


@final
@dataclass(frozen=True)
class DebiasedEMA:
    r"""An exponential moving average in which the first snapshot weighs no more than its turn:

        θ̄_n = Σ_i d^{n−i}·θ_i / Σ_i d^{n−i},   s_n = (1 − d)/(1 − d^n)

    This is Adam's bias correction: an equal average while n is well below 1/(1 − d), `EMA` after that.

    Args:
        decay: d in [0, 1).

    >>> [round(DebiasedEMA(0.9).share(n), 3) for n in (1, 2, 100)]
    [1.0, 0.526, 0.1]
    """

    decay: float = 0.999
    name: ClassVar[str] = "debiased_ema"

    def __post_init__(self) -> None:
        _check("decay", self.decay, 0.0, 1.0)
        if self.decay == 1:
            raise InputError("decay: got 1, which never averages; pass a number below 1, or use Equal()")

    def share(self, n: int) -> float:
        return (1 - self.decay) / (1 - self.decay**n)


def checked_share(rule: Rule, n: int) -> float:
    """`rule.share(n)`, which in a rule of the user's own may be anything.

    Raises:
        InputError: no number from 0 to 1, where it matters: the first snapshot is the average.
    """
    if n == 1:
        return 1.0
    share = rule.share(n)
    if not isinstance(share, Real) or isinstance(share, bool) or not 0.0 <= share <= 1.0:
        raise InputError(f"rule: {rule!r:.80} gave the share {share!r:.80} for n={n}; return one in (0, 1]")
    return float(share)


RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (Equal, EMA, DebiasedEMA)}


def _check(name: str, value: float, least: float, most: float) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{name}: got {value!r}; pass a number from {least:g} to {most:g}")
