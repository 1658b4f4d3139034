"""Results as plain data."""

from lrt.report.plain import leaves


def test_leaves_of_nested_mappings_have_paths() -> None:
    nested = {"a": {"b": 1, "c": {"d": [2, 3], "empty": {}}}, 4: None}
    assert dict(leaves(nested)) == {"a.b": 1, "a.c.d": [2, 3], "4": None}
    assert [path for path, _ in leaves(nested, "/")] == ["a/b", "a/c/d", "4"]
