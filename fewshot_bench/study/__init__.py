"""A study: the grid of cells that `fewshot-bench run` works through, and the networks that it may take up."""

from fewshot_bench.study.checkpoint import Checkpoint
from fewshot_bench.study.checkpoints import read_checkpoint
from fewshot_bench.study.execute import StudyResult, run_study
from fewshot_bench.study.study import Study
from fewshot_bench.study.train import train_backbone
from fewshot_bench.study.training_plan import TrainingPlan

__all__ = ["Checkpoint", "Study", "StudyResult", "TrainingPlan", "read_checkpoint", "run_study", "train_backbone"]
