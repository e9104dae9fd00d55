"""Help, lists and misspelt names answer without torch: a slip of the pen does not wait for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from typer.main import get_command

from fewshot_bench.adaptation import ADAPTATIONS
from fewshot_bench.backbones import BACKBONES
from fewshot_bench.cli.main import app
from fewshot_bench.errors import UnknownNameError
from fewshot_bench.losses import LOSSES
from fewshot_bench.study import known_names
from fewshot_bench.study.known_names import OWN_NAMES, refuse_misspelt, timm_models

pytestmark = pytest.mark.slow

HEAVY = ("torch", "torchvision", "timm", "ray")
PROGRAM = """
import contextlib, io, json, sys
from fewshot_bench.cli.main import exit_code
out, err = io.StringIO(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = exit_code(sys.argv[1:])
print(json.dumps([code, out.getvalue(), err.getvalue(), sorted(sys.modules)]))
"""
STUDY = """
[[methods]]
adaptations = ["logistic"]
{line}
"""


def answered(folder, *arguments):
    """Exit code, output and errors of a command in a process of its own, without any heavy module."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    code, out, err, modules = json.loads(result.stdout)
    assert not set(HEAVY) & set(modules), arguments
    return code, out, err


def commands(command, path=""):
    """Every command and sub-command, e.g. "data get"."""
    found = [path]
    for name in command.list_commands(None) if hasattr(command, "list_commands") else []:
        found += commands(command.get_command(None, name), f"{path} {name}".strip())
    return found


def test_every_command_is_among_those():
    assert {"", "run", "ls", "data get", "cache", "episodes verify"} <= set(commands(get_command(app)))


@pytest.mark.parametrize("command", commands(get_command(app)))
def test_help_is_without_torch(tmp_path, command):
    code, out, _ = answered(tmp_path, *command.split(), "--help")
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("predict", "missing", "a.png"), "missing"), (("fit", "--adapt", "logistik", "-o", "model"), "logistic")],
)
def test_a_mistake_in_fit_and_predict_is_answered_without_torch(tmp_path, arguments, word):
    code, _, err = answered(tmp_path, *arguments)
    assert code == 2
    assert word in err


def test_a_list_of_studies_is_without_torch(tmp_path):
    code, out, _ = answered(tmp_path, "ls", "studies")
    assert code == 0
    assert "quickstart" in out
    assert "glyphs" in answered(tmp_path, "ls", "datasets")[1]
    assert answered(tmp_path, "study", "quickstart")[0] == 0


