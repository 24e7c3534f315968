"""What others report on these sets: figures from papers, and MC dropout's on the very same splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from swag.errors import FileError


class Published(NamedTuple):
    """Means ± standard deviations over 20 splits, as printed; None where nothing was printed."""

    log_likelihood: tuple[float, float | None]
    rmse: tuple[float, float | None]
    coverage: float | None


# Izmailov et al. 2019 (arXiv:1907.07504), log-likelihoods of the moment-matched Gaussian; their own random
# 90/10 splits, standardised with the statistics of training and test rows together.
SUBSPACE: dict[str, dict[str, Published]] = {
    "boston": {
        "SGD": Published((-2.752, 0.132), (3.504, 0.975), 0.986),
        "SWAG": Published((-2.761, 0.132), (3.517, 0.981), 0.986),
        "PCA+ESS": Published((-2.719, 0.132), (3.453, 0.953), 0.985),
        "PCA+VI": Published((-2.716, 0.133), (3.457, 0.951), 0.984),
    },
    "energy": {
        "SGD": Published((-1.736, 1.613), (1.602, 0.275), 0.947),
        "SWAG": Published((-1.679, 1.488), (1.594, 0.273), 0.951),
        "PCA+ESS": Published((-1.563, 1.243), (1.598, 0.274), 0.953),
        "PCA+VI": Published((-1.715, 1.588), (1.587, 0.272), 0.949),
    },
    "yacht": {
        "SGD": Published((-0.418, 0.426), (0.973, 0.374), 0.895),
        "SWAG": Published((-0.404, 0.418), (0.973, 0.375), 0.898),
        "PCA+ESS": Published((-0.225, 0.400), (0.972, 0.375), 0.948),
        "PCA+VI": Published((-0.396, 0.419), (0.973, 0.375), 0.898),
    },
}

# Lakshminarayanan et al. 2017 (arXiv:1612.01474), five networks, 40 epochs; spreads not taken over.
ENSEMBLES: dict[str, Published] = {
    name: Published((-nll, None), (rmse, None), None)
    for name, rmse, nll in (
        ("boston", 3.28, 2.41),
        ("energy", 2.09, 1.38),
        ("kin8nm", 0.09, -1.20),
        ("power", 4.11, 2.79),
        ("protein", 4.71, 2.83),
        ("wine", 0.64, 0.94),
        ("yacht", 1.58, 1.18),
    )
}


class PerSplit(NamedTuple):
    """One method's published figures split by split."""

    log_likelihood: list[float]
    rmse: list[float]


def mc_dropout(root: Path | None, name: str) -> PerSplit | None:
    """MC dropout's published figures on the same splits [Gal & Ghahramani 2016]; None where not at hand.

    Raises:
        FileError: the file is there but cannot be read.
    """
    if root is None:
        return None
    for folder in (root / "uci_gal", root):
        path = folder / "published_mc_dropout.json"
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8")).get(name)
                return PerSplit(found["loglik_mc_dropout"], found["rmse_mc_dropout"]) if found else None
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise FileError(f"{path} cannot be read ({error!r}); restore it or move it away") from error
    return None
