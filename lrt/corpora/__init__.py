"""Text in, token blocks out: documents from files, jsonl or the hub, mixed in given shares, split
by the hash of their text, and packed into blocks of one length with the document of every token
beside it."""

from lrt.corpora.chats import as_chat, conversation
from lrt.corpora.decontamination import Decontaminator
from lrt.corpora.documents import Document, text_id
from lrt.corpora.errors import CorpusEmpty, CorpusError, CorpusMissing, CorpusTooShort
from lrt.corpora.mixture import Part, mixture
from lrt.corpora.packing import Blocks, PackedCorpus, begin_ids, end_ids, pack
from lrt.corpora.scenes import scenes
from lrt.corpora.sources import Case, Unit, hub, json_rows, jsonl, text_files
from lrt.corpora.splits import SPLITS, Split, split_of

__all__ = [
    "SPLITS",
    "Blocks",
    "Case",
    "CorpusEmpty",
    "CorpusError",
    "CorpusMissing",
    "CorpusTooShort",
    "Decontaminator",
    "Document",
    "PackedCorpus",
    "Part",
    "Split",
    "Unit",
    "as_chat",
    "begin_ids",
    "conversation",
    "end_ids",
    "hub",
    "json_rows",
    "jsonl",
    "mixture",
    "pack",
    "scenes",
    "split_of",
    "text_files",
    "text_id",
]
