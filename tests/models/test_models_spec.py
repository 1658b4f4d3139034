import pytest

from lrt.models import ModelSpec


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("gpt2", "gpt2"),
        ("google/gemma-2-2b", "gemma-2-2b"),
        ("/data/models/mine/", "mine"),
        ("/data/model.q8_0.gguf", "model.q8_0"),
        ("/data/qwen-0.5b/model.gguf", "qwen-0.5b"),
    ],
)
def test_a_spec_is_named_after_the_part_of_its_path_that_says_something(path: str, name: str) -> None:
    assert ModelSpec(path).name == name
    assert ModelSpec(path, name="chosen").name == "chosen"


def test_random_weights_show_in_the_name() -> None:
    assert ModelSpec("gpt2", weights="random").name == "gpt2 (random weights)"


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("dtype", "fp16", "auto, float32, bfloat16, float16"),
        ("weights", "fresh", "trained, random"),
        ("seed", -1, "negative"),
    ],
)
def test_an_impossible_setting_is_named_with_what_is_allowed(
    setting: str, value: object, allowed: str
) -> None:
    with pytest.raises(ValueError, match=rf"`{setting}` of model 'gpt2'.*{value}.*{allowed}"):
        ModelSpec("gpt2", **{setting: value})  # type: ignore[arg-type]


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(ValueError, match="empty `path`"):
        ModelSpec("")
