"""`run` says what it is going to do before anything heavy is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fewshot_bench.backbones import BACKBONES
from fewshot_bench.study import Study
from fewshot_bench.study.announcement import _PRETRAINED, announced
from fewshot_bench.study.known_names import OWN_NAMES

STAND_IN = "raise ImportError('torch was imported')"
PROGRAM = """
import sys
from fewshot_bench.cli.main import exit_code
first = sys.stderr.write
def write(text):
    if text.startswith("results "):
        first(f"heavy: {sorted({'pandas', 'scipy', 'torch', 'statsmodels'} & set(sys.modules))}\\n")
    return first(text)
sys.stderr.write = write
sys.exit(exit_code(sys.argv[1:]))
"""


@pytest.fixture
def without_torch(tmp_path):
    """Run a command where importing torch is an error; what it wrote to stdout and stderr."""
    (tmp_path / "stand-ins").mkdir()
    (tmp_path / "stand-ins" / "torch.py").write_text(STAND_IN)

    def run(*arguments):
        path = os.pathsep.join([str(tmp_path / "stand-ins"), *filter(None, sys.path)])
        command = [sys.executable, "-c", PROGRAM, *arguments]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
        )
        return result.stdout, result.stderr

    return run


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_the_plan_is_there_before_torch_and_pandas(without_torch, more):
    out, err = without_torch("run", "--episodes", "40", *more)
    assert out == ""
    assert "plan         glyphs, novel split: 5-way 1-shot and 5-shot, 3 runs of 40 episodes" in err
    assert "networks     conv4_32, trained first on the base split with ce and with ce+schane" in err
    assert "methods      2: centroid; 4 cells, 480 episodes" in err
    assert "heavy: []" in err
    assert err.index("results      results") < err.index("torch was imported")


@pytest.mark.slow
def test_the_plan_of_a_file_is_there_before_torch(without_torch):
    _, err = without_torch("run", "heads")
    assert "plan         heads: cifar-fs and fc100, novel split: 5-way 1-shot and 5-shot, " in err
    assert "methods      efficientnet_lite0: all" in err
    assert err.index("results      results") < err.index("torch was imported")


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ({"checkpoints": ("mine", "theirs")}, "networks     mine and theirs"),
        ({"recipe": "rfs-conv4"}, "network      rfs-conv4, trained first on the base split unless that is done"),
        ({"recipe": "rfs-conv4", "training_seeds": 3}, "networks     rfs-conv4, trained first"),
        ({"backbone": "timm:resnet18"}, "network      timm:resnet18, pretrained"),
        ({"backbone": "resnet18.a1_in1k"}, "network      resnet18.a1_in1k, pretrained"),
        ({"backbone": "mine:network"}, "trained first on the base split unless it is pretrained"),
        ({"backbone": "conv4_64", "base_losses": ()}, "network      conv4_64, not trained"),
        ({"base_losses": ("ce",), "training_seeds": 3}, "with ce, 3 times, unless the cache has it"),
        ({"adaptations": ("finetune",), "losses": ("ce", "ce+schane")}, "4: finetune (ce, ce+schane); 8 cells"),
        ({"adaptations": ("all-inductive",)}, "methods      the heads of all-inductive"),
        ({"until_ci": 0.5}, "3 runs until every interval is ±0.5 points, at most 30,000 episodes each"),
        ({"sampler": "disjoint"}, "5-shot disjoint, as many episodes as share no image"),
        ({"dataset": "cifar-100", "protocol": "full"}, "plan         cifar-100, all images of the test split"),
    ],
)
def test_the_announcement_says_what_is_trained_and_how_many_episodes(study, told):
    assert any(told in line for line in announced([Study(**study)])), announced([Study(**study)])


def test_of_many_studies_the_first_are_told():
    lines = announced([Study(shots=(shot,)) for shot in range(1, 11)])
    assert sum(line.startswith("plan ") for line in lines) == 4
    assert "and          6 more studies" in lines


def test_stored_results_are_said_to_be_kept_and_a_fresh_start_goes_beside(tmp_path):
    study = Study(results=tmp_path)
    assert announced([study])[-1] == f"results      {tmp_path}"
    (tmp_path / "outcomes").mkdir()
    assert announced([study])[-1].endswith("(what is stored there already is kept)")
    assert announced([study], is_fresh=True)[-1].endswith("(a new folder beside it)")


def test_the_networks_that_come_with_weights_are_those_of_the_registry():
    own = {entry.name for entry in BACKBONES if entry.name in OWN_NAMES["backbone"] and "pretrained" in entry.facts}
    assert set(_PRETRAINED) == own


@pytest.mark.slow
def test_json_alone_is_on_stdout(tmp_path):
    command = [sys.executable, "-m", "fewshot_bench", "run", "--base-loss", "none", "--episodes", "20", "--runs", "1"]
    result = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0
    assert json.loads(result.stdout)
    assert "plan         glyphs" in result.stderr
