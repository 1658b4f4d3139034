import torch
from hypothesis import given
from hypothesis import strategies as st
from lrt.runtime.rows import shared_ids

IDS = st.integers(0, 2**63 - 1)


@given(st.lists(IDS, max_size=20), st.dictionaries(IDS, IDS, max_size=8))
def test_kin_have_the_id_that_they_share_and_others_their_own(others: list[int], kin: dict[int, int]) -> None:
    documents = [*others, *kin, *others]
    found = shared_ids(torch.tensor(documents, dtype=torch.int64), kin)
    assert found.tolist() == [kin.get(document, document) for document in documents]
