"""The text of the map: documents of every part, split and packed into sequences."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

from lrt.config import Corpus
from lrt.config.corpus import (
    CorpusSource,
    HubSource,
    JsonlSource,
    QuestionsSource,
    RowsSource,
    ScenesSource,
    StorybookSource,
    TextSource,
    WordProblemsSource,
)
from lrt.corpora import (
    PACKED,
    SPLITS,
    Document,
    PackedCorpus,
    Part,
    TemplatePair,
    begin_ids,
    document_of_two,
    end_ids,
    hub,
    jsonl,
    mixture,
    pack,
    scenes,
    text_files,
)
from lrt.corpora.alignment import VERSION as ALIGNMENT
from lrt.evaluation import Propensity, WordProblems, answered_questions, problem_prompts
from lrt.lab.grammar import pages
from lrt.models import check_same_tokenizer, tokenizer_digest
from lrt.models.chat_template import ChatTemplate
from lrt.models.sides import SIDES
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.pair import ModelPair
from lrt.storage.cache import JSON, Cache
from lrt.storage.fingerprint import file_digests

log = logging.getLogger(__name__)
# documents that tell one version of the code that writes them from another; of scenes they hold all words
FIRST_DOCUMENTS = {StorybookSource: 32, ScenesSource: 2048}
NOT_IN_THE_TEXT = ("fit_map_for", "rows", "repeat")
TWICE = (QuestionsSource, WordProblemsSource)  # of one text several versions


class CorpusText:
    """The text that both models run over.

    Packed when first needed: an existing store and its moments need its digest alone.
    """

    def __init__(self, settings: Corpus, pair: ModelPair, cache: Cache, monitor: Monitor) -> None:
        self.settings, self.pair = settings, pair
        self.cache, self.monitor = cache, monitor

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the mixture's parts."""
        return tuple(self.settings.sources)

    def documents(self, part: str) -> Iterator[Document]:
        """A part's documents as they come."""
        source = self.settings.sources[part]
        template = self._templates if isinstance(source, RowsSource) and source.chat else None
        match source:
            case StorybookSource():
                return (Document(page.text) for page in pages(source.seed, "held_out", source.plan))
            case ScenesSource():
                return scenes(source.seed, part)
            case QuestionsSource():
                return self._answered(source, part)
            case WordProblemsSource():
                return (Document(text, part, problem) for text, problem in problem_prompts(_problems(source)))
            case TextSource():
                return text_files(source.paths, source.unit, part, source.case)
            case JsonlSource():
                return jsonl(
                    source.path, source.field, part, template, source.answer_field, source.context_field
                )
            case HubSource():
                return hub(
                    source.path,
                    source.config,
                    source.split,
                    source.field,
                    revision=source.revision,
                    source=part,
                    tokenizer=template,
                    answer_field=source.answer_field,
                    context_field=source.context_field,
                )
        raise AssertionError(f"{type(source).__name__} has no reader")

    @property
    def _templates(self) -> ChatTemplate | TemplatePair:
        pair = self.pair
        return TemplatePair(pair.source_template, pair.template) if pair.source_template else pair.template

    def _answered(self, source: QuestionsSource, part: str) -> Iterator[Document]:
        settings = _propensity(source)
        if self.pair.source_template is None:
            answered = answered_questions(settings, lambda: self.pair.template)
            return (Document(text, part, group) for text, group in answered)
        both = (
            answered_questions(settings, partial(_same, template))
            for template in (self.pair.source_template, self.pair.template)
        )
        return (
            document_of_two(text, target_text, stem, part, stem)
            for (text, stem), (target_text, _) in zip(*both, strict=True)
        )

    @cached_property
    def duplicate_groups(self) -> dict[int, int]:
        """By document id, the id that versions of one text share (a question answered both ways, a problem
        in two prompts)."""
        asked = (name for name, source in self.settings.sources.items() if isinstance(source, TWICE))
        documents = itertools.chain(*map(self.documents, asked))
        return {document.id: document.duplicate_group_id for document in documents}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the packed tokens."""
        return str(self._known["digest"])

    def target_tokens(self, parts: Sequence[str] = ()) -> int:
        """Tokens of all splits that the target reads, of some parts or of all."""
        by_split: dict[str, dict[str, int]] = self._known["tokens"]
        if self.pair.aligned:
            by_split = {split: self.packed.tokens_by_group(split, "target") for split in SPLITS}
        return sum(by_part.get(part, 0) for by_part in by_split.values() for part in parts or self.parts)

    @cached_property
    def _known(self) -> dict[str, Any]:
        """What is known of the packed corpus without reading it."""
        known: dict[str, Any] = self.cache.made_once("corpora", self._facts(), self._summary, JSON)
        return known

    def _summary(self) -> dict[str, Any]:
        packed = self.packed
        tokens = {split: packed.tokens_by_group(split) for split in SPLITS}
        summary = {"digest": packed.digest, "tokens": tokens, "left_out": packed.documents_excluded}
        return {**summary, "aligned": packed.paired()} if packed.aligned else summary

    def _facts(self) -> dict[str, Any]:
        return {
            "context": self.settings.context,
            "seed": self.settings.seed,
            "tokens": self.settings.tokens,
            "sources": {name: _text_facts(source) for name, source in self.settings.sources.items()},
            "files": {name: file_digests(source.files) for name, source in self.settings.sources.items()},
            "written": {
                name: [document.text for document in itertools.islice(self.documents(name), first)]
                for name, source in self.settings.sources.items()
                if (first := FIRST_DOCUMENTS.get(type(source)))
            },
            "tokenizer": self.pair.identities["tokenizer"],
            "begin": self._of_source(begin_ids),
            "end": self._of_source(end_ids),
            "open": self._open_parts(),
            # the template is no part of the tokenizer's digest
            "chat_template": self.pair.template.facts
            if any(getattr(source, "chat", False) for source in self.settings.sources.values())
            else None,
            **self._alignment_facts(),
        }

    def _of_source(self, ids: Callable[[Any], tuple[int, ...]]) -> Any:
        """Ids around the source's texts; of several tokenizers, of each."""
        tokenizers = self.pair.models["source"].tokenizers
        return [ids(each) for each in tokenizers] if len(tokenizers) > 1 else ids(tokenizers[0])

    def _alignment_facts(self) -> dict[str, Any]:
        """What determines the text of two tokenizers, beside what determines that of one."""
        if not self.pair.aligned:
            return {}
        target = self.pair.models["target"].tokenizer
        return {"aligned": {"version": ALIGNMENT, "begin": begin_ids(target), "end": end_ids(target)}}

    @cached_property
    def paired(self) -> dict[str, Any]:
        """By split and side, the number of tokens and of those that end where the other model's do."""
        paired: dict[str, Any] = self._known["aligned"]
        return paired

    @cached_property
    def packed(self) -> PackedCorpus:
        """The corpus as sequences of token ids: packed once, then read by every process that needs it.

        Raises CorpusError, and TokenizersDiffer for a document that the two tokenizers cut differently.
        """
        # the target's tokenizer decides nothing but whether the text can be used
        facts = {**self._facts(), "target_tokenizer": tokenizer_digest(self.pair.models["target"].tokenizer)}
        return self.cache.made_once("packed", facts, self._pack, PACKED)

    def _pack(self) -> PackedCorpus:
        for part in () if self.pair.aligned else self.parts:
            texts = [document.text for document in itertools.islice(self.documents(part), 16)]
            check_same_tokenizer(
                self.pair.models["source"].tokenizer, self.pair.models["target"].tokenizer, texts
            )
        parts = [
            Part(name, self.documents(name), source.weight) for name, source in self.settings.sources.items()
        ]
        tokenizers = self.pair.models["source"].tokenizers
        several = len(tokenizers) > 1
        with self.monitor.working("reading and packing the corpus"):
            packed = pack(
                mixture(parts),
                tokenizers if several else tokenizers[0],
                self.settings.context,
                {split: getattr(self.settings.tokens, split) for split in SPLITS},
                target=self.pair.models["target"].tokenizer if self.pair.aligned else None,
                end=() if several else end_ids(tokenizers[0]),
                open_groups=self._open_parts(),
                seed=self.settings.seed,
            )
        for side, counts in packed.paired()["train"].items() if packed.aligned else ():
            message = "%s: %d of %d training tokens end where the other model's do"
            log.info(message, side, counts["paired"], counts["tokens"])
        return packed

    def _open_parts(self) -> list[str]:
        """Parts whose documents get no end token: their last token must be the text's own."""
        sides = SIDES if self.pair.aligned else SIDES[:1]
        if not any(end_ids(each) for side in sides for each in self.pair.models[side].tokenizers):
            return []
        return [rule.part for rule in self.settings.rules if rule.rows == "last_tokens"]


def _same(template: ChatTemplate) -> ChatTemplate:
    return template


def _text_facts(source: CorpusSource) -> dict[str, Any]:
    """What determines a source's text, local files apart, whose content counts and not their place."""
    place = ("path", "paths") if source.files else ()
    return {k: v for k, v in asdict(source).items() if k not in (*NOT_IN_THE_TEXT, *place)}


def _problems(source: WordProblemsSource) -> WordProblems:
    return WordProblems(
        path=source.path,
        revision=source.revision,
        train_split=source.split,
        question_fields=source.question_fields,
        answer_field=source.answer_field,
        direct=source.direct,
        reasoned=source.reasoned,
    )


def _propensity(source: QuestionsSource) -> Propensity:
    return Propensity(
        path=source.path,
        revision=source.revision,
        tasks=source.tasks,
        advanced=source.advanced,
        chat=source.chat,
    )
