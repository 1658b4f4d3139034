"""A behaviour: contrastive prompts to extract its vector, held-out items to measure it, and a scorer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lrt.errors import InvalidValue
from lrt.evaluation.judge import Judge
from lrt.evaluation.numeric_answer import NumericAnswer, stated_number
from lrt.evaluation.scorers import (
    Answer,
    Choice,
    LogitScorer,
    Scorer,
    WrittenScorer,
    check_keys,
    scorer_facts,
    scorer_from_data,
    scorer_to_data,
)
from lrt.models.thinking import ThoughtTags
from lrt.storage.text_files import FileUnreadable, read_json

ItemSplit = Literal["development", "test"]
Operation = Literal["add", "ablate"]
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"


class BehaviourUnreadable(InvalidValue):
    """A behaviour, or its file, that cannot be used; the message names the field at fault."""


@dataclass(frozen=True)
class Item:
    """One prompt to measure a behaviour on.

    prompt    Text as the model reads it, chat template included.
    key       Stratum within which items are comparable (for example the letter of the matching answer).
    matching  For `Choice` and `Answer`: the answer that shows the behaviour. For `NumericAnswer`: the correct
              number.
    other     For `Choice` and `Answer`: the answer that does not.
    prompted  The same item with a plain prompt that asks for the behaviour: the baseline.
    """

    prompt: str
    key: str = ""
    matching: str = ""
    other: str = ""
    prompted: str = ""

    @property
    def others(self) -> tuple[str, ...]:
        """Further answers beside `other`; a behaviour's item has none."""
        return ()

    @property
    def id(self) -> str:
        """Hash of all fields."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Behaviour:
    """Contrastive prompts, items and scorer of one behaviour.

    contrast       Name of the vector; behaviours with the same contrastive prompts share it.
    direction      +1 to raise the score with the vector, -1 to lower it with the opposite vector.
    damage_texts   Texts on which side effects are measured, in halves (`damage_texts_of`). Where the
                   behaviour is a kind of text, texts of that kind; neutral texts otherwise.
    operation      `add` the vector at the steered block, or `ablate` its direction from the output of every
                   block; strength is then the fraction of the component that is removed.
    extra_scorers  Further scorers of the generated texts. The choice of strength and layer ignores them.
    held_out       The prompts' content without the template around it: it is removed from the map's corpus
                   in any template.
    thought_tags   What stands around a model's thoughts, which are not scored. An item's prompt may not end
                   within a thought where logits are scored.

    Raises BehaviourUnreadable for a field that is missing or contradicts another.
    """

    name: str
    metric: str
    scorer: Scorer
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    development: tuple[Item, ...]
    test: tuple[Item, ...]
    damage_texts: tuple[str, ...]
    contrast: str = ""
    direction: Literal[1, -1] = 1
    max_new_tokens: int = 24
    operation: Operation = "add"
    extra_scorers: tuple[WrittenScorer, ...] = ()
    held_out: tuple[str, ...] = ()
    thought_tags: tuple[ThoughtTags, ...] = ()

    def __post_init__(self) -> None:
        if not self.contrast:
            object.__setattr__(self, "contrast", self.name)
        for field in ("name", "contrast"):  # used as file names
            value = getattr(self, field)
            if not isinstance(value, str) or re.fullmatch(_NAME, value) is None:
                raise BehaviourUnreadable(
                    f"invalid {field} {value!r} of a behaviour: use at most 100 letters and digits, with "
                    "`-`, `_` or `.` between them, for example sad-stories"
                )
        for part in ("positives", "negatives", "development", "test", "damage_texts"):
            if not getattr(self, part):
                raise BehaviourUnreadable(f"behaviour {self.name!r} has no {part}")
        shared = {i.prompt for i in self.development} & {i.prompt for i in self.test}
        if shared:
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has {len(shared)} prompts in both its development and its test "
                f"items, for example {min(shared)!r}; split by question"
            )
        leaked = {i.prompt for i in self.items} & {*self.positives, *self.negatives}
        if leaked:
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has {len(leaked)} items whose prompt is a contrastive prompt too, "
                f"for example {min(leaked)!r}; items must be held out"
            )
        if self.direction not in (1, -1):
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has direction {self.direction!r}; allowed: 1, -1"
            )
        if not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has max_new_tokens {self.max_new_tokens}; it must be a whole "
                "number from 1 on"
            )
        if isinstance(self.scorer, Choice | Answer) and not all(
            i.matching and i.other and i.key for i in self.items
        ):
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} is scored by {type(self.scorer).__name__}, so every item needs "
                "`matching` and `other` answers and a `key` (the matching letter, or Yes or No): without "
                "keys any two vectors would seem to agree"
            )
        if isinstance(self.scorer, NumericAnswer) and (
            unnumbered := [i.matching for i in self.items if stated_number(i.matching) is None]
        ):
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} is scored by NumericAnswer, so every item needs a number as "
                f"`matching`; got {unnumbered[0]!r}"
            )
        if self.operation not in get_args(Operation):
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has operation {self.operation!r}; allowed: add, ablate"
            )
        openings = tuple(tags.opening for tags in self.thought_tags)
        thinking = [i.prompt for i in self.items if openings and i.prompt.rstrip().endswith(openings)]
        if thinking and self.reads_logits:
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} is scored by logits, and the prompt {thinking[0][-60:]!r} ends "
                "where the model thinks; close the thought, or choose a scorer of generated text"
            )
        if self.extra_scorers and self.reads_logits:
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} is scored by logits, so its `extra_scorers` have no text to score; "
                "remove them"
            )

    @property
    def is_choice(self) -> bool:
        """Whether it is scored by two answers' logits instead of a generated text."""
        return isinstance(self.scorer, Choice)

    @property
    def has_answers(self) -> bool:
        """Whether its items have two answers and a key, scored by logits or in generated text."""
        return isinstance(self.scorer, Choice | Answer)

    @property
    def reads_logits(self) -> bool:
        """Whether it is scored by logits, without generated text."""
        return isinstance(self.scorer, LogitScorer)

    @property
    def items(self) -> tuple[Item, ...]:
        """Development and test items."""
        return self.development + self.test

    def items_of(self, split: ItemSplit) -> tuple[Item, ...]:
        """Items of one split."""
        return self.test if split == "test" else self.development

    def damage_texts_of(self, split: ItemSplit) -> tuple[str, ...]:
        """Every second damage text: one half to choose strengths, the other to report damage.

        A single text serves as both.
        """
        half = self.damage_texts[::2] if split == "development" else self.damage_texts[1::2]
        return half or self.damage_texts

    @property
    def texts(self) -> Iterable[str]:
        """Every text that is removed from the map's corpus."""
        yield from self.positives
        yield from self.negatives
        yield from (item.prompt for item in self.items)
        yield from self.damage_texts
        yield from self.held_out

    def to_data(self) -> dict[str, Any]:
        """Plain data for a file or a fingerprint."""
        extra = [scorer_to_data(scorer) for scorer in self.extra_scorers]
        data = {**asdict(self), "scorer": scorer_to_data(self.scorer), "extra_scorers": extra}
        if not self.thought_tags:
            del data["thought_tags"]
        return data

    @property
    def facts(self) -> dict[str, Any]:
        """What determines its measurements, for fingerprints. Extra scorers read the same texts later."""
        return {**replace(self, extra_scorers=()).to_data(), "scorer": scorer_facts(self.scorer)}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Behaviour:
        """The behaviour that `to_data` wrote. Raises `BehaviourUnreadable` naming the field at fault."""
        if not isinstance(data, dict):
            raise BehaviourUnreadable(f"a behaviour must be a JSON object; got {type(data).__name__}")
        fields = dict(data)
        try:
            check_keys(fields, "its fields")
            fields["scorer"] = scorer_from_data(fields["scorer"])
            for part in ("development", "test"):
                fields[part] = tuple(Item(**item) for item in fields[part])
            for part in ("positives", "negatives", "damage_texts"):
                fields[part] = _texts(part, fields[part])
            if "held_out" in fields:
                fields["held_out"] = _texts("held_out", fields["held_out"])
            fields["thought_tags"] = tuple(ThoughtTags(**each) for each in fields.get("thought_tags", ()))
            fields["extra_scorers"] = tuple(map(_written_scorer, fields.get("extra_scorers", ())))
            return cls(**fields)
        except BehaviourUnreadable:
            raise
        except KeyError as error:
            raise BehaviourUnreadable(f"behaviour {data.get('name', '?')!r} has no field {error}") from error
        except (TypeError, ValueError) as error:
            raise BehaviourUnreadable(
                f"behaviour {data.get('name', '?')!r} cannot be read: {error}"
            ) from error


