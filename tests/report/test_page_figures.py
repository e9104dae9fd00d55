"""What the figures of the page say, and the pictures for papers."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from page_studies import BASE, HOSTILE, add_sweep, content_of, frame_of, protocol_of, store_study, with_tests
from PIL import Image
from stored_cells import cell

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import NoPictureError, compare_tasks, figures, over_datasets
from fewshot_bench.report.content import PageContent, Pairs, completed, pairs_of, quantiles_of, rankings
from fewshot_bench.report.findings import main_finding, short_finding
from fewshot_bench.report.leaderboard import current_leaderboard
from fewshot_bench.report.page import plotly, write_page
from fewshot_bench.report.paper_figures import draw_figures, draw_forest
from fewshot_bench.report.scores import task_scores
from fewshot_bench.report.verdicts import letters_of
from fewshot_bench.statistics import DataInterval, corrected, critical_difference, paired_t_test, read_letters

NAN = float("nan")


def episodes(accuracy, first=0):
    numbers = np.arange(first, first + len(accuracy))
    return pd.DataFrame({"run": 0, "episode": numbers, "accuracy": accuracy})


def forest_plot(frame):
    return plotly.forest_plot(figures.forest(protocol_of(frame), plotly.MOST_ROWS))


def two_best(p, beyond, half_width=1.0, **parts):
    """Two methods, 1.5 points apart."""
    split, wider = (np.array([[1, value], [value, 1]]) for value in (p, beyond))
    interval = DataInterval(1.5, 1.5 - half_width, 1.5 + half_width, beyond)
    apart = np.array([[0, 1.5], [-1.5, 0]])
    return Pairs(["m0", "m1"], apart, split, wider, np.full((2, 2), 100), best_two=interval, best_two_task=0.2, **parts)


class TestFinding:
    def test_a_better_method_is_named_with_its_intervals(self):
        frame = with_tests(frame_of(3), [NAN, 2.5, -1], [NAN, 0.004, 0.2], "m0")
        assert main_finding(content_of(frame)) == (
            "m1 against m0 on cifar-fs 5-way 1-shot: +2.50 points, 95% interval +1.50 to +3.50 over classes and images "
            "(±0.50 over episodes): better (p = 0.004 on this split, p = 0.012 beyond it)."
        )

    def test_no_better_method_is_said_not_to_be_shown(self):
        frame = with_tests(frame_of(3), [NAN, 0.1, -1], [NAN, 0.4, 0.001], "m0")
        assert main_finding(content_of(frame)).startswith(
            "No method is shown to be better than m0 on cifar-fs 5-way 1-shot; m1 comes closest: +0.10 points"
        )

    def test_a_baseline_that_beats_all_is_said_to(self):
        frame = with_tests(frame_of(3), [NAN, -2, -1.5], [NAN, 0.001, 0.001], "m0")
        assert main_finding(content_of(frame)).startswith(
            "Every other method is worse than m0 on cifar-fs 5-way 1-shot; m2 comes closest: -1.50 points"
        )

    def test_a_difference_that_other_classes_may_not_show_comes_with_a_reservation(self):
        frame = with_tests(frame_of(2), [NAN, 0.7], [NAN, 1e-9], "m0")
        finding = main_finding(content_of(frame))
        assert ": better on this split (p" in finding
        assert finding.endswith("The result may differ for other classes and images.")

    def test_for_fixed_classes_the_reservation_is_about_other_images_of_them(self):
        frame = with_tests(frame_of(2), [NAN, 0.7], [NAN, 1e-9], "m0").assign(beyond="images of these classes")
        assert main_finding(content_of(frame)).endswith("The result may differ for other images of these classes.")
        pairs = two_best(1e-9, 0.2)
        pairs = replace(pairs, best_two=replace(pairs.best_two, covers="images of these classes"))
        content = PageContent(frame_of(2), [protocol_of(frame_of(2), pairs=pairs)])
        assert main_finding(content).endswith("The result may differ for other images of these classes.")

    def test_a_difference_over_too_few_common_episodes_has_no_interval_over_classes_and_says_why(self):
        frame = with_tests(frame_of(2), [NAN, 0.7], [NAN, 1e-9], "m0")
        unknown = dict.fromkeys(("diff_data_ci95_low", "diff_data_ci95_high", "p_beyond", "p_beyond_corrected"), NAN)
        finding = main_finding(content_of(frame.assign(**unknown)))
        assert "(none over classes and images, as there are too few common episodes): better on this split" in finding
        assert "nan" not in finding

    def test_a_baseline_that_beats_all_on_these_classes_alone_is_said_to_as_well(self):
        frame = with_tests(frame_of(3), [NAN, -2, -0.7], [NAN, 0.001, 0.001], "m0")
        assert main_finding(content_of(frame)).startswith(
            "Every other method is worse than m0 on cifar-fs 5-way 1-shot, on this split; m2"
        )

    def test_what_is_shown_goes_before_a_larger_difference_that_is_not(self):
        frame = with_tests(frame_of(4), [NAN, 4, 0.7, 1.5], [NAN, 0.3, 1e-9, 1e-9], "m0")
        assert main_finding(content_of(frame)).startswith("m3 against m0 on")

    def test_one_method_that_is_not_shown_to_be_worse_keeps_the_baseline_from_beating_all(self):
        frame = with_tests(frame_of(3), [NAN, -1.5, -3], [NAN, 0.001, 0.3], "m0")
        assert main_finding(content_of(frame)).startswith("No method is shown to be better than m0")

    def test_over_protocols_it_says_on_how_many_only_these_classes_show_it(self):
        frames = [with_tests(frame_of(2), [NAN, difference], [NAN, 1e-9], "m0") for difference in (2, 0.7)]
        content = PageContent(pd.concat(frames, ignore_index=True), [protocol_of(frame) for frame in frames])
        assert main_finding(content).endswith(
            "On 2 of 2 protocols a method is better than the baseline, on 1 of them on these classes and images alone."
        )

    def test_without_a_baseline_the_two_best_are_compared(self):
        content = PageContent(frame_of(2), [protocol_of(frame_of(2), pairs=two_best(0.01, 0.03))])
        assert main_finding(content) == (
            "The two best on cifar-fs 5-way 1-shot, m0 against m1: +1.50 points, 95% interval +0.50 to +2.50 over "
            "classes and images (±0.20 over episodes): better (p = 0.01 on this split, p = 0.03 beyond it)."
        )
        content = PageContent(frame_of(2), [protocol_of(frame_of(2), pairs=two_best(0.5, 0.7))])
        assert "neither is shown to be better" in main_finding(content)

    def test_one_method_alone_has_nothing_to_be_tested_against(self):
        assert main_finding(content_of(frame_of(1))) == (
            "m0 reaches 70.00 ± 0.30 % on cifar-fs 5-way 1-shot; there is no other method to test it against."
        )


class TestShortFinding:
    """One sentence without p, fingerprints or settings."""

    def of(self, differences, p, names=("lite0@image_size=128/logistic", "lite0@image_size=128/centroid"), **columns):
        frame = frame_of(len(differences), method=list(names)[: len(differences)])
        return short_finding(content_of(with_tests(frame, differences, p, names[0]).assign(**columns)))

    def test_a_method_that_is_better_beyond_the_split_is_so_for_other_classes_too(self):
        assert self.of([NAN, 2.5], [NAN, 0.004]) == (
            "On cifar-fs at 1 shot, centroid is better than logistic, for other classes too: "
            "+2.50 points (95% interval +1.50 to +3.50)."
        )

    def test_a_method_that_is_better_on_this_split_alone_need_not_be_elsewhere(self):
        assert self.of([NAN, 0.7], [NAN, 1e-9]).startswith(
            "On cifar-fs at 1 shot, centroid is better than logistic on these classes and images, which need not hold "
            "for others: +0.70 points"
        )

    @pytest.mark.parametrize("difference", [0.1, -2.0])
    def test_without_a_better_method_the_closest_is_named(self, difference):
        assert self.of([NAN, difference], [NAN, 0.5]).startswith(
            "On cifar-fs at 1 shot, no method is shown to be better than logistic; the closest is centroid: "
        )

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (("r/ce@epochs=4/knn", "r/ce+supcon@epochs=4,tau=0.1/knn"), "ce+supcon (tau 0.1) is better than ce,"),
            (("r/knn@k=1", "r/knn@k=3"), "knn (k 3) is better than knn (k 1),"),
            (("r/knn", "r/ce/knn"), "ce + knn is better than knn,"),
            (("a/knn", "b/tim"), "b + tim is better than a + knn,"),
        ],
    )
    def test_methods_are_called_by_what_tells_them_apart(self, names, words):
        assert words in self.of([NAN, 2.5], [NAN, 0.004], names)

    def test_labels_are_left_alone(self):
        names = ("a@b=1/Theirs", "a@b=1/Ours")
        assert "a@b=1/Ours is better than a@b=1/Theirs," in self.of(
            [NAN, 2.5], [NAN, 0.004], names, is_labelled=[True, True]
        )
        assert "a@b=1/Ours is better than a (b 1) + Theirs," in self.of(
            [NAN, 2.5], [NAN, 0.004], names, is_labelled=[False, True]
        )

    def test_without_a_baseline_it_is_about_the_two_best(self):
        found = [
            short_finding(PageContent(frame_of(2), [protocol_of(frame_of(2), pairs=two_best(*p))]))
            for p in ((0.01, 0.03), (0.5, 0.7))
        ]
        assert found == [
            "On cifar-fs at 1 shot, m0 is better than m1, for other classes too: +1.50 points (95% interval +0.50 to "
            "+2.50).",
            "On cifar-fs at 1 shot, neither of the two best is shown to be better, m0 or m1: +1.50 points "
            "(95% interval +0.50 to +2.50).",
        ]

    def test_one_method_alone_says_what_it_reaches(self):
        assert short_finding(content_of(frame_of(1))).startswith("m0 reaches 70.00")


def scores_of(rows):
    """Scores of methods, each with its accuracies from an episode on."""
    frames = [episodes(accuracy, first).assign(seconds=0.01) for accuracy, first in rows]
    return task_scores(frames, [cell(f"m{number}") for number in range(len(rows))])


class TestPairs:
    @pytest.mark.slow
    def test_they_are_paired_tests_on_the_common_episodes_of_each_pair_corrected_over_all_pairs(self):
        generator = np.random.default_rng(0)
        accuracy = generator.integers(20, 60, size=(3, 50)) / 75 + np.array([[0.05], [0.02], [0]])
        pairs = pairs_of(scores_of([(row, 5 * number) for number, row in enumerate(accuracy)]), ["a", "b", "c"])
        later = {(0, 1): 5, (0, 2): 10, (1, 2): 5}
        tests = {(a, b): paired_t_test(accuracy[a, n:], accuracy[b, : 50 - n]) for (a, b), n in later.items()}
        expected = corrected([test.p for test in tests.values()], "holm")
        for ((a, b), test), p in zip(tests.items(), expected, strict=True):
            assert pairs.difference[a, b] == pytest.approx(100 * test.mean_difference) == -pairs.difference[b, a]
            assert pairs.p[a, b] == pytest.approx(p) == pairs.p[b, a]
            assert pairs.episodes[a, b] == test.n

    @pytest.mark.parametrize("correct", ["holm", "bh", "none"])
    def test_the_best_of_many_have_the_p_of_all_pairs_that_the_letters_have(self, correct):
        generator = np.random.default_rng(1)
        accuracy = generator.normal(0.5, 0.1, 40) + generator.normal(0, 0.05, (30, 40)) - np.arange(30)[:, None] / 400
        scores = scores_of([(row, 0) for row in accuracy])
        pairs = pairs_of(scores, [f"m{number}" for number in range(30)], correct)
        assert (len(pairs.methods), pairs.left_out, pairs.correction) == (25, 5, correct)
        letters, on_split = (read_letters(letters_of(scores, correct, claim)) for claim in ("beyond", "split"))
        places = [int(name[1:]) for name in pairs.methods]
        letters, on_split = ([found[place] for place in places] for found in (letters, on_split))
        for a in range(25):
            for b in range(a):
                assert (pairs.p_beyond[a, b] >= 0.05) == bool(letters[a] & letters[b]), (a, b)
                assert (pairs.p[a, b] >= 0.05) == bool(on_split[a] & on_split[b]), (a, b)

    def test_a_pair_without_common_episodes_is_blank_and_the_others_stay(self):
        accuracy = np.random.default_rng(2).normal(0.5, 0.1, (3, 20))
        pairs = pairs_of(scores_of([(accuracy[0], 0), (accuracy[1], 10), (accuracy[2], 20)]), ["a", "b", "c"])
        assert np.isnan([pairs.difference[0, 2], pairs.p[0, 2]]).all()
        assert not np.isnan([pairs.difference[0, 1], pairs.p[0, 1], pairs.p[1, 2]]).any()
        figure = plotly.matrix_plot(figures.matrix(protocol_of(frame_of(3), pairs=pairs)))
        go.Figure(figure)
        assert (figure["data"][0]["z"][0][2], figure["data"][0]["text"][0][2]) == (None, "")
        assert figure["data"][0]["text"][0][1] != ""
        assert "0 to 10 common episodes" in figure["layout"]["title"]["text"]

    def test_methods_without_common_episodes_have_none(self):
        accuracy = np.array([0.1, 0.2, 0.4])
        assert pairs_of(scores_of([(accuracy, 0), (accuracy, 3)]), ["a", "b"]) is None
        assert pairs_of(scores_of([(accuracy, 0)]), ["a"]) is None

    def test_the_two_best_may_differ_on_this_split_alone(self):
        pairs = two_best(0.01, 0.14, half_width=2.0)
        content = PageContent(frame_of(2), [protocol_of(frame_of(2), pairs=pairs)])
        finding = main_finding(content)
        assert "better on this split (p = 0.01 on this split, p = 0.14 beyond it)" in finding
        assert finding.endswith("The result may differ for other classes and images.")

    def test_two_best_without_common_episodes_are_said_to_have_none(self):
        frame = frame_of(3)
        gap = np.array([[0, NAN, 1], [NAN, 0, 1], [-1, -1, 0]])
        pairs = Pairs(["m0", "m1", "m2"], gap, gap * 0 + 0.01, gap * 0 + 0.01, np.full((3, 3), 9))
        assert "share too few episodes" in main_finding(PageContent(frame, [protocol_of(frame, pairs=pairs)]))

    def test_a_cell_says_the_verdict_and_both_p(self):
        figure = plotly.matrix_plot(figures.matrix(protocol_of(frame_of(2), pairs=two_best(0.01, 0.14))))
        assert figure["data"][0]["customdata"] == [
            ["", "better on this split<br>p 0.01 on this split, 0.14 beyond it"],
            ["worse on this split<br>p 0.01 on this split, 0.14 beyond it", ""],
        ]

    def test_the_matrix_stars_what_is_shown_and_nothing_else(self):
        difference, p = np.array([[0, 2.04, 3], [-2.04, 0, 1], [-3, -1, 0]]), np.ones((3, 3))
        p[0, 2] = p[2, 0] = 0.049
        split = p.copy()
        split[1, 2] = split[2, 1] = 0.001
        pairs = Pairs(["a", "b", "c"], difference, split, p, np.full((3, 3), 100))
        figure = plotly.matrix_plot(figures.matrix(protocol_of(frame_of(3), pairs=pairs)))
        go.Figure(figure)
        assert figure["data"][0]["text"] == [["", "+2.0", "+3.0*"], ["-2.0", "", "+1.0°"], ["-3.0*", "-1.0°", ""]]
        assert figure["data"][0]["z"][0] == [0, 2.04, 3]

    def test_a_large_matrix_leaves_empty_what_is_not_shown(self):
        difference, p = np.subtract.outer(-np.arange(12.0), -np.arange(12.0)), np.full((12, 12), 0.01)
        p[0, 3] = p[3, 0] = 0.051
        np.fill_diagonal(p, 1)
        pairs = Pairs([f"m{row}" for row in range(12)], difference, p, p, np.full((12, 12), 100), left_out=30)
        figure = plotly.matrix_plot(figures.matrix(protocol_of(frame_of(12), pairs=pairs)))
        go.Figure(figure)
        assert figure["data"][0]["z"][0] == [None, 1, 2, None, *range(4, 12)]
        assert "100 common episodes, the best 12 of 42" in figure["layout"]["title"]["text"]


class TestFigures:
    def test_a_box_is_made_of_quantiles_in_percent(self):
        box = quantiles_of(np.arange(101) / 100)
        assert (box.low, box.first_quartile, box.median, box.third_quartile, box.high) == (5, 25, 50, 75, 95)
        figure = plotly.distributions_plot(figures.distributions(protocol_of(frame_of(2))))
        go.Figure(figure)
        assert figure["data"][0]["q1"] == [40, 40]

    def test_verdicts_use_the_corrected_p(self):
        frame = with_tests(frame_of(3), [NAN, 2, -2], [NAN, 0.2, 0.01], "m0").assign(p=[NAN, 0.001, 0.001])
        names = [trace["name"] for trace in forest_plot(frame)["data"] if "name" in trace]
        assert names == ["worse", "no difference shown"]

    def test_verdicts_are_those_of_the_terminal_also_where_the_data_interval_includes_0(self):
        frame = with_tests(frame_of(5), [NAN, 2, 0.7, -0.7, -2], [NAN, *[0.001] * 4], "m0")
        names = {trace["name"]: trace["x"] for trace in forest_plot(frame)["data"] if "name" in trace}
        assert names == {
            "better": [2.0],
            "better on this split": [0.7],
            "worse": [-2.0],
            "worse on this split": [-0.7],
        }

    def test_the_picture_for_a_paper_has_the_same_verdicts(self, tmp_path):
        frame = with_tests(frame_of(5), [NAN, 2, 0.7, -0.7, -2], [NAN, *[0.001] * 4], "m0")
        svg = draw_forest(figures.forest(protocol_of(frame), 40), tmp_path / "forest")[0].read_text(encoding="utf-8")
        for words in (
            "better",
            "better on this split",
            "worse",
            "worse on this split",
            "thin: over classes and images",
        ):
            assert f"<!-- {words}" in svg or words in svg, words

    def test_the_page_and_the_picture_for_a_paper_show_the_same_rows_and_numbers(self, tmp_path, monkeypatch):
        frame = with_tests(frame_of(5), [NAN, 2, 0.7, -0.7, -2], [NAN, *[0.001] * 4], "m0")
        figure = figures.forest(protocol_of(frame), 40)
        drawn = []
        monkeypatch.setattr(
            "fewshot_bench.report.paper_figures.save_picture", lambda *picture: drawn.append(picture[0])
        )
        draw_forest(figure, tmp_path / "forest")
        (axes,) = drawn[0].axes
        *traces, names = plotly.forest_plot(figure)["data"]
        assert [tick.get_text() for tick in axes.get_yticklabels()] == names["text"] == figure.labels
        marks = {line.get_label(): [*line.get_xdata()] for line in axes.lines if not line.get_label().startswith("_")}
        assert marks == {trace["name"]: trace["x"] for trace in traces if "name" in trace}

    def test_a_protocol_without_baseline_says_what_to_do(self):
        figure = forest_plot(frame_of(2))
        assert "--baseline" in figure["layout"]["annotations"][0]["text"]
        assert figure["data"] == []

    def test_cost_is_seconds_per_episode_and_memory_where_it_is_known(self):
        frame = frame_of(3, episodes_per_second=[100.0, 10.0, 0.0], adaptation=["centroid", "finetune", "centroid"])
        figure = plotly.cost_plot(figures.cost(protocol_of(frame)))
        go.Figure(figure)
        assert [(trace["name"], trace["x"]) for trace in figure["data"]] == [("centroid", [0.01]), ("finetune", [0.1])]
        assert "20 ms" in figure["layout"]["xaxis"]["ticktext"]
        with_memory = plotly.cost_plot(figures.cost(protocol_of(frame.assign(peak_bytes=[2**30, 2**31, NAN]))))
        assert [trace["x"] for trace in with_memory["data"] if trace.get("xaxis") == "x2"] == [[1.0], [2.0]]

    def test_a_sweep_has_a_line_per_tau_and_shot_and_a_ring(self):
        frame = pd.DataFrame(
            {
                "lambda": [0, 0.5, 0, 0.5] * 2,
                "tau": [0.1, 0.1, 0.5, 0.5] * 2,
                "shot": [1] * 4 + [5] * 4,
                "mean": np.arange(8.0),
                "median": np.arange(8.0),
                "ci95": 0.5,
                "is_best": [False, True, False, False] * 2,
            }
        ).sort_values(["tau", "lambda", "shot"], ignore_index=True)
        figure = plotly.sweep_plot(figures.sweep(frame, "s"))
        go.Figure(figure)
        assert [trace["name"] for trace in figure["data"]] == [
            "τ = 0.1, 1-shot", "τ = 0.1, 5-shot", "τ = 0.5, 1-shot", "τ = 0.5, 5-shot", "chosen",
        ]  # fmt: skip
        assert figure["data"][0]["x"] == [0, 0.5]

    def test_a_grid_without_numbers_says_why_there_is_no_curve(self):
        frame = pd.DataFrame(
            {"reading": ["in", "out"], "shot": 1, "mean": 1.0, "median": 1.0, "ci95": 1, "is_best": True}
        )
        assert "no axis" in plotly.sweep_plot(figures.sweep(frame, "s"))["layout"]["annotations"][0]["text"]


class TestRanks:
    def test_mean_ranks_over_datasets_worked_by_hand(self):
        frames = [
            frame_of(3, dataset=name, mean=means, protocol_fingerprint=name)
            for name, means in (("a", [60, 50, 40]), ("b", [60, 50, 40]), ("c", [50, 60, 40]))
        ]
        (ranking,) = rankings(pd.concat(frames, ignore_index=True))
        assert ranking.methods == ["m0", "m1", "m2"]
        assert ranking.mean_ranks == pytest.approx([4 / 3, 5 / 3, 3])
        assert ranking.critical_difference == pytest.approx(critical_difference(3, 3))
        figure = plotly.ranks_plot(figures.ranks(ranking))
        go.Figure(figure)
        assert figure["data"][0]["error_x"]["array"][0] == pytest.approx(ranking.critical_difference / 2, abs=1e-3)

    @pytest.mark.slow
    def test_a_page_ranks_as_a_comparison_does(self, tmp_path):
        results = store_study(tmp_path, methods=("third", "dataset"))
        frame = completed(current_leaderboard(OutcomeStore(results / "outcomes"), tmp_path / "none.csv"))
        compared = over_datasets(compare_tasks(OutcomeStore(results / "outcomes")))
        assert len(compared) == 2
        for ranking, result in zip(rankings(frame), compared, strict=True):
            assert ranking.name == f"{result.task} over birds, coins"
            assert ranking.methods == result.accuracies.columns.tolist()
            assert ranking.mean_ranks == pytest.approx(sorted(result.ranks.mean_ranks))
            assert ranking.p == pytest.approx(result.ranks.iman_davenport_p)

    def test_samplers_that_differ_in_a_setting_are_ranked_apart(self):
        frames = [
            frame_of(3, dataset=name, sampler=f"dirichlet (alpha={alpha})", protocol_fingerprint=f"{name}{alpha}")
            for alpha in (1, 2)
            for name in "ab"
        ]
        assert [ranking.name.partition(" over")[0] for ranking in rankings(pd.concat(frames, ignore_index=True))] == [
            "5-way 1-shot dirichlet (alpha=1), 15 queries per class",
            "5-way 1-shot dirichlet (alpha=2), 15 queries per class",
        ]

    def test_one_dataset_or_two_methods_are_too_few(self):
        assert rankings(frame_of(3)) == []
        two = [frame_of(2, dataset=name, protocol_fingerprint=name) for name in "ab"]
        assert rankings(pd.concat(two, ignore_index=True)) == []


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    results = store_study(tmp_path_factory.mktemp("pictures"), episodes=240, methods=(*HOSTILE[:2], "$x^2$ method"))
    add_sweep(results)
    return write_page(results, results / "report.html", baseline=BASE)


class TestPictures:
    @pytest.mark.slow
    def test_each_figure_is_a_picture_of_its_size_and_the_same_bytes_again(self, content, tmp_path):
        files = draw_figures(content, tmp_path / "a")
        stems = {file.name.split("-")[0] for file in files}
        assert stems == {"forest", "distributions", "confused", "confusion", "shots", "ranks", "sweep"}
        assert len(files) == 2 * (4 + 4 + 4 + 4 + 2 + 2 + 1)
        again = draw_figures(content, tmp_path / "b")
        for first, second in zip(files, again, strict=True):
            assert first.read_bytes() == second.read_bytes(), first.name
            if first.suffix == ".png":
                picture = Image.open(io.BytesIO(first.read_bytes())).convert("L")
                assert min(picture.size) > 200
                assert np.asarray(picture).std() > 5  # something is drawn
            else:
                assert b"<dc:date>" not in first.read_bytes()

    def test_without_matplotlib_it_says_what_is_missing(self, content, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(NoPictureError, match="pip install matplotlib"):
            draw_figures(content, tmp_path)

    @pytest.mark.slow
    def test_without_scikit_posthocs_it_says_what_is_missing(self, content, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
        with pytest.raises(NoPictureError, match="pip install scikit-posthocs"):
            draw_figures(content, tmp_path)
