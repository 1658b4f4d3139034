"""The root of the config: what conf/train.yaml and its groups compose, as typed and frozen data.

The dataclasses of the science folders are the schema of their sections; `lrt.config` declares the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from lrt.activations import RowFilter
from lrt.config.corpus import Corpus
from lrt.config.errors import ConfigError
from lrt.config.pair import PairSettings
from lrt.config.sections import Analysis, Batches, Evaluation, Layers, Logging, Paths, Recording
from lrt.evaluation import Propensity, Refusal, Texts, WordProblems
from lrt.evaluation.storybook import StorybookSuite
from lrt.evaluation.suites import CombinedSuite, FilesSuite, judges_of
from lrt.mapping import ClosedFormSpec, FitSpec, MapSpec

OneSuite = Annotated[
    StorybookSuite | FilesSuite | Propensity | Refusal | Texts | WordProblems, Field(discriminator="kind")
]


@dataclass(frozen=True)
class CheckedCombinedSuite(CombinedSuite):
    """`CombinedSuite` whose parts are discriminated by `kind`."""

    parts: dict[str, OneSuite]


SuiteSection = Annotated[
    StorybookSuite | FilesSuite | Propensity | Refusal | Texts | WordProblems | CheckedCombinedSuite,
    Field(discriminator="kind"),
]
FitSection = Annotated[FitSpec | ClosedFormSpec, Field(discriminator="kind")]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Config:
    """Everything that `train.py` and `evaluate.py` read.

    task_name  Names the run's folder and its job type in W&B.
    tags       Of the run in W&B.
    pool       Neighbouring tokens of a document whose mean is one row of the fit; 1 fits single tokens.
    products   Precision of the moments' products; their sums are float64 always.
    sums_gb    Most of the sums beside each map, in 1e9 bytes; larger ones are not saved.
    judge_key_variables  Environment variables that a judge's `key_variable` may name.
    trainer    Arguments of the Lightning Trainer that fits the map.
    seed       Of everything that is drawn: batches, nulls, generated texts.
    callbacks  Further Lightning callbacks of the fit by class name, each with its arguments.
    ckpt_path  A checkpoint that the fit of the whole-corpus map starts from.
    evaluate   train.py continues with the evaluation and the report.
    optimized_metric  What `main` returns to a sweeper: `fvu`, `mean_ratio`, `ratios.BEHAVIOUR` and so on.
    """

    task_name: str
    tags: tuple[str, ...]
    pair: PairSettings
    layers: Layers
    corpus: Corpus
    filter: RowFilter
    pool: Annotated[int, Field(ge=1)]
    recording: Recording
    products: Literal["float32", "float64"]
    sums_gb: Annotated[float, Field(ge=0)]
    map: MapSpec
    fit: FitSection
    batches: Batches
    suite: SuiteSection
    judge_key_variables: tuple[str, ...]
    evaluation: Evaluation
    analysis: Analysis
    trainer: dict[str, Any]
    callbacks: dict[str, dict[str, Any]]
    ckpt_path: str | None
    logging: Logging
    paths: Paths
    seed: Annotated[int, Field(ge=0)]
    evaluate: bool
    optimized_metric: str | None

    def __post_init__(self) -> None:
        for judge in judges_of(self.suite):
            if judge.key_variable not in ("", *self.judge_key_variables):
                raise ConfigError(
                    f"key_variable={judge.key_variable!r} of the judge at {judge.url}: it may name "
                    f"{', '.join(self.judge_key_variables) or 'none'}, since its value is sent there. If "
                    f"that is meant, set judge_key_variables=[{judge.key_variable}]"
                )
        if self.pool > self.corpus.context:
            raise ConfigError(
                f"pool={self.pool}: must be at most corpus.context={self.corpus.context}, since a row is the "
                "mean of tokens of one sequence"
            )
