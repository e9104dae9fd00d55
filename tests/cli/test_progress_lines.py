"""Without a terminal a long command says once a minute how far it is and how long the rest takes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fewshot_bench.cli import progress_bars
from fewshot_bench.cli.progress_bars import ProgressBars


class Clock:
    """A clock that tests set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return io.StringIO()


def test_a_line_a_minute_says_what_and_how_far_and_how_long_still(clock, lines):
    with ProgressBars(lines, clock) as progress, progress.step("embedding cifar-fs novel", 12_000) as step:
        for _ in range(240):
            clock.now += 1
            step.advance(10, "note")
    written = lines.getvalue().splitlines()
    assert written[0] == "embedding cifar-fs novel: 600 of 12,000 (5%), 19 min left, note"
    assert len(written) == 4
    assert written[-1].startswith("embedding cifar-fs novel: 2,400 of 12,000 (20%), 16 min left")


def test_short_commands_write_nothing(clock, lines):
    with ProgressBars(lines, clock) as progress:
        for name in "abc":
            with progress.step(name, 3) as step:
                clock.now += 15
                step.advance(3)
    assert lines.getvalue() == ""


def test_many_short_stages_share_the_minute(clock, lines):
    with ProgressBars(lines, clock) as progress:
        for number in range(300):
            with progress.step(f"stage {number}", 1) as step:
                clock.now += 1
                step.advance()
    assert len(lines.getvalue().splitlines()) == 5


def test_what_was_done_before_a_resumed_stage_does_not_count_as_speed(clock, lines):
    with ProgressBars(lines, clock) as progress, progress.step("training", 1_000) as step:
        step.advance(800)
        for _ in range(60):
            clock.now += 1
            step.advance()
    assert lines.getvalue() == "training: 860 of 1,000 (86%), 2 min left\n"


def test_bytes_and_unknown_totals_are_written_as_people_write_them(clock, lines):
    with ProgressBars(lines, clock) as progress:
        with progress.step("fetching x.tar", 2_000_000_000, unit="bytes") as step:
            step.advance(1)
            clock.now += 61
            step.advance(500_000_000)
        clock.now += 61
        with progress.step("waiting for workers\x1b[31m", 0):
            pass
    first, second = lines.getvalue().splitlines()
    assert first == "fetching x.tar: 500.0 MB of 2.0 GB (25%), 3 min left"
    assert second.startswith("waiting for workers")
    assert second.endswith(": 0 s so far")
    assert "\x1b" not in second


def test_bars_on_a_terminal_show_the_time_that_is_left():
    now = 0.0
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bars = progress_bars._bars(console)
    bars.get_time = lambda: now
    task = bars.add_task("episodes", total=100, note="", unit="")
    for _ in range(5):
        now += 20
        bars.advance(task, 10)
    console.print(bars.get_renderable())
    assert "2 min left" in " ".join(console.file.getvalue().split()) or "100 s left" in console.file.getvalue()
    now += 20
    bars.advance(task, 50)
    console.print(bars.get_renderable())
    assert console.file.getvalue().rstrip().splitlines()[-1].count("left") == 0
