"""The measuring engine: items x conditions in batches, the blocks below the steered layer once an item."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour, Item, ItemSplit, Operation
from lrt.evaluation.scorers import Choice, CrossEntropy, RefusalLogOdds, Scorer, WrittenScorer
from lrt.evaluation.thoughts import score_answers
from lrt.models.hooks import RowwiseEdit, float32_head
from lrt.models.language_model import LanguageModel
from lrt.models.memory import row_bytes, run_in_batches
from lrt.models.padding import pad
from lrt.models.prefix import compute_prefix, generate, tail_logits
from lrt.models.prompts import encode, encode_prompts
from lrt.models.sampling import Sampling
from lrt.models.thinking import ThoughtTags
from lrt.steering import RowwiseAblation, RowwiseAddition

UNSTEERED = "none"
"""The condition of the model as it is."""


@dataclass(frozen=True)
class SteeringCondition:
    """One way to steer: a condition's name, one draw of it, and a strength.

    offset  float32 `[d]`, added at the layer: strength times direction, in model units. For a
            behaviour that ablates, only its direction counts; `strength` is the fraction removed.
    """

    condition: str
    strength: float
    offset: Tensor
    draw: int = 0


@dataclass(frozen=True)
class SteerableModel:
    """A model, the decoder block it is steered at, and the length of a vector of strength 1 there."""

    lm: LanguageModel
    layer: int
    length: float

    def conditions(
        self, condition: str, unit: Tensor, strengths: Sequence[float], sign: int, draw: int = 0
    ) -> list[SteeringCondition]:
        """One steering condition a strength, for a unit direction `[d]`; `sign` -1 steers against it."""
        return [
            SteeringCondition(condition, strength, sign * strength * self.length * unit, draw)
            for strength in strengths
        ]


class Measured(Protocol):
    """What `measure` needs to know of what it scores: a `Behaviour`, or a set of side effects."""

    @property
    def name(self) -> str: ...
    @property
    def scorer(self) -> Scorer | CrossEntropy: ...
    @property
    def operation(self) -> Operation: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def thought_tags(self) -> tuple[ThoughtTags, ...]: ...


@dataclass(frozen=True)
class Measurement:
    """The score of one item under one steering condition.

    value        By the behaviour's scorer; nan where it gave none, or the text ends within a thought.
    probability  Of the matching answer against the other, or of all the phrases sought; None for generated
                 text.
    text         The generated text, thoughts included, where there is one.
    """

    behaviour: str
    split: str  # "development" | "test"
    condition: str
    draw: int
    strength: float
    item: str
    key: str
    value: float
    probability: float | None = None
    text: str | None = None

    def prompt(self, item: Item) -> str:
        """What its text goes on from, of its item."""
        return item.prompted if self.condition == "prompt" else item.prompt

    def to_data(self) -> dict[str, Any]:
        """Plain data, one jsonl line."""
        return asdict(self)


@dataclass(frozen=True)
class Damage:
    """Side effects of one steering condition on one split of a behaviour's damage texts.

    cross_entropy  Of the steered model, nats per token.
    rise           Of cross-entropy over the unsteered model's, nats per token.
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
        """Damage: the rise relative to the unsteered cross-entropy; infinite for a model whose logits are not
        finite."""
        relative = self.rise / max(self.cross_entropy - self.rise, 1e-9)
        return relative if math.isfinite(relative) else math.inf


def choice_tokens(tokenizer: Any, item: Item) -> tuple[list[int], list[int]]:
    """The tokens up to where the answers differ, and the differing token of each, the matching one first.

    Found by comparing the token sequences, so it holds wherever the tokenizer merges the letter.
    Raises InvalidValue where one answer continues another, or three differ at several places.
    """
    answers = (item.matching, item.other, *item.others)
    written = encode(tokenizer, [item.prompt + answer for answer in answers])
    for at, tokens in enumerate(zip(*written, strict=False)):
        if len(set(tokens)) == len(answers):
            return written[0][:at], list(tokens)
        if len(set(tokens)) > 1:
            break
    raise InvalidValue(
        f"the answers {', '.join(map(repr, answers))} of the item {item.prompt[-60:]!r} do not differ from "
        "each other at one token; give answers that do, as letters, of which none begins another"
    )


