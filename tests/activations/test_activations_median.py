import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrt.activations.median import streaming_median


@given(
    st.lists(st.lists(st.floats(0, 2.0**127, width=32), max_size=8).map(torch.tensor), max_size=6).filter(
        lambda chunks: sum(map(len, chunks)) > 0
    )
)
def test_any_chunking_gives_torchs_median(chunks: list[torch.Tensor]) -> None:
    whole = torch.cat([chunk.float() for chunk in chunks])
    assert streaming_median(lambda: chunks) == float(whole.median())


def test_close_values_are_told_apart() -> None:
    values = 1 + torch.arange(1001) * 2**-23  # neighbours in float32: one bucket of upper bits
    assert streaming_median(lambda: [values]) == float(values[500])


def test_no_values() -> None:
    with pytest.raises(ValueError, match="median of no values"):
        streaming_median(lambda: [torch.empty(0)])
