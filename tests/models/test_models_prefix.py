from collections import Counter
from dataclasses import replace

import pytest
import torch
from model_families import ALL, DEPTH, FEW, SEQUENCES, Add, hooks_in_force, tiny

from lrt.errors import InvalidValue
from lrt.models import (
    NonFiniteLogits,
    Prefix,
    RowwiseEdit,
    capture,
    compute_prefix,
    generate,
    pad,
    steer,
    tail_logits,
)

ROWS = torch.tensor([0, 1, 2, 0, 1])
STRENGTHS = (0.0, 1.0, 2.0, -1.0, 0.5)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize(
    ("family", "side", "layers"),
    [
        *((family, "left", (2,)) for family in ALL),
        *((family, "left", (0, DEPTH - 1)) for family in FEW),
        *((family, "right", (0, 2, DEPTH - 1)) for family in FEW),
    ],
)
def test_the_tail_gives_the_numbers_of_the_whole_steered_pass(
    lm_of, add, family: str, side: str, layers: tuple[int, ...]
) -> None:
    lm = lm_of(family)
    tokens, mask = pad(SEQUENCES, side)
    kept = mask[ROWS].bool()
    for layer in layers:
        edit = add(layer, *STRENGTHS, start=1)
        prefix = compute_prefix(lm, tokens, mask, layer, cache=False)
        tail = tail_logits(lm, prefix, ROWS, edit, keep=None)
        whole = lm.logits(tokens[ROWS], mask[ROWS], [edit])
        torch.testing.assert_close(tail[kept], whole[kept], **CLOSE)
        # and each row is what it would be alone, without padding
        last = tail_logits(lm, prefix, ROWS, edit)
        for row, item in enumerate(ROWS):
            alone = lm.logits(torch.tensor([SEQUENCES[item]]), None, [edit.take(slice(row, row + 1))], "last")
            torch.testing.assert_close(last[row], alone[0], **CLOSE)
        # rows of one item at different strengths do differ
        assert not torch.allclose(last[0], last[3], atol=1e-2)
    assert hooks_in_force(lm) == 0


@pytest.mark.parametrize(
    ("family", "layers"), [(family, (0, 2) if family in FEW else (2,)) for family in ALL]
)
def test_cached_generation_equals_whole_steered_passes(
    lm_of, add, family: str, layers: tuple[int, ...]
) -> None:
    lm = lm_of(family)
    tokens, mask = pad(SEQUENCES, "left")
    top = DEPTH - 1
    for layer in layers:
        edit = add(layer, *STRENGTHS, start=2)
        prefix = compute_prefix(lm, tokens, mask, layer)
        with capture(lm, [top]) as found:
            new = generate(lm, prefix, ROWS, edit, 6)
        for row, item in enumerate(ROWS):
            text = list(SEQUENCES[item])
            one = [edit.take(slice(row, row + 1))]
            for _ in range(6):
                text.append(int(lm.logits(torch.tensor([text]), None, one, "last").argmax()))
            assert new[row].tolist() == text[-6:]
            # Tokens alone would hide small errors: the state of the last decoding step too.
            with steer(lm, one):
                whole = lm.hidden_states(torch.tensor([text[:-1]]), [top])[top]
            torch.testing.assert_close(found[top][row, 0], whole[0, -1], **CLOSE)
        assert not torch.allclose(found[top][0], found[top][3], atol=1e-2)  # strength matters
    assert hooks_in_force(lm) == 0


