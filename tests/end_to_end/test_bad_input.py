"""Bad input: one clear line on stderr, exit code 2, nothing stored is touched."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
import torch

from fewshot_bench.cli.main import exit_code

BAD = {
    "unknown dataset": (["run", "--dataset", "glyps"], "no dataset called 'glyps'. Did you mean glyphs?"),
    "unknown backbone": (["run", "--backbone", "conv5_32"], "Did you mean conv4_32"),
    "unknown timm model": (["run", "--backbone", "timm:resnet19"], "no timm model called 'resnet19'"),
    "unknown adaptation": (["run", "--adapt", "centriod"], "Did you mean centroid or entropy?"),
    "unknown loss": (
        ["run", "--base-loss", "schane"],
        "no loss called 'schane'. SCHaNe comes with cross-entropy: --loss ce+schane",
    ),
    "unknown split": (
        ["run", "--split", "tset"],
        "--split: Input should be 'base', 'validation', 'novel', 'train' or 'test'",
    ),
    "absent split": (["run", "--split", "test"], "glyphs has no test split; it has base, validation, novel."),
    "fractions of official splits": (["run", "--split", "0.6,0.2,0.2"], "glyphs has its splits already"),
    "no fractions": (["run", "--dataset", ".", "--split", "0.6,a,0.2"], "--split"),
    "unknown list": (["ls", "losess"], "Did you mean losses"),
    "unknown option": (["run", "--shot", "1"], "--shot"),
    "unknown hyper-parameter": (["run", "--set", "k=3"], "no adaptation of this study (centroid)"),
    "hyper-parameter of a wrong kind": (["run", "--set", "metric=manhattan"], "cosine, euclidean, not manhattan"),
    "hyper-parameter that is nearly one": (
        ["run", "--adapt", "logistic", "--set", "c=3"],
        "no adaptation of this study (logistic) has a hyper-parameter 'c'. Did you mean C?",
    ),
    "hyper-parameter that is no number": (
        ["run", "--adapt", "logistic", "--set", "C=ten"],
        "C of logistic should be a number, not 'ten'.",
    ),
    "truth for a number": (
        ["run", "--adapt", "finetune-head", "--set", "scale=true"],
        "scale of finetune-head should be a number, not True.",
    ),
    "half a step": (
        ["run", "--adapt", "logistic", "--set", "max_iterations=2.5"],
        "max_iterations of logistic should be a whole number, not 2.5.",
    ),
    "no adaptation": (["run", "--adapt", ","], "--adapt takes one value or more; none was given."),
    "no loss": (["run", "--loss", ""], "--loss takes one value or more; none was given."),
    "hyper-parameter without a value": (["run", "--set", "metric"], "--set takes NAME=VALUE"),
    "shots that are no numbers": (["run", "--shots", "one"], "whole numbers such as 1,5"),
    "too many ways": (["run", "--way", "25"], "has 20 classes; 25-way episodes need 25. Use --way 20 or fewer"),
    "too many shots": (["run", "--shots", "1,50"], "50 shots and 15 queries need 65"),
    "no episodes": (["run", "--episodes", "0"], "--episodes"),
    "no such device": (["run", "--device", "cuda:77"], "there is no device 'cuda:77'"),
    "not imported": (["run", "--dataset", "cifar-fs"], "fewshot-bench data get cifar-fs"),
    "missing archive": (["data", "import", "fc100", "--from", "no.zip"], "no.zip does not exist"),
    "damaged archive": (["data", "import", "cifar-fs", "--from", "cut.zip"], "not a complete zip archive"),
    "nothing to compare": (["compare", "a", "b"], "there are no outcomes in"),
    "one method to compare": (["compare", "a"], "--baseline"),
    "unknown correction": (["compare", "--correct", "sidak"], "--correct takes holm, bh, none, not 'sidak'"),
    "power of nothing": (["power"], "power takes two stored methods, A and B, or --sd and --correlation"),
    "power of half": (["power", "--sd", "10"], "power takes two stored methods, A and B, or --sd and --correlation"),
    "power of both": (["power", "a", "b", "--sd", "10"], "--sd and --correlation"),
    "a correlation above 1": (["power", "--sd", "10", "--correlation", "1.5"], "correlation"),
    "a negative spread": (["power", "--sd", "-1", "--correlation", "0.5"], "-1"),
    "two ways to stop": (
        ["run", "--until-ci", "1", "--episodes", "9"],
        "--episodes and --until-ci both say when to stop",
    ),
    "a limit of nothing": (["run", "--max-episodes", "9"], "--max-episodes limits --until-ci"),
    "no width": (["run", "--until-ci", "0"], "--until-ci: Input should be greater than 0"),
    "nothing to show": (["leaderboard"], "there are no outcomes in"),
    "no lock file": (["episodes", "verify", "cut.zip"], "is not a lock file"),
    "weights of another network": (["run", "--weights", "other.pth"], "it is not for this backbone"),
    "weights that are integers": (["run", "--weights", "int8.pth"], "in int8.pth is int8"),
    "weights that are missing": (["run", "--weights", "no.pth"], "no.pth is not a file"),
    "results in a file": (
        ["run", "--results", "cut.zip"],
        "cut.zip is a file, not a folder of results. Name the folder.",
    ),
    "picture in no folder": (["episodes", "show", "--png", "cut.zip/a.png"], "cut.zip/a.png: Not a directory"),
    "NaN weights": (["run", "--weights", "nan.pth", "--base-loss", "none"], "in nan.pth holds NaN or infinite values"),
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewshot_bench.backbones import BackboneRequest, create_backbone

    monkeypatch.chdir(tmp_path)
    Path("cut.zip").write_bytes(b"PK\x03\x04 and then nothing")
    torch.save({"weight": torch.zeros(2)}, "other.pth")
    network = create_backbone(BackboneRequest("conv4_32", 1, 28)).network
    torch.save({name: value.to(torch.int8) for name, value in network.state_dict().items()}, "int8.pth")
    torch.save({name: value * float("nan") for name, value in network.state_dict().items()}, "nan.pth")


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_code_two(case, capsys):
    arguments, sentence = BAD[case]
    assert exit_code(arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert "Traceback" not in captured.err
    assert not Path("results").exists()


@pytest.mark.parametrize("arguments", [[], ["data"], ["episodes"]])
def test_a_command_without_its_sub_command_prints_its_help_in_lines(arguments, capsys):
    assert exit_code(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Usage: ")
    assert len(lines) > 5


def test_an_existing_leaderboard_survives_a_failed_run():
    Path("results").mkdir()
    Path("results/leaderboard.csv").write_text("precious\n")
    assert exit_code(["run", "--way", "25"]) == 2
    assert exit_code(["leaderboard"]) == 2
    assert Path("results/leaderboard.csv").read_text() == "precious\n"


def test_a_full_disk_is_said_in_one_line(monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fewshot_bench.outcomes.store.OutcomeStore.check_folder", full)
    assert exit_code(["run"]) == 2
    assert "error: No space left on device. Check the path" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(monkeypatch):
    def broken(*_: object) -> None:
        raise OSError("something that no user can mend")

    monkeypatch.setattr("fewshot_bench.outcomes.store.OutcomeStore.check_folder", broken)
    with pytest.raises(OSError, match="no user can mend"):
        exit_code(["run"])


def test_a_batch_that_does_not_fit_is_refused_before_training(monkeypatch, capsys):
    monkeypatch.setattr("fewshot_bench.training.optimisation.free_bytes", lambda device: 20_000_000)
    assert exit_code(["run", "--base-batch", "512"]) == 2
    assert re.search(r"batches of 512 images .* Use --base-batch \d+ or less", capsys.readouterr().err)
    assert not Path("results").exists()
