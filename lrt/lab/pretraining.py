"""Pretrain one model of the storybook family with Lightning.

Documents are packed without padding into sequences of fixed length. The grammar writes as many documents as
needed, so training is one pass, and the n-th batch depends on the seed alone. An interrupted run resumes from
its last checkpoint with the same batches.
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
from lrt.storage.checkpoints import plugins, resuming

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FamilyMember:
    """Recipe of one model: its shape, its documents and its training.

    precision  One of Lightning's names, or `auto`: bfloat16 mixed precision where the device computes
               bfloat16 products in hardware (`lrt.models.precision`), else float32.
    """

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
    precision: str = "auto"

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


def token_sequences(
    tokenizer: PreTrainedTokenizerBase, split: DocumentSplit, seed: int, context: int, sequences: int
) -> Tensor:
    """Pack documents of one split into int16 token ids `[sequences, context]`.

    Every document starts with the begin token and closes with the end token. Documents continue across the
    borders of sequences, and there is no padding.
    """
    need = sequences * context
    ids = array("h")
    stream = pages(seed, split)
    while len(ids) < need:
        texts = [next(stream).text for _ in range(1000)]
        for row in tokenizer(texts)["input_ids"]:
            ids.extend(row)
            ids.append(tokenizer.eos_token_id)
    return torch.frombuffer(ids, dtype=torch.int16)[:need].view(sequences, context)


class SequenceStream:
    """Batches of consecutive sequences; Lightning saves and restores its position."""

    def __init__(self, sequences: Tensor, batch: int) -> None:
        self.sequences, self.batch, self.cursor = sequences, batch, 0

    def __len__(self) -> int:
        return len(self.sequences) // self.batch

    def __iter__(self) -> Iterator[Tensor]:
        start, self.cursor = self.cursor, 0
        for index in range(start, len(self)):
            self.cursor = index + 1
            yield self.sequences[index * self.batch : (index + 1) * self.batch].long()
        self.cursor = 0

    def state_dict(self) -> dict[str, int]:
        return {"cursor": self.cursor}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.cursor = state["cursor"]


class Pretraining(L.LightningModule):
    """Next-token cross-entropy; AdamW with warm-up and cosine decay to a tenth."""

    def __init__(
        self, member: FamilyMember, tokenizer: PreTrainedTokenizerBase, compiled: bool = False
    ) -> None:
        super().__init__()
        self.member = member
        self.model = member.model(tokenizer)
        # the method, since a compiled module would be saved in checkpoints a second time
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
        """Training time so far in seconds, with the time before a resumed checkpoint."""
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
            # Lightning cannot clip gradients of a fused optimizer under mixed precision
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


def precision_for(member: FamilyMember, accelerator: str = "auto") -> str:
    """Lightning's name of the precision to train in, with `auto` resolved for this machine."""
    if member.precision != "auto":
        return member.precision
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    return "bf16-mixed" if bfloat16_is_fast(device, member.width) else "32-true"


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
    """Train `member`, or resume its interrupted training.

    work                Folder of checkpoints, in a subfolder named by recipe and packed corpus: another
                        grammar, tokenizer or recipe starts anew.
    checkpoint_seconds  Time between two checkpoints. Ctrl-C writes one, too.
    compiled            Whether to use torch.compile, which needs a C++ compiler on a CPU.

    Returns the model in evaluation mode and its card: recipe, corpus fingerprint, tokens seen, hours, and
    training loss (nats per token, mean over the last 50 steps).
    """
    torch.set_float32_matmul_precision("highest")
    sequences = token_sequences(
        tokenizer, member.split, member.seed, member.context, member.steps * member.batch
    )
    corpus = hashlib.sha256(sequences.numpy().tobytes()).hexdigest()
    work = work / hashlib.sha256(f"{asdict(member)} {corpus}".encode()).hexdigest()[:16]
    work.mkdir(parents=True, exist_ok=True)
    module = Pretraining(member, tokenizer, compiled)
    stream = SequenceStream(sequences, member.batch)
    last = work / "last.ckpt"
    precision = precision_for(member, accelerator)
    trainer = L.Trainer(
        max_steps=member.steps,
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        callbacks=[*(callbacks or []), *resuming(last, checkpoint_seconds)],
        plugins=plugins(),
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
        "tokens_seen": sequences.numel(),
        "precision": precision,
        "hours": round(module.seconds / 3600, 3),
        "train_loss": round(sum(module.losses) / max(1, len(module.losses)), 4),
    }
    return module.model.eval(), card
