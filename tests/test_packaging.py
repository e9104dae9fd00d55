"""What a user gets from a wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from email.parser import Parser
from pathlib import Path

import pytest

from fewshot_bench import __version__
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


HEAVY = ("torch", "torchvision", "timm")
"""What training and embedding need, 5 GB: the environment of this test shows that they install."""

OPTIONAL = ("ray", "sklearn", "peft", "learn2learn", "matplotlib", "datasets", "tensorboard", "umap", "s3fs")

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import fewshot_bench
absent = set(sys.argv[1].split(","))
for module in pkgutil.walk_packages(fewshot_bench.__path__, "fewshot_bench.", onerror=lambda name: None):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except Exception as error:
        cause = error.__cause__ or error
        if not isinstance(cause, ModuleNotFoundError) or cause.name.partition(".")[0] not in absent:
            raise
"""


def interpreter(version: str) -> str | None:
    """A Python of a version, such as "3.12", on the PATH or where pyenv keeps it; None if there is none."""
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for name in (f"python{version}", *map(str, kept)):
        check = [name, "-c", "import sys, ensurepip; print('.'.join(map(str, sys.version_info[:2])))"]
        with suppress(OSError, subprocess.CalledProcessError):
            if subprocess.run(check, capture_output=True, text=True, check=True).stdout.strip() == version:
                return name
    return None


def run(*command: object, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_the_wheel_installs_and_compares_methods_without_torch(wheel, version, tmp_path, request):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    place = tmp_path / "venv"
    request.addfinalizer(lambda: shutil.rmtree(place))  # 700 MB
    run(python, "-m", "venv", place)
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    needed = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist", [])
    light = [line for line in needed if "extra ==" not in line and re.split(r"[^\w-]", line)[0] not in HEAVY]
    (tmp_path / "needed.txt").write_text("\n".join(light))
    pip = (place / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--only-binary", ":all:", "-r", tmp_path / "needed.txt")
    run(*pip, "--no-deps", wheel.filename)

    run(place / "bin" / "python", "-c", IMPORT_EVERYTHING, ",".join((*HEAVY, *OPTIONAL)), cwd=tmp_path)
    command = place / "bin" / "fewshot-bench"
    assert run(command, "--version").split() == ["fewshot-bench", __version__]
    assert "schane-table1" in run(command, "ls", "studies")
    rows = [
        f"{method},{episode},{(50 + 5 * better + episode % 7) / 100}"
        for method, better in (("a", 0), ("b", 1))
        for episode in range(40)
    ]
    (tmp_path / "acc.csv").write_text("\n".join(["method,episode,accuracy", *rows]))
    run(command, "outcomes", "import", "acc.csv", "--dataset", "mine", "--way", "5", "--shot", "1", cwd=tmp_path)
    assert "+5.00" in run(command, "compare", "b", "a", cwd=tmp_path)
    run(command, "report", cwd=tmp_path)
    assert (tmp_path / "results" / "report.html").stat().st_size > 10_000
