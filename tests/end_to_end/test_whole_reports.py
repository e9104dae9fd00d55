"""From folders of images to verdicts: two losses with three seeds, on the same test images, audited and repeated."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from fewshot_bench.cli.main import exit_code
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report.trainings import training_seed

pytestmark = pytest.mark.slow

CE, SCHANE = "base-ce@", "base-ce+schane@"


def write_images(folder) -> None:
    """Three classes of noisy 8 px images that differ in a colour, in train and test folders."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(("blue", "green", "red")):
        for split, count in (("train", 12), ("test", 6 + 2 * number)):
            (folder / split / name).mkdir(parents=True)
            for image in range(count):
                pixels = generator.integers(0, 120, (8, 8, 3)) + generator.normal(0, 25, 3)
                pixels[..., 2 - number] += 18
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / name / f"{image:02}.png")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    write_images(folder / "colours")
    place = folder / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_BENCH_HOME", str(folder / "home"))
        patch.setenv("COLUMNS", "200")
        command = ["run", "--protocol", "full", "--dataset", str(folder / "colours"), "--backbone", "conv4_64_gap"]
        command += ["--image-size", "16", "--loss", "ce,ce+schane", "--training-seeds", "3", "--base-epochs", "2"]
        assert exit_code([*command, "--base-batch", "12", "--results", str(place)]) == 0
        yield place


def correct_by_seed(results, part) -> list[np.ndarray]:
    store = OutcomeStore(results / "outcomes")
    cells = sorted((cell for cell in store.cells() if part in cell.method.name), key=lambda c: training_seed(c.method))
    return [store.read(cell)["accuracy"].to_numpy() for cell in cells]


def test_compare_says_what_scipy_says_of_the_stored_outcomes(results, capsys):
    assert exit_code(["compare", SCHANE, CE, "--results", str(results), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["comparisons"]
    a, b = (np.stack(correct_by_seed(results, part)) for part in (SCHANE, CE))
    assert a.shape == b.shape == (3, 24)
    expected = stats.ttest_rel(a.mean(axis=0), b.mean(axis=0))
    assert record["difference"] == pytest.approx(100 * (a.mean() - b.mean()))
    assert record["p"] == pytest.approx(expected.pvalue)
    assert record["beyond"] == "images of these classes"
    assert [test["seed"] for test in record["mcnemar"]] == [0, 1, 2]


def test_leaderboard_and_page_speak_of_test_images(results, capsys):
    assert exit_code(["leaderboard", "--results", str(results)]) == 0
    text = capsys.readouterr().out
    assert "whole test split, 3 classes, 24 test images" in text
    assert "0-shot" not in text
    frame = pd.read_csv(results / "leaderboard.csv")
    own = frame[(frame["source"] == "measured") & frame["method"].str.contains(SCHANE, regex=False)].iloc[0]
    assert own["trainings"] == 3
    assert own["mean"] == pytest.approx(100 * np.mean(correct_by_seed(results, SCHANE)), abs=1e-4)
    assert 0 <= own["calibration_error"] <= 100
    assert "Results on whole datasets" in (results / "report.html").read_text(encoding="utf-8")


def test_the_audit_finds_nothing_and_every_outcome_comes_out_again(results, capsys):
    assert exit_code(["audit", str(results), "--json"]) == 0
    audit = json.loads(capsys.readouterr().out)
    assert audit["outcome"] == "passed"
    assert {cell["checked_episodes"] for cell in audit["cells"]} == {24}
    cell = next(iter(sorted((results / "outcomes").glob("????????????????"))))
    assert exit_code(["reproduce", str(cell), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["is_equal"]
    assert record["confidence_difference"] < 1e-4
