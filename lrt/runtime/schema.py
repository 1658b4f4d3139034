"""The root schema: what a config may hold. Hydra composes YAML, this turns it into typed, frozen data.

The dataclasses of the science folders are the schema of their sections; only what has no home
there is declared here. Unknown keys, wrong types and impossible values are one error that names
them all by their config path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from lrt.activations import RowFilter, RowKind
from lrt.activations.manifest import NonFinite, Stored
from lrt.corpora import Case, Unit
from lrt.evaluation import ItemSplit, Propensity, Refusal, StrengthGrid, Texts
from lrt.features import SaeSpec
from lrt.lab.grammar import Plan
from lrt.mapping import ClosedFormSpec, FitSpec, MapSpec
from lrt.mapping.parametrisations import MapKind
from lrt.models import ModelSpec

Section = TypeVar("Section")
Template = Literal["auto", "source", "target"]


class ConfigError(ValueError):
    """A config that cannot be run, with every fault named by its path."""


@dataclass(frozen=True)
class Pair:
    """The two models. `name` is for people.

    models   A folder with local copies of the hub's models, each in a folder of its own under the last part
             of its id, whatever the case: as `save_pretrained` writes it, or with one GGUF file.
    reverse  Take them the other way round. What is read of a config (`read_config`) has been turned
             already; `layers` and all else are of the models in the order in which they are used.
    template Whose chat template requests are written in; `auto`: the source's, of a source without one the
             target's.
    """

    name: str
    source: ModelSpec
    target: ModelSpec
    models: str | None = None
    reverse: bool = False
    template: Template = "auto"

    def in_order(self) -> Pair:
        """The pair as it is used: from local copies where there are some, turned where that is asked for.

        Raises ConfigError for a model of which there is no copy.
        """
        source, target = (self._local(spec) for spec in (self.source, self.target))
        if self.reverse:
            turned: dict[Template, Template] = {"auto": "auto", "source": "target", "target": "source"}
            return Pair(f"{self.name}, reversed", target, source, template=turned[self.template])
        return Pair(self.name, source, target, template=self.template)

    def _local(self, spec: ModelSpec) -> ModelSpec:
        if self.models is None:
            return spec
        folder, wanted = Path(self.models).expanduser(), Path(spec.path).name
        there = sorted(each for each in folder.glob("*") if each.is_dir())
        found = next((each for each in there if each.name.casefold() == wanted.casefold()), None)
        whole = found is not None and (found / "config.json").is_file()
        files = sorted(found.glob("*.gguf")) if found and not whole else []
        if found is None or not (whole or len(files) == 1):
            held = ", ".join(each.name for each in (files if found else there)) or "none"
            raise ConfigError(
                f"pair.models={self.models} has no copy of {spec.path}: a copy is a folder {wanted} with "
                f"config.json and safetensors, or with one GGUF file; {found or folder} has the "
                f"{'GGUF files' if found else 'folders'} {held}"
            )
        # a revision is of the hub's repository, and a copy is of one
        return replace(spec, path=str(files[0] if files else found), revision=None)


Depth = int | float


def _refuse_others(spec: Any, section: str, belongs: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ValueError for a field with a value of its own that is of another kind than `spec.kind`."""
    for each in fields(spec):
        kinds = belongs.get(each.name)
        value = getattr(spec, each.name)
        made = each.default_factory
        default = each.default if made is MISSING else made()
        if kinds is not None and spec.kind not in kinds and value != default:
            raise ValueError(
                f"{section}.{each.name}={value} belongs to kind={' or '.join(kinds)}, not to "
                f"kind={spec.kind}, which would leave it out; take it away"
            )


@dataclass(frozen=True)
class Layers:
    """Zero-based blocks, or depths as fractions in [0, 1); one, or a list of them; or `auto`.

    source  Combined are laid side by side: the map reads them all (the paper's appendix A).
    target  Of several, each behaviour is steered at the one where the target's own vector does most
            on development items.

    `auto` chooses among the layers of `recording` (all, where none are named): of the target those at
    which its own vectors steer best on development items; of the source, for each vector, the one with
    the least error along it among those that steer the source itself.
    """

    source: Depth | tuple[Depth, ...] | Literal["auto"]
    target: Depth | tuple[Depth, ...] | Literal["auto"]

    def __post_init__(self) -> None:
        for side in ("source", "target"):
            value = getattr(self, side)
            if value == "auto":
                continue
            if not isinstance(value, tuple):
                object.__setattr__(self, side, (value,))
            elif not value:
                raise ValueError(f"layers.{side} is empty; name at least one block")