def _written_scorer(data: Any) -> WrittenScorer:
    scorer = scorer_from_data(data)
    if isinstance(scorer, LogitScorer):
        raise InvalidValue(f"`extra_scorers` holds {type(scorer).__name__}, which does not score text")
    return scorer


def _texts(part: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise InvalidValue(f"`{part}` must be a list of texts")
    return tuple(value)


def read_behaviours(paths: Iterable[Path], judge: Judge | None = None) -> tuple[Behaviour, ...]:
    """Behaviours from JSON files, one each.

    judge  Who rates the answers of behaviours with a `Judge`. A file, which may be somebody else's, says what
           is asked (`ASKED`), but not where texts and the key are sent.

    Raises `BehaviourUnreadable` naming file and fault; see `check_together` too.
    """
    behaviours: list[Behaviour] = []
    for path in paths:
        try:
            new = Behaviour.from_data(_with_judge(read_json(Path(path)), judge))
            check_together([*behaviours, new])
        except FileUnreadable as error:
            raise BehaviourUnreadable(f"cannot be read as a behaviour: {error}") from error
        except InvalidValue as error:
            raise BehaviourUnreadable(f"{path}: {error}") from error
        behaviours.append(new)
    return tuple(behaviours)


ASKED = ("question", "role", "lowest", "highest", "temperature", "template_affixes")
"""Settings of a judge that a behaviour's file may hold."""


def _with_judge(data: Any, judge: Judge | None) -> Any:
    """A behaviour's data, each `Judge` in it completed from the config's."""
    if not isinstance(data, dict):
        return data
    data = dict(data)
    if _is_judge(data.get("scorer")):
        data["scorer"] = _completed(data["scorer"], judge)
    if isinstance(data.get("extra_scorers"), list):
        data["extra_scorers"] = [
            _completed(each, judge) if _is_judge(each) else each for each in data["extra_scorers"]
        ]
    return data


def _is_judge(scorer: Any) -> bool:
    return isinstance(scorer, dict) and scorer.get("kind") == Judge.__name__


def _completed(scorer: dict[str, Any], judge: Judge | None) -> dict[str, Any]:
    check_keys(scorer, "scorer Judge")
    if judge is None:
        raise BehaviourUnreadable(
            "it is scored by a Judge, and the config names none: set suite.judge={url: URL, model: NAME}"
        )
    settings = scorer_to_data(judge)
    if foreign := sorted(key for key in scorer if key not in ASKED and scorer[key] != settings.get(key)):
        raise BehaviourUnreadable(
            f"its Judge sets {', '.join(foreign)}; a file may set {', '.join(ASKED)}. Where the texts and "
            "the key are sent is for your config: remove them, and set suite.judge"
        )
    return settings | scorer


def check_together(behaviours: Sequence[Behaviour]) -> None:
    """Raise `BehaviourUnreadable` for two behaviours of one name, or of one contrast with different "
    "prompts."""
    by_name: dict[str, Behaviour] = {}
    by_contrast: dict[str, Behaviour] = {}
    for new in behaviours:
        if new.name in by_name:
            raise BehaviourUnreadable(f"two behaviours are named {new.name!r}; give each a name of its own")
        by_name[new.name] = new
        other = by_contrast.setdefault(new.contrast, new)
        if (new.positives, new.negatives) != (other.positives, other.negatives):
            raise BehaviourUnreadable(
                f"{new.name!r} and {other.name!r} share the contrast {new.contrast!r} but not its positives "
                "and negatives; give one of them another contrast, or both the same prompts"
            )
