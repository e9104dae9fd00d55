"""Trainings that differ in their seed only are one method: ranked and tested once, with the spread over them."""

from __future__ import annotations

import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from page_studies import table_rows
from rich.console import Console
from stored_cells import cell, fill
from trained_cells import CE, RAW, SCHANE, store_trainings, training

from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import ComparisonError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import (
    SweptPoint,
    answers,
    as_latex,
    as_markdown,
    compare_tasks,
    comparison_record,
    labels_of_texts,
    leaderboard,
    leaderboard_records,
    over_datasets,
    print_comparisons,
    print_leaderboard,
    print_sweep,
    sweep_frame,
    update_leaderboard,
    with_labels,
)
from fewshot_bench.report.content import gather
from fewshot_bench.report.names import cells_of_method, resolve_method
from fewshot_bench.report.page import write_page
from fewshot_bench.report.trainings import training_seed, trainings_of_methods, without_seed, without_training_seed

LOGISTIC = "conv/base-ce/logistic"


def seeded(name: str, seed: int) -> str:
    backbone, stage, adaptation = name.split("/")
    return f"{backbone}/{stage}@seed={seed}/{adaptation}"


def to_text(write, width=200) -> str:
    console = Console(file=io.StringIO(), width=width)
    write(console)
    return re.sub(r"\s+", " ", console.file.getvalue())


def frame_of(results, baseline=CE) -> pd.DataFrame:
    return leaderboard(OutcomeStore(results / "outcomes"), baseline)


def compared(results, *methods, **options):
    return compare_tasks(OutcomeStore(results / "outcomes"), methods, **options)


def command(*arguments):
    def run(results, capsys):
        assert exit_code([*arguments, "--results", str(results)]) == 0
        return re.sub(r"\s+", " ", capsys.readouterr().out)

    return run


def page_of(results) -> str:
    write_page(results, results / "report.html", baseline=CE)
    return (results / "report.html").read_text(encoding="utf-8")


def page_text(results) -> str:
    table = " ".join(" ".join(row) for row in table_rows(page_of(results)))
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", table)))


def truncated(number: float) -> str:
    """The start that a number has in every table, whatever its digits."""
    return f"{np.floor(10 * number) / 10:.1f}"


TABLES = {
    "leaderboard in the terminal": lambda r, c: to_text(lambda t: print_leaderboard(frame_of(r), t)),
    "leaderboard command": command("leaderboard", "--baseline", CE),
    "Markdown": lambda r, c: as_markdown(frame_of(r)).replace("\\", ""),
    "LaTeX": lambda r, c: as_latex(frame_of(r)),
    "CSV": lambda r, c: csv_text(r),
    "JSON": lambda r, c: json.dumps(leaderboard_records(frame_of(r))),
    "page": lambda r, c: page_text(r),
}


def csv_text(results) -> str:
    update_leaderboard(OutcomeStore(results / "outcomes"), results / "leaderboard.csv", CE)
    return (results / "leaderboard.csv").read_text()


