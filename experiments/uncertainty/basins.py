"""One basin against several: what averaging more networks buys, near together and far apart.

On Fashion-MNIST from the networks that the groups of seeds trained, and in one dimension where the posterior
is known (toy.py). Read out of kept networks; nothing of the images' part is trained here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import swag
from experiments import record
from experiments.record import markdown
from experiments.uncertainty import toy
from experiments.uncertainty.methods import Group

if TYPE_CHECKING:
    from experiments.uncertainty.study import Study

BASINS = "uncertainty basins"
TEST_ROWS = 5_000
PER_MEMBER = 3


def run(study: Study, groups: Sequence[int], *, quick: bool = False) -> None:
    """Both parts into one file; nothing where it is there."""
    path = study.out / "basins.json"
    settings = study.settings | {"groups": list(groups)}
    if record.done(path, BASINS, settings):
        return
    with study.timed("basins") as clock:
        known = toy.compare(toy.QUICK) if quick else toy.compare(toy.Effort())
        content = {"settings": settings, "toy": known, "images": images(study, groups)}
    record.write(path, BASINS, content, device=study.device)
    study.say(f"basins in {clock['cpu']:.0f} CPU s")


def images(study: Study, groups: Sequence[int]) -> dict[str, Any]:
    """NLL and ECE on test images by the number of networks averaged, at most PER_MEMBER a trajectory.

    One basin: of each group's first trajectory. Several: of the trajectories of all groups together, in as
    many orders as there are groups, each beginning with another group's.
    """
    task = study.tasks["ten"]
    each = [Group(study, task, study.members(index)) for index in groups]
    test, labels = task.test.images[:TEST_ROWS], task.test.labels[:TEST_ROWS]
    total = PER_MEMBER * study.recipe.members * len(each)

    def members(group: Group, posterior: swag.Posterior, n: int) -> Tensor:
        """Probabilities (n, N, C) of members, in the order of the draws."""
        ensemble = swag.Ensemble(
            group.model, posterior, n, bn_loader=task.train.batches(), seed=group.seeds[0], keep_members=True
        )
        return ensemble.predict(test.split(1000)).member_probs

    found: dict[str, list[Tensor]] = {}
    found["SWAG, one basin"] = [members(g, g.swag(0), total) for g in each]
    found["mean-field VI, one basin"] = [members(g, g.vi(), total) for g in each]
    several: dict[str, list[Tensor]] = {
        "deep ensemble": [members(g, g.sgd(m), 1) for g in each for m in range(len(g.seeds))],
        "MultiSWA": [members(g, g.collector(m).swa(), 1) for g in each for m in range(len(g.seeds))],
        "MultiSWAG": [members(g, g.swag(m), PER_MEMBER) for g in each for m in range(len(g.seeds))],
    }
    for name, parts in several.items():
        found[name] = [
            torch.cat([round_of for turn in range(len(parts[0])) for round_of in turned(parts, start, turn)])
            for start in range(0, len(parts), study.recipe.members)
        ]
    counts = [k for k in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 18, 21, 24, 27) if k <= total]
    rows = []
    for name, runs in found.items():
        fitting = [k for k in counts if k <= len(runs[0])]
        averages = [[run[:k].mean(0) for k in fitting] for run in runs]
        rows.append(
            {
                "method": name,
                "networks": fitting,
                "nll": [[swag.metrics.nll(p, labels) for p in of] for of in averages],
                "ece": [[swag.metrics.ece(p, labels) for p in of] for of in averages],
            }
        )
    return {"test rows": len(labels), "rows": rows}


def turned(parts: list[Tensor], start: int, turn: int) -> list[Tensor]:
    """Network `turn` of every trajectory, the trajectories from `start` on and then those before."""
    return [parts[(start + i) % len(parts)][turn : turn + 1] for i in range(len(parts))]


def table(content: dict[str, Any]) -> str:
    """By the number of networks averaged: NLL on the images, distance to HMC in one dimension."""
    shown = (1, 3, 9, 27)
    lines = []
    for row in content["images"]["rows"]:
        line = [row["method"]]
        for k in shown:
            if k in row["networks"]:
                values = [nll[row["networks"].index(k)] for nll in row["nll"]]
                line.append(f"{sum(values) / len(values):.4f} ({min(values):.4f} to {max(values):.4f})")
            else:
                line.append("")
        lines.append(line)
    first = markdown(["method", *(f"NLL, {k} averaged" for k in shown)], lines)
    known, lines = content["toy"], []
    counts = (1, 5, 20, 100, 400)
    for row in known["rows"]:
        found = row["distances"]
        line = [row["method"], row["basins"]]
        for k in counts:
            at = found["networks"].index(k) if k in found["networks"] else None
            line.append("" if at is None else f"{found['mean'][at]:.3f} ± {found['sd'][at]:.3f}")
        lines.append([*line, f"{row['gap']:.2f}"])
    second = markdown(
        ["in one dimension", "", *(f"W₁ to HMC, {k} averaged" for k in counts), "spread in the gap"], lines
    )
    rates = ", ".join(f"{row['rate']:g}: {row['held-out log density']:.3f}" for row in known["SWAG rates"])
    return (
        f"Images: {content['images']['test rows']:,} of the test images; mean (least to largest) over three "
        f"first trajectories or orders.\n\n{first}\n\nOne dimension: mean ± standard deviation over random "
        f"subsets of so many networks; HMC accepted {100 * known['acceptance']:.0f} %; SWAG's rate, by "
        f"held-out log density: {rates}.\n\n{second}"
    )
