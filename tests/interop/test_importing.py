"""Accuracies from elsewhere: what is read, what is refused, and what is paired."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accuracy_files import (
    ACCURACY,
    CLASSES,
    CORRECT,
    EPISODES,
    LAYOUTS,
    TASKS,
    UNNAMED,
    difference,
    imported,
    long,
    wide,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewshot_bench.errors import AccuracyFileError, ComparisonError
from fewshot_bench.interop import ImportOptions, import_outcomes
from fewshot_bench.interop import accuracy_files as bounds
from fewshot_bench.interop import accuracy_files as readers
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.claimed import ACCURACY_FILES
from fewshot_bench.report import compare, compare_tasks
from fewshot_bench.report.scores import stored_scores
from fewshot_bench.statistics import paired_t_test


@pytest.fixture
def store(tmp_path):
    return OutcomeStore(tmp_path / "outcomes")


def csv(folder: Path, text: str, name: str = "acc.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_comparison(layout, store, tmp_path):
    path = LAYOUTS[layout](tmp_path)
    imported(store, path, methods=("proto", "maml") if layout in UNNAMED else ())
    expected = paired_t_test(ACCURACY["proto"], ACCURACY["maml"])
    found = difference(store)
    assert found == pytest.approx((expected.mean_difference, expected.p, EPISODES))


def test_every_kind_of_file_that_is_promised_has_a_reader():
    assert set(readers._READERS) == set(ACCURACY_FILES)


def test_a_vector_has_the_one_method_that_is_named(store, tmp_path):
    for name, values in ACCURACY.items():
        np.save(tmp_path / f"{name}.npy", values.astype(np.float32))
        imported(store, tmp_path / f"{name}.npy", methods=(name,), tasks="both")
    assert difference(store)[2] == EPISODES


def test_counts_need_the_queries_and_give_exact_fractions(store, tmp_path):
    frame = pd.DataFrame({"episode": range(EPISODES), "correct": CORRECT["maml"]})
    frame.to_csv(tmp_path / "acc.csv", index=False)
    with pytest.raises(AccuracyFileError, match="--query"):
        imported(store, tmp_path / "acc.csv", methods=("maml",))
    imported(store, tmp_path / "acc.csv", methods=("maml",), query=15)
    stored = store.read(store.cells()[0])
    assert stored["accuracy"].tolist() == (CORRECT["maml"] / 75).tolist()
    assert stored["correct"].tolist() == CORRECT["maml"].tolist()
    assert set(stored["queries"]) == {75}


@pytest.mark.slow
def test_runs_datasets_and_sizes_in_columns_make_cells_of_their_own(store, tmp_path):
    frames = [
        long().assign(dataset=dataset, way=way, shot=shot, run=run)
        for dataset, way, shot in (("cifar-fs", 5, 1), ("cifar-fs", 5, 5), ("fc100", 10, 1))
        for run in (0, 2)
    ]
    pd.concat(frames).to_csv(tmp_path / "acc.csv", index=False)
    import_outcomes([tmp_path / "acc.csv"], store)
    tasks = compare_tasks(store, ["proto", "maml"])
    assert [(t.protocol.dataset, t.protocol.way, t.protocol.shot) for t in tasks] == [
        ("cifar-fs", 5, 1),
        ("cifar-fs", 5, 5),
        ("fc100", 10, 1),
    ]
    assert {t.comparisons[0].test.n for t in tasks} == {2 * EPISODES}
    assert set(store.read(store.cells()[0])["run"]) == {0, 2}


@pytest.mark.slow
def test_episodes_are_paired_by_their_numbers_not_by_their_place(store, tmp_path):
    long().sample(frac=1, random_state=1).to_csv(tmp_path / "acc.csv", index=False)
    imported(store, tmp_path / "acc.csv")
    aligned = difference(store)
    other = OutcomeStore(tmp_path / "other")
    wide().to_csv(tmp_path / "acc.csv", index=False)
    assert difference(imported(other, tmp_path / "acc.csv")) == aligned


def test_numbers_of_episodes_may_have_gaps(store, tmp_path):
    wide().assign(episode=np.arange(EPISODES) * 1000).to_csv(tmp_path / "acc.csv", index=False)
    imported(store, tmp_path / "acc.csv")
    assert store.read(store.cells()[0])["episode"].max() == 1000 * (EPISODES - 1)
    assert len(list(store.folder.rglob("*.parquet"))) == 2


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "a value that is missing": (lambda: "a,b\n0.5,0.6\n,0.7\n", "'a' is empty or NaN in row 2"),
    "NaN": (lambda: "a,b\n0.5,nan\n", "'b' is 'nan' in row 1"),
    "infinity": (lambda: "a,b\n0.5,inf\n", "'b' is 'inf' in row 1"),
    "text": (lambda: "a,b\n0.5,good\n", "'b' is 'good' in row 1"),
    "a decimal comma": (lambda: "a;b\n0,5;0,6\n", "'a' is '0,5' in row 1, and should be a number with a decimal point"),
    "a percent sign": (lambda: "a,b\n50%,60%\n", "'a' is '50%' in row 1, and should be a number without %"),
    "an odd way to write a number": (lambda: "a,b\n0.5,1_0\n", "'b' is '1_0' in row 1"),
    "a negative value": (lambda: "a,b\n0.5,-0.1\n", "'b' is -0.1 in row 1"),
    "more than 100": (lambda: "a,b\n50,100.5\n", "'b' is 100.5 in row 1"),
    "a column in percent": (
        lambda: "a,b\n50,0.5\n60,0.6\n",
        "mixes percent and fractions: 'a' is 50 in row 1, and 'b'",
    ),
    "a row in percent": (lambda: "a,b\n0.5,0.6\n0.7,70\n", "mixes percent and fractions: 'b' is 70 in row 2, and 'a'"),
    "no rows": (lambda: "a,b\n", "no rows"),
    "no methods": (lambda: "episode,run\n0,0\n", "no column of accuracies"),
    "no names": (lambda: "0.5,0.6\n0.7,0.8\n", "should name its columns in the first line"),
    "a column without a name": (lambda: ",a\n0,0.5\n", "column 1 has no name"),
    "two columns of one name": (lambda: "a,a\n0.5,0.6\n", "two columns 'a'"),
    "a row that is too long": (lambda: "a,b\n0.5,0.6,0.7\n", "cannot be read"),
    "an episode twice in a wide table": (
        lambda: "episode,a\n3,0.5\n3,0.6\n",
        "'a' has episode 3 of run 0 twice, the second time in row 2",
    ),
    "an episode twice in a long table": (
        lambda: "method,run,episode,accuracy\na,1,3,0.5\nb,1,3,0.5\na,1,3,0.5\n",
        "'a' has episode 3 of run 1 twice, the second time in row 3",
    ),
    "half an episode": (lambda: "episode,a\n0.5,0.5\n", "'episode' is 0.5 in row 1"),
    "an episode before the first": (lambda: "episode,a\n-1,0.5\n", "'episode' is -1 in row 1"),
    "an endless run": (lambda: "run,a\n40000,0.5\n", "'run' is 40000 in row 1"),
    "a long table without episodes": (lambda: "method,accuracy\na,0.5\n", "no column 'episode'"),
    "a long table without methods": (lambda: "episode,accuracy\n0,0.5\n", "--method NAME"),
    "a method without a name": (lambda: "method,episode,accuracy\n,0,0.5\n", "not a method's name"),
    "a name with a line break": (lambda: 'method,episode,accuracy\n"a\tb",0,0.5\n', "not a method's name"),
    "a count that is missing": (
        lambda: "method,episode,correct,queries\na,0,3,5\na,1,,5\n",
        "'correct' is empty in row 2",
    ),
    "more correct than asked": (lambda: "method,episode,correct,queries\na,0,6,5\n", "'correct' is 6 of 5 queries"),
    "a count beside another accuracy": (
        lambda: "method,episode,correct,queries,accuracy\na,0,4,5,0.7\n",
        "'accuracy' is 0.7 in row 1, but 4 of 5 queries are correct",
    ),
    "too few classes": (lambda: "classes,a\n1 2 3 4,0.5\n", "'classes' in row 1: 4 different classes"),
    "a class twice": (lambda: "classes,a\n1 2 3 4 4,0.5\n", "'classes' in row 1: 4 different classes"),
    "a split of another name": (lambda: "split,a\nmeta-test,0.5\n", "no split is called 'meta-test'"),
    "a dataset without a name": (lambda: "tasks,a\n,0.5\n", "'tasks' is '' in row 1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_accuracy_is_refused_in_one_line_and_nothing_is_stored(kind, store, tmp_path):
    text, message = REFUSED[kind]
    with pytest.raises(AccuracyFileError) as caught:
        imported(store, csv(tmp_path, text()))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not store.folder.exists()


def _saved(path: Path, array: Any, **options: Any) -> Path:
    np.save(path, array, **options)
    return path


def _header_alone(path: Path) -> Path:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    path.write_bytes(header.getvalue())
    return path


def _of_members(path: Path, size: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        for _ in range(size // 1_000_000):
            file.write(bytes(1_000_000))
    return path


def _torch(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a file that is not there": (lambda d: d / "acc.csv", "is not a file"),
    "a folder": (lambda d: d, "is not a file"),
    "another kind": (lambda d: csv(d, "a\n1\n", "acc.xlsx"), "none of the kinds"),
    "another encoding": (lambda d: (d / "acc.csv").write_bytes(b"\xff\xfea,b\n") and d / "acc.csv", "UTF-8"),
    "another encoding further down": (
        lambda d: (d / "acc.csv").write_bytes(b"a,b\n0.5,\xff\n") and d / "acc.csv",
        "cannot be read",
    ),
    "an empty CSV": (lambda d: csv(d, ""), "should name its columns"),
    "an empty npy": (lambda d: csv(d, "", "acc.npy"), "cannot be read"),
    "an empty npz": (lambda d: csv(d, "", "acc.npz"), "cannot be read"),
    "an empty pt": (lambda d: csv(d, "", "acc.pt"), "cannot be read"),
    "an empty Parquet": (lambda d: csv(d, "", "acc.parquet"), "cannot be read"),
    "empty safetensors": (lambda d: csv(d, "", "acc.safetensors"), "cannot be read"),
    "an npy that announces more than follows": (lambda d: _header_alone(d / "acc.npy"), "cannot be read"),
    "an array of another rank": (lambda d: _saved(d / "acc.npy", np.ones((2, 2, 2))), "[2, 2, 2]"),
    "a number": (lambda d: _saved(d / "acc.npy", np.float64(0.5)), "has shape []"),
    "an array of another width": (lambda d: _saved(d / "acc.npy", np.ones((4, 2))), "2 columns and 1 is named"),
    "an array lying on its side": (lambda d: _saved(d / "acc.npy", np.ones((1, 4))), "Turn it round"),
    "truth values": (lambda d: _saved(d / "acc.npy", np.ones(4, bool)), "of type bool"),
    "complex numbers": (lambda d: _saved(d / "acc.npy", np.ones(4, complex)), "of type complex"),
    "NaN in an array": (lambda d: _saved(d / "acc.npy", np.array([0.5, np.nan])), "'a' is empty or NaN in row 2"),
    "no episodes": (lambda d: _saved(d / "acc.npy", np.ones(0)), "no rows"),
    "unequal lengths": (
        lambda d: np.savez(d / "acc.npz", a=np.ones(3), b=np.ones(4)) or d / "acc.npz",
        "'a' has 3 values and 'b' 4",
    ),
    "a dict of other things": (lambda d: _torch(d / "acc.pt", {"a": [0.5]}), "a dict of tensors"),
    "a list of tensors": (lambda d: _torch(d / "acc.pt", [torch.ones(3)]), "a dict of tensors"),
    "a sparse tensor": (lambda d: _torch(d / "acc.pt", torch.ones(3).to_sparse()), "dense tensors"),
    "a number without end": (
        lambda d: _torch(d / "acc.pt", torch.ones(1).expand(1 << 40)),
        "at most 10,000,000 are read",
    ),
    "a bomb": (lambda d: _of_members(d / "acc.npz", 1_100_000_000), "unpacks to 1,100,"),
    "a Parquet of times": (
        lambda d: (
            pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}).to_parquet(d / "acc.parquet") or d / "acc.parquet"
        ),
        "'a' holds timestamp",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_holds_no_accuracies_is_refused_in_one_line(kind, store, tmp_path):
    make, message = FILES[kind]
    with pytest.raises(AccuracyFileError) as caught:
        imported(store, make(tmp_path), methods=("a",) if kind not in ("unequal lengths",) else ())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not store.folder.exists()


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".pth", ".parquet", ".safetensors", ".csv"])
def test_nothing_in_a_file_is_executed(suffix, store, tmp_path):
    trace = tmp_path / "executed"
    evil, path = Evil(trace), tmp_path / f"acc{suffix}"
    array = np.array([evil], dtype=object)
    contents: dict[str, Callable[[], Any]] = {
        ".npy": lambda: np.save(path, array, allow_pickle=True),
        ".npz": lambda: np.savez(path, a=array),
        ".pt": lambda: torch.save({"a": evil}, path),
    }
    contents.get(suffix, lambda: path.write_bytes(pickle.dumps(evil)))()
    with pytest.raises(AccuracyFileError) as refusal:
        imported(store, path, methods=("a",))
    assert not trace.exists()
    assert "Re-running" not in str(refusal.value)  # PyTorch's advice to execute it
    if suffix == ".npz":  # what the file would do to a reader that trusts it
        np.load(path, allow_pickle=True)["a"]
        assert trace.exists()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("bound", "most"), [("MOST_EPISODES", EPISODES - 1), ("MOST_COLUMNS", 1), ("MOST_VALUES", 2 * EPISODES - 1)]
)
def test_a_file_of_any_layout_is_bounded(layout, bound, most, store, tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, bound, most)
    with pytest.raises(AccuracyFileError, match=f"at most {most} are read"):
        imported(store, LAYOUTS[layout](tmp_path), methods=("proto", "maml"))
    assert not store.folder.exists()


def test_a_file_that_is_too_large_is_not_opened(store, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MOST_BYTES", 100)
    monkeypatch.setattr(Path, "open", None)
    with pytest.raises(AccuracyFileError, match="at most 100 are read"):
        imported(store, LAYOUTS["npy"](tmp_path), methods=("proto", "maml"))


def test_a_file_must_say_which_tasks_it_is_about(store, tmp_path):
    path = LAYOUTS["wide CSV"](tmp_path)
    with pytest.raises(AccuracyFileError, match="Add --dataset NAME --way N --shot K"):
        import_outcomes([path], store)
    with pytest.raises(AccuracyFileError, match="Add --way N"):
        import_outcomes([path], store, ImportOptions(dataset="cifar-fs", shot=1))


def test_an_option_never_overrules_a_column(store, tmp_path):
    wide().assign(dataset="fc100").to_csv(tmp_path / "acc.csv", index=False)
    with pytest.raises(AccuracyFileError, match="Leave out --dataset"):
        imported(store, tmp_path / "acc.csv")


def test_percent_can_be_stated_where_no_value_shows_it(store, tmp_path):
    imported(store, csv(tmp_path, "a,b\n0.5,1\n0.25,0.75\n"), is_percent=True)
    assert store.read(store.cells()[0])["accuracy"].max() <= 0.01
    with pytest.raises(AccuracyFileError, match="but a fraction is 1 at most"):
        imported(store, csv(tmp_path, "a,b\n50,60\n", "b.csv"), is_percent=False)


def test_percent_that_is_stated_may_lie_below_one(store, tmp_path):
    imported(store, csv(tmp_path, "a,b\n0.5,60\n"), is_percent=True)
    assert sorted(store.read(cell)["accuracy"].iloc[0] for cell in store.cells()) == [0.005, 0.6]


def test_the_same_numbers_again_are_already_there(store, tmp_path):
    path = LAYOUTS["wide CSV"](tmp_path)
    first = import_outcomes([path], store, TASKS)
    again = import_outcomes([path], store, TASKS)
    assert [(one.episodes, one.known) for one in first.imported] == [(EPISODES, 0)] * 2
    assert [(one.episodes, one.known) for one in again.imported] == [(0, EPISODES)] * 2
    assert len(list(store.folder.rglob("*.parquet"))) == 2


def test_other_numbers_of_a_stored_method_are_refused(store, tmp_path):
    imported(store, LAYOUTS["wide CSV"](tmp_path))
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    changed = {"proto": np.where(np.arange(EPISODES) == 7, 0.99, ACCURACY["proto"]), "maml": ACCURACY["maml"]}
    wide(changed).to_csv(tmp_path / "acc.csv", index=False)
    with pytest.raises(
        AccuracyFileError, match=r"proto is stored with another accuracy of episode 7 of run 0"
    ) as caught:
        imported(store, tmp_path / "acc.csv")
    assert "store prune" in str(caught.value)
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before


def test_classes_cannot_be_added_to_stored_episodes(store, tmp_path):
    imported(store, LAYOUTS["wide CSV"](tmp_path))
    wide().assign(classes=CLASSES).to_csv(tmp_path / "acc.csv", index=False)
    with pytest.raises(
        AccuracyFileError, match="proto is stored with other classes of episode 0 of run 0, none and not '"
    ):
        imported(store, tmp_path / "acc.csv")


def test_an_array_has_no_two_methods_of_one_name(store, tmp_path):
    with pytest.raises(AccuracyFileError, match="named twice"):
        imported(store, LAYOUTS["npy"](tmp_path), methods=("a", "a"))


def test_what_is_stored_of_an_interrupted_import_is_completed_by_the_same_command(store, tmp_path):
    path = LAYOUTS["wide CSV"](tmp_path)
    imported(store, path)
    for file in (store.folder / sorted(cell.key for cell in store.cells())[0]).rglob("*.parquet"):
        file.unlink()
    again = OutcomeStore(store.folder)
    report = import_outcomes([path], again, TASKS)
    assert sorted(one.episodes for one in report.imported) == [0, EPISODES]
    assert difference(again)[2] == EPISODES


def test_outcomes_in_memory_are_compared_like_stored_ones(store, tmp_path):
    wide().assign(classes=CLASSES).to_csv(tmp_path / "acc.csv", index=False)
    imported(store, tmp_path / "acc.csv")
    by_name = {cell.method.name: store.outcomes(cell) for cell in store.cells()}
    compared = compare(by_name["proto"], by_name["maml"])
    assert compared.test.n == EPISODES
    assert "episodes claimed, not verified" in str(compared)


def test_more_episodes_of_a_stored_method_are_added(store, tmp_path):
    wide().iloc[:10].to_csv(tmp_path / "acc.csv", index=False)
    imported(store, tmp_path / "acc.csv")
    wide().to_csv(tmp_path / "acc.csv", index=False)
    report = import_outcomes([tmp_path / "acc.csv"], store, TASKS)
    assert [(one.episodes, one.known) for one in report.imported] == [(30, 10)] * 2
    assert difference(OutcomeStore(store.folder))[2] == EPISODES


def test_files_of_one_import_claim_the_same_episodes(store, tmp_path):
    for name in ACCURACY:
        wide({name: ACCURACY[name]}).to_csv(tmp_path / f"{name}.csv", index=False)
    import_outcomes([tmp_path / "proto.csv", tmp_path / "maml.csv"], store, TASKS)
    assert difference(store)[2] == EPISODES


def test_a_second_file_with_an_episode_of_the_first_is_refused(store, tmp_path):
    for name in ("a", "b"):
        wide().to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(AccuracyFileError, match="as an earlier file has"):
        import_outcomes([tmp_path / "a.csv", tmp_path / "b.csv"], store, TASKS)


def test_separate_imports_are_paired_only_if_somebody_says_so(store, tmp_path):
    for folder, name in (("first", "proto"), ("second", "maml")):
        (tmp_path / folder).mkdir()
        wide({name: ACCURACY[name]}).to_csv(tmp_path / folder / "acc.csv", index=False)
    imported(store, tmp_path / "first" / "acc.csv")
    with pytest.raises(AccuracyFileError, match="say so with --tasks acc"):
        imported(store, tmp_path / "second" / "acc.csv")
    imported(store, tmp_path / "second" / "acc.csv", tasks="acc")
    assert difference(store)[2] == EPISODES


def test_a_column_of_tasks_says_so_too(store, tmp_path):
    for name in ACCURACY:
        wide({name: ACCURACY[name]}).assign(tasks="seed 0").to_csv(tmp_path / "acc.csv", index=False)
        imported(store, tmp_path / "acc.csv")
    assert difference(store)[2] == EPISODES


def test_methods_of_other_tasks_are_not_compared_and_the_reason_is_given(store, tmp_path):
    for name in ACCURACY:
        wide({name: ACCURACY[name]}).to_csv(tmp_path / f"{name}.csv", index=False)
        imported(store, tmp_path / f"{name}.csv")
    with pytest.raises(ComparisonError, match=r"no episode is claimed to be the same.*--tasks proto"):
        difference(store)


def test_claimed_rows_are_never_paired_with_episodes_of_the_sampler(store, tmp_path):
    imported(store, LAYOUTS["wide CSV"](tmp_path))
    ours = Cell(MethodCard("ours", "conv4", "ab", "centroid"), ProtocolCard("cifar-fs", "", "novel", 5, 1, 15, 0, 1))
    store.append(ours, 0, np.arange(EPISODES), np.zeros((EPISODES, 75), np.uint8), 0.1)
    for a, b in (("ours", "proto"), ("proto", "ours")):
        with pytest.raises(ComparisonError, match=r"proto was imported.*those of ours were drawn here.*never paired"):
            difference(store, a, b)
    compared = compare_tasks(store)
    assert [{c.a, c.b} for task in compared for c in task.comparisons] == [{"proto", "maml"}]


def test_claimed_classes_give_the_interval_over_classes(store, tmp_path):
    wide().assign(classes=CLASSES).to_csv(tmp_path / "acc.csv", index=False)
    imported(store, tmp_path / "acc.csv")
    scores = stored_scores(store, store.cells())
    assert scores.classes is not None
    assert scores.why_no_classes == ""
    told = [";".join(sorted(scores.claims.names[number] for number in row)) for row in scores.classes]
    assert told == [";".join(sorted(text.split(";"))) for text in CLASSES]
    assert compare_tasks(store)[0].comparisons[0].data.half_width > 0


def test_names_and_numbers_of_classes_in_any_order_are_the_same_classes(store, tmp_path):
    names = dict(
        zip("0123456789", ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay"), strict=True)
    )
    for order, folder in ((1, "a"), (-1, "b")):
        text = [" ".join(str(int(c) % 10) for c in row.split(";")[::order]) for row in CLASSES]
        kept = [row for row, text in enumerate(text) if len(set(text.split())) == 5]
        spelled = [";".join(names[c] for c in text[row].split()) for row in kept]
        frame = pd.DataFrame({"episode": kept, "m" + folder: ACCURACY["maml"][kept], "classes": spelled})
        frame.to_csv(tmp_path / f"{folder}.csv", index=False)
    import_outcomes([tmp_path / "a.csv", tmp_path / "b.csv"], store, TASKS)
    assert len(store.cells()) == 2


def test_two_methods_cannot_claim_an_episode_with_different_classes(store, tmp_path):
    one = long().assign(classes=CLASSES * 2)
    one.loc[EPISODES + 4, "classes"] = "90;91;92;93;94"
    one.to_csv(tmp_path / "acc.csv", index=False)
    with pytest.raises(AccuracyFileError, match="episode 4 of run 0 has classes"):
        imported(store, tmp_path / "acc.csv")
    assert not store.folder.exists()
    long().iloc[:EPISODES].assign(classes=CLASSES).to_csv(tmp_path / "first.csv", index=False)
    imported(store, tmp_path / "first.csv")
    one.iloc[EPISODES:].to_csv(tmp_path / "second.csv", index=False)
    with pytest.raises(AccuracyFileError, match="maml and proto claim the same tasks 'first'"):
        imported(store, tmp_path / "second.csv", tasks="first")


def test_episodes_without_classes_say_why_there_is_no_interval_over_classes(store, tmp_path):
    imported(store, LAYOUTS["wide CSV"](tmp_path))
    scores = stored_scores(store, store.cells())
    assert scores.classes is None
    assert scores.why_no_classes == "the classes of claimed episodes are unknown"


def test_arrays_may_bring_classes_runs_and_episodes(store, tmp_path):
    classes = np.array([[int(c) for c in row.split(";")] for row in CLASSES])
    np.savez(tmp_path / "acc.npz", **ACCURACY, classes=classes, episode=np.arange(EPISODES) + 5, run=np.ones(EPISODES))
    imported(store, tmp_path / "acc.npz")
    stored = store.read(store.cells()[0])
    assert stored["classes"].tolist() == CLASSES
    assert stored["episode"].tolist() == list(range(5, EPISODES + 5))
    assert set(stored["run"]) == {1}


def test_columns_that_mean_nothing_are_named(store, tmp_path):
    long().assign(loss=0.1).to_csv(tmp_path / "acc.csv", index=False)
    report = import_outcomes([tmp_path / "acc.csv"], store, TASKS)
    assert report.ignored == {str(tmp_path / "acc.csv"): ["loss"]}


def test_some_methods_of_a_file_can_be_chosen(store, tmp_path):
    imported(store, LAYOUTS["long CSV"](tmp_path), methods=("maml",))
    assert [cell.method.name for cell in store.cells()] == ["maml"]
    with pytest.raises(AccuracyFileError, match="no method 'prototype', but proto, maml"):
        imported(store, LAYOUTS["wide CSV"](tmp_path), methods=("prototype",))


def refusal(action: Callable[[], Any]) -> str:
    """What an import is refused with; empty where it is not."""
    try:
        action()
    except AccuracyFileError as error:
        return str(error)
    return ""


NAMES = ["a", "b", "method", "episode", "accuracy", "correct", "queries", "classes", "run", "way"]
_CELLS = st.one_of(
    st.floats(),
    st.integers(-5, 120),
    st.text(max_size=6),
    st.sampled_from(["", "0.5", "70", "1e400", "NaN", '"', "=1"]),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=5),
    st.lists(st.lists(_CELLS, min_size=1, max_size=5), max_size=5),
)  # fmt: skip
def test_any_table_is_stored_whole_or_refused_in_one_line(tmp_path_factory, names, rows):
    folder = tmp_path_factory.mktemp("any")
    lines = [",".join(names), *(",".join(map(str, row)) for row in rows)]
    path = folder / "acc.csv"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    store = OutcomeStore(folder / "outcomes")
    options = ImportOptions(dataset="d", shot=1, way=None if "way" in names else 2)
    message = refusal(lambda: import_outcomes([path], store, options))
    if message:
        assert "\n" not in message
        assert not store.folder.exists()
    else:
        cells = OutcomeStore(store.folder).cells()
        assert cells
        assert all(OutcomeStore(store.folder).read(cell)["accuracy"].between(0, 1).all() for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["npy", "npz", "pt", "safetensors", "wide Parquet"])
def test_damaged_files_are_refused_in_one_line_or_read(layout, tmp_path):
    content = LAYOUTS[layout](tmp_path).read_bytes()
    path = next(tmp_path.glob("acc.*"))
    generator = np.random.default_rng(1)
    messages = []
    for number in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged[: generator.integers(len(content))] if number % 3 == 0 else damaged)
        store = OutcomeStore(tmp_path / f"outcomes-{number}")
        messages.append(refusal(lambda store=store: imported(store, path, methods=("proto", "maml"))))
    assert any(messages)
    assert not [message for message in messages if "\n" in message]
