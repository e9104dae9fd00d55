"""What images exist: registry, importers, the canonical store, fingerprints."""

from fewshot_bench.datasets.dataset import SPLIT_NAMES, Dataset, ImageSplit, SplitName
from fewshot_bench.datasets.registry import (
    DATASETS,
    download_dataset,
    import_dataset,
    is_available,
    open_dataset,
)

__all__ = [
    "DATASETS",
    "SPLIT_NAMES",
    "Dataset",
    "ImageSplit",
    "SplitName",
    "download_dataset",
    "import_dataset",
    "is_available",
    "open_dataset",
]
