"""A behaviour: contrastive prompts to find its vector, held-out items to measure it, and a scorer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lrt.evaluation.scorers import (
    Answer,
    Choice,
    LogitScorer,
    Scorer,
    WrittenScorer,
    scorer_from_data,
    scorer_to_data,
)

ItemSplit = Literal["development", "test"]
Operation = Literal["add", "ablate"]
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"


class BehaviourUnreadable(ValueError):
    """A behaviour file that cannot be used, with what is wrong in it."""


@dataclass(frozen=True)
class Item:
    """One question put to the model.

    prompt    Text as the model reads it, chat template and all.
    key       Stratum within which items are comparable (the letter of the matching answer, say).
    matching  For `Choice` and `Answer`: the answer that shows the behaviour.
    other     For `Choice` and `Answer`: the answer that does not.
    prompted  The same item with a plain prompt that asks for the behaviour: the baseline.
    """

    prompt: str
    key: str = ""
    matching: str = ""
    other: str = ""
    prompted: str = ""

    @property
    def id(self) -> str:
        """Hash of everything that makes the item what it is."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Behaviour:
    """What to find a vector from, what to measure, and how.

    contrast      Name of the vector; behaviours that share one (inducing and removing) share it.
    direction     +1 where the vector is to raise the score, -1 where its opposite is to lower it.
    damage_texts  Text on which harm is measured, in halves (`damage_texts_of`): text that shows the
                  behaviour already where it is a kind of text, ordinary text otherwise.
    operation     `add` the vector at the steered block, or `ablate` its direction from the output of every
                  block; strength is then the share of the component that is taken out.
    extra_scorers          Scorers of the same generated texts beside `scorer`, by which nothing is chosen.
    held_out      What the prompts ask, without the template around it: the map's corpus must not hold it
                  in another template either.
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

    def __post_init__(self) -> None:
        if not self.contrast:
            object.__setattr__(self, "contrast", self.name)
        for entry in ("name", "contrast"):  # files are called by them
            named = getattr(self, entry)
            if not isinstance(named, str) or re.fullmatch(_NAME, named) is None:
                raise BehaviourUnreadable(
                    f"the {entry} {named!r} of a behaviour is no name: give letters and digits, with `-`, "
                    "`_` or `.` between them, at most 100, as sad-stories"
                )
        for part in ("positives", "negatives", "development", "test", "damage_texts"):
            if not getattr(self, part):
                raise BehaviourUnreadable(f"behaviour {self.name!r} has no {part}")
        shared = {i.prompt for i in self.development} & {i.prompt for i in self.test}
        if shared:
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has {len(shared)} prompts among both its development and "
                f"its test items, as {min(shared)!r}; split by question"
            )
        leaked = {i.prompt for i in self.items} & {*self.positives, *self.negatives}
        if leaked:
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has {len(leaked)} items whose prompt is among its "
                f"contrastive texts, as {min(leaked)!r}; items must be held out"
            )
        if self.direction not in (1, -1):
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has direction {self.direction!r}; allowed: 1, -1"
            )
        if self.max_new_tokens < 1:
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has max_new_tokens {self.max_new_tokens}; at least 1 is needed"
            )
        if isinstance(self.scorer, Choice | Answer) and not all(
            i.matching and i.other and i.key for i in self.items
        ):
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} is scored by {type(self.scorer).__name__}, so every item needs "
                "`matching` and `other` answers and a `key` (the letter, or the Yes or No, of the matching "
                "one): without keys any two vectors would agree"
            )
        if self.operation not in get_args(Operation):
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} has operation {self.operation!r}; allowed: add, ablate"
            )
        if self.extra_scorers and self.reads_logits:
            raise BehaviourUnreadable(
                f"behaviour {self.name!r} is read off logits, so there is no text for its `extra_scorers` to score"
            )

    @property
    def is_choice(self) -> bool:
        """Whether it is read off two answers' logits instead of a generated text."""
        return isinstance(self.scorer, Choice)

    @property
    def has_answers(self) -> bool:
        """Whether its items have two answers and a key, told by logits or in the model's own words."""
        return isinstance(self.scorer, Choice | Answer)

    @property
    def reads_logits(self) -> bool:
        """Whether nothing is generated."""
        return isinstance(self.scorer, LogitScorer)

    @property
    def items(self) -> tuple[Item, ...]:
        """Development and test items."""
        return self.development + self.test

    def items_of(self, split: ItemSplit) -> tuple[Item, ...]:
        """Items of one split."""
        return self.test if split == "test" else self.development

    def damage_texts_of(self, split: ItemSplit) -> tuple[str, ...]:
        """Every second damage text: strengths are chosen by the harm on one half, and the harm of what
        was chosen is told on the other. A single text serves as both."""
        half = self.damage_texts[::2] if split == "development" else self.damage_texts[1::2]
        return half or self.damage_texts

    @property
    def texts(self) -> Iterable[str]:
        """Every text that must not be in the map's corpus."""
        yield from self.positives
        yield from self.negatives
        yield from (item.prompt for item in self.items)
        yield from self.damage_texts
        yield from self.held_out

    def to_data(self) -> dict[str, Any]:
        """Plain data for a file or a fingerprint."""
        also = [scorer_to_data(scorer) for scorer in self.extra_scorers]
        return {**asdict(self), "scorer": scorer_to_data(self.scorer), "extra_scorers": also}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Behaviour:
        """Reads `to_data`'s; raises `BehaviourUnreadable` naming the field at fault."""
        if not isinstance(data, dict):
            raise BehaviourUnreadable(f"a behaviour is a JSON object; got {type(data).__name__}")
        fields = dict(data)
        try:
            fields["scorer"] = scorer_from_data(fields["scorer"])
            for part in ("development", "test"):
                fields[part] = tuple(Item(**item) for item in fields[part])
            for part in ("positives", "negatives", "damage_texts"):
                fields[part] = _texts(part, fields[part])
            if "held_out" in fields:
                fields["held_out"] = _texts("held_out", fields["held_out"])
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
        raise ValueError(f"`extra_scorers` holds {type(scorer).__name__}, which scores no text")
    return scorer


