"""Errors of activation stores. Every message names the file or setting and how to fix it."""

from __future__ import annotations

from lrt.errors import UserError


class StoreError(UserError):
    """Base class of the errors below."""


class StoreMissing(StoreError):
    """The folder holds no complete store."""


class StoreCorrupt(StoreError):
    """A file of a store, or the counts of rows that were made on the fly, is missing or damaged."""


class StoreForeign(StoreError):
    """The store was recorded from other models, layers or text, or is of another format."""


class StoreBusy(StoreError):
    """Another process writes to the store."""


class StoreUnwritable(StoreError):
    """The output folder cannot be created or written."""


class DiskTooSmall(StoreError):
    """The disk has too little free space for the recording."""


class NonFiniteActivations(StoreError):
    """A model computed a hidden state that is infinite or NaN."""
