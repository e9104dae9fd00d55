"""Accuracy against shots: which methods have a curve, and what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from page_studies import content_of, frame_of

from fewshot_bench.report.figures import MOST_LINES
from fewshot_bench.report.page import page_html, plotly
from fewshot_bench.report.paper_figures import draw_shots
from fewshot_bench.report.shots import shots_figures


def board(shots=(1, 2, 5, 20), methods=2, **columns):
    """Each method is 10 points better at each larger number of shots, the later ones a point worse."""
    frames = [
        frame_of(methods, shot=shot, protocol_fingerprint=f"{shot:064d}", data_ci95=4.0, **columns).assign(
            mean=40.0 + 10 * place - np.arange(methods)
        )
        for place, shot in enumerate(shots)
    ]
    return pd.concat(frames, ignore_index=True)


def test_each_method_has_a_curve_with_both_intervals():
    (figure,) = shots_figures(board())
    assert figure.title == "cifar-fs 5-way"
    assert [curve.name for curve in figure.curves] == ["m0", "m1"]
    first = figure.curves[0]
    assert (first.shots, first.means) == ([1, 2, 5, 20], [40, 50, 60, 70])
    assert (set(first.half_widths), set(first.data_half_widths)) == ({0.3}, {4.0})
    assert figure.ticks == [1, 2, 5, 20]


def test_the_sentence_is_about_the_best_method_and_measured_shots_alone():
    (figure,) = shots_figures(board((20, 1, 5)))  # in any order
    assert figure.sentence == (
        "m0 reaches 50.0% with 1 labelled image per class; +10.0 points from 1 to 5, -20.0 points from 5 to 20."
    )


def test_the_sentence_has_the_settings_of_a_name_in_words_and_labels_as_they_are():
    frame = board((1, 5), method=["r/ce@epochs=4/knn", "r/tim"])
    sentences = [shots_figures(of)[0].sentence for of in (frame, frame.assign(is_labelled=True))]
    assert [text.partition(" reaches")[0] for text in sentences] == ["r + ce (epochs 4) + knn", "r/ce@epochs=4/knn"]


@pytest.mark.parametrize("other", ["dataset", "split", "way", "queries", "sampler", "seed"])
def test_tasks_that_differ_in_more_than_shots_have_figures_of_their_own(other):
    value = 7 if other in ("way", "queries", "seed") else "another"
    two = pd.concat([board((1, 5)), board((1, 5), **{other: value})], ignore_index=True)
    assert len(shots_figures(two)) == 2
    one_each = pd.concat([board((1,)), board((5,), **{other: value})], ignore_index=True)
    assert shots_figures(one_each) == []


def test_one_number_of_shots_whole_splits_and_published_rows_have_no_curve():
    assert shots_figures(board((5,))) == []
    assert shots_figures(board((1, 5), source="a paper")) == []
    assert shots_figures(board((1, 5), sampler="whole")) == []


def test_of_many_methods_the_best_and_the_authors_own_are_drawn_and_the_note_says_so():
    frame = board((1, 5), methods=12)
    (figure,) = shots_figures(frame.assign(is_own=frame["method"] == "m11"))
    assert [curve.name for curve in figure.curves] == [*(f"m{number}" for number in range(MOST_LINES)), "m11"]
    assert figure.note == f"the best {MOST_LINES + 1} of 12"
    assert [curve.is_own for curve in figure.curves] == [False] * MOST_LINES + [True]


def test_the_page_draws_the_curves_on_a_logarithmic_axis():
    (figure,) = shots_figures(board())
    drawn = plotly.shots_plot(figure)
    go.Figure(drawn)
    axis = drawn["layout"]["xaxis"]
    assert (axis["type"], axis["tickvals"], axis["ticktext"]) == ("log", [1, 2, 5, 20], ["1", "2", "5", "20"])
    lines = [trace for trace in drawn["data"] if "lines" in trace["mode"]]
    assert [trace["y"] for trace in lines] == [[40, 50, 60, 70], [39, 49, 59, 69]]
    assert lines[0]["error_y"]["array"] == [0.3] * 4
    html = page_html(content_of(board()), "t")
    assert 'id="shots-0"' in html
    assert "m0 reaches 40.0% with 1 labelled image per class" in html


def test_a_page_with_one_number_of_shots_has_no_such_section():
    assert 'id="shots"' not in page_html(content_of(frame_of(2)), "t")


@pytest.mark.slow
def test_the_picture_for_a_paper_is_the_same_each_time(tmp_path):
    (figure,) = shots_figures(board())
    first, again = (draw_shots(figure, tmp_path / name) for name in ("a", "b"))
    assert [path.suffix for path in first] == [".svg", ".png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