@pytest.mark.parametrize("family", FEW)
def test_blocks_above_are_edited_too(lm_of, add, family: str) -> None:
    lm = lm_of(family)
    tokens, mask = pad(SEQUENCES, "left")
    above = (2, DEPTH - 1)
    edit = add(1, *STRENGTHS)
    every = [edit, *(replace(edit, layer=layer) for layer in above)]
    prefix = compute_prefix(lm, tokens, mask, 1)
    whole = lm.logits(tokens[ROWS], mask[ROWS], every, "last")
    for max_rows in (None, 2):
        tail = tail_logits(lm, prefix, ROWS, edit, max_rows=max_rows, above=above)
        torch.testing.assert_close(tail, whole, **CLOSE)
    assert not torch.allclose(tail, tail_logits(lm, prefix, ROWS, edit), atol=1e-2)
    new = generate(lm, prefix, ROWS, edit, 5, above=above, max_rows=3)
    with steer(lm, every):
        own = lm.model.generate(
            tokens[ROWS], attention_mask=mask[ROWS], max_new_tokens=5, do_sample=False, eos_token_id=None
        )
    assert new.tolist() == own[:, tokens.shape[1] :].tolist()
    assert hooks_in_force(lm) == 0
    for run in (
        lambda: tail_logits(lm, prefix, ROWS, edit, above=(1, 2)),
        lambda: generate(lm, prefix, ROWS, edit, 5, above=(0,)),
    ):
        with pytest.raises(ValueError, match="above="):
            run()


@pytest.mark.parametrize("family", ALL)
def test_cached_generation_equals_transformers_own_under_steer(lm_of, add, family: str) -> None:
    lm = lm_of(family)
    tokens, mask = pad(SEQUENCES, "left")
    edit = add(DEPTH - 1, *STRENGTHS)
    new = generate(lm, compute_prefix(lm, tokens, mask, DEPTH - 1), ROWS, edit, 6)
    with steer(lm, [edit]):
        own = lm.model.generate(
            tokens[ROWS],
            attention_mask=mask[ROWS],
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
        )
    assert new.tolist() == own[:, -6:].tolist()


@pytest.mark.parametrize("family", FEW)
def test_a_prefix_serves_any_number_of_runs(lm_of, add, family: str) -> None:
    """The cache inside is copied, not grown, by generation."""
    lm = lm_of(family)
    prefix = compute_prefix(lm, *pad(SEQUENCES), 1)
    edit = add(1, *STRENGTHS)
    hidden = prefix.hidden.clone()
    runs = [generate(lm, prefix, ROWS, edit, 4) for _ in range(2)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(prefix.hidden, hidden)
    assert prefix.cache.get_seq_length() == prefix.tokens.shape[1]


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("max_rows", [1, 2, 5, 99])
def test_cutting_the_batch_changes_nothing(lm_of, add, family: str, max_rows: int) -> None:
    lm = lm_of(family)
    prefix = compute_prefix(lm, *pad(SEQUENCES), 1)
    edit = add(1, *STRENGTHS)
    assert isinstance(edit, RowwiseEdit)
    by_row = torch.tensor([[6, 5], [6, 4], [6, 5], [3, 6], [6, 6]])
    for keep in ("last", None, by_row):
        torch.testing.assert_close(
            tail_logits(lm, prefix, ROWS, edit, keep, max_rows)[:, -1],
            tail_logits(lm, prefix, ROWS, edit, keep)[:, -1],
            **CLOSE,
        )
    cut = generate(lm, prefix, ROWS, edit, 4, max_rows=max_rows)
    assert torch.equal(cut, generate(lm, prefix, ROWS, edit, 4))


def test_an_edit_that_cannot_be_cut_is_refused_where_it_would_have_to_be(lm_of) -> None:
    lm = lm_of("llama")
    prefix = compute_prefix(lm, *pad(SEQUENCES), 1)
    strengths = torch.tensor(STRENGTHS)

    def edit(hidden, _positions):
        return hidden * strengths[:, None, None]

    assert tail_logits(lm, prefix, ROWS, edit, max_rows=5).shape[0] == 5
    with pytest.raises(ValueError, match=r"max_rows=2.*`take`"):
        tail_logits(lm, prefix, ROWS, edit, max_rows=2)
    # an edit for five rows on four is no accident that broadcasting may hide
    with pytest.raises((ValueError, RuntimeError)):
        tail_logits(lm, prefix, ROWS[:4], edit)
    with pytest.raises(ValueError, match="shape and dtype"):
        tail_logits(lm, prefix, ROWS[:1], edit)
    with pytest.raises(ValueError, match="max_rows=0"):
        tail_logits(lm, prefix, ROWS, edit, max_rows=0)


@pytest.mark.parametrize("family", FEW)
def test_only_the_tail_is_run(lm_of, add, family: str) -> None:
    """By the leaves of each block: a pass-through block is called but computes nothing."""
    lm = lm_of(family)
    prefix = compute_prefix(lm, *pad(SEQUENCES), 1, cache=False)
    ran: Counter[int] = Counter()
    handles = [
        child.register_forward_pre_hook(lambda *_, i=i: ran.update([i]))
        for i, block in enumerate(lm.blocks)
        for child in block.children()
    ]
    try:
        tail_logits(lm, prefix, ROWS, add(1, *STRENGTHS))
    finally:
        for handle in handles:
            handle.remove()
    assert set(ran) == {2, 3}


@pytest.mark.parametrize("family", FEW)
def test_a_state_from_elsewhere_can_be_run_on(lm_of, family: str) -> None:
    """Functional fidelity: the tail of one model on the states of another text."""
    lm = lm_of(family)
    here, there = torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9, 10]])
    foreign = lm.hidden_states(there, [1])[1]
    made = Prefix(here, torch.ones_like(here), 1, foreign)
    logits = tail_logits(lm, made, torch.tensor([0]), lambda h, _: h, keep=None)
    torch.testing.assert_close(logits, lm.logits(there), **CLOSE)


