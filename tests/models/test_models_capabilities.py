import copy
from pathlib import Path
from unittest import mock

import pytest
import torch
from model_families import SEQUENCES, tiny
from models import every_family
from models.every_family import build
from transformers import BertConfig

from lrt.models import (
    FamilyNotSupported,
    LanguageModel,
    ModelSpec,
    capabilities,
    compute_prefix,
    generate,
    load,
    loading,
    pad,
)
from lrt.models.capabilities import check_family, decodes, resumes


@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma2"])
def test_usual_families_take_the_fast_way_in_every_dtype(family: str) -> None:
    model = tiny(family).model
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        lm = LanguageModel(ModelSpec("tiny"), copy.deepcopy(model).to(dtype))
        check_family(lm)
        assert lm.hides_padding
        assert resumes(lm, 1)
        assert decodes(lm, 1)


def test_a_model_that_padding_changes_is_known_in_bfloat16_too() -> None:
    lm = LanguageModel(ModelSpec("tiny"), build("rwkv").to(torch.bfloat16))
    assert not lm.hides_padding


def test_loading_runs_three_short_passes() -> None:
    lm = tiny("llama")
    with mock.patch.object(lm, "run", wraps=lm.run) as run:
        check_family(lm)
        assert lm.hides_padding
        assert run.call_count == 3  # the text alone, with more after it, and padded


def test_padding_that_enters_at_an_upper_block_alone_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"num_hidden_layers": 4, "block_types": ["attention", "attention", "recurrent"]}
    monkeypatch.setitem(every_family.MORE, "recurrent_gemma", kinds)
    assert not LanguageModel(ModelSpec("tiny"), build("recurrent_gemma")).hides_padding


def test_an_encoder_is_refused_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    BertConfig(**sizes, num_hidden_layers=2, initializer_range=0.3).save_pretrained(tmp_path)
    monkeypatch.setattr(loading, "load_tokenizer", lambda *_: None)
    with pytest.raises(FamilyNotSupported):
        load(ModelSpec(str(tmp_path), weights="random", device="cpu"))


def test_a_fault_of_ours_and_a_full_device_are_no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama")
    monkeypatch.delattr(capabilities, "put_below")
    with pytest.raises(NameError):
        decodes(lm, 1)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(lm, "run", full)
    for question in (lambda: resumes(lm, 1), lambda: lm.hides_padding, lambda: check_family(lm)):
        with pytest.raises(torch.OutOfMemoryError):
            question()


@pytest.mark.parametrize("family", ["llama", "mamba", "rwkv"])
def test_positions_are_absolute_whatever_the_cache(family: str) -> None:
    lm = LanguageModel(ModelSpec("tiny"), build(family))
    prefix = compute_prefix(lm, *pad([[5, 6, 7], [8]]), 1)
    last: list[list[int]] = []

    def edit(hidden, positions):
        last.append(positions[:, -1].tolist())
        return hidden

    generate(lm, prefix, torch.tensor([1, 0]), edit, 3)
    assert [at for call in last for at in call] == [0, 2, 1, 3, 2, 4]


def test_parts_of_a_batch_have_their_own_rows_of_an_edit(add) -> None:
    lm = LanguageModel(ModelSpec("tiny"), build("rwkv"))
    rows = [SEQUENCES[at] for at in (0, 0, 1, 2)]
    edit = add(1, 0.0, 1.0, 2.0, -1.0)
    for side in ("left", "right"):
        tokens, mask = pad(rows, side)
        every = lm.logits(tokens, mask, [edit])
        last = lm.logits(tokens, mask, [edit], "last")
        states = lm.hidden_states(tokens, [1], mask)[1]
        for row, text in enumerate(rows):
            one = [edit.take(slice(row, row + 1))]
            alone = lm.logits(torch.tensor([text]), None, one)[0]
            torch.testing.assert_close(every[row][mask[row].bool()], alone)
            torch.testing.assert_close(last[row, 0], alone[-1])
            own = lm.hidden_states(torch.tensor([text]), [1])[1][0]
            torch.testing.assert_close(states[row][mask[row].bool()], own)
