import pytest
import torch

from lrt.activations import RowFilter
from lrt.errors import InvalidValue

POSITIONS = torch.tensor([0, 1, 2, 3, 4, 0])
TOKENS = torch.tensor([7, 5, 6, 7, 5, 5], dtype=torch.int32)
NORMS = {
    "norm.source.1": torch.tensor([900.0, 10.0, 2.0, 1.0, 1.0, 1.0]),
    "norm.target.1": torch.tensor([900.0, 1.0, 1.0, 1.0, 31.0, 1.0]),
}
MEDIANS = {"norm.source.1": 1.0, "norm.target.1": 3.0}


def used(rows: RowFilter) -> list[bool]:
    masks = rows.excluded(NORMS, MEDIANS, POSITIONS, TOKENS).values()
    return (~torch.stack([torch.zeros(6, dtype=torch.bool), *masks]).any(0)).tolist()


def test_massive_in_either_model_is_excluded() -> None:
    only = RowFilter(max_norm_ratio=10.0, first_position=False)
    # 10.0 is ten times the median and stays: the limit is "over"
    assert used(only) == [False, True, True, True, False, True]
    assert used(RowFilter(max_norm_ratio=9.9, first_position=False))[1] is False


def test_first_positions_and_tokens_are_excluded() -> None:
    assert used(RowFilter(max_norm_ratio=None)) == [False, True, True, True, True, False]
    assert used(RowFilter(None, False, (5, 6))) == [True, False, False, True, False, False]
    assert all(used(RowFilter(None, False)))


def test_a_token_is_counted_under_one_reason() -> None:
    reasons = RowFilter(10.0, True, (5,)).excluded(NORMS, MEDIANS, POSITIONS, TOKENS)
    assert {reason: int(mask.sum()) for reason, mask in reasons.items()} == {
        "first position": 2,
        "token": 2,
        "massive": 0,
    }
    every = torch.stack([*reasons.values()])
    assert int(every.sum(0).max()) == 1
    assert (~every.any(0)).tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("ratio", [1.0, -3.0, float("nan")])
def test_a_limit_that_excludes_half_the_tokens_is_invalid(ratio: float) -> None:
    with pytest.raises(InvalidValue, match=r"filter\.max_norm_ratio"):
        RowFilter(max_norm_ratio=ratio)
