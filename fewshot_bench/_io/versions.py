"""The version of this package, and of those that computed a result."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


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
