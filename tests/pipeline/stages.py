"""The stages of a run on tiny models, each built from what it needs: no config file, session or Hydra.

`Stages` holds the settings and makes each stage when it is first needed; `dataclasses.replace` gives the same
with another setting, which reuses what lies in the same folder of artifacts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lrt.activations import RowFilter
from lrt.config import Analysis, Batches, Corpus, Evaluation, Layers, Price, Recording, Sae
from lrt.config.corpus import CorpusSource, StorybookSource, Tokens
from lrt.config.sections import DuringTraining
from lrt.evaluation import Behaviour, StrengthGrid
from lrt.evaluation.side_effects import Capability, GeneralText, HarmlessRequests, SideEffects
from lrt.evaluation.storybook import StorybookSuite, storybook_suite
from lrt.lab.grammar import Plan
from lrt.mapping import ClosedFormSpec, FitSpec, MapSpec
from lrt.pipeline import (
    Choices,
    CorpusText,
    FitOutput,
    FitSettings,
    LayerPlan,
    ModelPair,
    Monitor,
    RowSettings,
    RowSource,
    SharedDocuments,
    Studies,
    UntrainedSource,
    choose_map_layers,
    extract_vectors,
    needed_contrasts,
    plan_analyses,
    plan_layers,
    plan_maps,
    plan_states,
    results,
)
from lrt.pipeline.analyses import Analyses
from lrt.pipeline.evaluation import Studied
from lrt.pipeline.maps import Maps
from lrt.pipeline.states import States
from lrt.pipeline.vectors import Vectors
from lrt.storage.cache import Cache
from lrt.storage.locks import LOCK

STORIES = StorybookSource(plan=Plan("story"), seed=7)
QUESTIONS = StorybookSource(plan=Plan("question"), seed=9)

RECORDING = Recording(
    source="all",
    target="all",
    verify=True,
    non_finite="refuse",
    states="native",
    rows_per_shard=2048,
    batch_tokens=1024,
)
EVALUATION = Evaluation(
    grid=StrengthGrid(strengths=(-1.0, 0.0, 0.5, 1.0)),
    random_draws=2,
    shuffled_draws=1,
    resampled_draws=2,
    part_weights=0.25,
    untrained_draws=0,
    temperature=1.0,
    folds=2,
    max_rows=1024,
    eval_split="test",
    map=None,
    behaviours=(),
    during_training=DuringTraining((), points=3, items=4),
    side_effects=SideEffects(
        Capability(items=0), GeneralText(items=3), HarmlessRequests(items=0), random_draws=1
    ),
)
SAE = Sae(
    features=0,
    source=None,
    target=None,
    k=8,
    kind="topk",
    tokens=2048,
    epochs=1,
    least_correlation=0.0,
    top=8,
    s2l="solved",
    behaviours=("capitals",),
)
ANALYSIS = Analysis(
    rank_curve=False,
    atlas=False,
    many_to_one=False,
    memory_gb=1.0,
    fidelity_tokens=0,
    fidelity_kinds=("full", "low_rank", "orthogonal"),
    stitching_depths=True,
    keep_first=True,
    signal_to_noise=5.0,
    signal_to_noise_choice=2.0,
    residual_on_prompts=0.62,
    sae=SAE,
    price=Price((), 2, ()),
)
SCALE = 1.7  # of the oracle's target: its states are `SCALE Q h`
TRAINER = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "log_every_n_steps": 5}


def corpus(*, context: int = 64, train: int = 4096, held_out: int = 1024, **sources: CorpusSource) -> Corpus:
    """A corpus of the lab's stories and questions, or of other parts by name."""
    parts = sources or {"stories": STORIES, "questions": QUESTIONS}
    return Corpus(dict(parts), Tokens(train, held_out, held_out), context, seed=0)


def small_suite() -> tuple[Behaviour, ...]:
    """A behaviour scored on generated text and one scored by logits, on a few items each."""
    suite = storybook_suite(
        StorybookSuite(names=("capitals", "bravery"), contrast_pairs=8, development=4, test=6)
    )
    return tuple(replace(b, damage_texts=b.damage_texts[:6], max_new_tokens=6) for b in suite)


def no_loggers(_name: str) -> list[Logger]:
    return []


