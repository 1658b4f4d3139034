import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt.storage.sealed import Altered, opened, sealed, unsealed

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CONTENTS = st.dictionaries(st.text().filter(lambda key: key != "digest"), PLAIN, max_size=4)


@given(CONTENTS)
def test_what_is_sealed_comes_back(contents: dict[str, object]) -> None:
    assert unsealed(opened(sealed(contents))) == contents
    # sealed again it is the same file
    assert sealed(opened(sealed(contents))) == sealed(contents)


@given(CONTENTS, st.data())
def test_no_byte_can_be_changed_unnoticed(contents: dict[str, object], data: st.DataObject) -> None:
    text = bytearray(sealed(contents).encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = unsealed(opened(bytes(text)))
    except ValueError:
        return
    assert found == contents  # white space, or another spelling of the same


@pytest.mark.parametrize("text", ["", "[1]", "3", "{", '{"a": ' * 100_000, "\x00", '"digest"'])
def test_what_is_no_sealed_file(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        opened(text)


def test_an_entry_that_is_changed_added_or_gone() -> None:
    found = json.loads(sealed({"layer": 3, "model": "m"}))
    for other in (
        {**found, "layer": 4},
        {**found, "more": 1},
        {"layer": 3, "digest": found["digest"]},
        {"layer": 3},
    ):
        with pytest.raises(Altered, match="do not match their digest"):
            unsealed(other)
    with pytest.raises(ValueError, match=r"."):
        sealed({"loss": float("nan")})
