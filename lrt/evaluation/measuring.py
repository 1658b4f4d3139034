"""The engine: items x cells in batches, everything below the steered layer once per item.

A cell is one way to run an item: a condition, a draw of it, and a strength; what it does to the
model is the offset that it adds at the steered layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lrt.evaluation.behaviours import Behaviour, Item, ItemSplit
from lrt.evaluation.scorers import Choice
from lrt.models.language_model import LanguageModel
from lrt.models.padding import pad
from lrt.models.prefix import Prefix, Sampling, compute_prefix, generate, tail_logits
from lrt.models.prompts import encode
from lrt.steering.addition import RowwiseAddition


@dataclass(frozen=True)
class Cell:
    """One condition at one strength.

    offset  float32 `[d]`, what is added at the layer: strength times direction, in model units.
    """

    condition: str
    strength: float
    offset: Tensor
    draw: int = 0


@dataclass(frozen=True)
class Measurement:
    """One row of the raw record: what one item scored in one cell."""

    behaviour: str
    split: str  # "development" | "test"
    condition: str
    draw: int
    strength: float
    item: str
    key: str
    value: float
    probability: float | None = None  # of the matching answer, against the other alone
    text: str | None = None

    def to_data(self) -> dict[str, Any]:
        """Plain data, one jsonl line."""
        return asdict(self)


@dataclass(frozen=True)
class Damage:
    """Harm of one cell on one split of a behaviour's damage texts.

    cross_entropy  nats per token, of the steered model.
    rise           Of it over the unsteered model's, nats per token.
    kl             KL(unsteered || steered), nats per token.
    """

    behaviour: str
    condition: str
    draw: int
    strength: float
    cross_entropy: float
    rise: float
    kl: float
    split: str = "test"  # of the behaviour's damage texts

    @property
    def relative(self) -> float:
        """Rise as a share of the unsteered cross-entropy."""
        return self.rise / max(self.cross_entropy - self.rise, 1e-9)


def choice_tokens(tokenizer: Any, item: Item) -> tuple[list[int], int, int]:
    """The context up to where the two answers part, and the token of each there.

    Found by comparing the two token sequences, so it holds wherever the tokenizer merges the
    letter. Raises ValueError where one answer continues the other.
    """
    ours, theirs = encode(tokenizer, [item.prompt + item.matching, item.prompt + item.other])
    for at, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return ours[:at], one, other
    raise ValueError(
        f"the answers {item.matching!r} and {item.other!r} of the item {item.prompt[-60:]!r} do not "
        "part at any token; give answers of which neither begins the other"
    )


@torch.no_grad()
def measure(
    lm: LanguageModel,
    layer: int,
    behaviour: Behaviour,
    split: str,
    items: Sequence[Item],
    cells: Sequence[Cell],
    *,
    temperature: float = 0.0,
    max_rows: int = 1024,
    progress: Callable[[int], None] | None = None,
    named: Sequence[str] | None = None,
) -> list[Measurement]:
    """Scores every item in every cell, in the order item by item.

    temperature  Of generated texts; 0 decodes greedily. An item draws the same random numbers in
                 every cell, so that cells differ by the steering alone.
    max_rows  Rows (item x cell) run in one batch; memory grows with it and with nothing else.
    progress  Called with the number of rows done.
    named  Ids to record the items under and to draw their random numbers by, where they are versions
           of other items that they are to be compared with.
    """
    if not cells or not items:
        return []
    offsets = torch.stack([cell.offset.float() for cell in cells])  # [c, d]
    names = [item.id for item in items] if named is None else named
    rows: list[Measurement] = []
    per_batch = max(1, max_rows // len(cells))
    for start in range(0, len(items), per_batch):
        batch, ids = items[start : start + per_batch], names[start : start + per_batch]
        if isinstance(behaviour.scorer, Choice):
            found = _choose(lm, layer, batch, offsets, max_rows)
        else:
            found = _write(lm, layer, behaviour, batch, ids, offsets, temperature, max_rows)
        for index, (value, probability, text) in enumerate(found):
            at, cell = index // len(cells), cells[index % len(cells)]
            rows.append(
                Measurement(
                    behaviour.name,
                    split,
                    cell.condition,
                    cell.draw,
                    cell.strength,
                    ids[at],
                    batch[at].key,
                    value,
                    probability,
                    text,
                )
            )
        if progress:
            progress(len(batch) * len(cells))
    return rows


def _rows(prefix: Prefix, offsets: Tensor) -> tuple[Tensor, RowwiseAddition]:
    items, cells = len(prefix.tokens), len(offsets)
    return torch.arange(items).repeat_interleave(cells), RowwiseAddition(offsets.repeat(items, 1))


def _choose(
    lm: LanguageModel, layer: int, items: Sequence[Item], offsets: Tensor, max_rows: int
) -> list[tuple[float, float | None, str | None]]:
    asked = [choice_tokens(lm.tokenizer, item) for item in items]
    tokens, mask = pad([context for context, _, _ in asked])
    prefix = compute_prefix(lm, tokens, mask, layer, cache=False)
    rows, edit = _rows(prefix, offsets)
    logits = tail_logits(lm, prefix, rows, edit, "last", max_rows)[:, 0]  # [r, V]
    ours = torch.tensor([one for _, one, _ in asked])[rows]
    theirs = torch.tensor([other for _, _, other in asked])[rows]
    columns = torch.stack([ours, theirs], dim=1).to(logits.device)
    pair = logits.gather(1, columns)
    gaps = (pair[:, 0] - pair[:, 1]).double().cpu()
    return [(float(gap), float(torch.sigmoid(gap)), None) for gap in gaps]


def _write(
    lm: LanguageModel,
    layer: int,
    behaviour: Behaviour,
    items: Sequence[Item],
    ids: Sequence[str],
    offsets: Tensor,
    temperature: float,
    max_rows: int,
) -> list[tuple[float, float | None, str | None]]:
    tokens, mask = pad(encode(lm.tokenizer, [item.prompt for item in items]))
    prefix = compute_prefix(lm, tokens, mask, layer)
    rows, edit = _rows(prefix, offsets)
    ends = end_tokens(lm)
    luck = Sampling(temperature, tuple(int(i[:12], 16) for i in ids)) if temperature else None
    new = generate(lm, prefix, rows, edit, behaviour.max_new_tokens, ends, max_rows, sampling=luck).tolist()
    assert not isinstance(behaviour.scorer, Choice)
    found: list[tuple[float, float | None, str | None]] = []
    for tokens in new:
        stop = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
        text = lm.tokenizer.decode(tokens[:stop], skip_special_tokens=False)
        found.append((behaviour.scorer.score(text), None, text))
    return found


def end_tokens(lm: LanguageModel) -> tuple[int, ...]:
    """Ids that end a generation, from the model's generation config and its tokenizer."""
    ids: list[int] = []
    for told in (lm.model.generation_config.eos_token_id, lm.tokenizer.eos_token_id):
        ids += told if isinstance(told, list) else [] if told is None else [told]
    return tuple(dict.fromkeys(ids))


