"""The sections of the config that only the pipeline knows. Their defaults stand in conf/train.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lrt.activations.manifest import NonFinite, Stored
from lrt.config.errors import ConfigError
from lrt.evaluation import ItemSplit, StrengthGrid
from lrt.evaluation.side_effects import SideEffects
from lrt.features import SaeSpec
from lrt.mapping.parametrisations import MapKind

Depth = int | float


def _as_lists(layers: object) -> object:
    """Layers as they are written in a config."""
    return [*map(_as_lists, layers)] if isinstance(layers, tuple) else layers


def at_least(section: str, least: int, **values: int) -> None:
    """Raises ConfigError for a value below `least`, named by its path."""
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{section}.{name}={value}: must be at least {least}")


@dataclass(frozen=True)
class Layers:
    """Zero-based decoder blocks, or depths as fractions in [0, 1): one, or a list; or `auto`.

    source  Several are concatenated: the map reads them all (the paper's appendix A). Of several source
            models, an entry for each: a layer, or a list of layers. One layer alone is that of each of them.
    target  Of several, each behaviour is steered at the one where the native vector does most on development
            items.

    `auto` chooses among the layers of `recording` (all, where none are named): of the target, the layers at
    which native vectors steer best on development items; of the source, for each vector, the layer with the
    least error along it among those that steer the source itself.
    """

    source: Depth | tuple[Depth | tuple[Depth, ...], ...] | Literal["auto"]
    target: Depth | tuple[Depth, ...] | Literal["auto"]

    def __post_init__(self) -> None:
        for side in ("source", "target"):
            value = getattr(self, side)
            if value == "auto":
                continue
            if not isinstance(value, tuple):
                object.__setattr__(self, side, (value,))
            elif not value:
                raise ConfigError(f"layers.{side} is empty: name at least one layer")

    def of_one_model(self, side: Literal["source", "target"]) -> tuple[Depth, ...] | Literal["auto"]:
        """A side's layers. Raises ConfigError for those of several models."""
        named = getattr(self, side)
        if any(isinstance(each, tuple) for each in named):
            raise ConfigError(
                f"layers.{side}={_as_lists(named)}: a list in the list is of one of several source models, "
                "and pair.source is one; give a layer, or a list of layers"
            )
        return named  # type: ignore[no-any-return]

    def of_several(self, models: Sequence[str]) -> list[tuple[Depth, ...]]:
        """The source layers of each of several source models, by their names.

        Raises ConfigError unless there is an entry for each, or one layer for all.
        """
        named = self.source
        if isinstance(named, tuple) and len(named) == 1 and not isinstance(named[0], tuple):
            named *= len(models)
        if not isinstance(named, tuple) or len(named) != len(models):
            raise ConfigError(
                f"layers.source={_as_lists(self.source)}: with several source models it must have an entry "
                f"for each of {', '.join(models)}: a layer, or a list of its layers. One layer alone is that "
                "of all"
            )
        return [each if isinstance(each, tuple) else (each,) for each in named]


@dataclass(frozen=True)
class Recording:
    """How hidden states are recorded.

    source, target  Layers to record beside those of `layers`, or `all`, so that a sweep over layers records
                    once.
    non_finite      `refuse` a hidden state that is infinite or undefined, or `exclude` it and count it.
    states          `native` keeps them in the dtype the models ran in, `int8` in a byte an entry. `none`
                    keeps none: moments come straight from a pass, and so do the batches of a gradient fit,
                    one pass an epoch.
    verify          Whether an existing store is compared with its checksums before it is used: once, and
                    again where a file has changed since.
    rows_per_shard  Rows of a file of the store: a stopped recording loses at most the last.
    batch_tokens    Tokens of a batch of the pass.
    """

    source: tuple[Depth, ...] | Literal["all"]
    target: tuple[Depth, ...] | Literal["all"]
    verify: bool
    non_finite: NonFinite
    states: Stored | Literal["none"]
    rows_per_shard: int
    batch_tokens: int

    def __post_init__(self) -> None:
        at_least("recording", 1, rows_per_shard=self.rows_per_shard, batch_tokens=self.batch_tokens)

    @property
    def keeps_states(self) -> bool:
        """Whether there is a store."""
        return self.states != "none"


@dataclass(frozen=True)
class Batches:
    """How the fit reads its rows.

    A thread gathers the next two batches during a step, in the stored dtype; on a GPU they lie in page-locked
    memory and are converted on the device.

    rows         Rows in a batch of one process.
    workers      Further threads, which load windows ahead. Token rows need none. Pooled rows and quantised
                 states are computed when a window is loaded, so one or two help where steps are short.
    window_rows  Rows that are shuffled among each other.
    """

    rows: int
    workers: int
    window_rows: int

    def __post_init__(self) -> None:
        at_least("batches", 1, rows=self.rows, window_rows=self.window_rows)
        at_least("batches", 0, workers=self.workers)


@dataclass(frozen=True)
class DuringTraining:
    """Steering evaluation during training.

    behaviours  Which are steered.
    points      At how many steps of a fit, evenly on a logarithmic scale from the first to the last.
    items       Development items of each.
    """

    behaviours: tuple[str, ...]
    points: int
    items: int

    def __post_init__(self) -> None:
        at_least("evaluation.during_training", 1, points=self.points, items=self.items)


@dataclass(frozen=True)
class Evaluation:
    """What is measured of a fitted map.

    random_draws, shuffled_draws  Draws of those nulls.
    resampled_draws    Maps and vectors refitted on resampled documents and prompts, for the second interval.
    part_weights       How much other weights of the corpus's parts change these vectors: a standard
                       deviation, as a share of what leaving each part out does. 0: not at all. A quarter is
                       what mixtures do whose weights vary by half (docs/conventions.md).
    untrained_draws    Sources with random weights, each of another seed: the null that can read whatever the
                       text itself gives away. Each is a pass of the source over the corpus, once.
    temperature        Of generated texts; 0 decodes greedily. Items draw the same random numbers in every
                       condition.
    folds              Groups of documents that are resampled together.
    max_rows           Most items x conditions in one batch; fewer where the model's device holds fewer.
    eval_split         Items of the report: `test`, or `development` while settings are still being chosen.
    map                Folder of a map that was fitted before, which is evaluated in place of the map of these
                       settings (its nulls are still fitted on their rows); null for the latter. Behaviours
                       that share text with what that map was fitted on are reported as contaminated.
    behaviours         Which of the suite are measured, in this order; empty for all. The others still are
                       excluded from the corpus, and one of them may serve as the null of another behaviour;
                       no further vectors are extracted. Layers that are `auto` are chosen for these.
    side_effects       What steering must not break, measured at the chosen layers and strengths.
    """

    grid: StrengthGrid
    random_draws: int
    shuffled_draws: int
    resampled_draws: int
    part_weights: float
    untrained_draws: int
    temperature: float
    folds: int
    max_rows: int
    eval_split: ItemSplit
    map: str | None
    behaviours: tuple[str, ...]
    during_training: DuringTraining
    side_effects: SideEffects

    def __post_init__(self) -> None:
        # no result stands without its nulls
        at_least("evaluation", 1, random_draws=self.random_draws, shuffled_draws=self.shuffled_draws)
        at_least("evaluation", 1, max_rows=self.max_rows)
        at_least("evaluation", 0, untrained_draws=self.untrained_draws)
        if not 0 <= self.part_weights <= 1:
            raise ConfigError(
                f"evaluation.part_weights={self.part_weights}: must be from 0 to 1, which leaves parts out"
            )
        at_least("evaluation", 2, folds=self.folds)
        if len(set(self.behaviours)) < len(self.behaviours):
            raise ConfigError(
                f"evaluation.behaviours={list(self.behaviours)} names one twice: name each once"
            )
        if self.temperature < 0:
            raise ConfigError(f"evaluation.temperature={self.temperature}: must be 0 (greedy) or above")
        if self.resampled_draws == 1 or self.resampled_draws < 0:
            raise ConfigError(f"evaluation.resampled_draws={self.resampled_draws}: must be 0, or at least 2")


@dataclass(frozen=True)
class Sae:
    """Sparse autoencoders of both models at the map's deepest layers, on single tokens.

    features           Of each that is trained; 0 trains none.
    source, target     Files to use instead of training: Gemma Scope's `params.npz` or a SAELens folder, of
                       the map's deepest layer. With both nothing is trained, and `features` must be 0.
    k, kind            Active features of a token; `topk` or `jumprelu`.
    tokens, epochs     Training tokens of an epoch, and how many there are.
    least_correlation  Features whose best partner correlates less stay unmatched.
    top                Features that a behaviour is steered by.
    s2l                How features are mapped to the target's states: `solved` (ridge regression), or
                       `trained` by `fit`, from the mean predictor on `tokens` an epoch, as in the paper.
    behaviours         Which behaviours are steered by features.
    """

    features: int
    source: str | None
    target: str | None
    k: int
    kind: Literal["topk", "jumprelu"]
    tokens: int
    epochs: int
    least_correlation: float
    top: int
    s2l: Literal["solved", "trained"]
    behaviours: tuple[str, ...]

    def __post_init__(self) -> None:
        at_least("analysis.sae", 0, features=self.features)
        at_least("analysis.sae", 1, k=self.k, tokens=self.tokens, epochs=self.epochs, top=self.top)
        if not self.features and bool(self.source) != bool(self.target):
            raise ConfigError(
                f"analysis.sae.source={self.source} and analysis.sae.target={self.target}: give both, or set "
                "analysis.sae.features to train the other"
            )
        if self.features and self.source and self.target:
            raise ConfigError(
                f"analysis.sae.features={self.features} trains autoencoders, and analysis.sae.source and "
                "analysis.sae.target name both: set analysis.sae.features=0, or name one file"
            )
        if self.features:
            self.spec().check(1)
            if self.top > self.features:
                raise ConfigError(
                    f"analysis.sae.top={self.top}: must be at most analysis.sae.features={self.features}"
                )
        if not 0 <= self.least_correlation < 1:
            raise ConfigError(f"analysis.sae.least_correlation={self.least_correlation}: must be in [0, 1)")

    @property
    def wanted(self) -> bool:
        """Whether there is a pair of autoencoders."""
        return bool(self.features or (self.source and self.target))

    def spec(self) -> SaeSpec:
        """How each is trained."""
        return SaeSpec(self.features, self.k, self.kind)


@dataclass(frozen=True)
class Price:
    """Vectors from few contrastive pairs, native and transferred, and what each costs on the target.

    counts      Numbers of pairs, even because neighbouring prompts are drawn together; empty skips it.
    draws       Of the pairs, for each count.
    behaviours  Which of those that are evaluated; empty for all of them.
    """

    counts: tuple[int, ...]
    draws: int
    behaviours: tuple[str, ...]

    def __post_init__(self) -> None:
        at_least("analysis.price", 2, draws=self.draws)
        wrong = [count for count in self.counts if count < 4 or count % 2]
        if wrong or list(self.counts) != sorted(set(self.counts)):
            raise ConfigError(
                f"analysis.price.counts={list(self.counts)}: must be even numbers of pairs from 4 on, in "
                "rising order, each once"
            )


@dataclass(frozen=True)
class Analysis:
    """Optional analyses of the maps.

    rank_curve         FVU against rank, of the best map of each rank.
    atlas              Every recorded source layer against every recorded target layer.
    many_to_one        All recorded source layers together, and each of them alone.
    memory_gb          Most memory that moments and solves may take, in 1e9 bytes.
    fidelity_tokens    Test tokens on which the target continues from mapped states; 0 skips it.
    fidelity_kinds     Map kinds fitted for that on single tokens. Orthogonal ones of a source wider than
                       the target have no closed form and are iterated: slow for thousands of dimensions.
    stitching_depths   Also stitch the models at every recorded target layer.
    keep_first         Keep the target's own state at position 0 there, as models with massive activations
                       need.
    signal_to_noise    Below this the forecast of a transferred vector warns;
    signal_to_noise_choice  below this where it is scored on the answers to multiple-choice questions.
    residual_on_prompts  Above this share of the contrastive texts' variance that the map leaves, it warns.
    price              From how many vectors on the map pays.
    """

    rank_curve: bool
    atlas: bool
    many_to_one: bool
    memory_gb: float
    fidelity_tokens: int
    fidelity_kinds: tuple[MapKind, ...]
    stitching_depths: bool
    keep_first: bool
    signal_to_noise: float
    signal_to_noise_choice: float
    residual_on_prompts: float
    sae: Sae
    price: Price

    def __post_init__(self) -> None:
        if not self.memory_gb > 0:
            raise ConfigError(f"analysis.memory_gb={self.memory_gb}: must be above 0")
        at_least("analysis", 0, fidelity_tokens=self.fidelity_tokens)
        if "full" not in self.fidelity_kinds:
            raise ConfigError(
                f"analysis.fidelity_kinds={list(self.fidelity_kinds)} lacks `full`, which the others are "
                "compared with: add it"
            )

    def least_signal_to_noise(self, choice: bool) -> float:
        """The threshold of a vector, by whether it is scored on answers to multiple-choice questions."""
        return self.signal_to_noise_choice if choice else self.signal_to_noise

    @property
    def memory_bytes(self) -> int:
        """`memory_gb` in bytes."""
        return int(self.memory_gb * 1e9)


@dataclass(frozen=True)
class Logging:
    """W&B beside the local record.

    mode     `offline` writes a run folder that `wandb sync` sends later; `online` needs a key.
    project  Of W&B.
    name     Of the run; by default its pair, layers, map and seed.
    group    Shared by the jobs of a sweep; null: its folder, and of a single run the pair's name.
    name   Of the run; null: pair, layers, map kind and seed.
    artifacts  W&B also gets maps, vectors and report as artifacts, and the store by reference.
    """

    mode: Literal["offline", "online", "disabled"]
    project: str
    group: str | None
    name: str | None
    artifacts: bool


@dataclass(frozen=True)
class Paths:
    """Where results go.

    artifacts  All that is costly: stores, vectors, maps, measurements.
    models     Dequantised GGUF files.
    report     The page and its data.
    logs       Logs of the run.
    """

    artifacts: str
    models: str
    report: str
    logs: str
