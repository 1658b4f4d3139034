from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uploads import Uploads, states_elsewhere

from lrt.errors import InvalidValue
from lrt.models import LanguageModel, hooks
from lrt.models.hooks import Edit, Intervention, RowwiseEdit
from lrt.models.prefix import compute_prefix, tail_logits
from lrt.steering import Addition, RowwiseAblation, RowwiseAddition, SteeringVector, steer

WIDTH = 32


def vector(layer: int = 1, residual_norm: float = 4.0) -> SteeringVector:
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    return SteeringVector(direction, layer, "tiny", residual_norm, "x")


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 4),
    length=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_padding_and_zero_rows_keep_their_bits_and_all_else_moves_by_the_offset(
    rows: int, length: int, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, length, WIDTH, generator=generator).to(dtype)
    hidden[0, 0, 0] = -0.0
    offsets = torch.randn(rows, WIDTH, generator=generator)
    offsets[::2] = 0
    positions = torch.randint(-1, 3, (rows, length), generator=generator)
    before = hidden.clone()
    moved = RowwiseAddition(offsets)(hidden, positions)
    assert torch.equal(hidden, before)
    assert moved.dtype == dtype
    for row in range(rows):
        for at in range(length):
            if row % 2 == 0 or positions[row, at] < 0:
                assert (
                    moved[row, at].numpy(force=True).tobytes() == before[row, at].numpy().tobytes()
                    if (dtype == torch.float32)
                    else torch.equal(moved[row, at].view(torch.int16), before[row, at].view(torch.int16))
                )
            else:
                wanted = (before[row, at].float() + offsets[row]).to(dtype)
                assert torch.equal(moved[row, at], wanted)


@pytest.mark.parametrize("shape", [(2, 1), (3, 3), (2, 4), (1, 4), (2,)])
def test_vectors_of_another_width_or_number_are_refused(shape: tuple[int, ...]) -> None:
    hidden, positions = torch.zeros(2, 5, 3), torch.zeros(2, 5)
    for edit in (RowwiseAddition(torch.ones(shape)), RowwiseAblation(torch.ones(shape), torch.ones(2))):
        with pytest.raises(InvalidValue):
            edit(hidden, positions)


def test_a_cut_batch_takes_its_own_rows() -> None:
    offsets = torch.arange(12.0).view(4, 3)
    whole = RowwiseAddition(offsets)
    assert isinstance(whole, RowwiseEdit)
    hidden, positions = torch.zeros(4, 2, 3), torch.zeros(4, 2)
    part = whole.take(slice(1, 3))
    assert torch.equal(part(hidden[1:3], positions[1:3]), whole(hidden, positions)[1:3])


def test_addition_under_steer_is_the_engine(story_lm: LanguageModel) -> None:
    one = vector()
    tokens = torch.randint(4, 900, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    edit = Addition(one, 0.7)
    assert isinstance(edit, Intervention)
    with steer(story_lm, one, 0.7):
        steered = story_lm.logits(tokens, mask, keep="last")
    with hooks.steer(story_lm, [edit]):
        assert torch.equal(story_lm.logits(tokens, mask, keep="last"), steered)
    assert torch.equal(story_lm.logits(tokens, mask, [edit], "last"), steered)
    prefix = compute_prefix(story_lm, tokens, mask, 1, cache=False)
    offsets = (0.7 * one.scaled()).expand(3, -1)
    tail = tail_logits(story_lm, prefix, torch.arange(3), RowwiseAddition(offsets))
    torch.testing.assert_close(tail, steered, rtol=1e-4, atol=1e-4)
    plain = story_lm.logits(tokens, mask, keep="last")
    assert (steered - plain).abs().max() > 0.1
    assert torch.equal(story_lm.logits(tokens, mask, [Addition(one, 0.0)], "last"), plain)


def test_strength_is_in_median_residual_norms() -> None:
    hidden = torch.zeros(1, 1, WIDTH)
    moved = Addition(vector(residual_norm=5.0), 2.0)(hidden, torch.zeros(1, 1))
    assert float(moved.norm()) == pytest.approx(10.0, rel=1e-5)


def test_a_vector_of_another_model_is_refused(story_lm: LanguageModel) -> None:
    with pytest.raises(InvalidValue, match=str(story_lm.width)):
        steer(story_lm, SteeringVector(torch.ones(5), 1, "tiny", 1.0), 0.5)
    with pytest.raises(ValueError, match="9"), steer(story_lm, vector(layer=9), 0.5):
        raise AssertionError


@pytest.mark.parametrize("edit", [RowwiseAddition(torch.ones(3, WIDTH)), Addition(vector(), 0.5)])
def test_offsets_are_uploaded_once_however_often_a_hook_is_called(edit: Edit) -> None:
    with Uploads() as uploads:
        for _ in range(4):
            moved = edit(*states_elsewhere(3, WIDTH))
    assert moved.device.type == "meta"
    assert uploads.count == 1


def test_a_model_on_two_devices_gets_a_copy_on_each() -> None:
    edit = Addition(vector(), 0.5)
    here = torch.zeros(2, 1, WIDTH), torch.zeros(2, 1)
    before = edit(*here)
    edit(*states_elsewhere(2, WIDTH))
    assert torch.equal(edit(*here), before)


@pytest.mark.parametrize("vector", ["a path", torch.ones(32), None])
def test_what_is_no_steering_vector_is_refused(story_lm: LanguageModel, vector: Any) -> None:
    with pytest.raises(InvalidValue, match="SteeringVector"):
        steer(story_lm, vector, 0.5)
