"""What can be wrong with a corpus, as the user's fault and with the user's remedy."""

from __future__ import annotations


class CorpusError(ValueError):
    """A corpus cannot be read or used as asked; the message names the setting to change."""


class CorpusMissing(CorpusError):
    """A file, folder or data set that the corpus names is not there."""


class CorpusEmpty(CorpusError):
    """The corpus gave no usable document."""


class CorpusTooShort(CorpusError):
    """A split holds fewer tokens than one sequence."""


class ChatRefused(CorpusError):
    """A model's chat template refuses a conversation of the corpus."""
