"""Side effects of steering: what a vector does to answers and texts that it is not meant for.

Three sets of items are measured under a few conditions at each behaviour's chosen layer and strength.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lrt.corpora import Unit, texts_of
from lrt.corpora.words import word_ends
from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Item, Operation
from lrt.evaluation.dataset_readers import SetUnreadable
from lrt.evaluation.measuring import choice_tokens
from lrt.evaluation.multiple_choice import multiple_choice_items, sets_named
from lrt.evaluation.neutral_texts import LEAST_WORDS, PARAGRAPHS, up_to_word
from lrt.evaluation.refusal import PHRASES, requests_of
from lrt.evaluation.scorers import Choice, CrossEntropy, Opening, Scorer, scorer_facts
from lrt.evaluation.storybook_side_effects import questions, requests, stories
from lrt.lab.lexicon import REFUSAL_OPENINGS
from lrt.models.chat_template import ChatTemplate
from lrt.models.prompts import encode, render_chat
from lrt.models.thinking import ThoughtTags, check_thoughts_known, thought_tags

Kind = Literal["capability", "perplexity", "over_refusal"]
MOST_WORDS = 128  # of a general text
STORYBOOK_ANSWER = 10  # tokens of an answer to a storybook request


@dataclass(frozen=True)
class Capability:
    """Multiple-choice questions with one correct answer.

    paths    JSON lists, jsonl files, or ids of hub data sets, in an allowed format
             (`lrt.evaluation.multiple_choice`). Empty: questions of the lab for its own models, none for
             others.
    subset, split, revision  Of hub data sets.
    chat     Asks in the model's chat template; else plain text that ends with `Answer:`, as lm-eval does.
    items    Most questions; 0 asks none.
    """

    paths: tuple[str, ...] = ()
    subset: str | None = None
    split: str = "test"
    revision: str | None = None
    chat: bool = False
    items: int = 96


@dataclass(frozen=True)
class GeneralText:
    """Text on which perplexity is measured.

    paths  Text files or folders, JSON lists, or jsonl files. Empty: held-out stories for models of the lab,
           the project's own passages for others.
    unit   What one text of a text file is.
    field  Field of a JSON row that holds its text.
    items  Most texts, each cut at `MOST_WORDS` words; 0 reads none.
    """

    paths: tuple[str, ...] = ()
    unit: Unit = "paragraph"
    field: str = "text"
    items: int = 24


@dataclass(frozen=True)
class HarmlessRequests:
    """Requests that a model should not refuse, each answered in its chat template.

    paths          JSON lists, jsonl files, or ids of hub data sets. Empty: requests of the lab for its own
                   models, none for others.
    field          Field of a row that holds the request.
    split, revision  Of hub data sets.
    answer_tokens  Length of an answer.
    items          Most requests; 0 asks none.
    """

    paths: tuple[str, ...] = ()
    field: str = "instruction"
    split: str = "train"
    revision: str | None = None
    answer_tokens: int = 32
    items: int = 24


@dataclass(frozen=True)
class SideEffects:
    """What is measured of side effects.

    random_draws  Random directions of the same length.
    lm_eval       Whether files for `lm_eval --model steered` are written beside the report.
    seed          Draws the items.

    Raises InvalidValue for a number out of range.
    """

    capability: Capability = field(default_factory=Capability)
    perplexity: GeneralText = field(default_factory=GeneralText)
    over_refusal: HarmlessRequests = field(default_factory=HarmlessRequests)
    random_draws: int = 2
    lm_eval: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        least = {
            "capability.items": (self.capability.items, 0),
            "perplexity.items": (self.perplexity.items, 0),
            "over_refusal.items": (self.over_refusal.items, 0),
            "over_refusal.answer_tokens": (self.over_refusal.answer_tokens, 1),
            "random_draws": (self.random_draws, 0),
        }
        for name, (value, low) in least.items():
            if value < low:
                raise InvalidValue(f"evaluation.side_effects.{name}={value}: must be at least {low}")


@dataclass(frozen=True)
class SideEffectSet:
    """Items of one kind of side effect, as `lrt.evaluation.measure` takes them.

    origin   Where the items come from, for a report.
    weights  Of each item in the mean: a text counts by its scored tokens.
    """

    name: Kind
    origin: str
    scorer: Scorer | CrossEntropy
    items: tuple[Item, ...]
    weights: tuple[float, ...]
    operation: Operation = "add"
    max_new_tokens: int = 1
    thought_tags: tuple[ThoughtTags, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """What determines its scores, for fingerprints."""
        return {
            "name": self.name,
            "scorer": None if isinstance(self.scorer, CrossEntropy) else scorer_facts(self.scorer),
            "items": [item.id for item in self.items],
            "max_new_tokens": self.max_new_tokens,
            "thought_tags": [[tags.opening, tags.closing] for tags in self.thought_tags],
        }


def side_effect_sets(
    settings: SideEffects, tokenizer: Any, template: ChatTemplate, *, storybook: bool
) -> tuple[SideEffectSet, ...]:
    """The sets that the settings name; sets without items are skipped.

    tokenizer  Of the steered model.
    storybook  Whether that is a model of the lab.

    Raises `SetUnreadable` or `CorpusError` for files and data sets that are missing or malformed,
    InvalidValue for answers that begin with the same token, `ChatNotRendered` for requests without a
    chat template.
    """
    made = (
        _capability(settings, tokenizer, template, storybook),
        _perplexity(settings, tokenizer, storybook),
        _over_refusal(settings, template, storybook),
    )
    return tuple(each for each in made if each.items)


def _capability(
    settings: SideEffects, tokenizer: Any, template: ChatTemplate, storybook: bool
) -> SideEffectSet:
    wanted, seed = settings.capability, settings.seed
    items: Sequence[Item] = ()
    origin = sets_named(wanted.paths)
    if wanted.items and wanted.paths:
        items = multiple_choice_items(
            wanted.paths,
            wanted.items,
            template if wanted.chat else None,
            subset=wanted.subset,
            split=wanted.split,
            revision=wanted.revision,
            seed=seed,
        )
    elif storybook:
        items, origin = questions(wanted.items, seed), "questions of the lab"
    for item in items:
        choice_tokens(tokenizer, item)
    return SideEffectSet("capability", origin, Choice(), tuple(items), (1.0,) * len(items))


def _perplexity(settings: SideEffects, tokenizer: Any, storybook: bool) -> SideEffectSet:
    wanted, seed = settings.perplexity, settings.seed
    if wanted.items and wanted.paths:
        texts, origin = _passages(wanted, seed), sets_named(wanted.paths)
    elif storybook:
        texts, origin = stories(wanted.items, seed), "held-out stories of the lab"
    else:
        # strengths are chosen on the other half of these (`Behaviour.damage_texts_of`)
        texts, origin = PARAGRAPHS[1::2][: wanted.items], "the project's own passages"
    weights = tuple(len(tokens) - 1.0 for tokens in encode(tokenizer, list(texts))) if texts else ()
    return SideEffectSet("perplexity", origin, CrossEntropy(), tuple(map(Item, texts)), weights)


def _passages(wanted: GeneralText, seed: int) -> tuple[str, ...]:
    texts = dict.fromkeys(text.strip() for text in texts_of(wanted.paths, wanted.unit, wanted.field))
    long = [text for text in texts if len([*word_ends(text)]) >= LEAST_WORDS]
    if not long:
        raise SetUnreadable(
            f"evaluation.side_effects.perplexity: {', '.join(wanted.paths)} has no text of "
            f"{LEAST_WORDS} words or more; name other files, or another unit or field"
        )
    random.Random(f"perplexity/{seed}").shuffle(long)
    return tuple(up_to_word(text, MOST_WORDS) for text in long[: wanted.items])


def _over_refusal(settings: SideEffects, template: ChatTemplate, storybook: bool) -> SideEffectSet:
    wanted, seed = settings.over_refusal, settings.seed
    if wanted.items and wanted.paths:
        asked = list(dict.fromkeys(requests_of(wanted)))
        if not asked:
            raise SetUnreadable(f"evaluation.side_effects.over_refusal: {', '.join(wanted.paths)} is empty")
        random.Random(f"over_refusal/{seed}").shuffle(asked)
        check_thoughts_known(template)
        items = tuple(Item(render_chat(template, request)) for request in asked[: wanted.items])
        return SideEffectSet(
            "over_refusal",
            sets_named(wanted.paths),
            Opening(PHRASES),
            items,
            (1.0,) * len(items),
            max_new_tokens=wanted.answer_tokens,
            thought_tags=thought_tags(template),
        )
    items = tuple(map(Item, requests(wanted.items, seed))) if storybook else ()
    return SideEffectSet(
        "over_refusal",
        "requests of the lab",
        Opening(REFUSAL_OPENINGS),
        items,
        (1.0,) * len(items),
        max_new_tokens=STORYBOOK_ANSWER,
    )


def of_operation(each: SideEffectSet, operation: Operation) -> SideEffectSet:
    """The same set, measured under vectors that are added or ablated."""
    return replace(each, operation=operation)
