"""Evaluation of steering: behaviours, the measuring engine, nulls and statistics."""

from lrt.evaluation.behaviours import (
    Behaviour,
    BehaviourUnreadable,
    Item,
    ItemSplit,
    check_together,
    read_behaviours,
)
from lrt.evaluation.callbacks import SteeringEvalCallback, TrackedBehaviour
from lrt.evaluation.choice import Chosen, StrengthChoice, StrengthGrid, Trial, choose_layer, choose_strength
from lrt.evaluation.directions import (
    NULLS,
    ContrastStates,
    ModelStates,
    TransferMaps,
    directions,
    other_contrast,
)
from lrt.evaluation.fidelity import FidelityRow, StitchingDepth, fidelity, inside_documents, stitching_depths
from lrt.evaluation.measuring import (
    Damage,
    Measurement,
    SteerableModel,
    SteeringCondition,
    damage,
    end_tokens,
    measure,
)
from lrt.evaluation.model_written import Propensity, answered_questions, propensity_suite
from lrt.evaluation.native_next_steps import NativeTrials
from lrt.evaluation.next_steps import NextStep, PromptsRead
from lrt.evaluation.refusal import Instructions, Refusal, refusal_suite
from lrt.evaluation.score_directions import rows_along, scores_along
from lrt.evaluation.storybook import StorybookSuite, storybook_suite
from lrt.evaluation.study import SourceCurve, Study, study, study_rows
from lrt.evaluation.suites import CombinedSuite, FilesSuite, SuiteSettings, build_suite
from lrt.evaluation.summary import summarise
from lrt.evaluation.texts import Texts, texts_suite
from lrt.evaluation.transfer_next_steps import TransferFacts, transferred_trials
from lrt.evaluation.word_problems import WordProblems, problem_prompts, word_problems_suite

__all__ = [
    "NULLS",
    "Behaviour",
    "BehaviourUnreadable",
    "Chosen",
    "CombinedSuite",
    "ContrastStates",
    "Damage",
    "FidelityRow",
    "FilesSuite",
    "Instructions",
    "Item",
    "ItemSplit",
    "Measurement",
    "ModelStates",
    "NativeTrials",
    "NextStep",
    "PromptsRead",
    "Propensity",
    "Refusal",
    "SourceCurve",
    "SteerableModel",
    "SteeringCondition",
    "SteeringEvalCallback",
    "StitchingDepth",
    "StorybookSuite",
    "StrengthChoice",
    "StrengthGrid",
    "Study",
    "SuiteSettings",
    "Texts",
    "TrackedBehaviour",
    "TransferFacts",
    "TransferMaps",
    "Trial",
    "WordProblems",
    "answered_questions",
    "build_suite",
    "check_together",
    "choose_layer",
    "choose_strength",
    "damage",
    "directions",
    "end_tokens",
    "fidelity",
    "inside_documents",
    "measure",
    "other_contrast",
    "problem_prompts",
    "propensity_suite",
    "read_behaviours",
    "refusal_suite",
    "rows_along",
    "scores_along",
    "stitching_depths",
    "storybook_suite",
    "study",
    "study_rows",
    "summarise",
    "texts_suite",
    "transferred_trials",
    "word_problems_suite",
]
