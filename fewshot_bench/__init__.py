"""Is one few-shot image-classification method really better than another, on the same tasks?

import fewshot_bench as fb

novel = fb.open_dataset("glyphs").novel
embeddings = fb.embed(novel, fb.create_backbone("efficientnet_lite0"))
episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5))
centroid = fb.adapt(embeddings, episodes, fb.Centroid())
logistic = fb.adapt(embeddings, episodes, fb.Logistic())
print(fb.compare(logistic, centroid))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench._io.versions import __version__ as __version__
from fewshot_bench._io.versions import lazily

if TYPE_CHECKING:
    from fewshot_bench.adaptation import BDCSPN as BDCSPN
    from fewshot_bench.adaptation import ILPC as ILPC
    from fewshot_bench.adaptation import LDA as LDA
    from fewshot_bench.adaptation import MAML as MAML
    from fewshot_bench.adaptation import PTMAP as PTMAP
    from fewshot_bench.adaptation import TIM as TIM
    from fewshot_bench.adaptation import BaselinePlusPlus as BaselinePlusPlus
    from fewshot_bench.adaptation import Centroid as Centroid
    from fewshot_bench.adaptation import Entropy as Entropy
    from fewshot_bench.adaptation import Finetune as Finetune
    from fewshot_bench.adaptation import FinetuneHead as FinetuneHead
    from fewshot_bench.adaptation import KNearestNeighbours as KNearestNeighbours
    from fewshot_bench.adaptation import LabelPropagation as LabelPropagation
    from fewshot_bench.adaptation import LaplacianShot as LaplacianShot
    from fewshot_bench.adaptation import Logistic as Logistic
    from fewshot_bench.adaptation import Matching as Matching
    from fewshot_bench.adaptation import Ridge as Ridge
    from fewshot_bench.adaptation import SupportVectorMachine as SupportVectorMachine
    from fewshot_bench.backbones import BackboneRequest as BackboneRequest
    from fewshot_bench.backbones import create_backbone as create_backbone
    from fewshot_bench.backbones import embed as embed
    from fewshot_bench.datasets import OwnOptions as OwnOptions
    from fewshot_bench.datasets import import_dataset as import_dataset
    from fewshot_bench.datasets import import_own_images as import_own_images
    from fewshot_bench.datasets import open_dataset as open_dataset
    from fewshot_bench.engine.classify import adapt as adapt
    from fewshot_bench.episodes import Protocol as Protocol
    from fewshot_bench.episodes import sample_by_shape as sample_by_shape
    from fewshot_bench.episodes import sample_episodes as sample_episodes
    from fewshot_bench.errors import FewshotBenchError as FewshotBenchError
    from fewshot_bench.evaluation import Classifier as Classifier
    from fewshot_bench.evaluation.fit import fit as fit
    from fewshot_bench.report import compare as compare
    from fewshot_bench.study import Study as Study
    from fewshot_bench.study import TrainingPlan as TrainingPlan
    from fewshot_bench.study import run_study as run_study
    from fewshot_bench.study import train_backbone as train_backbone

# Imported on first use: `import fewshot_bench` and `fewshot-bench --help` must not wait for torch.
_ROOMS = {
    name: room
    for room, names in {
        "adaptation": (
            "BDCSPN BaselinePlusPlus Centroid Entropy Finetune FinetuneHead ILPC KNearestNeighbours LDA "
            "LabelPropagation LaplacianShot Logistic MAML Matching PTMAP Ridge SupportVectorMachine TIM"
        ),
        "backbones": "BackboneRequest create_backbone embed",
        "datasets": "OwnOptions import_dataset import_own_images open_dataset",
        "engine.classify": "adapt",
        "errors": "FewshotBenchError",
        "episodes": "Protocol sample_by_shape sample_episodes",
        "evaluation": "Classifier",
        "evaluation.fit": "fit",
        "report": "compare",
        "study": "Study TrainingPlan run_study train_backbone",
    }.items()
    for name in names.split()
}
__all__ = sorted(_ROOMS)


__getattr__ = lazily(__name__, _ROOMS)


def __dir__() -> list[str]:
    return __all__