def test_positions_that_the_edit_sees_are_absolute(lm_of) -> None:
    lm = lm_of("llama")
    seen: list[list[list[int]]] = []

    def edit(hidden, positions):
        seen.append(positions.tolist())
        return hidden

    prefix = compute_prefix(lm, *pad([[5, 6, 7], [8]]), 1)
    generate(lm, prefix, torch.tensor([1, 0]), edit, 3)
    assert seen == [[[-1, -1, 0], [0, 1, 2]], [[1], [3]], [[2], [4]]]


def test_rows_that_ended_are_filled_up_and_the_others_go_on(lm_of, add) -> None:
    lm = lm_of("llama")
    prefix = compute_prefix(lm, *pad(SEQUENCES), 2)
    edit = add(2, *STRENGTHS)
    free = generate(lm, prefix, ROWS, edit, 8)
    # Take for end of text what row 4 says at its third step.
    eos = int(free[4, 2])
    bounded = generate(lm, prefix, ROWS, edit, 8, eos_ids=(eos, 10_000))
    ended = 0
    for row in range(len(ROWS)):
        free_tokens = free[row].tolist()
        stop = free_tokens.index(eos) + 1 if eos in free_tokens else 8
        ended += stop < 8
        assert bounded[row].tolist() == free_tokens[:stop] + [eos] * (8 - stop)
    assert 0 < ended < len(ROWS)
    # where every row has ended, no further pass is made
    calls: list[int] = []
    one = torch.tensor([1])
    last = generate(lm, prefix, one, edit.take(slice(4, 5)), 8, (eos,), progress=calls.append)
    assert calls == [1] * (free[4].tolist().index(eos) + 1)
    assert last[0].tolist() == bounded[4].tolist()


def test_without_ends_of_text_generation_runs_its_length(lm_of, add) -> None:
    lm = lm_of("llama")
    prefix = compute_prefix(lm, torch.tensor([SEQUENCES[0]]), None, 2)
    assert generate(lm, prefix, torch.tensor([0]), add(2, 0.0), 5).shape == (1, 5)


