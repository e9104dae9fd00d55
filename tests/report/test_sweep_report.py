"""A sweep as rows, as a table and as a picture."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from stored_cells import cell, fill

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import NoPictureError, SweptPoint, compare, draw_sweep, print_sweep, sweep_frame
from fewshot_bench.report.figures import MOST_LINES, sweep

LEVELS = {(0, 0.1): 40, (0.5, 0.1): 44, (0.5, 0.5): 47, (1, 0.1): 41, (1, 0.5): 47}
"""Correct queries of 75 at each point that is run; (0.5, 0.5) and (1, 0.5) are exactly as good as each other."""


def swept(tmp_path, shots=(1,)) -> tuple[OutcomeStore, list[SweptPoint]]:
    store = OutcomeStore(tmp_path / "outcomes")
    noise = np.random.default_rng(3).integers(-6, 7, size=(2, 30))
    made = {}
    for (lambda_, tau), level in LEVELS.items():
        of = [cell(f"conv/{lambda_},{tau}", shot=shot) for shot in shots]
        for number, one in enumerate(of):
            own = np.random.default_rng(level).integers(-1, 2, size=noise.shape)
            fill(store, one, level + 8 * number + noise + own)
        made[lambda_, tau] = of
    made[0, 0.5] = made[0, 0.1]
    return store, [SweptPoint({"lambda": point[0], "tau": point[1]}, made[point]) for point in sorted(made)]


def frame_of(tmp_path, shots=(1,), **limits) -> pd.DataFrame:
    return sweep_frame(*swept(tmp_path, shots), **({"episodes": 30, "runs": 2} | limits))


def printed(frame: pd.DataFrame, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_sweep(frame, "toy (validation split) 5-way", console)
    return console.file.getvalue()


def other_grid(frame: pd.DataFrame, **axes: object) -> pd.DataFrame:
    """The same rows with other names on the axes."""
    return frame.rename(columns=axes)


def test_each_row_is_tested_against_the_best_on_the_same_episodes(tmp_path):
    store, points = swept(tmp_path)
    frame = sweep_frame(store, points, episodes=30, runs=2)
    row = frame[(frame["lambda"] == 0.5) & (frame["tau"] == 0.1)].iloc[0]
    outcomes = [store.outcomes(point.cells[0]) for point in points]
    expected = compare(outcomes[2], outcomes[3]).test
    assert row["difference"] == pytest.approx(100 * expected.mean_difference)
    assert row["diff_ci95_low"] == pytest.approx(100 * expected.ci_low)
    assert row["p"] == expected.p
    assert row["paired_episodes"] == 60
    assert row["mean"] == pytest.approx(100 * outcomes[2].accuracy.mean())


def test_of_equal_points_the_earlier_is_chosen(tmp_path):
    frame = frame_of(tmp_path)
    best = frame[frame["is_best"]]
    assert len(best) == 1
    assert best[["lambda", "tau"]].iloc[0].tolist() == [0.5, 0.5]
    equal = frame[(frame["lambda"] == 1) & (frame["tau"] == 0.5)].iloc[0]
    assert (equal["mean"], equal["difference"], equal["p"]) == (best["mean"].iloc[0], 0, 1)
    assert pd.isna(best["p"].iloc[0])


def test_only_the_episodes_of_the_budget_count(tmp_path):
    store, points = swept(tmp_path)
    frame = sweep_frame(store, points, episodes=10, runs=1)
    first = store.outcomes(points[0].cells[0])
    assert (frame["episodes"].iloc[0], frame["runs"].iloc[0]) == (10, 1)
    assert frame["mean"].iloc[0] == pytest.approx(100 * first.accuracy[:10].mean())


def test_an_axis_may_be_called_like_a_column(tmp_path):
    store, points = swept(tmp_path)
    named = [SweptPoint({"p": point.values["lambda"], "runs": point.values["tau"]}, point.cells) for point in points]
    frame = sweep_frame(store, named, episodes=30, runs=2)
    assert frame["p_"].tolist() == [point.values["lambda"] for point in points]
    assert (frame["runs"] == 2).all()


def test_a_sweep_without_points_is_refused(tmp_path):
    with pytest.raises(OutcomeError, match="at least one point"):
        sweep_frame(OutcomeStore(tmp_path), [], episodes=1, runs=1)


def test_lambda_stands_down_and_tau_across(tmp_path):
    frame = frame_of(tmp_path)
    lines = printed(frame).splitlines()
    assert lines[0] == "toy (validation split) 5-way 1-shot, 2 runs of 30 episodes: mean % ± 95% CI"
    assert lines[1].split() == ["lambda", "\\", "tau", "0.1", "0.5"]
    for line, (_, rows) in zip(lines[3:6], frame.groupby("lambda"), strict=True):
        means = [float(number) for number in re.findall(r"(\d+\.\d+) ±", line)]
        np.testing.assert_allclose(means, rows["mean"], atol=0.006)
    assert [line.count("*") for line in lines[3:6]] == [0, 1, 0]
    assert lines[6] == "* the chosen point; 3 of 4 others are worse on this split (paired t, Holm, 5%)"


def test_what_decides_over_several_shots_has_a_table_of_its_own(tmp_path):
    frame = frame_of(tmp_path, shots=(1, 5))
    text = printed(frame)
    assert text.index(" 1-shot,") < text.index(" 5-shot,") < text.index("mean over 1, 5 shots, which decides")
    best = frame[frame["is_best"]]["mean"].mean()
    assert f"*{best:.2f}" in text.split("which decides")[1]


def test_any_other_grid_is_a_list_with_the_best_first(tmp_path):
    frame = other_grid(frame_of(tmp_path), tau="learning_rate")
    lines = printed(frame).splitlines()
    assert lines[1].split()[:2] == ["lambda", "learning_rate"]
    means = [float(re.search(r"(\d+\.\d+) ±", line)[1]) for line in lines[3:9]]
    assert means == sorted(means, reverse=True)
    assert "*" in lines[3]


def test_a_grid_that_is_too_wide_for_the_terminal_is_a_list(tmp_path):
    assert "points to best" not in printed(frame_of(tmp_path), width=80)
    assert "points to best" in printed(frame_of(tmp_path), width=30)


@pytest.mark.slow
def test_the_same_frame_gives_the_same_bytes_of_both_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    frame = frame_of(tmp_path, shots=(1, 5))
    first = draw_sweep(frame, "toy", tmp_path / "a")
    assert [path.name for path in first] == ["a.svg", "a.png"]
    for one, other in zip(first, draw_sweep(frame, "toy", tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in first[0].read_bytes()
    with Image.open(first[1]) as picture:
        assert picture.width > picture.height > 400
        assert np.asarray(picture.convert("L")).std() > 5


def test_a_picture_shows_an_interval_for_every_point_and_marks_the_chosen_one(tmp_path):
    matplotlib = pytest.importorskip("matplotlib.figure")
    frame = frame_of(tmp_path)
    drawn = []
    original = matplotlib.Figure.savefig

    def keep(figure, *arguments, **options):
        drawn.append(figure)
        return original(figure, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matplotlib.Figure, "savefig", keep)
        draw_sweep(frame, "toy", tmp_path / "a")
    (panel,) = drawn[0].axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("λ", "validation accuracy, %")
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["τ = 0.1", "τ = 0.5", "chosen"]
    for bars, (_, rows) in zip(panel.containers, frame.groupby("tau"), strict=True):
        lengths = [float(np.ptp(segment[:, 1])) / 2 for segment in bars[2][0].get_segments()]
        np.testing.assert_allclose(lengths, rows["ci95"].astype(float))
        np.testing.assert_allclose(bars[0].get_ydata().astype(float), rows["mean"].astype(float))


def test_without_lambda_the_first_axis_of_numbers_is_drawn_along(tmp_path):
    frame = frame_of(tmp_path)
    assert sweep(frame, "toy").axis == "lambda"
    assert sweep(other_grid(frame, **{"lambda": "learning_rate"}), "toy").axis == "learning_rate"
    words = other_grid(frame.assign(tau=frame["tau"].map(str)), **{"lambda": "head"})
    assert sweep(words, "toy").axis == "head"
    with pytest.raises(NoPictureError, match="no axis of the grid has two numbers"):
        draw_sweep(words.assign(head="cosine"), "toy", tmp_path / "a")


def test_of_many_lines_those_near_the_best_are_drawn_in_the_order_of_the_grid():
    rows = [
        {"lambda": x, "head": f"h{number}", "mean": float(number), "ci95": 0.5, "shot": 1, "is_best": number == 0}
        for x in (0.0, 1.0)
        for number in range(12)
    ]
    curves = sweep(pd.DataFrame(rows), "toy").curves
    assert [curve.label for curve in curves] == [f"head = h{number}" for number in range(4, 12)]
    assert len(curves) == MOST_LINES


def test_without_matplotlib_the_reason_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoPictureError, match="Matplotlib is missing"):
        draw_sweep(frame_of(tmp_path), "toy", tmp_path / "a")
    assert not (tmp_path / "a.svg").exists()
