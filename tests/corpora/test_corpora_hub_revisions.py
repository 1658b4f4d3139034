"""Ids of hub data sets with a revision, and the commit that one stands for."""

from pathlib import Path
from unittest import mock

import pytest

from lrt.corpora import CorpusMissing, commit_of, hub, is_commit, is_local, with_revision
from lrt.evaluation.dataset_readers import hub_file_rows, hub_rows

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("path", "revision", "expected"),
    [
        ("org/set", None, ("org/set", None)),
        ("org/set", "v1", ("org/set", "v1")),
        ("org/set@v1", None, ("org/set", "v1")),
        (f"set@{COMMIT}", "v1", ("set", COMMIT)),
        ("org/set@refs/convert/parquet", None, ("org/set", "refs/convert/parquet")),
        ("/a/folder@home", None, ("/a/folder@home", None)),
        ("~/it@home", None, ("~/it@home", None)),
        ("rows@2.jsonl", None, ("rows@2.jsonl", None)),
    ],
)
def test_a_revision_behind_an_id(path: str, revision: str | None, expected: tuple[str, str | None]) -> None:
    assert with_revision(path, revision) == expected


def test_what_is_there_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_local("org/set")
    Path("org", "set").mkdir(parents=True)
    assert is_local("org/set")
    assert [is_commit(each) for each in (COMMIT, "main", None, COMMIT[:12])] == [True, False, False, False]


def test_the_readers_pass_on_the_revision() -> None:
    path = f"org/set@{COMMIT}"
    with mock.patch("datasets.load_dataset", autospec=True, return_value=[{"text": "{}"}]) as load:
        [*hub(path), *hub_rows(path), *hub_file_rows(path, "a.jsonl")]
    corpus, rows, file = load.call_args_list
    for call in (corpus, rows):
        assert call.args[0] == "org/set"
        assert call.kwargs["revision"] == COMMIT
    assert file.kwargs["data_files"] == f"hf://datasets/org/set@{COMMIT}/a.jsonl"


def test_the_hub_is_asked_for_the_commit() -> None:
    with mock.patch("lrt.corpora.hub_revisions.HfApi.dataset_info", autospec=True) as info:
        info.return_value.sha = COMMIT
        assert commit_of("org/set", None) == COMMIT
        info.return_value.sha = None
        with pytest.raises(CorpusMissing, match="org/set"):
            commit_of("org/set", None)
        info.side_effect = RuntimeError("no route")
        with pytest.raises(CorpusMissing, match=r"v1.*org/set.*no route"):
            commit_of("org/set", "v1")
