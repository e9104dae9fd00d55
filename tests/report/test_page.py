"""The page as text: what is in it, that it is all there, and that names stay names."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from page_studies import (
    BASE,
    BETTER,
    HOSTILE,
    add_sweep,
    content_of,
    figures_in,
    frame_of,
    protocol_of,
    store_study,
    table_rows,
    with_tests,
)
from stored_cells import PROTOCOL, cell, fill

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report.content import MOST_CARDS, PageContent, Pairs, Quantiles, gather
from fewshot_bench.report.leaderboard import current_leaderboard
from fewshot_bench.report.page import page_html, write_page
from fewshot_bench.report.page.leaderboard_table import COLUMNS, leaderboard_table, number_text
from fewshot_bench.report.scores import task_columns

BOX = Quantiles(20.1, 40.2, 50.3, 60.4, 80.5, 51.6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    results = store_study(tmp_path_factory.mktemp("page"), methods=HOSTILE)
    add_sweep(results)
    write_page(results, results / "report.html", baseline=BASE, title="A <title> & more")
    return results


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def body_of(page):
    """The page without its scripts and style: what a browser shows."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


class TestContent:
    @pytest.mark.slow
    def test_every_stored_cell_is_a_row_with_the_numbers_of_the_leaderboard(self, folder, page):
        frame = current_leaderboard(OutcomeStore(folder / "outcomes"), folder / "none.csv", BASE)
        rows = table_rows(page)
        assert len(rows) == len(frame) == 4 * (2 + len(HOSTILE))
        for row, record in zip(rows, frame.to_dict("records"), strict=True):
            numbers = {re.sub("<.*?>", "", text) for text in row}
            assert {f"{record['median']:.2f}", f"{record['mean']:.2f}", f"{record['ci95']:.2f}"} <= numbers
            assert np.isnan(record["difference"]) or f"{record['difference']:+.2f}" in numbers

    def test_the_first_paragraph_says_what_was_found(self, page):
        (finding,) = re.findall(r'<p class="finding">(.*?)</p>', page)
        assert re.fullmatch(
            r"On \w+ at \d shots?, ce\+schane is better than ce, for other classes too: "
            r"\+[\d.]+ points \(95% interval \+[\d.]+ to \+[\d.]+\)\.",
            finding,
        )

    def test_the_second_paragraph_says_how_it_is_known(self, page):
        (finding,) = re.findall(r'<p class="evidence">(.*?)</p>', page)
        assert re.search(rf"{re.escape(BETTER)} against {re.escape(BASE)} on .* points, 95% interval", finding)
        assert re.search(r"over classes and images \(±[\d.]+ over episodes\): better \(p", finding)
        assert "On 4 of 4 protocols a method is better than the baseline" in finding

    @pytest.mark.slow
    def test_the_figures_hold_both_intervals_of_every_tested_method(self, folder, page):
        frame = current_leaderboard(OutcomeStore(folder / "outcomes"), folder / "none.csv", BASE)
        figures = figures_in(page)["protocols"]
        assert len(figures) == 4
        row = frame[(frame["method"] == BETTER) & (frame["dataset"] == "birds") & (frame["shot"] == 1)].iloc[0]
        data, *task = figures[0]["differences-plot"]["data"]
        better = next(trace for trace in task if trace.get("name") == "better")
        assert better["x"] == [pytest.approx(row["difference"], abs=1e-3)]
        assert better["error_x"]["array"] == [pytest.approx(row["diff_ci95_high"] - row["difference"], abs=1e-3)]
        assert data["error_x"]["array"][0] == pytest.approx(row["diff_data_ci95_high"] - row["difference"], abs=1e-3)
        assert data["error_x"]["thickness"] < better["error_x"]["thickness"]

    def test_every_figure_is_one_that_plotly_knows(self, page):
        figures = figures_in(page)
        for group in [*figures["protocols"], figures["fixed"]]:
            for figure in group.values():
                go.Figure(figure)  # raises on a property that does not exist

    def test_sweeps_and_ranks_are_there_when_they_exist(self, folder, page):
        fixed = figures_in(page)["fixed"]
        assert {"ranking-0", "ranking-1", "shots-0", "shots-1", "sweep-0"} == set(fixed)
        chosen = fixed["sweep-0"]["data"][-1]
        assert (chosen["name"], chosen["x"], chosen["y"]) == ("chosen", [0.5], [62.0])
        assert 'id="sweeps"' in page

    def test_a_run_card_holds_all_that_the_cell_records(self, page):
        first = re.search(r"<details>.*?</details>", page, re.DOTALL)[0]
        for fact in (
            "fewshot-bench run --dataset birds",
            "fewshot-bench run --loss &#39;&lt;b&gt;&#39;",
            "0123abc",
            "A &lt;processor&gt;",
            "20 classes of 600 images",
            "source: archive.zip",
            "torch: 2.3.0",
            "ab" * 32,
            "1.00 GiB",
            "kept",
        ):
            assert fact in first, fact
        assert re.search(r"^Python +not recorded$", first, re.MULTILINE)
        assert page.count("<details>") == 4 * (2 + len(HOSTILE))

    def test_every_column_in_the_table_is_defined_below_it(self, page):
        header = json.loads(re.search(r'"table_html": (".*")', page)[1])
        columns = re.findall(r'<span title="(.*?)">(.*?)</span>', header)
        assert {"Method", "Median %", "± tasks", "± data", "Group", "p (Holm)"} <= {name for _, name in columns}
        definitions = body_of(page).partition('id="definitions"')[2]
        for column in COLUMNS:
            if any(name == column.header for _, name in columns):
                assert f"<dt>{column.header}</dt>" in definitions

    def test_published_rows_are_marked_and_join_the_figures_of_their_setting(self):
        frame = frame_of(3)
        published = frame.iloc[[0]].assign(method="Paper (2023)", source="Long et al. (2023)", median=74.5, mean=74.5)
        frame = with_tests(
            pd.concat([frame, published], ignore_index=True), [np.nan, -1, -3, 4.5], [np.nan, 1, 0, 0], "m0"
        )
        content = content_of(frame)
        html = page_html(content, "t")
        marked = [row for row in table_rows(html) if "published" in row[0]]
        assert [row[0] for row in marked] == [
            '<i class="published">Paper (2023)</i> <span class="tag">published</span>'
        ]
        assert any("Long et al. (2023)" in cell for cell in marked[0])
        forest = figures_in(html)["protocols"][0]["differences-plot"]["data"]
        better = next(trace for trace in forest if trace.get("name") == "better")
        assert better["marker"]["symbol"] == ["triangle-right-open"]

    @pytest.mark.slow
    def test_protocols_of_one_setting_keep_their_own_published_rows_and_names(self, tmp_path):
        store = OutcomeStore(tmp_path / "outcomes")
        for own in ({}, {"seed": 1}, {"sampler": "disjoint"}, {"split": "validation"}, {"dataset": "birds"}):
            fill(store, cell("mine", **{"dataset": "cifar-fs", **own}), np.array([[30, 31, 32]]))
        content = write_page(tmp_path, tmp_path / "page.html")
        frame = current_leaderboard(store, tmp_path / "none.csv")
        published = frame[frame["source"] != "measured"].groupby("protocol_fingerprint").size()
        found = {protocol.name: len(protocol.rows) - 1 for protocol in content.protocols}
        assert set(found) == {
            "cifar-fs 5-way 1-shot, seed 0",
            "cifar-fs 5-way 1-shot, seed 1",
            "cifar-fs 5-way 1-shot disjoint",
            "cifar-fs (validation split) 5-way 1-shot",
            "birds 5-way 1-shot",
        }
        assert sorted(count for count in found.values() if count) == sorted(published)
        assert found["cifar-fs 5-way 1-shot, seed 0"] == found["cifar-fs 5-way 1-shot, seed 1"] > 5

    def test_published_rows_of_a_stored_study_are_marked_and_never_the_best(self, tmp_path):
        store = OutcomeStore(tmp_path / "outcomes")
        fill(store, cell("mine", dataset="cifar-fs", shot=1), np.array([[30, 45, 50]]))
        write_page(tmp_path, tmp_path / "page.html")
        rows = table_rows((tmp_path / "page.html").read_text(encoding="utf-8"))
        published = [row for row in rows if 'class="tag">published' in row[0]]
        assert len(published) == len(rows) - 1 > 5
        assert not [row for row in published if "<b>" in "".join(row)]

    def test_the_best_of_a_protocol_is_bold_and_groups_that_share_its_letter_are_underlined(self):
        frame = frame_of(4, group=["a", "ab", "b", "c"])
        rows = table_rows(page_html(content_of(frame), "t"))
        assert [("<b>" in "".join(row)) for row in rows] == [True, False, False, False]
        assert [re.sub("</?u>", "", text) for row in rows for text in row if "<u>" in text] == ["a", "ab"]

    def test_an_older_leaderboard_without_the_new_columns_still_makes_a_page(self, tmp_path):
        store = OutcomeStore(tmp_path / "outcomes")
        fill(store, cell("a"), np.array([[30, 45, 50]]))
        old = frame_of(1, method=["a"]).drop(columns=["group", "p_corrected", "data_ci95", "source", "backbone"])
        html = page_html(gather(store, old, tmp_path), "t")
        assert len(table_rows(html)) == 1

    def test_many_methods_are_limited_and_the_figure_says_so(self):
        frame = with_tests(frame_of(60), [float("nan"), *np.linspace(-1, -9, 59)], [float("nan"), *[0.0] * 59], "m0")
        figures = figures_in(page_html(content_of(frame), "t"))["protocols"][0]
        assert "the best 30 of 59" in figures["differences-plot"]["layout"]["title"]["text"]
        assert sum(len(trace["y"]) for trace in figures["differences-plot"]["data"] if trace.get("name")) == 30

    @pytest.mark.slow
    def test_the_episodes_themselves_are_not_in_the_page(self, tmp_path):
        few = write_page(store_study(tmp_path / "few"), tmp_path / "few.html")
        many = write_page(store_study(tmp_path / "many", episodes=600), tmp_path / "many.html")
        assert len(few.protocols) == len(many.protocols)
        grown = (tmp_path / "many.html").stat().st_size - (tmp_path / "few.html").stat().st_size
        assert abs(grown) < 30_000  # for 4,560 episodes, in which more pairs of classes meet

    @pytest.mark.slow
    def test_500_methods_on_8_protocols_fit_into_10_mb_going_by_how_the_page_grows(self):
        """The figures of 60 methods are as full as those of 500 but for the marks of the costs, which grow by row."""
        few, more = (size_with(methods, cards=100) for methods in (60, 90))
        per_row, per_card = (more - few) / (8 * 30), (size_with(60, cards=150) - few) / 50
        assert few + per_row * 8 * (500 - 60) + per_card * (MOST_CARDS - 100) < 10_000_000
        assert per_row > 100  # the rows are there

    @pytest.mark.slow
    def test_figures_of_500_methods_are_no_larger_than_those_of_60(self):
        figures = [figures_in(page_html(large_content(methods), "t"))["protocols"][0] for methods in (60, 500)]
        for name in ("differences-plot", "distributions-plot", "pairs-plot"):
            few, many = (len(json.dumps(group[name])) for group in figures)
            assert many < 1.1 * few, name


