"""Text to packed token sequences.

Documents come from files, jsonl or the hub, are mixed in fixed shares, split by the hash of their text, and
packed into sequences of one length. Every token keeps the id of its document.
"""

from lrt.corpora.aligned_packing import PADDING
from lrt.corpora.alignment import BOUNDS
from lrt.corpora.chats import TemplatePair, as_chat, conversation, document_of_two
from lrt.corpora.decontamination import Decontaminator, shared_documents
from lrt.corpora.document_ends import begin_ids, end_ids
from lrt.corpora.documents import Document, text_id
from lrt.corpora.errors import CorpusEmpty, CorpusError, CorpusMissing, CorpusTooShort, NotAligned
from lrt.corpora.hub_revisions import commit_of, is_commit, is_local, with_revision
from lrt.corpora.mixture import Part, mixture
from lrt.corpora.packed_format import PACKED
from lrt.corpora.packing import pack
from lrt.corpora.scenes import scenes
from lrt.corpora.sequences import Alignment, PackedCorpus, Sequences
from lrt.corpora.sources import Case, Unit, hub, jsonl, text_files, texts_of
from lrt.corpora.splits import SPLITS, Split, split_of

__all__ = [
    "BOUNDS",
    "PACKED",
    "PADDING",
    "SPLITS",
    "Alignment",
    "Case",
    "CorpusEmpty",
    "CorpusError",
    "CorpusMissing",
    "CorpusTooShort",
    "Decontaminator",
    "Document",
    "NotAligned",
    "PackedCorpus",
    "Part",
    "Sequences",
    "Split",
    "TemplatePair",
    "Unit",
    "as_chat",
    "begin_ids",
    "commit_of",
    "conversation",
    "document_of_two",
    "end_ids",
    "hub",
    "is_commit",
    "is_local",
    "jsonl",
    "mixture",
    "pack",
    "scenes",
    "shared_documents",
    "split_of",
    "text_files",
    "text_id",
    "texts_of",
    "with_revision",
]
