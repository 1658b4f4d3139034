"""What a GPU makes of this project, in under ten minutes, without network and without any download.

python benchmarks/gpu_check.py [PART ...] [--size gemma|small|tiny] [--device cuda|cpu]

- `reproduce`: the storybook lab on the GPU, against the figures of a CPU (`reproduce_cpu.json`).
- `recording`: both models of a pair over random tokens into a store, and rows summed into moments of ten
  folds, each against the matrix products alone, which are measured in the same run.
- `gradient`: a gradient fit from that store, against its steps alone on rows that lie on the GPU.
- `generation`: new tokens a second under steering.

The models are Gemma-2 2b and 9b with random weights: speed does not depend on the weights. Each part is a
process with a time limit. A part that fails is a row with its error, and no other part is lost by it.

Writes `gpu.json` and `gpu.md` beside this file and, of a GPU, the table of docs/performance.md. Needs only
the package itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from gpu_parts import PARTS, SIZES, Figure, Size

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- gpu_check: begin -->\n).*?(<!-- gpu_check: end -->)", re.DOTALL)


def run_part(part: str, size: Size, device: str, log: Path) -> None:
    """Run one part in this process; every figure is written as soon as it is known."""
    work, _ = PARTS[part]
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder, log.open("a") as file:
        for figure in work(size, device, Path(folder)):
            file.write(json.dumps(asdict(figure)) + "\n")
            file.flush()


def run_apart(part: str, size: str, device: str, limit: float) -> list[Figure]:
    """Run one part in a process of its own: its figures, and its error as the last where it failed."""
    command = [sys.executable, str(HERE / "gpu_check.py"), part, "--size", size, "--device", device]
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        log, errors = Path(folder) / "figures.jsonl", Path(folder) / "errors"
        with errors.open("w") as file:
            process = subprocess.Popen(
                [*command, "--log", str(log)],
                stdout=subprocess.DEVNULL,
                stderr=file,
                env={**os.environ, "TMPDIR": folder},
                start_new_session=True,
            )
            error = None
            try:
                if code := process.wait(limit):
                    error = f"failed ({code}): "
            except subprocess.TimeoutExpired:
                error = f"failed: not done after {limit:.0f} s"
            finally:
                # what the part has started ends with it
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if error is not None and error.endswith(": "):
            lines = [line.strip() for line in errors.read_text().splitlines() if line.strip()]
            error += (lines[-1] if lines else "no message")[:300].replace("|", "/")
        lines = log.read_text().splitlines() if log.is_file() else []
    figures = [Figure(**json.loads(line)) for line in lines]
    return [*figures, Figure(part, error, "", "")] if error else figures


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "lightning", "transformers")},
    }


def markdown(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    on = result["machine"]
    command = f"python benchmarks/gpu_check.py --size {result['size']}"
    lines = [
        f"Measured on {on['device']} with {on['cores']} CPU cores, torch {on['versions']['torch']}, "
        f"{result['date']}, {result['seconds']:.0f} s: `{command}`.",
        "",
        "| | value | of the limit | what |",
        "|---|---:|---:|---|",
    ]
    for figure in (figure for part in PARTS for figure in result["parts"].get(part, [])):
        value, unit, limit = figure["value"], figure["unit"], figure["limit"]
        shown = f"{_number(value)} {unit}".strip()
        share = "" if limit is None else f"{limit:.2f}"
        lines.append(f"| `{figure['name']}` | {shown} | {share} | {figure['what']} |")
    return "\n".join(lines) + "\n"


def _number(value: float | str) -> str:
    """To three significant digits where it is less than 100: a fast part does not take 0 s."""
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def earlier(file: Path, size: str, device: str) -> dict[str, Any]:
    """The figures of parts that were measured before, of this size on this machine."""
    if not file.is_file():
        return {}
    result = json.loads(file.read_text())
    same = (result["size"], result["machine"]) == (size, machine(device))
    return dict(result["parts"]) if same else {}


def write(result: dict[str, Any], folder: Path, page: Path | None) -> None:
    """Write both files, and the block of a page between its two marks."""
    (folder / "gpu.json").write_text(json.dumps(result, indent=2) + "\n")
    table = markdown(result)
    (folder / "gpu.md").write_text(table)
    if page is not None and page.is_file():
        page.write_text(BLOCK.sub(lambda marks: f"{marks[1]}{table}{marks[2]}", page.read_text()))


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after another; the files are written after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="of " + ", ".join(PARTS) + "; all by default"
    )
    parser.add_argument("--size", choices=SIZES, default="gemma", help="small fits a GPU of 12 GB")
    available = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=available)
    parser.add_argument("--output", type=Path, default=HERE, help="folder of gpu.json and gpu.md")
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    if asked.log is not None:
        run_part(asked.parts[0], SIZES[asked.size], asked.device, asked.log)
        return 0
    asked.output.mkdir(parents=True, exist_ok=True)
    # a CPU's figures are no GPU's
    page = PAGE if asked.device == "cuda" else None
    kept = earlier(asked.output / "gpu.json", asked.size, asked.device)
    start, failed = time.perf_counter(), False
    for part in asked.parts or PARTS:
        figures = run_apart(part, asked.size, asked.device, PARTS[part][1])
        for figure in figures:
            failed |= isinstance(figure.value, str)
            print(f"{figure.name:24} {_number(figure.value)} {figure.unit}", flush=True)
        kept[part] = [asdict(figure) for figure in figures]
        result = {
            "machine": machine(asked.device),
            "size": asked.size,
            "date": time.strftime("%Y-%m-%d"),
            "seconds": round(time.perf_counter() - start, 1),
            "parts": kept,
        }
        write(result, asked.output, page)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