@torch.no_grad()
def damage(
    lm: LanguageModel,
    layer: int,
    behaviour: Behaviour,
    split: ItemSplit,
    cells: Sequence[Cell],
    *,
    max_rows: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[Damage]:
    """Cross-entropy, its rise and KL of each cell on a split of the behaviour's damage texts, per token.

    max_rows  Texts whose full logits are held at once.
    """
    rows = sorted(encode(lm.tokenizer, behaviour.damage_texts_of(split)), key=len)
    totals = torch.zeros(len(cells) + 1, 2, dtype=torch.float64)  # [cell, (ce, kl)]
    count = 0
    offsets = [torch.zeros(lm.width), *(cell.offset.float() for cell in cells)]
    for start in range(0, len(rows), max_rows):
        tokens, mask = pad(rows[start : start + max_rows], side="right")
        prefix = compute_prefix(lm, tokens, mask, layer, cache=False)
        scored = prefix.mask[:, 1:].bool()
        wanted = prefix.tokens[:, 1:][scored]
        count += int(scored.sum())
        every = torch.arange(len(tokens))
        plain = own = torch.empty(0)
        for index, offset in enumerate(offsets):
            edit = RowwiseAddition(offset.expand(len(tokens), -1))
            logits = tail_logits(lm, prefix, every, edit, None)[:, :-1][scored]
            # by the normaliser and one product: no table of log probabilities for each cell
            scale = logits.logsumexp(dim=-1)
            if index == 0:
                plain = (logits - scale[:, None]).exp()
                own = (plain * logits).sum(dim=-1) - scale
            steered = (plain * logits).sum(dim=-1) - scale  # mean log probability under the plain model
            totals[index, 0] -= (logits.gather(1, wanted[:, None])[:, 0] - scale).double().sum().cpu()
            totals[index, 1] += (own - steered).double().sum().cpu()
            if progress and index:
                progress(len(tokens))
    means = totals / count
    return [
        Damage(
            behaviour.name,
            cell.condition,
            cell.draw,
            cell.strength,
            float(means[index + 1, 0]),
            float(means[index + 1, 0] - means[0, 0]),
            float(means[index + 1, 1]),
            split,
        )
        for index, cell in enumerate(cells)
    ]
