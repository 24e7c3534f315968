"""What the results were made with: settings that were tried, hardware, versions, time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import record
from experiments.record import markdown
from experiments.uncertainty.study import SECONDS, TUNED


def tuned(out: Path, contents: Sequence[dict[str, Any]]) -> str:
    """Every try; the best of each in bold."""
    path = out / "tuning.json"
    if not path.exists():
        return ""
    names = {
        "rate": "SGD: rate",
        "decay": "SGD: weight decay",
        "part": "SWA, SWAG: averaging's rate, as part of SGD's",
        "scale": "SWAG: scale",
        "diagonal scale": "SWAG-diag: scale",
        "dropout": "MC dropout: probability",
        "kl": "mean-field VI: weight of the KL divergence",
        "temperature": "cyclical SG-MCMC: temperature",
    }
    tried = record.read(path, TUNED)["tried"]
    lines = []
    for what, name in names.items():
        rows = tried.get(what, [])
        best = min((row["nll"] for row in rows), default=None)
        cells = [
            f"**{row['value']:g}: {row['nll']:.4f}**"
            if row["nll"] == best
            else f"{row['value']:g}: {row['nll']:.4f}"
            for row in rows
        ]
        if cells:
            lines.append([name, ", ".join(cells)])
    for method in dict.fromkeys(c["settings"]["method"] for c in contents if "chosen" in c):
        values = [f"{c['chosen']:g}" for c in contents if c["settings"]["method"] == method]
        lines.append([f"{method}: prior precision, one a network", ", ".join(values)])
    return markdown(["setting", "tried: validation NLL"], lines)


def provenance(out: Path, contents: Sequence[dict[str, Any]]) -> str:
    environment = contents[0]["environment"]
    seconds = record.read(out / "seconds.json", SECONDS)["seconds"]
    parts = {
        kind: sum(value for name, value in seconds.items() if name.startswith(kind))
        for kind in ("tune", "train", "score", "basins")
    }
    versions = record.versions(environment)
    groups = ", ".join(map(str, sorted({c["settings"]["group"] for c in contents})))
    hardware = environment.get("device", environment["cpu"])
    return (
        f"Mean ± half a 95 % interval (Student's t) over groups {groups}, or the mean alone. "
        f"{hardware}, {environment['threads']} thread(s); {sum(seconds.values()):.0f} CPU seconds in all "
        f"({parts['train']:.0f} training, {parts['tune']:.0f} more for tuning, "
        f"{parts['score']:.0f} scoring, {parts['basins']:.0f} for the basins); {versions}."
    )
