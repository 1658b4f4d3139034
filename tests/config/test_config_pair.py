"""The pair: reversed, and read from local copies."""

from pathlib import Path

import pytest
from config.composing import read
from running import composed

from lrt.config import ConfigError, PairSettings, read_config

PAIR = "pair=qwen2.5-coder-0.5b-1.5b-instruct"


def pair_of(*overrides: str) -> PairSettings:
    return read_config(composed("train", *overrides)).pair


@pytest.mark.parametrize("option", ["pair=gemma-2-2b-9b", "pair=storybook"])
def test_a_pair_can_be_reversed(option: str) -> None:
    there, back = pair_of(option), pair_of(option, "pair.reverse=true")
    assert (back.source, back.target) == (there.target, there.source)
    assert back.name == f"{there.name}, reversed"
    assert not back.reverse  # it is in order now, and must not be reversed again


def test_the_template_is_reversed_with_its_model() -> None:
    for template, turned in (("auto", "auto"), ("source", "target"), ("target", "source")):
        assert read("pair.reverse=true", f"pair.template={template}").pair.template == turned


def test_arguments_of_the_template_are_any_plain_values() -> None:
    pair = pair_of("pair.template_kwargs={enable_thinking: false, effort: low}", "pair.reverse=true")
    assert pair.template_kwargs == {"enable_thinking": False, "effort": "low"}
    assert pair_of().template_kwargs is None


def test_local_copies_are_named_by_the_last_part_of_the_id(tmp_path: Path) -> None:
    gguf, folder = tmp_path / "qwen2.5-coder-0.5b-instruct", tmp_path / "Qwen2.5-Coder-1.5B-Instruct"
    for each in (gguf, folder):
        each.mkdir()
    (gguf / "model.gguf").touch()
    (folder / "config.json").touch()
    (folder / "more.gguf").touch()  # the folder is whole without it
    given = (PAIR, f"pair.models={tmp_path}", "pair.source.revision=main")
    pair = pair_of(*given)
    assert (pair.source.path, pair.target.path) == (str(gguf / "model.gguf"), str(folder))
    assert pair.source.revision is None  # of the hub's repository, not of a copy
    assert pair.source.name == "Qwen2.5-Coder-0.5B-Instruct"
    assert pair_of(*given, "pair.reverse=true").source == pair.target


@pytest.mark.parametrize(
    ("files", "listed"),
    [
        ((), "none"),
        (("other/model.gguf",), "other"),
        (("qwen2.5-coder-0.5b-instruct/readme",), "none"),
        (("qwen2.5-coder-0.5b-instruct/a.gguf", "qwen2.5-coder-0.5b-instruct/b.gguf"), "a.gguf, b.gguf"),
    ],
)
def test_a_missing_or_ambiguous_copy_is_named_with_what_the_folder_has(
    files: tuple[str, ...], listed: str, tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(ConfigError) as error:
        pair_of(PAIR, f"pair.models={tmp_path}")
    assert "Qwen/Qwen2.5-Coder-0.5B" in str(error.value)
    assert listed in str(error.value)
