"""The folder of a classifier may come from a stranger: whatever is in it, loading ends in one line and runs nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import toy_split
from safetensors.torch import load_file

import fewshot_bench as fb
from fewshot_bench._io.tensors import tensors_digest, write_tensors
from fewshot_bench.backbones import BackboneRequest
from fewshot_bench.datasets.dataset import Dataset
from fewshot_bench.errors import FewshotBenchError


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> dict[str, Path]:
    """A classifier of each kind."""
    dataset = Dataset("toy", {"novel": toy_split(classes=3, images=4)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = fb.create_backbone(BackboneRequest("conv4_32", 3, 16))
    folder = tmp_path_factory.mktemp("kept")
    return {name: fb.fit(name, dataset, network).save(folder / name) for name in ("logistic", "knn")}


def change(folder: Path, **changes: object) -> None:
    """Change the description; "head.settings" is settings in head."""
    path = folder / "model.json"
    card = json.loads(path.read_text())
    for name, value in changes.items():
        *tables, key = name.split("__")
        place = card
        for table in tables:
            place = place[table]
        place[key] = value
    path.write_text(json.dumps(card))


def retensor(folder: Path, is_signed: bool = True, **tensors: torch.Tensor | None) -> None:
    """Change tensors of the head, and the digests with them."""
    path = folder / "head.safetensors"
    content = {name: tensor.clone() for name, tensor in load_file(path).items()} | tensors
    content = {name: tensor for name, tensor in content.items() if tensor is not None}
    path.unlink()
    write_tensors(path, content, {})
    if is_signed:
        change(folder, head__tensors=tensors_digest(content))


def cut(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def linked(folder: Path, name: str) -> None:
    shutil.move(folder / name, folder / f"{name}.real")
    (folder / name).symlink_to(folder / f"{name}.real")


def piped(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def no_json(folder: Path, content: str) -> None:
    (folder / "model.json").write_text(content)


NAN = torch.full((3, 32), torch.nan, dtype=torch.float64)
LINEAR: dict[str, tuple[Callable[[Path], None], str]] = {
    "a later format": (lambda folder: change(folder, format=2), "later release"),
    "a format that is no number": (lambda folder: change(folder, format="1"), "format"),
    "an unknown field": (lambda folder: change(folder, more=1), "more"),
    "a missing field": (lambda folder: no_json(folder, '{"format": 1}'), "missing"),
    "no JSON": (lambda folder: no_json(folder, "{"), "JSON"),
    "a list": (lambda folder: no_json(folder, "[]"), "mapping"),
    "deep JSON": (lambda folder: no_json(folder, "[" * 100_000), "JSON"),
    "huge JSON": (lambda folder: os.truncate(folder / "model.json", 1 << 33), "bytes"),
    "bytes that are no text": (lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe{"), "JSON"),
    "a linked description": (lambda folder: linked(folder, "model.json"), "link"),
    "a pipe": (lambda folder: piped(folder, "model.json"), "pipe"),
    "one class": (lambda folder: change(folder, class_names=["a"], class_sizes=[1]), "class_names"),
    "a class twice": (lambda folder: change(folder, class_names=["a", "b", "a"]), "same name"),
    "a class that moves the cursor": (lambda folder: change(folder, class_names=["a", "b", "\x1b[2J"]), "class_names"),
    "sizes of other classes": (lambda folder: change(folder, class_sizes=[1, 2]), "size"),
    "a huge image": (lambda folder: change(folder, images__size=1_000_000), "size"),
    "a network without a channel": (lambda folder: change(folder, backbone__mean=[], backbone__std=[]), "mean"),
    "a deviation of zero": (lambda folder: change(folder, backbone__std=[0.0, 1.0, 1.0]), "std"),
    "an accuracy of 200%": (lambda folder: change(folder, measured=[{"mean": 200.0}]), "measured"),
    "an unknown backbone": (lambda folder: change(folder, backbone__name="conv4_33"), "conv4_33"),
    "another backbone": (lambda folder: change(folder, backbone__name="conv4_64"), "weights"),
    "code as a backbone": (lambda folder: change(folder, backbone__name="os:system"), "--trust-code"),
    "a path as a checkpoint": (
        lambda folder: change(folder, backbone__weights_from="checkpoint", backbone__checkpoint="../../etc/passwd"),
        "name",
    ),
    "no such checkpoint": (
        lambda folder: change(folder, backbone__weights_from="checkpoint", backbone__checkpoint="mine"),
        "mine",
    ),
    "weights of the name alone": (lambda folder: change(folder, backbone__weights_from="name"), "another network"),
    "other weights": (lambda folder: change(folder, backbone__weights="0" * 64), "another network"),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), "weights"),
    "half of the weights": (lambda folder: cut(folder, "weights.safetensors"), "weights"),
    "linked weights": (lambda folder: linked(folder, "weights.safetensors"), "link"),
    "no head": (lambda folder: (folder / "head.safetensors").unlink(), "missing"),
    "half a head": (lambda folder: cut(folder, "head.safetensors"), "head.safetensors"),
    "an empty head": (lambda folder: os.truncate(folder / "head.safetensors", 0), "head.safetensors"),
    "a huge head": (lambda folder: os.truncate(folder / "head.safetensors", 1 << 33), "bytes"),
    "a linked head": (lambda folder: linked(folder, "head.safetensors"), "link"),
    "a head of NaN": (lambda folder: retensor(folder, weights=NAN), "NaN"),
    "a head of other classes": (lambda folder: retensor(folder, bias=torch.zeros(4).double()), "bias"),
    "a head of whole numbers": (lambda folder: retensor(folder, bias=torch.zeros(3).long()), "bias"),
    "a head with more": (lambda folder: retensor(folder, more=torch.zeros(1)), "together"),
    "a head without a bias": (lambda folder: retensor(folder, bias=None), "bias"),
    "another head": (lambda folder: retensor(folder, is_signed=False, bias=torch.ones(3).double()), "together"),
    "a linear head of nothing": (lambda folder: change(folder, head__linear_in=""), "linear_in"),
}
SUPPORT: dict[str, tuple[Callable[[Path], None], str]] = {
    "code as a method": (lambda folder: change(folder, head__adaptation="os:system"), "--trust-code"),
    "an unknown method": (lambda folder: change(folder, head__adaptation="knnn"), "knn"),
    "a transductive method": (lambda folder: change(folder, head__adaptation="tim", head__settings={}), "inductive"),
    "a method on images": (lambda folder: change(folder, head__adaptation="finetune", head__settings={}), "inductive"),
    "an unknown setting": (lambda folder: change(folder, head__settings={"sides": 3}), "sides"),
    "a refused setting": (lambda folder: change(folder, head__settings={"k": -1}), "k"),
    "a setting of another type": (lambda folder: change(folder, head__settings={"k": "one"}), "k"),
    "other sizes": (lambda folder: change(folder, class_sizes=[4, 3, 5]), "together"),
    "more images": (lambda folder: change(folder, class_sizes=[1 << 40] * 3), "support"),
}
CASES = {("logistic", name): case for name, case in LINEAR.items()} | {
    ("knn", name): case for name, case in SUPPORT.items()
}


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_folder_that_is_not_as_it_was_kept_is_refused_in_one_line(case, kept, tmp_path):
    folder = shutil.copytree(kept[case[0]], tmp_path / "model")
    spoil, word = CASES[case]
    spoil(folder)
    with pytest.raises(FewshotBenchError, match=word) as error:
        fb.Classifier.load(folder)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_what_is_no_classifier_is_refused(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(FewshotBenchError, match="fewshot-bench fit"):
        fb.Classifier.load(tmp_path / name)