@dataclass(frozen=True)
class CorpusSource:
    """One part of the mixture.

    kind    `storybook` (the lab's grammar), `scenes` (short written ones on many subjects and moods),
            `text`, `jsonl`, `hub` or `questions`.
    weight  RecordingWorker of the text, relative to the other parts.
    fit_map_for Behaviours whose vectors are carried by a map fitted on this part alone (together with the
            other parts that name them), and not by the map of the whole corpus: text of a vector's own
            kind makes the better map for it.
    seed    storybook: which documents; of documents that no model of the family was trained on. scenes:
            which scenes.
    plan    storybook: what the documents are to be about (`lrt.lab.grammar.Plan`); the rest is drawn.
    paths   text: files or folders; `unit` says what one document is, and `case: upper` writes it in capitals.
    path    jsonl: the file; hub: the set's id.
    field   jsonl, hub: which field of a row is its text.
    chat    jsonl, hub: write it in the model's chat template; it is a request or a list of turns then.
    answer_field, context_field  With chat: where the answer to a request stands, and a passage that the
            request is about.
    tasks, advanced  questions: tasks of the model-written evaluations under `path` (as in
            suite=propensity); each of their questions with either answer behind it, as vectors of such
            tasks are found on.
    rows    `pooled`: means of `span` tokens. `tokens`: each by itself. `last_tokens`: of each document its last
            token alone, where a vector is read of texts like those.
    repeat  How often its rows are given to a fit; more than once for a part that is small and matters.
    """

    kind: Literal["storybook", "scenes", "text", "jsonl", "hub", "questions"]
    weight: float = 1.0
    fit_map_for: tuple[str, ...] = ()
    rows: RowKind = "pooled"
    repeat: int = 1
    seed: int = 0
    plan: Plan = field(default_factory=Plan)
    paths: tuple[str, ...] = ()
    unit: Unit = "paragraph"
    case: Case = "as_is"
    path: str = ""
    field: str = "text"
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    chat: bool = False
    answer_field: str = ""
    context_field: str = ""
    tasks: tuple[str, ...] = ()
    advanced: Literal["lm", "human"] = "lm"

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise ValueError(f"repeat={self.repeat}; rows are given at least once")
        if self.kind == "questions" and not self.tasks:
            raise ValueError("kind=questions needs `tasks`: names of model-written evaluations")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks={list(self.tasks)} names one twice; name each once")
        if self.kind == "text" and not self.paths:
            raise ValueError("kind=text needs `paths`: files or folders of .txt files")
        _refuse_others(
            self,
            "corpus.sources.NAME",
            {
                "seed": ("storybook", "scenes"),
                "plan": ("storybook",),
                "paths": ("text",),
                "unit": ("text",),
                "case": ("text",),
                "path": ("jsonl", "hub", "questions"),
                "field": ("jsonl", "hub"),
                "chat": ("jsonl", "hub", "questions"),
                "answer_field": ("jsonl", "hub"),
                "context_field": ("jsonl", "hub"),
                "config": ("hub",),
                "split": ("hub",),
                "revision": ("hub", "questions"),
                "tasks": ("questions",),
                "advanced": ("questions",),
            },
        )
        if self.kind in ("jsonl", "hub", "questions") and not self.path:
            raise ValueError(f"kind={self.kind} needs `path`")
        for name in ("answer_field", "context_field"):
            if getattr(self, name) and not self.chat:
                raise ValueError(
                    f"{name}={getattr(self, name)} is a part of a conversation, and this source is plain "
                    "text; set chat: true for it"
                )


