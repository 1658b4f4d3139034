from typing import Any

import pytest

from lrt.errors import InvalidValue
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
    "settings",
    [{"dtype": "fp16"}, {"weights": "fresh"}, {"seed": -1}, {"seed": 3}, {"device_map": "all"}],
    ids=lambda settings: "-".join(f"{k}={v}" for k, v in settings.items()),
)
def test_an_impossible_setting_is_named(settings: dict[str, Any]) -> None:
    (setting,) = settings
    with pytest.raises(InvalidValue, match=f"`{setting}`"):
        ModelSpec("gpt2", **settings)


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(InvalidValue):
        ModelSpec("")
