"""Strength sweeps and steered generation against the peers' ways of doing the same."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from clock import Row, row, seconds
from models import SMALL, random_model
from torch import Tensor

from lrt.models import LanguageModel, compute_prefix, generate, steer, tail_logits
from lrt.steering import RowwiseAddition

HERE = Path(__file__).parent
DEPTH, LAYER, VOCABULARY = 12, 5, 151_936  # steered at half depth; the head of a Qwen2.5
STRENGTHS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
TOKENS, NEW = 64, 16


@dataclass(frozen=True)
class _Add:
    """One vector at one strength, as an intervention."""

    layer: int
    offset: Tensor

    def __call__(self, hidden: Tensor, positions: Tensor, /) -> Tensor:
        return RowwiseAddition(self.offset.expand(len(hidden), -1))(hidden, positions)


@dataclass(frozen=True)
class _Task:
    """Prompts of one length, and the two tokens that may follow on each."""

    lm: LanguageModel
    prompts: Tensor  # [n, TOKENS]
    answers: Tensor  # [n, 2]
    vector: Tensor  # [d]


def task(items: int, shape: tuple[int, int, int, int] = SMALL, vocabulary: int = VOCABULARY) -> _Task:
    """Random prompts for a model in the shape of Qwen2.5 0.5B with half of its blocks, float32."""
    lm = random_model(shape, DEPTH, vocabulary, torch.float32)
    generator = torch.Generator().manual_seed(0)
    words = min(vocabulary, 32_000)
    prompts = torch.randint(0, words, (items, TOKENS), generator=generator)
    answers = torch.randint(0, words, (items, 2), generator=generator)
    vector = torch.randn(lm.width, generator=generator)
    return _Task(lm, prompts, answers, vector / vector.norm() * 3)


def ours(put: _Task) -> Tensor:
    """`[strengths, n]` logit differences: blocks up to the steered one once, all strengths in one batch."""
    prefix = compute_prefix(put.lm, put.prompts, None, LAYER, cache=False)
    rows = torch.arange(len(put.prompts)).repeat_interleave(len(STRENGTHS))
    offsets = (torch.tensor(STRENGTHS)[:, None] * put.vector).repeat(len(put.prompts), 1)
    logits = tail_logits(put.lm, prefix, rows, RowwiseAddition(offsets), "last", 64)[:, 0]
    pair = logits.gather(1, put.answers[rows])
    return (pair[:, 0] - pair[:, 1]).view(len(put.prompts), len(STRENGTHS)).T


@torch.no_grad()
def bench_protocol(put: _Task) -> Tensor:
    """The same by steering-bench's protocol: for each item and strength two whole forwards, of the prompt
    with either answer behind it, and the log-probabilities of the whole vocabulary at every position."""
    found = torch.empty(len(STRENGTHS), len(put.prompts))
    for at, strength in enumerate(STRENGTHS):
        for item in range(len(put.prompts)):
            scores = []
            for answer in put.answers[item]:
                text = torch.cat([put.prompts[item], answer[None]])[None]
                with steer(put.lm, [_Add(LAYER, strength * put.vector)]):
                    logits = put.lm.model(text).logits
                told = logits.float().log_softmax(-1)
                scores.append(told[0, -2, answer])
            found[at, item] = scores[0] - scores[1]
    return found


def bench_rows(runs: int = 2, items: int = 4) -> Iterator[Row]:
    """Our sweep over steering-bench's protocol and over steering-vectors in an environment of its own."""
    put = task(items)
    gap = float((ours(put) - bench_protocol(put)).abs().max())
    took, theirs = [], []
    for _ in range(runs):
        theirs.append(seconds(lambda: bench_protocol(put)))
        took.append(seconds(lambda: ours(put)))
    yield row(
        "sweep/steering_bench",
        "two whole forwards an item and strength, with full log-probabilities, over our sweep: "
        f"{len(STRENGTHS)} strengths, block {LAYER} of {DEPTH}, {items} prompts of {TOKENS} tokens, float32; "
        f"answers differ by {gap:.0e}",
        took,
        theirs,
        aim=6.5,
        largest_difference=gap,
    )


