"""What the chaos benchmark would call a difference is one, and nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.report import update_leaderboard

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CELL = Cell(MethodCard("m", "b", "w", "a"), ProtocolCard("toy", "ab" * 32, "novel", 2, 1, 1, 0, 1))


@pytest.fixture(autouse=True)
def _beside_the_script() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


def made(folder: Path, *, seconds: float, chunk: int = 5, first: int = 0, wrong: int = -1) -> Path:
    """Results of ten episodes, stored in chunks, with a leaderboard."""
    store = OutcomeStore(folder / "outcomes")
    for start in range(first, 10, chunk):
        numbers = np.arange(start, min(start + chunk, 10))
        predictions = np.stack([[number % 2, 1] for number in numbers]).astype(np.uint8)
        predictions[numbers == wrong] = 1 - predictions[numbers == wrong]
        store.append(CELL, 0, numbers, predictions, seconds)
    update_leaderboard(store, folder / "leaderboard.csv", with_published=False)
    return folder


@pytest.fixture
def undisturbed(tmp_path) -> Path:
    return made(tmp_path / "undisturbed", seconds=0.5)


def test_other_chunks_and_other_times_are_no_difference(tmp_path, undisturbed):
    from chaos_compare import compared

    found = compared(made(tmp_path / "a", seconds=0.25, chunk=3), undisturbed)
    assert not found, found
    assert found.episodes == 10


def test_every_difference_is_found(tmp_path, undisturbed):
    from chaos_compare import compared

    fewer = compared(made(tmp_path / "fewer", seconds=0.5, first=1), undisturbed)
    assert fewer
    assert [number for _, _, number in fewer.lost] == [0]
    assert fewer.tables
    other = compared(made(tmp_path / "other", seconds=0.5, wrong=7), undisturbed)
    assert [number for _, _, number in other.changed] == [7]
    assert not other.lost
    twice = made(tmp_path / "twice", seconds=0.5)
    made(twice, seconds=0.7, first=8, chunk=2)
    assert [number for _, _, number in compared(twice, undisturbed).twice] == [8, 9]
    table = shutil.copytree(undisturbed, tmp_path / "table")
    text = (table / "leaderboard.csv").read_text()
    (table / "leaderboard.csv").write_text(text.replace("toy", "boy"))
    (line,) = compared(table, undisturbed).tables
    assert "boy" in line


def test_what_is_left_over_is_found_and_locks_are_not(tmp_path, undisturbed):
    from chaos_compare import compared

    results = shutil.copytree(undisturbed, tmp_path / "results")
    for name in (".leaderboard.csv.x.tmp", "leases/run-000-episodes-00000-00005.0.lease", ".import.lock"):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).touch()
    assert compared(results, undisturbed).left_over == [
        ".leaderboard.csv.x.tmp",
        "leases/run-000-episodes-00000-00005.0.lease",
    ]


def test_a_table_says_where_the_kills_fell_and_a_difference_is_no_success():
    from chaos_compare import Comparison
    from chaos_tally import Tally, table

    tally = Tally()
    tally.kills.update(start=3, part=2)
    tally.add(Comparison(episodes=10))
    assert tally.is_clean
    cells = table(tally, 2, 7, 120.0).splitlines()[-1].split(" | ")
    assert cells[:9] == ["| 2", "7", "5", "3", "0", "0", "0", "2", "0"]
    tally.add(Comparison(episodes=10, lost=[("a", 0, 1)]))
    assert not tally.is_clean
    assert tally.lost == 1
