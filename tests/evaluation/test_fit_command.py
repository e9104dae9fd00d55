"""`fewshot-bench fit` and `predict`, as somebody with photos uses them."""

from __future__ import annotations

import csv
import json
import os

import pytest
import torch
from safetensors.torch import save_file
from samples import class_images, write_folder

import fewshot_bench as fb
from fewshot_bench.backbones import BackboneRequest
from fewshot_bench.cli.main import exit_code

SIZE = 20


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with photos of three classes and the weights of a tiny network."""
    folder = tmp_path / "place"
    write_folder(folder / "photos", class_images(images=4, size=SIZE))
    torch.manual_seed(0)
    network = fb.create_backbone(BackboneRequest("conv4_32", 3, SIZE)).network
    save_file(network.state_dict(), folder / "weights.safetensors")
    monkeypatch.chdir(folder)
    return folder


NETWORK = ("--backbone", "conv4_32", "--weights", "weights.safetensors", "--base-loss", "none", "--device", "cpu")


def command(*arguments):
    return exit_code([*arguments, "--device", "cpu"] if arguments[0] == "predict" else list(arguments))


@pytest.mark.slow
def test_from_photos_to_a_table_of_predictions(place, capsys):
    fit = ("fit", "--dataset", "./photos", *NETWORK, "--adapt", "logistic", "--set", "C=5")
    assert command(*fit, "-o", "model") == 0
    out = capsys.readouterr().out
    assert "3 classes, 12 images" in out
    assert "not measured" in out
    assert "fewshot-bench predict model" in out
    assert json.loads((place / "model/model.json").read_text())["measured"] is None
    assert command(*fit, "-o", "model") == 2
    assert "--replace" in capsys.readouterr().err
    assert command(*fit, "-o", "model", "--replace", "--shot", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["class_sizes"] == [2, 2, 2]
    (place / "photos/cat/bad.png").write_bytes(b"bad")
    (place / "=1+1.png").write_bytes((place / "photos/cat/0.png").read_bytes())
    assert command("predict", "model", "photos", "=1+1.png", "--top", "2", "-o", "out/table.csv") == 1
    printed = capsys.readouterr()
    assert "photos/cat/bad.png" in printed.err
    assert "13 images" in printed.out
    with open(place / "out/table.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert list(rows[0]) == ["image", "class", "probability", "class_2", "probability_2"]
    assert rows[-1]["image"] == "'=1+1.png"  # never a formula
    assert command("predict", "model", "photos/dog/1.png", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["images"][0]["classes"][0]["class"] in ("cat", "dog", "owl")
    assert record["refused"] == []
    assert command("predict", "model", "photos/dog") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()][:2] == ["image", "photos/dog/0.png"]


WRONG = {
    ("fit", "--dataset", "./photos", *NETWORK): "--output",
    ("fit", "--dataset", "./photos", *NETWORK, "--adapt", "logistik", "-o", "m"): "logistic",
    ("fit", "--dataset", "./photo", *NETWORK, "-o", "m"): "photo",
    ("fit", "--dataset", "./photos", *NETWORK, "--adapt", "centroid,logistic", "-o", "m"): "--adapt",
    ("fit", "--dataset", "./photos", *NETWORK, "--adapt", "tim", "-o", "m"): "transductive",
    ("fit", "--dataset", "./photos", *NETWORK, "--adapt", "finetune", "-o", "m"): "fewshot-bench train",
    ("fit", "--dataset", "./photos", *NETWORK, "--shot", "9", "-o", "m"): "--shot 4",
    ("fit", "--dataset", "./photos", *NETWORK, "--split", "base", "-o", "m"): "base",
    ("fit", "--dataset", "./photos", *NETWORK, "-o", "photos"): "not a classifier",
    ("fit", "--dataset", "./photos", *NETWORK, "--set", "K=1", "-o", "m"): "'K'",
    ("predict", "photos", "photos"): "fewshot-bench fit",
    ("predict", "m"): "IMAGE",
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, place, capsys):
    assert command(*arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert WRONG[arguments] in error
    assert not os.path.exists("m")
