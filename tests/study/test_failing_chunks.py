"""What fails is tried smaller, and recorded with its reason, exactly; the rest of the study is done."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toy_adaptations import Fails

from fewshot_bench import open_dataset, sample_episodes
from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import TIMING_COLUMNS
from fewshot_bench.study import Study, StudyResult, run_study
from fewshot_bench.study.workers import MethodWorker

pytestmark = pytest.mark.slow

EPISODES, RUNS, CHUNK = 60, 2, 16
TOLD = {
    **{"adaptations": ("toy_adaptations:Fails",), "base_losses": (), "shots": (1,), "device": "cpu"},
    **{"runs": RUNS, "chunk": CHUNK},
}
ALL = {(run, number) for run in range(RUNS) for number in range(EPISODES)}


class Behaviour:
    """What the adaptation does, and how many episodes it was given at a time."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.bad: set[bytes] = set()
        self.most = 1 << 20
        self.error: Callable[[], Exception] | None = None

    def __call__(self, scores: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(query))
        if len(query) > self.most:
            raise MemoryError("not so many at once")
        is_bad = torch.tensor([row.numpy().tobytes() in self.bad for row in query])
        if self.error is not None and bool(is_bad.any()):
            raise self.error()
        return torch.where(is_bad[:, None, None], torch.nan, scores)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory) -> Path:
    """Embeddings are made once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def behaviour(shared_home, tmp_path, monkeypatch) -> Behaviour:
    """Of the adaptation in this test."""
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(shared_home))
    monkeypatch.chdir(tmp_path)
    plan = Behaviour()
    monkeypatch.setattr(Fails, "behaviour", staticmethod(plan))
    return plan


def study(**fields) -> Study:
    return Study(**{**TOLD, "episodes": EPISODES, **fields})


def queries(numbers: set[tuple[int, int]]) -> set[bytes]:
    """How the adaptation can tell some episodes."""
    novel, protocol = open_dataset("glyphs").novel, study().protocols()[0]
    rows = [sample_episodes(novel, protocol, run=run).queries.astype(np.int64) for run in range(RUNS)]
    return {rows[run][number].tobytes() for run, number in numbers}


def stored(result: StudyResult) -> set[tuple[int, int]]:
    """The episodes of a study of one cell that are stored."""
    done = OutcomeStore(Path("results/outcomes")).done(result.cells[0])
    return {(run, int(number)) for run, numbers in done.items() for number in numbers}


def recorded(result: StudyResult) -> dict[tuple[int, int], str]:
    """The reason of each failure that is still open."""
    failures = OutcomeStore(Path("results/outcomes")).failures(result.cells[0])
    return {(failure.run, int(number)): failure.reason for failure in failures for number in failure.episodes}


def test_what_does_not_fit_at_once_is_tried_smaller_and_nothing_fails(behaviour):
    behaviour.most = 5
    result = run_study(study())
    assert result.failures == ()
    assert stored(result) == ALL
    assert sum(calls for calls in behaviour.calls if calls <= 5) == len(ALL), "nothing is computed twice"
    assert recorded(result) == {}


SOME = {
    "one": {(0, 7)},
    "scattered": {(0, 3), (0, 20), (1, 0), (1, 59)},
    "neighbours": {(0, number) for number in range(5)},
    "every other": {(1, number) for number in range(0, 30, 2)},
    "a whole chunk": {(0, number) for number in range(16, 32)},
    "most of a chunk": {(0, number) for number in range(16, 32) if number not in (26, 31)},
    "all but one": ALL - {(0, 9)},
}


@pytest.mark.parametrize("bad", SOME.values(), ids=SOME.keys())
@pytest.mark.parametrize("raises", [False, True])
def test_exactly_the_episodes_that_fail_are_recorded_with_their_reason(behaviour, bad, raises):
    behaviour.bad = queries(bad)
    behaviour.error = (lambda: ValueError("singular\nmatrix")) if raises else None
    result = run_study(study())
    assert stored(result) == ALL - bad
    (name, count, reason) = result.failures[0]
    assert (name, count, result.failed) == ("conv4_32/fails", len(bad), len(bad))
    if raises:
        assert re.search(r"test_failing_chunks\.py, line \d+, in __call__: ValueError: singular matrix$", reason)
    else:
        assert "scores that are not finite" in reason
    assert recorded(result) == dict.fromkeys(bad, reason)
    assert sum(behaviour.calls) <= 5 * len(ALL), "and it does not take many times as long"


def test_a_later_run_in_which_they_succeed_is_as_if_nothing_had_been(behaviour):
    bad = SOME["scattered"]
    behaviour.bad = queries(bad)
    assert run_study(study()).failed == len(bad)
    behaviour.bad, behaviour.calls = set(), []
    result = run_study(study())
    assert result.failures == ()
    assert stored(result) == ALL
    assert recorded(result) == {}
    assert sum(behaviour.calls) == len(bad), "what was stored is not computed again"
    undisturbed = run_study(study(results=Path("undisturbed")))
    frames = [
        OutcomeStore(Path(folder) / "outcomes").read(result.cells[0]).drop(columns="seconds")
        for folder in ("results", "undisturbed")
    ]
    assert undisturbed.failures == ()
    pd.testing.assert_frame_equal(*frames)


def test_all_failing_is_an_error_with_the_reason(behaviour):
    behaviour.error, behaviour.bad = lambda: RuntimeError("the matrix is singular"), queries(ALL)
    with pytest.raises(StudyError, match="RuntimeError: the matrix is singular"):
        run_study(study())
    assert len(behaviour.calls) < 3 * len(ALL)


def test_a_method_without_any_success_is_given_up_before_every_episode_was_tried(behaviour):
    behaviour.most = 0
    with pytest.raises(StudyError, match="MemoryError"):
        run_study(study(episodes=1000, runs=1, chunk=100))
    assert sum(behaviour.calls) < 600


def test_a_success_after_many_failures_ends_giving_up(behaviour):
    behaviour.bad = queries({(0, number) for number in range(EPISODES)})
    result = run_study(study())
    assert stored(result) == {(1, number) for number in range(EPISODES)}
    assert result.failed == EPISODES
    tried = {number for number, reason in recorded(result).items() if not reason.startswith("not tried, as no episode")}
    assert {(0, number) for number in range(2 * CHUNK)} <= tried
    assert len(tried) < EPISODES


def test_all_failing_until_the_interval_is_narrow_is_the_same_error(behaviour):
    behaviour.most = 0
    with pytest.raises(StudyError, match="MemoryError: not so many at once"):
        run_study(Study(**{**TOLD, "until_ci": 2.0, "max_episodes": 250}))


@pytest.mark.parametrize(
    "error", [KeyError(3), ZeroDivisionError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), StopIteration("x")]
)
def test_any_exception_of_a_method_is_a_reason_in_one_line(behaviour, error):
    behaviour.error, behaviour.bad = lambda: error, queries(SOME["one"])
    result = run_study(study())
    (_, count, reason) = result.failures[0]
    assert count == 1
    assert f", in __call__: {type(error).__name__}: " in reason
    assert len(reason.splitlines()) == 1
    assert reason == reason.strip().rstrip(":")


def test_what_a_failed_attempt_held_is_let_go_before_the_next(behaviour):
    held: list[weakref.ref] = []
    alive: list[int] = []

    def hoards(scores: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        alive.append(sum(one() is not None for one in held))
        block = torch.zeros(1000)
        held.append(weakref.ref(block))
        if len(query) > 4:
            raise MemoryError(f"{len(block)} more do not fit")
        return scores

    gc.disable()
    try:
        Fails.behaviour = staticmethod(hoards)
        assert run_study(study()).failures == ()
    finally:
        gc.enable()
    assert len(alive) > 5
    assert max(alive) == 0


def with_other(**columns) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The frame with other values in some columns."""
    return lambda frame: frame.assign(**columns)


