"""What a corpus source says of itself: the files its text is read from, and what its rows are."""

from pathlib import Path

import pytest

from lrt.activations import PartRule
from lrt.config import ConfigError
from lrt.config.corpus import HubSource, QuestionsSource, ScenesSource, TextSource


def test_a_set_in_a_local_folder_is_a_file_to_be_hashed_and_a_hub_id_is_none(tmp_path: Path) -> None:
    assert HubSource(path=str(tmp_path)).files == (str(tmp_path),)
    assert HubSource(path="allenai/c4").files == ()
    assert QuestionsSource(path=str(tmp_path), tasks=("openness",)).files == (str(tmp_path),)
    assert TextSource(paths=("a.txt", "b.txt")).files == ("a.txt", "b.txt")


def test_a_part_has_a_rule_where_its_rows_differ() -> None:
    assert ScenesSource().rule("scenes") is None
    assert ScenesSource(rows="tokens", repeat=2).rule("scenes") == PartRule("scenes", "tokens", 2)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_part_has_a_positive_weight(weight: float) -> None:
    with pytest.raises(ConfigError, match="weight="):
        ScenesSource(weight=weight)
