"""Paired hidden states of both models: recording, reading back, and on the fly.

`record` writes them to a crash-safe store. `ActivationDataModule` streams the store as shuffled batches in
constant memory, in an order that depends on the seed alone. `OnTheFlyRows` gives the same rows without a
store, and `PassDataModule` shuffles them for a fit.
"""

from lrt.activations.chunks import PartRule, PartRules, RowKind, Selection
from lrt.activations.datamodule import ActivationDataModule, NoRows
from lrt.activations.errors import (
    DiskTooSmall,
    NonFiniteActivations,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreMissing,
    StoreUnwritable,
)
from lrt.activations.filter import RowFilter
from lrt.activations.manifest import HOOK_POINT, Manifest
from lrt.activations.null_source import pairs_with_other_source
from lrt.activations.on_the_fly import OnTheFlyRows
from lrt.activations.paired_forward import PairedRows, median_norms, paired_rows
from lrt.activations.passes import PassDataModule
from lrt.activations.plan import RecordingPlan, plan_recording
from lrt.activations.recording import record, record_share, repair
from lrt.activations.shares import RecordingWorker
from lrt.activations.store import ActivationStore
from lrt.activations.stream import RowStream
from lrt.activations.verified import verify_once
from lrt.activations.windows import Batch

__all__ = [
    "HOOK_POINT",
    "ActivationDataModule",
    "ActivationStore",
    "Batch",
    "DiskTooSmall",
    "Manifest",
    "NoRows",
    "NonFiniteActivations",
    "OnTheFlyRows",
    "PairedRows",
    "PartRule",
    "PartRules",
    "PassDataModule",
    "RecordingPlan",
    "RecordingWorker",
    "RowFilter",
    "RowKind",
    "RowStream",
    "Selection",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreForeign",
    "StoreMissing",
    "StoreUnwritable",
    "median_norms",
    "paired_rows",
    "pairs_with_other_source",
    "plan_recording",
    "record",
    "record_share",
    "repair",
    "verify_once",
]
