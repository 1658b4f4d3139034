import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uploads import Uploads, states_elsewhere

from lrt.models import LanguageModel
from lrt.models.hooks import Edit, Intervention, RowwiseEdit, capture, steer
from lrt.steering import Ablation, RowwiseAblation, SteeringVector

WIDTH = 32


def vector() -> SteeringVector:
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    return SteeringVector(7 * direction, 1, "tiny", 4.0, "x")


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 4),
    length=st.integers(1, 5),
    fraction=st.floats(-1, 2),
    scale=st.floats(0.01, 100),
    seed=st.integers(0, 99),
)
def test_a_fraction_of_the_component_is_removed_and_nothing_else(
    rows: int, length: int, fraction: float, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, length, WIDTH, generator=generator)
    directions = scale * torch.randn(rows, WIDTH, generator=generator)
    positions = torch.zeros(rows, length)
    before = hidden.clone()
    edit = RowwiseAblation(directions, torch.full((rows,), fraction))
    moved = edit(hidden, positions)
    assert torch.equal(hidden, before)
    units = torch.nn.functional.normalize(directions, dim=1)[:, None, :]
    along, left = ((x * units).sum(-1) for x in (hidden, moved))
    torch.testing.assert_close(left, (1 - fraction) * along, rtol=1e-4, atol=1e-4)
    rest = [x - (x * units).sum(-1, keepdim=True) * units for x in (hidden, moved)]
    torch.testing.assert_close(rest[1], rest[0], rtol=1e-4, atol=1e-4)
    # a projection: its sign does not count, and twice is once
    once = RowwiseAblation(directions, torch.ones(rows))
    twice = once(once(hidden, positions), positions)
    torch.testing.assert_close(twice, once(hidden, positions), rtol=1e-4, atol=1e-4)
    turned = RowwiseAblation(-directions, torch.full((rows,), fraction))(hidden, positions)
    torch.testing.assert_close(turned, moved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_and_rows_without_direction_or_fraction_keep_their_bits(dtype: torch.dtype) -> None:
    hidden = torch.randn(4, 2, WIDTH).to(dtype)
    hidden[:, 0, 0] = -0.0
    directions = torch.randn(4, WIDTH)
    directions[0] = 0
    fractions = torch.tensor([1.0, 0.0, 1.0, 1.0])
    positions = torch.tensor([[0, 1], [0, 1], [-1, 0], [-1, -1]])
    moved = RowwiseAblation(directions, fractions)(hidden, positions)
    assert moved.dtype == dtype
    untouched = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    as_bits = torch.int32 if dtype == torch.float32 else torch.int16
    same = (moved.view(as_bits) == hidden.view(as_bits)).all(-1)
    assert torch.equal(same, untouched)


def test_a_cut_batch_takes_its_own_rows() -> None:
    whole = RowwiseAblation(torch.randn(4, 3), torch.arange(4.0))
    assert isinstance(whole, RowwiseEdit)
    hidden, positions = torch.randn(4, 2, 3), torch.zeros(4, 2)
    part = whole.take(slice(1, 3))
    assert torch.equal(part(hidden[1:3], positions[1:3]), whole(hidden, positions)[1:3])


def test_ablated_from_every_block_the_direction_is_gone(story_lm: LanguageModel) -> None:
    edits = [Ablation(vector(), layer) for layer in range(story_lm.depth)]
    assert isinstance(edits[0], Intervention)
    tokens = torch.randint(4, 900, (3, 7), generator=torch.Generator().manual_seed(0))
    layers = list(range(story_lm.depth))
    unit = vector().unit_direction
    with capture(story_lm, layers) as plain:
        story_lm.run(tokens)
    with steer(story_lm, edits), capture(story_lm, layers) as ablated:
        story_lm.run(tokens)
    for layer in layers:
        assert (ablated[layer] @ unit).abs().max() < 1e-4
        assert (plain[layer] @ unit).abs().max() > 0.1


@pytest.mark.parametrize(
    "edit", [RowwiseAblation(torch.ones(3, WIDTH), torch.ones(3)), Ablation(vector(), 1, 0.5)]
)
def test_directions_and_fractions_are_uploaded_once(edit: Edit) -> None:
    with Uploads() as uploads:
        for _ in range(4):
            edit(*states_elsewhere(3, WIDTH))
    assert uploads.count == 2
