import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrt.models import last_columns, pad, positions_of
from lrt.models.padding import check_mask, equal_length_parts

sequences_of_tokens = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=5)


@given(sequences_of_tokens, st.sampled_from(["left", "right"]))
def test_padding_keeps_every_sequence_and_its_positions(sequences: list[list[int]], side: str) -> None:
    tokens, mask = pad(sequences, side)  # type: ignore[arg-type]
    check_mask(mask, tokens.shape)
    positions = positions_of(mask)
    for row, sequence in enumerate(sequences):
        kept = mask[row].bool()
        assert tokens[row][kept].tolist() == sequence
        assert positions[row][kept].tolist() == list(range(len(sequence)))
        assert (positions[row][~kept] == -1).all()
        assert tokens[row, last_columns(mask)[row]] == sequence[-1]


def test_each_side_pads_where_it_says() -> None:
    assert pad([[1], [2, 3]], "left", fill=9)[0].tolist() == [[9, 1], [2, 3]]
    assert pad([[1], [2, 3]], "right", fill=9)[0].tolist() == [[1, 9], [2, 3]]


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_nothing_cannot_be_padded(sequences: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="empty"):
        pad(sequences)


@pytest.mark.parametrize("row", [[0, 0, 0], [1, 0, 1]])
def test_a_mask_is_one_run_of_ones(row: list[int]) -> None:
    mask = torch.tensor([[1, 1, 0], row])
    with pytest.raises(ValueError, match="row 1"):
        check_mask(mask, mask.shape)


def test_a_mask_has_the_shape_of_its_tokens() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2\].*\[1, 3\]"):
        check_mask(torch.ones(1, 2), torch.Size([1, 3]))


def test_parts_are_runs_of_rows_in_the_same_columns() -> None:
    mask = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 0], [0, 1, 1]])
    assert equal_length_parts(mask) == [
        (slice(0, 2), slice(1, 3)),
        (slice(2, 3), slice(0, 2)),
        (slice(3, 4), slice(1, 3)),
    ]
