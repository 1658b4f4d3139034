"""Every causal family that transformers builds from a config, against plain hooks and plain passes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from every_family import build
from model_families import SEQUENCES, Add, hooks_in_force
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lrt.models import (
    FamilyNotSupported,
    LanguageModel,
    ModelSpec,
    NoBlocks,
    compute_prefix,
    generate,
    load,
    loading,
    pad,
    tail_logits,
)
from lrt.models.capabilities import check_family

SEVERAL_STREAMS = "has several residual streams"
REFUSED = {
    "cpmant": "puts tokens of its own before the text",
    "deepseek_v4": SEVERAL_STREAMS,
    "gemma3n_text": SEVERAL_STREAMS,
    "hrm_text": "runs two lists of blocks in a loop",
    "hy_v4": SEVERAL_STREAMS,
    "longcat_flash": "counts two layers for each block",
    "mllama": "has blocks that only run for an image",
    "prophetnet": "predicts several tokens at once, in streams of their own",
    "qwen4_exp": SEVERAL_STREAMS,
    "qwen4_exp_text": SEVERAL_STREAMS,
    "reformer": "pads texts by itself",
    "xlm": "has no modules that are blocks",
    "xlnet": "is not batch first, and not causal",
}
NOT_BUILT = {
    "blt": "has parts whose sizes no config shrinks",
    "dbrx": "cannot be built from a config with this transformers",
    "dots3_note": "ties its sizes by rules for each layer",
    "dots3_note_text": "ties its sizes by rules for each layer",
    "gemma3n": "needs the package timm",
    "gemma4_assistant": "has no keys and values of its own",
    "gemma4_unified_assistant": "has no keys and values of its own",
    "git": "has an image encoder whose sizes no config shrinks",
    "musicgen": "is no text model",
    "musicgen_melody": "is no text model",
    "phi4_multimodal": "has encoders whose sizes no config shrinks",
}
# learned positions that follow the column, or states that padding enters
BY_LENGTH = {
    *("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "camembert", "data2vec-text", "marian"),
    *("mbart", "mvp", "pegasus", "plbart", "recurrent_gemma", "roberta", "roberta-prelayernorm", "rwkv"),
    *("trocr", "whisper", "xlm-roberta", "xlm-roberta-xl", "xlstm", "xmod"),
}
# caches of their own kind, or none
WITHOUT_CACHE = {*BY_LENGTH, "gemma4_text", "minimax", "moshi", "openai-gpt", "zaya"}
# the router's state, or keys and values of lower blocks, is read above
WHOLE_PASSES = {"gemma4_text", "zaya"}

FEW = ["gemma4_text", "jamba", "lfm2", "mamba", "qwen3_5_text", "roberta", "rwkv"]
OTHERS = sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - {*FEW})
# keys that are shared, layer types without a setter, a number of blocks that scales the residual
CUT = ["gemma4_text", "mamba", "minicpm3"]
LAYER, NEW = 1, 3
ROWS = torch.tensor([2, 0, 1, 0])
STRENGTHS = torch.tensor([1.0, 0.0, -1.0, 2.0])
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


def plain(lm: LanguageModel, text: list[int], shift: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's states [t, d] of a text and the last logits [V], with a hook that adds `shift`."""
    states: list[Tensor] = []

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output if isinstance(output, Tensor) else output[0]
        states.append(hidden[0])
        return hidden + shift if isinstance(output, Tensor) else type(output)((hidden + shift, *output[1:]))

    handle = lm.blocks[LAYER].register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = lm.model(torch.tensor([text]), use_cache=False).logits
    finally:
        handle.remove()
    return states[0], logits[0, -1]


def check(family: str) -> LanguageModel | None:
    """The model, after it was found right; None for one that is refused."""
    try:
        model = build(family)
    except Exception:
        if family in NOT_BUILT:
            return None
        raise
    assert family not in NOT_BUILT
    try:
        lm = LanguageModel(ModelSpec(f"tiny/{family}"), model)
        check_family(lm)
    except (FamilyNotSupported, NoBlocks):
        if family in REFUSED:
            return None
        raise
    assert family not in REFUSED
    tokens, mask = pad(SEQUENCES)
    vector = 3 * torch.randn(lm.width, generator=torch.Generator().manual_seed(1))
    edit = Add(LAYER, vector, STRENGTHS)
    prefix = compute_prefix(lm, tokens, mask, LAYER)
    for row, text in enumerate(SEQUENCES):
        states, _ = plain(lm, text, torch.zeros(lm.width))
        torch.testing.assert_close(prefix.hidden[row, -len(text) :], states, **CLOSE)
    tail = tail_logits(lm, prefix, ROWS, edit)[:, 0]
    for max_rows in (None, 2):
        new = generate(lm, prefix, ROWS, edit, NEW, max_rows=max_rows)
        for row, item in enumerate(ROWS.tolist()):
            text = list(SEQUENCES[item])
            for step in range(NEW):
                _, logits = plain(lm, text, STRENGTHS[row] * vector)
                if step == 0:
                    torch.testing.assert_close(tail[row], logits, **CLOSE)
                text.append(int(logits.argmax()))
            assert new[row].tolist() == text[-NEW:]
    assert hooks_in_force(lm) == 0
    # how: slower ways only where they are needed
    assert lm.hides_padding == (family not in BY_LENGTH)
    assert prefix.decodes == (family not in WITHOUT_CACHE)
    assert prefix.resumes == (family not in WHOLE_PASSES)
    return lm


@pytest.mark.parametrize("family", FEW)
def test_families_of_each_kind_give_the_numbers_of_plain_passes(family: str) -> None:
    assert check(family) is not None


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_every_other_family_gives_the_numbers_of_plain_passes_or_is_refused(family: str) -> None:
    assert (check(family) is None) == (family in REFUSED or family in NOT_BUILT)


@pytest.mark.parametrize(
    "family",
    [
        *CUT,
        *(pytest.param(family, marks=pytest.mark.slow) for family in sorted({*FEW, *OTHERS} - {*CUT})),
    ],
)
def test_the_first_blocks_alone_give_the_same_states(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family in REFUSED or family in NOT_BUILT or family == "emu3":  # its saved config is of another class
        return
    build(family).save_pretrained(tmp_path)
    monkeypatch.setattr(loading, "load_tokenizer", lambda *_: None)
    spec = ModelSpec(str(tmp_path), device="cpu")
    whole, shallow = load(spec), load(spec, blocks=2)
    assert (len(shallow.blocks), shallow.depth) == (2, whole.depth)
    text = torch.tensor([SEQUENCES[0]])
    states, expected = (lm.hidden_states(text, [0, 1]) for lm in (shallow, whole))
    assert all(torch.equal(states[layer], expected[layer]) for layer in (0, 1))
