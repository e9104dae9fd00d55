"""Which packages computed a result."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_versions() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    versions = {}
    for package in ("fewshot-bench", "torch", "torchvision", "timm", "numpy", "scipy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
