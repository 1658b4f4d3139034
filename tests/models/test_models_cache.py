import hashlib
import os
from pathlib import Path

import pytest

from lrt.models import cache
from lrt.models.cache import cache_folder, file_digest


@pytest.fixture
def small_and_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of the smallest and newest files are cached too."""
    monkeypatch.setattr(cache, "CACHED_FROM_BYTES", 0)
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -60.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that a file is hashed."""
    seen: list[str] = []
    really = hashlib.file_digest

    def noting(file: object, name: str) -> object:
        seen.append(name)
        return really(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(cache.hashlib, "file_digest", noting)
    return seen


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("small_and_settled")
def test_an_unchanged_file_is_hashed_once(tmp_path: Path, reads: list[str]) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    for _ in range(3):
        assert file_digest(file, tmp_path / "cache") == sha256(b"abc")
    assert len(reads) == 1
    # under another name it is another file, of the same content
    (tmp_path / "other").write_bytes(b"abc")
    assert file_digest(tmp_path / "other", tmp_path / "cache") == sha256(b"abc")
    assert len(reads) == 2


@pytest.mark.usefixtures("small_and_settled")
def test_a_change_is_seen_though_size_and_time_are_as_before(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    before = file.stat()
    assert file_digest(file, tmp_path) == sha256(b"abc")
    file.write_bytes(b"xyz")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file_digest(file, tmp_path) == sha256(b"xyz")


def test_digests_of_new_and_of_small_files_are_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -60.0)
    file_digest(file, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()  # small
    monkeypatch.setattr(cache, "CACHED_FROM_BYTES", 0)
    monkeypatch.setattr(cache, "SETTLED_SECONDS", 60.0)
    file_digest(file, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()  # just written
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -60.0)
    file_digest(file, tmp_path / "cache")
    assert len([*(tmp_path / "cache" / "digests").iterdir()]) == 1


@pytest.mark.usefixtures("small_and_settled")
@pytest.mark.parametrize("content", ["", "{", "[1]", '{"file": 1}', '{"file": {"size": 3}, "sha256": "no"}'])
def test_a_damaged_cache_entry_is_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    file_digest(file, tmp_path)
    (entry,) = (tmp_path / "digests").iterdir()
    whole = entry.read_text()
    entry.write_text(content)
    assert file_digest(file, tmp_path) == sha256(b"abc")
    assert entry.read_text() == whole


@pytest.mark.usefixtures("small_and_settled")
def test_a_digest_that_cannot_be_cached_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.log, "propagate", True)
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    assert file_digest(file, file) == sha256(b"abc")  # no folder can be made below a file
    assert "hashes the file again" in caplog.text


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRT_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "lrt"
    monkeypatch.setenv("LRT_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine"
    assert cache_folder("given") == Path("given")