def item_batches(items: int, conditions: int, max_rows: int) -> Iterator[slice]:
    """Slices of items whose rows (item x condition) are at most `max_rows`, with at least one item each."""
    each = max(1, max_rows // conditions)
    for start in range(0, items, each):
        yield slice(start, min(start + each, items))


@torch.no_grad()
def measure(
    lm: LanguageModel,
    layer: int,
    behaviour: Measured,
    split: str,
    items: Sequence[Item],
    conditions: Sequence[SteeringCondition],
    *,
    temperature: float = 0.0,
    max_rows: int = 1024,
    item_ids: Sequence[str] | None = None,
) -> list[Measurement]:
    """Score every item under every condition; rows are ordered by item, then condition.

    temperature  Of generated texts; 0 decodes greedily. An item draws the same random numbers under
                 every condition, so that conditions differ by the steering alone.
    max_rows  Most rows (item x condition) in one batch; fewer where the model's device holds fewer.
    item_ids  Ids to record the items under and to seed their sampling with, where they are versions
              of other items; `Item.id` by default.
    """
    if not conditions or not items:
        return []
    steering = _Steering.of(lm, layer, behaviour, conditions)
    ids = [item.id for item in items] if item_ids is None else item_ids

    def score(some: slice, at_once: int) -> list[Score]:
        batch = items[some]
        match behaviour.scorer:
            case Choice():
                return _score_choices(lm, steering, batch, at_once)
            case RefusalLogOdds(phrases):
                return _score_openings(lm, steering, batch, phrases, at_once)
            case CrossEntropy():
                return _score_texts(lm, steering, batch)
            case scorer:
                return _score_generated(
                    lm, steering, behaviour, scorer, batch, ids[some], temperature, at_once
                )

    generates = not isinstance(behaviour.scorer, Choice | RefusalLogOdds | CrossEntropy)
    of_texts = isinstance(behaviour.scorer, CrossEntropy)  # one condition after the other, all positions
    longest = max(map(len, encode(lm.tokenizer, [item.prompt for item in items])))
    scores = run_in_batches(
        lm,
        len(items),
        row_bytes(
            lm, longest, behaviour.max_new_tokens if generates else 0, logits=longest if of_texts else 1
        ),
        score,
        max_rows=max_rows,
        rows_per_item=1 if of_texts else len(conditions),
    )
    cells = [
        (id_, item.key, condition) for id_, item in zip(ids, items, strict=True) for condition in conditions
    ]
    return [
        Measurement(
            behaviour.name,
            split,
            condition.condition,
            condition.draw,
            condition.strength,
            id_,
            key,
            *score_of_cell,
        )
        for (id_, key, condition), score_of_cell in zip(cells, chain.from_iterable(scores), strict=True)
    ]


@dataclass(frozen=True)
class _Steering:
    """The edit of the hidden state under each of several conditions.

    layer      Decoder block up to which everything is computed once an item.
    above      Further blocks that are edited.
    offsets    `[c, d]`.
    fractions  `[c]` that an ablation removes; None adds the offsets.
    """

    layer: int
    above: tuple[int, ...]
    offsets: Tensor
    fractions: Tensor | None

    @classmethod
    def of(
        cls, lm: LanguageModel, layer: int, behaviour: Measured, conditions: Sequence[SteeringCondition]
    ) -> _Steering:
        offsets = torch.stack([condition.offset.float() for condition in conditions])
        if behaviour.operation == "add":
            return cls(layer, (), offsets, None)
        fractions = torch.tensor([condition.strength for condition in conditions])
        return cls(0, tuple(range(1, lm.depth)), offsets, fractions)  # from every block's output

    def edit(self, items: int) -> RowwiseEdit:
        """Of `items x conditions` rows, item by item."""
        offsets = self.offsets.repeat(items, 1)
        if self.fractions is None:
            return RowwiseAddition(offsets)
        return RowwiseAblation(offsets, self.fractions.repeat(items))

    def edit_of(self, condition: int, items: int) -> RowwiseEdit:
        """Of one condition, by its index, for a number of items."""
        fractions = None if self.fractions is None else self.fractions[condition, None]
        return replace(self, offsets=self.offsets[condition, None], fractions=fractions).edit(items)

    def rows(self, items: int) -> Tensor:
        """`[items x conditions]`, the item of each row."""
        return torch.arange(items).repeat_interleave(len(self.offsets))


Score = tuple[float, float | None, str | None]
"""Value, probability and text of a row (see `Measurement`)."""


def _score_choices(
    lm: LanguageModel, steering: _Steering, items: Sequence[Item], max_rows: int
) -> list[Score]:
    contexts, answers = zip(*(choice_tokens(lm.tokenizer, item) for item in items), strict=True)
    logits, rows = _next_token_logits(lm, steering, contexts, max_rows)
    most = max(map(len, answers))
    columns = torch.tensor([ids + ids[:1] * (most - len(ids)) for ids in answers])[rows].to(logits.device)
    missing = torch.tensor([[i >= len(ids) for i in range(1, most)] for ids in answers])[rows]
    scores = logits.gather(1, columns)
    matching, others = scores[:, 0], scores[:, 1:].masked_fill(missing.to(logits.device), -torch.inf)
    gaps = (matching - others.amax(dim=1)).double().cpu()
    odds = (matching - others.logsumexp(dim=1)).double().cpu()
    return [(float(gap), float(torch.sigmoid(each)), None) for gap, each in zip(gaps, odds, strict=True)]


def _score_openings(
    lm: LanguageModel, steering: _Steering, items: Sequence[Item], phrases: Sequence[str], max_rows: int
) -> list[Score]:
    openings = [opening_tokens(lm.tokenizer, item.prompt, phrases) for item in items]
    logits, rows = _next_token_logits(lm, steering, [context for context, _ in openings], max_rows)
    scores: list[Score] = []
    for index, (_, sought) in enumerate(openings):
        mine = logits[rows == index]  # [c, V]
        inside = mine[:, sought].logsumexp(dim=1)
        mine[:, sought] = -torch.inf  # a copy: indexing by a mask makes one
        odds = (inside - mine.logsumexp(dim=1)).double().cpu()
        scores += [(float(each), float(torch.sigmoid(each)), None) for each in odds]
    return scores


def opening_tokens(tokenizer: Any, prompt: str, phrases: Sequence[str]) -> tuple[list[int], list[int]]:
    """The prompt's tokens, and the first tokens of the phrases after it.

    Raises InvalidValue where a phrase merges into the prompt, which then does not end where an answer begins.
    """
    context, *continued = encode(tokenizer, [prompt, *(prompt + phrase for phrase in phrases)])
    for phrase, ids in zip(phrases, continued, strict=True):
        if ids[: len(context)] != context or len(ids) == len(context):
            raise InvalidValue(
                f"the phrase {phrase!r} merges with the end of the prompt {prompt[-40:]!r}; end prompts "
                "where an answer begins, as a chat template does"
            )
    return context, sorted({ids[len(context)] for ids in continued})


def _next_token_logits(
    lm: LanguageModel, steering: _Steering, contexts: Sequence[list[int]], max_rows: int
) -> tuple[Tensor, Tensor]:
    """Logits `[r, V]` after each context under each condition, and the context of each row `[r]`."""
    tokens, mask = pad(contexts)
    prefix = compute_prefix(lm, tokens, mask, steering.layer, cache=False)
    rows, edit = steering.rows(len(contexts)), steering.edit(len(contexts))
    with float32_head(lm):
        logits = tail_logits(lm, prefix, rows, edit, "last", max_rows, steering.above)
    return logits[:, 0], rows


def _score_generated(
    lm: LanguageModel,
    steering: _Steering,
    behaviour: Measured,
    scorer: WrittenScorer,
    items: Sequence[Item],
    ids: Sequence[str],
    temperature: float,
    max_rows: int,
) -> list[Score]:
    tokens, mask = pad(encode_prompts(lm.tokenizer, [item.prompt for item in items]))
    prefix = compute_prefix(lm, tokens, mask, steering.layer)
    rows, edit, ends = steering.rows(len(items)), steering.edit(len(items)), end_tokens(lm)
    sampling = Sampling(temperature, tuple(int(i[:12], 16) for i in ids)) if temperature else None
    generated = generate(
        lm,
        prefix,
        rows,
        edit,
        behaviour.max_new_tokens,
        ends,
        max_rows,
        sampling=sampling,
        above=steering.above,
    )
    texts = []
    for new in generated.tolist():
        stop = next((at for at, token in enumerate(new) if token in ends), len(new))
        texts.append(lm.tokenizer.decode(new[:stop], skip_special_tokens=False))
    answered = [items[row] for row in rows.tolist()]
    prompts = [item.prompt for item in answered]
    values = score_answers(scorer, texts, prompts, answered, behaviour.thought_tags)
    return [(value, None, text) for value, text in zip(values, texts, strict=True)]


def end_tokens(lm: LanguageModel) -> tuple[int, ...]:
    """Ids that end a generation, from the model's generation config and its tokenizer."""
    ids: list[int] = []
    for end in (lm.model.generation_config.eos_token_id, lm.tokenizer.eos_token_id):
        ids += end if isinstance(end, list) else [] if end is None else [end]
    return tuple(dict.fromkeys(ids))


def _score_texts(lm: LanguageModel, steering: _Steering, items: Sequence[Item]) -> list[Score]:
    """Cross-entropy of each item's prompt, nats per token, under each condition."""
    tokens, mask = pad(encode(lm.tokenizer, [item.prompt for item in items]), side="right")
    counts = mask[:, 1:].sum(dim=1).cpu()
    sums = torch.zeros(len(items), len(steering.offsets), dtype=torch.float64)
    for index, logits, wanted, scored in _text_logits(lm, steering, tokens, mask):
        text_of = scored.nonzero()[:, 0].cpu()
        log_likelihood = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=-1)
        sums[:, index].index_add_(0, text_of, -log_likelihood.double().cpu())
    return [(float(value), None, None) for value in (sums / counts[:, None]).flatten()]


