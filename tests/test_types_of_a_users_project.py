"""A user's project type-checks against the package in strict mode, as py.typed promises, and mistakes are found."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROJECT = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import fewshot_bench as fb


def nearest(support: Tensor, query: Tensor) -> Tensor:
    return -(query[:, :, None] - support.mean(dim=2)[:, None]).square().sum(dim=-1)


def tables() -> float:
    dataset: fb.Dataset = fb.open_dataset("glyphs")
    novel = dataset.novel
    embeddings: NDArray[np.float32] = fb.embed(novel, fb.create_backbone("conv4_32"))
    episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5))
    mine = fb.evaluate(nearest, embeddings, episodes, name="mine")
    named = fb.evaluate("centroid", embeddings, episodes)
    logistic = fb.evaluate(fb.Logistic(C=10), embeddings, episodes)
    low, high = mine.interval
    print(len(mine.per_class), len(mine.to_frame()), named.data_interval, high - low)
    comparison: fb.Comparison = fb.compare(mine, logistic)
    print(comparison)
    fb.run_study(fb.Study(dataset="glyphs", shots=(1,), adaptations=("centroid",)))
    return mine.mean
"""

MISTAKES = """
import fewshot_bench as fb

fb.Protocol("glyphs", shots=5)
fb.evaluate("centroid", "embeddings", 3)
fb.compare(object(), None)
mean: str = fb.evaluate.mean
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says of both files, a line each; one run takes half a minute."""
    pytest.importorskip("mypy", reason="the extra 'types' is not installed")
    folder = tmp_path_factory.mktemp("project")
    (folder / "project.py").write_text(PROJECT)
    (folder / "mistakes.py").write_text(MISTAKES)
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "project.py", "mistakes.py"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    return result.stdout.splitlines()


def test_a_users_project_type_checks(found: list[str]) -> None:
    assert not [line for line in found if not line.startswith(("mistakes.py", "Found"))]


@pytest.mark.parametrize("line", [4, 5, 6, 7])
def test_a_users_mistakes_are_found(found: list[str], line: int) -> None:
    assert [text for text in found if text.startswith(f"mistakes.py:{line}: error")]
