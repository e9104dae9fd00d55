"""Names that papers use are answered with what to type, and what is answered can be typed."""

from __future__ import annotations

import re

import pytest
import timm

from fewshot_bench.adaptation import ADAPTATIONS
from fewshot_bench.backbones import BACKBONES
from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import DATASETS
from fewshot_bench.datasets.torchvision_sets import check_torchvision_name
from fewshot_bench.errors import UnknownNameError
from fewshot_bench.literature_names import answered_names, what_to_type
from fewshot_bench.losses import LOSSES
from fewshot_bench.study import Study
from fewshot_bench.study.known_names import OWN_NAMES
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.training.named_recipes import recipe_names

COMMAND = re.compile(r"--adapt (\S+)((?: --set \S+)*)")
OPTION = re.compile(r"--(backbone|loss|base-loss|recipe) ([^\s;,]+)")
KINDS = ("adaptation", "loss", "backbone", "dataset", "recipe")


def commands(answer):
    """The adaptations that an answer names, with their settings."""
    for adaptation, settings in COMMAND.findall(answer):
        pairs = [setting.rstrip(".,").partition("=") for setting in settings.replace("--set", "").split()]
        yield adaptation.rstrip(".,"), {name: _value(text) for name, _, text in pairs}


def _value(text):
    return int(text) if text.isdecimal() else text


def is_known(option, name):
    """Whether an option takes a name."""
    if option == "backbone":
        model, _, tag = name.removeprefix("timm:").partition(".")
        return name in BACKBONES or (timm.is_model(model) and (not tag or bool(timm.get_pretrained_cfg(name[5:]))))
    if option == "recipe":
        return name in recipe_names()
    return name in LOSSES or name.startswith("mymodule:")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in answered_names(kind)])
def test_what_is_answered_can_be_typed(kind, name):
    answer = what_to_type(kind, name)
    found = list(commands(answer))
    for adaptation, settings in found:
        assert planned_adaptations(Study(adaptations=(adaptation,), hyper_parameters=settings))
    named = [(option, text.rstrip(".,:;")) for option, text in OPTION.findall(answer)]
    assert all(is_known(option, text) for option, text in named), answer
    datasets = [text for text in re.findall(r"[a-z0-9-]+", answer) if text in DATASETS]
    if kind == "dataset":
        of_torchvision = re.findall(r"torchvision:\w+", answer)
        assert all(map(check_torchvision_name, of_torchvision))
        assert datasets or of_torchvision or "./FOLDER" in answer
    else:
        assert found or named or "fewshot-bench train" in answer, "an answer says what to type"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("run --loss supcon", "--loss ce+supcon"),
        ("run --base-loss cross_entropy", "It is called ce"),
        ("train --name x --loss InfoNCE", "--loss ce+simclr"),
        ("run --backbone dinov2", "--backbone timm:vit_small_patch14_dinov2.lvd142m"),
        ("run --backbone timm:clip", "--backbone timm:vit_base_patch16_clip_224.openai"),
        ("embeddings vit_b_16", "--backbone timm:vit_base_patch16_224"),
        ("run --dataset CIFARFS", "It is called cifar-fs"),
        ("data get miniImageNet", "It is called mini-imagenet"),
        ("run --dataset cifar_fs", "It is called cifar-fs"),
        ("run --recipe MetaOptNet", "--recipe svm-resnet12"),
        ("ls adaptations protonet", "--recipe protonet-conv4"),
    ],
)
def test_every_kind_of_name_is_answered_in_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert exit_code(arguments.split()) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
    assert line.startswith("error: ")
    assert told in line


def test_names_of_this_package_are_known_though_a_paper_spells_them_otherwise():
    assert [ADAPTATIONS[name].name for name in OWN_NAMES["adaptation"]] == list(OWN_NAMES["adaptation"])
    with pytest.raises(UnknownNameError, match="It is called finetune"):
        _ = ADAPTATIONS["Fine_Tune"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("protonet", "ProtoNet is a training recipe; its classifier is: --adapt centroid --set metric=euclidean"),
        ("Prototypical_Networks", "--adapt centroid --set metric=euclidean --set features=raw"),
        ("nearest-centroid", "It is called centroid: --adapt centroid"),
        ("NCM", "It is called centroid: --adapt centroid"),
        ("linear_probe", "It is called logistic: --adapt logistic"),
        ("anil", "--adapt maml"),
    ],
)
def test_a_name_of_the_field_is_one_line_that_says_what_to_type(tmp_path, capsys, name, told):
    assert exit_code(["run", "--adapt", name, "--results", str(tmp_path)]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
    assert line.startswith(f"error: there is no adaptation called '{name}'. ")
    assert told in line


def test_python_answers_the_same():
    with pytest.raises(UnknownNameError, match="its classifier is: --adapt centroid"):
        _ = ADAPTATIONS["protonet"]
    with pytest.raises(UnknownNameError, match="Did you mean centroid"):
        _ = ADAPTATIONS["centroit"]


def test_an_adaptation_of_that_name_is_not_answered(monkeypatch):
    monkeypatch.setattr(ADAPTATIONS, "_entries", {**ADAPTATIONS._entries, "protonet": ADAPTATIONS["centroid"]})
    assert ADAPTATIONS["protonet"].name == "centroid"
