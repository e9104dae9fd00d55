"""All outcomes as a tidy table, which gives the same comparisons when it is imported again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from accuracy_files import ACCURACY, CLASSES, EPISODES, imported, long, wide

from fewshot_bench.episodes.sampler import episode_classes
from fewshot_bench.errors import AccuracyFileError, OutcomeError, UnknownNameError
from fewshot_bench.interop import export_outcomes, import_outcomes
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.report import compare_tasks, comparison_record

SIZES = (40,) * 12
PROTOCOL = ProtocolCard("toy", "ab" * 32, "novel", 5, 1, 15, 0, 1)
PROTOCOLS = (PROTOCOL, replace(PROTOCOL, seed=1), replace(PROTOCOL, shot=5))
READERS = {
    ".csv": lambda path: pd.read_csv(path, dtype={"classes": str}),
    ".parquet": pd.read_parquet,
}


def drawn(folder, *, protocols=PROTOCOLS) -> OutcomeStore:
    """Two methods of our own on several protocols, of which two differ in the seed alone."""
    store = OutcomeStore(folder)
    generator = np.random.default_rng(4)
    for protocol in protocols:
        for name, chance in (("conv/centroid", 0.6), ("conv/logistic", 0.65)):
            cell = Cell(MethodCard(name, "conv", "ab", name), protocol, class_sizes=SIZES)
            truth = np.repeat(np.arange(5), 15)
            for run in range(2):
                right = generator.random((30, 75)) < chance
                store.append(cell, run, np.arange(30), np.where(right, truth, (truth + 1) % 5).astype(np.uint8), 0.1)
    return store


def numbers(store: OutcomeStore) -> list[dict[str, object]]:
    """What all comparisons show, but for what they are about."""
    about = ("note", "sampler", "seed", "queries", "dataset_fingerprint", "protocol_fingerprint")
    tasks = sorted(
        compare_tasks(store), key=lambda task: (task.protocol.shot, task.comparisons[0].test.mean_difference)
    )
    records = [comparison_record(comparison) for task in tasks for comparison in task.comparisons]
    return [{key: value for key, value in record.items() if key not in about} for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", READERS)
def test_export_then_import_gives_the_same_comparisons(suffix, tmp_path):
    store = drawn(tmp_path / "outcomes")
    export_outcomes(store, tmp_path / f"all{suffix}")
    again = OutcomeStore(tmp_path / "again")
    import_outcomes([tmp_path / f"all{suffix}"], again)
    expected, found = numbers(store), numbers(again)
    assert len(expected) == len(found) == 3
    for one, other in zip(expected, found, strict=True):
        assert other == {key: pytest.approx(value) if isinstance(value, float) else value for key, value in one.items()}
        assert other["diff_data_ci95_high"] is not None
    assert {cell.protocol.sampler for cell in again.cells()} == {"claimed"}


@pytest.mark.parametrize("suffix", READERS)
def test_what_was_imported_is_exported_to_the_last_digit(suffix, tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    frame = long().assign(classes=CLASSES * 2)
    frame.to_csv(tmp_path / "acc.csv", index=False)
    imported(store, tmp_path / "acc.csv")
    path = tmp_path / f"all{suffix}"
    assert export_outcomes(store, path) == 2 * EPISODES
    found = READERS[suffix](path)
    assert list(found.columns) == [
        *("method", "is_transductive", "dataset", "split", "way", "shot", "tasks"),
        *("run", "episode", "accuracy", "correct", "queries", "classes"),
    ]
    by_name = found.set_index(["method", "episode"]).sort_index()
    expected = frame.set_index(["method", "episode"]).sort_index()
    assert by_name["accuracy"].tolist() == expected["accuracy"].tolist()
    assert by_name["classes"].tolist() == expected["classes"].tolist()
    assert by_name["correct"].isna().all()
    assert by_name["queries"].isna().all()
    assert by_name["is_transductive"].isna().all()  # an import need not say it
    assert set(found["tasks"]) == {"acc"}


def test_our_own_rows_have_their_classes_counts_and_queries(tmp_path):
    store = drawn(tmp_path / "outcomes", protocols=(PROTOCOL,))
    export_outcomes(store, tmp_path / "all.parquet")
    found = pd.read_parquet(tmp_path / "all.parquet")
    assert (found["accuracy"] == found["correct"] / found["queries"]).all()
    rows = found[(found["run"] == 1) & (found["method"] == "conv/centroid")]
    expected = np.sort(episode_classes(PROTOCOL, SIZES, 1, np.arange(30)), axis=1)
    assert [list(map(int, text.split(";"))) for text in rows["classes"]] == expected.tolist()


def test_episodes_of_uneven_queries_have_each_its_own_number(tmp_path):
    card = replace(PROTOCOL, sampler="varied", sampler_settings={"least_way": 2, "least_shot": 1})
    store = OutcomeStore(tmp_path / "outcomes")
    cell = Cell(MethodCard("conv/centroid", "conv", "ab", "centroid"), card)
    for way in (2, 5):
        store.append(cell, 0, np.array([way]), np.zeros((1, 15 * way), np.uint8), 0.1)
    export_outcomes(store, tmp_path / "all.parquet")
    found = pd.read_parquet(tmp_path / "all.parquet")
    assert found["queries"].tolist() == [30, 75]
    assert found["classes"].isna().all()


def test_formulas_are_guarded_and_come_back(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    frame = wide({"=SUM(A1)": ACCURACY["maml"], "@cmd": ACCURACY["proto"]})
    frame.assign(classes=";".join(["-1", "=2", "a", "b", "c"])).to_csv(tmp_path / "acc.csv", index=False)
    imported(store, tmp_path / "acc.csv")
    export_outcomes(store, tmp_path / "all.csv")
    read = pd.read_csv(tmp_path / "all.csv")
    assert set(read["method"]) == {"'=SUM(A1)", "'@cmd"}
    assert set(read["classes"]) == {"'-1;=2;a;b;c"}
    again = OutcomeStore(tmp_path / "again")
    import_outcomes([tmp_path / "all.csv"], again)
    assert {cell.key for cell in again.cells()} == {cell.key for cell in store.cells()}
    assert all(again.read(cell).equals(store.read(cell)) for cell in store.cells())


def test_methods_and_datasets_can_be_chosen(tmp_path):
    store = drawn(tmp_path / "outcomes")
    wide().to_csv(tmp_path / "acc.csv", index=False)
    imported(store, tmp_path / "acc.csv")
    assert export_outcomes(store, tmp_path / "all.csv", methods=["centroid"]) == 3 * 60
    assert export_outcomes(store, tmp_path / "all.csv", datasets=["cifar-fs"]) == 2 * EPISODES
    with pytest.raises(OutcomeError, match="no such outcomes"):
        export_outcomes(store, tmp_path / "all.csv", datasets=["fc100"])
    with pytest.raises(UnknownNameError):
        export_outcomes(store, tmp_path / "all.csv", methods=["nothing like it"])


def test_another_suffix_is_refused_and_an_older_file_stays_where_an_export_fails(tmp_path):
    store = drawn(tmp_path / "outcomes")
    with pytest.raises(AccuracyFileError, match=r"\.csv or \.parquet"):
        export_outcomes(store, tmp_path / "all.xlsx")
    export_outcomes(store, tmp_path / "all.csv")
    before = (tmp_path / "all.csv").read_bytes()
    part = next(store.folder.rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(OutcomeError, match="damaged"):
        export_outcomes(OutcomeStore(store.folder), tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "outcomes"]
