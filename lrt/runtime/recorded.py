"""The first stages: the pair, the text, the recorded states and their moments."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lrt.activations import (
    ActivationStore,
    PartRule,
    RecordingPlan,
    RecordingWorker,
    Selection,
    StoreForeign,
    plan_recording,
    record,
    record_share,
)
from lrt.activations.manifest import Side
from lrt.corpora import (
    SPLITS,
    Decontaminator,
    Document,
    PackedCorpus,
    Part,
    end_ids,
    hub,
    jsonl,
    mixture,
    pack,
    scenes,
    text_files,
)
from lrt.evaluation import Behaviour, Propensity, answered_questions
from lrt.evaluation.storybook import NAMES as STORYBOOK_BEHAVIOURS
from lrt.lab.grammar import pages
from lrt.mapping import (
    ClosedFormSpec,
    FitSpec,
    LayerConcat,
)
from lrt.models import (
    LanguageModel,
    check_same_tokenizer,
    identity,
    load,
    tokenizer_digest,
)
from lrt.report import blocks_told
from lrt.runtime.caches import cache_read
from lrt.runtime.schema import Config, ConfigError, CorpusSource
from lrt.runtime.session import Session
from lrt.runtime.storeless import MEDIAN_TOKENS, check_storeless, pass_medians
from lrt.runtime.suites import behaviours_of
from lrt.storage.durable import write_durably
from lrt.storage.fingerprint import file_digests, fingerprint

log = logging.getLogger(__name__)

# how many documents tell one version of their writer from another; of scenes all words are among them
WRITTEN_BY_CODE = {"storybook": 32, "scenes": 2048}


class Recorded:
    """What is known of a config before any fit. Nothing costly happens before a stage is asked for."""

    def __init__(self, config: Config, session: Session) -> None:
        self.config, self.session = config, session
        self.artifacts = Path(config.paths.artifacts)
        self.kept_models = Path(config.paths.models)

    # -- the pair ------------------------------------------------------------------------------

    @cached_property
    def source(self) -> LanguageModel:
        """The model the vectors are found on."""
        return load(self.config.pair.source, self.kept_models, self.blocks_needed("source"))

    @cached_property
    def target(self) -> LanguageModel:
        """The model they are carried to."""
        return load(self.config.pair.target, self.kept_models, self.blocks_needed("target"))

    def blocks_needed(self, side: Side) -> int | None:  # noqa: ARG002
        """How many of a model's blocks the run needs; None: all, to steer it."""
        return None

    @property
    def automatic(self) -> bool:
        """Whether layers are to be chosen by what the models' own vectors do."""
        return "auto" in (self.config.layers.source, self.config.layers.target)

    @cached_property
    def candidates(self) -> tuple[LayerConcat, LayerConcat]:
        """The layers of source and target that the config names; those of `recording` where it says auto.

        Raises ValueError for a layer a model does not have, and for one named twice.
        """
        found = []
        for side, model in (("source", self.source), ("target", self.target)):
            setting, named = f"layers.{side}", getattr(self.config.layers, side)
            if named == "auto":
                setting, named = f"recording.{side}", getattr(self.config.recording, side)
                if named == "all" or not named:
                    named = range(model.depth)
            layers = tuple(model.resolve_layer(depth, setting) for depth in named)
            if len(set(layers)) < len(layers):
                raise ConfigError(
                    f"{setting}={list(named)} names a block twice: blocks {list(layers)}; name each once"
                )
            found.append(LayerConcat(layers, model.width))
        return found[0], found[1]

    @cached_property
    def stacks(self) -> tuple[LayerConcat, LayerConcat]:
        """The layers of source and target that the map is between."""
        return self.candidates

    @cached_property
    def recorded_stacks(self) -> tuple[LayerConcat, LayerConcat]:
        """The blocks of source and target that the store holds: the map's, and those of `recording`."""
        found = []
        for side, model, stack in zip(
            ("source", "target"), (self.source, self.target), self.candidates, strict=True
        ):
            beside = getattr(self.config.recording, side)
            if beside == "all":
                beside = range(model.depth)
            more = [model.resolve_layer(depth, f"recording.{side}") for depth in beside]
            found.append(LayerConcat(tuple(sorted({*stack.layers, *more})), model.width))
        return found[0], found[1]

    @cached_property
    def identities(self) -> dict[str, Any]:
        """What determines both models' numbers."""
        pair = self.config.pair
        return {
            "source": identity(pair.source, self.kept_models),
            "target": identity(pair.target, self.kept_models),
            "tokenizer": tokenizer_digest(self.source.tokenizer),
        }

    def check(self) -> None:
        """Everything that can be known to be wrong before work begins, said before work begins.

        Raises ValueError (of the folder concerned) for layers, map, fit, tokenizers, corpus files,
        behaviours and trainer settings that cannot be run.
        """
        with self.session.stage("models"):
            self.check_trains()
            source, target = self.candidates
            self.recorded_stacks  # noqa: B018
            if self.automatic:  # at least one of each will be chosen
                self.config.map.check(source.width, target.width)
            else:
                self.config.map.check(source.total, target.total)
            self._check_solver(source, target)
            if not self.keeps_states:
                check_storeless(self)
            samples = [text for b in self.suite for text in (*b.positives[:4], *b.negatives[:4])]
            check_same_tokenizer(self.source.tokenizer, self.target.tokenizer, samples)
            self._check_carried()
            evaluation = self.config.evaluation
            for setting, named in (
                ("evaluation.behaviours", evaluation.behaviours),
                ("evaluation.during_training.behaviours", evaluation.during_training.behaviours),
            ):
                for name in named:
                    if name not in {b.name for b in self.suite}:
                        raise ConfigError(
                            f"{setting} holds {name!r}, which is not in the suite: "
                            f"{', '.join(b.name for b in self.suite)}"
                        )
            log.info(
                "%s%s %s of %d -> %s %s of %d",
                "to choose among: " * self.automatic,
                self.source.spec.name,
                blocks_told(source.layers),
                self.source.depth,
                self.target.spec.name,
                blocks_told(target.layers),
                self.target.depth,
            )

    def check_trains(self) -> None:
        """Raises ValueError for settings of the fit and of the Trainer that cannot be run."""
        self.config.fit.check(self.config.map)
        check_trainer(self.config.trainer, self.config.fit)

    def _check_solver(self, source: LayerConcat, target: LayerConcat) -> None:
        match self.config.fit:
            case ClosedFormSpec(solver="identity") if source.total != target.total:
                raise ConfigError(
                    f"fit.solver=identity needs equal widths, the map is {source.total} -> {target.total}: "
                    "take layers of equal width and number, or another solver"
                )
            case ClosedFormSpec(solver="embeddings") if len(source.layers) + len(target.layers) > 2:
                raise ConfigError(
                    "fit.solver=embeddings knows one map for all layers, so it takes one of each model; got "
                    f"layers.source={list(source.layers)} and layers.target={list(target.layers)}"
                )

    def _check_carried(self) -> None:
        names = {b.name for b in self.suite}
        for part, source in self.config.corpus.sources.items():
            for name in source.fit_map_for:
                # those of the lab may stay named while others are studied
                if name not in names and name not in STORYBOOK_BEHAVIOURS:
                    raise ConfigError(
                        f"corpus.sources.{part}.fit_map_for holds {name!r}, which is not in the suite: "
                        f"{', '.join(sorted(names))}"
                    )

    def selected(
        self, stacks: tuple[LayerConcat, LayerConcat] | None = None, span: int | None = None
    ) -> Selection:
        """What of the recorded states is a row, at the recorded layers if none are given."""
        source, target = stacks or self.recorded_stacks
        return Selection(
            source.layers,
            target.layers,
            self.config.filter,
            span or self.config.pool,
            rules=self.part_rules,
        )

    @property
    def part_rules(self) -> tuple[PartRule, ...]:
        """What the parts of the corpus ask of their rows, where it is not what all do."""
        sources = sorted(self.config.corpus.sources.items())
        asked = (PartRule(name, source.rows, source.repeat) for name, source in sources)
        return tuple(rule for rule in asked if rule != PartRule(rule.part))

    def parts_that_carry(self, behaviour: Behaviour) -> tuple[str, ...]:
        """The parts of the corpus that a behaviour's map is fitted on; none: the whole corpus."""
        sources = self.config.corpus.sources
        found = tuple(name for name, source in sources.items() if behaviour.name in source.fit_map_for)
        return () if len(found) == len(sources) else found

    # -- behaviours and text -------------------------------------------------------------------

    @cached_property
    def suite(self) -> tuple[Behaviour, ...]:
        """The behaviours under study."""
        with self.session.working("writing the behaviours"):
            return behaviours_of(self.config.suite, self._template)

    @property
    def studied(self) -> tuple[Behaviour, ...]:
        """The behaviours that are measured."""
        by_name = {behaviour.name: behaviour for behaviour in self.suite}
        return tuple(by_name[name] for name in self.config.evaluation.behaviours or by_name)

    def _template(self) -> Any:
        """The tokenizer in whose chat template requests are written."""
        ours, theirs = self.source.tokenizer, self.target.tokenizer
        match self.config.pair.template:
            case "source":
                return ours
            case "target":
                return theirs
        return ours if ours.chat_template else theirs

    @cached_property
    def exclusion(self) -> Decontaminator:
        """Texts that must not be in the map's corpus."""
        return Decontaminator(text for behaviour in self.suite for text in behaviour.texts)

    @cached_property
    def kin(self) -> dict[int, int]:
        """By id, the documents that are versions of one another (a question answered both ways), each with
        the id that they share."""
        sources = self.config.corpus.sources
        asked = (self._documents(name, each) for name, each in sources.items() if each.kind == "questions")
        return {document.id: document.duplicate_group_id for document in itertools.chain(*asked)}

    def _documents(self, name: str, source: CorpusSource) -> Iterator[Document]:
        chat = self._template() if source.chat else None
        match source.kind:
            case "storybook":
                return (Document(page.text) for page in pages(source.seed, "held_out", source.plan))
            case "scenes":
                return scenes(source.seed, name)
            case "questions":
                asked = answered_questions(_questions(source), self._template)
                return (Document(text, name, kin) for text, kin in asked)
            case "text":
                return text_files(source.paths, source.unit, name, source.case)
            case "jsonl":
                return jsonl(source.path, source.field, name, chat, source.answer_field, source.context_field)
            case "hub":
                return hub(
                    source.path,
                    source.config,
                    source.split,
                    source.field,
                    revision=source.revision,
                    source=name,
                    tokenizer=chat,
                    answer_field=source.answer_field,
                    context_field=source.context_field,
                )

    @cached_property
    def _corpus_facts(self) -> dict[str, Any]:
        corpus = self.config.corpus
        files = {
            name: file_digests(source.paths if source.kind == "text" else (source.path,))
            for name, source in corpus.sources.items()
            # a set of questions may be one of the hub's
            if source.kind in ("text", "jsonl")
            or (source.kind == "questions" and Path(source.path).expanduser().is_dir())
        }
        sources = {
            name: {**asdict(source), **dict.fromkeys(("paths", "path") if name in files else ())}
            for name, source in corpus.sources.items()
        }
        for facts in sources.values():
            for name in ("fit_map_for", "rows", "repeat"):  # what is made of it; the text is the same
                del facts[name]
        return {
            "corpus": {**asdict(corpus), "sources": sources},
            "files": files,
            # what writes them is code: their first documents tell one version of it from another
            "pages": {
                name: [document.text for document in itertools.islice(self._documents(name, source), first)]
                for name, source in corpus.sources.items()
                if (first := WRITTEN_BY_CODE.get(source.kind))
            },
            "excluded": self.exclusion.digest,
            "tokenizer": self.identities["tokenizer"],
            "end": end_ids(self.source.tokenizer),
            "open": self._open_parts(),
            # what a chat is written in is no part of the tokenizer's digest
            "chat_template": self._template().chat_template
            if any(source.chat for source in corpus.sources.values())
            else None,
        }

    @cached_property
    def corpus_digest(self) -> str:
        """What was packed: of two suites whose texts are not in the corpus it is the same, so that a
        behaviour that is added records nothing anew."""
        file = self.artifacts / "corpora" / f"{fingerprint(self._corpus_facts)}.json"
        if file.is_file():
            with cache_read(file):
                return str(json.loads(file.read_text(encoding="utf-8"))["digest"])
        packed = self.packed
        file.parent.mkdir(parents=True, exist_ok=True)
        tokens = {split: packed.tokens_by_group(split) for split in SPLITS}
        facts = {"digest": packed.digest, "tokens": tokens, "left_out": packed.documents_left_out}
        write_durably(file, json.dumps(facts, indent=1).encode())
        return packed.digest

    # -- recorded states -----------------------------------------------------------------------

    @cached_property
    def store_fingerprint(self) -> str:
        """Of the activation store."""
        recording = self.config.recording
        return fingerprint(
            {
                "models": self.identities,
                "layers": [stack.layers for stack in self.recorded_stacks],
                "corpus": self.corpus_digest,
                # the shape of the batches decides the last bits
                "batch_tokens": recording.batch_tokens,
                "rows_per_shard": recording.rows_per_shard,
                "non_finite": recording.non_finite,
                # int8: how it rounds
                **({} if recording.states == "native" else {"states": recording.states, "version": 2}),
            }
        )

    @cached_property
    def packed(self) -> PackedCorpus:
        """The corpus as token blocks."""
        corpus = self.config.corpus
        for name, source in corpus.sources.items():
            first = itertools.islice(self._documents(name, source), 16)
            texts = [document.text for document in first]
            check_same_tokenizer(self.source.tokenizer, self.target.tokenizer, texts)
        parts = [
            Part(name, self._documents(name, source), source.weight)
            for name, source in corpus.sources.items()
        ]
        with self.session.working("reading and packing the corpus"):
            return pack(
                mixture(parts),
                self.source.tokenizer,
                corpus.context,
                {split: getattr(corpus.tokens, split) for split in SPLITS},
                end=end_ids(self.source.tokenizer),
                open_groups=self._open_parts(),
                seed=corpus.seed,
                exclude=self.exclusion,
            )

    @property
    def keeps_states(self) -> bool:
        """Whether hidden states are recorded; where not, what needs them passes over the models."""
        return self.config.recording.states != "none"

    @property
    def pass_facts(self) -> dict[str, Any]:
        """What determines the rows of a pass that keeps nothing, beside their selection."""
        return {"store": self.store_fingerprint, "median_tokens": MEDIAN_TOKENS}

    @cached_property
    def median_norms(self) -> Mapping[str, float]:
        """Median norms of the recorded layers, by `source.LAYER` and `target.LAYER`."""
        if self.keeps_states:
            return self.store.manifest.median_norms
        return pass_medians(self, self.artifacts / "passes" / f"norms-{fingerprint(self.pass_facts)}.json")

    @property
    def store_folder(self) -> Path:
        """Where the activation store lies."""
        return self.artifacts / "activations" / self.store_fingerprint

    @cached_property
    def store(self) -> ActivationStore:
        """Both models' hidden states over the corpus, recorded or found. Raises ConfigError where none are to
        be kept."""
        if not self.keeps_states:
            raise ConfigError(
                "recording.states=none keeps no states, and this needs them; set recording.states=native"
            )
        with self.session.stage("record hidden states"):
            if self._recorded:
                store = ActivationStore.open(self.store_folder)
                if store.plan.identity != self._store_identity:
                    raise StoreForeign(
                        f"{self.store_folder} holds the store of other settings; {store.fix_hint}"
                    )
                if self.config.recording.verify:
                    with self.session.working("checking the recorded states"):
                        store.verify(full=True)
                self._check_corpus(store.plan.corpus)
                return store
            with self._recording(self.recording_plan.rows) as what:
                return record(self.store_folder, **what)

    def record_share(self, share: RecordingWorker) -> Path:
        """Records one share of the store, or goes on with it; the share's folder."""
        plan = self.recording_plan
        mine = plan.rows_of(share.of(plan.shards))
        with self.session.stage("record hidden states"), self._recording(mine) as what:
            return record_share(self.store_folder, share, **what)

    def merge_shares(self) -> ActivationStore:
        """The store made of its shares, none of which may be missing; runs no model."""
        with self._recording(self.recording_plan.rows) as what:
            return record(self.store_folder, **what, missing="refuse")

    @property
    def _recorded(self) -> bool:
        return (self.store_folder / "manifest.json").is_file()

    @property
    def _store_identity(self) -> dict[str, Any]:
        # in the store too, so that one put in another's place is noticed
        return {**self.identities, "fingerprint": self.store_fingerprint}

    @cached_property
    def recording_plan(self) -> RecordingPlan:
        """What is to be recorded, in which shards."""
        states = self.config.recording.states
        if states == "none":
            raise ConfigError("recording.states=none keeps no states, so there is no store to record")
        self._check_corpus(self.packed.digest)
        source, target = self.recorded_stacks
        return plan_recording(
            self.source,
            self.target,
            source.layers,
            target.layers,
            self.packed,
            identity=self._store_identity,
            rows_per_shard=self.config.recording.rows_per_shard,
            batch_tokens=self.config.recording.batch_tokens,
            non_finite=self.config.recording.non_finite,
            states=states,
        )

    @contextmanager
    def _recording(self, rows: int) -> Iterator[dict[str, Any]]:
        """What `record` takes, with a bar over so many rows."""
        with self.session.progress("recording", rows) as advance:
            done = 0

            def tell(so_far: int, _: int) -> None:
                nonlocal done
                advance(so_far - done)
                done = so_far

            yield {
                "source": self.source,
                "target": self.target,
                "plan": self.recording_plan,
                "corpus": self.packed,
                "progress": tell,
            }

    def _check_corpus(self, digest: str) -> None:
        if digest != self.corpus_digest:
            raise StoreForeign(
                f"the corpus that {self.store_folder} is named by was packed from other text than there is "
                f"now: delete {self.artifacts / 'corpora'} and run the command again"
            )

    def _open_parts(self) -> list[str]:
        """Parts whose documents get no mark behind them: their last token is to be the text's own."""
        if not end_ids(self.source.tokenizer):
            return []
        return [rule.part for rule in self.part_rules if rule.rows == "last_tokens"]


def _questions(source: CorpusSource) -> Propensity:
    return Propensity(
        path=source.path,
        revision=source.revision,
        tasks=source.tasks,
        advanced=source.advanced,
        chat=source.chat,
    )


def check_trainer(settings: dict[str, Any], fit: FitSpec | ClosedFormSpec) -> None:
    """Raises ConfigError for a setting that Lightning's Trainer does not take, or not on this machine."""
    allowed = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    for key in settings:
        if key in fit.trainer_options():
            raise ConfigError(f"trainer.{key} is set by fit (fit.epochs, fit.gradient_clip); set it there")
        if key in (
            "logger",
            "callbacks",
            "default_root_dir",
            "enable_checkpointing",
            "use_distributed_sampler",
        ):
            raise ConfigError(f"trainer.{key} is not for a config to set: the run brings its own")
        if key not in allowed:
            raise ConfigError(f"trainer.{key} is not a setting of Lightning's Trainer")
    try:
        L.Trainer(**settings, logger=False, enable_checkpointing=False, enable_model_summary=False)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        told = ", ".join(f"trainer.{key}={value}" for key, value in settings.items())
        raise ConfigError(f"Lightning's Trainer refuses these settings ({told}): {error}") from error
