"""Speed of fits: moments, the ridge path, Lightning's cost per step, seconds to within 1% of the optimum."""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from clock import Row, row, seconds, turns
from lightning.pytorch.loggers import CSVLogger
from models import LARGE, SMALL
from torch.utils.data import DataLoader

from lrt.mapping import (
    FitHistory,
    FitSpec,
    GroupedMoments,
    MapModule,
    MapSpec,
    Moments,
    SharedRidge,
    ridge_path,
)
from lrt.storage.checkpoints import DurableCheckpoints, resuming

Batch = dict[str, torch.Tensor]
PAPER_STEPS, PAPER_BATCH = 2197, 32 * 512  # 4 epochs of 9M tokens


def planted(rows: int, widths: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Paired rows: a source with a power-law spectrum, and a noisy affine map of it."""
    generator = torch.Generator().manual_seed(0)
    d, m = widths
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    weight = torch.randn(m, d, generator=generator) / d**0.5
    spectrum = torch.arange(1, d + 1).float() ** -0.7
    drawn = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(rows, d, generator=drawn) * spectrum @ turn.T * 10 + 1
    y = x @ weight.T + torch.randn(rows, m, generator=drawn)
    return x, y


def moments_row(runs: int = 7, rows: int = 16_384) -> Row:
    """Moments of paired rows, against their three matrix products alone."""
    d, m = SMALL[0], LARGE[0]
    x, y = torch.randn(rows, d), torch.randn(rows, m)

    def products() -> None:
        for a, b in zip(x.split(4096), y.split(4096), strict=True):
            a.T @ a, a.T @ b, b.T @ b

    def ours() -> None:
        Moments(d, m).update(x, y)

    ours(), products()
    took, limit = turns(ours, products, runs)
    what = f"the three float32 products of each chunk, alone, over moments of {rows} rows, {d} -> {m}"
    return row("moments/gemm_limit", what, took, limit, aim=0.7)


def fold_rows(runs: int = 7, rows: int = 16_384, folds: int = 10) -> Iterator[Row]:
    """Moments of ten folds of documents, against their three matrix products alone.

    Batches are those of a store, and those of a pass over pools of 16 tokens. One accumulator for all rows is
    timed beside them.
    """
    d, m = SMALL[0], LARGE[0]
    x, y = torch.randn(rows, d), torch.randn(rows, m)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (rows,), generator=generator)
    document = torch.arange(rows).repeat_interleave(lengths)[:rows]

    def products() -> None:
        for a, b in zip(x.split(4096), y.split(4096), strict=True):
            a.T @ a, a.T @ b, b.T @ b

    def summed(batch: int, groups: int) -> None:
        moments = GroupedMoments([Moments(d, m) for _ in range(groups)])
        for a, b, of in zip(x.split(batch), y.split(batch), document.split(batch), strict=True):
            moments.add(a, b, of % groups)
        moments.flush()

    for name, batch in (("moments/folds", 8192), ("moments/folds_small_batches", 512)):
        ours = partial(summed, batch, folds)
        products(), ours()
        took, limit, one = [], [], []
        for _ in range(runs):
            limit.append(seconds(products))
            one.append(seconds(partial(summed, batch, 1)))
            took.append(seconds(ours))
        what = (
            f"the three float32 products of each chunk, alone, over moments of {folds} folds of documents, "
            f"{rows} rows in batches of {batch}, {d} -> {m}"
        )
        beside = statistics.median(single / all_ for single, all_ in zip(one, took, strict=True))
        yield row(name, what, took, limit, aim=0.7, one_accumulator_over_folds=round(beside, 3))


def path_row(runs: int = 5) -> Row:
    """A hundred ridge weights after one decomposition, against 0.1 seconds."""
    d, m = SMALL[0], LARGE[0]
    train, validation = Moments(d, m), Moments(d, m)
    train.update(*planted(8192, (d, m)))
    validation.update(*planted(2048, (d, m), seed=1))
    # many weights, so that the path takes measurably longer than the products before it
    hundreds = 100
    weights = torch.logspace(-3, 6, 100 * hundreds + 1, dtype=torch.float64)
    decomposed = seconds(lambda: SharedRidge(train, validation, weights))
    many, one = (SharedRidge(train, validation, w) for w in (weights, weights[:1]))
    ours = []
    for _ in range(runs):
        took = seconds(lambda: many.fit(train, validation)) - seconds(lambda: one.fit(train, validation))
        if took <= 0:
            raise RuntimeError("the path takes no measurable time: run this on an idle machine")
        ours.append(took / hundreds)
    what = f"0.1 s over what 100 more ridge weights take after one decomposition, {d} -> {m}"
    return row("fit/ridge_path", what, ours, [0.1] * runs, aim=1.0, decomposition=round(decomposed, 3))


def _quiet() -> dict[str, Any]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


def _module(x: torch.Tensor, y: torch.Tensor, spec: FitSpec, validation: Moments) -> MapModule:
    train = Moments(x.shape[1], y.shape[1])
    train.update(x, y)
    return MapModule.from_moments(MapSpec(), spec, train, reference_ridge=ridge_path(train, validation))


def lightning_row(runs: int = 5, steps: int = 120, batch: int = 1024) -> Row:
    """The same steps of the same module, in a plain loop and in Lightning's Trainer."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        return _lightning_row(Path(place), runs, steps, batch)


def _lightning_row(folder: Path, runs: int, steps: int, batch: int) -> Row:
    widths = SMALL[0], LARGE[0]
    x, y = planted(batch * 8, widths)
    held = Moments(*widths)
    held.update(*planted(2048, widths, seed=1))
    batches: list[Batch] = [
        {"source": a, "target": b} for a, b in zip(x.split(batch), y.split(batch), strict=True)
    ]
    batches = batches * (steps // len(batches))
    spec = FitSpec(epochs=1)

    def in_trainer() -> None:
        # the callbacks of train.py, but for steering evaluations, which are no part of a step
        callbacks: list[L.Callback] = [
            FitHistory(),
            *resuming(folder / "last.ckpt"),
        ]
        options = _quiet() | {"enable_checkpointing": True, "logger": CSVLogger(folder)}
        trainer = L.Trainer(max_epochs=1, callbacks=callbacks, plugins=[DurableCheckpoints()], **options)
        module = _module(x, y, spec, held)
        start = time.perf_counter()
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        took.append(time.perf_counter() - start)

    def in_a_loop() -> None:
        module = _module(x, y, spec, held)
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        optimizer = module.configure_optimizers()
        start = time.perf_counter()
        for number, each in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = spec.rate_at(number, len(batches))
            optimizer.zero_grad()
            module.training_step(each, number).backward()
            optimizer.step()
        plain.append(time.perf_counter() - start)

    took: list[float] = []
    plain: list[float] = []
    for _ in range(runs + 1):
        in_a_loop()
        in_trainer()
    what = (
        f"a plain loop over Lightning's Trainer, {len(batches)} steps of {batch} rows, {widths[0]} -> "
        f"{widths[1]}, its start, log and checkpoint included"
    )
    return row("fit/lightning", what, took[1:], plain[1:], aim=0.87)


class _Within(L.Callback):
    """Records when validation comes within 1% of the optimum, and optionally stops there."""

    def __init__(self, validation: Moments, optimum: float, every: int, stop: bool) -> None:
        self.validation, self.optimum, self.every, self.stop = validation, optimum, every, stop
        self.start, self.spent, self.reached, self.excess = 0.0, 0.0, None, float("inf")

    def on_train_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if (trainer.global_step % self.every) and trainer.global_step != trainer.estimated_stepping_batches:
            return
        before = time.perf_counter()  # validation is not part of the fit
        self.excess = self.validation.fvu_of(module.affine()) / self.optimum - 1
        now = time.perf_counter()
        if self.reached is None and self.excess <= 0.01:
            self.reached = before - self.start - self.spent
            trainer.should_stop = self.stop
        self.spent += now - before


class _Problem:
    """Paired rows in memory, with fits of them in closed form and by gradient."""

    def __init__(self, rows: int, widths: tuple[int, int]) -> None:
        self.rows, self.widths = rows, widths
        self.x, self.y = planted(rows, widths)
        self.held_x, self.held_y = planted(8192, widths, seed=1)
        self.held = Moments(*widths)
        self.held.update(self.held_x, self.held_y)

    def batches(self, size: int) -> list[Batch]:
        parts = zip(self.x.split(size), self.y.split(size), strict=True)
        return [{"source": a, "target": b} for a, b in parts]

    def closed(self) -> float:
        """Fit by moments and the whole ridge path; returns the best validation error."""
        train = Moments(*self.widths)
        for each in self.batches(1024):
            train.update(each["source"], each["target"])
        return ridge_path(train, self.held).fvu_validation

    def gradient_row(self, name: str, spec: FitSpec, size: int, steps: int, closed_took: list[float]) -> Row:
        """Seconds of a gradient fit to within 1% of the optimum, or to its end."""
        source, optimum = self.batches(size), self.closed()
        start = time.perf_counter()
        module = _module(self.x, self.y, spec, self.held)  # computes the moments that whitening needs
        prepared = time.perf_counter() - start if spec.whitening != "none" else 0.0
        watch = _Within(self.held, optimum, every=max(1, len(source) // 4), stop=True)
        torch.manual_seed(0)
        trainer = L.Trainer(max_epochs=spec.epochs, max_steps=steps, callbacks=[watch], **_quiet())
        trainer.fit(module, DataLoader(source, batch_size=None, shuffle=True))  # type: ignore[arg-type]
        whole = time.perf_counter() - watch.start - watch.spent
        took = prepared + (whole if watch.reached is None else watch.reached)
        ends = (
            f"to within 1% of the optimum after {trainer.global_step} steps"
            if watch.reached is not None
            else f"to its end, {watch.excess:.0%} above the optimum, which it does not reach"
        )
        allowed = steps if steps > 0 else len(source) * spec.epochs
        what = (
            f"the closed form's seconds over this fit's, {ends}; {spec.optimizer} at {spec.learning_rate:g}, "
            f"{allowed} steps allowed, {size} rows a batch, {self.rows} rows in memory, {self.widths[0]} -> "
            f"{self.widths[1]}"
        )
        half = sorted(closed_took)[len(closed_took) // 2]
        return row(name, what, [took], [half], final_excess=round(watch.excess, 5))


def paper_row(rows: int = 65_536, widths: tuple[int, int] = (192, 288)) -> Row:
    """The paper's recipe with its batch size and number of steps, at smaller widths to save time."""
    problem = _Problem(rows, widths)
    problem.closed()
    spec = FitSpec(
        "AdamW", 1e-4, {}, schedule="constant", warmup=0.0, whitening="none", ridge=False, epochs=PAPER_STEPS
    )
    return problem.gradient_row(
        "fit/paper_recipe", spec, PAPER_BATCH, PAPER_STEPS, [seconds(problem.closed) for _ in range(3)]
    )


def optimum_rows(rows: int = 65_536, widths: tuple[int, int] = (512, 768)) -> Iterator[Row]:
    """Seconds to within 1% of the best validation error, from rows in memory.

    Compares the closed form, the default gradient fit and scikit-learn's Ridge.
    """
    from sklearn.linear_model import Ridge

    problem = _Problem(rows, widths)
    held_y = problem.held_y
    numpy_x, numpy_y = problem.x.numpy(), problem.y.numpy()
    theirs = Ridge(alpha=1.0)
    optimum = problem.closed()
    theirs.fit(numpy_x, numpy_y)
    closed_took, sklearn_took = turns(problem.closed, lambda: theirs.fit(numpy_x, numpy_y), runs=3)
    predicted = torch.from_numpy(theirs.predict(problem.held_x.numpy()))
    excess = (
        float((predicted - held_y).square().sum() / (held_y - held_y.mean(0)).square().sum()) / optimum - 1
    )
    yield row(
        "fit/closed_form",
        f"scikit-learn's Ridge at one given weight over moments and the whole ridge path, {rows} rows, "
        f"{widths[0]} -> {widths[1]}",
        closed_took,
        sklearn_took,
        excess_of_scikit_learn=round(excess, 5),
    )
    yield problem.gradient_row("fit/default_gradient", FitSpec(epochs=16), 1024, -1, closed_took)


_MEMORY = """
import json, sys, threading, time
from pathlib import Path
sys.path[:0] = [{here!r}]
from recording import store_of
import torch
from lrt.activations import ActivationDataModule, RowFilter, Selection
import lightning as L
from lrt.mapping import FitSpec, MapModule, MapSpec, Moments, ridge_path

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])

store = Path(sys.argv[1])
data = ActivationDataModule(store, Selection((0,), (0,), RowFilter(max_norm_ratio=None)), window_rows=8192)
data.setup()
peak, done = 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
moments = Moments(128, 192)
for batch in data.iterate("train", 1024):
    moments.update(batch["source"], batch["target"])
ridge = ridge_path(moments, moments)
module = MapModule.from_moments(MapSpec(), FitSpec(epochs=1), moments, reference_ridge=ridge)
L.Trainer(
    accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False,
).fit(module, train_dataloaders=data.train_dataloader())
done = True
print(json.dumps(peak))
"""


def memory_row(folder: Path, few: int = 65_536) -> Row:
    """Peak memory of computing moments and one epoch of a gradient fit from a store.

    Compares `few` rows with ten times as many.
    """
    from recording import store_of

    peaks = []
    for rows in (few, 10 * few):
        store = store_of(folder / str(rows), rows, (128, 192))
        program = _MEMORY.format(here=str(Path(__file__).parent))
        done = subprocess.run(
            [sys.executable, "-c", program, str(store.folder)], capture_output=True, text=True, check=True
        )
        peaks.append(float(json.loads(done.stdout.splitlines()[-1])))
    what = (
        f"most anonymous memory for {few} rows over that for {10 * few}: moments, an epoch of a gradient fit"
    )
    ratio = peaks[0] / peaks[1]
    return Row("fit/memory", ratio, (ratio, ratio), what, 0.95, {"kilobytes": peaks[1], "of_fewer": peaks[0]})
