"""Pretraining one model of the storybook family with Lightning.

Documents are packed without padding into fixed-length blocks; the grammar writes as many documents as are
asked for, so training is one pass and the n-th batch is a function of the seed alone. A run that stops goes
on from its last checkpoint with the same batches.
"""

from __future__ import annotations

import hashlib
import logging
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from lrt.lab.grammar import DocumentSplit, pages
from lrt.models.precision import bfloat16_is_fast
from lrt.storage.checkpoints import DurableCheckpoints, resuming

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FamilyMember:
    """Recipe of one model: its shape, its documents and its training."""

    name: str
    width: int
    depth: int
    heads: int
    feed_forward: int
    tokens: int  # trained on
    split: DocumentSplit = "family"
    seed: int = 0
    context: int = 128
    batch: int = 16  # sequences
    learning_rate: float = 4e-3
    warmup: float = 0.03  # share of the steps
    weight_decay: float = 0.1
    precision: str = "auto"  # "auto" probes whether bf16 is faster here; else Lightning's names

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.tokens // (self.context * self.batch)

    def model(self, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
        """The untrained model: Llama architecture, tied embeddings, initialised from the seed."""
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=self.width**-0.5 / 2,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return LlamaForCausalLM(config)


def token_blocks(
    tokenizer: PreTrainedTokenizerBase, split: DocumentSplit, seed: int, context: int, blocks: int
) -> Tensor:
    """Packs documents of one split into `[blocks, context]` int16 token ids.

    Every document begins with the begin marker and closes with the end marker; documents run on across
    block borders, nothing is padded.
    """
    need = blocks * context
    ids = array("h")
    stream = pages(seed, split)
    while len(ids) < need:
        texts = [next(stream).text for _ in range(1000)]
        for row in tokenizer(texts)["input_ids"]:
            ids.extend(row)
            ids.append(tokenizer.eos_token_id)
    return torch.frombuffer(ids, dtype=torch.int16)[:need].view(blocks, context)


class BlockStream:
    """Batches of consecutive blocks, as an iterable whose state is a cursor (Lightning resumes it)."""

    def __init__(self, blocks: Tensor, batch: int) -> None:
        self.blocks, self.batch, self.cursor = blocks, batch, 0

    def __len__(self) -> int:
        return len(self.blocks) // self.batch

    def __iter__(self) -> Iterator[Tensor]:
        start, self.cursor = self.cursor, 0
        for index in range(start, len(self)):
            self.cursor = index + 1
            yield self.blocks[index * self.batch : (index + 1) * self.batch].long()
        self.cursor = 0

    def state_dict(self) -> dict[str, int]:
        return {"cursor": self.cursor}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.cursor = state["cursor"]


class Pretraining(L.LightningModule):
    """Next-token cross-entropy, AdamW with warm-up and cosine decay to a tenth."""

    def __init__(
        self, member: FamilyMember, tokenizer: PreTrainedTokenizerBase, compiled: bool = False
    ) -> None:
        super().__init__()
        self.member = member
        self.model = member.model(tokenizer)
        # the method and not the module, which would appear in checkpoints a second time
        self.run = torch.compile(self.model.forward) if compiled else self.model.forward
        self.losses: deque[float] = deque(maxlen=50)  # of the last steps
        self._seconds_before = 0.0
        self._started: float | None = None

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        logits = self.run(input_ids=batch, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())
        self.log("train/loss", loss)
        self.losses.append(float(loss.detach()))
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = list(self.losses)
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses.extend(checkpoint.get("losses", ()))
        self._seconds_before = float(checkpoint["seconds"])

    @property
    def seconds(self) -> float:
        """Of training so far, those before the checkpoint that it was resumed from among them."""
        now = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._seconds_before + now

    def on_train_start(self) -> None:
        self._started = time.perf_counter()

    def configure_optimizers(self) -> Any:
        member = self.member
        matrices = [p for p in self.parameters() if p.ndim > 1]
        gains = [p for p in self.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": gains, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups,
            lr=member.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=member.weight_decay,
            # Lightning refuses to clip gradients for a fused optimizer under mixed precision
            fused=self.trainer.precision == "32-true",
        )
        warmup = max(1, int(member.steps * member.warmup))
        schedule = torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup),
                torch.optim.lr_scheduler.CosineAnnealingLR(
                    optimizer, max(1, member.steps - warmup), 0.1 * member.learning_rate
                ),
            ],
            [warmup],
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def precision_for(member: FamilyMember) -> str:
    """Resolves `auto`: bf16 mixed precision on a GPU, and on a CPU where it is faster at that width."""
    if member.precision != "auto":
        return member.precision
    return "bf16-mixed" if torch.cuda.is_available() or bfloat16_is_fast(member.width) else "32-true"


def pretrain(
    member: FamilyMember,
    tokenizer: PreTrainedTokenizerBase,
    work: Path,
    *,
    callbacks: list[L.Callback] | None = None,
    checkpoint_seconds: float = 60.0,
    accelerator: str = "auto",
    compiled: bool = False,
) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """Trains `member`, resuming from `last.ckpt` in the folder of `work` that is named by the recipe and
    the packed corpus: another grammar, tokenizer or recipe begins anew.

    checkpoint_seconds  Between two checkpoints within the epoch; Ctrl-C leaves one, too.
    compiled            Whether the step goes through torch.compile, which needs a C++ compiler on a CPU.

    Returns the model in evaluation mode and the training's part of its card: recipe, corpus fingerprint,
    tokens seen, hours, training loss (nats per token, mean over the last 50 steps).
    """
    torch.set_float32_matmul_precision("highest")
    blocks = token_blocks(tokenizer, member.split, member.seed, member.context, member.steps * member.batch)
    corpus = hashlib.sha256(blocks.numpy().tobytes()).hexdigest()
    work = work / hashlib.sha256(f"{asdict(member)} {corpus}".encode()).hexdigest()[:16]
    work.mkdir(parents=True, exist_ok=True)
    module = Pretraining(member, tokenizer, compiled)
    stream = BlockStream(blocks, member.batch)
    last = work / "last.ckpt"
    precision = precision_for(member)
    trainer = L.Trainer(
        max_steps=member.steps,
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        callbacks=[*(callbacks or []), *resuming(last, checkpoint_seconds)],
        plugins=[DurableCheckpoints()],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=50,
        default_root_dir=work,
    )
    trainer.fit(module, stream, ckpt_path=last if last.exists() else None)
    card = {
        "name": member.name,
        "width": member.width,
        "depth": member.depth,
        "recipe": asdict(member),
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "corpus_fingerprint": corpus,
        "tokens_seen": blocks.numel(),
        "precision": precision,
        "hours": round(module.seconds / 3600, 3),
        "train_loss": round(sum(module.losses) / max(1, len(module.losses)), 4),
    }
    return module.model.eval(), card
