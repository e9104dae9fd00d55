"""A study: the grid of cells that `fewshot-bench run` works through; a sweep: a grid of hyper-parameters."""

from fewshot_bench.study.execute import StudyResult, run_study
from fewshot_bench.study.grid import PAPER_GRID, Axis, Grid
from fewshot_bench.study.setting import Setting, read_setting
from fewshot_bench.study.study import Study
from fewshot_bench.study.sweep import Sweep, plan_sweep
from fewshot_bench.study.sweep_result import SweepResult, run_sweep

__all__ = [
    "PAPER_GRID",
    "Axis",
    "Grid",
    "Setting",
    "Study",
    "StudyResult",
    "Sweep",
    "SweepResult",
    "plan_sweep",
    "read_setting",
    "run_study",
    "run_sweep",
]
