"""make bench: speed as ratios to a hardware limit or another package, both measured in the same run.

python benchmarks/run.py [PART ...] writes results.json, results.md and results.png into its own folder. With
parts (recording, storing, fitting, sweeping) it runs only these and keeps the other rows. It asserts no time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from clock import Row

HERE = Path(__file__).parent
ROOT = HERE.parent


def recording() -> Iterator[Row]:
    from recording import early_exit_row, recording_rows

    yield from recording_rows()
    yield early_exit_row()


def storing() -> Iterator[Row]:
    from recording import noise_row, store_rows

    yield from store_rows()
    yield noise_row()


def fitting() -> Iterator[Row]:
    from fitting import (
        fold_rows,
        lightning_row,
        memory_row,
        moments_row,
        optimum_rows,
        paper_row,
        path_row,
    )

    yield moments_row()
    yield from fold_rows()
    yield path_row()
    yield lightning_row()
    yield from optimum_rows()
    yield paper_row()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield memory_row(Path(folder))


def sweeping() -> Iterator[Row]:
    from sweeping import bench_rows, generation_row, peers_environment, vectors_row

    yield from bench_rows()
    yield generation_row()
    try:
        python = peers_environment(ROOT / ".venv-peers", ["steering-vectors"])
    except subprocess.CalledProcessError as error:
        print(f"sweep/steering_vectors is skipped: its environment cannot be created ({error})")
    else:
        yield vectors_row(python)


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "recording": recording,
    "storing": storing,
    "fitting": fitting,
    "sweeping": sweeping,
}


def machine() -> dict[str, Any]:
    """Hardware and package versions of this machine."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    names = ("torch", "lightning", "transformers", "safetensors", "numpy", "scikit-learn")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def plain(row: Row, part: str) -> dict[str, Any]:
    """A row as written to results.json."""
    record = asdict(row) | {"part": part, "date": time.strftime("%Y-%m-%d"), "machine": machine()}
    record["ratio"] = round(row.ratio, 3)
    record["spread"] = [round(each, 3) for each in row.spread]
    return record


def markdown(result: dict[str, Any]) -> str:
    """The rows of results.json as a Markdown table."""
    machines = {
        f"{m['cores']} cores ({m['cpu']}), {m['memory_gib']} GiB, torch {m['versions']['torch']}"
        for m in (row["machine"] for row in result["rows"])
    }
    lines = [
        f"`make bench` on {'; on '.join(sorted(machines))}.",
        "",
        "| | ratio | spread | aim | what | measured |",
        "|---|---:|---|---:|---|---|",
    ]
    lines += [
        f"| `{row['name']}` | {row['ratio']:.2f} | {row['spread'][0]:.2f} to {row['spread'][1]:.2f} | "
        f"{'' if row['aim'] is None else format(row['aim'], '.2f')} | {row['what']} | {row['date']} |"
        for row in result["rows"]
    ]
    return "\n".join(lines) + "\n"


def figure(result: dict[str, Any], file: Path) -> None:
    """Draw the ratios with their spread on a logarithmic axis, aims as ticks."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = result["rows"][::-1]
    drawn, axes = plt.subplots(figsize=(7.5, 0.36 * len(rows) + 0.9))
    for at, row in enumerate(rows):
        axes.plot(row["spread"], [at, at], color="#8fb3d9", linewidth=5, solid_capstyle="butt")
        axes.plot(row["ratio"], at, "o", color="#1f4e79")
        if row["aim"] is not None:
            axes.plot([row["aim"]] * 2, [at - 0.35, at + 0.35], color="#b03a2e", linewidth=1.5)
    axes.axvline(1, color="#999999", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_xlabel("ratio to the limit or the peer of the same run (red: aim)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    drawn.tight_layout()
    drawn.savefig(file, dpi=110)
    plt.close(drawn)


def write(rows: dict[str, dict[str, Any]]) -> None:
    """Write all files. Called after every row, so that an interrupted run loses none."""
    order = {part: number for number, part in enumerate(PARTS)}
    result = {"rows": sorted(rows.values(), key=lambda row: order[row["part"]])}
    (HERE / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "results.md").write_text(markdown(result))
    figure(result, HERE / "results.png")


def main(arguments: list[str] | None = None) -> None:
    """Run the parts, print each row and write the files."""
    parser = argparse.ArgumentParser(description="Speed as ratios to a limit or a peer of the same run.")
    parser.add_argument("parts", nargs="*", help="of " + ", ".join(PARTS))
    parts = parser.parse_args(arguments).parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    file = HERE / "results.json"
    before = json.loads(file.read_text())["rows"] if file.is_file() else []
    rows = {row["name"]: row for row in before}
    start = time.perf_counter()
    for part in parts:
        for row in PARTS[part]():
            rows[row.name] = plain(row, part)
            print(f"{row.name:26} {row.ratio:7.3f}  {row.what}", flush=True)
            write(rows)
    print(f"{', '.join(parts)}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
