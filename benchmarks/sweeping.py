"""Speed of strength sweeps and steered generation, against other packages."""

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
    """Prompts of one length, each with two answer tokens."""

    lm: LanguageModel
    prompts: Tensor  # [n, TOKENS]
    answers: Tensor  # [n, 2]
    vector: Tensor  # [d]


def task(items: int, shape: tuple[int, int, int, int] = SMALL, vocabulary: int = VOCABULARY) -> _Task:
    """Random prompts for a float32 model in the shape of Qwen2.5 0.5B with half of its layers."""
    lm = random_model(shape, DEPTH, vocabulary, torch.float32)
    generator = torch.Generator().manual_seed(0)
    words = min(vocabulary, 32_000)
    prompts = torch.randint(0, words, (items, TOKENS), generator=generator)
    answers = torch.randint(0, words, (items, 2), generator=generator)
    vector = torch.randn(lm.width, generator=generator)
    return _Task(lm, prompts, answers, vector / vector.norm() * 3)


def ours(put: _Task) -> Tensor:
    """`[strengths, n]` logit differences: layers up to the steered one once, all strengths in one batch."""
    prefix = compute_prefix(put.lm, put.prompts, None, LAYER, cache=False)
    rows = torch.arange(len(put.prompts)).repeat_interleave(len(STRENGTHS))
    offsets = (torch.tensor(STRENGTHS)[:, None] * put.vector).repeat(len(put.prompts), 1)
    logits = tail_logits(put.lm, prefix, rows, RowwiseAddition(offsets), "last", 64)[:, 0]
    pair = logits.gather(1, put.answers[rows])
    return (pair[:, 0] - pair[:, 1]).view(len(put.prompts), len(STRENGTHS)).T


@torch.no_grad()
def bench_protocol(put: _Task) -> Tensor:
    """The same with steering-bench's protocol: two whole forward passes per item and strength.

    Each is of the prompt followed by one answer, with log-probabilities of the whole vocabulary at every
    position.
    """
    differences = torch.empty(len(STRENGTHS), len(put.prompts))
    for at, strength in enumerate(STRENGTHS):
        for item in range(len(put.prompts)):
            scores = []
            for answer in put.answers[item]:
                text = torch.cat([put.prompts[item], answer[None]])[None]
                with steer(put.lm, [_Add(LAYER, strength * put.vector)]):
                    logits = put.lm.model(text).logits
                log_probabilities = logits.float().log_softmax(-1)
                scores.append(log_probabilities[0, -2, answer])
            differences[at, item] = scores[0] - scores[1]
    return differences


def bench_rows(runs: int = 2, items: int = 4) -> Iterator[Row]:
    """Our sweep against steering-bench's protocol."""
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
    """Our sweep against steering-vectors: a batched forward per strength, the head at the last token only."""
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
            result = json.loads(done.stdout.splitlines()[-1])
            spent = seconds(lambda: ours(put))
            gaps.append(float((ours(put) - torch.tensor(result["differences"])).abs().max()))
            version = result["version"]
            if run:
                took.append(spent)
                theirs += result["seconds"]
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
    """Texts at all strengths in one batch, against transformers' generate once per strength."""
    put = task(items)
    rows = torch.arange(items).repeat_interleave(len(STRENGTHS))
    offsets = (torch.tensor(STRENGTHS)[:, None] * put.vector).repeat(items, 1)

    def together() -> Tensor:
        prefix = compute_prefix(put.lm, put.prompts, None, LAYER)
        return generate(put.lm, prefix, rows, RowwiseAddition(offsets), NEW)

    def one_by_one() -> Tensor:
        texts = []
        for strength in STRENGTHS:
            with steer(put.lm, [_Add(LAYER, strength * put.vector)]):
                tokens = put.lm.model.generate(
                    put.prompts,
                    attention_mask=torch.ones_like(put.prompts),
                    max_new_tokens=NEW,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                )
            texts.append(tokens[:, TOKENS:])
        return torch.stack(texts, dim=1).flatten(0, 1)

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
    """Path of the Python of a virtual environment with `packages` and our version of torch.

    The environment is created once. Raises CalledProcessError if the packages cannot be installed.
    """
    python = folder / "bin" / "python"
    stamp = folder / ".ready"
    if not stamp.is_file() or stamp.read_text() != " ".join(packages):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        ours = f"torch=={torch.__version__.split('+')[0]}"
        pip = [str(python), "-m", "pip", "install", "-q", ours, "numpy"]
        subprocess.run([*pip, *packages], check=True)
        stamp.write_text(" ".join(packages))
    return python
