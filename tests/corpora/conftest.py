from typing import Any

import pytest
from word_tokens import word_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    made = word_tokenizer(bos_token="<bos>", eos_token="<eos>")
    made.chat_template = TEMPLATE
    return made


@pytest.fixture
def tokenizer_without_bos() -> Any:
    return word_tokenizer(eos_token="<eos>")


@pytest.fixture
def tokenizer_without_specials() -> Any:
    return word_tokenizer()
