"""A study: the grid of cells that `fewshot-bench run` works through; trained networks; sweeps."""

from typing import TYPE_CHECKING

from fewshot_bench.lazy import lazily

if TYPE_CHECKING:
    from fewshot_bench.study.checkpoint import Checkpoint as Checkpoint
    from fewshot_bench.study.checkpoints import read_checkpoint as read_checkpoint
    from fewshot_bench.study.execute import run_study as run_study
    from fewshot_bench.study.fresh import free_folder as free_folder
    from fewshot_bench.study.fresh import fresh_folder as fresh_folder
    from fewshot_bench.study.grid import PAPER_GRID as PAPER_GRID
    from fewshot_bench.study.grid import Axis as Axis
    from fewshot_bench.study.grid import Grid as Grid
    from fewshot_bench.study.plan import StudyPlan as StudyPlan
    from fewshot_bench.study.run_all import PlanResult as PlanResult
    from fewshot_bench.study.run_all import run_plan as run_plan
    from fewshot_bench.study.setting import Setting as Setting
    from fewshot_bench.study.setting import read_setting as read_setting
    from fewshot_bench.study.shard import Shard as Shard
    from fewshot_bench.study.study import Study as Study
    from fewshot_bench.study.study_result import StudyResult as StudyResult
    from fewshot_bench.study.study_source import plan_of_file as plan_of_file
    from fewshot_bench.study.sweep import Sweep as Sweep
    from fewshot_bench.study.sweep import plan_sweep as plan_sweep
    from fewshot_bench.study.sweep_result import SweepResult as SweepResult
    from fewshot_bench.study.sweep_result import run_sweep as run_sweep
    from fewshot_bench.study.train import train_backbone as train_backbone
    from fewshot_bench.study.training_plan import TrainingPlan as TrainingPlan

# Imported on first use: a list of studies and a misspelt name must not wait for torch.
_HOMES = {
    "PAPER_GRID": "grid",
    "Axis": "grid",
    "Checkpoint": "checkpoint",
    "Grid": "grid",
    "PlanResult": "run_all",
    "Setting": "setting",
    "Shard": "shard",
    "Study": "study",
    "StudyPlan": "plan",
    "StudyResult": "study_result",
    "Sweep": "sweep",
    "SweepResult": "sweep_result",
    "TrainingPlan": "training_plan",
    "free_folder": "fresh",
    "fresh_folder": "fresh",
    "plan_of_file": "study_source",
    "plan_sweep": "sweep",
    "read_checkpoint": "checkpoints",
    "read_setting": "setting",
    "run_plan": "run_all",
    "run_study": "execute",
    "run_sweep": "sweep_result",
    "train_backbone": "train",
}
__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
