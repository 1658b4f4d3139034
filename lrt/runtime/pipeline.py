"""The stages from two models to a report, each made once and found again by its fingerprint.

A stage is a property: asking for a result makes what it needs. `train.py` and `evaluate.py` read
the same stages of the same config, so the one finds what the other made.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    RowFilter,
    pairs_with_other_source,
    record,
)
from lrt.corpora import (
    Document,
    Exclusion,
    Part,
    Split,
    hub,
    jsonl,
    mixture,
    pack,
    text_files,
)
from lrt.durable import write_durably
from lrt.evaluation import (
    Behaviour,
    ContrastStates,
    Probe,
    SteerableModel,
    SteeringProbe,
    Study,
    TransferMaps,
    choose_strength,
    directions,
    read_behaviours,
    storybook_suite,
    study,
    study_rows,
    summarise,
)
from lrt.evaluation.records import read_study, write_study
from lrt.evaluation.storybook import NAMES as STORYBOOK_BEHAVIOURS
from lrt.lab.grammar import pages
from lrt.lab.shelf import family_card
from lrt.mapping import (
    AffineMap,
    FitHistory,
    MapModule,
    Moments,
    RidgeFit,
    early_stopping,
    load_map,
    ridge_at,
    ridge_path,
    save_map,
)
from lrt.models import (
    LanguageModel,
    ModelSpec,
    check_same_tokenizer,
    identity,
    load,
    tokenizer_digest,
)
from lrt.runtime.fingerprints import file_digests, fingerprint
from lrt.runtime.provenance import provenance
from lrt.runtime.schema import Config, ConfigError, CorpusSource
from lrt.runtime.session import Session
from lrt.steering import SteeringVector, last_token_states, prompts_digest, transfer

log = logging.getLogger(__name__)


class Pipeline:
    """All stages of one config. Nothing costly happens before a stage is asked for."""

    def __init__(self, config: Config, session: Session) -> None:
        self.config, self.session = config, session
        self.artifacts = Path(config.paths.artifacts)

    # -- the pair ------------------------------------------------------------------------------

    @cached_property
    def source(self) -> LanguageModel:
        """The model the vectors are found on."""
        return load(self.config.pair.source)

    @cached_property
    def target(self) -> LanguageModel:
        """The model they are carried to."""
        return load(self.config.pair.target)

    @cached_property
    def layers(self) -> tuple[int, int]:
        """Block indices of source and target."""
        layers = self.config.layers
        return (
            self.source.resolve_layer(layers.source, "layers.source"),
            self.target.resolve_layer(layers.target, "layers.target"),
        )

    @cached_property
    def identities(self) -> dict[str, Any]:
        """What determines both models' numbers."""
        pair = self.config.pair
        return {
            "source": identity(pair.source),
            "target": identity(pair.target),
            "tokenizer": tokenizer_digest(self.source.tokenizer),
        }

    def check(self) -> None:
        """Everything that can be known to be wrong before work begins, said before work begins.

        Raises ValueError (of the folder concerned) for layers, map, fit, tokenizers, corpus files,
        behaviours and trainer settings that cannot be run.
        """
        with self.session.stage("models"):
            source, target = self.layers
            self.config.map.check(self.source.width, self.target.width)
            self.config.fit.check(self.config.map)
            check_trainer(self.config.trainer)
            samples = [text for b in self.suite for text in (*b.positives[:4], *b.negatives[:4])]
            check_same_tokenizer(self.source.tokenizer, self.target.tokenizer, samples)
            for name in self.config.evaluation.probe.behaviours:
                if name not in {b.name for b in self.suite}:
                    raise ConfigError(
                        f"evaluation.probe.behaviours holds {name!r}, which is not in the suite: "
                        f"{', '.join(b.name for b in self.suite)}"
                    )
            log.info(
                "%s block %d of %d -> %s block %d of %d",
                self.source.spec.name,
                source,
                self.source.depth,
                self.target.spec.name,
                target,
                self.target.depth,
            )

    # -- behaviours and text -------------------------------------------------------------------

    @cached_property
    def suite(self) -> tuple[Behaviour, ...]:
        """The behaviours under study."""
        suite = self.config.suite
        if suite.kind == "files":
            return read_behaviours(map(Path, suite.paths))
        return storybook_suite(
            suite.names or STORYBOOK_BEHAVIOURS,
            contrast_pairs=suite.contrast_pairs,
            development=suite.development,
            test=suite.test,
            seed=suite.seed,
        )

    @cached_property
    def exclusion(self) -> Exclusion:
        """Texts that must not be in the map's corpus."""
        return Exclusion(text for behaviour in self.suite for text in behaviour.texts)

    def _documents(self, name: str, source: CorpusSource) -> Iterator[Document]:
        tokenizer = self.source.tokenizer
        match source.kind:
            case "storybook":
                return (Document(page.text) for page in pages(source.seed, "held_out"))
            case "text":
                return text_files(source.paths, source.unit, name)
            case "jsonl":
                chat = tokenizer if source.chat else None
                return jsonl(source.path, source.field, name, chat)
            case "hub":
                return hub(
                    source.path,
                    source.config,
                    source.split,
                    source.field,
                    revision=source.revision,
                    group=name,
                    tokenizer=tokenizer if source.chat else None,
                )

    @cached_property
    def _corpus_facts(self) -> dict[str, Any]:
        corpus = self.config.corpus
        files = {
            name: file_digests(source.paths if source.kind == "text" else (source.path,))
            for name, source in corpus.sources.items()
            if source.kind in ("text", "jsonl")
        }
        sources = {
            name: {**asdict(source), "paths": None, "path": None} if name in files else asdict(source)
            for name, source in corpus.sources.items()
        }
        return {
            "corpus": {**asdict(corpus), "sources": sources},
            "files": files,
            "excluded": self.exclusion.digest,
        }

    # -- recorded states -----------------------------------------------------------------------

    @cached_property
    def store_fingerprint(self) -> str:
        """Of the activation store."""
        recording = self.config.recording
        return fingerprint(
            {
                "models": self.identities,
                "layers": self.layers,
                **self._corpus_facts,
                # the shape of the batches decides the last bits
                "batch_tokens": recording.batch_tokens,
                "rows_per_shard": recording.rows_per_shard,
            }
        )

    @cached_property
    def store(self) -> ActivationStore:
        """Both models' hidden states over the corpus, recorded or found."""
        folder = self.artifacts / "activations" / self.store_fingerprint
        with self.session.stage("record hidden states"):
            if (folder / "manifest.json").is_file():
                return ActivationStore.open(folder)
            corpus = self.config.corpus
            parts = [
                Part(name, self._documents(name, source), source.weight)
                for name, source in corpus.sources.items()
            ]
            packed = pack(
                mixture(parts),
                self.source.tokenizer,
                corpus.context,
                {
                    "train": corpus.tokens.train,
                    "validation": corpus.tokens.validation,
                    "test": corpus.tokens.test,
                },
                end=self._document_end(),
                seed=corpus.seed,
                exclude=self.exclusion,
            )
            wanted = sum(packed.rows(split) for split in ("train", "validation", "test"))
            with self.session.progress("recording", wanted) as advance:
                done = 0

                def tell(rows: int, _: int) -> None:
                    nonlocal done
                    advance(rows - done)
                    done = rows

                return record(
                    folder,
                    self.source,
                    self.target,
                    [self.layers[0]],
                    [self.layers[1]],
                    packed,
                    identity=self.identities,
                    rows_per_shard=self.config.recording.rows_per_shard,
                    batch_tokens=self.config.recording.batch_tokens,
                    progress=tell,
                )

    def _document_end(self) -> tuple[int, ...]:
        # A tokenizer that has both marks closes documents with EOS, as the family was trained.
        tokenizer = self.source.tokenizer
        if tokenizer.bos_token_id is None or tokenizer.bos_token_id == tokenizer.eos_token_id:
            return ()
        return (int(tokenizer.eos_token_id),)

    @cached_property
    def data(self) -> ActivationDataModule:
        """The store as Lightning reads it, filtered."""
        batches = self.config.batches
        return ActivationDataModule(
            self.store.folder,
            *self.layers,
            filter=self.config.filter,
            batch_rows=batches.rows,
            seed=self.config.seed,
            workers=batches.workers,
            window_rows=batches.window_rows,
        )

    # -- moments and the optimum ---------------------------------------------------------------

    @cached_property
    def moments(self) -> dict[str, Moments]:
        """Moments by name: `train/0`.. (folds of documents), `validation`, `test`, `shuffled/0`..,
        and `test_unfiltered`."""
        evaluation = self.config.evaluation
        name = fingerprint(
            {
                "store": self.store_fingerprint,
                "filter": self.config.filter,
                "folds": evaluation.folds,
                "shuffled": evaluation.shuffled_draws,
                "seed": self.config.seed,
            }
        )
        folder = self.artifacts / "moments" / name
        with self.session.stage("moments"):
            return self._cached_moments(folder, self._gather_moments)

    def _gather_moments(self) -> dict[str, Moments]:
        store, folds = self.store, self.config.evaluation.folds
        widths = store.width("source"), store.width("target")
        found = {f"train/{fold}": Moments(*widths) for fold in range(folds)}
        for batch in self.data.iterate("train", batch_rows=8192):
            fold_of = batch["document"] % folds
            for fold in range(folds):
                mine = fold_of == fold
                if mine.any():
                    found[f"train/{fold}"].update(batch["source"][mine], batch["target"][mine])
        held_out: tuple[Split, ...] = ("validation", "test")
        for split in held_out:
            found[split] = Moments(*widths)
            for batch in self.data.iterate(split, batch_rows=8192):
                found[split].update(batch["source"], batch["target"])
        for draw in range(self.config.evaluation.shuffled_draws):
            moments = found[f"shuffled/{draw}"] = Moments(*widths)
            seed = 1000 * (self.config.seed + 1) + draw
            for batch in self.data.iterate_shuffled_pairs("train", seed, batch_rows=8192):
                moments.update(batch["source"], batch["target"])
        everything = ActivationDataModule(
            store.folder, *self.layers, filter=RowFilter(massive=None, first_position=False)
        )
        unfiltered = found["test_unfiltered"] = Moments(*widths)
        for batch in everything.iterate("test", batch_rows=8192):
            unfiltered.update(batch["source"], batch["target"])
        return found

    def _cached_moments(self, folder: Path, gather: Any) -> dict[str, Moments]:
        names_file = folder / "names.json"
        if names_file.is_file():
            names = json.loads(names_file.read_text())
            return {name: Moments.load(folder / file) for name, file in names.items()}
        found: dict[str, Moments] = gather()
        folder.mkdir(parents=True, exist_ok=True)
        names = {}
        for name, moments in found.items():
            names[name] = f"{name.replace('/', '-')}.safetensors"
            moments.save(folder / names[name])
        write_durably(names_file, json.dumps(names).encode())  # last: a folder with it is whole
        return found

    @cached_property
    def train_moments(self) -> Moments:
        """Of all training rows."""
        return merged([m for name, m in self.moments.items() if name.startswith("train/")])

    @cached_property
    def yardstick(self) -> RidgeFit:
        """The ridge map that every fit is held against."""
        bias = self.config.map.bias
        return ridge_path(self.train_moments, self.moments["validation"], bias=bias)

    # -- steering vectors ----------------------------------------------------------------------

    @cached_property
    def contrasts(self) -> dict[str, Behaviour]:
        """One behaviour for each contrastive set, by the contrast's name."""
        return {behaviour.contrast: behaviour for behaviour in reversed(self.suite)}

    @cached_property
    def states(self) -> dict[str, ContrastStates]:
        """Last-token states of every contrastive set, in both models and the untrained source."""
        with self.session.stage("steering vectors"):
            return {
                name: ContrastStates(
                    self._states(behaviour, "source"),
                    self._states(behaviour, "target"),
                    self._states(behaviour, "untrained") if self.config.evaluation.untrained_source else None,
                )
                for name, behaviour in sorted(self.contrasts.items())
            }

    def _states(self, behaviour: Behaviour, role: str) -> tuple[Tensor, Tensor]:
        layer = self.layers[1 if role == "target" else 0]
        name = fingerprint(
            {
                "model": self.untrained_identity if role == "untrained" else self.identities[role],
                "layer": layer,
                "prompts": prompts_digest(behaviour.positives, behaviour.negatives),
            }
        )
        file = self.artifacts / "states" / f"{name}.safetensors"
        if not file.is_file():
            model = {"source": lambda: self.source, "target": lambda: self.target}.get(
                role, lambda: self.untrained
            )()
            found = {
                "positive": last_token_states(model, behaviour.positives, layer),
                "negative": last_token_states(model, behaviour.negatives, layer),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, lambda temporary: save_file(found, temporary))
        tensors = load_file(file)
        return tensors["positive"], tensors["negative"]

    @cached_property
    def untrained_spec(self) -> ModelSpec:
        """The source's architecture with random weights: the untrained control."""
        spec = self.config.pair.source
        return ModelSpec(spec.path, spec.revision, spec.dtype, spec.device, "random", self.config.seed)

    @cached_property
    def untrained_identity(self) -> dict[str, Any]:
        """What determines the untrained source."""
        return identity(self.untrained_spec)

    @cached_property
    def untrained(self) -> LanguageModel:
        """The untrained source."""
        return load(self.untrained_spec)

    def steerable(self, side: Literal["source", "target"]) -> SteerableModel:
        """A model at its layer with its strength unit; `source` or `target`."""
        layer = self.layers[side == "target"]
        model = self.target if side == "target" else self.source
        norm = self.store.median_norm(side, layer)
        return SteerableModel(model, layer, norm)

    # -- the fit -------------------------------------------------------------------------------

    @cached_property
    def map_fingerprint(self) -> str:
        """Of the fitted map."""
        config = self.config
        return fingerprint(
            {
                "store": self.store_fingerprint,
                "filter": config.filter,
                "map": config.map,
                "fit": config.fit,
                "batches": asdict(config.batches) | {"workers": None},
                "seed": config.seed,
                "precision": config.trainer.get("precision", "32-true"),
                "processes": [config.trainer.get(k, 1) for k in ("devices", "num_nodes")],
            }
        )

    @property
    def map_folder(self) -> Path:
        """Where the map is, or will be."""
        return self.artifacts / "maps" / self.map_fingerprint

    def fitted_map(self) -> tuple[AffineMap, dict[str, Any]]:
        """The map and its card. Raises MapMissing saying which `train.py` line makes it."""
        return load_map(self.map_folder, mend=f"make it with: {self.train_command()}")

    def train_command(self) -> str:
        """The `train.py` line of this config."""
        given = self.session.resolved.get("overrides", [])
        return " ".join(["python train.py", *given])

    def fit(self) -> tuple[AffineMap, dict[str, Any]]:
        """Trains the map with Lightning, resuming where a run was cut off, or finds it."""
        if (self.map_folder / "mapping.json").is_file():
            with self.session.stage("fit"):
                return self.fitted_map()
        module = self._module()
        history, probe = FitHistory(), self._probe()
        with self.session.stage("fit"):
            trainer = self._trainer(history, probe)
            checkpoints = self.map_folder / "checkpoints"
            last = checkpoints / "last.ckpt"
            trainer.fit(module, datamodule=self.data, ckpt_path=last if last.is_file() else None)
            best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
            if best and Path(best).is_file():
                module = MapModule.load_from_checkpoint(best, weights_only=True)
            affine = module.affine().to("cpu")
        card = self._card(affine, history, probe, trainer.global_step)
        if trainer.is_global_zero:
            save_map(self.map_folder, affine, card)
            self._save_vectors(affine)
        trainer.strategy.barrier("map written")
        return self.fitted_map()

    def _module(self) -> MapModule:
        states = self.states
        vectors = {name: contrast.target_vector for name, contrast in states.items()}
        yardstick = self.yardstick
        test = self.moments["test"].fvu_of(yardstick.map)
        return MapModule.from_moments(
            self.config.map,
            self.config.fit,
            self.train_moments,
            yardstick=yardstick,
            optimum={"val": yardstick.fvu_validation, "test": test},
            vectors=vectors,
            seed=self.config.seed,
        )

    def _probe(self) -> SteeringProbe | None:
        settings = self.config.evaluation.probe
        if not settings.behaviours:
            return None
        target = self.steerable("target")
        probes = []
        with self.session.stage("native strengths"):
            for behaviour in self.suite:
                if behaviour.name in settings.behaviours:
                    states = self.states[behaviour.contrast]
                    native = torch.nn.functional.normalize(states.target_vector, dim=0)
                    choice, _, _ = choose_strength(
                        behaviour,
                        target,
                        native,
                        self.config.evaluation.grid,
                        temperature=self.config.evaluation.temperature,
                        max_rows=self.config.evaluation.max_rows,
                    )
                    probes.append(Probe(behaviour, states.source_vector, native, choice.strength))
        evaluation = self.config.evaluation
        return SteeringProbe(
            target,
            probes,
            settings.every,
            settings.items,
            evaluation.temperature,
            evaluation.max_rows,
        )

    def _trainer(self, history: FitHistory, probe: SteeringProbe | None) -> L.Trainer:
        fit = self.config.fit
        callbacks: list[L.Callback] = [
            history,
            ModelCheckpoint(
                self.map_folder / "checkpoints",
                monitor="val/fvu",
                save_last=True,
                filename="best",
                enable_version_counter=False,
            ),
        ]
        if (stopper := early_stopping(fit)) is not None:
            callbacks.append(stopper)
        if probe is not None:
            callbacks.append(probe)
        return L.Trainer(
            **{
                "logger": self.session.loggers,
                "callbacks": callbacks,
                "default_root_dir": self.config.paths.logs,
                "enable_model_summary": False,
                **fit.trainer_options(),
                **self.config.trainer,
            }
        )

    def _card(
        self, affine: AffineMap, history: FitHistory, probe: SteeringProbe | None, steps: int
    ) -> dict[str, Any]:
        moments, yardstick = self.moments, self.yardstick
        test = moments["test"]
        fvu, optimum = test.fvu_of(affine), test.fvu_of(yardstick.map)
        left_out = self.data.rows_left_out["train"]
        return {
            "pair": self.config.pair.name,
            "models": self.identities,
            "layers": {"source": self.layers[0], "target": self.layers[1]},
            "store": self.store_fingerprint,
            "filter": {
                **asdict(self.config.filter),
                "token_ids": list(self.config.filter.token_ids),
            },
            "map": asdict(self.config.map),
            "fit": asdict(self.config.fit),
            "steps": steps,
            "rows": self.data.rows["train"],
            "rows_left_out": sum(left_out.values()),
            "rows_left_out_by": left_out,
            "metrics": {
                "fvu": fvu,
                "r2": 1 - fvu,
                "optimum_fvu": optimum,
                "excess_over_optimum": fvu / optimum - 1,
                "ridge_weight": yardstick.weight,
                "fvu_validation": moments["validation"].fvu_of(affine),
                "fvu_unfiltered": moments["test_unfiltered"].fvu_of(affine),
                "error_along": {
                    name: test.error_along(affine, states.target_vector)
                    for name, states in self.states.items()
                },
                "cosine_with_native": {
                    name: cosine(affine.directions(s.source_vector.double()), s.target_vector)
                    for name, s in self.states.items()
                },
            },
            "training": {
                "train": history.train,
                "val": history.val,
                "optimum": yardstick.fvu_validation,
                "probes": probe.history() if probe else [],
            },
            "seconds": dict(self.session.seconds),
            "versions": provenance()["versions"],
        }

    def _save_vectors(self, affine: AffineMap) -> None:
        """The source's, native and transferred vectors of every contrast, to be used elsewhere."""
        source, target = self.steerable("source"), self.steerable("target")
        for name, states in self.states.items():
            behaviour = self.contrasts[name]
            digest = prompts_digest(behaviour.positives, behaviour.negatives)
            own = SteeringVector(
                states.source_vector,
                source.layer,
                source.lm.spec.name,
                source.residual_norm,
                name,
                prompts=digest,
            )
            native = SteeringVector(
                states.target_vector,
                target.layer,
                target.lm.spec.name,
                target.residual_norm,
                name,
                prompts=digest,
            )
            carried = transfer(
                own,
                affine,
                layer=target.layer,
                model=target.lm.spec.name,
                residual_norm=target.residual_norm,
                fingerprint=self.map_fingerprint,
            )
            for role, vector in (("source", own), ("native", native), ("transferred", carried)):
                vector.save(self.map_folder / "vectors" / name / role)

    # -- the evaluation ------------------------------------------------------------------------

    @cached_property
    def maps(self) -> TransferMaps:
        """The map under test and those of its nulls and intervals, all in closed form but the first."""
        affine, _ = self.fitted_map()
        evaluation, bias = self.config.evaluation, self.config.map.bias
        weight = self.yardstick.weight
        folds = [m for name, m in self.moments.items() if name.startswith("train/")]
        folds = [m for m in folds if m.count]
        generator = torch.Generator().manual_seed(self.config.seed)
        resampled = []
        for _ in range(evaluation.resampled_draws):
            drawn = torch.randint(len(folds), (len(folds),), generator=generator).tolist()
            resampled.append(ridge_at(merged([folds[i] for i in drawn]), weight, bias=bias))
        shuffled = [
            ridge_at(moments, weight, bias=bias)
            for name, moments in self.moments.items()
            if name.startswith("shuffled/")
        ]
        untrained = self._untrained_map() if evaluation.untrained_source else None
        return TransferMaps(affine, shuffled, resampled, untrained)

    def _untrained_map(self) -> AffineMap:
        name = fingerprint(
            {
                "store": self.store_fingerprint,
                "filter": self.config.filter,
                "source": self.untrained_identity,
            }
        )
        folder = self.artifacts / "moments" / name

        def gather() -> dict[str, Moments]:
            moments = Moments(self.store.width("source"), self.store.width("target"))
            for batch in pairs_with_other_source(
                self.store, "train", self.untrained, *self.layers, self.config.filter
            ):
                moments.update(batch["source"], batch["target"])
            return {"train": moments}

        moments = self._cached_moments(folder, gather)["train"]
        # An untrained source has its own scale: the same share of its mean eigenvalue.
        share = self.yardstick.weight / float(self.train_moments.scatter_xx.trace())
        weight = max(share, 1e-9) * float(moments.scatter_xx.trace())
        return ridge_at(moments, weight, bias=self.config.map.bias)

    @cached_property
    def studies_fingerprint(self) -> str:
        """Of the raw measurements."""
        evaluation = asdict(self.config.evaluation)
        evaluation.pop("probe")
        evaluation.pop("max_rows")
        return fingerprint({"map": self.map_fingerprint, "evaluation": evaluation, "seed": self.config.seed})

    def studies(self) -> list[tuple[Behaviour, Study]]:
        """Every behaviour's raw record, measured or found; one that is stopped goes on where it was."""
        folder = self.artifacts / "measurements" / self.studies_fingerprint
        found = []
        with self.session.stage("evaluate"):
            for behaviour in self.suite:
                digest = fingerprint(behaviour.to_data())
                file = folder / f"{behaviour.name}-{digest[:12]}.jsonl"
                if not file.is_file():
                    write_study(file, self._study(behaviour))
                found.append((behaviour, read_study(file)))
        log.info("%d behaviours measured with nulls: %s", len(found), folder)
        return found

    def _study(self, behaviour: Behaviour) -> Study:
        evaluation = self.config.evaluation
        states = self.states
        units = directions(
            behaviour.contrast,
            states,
            self.maps,
            random_draws=evaluation.random_draws,
            seed=self.config.seed,
        )
        rows = study_rows(behaviour, evaluation.grid, {n: len(u) for n, u in units.items()})
        with self.session.progress(behaviour.name, rows) as advance:
            return study(
                behaviour,
                self.steerable("source"),
                self.steerable("target"),
                states[behaviour.contrast].source_vector,
                units,
                evaluation.grid,
                temperature=evaluation.temperature,
                max_rows=evaluation.max_rows,
                progress=advance,
            )

    # -- the result ----------------------------------------------------------------------------

    def results(self) -> dict[str, Any]:
        """Everything the report says, as plain data: `report/results.json`."""
        _, card = self.fitted_map()
        grid = self.config.evaluation.grid
        behaviours = [summarise(b, s, grid, self.config.seed) for b, s in self.studies()]
        metrics = card["metrics"]
        seconds = {**card["seconds"], **self.session.seconds}
        origin = provenance()
        return {
            "pair": {
                "name": self.config.pair.name,
                "source": describe(self.source),
                "target": describe(self.target),
            },
            "layers": card["layers"],
            "map": {
                "kind": card["map"]["kind"],
                **metrics,
                "rows": card["rows"],
                "rows_left_out": card["rows_left_out"],
                "rows_left_out_by": card["rows_left_out_by"],
                "fingerprint": self.map_fingerprint,
            },
            "behaviours": behaviours,
            "models": [
                family_card(Path(spec.path))
                or {
                    **describe(model),
                    "checks": [],
                    "note": "not of the storybook family: no checks are known for it",
                }
                for spec, model in (
                    (self.config.pair.source, self.source),
                    (self.config.pair.target, self.target),
                )
            ],
            "training": card["training"],
            "configurations_tried": {
                "layers": 1,
                "strengths": max(b["strengths_tried"] for b in behaviours),
                "maps": 1,
            },
            "seconds": seconds,
            "provenance": {
                **origin,
                "fingerprints": {
                    "store": self.store_fingerprint,
                    "map": self.map_fingerprint,
                    "measurements": self.studies_fingerprint,
                },
                "config": self.session.resolved.get("yaml", ""),
            },
        }


def describe(model: LanguageModel) -> dict[str, Any]:
    """Name, blocks, width and parameter count of a model."""
    return {
        "name": model.spec.name,
        "blocks": model.depth,
        "depth": model.depth,
        "width": model.width,
        "parameters": sum(p.numel() for p in model.model.parameters()),
    }


def merged(parts: list[Moments]) -> Moments:
    """Moments of all rows of several accumulators."""
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two `[d]` vectors."""
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def check_trainer(settings: dict[str, Any]) -> None:
    """Raises ConfigError for a key that Lightning's Trainer does not take."""
    import inspect

    allowed = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    for key in settings:
        if key not in allowed:
            raise ConfigError(f"trainer.{key} is not a setting of Lightning's Trainer")
