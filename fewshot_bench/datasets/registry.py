"""Datasets by name or by place, and how each is opened."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench.datasets.dataset import Dataset
from fewshot_bench.datasets.own_images import OwnOptions, looks_like_a_place, open_own_images
from fewshot_bench.datasets.store import WholeSplit, is_stored, open_stored, store_dataset, stored_names
from fewshot_bench.errors import DatasetError, UnknownNameError
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.registry import Registry

DATASETS: Registry[Callable[[], Dataset]] = Registry("dataset")


def open_dataset(name: str, *, own: OwnOptions | None = None, progress: Progress = SILENT) -> Dataset:
    """Open a dataset; its images are memory-mapped.

    Args:
        name: a registered or imported dataset; or a folder, archive or manifest of your own images, or "hf:NAME".
        own: how own images become a dataset.
        progress: shown one unit per own image, the first time.

    Raises:
        UnknownNameError: no dataset has that name, and nothing lies there.
        DatasetError: it has not been imported yet, or its files are damaged.
    """
    if name in DATASETS:
        return DATASETS[name].factory()
    if is_stored(name):
        return open_stored(name)
    if looks_like_a_place(name):
        taken = {*DATASETS.names(), *stored_names()}
        return open_own_images(name, own or OwnOptions(), taken_names=taken, progress=progress)
    if ":" in name:
        return DATASETS[name].factory()
    raise UnknownNameError("dataset", name, {*DATASETS.names(), *stored_names()}, "A folder of your own is ./NAME.")


def is_named(name: str) -> bool:
    """Whether it is the name of a dataset, not the place of somebody's images."""
    return name in DATASETS or is_stored(name)


def is_available(name: str) -> bool:
    """Whether `open_dataset` would succeed without an import."""
    return is_stored(name) or (name in DATASETS and bool(DATASETS[name].facts.get("is_built_in")))


def _open_imported(name: str) -> Dataset:
    if not is_stored(name):
        raise DatasetError(
            f"{name} has not been imported. Run: fewshot-bench data get {name}    "
            f"(or, with files that you have: fewshot-bench data import {name} --from PATH)"
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
        try:
            stored = open_stored("glyphs")
        except DatasetError:  # of an older format, or damaged: it is made again
            stored = None
        if stored is not None and stored.recipe.get("sha256") == GLYPHS_SHA256:
            return stored
    recipe = {"source": "shipped with fewshot-bench", "resize": "none", "sha256": GLYPHS_SHA256}
    splits = {split: WholeSplit(*content) for split, content in load_glyphs().items()}
    return store_dataset("glyphs", splits, recipe, replace=True)


def _register_imported(name: str, summary: str, paper: str) -> None:
    DATASETS.register(name, summary, paper=paper)(lambda: _open_imported(name))


_register_imported(
    "cifar-fs",
    "64/16/20 classes of CIFAR-100 x 600 images, 32 x 32 RGB",
    "Bertinetto et al., 2019, Meta-learning with differentiable closed-form solvers",
)
_register_imported(
    "fc100",
    "60/20/20 classes of CIFAR-100 divided by superclass x 600 images, 32 x 32 RGB",
    "Oreshkin et al., 2018, TADAM: Task dependent adaptive metric for improved few-shot learning",
)
_register_imported(
    "mini-imagenet",
    "64/16/20 classes of ImageNet x 600 images, 84 x 84 RGB unless imported at another size",
    "Vinyals et al., 2016, Matching networks for one shot learning; split of Ravi and Larochelle, 2017",
)
_register_imported(
    "tiered-imagenet",
    "351/97/160 classes of ImageNet divided by category, 779,165 images, 84 x 84 RGB unless imported otherwise",
    "Ren et al., 2018, Meta-learning for semi-supervised few-shot classification",
)
