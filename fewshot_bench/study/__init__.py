"""A study: the grid of cells that `fewshot-bench run` works through; trained networks; sweeps."""

from fewshot_bench.study.checkpoint import Checkpoint
from fewshot_bench.study.checkpoints import read_checkpoint
from fewshot_bench.study.execute import run_study
from fewshot_bench.study.fresh import free_folder, fresh_folder
from fewshot_bench.study.grid import PAPER_GRID, Axis, Grid
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.run_all import PlanResult, run_plan
from fewshot_bench.study.setting import Setting, read_setting
from fewshot_bench.study.shard import Shard
from fewshot_bench.study.study import Study
from fewshot_bench.study.study_result import StudyResult
from fewshot_bench.study.study_source import plan_of_file
from fewshot_bench.study.sweep import Sweep, plan_sweep
from fewshot_bench.study.sweep_result import SweepResult, run_sweep
from fewshot_bench.study.train import train_backbone
from fewshot_bench.study.training_plan import TrainingPlan

__all__ = [
    "PAPER_GRID",
    "Axis",
    "Checkpoint",
    "Grid",
    "PlanResult",
    "Setting",
    "Shard",
    "Study",
    "StudyPlan",
    "StudyResult",
    "Sweep",
    "SweepResult",
    "TrainingPlan",
    "free_folder",
    "fresh_folder",
    "plan_of_file",
    "plan_sweep",
    "read_checkpoint",
    "read_setting",
    "run_plan",
    "run_study",
    "run_sweep",
    "train_backbone",
]
