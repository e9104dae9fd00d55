"""A study: the grid of cells that `fewshot-bench run` works through."""

from fewshot_bench.study.execute import StudyResult, run_study
from fewshot_bench.study.study import Study

__all__ = ["Study", "StudyResult", "run_study"]
