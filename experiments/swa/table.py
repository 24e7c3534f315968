"""The results as Markdown."""

from __future__ import annotations

from typing import Any

from experiments import record
from experiments.record import markdown, mean_and_spread
from experiments.swa.recipes import RECIPES
from experiments.swa.study import NAMES

# CIFAR-100: accuracy in % of SGD and SWA (the SWA authors' examples), NLL of SGD, SWA, SWAG, SWAG-diag
# (Maddox et al. 2019).
PUBLISHED_ERROR = {
    "vgg16": {"SGD": "27.2 ± 0.3", "SGD + SWA": "25.6 ± 0.3"},
    "preresnet164": {"SGD": "21.6 ± 0.3", "SGD + SWA": "20.2 ± 0.4"},
    "wrn28-10": {"SGD": "19.0 ± 0.3", "SGD + SWA": "17.5 ± 0.2"},
}
PUBLISHED_NLL = {
    "vgg16": {"SGD": "1.73", "SGD + SWA": "1.28", "SGD + SWAG": ".95", "SGD + SWAG-diag": "1.02"},
    "preresnet164": {"SGD": ".95", "SGD + SWA": ".74", "SGD + SWAG": ".71", "SGD + SWAG-diag": ".68"},
    "wrn28-10": {"SGD": ".80", "SGD + SWA": ".67", "SGD + SWAG": ".60", "SGD + SWAG-diag": ".62"},
}


def tables(results: list[dict[str, Any]]) -> str:
    """One section a recipe."""
    sections = []
    for name in RECIPES:
        runs = [r for r in results if "rows" in r and r["name"].startswith(f"{name}-")]
        runs.sort(key=lambda r: (r["settings"]["family"] != "sgd", r["settings"]["seed"]))
        choices = [r for r in results if "tried" in r and r["name"].startswith(f"{name}-")]
        choices.sort(key=lambda r: (r["settings"]["family"] != "sgd", r["tried"][0]["method"] == "swa"))
        if runs:
            sections.append(section(name, runs, choices))
    return "\n\n".join(sections)


def section(name: str, runs: list[dict[str, Any]], choices: list[dict[str, Any]]) -> str:
    recipe = runs[0]["settings"]["recipe"]
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for row in run["rows"]:
            found.setdefault(row["method"], []).append(row)
    published = recipe["data"] == "cifar100"
    head = ["method", "epochs", "seeds", "test error, %", "NLL, nats", "ECE, %"]
    head += ["published error, %", "published NLL"] if published else []
    lines = []
    for method, rows in found.items():
        cells = [method, rows[0]["epochs"], len(rows), spread(rows, "error", 100, 2)]
        cells += [spread(rows, "nll", 1, 4), spread(rows, "ece", 100, 2)]
        if published:
            cells += [table[name].get(method, "") for table in (PUBLISHED_ERROR, PUBLISHED_NLL)]
        lines.append(cells)
    parts = [f"### {recipe['network']} on {recipe['data']}", markdown(head, lines), differences(found)]
    if choices:
        parts += ["Settings by validation NLL, with one seed that is used for nothing else:", tried(choices)]
    return "\n\n".join([part for part in parts if part] + [provenance(runs, choices)])


def spread(rows: list[dict[str, Any]], key: str, factor: float, digits: int) -> str:
    return record.spread([factor * row[key] for row in rows], digits)


def differences(found: dict[str, list[dict[str, Any]]]) -> str:
    """Seed by seed, since two methods of one seed share weights and order of batches."""
    pairs = [
        ("SGD + SWA", "SGD"),
        ("SGD + SWA", "SGD, as long as SWA"),
        ("AdamW + SWA", "AdamW"),
        ("FGE", "SGD"),
        ("FGE", "SGD + SWA"),
        ("SGD + SWA", "SGD, SWA's schedule, last step"),
        ("AdamW + SWA", "AdamW, SWA's schedule, last step"),
        ("SGD", "SGD, running statistics"),
        ("AdamW", "AdamW, running statistics"),
        ("SGD + SWAG", "SGD + SWA"),
    ]
    lines = []
    for mine, theirs in pairs:
        a, b = found.get(mine), found.get(theirs)
        if a and b and len(a) == len(b):
            cells = [f"{mine} − {theirs}"]
            for key, factor, digits in (("error", 100, 2), ("nll", 1, 4), ("ece", 100, 2)):
                deltas = [factor * (x[key] - y[key]) for x, y in zip(a, b, strict=True)]
                mean, sd = mean_and_spread(deltas)
                sign = sum(delta < 0 for delta in deltas)
                noise = f" ± {sd:.{digits}f}" if len(deltas) > 1 else ""
                cells.append(f"{mean:+.{digits}f}{noise} ({sign} of {len(deltas)} lower)")
            lines.append(cells)
    return markdown(["difference", "test error, %", "NLL, nats", "ECE, %"], lines) if lines else ""


def tried(choices: list[dict[str, Any]]) -> str:
    """Every try; the best of each choice in bold."""
    lines = []
    for choice in choices:
        family, recipe = NAMES[choice["settings"]["family"]], choice["settings"]["recipe"]
        for method in dict.fromkeys(row["method"] for row in choice["tried"]):
            rows = [row for row in choice["tried"] if row["method"] == method]
            name, epochs = {
                "swa": (f"{family} + SWA", recipe["averaging_epochs"]),
                "fge": ("FGE", recipe["averaging_epochs"] - recipe["start"]),
            }.get(method, (family, recipe["tuning_epochs"]))
            best = min(row["nll"] for row in rows)
            for row in rows:
                nll = f"**{row['nll']:.4f}**" if row["nll"] == best else f"{row['nll']:.4f}"
                rate = f"{row['part']:g} of the rate" if "part" in row else f"{row['rate']:g}"
                decay = "the same" if "part" in row else f"{row['weight_decay']:g}"
                lines.append([name, epochs, rate, decay, nll])
    return markdown(["method", "epochs", "rate", "weight decay", "validation NLL"], lines)


def provenance(runs: list[dict[str, Any]], choices: list[dict[str, Any]]) -> str:
    environment = runs[0]["environment"]
    seconds = sum(run["seconds"]["cpu"] for run in runs) + sum(c["cpu_seconds"] for c in choices)
    versions = record.versions(environment)
    hardware = environment.get("device", environment["cpu"])
    seeds = ", ".join(map(str, sorted({run["settings"]["seed"] for run in runs})))
    return (
        f"Mean ± standard deviation over seeds {seeds}. {hardware}, {environment['threads']} thread(s); "
        f"{seconds:.0f} CPU seconds in all, the choice of settings included; {versions}."
    )
