from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_families import ALL, DEPTH, FEW, SEQUENCES, VOCABULARY, WIDTH, hooks_in_force, tiny

from lrt.errors import InvalidValue
from lrt.models import LanguageModel, last_columns, pad


@pytest.mark.parametrize("family", ALL)
def test_the_early_exit_gives_the_same_numbers_as_the_whole_pass(lm_of, family: str) -> None:
    lm = lm_of(family)
    tokens = torch.tensor([SEQUENCES[0]])
    whole = lm.hidden_states(tokens, range(DEPTH))
    for layer in range(DEPTH):
        alone = lm.hidden_states(tokens, [layer])
        assert list(alone) == [layer]
        assert alone[layer].shape == (1, 7, WIDTH)
        assert torch.equal(alone[layer], whole[layer])
    assert hooks_in_force(lm) == 0


@pytest.mark.parametrize("family", FEW)
def test_blocks_above_the_deepest_layer_and_the_head_are_never_run(lm_of, family: str) -> None:
    lm = lm_of(family)
    calls: Counter[str] = Counter()
    parts = {f"block {i}": block for i, block in enumerate(lm.blocks)}
    parts["head"] = lm.model.get_output_embeddings()
    handles = [
        part.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
        for name, part in parts.items()
    ]
    try:
        lm.hidden_states(torch.tensor([[5, 6]]), [0, 1])
    finally:
        for handle in handles:
            handle.remove()
    assert calls == {"block 0": 1, "block 1": 1}


@pytest.mark.parametrize(
    ("family", "side"), [*((family, "left") for family in ALL), *((family, "right") for family in FEW)]
)
def test_padding_does_not_change_states_or_logits(lm_of, family: str, side: str) -> None:
    lm = lm_of(family)
    tokens, mask = pad(SEQUENCES, side)
    states = lm.hidden_states(tokens, [2], mask)[2]
    logits = lm.logits(tokens, mask)
    for row, sequence in enumerate(SEQUENCES):
        alone = torch.tensor([sequence])
        kept = mask[row].bool()
        for padded, single in (
            (states[row][kept], lm.hidden_states(alone, [2])[2][0]),
            (logits[row][kept], lm.logits(alone)[0]),
        ):
            torch.testing.assert_close(padded, single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ALL)
def test_logits_are_the_models_own_at_the_columns_kept(lm_of, family: str) -> None:
    lm = lm_of(family)
    tokens, mask = pad(SEQUENCES, "right")
    whole = lm.logits(tokens, mask)
    assert whole.shape == (3, 7, VOCABULARY)
    inputs = {"attention_mask": mask}
    if family not in ("bloom",):
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        own = lm.model(tokens, **inputs).logits
    kept = mask.bool()
    torch.testing.assert_close(whole[kept], own[kept], rtol=1e-4, atol=1e-4)
    rows = torch.arange(3)
    last = lm.logits(tokens, mask, keep="last")
    torch.testing.assert_close(last[:, 0], whole[rows, last_columns(mask)])
    shared = lm.logits(tokens, mask, keep=torch.tensor([0, 2]))
    torch.testing.assert_close(shared, whole[:, [0, 2]])
    by_row = torch.tensor([[6], [0], [3]])
    torch.testing.assert_close(lm.logits(tokens, mask, keep=by_row)[:, 0], whole[rows, by_row[:, 0]])
    assert hooks_in_force(lm) == 0


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("first", "'first'"),
        (torch.tensor([7]), r"7\.\.7; allowed: 0\.\.6"),
        (torch.tensor([-1]), r"-1\.\.-1"),
        (torch.tensor([[0], [1]]), r"\[2, 1\]; allowed: \[k\] or \[3, k\]"),
    ],
)
def test_columns_that_do_not_fit_are_refused(lm_of, keep, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lm_of("llama").logits(*pad(SEQUENCES), keep=keep)


def test_the_model_is_put_into_evaluation_without_gradient() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2)).train()
    lm = LanguageModel(tiny("gpt2").spec, model)
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(lm.logits(tokens), lm.logits(tokens))  # no dropout
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert not lm.logits(tokens).requires_grad


def test_states_can_train_something_else(lm_of) -> None:
    """They are ordinary detached tensors: inference-mode ones would not go through autograd."""
    weight = torch.zeros(WIDTH, 1, requires_grad=True)
    states = lm_of("llama").hidden_states(torch.tensor([[5, 6]]), [1])[1]
    (states @ weight).sum().backward()
    assert weight.grad is not None


@given(st.integers(0, DEPTH - 1))
def test_a_whole_number_is_that_block(layer: int) -> None:
    assert MODEL.resolve_layer(layer, "layers.source") == layer


@given(st.floats(0, 1, exclude_max=True))
def test_a_fraction_is_a_block_of_that_depth(fraction: float) -> None:
    layer = MODEL.resolve_layer(fraction, "layers.source")
    assert 0 <= layer < DEPTH
    assert layer == min(int(fraction * DEPTH + 1e-9), DEPTH - 1)


def test_every_hundredth_of_a_hundred_blocks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODEL, "depth", 100)
    assert [MODEL.resolve_layer(n / 100, "l") for n in range(100)] == list(range(100))


@pytest.mark.parametrize("bad", [-1, DEPTH, 1.0, -0.1, 2.0, float("nan"), True, "2"])
def test_a_layer_out_of_range_names_the_setting_and_what_is_allowed(bad) -> None:
    with pytest.raises(InvalidValue, match=r"layers\.source"):
        MODEL.resolve_layer(bad, "layers.source")


def test_bad_input_to_a_reading_is_refused() -> None:
    tokens = torch.tensor([[5, 6]])
    with pytest.raises(ValueError, match="`layers` is empty"):
        MODEL.hidden_states(tokens, [])
    with pytest.raises(InvalidValue):
        MODEL.hidden_states(tokens, [0, DEPTH])
    with pytest.raises(ValueError, match="one run of ones"):
        MODEL.hidden_states(tokens, [0], torch.zeros_like(tokens))
    assert f"llama: {DEPTH} blocks x {WIDTH}, torch.float32, cpu" in repr(MODEL)


MODEL = tiny("llama")