def large_content(methods, cards=0):
    """One protocol whose methods have names, tests and costs of the usual length, and so many cards."""
    names = [f"backbone_{number % 20}/base-ce@epochs={number}/finetune-head" for number in range(methods)]
    gone = float("nan")
    frame = frame_of(methods, method=names, peak_bytes=2.0**30 + np.arange(methods), group="abc", adaptation="head")
    frame = with_tests(frame, [gone, *np.linspace(-0.1, -9, methods - 1)], [gone, *[0.03] * (methods - 1)], names[0])
    apart = np.subtract.outer(np.arange(25.0), np.arange(25.0)) / 7
    pairs = Pairs(
        names[:25],
        apart,
        np.full((25, 25), 0.012),
        np.full((25, 25), 0.03),
        np.full((25, 25), 600),
        left_out=methods - 25,
    )
    shown = PageContent(frame, [protocol_of(frame, quantiles=dict.fromkeys(names[:30], BOX), pairs=pairs)])
    return replace(shown, cells=[(names[0], cell(names[0]))] * cards)


def size_with(methods, cards):
    one = large_content(methods, cards)
    frames = [one.frame.assign(protocol_fingerprint=f"{number:064d}") for number in range(8)]
    frame = pd.concat(frames, ignore_index=True)
    return len(page_html(replace(one, frame=frame, protocols=list(one.protocols) * 8), "t").encode())


