"""The results as Markdown: the decision rule's table, everything else, and what follows from the rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

LIMIT = 0.15  # of the Monte-Carlo standard error: the rule
NETS = {"resnet": "ResNet-20", "vgg": "VGG", "mlp": "MLP"}
SIZED = {"fixed": "control variate, fixed", "fresh": "control variate, fresh", "plain": "plain, fresh"}
OTHERS = {
    "plain, all costs": "plain, fresh, as many rows as fresh control variates of 128 with the pass",
    "reference": "reference code's `subset`",
    "mean": "the mean weights' statistics for every sample",
    "none": "no refresh (the last snapshot's running averages)",
}
# (network, scale) → one entry a seed.
Groups = dict[tuple[str, str], list[dict[str, Any]]]


def table(results: list[dict[str, Any]]) -> str:
    """All tables; `results` are the contents of the files, one a network and seed."""
    groups: Groups = defaultdict(list)
    for net in NETS:
        for result in results:
            if result["net"] == net:
                for scale, entry in result["scales"].items():
                    groups[net, scale].append(entry)
    sections = [
        "Mean |Δp| in percent of the Monte-Carlo standard error (least–most over seeds; bold: 15 or less "
        "for every seed):",
        sized(groups, percent),
        "Largest |Δp| of any row and class (over seeds):",
        sized(groups, largest),
        "Cost, training rows forwarded for one sample (in brackets with its share of the passes made once "
        "for all samples, at the mean weights):",
        costs(results[0]),
        "The others, mean |Δp| in percent of the Monte-Carlo standard error:",
        others(groups),
        "What it is measured against:",
        context(groups),
        "The rule, mean |Δp| ≤ 15 % for every seed, holds from this many rows on:",
        verdict(groups),
        provenance(results),
    ]
    return "\n\n".join(sections)


def sized(groups: Groups, cell: Callable[[list[dict[str, Any]], str, int], str]) -> str:
    sizes = sorted(
        {p["rows"] for entries in groups.values() for p in entries[0]["policies"] if p["policy"] in SIZED}
    )
    lines = [
        [NETS[net], scale, words] + [cell(entries, policy, rows) for rows in sizes]
        for (net, scale), entries in groups.items()
        for policy, words in SIZED.items()
    ]
    return markdown(["network", "scale", "statistics from", *map(str, sizes)], lines)


def percent(entries: list[dict[str, Any]], policy: str, rows: int | None = None) -> str:
    shares = relative_errors(entries, policy, rows)
    if not shares:
        return ""
    # One decimal near the limit, where the rounding would hide on which side of it a number lies.
    low, high = (f"{100 * share:.{1 if share < 0.2 else 0}f}" for share in (min(shares), max(shares)))
    text = low if low == high else f"{low}–{high}"
    return f"**{text}**" if max(shares) <= LIMIT else text


def largest(entries: list[dict[str, Any]], policy: str, rows: int) -> str:
    found = [p["max"] for p in chosen(entries, policy, rows)]
    return f"{max(found):.3f}" if found else ""


def costs(result: dict[str, Any]) -> str:
    """The same for every network; `exact` for comparison."""
    n = result["settings"]["n_samples"]
    policies = next(iter(result["scales"].values()))["policies"]
    sizes = sorted({p["rows"] for p in policies if p["policy"] in SIZED})
    lines = []
    for policy, words in SIZED.items():
        cells = {
            p["rows"]: f"{p['rows_per_sample']} ({p['rows_per_sample'] + p['shared_rows'] / n:.0f})"
            for p in policies
            if p["policy"] == policy
        }
        lines.append([words, *(cells.get(rows, "") for rows in sizes)])
    full = result["settings"]["full_rows"]
    lines.append(["exact", *[f"{full:,}"] * len(sizes)])
    return markdown(["statistics from", *map(str, sizes)], lines)


def others(groups: Groups) -> str:
    head = [f"{NETS[net]} {scale}" for net, scale in groups]
    lines = []
    for policy, words in OTHERS.items():
        rows = [p["rows_per_sample"] for entries in groups.values() for p in chosen(entries, policy)]
        cells = [percent(entries, policy) for entries in groups.values()]
        lines.append([words, str(rows[0]) if rows else "", *cells])
    return markdown(["statistics", "rows a sample", *head], lines)


def context(groups: Groups) -> str:
    lines = []
    for (net, scale), entries in groups.items():
        errors = [entry["monte_carlo"]["mean"] for entry in entries]
        accuracies = [100 * entry["exact"]["accuracy"] for entry in entries]
        nlls = [entry["exact"]["nll"] for entry in entries]
        lines.append([NETS[net], scale, span(errors, ".2e"), span(accuracies, ".1f"), span(nlls, ".3f")])
    return markdown(["network", "scale", "Monte-Carlo standard error", "accuracy, %", "NLL, nats"], lines)


def verdict(groups: Groups) -> str:
    return markdown(
        ["network", "scale", "fixed", "fresh"],
        [
            [NETS[net], scale, *(enough(entries, policy) for policy in ("fixed", "fresh"))]
            for (net, scale), entries in groups.items()
        ],
    )


def enough(entries: list[dict[str, Any]], policy: str) -> str:
    """The least size from which on every size passes for every seed."""
    sizes = sorted({p["rows"] for p in chosen(entries, policy)}, reverse=True)
    passing = None
    for rows in sizes:
        if max(relative_errors(entries, policy, rows)) > LIMIT:
            break
        passing = rows
    return f"{passing}" if passing else f"none up to {sizes[0]}"


def provenance(results: list[dict[str, Any]]) -> str:
    settings, environment = results[0]["settings"], results[0]["environment"]
    versions = environment["versions"]
    seconds = sum(result["cpu_seconds"]["all"] for result in results)
    seeds = {net: [str(r["seed"]) for r in results if r["net"] == net] for net in NETS}
    run = "; ".join(f"{NETS[net]} seeds {', '.join(found) or 'none yet'}" for net, found in seeds.items())
    return (
        f"{settings['data']}; {run}; S = {settings['n_samples']}; exact: "
        f"{settings['full_rows']:,} training rows a sample; {settings['test_rows']:,} test rows. "
        f"Python {versions['python']}, torch {versions['torch']}, swag {versions['swag']}; "
        f"{environment['cpu']}, {environment['threads']} of {environment['cores']} cores; "
        f"{seconds:,} CPU seconds in all."
    )


def relative_errors(entries: list[dict[str, Any]], policy: str, rows: int | None = None) -> list[float]:
    """Mean |Δp| over the Monte-Carlo standard error, one a seed."""
    return [
        p["mean"] / entry["monte_carlo"]["mean"] for entry in entries for p in chosen([entry], policy, rows)
    ]


def chosen(entries: list[dict[str, Any]], policy: str, rows: int | None = None) -> list[dict[str, Any]]:
    return [
        p
        for entry in entries
        for p in entry["policies"]
        if p["policy"] == policy and rows in (None, p["rows"])
    ]


def span(values: list[float], form: str) -> str:
    low, high = (format(value, form) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def markdown(head: list[str], lines: Iterable[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
