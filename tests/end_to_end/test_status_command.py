"""`status` as a user types it, beside a study and after it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.outcomes.study_log import PlannedCell, StudyRecord

pytestmark = pytest.mark.slow

RUN = ["run", "--base-loss", "none", "--shots", "1", "--runs", "1", "--episodes", "8", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def typed(capsys, *arguments):
    capsys.readouterr()
    code = exit_code(["status", *arguments])
    return code, *capsys.readouterr()


def test_a_study_is_shown_from_its_beginning_to_its_end(here, capsys):
    assert exit_code(RUN) == 0
    code, out, _ = typed(capsys)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "conv4_32/centroid" in out
    assert "8/8 100" in out
    assert out.rstrip().endswith("complete\nnext         fewshot-bench leaderboard")
    assert exit_code([*RUN, "--episodes", "12", "--shard", "1/2"]) == 0
    code, out, _ = typed(capsys, "--once")
    assert "8/12  66" in out
    assert "no process running; the last one: did its part" in out
    assert "--episodes 12" in " ".join(out.split())
    assert "--shard" not in out, "nothing is left of that shard; what goes on is the command for all"


def test_the_command_that_goes_on_is_one_line_however_long(here, capsys):
    command = [*RUN, "--shard", "1/2", "--results", "a folder with quite a long name"]
    assert exit_code(command) == 0
    _, out, _ = typed(capsys, "--results", command[-1])
    assert shlex.split(out.splitlines()[-1])[1:] == ["fewshot-bench", *RUN, *command[-2:]]


def test_a_reader_that_has_seen_enough_is_no_failure(here):
    assert exit_code(RUN) == 0
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "fewshot_bench", "status"]
    assert subprocess.run(command, stdout=writing, check=False).returncode == 0
    os.close(writing)


def test_json_is_plain_data(here, capsys):
    assert exit_code(RUN) == 0
    code, out, _ = typed(capsys, "--json")
    told = json.loads(out)
    assert (code, told["is_complete"], told["seconds_left"]) == (0, True, 0.0)
    assert [(cell["done"], cell["planned"]) for cell in told["cells"]] == [(8, 8)]


def test_an_empty_folder_is_one_line_and_code_2(here, capsys):
    code, out, err = typed(capsys)
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1
    assert "results has neither outcomes nor studies. Start one: fewshot-bench run" in err


def test_watching_ends_by_itself_when_the_study_is_complete(here, capsys):
    assert exit_code(RUN) == 0
    code, out, _ = typed(capsys, "--watch")
    assert code == 0
    assert "complete" in out


def unfinished(folder):
    StudyRecord(folder / "results", (PlannedCell("toy", "toy 5-way 1-shot", "conv/centroid", 1, 10),)).write()


def test_ctrl_c_leaves_quietly(here, capsys, monkeypatch):
    def stop(seconds):
        raise KeyboardInterrupt

    unfinished(here)
    monkeypatch.setattr("fewshot_bench.report.status.time.sleep", stop)
    code, out, err = typed(capsys, "--watch")
    assert (code, err) == (0, "")
    assert "no process running" in out


def test_it_needs_no_torch(here):
    unfinished(here)
    program = (
        "import sys; from fewshot_bench.cli.main import exit_code; code = exit_code(['status']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