def _text_logits(
    lm: LanguageModel, steering: _Steering, tokens: Tensor, mask: Tensor
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Of texts `[n, t]` under each condition: its index, logits `[k, V]` before every scored token, that
    token `[k]`, and which tokens are scored `[n, t - 1]`."""
    prefix = compute_prefix(lm, tokens, mask, steering.layer, cache=False)
    scored = prefix.mask[:, 1:].bool()
    wanted = prefix.tokens[:, 1:][scored]
    every = torch.arange(len(tokens))
    for index in range(len(steering.offsets)):
        edit = steering.edit_of(index, len(tokens))
        logits = tail_logits(lm, prefix, every, edit, None, above=steering.above)[:, :-1][scored]
        yield index, logits, wanted, scored


@torch.no_grad()
def damage(
    lm: LanguageModel,
    layer: int,
    behaviour: Behaviour,
    split: ItemSplit,
    conditions: Sequence[SteeringCondition],
    *,
    max_rows: int = 64,
) -> list[Damage]:
    """Cross-entropy, its rise and KL of each condition on a split of the behaviour's damage texts, per token.

    max_rows  Most texts whose full logits are held at once; fewer where the model's device holds fewer.
    """
    rows = sorted(encode(lm.tokenizer, behaviour.damage_texts_of(split)), key=len)
    unsteered = SteeringCondition(UNSTEERED, 0.0, torch.zeros(lm.width))
    steering = _Steering.of(lm, layer, behaviour, [unsteered, *conditions])

    def sums(some: slice, _: int) -> tuple[int, Tensor]:
        totals = torch.zeros(len(conditions) + 1, 2, dtype=torch.float64)  # [condition, (ce, kl)]
        tokens, mask = pad(rows[some], side="right")
        count = 0
        plain = own = torch.empty(0)
        for index, logits, wanted, _scored in _text_logits(lm, steering, tokens, mask):
            count = len(wanted)
            # by the normaliser and one product: no table of log probabilities for each condition
            scale = logits.logsumexp(dim=-1)
            if index == 0:
                plain = (logits - scale[:, None]).exp()
                own = (plain * logits).sum(dim=-1) - scale
            steered = (plain * logits).sum(dim=-1) - scale  # mean log probability under the plain model
            totals[index, 0] -= (logits.gather(1, wanted[:, None])[:, 0] - scale).double().sum().cpu()
            totals[index, 1] += (own - steered).double().sum().cpu()
        return count, totals

    longest = len(rows[-1])
    needed = row_bytes(lm, longest, logits=longest)
    counts, totals = zip(*run_in_batches(lm, len(rows), needed, sums, max_rows=max_rows), strict=True)
    means = torch.stack(totals).sum(dim=0) / sum(counts)
    return [
        Damage(
            behaviour.name,
            condition.condition,
            condition.draw,
            condition.strength,
            float(means[index + 1, 0]),
            float(means[index + 1, 0] - means[0, 0]),
            float(means[index + 1, 1]),
            split,
        )
        for index, condition in enumerate(conditions)
    ]
