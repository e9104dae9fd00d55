"""One method in Python: evaluated on episodes, and what came of it."""

from fewshot_bench.evaluation.evaluate import evaluate
from fewshot_bench.evaluation.evaluation import Evaluation

__all__ = ["Evaluation", "evaluate"]