@dataclass(frozen=True)
class Stages:
    """Settings of a run, and its stages."""

    pair: ModelPair
    suite: tuple[Behaviour, ...]
    folder: Path
    layers: Layers = field(default_factory=lambda: Layers(1, 2))
    corpus: Corpus = field(default_factory=corpus)
    recording: Recording = RECORDING
    filter: RowFilter = field(default_factory=RowFilter)
    pool: int = 4
    products: str = "float32"
    most_sums: float = 1e9
    map: MapSpec = field(default_factory=MapSpec)
    fit: FitSpec | ClosedFormSpec = field(default_factory=ClosedFormSpec)
    batches: Batches = field(default_factory=lambda: Batches(rows=64, workers=0, window_rows=2048))
    trainer: Mapping[str, Any] = field(default_factory=lambda: TRAINER)
    callbacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ckpt_path: str | None = None
    evaluation: Evaluation = EVALUATION
    analysis: Analysis = ANALYSIS
    untrained: tuple[UntrainedSource, ...] = ()
    seed: int = 0
    monitor: Monitor = field(default_factory=Monitor)

    def but(self, **settings: Any) -> "Stages":
        """The same with other settings; those of evaluation, analysis, recording and autoencoders by
        `evaluation__NAME` and so on."""
        nested: dict[str, dict[str, Any]] = {}
        for name in [name for name in settings if "__" in name]:
            section, _, setting = name.partition("__")
            nested.setdefault(section, {})[setting] = settings.pop(name)
        if "sae" in nested:
            nested.setdefault("analysis", {})["sae"] = replace(self.analysis.sae, **nested.pop("sae"))
        if "price" in nested:
            nested.setdefault("analysis", {})["price"] = replace(self.analysis.price, **nested.pop("price"))
        for section, inner in nested.items():
            settings[section] = replace(getattr(self, section), **inner)
        return replace(self, monitor=Monitor(), **settings)

    @cached_property
    def cache(self) -> Cache:
        return Cache(self.folder)

    @cached_property
    def plan(self) -> LayerPlan:
        return plan_layers(self.layers, self.recording, self.pair)

    @cached_property
    def text(self) -> CorpusText:
        return CorpusText(self.corpus, self.pair, self.cache, self.monitor)

    @cached_property
    def excluded(self) -> SharedDocuments:
        return SharedDocuments(self.text, self.suite, self.cache, self.monitor)

    @cached_property
    def states(self) -> States:
        return plan_states(self.pair, self.plan.recorded, self.text, self.recording, self.cache, self.monitor)

    @cached_property
    def rows(self) -> RowSource:
        settings = RowSettings(
            self.filter,
            self.pool,
            self.corpus.rules,
            self.evaluation.folds,
            self.products,
            self.evaluation.shuffled_draws,
            self.map.bias,
            self.batches,
            self.seed,
        )
        return RowSource(self.states, self.text, self.excluded, settings, self.cache, self.monitor)

    @property
    def evaluated(self) -> tuple[Behaviour, ...]:
        wanted = self.evaluation.behaviours
        return tuple(behaviour for behaviour in self.suite if behaviour.name in wanted or not wanted)

    @cached_property
    def vectors(self) -> Vectors:
        return extract_vectors(
            self.pair,
            self.plan.recorded,
            needed_contrasts(self.suite, self.evaluated),
            self.states.median_norms,
            self.untrained,
            self.cache,
            self.monitor,
        )

    @cached_property
    def choices(self) -> Choices:
        return Choices(
            self.pair,
            self.vectors,
            self.plan.candidates,
            self.states,
            self.evaluation,
            self.cache,
            self.monitor,
        )

    @cached_property
    def fit_settings(self) -> FitSettings:
        return FitSettings(
            self.map, self.fit, self.batches, self.trainer, self.callbacks, self.ckpt_path, self.seed
        )

    @cached_property
    def output(self) -> FitOutput:
        return FitOutput(
            no_loggers, str(self.folder / "logs"), "python train.py layers.source=1", self.most_sums
        )

    @property
    def parts_for(self) -> dict[str, tuple[str, ...]]:
        return {behaviour.name: self.corpus.parts_for(behaviour.name) for behaviour in self.suite}

    @cached_property
    def maps(self) -> Maps:
        layers = choose_map_layers(self.plan, self.evaluated, self.parts_for, self.choices, self.rows)
        return plan_maps(
            layers,
            self.suite,
            self.parts_for,
            self.rows,
            self.vectors,
            self.pair,
            self.fit_settings,
            self.output,
            None if self.evaluation.map is None else Path(self.evaluation.map),
        )

    def fitted(self) -> dict[str, dict[str, Any]]:
        """The cards of all maps, fitted where they are missing."""
        return self.maps.fit(self.evaluation.during_training, self.choices)

    @cached_property
    def analyses(self) -> Analyses:
        return plan_analyses(
            self.analysis,
            self.maps,
            self.rows,
            self.plan.recorded,
            self.vectors,
            self.choices,
            self.pair,
            self.untrained,
        )

    @cached_property
    def studies(self) -> Studies:
        return Studies(
            self.maps,
            self.choices,
            self.analyses.forecasts,
            self.untrained,
            self.evaluation,
            self.seed,
            self.cache,
            self.monitor,
        )

    def studied(self) -> list[Studied]:
        """The measurements of the behaviours that are evaluated, on fitted maps."""
        self.fitted()
        return self.studies.measure(self.evaluated)

    def results(self) -> dict[str, Any]:
        """What the report says, everything made that is missing."""
        cards, studied = self.fitted(), self.studied()
        return results(
            self.pair, self.plan, self.maps, cards, self.studies, studied, self.analyses, "config: {}"
        )

    def files(self, kind: str) -> dict[Path, int]:
        """Modification times of all files of a kind of artifact, without locks and items for readers."""
        paths = (self.folder / kind).rglob("*")
        return {
            path: path.stat().st_mtime_ns
            for path in paths
            if path.is_file() and path.name != LOCK and not path.name.startswith("items-")
        }

    def analysed(self) -> dict[str, int]:
        """How many results of each analysis are cached."""
        counts: dict[str, int] = {}
        for file in self.files("analysis"):
            name = file.name.rsplit("-", 1)[0]
            counts[name] = counts.get(name, 0) + 1
        return counts