TASK_COLUMNS = list(task_columns(PROTOCOL))


class TestColumnsThatTellRowsApart:
    def test_every_column_that_says_what_the_tasks_are_is_one_of_them(self):
        marked = {column.name for column in COLUMNS if column.tells_apart}
        assert set(TASK_COLUMNS) <= marked

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [*TASK_COLUMNS, "baseline", "beyond"])
    def test_one_is_shown_exactly_where_rows_differ_in_it(self, name):
        alike = frame_of(2, group=["a", "b"]).assign(sampler="standard", baseline="m0", beyond="classes and images")
        first, other = alike[name].iloc[0], 7 if name in ("way", "shot", "queries", "seed") else "another"
        table = leaderboard_table(alike.assign(**{name: [first, other]}), [[0, 1]])
        (column,) = [column for column in table.columns if column.name == name]
        assert column.is_shown
        place = table.columns.index(column)
        assert [row[place] for row in table.rows] == [str(first), str(other)]
        same = leaderboard_table(alike, [[0, 1]])
        assert all(column.name not in {name} - {"dataset", "shot"} for column in same.columns)

    def test_they_stand_before_the_numbers(self):
        frame = frame_of(2).assign(way=[5, 12], seed=[0, 1])
        names = [column.name for column in leaderboard_table(frame, [[0], [1]]).columns]
        assert names.index("way") < names.index("seed") < names.index("median")

    def test_protocols_that_differ_in_nothing_else_have_the_start_of_their_fingerprints(self):
        frame = frame_of(2).assign(protocol_fingerprint=["a1" * 32, "b2" * 32])
        table = leaderboard_table(frame, [[0], [1]])
        (place,) = [place for place, column in enumerate(table.columns) if column.header == "Protocol"]
        assert table.columns[place].is_shown
        assert [row[place] for row in table.rows] == ["a1a1a1a1", "b2b2b2b2"]
        told_by_way = leaderboard_table(frame.assign(way=[5, 12]), [[0], [1]])
        assert "Protocol" not in [column.header for column in told_by_way.columns]

    def test_run_cards_of_one_method_are_told_apart_by_the_names_of_the_protocols(self, tmp_path):
        store = OutcomeStore(tmp_path / "outcomes")
        for seed in (0, 1):
            fill(store, cell("mine", dataset="birds", seed=seed), np.array([[30, 31, 32]]))
        write_page(tmp_path, tmp_path / "page.html")
        titles = re.findall(r"<details><summary>(.*?)</summary>", (tmp_path / "page.html").read_text(encoding="utf-8"))
        assert titles == ["mine, birds 5-way 1-shot, seed 0", "mine, birds 5-way 1-shot, seed 1"]


