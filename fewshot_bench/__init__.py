"""Is one few-shot image-classification method really better than another, on the same tasks?

import fewshot_bench as fb

novel = fb.open_dataset("glyphs").novel
embeddings = fb.embed(novel, fb.create_backbone("efficientnet_lite0"))
episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5))
centroid = fb.evaluate(fb.Centroid(), embeddings, episodes)
logistic = fb.evaluate(fb.Logistic(C=1.0), embeddings, episodes)
print(logistic.mean, logistic.interval, logistic.data_interval)
print(fb.compare(logistic, centroid))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench._io.versions import __version__ as __version__
from fewshot_bench._io.versions import lazily

if TYPE_CHECKING:
    from fewshot_bench import losses as losses
    from fewshot_bench import statistics as statistics
    from fewshot_bench.adaptation import ADAPTATIONS as ADAPTATIONS
    from fewshot_bench.adaptation import BDCSPN as BDCSPN
    from fewshot_bench.adaptation import ILPC as ILPC
    from fewshot_bench.adaptation import LDA as LDA
    from fewshot_bench.adaptation import MAML as MAML
    from fewshot_bench.adaptation import PTMAP as PTMAP
    from fewshot_bench.adaptation import TIM as TIM
    from fewshot_bench.adaptation import BaselinePlusPlus as BaselinePlusPlus
    from fewshot_bench.adaptation import Centroid as Centroid
    from fewshot_bench.adaptation import EmbeddingAdaptation as EmbeddingAdaptation
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
    from fewshot_bench.backbones import BACKBONES as BACKBONES
    from fewshot_bench.backbones import Backbone as Backbone
    from fewshot_bench.backbones import BackboneRequest as BackboneRequest
    from fewshot_bench.backbones import create_backbone as create_backbone
    from fewshot_bench.backbones import embed as embed
    from fewshot_bench.datasets import DATASETS as DATASETS
    from fewshot_bench.datasets import Dataset as Dataset
    from fewshot_bench.datasets import ImageSplit as ImageSplit
    from fewshot_bench.datasets import OwnOptions as OwnOptions
    from fewshot_bench.datasets import import_dataset as import_dataset
    from fewshot_bench.datasets import import_own_images as import_own_images
    from fewshot_bench.datasets import open_dataset as open_dataset
    from fewshot_bench.embeddings import MEASURES as MEASURES
    from fewshot_bench.embeddings import compare_embeddings as compare_embeddings
    from fewshot_bench.embeddings import measure as measure
    from fewshot_bench.embeddings import similarity_histograms as similarity_histograms
    from fewshot_bench.episodes import Episode as Episode
    from fewshot_bench.episodes import Episodes as Episodes
    from fewshot_bench.episodes import Protocol as Protocol
    from fewshot_bench.episodes import sample_by_shape as sample_by_shape
    from fewshot_bench.episodes import sample_episodes as sample_episodes
    from fewshot_bench.errors import FewshotBenchError as FewshotBenchError
    from fewshot_bench.evaluation import Evaluation as Evaluation
    from fewshot_bench.evaluation import evaluate as evaluate
    from fewshot_bench.interop import ImportOptions as ImportOptions
    from fewshot_bench.interop import export_outcomes as export_outcomes
    from fewshot_bench.interop import import_outcomes as import_outcomes
    from fewshot_bench.losses import LOSSES as LOSSES
    from fewshot_bench.losses import contrastive_loss as contrastive_loss
    from fewshot_bench.losses import cross_entropy as cross_entropy
    from fewshot_bench.losses import distillation as distillation
    from fewshot_bench.losses import hard_negative_weights as hard_negative_weights
    from fewshot_bench.losses import schane as schane
    from fewshot_bench.losses import simclr as simclr
    from fewshot_bench.losses import supcon as supcon
    from fewshot_bench.outcomes import Outcomes as Outcomes
    from fewshot_bench.outcomes import OutcomeStore as OutcomeStore
    from fewshot_bench.report import Comparison as Comparison
    from fewshot_bench.report import compare as compare
    from fewshot_bench.report.leaderboard import leaderboard as leaderboard
    from fewshot_bench.report.page import write_page as write_page
    from fewshot_bench.report.paper_figures import draw_figures as draw_figures
    from fewshot_bench.study import Axis as Axis
    from fewshot_bench.study import Checkpoint as Checkpoint
    from fewshot_bench.study import Grid as Grid
    from fewshot_bench.study import Study as Study
    from fewshot_bench.study import StudyResult as StudyResult
    from fewshot_bench.study import TrainingPlan as TrainingPlan
    from fewshot_bench.study import plan_sweep as plan_sweep
    from fewshot_bench.study import read_checkpoint as read_checkpoint
    from fewshot_bench.study import run_study as run_study
    from fewshot_bench.study import run_sweep as run_sweep
    from fewshot_bench.study import train_backbone as train_backbone
    from fewshot_bench.training import Recipe as Recipe

# Imported on first use: `import fewshot_bench` and `fewshot-bench --help` must not wait for torch.
_ROOMS = {
    name: room
    for room, names in {
        "adaptation": (
            "ADAPTATIONS BDCSPN ILPC LDA MAML PTMAP TIM BaselinePlusPlus Centroid EmbeddingAdaptation Entropy "
            "Finetune FinetuneHead KNearestNeighbours LabelPropagation LaplacianShot Logistic Matching Ridge "
            "SupportVectorMachine"
        ),
        "backbones": "BACKBONES Backbone BackboneRequest create_backbone embed",
        "datasets": "DATASETS Dataset ImageSplit OwnOptions import_dataset import_own_images open_dataset",
        "embeddings": "MEASURES compare_embeddings measure similarity_histograms",
        "episodes": "Episode Episodes Protocol sample_by_shape sample_episodes",
        "errors": "FewshotBenchError",
        "evaluation": "Evaluation evaluate",
        "interop": "ImportOptions export_outcomes import_outcomes",
        "losses": "LOSSES contrastive_loss cross_entropy distillation hard_negative_weights schane simclr supcon",
        "outcomes": "OutcomeStore Outcomes",
        "report": "Comparison compare",
        "report.leaderboard": "leaderboard",
        "report.page": "write_page",
        "report.paper_figures": "draw_figures",
        "study": (
            "Axis Checkpoint Grid Study StudyResult TrainingPlan plan_sweep read_checkpoint run_study run_sweep "
            "train_backbone"
        ),
        "training": "Recipe",
    }.items()
    for name in names.split()
} | {room: room for room in ("losses", "statistics")}
__all__ = sorted(_ROOMS)


__getattr__ = lazily(__name__, _ROOMS)


def __dir__() -> list[str]:
    return __all__
