"""Numbered steps, bars, and lines where output is no terminal."""

import io
import logging

import pytest
from rich.console import Console

from lrt.cli import console as module
from lrt.cli.console import ConsoleMonitor
from lrt.cli.terminal import escaped


def monitor_on(
    stream: io.StringIO, terminal: bool = False, shown: bool = True, steps: int = 7
) -> ConsoleMonitor:
    return ConsoleMonitor(Console(file=stream, force_terminal=terminal, width=100), steps, shown)


def test_steps_are_numbered_and_brackets_are_text() -> None:
    stream = io.StringIO()
    monitor = monitor_on(stream, steps=2)
    monitor.step("Loading the pair: [a] -> b")
    monitor.step("Reporting: 1,000 rows")
    assert stream.getvalue().splitlines() == [
        "[1/2] Loading the pair: [a] -> b",
        "[2/2] Reporting: 1,000 rows",
    ]
    assert escaped("[bold]") == r"\[bold]"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    return clock


def test_without_a_terminal_a_line_every_30_seconds_has_rate_and_time_left(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "lrt"),
        monitor_on(io.StringIO()).progress("both models", 10_000) as advance,
    ):
        for _ in range(9):  # 100 units every 10 seconds
            clock.now += 10
            advance(100)
    first, *_, last = caplog.messages
    assert len(caplog.messages) == 3
    assert first == "both models: 300 of 10,000 (3%), 10 a second, 00:16:10 left"
    assert last.startswith("both models: 900 of 10,000 (9%)")


def test_a_line_never_passes_100_percent(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "lrt"),
        monitor_on(io.StringIO()).progress("tokens", 10) as advance,
    ):
        clock.now += 31
        advance(25)
        clock.now += 31
        advance(0)
    assert [line.split(",")[0] for line in caplog.messages] == ["tokens: 10 of 10 (100%)"] * 2
    assert caplog.messages[-1].endswith("00:00:00 left")


def test_nothing_done_is_no_division_by_zero(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lrt"), monitor_on(io.StringIO()).progress("none", 0) as advance:
        clock.now += 31
        advance(0)
    assert caplog.messages[0].startswith("none: 0 of 0 (0%)")


def test_a_bar_on_a_terminal_never_passes_100_percent() -> None:
    stream = io.StringIO()
    monitor = monitor_on(stream, terminal=True)
    with monitor.progress("tokens", 1_000) as advance:
        for _ in range(3):
            advance(600)
    with monitor.working("thinking"):
        pass
    assert "1,000/1,000" in stream.getvalue()
    assert "1,800" not in stream.getvalue()
    assert "tokens" in stream.getvalue()


def test_further_ranks_show_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    monitor = monitor_on(stream, terminal=True, shown=False)
    monitor.step("Loading")
    with (
        caplog.at_level(logging.INFO, "lrt"),
        monitor.progress("tokens", 10) as advance,
        monitor.working("thinking"),
    ):
        clock.now += 60
        advance(5)
    assert (stream.getvalue(), caplog.messages) == ("", [])


def test_a_stage_within_a_stage_is_timed_once_and_a_failing_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 4.0, 10.0, 12.0, 15.0])
    monkeypatch.setattr("lrt.pipeline.monitor.time.perf_counter", lambda: next(times))
    monitor = monitor_on(io.StringIO())
    with monitor.stage("outer"), monitor.stage("inner"):
        pass
    with pytest.raises(KeyError), monitor.stage("inner"):
        raise KeyError
    assert monitor.seconds == {"inner": 6.0, "outer": 7.0}
