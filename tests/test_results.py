"""The committed outcome on a real pair: its tables are of its data, and it names no place of the machine."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lrt.evaluation.directions import RESAMPLED
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.statistics import ratio_estimate, ratio_over_refits
from lrt.evaluation.study_io import read_study
from lrt.report.page import markdown
from lrt.report.plain import to_json

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "docs" / "results").glob("*/results.json"))


def test_there_is_one() -> None:
    assert RESULTS


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.parent.name)
def test_tables_are_made_of_the_data(file: Path) -> None:
    text = file.read_text()
    record = json.loads(text)
    assert to_json(record).decode() == text
    assert markdown(record) == file.with_name("report.md").read_text()
    assert record["split"] == "test"
    for behaviour in record["behaviours"]:
        # shares of a native effect that is none are not told, but of one that its nulls have too
        told = behaviour["steers"] or "no effect of its own" in behaviour["note"]
        assert (set(behaviour["nulls"]) >= {"random", "shuffled", "bias"}) is told
        assert (behaviour["ratio"] is not None) is behaviour["steers"]
    # relative paths alone: a reader has no such folders
    assert not re.search(r"(?<![\w.:/])/(root|home|tmp|work|mnt)\b", text)


RAW = sorted((ROOT / "docs" / "results").glob("*/measurements/*.jsonl.gz"))


@pytest.mark.parametrize("file", RAW, ids=lambda file: f"{file.parent.parent.name}-{file.name}")
def test_figures_follow_from_the_raw_rows(file: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(gzip.decompress(file.read_bytes()))
    found = read_study(tmp_path / "rows.jsonl")
    told = json.loads((file.parent.parent / "results.json").read_text())
    (told,) = (b for b in told["behaviours"] if b["name"] == found.behaviour)
    record, at = ScoreTable(found.measurements, found.split), found.choice.strength
    assert (told["layer"], told["strength"], told["items"]) == (found.choice.layer, at, len(record.items))
    none, native, ours = (
        record.column(c, at if c != "none" else 0) for c in ("none", "native", "transferred")
    )
    assert none is not None and native is not None and ours is not None  # noqa: PT018
    means = [float(column.mean()) for column in (none, native, ours)]
    assert means == pytest.approx([told["unsteered"], told["native"], told["transferred"]])
    for name, share in told["nulls"].items():
        draws = [row.mean() - none.mean() for row in record.draws(name, at)]
        assert np.abs(np.mean(np.abs(draws)) / (native - none).mean()) == pytest.approx(share)
    harm = {(d.condition, d.strength, d.draw): d.relative for d in found.damages if d.split == found.split}
    for name in ("native", "transferred"):
        assert harm[name, at, 0] == pytest.approx(told["damage"][name]["relative"])
    if matched := told["matched_damage"]:
        strengths = sorted({s for name, s, _ in harm if name == "transferred" and s >= 0} | {0.0})
        moved = []
        for name, s in (("transferred", matched["strength"]), ("native", matched["native_strength"])):
            curve = [harm.get((name, each, 0), 0.0) for each in strengths]
            assert np.interp(s, strengths, curve) == pytest.approx(matched["damage"])
            columns = [record.column(name if each else "none", each) for each in strengths]
            moved.append(np.interp(s, strengths, [c.mean() for c in columns]) - none.mean())
        assert moved[0] / moved[1] == pytest.approx(matched["ratio"])
    if shown := told.get("propensity"):
        for strength, r in zip(shown["strengths"], shown["paper_r"], strict=True):
            pair = [record.column(c if strength else "none", strength) for c in ("transferred", "native")]
            assert r == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-6)
    if told["ratio"] is None:
        return
    change, native_change, keys = ours - none, native - none, record.item_keys
    ratio = ratio_estimate(change, native_change, keys=keys)
    assert ratio is not None
    assert [ratio.value, *ratio.to_list()] == pytest.approx([told["ratio"], *told["ratio_ci"]])
    refits = [np.array(record.draws(name, at)) - none for name in RESAMPLED if record.draws(name, at)]
    assert bool(refits) is (told["ratio_ci_map"] is not None)
    if refits:
        wider = ratio_over_refits(change, native_change, (refits[0], refits[1]), keys=keys)
        assert wider is not None
        assert wider.to_list() == pytest.approx(told["ratio_ci_map"])
