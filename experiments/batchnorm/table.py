"""The results as Markdown: the rule's table, and all policies beside each other."""
from __future__ import annotations
from typing import Any
def table(results: list[dict[str, Any]]) -> str:
    out=[]
    for r in results:
        for sc,s in r["scales"].items():
            mc=s["monte_carlo"]["mean"]
            out.append(f'{r["net"]} {r["seed"]} scale {sc} mc {mc:.2e} exact {s["exact"]} cpu {r["cpu_seconds"]}')
            for p in s["policies"]:
                out.append(f'   {p["policy"]:18s} {p["rows"]:5d} {p["mean"]:.2e} ({p["mean"]/mc:.0%}) max {p["max"]:.3f} acc {p["accuracy"]} nll {p["nll"]} rows {p["rows_per_sample"]}')
    return "\n".join(out)
