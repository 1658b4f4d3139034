"""The section `corpus`: the text that the map is fitted on, one dataclass for each kind of source."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lrt.activations import PartRule, RowKind
from lrt.config.errors import ConfigError
from lrt.corpora import Case, Unit
from lrt.evaluation.word_problems import DIRECT, REASONED
from lrt.lab.grammar import Plan


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """What every part of the mixture has.

    weight       Share of the text, relative to the other parts.
    fit_map_for  Behaviours whose vectors are transferred with a map fitted on this part alone (with the other
                 parts that name them): text of a vector's own kind makes the better map for it. Behaviours
                 that no part names use the map of the whole corpus.
    rows         `pooled`: means of `pool` tokens. `tokens`: every token. `last_tokens`: each document's last
                 token alone, where vectors are read of texts like those.
    repeat       How often its rows enter a fit: more than once for a part that is small and matters.
    """

    weight: float = 1.0
    fit_map_for: tuple[str, ...] = ()
    rows: RowKind = "pooled"
    repeat: int = 1

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise ConfigError(f"repeat={self.repeat}: must be at least 1")
        if not self.weight > 0:
            raise ConfigError(f"weight={self.weight}: must be above 0")

    @property
    def files(self) -> tuple[str, ...]:
        """Local files and folders that its text is read from."""
        return ()

    def rule(self, part: str) -> PartRule | None:
        """What a row is in this part; None where it is what `pool` says of all."""
        rule = PartRule(part, self.rows, self.repeat)
        return None if rule == PartRule(part) else rule


@dataclass(frozen=True, kw_only=True)
class StorybookSource(SourceSettings):
    """Documents of the lab's grammar that no model of the family was trained on.

    plan  What the documents are about (`lrt.lab.grammar.Plan`); the rest is drawn.
    seed  Which documents.
    """

    kind: Literal["storybook"] = "storybook"
    plan: Plan = field(default_factory=Plan)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ScenesSource(SourceSettings):
    """Short written scenes on many subjects and moods. `seed` draws which."""

    kind: Literal["scenes"] = "scenes"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TextSource(SourceSettings):
    """Plain-text files.

    paths  Files, or folders of .txt files.
    unit   What one document is.
    case   `upper` writes it in capitals.
    """

    kind: Literal["text"] = "text"
    paths: tuple[str, ...] = ()
    unit: Unit = "paragraph"
    case: Case = "as_is"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.paths:
            raise ConfigError("kind=text needs `paths`: files or folders of .txt files")

    @property
    def files(self) -> tuple[str, ...]:
        return self.paths


@dataclass(frozen=True, kw_only=True)
class RowsSource(SourceSettings):
    """What sources made of rows have (jsonl files and hub sets).

    path   The file, or the set's id.
    field  Which field of a row is its text.
    chat   Write it in the model's chat template (with two tokenizers, in each model's own): the field is a
           request or a list of turns then.
    answer_field, context_field  With `chat`: the field of the answer to a request, and of a passage that the
           request is about.
    """

    path: str = ""
    field: str = "text"
    chat: bool = False
    answer_field: str = ""
    context_field: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ConfigError("`path` is empty: name a file, or the id of a hub set")
        for name in ("answer_field", "context_field"):
            if getattr(self, name) and not self.chat:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is part of a conversation, and this source is plain text: "
                    "set chat=true"
                )


@dataclass(frozen=True, kw_only=True)
class JsonlSource(RowsSource):
    """One JSON object a line."""

    kind: Literal["jsonl"] = "jsonl"

    @property
    def files(self) -> tuple[str, ...]:
        return (self.path,)


@dataclass(frozen=True, kw_only=True)
class HubSource(RowsSource):
    """A set of the hub, streamed."""

    kind: Literal["hub"] = "hub"
    config: str | None = None
    split: str = "train"
    revision: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        # a set in a local folder is named by its content: other data under the same path are another corpus
        return (self.path,) if Path(self.path).expanduser().exists() else ()


@dataclass(frozen=True, kw_only=True)
class QuestionsSource(SourceSettings):
    """Questions of the model-written evaluations, each with either answer behind it.

    path, revision  As in suite=propensity.
    tasks           Which of them.
    advanced        Who wrote the advanced-ai-risk tasks.
    chat            Write them in the model's chat template.
    """

    kind: Literal["questions"] = "questions"
    path: str = ""
    revision: str | None = None
    tasks: tuple[str, ...] = ()
    advanced: Literal["lm", "human"] = "lm"
    chat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ConfigError("`path` is empty: name a folder, or the id of a hub set")
        if not self.tasks:
            raise ConfigError("kind=questions needs `tasks`: names of model-written evaluations")
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"tasks={list(self.tasks)} names one twice: name each once")

    @property
    def files(self) -> tuple[str, ...]:
        return (self.path,) if Path(self.path).expanduser().is_dir() else ()


@dataclass(frozen=True, kw_only=True)
class WordProblemsSource(SourceSettings):
    """Word problems in the two prompts of suite=word_problems, whose settings of these names it takes.

    split  Of a data set.
    """

    kind: Literal["word_problems"] = "word_problems"
    path: str = ""
    revision: str | None = None
    split: str = "train"
    question_fields: tuple[str, ...] = ("question_concat",)
    answer_field: str = "Answer"
    direct: str = DIRECT
    reasoned: str = REASONED

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ConfigError("`path` is empty: name a file, or the id of a hub set")

    @property
    def files(self) -> tuple[str, ...]:
        return (self.path,) if Path(self.path).expanduser().exists() else ()


CorpusSource = (
    StorybookSource
    | ScenesSource
    | TextSource
    | JsonlSource
    | HubSource
    | QuestionsSource
    | WordProblemsSource
)
CheckedSource = Annotated[CorpusSource, Field(discriminator="kind")]


@dataclass(frozen=True)
class Tokens:
    """Tokens of each split.

    train       What the map is fitted on.
    validation  What chooses ridge weights and stops a fit.
    test        What figures are reported on.
    """

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Corpus:
    """What the map is fitted on.

    sources  Parts of the corpus by name, each with where its text comes from (docs/own-pair.md).
    context  Tokens of a sequence that a model reads.
    seed     Draws which documents go into which split.
    """

    sources: dict[str, CheckedSource]
    tokens: Tokens
    context: int
    seed: int

    def __post_init__(self) -> None:
        for split in ("train", "validation", "test"):
            if (tokens := getattr(self.tokens, split)) < max(1, self.context):
                raise ConfigError(
                    f"corpus.tokens.{split}={tokens}: must be at least one sequence of "
                    f"corpus.context={self.context}"
                )

    @property
    def rules(self) -> tuple[PartRule, ...]:
        """What the parts ask of their rows, where it is not what `pool` says of all."""
        rules = (source.rule(part) for part, source in sorted(self.sources.items()))
        return tuple(rule for rule in rules if rule is not None)

    def parts_for(self, behaviour: str) -> tuple[str, ...]:
        """The parts that a behaviour's map is fitted on; empty for the whole corpus."""
        parts = tuple(name for name, source in self.sources.items() if behaviour in source.fit_map_for)
        return () if len(parts) == len(self.sources) else parts
