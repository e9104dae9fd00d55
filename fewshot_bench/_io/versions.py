"""The version of this package and of those that computed a result; and names imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__version__ = "0.2.0"


def installed_versions() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    packages = ("fewshot-bench", "torch", "torchvision", "timm", "numpy", "scipy")
    return {package: installed_version(package) for package in packages}


def installed_version(package: str) -> str:
    """The version of a package; "unknown" if it is not installed as one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package that imports each of its names on first use.

    Args:
        package: its name.
        homes: the module of each name, below the package; a module that bears its own name is meant itself.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module = importlib.import_module(f"{package}.{homes[name]}")
        return module if homes[name] == name else getattr(module, name)

    return get