@dataclass(frozen=True)
class Tokens:
    """Tokens of each split."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Corpus:
    """What the map is fitted on."""

    sources: dict[str, CorpusSource]
    tokens: Tokens
    context: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for split in ("train", "validation", "test"):
            if (tokens := getattr(self.tokens, split)) < max(1, self.context):
                raise ValueError(
                    f"corpus.tokens.{split}={tokens}; every split holds at least one sequence of "
                    f"corpus.context={self.context}"
                )


@dataclass(frozen=True)
class Recording:
    """How hidden states are recorded.

    source, target  Blocks (or depths) to record beside those of `layers`, or `all`, so that a sweep over
                    layers records once.
    non_finite      `refuse` a hidden state that is infinite or undefined, or count it and `exclude`.
    states          `native` keeps them in the dtype the models ran in, `int8` in a byte an entry; `none`
                    keeps none: moments come straight from a pass, and fit=closed_form solves them.
    verify          Whether a store that is found is compared with its checksums before it is used.
    """

    source: tuple[Depth, ...] | Literal["all"] = ()
    target: tuple[Depth, ...] | Literal["all"] = ()
    verify: bool = True
    non_finite: NonFinite = "refuse"
    states: Stored | Literal["none"] = "native"
    rows_per_shard: int = 65_536
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        for name in ("rows_per_shard", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"recording.{name}={getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class Batches:
    """How the fit reads its rows."""

    rows: int = 1024
    workers: int = 0
    window_rows: int = 65_536

    def __post_init__(self) -> None:
        for name, value, least in (
            ("rows", self.rows, 1),
            ("workers", self.workers, 0),
            ("window_rows", self.window_rows, 1),
        ):
            if value < least:
                raise ValueError(f"batches.{name}={value}; it must be at least {least}")


@dataclass(frozen=True)
class Suite:
    """Which behaviours: the lab's by name, or files (one JSON each, see docs/behaviours.md)."""

    kind: Literal["storybook", "files"] = "storybook"
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    contrast_pairs: int = 384
    development: int = 24
    test: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind == "files" and not self.paths:
            raise ValueError("kind=files needs `paths`: one JSON file a behaviour")
        storybook = ("names", "contrast_pairs", "development", "test", "seed")
        belongs = dict.fromkeys(storybook, ("storybook",)) | {"paths": ("files",)}
        _refuse_others(self, "suite", belongs)


def _kind(settings: Any) -> str:
    """Tag of a suite's settings, which `explain` takes out of paths."""
    kind = settings.get("kind") if isinstance(settings, Mapping) else getattr(settings, "kind", None)
    return f"{KIND}{kind}"


KIND = "kind="
OneSuite = (
    Annotated[Suite, Tag("kind=storybook")]
    | Annotated[Suite, Tag("kind=files")]
    | Annotated[Propensity, Tag("kind=propensity")]
    | Annotated[Refusal, Tag("kind=refusal")]
    | Annotated[Texts, Tag("kind=texts")]
)


@dataclass(frozen=True)
class Combined:
    """Suites put together under names of their own, so that one run holds the behaviours of all."""

    parts: dict[str, Annotated[OneSuite, Discriminator(_kind)]]
    kind: Literal["combined"] = "combined"

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("kind=combined needs `parts`: suites by names of your own")


SuiteSettings = OneSuite | Annotated[Combined, Tag("kind=combined")]


@dataclass(frozen=True)
class DuringTraining:
    """Steering during training: which behaviours, every how many steps, on how many items."""

    behaviours: tuple[str, ...] = ()
    every: int = 200
    items: int = 16

    def __post_init__(self) -> None:
        if self.every < 1 or self.items < 1:
            raise ValueError(
                f"evaluation.during_training.every={self.every} and evaluation.during_training.items={self.items} must be "
                "at least 1; set evaluation.during_training.behaviours=[] to train without probes"
            )


@dataclass(frozen=True)
class Evaluation:
    """What is measured of a fitted map.

    random_draws, shuffled_draws  Draws of those nulls.
    resampled_draws               Maps and vectors drawn anew for the second interval.
    untrained_source              Whether to run the null of a source with random weights.
    temperature                   Of generated texts; 0 decodes greedily. Items draw the same random
                                  numbers in every condition.
    folds                         Groups of documents that are resampled as one.
    max_rows                      Items x conditions run in one batch.
    eval_split                     What the report is read on: `test`, or `development` while settings
                                  are still being chosen.
    behaviours    Which of the suite are measured, in this order; none named: all. The others still leave
                  the corpus and stand in as the null of another behaviour.
    """

    grid: StrengthGrid = field(default_factory=StrengthGrid)
    random_draws: int = 20
    shuffled_draws: int = 5
    resampled_draws: int = 12
    untrained_source: bool = True
    temperature: float = 1.0
    folds: int = 10
    max_rows: int = 1024
    eval_split: ItemSplit = "test"
    behaviours: tuple[str, ...] = ()
    during_training: DuringTraining = field(default_factory=DuringTraining)

    def __post_init__(self) -> None:
        if self.random_draws < 1 or self.shuffled_draws < 1:
            raise ValueError(
                "random_draws and shuffled_draws must be at least 1: no result stands without its "
                f"nulls; got {self.random_draws} and {self.shuffled_draws}"
            )
        if len(set(self.behaviours)) < len(self.behaviours):
            raise ValueError(f"evaluation.behaviours={list(self.behaviours)} names one twice; name each once")
        if self.max_rows < 1:
            raise ValueError(f"evaluation.max_rows={self.max_rows}; it must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}; it is 0 (greedy) or above")
        if self.resampled_draws == 1 or self.resampled_draws < 0 or self.folds < 2:
            raise ValueError(
                "resampled_draws must be 0 or at least 2 and folds at least 2; got "
                f"{self.resampled_draws} and {self.folds}"
            )


