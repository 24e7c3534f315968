"""The tables of the README, from results files alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy import stats

from experiments import record

# Error in percent on CIFAR-10 and CIFAR-100, VGG-16 [Yang et al. 2019, table 1].
PUBLISHED = {
    "SGD-FP": (6.81, 27.23),
    "SWA-FP": (6.51, 25.93),
    "SGD-LP": (7.61, 29.59),
    "SWALP": (6.70, 26.65),
}
ORDER = (
    "SGD-FP",
    "SWA-FP",
    "SGD-LP",
    "SWALP",
    "SWALP, average rounded",
    "2 bits, direct, no refresh",
    "2 bits, direct",
    "2 bits, retrained",
    "SQWA",
    "SQWA, average in float",
)
PAIRS = (
    ("SWALP", "SGD-LP"),
    ("SWALP", "SWA-FP"),
    ("SWALP", "SGD-FP"),
    ("SGD-LP", "SGD-FP"),
    ("SQWA", "2 bits, direct"),
    ("SQWA", "2 bits, retrained"),
    ("SQWA", "SGD-FP"),
)


def table(results: Sequence[dict[str, Any]], words: Sequence[dict[str, Any]] = ()) -> str:
    """One table of errors a data set, with the differences that the question asks for."""
    parts = []
    for name in sorted({result["settings"]["data"] for result in results}):
        own = [result for result in results if result["settings"]["data"] == name]
        shorter = [result for result in words if result["settings"]["data"] == name]
        parts += [_errors(name, own), _differences(own), _words(own, shorter), _integers(own), _footer(own)]
    return "\n\n".join(part for part in parts if part) or "no results yet"


def interval(values: Sequence[float]) -> str:
    """Mean ± half the width of its 95 % interval (Student's t over seeds)."""
    mean, spread = record.mean_and_spread(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = stats.t.ppf(0.975, len(values) - 1) * spread / math.sqrt(len(values))
    return f"{mean:.2f} ± {half:.2f}"


def _errors(name: str, results: Sequence[dict[str, Any]]) -> str:
    column = {"cifar10": 0, "cifar100": 1}.get(name)
    rows = []
    for method in ORDER:
        errors = [result["errors"][method] for result in results]
        sizes = {result["bytes"].get(method) for result in results} - {None}
        row = [method, interval(errors), ", ".join(f"{e:.2f}" for e in errors)]
        row.append(f"{max(sizes):,}" if sizes else "")
        if column is not None:
            row.append(f"{PUBLISHED[method][column]:.2f}" if method in PUBLISHED else "")
        rows.append(row)
    headers = ["method", "test error, %", "by seed", "bytes"] + (["published"] if column is not None else [])
    return record.markdown(headers, rows)


def _differences(results: Sequence[dict[str, Any]]) -> str:
    rows = []
    for first, second in PAIRS:
        gaps = [result["errors"][first] - result["errors"][second] for result in results]
        rows.append([f"{first} − {second}", interval(gaps), ", ".join(f"{gap:+.2f}" for gap in gaps)])
    return record.markdown(["difference of paired runs", "points", "by seed"], rows)


def _words(results: Sequence[dict[str, Any]], shorter: Sequence[dict[str, Any]]) -> str:
    if not shorter:
        return ""
    rows = []
    for wl in sorted({r["settings"]["word_length"] for r in (*results, *shorter)}, reverse=True):
        errors = [r["errors"] for r in (*results, *shorter) if r["settings"]["word_length"] == wl]
        gaps = [e["SWALP"] - e["SGD-LP"] for e in errors]
        columns = [interval([e[method] for e in errors]) for method in ("SGD-LP", "SWALP")]
        rows.append([wl, *columns, interval(gaps), len(errors)])
    return record.markdown(["bits of all numbers", "SGD-LP, %", "SWALP, %", "SWALP − SGD-LP", "seeds"], rows)


def _integers(results: Sequence[dict[str, Any]]) -> str:
    own = [result["int8"] for result in results if result.get("int8")]
    if not own:
        return ""
    rows = [
        ["test error, %", "", interval([found["error"] for found in own])],
        [
            "rows a second, one thread",
            f"{record.mean_and_spread(found['float32 rows per second'] for found in own)[0]:,.0f}",
            f"{record.mean_and_spread(found['int8 rows per second'] for found in own)[0]:,.0f}",
        ],
    ]
    return record.markdown(["the SWALP average on the CPU", "float32", "int8"], rows)


def _footer(results: Sequence[dict[str, Any]]) -> str:
    settings, where = results[0]["settings"], results[0]["environment"]
    seconds = sum(sum(result["cpu_seconds"].values()) for result in results)
    versions = where["versions"]
    return (
        f"{settings['data']}, {settings['network']}, {settings['train_rows']:,} training rows, "
        f"{settings['test_rows']:,} test rows; seeds {', '.join(str(r['seed']) for r in results)}; ± is half "
        f"the 95 % interval of the mean over seeds. Python {versions['python']}, torch {versions['torch']}, "
        f"swag {versions['swag']}; {where.get('device', where['cpu'])}, {where['threads']} thread; "
        f"{seconds:.0f} CPU seconds in all."
    )
