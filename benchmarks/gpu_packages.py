"""The packages that this project needs: which are missing, and wheels of the small ones to carry along."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_CARRIED = (
    "torch", "torchvision", "timm", "numpy", "scipy", "pandas", "pyarrow", "statsmodels", "pillow", "plotly", "itables",
)  # fmt: skip
"""Expected on a machine for PyTorch, or large, or for the page alone, which this benchmark does not write."""
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_5_x86_64")


def dependencies() -> list[str]:
    """Names of the packages in pyproject.toml that this version of Python needs."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^dependencies = \[\n(.*?)^\]", text, flags=re.DOTALL | re.MULTILINE)
    assert found is not None
    return [name for name in map(_needed, re.findall(r'^ *"([^"]+)"', found[1], flags=re.MULTILINE)) if name]


def _needed(requirement: str) -> str:
    """The package of a requirement; empty where its marker excludes this version of Python."""
    specification, _, marker = requirement.partition(";")
    bound = re.search(r"python_version (<|>=) '(\d+)\.(\d+)'", marker)
    if bound is not None and (sys.version_info[:2] < (int(bound[2]), int(bound[3]))) != (bound[1] == "<"):
        return ""
    return re.split(r"[ <>=!~\[]", specification.strip(), maxsplit=1)[0]


def missing(names: Iterable[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def with_requirements(names: Iterable[str]) -> list[str]:
    """The packages and their own requirements that are installed here and carried."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found or key in NOT_CARRIED or not _is_installed(name):
            continue
        found[key] = None
        needed = importlib.metadata.requires(name) or []
        waiting += [re.split(r"[ <>=!~\[;(]", line, maxsplit=1)[0] for line in needed if "extra ==" not in line]
    return sorted(found)


def download_wheels(folder: Path, python: str) -> list[Path]:
    """Wheels of the small dependencies, in their versions here, for Linux on x86_64 and a version of Python.

    Args:
        folder: where they go; those of an earlier call are replaced.
        python: such as "3.12".
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in with_requirements(dependencies())]
    platforms = [part for platform in _PLATFORMS for part in ("--platform", platform)]
    options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", *options]
    subprocess.run([*command, "-d", str(folder), *pinned], check=True)
    return sorted(folder.glob("*.whl"))


def install_wheels(wheels: Path, into: Path) -> str:
    """Install all carried wheels into a folder, since their versions fit each other.

    Returns:
        The error output of pip; empty if all went well.
    """
    options = ["--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check", "--target", str(into)]
    command = [sys.executable, "-m", "pip", "install", "-q", *options, *map(str, sorted(wheels.glob("*.whl")))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return (done.stderr or f"exit code {done.returncode}") if done.returncode else ""