@pytest.mark.slow
def test_letters_and_underlines_say_that_they_claim_nothing_about_new_trainings(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    for name, gain in (("a", 0), ("b", 5), ("c", 9)):  # of one training each, as most are
        fill(store, cell(name), np.arange(30, 60)[None] + gain)
    frame = leaderboard(store, "a")
    words = "new trainings, which another seed would give"
    assert frame["group_split"].notna().all()
    assert f"no letter claims anything about {words}" in to_text(
        lambda console: print_leaderboard(frame, console, "split")
    )
    assert f"no letter claims anything about {words}" in to_text(
        lambda console: print_comparisons(compare_tasks(store), [], console, "split")
    )
    for table in (as_markdown, as_latex):
        assert f"These tests claim nothing about {words}." in table(frame, claim="split")
    write_page(tmp_path, tmp_path / "page.html", frame=frame, store=store)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("No letter claims anything about new trainings.") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("output", TABLES)
def test_every_table_has_a_row_per_training_and_the_spread_of_the_method(output, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    store_trainings(tmp_path, spread=3)
    text, frame = TABLES[output](tmp_path, capsys), frame_of(tmp_path)
    (row,) = frame[frame["method"] == SCHANE].to_dict("records")
    assert truncated(row["training_sd"]) in text
    for seed in range(3):
        (own,) = (
            frame[frame["training_seed"] == seed].query("training_of == @row['method_fingerprint']").to_dict("records")
        )
        assert truncated(own["mean"]) in text
        assert f"seed {seed} " in text if output.startswith("leaderboard") else seeded(SCHANE, seed) in text
    if output in ("leaderboard in the terminal", "leaderboard command", "Markdown", "LaTeX", "page"):
        assert "of these trainings" in text or "of these trainings" in page_of(tmp_path)


COMPARISONS = {
    "two": lambda r, c: to_text(lambda t: print_comparisons(compared(r, CE, SCHANE), [], t)),
    "command": command("compare", CE, SCHANE),
    "all": lambda r, c: to_text(lambda t: print_comparisons(compared(r), over_datasets(compared(r)), t)),
    "with a baseline": lambda r, c: to_text(lambda t: print_comparisons(compared(r, baseline=CE), [], t)),
    "sentence": lambda r, c: str(compared(r, CE, SCHANE)[0].comparisons[0]),
    "record": lambda r, c: json.dumps(comparison_record(compared(r, CE, SCHANE)[0].comparisons[0])),
}


@pytest.mark.slow
@pytest.mark.parametrize("output", COMPARISONS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_every_comparison_says_which_interval_covers_a_new_training(output, seeds, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    store_trainings(tmp_path, seeds=seeds, spread=3)
    text = COMPARISONS[output](tmp_path, capsys)
    if seeds > 1:
        assert "covers new trainings of both, on these episodes" in text
        assert ", of these trainings" in text
    else:
        assert re.search("no interval covers a new training", text, re.IGNORECASE)
        assert ", of these trainings" not in text


def test_a_training_is_known_by_the_seed_in_its_record_and_old_fingerprints_hold():
    first, second = training(CE, 0), training(CE, 1)
    assert [training_seed(of.method) for of in (first, second, training(RAW, None))] == [0, 1, None]
    assert without_training_seed(first.method) == without_training_seed(second.method)
    assert without_training_seed(training(RAW, None).method) == training(RAW, None).method
    assert first.method.fingerprint != second.method.fingerprint
    assert without_training_seed(training(SCHANE, 1).method) != without_training_seed(second.method)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("c/base-ce@seed=1/knn", "c/base-ce/knn"),
        ("c/base-ce@epochs=3,seed=-2/knn@k=3", "c/base-ce@epochs=3/knn@k=3"),
        ("c/protonet@lr=0.1,seed=1,way=5/centroid", "c/protonet@lr=0.1,way=5/centroid"),
        ("c/base-ce/finetune@seed=1", "c/base-ce/finetune@seed=1"),
        ("logistic", "logistic"),
    ],
)
def test_a_name_loses_the_training_seed_and_no_other(name, bare):
    assert without_seed(name) == bare


def test_the_epoch_of_a_validation_a_head_and_a_teacher_of_the_same_seed_follow_from_the_training():
    cells = [training(CE, seed) for seed in (0, 1)]
    for number, of in enumerate(cells):
        base = {**of.method.hyper_parameters["base"], "epoch": 5 + number, "teacher_weights": f"teacher {number}"}
        of.method.hyper_parameters.update({"base": base, "base_head": f"digest {number}", "task_head": f"{number}"})
    assert [len(group) for group in trainings_of_methods(cells)] == [2]


def test_a_seed_that_occurs_twice_makes_no_trainings():
    again = training(CE, 1, weights="trained again")
    groups = trainings_of_methods([training(CE, 0), training(CE, 1), again, training(SCHANE, 0), training(SCHANE, 1)])
    assert sorted(map(len, groups)) == [1, 1, 1, 2]


@pytest.mark.slow
def test_methods_are_tested_and_ranked_once_whatever_their_trainings(tmp_path):
    store_trainings(tmp_path, spread=3)
    frame = frame_of(tmp_path)
    methods = frame[frame["source"] == "measured"]
    assert methods["method"].tolist() == [SCHANE, CE, RAW]
    assert methods["group"].tolist() == ["a", "b", "c"]
    assert methods["against_best"].tolist()[0] == "best"
    tested = methods[methods["p"].notna()]
    assert np.allclose(sorted(tested["p_corrected"] / tested["p"]), [1, 2])  # Holm over two tests, not over six
    trainings = frame[frame["source"] == "one training"]
    assert len(trainings) == 6
    assert trainings[["group", "group_split", "against_best", "verdict", "baseline"]].isna().all(axis=None)
    assert trainings["p"].isna().all()
    assert [answer.best for answer in answers(frame)] == [SCHANE]
    assert "of these trainings" in answers(frame)[0].sentence
    assert [len(task.comparisons) for task in compared(tmp_path)] == [3]


@pytest.mark.slow
def test_a_method_without_seeds_has_the_numbers_it_had_beside_other_methods_trainings(tmp_path):
    store = store_trainings(tmp_path, spread=3)
    alone = leaderboard(store, cells=[of for of in store.cells() if of.method.name == RAW]).to_dict("records")[0]
    beside = frame_of(tmp_path).query("method == @RAW").to_dict("records")[0]
    assert [alone[name] for name in ("mean", "ci95", "data_ci95", "method_fingerprint")] == [
        beside[name] for name in ("mean", "ci95", "data_ci95", "method_fingerprint")
    ]
    assert np.isnan(beside["trainings"])


def test_one_training_is_a_row_as_before(tmp_path):
    store_trainings(tmp_path, seeds=1)
    frame = frame_of(tmp_path)
    assert frame["source"].eq("measured").all()
    assert frame.set_index("method").loc[CE, "method_fingerprint"] == training(CE, 0).method.fingerprint
    assert frame["trainings"].tolist()[:2] == [1, 1]
    assert frame[["training_sd", "training_ci95", "training_of"]].isna().all(axis=None)
    assert not frame["verdict"].str.contains("training", na=False).any()


def test_the_rows_of_trainings_stand_below_their_method_by_their_seeds(tmp_path):
    store_trainings(tmp_path, spread=3, with_raw=False)
    found = frame_of(tmp_path)
    assert found["method"].tolist() == [
        SCHANE, *(seeded(SCHANE, seed) for seed in range(3)), CE, *(seeded(CE, seed) for seed in range(3)),
    ]  # fmt: skip
    assert found["trainings"].tolist()[::4] == [3, 3]
    assert found["training_of"].tolist()[1] == found["method_fingerprint"][0]


@pytest.mark.slow
def test_the_numbers_of_a_method_are_those_of_its_mean_over_trainings(tmp_path):
    store_trainings(tmp_path, spread=3)
    frame = frame_of(tmp_path)
    method, own = frame[frame["method"] == SCHANE].iloc[0], frame[frame["method"].str.contains("schane@seed")]
    assert method["mean"] == pytest.approx(own["mean"].mean())
    assert method["training_sd"] == pytest.approx(own["mean"].std(ddof=1))
    assert method["training_ci95"] == pytest.approx(4.302653 * own["mean"].std(ddof=1) / np.sqrt(3), rel=1e-6)
    assert method["ci95"] < own["ci95"].max()
    assert method["training_ci95"] > 2 * method["ci95"]


@pytest.mark.slow
def test_a_verdict_goes_beyond_the_trainings_only_where_their_spread_allows_it(tmp_path):
    verdicts = {}
    for spread in (1, 6):
        store_trainings(tmp_path / str(spread), spread=spread, gain=5)
        (comparison,) = compared(tmp_path / str(spread), SCHANE, CE)[0].comparisons
        verdicts[spread] = comparison.verdict
        assert comparison.training.trainings_a == 3
    assert verdicts == {1: "better", 6: "better, of these trainings"}


def test_two_heads_on_the_same_networks_are_paired_by_network(tmp_path):
    store = store_trainings(tmp_path, spread=6, with_raw=False, names=(CE,))
    generator = np.random.default_rng(8)
    for seed in range(3):
        of = training(LOGISTIC, seed, weights=training(CE, seed).method.weights)
        of = replace(of, method=replace(of.method, hyper_parameters=training(CE, seed).method.hyper_parameters))
        own = np.concatenate([run["correct"].to_numpy() for _, run in store.read(training(CE, seed)).groupby("run")])
        fill(store, of, (own + 2 + generator.integers(0, 2, own.shape)).reshape(2, -1))
    (comparison,) = compared(tmp_path, LOGISTIC, CE)[0].comparisons
    assert comparison.training.is_paired
    assert comparison.verdict == "better"
    assert "the same networks in both" in comparison.training_sentence


def test_against_a_network_that_is_given_the_trainings_of_the_other_count(tmp_path):
    store = store_trainings(tmp_path, with_raw=False)
    given = replace(training(RAW, None), provenance={"pretraining": "ImageNet-1k"})
    fill(store, given, np.full((2, 30), 30))
    (comparison,) = compared(tmp_path, CE, RAW)[0].comparisons
    assert comparison.trainings == (3, 0)
    assert comparison.training.trainings_b == 0
    assert f"covers a new training of {CE}; {RAW} is a network that is given" in comparison.training_sentence


def test_against_a_single_training_nothing_covers_a_new_one(tmp_path):
    store_trainings(tmp_path)
    (comparison,) = compared(tmp_path, CE, seeded(SCHANE, 1))[0].comparisons
    assert comparison.training is None
    assert comparison.verdict.endswith(", of these trainings")
    assert comparison.training_sentence == f"No interval covers a new training: {seeded(SCHANE, 1)} has one training."


@pytest.mark.parametrize(
    ("wanted", "seeds"),
    [
        (CE, [0, 1, 2]),
        ("base-ce/", [0, 1, 2]),
        ("schane", [0, 1, 2]),
        (seeded(CE, 0), [0]),
        (seeded(CE, 2), [2]),
        ("base-ce@seed=1", [1]),
    ],
)
def test_a_name_without_a_seed_means_all_trainings_and_with_one_that_training(wanted, seeds, tmp_path):
    store = store_trainings(tmp_path)
    (found,) = cells_of_method(store.cells(), wanted).values()
    assert sorted(training_seed(of.method) for of in found) == seeds
    label = training(CE, 0).method.label
    assert [of.method.label for of in next(iter(cells_of_method(store.cells(), label).values()))] == [label]


@pytest.mark.slow
def test_a_method_without_its_first_seed_keeps_its_name_and_stays_the_baseline(tmp_path):
    store = store_trainings(tmp_path, seeds=0)
    for number, name in enumerate((CE, SCHANE)):
        for seed in (4, 7):
            fill(store, training(name, seed), np.full((2, 30), 40 + 5 * number) + np.arange(30) % (seed - 1))
    path = tmp_path / "leaderboard.csv"
    assert update_leaderboard(store, path, "base-ce@")["baseline"].dropna().unique().tolist() == [CE]
    again = update_leaderboard(store, path)
    assert again["baseline"].dropna().unique().tolist() == [CE]
    assert resolve_method([seeded(CE, 4), seeded(CE, 7), SCHANE], "ce@") == seeded(CE, 4)


def test_a_training_against_its_own_method_is_refused(tmp_path):
    store_trainings(tmp_path)
    with pytest.raises(ComparisonError, match="one is a training of the other"):
        compared(tmp_path, CE, seeded(CE, 1))
    (comparison,) = compared(tmp_path, seeded(CE, 0), seeded(CE, 1))[0].comparisons
    assert (comparison.a, comparison.trainings) == (seeded(CE, 0), (1, 1))


def test_a_method_has_the_episodes_that_all_of_its_trainings_have(tmp_path):
    store = store_trainings(tmp_path, seeds=2, with_raw=False, episodes=20)
    fill(store, training(CE, 2), np.full((1, 10), 40) + np.arange(10))
    frame = frame_of(tmp_path, None).set_index("method")
    assert frame.loc[CE, ["runs", "episodes", "trainings"]].tolist() == [1, 10, 3]
    assert frame.loc[seeded(CE, 1), ["runs", "episodes"]].tolist() == [2, 20]


def test_trainings_without_a_common_episode_stay_methods_of_their_own(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    fill(store, training(CE, 0), np.arange(30, 50)[None])
    store.append(training(CE, 1), 1, np.arange(20), np.zeros((20, 75), np.uint8), 0.1)
    frame = frame_of(tmp_path, None)
    assert sorted(frame["method"]) == [seeded(CE, 0), seeded(CE, 1)]
    assert frame["source"].eq("measured").all()


@pytest.mark.slow
def test_a_label_of_a_method_reaches_its_trainings(tmp_path):
    store_trainings(tmp_path)
    frame = frame_of(tmp_path)
    labelled = with_labels(frame, labels_of_texts(frame, [f"{CE}=Ours"]))
    assert [name for name in labelled["method"] if "Ours" in name] == ["Ours", *(f"Ours, seed {n}" for n in range(3))]


@pytest.mark.slow
def test_the_page_draws_methods_and_has_a_card_per_training(tmp_path):
    store = store_trainings(tmp_path, spread=3)
    content = gather(store, frame_of(tmp_path), tmp_path)
    (protocol,) = content.protocols
    assert list(protocol.quantiles) == protocol.pairs.methods == [SCHANE, CE, RAW]
    assert protocol.pairs.verdict(0, 1) == "better, of these trainings"
    assert (protocol.by_class.a, protocol.by_class.b) == (SCHANE, CE)
    assert len(content.cells) == 7
    rows = table_rows(page_of(tmp_path))
    assert [any("<b>" in text for text in row) for row in rows] == [True] + [False] * 8
    assert sum("one training" in row[0] for row in rows) == 6


@pytest.mark.slow
def test_the_points_of_a_sweep_are_means_over_their_trainings(tmp_path):
    store = store_trainings(tmp_path, spread=3, with_raw=False)
    points = [
        SweptPoint({"lambda": number}, [training(name, seed) for seed in range(3)])
        for number, name in enumerate((CE, SCHANE))
    ]
    frame = sweep_frame(store, points, episodes=30, runs=2)
    assert frame["is_best"].tolist() == [False, True]
    assert frame["trainings"].tolist() == [3, 3]
    expected = frame_of(tmp_path).query("method in (@CE, @SCHANE)").set_index("method")["mean"]
    assert frame["mean"].tolist() == pytest.approx([expected[CE], expected[SCHANE]])
    text = to_text(lambda console: print_sweep(frame, "birds", console))
    assert "means over 3 trainings" in text
    alone = sweep_frame(store, [SweptPoint({"lambda": 0}, [training(CE, 0)])], episodes=30, runs=2)
    assert "trainings" not in alone


def test_cells_without_a_record_of_a_training_are_methods_as_before():
    cells = [cell("a"), cell("b"), cell("a", weights="others")]
    assert trainings_of_methods(cells) == [[of] for of in cells]
