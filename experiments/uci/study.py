"""One group of splits from tuning to scores: all of them, and all of their members, train as one stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from experiments.uci.fits import Fits
from experiments.uci.fitting import Members, Problems, fit_candidates, fit_members
from experiments.uci.methods import METHODS
from experiments.uci.network import Stack
from experiments.uci.recipes import Recipe
from experiments.uci.scores import log_densities, score
from experiments.uci.sets import Split, Table, split
from experiments.uci.training import Trajectories
from swag.errors import StateError

# tuned[split] = {"SGD": [rate, weight decay], "SWA": […], "SWAG": […], "knobs": {method: value}}
Tuned = dict[int, dict[str, Any]]
Say = Callable[[str], None]


@final
class Study:
    """A group of splits with equal numbers of rows.

    Args:
        table: the data.
        numbers: the splits.
        methods: what is wanted.
        recipe: everything else.
        tuned: what earlier runs chose; completed in place.
        say: takes a line at every milestone.
    """

    def __init__(
        self,
        table: Table,
        numbers: Sequence[int],
        methods: Sequence[str],
        recipe: Recipe,
        tuned: Tuned,
        say: Say,
    ) -> None:
        self.numbers, self.methods, self.recipe, self.tuned, self._say = numbers, methods, recipe, tuned, say
        self.splits: list[Split] = [split(table, number) for number in numbers]
        self.stack = Stack(table.features.shape[1], recipe.hidden)
        self.families = sorted({METHODS[method].family for method in methods})
        for number in numbers:
            tuned.setdefault(number, {"knobs": {}})

    def tune(self) -> None:
        """Rate and weight decay of each family, then each method's knob, on held-out training rows.

        Every split is tuned by itself: other splits' test rows are among its training rows, and the other way
        round, so anything pooled over splits would have seen test rows.
        """
        held = self.recipe.held_rows(len(self.splits[0].y))
        problems = Problems.validation(
            self.numbers,
            self.splits,
            n_held=held,
            folds=self.recipe.usable_folds(len(self.splits[0].y)),
            seed=self.recipe.seed,
        )
        if any(family not in self.tuned[n] for n in self.numbers for family in self.families):
            self._tune_training(problems)
        knobs = [
            name
            for name in self.methods
            if METHODS[name].knob and any(name not in self.tuned[n]["knobs"] for n in self.numbers)
        ]
        if knobs:
            self._tune_knobs(problems, knobs)

    def _tune_training(self, problems: Problems) -> None:
        candidates = self.recipe.candidates
        found = fit_candidates(
            self.stack, problems, candidates, plan=self.recipe.plan, seed=self.recipe.seed, name="candidates"
        )
        shape = (len(problems), len(candidates), 1, -1)
        gains = {
            "SGD": self._validation(problems, found.last.view(shape)),
            "SWA": self._validation(problems, found.mean.view(shape)),
            "SWAG": self._swag_validation(problems, found, len(candidates)),
        }
        for family, values in gains.items():
            for number, best in zip(self.numbers, self._best(values).tolist(), strict=True):
                self.tuned[number][family] = list(candidates[best])
        self._say(
            f"tuned rate and weight decay: {len(candidates)} pairs, {len(problems)} validation problems"
        )

    def _swag_validation(self, problems: Problems, found: Trajectories, n_candidates: int) -> Tensor:
        """(P, C): of every candidate's SWAG, at the scale that serves it best."""
        gains = []
        for place, (key, x, y) in enumerate(
            zip(problems.keys, problems.held_x, problems.held_y, strict=True)
        ):
            # Problem by problem: the draws of all of them together would fill gigabytes.
            own = found.networks(slice(place * n_candidates, (place + 1) * n_candidates))
            copies = Problems(
                (key,) * n_candidates,
                problems.rows,
                x.expand(n_candidates, -1, -1),
                y.expand(n_candidates, -1),
            )
            fits = Fits(self.stack, copies, self.recipe, {"SWAG": Members(_mended(own), 1)})
            scales = torch.tensor(self.recipe.scales).expand(n_candidates, -1)
            best = self._validation(copies, METHODS["SWAG"].draw(fits, scales)).amax(1)
            bad = ~(own.mean.isfinite() & own.variance.isfinite()).all(1)
            gains.append(best.masked_fill(bad, -torch.inf))
        return torch.stack(gains)

    def _tune_knobs(self, problems: Problems, knobs: Iterable[str]) -> None:
        fits = self._fit(problems, "for validation", sorted({METHODS[name].family for name in knobs}))
        for name in knobs:
            method = METHODS[name]
            values = method.values(self.recipe)
            drawn = method.draw(fits, torch.tensor(values).expand(len(problems), -1))
            for number, best in zip(self.numbers, self._best(self._validation(problems, drawn)), strict=True):
                self.tuned[number]["knobs"][name] = values[int(best)]
            self._say(f"tuned {name}: {method.knob} of {', '.join(f'{value:g}' for value in values)}")

    def rows(self) -> Iterable[list[dict[str, Any]]]:
        """Fits all the training rows and yields, method by method, the scores of all splits."""
        problems = Problems.whole(self.numbers, self.splits)
        fits = self._fit(problems, "final", self.families)
        for name in self.methods:
            method = METHODS[name]
            values = [self.tuned[number]["knobs"].get(name, 1.0) for number in self.numbers]
            drawn = method.draw(fits, torch.tensor(values).unsqueeze(1))[:, 0]
            rows = []
            for number, part, theta, x in zip(self.numbers, self.splits, drawn, problems.held_x, strict=True):
                _check_finite(theta, name, number)
                rows.append({"method": name, "split": number, **score(*self.stack.predict(theta, x), part)})
            self._say(f"{name}: log-likelihood {sum(r['log_likelihood'] for r in rows) / len(rows):.3f}")
            yield rows

    def _fit(self, problems: Problems, name: str, families: Sequence[str]) -> Fits:
        members = {}
        settings: dict[str, tuple[Tensor, Tensor]] = {}
        for family in families:
            # A curve has two ends; nobody else takes more than one member of this family.
            n = 2 if family == "SWA" else self.recipe.members
            pairs = torch.tensor([self.tuned[number][family] for number, _ in problems.keys])
            settings[family] = pairs[:, 0], pairs[:, 1]
            members[family] = fit_members(
                self.stack,
                problems,
                n,
                rate=pairs[:, 0],
                weight_decay=pairs[:, 1],
                plan=self.recipe.plan,
                seed=self.recipe.seed,
                name=f"{name}: {family}",
            )
            self._say(f"trained {name}: {len(problems)} × {n} networks ({family})")
        return Fits(self.stack, problems, self.recipe, members, settings.get("SWA"))

    def _validation(self, problems: Problems, theta: Tensor) -> Tensor:
        """Mean log-likelihood of the held rows (P, V) under networks (P, V, S, D), standardised units."""
        found = []
        for networks, x, y in zip(theta, problems.held_x, problems.held_y, strict=True):
            mean, variance = self.stack.predict(networks.reshape(-1, self.stack.size), x)
            shape = (*networks.shape[:2], -1)
            found.append(log_densities(mean.view(shape), variance.view(shape), y).mean(1))
        # A run that diverged is never the best.
        return torch.stack(found).nan_to_num(nan=-torch.inf)

    def _best(self, gains: Tensor) -> Tensor:
        """Each split's best column (splits,) of gains (P, V), summed over its folds."""
        return gains.view(len(self.numbers), -1, gains.shape[1]).sum(1).argmax(1)


def _mended(found: Trajectories) -> Trajectories:
    """Runs that diverged with zeros in place of what is not finite: they are not chosen, but can be drawn."""
    parts = (found.last, found.mean, found.variance, found.deviations)
    return Trajectories(*(part.nan_to_num(0.0, 0.0, 0.0) for part in parts), n_collected=found.n_collected)


def _check_finite(theta: Tensor, method: str, number: int) -> None:
    if not bool(theta.isfinite().all()):
        raise StateError(
            f"{method}: a network of split {number} diverged, although its rate did not on validation rows; "
            "lower the recipe's rates"
        )