SPOILED = {
    "no frame": (lambda frame: frame.to_dict(), "pandas DataFrame, not dict"),
    "nothing": (lambda frame: None, "neither outcomes nor a reason"),
    "a column too few": (lambda frame: frame.drop(columns="seconds"), "column seconds once"),
    "a column twice": (lambda frame: pd.concat([frame, frame[["run"]]], axis=1), "column run once"),
    "an episode too few": (lambda frame: frame.iloc[:-1], "these 0 are others"),
    "an episode twice": (lambda frame: pd.concat([frame, frame]), "these 2 are others"),
    "another episode": (with_other(episode=lambda frame: frame["episode"] + 1000), "these 1 are others"),
    "another run": (with_other(run=1), "these 1 are others"),
    "no such run": (with_other(run=40_000), "run should be 0 to 32,767"),
    "episodes in words": (with_other(episode="seven"), "episode should be whole numbers"),
    "no whole number": (with_other(correct=2.5), "correct should be whole numbers, not float64"),
    "seconds in words": (with_other(seconds="none"), "seconds should be numbers"),
    "text": (with_other(predictions="0" * 75), "predictions should be bytes"),
    "too few queries": (with_other(predictions=b"\0" * 74), "75 predictions per episode, not 74"),
    "no such class": (with_other(predictions=b"\5" * 75), "names class 5 of 5-way episodes"),
    "too many correct": (with_other(correct=76), "correct should be"),
    "another accuracy": (with_other(accuracy=0.123), "accuracy should be correct divided by"),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILED.values(), ids=SPOILED.keys())
