"""What the loss looks like around SGD, SWA and SWAG, and between two nets: planes, lines and curves.

python experiments/loss_surface/run.py --data-dir DIR           goes on where it was stopped
python experiments/loss_surface/run.py --quick                  digits, about 12 seconds
python experiments/loss_surface/run.py --table                  the README's tables, from results
python experiments/loss_surface/plots.py                        the figures, from results
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import swag
from experiments import arguments, record
from experiments.loss_surface.training import FULL, QUICK, Data, Settings, Shuffled, load, network, train
from swag.geometry import (
    Bezier,
    Curve,
    CurveFit,
    Line,
    Measure,
    Plane,
    PlaneValues,
    PolygonalChain,
    Profile,
    Scorer,
    evaluate_along,
    evaluate_plane,
    misclassified,
)

HERE = Path(__file__).resolve().parent
KIND = "loss_surface"
ERROR, LOSS, TEST_LOSS = "test error", "train loss", "test loss"
log = logging.getLogger("loss_surface")


def main() -> int:
    args = arguments.parser(__doc__, quick="small, on digits, coarse planes").parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.device == "cpu":
        torch.set_num_threads(1)
    with arguments.results_folder(args, HERE) as out:
        if not args.table:
            run(out, args)
        path = out / "summary.json"
        if not path.exists():
            raise SystemExit(f"no results in {out}; run experiments/loss_surface/run.py first")
        print(tables(record.read(path, KIND)))
    return 0


def run(out: Path, args: argparse.Namespace) -> None:
    """What is missing in `out`."""
    if any(out.glob("plane_*.npz")) and not (out / "weights").exists():
        raise SystemExit(
            f"{out} has planes but not the weights they go through, which are not kept in git: networks "
            "trained here would be others; pass --out FOLDER to make everything there"
        )
    settings = QUICK if args.quick else FULL
    path, kind = out / "settings.json", f"{KIND} settings"
    if not record.done(path, kind, asdict(settings)):
        record.write(path, kind, {"settings": asdict(settings)})
    Study(settings, load(settings, args.data_dir, args.device), out, args.device).run()


class Study:
    """The units of work, each of which keeps its result in a file."""

    def __init__(self, settings: Settings, images: Data, out: Path, device: str) -> None:
        self.settings, self.images, self.out, self.device = settings, images, out, device
        self.model = network(settings, settings.seed).to(device)
        self.layout = swag.Layout.of(self.model)
        scored, tested = images.batches(settings.n_scored)
        self.scorer = Scorer(
            self.model,
            {
                LOSS: Measure(F.cross_entropy, scored),
                ERROR: Measure(misclassified, tested),
                TEST_LOSS: Measure(F.cross_entropy, tested),
            },
            bn_loader=scored,
        )
        self.seconds: dict[str, float] = {}
        if record.done(out / "seconds.json", f"{KIND} seconds"):
            self.seconds = record.read(out / "seconds.json", f"{KIND} seconds")["seconds"]

    def run(self) -> None:
        s = self.settings
        start = self.weights("start", lambda: self._trained(None, s.start_epochs, (s.lr, s.lr), s.seed))
        sgd = self.weights(
            "sgd", lambda: self._trained(start, s.more_epochs, (s.lr, s.lr / 100), s.seed + 10)
        )
        walk, posterior = self._averaged(start)
        other = self.weights("other", lambda: self._other(s.seed + 1))
        swa = posterior.mean
        bezier = self._curve("bezier", Curve.between(sgd, other, layout=self.layout, basis=Bezier()))
        chain = self._curve("chain", Curve.between(sgd, other, layout=self.layout, basis=PolygonalChain()))

        first, middle, last = (walk[i] for i in (len(walk) // 5, len(walk) // 2, len(walk) - 1))
        three = {"1": first, "2": middle, "3": last, "average": (first + middle + last) / 3}
        self.plane("snapshots", Plane.through(first, middle, last, layout=self.layout), three)
        named = {"start": start, "SGD": sgd, "SWA": swa}
        self.plane("swa", Plane.through(start, swa, sgd, layout=self.layout), named)
        own = Plane.of_swag(posterior)
        self.plane("swag", own, {"SWA": swa}, paths={"snapshots": walk}, posteriors={"SWAG": posterior})
        ends = {"net A": sgd, "net B": other, "bend": bezier.points[1]}
        paths = {"curve": bezier, "line": Line(sgd, other, layout=self.layout)}
        self.plane(
            "curve", Plane.through(sgd, bezier.points[1], other, layout=self.layout), ends, paths=paths
        )

        line = Line(sgd, swa, layout=self.layout)
        t = np.union1d(np.linspace(-1.0, 2.0, s.along), [0.0, 1.0])
        self.profile("sgd_swa", line, t, {"SGD": 0.0, "SWA": 1.0})
        straight = Curve.between(sgd, other, n_inner=0, layout=self.layout)
        found = {
            "straight": self.profile("straight", straight, straight.equidistant(s.along)),
            "Bézier": self.profile("bezier", bezier, bezier.equidistant(s.along)),
            "chain": self.profile("chain", chain, chain.equidistant(s.along)),
        }
        points = {**named, "snapshot 3": last, "average of 3": three["average"], "net B": other}
        self._summarise(points, {"Bézier": bezier, "chain": chain, "straight": straight}, found)

    def weights(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """θ (D,), trained or read."""
        path = self.out / "weights" / f"{name}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with self._timed(name):
                swag.save(path, swag.PointMass(make().cpu(), layout=self.layout))
        return swag.load(path, device=self.device).mean

    def plane(
        self,
        name: str,
        plane: Plane,
        points: dict[str, Tensor],
        *,
        paths: dict[str, Any] | None = None,
        posteriors: dict[str, swag.LowRankGaussian] | None = None,
    ) -> None:
        """A plane's values in an .npz file."""
        shown = [*points.values(), *(plane.ellipse(posterior) for posterior in (posteriors or {}).values())]
        grid = plane.grid(self.settings.nodes, show=shown, margin=0.35)
        path = self.out / f"plane_{name}.npz"
        with self._timed(f"plane {name}", done=finished(PlaneValues, path)):
            evaluate_plane(
                plane, self.scorer, grid, points=points, paths=paths, posteriors=posteriors, path=path
            )

    def profile(
        self, name: str, along: Line | Curve, t: np.ndarray, marks: dict[str, float] | None = None
    ) -> Profile:
        """A line's or curve's values in an .npz file."""
        path = self.out / f"line_{name}.npz"
        with self._timed(f"line {name}", done=finished(Profile, path)):
            return evaluate_along(along, self.scorer, t, marks=marks, path=path)

    def _model_at(self, theta: Tensor | None, seed: int) -> nn.Module:
        model = network(self.settings, seed).to(self.device)
        if theta is not None:
            self.layout.write_(model, theta)
        return model

    def _trained(self, start: Tensor | None, epochs: int, lr: tuple[float, float], seed: int) -> Tensor:
        model = self._model_at(start, self.settings.seed)
        train(model, self.images, self.settings, epochs=epochs, lr=lr, seed=seed)
        return self.layout.flatten(model)

    def _averaged(self, start: Tensor) -> tuple[Tensor, swag.LowRankGaussian]:
        """Snapshots (n, D) at a constant rate, once an epoch, and the SWAG posterior of them."""
        s, folder = self.settings, self.out / "weights"
        paths = folder / "walk.safetensors", folder / "swag.safetensors"
        if not all(path.exists() for path in paths):
            with self._timed("swa"):
                model = self._model_at(start, s.seed)
                collector = swag.Collector(model, rank=20)
                walk: list[Tensor] = []

                def collect() -> None:
                    collector.collect(model)
                    walk.append(self.layout.flatten(model).cpu())

                lr = (s.swa_lr, s.swa_lr)
                train(
                    model, self.images, s, epochs=s.more_epochs, lr=lr, seed=s.seed + 20, after_epoch=collect
                )
                swag.save(paths[0], swag.Empirical(torch.stack(walk), layout=self.layout))
                swag.save(paths[1], collector.swag())
        return swag.load(paths[0], device=self.device).samples, swag.load(paths[1], device=self.device)

    def _other(self, seed: int) -> Tensor:
        """A net of another seed, trained as the first."""
        s = self.settings
        model = self._model_at(None, seed)
        train(model, self.images, s, epochs=s.start_epochs, lr=(s.lr, s.lr), seed=seed)
        train(model, self.images, s, epochs=s.more_epochs, lr=(s.lr, s.lr / 100), seed=seed + 10)
        return self.layout.flatten(model)

    def _curve(self, name: str, curve: Curve) -> Curve:
        s, path = self.settings, self.out / "weights" / f"curve_{name}.safetensors"
        if not path.exists():
            with self._timed(f"curve {name}"):
                fit = CurveFit(
                    self.model,
                    curve,
                    F.cross_entropy,
                    optimizer=lambda points: torch.optim.SGD(points, lr=s.lr, momentum=0.9, nesterov=True),
                    weight_decay=s.weight_decay,
                    seed=s.seed,
                )
                # As in the paper: the rate is constant for half of the time, then goes down linearly.
                shares = [min(1.0, 2 * (1 - epoch / s.curve_epochs)) for epoch in range(s.curve_epochs)]
                schedule = torch.optim.lr_scheduler.LambdaLR(
                    fit.optimizer, lambda epoch: max(0.01, shares[min(epoch, len(shares) - 1)])
                )
                loader = Shuffled(self.images, s, s.seed + 30)
                for _ in range(s.curve_epochs):
                    fit.epoch(loader)
                    schedule.step()
                fit.curve.save(path)
        found = Curve.load(path)
        return Curve(found.points.to(self.device), found.basis, layout=found.layout)

    @contextmanager
    def _timed(self, name: str, *, done: bool = False) -> Iterator[None]:
        """Wall-clock seconds of a block, kept by name over all runs; what is only read does not count."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if not done:
                seconds = time.perf_counter() - began
                log.info("%s: %.1f s", name, seconds)
                self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 1)
                record.write(self.out / "seconds.json", f"{KIND} seconds", {"seconds": self.seconds})

    def _summarise(
        self, points: dict[str, Tensor], curves: dict[str, Curve], found: dict[str, Profile]
    ) -> None:
        path = self.out / "summary.json"
        if record.done(path, KIND, asdict(self.settings)):
            return
        # Points are few: scored on all the rows.
        trained, tested = self.images.batches(10**9)
        scorer = Scorer(
            self.model,
            {
                LOSS: Measure(F.cross_entropy, trained),
                ERROR: Measure(misclassified, tested),
                TEST_LOSS: Measure(F.cross_entropy, tested),
            },
            bn_loader=trained,
        )
        with self._timed("points"):
            scores = scorer(torch.stack(list(points.values())), self.layout)
        rows = [
            {"point": name, **{measure: float(scores[measure][i]) for measure in scores}}
            for i, name in enumerate(points)
        ]
        ways = [
            {
                "way": name,
                "length": curves[name].length,
                **{f"highest {measure}": float(profile.values[measure].max()) for measure in (LOSS, ERROR)},
                **{f"mean {measure}": profile.uniform_mean(measure) for measure in (LOSS, ERROR)},
                **{f"barrier {measure}": profile.barrier(measure) for measure in (LOSS, ERROR)},
            }
            for name, profile in found.items()
        ]
        distances = {
            f"{a}–{b}": float((points[a] - points[b]).norm())
            for a, b in (("start", "SGD"), ("start", "SWA"), ("SGD", "SWA"), ("SGD", "net B"))
        }
        payload = {
            "settings": asdict(self.settings), "D": self.layout.size, "points": rows, "ways": ways,
            "distances": distances, "seconds": self.seconds,
        }  # fmt: skip
        record.write(path, KIND, payload, device=self.device)


def finished(kind: type[PlaneValues] | type[Profile], path: Path) -> bool:
    """Whether a file holds all the nodes."""
    try:
        kind.load(path)
    except swag.FileError:
        return False
    return True


def tables(summary: dict[str, Any]) -> str:
    """The README's tables."""
    points = record.markdown(
        ["point", "test error (%)", "test NLL", "training loss"],
        (
            [row["point"], f"{100 * row[ERROR]:.2f}", f"{row[TEST_LOSS]:.3f}", f"{row[LOSS]:.3f}"]
            for row in summary["points"]
        ),
    )
    ways = record.markdown(
        [
            "way from net A to net B",
            "length",
            "highest test error (%)",
            "mean (%)",
            "highest training loss",
            "mean",
        ],
        (
            [
                row["way"],
                f"{row['length']:.1f}",
                f"{100 * row[f'highest {ERROR}']:.1f}",
                f"{100 * row[f'mean {ERROR}']:.1f}",
                f"{row[f'highest {LOSS}']:.3f}",
                f"{row[f'mean {LOSS}']:.3f}",
            ]
            for row in summary["ways"]
        ),
    )
    environment, seconds = summary["environment"], summary["seconds"]
    versions = record.versions(environment)
    distances = ", ".join(f"{pair} {distance:.1f}" for pair, distance in summary["distances"].items())
    return (
        f"{points}\n\n{ways}\n\nDistances between weights: {distances}. D = {summary['D']:,}. Seed "
        f"{summary['settings']['seed']}; {sum(seconds.values()):.0f} seconds in all, "
        f"{environment['threads']} thread(s) of {environment['cores']} cores, "
        f"{environment['cpu']}; {versions}."
    )


if __name__ == "__main__":
    sys.exit(main())
