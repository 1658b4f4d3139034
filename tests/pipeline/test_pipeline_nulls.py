"""Refits of other rows, without a run."""

from types import SimpleNamespace
from typing import cast

import torch

from lrt.mapping import ClosedFormSpec, Moments, merge_all, ridge_at
from lrt.pipeline.fit_data import FitData
from lrt.pipeline.nulls import Refit


def test_a_part_without_which_no_map_is_determined_is_skipped() -> None:
    """The map itself stands, so its second interval must not end the run."""
    generator = torch.Generator().manual_seed(0)
    parts = {name: Moments(6, 6) for name in ("stories", "letters", "notes")}
    for moments, rows in zip(parts.values(), (200, 3, 2), strict=True):
        moments.update(*(torch.randn(rows, 6, generator=generator) for _ in "xy"))
    whole = merge_all([*parts.values()])
    data = SimpleNamespace(
        train_moments=whole,
        settings=SimpleNamespace(bias=True),
        reference_ridge=SimpleNamespace(weight=1e-9),
        by_part=parts.items,
    )
    vectors = torch.eye(6, dtype=torch.float64)[:2]
    images = Refit(cast("FitData", data), ClosedFormSpec()).without_parts(vectors)
    assert list(images) == ["letters", "notes"]  # five rows do not span six dimensions
    rest = merge_all([parts["stories"], parts["notes"]])
    expected = ridge_at(rest, 1e-9 * rest.count / whole.count).directions(vectors)
    torch.testing.assert_close(images["letters"], expected, rtol=1e-8, atol=1e-8)
