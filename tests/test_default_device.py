"""Nothing depends on `torch.set_default_device`: results are where their inputs are.

The "meta" device stands in for an accelerator: a tensor made without saying where lands on it, and cannot be
read, added to one on the CPU, or written.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import swag
from swag import calibrators, metrics
from swag.geometry import Bezier, Curve, Line, Measure, Plane, Scorer, evaluate_plane

N, C, S = 60, 3, 5


@pytest.fixture(autouse=True)
def usual_device() -> Iterator[None]:
    yield
    torch.set_default_device(None)


def same_on_another_default(make: Callable[[], Any]) -> None:
    """`make()` gives the same with the usual default device and with another."""
    expected = make()
    torch.set_default_device("meta")
    found = make()
    torch.set_default_device(None)
    torch.testing.assert_close(plain(found), plain(expected), rtol=0, atol=0, equal_nan=True)


def plain(value: Any) -> Any:
    """Tensors, numbers and containers of them."""
    if isinstance(value, Tensor | float | int | bool):
        return value
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if hasattr(value, "__dict__"):
        return plain({key: each for key, each in vars(value).items() if not key.startswith("_")})
    return torch.tensor(0) if value is None or isinstance(value, str) else torch.from_numpy(value)


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), device="cpu")


def model() -> nn.Module:
    with torch.random.fork_rng(), torch.device("cpu"):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, C))


X, Y = seeded(N, 6), torch.arange(N) % C
ROWS = [(X[:30], Y[:30]), (X[30:], Y[30:])]
ARGUMENTS: dict[str, Any] = {
    "probs": seeded(N, C).softmax(1),
    "labels": Y,
    "member_probs": seeded(S, N, C).softmax(2),
    "members": seeded(S, N, C).softmax(2),
    "logits": seeded(N, C),
    "mean": seeded(N),
    "variance": seeded(N).abs() + 0.1,
    "means": seeded(S, N),
    "variances": seeded(S, N).abs() + 0.1,
    "y": seeded(N, 1).squeeze(1),
    "scores_in": seeded(N),
    "scores_out": seeded(N) + 1,
    "entropies_in": seeded(N).abs(),
    "entropies_out": seeded(N).abs() + 0.1,
    "n_bins": 10,
    "n_levels": 10,
    "smoothing": 1.0,
    "upper": seeded(N) + 4,
    "lower": seeded(N) - 4,
    "tpr": 0.9,
    "level": 0.9,
    "q": 0.5,
    "k": 2,
    "quantile_values": seeded(N),
    "pit_values": seeded(N).sigmoid(),
    "confidence": seeded(N).sigmoid(),
    "errors": Y > 0,
    "max_points": 20,
    "nll_value": 0.5,
    "ensemble_nlls": [0.7, 0.6, 0.5, 0.4],
}
FUNCTIONS = [name for name in metrics.__all__ if not inspect.isclass(getattr(metrics, name))]
FUNCTIONS.remove("averaged_over_members")  # applies another function


@pytest.mark.parametrize("name", FUNCTIONS)
def test_metrics(name: str) -> None:
    function = getattr(metrics, name)
    needed = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    given = {parameter: ARGUMENTS[parameter] for parameter in needed}
    if name == "symmetrised_kl":
        given["upper"] = 5.0
    same_on_another_default(lambda: function(**given))


def test_streams() -> None:
    def classification() -> Any:
        stream = metrics.StreamingClassification()
        stream.update(ARGUMENTS["probs"], Y)
        return stream.compute()

    def regression() -> Any:
        stream = metrics.StreamingRegression()
        stream.update(ARGUMENTS["mean"], ARGUMENTS["variance"], ARGUMENTS["y"])
        return stream.compute()

    same_on_another_default(classification)
    same_on_another_default(regression)


@pytest.mark.parametrize(
    "name",
    ["TemperatureScaling", "VectorScaling", "DirichletScaling", "IsotonicCalibration", "HistogramBinning"],
)
def test_calibrators(name: str) -> None:
    probs = ARGUMENTS["probs"]
    same_on_another_default(lambda: getattr(calibrators, name).fit(probs, Y)(probs))


def collected() -> swag.Collector:
    walker = model()
    collector = swag.Collector(walker, rank=4)
    for step in range(6):
        with torch.no_grad():
            for place, parameter in enumerate(walker.parameters()):
                parameter += 0.05 * seeded(step + 1, place + 1, *parameter.shape)[0, 0]
        collector.collect(walker)
    return collector


def test_collecting_and_posteriors() -> None:
    def make() -> Any:
        collector = collected()
        posterior = collector.swag()
        mixture = swag.Mixture([posterior, collector.swag_diag()])
        generator = torch.Generator().manual_seed(1)
        theta = posterior.sample(3, generator=generator)
        return {
            "samples": [theta, mixture.sample(4, generator=generator)],
            "empirical": swag.Empirical(theta, layout=collector.layout).sample(2, generator=generator),
            "densities": [posterior.log_prob(theta), posterior.entropy(), mixture.log_prob(theta)],
            "moments": [posterior.variance, mixture.mean, collector.swa().mean],
            "diagnosis": repr(posterior.diagnose()),
            "subspace": collector.subspace(2).basis,
        }

    same_on_another_default(make)


@pytest.mark.parametrize(
    "settings",
    [
        {"bn_loader": ROWS},
        {"bn_loader": ROWS, "n_samples": "auto", "max_samples": 12},
        {"bn_loader": ROWS, "batchnorm": swag.ControlVariateBatchNorm(rows=16)},
        {"bn_loader": ROWS, "strategy": swag.Vmapped(2)},
        {"batchnorm": swag.KeepBatchNorm()},
    ],
    ids=["exact", "auto", "control_variate", "vmapped", "keep"],
)
def test_ensembles(settings: dict[str, Any]) -> None:
    posterior = collected().swag()

    def make() -> Any:
        ensemble = swag.Ensemble(model(), posterior, **{"n_samples": 4, **settings}, seed=0)
        predictive = ensemble.predict(ROWS)
        return [predictive.probs, predictive.entropy, predictive.mutual_information, ensemble(X).probs]

    same_on_another_default(make)


def test_regression() -> None:
    collector = collected()

    def make() -> Any:
        ensemble = swag.Ensemble(
            model(), collector.swag(), 4, bn_loader=ROWS, seed=0, likelihood=swag.HeteroscedasticGaussian(),
            forward=lambda net, batch: net(batch[0] if isinstance(batch, list | tuple) else batch)[:, :2],
        )  # fmt: skip
        predictive = ensemble(X)
        return [predictive.mean, predictive.variance, predictive.quantile([0.1, 0.9])]

    same_on_another_default(make)


def test_files(tmp_path: Path) -> None:
    collector = collected()
    posterior = collector.swag()

    def make() -> Any:
        found = []
        for thing in (posterior, collector, collector.swa(), swag.Mixture([posterior, posterior])):
            swag.save(tmp_path / "thing.safetensors", thing)
            found.append(swag.load(tmp_path / "thing.safetensors").mean)
        return found

    same_on_another_default(make)


def test_reports(tmp_path: Path) -> None:
    def make() -> Any:
        report = swag.Report({"a": ARGUMENTS["probs"], "b": seeded(N, C).softmax(1)}, Y)
        for ending in ("html", "json", "md", "csv"):
            report.save(tmp_path / f"report.{ending}")
        return [list(map(float, map(ord, str(report))))]

    same_on_another_default(make)


def test_tuning_and_training() -> None:
    def make() -> Any:
        torch.manual_seed(0)
        net = model()
        trained = swag.training.train(
            net, ROWS, nn.functional.cross_entropy, epochs=4, swa_start=0.5, rank=2,
            optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        )  # fmt: skip
        tuned = swag.tune(trained.collector.swag(), net, ROWS, n_samples=3, bn_loader=ROWS, scales=[0.5, 1.0])
        return [trained.collector.mean, [point.nll for point in tuned.curve]]

    same_on_another_default(make)


def test_subspaces_and_geometry() -> None:
    collector = collected()
    subspace = collector.subspace(2)
    start, end = collector.mean, collector.mean + collector.deviations[0]

    def log_likelihood(z: Tensor) -> Tensor:
        return -z.square().sum(-1)

    def make() -> Any:
        torch.manual_seed(0)
        found = [
            method.run(
                log_likelihood, prior_std=1.0, subspace=subspace, generator=torch.Generator().manual_seed(0)
            )
            for method in (swag.subspace.EllipticalSlice(), swag.subspace.UnivariateSlice())
        ]
        plane = Plane.through(
            start, end, collector.swag().sample(1, generator=torch.Generator().manual_seed(0))[0]
        )
        scorer = Scorer(model(), {"loss": Measure(nn.functional.cross_entropy, ROWS)}, bn_loader=ROWS)
        return [
            *(posterior.mean for posterior in found),
            Line(start, end).point([0.0, 0.5]),
            Curve.between(start, end, basis=Bezier()).point([0.3]),
            evaluate_plane(plane, scorer, plane.grid(3)).values["loss"],
        ]

    same_on_another_default(make)


def test_no_tensor_is_made_without_saying_where() -> None:
    makers = {"zeros", "ones", "empty", "full", "eye", "tensor", "as_tensor", "arange", "linspace"}
    makers |= {"rand", "randn", "randint", "randperm", "normal"}
    root = Path(swag.__file__).parent
    silent = []
    for path in sorted(root.rglob("*.py")):
        if path.is_relative_to(root / "demo"):  # a program of its own, on the CPU
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in makers}:
                given = {keyword.arg for keyword in node.keywords}  # None is **place
                if not given & {"device", None}:
                    silent.append(f"{path.relative_to(root)}:{node.lineno}")
    assert silent == []