def test_generation_refuses_what_it_cannot_do(lm_of, add) -> None:
    lm = lm_of("llama")
    edit = add(1, *STRENGTHS)
    with pytest.raises(ValueError, match="cache=True"):
        generate(lm, compute_prefix(lm, *pad(SEQUENCES), 1, cache=False), ROWS, edit, 3)
    prefix = compute_prefix(lm, *pad(SEQUENCES, "right"), 1)
    with pytest.raises(ValueError, match="padded on the left"):
        generate(lm, prefix, ROWS, edit, 3)
    prefix = compute_prefix(lm, *pad(SEQUENCES), 1)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        generate(lm, prefix, ROWS, edit, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 3], r"items 0\.\.2.*0\.\.3"),
        ([-1], r"-1\.\.-1"),
        ([], "non-empty"),
        ([[0]], r"\[1, 1\]"),
    ],
)
def test_rows_that_name_no_item_are_refused(lm_of, add, rows, message: str) -> None:
    lm = lm_of("llama")
    prefix = compute_prefix(lm, *pad(SEQUENCES), 1, cache=False)
    with pytest.raises(ValueError, match=message):
        tail_logits(lm, prefix, torch.tensor(rows), add(1, *STRENGTHS))


def test_a_prefix_needs_a_layer_and_a_mask() -> None:
    lm = tiny("llama")
    tokens, mask = pad(SEQUENCES)
    with pytest.raises(InvalidValue):
        compute_prefix(lm, tokens, mask, DEPTH)
    with pytest.raises(ValueError, match="one run of ones"):
        compute_prefix(lm, tokens, torch.zeros_like(mask), 1)


@pytest.mark.parametrize("strength", [1e38, 1e40])
def test_states_that_overflow_are_an_error_and_no_tokens(lm_of, add, strength: float) -> None:
    lm = lm_of("llama")
    prefix = compute_prefix(lm, *pad(SEQUENCES), 1)
    edit = add(1, 0.0, strength, 0.0, 0.0, 0.0)
    with pytest.raises(NonFiniteLogits):
        tail_logits(lm, prefix, ROWS, edit)
    with pytest.raises(NonFiniteLogits):
        generate(lm, prefix, ROWS, edit, 2)
    with pytest.raises(NonFiniteLogits):
        lm.logits(prefix.tokens[ROWS], prefix.mask[ROWS], [edit])


def test_the_lower_blocks_come_back_after_an_exception(lm_of) -> None:
    lm = lm_of("llama")
    prefix = compute_prefix(lm, *pad(SEQUENCES), 1)
    before = lm.logits(*pad(SEQUENCES))

    with pytest.raises(ValueError, match="columns"):
        tail_logits(lm, prefix, ROWS, lambda h, _: h, keep=torch.tensor([99]))
    broken = replace(prefix, tokens=prefix.tokens + 10_000)
    with pytest.raises(IndexError):
        tail_logits(lm, broken, ROWS, lambda h, _: h)
    assert hooks_in_force(lm) == 0
    assert torch.equal(lm.logits(*pad(SEQUENCES)), before)


def test_a_sliding_window_does_bite() -> None:
    """The control for the parity tests above: Gemma 2's short windows change the numbers."""
    lm = tiny("gemma2")
    tokens = torch.tensor([SEQUENCES[0]])
    short = lm.logits(tokens, keep="last")
    for block in lm.blocks:
        block.self_attn.sliding_window = None
    lm.text_config.sliding_window = 64
    assert not torch.allclose(short, lm.logits(tokens, keep="last"), atol=1e-3)


def test_a_forward_that_another_library_put_in_place_is_given_back() -> None:
    lm = tiny("llama")
    block = lm.blocks[0]
    theirs = block.forward
    block.forward = lambda *args, **kwargs: theirs(*args, **kwargs)
    placed = block.forward
    prefix = compute_prefix(lm, *pad(SEQUENCES), 1)
    edit = Add(1, torch.zeros(lm.width), torch.tensor(STRENGTHS))
    tail_logits(lm, prefix, ROWS, edit)
    assert block.forward is placed
    assert "forward" not in vars(lm.blocks[1])
