"""The geometry of the loss: curves that connect nets, and what lies on planes and lines through weights.

    fit = CurveFit(model, Curve.between(first, second), F.cross_entropy, optimizer=…)
    fit.train(loader, epochs=20);  fit.curve.point(0.5)
    scorer = Scorer(model, {"test error": Measure(misclassified, test_loader)}, bn_loader=train_loader)
    plane = Plane.through(first, second, third)
    found = evaluate_plane(plane, scorer, plane.grid(21, show=[first, second, third]))
    plot_plane(ax, found, "test error")

θ is one flat vector throughout, batch norm is refreshed at every point that is scored, and results are arrays
in .npz files that plots read.
"""

from swag.geometry.bases import Basis, Bezier, PolygonalChain
from swag.geometry.curve import Curve
from swag.geometry.fit import CurveFit
from swag.geometry.line import Line
from swag.geometry.plane import Ellipse, Grid, Plane
from swag.geometry.plots import log_levels, plot_line, plot_plane
from swag.geometry.scoring import Measure, Scorer, misclassified
from swag.geometry.surface import evaluate_along, evaluate_plane
from swag.geometry.values import PlaneValues, Profile

__all__ = [
    "Basis",
    "Bezier",
    "Curve",
    "CurveFit",
    "Ellipse",
    "Grid",
    "Line",
    "Measure",
    "Plane",
    "PlaneValues",
    "PolygonalChain",
    "Profile",
    "Scorer",
    "evaluate_along",
    "evaluate_plane",
    "log_levels",
    "misclassified",
    "plot_line",
    "plot_plane",
]
