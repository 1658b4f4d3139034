"""That what the benchmarks compare gives the same answers; how fast is for them to say."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("clock", "models", "sweeping", "fitting", "recording", "run", "gpu_parts", "gpu_check"):
        monkeypatch.delitem(sys.modules, name, raising=False)


pytestmark = pytest.mark.usefixtures("benches")
SHAPE = (64, 96, 4, 2)


def test_our_sweep_and_the_protocol_it_is_timed_against_give_the_same_answers() -> None:
    import sweeping

    put = sweeping.task(3, SHAPE, 500)
    ours, theirs = sweeping.ours(put), sweeping.bench_protocol(put)
    assert ours.shape == (len(sweeping.STRENGTHS), 3)
    assert float((ours - theirs).abs().max()) < 1e-4
    assert float((ours - ours[3]).abs().max()) > 1e-3  # the strengths do something


def test_the_recipe_is_the_papers() -> None:
    import fitting
    from running import composed

    config = composed("train", "experiment=paper_base", "suite=storybook")
    assert config.batches.rows == fitting.PAPER_BATCH
    steps = config.fit.epochs * config.corpus.tokens.train / config.batches.rows
    assert abs(steps - fitting.PAPER_STEPS) <= 1


@pytest.mark.parametrize("part", ["recording", "gradient", "generation"])
def test_every_part_of_the_gpu_check_runs_on_a_cpu(part: str, tmp_path: Path) -> None:
    import gpu_parts

    work, seconds = gpu_parts.PARTS[part]
    figures = list(work(gpu_parts.SIZES["tiny"], "cpu", tmp_path))
    assert seconds > 0
    assert len({figure.name for figure in figures}) == len(figures)
    assert all(isinstance(figure.value, float | int) and figure.value > 0 for figure in figures)
    assert all(0 < figure.limit < 3 for figure in figures if figure.limit is not None)


def test_the_gpu_check_takes_less_than_ten_minutes() -> None:
    import gpu_parts

    assert sum(limit for _, limit in gpu_parts.PARTS.values()) < 600


def test_a_part_that_fails_or_takes_too_long_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loses neither the figures before its end nor other parts'; and it leaves no process behind."""
    import gpu_check
    from gpu_parts import Figure

    mark = tmp_path / "still running"
    late = f"import pathlib, time; time.sleep(2); pathlib.Path({str(mark)!r}).touch()"
    script = tmp_path / "gpu_check.py"
    script.write_text(
        "import json, subprocess, sys, time\n"
        "log = sys.argv[sys.argv.index('--log') + 1]\n"
        "figure = {'name': 'first', 'value': 1, 'unit': 's', 'what': '', 'limit': None}\n"
        "open(log, 'w').write(json.dumps(figure) + '\\n')\n"
        "if sys.argv[1] == 'gradient':\n"
        "    raise MemoryError('out of | memory')\n"
        "if sys.argv[1] == 'generation':\n"
        f"    subprocess.run([sys.executable, '-c', {late!r}])\n"
    )
    monkeypatch.setattr(gpu_check, "HERE", tmp_path)
    fine, failed, stopped = (
        gpu_check.run_apart(part, "tiny", "cpu", limit)
        for part, limit in (("recording", 60), ("gradient", 60), ("generation", 1))
    )
    first = Figure("first", 1, "s", "")
    assert fine == [first]
    assert failed[0] == stopped[0] == first
    assert "MemoryError: out of / memory" in failed[1].value
    assert "1 s" in stopped[1].value
    time.sleep(1.5)
    assert not mark.exists()


def test_a_page_takes_in_the_table_of_the_gpu_check(tmp_path: Path) -> None:
    import gpu_check

    figures = [
        {"name": "record", "value": 123_456, "unit": "tokens/s", "what": "both", "limit": 0.5},
        {"name": "gradient", "value": "failed: not done after 90 s", "unit": "", "what": "", "limit": None},
    ]
    machine = {"device": "H100", "cores": 8, "versions": {"torch": "2"}}
    result = {"machine": machine, "size": "gemma", "date": "2026-11-28", "seconds": 400.0}
    parts = {"recording": figures[:1], "gradient": figures[1:]}
    page = tmp_path / "performance.md"
    page.write_text((ROOT / "docs" / "performance.md").read_text())
    for _ in range(2):  # the marks stay for the next run
        gpu_check.write({**result, "parts": parts}, tmp_path, page)
    text = page.read_text()
    assert text.count("| `record` | 123,456 tokens/s | 0.50 | both |") == 1
    assert text.count("failed: not done after 90 s") == 1
    assert (tmp_path / "gpu.md").read_text() in text


def test_the_lab_is_compared_with_what_a_cpu_gave() -> None:
    import gpu_parts

    reference = {"experiment": "reproduce", "fvu": 0.1, "ratios": {"dogs": 1.0, "mood": 0.9, "none": None}}
    near = {"fvu": 0.101, "ratios": {"dogs": 1.05, "mood": 0.88, "none": 0.2}}
    far = {"fvu": 0.2, "ratios": {"dogs": 0.2, "mood": None, "none": None}}
    assert not any("NOT" in f.what for f in gpu_parts.compared(near, reference, "reproduce"))
    fvu, ratios = gpu_parts.compared(far, reference, "reproduce")
    assert "NOT within" in fvu.what
    assert ratios.value == pytest.approx(0.8)
    assert "mood" in ratios.what
    committed = json.loads(gpu_parts.REFERENCE.read_text())
    assert committed["experiment"] == "reproduce"
    assert len(committed["ratios"]) > 10


@pytest.mark.slow
def test_the_gpu_check_runs_as_a_whole_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--size", "tiny", "--device", "cpu"]
    page = (ROOT / "docs" / "performance.md").read_text()
    subprocess.run([*command, "--output", str(tmp_path)], check=True, timeout=580)
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert set(result["parts"]) == {"recording", "gradient", "generation", "reproduce"}
    assert (ROOT / "docs" / "performance.md").read_text() == page  # a CPU's figures are no GPU's


@pytest.mark.slow
def test_every_part_of_a_benchmark_runs() -> None:
    import fitting
    import recording

    small: Any = {"rows": 4096, "widths": (16, 24)}
    rows = [*fitting.optimum_rows(**small), fitting.lightning_row(runs=1, steps=8, batch=64)]
    rows += [recording.early_exit_row(runs=1, blocks=1)]
    assert all(row.ratio > 0 for row in rows)
    assert rows[-1].more["identical"]
    assert torch.get_default_dtype() == torch.float32
