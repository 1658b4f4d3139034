"""The engine: items x cells in batches, everything below the steered layer once per item.

A cell is one way to run an item: a condition, a draw of it, and a strength; what it does to the
model is the offset that it adds at the steered layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrt.evaluation.behaviours import Behaviour, Item, ItemSplit
from lrt.evaluation.scorers import Choice, RefusalLogOdds, WrittenScorer, score_texts
from lrt.models.hooks import float32_head
from lrt.models.language_model import LanguageModel
from lrt.models.padding import pad
from lrt.models.prefix import RowwiseEdit, Sampling, compute_prefix, generate, tail_logits
from lrt.models.prompts import encode
from lrt.steering import RowwiseAblation, RowwiseAddition


@dataclass(frozen=True)
class SteeringCondition:
    """One condition at one strength.

    offset  float32 `[d]`, what is added at the layer: strength times direction, in model units. Of a
            behaviour that ablates only its direction counts, and `strength` is the share that is removed.
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
    probability: float | None = None  # of the matching answer against the other alone; of all that is sought
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


def item_batches(items: int, cells: int, max_rows: int) -> Iterator[slice]:
    """The items in runs whose rows (item x cell) are at most `max_rows`, one item at least."""
    each = max(1, max_rows // cells)
    for start in range(0, items, each):
        yield slice(start, min(start + each, items))


@torch.no_grad()
def measure(
    lm: LanguageModel,
    layer: int,
    behaviour: Behaviour,
    split: str,
    items: Sequence[Item],
    cells: Sequence[SteeringCondition],
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
    how = _Steering.of(lm, layer, behaviour, cells)
    names = [item.id for item in items] if named is None else named
    rows: list[Measurement] = []
    for some in item_batches(len(items), len(cells), max_rows):
        batch, ids = items[some], names[some]
        match behaviour.scorer:
            case Choice():
                found = _choose(lm, how, batch, max_rows)
            case RefusalLogOdds(phrases):
                found = _begin(lm, how, batch, phrases, max_rows)
            case scorer:
                found = _write(lm, how, behaviour, scorer, batch, ids, temperature, max_rows)
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


@dataclass(frozen=True)
class _Steering:
    """What a behaviour's cells do to the model.

    layer    Block up to which everything is computed once.
    above    Further blocks that are edited.
    offsets  `[c, d]`.
    shares   `[c]` that an ablation removes; None adds the offsets.
    """

    layer: int
    above: tuple[int, ...]
    offsets: Tensor
    shares: Tensor | None

    @classmethod
    def of(
        cls, lm: LanguageModel, layer: int, behaviour: Behaviour, cells: Sequence[SteeringCondition]
    ) -> _Steering:
        offsets = torch.stack([cell.offset.float() for cell in cells])
        if behaviour.operation == "add":
            return cls(layer, (), offsets, None)
        shares = torch.tensor([cell.strength for cell in cells])
        return cls(0, tuple(range(1, lm.depth)), offsets, shares)  # out of every block's output

    def edit(self, items: int) -> RowwiseEdit:
        """Of `items x cells` rows, item by item."""
        offsets = self.offsets.repeat(items, 1)
        if self.shares is None:
            return RowwiseAddition(offsets)
        return RowwiseAblation(offsets, self.shares.repeat(items))

    def edit_of(self, cell: int, items: int) -> RowwiseEdit:
        """Of one cell for so many items."""
        shares = None if self.shares is None else self.shares[cell, None]
        return replace(self, offsets=self.offsets[cell, None], shares=shares).edit(items)

    def rows(self, items: int) -> Tensor:
        """`[items x cells]`, the item of each row."""
        return torch.arange(items).repeat_interleave(len(self.offsets))


Found = tuple[float, float | None, str | None]
"""Value, probability and text of a row."""


def _choose(lm: LanguageModel, how: _Steering, items: Sequence[Item], max_rows: int) -> list[Found]:
    asked = [choice_tokens(lm.tokenizer, item) for item in items]
    logits, rows = _answers(lm, how, [context for context, _, _ in asked], max_rows)
    ours = torch.tensor([one for _, one, _ in asked])[rows]
    theirs = torch.tensor([other for _, _, other in asked])[rows]
    columns = torch.stack([ours, theirs], dim=1).to(logits.device)
    pair = logits.gather(1, columns)
    gaps = (pair[:, 0] - pair[:, 1]).double().cpu()
    return [(float(gap), float(torch.sigmoid(gap)), None) for gap in gaps]


def _begin(
    lm: LanguageModel, how: _Steering, items: Sequence[Item], phrases: Sequence[str], max_rows: int
) -> list[Found]:
    begun = [opening_tokens(lm.tokenizer, item.prompt, phrases) for item in items]
    logits, rows = _answers(lm, how, [context for context, _ in begun], max_rows)
    found: list[Found] = []
    for index, (_, sought) in enumerate(begun):
        mine = logits[rows == index]  # [c, V]
        inside = mine[:, sought].logsumexp(dim=1)
        mine[:, sought] = -torch.inf  # a copy: indexing by a mask makes one
        odds = (inside - mine.logsumexp(dim=1)).double().cpu()
        found += [(float(each), float(torch.sigmoid(each)), None) for each in odds]
    return found


def opening_tokens(tokenizer: Any, prompt: str, phrases: Sequence[str]) -> tuple[list[int], list[int]]:
    """The prompt's tokens, and those that a text opening with one of the phrases goes on with behind them.

    Raises ValueError where a phrase merges into the prompt, which then does not end where an answer begins.
    """
    context, *begun = encode(tokenizer, [prompt, *(prompt + phrase for phrase in phrases)])
    for phrase, ids in zip(phrases, begun, strict=True):
        if ids[: len(context)] != context or len(ids) == len(context):
            raise ValueError(
                f"the phrase {phrase!r} merges with the end of the prompt {prompt[-40:]!r}; end prompts "
                "where an answer begins, as a chat template does"
            )
    return context, sorted({ids[len(context)] for ids in begun})


def _answers(
    lm: LanguageModel, how: _Steering, contexts: Sequence[list[int]], max_rows: int
) -> tuple[Tensor, Tensor]:
    """Logits `[r, V]` behind each context in each cell, and the context of each row `[r]`."""
    tokens, mask = pad(contexts)
    prefix = compute_prefix(lm, tokens, mask, how.layer, cache=False)
    rows = how.rows(len(contexts))
    with float32_head(lm):
        logits = tail_logits(lm, prefix, rows, how.edit(len(contexts)), "last", max_rows, how.above)
    return logits[:, 0], rows


def _write(
    lm: LanguageModel,
    how: _Steering,
    behaviour: Behaviour,
    scorer: WrittenScorer,
    items: Sequence[Item],
    ids: Sequence[str],
    temperature: float,
    max_rows: int,
) -> list[Found]:
    tokens, mask = pad(encode(lm.tokenizer, [item.prompt for item in items]))
    prefix = compute_prefix(lm, tokens, mask, how.layer)
    rows, edit, ends = how.rows(len(items)), how.edit(len(items)), end_tokens(lm)
    luck = Sampling(temperature, tuple(int(i[:12], 16) for i in ids)) if temperature else None
    new = generate(
        lm, prefix, rows, edit, behaviour.max_new_tokens, ends, max_rows, sampling=luck, above=how.above
    )
    texts = []
    for written in new.tolist():
        stop = next((at for at, token in enumerate(written) if token in ends), len(written))
        texts.append(lm.tokenizer.decode(written[:stop], skip_special_tokens=False))
    values = score_texts(scorer, texts, [items[row] for row in rows.tolist()])
    return [(value, None, text) for value, text in zip(values, texts, strict=True)]


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
    cells: Sequence[SteeringCondition],
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
    plain_cell = SteeringCondition("none", 0.0, torch.zeros(lm.width))
    how = _Steering.of(lm, layer, behaviour, [plain_cell, *cells])
    for start in range(0, len(rows), max_rows):
        tokens, mask = pad(rows[start : start + max_rows], side="right")
        prefix = compute_prefix(lm, tokens, mask, how.layer, cache=False)
        scored = prefix.mask[:, 1:].bool()
        wanted = prefix.tokens[:, 1:][scored]
        count += int(scored.sum())
        every = torch.arange(len(tokens))
        plain = own = torch.empty(0)
        for index in range(len(cells) + 1):
            edit = how.edit_of(index, len(tokens))
            logits = tail_logits(lm, prefix, every, edit, None, above=how.above)[:, :-1][scored]
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