class TestColumnsOfTheTwoClaims:
    def frame(self):
        frame = with_tests(frame_of(3, group=["a", "a", "b"]), [np.nan, -1, -3], [np.nan, 1e-9, 0.0421], "m0")
        words = ["", "worse on this split", "worse"]
        return frame.assign(group_split=["a", "b", "b"], verdict=words, p_beyond=[np.nan, 0.31, 1e-5]).assign(
            p_beyond_corrected=[np.nan, 0.62, 2e-5]
        )

    def test_the_rank_and_the_verdict_are_shown_and_letters_and_p_are_a_click_away(self):
        columns = {column.header: column for column in leaderboard_table(self.frame(), [[0, 1, 2]]).columns}
        shown = {name for name, column in columns.items() if column.is_shown}
        assert shown == {"Method", "Dataset", "Shot", "Mean %", "± tasks", "Rank", "Difference", "Verdict"}
        assert {"p", "p beyond", "p (Holm)", "p beyond (Holm)", "Group", "Group, split"} <= set(columns)

    def test_without_a_correction_each_p_stands_for_itself(self):
        table = leaderboard_table(self.frame().assign(correction="none"), [[0, 1, 2]])
        headers = {column.header for column in table.columns}
        assert {"p", "p beyond"} <= headers
        assert not any("(" in header for header in headers)

    def test_without_a_baseline_the_verdict_is_that_against_the_best(self):
        frame = frame_of(2, against_best=["best", "worse"], data_ci95=3.0)
        shown = [column.header for column in leaderboard_table(frame, [[0, 1]]).columns if column.is_shown]
        assert shown == ["Method", "Dataset", "Shot", "Mean %", "Rank", "Against the best"]

    def test_ranks_are_within_a_protocol_and_a_kind_and_published_rows_have_none(self):
        frame = frame_of(5).assign(is_transductive=[False, False, True, False, True])
        frame.loc[1, "source"] = "a paper"
        other = frame_of(2).assign(protocol_fingerprint="q" * 64, mean=[50.0, 50.0], median=[50.0, 50.0])
        table = leaderboard_table(pd.concat([frame, other], ignore_index=True), [[*range(5)], [5, 6]])
        (place,) = [place for place, column in enumerate(table.columns) if column.name == "rank"]
        assert [str(row[place]) for row in table.rows] == ["1", "", "1", "2", "2", "1", "1"]

    def test_what_a_reader_should_know_stands_below_the_name(self):
        frame = frame_of(2).assign(flags=["transductive; <odd>", ""])
        rows = leaderboard_table(frame, [[0, 1]]).rows
        assert [str(row[0]) for row in rows] == ['m0 <span class="flags">&lt;odd&gt;</span>', "m1"]

    def test_both_sets_of_letters_are_underlined_where_they_are_those_of_the_best(self):
        rows = table_rows(page_html(content_of(self.frame()), "t"))
        assert [[text for text in row if "<u>" in text] for row in rows] == [
            ["<u>a</u>", "<u>a</u>"],
            ["<u>a</u>"],
            [],
        ]

    def test_p_is_text_for_people_with_the_number_to_sort_by(self):
        rows = table_rows(page_html(content_of(self.frame()), "t"))
        assert '<span data-p="1e-09">&lt; 0.001</span>' in rows[1]
        assert '<span data-p="0.0421">0.042</span>' in rows[2]