@dataclass(frozen=True)
class Sae:
    """Sparse autoencoders of both models at the map's deepest layers, on single tokens.

    features           Of each that is trained; 0 trains none.
    source, target     Files to take instead of training: Gemma Scope's `params.npz` or SAELens's folder, of
                       the map's deepest layer. With both nothing is trained, and `features` must be 0.
    k, kind            Active features in a row; `topk` or `jumprelu`.
    tokens             Training tokens of an epoch.
    least_correlation  Features whose best partner correlates less are left unmatched.
    top                Features that a behaviour is steered by.
    s2l                How features are mapped to the target's states: `solved` (ridge regression), or
                       `trained` by `fit`, from the mean predictor on `tokens` an epoch, as in the paper.
    behaviours         Which behaviours are steered by features.
    """

    features: int = 0
    source: str | None = None
    target: str | None = None
    k: int = 16
    kind: Literal["topk", "jumprelu"] = "topk"
    tokens: int = 250_000
    epochs: int = 1
    least_correlation: float = 0.3
    top: int = 16
    s2l: Literal["solved", "trained"] = "solved"
    behaviours: tuple[str, ...] = ("capitals", "dogs", "french")

    def __post_init__(self) -> None:
        for name, least in (("features", 0), ("k", 1), ("tokens", 1), ("epochs", 1), ("top", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"analysis.sae.{name}={getattr(self, name)}; it must be at least {least}")
        if not self.features and bool(self.source) != bool(self.target):
            raise ValueError(
                f"analysis.sae.source={self.source} and analysis.sae.target={self.target}: give both, or set "
                "analysis.sae.features so that the other is trained"
            )
        if self.features and self.source and self.target:
            raise ValueError(
                f"analysis.sae.features={self.features} is of what is trained, and analysis.sae.source and "
                "analysis.sae.target name both autoencoders: set analysis.sae.features=0, or name one file"
            )
        if self.features:
            self.spec().check(1)
            if self.top > self.features:
                raise ValueError(
                    f"analysis.sae.top={self.top} is more than analysis.sae.features={self.features}"
                )
        if not 0 <= self.least_correlation < 1:
            raise ValueError(f"analysis.sae.least_correlation={self.least_correlation}; it is in [0, 1)")

    @property
    def wanted(self) -> bool:
        """Whether there is a pair of autoencoders to look at."""
        return bool(self.features or (self.source and self.target))

    def spec(self) -> SaeSpec:
        """How each is trained."""
        return SaeSpec(self.features, self.k, self.kind)


@dataclass(frozen=True)
class Analysis:
    """What is told of the maps beside their use.

    rank_curve       FVU against rank, of the best map of each rank.
    atlas            Every recorded source layer against every recorded target layer (`recording`).
    many_to_one      What all recorded source layers give together, and each of them alone.
    memory_gb        Most memory that moments and solves may take, in 1e9 bytes.
    fidelity_tokens  Test tokens on which the target is run on from mapped states; 0 leaves it out.
    fidelity_kinds   Of map, fitted for that on single tokens. Orthogonal ones of a source (stack) wider than
                     the target have no closed form and are iterated, for thousands of dimensions at length.
    stitching_depths          Whether stitched models are cut there too, at every recorded target layer.
    keep_first       Leave the target its own state at position 0 there, as models with massive
                     activations need.
    signal_to_noise  Below this the forecast of a carried vector warns;
    residual_on_prompts  and above this share of the contrastive texts' variance that the map leaves.
    """

    rank_curve: bool = True
    atlas: bool = True
    many_to_one: bool = True
    memory_gb: float = 16.0
    fidelity_tokens: int = 8192
    fidelity_kinds: tuple[MapKind, ...] = get_args(MapKind)
    stitching_depths: bool = True
    keep_first: bool = True
    signal_to_noise: float = 5.0
    residual_on_prompts: float = 0.62
    sae: Sae = field(default_factory=Sae)

    def __post_init__(self) -> None:
        if not self.memory_gb > 0:
            raise ValueError(f"analysis.memory_gb={self.memory_gb}; it must be above 0")
        if self.fidelity_tokens < 0:
            raise ValueError(
                f"analysis.fidelity_tokens={self.fidelity_tokens}; it is 0 or a number of tokens"
            )
        if "full" not in self.fidelity_kinds:
            raise ValueError(
                f"analysis.fidelity_kinds={list(self.fidelity_kinds)} lacks `full`, which the others "
                "are held against; add it"
            )


@dataclass(frozen=True)
class Logging:
    """W&B beside the local record.

    mode   `offline` writes a run folder that `wandb sync` sends later; `online` needs a key.
    group  Shared by the jobs of a sweep.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "lrt"
    group: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Paths:
    """Where results go: `artifacts` for all that is costly, `models` for dequantised GGUF files, `report`
    for the page, `logs`."""

    artifacts: str
    models: str
    report: str
    logs: str


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Config:
    """Everything `train.py` and `evaluate.py` read.

    pool      Neighbouring tokens of a document whose mean is one row of the fit; 1 fits single tokens.
    products  Of the moments' chunks; their sums are float64 always.
    """

    pair: Pair
    layers: Layers
    corpus: Corpus
    filter: RowFilter
    pool: Annotated[int, Field(ge=1)]
    recording: Recording
    products: Literal["float32", "float64"]
    map: MapSpec
    fit: Annotated[FitSpec | ClosedFormSpec, Field(discriminator="kind")]
    batches: Batches
    suite: Annotated[SuiteSettings, Discriminator(_kind)]
    evaluation: Evaluation
    analysis: Analysis
    trainer: dict[str, Any]
    logging: Logging
    paths: Paths
    seed: int = 0
    evaluate: bool = False  # train.py goes on to the evaluation and the report

    def __post_init__(self) -> None:
        if self.pool > self.corpus.context:
            raise ValueError(
                f"pool={self.pool} is longer than a sequence of corpus.context={self.corpus.context}; a row "
                "is the mean of tokens of one sequence"
            )


def read_config(composed: DictConfig) -> Config:
    """The typed config of what Hydra composed.

    Raises ConfigError listing every unknown key, wrong type and impossible value with its path.
    """
    plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    try:
        config = TypeAdapter(Config).validate_python(plain)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    return replace(config, pair=config.pair.in_order())


def read_beside(composed: DictConfig, section: str, kind: type[Section]) -> tuple[Section, DictConfig]:
    """A section that a program reads beside the settings of train.py, and the rest, which is these.

    Raises ConfigError listing every unknown key and impossible value of the section.
    """
    plain = OmegaConf.to_container(composed[section], resolve=True, throw_on_missing=True)
    try:
        found = TypeAdapter(dict[str, kind]).validate_python({section: plain})  # type: ignore[valid-type]
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    return found[section], OmegaConf.masked_copy(composed, [str(key) for key in composed if key != section])


# what pydantic puts into a path for a value that may be of several types
NO_SETTING = ("int", "float", "tuple[union[int,float],...]", "literal['auto']", "gradient", "closed_form")


def explain(error: ValidationError) -> str:
    """Every fault by its config path, in words."""
    faults: dict[str, list[str]] = {}
    for fault in error.errors():
        # a value that may be of two types has the type it failed to be at the end of its path
        parts = [str(p) for p in fault["loc"] if p not in NO_SETTING and not str(p).startswith(KIND)]
        path = ".".join(parts) or "config"
        if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            said = "is not a setting; see conf/ for what is (a misspelt key, or one of another group)"
        elif fault["type"] == "union_tag_invalid":
            tag, allowed = (str(fault["ctx"][name]).replace(KIND, "") for name in ("tag", "expected_tags"))
            said = f"kind={tag!r}; allowed: {allowed}"
        elif fault["type"] == "value_error":
            said = str(fault["ctx"]["error"])
        else:
            said = f"{fault['msg']}, got {fault['input']!r}"
        faults.setdefault(path, []).append(said)
    lines = [
        # checks of the science folders name their setting themselves
        " or ".join(said) if said[0].startswith(path) else f"{path}: {' or '.join(said)}"
        for path, said in faults.items()
    ]
    return "the config cannot be run:\n  " + "\n  ".join(lines)
