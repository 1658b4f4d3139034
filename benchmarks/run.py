"""make bench: speed as a ratio to a limit measured in the same run.

Rows so far: moments against the float32 matrix products that they are made of. Each figure is the
median of several runs; nothing here asserts a time.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lrt.mapping import Moments

RUNS = 7
ROWS, D_SOURCE, D_TARGET = 32_768, 256, 384


def seconds(work: Callable[[], object]) -> list[float]:
    """Wall seconds of `RUNS` runs after a warm-up."""
    work()
    found = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found


def moments_row() -> dict[str, object]:
    """Moments of paired rows over the three products alone."""
    x, y = torch.randn(ROWS, D_SOURCE), torch.randn(ROWS, D_TARGET)

    def products() -> None:
        for a, b in zip(x.split(4096), y.split(4096), strict=True):
            a.T @ a, a.T @ b, b.T @ b

    limit, ours = seconds(products), seconds(lambda: Moments(D_SOURCE, D_TARGET).update(x, y))
    ratios = [a / b for a, b in zip(limit, ours, strict=True)]
    return {
        "name": "moments/gemm_limit",
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "what": f"float32 products alone over the whole update, {ROWS} rows, {D_SOURCE} -> {D_TARGET}",
    }


def main() -> None:
    """Writes benchmarks/results.json and prints the table."""
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "rows": [moments_row()],
    }
    (Path(__file__).parent / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'name':24} {'ratio':>6}  spread")
    for row in result["rows"]:  # type: ignore[attr-defined]
        print(f"{row['name']:24} {row['ratio']:6}  {row['spread']}  {row['what']}")


if __name__ == "__main__":
    main()