def test_a_new_package_is_written_without_torch(tmp_path):
    code, out, _ = answered(tmp_path, "new", "adaptation", "own-thing")
    assert code == 0
    assert "cd own-thing" in out
    assert (tmp_path / "own-thing" / "pyproject.toml").is_file()
    assert "the adaptation centroid exists already" in answered(tmp_path, "new", "adaptation", "centroid")[2]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("ls studie", "Did you mean studies?"),
        ("runn", "No such command 'runn'"),
        ("study quikstart", "no study called 'quikstart'. Did you mean quickstart?"),
        ("run quikstart", "no study called 'quikstart'. Did you mean quickstart?"),
        ("run missing.toml", "there is no file missing.toml"),
        ("run --dataset cifar-fss", "no dataset called 'cifar-fss'. Did you mean cifar-fs"),
        ("run --adapt centriod", "no adaptation called 'centriod'. Did you mean centroid or"),
        ("run --adapt centroid,centriod", "no adaptation called 'centriod'"),
        ("run --loss ce+shane", "no loss called 'ce+shane'. Did you mean ce+schane"),
        ("run --base-loss ce,ce+simclrr", "no loss called 'ce+simclrr'. Did you mean ce+simclr"),
        ("run --backbone conv4_46", "no backbone called 'conv4_46'. Did you mean conv4_64"),
        ("run --backbone timm:resnet188", "no timm model called 'resnet188'. Did you mean resnet18"),
        ("run --backbone ResNet-50", "no backbone called 'ResNet-50'. It is called resnet50"),
        ("run --backbone dinov2", "--backbone timm:vit_small_patch14_dinov2.lvd142m"),
        ("run --adapt protonet", "--adapt centroid --set metric=euclidean"),
        ("run --checkpoint mine", "no checkpoint called 'mine'"),
        ("run --setting missing.toml", "there is no configuration missing.toml"),
        ("run --reading on", "--reading: Input should be 'in' or 'out', not 'on'"),
        ("run --split nvel", "--split: Input should be"),
        ("run --sampler standart", "--sampler: Input should be"),
        ("run --interpolation cubic", "--interpolation: Input should be"),
        ("run --engine rai", "--engine takes local or ray, not 'rai'"),
        ("run --adpt centroid", "No such option: --adpt"),
        ("run --set metric", "--set takes NAME=VALUE"),
        ("run --shots one", "--shots takes whole numbers"),
        ("sweep --adapt centriod", "no adaptation called 'centriod'"),
        ("sweep --loss ce+shane", "no loss called 'ce+shane'"),
        ("sweep --dataset glyps", "no dataset called 'glyps'. Did you mean glyphs?"),
        ("train --name x --loss ce+shane", "no loss called 'ce+shane'"),
        ("train --name x --backbone conv4_46", "no backbone called 'conv4_46'"),
        ("train --name x --dataset glyps", "no dataset called 'glyps'"),
        ("train --name x --schedule cosin", "should be one of constant, cosine, one-cycle, steps, not cosin"),
        ("train --recipe rfs-conv5", "Did you mean rfs-conv4"),
        ("train --name x --optimizer adan", "should be one of adamw, adam, sgd, not adan"),
        (
            "train --name x --augmentation car",
            "should be one of auto, autoaugment, autoaugment-policy, jitter, affine, none, not car",
        ),
        ("train --name x --precision fp8", "should be one of float32, bf16, fp16, not fp8"),
        ("run misspelt.toml", "misspelt.toml, line 4: there is no backbone called 'conv4_46'"),
        ("run quickstart --set methods.0.losses=ce+shane", "no loss called 'ce+shane'"),
        ("embeddings conv4_46", "no backbone or checkpoint called 'conv4_46'. Did you mean conv4_64"),
        ("embeddings conv4_32 timm:resnet188", "no timm model called 'resnet188'. Did you mean resnet18"),
        ("embeddings conv4_32 --dataset glyps", "no dataset called 'glyps'. Did you mean glyphs?"),
        ("embeddings conv4_32 --split nvel", "no split called 'nvel'. Did you mean novel"),
        ("embeddings conv4_32 --layout tnse", "--layout takes tsne, pca, umap, none, not 'tnse'"),
        ("embeddings conv4_32 --interpolation cubic", "--interpolation takes bicubic, bilinear, nearest, not 'cubic'"),
        ("embeddings", "name at least one backbone or checkpoint"),
        ("embeddings conv4_32 --against-accuracy", "leave out the networks"),
        ("embeddings --against-accuracy", "no embedding cards in results/embeddings"),
        ("compare a b", "there are no outcomes in results/outcomes"),
        ("compare --correct holmes", "--correct takes holm, bh, none, not 'holmes'"),
        ("leaderboard", "there are no outcomes in results/outcomes"),
        ("report", "there are no outcomes in results/outcomes"),
        ("status nowhere", "nowhere"),
        ("audit nowhere", "nowhere is not one cell of results/outcomes"),
        ("reproduce nowhere", "nowhere is not a folder"),
        ("data check glyps", "no dataset called 'glyps'"),
        ("data get glyps", "called 'glyps'"),
    ],
)
def test_a_misspelt_name_is_answered_without_torch(tmp_path, typed, told):
    (tmp_path / "misspelt.toml").write_text(STUDY.format(line='backbone = "conv4_46"'))
    code, out, err = answered(tmp_path, *typed.split())
    assert code == 2
    assert told in err
    assert out == ""


def test_the_names_that_are_known_without_torch_are_those_of_the_registries():
    registries = {"adaptation": ADAPTATIONS, "backbone": BACKBONES, "loss": LOSSES}
    for kind, registry in registries.items():
        own = {entry.name for entry in registry if "from" not in entry.facts and ":" not in entry.name}
        assert own == set(OWN_NAMES[kind])
        assert known_names._GROUPS[kind] == registry.group
        assert known_names._ROOMS[kind] in {path.name for path in Path(known_names.__file__).parents[1].iterdir()}


def test_the_models_of_timm_are_read_off_its_source():
    own = {
        "conv4_32",
        "conv4_64",
        "conv4_64_gap",
        "resnet12",
        "resnet12_flat",
        "wrn28_10",
    }  # this project registers its networks there as well
    assert set(timm_models()) - own == set(timm.list_models()) - own


@pytest.fixture
def unloaded(monkeypatch):
    """As if no registry were imported yet."""
    monkeypatch.setattr(known_names, "_ROOMS", dict.fromkeys(known_names._ROOMS, "not_imported"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("backbone", "resnet18"),
        ("backbone", "timm:resnet18.a1_in1k"),
        ("backbone", "mine:network"),
        ("backbone", "conv4_32"),
        ("adaptation", "mine:method"),
        ("loss", "mine:loss"),
        ("loss", "ce"),
    ],
)
def test_what_a_registry_might_know_is_left_to_it(unloaded, kind, name):
    refuse_misspelt(kind, name)


def test_every_former_name_of_timm_is_left_to_it(unloaded):
    formerly = list(timm.models._registry._deprecated_models)
    assert formerly
    for name in formerly:
        refuse_misspelt("backbone", name.partition(".")[0])


def test_an_entry_point_is_a_name_and_is_not_loaded_for_it(unloaded, monkeypatch):
    class Point:
        name = "theirs"

        def load(self):
            raise AssertionError("it was loaded")

    monkeypatch.setattr(known_names, "entry_points", lambda group: [Point()] if group.endswith("losses") else [])
    refuse_misspelt("loss", "theirs")
    with pytest.raises(UnknownNameError, match="Did you mean theirs"):
        refuse_misspelt("loss", "thiers")
    with pytest.raises(UnknownNameError):
        refuse_misspelt("adaptation", "theirs")
    with pytest.raises(UnknownNameError, match="timm model"):
        refuse_misspelt("backbone", "timm:")
