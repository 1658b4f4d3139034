"""What can be wrong with a store or its recording; every message names the file and the fix_hint."""

from __future__ import annotations


class StoreError(RuntimeError):
    """Base of everything below."""


class StoreMissing(StoreError):
    """The folder holds no complete store."""


class StoreCorrupt(StoreError):
    """A file of the store is missing, cut, grown or altered."""


class StoreForeign(StoreError):
    """The store holds something else than is asked for: other models, layers, corpus or format."""


class StoreBusy(StoreError):
    """Another process is recording into the same folder."""


class StoreUnwritable(StoreError):
    """The output folder cannot be made or written."""


class DiskTooSmall(StoreError):
    """The disk has not the room the recording needs."""


class NonFiniteActivations(StoreError):
    """A model gave an infinite or undefined hidden state."""
