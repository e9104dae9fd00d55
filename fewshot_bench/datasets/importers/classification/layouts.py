"""The layouts of the classification datasets, the telling ones first."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench.datasets.importers.classification.caltech_256 import find_caltech_256
from fewshot_bench.datasets.importers.classification.class_folders import find_class_folders
from fewshot_bench.datasets.importers.classification.cub_200_2011 import find_cub_200_2011
from fewshot_bench.datasets.importers.classification.flowers_102 import find_flowers_102
from fewshot_bench.datasets.importers.classification.imagenet_1k import find_imagenet_1k
from fewshot_bench.datasets.importers.classification.inaturalist_2017 import find_inaturalist_2017
from fewshot_bench.datasets.importers.classification.oxford_iiit_pet import find_oxford_iiit_pet
from fewshot_bench.datasets.importers.classification.places365 import find_places365
from fewshot_bench.datasets.importers.found import Found
from fewshot_bench.datasets.sources import FileTree

CLASSIFICATION_LAYOUTS: tuple[Callable[[FileTree], Found | None], ...] = (
    find_cub_200_2011,
    find_caltech_256,
    find_flowers_102,
    find_oxford_iiit_pet,
    find_inaturalist_2017,
    find_places365,
    find_imagenet_1k,
    find_class_folders,
)
