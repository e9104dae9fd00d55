"""What killed processes leave behind is cleaned by the next run; what vanishes during a run does not go unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.leases import EpisodeRange, Leases
from fewshot_bench.study import Study, run_study

pytestmark = pytest.mark.slow

COMMAND = [
    *("run", "--base-loss", "none", "--shots", "1", "--episodes", "20", "--runs", "1", "--chunk", "5"),
    *("--device", "cpu", "--adapt", "centroid"),
]
LEAVE = """
import os, sys
from pathlib import Path
from fewshot_bench._io.storage import temporary_name, create_exclusively
from fewshot_bench.outcomes.leases import EpisodeRange
from fewshot_bench.outcomes.leases import Leases
cell = Path(sys.argv[1])
assert Leases(cell).take(EpisodeRange(0, 15, 20))
for name in ("run=0/episodes-00015-00020-0123456789abcdef.parquet", "cell.json"):
    path = cell / name
    path.with_name(temporary_name(path.name)).touch()
for name in ("leaderboard.csv", "report.html"):
    (cell.parent.parent / temporary_name(name)).touch()
(cell / "run=0" / ".note").touch()
os._exit(1)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(results: Path) -> set[str]:
    return {path.name for path in results.rglob("*") if path.suffix in (".tmp", ".lease") or path.name[0] == "."}


def test_a_study_that_was_complete_when_its_process_was_killed_is_cleaned():
    assert exit_code(COMMAND) == 0
    (cell,) = {path.parent for path in Path("results/outcomes").glob("*/cell.json")}
    subprocess.run([sys.executable, "-c", LEAVE, str(cell.absolute())], check=False)
    assert len(left(Path("results"))) == 6
    live = Leases(cell).take(EpisodeRange(0, 0, 5))
    assert live is not None
    before = {path: path.stat().st_mtime_ns for path in cell.rglob("*.parquet")}
    assert exit_code(COMMAND) == 0
    assert left(Path("results")) == {".note", live.place.name}, "what is not ours, or whose process lives, stays"
    assert {path: path.stat().st_mtime_ns for path in cell.rglob("*.parquet")} == before


def test_outcomes_that_vanish_during_a_run_are_missed(monkeypatch):
    append = OutcomeStore.append_frame

    def removes_others(self, cell, frame, **said):
        for path in self.cell_folder(cell).rglob("*.parquet"):
            os.unlink(path)
        append(self, cell, frame, **said)

    study = Study(base_losses=(), shots=(1,), episodes=20, runs=1, chunk=5, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(OutcomeStore, "append_frame", removes_others)
        with pytest.raises(
            OutcomeError, match=r"15 episodes of conv4_32/centroid have vanished from results/outcomes/"
        ):
            run_study(study)
    result = run_study(study)
    assert np.array_equal(OutcomeStore(Path("results/outcomes")).done(result.cells[0])[0], np.arange(20))
