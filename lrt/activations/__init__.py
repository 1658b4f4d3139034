"""Paired hidden states on disk: recording both models over a packed corpus into a crash-safe store,
and streaming it back as shuffled batches in constant memory, in an order that the seed alone
decides."""

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
from lrt.activations.manifest import HOOK_POINT, Manifest, RecordingPlan
from lrt.activations.null_source import pairs_with_other_source
from lrt.activations.paired_forward import PairedRows, median_norms, paired_rows
from lrt.activations.recording import plan_recording, record, record_share, repair
from lrt.activations.shares import RecordingWorker
from lrt.activations.store import ActivationStore
from lrt.activations.stream import Batch, RowStream

__all__ = [
    "HOOK_POINT",
    "ActivationDataModule",
    "ActivationStore",
    "Batch",
    "DiskTooSmall",
    "Manifest",
    "NoRows",
    "NonFiniteActivations",
    "PairedRows",
    "PartRule",
    "PartRules",
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
]
