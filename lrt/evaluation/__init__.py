"""What a vector does to a model: behaviours, the engine that measures them, nulls and statistics."""

from lrt.evaluation.behaviours import (
    Behaviour,
    BehaviourUnreadable,
    Item,
    ItemSplit,
    check_together,
    read_behaviours,
)
from lrt.evaluation.callbacks import SteeringEvalCallback, TrackedBehaviour
from lrt.evaluation.directions import NULLS, ContrastStates, TransferMaps, directions, other_contrast
from lrt.evaluation.fidelity import Fidelity, StitchingDepth, fidelity, inside_documents, stitching_depths
from lrt.evaluation.measuring import Damage, Measurement, SteeringCondition, damage, end_tokens, measure
from lrt.evaluation.model_written import Propensity, answered_questions, propensity_suite
from lrt.evaluation.refusal import Instructions, Refusal, refusal_suite
from lrt.evaluation.score_directions import rows_along, scores_along
from lrt.evaluation.storybook import storybook_suite
from lrt.evaluation.study import (
    Chosen,
    SteerableModel,
    StrengthChoice,
    StrengthGrid,
    Study,
    choose_layer,
    choose_strength,
    study,
    study_rows,
)
from lrt.evaluation.summary import summarise
from lrt.evaluation.texts import Texts, texts_suite

__all__ = [
    "NULLS",
    "Behaviour",
    "BehaviourUnreadable",
    "Chosen",
    "ContrastStates",
    "Damage",
    "Fidelity",
    "Instructions",
    "Item",
    "ItemSplit",
    "Measurement",
    "Propensity",
    "Refusal",
    "SteerableModel",
    "SteeringCondition",
    "SteeringEvalCallback",
    "StitchingDepth",
    "StrengthChoice",
    "StrengthGrid",
    "Study",
    "Texts",
    "TrackedBehaviour",
    "TransferMaps",
    "answered_questions",
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
]
