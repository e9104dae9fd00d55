"""What a study records of how its outcomes came about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fewshot_bench
from fewshot_bench import Study, run_study
from fewshot_bench.cli.main import exit_code
from fewshot_bench.engine.engine import LocalEngine
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.study import provenance as room
from fewshot_bench.study.provenance import study_record, tf32

pytestmark = pytest.mark.slow

SMALL = ("--episodes", "4", "--runs", "1", "--shots", "1", "--base-loss", "ce", "--base-epochs", "1")


def stored(results):
    (cell,) = OutcomeStore(results / "outcomes").cells()
    return cell


def small_study(results, **fields):
    return Study(
        results=results, episodes=4, runs=1, shots=(1,), base_losses=("ce",), base_epochs=1, device="cpu", **fields
    )


def test_a_command_line_is_recorded_and_python_leaves_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_code(["run", *SMALL, "--results", "from a shell"]) == 0
    told = stored(tmp_path / "from a shell").provenance
    assert told["commands"] == [f"fewshot-bench run {' '.join(SMALL)} --results 'from a shell'"]
    run_study(small_study(tmp_path / "python"))
    assert stored(tmp_path / "python").provenance["commands"] == []


def test_the_recorded_study_gives_the_same_cell(tmp_path):
    study = small_study(tmp_path / "first", adaptations=("logistic",), hyper_parameters={"C": 10.0}, tau=0.1)
    run_study(study)
    first = stored(tmp_path / "first")
    told = json.loads(json.dumps(first.provenance["study"]))
    assert not set(told) & {"results", "device", "chunk", "baseline"}
    run_study(Study.model_validate({**told, "results": tmp_path / "second", "device": "cpu"}))
    assert stored(tmp_path / "second").key == first.key


def test_the_machine_is_described_by_its_kind(tmp_path):
    run_study(small_study(tmp_path))
    told = stored(tmp_path).provenance
    assert told["hardware"]["device"] == "cpu"
    assert told["hardware"]["cores"] == os.cpu_count()
    assert told["hardware"]["memory_bytes"] > 1 << 28
    assert told["peak_bytes"] > 1 << 26
    assert told["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert told["pretraining"] == ""
    assert os.uname().nodename not in json.dumps(told["hardware"]) + told["platform"]


def test_what_a_gpu_computes_in_tf32_is_recorded_and_a_cpu_records_nothing():
    assert tf32("cpu") == {}
    assert tf32("cuda") == {"tf32": "convolutions"}, "as PyTorch's own setting says"
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert tf32("cuda:1") == {"tf32": "convolutions, matrix products"}
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        assert tf32("cuda") == {"tf32": "nothing"}
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_tf32_is_read_where_a_user_has_set_it_by_either_interface():
    script = """
import torch
from fewshot_bench.study.provenance import tf32
torch.backends.cuda.matmul.fp32_precision = "tf32"
torch.backends.cudnn.conv.fp32_precision = "ieee"
print(tf32("cuda"))
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "{'tf32': 'matrix products'}"


def test_base_precision_is_recorded_only_where_it_is_given():
    assert "base_precision" not in study_record(Study())
    assert study_record(Study(base_precision="bf16"))["base_precision"] == "bf16"


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("--results=/home/bob/thesis", "--results=thesis"),
        ("/home/bob/w.safetensors", "w.safetensors"),
        ("~/photos", "photos"),
        ("weights=/home/bob/w.safetensors", "weights=w.safetensors"),
        ("--recipe=rfs-conv4,/home/bob/mine.toml", "--recipe=rfs-conv4,mine.toml"),
        ("/home/bob,/a=b/w.safetensors", "w.safetensors"),
        ("drops=[[60, 0.1], [80, 0.01]]", "drops=[[60, 0.1], [80, 0.01]]"),
        (r"C:\Users\bob\photos", "photos"),
        ("results/mine", "results/mine"),
        ("C=10", "C=10"),
        ("0.6,0.2,0.2", "0.6,0.2,0.2"),
        ("--base-loss", "--base-loss"),
        ("/", "/"),
        ("s3://bucket/somewhere/thesis", "thesis"),
        ("--results=s3://key:secret@bucket/thesis/?token=secret#part", "--results=thesis"),
        ("s3://bucket", "s3://"),
        ("weights=https://bob:secret@host/w.safetensors?X-Amz-Signature=secret", "weights=w.safetensors"),
    ],
)
def test_of_an_absolute_path_or_a_url_the_last_part_is_kept(argument, kept):
    assert room.without_folders(argument) == kept


def test_a_file_of_weights_is_recorded_by_its_name():
    assert room.study_record(Study(weights=Path("/home/bob/w.safetensors")))["weights"] == "w.safetensors"


@pytest.mark.parametrize("fields", [{"sampler": "disjoint"}, {"until_ci": 40.0, "max_episodes": 5, "runs": 1}], ids=str)
def test_a_study_that_counts_its_own_episodes_can_be_run_from_its_record(tmp_path, fields):
    plain = {"shots": (1,), "base_losses": (), "device": "cpu"}
    run_study(Study(results=tmp_path / "first", **plain, **fields))
    told = stored(tmp_path / "first").provenance["study"]
    run_study(Study.model_validate({**told, "results": tmp_path / "second", "device": "cpu"}))
    first, second = (
        OutcomeStore(tmp_path / name / "outcomes").read(stored(tmp_path / name)) for name in ("first", "second")
    )
    assert len(first) == len(second) > 0


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository whose source is the package, in place of this one's."""
    package = tmp_path / "repository" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    monkeypatch.setattr(room, "_PACKAGE", package)
    room.source_commit.cache_clear()
    yield package
    room.source_commit.cache_clear()


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    result = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return result.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_the_commit_is_that_of_the_source_and_says_whether_files_differ(checkout):
    git(checkout.parent, "init", "--quiet")
    assert room.source_commit() == "", "an untracked package inside of a repository is not its source"
    git(checkout.parent, "add", ".")
    git(checkout.parent, "commit", "--quiet", "-m", "first")
    commit = git(checkout.parent, "rev-parse", "HEAD")
    room.source_commit.cache_clear()
    assert room.source_commit() == commit
    (checkout.parent / "notes.txt").write_text("not part of the package")
    room.source_commit.cache_clear()
    assert room.source_commit() == commit
    (checkout / "__init__.py").write_text("x = 2\n")
    room.source_commit.cache_clear()
    assert room.source_commit() == f"{commit}-dirty"


def test_without_git_nothing_is_said_and_nothing_fails(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert room.source_commit() == ""
    told = room.provenance(Study(), fewshot_bench.create_backbone("conv4_32"), LocalEngine("cpu"))
    assert "git_commit" not in told


def test_a_cell_that_goes_on_remembers_every_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_code(["run", *SMALL]) == 0
    longer = ["run", *SMALL, "--episodes", "6"]
    assert exit_code(longer) == 0
    assert exit_code(longer) == 0
    commands = stored(tmp_path / "results").provenance["commands"]
    assert commands == [f"fewshot-bench run {' '.join(SMALL)}", f"fewshot-bench {' '.join(longer)}"]


def test_the_points_of_a_sweep_record_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--adapt", "logistic", "--grid", "C=1", *SMALL, "--jobs", "1"]
    assert exit_code(["sweep", *options]) == 0
    (path,) = Path("results/sweeps").rglob("cell.json")
    assert json.loads(path.read_text())["provenance"]["commands"] == [f"fewshot-bench sweep {' '.join(options)}"]
