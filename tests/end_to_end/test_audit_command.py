"""The audit as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.outcomes import Cell, OutcomeStore

pytestmark = pytest.mark.slow

STUDY = [
    "--base-loss",
    "ce",
    "--base-epochs",
    "1",
    "--shots",
    "1",
    "--episodes",
    "15",
    "--runs",
    "2",
    "--device",
    "cpu",
]

NOT_CONFIRMED = 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the study has been run once, with the home that it used."""
    folder = tmp_path_factory.mktemp("trained")
    environment = {**os.environ, "FEWSHOT_BENCH_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "fewshot_bench", "run", *STUDY, "--adapt", "centroid,logistic"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def results(trained, home, tmp_path, monkeypatch):
    shutil.copytree(trained / "home", home)
    shutil.copytree(trained / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "results"


def cells(results):
    return sorted(path.parent for path in results.glob("outcomes/*/cell.json"))


def test_what_run_stored_passes_in_a_table_of_80_columns(results, capsys):
    capsys.readouterr()
    assert exit_code(["audit"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.rstrip().endswith("2 cells: no check failed, 0 could not be made")
    assert "conv4_32/base-ce@epochs=1/logistic" in printed


def test_one_cell_by_its_key_as_json(results, capsys):
    capsys.readouterr()
    assert exit_code(["audit", cells(results)[0].name, "--json", "--episodes", "2"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["cells"]
    assert record["cell"] == cells(results)[0].name
    assert record["task"] == "glyphs 5-way 1-shot"
    assert {finding["verdict"] for finding in record["findings"]} == {"pass"}


def test_the_folder_of_results_is_checked_and_not_another_one_that_is_called_results(results, capsys):
    other = results.with_name("other")
    (other / "outcomes").mkdir(parents=True)
    kept = cells(results)[0]
    kept.rename(other / "outcomes" / kept.name)
    for arguments in (["--results", "other"], ["other"], [kept.name, "--results", "other"]):
        capsys.readouterr()
        assert exit_code(["audit", *arguments, "--json", "--episodes", "2"]) == 0
        assert [cell["cell"] for cell in json.loads(capsys.readouterr().out)["cells"]] == [kept.name]


def test_a_falsified_result_ends_with_one_line_and_code_2(results, capsys):
    first, second = cells(results)
    store = OutcomeStore(first.parent)
    frame = store.read(first.name)
    frame["predictions"] = [bytes([(said[0] + 1) % 5]) + said[1:] for said in frame["predictions"]]
    for part in first.rglob("*.parquet"):
        part.unlink()
    store.append_frame(Cell.from_json((first / "cell.json").read_text(encoding="utf-8")), frame)
    capsys.readouterr()
    assert exit_code(["audit", "results"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1
    assert (
        captured.err.strip()
        .splitlines()[-1]
        .startswith(f"error: 1 of 2 cells failed the audit: {first.name} (counts, same predictions)")
    )
    assert second.name not in captured.err
    assert exit_code(["audit", second.name]) == 0


def test_control_characters_and_markup_of_a_stranger_stay_text(results, capsys):
    folder = cells(results)[0]
    content = json.loads((folder / "cell.json").read_text())
    content["method"]["name"] = "[red]mine\x1b[31m"
    (folder / "cell.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert exit_code(["audit", folder.name, "--episodes", "0"]) == NOT_CONFIRMED
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[red]mine" in printed


def test_weights_of_a_model_hub_are_fetched_only_with_download(results, capsys, monkeypatch):
    folder = cells(results)[0]
    content = json.loads((folder / "cell.json").read_text())
    content["method"]["backbone"] = content["provenance"]["study"]["backbone"] = "timm:resnet18"
    store, other = OutcomeStore(folder.parent), Cell.from_json(json.dumps(content))
    store.append_frame(other, store.read(folder.name))
    folder = folder.parent / other.key
    asked = []

    def no_hub(model, **_):
        asked.append(model)
        raise OSError("no network")

    monkeypatch.setattr("fewshot_bench.backbones.timm_backbones.why_not_fetchable", lambda model: "")
    monkeypatch.setattr("timm.create_model", no_hub)
    for options, told in (([], "only with --download"), (["--download"], "could not be fetched (no network)")):
        capsys.readouterr()
        assert exit_code(["audit", folder.name, "--json", *options]) == NOT_CONFIRMED
        (record,) = json.loads(capsys.readouterr().out)["cells"]
        (finding,) = [one for one in record["findings"] if one["check"] == "same predictions"]
        assert finding["verdict"] == "not checked"
        assert told in finding["detail"]
    assert asked == ["resnet18"]


def test_no_results_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert exit_code(["audit"]) == 2
    assert "results is not one cell of results/outcomes" in capsys.readouterr().err


def test_without_torch_everything_but_the_method_is_checked(results):
    program = (
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "absent = lambda cls, name, *places: None if name.split('.')[0] == 'torch' else find(name, *places)\n"
        "PathFinder.find_spec = classmethod(absent)\n"
        "from fewshot_bench.cli.main import main; main(['audit', '--json'])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ.copy())
    assert result.returncode == NOT_CONFIRMED, result.stderr
    frame = pd.DataFrame(json.loads(result.stdout)["cells"][0]["findings"]).set_index("check")
    unchecked = frame[frame["verdict"] == "not checked"]
    assert unchecked.index.tolist() == [
        "same predictions", "query order", "query labels", "query batching", "image numbers"
    ]  # fmt: skip
    assert unchecked.loc["same predictions", "detail"] == "PyTorch is not installed here"


def test_published_outcomes_of_this_project_pass_what_can_be_checked(capsys):
    published = Path(__file__).parents[2] / "results" / "cifar-fs-conv4-finetune"
    assert exit_code(["audit", str(published), "--json"]) == NOT_CONFIRMED
    for record in json.loads(capsys.readouterr().out)["cells"]:
        found = {finding["check"]: finding["verdict"] for finding in record["findings"]}
        assert found["stored parts"] == found["counts"] == found["tasks"] == found["published tasks"] == "pass"


def test_the_seed_that_was_drawn_is_told_and_draws_the_same_again(results, capsys):
    capsys.readouterr()
    assert exit_code(["audit", "--json", "--episodes", "3"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["outcome"] == "passed"
    assert exit_code(["audit", "--episodes", "3", "--seed", str(record["seed"])]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "3 of 30 episodes of each cell" in told
    assert f"--seed {record['seed']} draws the same again" in told


def test_what_was_not_run_again_is_told_at_the_end_and_is_no_success(results, capsys):
    capsys.readouterr()
    assert exit_code(["audit", "--episodes", "0"]) == NOT_CONFIRMED
    printed = capsys.readouterr().out
    assert "no check failed" not in printed
    end = printed[printed.index("could not be checked") :]
    assert "to check it: --episodes N" in end
    assert end.rstrip().endswith("2 cells: 0 passed, 2 not confirmed, 0 failed; 10 checks could not be made")
