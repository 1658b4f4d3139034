"""The committed results of a real pair: tables and figures follow from the data, without absolute paths."""

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


def test_results_are_committed() -> None:
    assert RESULTS


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.parent.name)
def test_tables_follow_from_the_data(file: Path) -> None:
    text = file.read_text()
    record = json.loads(text)
    assert to_json(record).decode() == text
    assert markdown(record) == file.with_name("report.md").read_text()
    assert record["split"] == "test"
    for behaviour in record["behaviours"]:
        # nulls are shares of the native effect: without an effect there are none, unless a null has it too
        has_nulls = behaviour["steers"] or "no effect of its own" in behaviour["note"]
        assert (set(behaviour["nulls"]) >= {"random", "shuffled", "bias"}) is has_nulls
        assert (behaviour["ratio"] is not None) is behaviour["steers"]
    # relative paths only: a reader has no such folders
    assert not re.search(r"(?<![\w.:/])/(root|home|tmp|work|mnt)\b", text)


RAW = sorted((ROOT / "docs" / "results").glob("*/measurements/*.jsonl.gz"))


@pytest.mark.parametrize("file", RAW, ids=lambda file: f"{file.parent.parent.name}-{file.name}")
def test_figures_follow_from_the_raw_rows(file: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(gzip.decompress(file.read_bytes()))
    study = read_study(tmp_path / "rows.jsonl")
    results = json.loads((file.parent.parent / "results.json").read_text())
    (reported,) = (b for b in results["behaviours"] if b["name"] == study.behaviour)
    table, at = ScoreTable(study.measurements, study.split), study.choice.strength
    assert (reported["layer"], reported["strength"], reported["items"]) == (
        study.choice.layer,
        at,
        len(table.items),
    )
    unsteered, native, transferred = (
        table.column(c, at if c != "none" else 0) for c in ("none", "native", "transferred")
    )
    assert unsteered is not None and native is not None and transferred is not None  # noqa: PT018
    means = [float(column.mean()) for column in (unsteered, native, transferred)]
    assert means == pytest.approx([reported["unsteered"], reported["native"], reported["transferred"]])
    for name, share in reported["nulls"].items():
        draws = [row.mean() - unsteered.mean() for row in table.draws(name, at)]
        assert np.abs(np.mean(np.abs(draws)) / (native - unsteered).mean()) == pytest.approx(share)
    damage = {(d.condition, d.strength, d.draw): d.relative for d in study.damages if d.split == study.split}
    for name in ("native", "transferred"):
        assert damage[name, at, 0] == pytest.approx(reported["damage"][name]["relative"])
    if matched := reported["matched_damage"]:
        strengths = sorted({s for name, s, _ in damage if name == "transferred" and s >= 0} | {0.0})
        moved = []
        for name, s in (("transferred", matched["strength"]), ("native", matched["native_strength"])):
            curve = [damage.get((name, each, 0), 0.0) for each in strengths]
            assert np.interp(s, strengths, curve) == pytest.approx(matched["damage"])
            columns = [table.column(name if each else "none", each) for each in strengths]
            moved.append(np.interp(s, strengths, [c.mean() for c in columns]) - unsteered.mean())
        assert moved[0] / moved[1] == pytest.approx(matched["ratio"])
    if shown := reported.get("propensity"):
        for strength, r in zip(shown["strengths"], shown["paper_r"], strict=True):
            pair = [table.column(c if strength else "none", strength) for c in ("transferred", "native")]
            assert r == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-6)
    if reported["ratio"] is None:
        return
    change, native_change, keys = transferred - unsteered, native - unsteered, table.item_keys
    ratio = ratio_estimate(change, native_change, keys=keys)
    assert ratio is not None
    assert [ratio.value, *ratio.to_list()] == pytest.approx([reported["ratio"], *reported["ratio_ci"]])
    refits = [np.array(table.draws(name, at)) - unsteered for name in RESAMPLED if table.draws(name, at)]
    assert bool(refits) is (reported["ratio_ci_map"] is not None)
    if refits:
        wider = ratio_over_refits(change, native_change, (refits[0], refits[1]), keys=keys)
        assert wider is not None
        assert wider.to_list() == pytest.approx(reported["ratio_ci_map"])