def test_outcomes_that_are_none_are_a_failure_of_their_episodes_alone(monkeypatch, spoil, reason):
    compute = MethodWorker.__call__

    def spoiled(self, chunk):
        frame = compute(self, chunk)
        return spoil(frame[frame["episode"] == 7]) if chunk.run == 0 and 7 in chunk.numbers else frame

    monkeypatch.setattr(MethodWorker, "__call__", spoiled)
    result = run_study(study())
    assert stored(result) == ALL - {(0, 7)}
    assert list(recorded(result)) == [(0, 7)]
    assert reason in recorded(result)[0, 7]
    assert OutcomeStore(Path("results/outcomes")).read(result.cells[0])["correct"].between(0, 75).all()


def run(*options: str) -> int:
    command = ["run", "--base-loss", "none", "--shots", "1", "--episodes", str(EPISODES), "--runs", str(RUNS)]
    return exit_code([*command, "--chunk", str(CHUNK), *options])


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def without_timing() -> pd.DataFrame:
    return pd.read_csv("results/leaderboard.csv", dtype=str).drop(columns=list(TIMING_COLUMNS))


def test_the_command_says_what_failed_writes_the_table_and_ends_with_1_until_it_succeeds(behaviour, capsys):
    behaviour.bad = queries(SOME["scattered"])
    assert run("--adapt", "centroid,toy_adaptations:Fails", "--baseline", "centroid") == 1
    printed = capsys.readouterr()
    (line,) = lines(printed.err, "failed")
    assert "4 episodes of conv4_32/fails: " in line
    assert "not finite" in line
    assert "Traceback" not in printed.err
    frame = without_timing()
    assert frame["method"].tolist() == ["conv4_32/centroid", "conv4_32/fails"] or len(frame) == 2
    behaviour.bad = set()
    assert run("--adapt", "centroid,toy_adaptations:Fails", "--baseline", "centroid") == 0
    assert lines(capsys.readouterr().err, "failed") == []
    assert (without_timing()["episodes"] == str(EPISODES)).all()


@pytest.mark.parametrize("order", ["centroid,toy_adaptations:Fails", "toy_adaptations:Fails,centroid"])
def test_a_method_that_always_fails_leaves_the_others_their_table(behaviour, capsys, order):
    behaviour.bad = queries(ALL)
    assert run("--adapt", order) == 1
    printed = capsys.readouterr()
    (line,) = lines(printed.err, "failed")
    assert f"{len(ALL)} episodes of conv4_32/fails" in line
    assert without_timing()["method"].tolist() == ["conv4_32/centroid"]
    assert "conv4_32/centroid" in printed.out


def test_the_command_ends_with_2_and_the_reason_where_all_fail(behaviour, capsys):
    behaviour.bad = queries(ALL)
    assert run("--adapt", "toy_adaptations:Fails") == 2
    printed = capsys.readouterr()
    (line,) = lines(printed.err, "error: ")
    assert "not finite" in line


def test_a_shard_counts_what_failed_apart_from_what_others_have_to_do(behaviour, capsys):
    behaviour.bad = queries({(0, 3)})
    assert run("--adapt", "toy_adaptations:Fails", "--shard", "1/2") == 1
    assert f"{len(ALL) // 2} of other shards" in capsys.readouterr().out
