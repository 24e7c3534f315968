"""The SWA experiment: its networks, its loader, its units of work and its tables."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments import record
from experiments.swa import choices, run
from experiments.swa.loaders import Rows, Shuffled, Split, split
from experiments.swa.methods import Methods, as_it_is
from experiments.swa.networks import NETWORKS, seeded
from experiments.swa.recipes import ON_CPU, ON_CUDA, RECIPES, Recipe, Search, quick
from experiments.swa.study import KIND, Study
from experiments.swa.table import tables
from tests.experiment_scripts import called


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    # VGG-16 with linear layers of 512, 512 and 10; He et al. 2016 (1.7 M); Zagoruyko & Komodakis (36.5 M).
    [("vgg16", 15_245_130), ("preresnet164", 1_703_258), ("wrn28-10", 36_479_194), ("small", 24_058)],
)
def test_the_networks_are_those_of_the_papers(name: str, n_parameters: int) -> None:
    network = NETWORKS[name](10)
    assert sum(parameter.numel() for parameter in network.parameters()) == n_parameters
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    shortcuts = [c for c in convolutions if c.kernel_size == (1, 1) and name == "wrn28-10"]
    depth = {"vgg16": 13, "preresnet164": 163 + 3, "wrn28-10": 25 + 3, "small": 3}[name]
    assert len(convolutions) == depth and len(shortcuts) in (0, 3)


@pytest.mark.parametrize("name", ["vgg16/8", "preresnet11", "wrn10-1"])
def test_they_go_from_images_to_logits_and_depend_on_the_seed(name: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    one, again, other = (seeded(name, 7, seed).eval()(x) for seed in (0, 0, 1))
    assert one.shape == (2, 7) and torch.equal(one, again) and not torch.equal(one, other)


def test_the_loader_moves_and_mirrors_every_image_once() -> None:
    images = torch.arange(1.0, 1 + 50 * 16).view(50, 1, 4, 4)
    rows = Rows(images, torch.arange(50))
    loader = Shuffled(rows, 8, shift=1, mirrored=True, generator=torch.Generator().manual_seed(0))
    batches = list(loader)
    assert [len(y) for _, y in batches] == [8] * 6 + [2] and len(loader) == 7
    labels = torch.cat([y for _, y in batches])
    assert sorted(labels.tolist()) == list(range(50)) and labels.tolist() != list(range(50))
    seen = set()
    for moved, label in zip(torch.cat([x for x, _ in batches]), labels, strict=True):
        padded = nn.functional.pad(images[label], (1, 1, 1, 1))[0]
        fits = [
            (down, right, mirrored)
            for down in range(3)
            for right in range(3)
            for mirrored in (False, True)
            if torch.equal(moved[0], flipped(padded[down : down + 4, right : right + 4], mirrored))
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 12  # of 18
    still = Shuffled(rows, 8, shift=0, mirrored=False, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(x, images[y]) for x, y in still)


def flipped(image: torch.Tensor, mirrored: bool) -> torch.Tensor:
    return image.flip(1) if mirrored else image


def tiny() -> tuple[Recipe, Split]:
    data = split("digits", None, 0, 0, "cpu")
    parts = [Rows(part.images[:100], part.labels[:100]) for part in (data.train, data.validation, data.test)]
    recipe = replace(quick("fashion"), epochs=2, averaging_epochs=4, start=2, rank=2, n_samples=2)
    return recipe, Split(*parts, n_classes=10)


def test_a_quick_run_scores_every_method_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [
        "fashion-adam-0.json",
        "fashion-adam-averaging.json",
        "fashion-adam-choice.json",
        "fashion-sgd-0.json",
        "fashion-sgd-averaging.json",
        "fashion-sgd-choice.json",
        "preresnet164-sgd-0.json",
        "vgg16-sgd-0.json",
        "wrn28-10-sgd-0.json",
    ]
    result = record.read(tmp_path / "fashion-sgd-0.json", KIND)
    assert [(row["method"], row["epochs"]) for row in result["rows"]] == [
        ("SGD, running statistics", 3),
        ("SGD", 3),
        ("SGD, as long as SWA, running statistics", 4),
        ("SGD, as long as SWA", 4),
        ("SGD + SWA", 4),
        ("SGD, SWA's schedule, last step", 4),
        ("FGE", 4),
    ]
    assert len({row["nll"] for row in result["rows"]}) == 7
    adam, vgg = (methods_of(tmp_path / f"{name}-0.json") for name in ("fashion-adam", "vgg16-sgd"))
    assert {"AdamW", "AdamW + SWA"} <= adam and "FGE" not in adam
    assert {"SGD + SWA", "SGD + SWAG-diag", "SGD + SWAG"} <= vgg
    best = lowest(tmp_path / "fashion-sgd-choice.json", "sgd")
    swa, fge = (lowest(tmp_path / "fashion-sgd-averaging.json", method)["part"] for method in ("swa", "fge"))
    rate = best["rate"]
    assert result["chosen"] == {
        "rate": rate,
        "weight_decay": best["weight_decay"],
        "swa_lr": swa * rate,
        "fge_lr": fge * rate,
    }
    printed = capsys.readouterr().out
    assert printed.count("### ") == 4 and "| SGD + SWA | 4 | 0.25 of the rate | the same |" in printed
    before = [path.stat().st_mtime_ns for path in paths]
    assert run.main() == 0
    assert capsys.readouterr().out == printed
    assert [path.stat().st_mtime_ns for path in paths] == before
    other = Study("fashion", replace(quick("fashion"), batch=40), tiny()[1], tmp_path, "cpu")
    with pytest.raises(SystemExit, match="other settings"):
        other.run("sgd", 0)


def methods_of(path: Path) -> set[str]:
    rows = record.read(path, KIND)["rows"]
    assert all(0 <= row["error"] <= 1 and row["nll"] > 0 for row in rows)
    return {row["method"] for row in rows}


def lowest(path: Path, method: str) -> dict[str, Any]:
    rows = [row for row in record.read(path, KIND)["tried"] if row["method"] == method]
    assert len(rows) > 1
    return min(rows, key=lambda row: row["nll"])


def test_weight_decays_are_tried_at_the_best_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {(0.1, 1.0): 3.0, (0.2, 1.0): 1.0, (0.4, 1.0): 2.0, (0.2, 0.0): 0.5, (0.2, 5.0): 4.0}
    methods = Methods(*tiny(), "cpu")
    monkeypatch.setattr(methods, "cosine", lambda family, seed, choice, epochs: choice)
    monkeypatch.setattr(methods, "refreshed", lambda choice: choice)
    monkeypatch.setattr(choices, "score", lambda choice, rows: {"nll": found[choice]})
    rows = choices.baseline(methods, "sgd", Search((0.1, 0.2, 0.4), (1.0, 0.0, 5.0)))
    assert [(row["rate"], row["weight_decay"]) for row in rows] == list(found)
    assert choices.best(rows) == {"method": "sgd", "rate": 0.2, "weight_decay": 0.0, "nll": 0.5}


def test_refreshed_statistics_are_those_of_images_that_were_not_moved() -> None:
    recipe, data = tiny()
    methods = Methods(recipe, data, "cpu")
    model = methods.cosine("sgd", 0, (0.1, 0.0), 1)
    norm, convolution = model[1], model[0]
    assert isinstance(norm, nn.BatchNorm2d)
    before = as_it_is(model).predict(data.test.batches()).probs
    after = methods.refreshed(model).predict(data.test.batches()).probs
    channels = convolution(data.train.images).movedim(1, 0).flatten(1)
    torch.testing.assert_close(norm.running_mean, channels.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, channels.var(1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)


def test_the_tables_give_means_spreads_and_differences_by_seed() -> None:
    results = [made_up("vgg16", seed, 0.25 + 0.01 * seed, 0.24) for seed in (0, 1, 2)]
    text = tables(results)
    assert "| SGD | 200 | 3 | 26.00 ± 1.00 | 1.2600 ± 0.0100 | 5.00 ± 0.00 | 27.2 ± 0.3 | 1.73 |" in text
    assert "| SGD + SWA − SGD | -2.00 ± 1.00 (3 of 3 lower) |" in text
    assert "SGD, as long as SWA" not in text  # no such runs, no such line
    assert "published" not in tables([made_up("fashion", 0, 0.2, 0.1)])
    assert "± nan" not in tables(results[:1])


def made_up(name: str, seed: int, sgd: float, swa: float) -> dict[str, Any]:
    import dataclasses

    rows = [
        {"method": method, "epochs": 200, "error": error, "nll": 1 + error, "ece": 0.05}
        for method, error in (("SGD", sgd), ("SGD + SWA", swa))
    ]
    settings = {"recipe": dataclasses.asdict(RECIPES[name]), "family": "sgd", "seed": seed}
    return {
        "name": f"{name}-sgd-{seed}",
        "settings": settings,
        "rows": rows,
        "seconds": {"wall": 1.0, "cpu": 1.0},
        "environment": record.environment(),
    }


def test_the_recipes_agree_with_what_the_readme_says() -> None:
    assert {*ON_CPU, *ON_CUDA} == set(RECIPES)
    for name, recipe in RECIPES.items():
        assert 0 < recipe.start < recipe.averaging_epochs
        assert all(hasattr(quick(name), field) for field in vars(recipe))
        share = 1 - recipe.start / recipe.averaging_epochs
        assert recipe.averaging_epochs / recipe.epochs == (1 if name == "fashion" else 1.5)
        assert math.isclose(share, 0.25 if name == "fashion" else 0.45, abs_tol=0.03)


def test_the_readme_has_the_tables_of_its_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--table"])
    assert run.main() == 0
    printed = capsys.readouterr().out.strip()
    readme = (Path(run.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert len(printed) > 1000 and printed in readme
