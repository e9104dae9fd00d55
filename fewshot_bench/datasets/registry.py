"""Datasets by name, and how each is obtained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fewshot_bench.datasets.cifar import SPLITS_OF_CIFAR, store_cifar
from fewshot_bench.datasets.dataset import Dataset
from fewshot_bench.datasets.importers.cifar_zip import read_cifar_zip
from fewshot_bench.datasets.store import is_stored, open_stored, store_dataset
from fewshot_bench.errors import DatasetError, UnknownNameError
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.registry import Registry

DATASETS: Registry[Callable[[], Dataset]] = Registry("dataset")


def open_dataset(name: str) -> Dataset:
    """Open a dataset by name; its images are memory-mapped.

    Raises:
        UnknownNameError: no dataset has that name.
        DatasetError: it has not been imported yet, or its files are damaged.
    """
    return DATASETS[name].factory()


def is_available(name: str) -> bool:
    """Whether `open_dataset` would succeed without an import."""
    return is_stored(name) or bool(DATASETS[name].facts.get("is_built_in"))


def import_dataset(name: str, source: Path, *, replace: bool = False, progress: Progress = SILENT) -> Dataset:
    """Build a dataset's canonical store from files that the user has.

    Args:
        name: "cifar-fs" or "fc100".
        source: the cifar100.zip of the CIFAR-FS distribution.
        replace: whether stored pixels that differ may be replaced.
        progress: shown one unit per image.

    Raises:
        DatasetError: the source is missing, damaged or incomplete.
    """
    _check_has_importer(name)
    recipe = {"source": "cifar100.zip of the CIFAR-FS distribution", "resize": "none"}
    return store_cifar(name, read_cifar_zip(source, progress=progress), recipe, replace=replace)


def download_dataset(name: str, *, replace: bool = False) -> Dataset:
    """Download a dataset through torchvision and build its canonical store.

    Raises:
        DatasetError: the download failed.
    """
    from fewshot_bench.datasets.importers.torchvision_cifar import download_cifar

    _check_has_importer(name)
    recipe = {"source": "CIFAR-100 by torchvision", "resize": "none"}
    return store_cifar(name, download_cifar(), recipe, replace=replace)


def _check_has_importer(name: str) -> None:
    if name in SPLITS_OF_CIFAR:
        return
    if name in DATASETS and DATASETS[name].facts.get("is_built_in"):
        raise DatasetError(f"{name} is built in; there is nothing to import. Use: fewshot-bench run --dataset {name}")
    raise UnknownNameError("dataset to import", name, SPLITS_OF_CIFAR)


def _open_imported(name: str) -> Dataset:
    if not is_stored(name):
        raise DatasetError(
            f"{name} has not been imported. Run: fewshot-bench data get {name}    "
            f"(or, without internet: fewshot-bench data import {name} --from cifar100.zip)"
        )
    return open_stored(name)


@DATASETS.register(
    "glyphs",
    "characters of scripts drawn from free fonts, 28 x 28 grey; built in",
    paper="this project, docs/glyphs.md",
    is_built_in=True,
)
def open_glyphs() -> Dataset:
    """Open the built-in dataset; the first call unpacks it into the canonical store."""
    from fewshot_bench.datasets.glyphs import GLYPHS_SHA256, load_glyphs

    if is_stored("glyphs"):
        stored = open_stored("glyphs")
        if stored.recipe.get("sha256") == GLYPHS_SHA256:
            return stored
    recipe = {"source": "shipped with fewshot-bench", "sha256": GLYPHS_SHA256}
    return store_dataset("glyphs", load_glyphs(), recipe, replace=True)


@DATASETS.register(
    "cifar-fs",
    "64/16/20 classes of CIFAR-100 x 600 images, 32 x 32 RGB",
    paper="Bertinetto et al., 2019, Meta-learning with differentiable closed-form solvers",
)
def open_cifar_fs() -> Dataset:
    """Open CIFAR-FS."""
    return _open_imported("cifar-fs")


@DATASETS.register(
    "fc100",
    "60/20/20 classes of CIFAR-100 divided by superclass x 600 images, 32 x 32 RGB",
    paper="Oreshkin et al., 2018, TADAM",
)
def open_fc100() -> Dataset:
    """Open FC100."""
    return _open_imported("fc100")
