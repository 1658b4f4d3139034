"""One rule for special tokens at both ends of every text of a model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf_files import BEGIN, TOKENS, write_gguf
from models.chat_templates import DISTILL, word_tokenizer
from transformers import ByT5Tokenizer, GPT2Config, GPT2Tokenizer

from lrt.corpora import Document, begin_ids, pack
from lrt.errors import InvalidValue
from lrt.models import ModelSpec, load_tokenizer, tokenizer_digest
from lrt.models.prompts import encode, encode_prompts, render_chat
from lrt.models.special_tokens import set_special_ends

FIVE = [f"hi ho a . {word}" for word in ("hi", "ho", "a", ".", "hi ho")]
GLM = ("[gMASK]", "<sop>")


def stored(folder: Path, checkpoint: Path, made: Any, **settings: Any) -> Any:
    """The tokenizer as it is loaded from a checkpoint whose tokenizer_config.json has these settings."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    made.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return load_tokenizer(ModelSpec(str(folder)))


@pytest.mark.parametrize(
    ("single", "settings", "begins"),
    [
        ("$A", {}, []),
        ("$A", {"add_bos_token": False}, []),
        ("<s> $A", {}, [0]),
        ("<s> $A", {"add_bos_token": True}, [0]),
        # transformers leaves all of these as they are written
        ("$A", {"add_bos_token": True}, [0]),
        ("<s> $A", {"add_bos_token": False}, []),
        ("$A </s>", {}, []),
        ("<s> $A </s>", {"add_eos_token": True}, [0]),
        ("$A </s>", {"add_bos_token": True}, [0]),
        ("[gMASK] <sop> $A", {}, [3, 4]),
        ("[gMASK] <sop> $A </s>", {}, [3, 4]),
    ],
)
def test_prompts_and_documents_begin_alike_and_end_with_their_own_token(
    single: str, settings: dict[str, Any], begins: list[int], checkpoint: Path, tmp_path: Path
) -> None:
    made = word_tokenizer(DISTILL, single, special=GLM)
    before = tokenizer_digest(made)
    tokenizer = stored(tmp_path / "model", checkpoint, made, **settings)
    own = tokenizer("hi ho", add_special_tokens=False)["input_ids"]
    assert encode(tokenizer, ["hi ho"]) == [begins + own]
    assert tokenizer("hi ho")["input_ids"] == begins + own
    # whoever writes the beginning, it stands there once
    text = "".join(tokenizer.convert_ids_to_tokens(begins)) + "hi ho"
    assert encode(tokenizer, [text]) == [begins + own]
    (chat,) = encode(tokenizer, [render_chat(tokenizer, "hi")])
    assert chat.count(0) == 1  # this template writes it
    (again,) = encode_prompts(tokenizer, ["hi"])
    assert again[-1] == own[0]
    if begins:
        assert begin_ids(tokenizer) == tuple(begins)
        documents = [Document(each) for each in FIVE]
        packed = pack(documents, tokenizer, 5, {"train": 5})
        row = packed.splits["train"].tokens.ravel().tolist()
        assert row[: len(begins)] == begins
    # a tokenizer that is right already stays as it is, to the digest
    said = settings.get("add_bos_token", 0 in begins)
    right = "</s>" not in single and said == ("<s>" in single)
    assert (tokenizer_digest(tokenizer) == before) == right


def test_a_prompt_that_ends_with_the_eos_is_refused() -> None:
    tokenizer = word_tokenizer()
    assert encode(tokenizer, ["hi</s>"]) == [[0, 3, 1]]
    with pytest.raises(InvalidValue, match="</s>"):
        encode_prompts(tokenizer, ["ho", "hi</s>"])
    # one token begins and ends texts in some families
    both = word_tokenizer(bos_token="</s>", single="</s> $A")
    assert encode_prompts(both, ["</s>", "hi"]) == [[1], [1, 3]]


@pytest.mark.parametrize(
    ("pre", "add_bos", "begins"),
    [
        ("llama-bpe", None, True),
        ("tekken", None, True),
        ("qwen2", None, False),
        ("llama-bpe", False, False),
        ("qwen2", True, True),
    ],
)
def test_a_gguf_file_begins_texts_as_llama_cpp_does(
    pre: str, add_bos: bool | None, begins: bool, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "model.gguf", quantised=False, blocks=1, pre=pre, add_bos=add_bos)
    tokenizer = load_tokenizer(ModelSpec(str(file)), tmp_path / "cache")
    bos = TOKENS.index(BEGIN)
    (ids,) = encode(tokenizer, ["once upon"])
    assert (ids[0] == bos) == begins
    assert ids.count(bos) == begins
    assert tokenizer.backend_tokenizer.model.ignore_merges == (pre != "qwen2")


def test_a_class_is_kept_where_a_file_leaves_rules_to_their_defaults(tmp_path: Path) -> None:
    vocabulary = {each: i for i, each in enumerate(TOKENS)}
    GPT2Tokenizer(vocab=vocabulary, merges=[], bos_token=BEGIN, eos_token=BEGIN).save_pretrained(tmp_path)
    GPT2Config().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    rules = json.loads(file.read_text())
    assert rules["pre_tokenizer"].pop("use_regex") is True
    file.write_text(json.dumps(rules))
    assert type(load_tokenizer(ModelSpec(str(tmp_path)))) is GPT2Tokenizer
    # and another rule is followed, whatever the class
    rules["pre_tokenizer"]["use_regex"] = False
    file.write_text(json.dumps(rules))
    assert type(load_tokenizer(ModelSpec(str(tmp_path)))) is not GPT2Tokenizer


def test_a_tokenizer_whose_rules_are_code_is_refused_where_it_must_change(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path)
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(InvalidValue, match="ByT5Tokenizer"):
        load_tokenizer(ModelSpec(str(tmp_path)))
    # and taken where it is right already
    set_special_ends(CodeTokenizer(), None, "model")


class CodeTokenizer:
    """A tokenizer in Python code that writes nothing around texts."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:  # noqa: ARG002
        return {"input_ids": list(text.encode())}