def vectors_row(python: Path, runs: int = 3, items: int = 16) -> Row:
    """Against steering-vectors used well: a batched forward a strength, the head at the last token alone."""
    put = task(items)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        model = Path(folder) / "model"
        put.lm.model.save_pretrained(model)
        job = {
            "model": str(model),
            "prompts": put.prompts.tolist(),
            "answers": put.answers.tolist(),
            "vector": put.vector.tolist(),
            "layer": LAYER,
            "strengths": STRENGTHS,
            "runs": 1,
            "threads": torch.get_num_threads(),
        }
        file = Path(folder) / "job.json"
        took, theirs, gaps, version = [], [], [], ""
        for run in range(runs + 1):
            file.write_text(json.dumps(job))
            done = subprocess.run(
                [str(python), str(HERE / "peers" / "steering_vectors_sweep.py"), str(file)],
                capture_output=True,
                text=True,
                check=True,
            )
            told = json.loads(done.stdout.splitlines()[-1])
            spent = seconds(lambda: ours(put))
            gaps.append(float((ours(put) - torch.tensor(told["differences"])).abs().max()))
            version = told["version"]
            if run:
                took.append(spent)
                theirs += told["seconds"]
    share = (LAYER + 1) / DEPTH
    count = len(STRENGTHS)
    limit = count / (share + count * (1 - share))
    return row(
        "sweep/steering_vectors",
        f"steering-vectors {version} (a batched forward a strength, head at the last token) over our sweep: "
        f"{count} strengths, block {LAYER} of {DEPTH}, {items} prompts of {TOKENS} tokens, float32; the "
        f"blocks saved allow {limit:.2f}; answers differ by {max(gaps):.0e}",
        took,
        theirs,
        aim=round(0.9 * limit, 3),
        limit=round(limit, 3),
        largest_difference=max(gaps),
    )


def generation_row(runs: int = 2, items: int = 4) -> Row:
    """Texts at every strength in one batch, against transformers' generate under a hook, strength by
    strength."""
    put = task(items)
    rows = torch.arange(items).repeat_interleave(len(STRENGTHS))
    offsets = (torch.tensor(STRENGTHS)[:, None] * put.vector).repeat(items, 1)

    def together() -> Tensor:
        prefix = compute_prefix(put.lm, put.prompts, None, LAYER)
        return generate(put.lm, prefix, rows, RowwiseAddition(offsets), NEW)

    def one_by_one() -> Tensor:
        found = []
        for strength in STRENGTHS:
            with steer(put.lm, [_Add(LAYER, strength * put.vector)]):
                made = put.lm.model.generate(
                    put.prompts,
                    attention_mask=torch.ones_like(put.prompts),
                    max_new_tokens=NEW,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                )
            found.append(made[:, TOKENS:])
        return torch.stack(found, dim=1).flatten(0, 1)

    same = float((together() == one_by_one()).float().mean())
    took, theirs = [], []
    for _ in range(runs):
        theirs.append(seconds(one_by_one))
        took.append(seconds(together))
    return row(
        "generate/transformers",
        f"transformers' generate under a hook, a batch for each of {len(STRENGTHS)} strengths, over all of "
        f"them in one: {items} prompts of {TOKENS} tokens, {NEW} new ones, float32",
        took,
        theirs,
        same_tokens=same,
    )


def peers_environment(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of an environment of the peers' own, made once: our torch, all else as the packages ask.
    Raises CalledProcessError where they cannot be had."""
    python = folder / "bin" / "python"
    stamp = folder / ".ready"
    if not stamp.is_file() or stamp.read_text() != " ".join(packages):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        ours = f"torch=={torch.__version__.split('+')[0]}"
        pip = [str(python), "-m", "pip", "install", "-q", ours, "numpy"]
        subprocess.run([*pip, *packages], check=True)
        stamp.write_text(" ".join(packages))
    return python
