"""What benchmarks/gpu_check.py measures: each part of the work on a GPU, against a limit of the same run."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from clock import seconds
from models import block_products, gemma
from recording import CONTEXT, corpus_of

from lrt.activations import ActivationDataModule, Batch, RowFilter, Selection, plan_recording, record
from lrt.mapping import FitSpec, GroupedMoments, MapModule, MapSpec, Moments, ridge_path
from lrt.models import LanguageModel, Sampling, compute_prefix, generate
from lrt.steering import RowwiseAddition

REFERENCE = Path(__file__).parent / "reproduce_cpu.json"
STRENGTHS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
BATCH = 1024  # rows of a step
FOLDS = 10
# Sampled texts differ on another device, and so do the ratios that are read off them.
FVU_TOLERANCE, RATIO_TOLERANCE = 0.03, 0.15


@dataclass(frozen=True)
class Figure:
    """A row of the table.

    value  A text where a part failed: its error.
    limit  Share of the limit that was measured in the same run: 1 is the limit itself.
    """

    name: str
    value: float | str
    unit: str
    what: str
    limit: float | None = None


@dataclass(frozen=True)
class Size:
    """How much is measured.

    source, target  Shapes of the models: width, feed-forward width, heads, key/value heads, blocks.
    layer           The block of both that is recorded; later ones do not run.
    tokens          Tokens that are recorded.
    steps           Steps of the gradient fit, of 1,024 rows.
    items, new      Prompts of generation, each in seven conditions, and the new tokens of each.
    experiment      The lab's.
    """

    source: tuple[int, int, int, int, int]
    target: tuple[int, int, int, int, int]
    layer: int
    vocabulary: int
    tokens: int
    steps: int
    items: int
    new: int
    experiment: str


SIZES = {
    # Gemma-2 2b and 9b: 24 GB of weights
    "gemma": Size(
        (2304, 9216, 8, 4, 26), (3584, 14336, 16, 8, 42), 20, 256_000, 131_072, 400, 32, 64, "reproduce"
    ),
    # the same widths with fewer blocks and tokens: under 8 GB
    "small": Size((2304, 9216, 8, 4, 6), (3584, 14336, 16, 8, 6), 4, 32_000, 32_768, 100, 8, 32, "reproduce"),
    # of no meaning: that every part runs
    "tiny": Size((32, 64, 2, 1, 3), (48, 96, 2, 1, 3), 1, 500, 4096, 4, 2, 4, "micro"),
}


# -- parts -----------------------------------------------------------------------------------------


def reproduce(size: Size, device: str, folder: Path) -> Iterator[Figure]:
    """The lab's whole job on this device, and how far its figures are from a CPU's."""
    # as on the CPU, where these checkpoints run in float32
    models = [f"pair.{s}.{k}" for s in ("source", "target") for k in ("dtype=float32", f"device={device}")]
    overrides = [
        f"experiment={size.experiment}",
        "evaluate=true",
        f"trainer={'gpu' if device == 'cuda' else 'default'}",
        *models,
        "logging.mode=disabled",
        f"paths.artifacts={folder / 'artifacts'}",
        f"paths.report={folder / 'report'}",
        f"hydra.run.dir={folder / 'log'}",
    ]
    program = [sys.executable, "-c", "from lrt.cli.app import app; app()", "train"]
    start = time.perf_counter()
    done = subprocess.run([*program, *overrides], capture_output=True, text=True, cwd=folder)
    took = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"train ended with {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
    outcome = json.loads((folder / "log" / "outcome.json").read_text())
    what = f"`lrt train experiment={size.experiment} evaluate=true`, models in float32"
    yield Figure("lab", took, "s", what)
    yield from compared(outcome, json.loads(REFERENCE.read_text()), size.experiment)


def compared(outcome: dict[str, Any], reference: dict[str, Any], experiment: str) -> Iterator[Figure]:
    """Figures of the lab beside those of a CPU, which only the experiment of the reference has."""
    if experiment != reference["experiment"]:
        yield Figure("lab/fvu", outcome["fvu"], "", f"FVU of the map; {experiment} has no reference")
        return
    gap = outcome["fvu"] / reference["fvu"] - 1
    yield Figure(
        "lab/fvu",
        outcome["fvu"],
        "",
        f"FVU of the whole-corpus map; CPU {reference['fvu']:.4f}, {_within(abs(gap), FVU_TOLERANCE)}",
    )
    gaps = {
        name: abs(ratio - other)
        for name, ratio in reference["ratios"].items()
        if ratio is not None and (other := outcome["ratios"].get(name)) is not None
    }
    lost = [
        name for name in reference["ratios"] if name not in gaps and reference["ratios"][name] is not None
    ]
    worst = max(gaps, key=gaps.__getitem__)
    without = f"; without a ratio here: {', '.join(lost)}" if lost else ""
    yield Figure(
        "lab/ratios",
        gaps[worst],
        "",
        f"largest difference of {len(gaps)} transfer ratios from the CPU's ({worst}), "
        f"{_within(gaps[worst], RATIO_TOLERANCE)}{without}",
    )


def _within(gap: float, tolerance: float) -> str:
    return f"{'within' if gap <= tolerance else 'NOT within'} {tolerance:g}"


def recording(size: Size, device: str, folder: Path) -> Iterator[Figure]:
    """Recording and moments, each against its products alone."""
    pair, store, took = _recorded(size, device, folder)
    widths = pair[0].width, pair[1].width
    limit = _products(pair, size)
    del pair
    yield Figure(
        "record",
        size.tokens / took,
        "tokens/s",
        f"models of {widths[0]} and {widths[1]} up to block {size.layer}, into a store on disk, "
        f"{size.tokens} tokens; limit: the products of these blocks",
        limit / took,
    )
    yield _peak("record/memory", device)
    yield from _moments(store, size, widths, device)
    yield _peak("moments/memory", device)


def _moments(store: Path, size: Size, widths: tuple[int, int], device: str) -> Iterator[Figure]:
    data = _rows(store, size)

    def summed(batches: Iterator[Batch]) -> list[Moments]:
        folds = [Moments(*widths, device=device) for _ in range(FOLDS)]
        by_fold = GroupedMoments(folds)
        for batch in batches:
            x, y = (batch[side].to(device) for side in ("source", "target"))
            by_fold.add(x, y, batch["document"] % FOLDS)
        by_fold.flush()
        return folds

    def resident() -> Iterator[Batch]:
        for batch in islice(data.iterate("train", batch_rows=8192), 4):
            yield {name: v if name == "document" else v.to(device) for name, v in batch.items()}

    some = [*resident()]
    few, rows = sum(len(batch["document"]) for batch in some), data.rows["train"]

    def products() -> None:
        for batch in some:
            for x, y in zip(batch["source"].split(4096), batch["target"].split(4096), strict=True):
                x.T @ x, x.T @ y, y.T @ y

    train, *_, validation = summed(iter(some))
    products()
    limit = seconds(products)
    took = seconds(lambda: summed(iter(some)))
    what = (
        f"rows on the device into moments of {FOLDS} folds, {widths[0]} -> {widths[1]}; limit: the products"
    )
    yield Figure("moments", few / took, "rows/s", f"{what} in float32", limit / took)
    took = seconds(lambda: summed(data.iterate("train", batch_rows=8192)))
    what = "the same of rows from the store, which are read and moved to the device"
    yield Figure("moments/store", rows / took, "rows/s", what, limit * rows / few / took)
    ridge_path(train, validation)
    took = seconds(lambda: ridge_path(train, validation))
    yield Figure("ridge_path", took, "s", "decomposition in float64 and 89 ridge weights")


def gradient(size: Size, device: str, folder: Path) -> Iterator[Figure]:
    """Steps of a gradient fit from a store, against the same steps on rows that lie on the device."""
    pair, store, _ = _recorded(size, device, folder)
    widths = pair[0].width, pair[1].width
    del pair
    data = _rows(store, size)
    train = Moments(*widths, device=device)
    for batch in data.iterate("train", batch_rows=8192):
        train.update(batch["source"].to(device), batch["target"].to(device))
    spec = FitSpec(epochs=-(-size.steps // max(1, train.count // BATCH)))
    ridge = ridge_path(train, train)
    fitted, alone = (MapModule.from_moments(MapSpec(), spec, train, reference_ridge=ridge) for _ in range(2))
    precision: Any = "bf16-mixed" if device == "cuda" else "32-true"
    trainer = L.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision=precision,
        max_epochs=spec.epochs,
        max_steps=size.steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    took = seconds(lambda: trainer.fit(fitted, train_dataloaders=data.train_dataloader()))
    steps = trainer.global_step

    alone = alone.to(device)
    alone.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = torch.optim.SGD(alone.parameters(), lr=1e-9)
    batch = {name: rows.to(device) for name, rows in next(iter(data.train_dataloader())).items()}

    def in_a_loop() -> None:
        for number in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                loss = alone.training_step(batch, number)
            loss.backward()
            optimizer.step()

    in_a_loop()
    limit = seconds(in_a_loop)
    yield Figure(
        "gradient_fit",
        steps * BATCH / took,
        "rows/s",
        f"{steps} steps of {BATCH} rows from a store in Lightning's Trainer, {widths[0]} -> {widths[1]}, "
        f"{precision}; limit: the same steps on rows that lie on the device (so the share of time in steps)",
        limit / took,
    )
    yield _peak("gradient_fit/memory", device)


def generation(size: Size, device: str, folder: Path) -> Iterator[Figure]:  # noqa: ARG001
    """New tokens a second with all conditions in one batch, beside transformers' own `generate`."""
    (lm,) = _models(size, device, ("source",))
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, size.vocabulary, (size.items, 64), generator=generator)
    rows = torch.arange(size.items).repeat_interleave(len(STRENGTHS))
    vector = torch.randn(lm.width, generator=generator)
    offsets = (torch.tensor(STRENGTHS)[:, None] * vector).repeat(size.items, 1)
    sampling = Sampling(1.0, tuple(range(size.items)))
    repeated = prompts[rows].to(lm.device)

    def ours() -> None:
        prefix = compute_prefix(lm, prompts, None, size.layer)
        generate(lm, prefix, rows, RowwiseAddition(offsets), size.new, sampling=sampling)

    def theirs() -> None:
        lm.model.generate(
            repeated,
            attention_mask=torch.ones_like(repeated),
            max_new_tokens=size.new,
            min_new_tokens=size.new,
            do_sample=True,
            pad_token_id=0,
        )

    ours(), theirs()
    took, other = seconds(ours), seconds(theirs)
    count = len(rows) * size.new
    yield Figure(
        "generate",
        count / took,
        "tokens/s",
        f"{len(rows)} rows of {len(STRENGTHS)} strengths, {size.new} new tokens each, width {lm.width}, "
        f"{lm.depth} blocks; transformers' generate without steering: {count / other:,.0f}",
    )
    yield _peak("generate/memory", device)


