"""A recorded store that tests share, and files that are not synced to the disk."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from planted_states import make_store

from lrt.activations import ActivationStore


@pytest.fixture(scope="session", autouse=True)
def _no_sync() -> Iterator[None]:
    """Killed processes keep what they wrote, so only a power cut would need the syncs, which take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """The default store of `make_store`; not to be changed."""
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def copied(store: ActivationStore, tmp_path: Path) -> Path:
    """The folder of a copy of that store."""
    return Path(shutil.copytree(store.folder, tmp_path / "copied"))