class TestNamesStayNames:
    def test_no_name_is_markup_in_the_page(self, page):
        shown = body_of(page)
        assert "<img" not in shown
        assert "alert(1)</script>" not in shown
        assert 'href="javascript' not in page
        assert "<title>A &lt;title&gt; &amp; more</title>" in page
        for name in HOSTILE:
            assert name not in shown or name in ("=cmd()", "%{x} {{ 7 * 7 }} $\\alpha$")

    def test_no_name_ends_a_script(self, page):
        scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.DOTALL)
        assert len(scripts) == 5
        assert page.count("</script") == 5

    def test_no_name_is_markup_in_a_cell_of_the_table(self, page):
        allowed = re.compile(r'</?(b|u|i|span)( class="(published|tag|task|flags)"| data-p="[\d.e-]+")?>')
        for row in table_rows(page):
            for text in row:
                assert "<" not in allowed.sub("", text)

    def test_no_name_is_markup_for_plotly(self, page):
        texts = [text for text in strings_in(figures_in(page)) if "alert" in text or "quoted" in text]
        assert texts
        for text in texts:
            assert "<" not in re.sub(r"</?b>|<br>|<extra></extra>", "", text.replace("<b>bold</b>", "<x>"))

    def test_dataset_and_sweep_names_are_escaped_too(self, tmp_path):
        results = tmp_path / "results"
        store = OutcomeStore(results / "outcomes")
        fill(store, cell("a", dataset="<svg onload=alert(1)>"), np.array([[30, 45, 50]]))
        add_sweep(results, name="<img src=x>")
        write_page(results, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "<svg onload" not in page
        assert "<img src=x>" not in page


def strings_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)


