"""A shell completes commands, options and names, and does not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import atexit, sys
sys.argv[0] = "fewshot-bench"
atexit.register(lambda: print("heavy:", sorted({"torch", "pandas"} & set(sys.modules)), file=sys.stderr))
from fewshot_bench.cli.main import main
main()
"""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("typed", "offered", "not_offered"),
    [
        ("ru", {"run"}, {"report"}),
        ("run --ada", {"--adapt"}, {"--dataset"}),
        ("run --adapt cen", {"centroid"}, {"ridge"}),
        ("run --adapt ridge,cen", {"ridge,centroid"}, {"centroid"}),
        ("run --dataset cifar", {"cifar-fs", "cifar-100"}, {"glyphs"}),
        ("run --backbone conv4", {"conv4_32", "conv4_64"}, {"resnet12"}),
        ("run --base-loss ce+s", {"ce+schane", "ce+supcon"}, {"ce"}),
        ("train --recipe rfs", {"rfs-conv4"}, {"protonet-conv4"}),
        ("ls ada", {"adaptations"}, {"losses"}),
    ],
)
def test_the_shell_is_offered_what_begins_so(tmp_path, typed, offered, not_offered):
    words = f"fewshot-bench {typed}"
    environment = {
        **os.environ,
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_FEWSHOT_BENCH_COMPLETE": "complete_bash",
    }
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, cwd=tmp_path)
    lines = set(result.stdout.split())
    assert offered <= lines
    assert not not_offered & lines
    assert "heavy: []" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_can_be_shown(tmp_path, shell):
    command = [sys.executable, "-c", CODE, "--show-completion", shell]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "_FEWSHOT_BENCH_COMPLETE" in result.stdout
