"""What images exist: registry, importers, the canonical store, fingerprints."""

from fewshot_bench.datasets.catalogue import (
    DATASETS,
    admit_dataset,
    check_name,
    is_available,
    is_named,
    known_dataset,
    open_dataset,
)
from fewshot_bench.datasets.dataset import SPLIT_NAMES, Dataset, ImageSplit, SplitName
from fewshot_bench.datasets.importing import import_dataset
from fewshot_bench.datasets.own_images import (
    OwnOptions,
    import_own_images,
    kept_copies,
    looks_like_a_place,
    open_own_images,
)

__all__ = [
    "DATASETS",
    "SPLIT_NAMES",
    "Dataset",
    "ImageSplit",
    "OwnOptions",
    "SplitName",
    "admit_dataset",
    "check_name",
    "import_dataset",
    "import_own_images",
    "is_available",
    "is_named",
    "kept_copies",
    "known_dataset",
    "looks_like_a_place",
    "open_dataset",
    "open_own_images",
]
