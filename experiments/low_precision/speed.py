"""How long rounding takes beside a copy of the same tensor, eager and compiled.

    python experiments/low_precision/speed.py             64 MB of float32 and a layer's 1 MB, into results/
    python experiments/low_precision/speed.py --quick     a few seconds, printed only
    python experiments/low_precision/speed.py --table     the results as Markdown, without running anything

Two copies are timed: into memory that is there, and into new memory (`clone`), as every quantizer returns a
new tensor; for large tensors the pages of new memory cost more than the copying.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import record
from experiments.performance.timing import interleaved
from swag import lowprecision as lp

HERE = Path(__file__).resolve().parent
KIND = "low_precision_speed"
COPY, CLONE = "copy into memory that is there", "copy into new memory"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "speed.json")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="small tensors, few repeats, nothing written")
    parser.add_argument("--table", action="store_true", help="print the table of --out and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table:
        print(table(record.read(args.out, KIND)))
        return 0
    sizes = [(64, 1 << 12)] if args.quick else [(64, 1 << 12), (256, 1 << 16)]
    payload = {"sizes": [measure(size, 3 if args.quick else 15, args.device) for size in sizes]}
    if args.quick:
        print(rows(payload))
        return 0
    record.write(args.out, KIND, payload, device=args.device)
    print(table(record.read(args.out, KIND)))
    return 0


def measure(shape: tuple[int, int], repeats: int, device: str) -> dict[str, Any]:
    """Seconds a call on a tensor of this shape."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    there = torch.empty_like(x)
    kernel = lp.compiled_kernel()
    calls: dict[str, Any] = {COPY: partial(there.copy_, x), CLONE: x.clone}
    for name, own in {"eager": {}, "compiled": {"kernel": kernel}}.items():
        calls |= {
            f"fixed point, stochastic, {name}": partial(lp.fixed_point, x, 8, 4, **own),
            f"fixed point, nearest, {name}": partial(lp.fixed_point, x, 8, 4, rounding="nearest", **own),
            f"block, stochastic, {name}": partial(lp.block_floating_point, x, 8, **own),
            f"block by row, stochastic, {name}": partial(lp.block_floating_point, x, 8, dim=0, **own),
            f"block of 64, stochastic, {name}": partial(lp.block_floating_point, x, 8, block=64, **own),
        }
    for call in calls.values():  # compiles
        call()
    timings = interleaved(calls, repeats=repeats, seconds=60.0)
    return {"numel": x.numel(), "seconds": {name: timing.to_dict() for name, timing in timings.items()}}


def rows(payload: dict[str, Any]) -> str:
    """Each call in milliseconds, and as a multiple of both copies."""
    parts = []
    for size in payload["sizes"]:
        seconds = {name: timing["median"] for name, timing in size["seconds"].items()}
        lines = [
            [
                name + (" (contended)" if size["seconds"][name]["contended"] else ""),
                f"{1e3 * value:.2f}",
                f"{value / seconds[CLONE]:.1f}",
                f"{value / seconds[COPY]:.1f}",
            ]
            for name, value in seconds.items()
        ]
        title = f"{size['numel']:,} float32 values"
        parts.append(record.markdown([title, "ms", "× a copy into new memory", "× into memory there"], lines))
    return "\n\n".join(parts)


def table(result: dict[str, Any]) -> str:
    """The README's table."""
    where = result["environment"]
    return (
        f"{rows(result)}\n\nMedians of calls in turn, one thread. torch {where['versions']['torch']}; "
        f"{where.get('device', where['cpu'])}."
    )


if __name__ == "__main__":
    sys.exit(main())
