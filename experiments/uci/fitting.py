"""Training the members of every problem at once: independent runs, and the curve between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from experiments.uci.network import Stack
from experiments.uci.sets import Split
from experiments.uci.training import Plan, Rows, Trajectories, descend_, train
from swag.noise import key_for
from swag.progress import track

# Streams of random numbers.
INITIAL, CURVE = 1, 2
ALL_ROWS = -1


@final
@dataclass(frozen=True)
class Problems:
    """P training sets of equal size, each with rows to be predicted.

    Attributes:
        keys: (split, fold) of each; fold `ALL_ROWS` where all of a split's training rows are fitted.
        rows: x (P, N, features), y (P, N).
        held_x: (P, M, features).
        held_y: (P, M), standardised; empty where outcomes are not to be seen here.
    """

    keys: tuple[tuple[int, int], ...]
    rows: Rows
    held_x: Tensor
    held_y: Tensor

    @classmethod
    def whole(cls, numbers: Sequence[int], splits: Sequence[Split]) -> Problems:
        """Every split with all its training rows; to be predicted are its test rows."""
        return cls(
            tuple((number, ALL_ROWS) for number in numbers),
            Rows(torch.stack([s.x for s in splits]), torch.stack([s.y for s in splits])),
            torch.stack([s.test_x for s in splits]),
            torch.empty(len(splits), 0),
        )

    @classmethod
    def validation(
        cls, numbers: Sequence[int], splits: Sequence[Split], *, n_held: int, folds: int, seed: int
    ) -> Problems:
        """Every split's TRAINING rows, cut `folds` times into rows to fit and `n_held` rows to predict.

        The held rows of a split's folds do not overlap. Test rows are not touched.
        """
        keys, parts = [], []
        for number, split in zip(numbers, splits, strict=True):
            generator = torch.Generator().manual_seed(key_for(seed, number) >> 1)
            order = torch.randperm(len(split.y), generator=generator)
            for fold in range(folds):
                held = order[fold * n_held : (fold + 1) * n_held]
                fit = torch.cat([order[: fold * n_held], order[(fold + 1) * n_held :]])
                keys.append((number, fold))
                parts.append((split.x[fit], split.y[fit], split.x[held], split.y[held]))
        x, y, held_x, held_y = (torch.stack(column) for column in zip(*parts, strict=True))
        return cls(tuple(keys), Rows(x, y), held_x, held_y)

    def __len__(self) -> int:
        return len(self.keys)


@final
@dataclass(frozen=True)
class Members:
    """M independent runs on each of P problems; run m of problem p is network p·M + m."""

    trajectories: Trajectories
    per_problem: int

    def at(self, problem: int, member: int = 0) -> int:
        """The number of a network in the stack."""
        return problem * self.per_problem + member

    def by_problem(self, theta: Tensor) -> Tensor:
        """(P, M, D) of (P·M, D)."""
        return theta.view(-1, self.per_problem, theta.shape[-1])


def fit_members(
    stack: Stack,
    problems: Problems,
    per_problem: int,
    *,
    rate: Tensor,
    weight_decay: Tensor,
    plan: Plan,
    seed: int,
    name: str,
) -> Members:
    """Independent runs, each with its own initial weights and order of batches; rate, weight_decay (P,)."""
    n = range(per_problem)
    keys = [(seed, INITIAL, split, fold, member) for split, fold in problems.keys for member in n]
    # A data set a member, since the members of a problem see its rows in different orders.
    rows = Rows(
        problems.rows.x.repeat_interleave(per_problem, 0), problems.rows.y.repeat_interleave(per_problem, 0)
    )
    trajectories = train(
        stack,
        stack.initial(keys),
        rows,
        rate=rate.repeat_interleave(per_problem),
        weight_decay=weight_decay.repeat_interleave(per_problem),
        order_of=[member for _ in problems.keys for member in n],
        plan=plan,
        seed=seed,
        name=name,
    )
    return Members(trajectories, per_problem)


def fit_candidates(
    stack: Stack,
    problems: Problems,
    candidates: Sequence[tuple[float, float]],
    *,
    plan: Plan,
    seed: int,
    name: str,
) -> Trajectories:
    """One run for every pair of rate and weight decay on each problem, all from the same initial weights."""
    rate, decay = torch.tensor(candidates).T
    keys = [(seed, INITIAL, split, fold, 0) for split, fold in problems.keys]
    return train(
        stack,
        stack.initial(keys).repeat_interleave(len(candidates), 0),
        problems.rows,
        rate=rate.repeat(len(problems)),
        weight_decay=decay.repeat(len(problems)),
        order_of=[0] * len(problems),
        plan=plan,
        seed=seed,
        name=name,
    )


def fit_bends(
    stack: Stack,
    problems: Problems,
    ends: tuple[Tensor, Tensor],
    *,
    rate: Tensor,
    weight_decay: Tensor,
    plan: Plan,
    seed: int,
) -> Tensor:
    r"""w₁ (P, D) of the quadratic curves θ(t) = (1−t)² w₀ + 2t(1−t) w₁ + t² w₂ with given ends [FGE].

    Minimises E_t loss(θ(t)) + ½ decay |θ(t)|², one t ~ U(0, 1) a batch, from the chord's middle.
    """
    first, last = ends
    bend = (first + last) / 2
    point = torch.empty_like(bend)
    generator = torch.Generator().manual_seed(key_for(seed, CURVE) >> 1)
    decay = weight_decay.unsqueeze(1)

    def gradient_(grad: Tensor, theta: Tensor, x: Tensor, y: Tensor) -> None:
        t = float(torch.rand((), generator=generator))
        torch.mul(first, (1 - t) ** 2, out=point)
        point.add_(theta, alpha=2 * t * (1 - t)).add_(last, alpha=t**2)
        stack.gradient_(grad, point, x, y)
        grad.addcmul_(point, decay).mul_(2 * t * (1 - t))

    epochs = descend_(
        bend,
        problems.rows,
        gradient_,
        rate=rate,
        weight_decay=torch.zeros_like(weight_decay),
        order_of=[0] * len(problems),
        plan=replace(plan, epochs=plan.curve_epochs),
        seed=seed,
    )
    for _ in track(epochs, "curves", total=plan.curve_epochs):
        pass
    return bend