def _texts(part: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"`{part}` must be a list of texts")
    return tuple(value)


def read_behaviours(paths: Iterable[Path]) -> tuple[Behaviour, ...]:
    """Behaviours from JSON files, one each; raises `BehaviourUnreadable` naming file and fault.

    Names must differ, and behaviours that share a `contrast` must share its texts.
    """
    behaviours: list[Behaviour] = []
    for path in paths:
        try:
            read = Behaviour.from_data(json.loads(Path(path).read_text(encoding="utf-8")))
            check_together([*behaviours, read])
        except BehaviourUnreadable as error:
            raise BehaviourUnreadable(f"{path}: {error}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise BehaviourUnreadable(f"{path} cannot be read as a behaviour: {error}") from error
        behaviours.append(read)
    return tuple(behaviours)


def check_together(behaviours: Sequence[Behaviour]) -> None:
    """Raises `BehaviourUnreadable` for a name that two have, and for a contrast of which two have texts."""
    by_name: dict[str, Behaviour] = {}
    by_contrast: dict[str, Behaviour] = {}
    for new in behaviours:
        if new.name in by_name:
            raise BehaviourUnreadable(
                f"the name {new.name!r} is taken by another behaviour; names must differ"
            )
        by_name[new.name] = new
        other = by_contrast.setdefault(new.contrast, new)
        if (new.positives, new.negatives) != (other.positives, other.negatives):
            raise BehaviourUnreadable(
                f"{new.name!r} shares the contrast {new.contrast!r} with {other.name!r} but not its "
                "positives and negatives; give it another contrast or the same texts"
            )
