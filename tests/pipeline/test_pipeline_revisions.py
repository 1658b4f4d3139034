"""Data sets of the hub are pinned at their first use; a branch that moves changes nothing after that."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from stages import corpus

from lrt.config import Corpus
from lrt.config.corpus import HubSource, JsonlSource, QuestionsSource, WordProblemsSource
from lrt.corpora import CorpusMissing
from lrt.evaluation import Instructions, Propensity, Refusal, WordProblems
from lrt.evaluation.suites import CombinedSuite
from lrt.pipeline import pin_revisions
from lrt.storage.cache import Cache

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def branch() -> Iterator[mock.Mock]:
    """A hub whose branches all stand at one commit."""
    with mock.patch("lrt.pipeline.revisions.commit_of", return_value=FIRST) as commit:
        yield commit


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def of_hub(**settings: str | None) -> Corpus:
    return corpus(part=HubSource(path="org/set", **settings))  # type: ignore[arg-type]


def path_of(pinned: Corpus) -> str:
    source = pinned.sources["part"]
    assert isinstance(source, HubSource)
    return source.path


def test_a_branch_is_resolved_once(cache: Cache, branch: mock.Mock) -> None:
    assert path_of(pin_revisions(of_hub(), cache)) == f"org/set@{FIRST}"
    branch.return_value = SECOND  # it moved
    assert path_of(pin_revisions(of_hub(), cache)) == f"org/set@{FIRST}"
    assert path_of(pin_revisions(of_hub(revision="v2"), cache)) == f"org/set@{SECOND}"
    assert path_of(pin_revisions(of_hub(), Cache(cache.folder / "other"))) == f"org/set@{SECOND}"


def test_a_commit_is_taken_as_it_is(cache: Cache, branch: mock.Mock) -> None:
    assert path_of(pin_revisions(of_hub(revision=SECOND), cache)) == f"org/set@{SECOND}"
    branch.assert_not_called()


def test_every_kind_of_set_is_pinned_wherever_it_stands(cache: Cache, branch: mock.Mock) -> None:
    suite = CombinedSuite(
        {
            "a": Propensity(path="org/questions", tasks=("boldness",)),
            "b": Refusal(
                harmful=Instructions(("org/bad", "org/worse@v1")), harmless=Instructions(("local.json",))
            ),
            "c": WordProblems(path="org/problems"),
        }
    )
    pinned = pin_revisions(suite, cache)
    propensity, refusal, problems = pinned.parts.values()
    assert isinstance(propensity, Propensity)
    assert isinstance(refusal, Refusal)
    assert propensity.path == f"org/questions@{FIRST}"
    assert refusal.harmful.paths == (f"org/bad@{FIRST}", f"org/worse@{FIRST}")
    assert refusal.harmless.paths == ("local.json",)
    assert isinstance(problems, WordProblems)
    assert problems.path == f"org/problems@{FIRST}"
    assert [call.args for call in branch.call_args_list] == [
        ("org/questions", None),
        ("org/bad", None),
        ("org/worse", "v1"),
        ("org/problems", None),
    ]
    same = pin_revisions(corpus(part=WordProblemsSource(path="org/problems")), cache).sources["part"]
    assert same == WordProblemsSource(path=f"org/problems@{FIRST}")
    asked = pin_revisions(corpus(part=QuestionsSource(path="org/questions", tasks=("x",))), cache)
    (source,) = asked.sources.values()
    assert isinstance(source, QuestionsSource)
    assert source.path == f"org/questions@{FIRST}"
    assert branch.call_count == 4  # the same sets as the suite's


def test_local_sources_are_left_alone(cache: Cache, branch: mock.Mock, tmp_path: Path) -> None:
    local = corpus(rows=JsonlSource(path="rows.jsonl"), folder=HubSource(path=str(tmp_path)))
    assert pin_revisions(local, cache) == local
    branch.assert_not_called()


def test_without_the_hub_the_name_stays_and_a_warning_is_logged(
    cache: Cache, branch: mock.Mock, caplog: pytest.LogCaptureFixture
) -> None:
    branch.side_effect = CorpusMissing("no route")
    assert path_of(pin_revisions(of_hub(), cache)) == "org/set"
    assert path_of(pin_revisions(replace(of_hub(revision="v1")), cache)) == "org/set@v1"
    assert "no route" in caplog.text
    branch.side_effect = None
    assert path_of(pin_revisions(of_hub(), cache)) == f"org/set@{FIRST}"
