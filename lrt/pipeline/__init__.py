"""The stages from two models to a report, each built from exactly what it needs and cached by fingerprint.

1 pair, 2 corpus and states, 3 vectors, 4 choices, 5 maps, 6 evaluation, 7 results; analyses beside them.
"""

from lrt.pipeline.analyses import plan_analyses
from lrt.pipeline.choices import Choices, choose_map_layers
from lrt.pipeline.corpus import CorpusText
from lrt.pipeline.evaluation import Studies
from lrt.pipeline.fit_data import RowSettings, RowSource
from lrt.pipeline.layers import LayerPair, LayerPlan, plan_layers
from lrt.pipeline.map_training import FitOutput, FitSettings
from lrt.pipeline.maps import plan_maps, require_maps
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.pair import ModelPair, UntrainedSource, load_pair
from lrt.pipeline.pair_model import PairModel
from lrt.pipeline.preflight import check_run
from lrt.pipeline.results import outcome, results
from lrt.pipeline.revisions import pin_revisions
from lrt.pipeline.shared_documents import SharedDocuments
from lrt.pipeline.side_effects import SideEffectStudies, plan_side_effects
from lrt.pipeline.states import plan_states
from lrt.pipeline.vectors import contrasts_of, extract_vectors, needed_contrasts

__all__ = [
    "Choices",
    "CorpusText",
    "FitOutput",
    "FitSettings",
    "LayerPair",
    "LayerPlan",
    "ModelPair",
    "Monitor",
    "PairModel",
    "RowSettings",
    "RowSource",
    "SharedDocuments",
    "SideEffectStudies",
    "Studies",
    "UntrainedSource",
    "check_run",
    "choose_map_layers",
    "contrasts_of",
    "extract_vectors",
    "load_pair",
    "needed_contrasts",
    "outcome",
    "pin_revisions",
    "plan_analyses",
    "plan_layers",
    "plan_maps",
    "plan_side_effects",
    "plan_states",
    "require_maps",
    "results",
]
