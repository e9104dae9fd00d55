"""Episodes of more classes than a byte can tell apart, from `run` to every command that reads what it stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fewshot_bench.cli.main import exit_code
from fewshot_bench.outcomes import OutcomeStore

pytestmark = pytest.mark.slow

CLASSES = 300
RUN = [
    *("run", "--dataset", "many", "--backbone", "conv4_32", "--base-loss", "none", "--adapt", "centroid,logistic"),
    *("--shots", "1", "--query", "1", "--episodes", "2", "--runs", "2", "--device", "cpu", "--chunk", "2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where commands are typed: images of 300 classes, two of each, and what two methods did on them."""
    folder = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / "many" / f"{label:03d}").mkdir(parents=True)
        colour = generator.integers(30, 220, 3)
        for number in range(2):
            noisy = np.clip(colour + generator.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / "many" / f"{label:03d}" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEWSHOT_BENCH_HOME", str(folder / "home"))
        for way in (5, 256, 300):
            assert exit_code([*RUN, "--way", str(way), "--results", f"r{way}"]) == 0
        assert exit_code(["store", "merge", "r5", "r256", "r300", "--results", "all"]) == 0
    return folder


@pytest.fixture
def here(folder, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(folder / "home"))
    return folder


@pytest.mark.parametrize("way", [256, 300])
def test_predictions_are_those_that_were_made_in_the_smallest_type_that_holds_them(here, way):
    store = OutcomeStore(Path(f"r{way}") / "outcomes")
    for cell in store.cells():
        outcomes = store.outcomes(cell)
        assert outcomes.predictions.shape == (4, way)
        rows = outcomes.frame["predictions"].map(len)
        assert set(rows) == {way if way <= 256 else 2 * way}
        correct = (outcomes.predictions == np.arange(way)).sum(axis=1)
        assert correct.tolist() == outcomes.frame["correct"].tolist()
        assert outcomes.predictions.max() > 0.9 * way
        assert (outcomes.accuracy > 3 / way).all()  # colours tell the classes apart


@pytest.mark.parametrize("way", [256, 300])
@pytest.mark.parametrize(
    "command",
    [
        ["leaderboard"],
        ["compare"],
        ["compare", "--per-class"],
        ["report"],
        ["status"],
        ["store", "check"],
        ["audit"],
    ],
    ids=" ".join,
)
def test_every_command_reads_them(here, capsys, way, command):
    more = ["--device", "cpu"] if command == ["audit"] else []
    place = [f"r{way}"] if command == ["audit"] else ["--results", f"r{way}"]
    assert exit_code([*command, *place, *more]) == 0
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("way", [256, 300])
def test_compaction_and_merging_keep_every_prediction(here, tmp_path, capsys, way):
    before = {cell.key: frame_of(Path(f"r{way}"), cell) for cell in OutcomeStore(Path(f"r{way}") / "outcomes").cells()}
    assert exit_code(["store", "merge", f"r{way}", "--results", str(tmp_path)]) == 0
    assert exit_code(["store", "compact", "--results", str(tmp_path)]) == 0
    assert exit_code(["store", "check", "--results", str(tmp_path)]) == 0
    store = OutcomeStore(tmp_path / "outcomes")
    assert [len([*store.cell_folder(cell).rglob("*.parquet")]) for cell in store.cells()] == [1, 1]
    for cell in store.cells():
        pd.testing.assert_frame_equal(frame_of(tmp_path, cell), before[cell.key])
    capsys.readouterr()


def frame_of(results: Path, cell) -> pd.DataFrame:
    return OutcomeStore(results / "outcomes").read(cell)


@pytest.mark.parametrize("way", [256, 300])
def test_an_export_is_imported_again(here, tmp_path, capsys, way):
    table = tmp_path / "all.csv"
    assert exit_code(["outcomes", "export", str(table), "--results", f"r{way}"]) == 0
    assert exit_code(["outcomes", "import", str(table), "--results", str(tmp_path / "other")]) == 0
    assert exit_code(["compare", "--results", str(tmp_path / "other"), "--json"]) == 0
    assert '"episodes": 4' in capsys.readouterr().out
    exported = pd.read_csv(table)
    assert set(exported["queries"]) == {way}
    if way == CLASSES:
        assert set(exported["classes"].str.count(";")) == {CLASSES - 1}


def test_outcomes_of_many_ways_lie_beside_each_other(here, capsys):
    assert exit_code(["leaderboard", "--results", "all", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted({row["way"] for row in rows}) == [5, 256, 300]
    assert len(rows) == 6


def test_a_run_that_goes_on_adds_to_them(here, capsys):
    assert exit_code([*RUN, "--way", "300", "--results", "r300", "--episodes", "3"]) == 0
    store = OutcomeStore(Path("r300/outcomes"))
    assert [len(store.read(cell)) for cell in store.cells()] == [6, 6]


def test_more_ways_than_can_be_stored_are_refused_before_anything_is_written(here, capsys):
    assert exit_code([*RUN, "--way", "70000", "--results", "none"]) == 2
    assert "--way: Input should be less than or equal to 65535, not 70000" in capsys.readouterr().err
    assert not Path("none").exists()