class TestSelfContained:
    def test_nothing_is_fetched(self, page):
        tags = re.findall(r"<(?:script|link|img|iframe|source|object|embed|video|audio)\b[^>]*>", body_and_tags(page))
        assert [tag for tag in tags if re.search(r"\bsrc\s*=", tag)] == []
        assert re.findall(r"<link\b[^>]*>", body_and_tags(page)) == ['<link rel="icon" href="data:,">']
        links = re.findall(r'\bhref="([^"]*)"', body_and_tags(page))
        assert links
        assert all(link.startswith("#") or link == "data:," for link in links)
        style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
        assert "@import" not in style
        assert "url(" not in style

    def test_the_libraries_are_packed_and_plotly_is_there_once(self, page):
        texts = [text for kind, text in scripts_of(page) if "application/gzip" in kind]
        assert [text.count("* plotly.js v") for text in texts] == [0, 1]
        assert "DataTables" in base64.b64decode(max(re.findall(r"[A-Za-z0-9+/]+", texts[0]), key=len)).decode()

    def test_a_small_study_fits_into_3_mb(self, page):
        assert len(page.encode()) < 3_000_000

    def test_only_the_scripts_that_the_policy_lists_may_run(self, page):
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
        policy = policy.replace("&#39;", "'")
        assert "default-src 'none'" in policy
        assert "connect-src 'none'" in policy
        scripts = re.search(r"script-src (.*?);", policy)[1]
        assert "unsafe" not in scripts
        for _, text in scripts_of(page):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in scripts

    @pytest.mark.slow
    def test_the_same_outcomes_give_the_same_bytes(self, folder, page):
        write_page(folder, folder / "again.html", baseline=BASE, title="A <title> & more")
        assert (folder / "again.html").read_text(encoding="utf-8") == page

    def test_the_page_is_one_that_a_screen_reader_can_walk_through(self, page):
        shown = body_of(page)
        assert '<html lang="en">' in page
        assert shown.count("<h1") == 1
        assert all(shown.count(f"<{landmark}") == 1 for landmark in ("main", "header>", "footer", "nav"))
        assert '<a class="skip" href="#leaderboard">' in shown
        for anchor in re.findall(r'href="#([^"]+)"', shown):
            assert f'id="{anchor}"' in shown
        for label in re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', shown):
            assert shown.count(f'id="{label}"') == 1
        assert '<label for="protocol">' in shown

    def test_without_scripts_the_first_rows_are_there(self, page):
        table = re.search(r'<table id="leaderboard-table">.*?</table>', body_of(page), re.DOTALL)[0]
        assert table.count("<tr>") == 11
        assert BETTER in table


def scripts_of(page):
    """Attributes and text of each script, as it is after it was unpacked."""
    scripts = re.findall(r"<script\b([^>]*)>(.*?)</script>", page, re.DOTALL)
    return [
        (kind, gzip.decompress(base64.b64decode(text)).decode() if "application/gzip" in kind else text)
        for kind, text in scripts
    ]


def body_and_tags(page):
    """The page without what stands between the tags of scripts and styles."""
    return re.sub(r"(<(script|style)\b[^>]*>).*?</\2>", r"\1", page, flags=re.DOTALL)


class TestRefusals:
    def test_nothing_stored_says_how_to_begin(self, tmp_path):
        with pytest.raises(OutcomeError, match="Make some with: fewshot-bench run"):
            write_page(tmp_path, tmp_path / "report.html")
        assert not (tmp_path / "report.html").exists()

    @pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "shot,mean,ci95,is_best\n1,2,3,maybe\n"])
    def test_a_table_that_is_no_sweep_is_refused(self, tmp_path, text):
        fill(OutcomeStore(tmp_path / "outcomes"), cell("a"), np.array([[30, 45, 50]]))
        add_sweep(tmp_path, text=text)
        with pytest.raises(OutcomeError, match=r"sweep\.csv .*Repeat that sweep"):
            write_page(tmp_path, tmp_path / "report.html")


def test_rates_of_the_page_are_plain_numbers_that_it_can_sort():
    assert [str(number_text(rate, "rate")) for rate in (33_021.2, 0.38, 0.0141)] == ["33021", "0.38", "0.014"]
