"""The picture of one basin against several, from its results."""

from __future__ import annotations

from typing import Any

COLOURS = {
    "HMC": "0.35",
    "mean-field VI": "#d1603d",
    "mean-field VI, one basin": "#d1603d",
    "SWAG": "#e0a030",
    "SWAG, one basin": "#e0a030",
    "deep ensemble": "#3b6fb6",
    "MultiSWA": "#3f9b8f",
    "MultiSWAG": "#7a3f9b",
}


def figure(content: dict[str, Any]) -> Any:
    """Above: what each method says in one dimension; below: distance to the truth, and NLL on images."""
    import matplotlib.pyplot as plt

    known = content["toy"]
    drawn = plt.figure(figsize=(11, 6.2), layout="constrained")
    top, bottom = drawn.subfigures(2, 1, height_ratios=(1, 1.25))
    for axis, row in zip(top.subplots(1, len(known["rows"]), sharey=True), known["rows"], strict=True):
        low, middle, high = row["quantiles"]
        colour = COLOURS[row["method"]]
        axis.fill_between(known["grid"], low, high, color=colour, alpha=0.3, linewidth=0)
        axis.plot(known["grid"], middle, color=colour)
        for edge in (known["truth quantiles"][0], known["truth quantiles"][2]):
            axis.plot(known["grid"], edge, "--", color="0.35", linewidth=0.8)
        axis.plot(known["x"], known["y"], ".", color="black", markersize=3)
        axis.set_title(f"{row['method']}\n{row['basins']}", fontsize=9)
        axis.set_ylim(-3, 3)
        axis.spines[["top", "right"]].set_visible(False)
    top.supxlabel("band: 5 to 95 % of the networks' functions; dashed: HMC's", fontsize=9)
    left, right = bottom.subplots(1, 2)
    for row in known["rows"]:
        found = row["distances"]
        style = "-" if row["basins"] == "several basins" else "--" if row["basins"] == "one basin" else ":"
        left.errorbar(
            found["networks"], found["mean"], found["sd"], label=row["method"], color=COLOURS[row["method"]],
            linestyle=style, marker="o", markersize=3, linewidth=1.2, capsize=2,
        )  # fmt: skip
    left.set(xscale="log", xlabel="networks averaged", ylabel="W₁ to HMC's predictive, one dimension")
    left.set_ylim(bottom=0)
    for row in content["images"]["rows"]:
        colour, style = COLOURS[row["method"]], "--" if "one basin" in row["method"] else "-"
        lines = list(zip(*row["nll"], strict=True))
        right.plot(
            row["networks"], [sum(v) / len(v) for v in lines], label=row["method"], color=colour,
            linestyle=style, marker="o", markersize=3, linewidth=1.2,
        )  # fmt: skip
        right.fill_between(
            row["networks"], [min(v) for v in lines], [max(v) for v in lines], color=colour, alpha=0.15
        )
    right.set(xlabel="networks averaged", ylabel="test NLL, nats")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return drawn