PARTS: dict[str, tuple[Callable[[Size, str, Path], Iterator[Figure]], int]] = {
    "recording": (recording, 110),
    "gradient": (gradient, 90),
    "generation": (generation, 60),
    "reproduce": (reproduce, 300),
}
"""Each with its time limit in seconds. The longest comes last, so that a stopped run has the others."""


def _models(size: Size, device: str, sides: tuple[str, ...] = ("source", "target")) -> list[LanguageModel]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return [gemma(getattr(size, side), size.vocabulary, dtype, torch.device(device)) for side in sides]


def _recorded(size: Size, device: str, folder: Path) -> tuple[list[LanguageModel], Path, float]:
    """Both models, the folder of a store of their states, and the seconds that recording it took."""
    pair, took = _models(size, device), 0.0
    for name, sequences in (("warm", 32), ("store", size.tokens // CONTEXT)):
        corpus = corpus_of(sequences, min(size.vocabulary, 32_000))
        plan = plan_recording(*pair, [size.layer], [size.layer], corpus)
        took = seconds(lambda name=name, plan=plan, corpus=corpus: record(folder / name, *pair, plan, corpus))
    return pair, folder / "store", took


def _products(pair: list[LanguageModel], size: Size) -> float:
    """Seconds of the products of the blocks that run."""
    batch = min(32 * CONTEXT, size.tokens)
    return seconds(lambda: [block_products(lm, size.layer, size.tokens, batch) for lm in pair])


def _rows(store: Path, size: Size) -> ActivationDataModule:
    everything = RowFilter(max_norm_ratio=None, first_position=False)
    data = ActivationDataModule(store, Selection((size.layer,), (size.layer,), everything), batch_rows=BATCH)
    data.setup()
    return data


def _peak(name: str, device: str) -> Figure:
    if device == "cuda":
        gigabytes = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return Figure(name, gigabytes, "GB", "peak memory of the GPU")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Figure(name, peak / 1e9, "GB", "peak memory of the process so far")
