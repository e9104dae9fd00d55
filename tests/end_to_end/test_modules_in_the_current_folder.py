"""The current folder may be a stranger's: modules in it with the names of installed ones stay there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from own_code import ADAPTATION, code, helper, write  # noqa: F401  # a fixture

from fewshot_bench.cli.main import exit_code

pytestmark = pytest.mark.slow

SHADOWS = ("torch", "numpy", "pandas", "pyarrow", "pydantic", "typer", "timm", "signal", "evil")
ENTRY_POINTS = "\n".join(f"[fewshot_bench.{kind}]\nevil = evil:x" for kind in ("adaptations", "losses", "backbones"))
ROOT = Path(__file__).parents[2]


@pytest.fixture
def strangers(tmp_path, home, monkeypatch) -> Path:
    """The current folder, whose modules leave a mark when they are imported."""
    folder = tmp_path / "strangers"
    (folder / "evil-1.0.dist-info").mkdir(parents=True)
    (folder / "evil-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (folder / "evil-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\n")
    (folder / "fewshot_bench").mkdir()
    (folder / "fewshot_bench" / "__init__.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\n")
    monkeypatch.chdir(folder)
    return folder


def test_the_processes_of_a_sweep_import_none_of_them(strangers, tmp_path):
    sweep = ("sweep", "--episodes", "3", "--base-loss", "none", "--adapt", "logistic", "--backbone", "conv4_32")
    assert exit_code([*sweep, "--grid", "C=1,2", "--device", "cpu", "--jobs", "2", "--name", "s"]) == 0
    assert not (tmp_path / "mark").exists()


def test_nor_do_the_workers_of_a_ray_cluster(strangers, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    run = ("run", "--backbone", "conv4_32", "--base-loss", "none", "--shots", "1", "--runs", "1", "--episodes", "3")
    assert exit_code([*run, "--device", "cpu", "--engine", "ray", "--workers", "1"]) == 0
    assert not (tmp_path / "mark").exists()


def test_nor_does_python_m(strangers, tmp_path):
    (strangers / "fewshot_bench" / "__init__.py").unlink()  # that one is not ours to keep out
    (strangers / "fewshot_bench").rmdir()
    before = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path
    ]  # an empty one is this folder
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *before])}
    for name in ("losses", "backbones"):
        listed = subprocess.run(
            [sys.executable, "-m", "fewshot_bench", "ls", name], env=environment, capture_output=True, text=True
        )
        assert listed.returncode == 0, listed.stderr
        assert "evil" not in listed.stdout
    assert not (tmp_path / "mark").exists()


def test_the_processes_of_a_sweep_import_what_is_named(home, code):  # noqa: F811
    mine = ADAPTATION.format(helper="other").replace('= "mine"', '= "mine"\n    factor: float = 1.0')
    write(code, mine=mine, other=helper(1.0))
    sweep = ("sweep", "--episodes", "3", "--base-loss", "none", "--adapt", "mine:Mine", "--name", "s")
    sweep = (*sweep, "--backbone", "conv4_32", "--grid", "factor=1,2", "--device", "cpu", "--jobs", "2")
    assert exit_code(list(sweep)) == 0
