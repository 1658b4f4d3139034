import json
from pathlib import Path
from typing import Any

import pytest

from studies.forecast_scoring import by_kind, main, points, table, warnings_summary

ROOT = Path(__file__).parents[2]


def result(*ratios: float | None, scale: float = 5.0) -> dict[str, Any]:
    """Signal to noise that ranks the ratios, and a residual that says nothing."""
    return {
        "behaviours": [
            {
                "name": f"b{number}",
                "ratio": ratio,
                "nulls": {"random": 0.05, "shuffled": 0.1, "bias": 0.9 if ratio == 2.5 else 0.0},
                "forecast": {
                    "signal_to_noise": scale * (ratio or 0.0),
                    "agreement_documents": 0.5 + number % 2,
                    "agreement_parts": None,
                    "residual_on_prompts": (number * 7) % 5,
                    "warning": "too little" if (ratio or 0) < 0.8 else None,
                },
            }
            for number, ratio in enumerate(ratios)
        ]
    }


def test_a_forecast_that_ranks_the_ratios() -> None:
    scored = points([result(0.1, 0.5, 0.85, 0.95, None), result(0.2, 0.4, 0.99)])
    assert len(scored) == 7
    rows = {row[0]: row[1:] for row in table(scored).rows}
    assert rows["signal to noise"][:3] == (7, 4, pytest.approx(1.0))
    assert rows["signal to noise"][3:] == pytest.approx((1.0, 1.0))
    assert rows["residual on prompts"][2] < 0.9
    assert rows["residual on prompts"][3] < 0 < rows["residual on prompts"][4]
    assert "agreement parts" not in rows
    summary = warnings_summary(scored)
    assert "4 of 5" in summary
    assert "0 of 2" in summary


def test_behaviours_of_one_vector_are_drawn_together() -> None:
    shared = result(0.1, 0.5, 0.85, 0.95)
    for behaviour in shared["behaviours"][:2]:
        behaviour["contrast"] = "refusal"
    rows = {row[0]: row[1:] for row in table(points([shared])).rows}
    assert rows["signal to noise"][:3] == (4, 3, 1.0)


def test_thresholds_are_held_against_each_way_of_scoring() -> None:
    both = result(0.1, 0.5, 0.95, 1.0, scale=4.0)  # signal to noise .4, 2, 3.8, 4
    for number, behaviour in enumerate(both["behaviours"]):
        behaviour["kind"] = "choice" if number % 2 else "text"
    assert by_kind(points([both])).rows == (
        ("choice", 2, 2, 2.0, 0, 1, 0),
        ("choice", 2, 2, 5.0, 1, 1, 1),
        ("text", 2, 2, 2.0, 1, 1, 0),
        ("text", 2, 2, 5.0, 1, 1, 1),
    )


def test_a_ratio_that_nulls_reach_too_is_no_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(result(0.2, 0.5, 0.95, 2.5)))
    assert [p["nulls_fail"] for p in points([json.loads(file.read_text())])] == [True, True, True, False]
    assert main([str(file)]) == 0
    out = capsys.readouterr().out
    assert ": b3" in out
    assert "0 of 1" in out


@pytest.mark.slow
def test_the_committed_results_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((ROOT / "docs" / "results").glob("*/results.json"))
    assert main([str(file) for file in files]) == 0
    out = capsys.readouterr().out
    assert "signal to noise" in out
    assert "warned of" in out


@pytest.mark.parametrize("content", ["{}", "[1]", "nothing", json.dumps(result(0.5))])
def test_results_of_fewer_than_two_vectors_are_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(SystemExit) as left:
        main([str(file)])
    assert left.value.code == 2
    assert "results" in capsys.readouterr().err
