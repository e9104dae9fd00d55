"""A study: the grid of cells that `fewshot-bench run` works through; trained networks; sweeps."""

from typing import TYPE_CHECKING

from fewshot_bench._io.versions import lazily

if TYPE_CHECKING:
    from fewshot_bench.study.best_configuration import BestConfiguration as BestConfiguration
    from fewshot_bench.study.best_configuration import read_best_configuration as read_best_configuration
    from fewshot_bench.study.checkpoints import Checkpoint as Checkpoint
    from fewshot_bench.study.checkpoints import read_checkpoint as read_checkpoint
    from fewshot_bench.study.chunks import Shard as Shard
    from fewshot_bench.study.plan import StudyPlan as StudyPlan
    from fewshot_bench.study.plan import free_folder as free_folder
    from fewshot_bench.study.plan import new_results_folder as new_results_folder
    from fewshot_bench.study.resolved import ResolvedStudy as ResolvedStudy
    from fewshot_bench.study.resolved import resolve_study as resolve_study
    from fewshot_bench.study.run import PlanResult as PlanResult
    from fewshot_bench.study.run import StudyResult as StudyResult
    from fewshot_bench.study.run import run_plan as run_plan
    from fewshot_bench.study.run import run_study as run_study
    from fewshot_bench.study.study import Study as Study
    from fewshot_bench.study.study_parser import plan_of_file as plan_of_file
    from fewshot_bench.study.sweep import PAPER_GRID as PAPER_GRID
    from fewshot_bench.study.sweep import Axis as Axis
    from fewshot_bench.study.sweep import Grid as Grid
    from fewshot_bench.study.sweep import Sweep as Sweep
    from fewshot_bench.study.sweep import plan_sweep as plan_sweep
    from fewshot_bench.study.sweep_run import SweepResult as SweepResult
    from fewshot_bench.study.sweep_run import run_sweep as run_sweep
    from fewshot_bench.study.train import TrainingPlan as TrainingPlan
    from fewshot_bench.study.train import train_backbone as train_backbone

# Imported on first use: a list of studies and a misspelt name must not wait for torch.
_HOMES = {
    "PAPER_GRID": "sweep",
    "Axis": "sweep",
    "BestConfiguration": "best_configuration",
    "Checkpoint": "checkpoints",
    "Grid": "sweep",
    "PlanResult": "run",
    "ResolvedStudy": "resolved",
    "Shard": "chunks",
    "Study": "study",
    "StudyPlan": "plan",
    "StudyResult": "run",
    "Sweep": "sweep",
    "SweepResult": "sweep_run",
    "TrainingPlan": "train",
    "free_folder": "plan",
    "new_results_folder": "plan",
    "plan_of_file": "study_parser",
    "plan_sweep": "sweep",
    "read_best_configuration": "best_configuration",
    "read_checkpoint": "checkpoints",
    "resolve_study": "resolved",
    "run_plan": "run",
    "run_study": "run",
    "run_sweep": "sweep_run",
    "train_backbone": "train",
}
__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
