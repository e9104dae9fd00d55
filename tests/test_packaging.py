"""What a user gets from a wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fewshot_bench.testing import KINDS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_holds_what_the_product_needs_at_run_time(wheel):
    names = set(wheel.namelist())
    assert {
        "fewshot_bench/py.typed",
        "fewshot_bench/datasets/official_splits/cifar-fs.json",
        "fewshot_bench/datasets/official_splits/fc100.json",
        "fewshot_bench/report/page/page.html.j2",
        "fewshot_bench/report/page/style.css",
        "fewshot_bench/report/page/draw.js",
        "fewshot_bench/episodes/locks/glyphs-5way-1shot.toml",
        "fewshot_bench/episodes/locks/cifar-fs-5way-5shot.toml",
        "fewshot_bench/report/published_tables/literature.csv",
        "fewshot_bench/report/published_tables/schane-table1.csv",
        "fewshot_bench/report/published_tables/schane-table4.csv",
        "fewshot_bench/study/preset_files/quickstart.toml",
        "fewshot_bench/study/preset_files/schane-ablation.toml",
        "fewshot_bench/study/preset_files/schane-lambda.toml",
        "fewshot_bench/study/preset_files/schane-table1.toml",
        "fewshot_bench/training/recipes/rfs-conv4.toml",
        *(f"fewshot_bench/testing/templates/{kind}{end}.txt" for kind in KINDS for end in (".py", "_test.py", ".md")),
        "fewshot_bench/testing/templates/pyproject.toml.txt",
    } <= names


def test_the_built_in_dataset_is_at_most_three_megabytes(wheel):
    assert 500_000 < wheel.getinfo("fewshot_bench/datasets/glyphs.png").compress_size < 3_000_000


def test_the_wheel_holds_no_tests_results_or_caches(wheel):
    assert all(name.startswith(("fewshot_bench/", "fewshot_bench-")) for name in wheel.namelist())
    caches = ("__pycache__/", "_cache/", "/.cache/", ".egg-info/")  # fewshot_bench/cache/ is code
    assert not [name for name in wheel.namelist() if any(part in name for part in caches)]
